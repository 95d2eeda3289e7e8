//! What can go wrong in a log.

use std::io;

use crate::{Error, ErrorKind};

/// Why a log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The device failed.
    #[error("{action} failed log={log}")]
    Device {
        /// What was tried.
        action: &'static str,
        /// The log's directory.
        log: String,
        /// What the device said.
        source: io::Error,
    },
    /// The log takes no more writes since a sync, or a change that could not be undone, failed.
    #[error("log was closed after a failed {after}; open it anew log={log}")]
    Closed {
        /// What failed.
        after: &'static str,
        /// The log's directory.
        log: String,
    },
    /// The offset is not in the log.
    #[error("offset is outside the log log={log} offset={offset} start={start} end={end}")]
    OutOfRange {
        /// The log's directory.
        log: String,
        /// The offset that was asked for.
        offset: i64,
        /// The log start offset.
        start: i64,
        /// The log end offset.
        end: i64,
    },
    /// Bytes in a segment are not the batch that belongs there.
    #[error("segment is damaged log={log} segment={segment:020} position={position} reason={reason}")]
    Damaged {
        /// The log's directory.
        log: String,
        /// The segment's base offset.
        segment: i64,
        /// The byte position in the segment.
        position: u64,
        /// What is wrong there.
        reason: Damage,
    },
    /// A copied batch does not follow what is in the log.
    #[error(
        "batch goes back log={log} base_offset={base_offset} leader_epoch={leader_epoch} end={end} latest_epoch={latest_epoch}"
    )]
    GoesBack {
        /// The log's directory.
        log: String,
        /// The batch's base offset.
        base_offset: i64,
        /// The batch's leader epoch.
        leader_epoch: i32,
        /// The log end offset.
        end: i64,
        /// The latest leader epoch in the log.
        latest_epoch: i32,
    },
    /// A batch that no segment can take.
    #[error("batch is larger than a segment log={log} size={size} segment_bytes={segment_bytes}")]
    TooLarge {
        /// The log's directory.
        log: String,
        /// The batch's size in bytes.
        size: usize,
        /// The limit of a segment.
        segment_bytes: u64,
    },
    /// Messages of a format from before Kafka 0.11.
    #[error(
        "segment holds messages of an old format, which Kafka 4 does not serve either \
         log={log} segment={segment:020} position={position} magic={magic}"
    )]
    OldFormat {
        /// The log's directory.
        log: String,
        /// The segment's base offset.
        segment: i64,
        /// The byte position in the segment.
        position: u64,
        /// The format's number.
        magic: u8,
    },
}

/// What is wrong with the bytes at a place where a batch should begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes end before the batch does.
    #[error("batch is cut short")]
    CutShort,
    /// The header's fields contradict each other or are no batch's.
    #[error("no batch header")]
    Header,
    /// The checksum differs.
    #[error("checksum differs")]
    Checksum,
    /// The offset lies below the one before it.
    #[error("offset goes back")]
    OffsetGoesBack,
    /// The leader epoch lies below the one before it.
    #[error("leader epoch goes back")]
    EpochGoesBack,
    /// The offset lies too far above its segment's base offset for an index.
    #[error("offset is too far from the segment's base")]
    OffsetTooFar,
    /// Offset or epoch, which no checksum covers, contradict what else is known of the log.
    #[error("offset or leader epoch contradict the log's checkpoints")]
    Contradicted,
    /// What was before it is gone.
    #[error("offsets before it are missing")]
    Missing,
    /// It lies behind damage.
    #[error("behind the damage")]
    Behind,
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Device { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    ErrorKind::Full
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
                _ => ErrorKind::Internal,
            },
            LogError::Closed { .. } => ErrorKind::Closed,
            LogError::OutOfRange { .. } => ErrorKind::OutOfRange,
            LogError::Damaged { .. } => ErrorKind::Corrupt,
            LogError::GoesBack { .. } | LogError::TooLarge { .. } => ErrorKind::Invalid,
            LogError::OldFormat { .. } => ErrorKind::Unsupported,
        };
        let message = error.to_string();
        match error {
            LogError::Device { source, .. } => Self::new(kind, message).with_source(source),
            _ => Self::new(kind, message),
        }
    }
}
