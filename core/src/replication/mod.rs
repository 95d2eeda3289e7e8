//! Moving record batches, byte for byte, from where they are to where they should be.
//!
//! Replication, mirroring, backup and restore are one function, [`copy`]: choose the partitions, ask the sink where it ends,
//! look whether its history is the source's up to there, read raw batches from there, check their checksums, write them.
//! Where a copy stands is stored nowhere but in the sink, so that *full*, *incremental* and *resumed* are one path, and a copy
//! that is dropped at any point goes on when it is run again.
//!
//! A [`Source`] is a cluster or a snapshot, a [`Sink`] a log of an embedded broker or a repository. Nothing between
//! them decodes a record.

mod cluster;
mod cluster_sink;
mod compare;
mod costs;
mod cut;
mod embedded;
mod follower;
mod logs;
mod member;
mod outcomes;
mod portion;
mod promotion;
mod selection;
mod settings;
mod transfer;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::future::{BoxFuture, FutureExt};
use futures::lock::Mutex;
use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::record::{Batch, RecordError};
use crate::{Error, ErrorKind, Result, Timestamp};

pub use crate::client::TopicPartition;
pub use cluster::ClusterSource;
pub use compare::{Compare, Compared, Verified, compare, verify};
pub use costs::{Costs, costs};
pub use cut::{At, Cut};
pub use embedded::CopyState;
pub use follower::{Follower, FollowerOptions, PartitionStatus, Recreated, ReplicateOptions, replicate};
pub use logs::{LocalLogs, LogEnd, LogSink, Parting};
pub use member::{Connect, Member, MemberOptions, Role};
pub use portion::{Begin, Portion};
pub use promotion::{NodeState, PartitionState, Survey, promote, survey};
pub use selection::Selection;
pub use settings::{Acl, ClusterSettings, Quota, ScramUser};
pub use transfer::{Planned, TransferOptions, Transferred, transfer};

/// A topic as its source describes it: what it takes to create it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; nil when the source knows none.
    pub id: Uuid,
    /// For each partition, by its number, the brokers it is on, the preferred one first. May be empty lists.
    pub partitions: Vec<Vec<i32>>,
    /// On how many brokers each partition is; -1 when that is not known.
    pub replication_factor: i16,
    /// The options set on the topic itself, sorted by name.
    pub config: Vec<(String, String)>,
}

impl Topic {
    /// Its partitions.
    pub fn topic_partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        (0..self.partitions.len() as i32).map(|partition| TopicPartition::new(self.name.as_str(), partition))
    }

    /// Whether old records of a key are removed from its logs, and batches are rewritten by that.
    pub fn is_compacted(&self) -> bool {
        self.config.iter().any(|(name, value)| name == "cleanup.policy" && value.contains("compact"))
    }
}

/// Who a source is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id, if it has one.
    pub cluster_id: Option<String>,
    /// How it was reached, for people.
    pub address: String,
}

/// A group's committed offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffsets {
    /// The group's id.
    pub group: String,
    /// Its kind in Kafka's words: `classic`, `consumer`, `share`, `streams`; empty when the source does not tell.
    pub kind: String,
    /// What it had committed; of a share group, where it starts.
    pub offsets: Vec<CommittedOffset>,
}

/// The kind of a group whose members share partitions (KIP-932).
pub const SHARE: &str = "share";

/// What a group had committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset that the group would read.
    pub offset: i64,
    /// The leader epoch committed with it; -1 if none.
    pub leader_epoch: i32,
    /// The text committed with it.
    pub metadata: String,
}

/// Which end of a partition a copy goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Until {
    /// All that consumers may read.
    #[default]
    HighWatermark,
    /// The first offset of a transaction that is still open, so that transactions are whole.
    LastStable,
}

/// The offsets of a partition that a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The log start offset.
    pub start: i64,
    /// The first offset that is not to be copied.
    pub end: i64,
    /// The leader's epoch; -1 when it is not known.
    pub leader_epoch: i32,
}

/// Where a leader epoch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochEnd {
    /// The epoch: the one asked for, or the largest below it that the log has.
    pub leader_epoch: i32,
    /// The offset after the epoch's last record.
    pub end: i64,
}

/// Where batches are read.
pub trait Source: Send + Sync {
    /// Who it is.
    fn identity(&self) -> BoxFuture<'_, Result<Identity>>;

