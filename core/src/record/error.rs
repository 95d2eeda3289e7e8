//! What can be wrong with a batch, with the facts as fields.

use crate::error::{Error, ErrorKind};

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
        /// Bytes that the whole batch has, or that its length field needs.
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
    /// The batch is larger than the limit.
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
    /// The last offset delta is negative, or takes the last offset beyond 2^63-1.
    #[error("batch has no such last offset base_offset={base_offset} last_offset_delta={last_offset_delta}")]
    LastOffset {
        /// The batch's base offset.
        base_offset: i64,
        /// The last record's offset less the base offset.
        last_offset_delta: i32,
    },
}

impl RecordError {
    /// The code with which Kafka's protocol names this to a producer.
    ///
    /// Where Kafka itself answers with -1 (damaged codec data, an endless varint, a length beyond the request), the precise
    /// code is given instead: 2 `CORRUPT_MESSAGE`, 10 `MESSAGE_TOO_LARGE`, 32 `INVALID_TIMESTAMP`,
    /// 76 `UNSUPPORTED_COMPRESSION_TYPE` or 87 `INVALID_RECORD`.
    pub fn kafka_code(&self) -> i16 {
        match self {
            Self::BatchLength { .. } | Self::Incomplete { .. } | Self::Checksum { .. } => CORRUPT_MESSAGE,
            Self::Magic { magic: 0 | 1, .. } => INVALID_RECORD,
            Self::Magic { .. } => CORRUPT_MESSAGE,
            Self::AfterBatch { .. } | Self::LastOffset { .. } => INVALID_RECORD,
            Self::TooLarge { .. } => MESSAGE_TOO_LARGE,
            Self::UnknownCompression { .. } | Self::UnknownCompressionName => UNSUPPORTED_COMPRESSION_TYPE,
        }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Magic { magic: 0 | 1, .. } | Self::UnknownCompression { .. } => ErrorKind::Unsupported,
            Self::TooLarge { .. } | Self::UnknownCompressionName => ErrorKind::Invalid,
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
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;
