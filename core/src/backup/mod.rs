//! Backup: snapshots of topics and groups in a repository, and back.
//!
//! A repository is a directory, a bucket or memory ([`ObjectStore`]) with immutable objects in it. [`backup`] copies what is
//! new since an older snapshot ([`copy`] with a repository as its sink) and commits a snapshot by
//! one put; [`restore`] copies a snapshot to the logs of a broker ([`copy`] with a repository as
//! its source), offsets and bytes as they were; [`check`] tells whether that will work. `docs/formats.md` has every byte.

mod check;
mod contents;
mod encryption;
mod forget;
mod keys;
mod kraft;
mod log_directory;
mod look;
pub mod manifest;
pub mod objects;
mod prune;
mod recording;
pub mod repository;
mod restore;
mod transactions;
mod transfer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::clock::Clock;
use crate::replication::{
    Assignment, Copied, CopyOptions, Extent, GroupOffsets, Identity, PartitionCopied, Progress, Selection, Source,
    Topic, TopicPartition, Until, assign, copy,
};
use crate::{ErrorKind, Result};

use manifest::{
    ClusterManifest, ConfigEntry, Costs, FORMAT, Group, GroupOffset, GroupsManifest, Kind, Manifest, Note,
    PendingManifest, Reference, SnapshotManifest, SourceIdentity, TopicManifest, TopicReference, TopicsManifest,
    Totals,
};
use recording::{PUTS, Recording, RecordingOptions};
use repository::Place;

pub use check::{CheckOptions, CheckReport, Problem, Sample, check};
pub use contents::SnapshotSource;
pub use forget::{Fate, KeepRules, forget};
pub use keys::{AgeIdentity, AgeRecipient, KeyFile, Lock, Secret};
pub use log_directory::{DirectoryOptions, restore_directories};
pub use look::{Diff, FoundRecord, OffsetDiff, PartitionDiff, TopicChange, TopicDiff, content, diff, find};
pub use objects::{MemoryObjects, ObjectStore};
pub use prune::{PruneOptions, Pruned, prune};
pub use repository::{Compression, Repository, RepositoryError, Snapshot, SnapshotId};
pub use restore::{RestoreOptions, Restored, restore};
pub use transfer::{Transferred, transfer};

/// The size at which an object is sealed, unless it is told otherwise.
pub(super) const OBJECT_BYTES: usize = 16 << 20;

/// How many snapshots are looked through for what they have of a topic.
const LOOK_BACK: usize = 32;

/// What to back up, and how.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackupOptions {
    /// Which topics. Default: all but Kafka's own.
    pub topics: Selection,
    /// Which groups' committed offsets. Default: all.
    pub groups: Selection,
    /// Whether to read everything, whatever the repository has. Default: no.
    pub full: bool,
    /// Whether what the source's retention has removed stays in the snapshot. Default: no, a snapshot is what the source had;
    /// older snapshots keep what they have either way.
    pub keep_history: bool,
    /// Whether to make no snapshot when all would be as in the last one. Default: no.
    pub skip_unchanged: bool,
    /// The CPU time that this process has used so far, for the snapshot's costs; where it is not known, they do not tell.
    pub cpu_time: Option<fn() -> Duration>,
    /// At how many bytes an object is sealed. Default 16 MiB.
    pub object_bytes: usize,
    /// How objects are stored. Default: as they are.
    pub compression: Compression,
    /// How to copy.
    pub copy: CopyOptions,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            topics: Selection::all(),
            groups: Selection::all(),
            full: false,
            keep_history: false,
            skip_unchanged: false,
            cpu_time: None,
            object_bytes: OBJECT_BYTES,
            compression: Compression::None,
            copy: CopyOptions::default(),
        }
    }
}

/// A backup that was made.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The snapshot; the last one if nothing was new and none was to be made then.
    pub snapshot: Snapshot,
    /// Whether it was made.
    pub is_new: bool,
    /// What was read of each partition. One that had nothing new is there with nothing read.
    pub partitions: Vec<PartitionCopied>,
}