    /// The topics that `selection` chooses, sorted by name.
    ///
    /// # Errors
    /// `NotFound` if one that is named is not there, or none is that a pattern matches.
    fn topics<'a>(&'a self, selection: &'a Selection) -> BoxFuture<'a, Result<Vec<Topic>>>;

    /// What groups have committed for `topics`, of the groups that `selection` chooses, sorted by group.
    fn committed<'a>(
        &'a self,
        topics: &'a [Topic],
        selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Vec<GroupOffsets>>>;

    /// Access rules, users and quotas, as far as it has any and tells them.
    fn settings(&self) -> BoxFuture<'_, Result<ClusterSettings>> {
        futures::future::ready(Ok(ClusterSettings::default())).boxed()
    }

    /// Where `partitions` begin and end; one answer for each, in their order.
    fn bounds<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        until: Until,
    ) -> BoxFuture<'a, Result<Vec<Result<Bounds>>>>;

    /// Where epochs ended, by the source's history; one answer for each. `None` if the source has no epoch as old as the
    /// one asked for, or does not keep epochs.
    fn epoch_ends<'a>(
        &'a self,
        epochs: &'a [(TopicPartition, i32)],
    ) -> BoxFuture<'a, Result<Vec<Result<Option<EpochEnd>>>>>;

    /// The first offset of `time` or later in each of `partitions`, in their order; `None` where there is none.
    ///
    /// # Errors
    /// `Unsupported` if the source cannot tell, as most cannot.
    fn offsets_at<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        time: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Result<Option<i64>>>>> {
        let message = format!("this source does not tell where a time is time={time} partitions={}", partitions.len());
        futures::future::ready(Err(Error::new(ErrorKind::Unsupported, message))).boxed()
    }

    /// Whole batches as stored, from the one that holds `offset` or is the first after it; about `max_bytes`, but one whole
    /// batch at least. The last may be cut off. Empty if there is none below the end.
    ///
    /// # Errors
    /// `OutOfRange` if `offset` is below the log start or beyond the end.
    fn read<'a>(&'a self, partition: &'a TopicPartition, offset: i64, max_bytes: usize)
    -> BoxFuture<'a, Result<Bytes>>;

    /// How long an answer takes at least that brings nothing, as far as that is known: what each read waits for.
    fn round_trip(&self) -> Duration {
        Duration::ZERO
    }

    /// How many bytes a read brings at least when there are as many: what a partition costs in memory however little of it
    /// is wanted.
    fn least_read(&self) -> usize {
        FIRST_READ
    }
}

/// Where batches are written.
pub trait Sink: Send + Sync {
    /// Where `partitions` end here; one answer for each, in their order, `None` for one that has not begun.
    fn ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<SinkEnd>>>>;

    /// The next batch is at `start` or the first after it. Called before the first batch of a partition that has not begun,
    /// and with `hole` where the source no longer has what comes after the end.
    fn begin<'a>(&'a self, partition: &'a TopicPartition, start: i64, hole: Option<Hole>) -> BoxFuture<'a, Result<()>>;

    /// Gives up what was written in epochs above `to.leader_epoch` or at offsets from `to.end` on, and more if need be;
    /// where it ends then.
    fn truncate<'a>(&'a self, partition: &'a TopicPartition, to: EpochEnd) -> BoxFuture<'a, Result<Option<SinkEnd>>>;

    /// Writes `run` at the end.
    fn write<'a>(&'a self, partition: &'a TopicPartition, run: Run) -> BoxFuture<'a, Result<()>>;

    /// Everything that was written is there for good when this returns, and the partition has the source's `bounds`: the log
    /// start, and the end, which may be above the last batch.
    fn finish<'a>(&'a self, partition: &'a TopicPartition, bounds: Bounds) -> BoxFuture<'a, Result<()>>;

    /// How many bytes of a partition it holds back in memory while it is written.
    fn held_back(&self) -> usize {
        0
    }
}

/// Where a sink's partition ends, and what it knows of its last batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkEnd {
    /// The first offset that it lacks.
    pub end: i64,
    /// The leader epoch of the last batch; -1 when there is none.
    pub leader_epoch: i32,
    /// The last batch, where it is known.
    pub last: Option<LastBatch>,
}

/// The last batch of a log: enough to tell whether another log's history is the same up to there.
///
/// Part of the repository's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBatch {
    /// Its base offset.
    pub base_offset: i64,
    /// Its partition leader epoch.
    pub leader_epoch: i32,
    /// The checksum in its header.
    pub crc: u32,
}

