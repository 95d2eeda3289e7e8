//! What the broker remembers about itself, as records of one internal partition: the last value of each key counts.
//!
//! Keys are text, values MessagePack; a record without a value removes its key. The partition is a log like any other, so it
//! is recovered, followed and backed up by what does that for topics. `docs/formats.md` lists the keys.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, ErrorKind, Result, Timestamp};

/// The internal topic of the broker's own state. It has one partition and is not listed to clients.
pub const METADATA_TOPIC: &str = "__ottla_metadata";

/// A topic, as stored under `topic/NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredTopic {
    pub(crate) id: Uuid,
    pub(crate) partitions: i32,
    pub(crate) replication_factor: i16,
    pub(crate) configs: BTreeMap<String, String>,
    /// Whether it is a copy of a source's, which takes no produce requests.
    #[serde(default)]
    pub(crate) copy: bool,
}

/// What a directory is a replica of, as stored under `replica`: so that it is not filled from elsewhere by mistake, and goes on
/// as it was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaOf {
    /// The cluster's id; `None` if it has none.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// How it was reached last, for people.
    pub address: String,
    /// The names and patterns of the topics that were chosen last; none for all but Kafka's own.
    #[serde(default)]
    pub topics: Vec<String>,
    /// Which partitions of topics, where not all: `orders:0,2`.
    #[serde(default)]
    pub partitions: Vec<String>,
    /// The time from which on partitions were copied, in milliseconds since 1970.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// How many offsets before the end partitions were begun.
    #[serde(default)]
    pub last: Option<u64>,
    /// When everything that the source had then was here, in milliseconds since 1970.
    #[serde(default)]
    pub synced_at: Option<Timestamp>,
}

/// Offsets that a copy lacks although its source had them, because the source removed them before they were copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHole {
    /// The first offset that is missing.
    pub start: i64,
    /// The first offset that is there again.
    pub end: i64,
    /// When that was found, in milliseconds since 1970.
    pub found_at: Timestamp,
}

/// One change: a key with its new value, or without one.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) value: Option<Vec<u8>>,
}

impl Change {
    pub(crate) fn set<T: Serialize>(key: impl Into<String>, value: &T) -> Result<Self> {
        let value = rmp_serde::to_vec_named(value).map_err(|error| {
            Error::new(ErrorKind::Internal, "a metadata value cannot be encoded").with_source(error)
        })?;
        Ok(Self { key: key.into(), value: Some(value) })
    }

    pub(crate) fn remove(key: impl Into<String>) -> Self {
        Self { key: key.into(), value: None }
    }
}

/// All keys and values, as the records of the metadata partition give them.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    values: BTreeMap<String, Vec<u8>>,
}

impl Stored {
    pub(crate) fn apply(&mut self, key: &str, value: Option<&[u8]>) {
        match value {
            Some(value) => self.values.insert(key.to_owned(), value.to_vec()),
            None => self.values.remove(key),
        };
    }

    /// Whether `key` has just that value, or none.
    pub(crate) fn holds(&self, key: &str, value: Option<&[u8]>) -> bool {
        self.values.get(key).map(Vec::as_slice) == value
    }

    /// How many keys have a value.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.values.get(key).map(|value| decode(key, value)).transpose()
    }

    /// The values below `prefix`, by the rest of their keys.
    pub(crate) fn below<'a, T: DeserializeOwned>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = Result<(&'a str, T)>> + 'a {
        self.values
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(move |(key, value)| Ok((&key[prefix.len()..], decode(key, value)?)))
    }

    /// Everything as changes, for writing the partition anew.
    pub(crate) fn snapshot(&self) -> Vec<Change> {
        self.values.iter().map(|(key, value)| Change { key: key.clone(), value: Some(value.clone()) }).collect()
    }
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    rmp_serde::from_slice(value).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("the broker's metadata is unreadable topic={METADATA_TOPIC} key={key}"))
            .with_source(error)
    })
}
