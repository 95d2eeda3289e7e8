//! Building a batch, record by record.

use super::{
    Batch, Compression, RecordError, TimestampType,
    batch::{
        ATTRIBUTES, BASE_OFFSET, BASE_SEQUENCE, BASE_TIMESTAMP, BATCH_LENGTH, CONTROL, CRC, LAST_OFFSET_DELTA,
        LOG_APPEND_TIME, MAGIC, MAGIC_V2, MAX_TIMESTAMP, PARTITION_LEADER_EPOCH, PRODUCER_EPOCH, PRODUCER_ID,
        RECORD_COUNT, TRANSACTIONAL, seal_crc,
    },
    varint,
};
use crate::Timestamp;

/// Builds a batch: each record is encoded when it is appended, into the one buffer that becomes the batch.
///
/// An append allocates nothing but the buffer's growth. Compression happens at [`seal`](Self::seal), over all records at once.
///
/// ```
/// use ottla::record::{Builder, BuilderOptions, NO_HEADERS, ProducerFields};
///
/// let mut builder = Builder::new(BuilderOptions::default());
/// builder.append(1_700_000_000_000, Some(b"key"), Some(b"value"), NO_HEADERS)?;
/// builder.append(1_700_000_000_001, None, None, [("trace", Some(&b"1"[..]))].into_iter())?;
/// let batch = builder.seal(ProducerFields::NONE)?;
/// assert_eq!(batch.record_count(), 2);
/// # Ok::<(), ottla::record::RecordError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    /// Room for the header, then the records.
    bytes: Vec<u8>,
    options: BuilderOptions,
    control: bool,
    count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

/// How a [`Builder`] makes its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuilderOptions {
    /// The codec.
    pub compression: Compression,
    /// The codec's level, brought into its range; its default when `None`. See [`Compression::levels`].
    pub level: Option<i32>,
    /// Whose time the records' timestamps are.
    pub timestamp_type: TimestampType,
    /// Whether the batch is part of a transaction.
    pub transactional: bool,
    /// Bytes to reserve at once, as the batch is expected to have; it grows beyond them.
    pub capacity: usize,
}

/// Who produces a batch, and which of the producer's records it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFields {
    /// The id that InitProducerId gave.
    pub producer_id: i64,
    /// The epoch that InitProducerId gave.
    pub producer_epoch: i16,
    /// The sequence number of the batch's first record.
    pub base_sequence: i32,
}

impl ProducerFields {
    /// Those of a producer that is not idempotent.
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
}

impl Default for ProducerFields {
    fn default() -> Self {
        Self::NONE
    }
}

/// No headers, for [`Builder::append`] and [`Builder::size_if`].
pub const NO_HEADERS: std::iter::Empty<(&'static str, Option<&'static [u8]>)> = std::iter::empty();

/// The largest batch that its own length field can tell.
const MAX_SIZE: usize = i32::MAX as usize;

impl Builder {
    /// A builder without records.
    pub fn new(options: BuilderOptions) -> Self {
        Self::in_buffer(options, Vec::new())
    }

    /// A builder without records that takes over the memory of `bytes`, whatever is in it.
    pub fn in_buffer(options: BuilderOptions, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.reserve(options.capacity.max(Batch::HEADER_LEN));
        bytes.resize(Batch::HEADER_LEN, 0);
        Self { bytes, options, control: false, count: 0, base_timestamp: -1, max_timestamp: -1 }
    }

    pub(super) fn new_control() -> Self {
        let options = BuilderOptions { transactional: true, ..BuilderOptions::default() };
        Self { control: true, ..Self::new(options) }
    }