impl From<&Batch> for LastBatch {
    fn from(batch: &Batch) -> Self {
        Self { base_offset: batch.base_offset(), leader_epoch: batch.partition_leader_epoch(), crc: batch.crc() }
    }
}

/// A range of offsets that could not be copied, because the source no longer had them.
///
/// Part of the repository's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hole {
    /// The first offset that is missing.
    pub start: i64,
    /// The first offset that is there again.
    pub end: i64,
}

/// Consecutive whole batches whose checksums hold and whose offsets and epochs ascend.
#[derive(Clone, Debug, Default)]
pub struct Run {
    bytes: Bytes,
    batches: Vec<Batch>,
}

impl Run {
    /// Takes the whole batches off `bytes` that begin below `until`.
    ///
    /// # Errors
    /// `Corrupt` if a checksum differs, an offset is below `next` and not in the first batch, or an epoch goes back.
    pub fn check(bytes: &Bytes, mut next: i64, mut leader_epoch: i32, until: i64) -> Result<Self> {
        let mut rest = bytes.clone();
        let mut batches = Vec::new();
        let mut size = 0;
        while let Some(batch) = Batch::split(&mut rest)? {
            if batch.base_offset() >= until {
                break;
            }
            batch.check_crc()?;
            let is_in_order = if batches.is_empty() {
                batch.next_offset() > next && batch.base_offset() >= 0
            } else {
                batch.base_offset() >= next
            };
            if !is_in_order {
                let message = format!("offsets go back expected={next} found={}", batch.base_offset());
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            if batch.partition_leader_epoch() < leader_epoch {
                let message = format!(
                    "leader epochs go back offset={} expected={leader_epoch} found={}",
                    batch.base_offset(),
                    batch.partition_leader_epoch()
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            next = batch.next_offset();
            leader_epoch = batch.partition_leader_epoch();
            size += batch.size();
            batches.push(batch);
        }
        Ok(Self { bytes: bytes.slice(..size), batches })
    }

    /// The batches' bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The batches; parts of [`bytes`](Self::bytes).
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// The batches.
    pub fn into_batches(self) -> Vec<Batch> {
        self.batches
    }

    /// How many records they have by their own count.
    pub fn records(&self) -> u64 {
        self.batches.iter().map(|batch| batch.record_count().max(0) as u64).sum()
    }

    /// The batches without the first.
    fn without_first(mut self) -> Self {
        if !self.batches.is_empty() {
            let first = self.batches.remove(0);
            self.bytes = self.bytes.slice(first.size()..);
        }
        self
    }

    /// The same batches after each of `steps`.
    fn after(mut self, steps: &[Box<dyn Step>], partition: &TopicPartition) -> Result<Self> {
        if steps.is_empty() {
            return Ok(self);
        }
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for batch in &mut self.batches {
            for step in steps {
                *batch = step.apply(partition, batch.clone())?;
            }
            bytes.extend_from_slice(batch.as_bytes());
        }
        Ok(Self { bytes: Bytes::from(bytes), batches: self.batches })
    }
}

/// What is done to batches on their way.
pub trait Step: Send + Sync + fmt::Debug {
    /// The batch that goes on instead of `batch`, with the same offsets and epoch.
    ///
    /// # Errors
    /// Whatever stops the copy of the partition.
    fn apply(&self, partition: &TopicPartition, batch: Batch) -> Result<Batch>;
}

/// A partition to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which.
    pub partition: TopicPartition,
    /// From where to where the source has it.
    pub bounds: Bounds,
    /// Whether the source rewrites batches, so that the same offsets may have another checksum.
    pub compacted: bool,
}

/// How to copy.
#[derive(Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// What to do to batches on their way; nothing if empty.
    pub steps: Vec<Box<dyn Step>>,
    /// How many bytes may be held in memory, about. Default 64 MiB.
    pub max_bytes: usize,
    /// How many partitions are copied at a time, at most. Default 16.
    pub max_partitions: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { steps: Vec::new(), max_bytes: 64 << 20, max_partitions: 16 }
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Partitions that are done.
    pub partitions: usize,
    /// Partitions in all.
    pub total_partitions: usize,
    /// Offsets that are done.
    pub offsets: u64,
    /// Offsets that were to be copied when it began.
    pub total_offsets: u64,
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// Whether a partition was copied from its beginning or from where the sink ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// From the source's beginning.
    Full,
    /// From where the sink ended.
    Incremental,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
        })
    }
}

