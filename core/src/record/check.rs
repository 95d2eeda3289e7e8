//! What a broker checks of a batch before it appends it.

use std::{
    io::{self, BufRead},
    ops::RangeInclusive,
};

use super::{
    Batch, Compression, Field, RecordError, TimestampType,
    compression::Visit,
    varint::{read32, read64},
};
use crate::Timestamp;

/// What [`Batch::check_records`] accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Who made the batch.
    pub origin: Origin,
    /// The largest batch, in bytes as it is: the topic's `max.message.bytes`. Unlimited by default.
    pub max_batch_bytes: usize,
    /// The largest size of the records when decompressed; 128 MiB by default.
    pub max_decompressed_bytes: usize,
    /// The largest number of records in a batch. Unlimited by default.
    pub max_records: i32,
    /// Whether each record needs a key, as in a compacted topic. Not by default.
    pub keys_required: bool,
    /// The timestamps accepted. -1, "none", is always accepted. All by default.
    pub timestamps: RangeInclusive<Timestamp>,
}

/// Who made a batch, which decides what may be in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A producer: the base offset is 0, no control record, no broker's timestamp, at least one record, no gaps.
    #[default]
    Client,
    /// A log: anything that a broker writes, and gaps and no records at all where compaction took them.
    Log,
}

/// What [`Batch::check_records`] has found in the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How many records there are.
    pub count: i32,
    /// The smallest of the records' own timestamps; -1 if there are no records.
    pub min_timestamp: Timestamp,
    /// The largest of the records' own timestamps; -1 if there are no records. A broker corrects the header with it:
    /// [`Batch::with_max_timestamp`].
    pub max_timestamp: Timestamp,
    /// The offset delta of the first record that has the largest timestamp.
    pub max_timestamp_delta: i32,
    /// The size of the records when decompressed.
    pub plain_bytes: u64,
    /// The place of the first record without a key, which a compacted topic does not take.
    pub keyless: Option<i32>,
}

impl Limits {
    /// The default of `max_decompressed_bytes`: 128 MiB.
    pub const MAX_DECOMPRESSED_BYTES: usize = 128 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            origin: Origin::Client,
            max_batch_bytes: usize::MAX,
            max_decompressed_bytes: Self::MAX_DECOMPRESSED_BYTES,
            max_records: i32::MAX,
            keys_required: false,
            timestamps: Timestamp::MIN..=Timestamp::MAX,
        }
    }
}

impl Batch {
    /// Checks all that a broker has to know before it appends a producer's batch, down to the last header of the last record.
    ///
    /// After it, the checksum is right; there are as many records as the header claims, with the offsets it claims, each
    /// exactly as long as it says, and nothing after them; the codec's bytes are whole; the producer's fields belong together;
    /// and `limits` hold. As Kafka's `LogValidator`, and stricter where Kafka stores what consumers then stumble over.
    ///
    /// One pass over the bytes for the checksum and one over the records. Compressed records are decompressed piece by piece, so
    /// memory stays within a few hundred kilobytes (megabytes, where the codec's own blocks are that large).
    ///
    /// # Errors
    /// The first thing found wrong; [`RecordError::kafka_code`] is what a broker answers.
    pub fn check_records(&self, limits: &Limits) -> Result<Checked, RecordError> {
        if self.size() > limits.max_batch_bytes {
            return Err(RecordError::TooLarge { size: self.size(), limit: limits.max_batch_bytes });
        }
        self.check_crc()?;
        self.check_fields(limits)?;
        let packed = &self.as_bytes()[Self::HEADER_LEN..];
        let codec = match self.compression() {
            _ if packed.is_empty() && self.record_count() == 0 => Compression::None,
            codec => codec,
        };
        let limit = match codec {
            Compression::None => usize::MAX,
            _ => limits.max_decompressed_bytes,
        };
        codec.stream(packed, limit, Check { batch: self, limits, codec, limit })
    }

    fn check_fields(&self, limits: &Limits) -> Result<(), RecordError> {
        let (count, last_offset_delta) = (self.record_count(), self.last_offset_delta());
        // Not more than there are offsets; just as many from a producer, who has no gaps.
        let fits = match limits.origin {
            Origin::Client => count >= 1 && count - 1 == last_offset_delta,
            Origin::Log => count >= 0 && i64::from(count) - 1 <= i64::from(last_offset_delta),
        };
        if !fits {
            return Err(RecordError::Count { count, last_offset_delta });
        }
        if count > limits.max_records {
            return Err(RecordError::TooManyRecords { count, limit: limits.max_records });
        }
        let (producer_id, producer_epoch, base_sequence) =
            (self.producer_id(), self.producer_epoch(), self.base_sequence());
        let transactional = self.is_transactional();
        let idempotent = producer_id >= 0;
        let consistent = match limits.origin {
            Origin::Client if idempotent => producer_epoch >= 0 && base_sequence >= 0,
            Origin::Client => producer_id == -1 && !transactional,
            Origin::Log => true,
        };
        if !consistent {
            return Err(RecordError::Producer { producer_id, producer_epoch, base_sequence, transactional });
        }
        if limits.origin == Origin::Client {
            if self.base_offset() != 0 {
                return Err(RecordError::BaseOffset { base_offset: self.base_offset() });
            }
            if self.is_control() {
                return Err(RecordError::Control);
            }
            if self.timestamp_type() == TimestampType::LogAppendTime {
                return Err(RecordError::ProducerLogAppendTime);
            }
        }
        Ok(())
    }
}

/// The check of the records, for any reader of them.
struct Check<'a> {
    batch: &'a Batch,
    limits: &'a Limits,
    codec: Compression,
    limit: usize,
}

