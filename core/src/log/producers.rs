//! Who wrote into a log: producer ids, epochs and sequences, open and aborted transactions.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::Timestamp;
use crate::record::Batch;

/// How many of a producer's last batches are known, so that sending them again changes nothing.
const BATCHES_KEPT: usize = 5;
const NO_EPOCH: i16 = -1;
const NO_SEQUENCE: i32 = -1;

/// The producers that a log knows, rebuilt from its batches and a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Producers {
    entries: HashMap<i64, Producer>,
    /// Open transactions: producer id by first offset.
    ongoing: BTreeMap<i64, i64>,
    /// Transactions that ended, by the offset of their end; kept until the high watermark has passed them.
    completed: VecDeque<CompletedTransaction>,
}

/// What [`Producers::check`] says of a batch that may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is new.
    Accept,
    /// It is in the log already.
    Duplicate {
        /// Its base offset there.
        base_offset: i64,
        /// Its last offset there.
        last_offset: i64,
        /// Its largest timestamp there.
        timestamp: Timestamp,
    },
}

/// Why a producer's batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// A batch before this one is missing. (OUT_OF_ORDER_SEQUENCE_NUMBER)
    #[error("sequence is out of order producer_id={producer_id} epoch={epoch} found={found} last={last}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// Its epoch.
        epoch: i16,
        /// The batch's first sequence.
        found: i32,
        /// The last sequence in the log, or -1.
        last: i32,
    },
    /// A newer producer has taken over the id. (INVALID_PRODUCER_EPOCH)
    #[error("producer is fenced producer_id={producer_id} epoch={found} current={current}")]
    InvalidEpoch {
        /// The producer.
        producer_id: i64,
        /// The batch's epoch.
        found: i16,
        /// The latest epoch in the log.
        current: i16,
    },
    /// A plain batch inside a transaction. (INVALID_TXN_STATE)
    #[error("batch outside of the open transaction producer_id={producer_id}")]
    NotTransactional {
        /// The producer.
        producer_id: i64,
    },
    /// A marker of a transaction coordinator that another one has replaced. (TRANSACTION_COORDINATOR_FENCED)
    #[error("transaction coordinator is fenced producer_id={producer_id} epoch={found} current={current}")]
    CoordinatorFenced {
        /// The producer.
        producer_id: i64,
        /// The marker's coordinator epoch.
        found: i32,
        /// The latest coordinator epoch in the log.
        current: i32,
    },
}

impl ProducerError {
    /// Kafka's code for it.
    pub fn kafka_code(&self) -> i16 {
        match self {
            Self::OutOfOrderSequence { .. } => 45,
            Self::InvalidEpoch { .. } => 47,
            Self::NotTransactional { .. } => 48,
            Self::CoordinatorFenced { .. } => 52,
        }
    }
}

/// What a log knows of one producer id.
#[derive(Clone, Debug)]
pub struct Producer {
    epoch: i16,
    /// Oldest first; all of `epoch`.
    batches: VecDeque<Written>,
    last_timestamp: Timestamp,
    coordinator_epoch: i32,
    transaction_start: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    last_sequence: i32,
    last_offset: i64,
    offset_delta: i32,
    timestamp: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CompletedTransaction {
    first_offset: i64,
    last_offset: i64,
}

/// A transaction that was aborted: who reads committed data skips what `producer_id` wrote in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer.
    pub producer_id: i64,
    /// The offset of its first batch.
    pub first_offset: i64,
    /// The offset of the marker that ended it.
    pub last_offset: i64,
    /// The last stable offset when it ended.
    pub last_stable_offset: i64,
}