/// What was copied of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCopied {
    /// Which.
    pub partition: TopicPartition,
    /// Whether it was copied from its beginning.
    pub extent: Extent,
    /// The first offset.
    pub start: i64,
    /// The offset after the last.
    pub end: i64,
    /// Batches.
    pub batches: u64,
    /// Records, by the batches' own count; transaction markers are among them.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
    /// Offsets that the source no longer had.
    pub hole: Option<Hole>,
    /// The offset from which on the sink held another history, which it has given up.
    pub parted_at: Option<i64>,
}

/// What [`copy`] did.
#[derive(Debug, Default)]
pub struct Copied {
    /// What became of each partition, in the order in which they were given.
    pub partitions: Vec<Result<PartitionCopied>>,
}

impl Copied {
    /// The partitions that were copied.
    pub fn done(&self) -> impl Iterator<Item = &PartitionCopied> {
        self.partitions.iter().filter_map(|partition| partition.as_ref().ok())
    }

    /// Counts in what was copied after it, of partitions that are among these.
    pub(crate) fn extend(&mut self, more: &[PartitionCopied]) {
        for more in more {
            let known = self.partitions.iter_mut().flatten().find(|known| known.partition == more.partition);
            let Some(known) = known else { continue };
            known.end = more.end;
            known.batches += more.batches;
            known.records += more.records;
            known.bytes += more.bytes;
            known.hole = known.hole.or(more.hole);
            known.parted_at = known.parted_at.or(more.parted_at);
        }
    }

    /// Records copied.
    pub fn records(&self) -> u64 {
        self.done().map(|partition| partition.records).sum()
    }

    /// Bytes copied.
    pub fn bytes(&self) -> u64 {
        self.done().map(|partition| partition.bytes).sum()
    }

    /// The same if every partition was copied.
    ///
    /// # Errors
    /// The first partition's that was not, with how many there were.
    pub fn all(mut self) -> Result<Self> {
        let failed = self.partitions.iter().filter(|partition| partition.is_err()).count();
        match self.partitions.iter().position(Result::is_err) {
            None => Ok(self),
            Some(first) => Err(match self.partitions.swap_remove(first) {
                Err(error) if failed > 1 => error.context(format_args!("{failed} partitions failed, the first")),
                Err(error) => error,
                Ok(_) => unreachable!("its position is that of an error"),
            }),
        }
    }
}

/// The size of a partition's first read: little, because most partitions of an incremental copy have little that is new.
const FIRST_READ: usize = 1 << 20;
/// The sizes of the reads after the first. Small ones are faster, as memory that was just used is; but each waits for the way
/// there and back, and from far away they are as large as the memory allows. Kafka's brokers answer with 55 MiB at most
/// (`fetch.max.bytes`).
const READ: std::ops::RangeInclusive<usize> = 4 << 20..=32 << 20;
/// How much a partition's reads should bring in a second, of the waits between them: 10 ms make up for the smallest.
const WANTED_BYTES_PER_SECOND: u128 = 400 << 20;
/// The largest batch that is copied. Brokers refuse larger ones long before.
const MAX_BATCH: usize = 1 << 30;
/// How often a sink may be found to hold another history: once for each epoch or object that it has to give up.
const MAX_ROUNDS: usize = 10_000;

/// The assignments for all partitions of `topics`: where the source has them, up to `until`.
///
/// A partition whose bounds cannot be had is an error of its own, in its place.
///
/// # Errors
/// The source's, if it cannot be asked at all.
pub async fn assign(source: &dyn Source, topics: &[Topic], until: Until) -> Result<Vec<Result<Assignment>>> {
    assign_portion(source, topics, &Portion::default(), until).await
}

/// As [`assign`], for the partitions that `portion` includes.
async fn assign_portion(
    source: &dyn Source,
    topics: &[Topic],
    portion: &Portion,
    until: Until,
) -> Result<Vec<Result<Assignment>>> {
    let partitions: Vec<(TopicPartition, bool)> = topics
        .iter()
        .flat_map(|topic| topic.topic_partitions().map(|partition| (partition, topic.is_compacted())))
        .filter(|(partition, _)| portion.includes(partition))
        .collect();
    let names: Vec<TopicPartition> = partitions.iter().map(|(partition, _)| partition.clone()).collect();
    let bounds = source.bounds(&names, until).await?;
    Ok(partitions
        .into_iter()
        .zip(bounds)
        .map(|((partition, compacted), bounds)| match bounds {
            Ok(bounds) => Ok(Assignment { partition, bounds, compacted }),
            Err(error) => Err(error.context(format_args!("partition={partition}"))),
        })
        .collect())
}

