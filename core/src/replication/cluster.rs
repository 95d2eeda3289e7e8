//! A cluster as a source: any broker that speaks Kafka's protocol, real or embedded.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::{
    Bounds, ClusterSettings, CommittedOffset, EpochEnd, GroupOffsets, Identity, SHARE, Selection, Source, Topic,
    TopicPartition, Until, settings,
};
use crate::client::{Client, Cluster, Topics, check, repeat};
use crate::clock::Clock;
use crate::protocol::messages::describe_configs::DescribeConfigsResource;
use crate::protocol::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
};
use crate::protocol::messages::fetch::{FetchPartition, FetchTopic};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::offset_fetch::OffsetFetchRequestGroup;
use crate::protocol::messages::offset_for_leader_epoch::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use crate::protocol::messages::{
    DescribeConfigsRequest, FetchRequest, ListGroupsRequest, ListOffsetsRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
};
use crate::protocol::{ApiKey, ErrorCode};
use crate::{Error, ErrorKind, Result, Timestamp};

pub(super) const LATEST: i64 = -1;
pub(super) const EARLIEST: i64 = -2;
/// How long something that may pass is tried again: a leader that moves, a connection that breaks.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many topics or partitions one request asks about, at most.
const ASKED_AT_ONCE: usize = 2_000;
/// How many groups are asked for their offsets at a time.
const GROUPS_AT_ONCE: usize = 8;
/// How often a broker that has records below the high watermark may send none, before that is believed.
const EMPTY_ANSWERS: u32 = 3;
/// What may be asked for at once, however little may be read in a second.
const LEAST_AT_ONCE: usize = 64 << 10;
/// How long a broker may wait for records; there are some, so it does not.
const MAX_WAIT_MS: i32 = 500;
/// A topic's configuration that was set on the topic itself (`DYNAMIC_TOPIC_CONFIG`).
const SET_ON_TOPIC: i8 = 1;
const TOPIC_RESOURCE: i8 = 2;

/// A cluster as a source.
///
/// Reads raw batches from leaders, as consumers do: up to the high watermark. Follows leaders where they move, and waits up to
/// a minute for one that is away.
#[derive(Clone, Debug)]
pub struct ClusterSource {
    client: Client,
    patience: Duration,
    limit: Option<Arc<Limit>>,
    /// The shortest time in which a leader has told where logs begin or end.
    round_trip: Arc<Mutex<Option<Duration>>>,
}

/// How many bytes are read in a second, at most: who has read some waits for as long as they should have taken.
#[derive(Debug)]
pub(super) struct Limit {
    bytes_per_second: u64,
    /// Until when what was read so far may take.
    spent_until: Mutex<Duration>,
}

impl Limit {
    /// As many bytes as may be asked for at once: those of a second, but not so few that each record is a request.
    pub(super) fn at_once(&self, max_bytes: usize) -> usize {
        max_bytes.min(usize::try_from(self.bytes_per_second).unwrap_or(usize::MAX).max(LEAST_AT_ONCE))
    }

    /// Returns when `bytes` that have come may have come.
    pub(super) async fn spend(&self, bytes: usize, clock: &dyn Clock) {
        if bytes == 0 {
            return;
        }
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let wait = {
            let now = clock.monotonic();
            let mut until = self.spent_until.lock().unwrap_or_else(PoisonError::into_inner);
            *until = (*until).max(now).saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
            until.saturating_sub(now)
        };
        clock.sleep(wait).await;
    }
}

impl ClusterSource {
    /// The cluster that `client` reaches.
    pub fn new(client: Client) -> Self {
        Self { client, patience: PATIENCE, limit: None, round_trip: Arc::default() }
    }

    /// The same, reading so many bytes of batches in a second at most; `None` for no limit. Clones share the limit.
    #[must_use]
    pub fn limited(self, bytes_per_second: Option<u64>) -> Self {
        let limit = |bytes_per_second| Arc::new(Limit { bytes_per_second, spent_until: Mutex::default() });
        Self { limit: bytes_per_second.map(limit), ..self }
    }

