//! What can be wrong with a batch, with the facts as fields.

use std::fmt;

use super::Compression;
use crate::{
    Timestamp,
    error::{Error, ErrorKind},
};

/// What is wrong with a batch or a record.
///
/// Nothing of a record's key or value is in a message. [`kafka_code`](Self::kafka_code) is the code that a broker answers with.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The batch claims fewer bytes than its own header has, or a negative number.
    #[error("batch is shorter than its header base_offset={base_offset} batch_length={batch_length}")]
    BatchLength {
        /// The batch's base offset.
        base_offset: i64,
        /// Its length field: the bytes after that field.
        batch_length: i32,
    },
    /// There are fewer bytes than the batch claims.
    #[error("batch is cut off expected={expected} found={found}")]
    Incomplete {
        /// Bytes that the whole batch has, or that its header needs.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// There are bytes after the batch where only one batch may be.
    #[error("bytes after the batch size={size} trailing={trailing}")]
    AfterBatch {
        /// The batch's size.
        size: usize,
        /// Bytes after it.
        trailing: usize,
    },
    /// The batch, or what a builder would make of one, is larger than the limit.
    #[error("batch is too large size={size} limit={limit}")]
    TooLarge {
        /// The batch's size.
        size: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// The batch is of format 0 or 1, which Kafka stopped writing in 0.11, or of one that nobody knows.
    #[error("batch is not of format 2 base_offset={base_offset} magic={magic}")]
    Magic {
        /// The batch's base offset.
        base_offset: i64,
        /// The format that the batch claims.
        magic: i8,
    },
    /// The checksum is not that of the bytes.
    #[error("batch checksum differs base_offset={base_offset} expected={expected:08x} found={found:08x}")]
    Checksum {
        /// The batch's base offset.
        base_offset: i64,
        /// The checksum in the header.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// The codec is none of Kafka's five.
    #[error("unknown compression id={id}")]
    UnknownCompression {
        /// The codec's number in the attributes.
        id: u8,
    },
    /// A name that is none of the five codecs'.
    #[error("unknown compression, use one of none, gzip, snappy, lz4, zstd")]
    UnknownCompressionName,
    /// The codec could not read, or write, the records.
    #[error("{codec} failed: {reason}")]
    Codec {
        /// The codec.
        codec: Compression,
        /// What it says about it.
        reason: String,
    },
    /// The records are larger than the limit when decompressed. Reading stopped there.
    #[error("records are too large when decompressed codec={codec} limit={limit}")]
    DecompressedTooLarge {
        /// The codec.
        codec: Compression,
        /// The largest size allowed.
        limit: usize,
    },
    /// The last offset delta is negative, or takes the last offset beyond 2^63-2.
    #[error("batch has no such last offset base_offset={base_offset} last_offset_delta={last_offset_delta}")]
    LastOffset {
        /// The batch's base offset.
        base_offset: i64,
        /// The last record's offset less the base offset.
        last_offset_delta: i32,
    },
    /// The count in the header is negative, or not that of the offsets, or zero in a batch to be appended.
    #[error(
        "batch does not have the records that its header claims count={count} last_offset_delta={last_offset_delta}"
    )]
    Count {
        /// The count in the header.
        count: i32,
        /// The last record's offset less the base offset.
        last_offset_delta: i32,
    },
    /// The header claims more records than the limit.
    #[error("batch has too many records count={count} limit={limit}")]
    TooManyRecords {
        /// The count in the header.
        count: i32,
        /// The largest count allowed.
        limit: i32,
    },
    /// A field of a record is cut off, has an impossible length, or does not end where it should.
    #[error("record is malformed index={index} field={field}")]
    Malformed {
        /// The record's place in the batch, from 0.
        index: i32,
        /// The field.
        field: Field,
    },
    /// There are bytes after the last record.
    #[error("bytes after the last record count={count}")]
    AfterRecords {
        /// How many records there are.
        count: i32,
    },
    /// A record's offset is not the next one.
    #[error("record has the wrong offset index={index} offset_delta={offset_delta}")]
    Offset {
        /// The record's place in the batch, from 0.
        index: i32,
        /// Its offset less the base offset.
        offset_delta: i32,
    },
    /// A record of a compacted topic has no key.
    #[error("record has no key, which a compacted topic needs index={index}")]
    KeyRequired {
        /// The record's place in the batch, from 0.
        index: i32,
    },
    /// A record's timestamp is outside of what the topic accepts.
    #[error("record timestamp is out of range index={index} timestamp={timestamp} min={min} max={max}")]
    TimestampRange {
        /// The record's place in the batch, from 0.
        index: i32,
        /// Its timestamp.
        timestamp: Timestamp,
        /// The smallest accepted.
        min: Timestamp,
        /// The largest accepted.
        max: Timestamp,
    },
    /// A producer claims a time that only a broker sets.
    #[error("producer set the timestamp type LogAppendTime")]
    ProducerLogAppendTime,
    /// A producer sent a batch that does not start at offset 0.
    #[error("producer's base offset is not 0 base_offset={base_offset}")]
    BaseOffset {
        /// The base offset.
        base_offset: i64,
    },
    /// A producer sent a control batch.
    #[error("producer sent a control batch")]
    Control,
    /// A batch is read as a control batch and is none.
    #[error("batch is not a control batch base_offset={base_offset}")]
    NotControl {
        /// The base offset.
        base_offset: i64,
    },
    /// A control batch's record is not what it should be.
    #[error("control record is malformed base_offset={base_offset}")]
    MalformedControl {
        /// The base offset.
        base_offset: i64,
    },
    /// The producer's id, epoch and sequence do not belong together.
    #[error(
        "producer fields do not belong together producer_id={producer_id} producer_epoch={producer_epoch} \
         base_sequence={base_sequence} transactional={transactional}"
    )]
    Producer {
        /// The producer's id.
        producer_id: i64,
        /// Its epoch.
        producer_epoch: i16,
        /// The first record's sequence number.
        base_sequence: i32,
        /// Whether the batch is part of a transaction.
        transactional: bool,
    },
}

