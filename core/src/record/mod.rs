//! Record batches of format 2, the unit in which Kafka sends, stores and copies records.
//!
//! A [`Batch`] is a view over its bytes. Most batches are only moved: the header says all that a log, a follower or a
//! backup needs, and appending one writes 16 fresh bytes ([`Batch::stamp`]) in front of the rest. Who wants the records asks
//! for [`Records`] and iterates over views of them; who makes a batch appends records to a [`Builder`], which encodes each at
//! once. What a broker has to know of a producer's batch, [`Batch::check_records`] finds out in one pass.
//!
//! ```text
//! base offset i64 | batch length i32 | leader epoch i32 | magic i8 = 2 | CRC-32C u32 | attributes i16 |
//! last offset delta i32 | base timestamp i64 | max timestamp i64 | producer id i64 | producer epoch i16 |
//! base sequence i32 | record count i32 | records, compressed as a whole or not at all
//! ```
//! The length counts what follows it, the checksum covers what follows it: base offset and leader epoch, which a broker sets, are
//! outside. Attributes: codec in bits 0 to 2, then timestamp type, transactional, control, delete horizon.
//! ```text
//! record:  length | attributes i8 | timestamp delta | offset delta | key length | key | value length | value |
//!          header count | headers
//! header:  key length | key | value length | value
//! ```
//! All numbers in records but the attributes are zigzag varints; a length of -1 is null. Source: Kafka's documentation, "Record
//! Batch"; `DefaultRecordBatch` and `DefaultRecord` in its clients.
//!
//! No sizes and counts from outside are believed: nothing is reserved by a claimed count or a claimed decompressed size.
//! Formats 0 and 1, which Kafka wrote before 0.11, are recognised and refused.

mod batch;
mod builder;
mod check;
mod compression;
mod control;
mod error;
mod filter;
mod records;
mod varint;

#[cfg(test)]
mod tests;

pub use batch::{Batch, TimestampType, batches};
pub use builder::{Builder, BuilderOptions, NO_HEADERS, ProducerFields};
pub use check::{Checked, Limits, Origin};
pub use compression::Compression;
pub use control::{ControlType, EndTransaction, control_batch};
pub use error::{Field, RecordError};
pub use records::{Headers, RawHeaders, Record, RecordIter, Records};
