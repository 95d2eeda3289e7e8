//! An embedded broker's logs as copies reach them.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, ready};

use super::logs::{LocalLogs, LogEnd};
use super::{EpochEnd, GroupOffsets, Hole, Topic, TopicPartition};
use crate::broker::{Broker, Context, Copy, ReplicaOf, RequestId, StoredHole};
use crate::protocol::messages::OffsetCommitRequest;
use crate::protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::protocol::{ErrorCode, Response};
use crate::record::Batch;
use crate::transport::Embedded;
use crate::{Error, ErrorKind, Result};

/// Does `act` on the broker at once.
fn now<'a, T: Send + 'a>(
    broker: &Embedded,
    act: impl FnOnce(&mut Broker, i64) -> Result<T>,
) -> BoxFuture<'a, Result<T>> {
    ready(broker.with(act).and_then(|done| done)).boxed()
}

/// Does `act` on the broker and waits until what it changed is synced.
async fn synced<T>(broker: &Embedded, act: impl FnOnce(&mut Broker, RequestId, i64) -> Result<T>) -> Result<T> {
    let (asked, answer) = broker.ask(act)?;
    match answer.await? {
        Response::Heartbeat(response) if response.error_code == ErrorCode::NONE => Ok(asked),
        _ => Err(Error::new(
            ErrorKind::Closed,
            "a sync failed; open the broker anew, its start recovers what was synced",
        )),
    }
}

impl Embedded {
    /// What the copies here are of, if that was ever said.
    ///
    /// # Errors
    /// `Corrupt` if what was remembered is unreadable; `Closed` if the broker is.
    pub fn replica_of(&self) -> Result<Option<ReplicaOf>> {
        self.with(|broker, _| broker.replica_of())?
    }

    /// Remembers what the copies here are of; synced when it returns.
    ///
    /// # Errors
    /// What the device answers; `Closed` if the broker is.
    pub async fn set_replica_of(&self, of: &ReplicaOf) -> Result<()> {
        synced(self, |broker, id, now| {
            broker.set_replica_of(of, now)?;
            broker.sync_metadata(id, now)
        })
        .await
        .map(drop)
    }

    /// How each partition of the copies here stands, sorted by topic and number.
    ///
    /// # Errors
    /// `Corrupt` if what was remembered is unreadable; `Closed` if the broker is.
    pub fn copy_states(&self) -> Result<Vec<CopyState>> {
        self.with(|broker, _| {
            let mut states = Vec::new();
            for copy in broker.copies() {
                let topic: Arc<str> = copy.name.into();
                for partition in 0..copy.partitions {
                    let end = broker.log_end(&topic, partition);
                    states.push(CopyState {
                        start: end.map_or(0, |end| end.start),
                        end: end.map_or(0, |end| end.end),
                        bytes: end.map_or(0, |end| end.bytes),
                        holes: broker.holes(&topic, partition)?,
                        partition: TopicPartition::new(Arc::clone(&topic), partition),
                    });
                }
            }
            Ok(states)
        })?
    }
}

/// How a partition of a copy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Which.
    pub partition: TopicPartition,
    /// The log start offset.
    pub start: i64,
    /// The log end offset.
    pub end: i64,
    /// Bytes of its batches.
    pub bytes: u64,
    /// The latest hundred ranges of offsets that the source removed before they were copied.
    pub holes: Vec<StoredHole>,
}

impl LocalLogs for Embedded {
    fn create_copy<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>> {
        let copy = Copy {
            name: topic.name.clone(),
            id: topic.id,
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
            configs: topic.config.iter().cloned().collect(),
        };
        async move {
            synced(self, |broker, id, now| {
                broker.create_copy(&copy, now)?;
                broker.sync_metadata(id, now)
            })
            .await
            .map(drop)
        }
        .boxed()
    }

