//! The records of a batch, as views over its plain bytes.

use bytes::Bytes;

use super::{
    Batch, Compression, Field, RecordError, TimestampType,
    varint::{read32, read64},
};
use crate::Timestamp;

/// The plain bytes of a batch's records, to iterate over.
///
/// Shares the batch's bytes when they are not compressed, and owns what came out of the codec otherwise.
#[derive(Clone, Debug)]
pub struct Records {
    bytes: Bytes,
    base_offset: i64,
    last_offset_delta: i32,
    base_timestamp: Timestamp,
    log_append_time: Option<Timestamp>,
    count: u32,
    /// How many are left out at the start, and where the next begins.
    skipped: u32,
    start: usize,
}

/// One record, in its batch's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its number in the partition.
    pub offset: i64,
    /// The producer's time, or the broker's for the batch ([`TimestampType`]); -1 if the producer gave none.
    pub timestamp: Timestamp,
    /// The key; none is not the same as an empty one.
    pub key: Option<&'a [u8]>,
    /// The value; none (a tombstone, to compaction) is not the same as an empty one.
    pub value: Option<&'a [u8]>,
    /// The headers, in the producer's order, equal keys and all.
    pub headers: Headers<'a>,
}

/// Records in the order of their offsets.
///
/// Each is checked as it is read: its fields are within the record, the record is within the batch, its offset is above the
/// one before and not above the batch's last. After an error there are no more.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
    remaining: u32,
    count: u32,
    least_delta: i32,
    last_offset_delta: i32,
    base_offset: i64,
    base_timestamp: Timestamp,
    log_append_time: Option<Timestamp>,
}

/// The headers of a record: an iterator of key and value.
///
/// A value may be null, a key may not. Keys are text in Kafka's rules, which nobody enforces: [`raw`](Self::raw) reads those
/// that are not.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    remaining: u32,
    index: i32,
}

/// The headers of a record with their keys as bytes.
#[derive(Clone, Copy, Debug)]
pub struct RawHeaders<'a>(Headers<'a>);

impl Batch {
    /// The records, decompressed if need be to at most `limit` bytes ([`Limits::max_decompressed_bytes`]'s default is
    /// a fine one).
    ///
    /// Costs nothing when they are not compressed. Does not check the checksum.
    ///
    /// [`Limits::max_decompressed_bytes`]: super::Limits::max_decompressed_bytes
    ///
    /// # Errors
    /// When the codec fails, when more than `limit` bytes come out, and when the header claims a negative count.
    pub fn records(&self, limit: usize) -> Result<Records, RecordError> {
        let (count, last_offset_delta) = (self.record_count(), self.last_offset_delta());
        let Ok(unsigned) = u32::try_from(count) else { return Err(RecordError::Count { count, last_offset_delta }) };
        let packed = self.as_bytes().slice(Self::HEADER_LEN..);
        let bytes = match self.compression() {
            Compression::None => packed,
            // Compaction leaves a header alone where all records went, to remember the producer by.
            _ if count == 0 && packed.is_empty() => packed,
            codec => codec.decompress(&packed, limit)?.into(),
        };
        Ok(Records {
            bytes,
            base_offset: self.base_offset(),
            last_offset_delta,
            base_timestamp: self.base_timestamp(),
            log_append_time: match self.timestamp_type() {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(self.max_timestamp()),
            },
            count: unsigned,
            skipped: 0,
            start: 0,
        })
    }
}

impl Records {
    /// The records in the order of their offsets. Allocates nothing.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter {
            rest: self.bytes.get(self.start..).unwrap_or_default(),
            remaining: self.count - self.skipped,
            count: self.count,
            // Each is above the one before.
            least_delta: self.skipped as i32,
            last_offset_delta: self.last_offset_delta,
            base_offset: self.base_offset,
            base_timestamp: self.base_timestamp,
            log_append_time: self.log_append_time,
        }
    }

    /// Leaves out the next `count` records from now on, or as many as there are. Goes by their lengths alone: one with a
    /// wrong length is where it stops, for the iteration to tell.
    pub fn skip(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.count - self.skipped);
        for _ in 0..count {
            let mut cursor = Cursor(self.bytes.get(self.start..).unwrap_or_default());
            let Ok(Some(_)) = cursor.int(Field::Length).and_then(|length| cursor.bytes(length, Field::Length)) else {
                return;
            };
            self.start = self.bytes.len() - cursor.0.len();
            self.skipped += 1;
        }
    }

    /// How many records [`skip`](Self::skip) has left out.
    pub fn skipped(&self) -> usize {
        self.skipped as usize
    }

    /// The plain bytes, in which all keys and values lie: `bytes().slice_ref(key)` keeps one without a copy.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = Result<Record<'a>, RecordError>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

