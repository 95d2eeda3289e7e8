//! Restore: a snapshot to the logs of an embedded broker.

use super::contents::SnapshotSource;
use super::repository::SnapshotId;
use crate::replication::{
    Assignment, At, Copied, CopyOptions, Cut, GroupOffsets, LocalLogs, LogSink, Parting, Portion, Progress, Selection,
    Source, TopicPartition, Until, agree, assign, copy,
};
use crate::{Error, ErrorKind, Result};

/// What to restore, and how.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Which groups' committed offsets. Default: all.
    pub groups: Selection,
    /// The point in time to restore. Default: the snapshot's own.
    pub at: At,
    /// Which partitions. Default: all.
    pub partitions: Portion,
    /// Whether the topics become the target's own, or stay copies that take no produce requests. Default: they do.
    pub promote: bool,
    /// How to copy.
    pub copy: CopyOptions,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            groups: Selection::all(),
            at: At::default(),
            partitions: Portion::default(),
            promote: true,
            copy: CopyOptions::default(),
        }
    }
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What was written of each partition. One that the target had whole is there with nothing written.
    pub copied: Copied,
    /// The groups whose committed offsets were written.
    pub groups: Vec<GroupOffsets>,
}

/// Restores the topics of `source` to `target`: ids, configuration, record batches byte for byte at their offsets, then what
/// groups had committed.
///
/// A target that has a beginning of it gets the rest; so a restore that was interrupted goes on when it is run again, and one
/// from a later snapshot brings what is new. Each object's hash and each batch's checksum is verified on the way, and each
/// log's end afterwards.
///
/// # Errors
/// `Invalid`, before anything is written, if the target has records that the snapshot has not; `AlreadyExists` if it has
/// another topic of that name; `Corrupt` with topic, partition and offsets if something is damaged, after the rest is restored.
pub async fn restore(
    source: &SnapshotSource,
    target: &dyn LocalLogs,
    options: &RestoreOptions,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Restored> {
    let topics = source.topics(&Selection::all()).await?;
    options.partitions.check_found(&topics)?;
    let manifests = source;
    let source = &Cut::new(source, Cut::find(source, &topics, &options.at).await?);
    let assignments: Vec<Assignment> =
        assign(source, &topics, Until::HighWatermark).await?.into_iter().collect::<Result<_>>()?;
    let assignments: Vec<Assignment> =
        assignments.into_iter().filter(|one| options.partitions.includes(&one.partition)).collect();
    let sink = LogSink::new(target, Parting::Refuse);
    agree(source, &sink, &assignments).await?;
    for topic in &topics {
        target.create_copy(topic).await?;
    }
    let copied = copy(source, &sink, &assignments, &options.copy, progress).await?.all()?;
    check_ends(manifests, target, &assignments).await?;

    let mut groups = source.committed(&topics, &options.groups).await?;
    groups.iter_mut().for_each(|group| group.offsets.retain(|one| options.partitions.includes(&one.partition)));
    groups.retain(|group| !group.offsets.is_empty());
    for offset in groups.iter_mut().flat_map(|group| &mut group.offsets) {
        // The epoch is that of a leader that is gone. A consumer that starts with one checks it, and one the target does
        // not know, or knows otherwise, would send it back to the beginning.
        offset.leader_epoch = -1;
    }
    target.commit_offsets(&groups).await?;
    if options.promote {
        let names: Vec<String> = topics.into_iter().map(|topic| topic.name).collect();
        target.promote_copies(&names).await?;
    }
    Ok(Restored { snapshot: manifests.snapshot().id, copied, groups })
}

/// Whether the target's logs begin and end as the snapshot says.
async fn check_ends(source: &SnapshotSource, target: &dyn LocalLogs, assignments: &[Assignment]) -> Result<()> {
    let partitions: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
    let ends = target.log_ends(&partitions).await?;
    for (assignment, found) in assignments.iter().zip(ends) {
        let Assignment { partition, bounds, .. } = assignment;
        let topic = source.manifests().get(&*partition.topic);
        let last = topic.and_then(|topic| topic.partitions.get(partition.partition as usize)?.last);
        let last = last.filter(|last| last.base_offset < bounds.end);
        // Where compaction took the last records the end is above the last batch's.
        let least = last.map_or(bounds.start, |last| last.base_offset + 1).max(bounds.start);
        let (start, end) = found.map_or((0, 0), |found| (found.start, found.end));
        if start != bounds.start || !(least..=bounds.end).contains(&end) {
            let message = format!(
                "restored log is not as the snapshot has it partition={partition} expected={}..{} found={start}..{end}",
                bounds.start, bounds.end
            );
            return Err(Error::new(ErrorKind::Internal, message));
        }
    }
    Ok(())
}
