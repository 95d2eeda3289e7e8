//! Offsets that are asked of leaders and coordinators: shared by consumers, admins and whoever copies.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use super::config::IsolationLevel;
use super::{Client, OffsetAndMetadata, OffsetAndTimestamp, TopicPartition, Topics, check, lock, repeat};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use crate::protocol::messages::{ListOffsetsRequest, OffsetFetchRequest};
use crate::protocol::{ApiKey, ErrorCode};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// Stands for a log's end in place of a time: the high watermark, or the last stable offset when only committed records are
/// read.
pub const LATEST: i64 = -1;
/// Stands for a log's start in place of a time.
pub const EARLIEST: i64 = -2;

/// What leaders answered, for each partition.
type Answers<T> = HashMap<TopicPartition, Result<T>>;

/// A topic, and its partitions with an item each.
type OfTopic<T> = (Arc<str>, Vec<(i32, T)>);

/// Items by topic, each topic once, in the order of their first.
pub(super) fn by_topic<T>(items: impl IntoIterator<Item = (TopicPartition, T)>) -> Vec<OfTopic<T>> {
    let mut topics: Vec<OfTopic<T>> = Vec::new();
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    for (name, item) in items {
        let place = *places.entry(Arc::clone(&name.topic)).or_insert_with(|| {
            topics.push((Arc::clone(&name.topic), Vec::new()));
            topics.len() - 1
        });
        topics[place].1.push((name.partition, item));
    }
    topics
}

impl Client {
    /// Where each log starts ([`EARLIEST`]), ends ([`LATEST`]), or has the first record of a time or later (offset -1 when there
    /// is none); asks again, up to `timeout`, where a leader has moved.
    pub async fn list_offsets(
        &self,
        wanted: Vec<(TopicPartition, i64)>,
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Result<OffsetAndTimestamp>>> {
        self.ask_leaders(wanted, timeout, |client, leader, wanted| {
            Box::pin(client.list_offsets_of(leader, wanted, isolation))
        })
        .await
    }

    /// As [`list_offsets`](Self::list_offsets), but asks only once.
    pub(crate) async fn list_offsets_once(
        &self,
        wanted: &[(TopicPartition, i64)],
        isolation: IsolationLevel,
    ) -> HashMap<TopicPartition, Result<OffsetAndTimestamp>> {
        self.ask_leaders_once(wanted, &|client, leader, wanted| {
            Box::pin(client.list_offsets_of(leader, wanted, isolation))
        })
        .await
    }

    async fn list_offsets_of(
        &self,
        leader: i32,
        wanted: Vec<(TopicPartition, i64)>,
        isolation: IsolationLevel,
    ) -> Result<Answers<OffsetAndTimestamp>> {
        let cluster = self.cluster();
        let epoch = |name: &TopicPartition| cluster.leader(&name.topic, name.partition).map_or(-1, |(_, epoch)| epoch);
        let wanted = wanted.into_iter().map(|(name, time)| {
            let epoch = epoch(&name);
            (name, (time, epoch))
        });
        let request = ListOffsetsRequest {
            replica_id: -1,
            isolation_level: isolation.code(),
            topics: by_topic(wanted)
                .into_iter()
                .map(|(topic, partitions)| ListOffsetsTopic {
                    name: topic.to_string(),
                    partitions: partitions
                        .into_iter()
                        .map(|(partition_index, (timestamp, current_leader_epoch))| ListOffsetsPartition {
                            partition_index,
                            timestamp,
                            current_leader_epoch,
                        })
                        .collect(),
                })
                .collect(),
            timeout_ms: i32::try_from(self.config().request_timeout_ms).unwrap_or(i32::MAX),
        };
        let response = self.call_node(leader, request).await?;
        let mut answers = HashMap::new();
        for topic in response.topics {
            let name: Arc<str> = Arc::from(topic.name);
            for answer in topic.partitions {
                let name = TopicPartition { topic: Arc::clone(&name), partition: answer.partition_index };
                let result = check(answer.error_code, None, format_args!("partition={name}"));
                let found = OffsetAndTimestamp {
                    offset: answer.offset,
                    timestamp: answer.timestamp,
                    leader_epoch: answer.leader_epoch,
                };
                answers.insert(name, result.map(|()| found));
            }
        }
        Ok(answers)
    }

    /// Asks the leaders of partitions, and again with new metadata those that failed but need not have.
    pub(super) async fn ask_leaders<W: Clone + Send + Sync, T>(
        &self,
        wanted: Vec<(TopicPartition, W)>,
        timeout: Duration,
        ask: impl for<'a> Fn(&'a Self, i32, Vec<(TopicPartition, W)>) -> BoxFuture<'a, Result<Answers<T>>>,
    ) -> Result<HashMap<TopicPartition, Result<T>>> {
        let answers: Mutex<Answers<T>> = Mutex::default();
        let asked = self
            .retry(timeout, || async {
                let left: Vec<(TopicPartition, W)> = {
                    let answers = lock(&answers);
                    wanted.iter().filter(|(name, _)| !answers.contains_key(name)).cloned().collect()
                };
                let mut again = None;
                for (name, result) in self.ask_leaders_once(&left, &ask).await {
                    match result {
                        Err(error) if error.is_retriable() || error.kind() == ErrorKind::Timeout => again = Some(error),
                        result => drop(lock(&answers).insert(name, result)),
                    }
                }
                let Some(error) = again else { return Ok(()) };
                self.refresh_for(left.iter().map(|(name, _)| name)).await;
                Err(error)
            })
            .await;
        let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = asked {
            // Some may have their answer all the same.
            for (name, _) in wanted {
                answers.entry(name).or_insert_with(|| Err(repeat(&error)));
            }
        }
        Ok(answers)
    }

