//! A batch: its header as a view over the bytes.

use bytes::{Bytes, BytesMut};

use super::{Compression, ProducerFields, RecordError, builder::put_producer};
use crate::Timestamp;

/// One whole record batch of format 2, as it is on the wire and on disk.
///
/// Holds the bytes and reads the header in place; cloning shares them. Made by [`split`](Self::split) and
/// [`single`](Self::single), which check the lengths, the format, the codec's number and that the last offset is a number
/// not below the base offset. Whether the checksum holds and what the records look like is checked on request only, because
/// most batches are moved and never looked into.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
}

/// What a record's timestamp means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's time, one for each record.
    #[default]
    CreateTime,
    /// The broker's time when it appended the batch, one for all records.
    LogAppendTime,
}

// Where the header's fields start. Big-endian all.
pub(super) const BASE_OFFSET: usize = 0;
pub(super) const BATCH_LENGTH: usize = 8;
pub(super) const PARTITION_LEADER_EPOCH: usize = 12;
pub(super) const MAGIC: usize = 16;
pub(super) const CRC: usize = 17;
pub(super) const ATTRIBUTES: usize = 21;
pub(super) const LAST_OFFSET_DELTA: usize = 23;
pub(super) const BASE_TIMESTAMP: usize = 27;
pub(super) const MAX_TIMESTAMP: usize = 35;
pub(super) const PRODUCER_ID: usize = 43;
pub(super) const PRODUCER_EPOCH: usize = 51;
pub(super) const BASE_SEQUENCE: usize = 53;
pub(super) const RECORD_COUNT: usize = 57;

pub(super) const COMPRESSION_MASK: i16 = 0b0111;
pub(super) const LOG_APPEND_TIME: i16 = 1 << 3;
pub(super) const TRANSACTIONAL: i16 = 1 << 4;
pub(super) const CONTROL: i16 = 1 << 5;
pub(super) const DELETE_HORIZON: i16 = 1 << 6;

/// The only format read and written here.
pub(super) const MAGIC_V2: i8 = 2;

impl Batch {
    /// Bytes of the header: all that comes before the records.
    pub const HEADER_LEN: usize = 61;
    /// Bytes of the base offset and the length, which the length itself does not count.
    pub const LOG_OVERHEAD: usize = 12;

    /// Takes the next whole batch off the front of `bytes`, sharing them.
    ///
    /// `Ok(None)`, with `bytes` left as they are, when there are fewer bytes than the batch has: the end of a Fetch response
    /// or of a log may be part of a batch. The checksum and the records are not looked at.
    ///
    /// # Errors
    /// What cannot be a batch of format 2 whatever follows: a length below the header's, another format, an unknown codec,
    /// an impossible last offset. `bytes` are left as they are then.
    pub fn split(bytes: &mut Bytes) -> Result<Option<Self>, RecordError> {
        match Self::check_header(bytes)? {
            Some(size) if size <= bytes.len() => Ok(Some(Self { bytes: bytes.split_to(size) })),
            _ => Ok(None),
        }
    }

    /// The one batch that `bytes` are, and nothing else: what a Produce request must hold for a partition.
    ///
    /// # Errors
    /// Those of [`split`](Self::split), and when there is less than one batch or anything after it.
    pub fn single(mut bytes: Bytes) -> Result<Self, RecordError> {
        match Self::split(&mut bytes)? {
            Some(batch) if bytes.is_empty() => Ok(batch),
            Some(batch) => Err(RecordError::AfterBatch { size: batch.size(), trailing: bytes.len() }),
            None => {
                let expected = Self::claimed_size(&bytes).unwrap_or(Self::HEADER_LEN);
                Err(RecordError::Incomplete { expected, found: bytes.len() })
            }
        }
    }

    /// The whole batch's size in bytes as its length field claims it; `None` if `bytes` end before that field does or it is
    /// negative. Tells a reader how many bytes to fetch for a batch that [`split`](Self::split) found to be cut off.
    pub fn claimed_size(bytes: &[u8]) -> Option<usize> {
        let field: [u8; 4] = bytes.get(BATCH_LENGTH..Self::LOG_OVERHEAD)?.try_into().ok()?;
        usize::try_from(i32::from_be_bytes(field)).ok()?.checked_add(Self::LOG_OVERHEAD)
    }