    fn delete_copy<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            synced(self, |broker, id, now| {
                broker.delete_copy(topic, now)?;
                broker.sync_metadata(id, now)
            })
            .await
            .map(drop)
        }
        .boxed()
    }

    fn copies(&self) -> BoxFuture<'_, Result<Vec<Topic>>> {
        now(self, |broker, _| {
            let node_id = broker.config().node_id;
            let topic = |copy: Copy| Topic {
                name: copy.name,
                id: copy.id,
                partitions: vec![vec![node_id]; usize::try_from(copy.partitions).unwrap_or(0)],
                replication_factor: 1,
                config: copy.configs.into_iter().collect(),
            };
            Ok(broker.copies().into_iter().map(topic).collect())
        })
    }

    fn log_ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<LogEnd>>>> {
        now(self, |broker, _| {
            let end = |at: &TopicPartition| {
                let found = broker.log_end(&at.topic, at.partition)?;
                Some(LogEnd { start: found.start, end: found.end, leader_epoch: found.leader_epoch })
            };
            Ok(partitions.iter().map(end).collect())
        })
    }

    fn epoch_end<'a>(
        &'a self,
        partition: &'a TopicPartition,
        leader_epoch: i32,
    ) -> BoxFuture<'a, Result<Option<EpochEnd>>> {
        now(self, |broker, _| {
            let found = broker.epoch_end(&partition.topic, partition.partition, leader_epoch);
            Ok(found.map(|(leader_epoch, end)| EpochEnd { leader_epoch, end }))
        })
    }

    fn append_copy<'a>(&'a self, partition: &'a TopicPartition, batches: Vec<Batch>) -> BoxFuture<'a, Result<()>> {
        now(self, |broker, now| broker.append_copy(&partition.topic, partition.partition, &batches, now))
    }

    fn truncate_copy<'a>(&'a self, partition: &'a TopicPartition, to: i64) -> BoxFuture<'a, Result<()>> {
        now(self, |broker, now| broker.truncate_copy(&partition.topic, partition.partition, to, now))
    }

    fn reset_copy<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>> {
        now(self, |broker, now| broker.reset_copy(&partition.topic, partition.partition, start, now))
    }

    fn note_hole<'a>(&'a self, partition: &'a TopicPartition, hole: Hole) -> BoxFuture<'a, Result<()>> {
        async move {
            synced(self, |broker, id, now| {
                broker.note_hole(&partition.topic, partition.partition, hole.start, hole.end, now)?;
                broker.sync_metadata(id, now)
            })
            .await
            .map(drop)
        }
        .boxed()
    }

    fn raise_start<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>> {
        now(self, |broker, now| broker.raise_start(&partition.topic, partition.partition, start, now))
    }

    fn raise_high_watermark<'a>(
        &'a self,
        partition: &'a TopicPartition,
        high_watermark: i64,
    ) -> BoxFuture<'a, Result<()>> {
        now(self, |broker, now| broker.raise_high_watermark(&partition.topic, partition.partition, high_watermark, now))
    }

    fn promote_copies<'a>(&'a self, topics: &'a [String]) -> BoxFuture<'a, Result<()>> {
        async move {
            synced(self, |broker, id, now| {
                broker.promote_copies(topics, now)?;
                broker.sync_metadata(id, now)
            })
            .await
            .map(drop)
        }
        .boxed()
    }

    fn commit_offsets<'a>(&'a self, groups: &'a [GroupOffsets]) -> BoxFuture<'a, Result<()>> {
        async move {
            for group in groups {
                let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
                for committed in &group.offsets {
                    let partition = OffsetCommitRequestPartition {
                        partition_index: committed.partition.partition,
                        committed_offset: committed.offset,
                        // The epochs are this broker's own from now on.
                        committed_leader_epoch: -1,
                        committed_metadata: Some(committed.metadata.clone()),
                    };
                    match topics.iter_mut().find(|topic| *topic.name == *committed.partition.topic) {
                        Some(topic) => topic.partitions.push(partition),
                        None => topics.push(OffsetCommitRequestTopic {
                            name: committed.partition.topic.to_string(),
                            partitions: vec![partition],
                            ..OffsetCommitRequestTopic::default()
                        }),
                    }
                }
                let request = OffsetCommitRequest {
                    group_id: group.group.clone(),
                    generation_id_or_member_epoch: -1,
                    topics,
                    ..OffsetCommitRequest::default()
                };
                let context = Context { version: 8, client_id: "ottla".into(), host: "/in-process".into() };
                let Response::OffsetCommit(response) = self.call(&context, request.into()).response().await? else {
                    return Err(Error::new(ErrorKind::Internal, "a commit was answered by something else"));
                };
                for topic in response.topics {
                    for partition in topic.partitions {
                        if partition.error_code != ErrorCode::NONE {
                            let at = format!(
                                "the group's offset cannot be committed group={} partition={}-{}",
                                group.group, topic.name, partition.partition_index
                            );
                            return Err(Error::from_code(partition.error_code, at));
                        }
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn sync_copy<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<i64>> {
        async move {
            synced(self, |broker, id, now| broker.sync_copy(id, &partition.topic, partition.partition, now)).await
        }
        .boxed()
    }
}