/// A field of a record, in the order of the bytes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The record's length; also when its content is longer or shorter.
    Length,
    /// The attributes, of which none are in use.
    Attributes,
    /// The timestamp less the base timestamp.
    TimestampDelta,
    /// The offset less the base offset.
    OffsetDelta,
    /// The key.
    Key,
    /// The value.
    Value,
    /// The number of headers.
    HeaderCount,
    /// A header's key, which cannot be null.
    HeaderKey,
    /// A header's value.
    HeaderValue,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "length",
            Self::Attributes => "attributes",
            Self::TimestampDelta => "timestamp_delta",
            Self::OffsetDelta => "offset_delta",
            Self::Key => "key",
            Self::Value => "value",
            Self::HeaderCount => "header_count",
            Self::HeaderKey => "header_key",
            Self::HeaderValue => "header_value",
        })
    }
}

impl RecordError {
    /// The code with which Kafka's protocol names this to a producer.
    ///
    /// What a second try may mend is 2 `CORRUPT_MESSAGE` (the bytes differ from their checksum, or there is no batch to be
    /// seen), which producers retry. What is wrong in itself is 87 `INVALID_RECORD`, 10 `MESSAGE_TOO_LARGE` (on which
    /// producers split the batch), 32 `INVALID_TIMESTAMP` or 76 `UNSUPPORTED_COMPRESSION_TYPE`. Kafka itself answers some
    /// of these with -1: damaged codec data, an endless varint, a length beyond the request.
    pub fn kafka_code(&self) -> i16 {
        match self {
            Self::BatchLength { .. } | Self::Checksum { .. } => CORRUPT_MESSAGE,
            // Kafka knows formats 0 and 1 and says that Produce takes them no more; another one it cannot see a batch in.
            Self::Magic { magic: 0 | 1, .. } => INVALID_RECORD,
            Self::Magic { .. } => CORRUPT_MESSAGE,
            Self::TooLarge { .. } | Self::DecompressedTooLarge { .. } | Self::TooManyRecords { .. } => {
                MESSAGE_TOO_LARGE
            }
            Self::TimestampRange { .. } | Self::ProducerLogAppendTime => INVALID_TIMESTAMP,
            Self::UnknownCompression { .. } | Self::UnknownCompressionName => UNSUPPORTED_COMPRESSION_TYPE,
            _ => INVALID_RECORD,
        }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Magic { magic: 0 | 1, .. } | Self::UnknownCompression { .. } => ErrorKind::Unsupported,
            Self::TooLarge { .. }
            | Self::DecompressedTooLarge { .. }
            | Self::TooManyRecords { .. }
            | Self::UnknownCompressionName
            | Self::KeyRequired { .. }
            | Self::TimestampRange { .. }
            | Self::ProducerLogAppendTime
            | Self::BaseOffset { .. }
            | Self::Control
            | Self::NotControl { .. }
            | Self::Producer { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Corrupt,
        }
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::new(error.kind(), "bad record batch").with_source(error)
    }
}

const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_TIMESTAMP: i16 = 32;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;