    /// Checks as much of the header as is there; the batch's size if its length is there.
    fn check_header(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        if bytes.len() < Self::LOG_OVERHEAD {
            return Ok(None);
        }
        let base_offset = i64::from_be_bytes(array(bytes, BASE_OFFSET));
        let batch_length = i32::from_be_bytes(array(bytes, BATCH_LENGTH));
        // Before the length, because a batch of an older format may be shorter than our header.
        if let Some(&magic) = bytes.get(MAGIC)
            && magic as i8 != MAGIC_V2
        {
            return Err(RecordError::Magic { base_offset, magic: magic as i8 });
        }
        let size = match usize::try_from(batch_length) {
            Ok(length) if length >= Self::HEADER_LEN - Self::LOG_OVERHEAD => length + Self::LOG_OVERHEAD,
            _ => return Err(RecordError::BatchLength { base_offset, batch_length }),
        };
        if bytes.len() >= Self::HEADER_LEN {
            let id = bytes[ATTRIBUTES + 1] & COMPRESSION_MASK as u8;
            if Compression::from_id(id).is_none() {
                return Err(RecordError::UnknownCompression { id });
            }
            let last_offset_delta = i32::from_be_bytes(array(bytes, LAST_OFFSET_DELTA));
            // One below the largest, so that the next offset is a number, too.
            if last_offset_delta < 0 || base_offset > i64::MAX - 1 - i64::from(last_offset_delta) {
                return Err(RecordError::LastOffset { base_offset, last_offset_delta });
            }
        }
        Ok(Some(size))
    }

    /// A batch that was just encoded here.
    pub(super) fn sealed(bytes: Bytes) -> Self {
        debug_assert!(matches!(Self::check_header(&bytes), Ok(Some(size)) if size == bytes.len()));
        Self { bytes }
    }

    /// Checks that the checksum in the header is that of the bytes. Reads the whole batch once.
    ///
    /// The checksum (CRC-32C) covers what follows it, so not the base offset and the leader epoch, which a broker stamps.
    ///
    /// # Errors
    /// [`RecordError::Checksum`] if it is not.
    pub fn check_crc(&self) -> Result<(), RecordError> {
        let found = crc32c::crc32c(&self.bytes[ATTRIBUTES..]);
        let expected = self.crc();
        if found != expected {
            return Err(RecordError::Checksum { base_offset: self.base_offset(), expected, found });
        }
        Ok(())
    }

    /// The bytes `0..16` with `base_offset` and `leader_epoch` in them, to be written in front of `as_bytes()[16..]`.
    ///
    /// The checksum does not cover them, so appending a batch costs no copy of it.
    pub fn stamp(&self, base_offset: i64, leader_epoch: i32) -> [u8; 16] {
        let mut stamp: [u8; 16] = array(&self.bytes, BASE_OFFSET);
        stamp[BASE_OFFSET..BATCH_LENGTH].copy_from_slice(&base_offset.to_be_bytes());
        stamp[PARTITION_LEADER_EPOCH..MAGIC].copy_from_slice(&leader_epoch.to_be_bytes());
        stamp
    }

    /// A copy with `base_offset` and `leader_epoch` in its header. Copies the whole batch; see [`stamp`](Self::stamp).
    #[must_use]
    pub fn stamped(&self, base_offset: i64, leader_epoch: i32) -> Self {
        self.edited(|bytes| bytes[..MAGIC].copy_from_slice(&self.stamp(base_offset, leader_epoch)))
    }

    /// A copy whose records all have the time `timestamp`, at which a broker appends it (`message.timestamp.type`
    /// `LogAppendTime`). The records' own timestamps stay in the bytes, as Kafka leaves them. Copies, and reads for the
    /// checksum, the whole batch.
    #[must_use]
    pub fn with_log_append_time(&self, timestamp: Timestamp) -> Self {
        let attributes = self.attributes() | LOG_APPEND_TIME;
        self.edited(|bytes| {
            bytes[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
            bytes[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&timestamp.to_be_bytes());
            seal_crc(bytes);
        })
    }

    /// A copy whose header has `timestamp` as its largest. A broker corrects a producer's header so where its records tell
    /// otherwise. Copies, and reads for the checksum, the whole batch.
    #[must_use]
    pub fn with_max_timestamp(&self, timestamp: Timestamp) -> Self {
        self.edited(|bytes| {
            bytes[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&timestamp.to_be_bytes());
            seal_crc(bytes);
        })
    }

    /// A copy with other producer fields, for a producer that starts over with a new epoch. Copies, and reads for the
    /// checksum, the whole batch.
    #[must_use]
    pub fn with_producer(&self, producer: ProducerFields) -> Self {
        self.edited(|bytes| {
            put_producer(bytes, producer);
            seal_crc(bytes);
        })
    }

    /// A copy as a producer sends it: base offset 0, no leader epoch, in no transaction, with these producer fields. Copies,
    /// and reads for the checksum, the whole batch.
    #[must_use]
    pub fn as_produced(&self, producer: ProducerFields) -> Self {
        let attributes = self.attributes() & !TRANSACTIONAL;
        self.edited(|bytes| {
            bytes[BASE_OFFSET..BATCH_LENGTH].copy_from_slice(&0_i64.to_be_bytes());
            bytes[PARTITION_LEADER_EPOCH..MAGIC].copy_from_slice(&(-1_i32).to_be_bytes());
            bytes[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
            put_producer(bytes, producer);
            seal_crc(bytes);
        })
    }

    fn edited(&self, edit: impl FnOnce(&mut BytesMut)) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        edit(&mut bytes);
        Self { bytes: bytes.freeze() }
    }

    /// The offset of the first record; of the first that was there, if compaction has removed it.
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(array(&self.bytes, BASE_OFFSET))
    }

