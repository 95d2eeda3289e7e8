//! Rules broken on purpose: the checkers have to find out. Production has no part in it: calls are changed on their way.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, ready};

use super::network::Spoil;
use crate::Result;
use crate::protocol::Request;
use crate::record::{Batch, ProducerFields};
use crate::replication::{EpochEnd, GroupOffsets, Hole, LocalLogs, LogEnd, Topic, TopicPartition};
use crate::transport::Embedded;

/// A rule that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A follower cuts off what its leader never had.
    Truncation,
    /// A follower acknowledges what it has synced, not what it has written.
    FollowerSync,
    /// A produce request with `acks=all` is answered when it is synced, not when it is written.
    AcksAll,
    /// A follower lets nobody read past the leader's high watermark.
    HighWatermark,
    /// A producer's batch is known again when it is sent again.
    Idempotence,
    /// A leader that has given its vote stands back.
    StandingBack,
    /// A leader that learns of a later one follows it.
    Fencing,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Truncation,
        Self::FollowerSync,
        Self::AcksAll,
        Self::HighWatermark,
        Self::Idempotence,
        Self::StandingBack,
        Self::Fencing,
    ];

    pub(super) fn spoil(self) -> Option<Spoil> {
        match self {
            Self::AcksAll => Some(|mut request| {
                if let Request::Produce(produce) = &mut request
                    && produce.acks == -1
                {
                    produce.acks = 1;
                }
                request
            }),
            Self::Idempotence => Some(|mut request| {
                if let Request::Produce(produce) = &mut request {
                    for data in produce.topic_data.iter_mut().flat_map(|topic| &mut topic.partition_data) {
                        let batch = data.records.take().and_then(|bytes| Batch::single(bytes).ok());
                        data.records = batch.map(|batch| batch.with_producer(ProducerFields::NONE).as_bytes().clone());
                    }
                }
                request
            }),
            Self::StandingBack => Some(|mut request| {
                if let Request::Vote(vote) = &mut request {
                    let asked = vote.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                    asked.for_each(|asked| asked.pre_vote = true);
                }
                request
            }),
            Self::Fencing => Some(|mut request| {
                if let Request::BeginQuorumEpoch(begun) = &mut request {
                    let told = begun.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                    told.for_each(|told| told.leader_epoch = 0);
                }
                request
            }),
            _ => None,
        }
    }

    /// The logs that a follower writes to.
    pub(super) fn logs(self, embedded: Embedded) -> Arc<dyn LocalLogs> {
        Arc::new(Sabotaged { rule: self, logs: embedded })
    }
}

/// Logs of which one call does not do what it says.
struct Sabotaged {
    rule: Rule,
    logs: Embedded,
}

impl LocalLogs for Sabotaged {
    fn create_copy<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>> {
        self.logs.create_copy(topic)
    }

    fn delete_copy<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<()>> {
        self.logs.delete_copy(topic)
    }

    fn copies(&self) -> BoxFuture<'_, Result<Vec<Topic>>> {
        self.logs.copies()
    }

    fn log_ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<LogEnd>>>> {
        self.logs.log_ends(partitions)
    }

    fn epoch_end<'a>(
        &'a self,
        partition: &'a TopicPartition,
        leader_epoch: i32,
    ) -> BoxFuture<'a, Result<Option<EpochEnd>>> {
        self.logs.epoch_end(partition, leader_epoch)
    }

    fn append_copy<'a>(&'a self, partition: &'a TopicPartition, batches: Vec<Batch>) -> BoxFuture<'a, Result<()>> {
        self.logs.append_copy(partition, batches)
    }

    fn truncate_copy<'a>(&'a self, partition: &'a TopicPartition, to: i64) -> BoxFuture<'a, Result<()>> {
        if self.rule == Rule::Truncation {
            return ready(Ok(())).boxed();
        }
        self.logs.truncate_copy(partition, to)
    }

    fn reset_copy<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>> {
        self.logs.reset_copy(partition, start)
    }

    fn note_hole<'a>(&'a self, partition: &'a TopicPartition, hole: Hole) -> BoxFuture<'a, Result<()>> {
        self.logs.note_hole(partition, hole)
    }

    fn raise_start<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>> {
        self.logs.raise_start(partition, start)
    }

    fn raise_high_watermark<'a>(
        &'a self,
        partition: &'a TopicPartition,
        high_watermark: i64,
    ) -> BoxFuture<'a, Result<()>> {
        let high_watermark = if self.rule == Rule::HighWatermark { i64::MAX } else { high_watermark };
        self.logs.raise_high_watermark(partition, high_watermark)
    }

    fn promote_copies<'a>(&'a self, topics: &'a [String]) -> BoxFuture<'a, Result<()>> {
        self.logs.promote_copies(topics)
    }

    fn commit_offsets<'a>(&'a self, groups: &'a [GroupOffsets]) -> BoxFuture<'a, Result<()>> {
        self.logs.commit_offsets(groups)
    }

    fn sync_copy<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<i64>> {
        if self.rule == Rule::FollowerSync {
            return ready(Ok(0)).boxed();
        }
        self.logs.sync_copy(partition)
    }
}