/// Cuts `sink` back to where its history is the source's, without copying anything. With a sink that refuses to be cut back
/// it tells whether it would have to be.
///
/// # Errors
/// The sink's and the source's.
pub async fn agree(source: &dyn Source, sink: &dyn Sink, assignments: &[Assignment]) -> Result<()> {
    let names: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
    let ends = sink.ends(&names).await?;
    agreed_ends(source, sink, assignments, ends).await?.into_iter().try_for_each(|agreed| agreed.map(drop))
}

/// Copies raw batches of each partition from where `sink` ends to the end that the assignment names.
///
/// Whatever a partition fails with is in its place in the result, and the others go on, unless it is something that would
/// fail them all. Stops without loss wherever it is dropped; run again, it goes on where the sink ends. Holds about
/// `options.max_bytes` in memory. `progress` is called after each write.
///
/// # Errors
/// The sink's, if it cannot say where it ends.
pub async fn copy(
    source: &dyn Source,
    sink: &dyn Sink,
    assignments: &[Assignment],
    options: &CopyOptions,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Copied> {
    let names: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
    let ends = sink.ends(&names).await?;
    let mut ends = agreed_ends(source, sink, assignments, ends).await?;

    let small = (options.max_bytes / 2 / source.least_read().max(1)).clamp(1, options.max_partitions.max(1));
    let large_bytes = options.max_bytes.saturating_sub(small * source.least_read());
    let large = (large_bytes / (sink.held_back() + 2 * READ.start())).clamp(1, small);
    let missing: Vec<u64> = assignments
        .iter()
        .zip(&ends)
        .map(|(assignment, agreed)| {
            let end = agreed.as_ref().ok().and_then(|agreed| agreed.end);
            let start = end.map_or(assignment.bounds.start, |end| end.end);
            assignment.bounds.end.saturating_sub(start.max(assignment.bounds.start)).max(0) as u64
        })
        .collect();
    let copying = Copying {
        source,
        sink,
        options,
        large: Permits::new(large),
        large_bytes,
        most_large: large,
        left: AtomicUsize::new(missing.iter().filter(|missing| **missing > 0).count()),
        tally: Tally { total_partitions: assignments.len(), total_offsets: missing.iter().sum(), ..Tally::default() },
        progress,
        stopped: AtomicUsize::new(0),
    };
    // By index and boxed, because the compiler cannot tell that it is `Send` otherwise.
    let mut done: Vec<(usize, Result<PartitionCopied>)> = stream::iter(0..assignments.len())
        .map(|index| {
            let (copying, assignment, is_missing) = (&copying, &assignments[index], missing[index] > 0);
            let agreed = std::mem::replace(&mut ends[index], Ok(Agreed::default()));
            async move {
                let copied = match agreed {
                    Ok(agreed) => copying.partition(assignment, agreed).await,
                    Err(error) => Err(error),
                };
                if is_missing {
                    copying.left.fetch_sub(1, Ordering::Relaxed);
                }
                let copied = copied.map_err(|error| {
                    if stops_all(&error) {
                        copying.stopped.store(1, Ordering::Relaxed);
                    }
                    error.context(format_args!("partition={}", assignment.partition))
                });
                (index, copied)
            }
            .boxed()
        })
        .buffer_unordered(small)
        .collect()
        .await;
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(Copied { partitions: done.into_iter().map(|(_, copied)| copied).collect() })
}

/// How many bytes an answer should bring at least for what it is waited for.
fn worth_waiting_for(source: &dyn Source) -> usize {
    let wanted = source.round_trip().as_micros() * WANTED_BYTES_PER_SECOND / 1_000_000;
    usize::try_from(wanted).unwrap_or(usize::MAX)
}

/// Whether an error met on one partition awaits the others, too.
fn stops_all(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::OutOfRange | ErrorKind::AlreadyExists)
}

/// Where a sink ends after it has given up what the source never had, or no longer has.
#[derive(Clone, Copy, Debug, Default)]
struct Agreed {
    end: Option<SinkEnd>,
    parted_at: Option<i64>,
}

