//! The repository: snapshots of topics in a directory or a bucket.

pub mod manifest;
pub mod objects;
pub mod repository;

#[cfg(test)]
mod tests;

pub use objects::{MemoryObjects, ObjectStore};
pub use repository::Repository;