/// Backs up what `options` choose of `source` to `repository`: a snapshot of topics, their configuration, and what groups have
/// committed for them.
///
/// The cut is consistent: committed offsets are read before the ends of partitions, so none is beyond the data, and a
/// partition ends where its transactions are whole. Objects that an older snapshot has are shared with it; what an interrupted
/// backup has put is taken over. Until the last step nothing can be seen of it but objects that no snapshot names.
/// `progress` is called as data arrives.
///
/// # Errors
/// `NotFound` if a topic is not there; the source's and the store's. Nothing that was copied is lost: the next run goes on.
pub async fn backup(
    source: &dyn Source,
    repository: &Repository,
    options: &BackupOptions,
    clock: &dyn Clock,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Backup> {
    let begun = clock.monotonic();
    let cpu_begun = options.cpu_time.map(|cpu_time| cpu_time());
    let identity = source.identity().await?;
    let topics = source.topics(&options.topics).await?;
    options.topics.check_found("topic", topics.iter().map(|topic| topic.name.as_str()))?;
    let committed = source.committed(&topics, &options.groups).await?;
    let settings = source.settings().await?;
    let time = clock.now();
    let mut assignments: Vec<Assignment> =
        assign(source, &topics, Until::LastStable).await?.into_iter().collect::<Result<_>>()?;
    // After every cut, so that what is in one of them is below these.
    let names: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
    let ends = source.bounds(&names, Until::HighWatermark).await?;
    let ends = ends.into_iter().map(|bounds| Ok(bounds?.end)).collect::<Result<Vec<i64>>>()?;

    // Before anything that is shared is looked up.
    let marks = repository.marks().await?;
    let mut notes = Vec::new();
    let known = if options.full {
        Known::default()
    } else {
        Known::look_up(repository, &identity, &topics, options, &mut notes).await?
    };
    let recording_options = RecordingOptions {
        cluster_id: identity.cluster_id.clone(),
        now: time,
        object_bytes: options.object_bytes,
        compression: options.compression,
        keeps_history: options.keep_history,
    };
    let mut recording = Recording::new(repository, recording_options, &topics, |partition| {
        let topic = &known.topics.get(&*partition.topic)?.manifest;
        let index = topic.partitions.binary_search_by_key(&partition.partition, |known| known.partition);
        Some(topic.partitions[index.ok()?].clone())
    });
    let pending = repository.pending().await?;
    if !options.full {
        recording.take_over(&pending).await?;
    }

    let mut copied = copy(source, &recording, &assignments, &options.copy, progress).await.and_then(Copied::all);
    let mut torn = Vec::new();
    if let Ok(known) = &mut copied {
        let settled =
            transactions::settle(source, &recording, &mut assignments, ends, clock, &options.copy, progress).await;
        match settled {
            Ok((more, missing)) => {
                torn = missing;
                known.extend(&more);
            }
            Err(error) => copied = Err(error),
        }
    }
    let copied = match copied {
        Ok(copied) => copied,
        Err(error) => {
            // Best effort: the error at hand tells more than one about this would.
            if let Err(error) = recording.write_pending().await {
                log::warn!("what was copied will be read again: {error}");
            }
            return Err(error);
        }
    };
    let partitions: Vec<PartitionCopied> = copied.done().cloned().collect();
    notes.extend(partitions.iter().flat_map(notes_on));
    notes.extend(torn.into_iter().map(|partition| {
        Note {
            topic: partition.topic.to_string(),
            partition: Some(partition.partition),
            text:
                "may lack the last transaction of a producer that other partitions have, because it did not end in time"
                    .to_owned(),
        }
    }));

    let mut totals = Totals::default();
    let mut new = Totals::default();
    let mut manifest_bytes = 0;
    let mut references = Vec::with_capacity(topics.len());
    for topic in &topics {
        let sealed = recording.seal_topic(topic).await?;
        totals.topics += 1;
        for partition in &sealed {
            totals.add(&partition.holds);
            new.add(&partition.fresh);
            manifest_bytes += partition.manifest_bytes;
        }
        let manifest = TopicManifest {
            format: FORMAT,
            kind: Kind::Topic,
            topic: topic.name.clone(),
            topic_id: topic.id,
            replication_factor: topic.replication_factor,
            config: topic
                .config
                .iter()
                .map(|(name, value)| ConfigEntry { name: name.clone(), value: value.clone() })
                .collect(),
            partitions: sealed.into_iter().map(|partition| partition.reference).collect(),
        };
        let known = known.topics.get(&topic.name).map(|known| known.reference);
        let manifest = put_unless(repository, &manifest, known, &mut manifest_bytes).await?;
        references.push(TopicReference { topic: topic.name.clone(), topic_id: topic.id, manifest });
    }
    let topics_manifest = TopicsManifest { format: FORMAT, kind: Kind::Topics, topics: references };
    let known_lists = known.parent.as_ref().map(|parent| (parent.manifest.topics, parent.manifest.groups));
    let topics_reference =
        put_unless(repository, &topics_manifest, known_lists.map(|lists| lists.0), &mut manifest_bytes).await?;
    let groups = groups_manifest(committed, &recording, &mut notes).await;
    let groups_reference =
        put_unless(repository, &groups, known_lists.map(|lists| lists.1), &mut manifest_bytes).await?;
    let known_cluster = known.parent.as_ref().and_then(|parent| parent.manifest.cluster);
    let cluster_reference = if settings.is_empty() {
        None
    } else {
        let manifest = ClusterManifest { format: FORMAT, kind: Kind::Cluster, settings };
        Some(put_unless(repository, &manifest, known_cluster, &mut manifest_bytes).await?)
    };

    if options.skip_unchanged
        && let Some(parent) = known.parent.as_ref().map(|parent| &parent.manifest)
        && (parent.topics, parent.groups, parent.cluster) == (topics_reference, groups_reference, cluster_reference)
        && let Some(snapshot) = known.parent
    {
        clean_up(repository, &recording, pending).await;
        return Ok(Backup { snapshot, is_new: false, partitions });
    }

    let extent = if known.topics.is_empty() { Extent::Full } else { Extent::Incremental };
    let manifest = SnapshotManifest {
        format: FORMAT,
        kind: Kind::Snapshot,
        time,
        source: SourceIdentity { cluster_id: identity.cluster_id, address: identity.address },
        parent: known.parent.map(|parent| parent.id.name).filter(|_| extent == Extent::Incremental),
        extent,
        selection: options.topics.choices().map(str::to_owned).collect(),
        topics: topics_reference,
        groups: groups_reference,
        cluster: cluster_reference,
        totals,
        costs: Costs {
            milliseconds: (clock.monotonic() - begun).as_millis() as u64,
            new_objects: new.objects,
            new_records: new.records,
            new_bytes: new.bytes,
            new_stored_bytes: new.stored_bytes,
            manifest_bytes,
            shared_bytes: totals.bytes.saturating_sub(new.bytes),
            cpu_milliseconds: options
                .cpu_time
                .zip(cpu_begun)
                .map(|(cpu_time, begun)| cpu_time().saturating_sub(begun).as_millis() as u64),
        },
        notes,
        original: None,
    };
    let snapshot = repository.commit(manifest, &marks, clock.now()).await?;
    clean_up(repository, &recording, pending).await;
    Ok(Backup { snapshot, is_new: true, partitions })
}

/// What the repository has of topics.
#[derive(Debug, Default)]
struct Known {
    /// The newest snapshot that has any.
    parent: Option<Snapshot>,
    topics: HashMap<String, KnownTopic>,
}

#[derive(Debug)]
struct KnownTopic {
    reference: Reference,
    manifest: TopicManifest,
}

impl Known {
    /// Looks for each of `topics` in the snapshots, newest first. A topic is the same if its id is, whatever cluster it is
    /// in now; without ids, if cluster and name are.
    ///
    /// A snapshot that is damaged is passed over: that costs space, and a backup that fails for it would cost more.
    async fn look_up(
        repository: &Repository,
        identity: &Identity,
        topics: &[Topic],
        options: &BackupOptions,
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let mut known = Self::default();
        let mut recreated: HashMap<String, Uuid> = HashMap::new();
        let ids = repository.snapshot_ids().await?;
        for id in ids.into_iter().rev().take(LOOK_BACK) {
            let found = Self::topics_of(repository, id, identity, topics, &known.topics, &mut recreated).await;
            let (snapshot, found) = match found {
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    log::warn!("passing over a snapshot: {error}");
                    continue;
                }
                found => found?,
            };
            let is_same_source = snapshot.manifest.source.cluster_id == identity.cluster_id;
            let is_same_choice = snapshot.manifest.selection.iter().map(String::as_str).eq(options.topics.choices());
            if known.parent.is_none() && (!found.is_empty() || (is_same_source && is_same_choice)) {
                known.parent = Some(snapshot);
            }
            known.topics.extend(found);
            // What that one did not have, none before it has.
            if known.topics.len() == topics.len() || (is_same_source && is_same_choice) {
                break;
            }
        }
        for topic in topics.iter().filter(|topic| !known.topics.contains_key(&topic.name)) {
            if recreated.contains_key(&topic.name) {
                let text = "was recreated: it has another topic id than in the last snapshot".to_owned();
                notes.push(Note { topic: topic.name.clone(), partition: None, text });
            }
        }
        Ok(known)
    }

    async fn topics_of(
        repository: &Repository,
        id: SnapshotId,
        identity: &Identity,
        topics: &[Topic],
        known: &HashMap<String, KnownTopic>,
        recreated: &mut HashMap<String, Uuid>,
    ) -> Result<(Snapshot, Vec<(String, KnownTopic)>)> {
        let snapshot = repository.snapshot(id).await?;
        let is_same_source = snapshot.manifest.source.cluster_id == identity.cluster_id;
        let list: TopicsManifest = repository.get_manifest(snapshot.manifest.topics, &Place::snapshot(id.name)).await?;
        let mut wanted = Vec::new();
        for reference in list.topics {
            let Ok(index) = topics.binary_search_by(|topic| topic.name.as_str().cmp(&reference.topic)) else {
                continue;
            };
            if known.contains_key(&reference.topic) {
                continue;
            }
            if topics[index].id == reference.topic_id && (is_same_source || !reference.topic_id.is_nil()) {
                wanted.push(reference);
            } else if is_same_source {
                recreated.insert(reference.topic, reference.topic_id);
            }
        }
        let found = stream::iter(wanted)
            .map(|reference| async move {
                let manifest = repository.topic(&reference).await?;
                Ok::<_, crate::Error>((reference.topic, KnownTopic { reference: reference.manifest, manifest }))
            })
            .buffered(PUTS)
            .try_collect()
            .await?;
        Ok((snapshot, found))
    }
}