    pub(super) fn limit(&self) -> Option<&Limit> {
        self.limit.as_deref()
    }

    /// The same, trying what may pass for so long.
    #[must_use]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How long it tries what may pass.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Its client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks the leaders of `partitions` with `ask`, which gets a leader's id and indexes into `partitions`, until each has
    /// answered, failed for good, or tried long enough. One answer for each, in their order.
    pub(super) async fn ask_leaders<'a, T: Send + 'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        ask: impl Fn(i32, Arc<Cluster>, Vec<usize>) -> BoxFuture<'a, Result<Vec<(usize, Result<T>)>>> + Send + Sync + 'a,
    ) -> Vec<Result<T>> {
        let clock = self.client.clock();
        let deadline = clock.monotonic().saturating_add(self.patience);
        let mut answers: Vec<Option<Result<T>>> = partitions.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..partitions.len()).collect();
        for tries in 0.. {
            let cluster = self.cluster(partitions, &open, tries > 0).await;
            let mut failed: Vec<(usize, Error)> = Vec::new();
            let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
            match &cluster {
                Err(error) => failed.extend(open.drain(..).map(|index| (index, repeat(error)))),
                Ok(cluster) => {
                    for index in open.drain(..) {
                        match leader(cluster, &partitions[index]) {
                            Ok(leader) => by_leader.entry(leader).or_default().push(index),
                            Err(error) => failed.push((index, error)),
                        }
                    }
                }
            }
            let mut calls = Vec::new();
            for (leader, indexes) in by_leader {
                for indexes in indexes.chunks(ASKED_AT_ONCE) {
                    let Ok(cluster) = &cluster else { continue };
                    let call = ask(leader, Arc::clone(cluster), indexes.to_vec());
                    let indexes = indexes.to_vec();
                    calls.push(call.map(|answer| (indexes, answer)).boxed());
                }
            }
            for (indexes, answer) in join_all(calls).await {
                match answer {
                    Err(error) => failed.extend(indexes.into_iter().map(|index| (index, repeat(&error)))),
                    Ok(found) => {
                        let mut missing: Vec<usize> = indexes;
                        for (index, answer) in found {
                            missing.retain(|asked| *asked != index);
                            match answer {
                                Err(error) => failed.push((index, error)),
                                answer => answers[index] = Some(answer),
                            }
                        }
                        failed.extend(missing.into_iter().map(|index| (index, unanswered())));
                    }
                }
            }
            let pause = self.client.backoff(tries);
            let is_late = clock.monotonic().saturating_add(pause) >= deadline;
            for (index, error) in failed {
                if error.is_retriable() && !is_late {
                    open.push(index);
                } else {
                    answers[index] = Some(Err(error));
                }
            }
            if open.is_empty() {
                break;
            }
            clock.sleep(pause).await;
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unanswered()))).collect()
    }

    /// What is known of the cluster, with the leaders of the partitions at `indexes`; asked anew if that is wanted.
    pub(super) async fn cluster(
        &self,
        partitions: &[TopicPartition],
        indexes: &[usize],
        anew: bool,
    ) -> Result<Arc<Cluster>> {
        let cluster = self.client.cluster();
        let mut topics: Vec<Arc<str>> = indexes
            .iter()
            .map(|&index| &partitions[index])
            .filter(|partition| anew || cluster.leader(&partition.topic, partition.partition).is_none())
            .map(|partition| Arc::clone(&partition.topic))
            .collect();
        topics.sort_unstable();
        topics.dedup();
        if topics.is_empty() {
            return Ok(cluster);
        }
        self.client.refresh_with(Topics::Named(&topics), false).await
    }

    /// The offsets at `timestamp` (a log's end or start), with the leader epoch of each partition.
    pub(super) async fn offsets(
        &self,
        partitions: &[TopicPartition],
        timestamp: i64,
        isolation_level: i8,
    ) -> Vec<Result<(i64, i32)>> {
        self.ask_leaders(partitions, move |leader, cluster, indexes| {
            async move {
                let topics = by_topic(partitions, &indexes, |index| ListOffsetsPartition {
                    partition_index: partitions[index].partition,
                    current_leader_epoch: leader_epoch(&cluster, &partitions[index]),
                    timestamp,
                });
                let topics = topics.into_iter().map(|(name, partitions)| ListOffsetsTopic { name, partitions });
                let request = ListOffsetsRequest {
                    replica_id: -1,
                    isolation_level,
                    topics: topics.collect(),
                    ..Default::default()
                };
                let asked_at = self.client.clock().monotonic();
                let response = self.client.call_node(leader, request).await?;
                let took = self.client.clock().monotonic().saturating_sub(asked_at);
                {
                    let mut known = self.round_trip.lock().unwrap_or_else(PoisonError::into_inner);
                    *known = Some(known.map_or(took, |known| known.min(took)));
                }
                let places = places(partitions, &indexes);
                let found = response
                    .topics
                    .iter()
                    .flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.name, partition)));
                Ok(found
                    .filter_map(|(topic, answer)| {
                        let index = *places.get(&(topic.as_str(), answer.partition_index))?;
                        let epoch = leader_epoch(&cluster, &partitions[index]).max(answer.leader_epoch);
                        let checked = check(answer.error_code, None, &partitions[index]);
                        Some((index, checked.map(|()| (answer.offset, epoch))))
                    })
                    .collect())
            }
            .boxed()
        })
        .await
    }

    /// One Fetch from the leader.
    async fn fetch(&self, partition: &TopicPartition, offset: i64, max_bytes: usize, anew: bool) -> Result<Fetched> {
        let cluster = self.cluster(std::slice::from_ref(partition), &[0], anew).await?;
        let max_bytes = i32::try_from(max_bytes).unwrap_or(i32::MAX);
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: MAX_WAIT_MS,
            min_bytes: 1,
            max_bytes,
            isolation_level: 0,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: partition.topic.to_string(),
                partitions: vec![FetchPartition {
                    partition: partition.partition,
                    // A leader that was replaced and does not know it yet refuses instead of answering from the past.
                    current_leader_epoch: leader_epoch(&cluster, partition),
                    fetch_offset: offset,
                    last_fetched_epoch: -1,
                    log_start_offset: -1,
                    partition_max_bytes: max_bytes,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let response = self.client.call_node(leader(&cluster, partition)?, request).await?;
        check(response.error_code, None, partition)?;
        let answer = response
            .responses
            .into_iter()
            .filter(|topic| *topic.topic == *partition.topic)
            .flat_map(|topic| topic.partitions)
            .find(|answer| answer.partition_index == partition.partition)
            .ok_or_else(unanswered)?;
        check(answer.error_code, None, format_args!("{partition} offset={offset}"))?;
        Ok(Fetched {
            records: answer.records.unwrap_or_default(),
            high_watermark: answer.high_watermark,
            throttled: Duration::from_millis(u64::try_from(response.throttle_time_ms).unwrap_or(0)),
        })
    }

    /// The topics that `selection` chooses, of those that are there. Those that are `known` have the configuration they are known by.
    pub(super) async fn topics_beyond(
        &self,
        selection: &Selection,
        known: &BTreeMap<String, Topic>,
    ) -> Result<Vec<Topic>> {
        // Also where only names are chosen: a topic that is asked for by name is made, where brokers do that.
        let cluster = self.client.retry(self.patience, || self.client.refresh_with(Topics::All, false)).await?;
        let mut chosen: Vec<_> = cluster.topics.values().filter(|topic| selection.matches(&topic.name)).collect();
        chosen.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let known = |topic: &crate::client::Topic| known.get(&*topic.name).filter(|known| known.id == topic.id);
        let asked = chosen.iter().filter(|topic| known(topic).is_none());
        let asked: Vec<Arc<str>> = asked.map(|topic| Arc::clone(&topic.name)).collect();
        let mut configs = self.configs(&asked).await?;
        let topics = chosen.into_iter().map(|topic| {
            let replicas: Vec<Vec<i32>> = topic.partitions.iter().map(|known| known.replicas.clone()).collect();
            let config = match known(topic) {
                Some(known) => known.config.clone(),
                None => configs.remove(&*topic.name).unwrap_or_default(),
            };
            Topic {
                name: topic.name.to_string(),
                id: topic.id,
                replication_factor: replicas.first().map_or(-1, |first| i16::try_from(first.len()).unwrap_or(-1)),
                partitions: replicas,
                config,
            }
        });
        Ok(topics.collect())
    }

    /// The options that were set on `topics` themselves.
    async fn configs(&self, topics: &[Arc<str>]) -> Result<HashMap<String, Vec<(String, String)>>> {
        let mut configs = HashMap::new();
        for topics in topics.chunks(ASKED_AT_ONCE) {
            let resources = topics.iter().map(|topic| DescribeConfigsResource {
                resource_type: TOPIC_RESOURCE,
                resource_name: topic.to_string(),
                configuration_keys: None,
            });
            let request = DescribeConfigsRequest { resources: resources.collect(), ..Default::default() };
            let response = self.client.retry(self.patience, || self.client.call_any(request.clone())).await?;
            for result in response.results {
                if let Err(error) = check(result.error_code, result.error_message.as_deref(), &result.resource_name) {
                    // Read rights on records do not bring those on configurations.
                    if error.kind() != ErrorKind::Denied {
                        return Err(error);
                    }
                    log::warn!("a topic's configuration cannot be read: {error}");
                }
                let mut entries: Vec<(String, String)> = result
                    .configs
                    .into_iter()
                    .filter(|entry| entry.config_source == SET_ON_TOPIC && !entry.is_sensitive)
                    .filter_map(|entry| Some((entry.name, entry.value?)))
                    .collect();
                entries.sort_unstable();
                configs.insert(result.resource_name, entries);
            }
        }
        Ok(configs)
    }

    /// The groups that each broker coordinates.
    async fn groups(&self, selection: &Selection) -> Result<Vec<ListedGroup>> {
        let cluster = self.client.retry(self.patience, || self.client.refresh_with(Topics::None, false)).await?;
        let mut groups = Vec::new();
        for node_id in cluster.brokers.keys() {
            let list = || async {
                let response = self.client.call_node(*node_id, ListGroupsRequest::default()).await?;
                check(response.error_code, None, format_args!("node={node_id}"))?;
                Ok(response.groups)
            };
            let listed = match self.client.retry(self.patience, list).await {
                Err(error) if error.kind() == ErrorKind::Denied => {
                    log::warn!("groups cannot be listed: {error}");
                    continue;
                }
                listed => listed?,
            };
            let chosen = listed.into_iter().filter(|it| selection.is_all() || selection.matches(&it.group_id));
            groups.extend(chosen.map(|group| ListedGroup {
                node_id: *node_id,
                group: group.group_id,
                kind: group.group_type,
            }));
        }
        groups.sort_unstable_by(|a: &ListedGroup, b| a.group.cmp(&b.group));
        groups.dedup_by(|a, b| a.group == b.group);
        Ok(groups)
    }

    /// What `group` has committed, as the broker that coordinates it says.
    async fn group_offsets(&self, node_id: i32, group: &str) -> Result<Vec<CommittedOffset>> {
        let cluster = self.client.cluster();
        let broker = cluster.brokers.get(&node_id).ok_or_else(unanswered)?;
        let versions = self.client.transport().versions(&broker.endpoint).await?;
        let mut request = OffsetFetchRequest::default();
        // Version 8 asks for many groups in a field of its own.
        if versions.version_for(ApiKey::OFFSET_FETCH)? >= 8 {
            request.groups.push(OffsetFetchRequestGroup {
                group_id: group.to_owned(),
                member_id: None,
                member_epoch: -1,
                topics: None,
            });
        } else {
            group.clone_into(&mut request.group_id);
            request.topics = None;
        }
        let mut response = self.client.call_node(node_id, request).await?;
        check(response.error_code, None, format_args!("group={group}"))?;
        let mut offsets = Vec::new();
        let mut add = |topic: &Arc<str>, partition, offset, leader_epoch, metadata: Option<String>, code| {
            check(code, None, format_args!("group={group} partition={topic}-{partition}"))?;
            if offset >= 0 {
                let partition = TopicPartition::new(Arc::clone(topic), partition);
                let metadata = metadata.unwrap_or_default();
                offsets.push(CommittedOffset { partition, offset, leader_epoch, metadata });
            }
            Ok::<_, Error>(())
        };
        for topic in response.topics {
            let name: Arc<str> = topic.name.into();
            for p in topic.partitions {
                add(&name, p.partition_index, p.committed_offset, p.committed_leader_epoch, p.metadata, p.error_code)?;
            }
        }
        if let Some(answer) = response.groups.pop() {
            check(answer.error_code, None, format_args!("group={group}"))?;
            for topic in answer.topics {
                let name: Arc<str> = topic.name.into();
                for p in topic.partitions {
                    add(
                        &name,
                        p.partition_index,
                        p.committed_offset,
                        p.committed_leader_epoch,
                        p.metadata,
                        p.error_code,
                    )?;
                }
            }
        }
        Ok(offsets)
    }

    /// Where the share group `group` (KIP-932) starts in each partition.
    async fn share_group_offsets(&self, node_id: i32, group: &str) -> Result<Vec<CommittedOffset>> {
        let asked = DescribeShareGroupOffsetsRequestGroup { group_id: group.to_owned(), topics: None };
        let request = DescribeShareGroupOffsetsRequest { groups: vec![asked] };
        let mut offsets = Vec::new();
        for answer in self.client.call_node(node_id, request).await?.groups {
            check(answer.error_code, answer.error_message.as_deref(), format_args!("group={group}"))?;
            for topic in answer.topics {
                let name: Arc<str> = topic.topic_name.into();
                for p in topic.partitions {
                    let facts = format_args!("group={group} partition={name}-{}", p.partition_index);
                    check(p.error_code, p.error_message.as_deref(), facts)?;
                    if p.start_offset >= 0 {
                        offsets.push(CommittedOffset {
                            partition: TopicPartition::new(Arc::clone(&name), p.partition_index),
                            offset: p.start_offset,
                            leader_epoch: p.leader_epoch,
                            metadata: String::new(),
                        });
                    }
                }
            }
        }
        Ok(offsets)
    }

    /// As [`group_offsets`](Self::group_offsets), wherever the coordinator moves; `None` for a group that has gone or that
    /// is of a kind without committed offsets.
    async fn offsets_of_group(&self, listed: &ListedGroup) -> Result<Option<GroupOffsets>> {
        let ListedGroup { node_id, group, kind } = listed;
        let node = std::sync::atomic::AtomicI32::new(*node_id);
        let ask = || async {
            let node_id = node.load(std::sync::atomic::Ordering::Relaxed);
            let asked = match kind.as_str() {
                SHARE => self.share_group_offsets(node_id, group).await,
                _ => self.group_offsets(node_id, group).await,
            };
            if let Err(error) = &asked
                && error.is_retriable()
                && let Ok(coordinator) = self.client.coordinator(crate::client::CoordinatorType::Group, group).await
            {
                node.store(coordinator.node_id, std::sync::atomic::Ordering::Relaxed);
            }
            asked
        };
        match self.client.retry(self.patience, ask).await {
            Ok(offsets) => Ok(Some(GroupOffsets { group: group.clone(), kind: kind.clone(), offsets })),
            Err(error) if error.code() == Some(ErrorCode::GROUP_ID_NOT_FOUND) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Denied => {
                log::warn!("a group's offsets cannot be read: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// A group, as the broker that coordinates it lists it.
#[derive(Clone, Debug)]
struct ListedGroup {
    node_id: i32,
    group: String,
    kind: String,
}

struct Fetched {
    records: Bytes,
    high_watermark: i64,
    throttled: Duration,
}

impl Source for ClusterSource {
    fn identity(&self) -> BoxFuture<'_, Result<Identity>> {
        async move {
            let cluster = self.client.retry(self.patience, || self.client.refresh_with(Topics::None, false)).await?;
            let bootstrap = &self.client.config().bootstrap_servers;
            let address: Vec<String> = bootstrap.iter().map(ToString::to_string).collect();
            Ok(Identity { cluster_id: cluster.cluster_id.clone(), address: address.join(",") })
        }
        .boxed()
    }

    fn topics<'a>(&'a self, selection: &'a Selection) -> BoxFuture<'a, Result<Vec<Topic>>> {
        async move {
            let topics = self.topics_beyond(selection, &BTreeMap::new()).await?;
            selection.check_names_found("topic", topics.iter().map(|topic| topic.name.as_str()))?;
            Ok(topics)
        }
        .boxed()
    }

    fn committed<'a>(
        &'a self,
        topics: &'a [Topic],
        selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Vec<GroupOffsets>>> {
        async move {
            let groups = self.groups(selection).await?;
            let groups: Vec<Option<GroupOffsets>> = stream::iter(0..groups.len())
                .map(|index| self.offsets_of_group(&groups[index]).boxed())
                .buffered(GROUPS_AT_ONCE)
                .try_collect()
                .await?;
            let is_chosen = |offset: &CommittedOffset| {
                let known = topics.binary_search_by(|topic| (*topic.name).cmp(&offset.partition.topic));
                known.is_ok_and(|index| (offset.partition.partition as usize) < topics[index].partitions.len())
            };
            let groups = groups.into_iter().flatten().map(|mut group| {
                group.offsets.retain(is_chosen);
                group.offsets.sort_unstable_by(|a, b| a.partition.cmp(&b.partition));
                group
            });
            Ok(groups.filter(|group| !group.offsets.is_empty()).collect())
        }
        .boxed()
    }

    fn settings(&self) -> BoxFuture<'_, Result<ClusterSettings>> {
        settings::read(&self.client, self.patience).boxed()
    }

    fn bounds<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        until: Until,
    ) -> BoxFuture<'a, Result<Vec<Result<Bounds>>>> {
        let isolation_level = match until {
            Until::HighWatermark => 0,
            Until::LastStable => 1,
        };
        async move {
            let (starts, ends) = futures::join!(
                self.offsets(partitions, EARLIEST, 0),
                self.offsets(partitions, LATEST, isolation_level)
            );
            let bounds = starts.into_iter().zip(ends).map(|(start, end)| {
                let ((start, _), (end, leader_epoch)) = (start?, end?);
                // Retention may have gone on between the two.
                Ok(Bounds { start: start.clamp(0, end.max(0)), end: end.max(0), leader_epoch })
            });
            Ok(bounds.collect())
        }
        .boxed()
    }

    fn round_trip(&self) -> Duration {
        self.round_trip.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default()
    }

    fn offsets_at<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        time: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Result<Option<i64>>>>> {
        async move {
            let found = self.offsets(partitions, time.max(0), 0).await;
            Ok(found.into_iter().map(|found| found.map(|(offset, _)| Some(offset).filter(|at| *at >= 0))).collect())
        }
        .boxed()
    }

    fn epoch_ends<'a>(
        &'a self,
        epochs: &'a [(TopicPartition, i32)],
    ) -> BoxFuture<'a, Result<Vec<Result<Option<EpochEnd>>>>> {
        async move {
            let partitions: Vec<TopicPartition> = epochs.iter().map(|(partition, _)| partition.clone()).collect();
            let (names, asked) = (&partitions, epochs);
            let ends = self
                .ask_leaders(names, move |leader, cluster, indexes| {
                    async move {
                        let topics = by_topic(names, &indexes, |index| OffsetForLeaderPartition {
                            partition: names[index].partition,
                            current_leader_epoch: leader_epoch(&cluster, &names[index]),
                            leader_epoch: asked[index].1,
                        });
                        let topics =
                            topics.into_iter().map(|(topic, partitions)| OffsetForLeaderTopic { topic, partitions });
                        let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: topics.collect() };
                        let response = match self.client.call_node(leader, request).await {
                            // A broker that keeps no epochs. Checksums have to tell.
                            Err(error) if error.kind() == ErrorKind::Unsupported => {
                                return Ok(indexes.into_iter().map(|index| (index, Ok(None))).collect());
                            }
                            response => response?,
                        };
                        let places = places(names, &indexes);
                        let found = response
                            .topics
                            .iter()
                            .flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.topic, partition)));
                        Ok(found
                            .filter_map(|(topic, answer)| {
                                let index = *places.get(&(topic.as_str(), answer.partition))?;
                                let end = EpochEnd { leader_epoch: answer.leader_epoch, end: answer.end_offset };
                                let checked = check(answer.error_code, None, &names[index]);
                                Some((index, checked.map(|()| Some(end).filter(|end| end.end >= 0))))
                            })
                            .collect())
                    }
                    .boxed()
                })
                .await;
            Ok(ends)
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        offset: i64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            let clock = self.client.clock();
            let deadline = clock.monotonic().saturating_add(self.patience);
            let mut empty = 0;
            let mut is_anew = false;
            let max_bytes = self.limit().map_or(max_bytes, |limit| limit.at_once(max_bytes));
            for tries in 0.. {
                let pause = match self.fetch(partition, offset, max_bytes, is_anew).await {
                    Ok(fetched) if !fetched.records.is_empty() || offset >= fetched.high_watermark => {
                        if let Some(limit) = self.limit() {
                            limit.spend(fetched.records.len(), &**clock).await;
                        }
                        return Ok(fetched.records);
                    }
                    // A quota is kept by answers without records (KIP-219).
                    Ok(fetched) if !fetched.throttled.is_zero() => fetched.throttled,
                    Ok(fetched) => {
                        empty += 1;
                        if empty >= EMPTY_ANSWERS {
                            return Ok(fetched.records);
                        }
                        continue;
                    }
                    Err(error) => {
                        let pause = self.client.backoff(tries);
                        if !error.is_retriable() || clock.monotonic().saturating_add(pause) >= deadline {
                            return Err(error);
                        }
                        is_anew = true;
                        pause
                    }
                };
                clock.sleep(pause).await;
            }
            Err(unanswered())
        }
        .boxed()
    }
}

