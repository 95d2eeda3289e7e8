//! Kafka you can hold: a Kafka client, an embedded broker, local replicas and backups, in one library.

pub mod backup;
pub mod broker;
pub mod client;
pub mod clock;
pub mod error;
pub mod log;
#[cfg(feature = "native")]
pub mod native;
pub mod protocol;
pub mod record;
pub mod replication;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod storage;
pub mod transport;

pub use error::{Error, ErrorKind, Result};

/// Milliseconds since 1970-01-01T00:00:00Z, as Kafka stores a moment.
pub type Timestamp = i64;
