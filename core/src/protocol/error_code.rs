//! Kafka's error codes.

use crate::ErrorKind;

/// A code that a broker answers with; 0 is success. (Kafka protocol guide, "Error Codes".)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i16);

impl ErrorCode {
    /// What a caller can do about it.
    pub fn kind(self) -> ErrorKind {
        ErrorKind::Internal
    }

    /// Whether Kafka classifies the code as retriable.
    pub fn is_retriable(self) -> bool {
        false
    }
}