    async fn ask_leaders_once<W: Clone, T>(
        &self,
        wanted: &[(TopicPartition, W)],
        ask: &impl for<'a> Fn(&'a Self, i32, Vec<(TopicPartition, W)>) -> BoxFuture<'a, Result<Answers<T>>>,
    ) -> Answers<T> {
        if wanted.iter().any(|(name, _)| !self.cluster().topics.contains_key(&name.topic)) {
            self.refresh_for(wanted.iter().map(|(name, _)| name)).await;
        }
        let cluster = self.cluster();
        let mut by_leader: HashMap<i32, Vec<(TopicPartition, W)>> = HashMap::new();
        let mut answers = HashMap::new();
        for (name, item) in wanted {
            if let Some((leader, _)) = cluster.leader(&name.topic, name.partition) {
                by_leader.entry(leader).or_default().push((name.clone(), item.clone()));
                continue;
            }
            let known = cluster.topics.get(&name.topic);
            let (code, what) = match known.and_then(|topic| topic.partition(name.partition)) {
                Some(_) => (ErrorCode::LEADER_NOT_AVAILABLE, "the partition has no leader"),
                None => (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "there is no such partition"),
            };
            answers.insert(name.clone(), Err(Error::from_code(code, format!("{what} partition={name}"))));
        }
        let calls = by_leader.into_iter().map(|(leader, wanted)| {
            let names: Vec<TopicPartition> = wanted.iter().map(|(name, _)| name.clone()).collect();
            let asked = ask(self, leader, wanted);
            async move { (names, asked.await) }
        });
        for (names, answer) in join_all(calls).await {
            let (mut found, lost) = match answer {
                Ok(found) => (found, Error::new(ErrorKind::Retriable, "the broker's answer leaves the partition out")),
                Err(error) => (HashMap::new(), error),
            };
            for name in names {
                let result = found.remove(&name).unwrap_or_else(|| Err(repeat(&lost)));
                answers.insert(name, result);
            }
        }
        answers
    }

    async fn refresh_for<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) {
        let topics: HashSet<Arc<str>> = partitions.map(|name| Arc::clone(&name.topic)).collect();
        let topics: Vec<Arc<str>> = topics.into_iter().collect();
        if let Err(error) = self.refresh(Topics::Named(&topics)).await {
            log::debug!("metadata could not be refreshed: {error}");
        }
    }

    /// What a group committed, as its coordinator says; for `partitions`, or for all.
    pub(crate) async fn committed_offsets(
        &self,
        coordinator: &Endpoint,
        group: &str,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<HashMap<TopicPartition, OffsetAndMetadata>> {
        let version = self.transport().versions(coordinator).await?.version_for(ApiKey::OFFSET_FETCH)?;
        let topics = partitions.map(|partitions| {
            let topics = by_topic(partitions.iter().map(|name| (name.clone(), ()))).into_iter();
            topics.map(|(topic, partitions)| {
                (topic.to_string(), partitions.into_iter().map(|(number, ())| number).collect::<Vec<i32>>())
            })
        });
        let mut request = OffsetFetchRequest { require_stable: version >= 7, ..Default::default() };
        // Version 8 asks for many groups in a field of its own.
        if version >= 8 {
            request.groups.push(OffsetFetchRequestGroup {
                group_id: group.to_owned(),
                member_id: None,
                topics: topics.map(|topics| {
                    let each = |(name, partition_indexes)| OffsetFetchRequestTopics {
                        name,
                        partition_indexes,
                        ..Default::default()
                    };
                    topics.map(each).collect()
                }),
                ..Default::default()
            });
        } else {
            group.clone_into(&mut request.group_id);
            request.topics = topics.map(|topics| {
                topics.map(|(name, partition_indexes)| OffsetFetchRequestTopic { name, partition_indexes }).collect()
            });
        }
        let mut response = self.call_endpoint(coordinator, request).await?;
        let mut rows = Vec::new();
        let code = match response.groups.pop() {
            Some(found) => {
                for topic in found.topics {
                    let name: Arc<str> = Arc::from(topic.name);
                    for row in topic.partitions {
                        let name = TopicPartition { topic: Arc::clone(&name), partition: row.partition_index };
                        let found = (row.committed_offset, row.metadata, row.committed_leader_epoch);
                        rows.push((name, row.error_code, found));
                    }
                }
                found.error_code
            }
            None => {
                for topic in response.topics {
                    let name: Arc<str> = Arc::from(topic.name);
                    for row in topic.partitions {
                        let name = TopicPartition { topic: Arc::clone(&name), partition: row.partition_index };
                        let found = (row.committed_offset, row.metadata, row.committed_leader_epoch);
                        rows.push((name, row.error_code, found));
                    }
                }
                response.error_code
            }
        };
        check(code, None, format_args!("group={group}"))?;
        let mut committed = HashMap::new();
        for (name, code, (offset, metadata, leader_epoch)) in rows {
            check(code, None, format_args!("group={group} partition={name}"))?;
            if offset >= 0 {
                let metadata = metadata.unwrap_or_default();
                committed.insert(name, OffsetAndMetadata { offset, metadata, leader_epoch });
            }
        }
        Ok(committed)
    }
}