impl AbortedTransaction {
    pub(crate) const LEN: usize = 34;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut out = &mut bytes[..];
        out.put_i16(0); // the format's version
        out.put_i64(self.producer_id);
        out.put_i64(self.first_offset);
        out.put_i64(self.last_offset);
        out.put_i64(self.last_stable_offset);
        bytes
    }

    pub(crate) fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::LEN || bytes.get_i16() != 0 {
            return None;
        }
        let entry = Self {
            producer_id: bytes.get_i64(),
            first_offset: bytes.get_i64(),
            last_offset: bytes.get_i64(),
            last_stable_offset: bytes.get_i64(),
        };
        (entry.producer_id >= 0 && 0 <= entry.first_offset && entry.first_offset < entry.last_offset).then_some(entry)
    }
}

/// The fields of a batch that count here, so that recovery need not read whole batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProducedBatch {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) last_sequence: i32,
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) is_transactional: bool,
}

/// The marker at the end of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marker {
    pub(crate) is_commit: bool,
    pub(crate) coordinator_epoch: i32,
}

impl Producers {
    /// Whether a producer's batch may be appended: Kafka's rules for idempotence and fencing.
    ///
    /// A producer that the log does not know may begin with any sequence, because its records may have been deleted.
    pub fn check(&self, batch: &Batch) -> Result<Checked, ProducerError> {
        let producer_id = batch.producer_id();
        if producer_id < 0 {
            return Ok(Checked::Accept);
        }
        let Some(producer) = self.entries.get(&producer_id) else { return Ok(Checked::Accept) };
        let epoch = batch.producer_epoch();
        if epoch < producer.epoch {
            return Err(ProducerError::InvalidEpoch { producer_id, found: epoch, current: producer.epoch });
        }
        if batch.is_control() {
            return Ok(Checked::Accept);
        }
        if epoch == producer.epoch
            && let Some(same) = producer.find(batch.base_sequence(), batch.last_sequence())
        {
            return Ok(Checked::Duplicate {
                base_offset: same.last_offset - i64::from(same.offset_delta),
                last_offset: same.last_offset,
                timestamp: same.timestamp,
            });
        }
        producer.check_sequence(producer_id, epoch, batch.base_sequence())?;
        if producer.transaction_start.is_some() && !batch.is_transactional() {
            return Err(ProducerError::NotTransactional { producer_id });
        }
        Ok(Checked::Accept)
    }

    /// Whether a coordinator may end a transaction with a marker of this epoch.
    pub fn check_marker(&self, producer_id: i64, epoch: i16, coordinator_epoch: i32) -> Result<(), ProducerError> {
        let Some(producer) = self.entries.get(&producer_id) else { return Ok(()) };
        if epoch < producer.epoch {
            return Err(ProducerError::InvalidEpoch { producer_id, found: epoch, current: producer.epoch });
        }
        if coordinator_epoch < producer.coordinator_epoch {
            let current = producer.coordinator_epoch;
            return Err(ProducerError::CoordinatorFenced { producer_id, found: coordinator_epoch, current });
        }
        Ok(())
    }

