//! What is in snapshots: how two differ, and where a key is.

use std::collections::BTreeMap;
use std::ops::Range;

use super::contents::SnapshotSource;
use super::manifest::{Digest, GroupsManifest, PartitionReference, TopicManifest};
use crate::record::{Batch, Limits};
use crate::replication::{Run, Selection, Source, TopicPartition};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How much is asked for at once; an object's body is read whole whatever is asked for.
const READ_BYTES: usize = 1 << 20;

/// How two snapshots differ. What is the same in both is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Topics, by name.
    pub topics: Vec<TopicDiff>,
    /// Committed offsets: the group, the partition, the offset before and after.
    pub offsets: Vec<OffsetDiff>,
}

/// How a topic differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDiff {
    /// Its name.
    pub topic: String,
    /// What happened to it.
    pub change: TopicChange,
    /// Options whose values differ: the name, the value before and after.
    pub config: Vec<(String, Option<String>, Option<String>)>,
    /// Partitions that differ.
    pub partitions: Vec<PartitionDiff>,
}

/// What happened to a topic between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicChange {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It has another id.
    Recreated,
    /// It is another in what follows.
    Changed,
}

/// How a partition differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDiff {
    /// Its number.
    pub partition: i32,
    /// The offsets before; `None` if it was not there.
    pub before: Option<Range<i64>>,
    /// The offsets after; `None` if it is not there any more.
    pub after: Option<Range<i64>>,
    /// How many records there are more, by the batches' own count.
    pub records: i64,
    /// How many bytes of record batches there are more.
    pub bytes: i64,
}

/// How a committed offset differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetDiff {
    /// The group.
    pub group: String,
    /// The partition.
    pub partition: TopicPartition,
    /// The offset before.
    pub before: Option<i64>,
    /// The offset after.
    pub after: Option<i64>,
}

/// How `after` differs from `before`, as far as their manifests say: objects are not read.
///
/// # Errors
/// `Corrupt` or `NotFound` if the manifest of the groups is damaged or missing; the stores'.
pub async fn diff(before: &SnapshotSource, after: &SnapshotSource) -> Result<Diff> {
    let both = paired(before.manifests(), after.manifests());
    let topics = both.into_iter().filter_map(|(topic, pair)| topic_diff(topic, pair)).collect();
    let (was, is) = (committed(before.groups().await?), committed(after.groups().await?));
    let offsets = paired(&was, &is).into_iter().filter(|(_, (before, after))| before != after);
    let offsets = offsets.map(|((group, partition), (before, after))| OffsetDiff {
        group: group.clone(),
        partition: partition.clone(),
        before: before.copied(),
        after: after.copied(),
    });
    Ok(Diff { topics, offsets: offsets.collect() })
}

/// What two maps have under each key.
fn paired<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> BTreeMap<&'a K, (Option<&'a V>, Option<&'a V>)> {
    let keys = before.keys().chain(after.keys());
    keys.map(|key| (key, (before.get(key), after.get(key)))).collect()
}

fn committed(groups: GroupsManifest) -> BTreeMap<(String, TopicPartition), i64> {
    let groups = groups.groups.into_iter();
    groups
        .flat_map(|group| {
            group.offsets.into_iter().map(move |offset| {
                ((group.group.clone(), TopicPartition::new(offset.topic, offset.partition)), offset.offset)
            })
        })
        .collect()
}