impl<'a> RecordIter<'a> {
    #[inline]
    fn read(&mut self) -> Result<Record<'a>, Field> {
        let mut cursor = Cursor(self.rest);
        let length = cursor.int(Field::Length)?;
        let body = cursor.bytes(length, Field::Length)?.ok_or(Field::Length)?;
        self.rest = cursor.0;

        let mut body = Cursor(body);
        body.byte(Field::Attributes)?;
        let timestamp_delta = body.long(Field::TimestampDelta)?;
        let offset_delta = body.int(Field::OffsetDelta)?;
        if offset_delta < self.least_delta || offset_delta > self.last_offset_delta {
            return Err(Field::OffsetDelta);
        }
        self.least_delta = offset_delta.wrapping_add(1);
        let key = body.nullable(Field::Key)?;
        let value = body.nullable(Field::Value)?;
        let headers = body.int(Field::HeaderCount)?;
        // A header has two bytes at least: so nobody who reserves by the count is fooled.
        if headers < 0 || headers as usize > body.0.len() / 2 {
            return Err(Field::HeaderCount);
        }
        if headers == 0 && !body.0.is_empty() {
            return Err(Field::Length);
        }
        Ok(Record {
            offset: self.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp: match self.log_append_time {
                None => self.base_timestamp.wrapping_add(timestamp_delta),
                Some(timestamp) => timestamp,
            },
            key,
            value,
            headers: Headers { rest: body.0, remaining: headers as u32, index: self.index() },
        })
    }

    /// The place in the batch of the record that is being read.
    fn index(&self) -> i32 {
        (self.count - self.remaining) as i32
    }

    #[cold]
    fn fail(&mut self, field: Field) -> RecordError {
        let index = self.index();
        (self.rest, self.remaining) = (&[], 0);
        RecordError::Malformed { index, field }
    }

    #[cold]
    fn too_long(&mut self) -> RecordError {
        self.rest = &[];
        RecordError::AfterRecords { count: self.count as i32 }
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            return if self.rest.is_empty() { None } else { Some(Err(self.too_long())) };
        }
        match self.read() {
            Ok(record) => {
                self.remaining -= 1;
                Some(Ok(record))
            }
            Err(field) => Some(Err(self.fail(field))),
        }
    }

    /// Nothing is known for sure: the count is the header's word.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.remaining as usize + 1))
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

impl<'a> Headers<'a> {
    /// How many there are and their bytes, as they are in the record.
    pub(super) fn encoded(&self) -> (u32, &'a [u8]) {
        (self.remaining, self.rest)
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.remaining as usize
    }

    /// Whether none are left.
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// The same with keys that need not be text.
    pub fn raw(self) -> RawHeaders<'a> {
        RawHeaders(self)
    }

    #[inline]
    fn read(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), Field> {
        let mut cursor = Cursor(self.rest);
        let key = cursor.nullable(Field::HeaderKey)?.ok_or(Field::HeaderKey)?;
        let value = cursor.nullable(Field::HeaderValue)?;
        self.rest = cursor.0;
        self.remaining -= 1;
        if self.remaining == 0 && !self.rest.is_empty() { Err(Field::Length) } else { Ok((key, value)) }
    }

    fn fail(&mut self, field: Field) -> RecordError {
        self.remaining = 0;
        RecordError::Malformed { index: self.index, field }
    }
}

impl<'a> Iterator for RawHeaders<'a> {
    type Item = Result<(&'a [u8], Option<&'a [u8]>), RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.0.read().map_err(|field| self.0.fail(field)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.0.len()))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a str, Option<&'a [u8]>), RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_empty() {
            return None;
        }
        let text = |(key, value)| std::str::from_utf8(key).map(|key| (key, value)).map_err(|_| Field::HeaderKey);
        Some(self.read().and_then(text).map_err(|field| self.fail(field)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.len()))
    }
}

/// What is not read yet of some bytes. Each method names the field it reads, to fail with.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline(always)]
    fn byte(&mut self, field: Field) -> Result<u8, Field> {
        self.0.split_off_first().copied().ok_or(field)
    }

    #[inline(always)]
    fn int(&mut self, field: Field) -> Result<i32, Field> {
        read32(|| self.byte(field))?.ok_or(field)
    }

    #[inline(always)]
    fn long(&mut self, field: Field) -> Result<i64, Field> {
        read64(|| self.byte(field))?.ok_or(field)
    }

    #[inline(always)]
    fn nullable(&mut self, field: Field) -> Result<Option<&'a [u8]>, Field> {
        let length = self.int(field)?;
        self.bytes(length, field)
    }

    /// As many bytes as `length` says, where -1 stands for null.
    #[inline(always)]
    fn bytes(&mut self, length: i32, field: Field) -> Result<Option<&'a [u8]>, Field> {
        match usize::try_from(length) {
            Ok(length) => self.0.split_off(..length).map(Some).ok_or(field),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(field),
        }
    }
}