    /// Appends a record and returns its place in the batch, from 0.
    ///
    /// Timestamps may come in any order; the first one is what the others are stored relative to. Header keys may be `&str`
    /// or bytes; equal ones are all kept. The headers are gone over twice.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`] if the batch would have more than 2^31-1 bytes; the batch is as it was.
    #[inline]
    pub fn append<'h, K: AsRef<[u8]>>(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (K, Option<&'h [u8]>)> + Clone,
    ) -> Result<i32, RecordError> {
        let base_timestamp = if self.count == 0 { timestamp } else { self.base_timestamp };
        let timestamp_delta = timestamp.wrapping_sub(base_timestamp);
        let index = self.count;
        let (header_count, header_bytes) = measure(headers.clone());
        let length = content_size(timestamp_delta, index, key, value, header_count, header_bytes);
        let size = self.bytes.len().saturating_add(length).saturating_add(MAX_VARINT);
        if size > MAX_SIZE {
            return Err(RecordError::TooLarge { size, limit: MAX_SIZE });
        }

        let out = &mut self.bytes;
        out.reserve(length + MAX_VARINT);
        let start = out.len();
        varint::put(out, length as i64);
        let content = out.len();
        out.push(0); // attributes, of which none are in use
        varint::put(out, timestamp_delta);
        varint::put(out, i64::from(index));
        put_nullable(out, key);
        put_nullable(out, value);
        varint::put(out, header_count as i64);
        if header_count > 0 {
            for (key, value) in headers {
                put_nullable(out, Some(key.as_ref()));
                put_nullable(out, value);
            }
        }
        debug_assert_eq!(out.len() - content, length, "record at {start} is not as long as measured");

        self.base_timestamp = base_timestamp;
        self.max_timestamp = if index == 0 { timestamp } else { self.max_timestamp.max(timestamp) };
        self.count = index + 1;
        Ok(index)
    }

    /// The size that [`estimated_size`](Self::estimated_size) would be with this record appended, to decide whether it is.
    pub fn size_if<'h, K: AsRef<[u8]>>(
        &self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (K, Option<&'h [u8]>)>,
    ) -> usize {
        let timestamp_delta = if self.count == 0 { 0 } else { timestamp.wrapping_sub(self.base_timestamp) };
        let (header_count, header_bytes) = measure(headers);
        let length = content_size(timestamp_delta, self.count, key, value, header_count, header_bytes);
        self.bytes.len() + varint::size(length as i64) + length
    }

    /// The size of the batch in bytes, header and all, if it were sealed now without compression: exact, then.
    pub fn estimated_size(&self) -> usize {
        self.bytes.len()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The largest timestamp so far, -1 if there are no records.
    pub fn max_timestamp(&self) -> Timestamp {
        self.max_timestamp
    }

    /// The first record's timestamp, -1 if there are no records.
    pub fn base_timestamp(&self) -> Timestamp {
        self.base_timestamp
    }

    /// How the batch will be made.
    pub fn options(&self) -> &BuilderOptions {
        &self.options
    }

    /// The batch, with base offset 0 and leader epoch -1, as a producer sends it. Compresses.
    ///
    /// # Errors
    /// [`RecordError::Count`] if there are no records, for a batch without any is not to be sent. When the codec fails, or
    /// what it makes is larger than 2^31-1 bytes.
    pub fn seal(self, producer: ProducerFields) -> Result<Batch, RecordError> {
        self.seal_at(producer, 0, -1)
    }

    /// The batch at `base_offset`, as a leader of `leader_epoch` appends it. Otherwise as [`seal`](Self::seal).
    ///
    /// # Errors
    /// Those of [`seal`](Self::seal), and [`RecordError::LastOffset`] if the offsets go beyond 2^63-2.
    pub fn seal_at(self, producer: ProducerFields, base_offset: i64, leader_epoch: i32) -> Result<Batch, RecordError> {
        let last_offset_delta = self.count - 1;
        if self.count == 0 {
            return Err(RecordError::Count { count: 0, last_offset_delta });
        }
        if base_offset > i64::MAX - 1 - i64::from(last_offset_delta) {
            return Err(RecordError::LastOffset { base_offset, last_offset_delta });
        }
        let mut bytes = match self.options.compression {
            Compression::None => self.bytes,
            codec => {
                let mut packed = Vec::with_capacity(Batch::HEADER_LEN + self.bytes.len() / 2);
                packed.resize(Batch::HEADER_LEN, 0);
                codec.compress(self.options.level, &self.bytes[Batch::HEADER_LEN..], &mut packed)?;
                packed
            }
        };
        if bytes.len() > MAX_SIZE {
            return Err(RecordError::TooLarge { size: bytes.len(), limit: MAX_SIZE });
        }

        let mut attributes = i16::from(self.options.compression.id());
        if self.options.timestamp_type == TimestampType::LogAppendTime {
            attributes |= LOG_APPEND_TIME;
        }
        if self.options.transactional {
            attributes |= TRANSACTIONAL;
        }
        if self.control {
            attributes |= CONTROL;
        }
        let length = (bytes.len() - Batch::LOG_OVERHEAD) as i32;
        let header = &mut bytes[..Batch::HEADER_LEN];
        header[BASE_OFFSET..BATCH_LENGTH].copy_from_slice(&base_offset.to_be_bytes());
        header[BATCH_LENGTH..PARTITION_LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
        header[PARTITION_LEADER_EPOCH..MAGIC].copy_from_slice(&leader_epoch.to_be_bytes());
        header[MAGIC..CRC].copy_from_slice(&MAGIC_V2.to_be_bytes());
        header[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
        header[LAST_OFFSET_DELTA..BASE_TIMESTAMP].copy_from_slice(&last_offset_delta.to_be_bytes());
        header[BASE_TIMESTAMP..MAX_TIMESTAMP].copy_from_slice(&self.base_timestamp.to_be_bytes());
        header[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&self.max_timestamp.to_be_bytes());
        put_producer(header, producer);
        header[RECORD_COUNT..].copy_from_slice(&self.count.to_be_bytes());
        seal_crc(&mut bytes);
        Ok(Batch::sealed(bytes.into()))
    }
}

/// Writes the producer's fields into a header.
pub(super) fn put_producer(header: &mut [u8], producer: ProducerFields) {
    header[PRODUCER_ID..PRODUCER_EPOCH].copy_from_slice(&producer.producer_id.to_be_bytes());
    header[PRODUCER_EPOCH..BASE_SEQUENCE].copy_from_slice(&producer.producer_epoch.to_be_bytes());
    header[BASE_SEQUENCE..RECORD_COUNT].copy_from_slice(&producer.base_sequence.to_be_bytes());
}

/// The bytes of the longest length that a record may have.
const MAX_VARINT: usize = 5;

/// The headers' count and their bytes.
#[inline]
fn measure<'h, K: AsRef<[u8]>>(headers: impl Iterator<Item = (K, Option<&'h [u8]>)>) -> (usize, usize) {
    headers.fold((0, 0), |(count, bytes), (key, value)| {
        (count + 1, bytes + nullable_size(Some(key.as_ref())) + nullable_size(value))
    })
}

/// The bytes of a record after its length.
#[inline]
fn content_size(
    timestamp_delta: i64,
    index: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    header_count: usize,
    header_bytes: usize,
) -> usize {
    1 + varint::size(timestamp_delta)
        + varint::size(i64::from(index))
        + nullable_size(key)
        + nullable_size(value)
        + varint::size(header_count as i64)
        + header_bytes
}

#[inline]
fn nullable_size(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::size(bytes.len() as i64) + bytes.len())
}

#[inline]
fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put(out, -1),
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