fn topic_diff(topic: &str, (before, after): (Option<&TopicManifest>, Option<&TopicManifest>)) -> Option<TopicDiff> {
    let change = match (before, after) {
        (None, _) => TopicChange::Added,
        (_, None) => TopicChange::Removed,
        (Some(before), Some(after)) if before.topic_id != after.topic_id => TopicChange::Recreated,
        _ => TopicChange::Changed,
    };
    let config = |manifest: Option<&TopicManifest>| -> BTreeMap<String, String> {
        let entries = manifest.into_iter().flat_map(|manifest| &manifest.config);
        entries.map(|entry| (entry.name.clone(), entry.value.clone())).collect()
    };
    let partitions = |manifest: Option<&TopicManifest>| -> BTreeMap<i32, PartitionReference> {
        let partitions = manifest.into_iter().flat_map(|manifest| &manifest.partitions);
        partitions.map(|partition| (partition.partition, partition.clone())).collect()
    };
    let (was, is) = (config(before), config(after));
    let config = paired(&was, &is).into_iter().filter(|(_, (before, after))| before != after);
    let config = config.map(|(name, (before, after))| (name.clone(), before.cloned(), after.cloned())).collect();
    let (was, is) = (partitions(before), partitions(after));
    let partitions = paired(&was, &is).into_iter().filter_map(|(number, (before, after))| {
        let sum = |of: fn(&PartitionReference) -> u64| {
            let of = |partition: Option<&PartitionReference>| partition.map_or(0, of) as i64;
            of(after).saturating_sub(of(before))
        };
        let offsets = |partition: Option<&PartitionReference>| partition.map(|known| known.start..known.end);
        let same = before.is_some_and(|before| {
            after.is_some_and(|after| {
                (before.start, before.end, before.last, before.bytes)
                    == (after.start, after.end, after.last, after.bytes)
            })
        });
        (!same).then(|| PartitionDiff {
            partition: *number,
            before: offsets(before),
            after: offsets(after),
            records: sum(|partition| partition.records),
            bytes: sum(|partition| partition.bytes),
        })
    });
    let diff = TopicDiff { topic: topic.to_owned(), change, config, partitions: partitions.collect() };
    let is_same = change == TopicChange::Changed && diff.config.is_empty() && diff.partitions.is_empty();
    (!is_same).then_some(diff)
}

/// The hash of all batches of a partition from `start` to `end`, and where the last one ends. Equal for two sources if they have
/// the same batches, byte for byte.
///
/// # Errors
/// `Corrupt` if a batch's checksum differs; the source's.
pub async fn content(source: &dyn Source, partition: &TopicPartition, start: i64, end: i64) -> Result<(Digest, i64)> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = start;
    while let Some(run) = next_run(source, partition, offset, end).await? {
        hasher.update(run.bytes());
        offset = run.batches().last().map_or(end, Batch::next_offset);
    }
    Ok((Digest(*hasher.finalize().as_bytes()), offset))
}

/// The next batches from `offset` on and below `end`, one at least; `None` if there are none.
async fn next_run(source: &dyn Source, partition: &TopicPartition, offset: i64, end: i64) -> Result<Option<Run>> {
    if offset >= end {
        return Ok(None);
    }
    let damaged = |error: Error| error.context(format_args!("batch cannot be read partition={partition}"));
    let mut size = READ_BYTES.max(source.least_read());
    loop {
        let bytes = source.read(partition, offset, size).await?;
        let run = Run::check(&bytes, offset, -1, end).map_err(damaged)?;
        if !run.batches().is_empty() {
            return Ok(Some(run));
        }
        // A batch that is larger than what was asked for comes cut.
        if bytes.len() < size || size == usize::MAX {
            return Ok(None);
        }
        size = size.saturating_mul(8);
    }
}

/// A record that [`find`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// Where it is.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// Looks for the records with this `key` in the snapshot, partition by partition, and calls `found` with each in the order of
/// its offset. Reads every object.
///
/// # Errors
/// `Corrupt` with topic, partition and offsets if something is damaged; the store's.
pub async fn find(
    source: &SnapshotSource,
    key: &[u8],
    found: &mut (dyn FnMut(FoundRecord) -> Result<()> + Send),
) -> Result<()> {
    let limit = Limits::default().max_decompressed_bytes;
    for topic in source.topics(&Selection::all()).await? {
        for partition in topic.topic_partitions() {
            let bounds = source.manifests()[&topic.name].partitions[partition.partition as usize].clone();
            let damaged = |error: &dyn std::fmt::Display| {
                Error::new(ErrorKind::Corrupt, format!("batch cannot be read: {error} partition={partition}"))
            };
            let mut offset = bounds.start;
            while let Some(run) = next_run(source, &partition, offset, bounds.end).await? {
                offset = run.batches().last().map_or(bounds.end, Batch::next_offset);
                for batch in run.batches().iter().filter(|batch| !batch.is_control()) {
                    let records = batch.records(limit).map_err(|error| damaged(&error))?;
                    for record in records.iter() {
                        let record = record.map_err(|error| damaged(&error))?;
                        if record.key == Some(key) && record.offset >= bounds.start {
                            found(FoundRecord {
                                partition: partition.clone(),
                                offset: record.offset,
                                timestamp: record.timestamp,
                                value: record.value.map(<[u8]>::to_vec),
                            })?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
