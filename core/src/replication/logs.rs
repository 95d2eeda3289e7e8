//! The logs of an embedded broker as a sink.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt};

use super::{Bounds, EpochEnd, GroupOffsets, Hole, Run, Sink, SinkEnd, Topic, TopicPartition};
use crate::record::Batch;
use crate::{Error, ErrorKind, Result};

/// The logs of an embedded broker, as copies reach them: by calls that no wire leads to.
///
/// A copy, made by [`create_copy`](Self::create_copy), takes no produce requests and removes nothing by itself until it is
/// promoted, and what is appended to it is as it was at its source: offsets, epochs, timestamps, producers, markers.
pub trait LocalLogs: Send + Sync {
    /// Makes `topic` here as a copy, with its id, partitions and configuration. If it is there under that id, it becomes a
    /// copy again, partitions are added, options set and removed, and what its logs hold stays.
    ///
    /// # Errors
    /// `AlreadyExists` if there is another topic of that name: one with another id.
    fn create_copy<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>>;

    /// Removes a copy, if it is there, because the source's topic is gone.
    fn delete_copy<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<()>>;

    /// The copies here.
    fn copies(&self) -> BoxFuture<'_, Result<Vec<Topic>>>;

    /// Where logs begin and end; one answer for each, `None` for one that has nothing and never had.
    fn log_ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<LogEnd>>>>;

    /// The epoch asked for, or the largest below it that the log has, and where it ends (KIP-101); `None` if it has none.
    fn epoch_end<'a>(
        &'a self,
        partition: &'a TopicPartition,
        leader_epoch: i32,
    ) -> BoxFuture<'a, Result<Option<EpochEnd>>>;

    /// Appends batches as they are. They may begin above the log's end; the offsets between stay empty.
    fn append_copy<'a>(&'a self, partition: &'a TopicPartition, batches: Vec<Batch>) -> BoxFuture<'a, Result<()>>;

    /// Cuts the log back to the last batch boundary at or below `to`.
    fn truncate_copy<'a>(&'a self, partition: &'a TopicPartition, to: i64) -> BoxFuture<'a, Result<()>>;

    /// Drops everything; the log then begins and ends at `start`.
    fn reset_copy<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>>;

    /// Remembers, durably, that the copy lacks these offsets although its source had them.
    fn note_hole<'a>(&'a self, partition: &'a TopicPartition, hole: Hole) -> BoxFuture<'a, Result<()>>;

    /// Raises the log start offset, if it is below `start`.
    fn raise_start<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>>;

    /// Lets consumers read below `high_watermark`, as far as the log is synced.
    fn raise_high_watermark<'a>(
        &'a self,
        partition: &'a TopicPartition,
        high_watermark: i64,
    ) -> BoxFuture<'a, Result<()>>;

    /// Makes copies this broker's own topics: a new leader epoch, durable before the first append, and they take produce
    /// requests.
    fn promote_copies<'a>(&'a self, topics: &'a [String]) -> BoxFuture<'a, Result<()>>;

    /// Commits offsets for groups, which have no members; durable when it returns.
    fn commit_offsets<'a>(&'a self, groups: &'a [GroupOffsets]) -> BoxFuture<'a, Result<()>>;

    /// Returns when everything that was appended before the call is synced; the synced end.
    fn sync_copy<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<i64>>;
}

/// Where a log begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The log start offset.
    pub start: i64,
    /// The log end offset.
    pub end: i64,
    /// The leader epoch of the last batch; -1 when there is none.
    pub leader_epoch: i32,
}

/// The logs of an embedded broker as a sink. Topics have to be there: [`LocalLogs::create_copy`] comes first.
///
/// Keeps the source's log start: what the source has removed is removed here, and where retention has overtaken the copy
/// the log begins anew at the source's start.
pub struct LogSink<'a> {
    logs: &'a dyn LocalLogs,
    parting: Parting,
    /// Where partitions begin that nothing has been written of.
    begun: Mutex<HashMap<TopicPartition, i64>>,
}

/// What to do with records that the source never had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parting {
    /// Cut them off, as a follower does.
    CutBack,
    /// Fail, and leave them.
    Refuse,
}

impl<'a> LogSink<'a> {
    /// A sink that writes into `logs`.
    pub fn new(logs: &'a dyn LocalLogs, parting: Parting) -> Self {
        Self { logs, parting, begun: Mutex::default() }
    }