/// The leader's id, or why there is none to ask.
pub(super) fn leader(cluster: &Cluster, partition: &TopicPartition) -> Result<i32> {
    if let Some((leader, _)) = cluster.leader(&partition.topic, partition.partition) {
        return Ok(leader);
    }
    let is_known = cluster.partition(&partition.topic, partition.partition).is_some();
    let code = if is_known { ErrorCode::LEADER_NOT_AVAILABLE } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
    Err(Error::from_code(code, code.message()))
}

fn leader_epoch(cluster: &Cluster, partition: &TopicPartition) -> i32 {
    cluster.leader(&partition.topic, partition.partition).map_or(-1, |(_, epoch)| epoch)
}

/// What is asked about the partitions at `indexes`, topic by topic.
fn by_topic<T>(partitions: &[TopicPartition], indexes: &[usize], ask: impl Fn(usize) -> T) -> Vec<(String, Vec<T>)> {
    let mut topics: BTreeMap<&str, Vec<T>> = BTreeMap::new();
    for &index in indexes {
        topics.entry(&partitions[index].topic).or_default().push(ask(index));
    }
    topics.into_iter().map(|(topic, asked)| (topic.to_owned(), asked)).collect()
}

/// Where in `partitions` an answer belongs.
fn places<'a>(partitions: &'a [TopicPartition], indexes: &[usize]) -> HashMap<(&'a str, i32), usize> {
    indexes.iter().map(|&index| ((&*partitions[index].topic, partitions[index].partition), index)).collect()
}

pub(super) fn unanswered() -> Error {
    Error::new(ErrorKind::Retriable, "the broker left a partition out of its answer")
}