    /// The offset of the last record; of the last that was there, if compaction has removed it.
    pub fn last_offset(&self) -> i64 {
        self.base_offset() + i64::from(self.last_offset_delta())
    }

    /// The offset after the last record's.
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// The batch's size in bytes, header and all.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The epoch of the leader that appended the batch, -1 before one has.
    pub fn partition_leader_epoch(&self) -> i32 {
        i32::from_be_bytes(array(&self.bytes, PARTITION_LEADER_EPOCH))
    }

    /// The checksum in the header.
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(array(&self.bytes, CRC))
    }

    /// The attributes as they are: codec in bits 0 to 2, then timestamp type, transactional, control, delete horizon.
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(array(&self.bytes, ATTRIBUTES))
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Compression {
        let id = (self.attributes() & COMPRESSION_MASK) as u8;
        Compression::from_id(id).expect("checked when the batch was made")
    }

    /// Whether the records' timestamps are the producer's or the broker's.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }

    /// Whether the batch holds a control record (the end of a transaction), which no consumer sees.
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }

    /// Whether the base timestamp is the time after which compaction may drop the batch's tombstones (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes() & DELETE_HORIZON != 0
    }

    /// The last record's offset less the base offset; never negative.
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(array(&self.bytes, LAST_OFFSET_DELTA))
    }

    /// What the records' timestamp deltas are counted from.
    pub fn base_timestamp(&self) -> Timestamp {
        i64::from_be_bytes(array(&self.bytes, BASE_TIMESTAMP))
    }

    /// The largest timestamp among the records, as the header tells it.
    pub fn max_timestamp(&self) -> Timestamp {
        i64::from_be_bytes(array(&self.bytes, MAX_TIMESTAMP))
    }

    /// The idempotent producer's id, -1 if there is none.
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(array(&self.bytes, PRODUCER_ID))
    }

    /// The idempotent producer's epoch, -1 if there is none.
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(array(&self.bytes, PRODUCER_EPOCH))
    }

    /// The sequence number of the first record, -1 if there is none.
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(array(&self.bytes, BASE_SEQUENCE))
    }

    /// The sequence number of the last record, -1 if there is none. After 2^31-1 comes 0.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            sequence if sequence < 0 => -1,
            sequence => sequence.wrapping_add(self.last_offset_delta()) & i32::MAX,
        }
    }

    /// How many records the header claims. An outside number: reserve nothing by it.
    pub fn record_count(&self) -> i32 {
        i32::from_be_bytes(array(&self.bytes, RECORD_COUNT))
    }

    /// The whole batch.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole batch.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("offsets", &(self.base_offset()..self.next_offset()))
            .field("leader_epoch", &self.partition_leader_epoch())
            .field("size", &self.size())
            .field("attributes", &format_args!("{:#b}", self.attributes()))
            .field("producer", &(self.producer_id(), self.producer_epoch(), self.base_sequence()))
            .finish_non_exhaustive()
    }
}

/// The whole batches at the front of `bytes`, in order.
///
/// Ends at a batch that is cut off. After an error there are no more, because nothing tells where the next batch starts.
pub fn batches(bytes: Bytes) -> impl Iterator<Item = Result<Batch, RecordError>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let next = Batch::split(rest.as_mut()?).transpose();
        if !matches!(next, Some(Ok(_))) {
            rest = None;
        }
        next
    })
}

/// Computes and writes the checksum of a batch that is otherwise complete.
pub(super) fn seal_crc(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[ATTRIBUTES..]);
    bytes[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
}

/// The `N` bytes at `at`, which the caller knows to be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