/// Puts `manifest`, unless it is the one that is `known` to be there.
async fn put_unless<M: Manifest>(
    repository: &Repository,
    manifest: &M,
    known: Option<Reference>,
    manifest_bytes: &mut u64,
) -> Result<Reference> {
    let reference = repository.put_manifest(manifest, known).await?;
    if known != Some(reference) {
        *manifest_bytes += reference.bytes;
    }
    Ok(reference)
}

/// What a person should know of how a partition was copied.
fn notes_on(copied: &PartitionCopied) -> Vec<Note> {
    let TopicPartition { topic, partition } = &copied.partition;
    let note = |text| Note { topic: topic.to_string(), partition: Some(*partition), text };
    let hole = copied
        .hole
        .map(|hole| note(format!("offsets {}..{} are missing: the source no longer had them", hole.start, hole.end)));
    let parted = copied.parted_at.map(|at| {
        note(format!("the source's history is another than the last snapshot's from offset {at} on, and was read anew"))
    });
    hole.into_iter().chain(parted).collect()
}

/// The groups' offsets, none beyond the data: who commits what it read in an open transaction may be ahead of the cut.
async fn groups_manifest(
    committed: Vec<GroupOffsets>,
    recording: &Recording<'_>,
    notes: &mut Vec<Note>,
) -> GroupsManifest {
    let mut groups = Vec::with_capacity(committed.len());
    for group in committed {
        let mut offsets = Vec::with_capacity(group.offsets.len());
        for committed in group.offsets {
            let Some(end) = recording.cut(&committed.partition).await else { continue };
            let TopicPartition { topic, partition } = committed.partition;
            let mut offset = committed.offset;
            if offset > end {
                let text = format!("group {} had committed {offset}, beyond the cut; kept as {end}", group.group);
                notes.push(Note { topic: topic.to_string(), partition: Some(partition), text });
                offset = end;
            }
            let metadata = committed.metadata;
            let (topic, leader_epoch) = (topic.to_string(), committed.leader_epoch);
            offsets.push(GroupOffset { topic, partition, offset, leader_epoch, metadata });
        }
        offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        offsets.dedup_by(|a, b| (&a.topic, a.partition) == (&b.topic, b.partition));
        groups.push(Group { group: group.group, kind: group.kind, offsets });
    }
    groups.sort_by(|a, b| a.group.cmp(&b.group));
    groups.dedup_by(|a, b| a.group == b.group);
    GroupsManifest { format: FORMAT, kind: Kind::Groups, groups }
}

/// Removes the pages of pending objects that the snapshot has made useless: its own, and those it went beyond. What cannot
/// be removed does no harm.
async fn clean_up(repository: &Repository, recording: &Recording<'_>, pending: Vec<(String, PendingManifest)>) {
    let mut useless = recording.pending_paths().await;
    for (path, page) in pending {
        let mut is_behind = true;
        for object in &page.objects {
            let partition = TopicPartition::new(object.topic.as_str(), object.partition);
            let end = recording.end(&partition, object.topic_id).await;
            is_behind &= end.is_some_and(|end| end >= object.object.end);
        }
        if is_behind {
            useless.push(path);
        }
    }
    let deleted: Result<()> = stream::iter(useless)
        .map(|path| async move { repository.store().delete(&path).await })
        .buffer_unordered(PUTS)
        .try_collect()
        .await;
    if let Err(error) = deleted {
        log::warn!("pending pages stay until a later backup: {error}");
    }
}