impl Visit for Check<'_> {
    type Output = Checked;

    fn visit(self, reader: impl BufRead) -> Result<Checked, RecordError> {
        let Self { batch, limits, codec, limit } = self;
        let count = batch.record_count();
        let base_timestamp = batch.base_timestamp();
        let mut input = Input { reader, position: 0, limit: limit as u64 };
        let mut checked = Checked {
            count,
            min_timestamp: -1,
            max_timestamp: -1,
            max_timestamp_delta: -1,
            plain_bytes: 0,
            keyless: None,
        };
        let mut least_delta = 0;
        for index in 0..count {
            let Facts { timestamp_delta, offset_delta, has_key } = match input.record() {
                Ok(facts) => facts,
                Err(Refusal::Field(field)) => return Err(RecordError::Malformed { index, field }),
                Err(Refusal::Io(error)) => return Err(codec.failed(&error, limit)),
                Err(Refusal::Limit) => return Err(RecordError::DecompressedTooLarge { codec, limit }),
            };
            let in_order = match limits.origin {
                Origin::Client => offset_delta == index,
                Origin::Log => (least_delta..=batch.last_offset_delta()).contains(&offset_delta),
            };
            if !in_order {
                return Err(RecordError::Offset { index, offset_delta });
            }
            least_delta = offset_delta.wrapping_add(1);
            if limits.keys_required && !has_key {
                return Err(RecordError::KeyRequired { index });
            }
            if !has_key && checked.keyless.is_none() {
                checked.keyless = Some(index);
            }
            let timestamp = base_timestamp.wrapping_add(timestamp_delta);
            if timestamp != -1 && !limits.timestamps.contains(&timestamp) {
                let (&min, &max) = (limits.timestamps.start(), limits.timestamps.end());
                return Err(RecordError::TimestampRange { index, timestamp, min, max });
            }
            if index == 0 || timestamp < checked.min_timestamp {
                checked.min_timestamp = timestamp;
            }
            if index == 0 || timestamp > checked.max_timestamp {
                checked.max_timestamp = timestamp;
                checked.max_timestamp_delta = offset_delta;
            }
        }
        match input.reader.fill_buf() {
            Ok([]) => {}
            Ok(_) => return Err(RecordError::AfterRecords { count }),
            Err(error) => return Err(codec.failed(&error, limit)),
        }
        checked.plain_bytes = input.position;
        Ok(checked)
    }
}

/// What is needed of a record that is not kept.
struct Facts {
    timestamp_delta: i64,
    offset_delta: i32,
    has_key: bool,
}

enum Refusal {
    Field(Field),
    Io(io::Error),
    Limit,
}

/// A reader that counts.
struct Input<R> {
    reader: R,
    position: u64,
    limit: u64,
}

impl<R: BufRead> Input<R> {
    #[inline]
    fn record(&mut self) -> Result<Facts, Refusal> {
        let length = self.int(Field::Length)?;
        let Ok(length) = u64::try_from(length) else { return Err(Refusal::Field(Field::Length)) };
        let end = self.position + length;
        self.byte(Field::Attributes)?;
        let timestamp_delta = self.long(Field::TimestampDelta)?;
        let offset_delta = self.int(Field::OffsetDelta)?;
        let has_key = self.skip(end, Field::Key)?;
        self.skip(end, Field::Value)?;
        let headers = self.int(Field::HeaderCount)?;
        // A header has two bytes at least.
        if headers < 0 || headers as u64 * 2 > end.saturating_sub(self.position) {
            return Err(Refusal::Field(Field::HeaderCount));
        }
        for _ in 0..headers {
            if !self.skip(end, Field::HeaderKey)? {
                return Err(Refusal::Field(Field::HeaderKey));
            }
            self.skip(end, Field::HeaderValue)?;
        }
        if self.position != end {
            return Err(Refusal::Field(Field::Length));
        }
        Ok(Facts { timestamp_delta, offset_delta, has_key })
    }

    #[inline(always)]
    fn byte(&mut self, field: Field) -> Result<u8, Refusal> {
        if self.position >= self.limit {
            return Err(self.at_limit(field));
        }
        let byte = *self.reader.fill_buf().map_err(Refusal::Io)?.first().ok_or(Refusal::Field(field))?;
        self.reader.consume(1);
        self.position += 1;
        Ok(byte)
    }

    /// Why there is no byte at the limit: because the bytes end there, or because it is the limit.
    #[cold]
    fn at_limit(&mut self, field: Field) -> Refusal {
        match self.reader.fill_buf() {
            Ok([]) => Refusal::Field(field),
            Ok(_) => Refusal::Limit,
            Err(error) => Refusal::Io(error),
        }
    }

    #[inline(always)]
    fn int(&mut self, field: Field) -> Result<i32, Refusal> {
        read32(|| self.byte(field))?.ok_or(Refusal::Field(field))
    }

    #[inline(always)]
    fn long(&mut self, field: Field) -> Result<i64, Refusal> {
        read64(|| self.byte(field))?.ok_or(Refusal::Field(field))
    }

    /// Reads a length and goes past as many bytes, not beyond `end`; false for null.
    #[inline]
    fn skip(&mut self, end: u64, field: Field) -> Result<bool, Refusal> {
        let length = self.int(field)?;
        if length == -1 {
            return Ok(false);
        }
        let Ok(mut left) = usize::try_from(length) else { return Err(Refusal::Field(field)) };
        let after = self.position + left as u64;
        if after > end {
            return Err(Refusal::Field(field));
        }
        if after > self.limit {
            return Err(Refusal::Limit);
        }
        while left > 0 {
            let there = self.reader.fill_buf().map_err(Refusal::Io)?.len();
            if there == 0 {
                return Err(Refusal::Field(field));
            }
            let step = there.min(left);
            self.reader.consume(step);
            left -= step;
        }
        self.position = after;
        Ok(true)
    }
}