/// Finds where the sink's histories part from the source's, by leader epochs, and cuts the sink back to there (KIP-101,
/// KIP-279). Each round asks about all partitions that are not settled, and takes at least an epoch from each.
async fn agreed_ends(
    source: &dyn Source,
    sink: &dyn Sink,
    assignments: &[Assignment],
    ends: Vec<Option<SinkEnd>>,
) -> Result<Vec<Result<Agreed>>> {
    let mut agreed: Vec<Result<Agreed>> = ends.into_iter().map(|end| Ok(Agreed { end, parted_at: None })).collect();
    let mut open: Vec<usize> = (0..agreed.len()).collect();
    for _ in 0..MAX_ROUNDS {
        let asked: Vec<(usize, SinkEnd)> = open
            .iter()
            .filter_map(|&index| Some((index, agreed[index].as_ref().ok()?.end?)))
            .filter(|(_, end)| end.leader_epoch >= 0)
            .collect();
        if asked.is_empty() {
            return Ok(agreed);
        }
        let questions: Vec<(TopicPartition, i32)> =
            asked.iter().map(|(index, end)| (assignments[*index].partition.clone(), end.leader_epoch)).collect();
        let answers = source.epoch_ends(&questions).await?;
        open.clear();
        for ((index, end), answer) in asked.into_iter().zip(answers) {
            let assignment = &assignments[index];
            let to = match answer {
                Err(error) => {
                    agreed[index] = Err(error);
                    continue;
                }
                Ok(Some(answer)) if answer.leader_epoch == end.leader_epoch && answer.end >= end.end => continue,
                Ok(Some(answer)) => answer,
                // Its epochs begin after ours, or are not kept: what it has tells.
                Ok(None) if assignment.bounds.leader_epoch < 0 => continue,
                Ok(None) if assignment.bounds.leader_epoch >= end.leader_epoch => continue,
                // It was never led in our epoch.
                Ok(None) => EpochEnd { leader_epoch: assignment.bounds.leader_epoch, end: end.end },
            };
            let cut = sink.truncate(&assignment.partition, to).await?;
            let parted_at = Some(cut.map_or(0, |cut| cut.end));
            if let Some(cut) = cut
                && (cut.end, cut.leader_epoch) >= (end.end, end.leader_epoch)
            {
                let message = format!("sink cannot be cut back to={} end={}", to.end, cut.end);
                agreed[index] = Err(Error::new(ErrorKind::Unsupported, message));
                continue;
            }
            agreed[index] = Ok(Agreed { end: cut, parted_at });
            open.push(index);
        }
    }
    Err(Error::new(ErrorKind::Internal, "histories do not come to agree"))
}

/// Where a partition's copy is.
#[derive(Debug)]
struct Position {
    extent: Extent,
    start: i64,
    next: i64,
    leader_epoch: i32,
    /// The source's log start, as far as it is known to have moved.
    log_start: i64,
    batches: u64,
    records: u64,
    bytes: u64,
    hole: Option<Hole>,
}

impl Position {
    fn at(next: i64, leader_epoch: i32) -> Self {
        Self {
            extent: Extent::Full,
            start: next,
            next,
            leader_epoch,
            log_start: 0,
            batches: 0,
            records: 0,
            bytes: 0,
            hole: None,
        }
    }
}

/// What [`copy`] shares between its partitions.
struct Copying<'a> {
    source: &'a dyn Source,
    sink: &'a dyn Sink,
    options: &'a CopyOptions,
    /// For partitions that have more than a first read: these hold a lot of memory.
    large: Permits,
    /// What those may hold together, and how many they are at most.
    large_bytes: usize,
    most_large: usize,
    /// How many partitions lack something and are not done.
    left: AtomicUsize,
    tally: Tally,
    progress: &'a (dyn Fn(&Progress) + Send + Sync),
    stopped: AtomicUsize,
}

/// A number of permits; whoever waits gets the next that is given back.
struct Permits {
    giver: mpsc::UnboundedSender<()>,
    free: Mutex<mpsc::UnboundedReceiver<()>>,
}

impl Permits {
    fn new(permits: usize) -> Self {
        let (giver, free) = mpsc::unbounded();
        for _ in 0..permits {
            let _ = giver.unbounded_send(());
        }
        Self { giver, free: Mutex::new(free) }
    }

    async fn acquire(&self) -> Permit {
        // There is an end to give back to as long as `self` is there.
        self.free.lock().await.next().await;
        Permit(self.giver.clone())
    }
}