    /// Lets a partition begin where it was told to, although nothing has come yet: the source has nothing there.
    pub(super) async fn begin_now(&self, partition: &TopicPartition) -> Result<()> {
        let begun = self.begun().remove(partition);
        match begun.filter(|start| *start > 0) {
            Some(start) => self.logs.reset_copy(partition, start).await,
            None => Ok(()),
        }
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<TopicPartition, i64>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn end(&self, partition: &TopicPartition) -> Result<Option<SinkEnd>> {
        let ends = self.logs.log_ends(std::slice::from_ref(partition)).await?;
        Ok(ends.into_iter().next().flatten().and_then(sink_end))
    }
}

/// A log that ends at 0 has not begun.
fn sink_end(log: LogEnd) -> Option<SinkEnd> {
    (log.end > 0).then_some(SinkEnd { end: log.end, leader_epoch: log.leader_epoch, last: None })
}

impl Sink for LogSink<'_> {
    fn ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<SinkEnd>>>> {
        async move {
            let ends = self.logs.log_ends(partitions).await?;
            Ok(ends.into_iter().map(|end| end.and_then(sink_end)).collect())
        }
        .boxed()
    }

    fn begin<'a>(&'a self, partition: &'a TopicPartition, start: i64, hole: Option<Hole>) -> BoxFuture<'a, Result<()>> {
        async move {
            if let Some(hole) = hole {
                let Hole { start, end } = hole;
                log::warn!("the source no longer has offsets that were to be copied partition={partition} offsets={start}..{end}");
                self.logs.note_hole(partition, hole).await?;
            }
            // Not before the first batch is here: it may begin below `start`, and batches are not cut.
            self.begun().insert(partition.clone(), start);
            Ok(())
        }
        .boxed()
    }

    fn truncate<'a>(&'a self, partition: &'a TopicPartition, to: EpochEnd) -> BoxFuture<'a, Result<Option<SinkEnd>>> {
        async move {
            if self.parting == Parting::Refuse {
                let message = format!(
                    "target has records that the source has not, choose an empty target or remove the topic \
                     partition={partition} offset={}",
                    to.end
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let ours = self.logs.epoch_end(partition, to.leader_epoch).await?;
            log::warn!(
                "histories part, cutting back partition={partition} leader_epoch={} to={}",
                to.leader_epoch,
                to.end
            );
            match ours {
                Some(ours) => self.logs.truncate_copy(partition, ours.end.min(to.end)).await?,
                None => self.logs.reset_copy(partition, 0).await?,
            }
            self.end(partition).await
        }
        .boxed()
    }

    fn write<'a>(&'a self, partition: &'a TopicPartition, run: Run) -> BoxFuture<'a, Result<()>> {
        async move {
            let Some(first) = run.batches().first().map(Batch::base_offset) else { return Ok(()) };
            let begun = self.begun().get(partition).copied();
            let start = match begun {
                Some(start) => start,
                None => match self.logs.append_copy(partition, run.clone().into_batches()).await {
                    Ok(()) => return Ok(()),
                    // A log that is empty may begin within a batch: records were deleted, or a crash took what it had.
                    Err(error) => match self.logs.log_ends(std::slice::from_ref(partition)).await?.first() {
                        Some(Some(log)) if log.start == log.end && first < log.start => log.start,
                        _ => return Err(error),
                    },
                },
            };
            self.logs.reset_copy(partition, start.min(first)).await?;
            self.logs.append_copy(partition, run.into_batches()).await?;
            // Batches are not cut, but what lies below is not there.
            self.logs.raise_start(partition, start).await?;
            self.begun().remove(partition);
            Ok(())
        }
        .boxed()
    }

    fn finish<'a>(&'a self, partition: &'a TopicPartition, bounds: Bounds) -> BoxFuture<'a, Result<()>> {
        async move {
            self.begin_now(partition).await?;
            self.logs.sync_copy(partition).await?;
            self.logs.raise_start(partition, bounds.start).await?;
            self.logs.raise_high_watermark(partition, bounds.end).await
        }
        .boxed()
    }
}

impl std::fmt::Debug for LogSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSink").field("parting", &self.parting).finish_non_exhaustive()
    }
}