    /// How many producers the log knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The producers by id, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.entries.iter().map(|(id, producer)| (*id, producer))
    }

    /// The first offset of the open transactions, and of those that ended at or above `high_watermark`: readers of
    /// committed data stop there. `None` when there is none.
    pub fn first_unstable_offset(&self, high_watermark: i64) -> Option<i64> {
        let open = self.ongoing.first_key_value().map(|(first, _)| *first);
        let above = self.completed.partition_point(|completed| completed.last_offset < high_watermark);
        let ended = self.completed.range(above..).map(|completed| completed.first_offset).min();
        open.into_iter().chain(ended).min()
    }

    /// Takes a data batch that is in the log now.
    pub(crate) fn append(&mut self, batch: &ProducedBatch) {
        let producer = self.entries.entry(batch.producer_id).or_insert_with(|| Producer::new(batch.epoch));
        if batch.epoch < producer.epoch {
            // Only in a log that somebody else wrote: the newer epoch stays.
            return;
        }
        producer.set_epoch(batch.epoch);
        producer.keep(Written {
            last_sequence: batch.last_sequence,
            last_offset: batch.last_offset,
            offset_delta: (batch.last_offset - batch.base_offset) as i32,
            timestamp: batch.max_timestamp,
        });
        producer.last_timestamp = batch.max_timestamp;
        if batch.is_transactional && producer.transaction_start.is_none() {
            producer.transaction_start = Some(batch.base_offset);
            self.ongoing.insert(batch.base_offset, batch.producer_id);
        }
    }

    /// Takes a transaction's marker that is in the log now. Returns the transaction if it was aborted.
    pub(crate) fn complete(&mut self, batch: &ProducedBatch, marker: Marker) -> Option<AbortedTransaction> {
        let producer = self.entries.entry(batch.producer_id).or_insert_with(|| Producer::new(batch.epoch));
        if batch.epoch >= producer.epoch {
            producer.set_epoch(batch.epoch);
        }
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_timestamp = batch.max_timestamp;
        let first_offset = producer.transaction_start.take()?;
        self.ongoing.remove(&first_offset);
        let last_offset = batch.last_offset;
        self.completed.push_back(CompletedTransaction { first_offset, last_offset });
        if marker.is_commit {
            return None;
        }
        let last_stable_offset = self.ongoing.first_key_value().map_or(last_offset + 1, |(first, _)| *first);
        Some(AbortedTransaction { producer_id: batch.producer_id, first_offset, last_offset, last_stable_offset })
    }

    /// Forgets producers that wrote nothing for `expiration_ms` and have no open transaction.
    pub(crate) fn expire(&mut self, now: Timestamp, expiration_ms: i64) {
        self.entries.retain(|_, producer| {
            producer.transaction_start.is_some() || now.saturating_sub(producer.last_timestamp) < expiration_ms
        });
    }

    /// Forgets transactions that ended below the high watermark.
    pub(crate) fn forget_completed(&mut self, high_watermark: i64) {
        while self.completed.front().is_some_and(|completed| completed.last_offset < high_watermark) {
            self.completed.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A snapshot in Kafka's format: version, CRC-32C of what follows, and the producers.
    ///
    /// Kafka has one entry for each producer, of its last batch. Here each batch that is kept has one, oldest first: of several
    /// Kafka takes the last, and we know again all that may be sent again.
    pub(crate) fn to_snapshot(&self) -> Bytes {
        let mut ids: Vec<i64> = self.entries.keys().copied().collect();
        ids.sort_unstable();
        let count: usize = self.entries.values().map(|producer| producer.batches.len().max(1)).sum();
        let mut bytes = BytesMut::with_capacity(SNAPSHOT_HEADER + count * SNAPSHOT_ENTRY);
        bytes.put_i16(SNAPSHOT_VERSION);
        bytes.put_u32(0);
        bytes.put_i32(count as i32);
        for id in ids {
            let producer = &self.entries[&id];
            let mut put = |batch: Option<&Written>, timestamp: Timestamp, transaction_start: Option<i64>| {
                bytes.put_i64(id);
                bytes.put_i16(producer.epoch);
                bytes.put_i32(batch.map_or(NO_SEQUENCE, |batch| batch.last_sequence));
                bytes.put_i64(batch.map_or(-1, |batch| batch.last_offset));
                bytes.put_i32(batch.map_or(0, |batch| batch.offset_delta));
                bytes.put_i64(timestamp);
                bytes.put_i32(producer.coordinator_epoch);
                bytes.put_i64(transaction_start.unwrap_or(-1));
            };
            for batch in producer.batches.iter().take(producer.batches.len().saturating_sub(1)) {
                put(Some(batch), batch.timestamp, None);
            }
            put(producer.batches.back(), producer.last_timestamp, producer.transaction_start);
        }
        let crc = crc32c::crc32c(&bytes[SNAPSHOT_CRC_FROM..]);
        bytes[2..SNAPSHOT_CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        bytes.freeze()
    }

    /// Reads a snapshot; `None` when it is damaged or of another version. Producers expired by `now` are left out.
    pub(crate) fn from_snapshot(mut bytes: &[u8], now: Timestamp, expiration_ms: i64) -> Option<Self> {
        if bytes.len() < SNAPSHOT_HEADER || bytes.get_i16() != SNAPSHOT_VERSION {
            return None;
        }
        if bytes.get_u32() != crc32c::crc32c(bytes) {
            return None;
        }
        let count = usize::try_from(bytes.get_i32()).ok()?;
        if bytes.len() != count.checked_mul(SNAPSHOT_ENTRY)? {
            return None;
        }
        let mut producers = Self::default();
        for _ in 0..count {
            let id = bytes.get_i64();
            let epoch = bytes.get_i16();
            let last_sequence = bytes.get_i32();
            let last_offset = bytes.get_i64();
            let offset_delta = bytes.get_i32();
            let timestamp = bytes.get_i64();
            let coordinator_epoch = bytes.get_i32();
            let transaction_start = Some(bytes.get_i64()).filter(|offset| *offset >= 0);
            if transaction_start.is_none() && now.saturating_sub(timestamp) >= expiration_ms {
                continue;
            }
            if let Some(first) = transaction_start {
                producers.ongoing.insert(first, id);
            }
            let producer = producers.entries.entry(id).or_insert_with(|| Producer::new(epoch));
            producer.set_epoch(epoch);
            if last_offset >= 0 {
                producer.keep(Written { last_sequence, last_offset, offset_delta, timestamp });
            }
            (producer.last_timestamp, producer.coordinator_epoch) = (timestamp, coordinator_epoch);
            producer.transaction_start = transaction_start;
        }
        Some(producers)
    }
}

const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_CRC_FROM: usize = 6;
const SNAPSHOT_HEADER: usize = 10;
const SNAPSHOT_ENTRY: usize = 46;

impl Producer {
    fn new(epoch: i16) -> Self {
        Self { epoch, batches: VecDeque::new(), last_timestamp: -1, coordinator_epoch: -1, transaction_start: None }
    }

    /// The latest epoch.
    pub fn epoch(&self) -> i16 {
        self.epoch
    }

    /// The last sequence of the latest epoch, or -1.
    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(NO_SEQUENCE, |last| last.last_sequence)
    }

    /// The last offset written in the latest epoch, or -1.
    pub fn last_offset(&self) -> i64 {
        self.batches.back().map_or(-1, |last| last.last_offset)
    }

    /// The largest timestamp of the last batch.
    pub fn last_timestamp(&self) -> Timestamp {
        self.last_timestamp
    }

    /// The epoch of the coordinator that last ended a transaction, or -1.
    pub fn coordinator_epoch(&self) -> i32 {
        self.coordinator_epoch
    }

    /// The first offset of the open transaction.
    pub fn transaction_start(&self) -> Option<i64> {
        self.transaction_start
    }

    fn set_epoch(&mut self, epoch: i16) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    fn keep(&mut self, batch: Written) {
        self.batches.push_back(batch);
        if self.batches.len() > BATCHES_KEPT {
            self.batches.pop_front();
        }
    }

    fn find(&self, first_sequence: i32, last_sequence: i32) -> Option<&Written> {
        self.batches.iter().find(|batch| {
            batch.last_sequence == last_sequence && first_of(batch.last_sequence, batch.offset_delta) == first_sequence
        })
    }

    fn check_sequence(&self, producer_id: i64, epoch: i16, first: i32) -> Result<(), ProducerError> {
        let last = self.last_sequence();
        let follows = if epoch != self.epoch {
            // A new epoch begins at 0.
            first == 0 || self.epoch == NO_EPOCH
        } else {
            self.epoch == NO_EPOCH || first == last.wrapping_add(1) & i32::MAX
        };
        if follows {
            return Ok(());
        }
        let last = if epoch == self.epoch { last } else { NO_SEQUENCE };
        Err(ProducerError::OutOfOrderSequence { producer_id, epoch, found: first, last })
    }
}

/// Sequences go from 0 to `i32::MAX` and on with 0.
fn first_of(last_sequence: i32, delta: i32) -> i32 {
    last_sequence.wrapping_sub(delta) & i32::MAX
}