/// A permit that is given back when it is dropped.
struct Permit(mpsc::UnboundedSender<()>);

impl Drop for Permit {
    fn drop(&mut self) {
        let _ = self.0.unbounded_send(());
    }
}

#[derive(Debug, Default)]
struct Tally {
    partitions: AtomicUsize,
    total_partitions: usize,
    offsets: AtomicU64,
    total_offsets: u64,
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Copying<'_> {
    async fn partition(&self, assignment: &Assignment, agreed: Agreed) -> Result<PartitionCopied> {
        let Assignment { partition, bounds, .. } = assignment;
        let Agreed { mut end, mut parted_at } = agreed;
        if self.stopped.load(Ordering::Relaxed) != 0 {
            return Err(Error::new(ErrorKind::Closed, "not begun, because another partition failed"));
        }
        // The last batch that both have is read again where it is known, and has to be the same.
        let (first, mut position) = loop {
            let last = end.and_then(|end| end.last.map(|last| (end, last)));
            let (end_here, last) = match last {
                Some(both)
                    if both.1.base_offset >= bounds.start
                        && both.0.end < bounds.end
                        && self.options.steps.is_empty() =>
                {
                    both
                }
                _ => break (None, self.start(assignment, end).await?),
            };
            let position = Position::at(last.base_offset, -1);
            let run = self.read(assignment, &position, FIRST_READ).await?;
            match run.batches().first() {
                // Compaction may have taken it; and then what is left of it has another checksum.
                Some(batch) if batch.base_offset() == last.base_offset => {
                    let second = run.batches().get(1);
                    if batch.crc() == last.crc && second.is_none_or(|batch| batch.base_offset() >= end_here.end) {
                        let position = Position::at(end_here.end, end_here.leader_epoch);
                        break (Some(run.without_first()), position);
                    }
                    if assignment.compacted {
                        break (None, self.start(assignment, end).await?);
                    }
                    let to = EpochEnd { leader_epoch: last.leader_epoch, end: last.base_offset };
                    end = self.sink.truncate(partition, to).await?;
                    parted_at = Some(end.map_or(0, |cut| cut.end));
                    if end.is_some_and(|cut| cut.end >= end_here.end) {
                        let message = format!("sink cannot be cut back to={}", last.base_offset);
                        return Err(Error::new(ErrorKind::Unsupported, message));
                    }
                }
                _ => break (None, self.start(assignment, end).await?),
            }
        };
        position.extent = if end.is_some() { Extent::Incremental } else { Extent::Full };

        let mut first = first.filter(|run| !run.batches.is_empty());
        let mut permit = None;
        while first.is_some() || position.next < bounds.end {
            let run = match first.take() {
                Some(run) => run,
                None => {
                    let size = if permit.is_some() { self.read_size() } else { FIRST_READ };
                    self.read(assignment, &position, size).await?
                }
            };
            if run.batches.is_empty() {
                if !self.pass_over(assignment, &mut position).await? {
                    break;
                }
                continue;
            }
            let run = self.written(&mut position, run, partition)?;
            if position.next < bounds.end {
                if permit.is_none() {
                    permit = Some(self.large.acquire().await);
                }
                // The next batches come while these are written.
                let (written, next) =
                    futures::join!(self.sink.write(partition, run), self.read(assignment, &position, self.read_size()));
                written?;
                // If there is none, it is asked for again before it is believed.
                first = Some(next?).filter(|run| !run.batches.is_empty());
            } else {
                self.sink.write(partition, run).await?;
            }
            self.report();
        }
        self.sink.finish(partition, Bounds { start: position.log_start.max(bounds.start), ..*bounds }).await?;
        self.tally.partitions.fetch_add(1, Ordering::Relaxed);
        self.report();
        Ok(PartitionCopied {
            partition: partition.clone(),
            extent: position.extent,
            start: position.start,
            end: position.next.max(position.start).max(bounds.end),
            batches: position.batches,
            records: position.records,
            bytes: position.bytes,
            hole: position.hole,
            parted_at,
        })
    }

    /// How large a read is: two of each partition, one that comes and one that is written, are within what all may hold, also
    /// while the number of those that are left goes down.
    fn read_size(&self) -> usize {
        let partitions = self.left.load(Ordering::Relaxed).clamp(1, self.most_large);
        let share = (self.large_bytes / partitions).saturating_sub(self.sink.held_back()) / 2;
        worth_waiting_for(self.source).min(share).clamp(*READ.start(), *READ.end())
    }

