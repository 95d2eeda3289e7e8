//! Record batches, version 2.

mod batch;
mod compression;
mod error;

pub use batch::{Batch, TimestampType, batches};
pub use compression::Compression;
pub use error::RecordError;
