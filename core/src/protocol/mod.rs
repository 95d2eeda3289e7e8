//! Kafka's wire protocol: messages, versions, error codes and the connection.

mod error_code;

pub use error_code::ErrorCode;