    /// Where to begin when the sink ends at `end`; says so to the sink where that is not simply its end.
    async fn start(&self, assignment: &Assignment, end: Option<SinkEnd>) -> Result<Position> {
        let Assignment { partition, bounds, .. } = assignment;
        let leader_epoch = end.map_or(-1, |end| end.leader_epoch);
        match end {
            None => {
                self.sink.begin(partition, bounds.start, None).await?;
                Ok(Position::at(bounds.start, leader_epoch))
            }
            Some(end) if end.end < bounds.start => {
                let hole = Hole { start: end.end, end: bounds.start };
                self.sink.begin(partition, bounds.start, Some(hole)).await?;
                Ok(Position { hole: Some(hole), ..Position::at(bounds.start, leader_epoch) })
            }
            Some(end) => Ok(Position::at(end.end, leader_epoch)),
        }
    }

    /// Reads and checks what comes at `position`: one whole batch at least, or none where the source has none.
    async fn read(&self, assignment: &Assignment, position: &Position, max_bytes: usize) -> Result<Run> {
        let Assignment { partition, bounds, .. } = assignment;
        if position.next >= bounds.end {
            return Ok(Run::default());
        }
        let mut size = max_bytes;
        let mut attempts = 0;
        loop {
            let bytes = match self.source.read(partition, position.next, size).await {
                Err(error) if error.kind() == ErrorKind::OutOfRange => return Ok(Run::default()),
                bytes => bytes?,
            };
            match Batch::claimed_size(&bytes) {
                Some(claimed) if claimed > bytes.len() && claimed > size && claimed <= MAX_BATCH => {
                    size = claimed;
                    continue;
                }
                Some(claimed) if claimed > bytes.len() => {
                    return Err(RecordError::Incomplete { expected: claimed, found: bytes.len() }.into());
                }
                _ => {}
            }
            attempts += 1;
            match Run::check(&bytes, position.next, position.leader_epoch, bounds.end) {
                // It may be the wire's fault.
                Err(error) if error.kind() == ErrorKind::Corrupt && attempts < 2 => {
                    log::warn!("reading again: {error} partition={partition}");
                }
                run => return run,
            }
        }
    }

    /// Nothing came although the end is not reached: compaction has taken the rest, or retention has overtaken us. Whether
    /// to read on.
    async fn pass_over(&self, assignment: &Assignment, position: &mut Position) -> Result<bool> {
        let Assignment { partition, bounds, .. } = assignment;
        let now = self.source.bounds(std::slice::from_ref(partition), Until::HighWatermark).await?;
        let now = now.into_iter().next().unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "no bounds")))?;
        if now.end < bounds.end {
            let message = format!("source was cut back while it was copied expected={} found={}", bounds.end, now.end);
            return Err(Error::new(ErrorKind::Retriable, message));
        }
        if now.start <= position.next {
            position.next = bounds.end;
            return Ok(false);
        }
        let hole = Hole { start: position.next, end: now.start };
        self.sink.begin(partition, now.start, Some(hole)).await?;
        position.hole = Some(Hole { start: position.hole.map_or(hole.start, |first| first.start), ..hole });
        position.next = now.start;
        position.log_start = now.start;
        Ok(true)
    }

    /// Accounts for `run`, which is about to be written, after the steps.
    fn written(&self, position: &mut Position, run: Run, partition: &TopicPartition) -> Result<Run> {
        let run = run.after(&self.options.steps, partition)?;
        let (bytes, records) = (run.bytes.len() as u64, run.records());
        position.batches += run.batches.len() as u64;
        position.bytes += bytes;
        position.records += records;
        let before = position.next;
        if let Some(last) = run.batches.last() {
            position.next = last.next_offset();
            position.leader_epoch = last.partition_leader_epoch();
        }
        self.tally.offsets.fetch_add((position.next - before).max(0) as u64, Ordering::Relaxed);
        self.tally.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tally.records.fetch_add(records, Ordering::Relaxed);
        Ok(run)
    }

    fn report(&self) {
        let Tally { partitions, total_partitions, offsets, total_offsets, records, bytes } = &self.tally;
        (self.progress)(&Progress {
            partitions: partitions.load(Ordering::Relaxed),
            total_partitions: *total_partitions,
            offsets: offsets.load(Ordering::Relaxed),
            total_offsets: *total_offsets,
            records: records.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        });
    }
}
