//! Keeping up with a leader.
//!
//! A [`Follower`] copies the partitions of a cluster into local logs and goes on as they grow. It has two manners:
//!
//! - *Asynchronous*, which is also a local replica: it fetches as a consumer does, up to the high watermark, and the cluster
//!   knows nothing of it. Any Kafka will do.
//! - *Synchronous*: it fetches with a replica id, to the leader's end, and each fetch starts where its log is synced, so that
//!   the fetch is the acknowledgement. An Ottla leader counts it among the in-sync replicas.
//!
//! For each leader there is one loop: fetch, check, append, sync, fetch again from the end. A partition enters its loop by the
//! parting check (leader epochs, KIP-101 and 279), and does so anew whenever anything about its leader has changed or failed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};

use super::{
    Assignment, Bounds, ClusterSource, Copied, CopyOptions, EpochEnd, GroupOffsets, Hole, LocalLogs, LogSink, Parting,
    Portion, Progress, Run, Selection, Sink, Source, Topic, TopicPartition, Until, agreed_ends, assign_portion, copy,
    worth_waiting_for,
};
use crate::broker::METADATA_TOPIC;
use crate::client::{Client, Topics};
use crate::protocol::ErrorCode;
use crate::protocol::messages::fetch::{
    FetchPartition, FetchTopic, FetchableTopicResponse, ForgottenTopic, PartitionData,
};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How many looks at the cluster go between two at the configurations of known topics.
const CONFIGS_EVERY: u64 = 10;
/// How long a partition that could not be settled is left alone.
const RETRY: Duration = Duration::from_millis(200);
/// How long a full disk is left alone before what has come is written again.
const PAUSE_WHEN_FULL: Duration = Duration::from_secs(1);
/// How long a follower's own questions are tried before it looks at the cluster again.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to do about a topic that its source has deleted and made anew under the same name: another id, another history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recreated {
    /// Leave the copy as it is and say so.
    #[default]
    Refuse,
    /// Remove the copy and copy the new topic from its beginning.
    Restart,
}

/// What to replicate, and how.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReplicateOptions {
    /// Which topics. Default: all but Kafka's own.
    pub topics: Selection,
    /// Which part of them. Default: all.
    pub portion: Portion,
    /// Whether to drop what is here of these topics and to copy them anew. Default: no.
    pub full: bool,
    /// What to do about topics that were made anew. Default: leave them. `full` starts over with them, too.
    pub recreated: Recreated,
    /// What to do with records that the source never had. Default: cut them off.
    pub parting: Parting,
    /// How to copy.
    pub copy: CopyOptions,
}

impl Default for ReplicateOptions {
    fn default() -> Self {
        Self {
            topics: Selection::all(),
            portion: Portion::default(),
            full: false,
            recreated: Recreated::Refuse,
            parting: Parting::CutBack,
            copy: CopyOptions::default(),
        }
    }
}

/// Copies what `options` choose of `source` into `logs` once, from where they end, and returns when that is synced.
///
/// Topics are made where they are not there, and get the source's partitions and configuration. What a partition fails with,
/// or a topic that cannot be a copy here (`AlreadyExists` if `logs` have another of that name), is in its place in the result.
///
/// # Errors
/// `NotFound` if a topic or partition is not there.
pub async fn replicate(
    source: &dyn Source,
    logs: &dyn LocalLogs,
    options: &ReplicateOptions,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Copied> {
    let mut topics = source.topics(&options.topics).await?;
    options.portion.check_found(&topics)?;
    let anew = options.full || options.recreated == Recreated::Restart;
    let known = if anew { logs.copies().await? } else { Vec::new() };
    let mut refused = Vec::new();
    for topic in &topics {
        if let Some(copy) = known.iter().find(|copy| copy.name == topic.name) {
            let is_another = copy.id != topic.id && !topic.id.is_nil();
            if options.full || is_another {
                log::info!("starting over topic={} topic_id={} source_topic_id={}", topic.name, copy.id, topic.id);
            }
            if is_another {
                logs.delete_copy(&topic.name).await?;
            }
        }
        let made = logs.create_copy(topic).await;
        match made {
            Ok(()) => {}
            // The others can be copied.
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Invalid) => {
                refused.push((topic.name.clone(), error));
                continue;
            }
            Err(error) => return Err(error),
        }
        if options.full {
            for partition in topic.topic_partitions().filter(|partition| options.portion.includes(partition)) {
                logs.reset_copy(&partition, 0).await?;
            }
        }
    }
    topics.retain(|topic| refused.iter().all(|(name, _)| *name != topic.name));
    let mut assignments = Vec::new();
    let mut failed = Vec::new();
    let assigned = assign_portion(source, &topics, &options.portion, Until::HighWatermark).await?;
    for (place, assignment) in assigned.into_iter().enumerate() {
        match assignment {
            Ok(assignment) => assignments.push(assignment),
            Err(error) => failed.push((place, error)),
        }
    }
    let sink = LogSink::new(logs, options.parting);
    options.portion.narrow(source, &sink, &mut assignments).await?;
    let mut copied = copy(source, &sink, &assignments, &options.copy, progress).await?;
    for (place, error) in failed {
        copied.partitions.insert(place, Err(error));
    }
    copied.partitions.extend(refused.into_iter().map(|(_, error)| Err(error)));
    Ok(copied)
}

/// How to follow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FollowerOptions {
    /// Which topics. Default: all but Kafka's own.
    pub topics: Selection,
    /// Which part of them, for an asynchronous follower. Default: all.
    pub portion: Portion,
    /// The node id to fetch with, for a synchronous follower; `None`, the default, for an asynchronous one. Kafka's leaders
    /// refuse replicas that are not theirs: only for an Ottla leader.
    pub replica_id: Option<i32>,
    /// Whether a topic that was followed, and that the leader no longer has or has under another id, is deleted here, too.
    /// Default: no.
    pub follow_deletions: bool,
    /// What to do about a topic that the leader has made anew. Default: leave the copy, and say so.
    pub recreated: Recreated,
    /// The id of the cluster that is followed: another one is refused. Default: that of the one that answers first.
    pub cluster_id: Option<String>,
    /// Whose committed offsets follow, too. Default: nobody's.
    pub groups: Option<Selection>,
    /// How often to look for topics, partitions, configurations and committed offsets. Default 1 s.
    pub refresh_interval: Duration,
    /// How many bytes a fetch brings at most, about; for an asynchronous follower those from all leaders together. Default 16 MiB.
    pub max_bytes: usize,
    /// How many of them from one partition; an asynchronous follower takes more while few partitions are behind. Default 2 MiB.
    pub partition_max_bytes: usize,
    /// How long the leader may wait for records. Default 500 ms.
    pub max_wait: Duration,
}

impl Default for FollowerOptions {
    fn default() -> Self {
        Self {
            topics: Selection::all(),
            portion: Portion::default(),
            replica_id: None,
            follow_deletions: false,
            recreated: Recreated::Refuse,
            cluster_id: None,
            groups: None,
            refresh_interval: Duration::from_secs(1),
            max_bytes: 16 << 20,
            partition_max_bytes: 2 << 20,
            max_wait: Duration::from_millis(500),
        }
    }
}

/// How far a partition is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The end at the leader as it was last told: its high watermark, and for a synchronous follower no less than what it has.
    pub source_end: i64,
    /// The end here.
    pub local_end: i64,
    /// The leader's id.
    pub leader: Option<i32>,
    /// When the leader last had nothing more than what is here.
    pub at_end: Option<Timestamp>,
    /// Records that came since the follower was started.
    pub records: u64,
    /// Bytes that came since the follower was started.
    pub bytes: u64,
    /// Offsets that the leader no longer had when they were to be copied.
    pub holes: Vec<Hole>,
    /// What is wrong, while it is.
    pub error: Option<String>,
}

impl PartitionStatus {
    /// How many offsets are missing here.
    pub fn lag(&self) -> u64 {
        self.source_end.saturating_sub(self.local_end).max(0) as u64
    }

    /// Whether it has been at the leader's end and nothing is missing that is known of.
    pub fn is_caught_up(&self) -> bool {
        self.at_end.is_some() && self.lag() == 0 && self.error.is_none()
    }
}

/// A handle to something that follows. Its driver does the work; dropping that, or [`stop`](Self::stop), ends it at any point
/// without harm.
#[derive(Clone, Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    abort: AbortHandle,
}

struct Shared {
    source: ClusterSource,
    /// For requests that wait at the leader.
    fetcher: Client,
    logs: Arc<dyn LocalLogs>,
    options: FollowerOptions,
    state: Mutex<State>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Which partitions each leader is asked for, and in which leader epoch.
    leaders: BTreeMap<i32, BTreeMap<TopicPartition, i32>>,
    /// Counts the changes of `leaders`.
    generation: u64,
    /// The copies as they were last made.
    topics: BTreeMap<String, Topic>,
    groups: Vec<GroupOffsets>,
    status: BTreeMap<TopicPartition, PartitionStatus>,
    /// Why nothing can be followed, while that is so.
    error: Option<String>,
    refreshes: u64,
    /// Whether the next look is at all configurations.
    wants_configs: bool,
    /// The cluster that is followed, once it has said who it is.
    cluster_id: Option<String>,
    /// What following each leader failed with last, until it goes on: said once.
    failures: BTreeMap<i32, String>,
    /// Why nothing is written, while there is no room.
    paused: Option<String>,
    /// Counts the changes that [`Follower::status`] and its like tell of.
    changes: u64,
}

impl Follower {
    /// A follower of `source` in `logs`, and its driver. The driver ends when the follower is stopped, or with an error when
    /// the logs cannot go on (`Closed`, `Fenced`), the leader has the follower's id (`Fenced`), or it takes no synchronous
    /// followers (`Unsupported`); everything else passes, or waits until it does.
    pub fn new(
        source: ClusterSource,
        logs: Arc<dyn LocalLogs>,
        options: FollowerOptions,
    ) -> (Self, BoxFuture<'static, Result<()>>) {
        let source = source.with_patience(PATIENCE);
        let fetcher = source.client().separate();
        let state = State { cluster_id: options.cluster_id.clone(), ..State::default() };
        let shared = Arc::new(Shared { source, fetcher, logs, options, state: Mutex::new(state) });
        let (abort, registration) = AbortHandle::new_pair();
        let driver = Abortable::new(drive(Arc::clone(&shared)), registration);
        (Self { shared, abort }, driver.map(|ended| ended.unwrap_or(Ok(()))).boxed())
    }

    /// Ends the driver.
    pub fn stop(&self) {
        self.abort.abort();
    }

    /// How far each partition is.
    pub fn status(&self) -> BTreeMap<TopicPartition, PartitionStatus> {
        self.shared.state().status.clone()
    }

    /// Why nothing can be followed, while that is so: the leader is away, or a topic of that name is no copy of it.
    pub fn error(&self) -> Option<String> {
        self.shared.state().error.clone()
    }

    /// Why nothing is written, while there is no room on the disk: it goes on by itself when there is some.
    pub fn paused(&self) -> Option<String> {
        self.shared.state().paused.clone()
    }

    /// A number that is another one whenever what the others tell may have changed.
    pub fn changes(&self) -> u64 {
        self.shared.state().changes
    }

    /// Has the next look at the cluster take in every configuration.
    pub(super) fn look_at_everything(&self) {
        self.shared.state().wants_configs = true;
    }

    /// Waits until every partition has what the leader had when it was asked after this call.
    ///
    /// # Errors
    /// `Timeout` after `timeout`, with what is missing.
    pub async fn caught_up(&self, timeout: Duration) -> Result<()> {
        let clock = self.shared.source.client().clock();
        let deadline = clock.monotonic().saturating_add(timeout);
        let (refreshes, since) = (self.shared.state().refreshes, clock.now());
        loop {
            {
                let state = self.shared.state();
                // In the millisecond of the call it may have been before it.
                let is_fresh = |status: &PartitionStatus| status.at_end.is_some_and(|at| at > since);
                let behind = state.status.iter().find(|(_, status)| !status.is_caught_up() || !is_fresh(status));
                if state.refreshes >= refreshes + 2 && state.error.is_none() && behind.is_none() {
                    return Ok(());
                }
                if clock.monotonic() >= deadline {
                    let what = match (&state.error, behind) {
                        (Some(error), _) => error.clone(),
                        (None, Some((partition, status))) => format!(
                            "partition={partition} end={} source_end={} {}",
                            status.local_end,
                            status.source_end,
                            status.error.as_deref().unwrap_or_default()
                        ),
                        (None, None) => "the leader has not answered yet".to_owned(),
                    };
                    let message = format!("not caught up after {} ms: {}", timeout.as_millis(), what.trim_end());
                    return Err(Error::new(ErrorKind::Timeout, message));
                }
            }
            clock.sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What has happened to one of the driver's futures.
enum Event {
    /// The cluster was looked at.
    Refreshed(Result<()>),
    /// The loop of a leader has ended: it has no partitions any more, or failed.
    Left(i32, Result<()>),
    /// Time to look again.
    Due,
}

async fn drive(shared: Arc<Shared>) -> Result<()> {
    let clock = Arc::clone(shared.source.client().clock());
    let mut under_way: FuturesUnordered<BoxFuture<'static, Event>> = FuturesUnordered::new();
    let refresh = || {
        let shared = Arc::clone(&shared);
        async move { Event::Refreshed(shared.refresh().await) }.boxed()
    };
    let due_in = |pause| clock.sleep(pause).map(|()| Event::Due).boxed();
    under_way.push(refresh());
    let mut active = HashSet::new();
    let mut is_refreshing = true;
    let mut failures = 0;
    while let Some(event) = under_way.next().await {
        match event {
            Event::Due if is_refreshing => {}
            Event::Due => {
                is_refreshing = true;
                under_way.push(refresh());
            }
            Event::Refreshed(result) => {
                is_refreshing = false;
                let pause = match result {
                    Ok(()) => {
                        let mut state = shared.state();
                        state.changes += u64::from(state.error.take().is_some());
                        drop(state);
                        shared.options.refresh_interval
                    }
                    Err(error) if is_final(&error) || error.kind() == ErrorKind::Unsupported => return Err(error),
                    Err(error) => {
                        shared.note_error(error.to_string());
                        failures += 1;
                        shared.source.client().backoff(failures)
                    }
                };
                for leader in shared.state().leaders.keys() {
                    if active.insert(*leader) {
                        let (shared, leader) = (Arc::clone(&shared), *leader);
                        under_way
                            .push(async move { Event::Left(leader, follow_leader(&shared, leader).await) }.boxed());
                    }
                }
                under_way.push(due_in(pause));
            }
            Event::Left(leader, result) => {
                active.remove(&leader);
                match result {
                    Ok(()) => failures = 0,
                    Err(error) if is_final(&error) => return Err(error),
                    Err(error) => {
                        shared.failed_with(leader, &error);
                        failures += 1;
                    }
                }
                under_way.push(due_in(shared.source.client().backoff(failures)));
            }
        }
    }
    Ok(())
}

/// Whether the logs cannot go on until they are opened anew.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Fenced) && error.code().is_none()
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why nothing can be followed; says so when that is news.
    fn note_error(&self, error: String) {
        let mut state = self.state();
        if state.error.as_ref() != Some(&error) {
            log::warn!("cannot follow now: {error}");
            state.error = Some(error);
            state.changes += 1;
        }
    }

    /// Waits a moment, because there is no room for what has come for `partition`.
    async fn pause(&self, partition: &TopicPartition, error: &Error) {
        {
            let mut state = self.state();
            let why = format!("paused until there is room: {error}");
            if state.paused.is_none() {
                log::warn!("{why} partition={partition}");
            }
            state.paused = Some(why.clone());
            state.status.entry(partition.clone()).or_default().error = Some(why);
            state.changes += 1;
        }
        self.source.client().clock().sleep(PAUSE_WHEN_FULL).await;
    }

    fn resumed(&self) {
        let mut state = self.state();
        if state.paused.take().is_some() {
            log::warn!("there is room again, going on");
            state.changes += 1;
        }
    }

    /// Looks at the cluster: makes, changes and removes copies, and notes who leads what.
    async fn refresh(&self) -> Result<()> {
        self.check_leader().await?;
        let mut topics = {
            let (known, refreshes, wants_configs) = {
                let mut state = self.state();
                (state.topics.clone(), state.refreshes, std::mem::take(&mut state.wants_configs))
            };
            // Configurations are many; those of topics that are known are asked for now and then.
            let known = if wants_configs || refreshes % CONFIGS_EVERY == 0 { BTreeMap::new() } else { known };
            self.source.topics_beyond(&self.options.topics, &known).await?
        };
        let mut refused = None;
        let mut ready = Vec::with_capacity(topics.len());
        for topic in topics.drain(..) {
            let known = self.state().topics.get(&topic.name).cloned();
            if known.as_ref() == Some(&topic) {
                ready.push(topic);
                continue;
            }
            // Only one that was seen to go: what is here is removed for nothing less. But a synchronous follower has nothing of its
            // own: what its leader has made anew while it was away is the topic, as with Kafka's.
            let is_leaders = known.is_some() || self.options.replica_id.is_some();
            let may_remove =
                self.options.recreated == Recreated::Restart || (self.options.follow_deletions && is_leaders);
            if may_remove && self.is_another(&topic).await? {
                log::warn!("the leader has deleted a topic and made it anew, starting over topic={}", topic.name);
                self.forget(&topic.name);
                self.logs.delete_copy(&topic.name).await?;
            }
            match self.logs.create_copy(&topic).await {
                Ok(()) => {
                    self.state().topics.insert(topic.name.clone(), topic.clone());
                    ready.push(topic);
                }
                // The others can be followed.
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Invalid) => {
                    log::warn!("a topic cannot be followed: {error}");
                    self.forget(&topic.name);
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let gone: Vec<String> = {
            let state = self.state();
            let is_gone = |name: &&String| ready.binary_search_by(|topic| topic.name.cmp(name)).is_err();
            state.topics.keys().filter(is_gone).cloned().collect()
        };
        for name in gone {
            log::info!("the leader no longer has a topic topic={name}");
            self.forget(&name);
            if self.options.follow_deletions {
                self.logs.delete_copy(&name).await?;
            }
        }
        self.note_leaders(&ready);
        if let Some(selection) = &self.options.groups {
            self.follow_groups(&ready, selection).await?;
        }
        self.state().refreshes += 1;
        refused.map_or(Ok(()), Err)
    }

    /// Whether this is the cluster that was followed so far, and no broker of it has the follower's number.
    async fn check_leader(&self) -> Result<()> {
        let client = self.source.client();
        let cluster = client.retry(PATIENCE, || client.refresh_with(Topics::None, false)).await?;
        // A leader lists its followers, too.
        if let Some(id) = self.options.replica_id.filter(|id| cluster.controller_id == Some(*id)) {
            let message =
                format!("the leader has this follower's node id, give the follower one of its own node_id={id}");
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        if self.options.replica_id.is_some() && self.state().refreshes == 0 {
            self.check_takes_followers(cluster.controller_id).await?;
        }
        let mut state = self.state();
        match (&state.cluster_id, &cluster.cluster_id) {
            // That it has not our topics, or others by their names, means nothing: nothing is to be cut or removed for it.
            (Some(before), Some(now)) if before != now => {
                let message = format!(
                    "another cluster answers than the one that was followed, what is here stays as it is cluster_id={now} \
                     followed={before}"
                );
                state.leaders.clear();
                state.generation += 1;
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ => {
                state.cluster_id = cluster.cluster_id.clone();
                Ok(())
            }
        }
    }

    /// Fails unless the broker is an Ottla: others refuse replicas that are not theirs, in words that do not say so.
    async fn check_takes_followers(&self, node: Option<i32>) -> Result<()> {
        let Some(node) = node else { return Ok(()) };
        let partition = ListOffsetsPartition { partition_index: 0, current_leader_epoch: -1, timestamp: -1 };
        let topic = ListOffsetsTopic { name: METADATA_TOPIC.to_owned(), partitions: vec![partition] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let response = self.source.client().call_node(node, request).await?;
        let codes = response.topics.iter().flat_map(|topic| topic.partitions.iter().map(|found| found.error_code));
        if codes.into_iter().any(|code| code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) {
            let message =
                format!("the leader is no Ottla, and can be followed asynchronously only: --async broker={node}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(())
    }

    /// Whether there is a copy of a topic with the name of `topic` that is another.
    async fn is_another(&self, topic: &Topic) -> Result<bool> {
        let copies = self.logs.copies().await?;
        Ok(copies.iter().any(|copy| copy.name == topic.name && copy.id != topic.id && !topic.id.is_nil()))
    }

    /// Follows a topic no more.
    fn forget(&self, name: &str) {
        let mut state = self.state();
        state.topics.remove(name);
        state.status.retain(|partition, _| *partition.topic != *name);
        for partitions in state.leaders.values_mut() {
            partitions.retain(|partition, _| *partition.topic != *name);
        }
        state.generation += 1;
        state.changes += 1;
    }

    fn note_leaders(&self, topics: &[Topic]) {
        let cluster = self.source.client().cluster();
        let mut leaders: BTreeMap<i32, BTreeMap<TopicPartition, i32>> = BTreeMap::new();
        let mut state = self.state();
        let chosen = |partition: &TopicPartition| self.options.portion.includes(partition);
        for partition in topics.iter().flat_map(Topic::topic_partitions).filter(chosen) {
            let leader = cluster.leader(&partition.topic, partition.partition);
            let status = state.status.entry(partition.clone()).or_default();
            status.leader = leader.map(|(leader, _)| leader);
            match leader {
                Some((leader, epoch)) => {
                    leaders.entry(leader).or_default().insert(partition, epoch);
                }
                None => status.error = Some("there is no leader".to_owned()),
            }
        }
        if state.leaders != leaders {
            state.leaders = leaders;
            state.generation += 1;
            state.changes += 1;
        }
    }

    async fn follow_groups(&self, topics: &[Topic], selection: &Selection) -> Result<()> {
        let groups = self.source.committed(topics, selection).await?;
        let changed: Vec<GroupOffsets> = {
            let state = self.state();
            groups.iter().filter(|group| !state.groups.contains(group)).cloned().collect()
        };
        if !changed.is_empty() {
            self.logs.commit_offsets(&changed).await?;
            self.state().groups = groups;
        }
        Ok(())
    }

    /// The partitions that `leader` leads, if that has changed since `generation`.
    fn assigned(&self, leader: i32, generation: &mut Option<u64>) -> Option<BTreeMap<TopicPartition, i32>> {
        let state = self.state();
        if *generation == Some(state.generation) {
            return None;
        }
        *generation = Some(state.generation);
        Some(state.leaders.get(&leader).cloned().unwrap_or_default())
    }

    /// How many bytes a fetch brings at most, and how many from one partition. From a leader that is far away what few partitions
    /// lack comes in few answers.
    fn sizes(&self, followed: &BTreeMap<TopicPartition, Followed>) -> (usize, usize) {
        let FollowerOptions { max_bytes, partition_max_bytes, replica_id, .. } = self.options;
        let (most, most_of_one) = match replica_id {
            Some(_) => (max_bytes, partition_max_bytes),
            None => {
                let most = (max_bytes / self.state().leaders.len().max(1)).max(partition_max_bytes);
                let behind = followed.values().filter(|known| known.next < known.high_watermark).count().max(1);
                (most, (most / behind).min(worth_waiting_for(&self.source)).max(partition_max_bytes))
            }
        };
        let at_once = self.source.limit().map_or(usize::MAX, |limit| limit.at_once(usize::MAX));
        (most.min(at_once), most_of_one.min(at_once))
    }

    fn failed_with(&self, leader: i32, error: &Error) {
        let mut state = self.state();
        let text = error.to_string();
        if state.failures.get(&leader) != Some(&text) {
            log::warn!("following anew: {text} leader={leader}");
            state.failures.insert(leader, text);
        }
        let partitions: Vec<TopicPartition> =
            state.leaders.get(&leader).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        for partition in partitions {
            state.status.entry(partition).or_default().error = Some(error.to_string());
        }
        state.changes += 1;
    }

    fn note(&self, partition: &TopicPartition, note: impl FnOnce(&mut PartitionStatus)) {
        let mut state = self.state();
        if let Some(status) = state.status.get_mut(partition) {
            note(status);
            state.changes += 1;
        }
    }
}

/// A partition in its leader's loop.
#[derive(Debug)]
struct Followed {
    current_leader_epoch: i32,
    next: i64,
    /// The epoch of the last batch here; -1 if there is none.
    leader_epoch: i32,
    log_start: i64,
    high_watermark: i64,
    /// Whether the parting check is still to come.
    is_new: bool,
    /// Whether the leader does not know `next` yet.
    is_changed: bool,
    /// When the parting check is tried again that has failed, by the monotonic clock.
    retry_at: Duration,
}

/// A fetch session: after the first request only what has changed is said (KIP-227).
#[derive(Debug, Default)]
struct Session {
    id: i32,
    epoch: i32,
    forgotten: Vec<TopicPartition>,
}

/// Follows what `leader` leads until that is nothing, or something fails.
async fn follow_leader(shared: &Shared, leader: i32) -> Result<()> {
    let sink = LogSink::new(&*shared.logs, Parting::CutBack);
    let mut session = Session::default();
    let mut followed: BTreeMap<TopicPartition, Followed> = BTreeMap::new();
    let mut generation = None;
    loop {
        if let Some(assigned) = shared.assigned(leader, &mut generation) {
            followed.retain(|partition, known| {
                let stays = assigned.get(partition) == Some(&known.current_leader_epoch);
                if !stays {
                    session.forgotten.push(partition.clone());
                }
                stays
            });
            for (partition, current_leader_epoch) in assigned {
                followed.entry(partition).or_insert_with(|| Followed::new(current_leader_epoch));
            }
        }
        if followed.is_empty() {
            return Ok(());
        }
        settle(shared, &sink, &mut followed).await?;
        if followed.values().all(|known| known.is_new) {
            continue;
        }
        let sizes = shared.sizes(&followed);
        let request = fetch_request(&shared.options, sizes, &mut session, &mut followed);
        let response = shared.fetcher.call_node(leader, request).await?;
        match response.error_code {
            ErrorCode::NONE => {}
            ErrorCode::FETCH_SESSION_ID_NOT_FOUND | ErrorCode::INVALID_FETCH_SESSION_EPOCH => {
                session = Session::default();
                continue;
            }
            code => return Err(Error::from_code(code, code.message())),
        }
        session.id = response.session_id;
        if let Some(limit) = shared.source.limit() {
            let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
            let bytes = partitions.filter_map(|data| data.records.as_ref()).map(bytes::Bytes::len).sum();
            limit.spend(bytes, &**shared.source.client().clock()).await;
        }
        session.epoch = if session.id == 0 { 0 } else { (session.epoch % i32::MAX) + 1 };
        take_in(shared, &sink, leader, &mut followed, response, sizes.0).await?;
    }
}

impl Followed {
    fn new(current_leader_epoch: i32) -> Self {
        Self {
            current_leader_epoch,
            next: 0,
            leader_epoch: -1,
            log_start: -1,
            high_watermark: -1,
            is_new: true,
            is_changed: true,
            retry_at: Duration::ZERO,
        }
    }
}

/// Finds, for the partitions that are new, where to go on: where the logs end, after what the leader never had is cut off.
///
/// One that cannot be settled, because it has just been deleted perhaps, is tried again soon; the others do not wait for it.
async fn settle(shared: &Shared, sink: &LogSink<'_>, followed: &mut BTreeMap<TopicPartition, Followed>) -> Result<()> {
    let clock = shared.source.client().clock();
    let due = clock.monotonic();
    let is_due = |known: &Followed| known.is_new && known.retry_at <= due;
    let new: Vec<TopicPartition> =
        followed.iter().filter(|(_, known)| is_due(known)).map(|(partition, _)| partition.clone()).collect();
    if new.is_empty() {
        if followed.values().all(|known| known.is_new) {
            clock.sleep(RETRY).await;
        }
        return Ok(());
    }
    let mut failed: Vec<(TopicPartition, Error)> = Vec::new();
    let source = shared.source.clone().with_patience(Duration::ZERO);
    let bounds = source.bounds(&new, Until::HighWatermark).await?;
    let mut assignments = Vec::with_capacity(new.len());
    for (partition, bounds) in new.into_iter().zip(bounds) {
        match bounds {
            Ok(bounds) => assignments.push(Assignment { partition, bounds, compacted: false }),
            Err(error) => failed.push((partition, error)),
        }
    }
    if assignments.is_empty()
        && let Some((partition, error)) = failed.pop()
    {
        return Err(error.context(format_args!("partition={partition}")));
    }
    shared.options.portion.narrow(&shared.source, sink, &mut assignments).await?;
    let names: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
    let ends = sink.ends(&names).await?;
    let agreed = agreed_ends(&source, sink, &assignments, ends).await?;
    if shared.options.replica_id.is_some() {
        // What a process that was killed has written counts for the leader when it is synced.
        let synced = names.iter().map(|partition| shared.logs.sync_copy(partition));
        join_all(synced).await.into_iter().collect::<Result<Vec<_>>>()?;
    }
    for (Assignment { partition, bounds, .. }, agreed) in assignments.into_iter().zip(agreed) {
        let end = match agreed {
            Ok(agreed) => agreed.end,
            Err(error) => {
                failed.push((partition, error));
                continue;
            }
        };
        let Some(known) = followed.get_mut(&partition) else { continue };
        known.leader_epoch = end.map_or(-1, |end| end.leader_epoch);
        known.next = start(shared, sink, &partition, end.map(|end| end.end), bounds).await?;
        known.log_start = if end.is_some_and(|end| end.end == known.next) { 0 } else { -1 };
        if known.high_watermark >= 0 {
            // What was cut took its limit along, and the leader says this only once.
            shared.logs.raise_high_watermark(&partition, known.high_watermark).await?;
        }
        known.is_new = false;
        known.is_changed = true;
        let (local_end, source_end) = (known.next, bounds.end);
        shared.note(&partition, |status| {
            status.local_end = local_end;
            status.source_end = source_end.max(local_end);
        });
    }
    for (partition, error) in failed {
        log::info!("a partition cannot be followed now: {error} partition={partition}");
        if let Some(known) = followed.get_mut(&partition) {
            known.retry_at = clock.monotonic() + RETRY;
        }
        shared.note(&partition, |status| status.error = Some(error.to_string()));
    }
    Ok(())
}

/// Where to begin in a log that ends at `end`: there, or at the leader's start if that is beyond.
async fn start(
    shared: &Shared,
    sink: &LogSink<'_>,
    partition: &TopicPartition,
    end: Option<i64>,
    bounds: Bounds,
) -> Result<i64> {
    let hole = match end {
        Some(end) if end >= bounds.start => return Ok(end),
        Some(end) => Some(Hole { start: end, end: bounds.start }),
        None => None,
    };
    sink.begin(partition, bounds.start, hole).await?;
    if let Some(hole) = hole {
        shared.note(partition, |status| status.holes.push(hole));
    }
    Ok(bounds.start)
}

fn fetch_request(
    options: &FollowerOptions,
    (max_bytes, partition_max_bytes): (usize, usize),
    session: &mut Session,
    followed: &mut BTreeMap<TopicPartition, Followed>,
) -> FetchRequest {
    let is_full = session.epoch == 0;
    let mut topics: Vec<FetchTopic> = Vec::new();
    for (partition, known) in followed.iter_mut().filter(|(_, known)| !known.is_new) {
        if !is_full && !known.is_changed {
            continue;
        }
        known.is_changed = false;
        if topics.last().is_none_or(|last| *last.topic != *partition.topic) {
            topics.push(FetchTopic { topic: partition.topic.to_string(), ..Default::default() });
        }
        let fetched = FetchPartition {
            partition: partition.partition,
            current_leader_epoch: known.current_leader_epoch,
            fetch_offset: known.next,
            // Where the leader is one that counts us as a replica, it looks with each fetch whether histories part.
            last_fetched_epoch: if options.replica_id.is_some() { known.leader_epoch } else { -1 },
            log_start_offset: if options.replica_id.is_some() { known.log_start } else { -1 },
            partition_max_bytes: i32::try_from(partition_max_bytes).unwrap_or(i32::MAX),
            ..Default::default()
        };
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(fetched);
        }
    }
    let mut forgotten: HashMap<String, Vec<i32>> = HashMap::new();
    for partition in session.forgotten.drain(..).filter(|partition| !is_full && !followed.contains_key(partition)) {
        forgotten.entry(partition.topic.to_string()).or_default().push(partition.partition);
    }
    let forgotten =
        forgotten.into_iter().map(|(topic, partitions)| ForgottenTopic { topic, partitions, ..Default::default() });
    FetchRequest {
        replica_id: options.replica_id.unwrap_or(-1),
        max_wait_ms: i32::try_from(options.max_wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: 1,
        max_bytes: i32::try_from(max_bytes).unwrap_or(i32::MAX),
        isolation_level: 0,
        session_id: session.id,
        session_epoch: session.epoch,
        topics,
        forgotten_topics_data: forgotten.collect(),
        ..Default::default()
    }
}

/// Appends what a fetch of `max_bytes` at most has brought, waits for it to be synced if the leader waits for us, and notes where that leads.
async fn take_in(
    shared: &Shared,
    sink: &LogSink<'_>,
    leader: i32,
    followed: &mut BTreeMap<TopicPartition, Followed>,
    response: FetchResponse,
    max_bytes: usize,
) -> Result<()> {
    let now = shared.source.client().clock().now();
    let mut appended = Vec::new();
    let mut bytes = 0;
    let mut more = HashSet::new();
    for FetchableTopicResponse { topic, partitions, .. } in response.responses {
        let topic: Arc<str> = topic.into();
        for data in partitions {
            let partition = TopicPartition::new(Arc::clone(&topic), data.partition_index);
            let Some(known) = followed.get_mut(&partition) else { continue };
            bytes += data.records.as_ref().map_or(0, bytes::Bytes::len);
            if data.records.as_ref().is_some_and(|records| !records.is_empty()) {
                more.insert(partition.clone());
            }
            match take_in_partition(shared, sink, &partition, known, data).await? {
                Outcome::Appended => appended.push(partition),
                Outcome::Unchanged => {}
                Outcome::Anew => known.is_new = true,
                Outcome::Moved(error) => {
                    return Err(error.context(format_args!("partition={partition} leader={leader}")));
                }
            }
        }
    }
    if shared.options.replica_id.is_some() {
        // One sync serves all that have come; the next fetch is what acknowledges them.
        let synced = appended.iter().map(|partition| shared.logs.sync_copy(partition));
        join_all(synced).await.into_iter().collect::<Result<Vec<_>>>()?;
    }
    shared.state().failures.remove(&leader);
    // Of a partition that is not in an answer with room for it there was no more.
    let had_room = bytes < max_bytes;
    for (partition, known) in followed.iter_mut().filter(|(_, known)| !known.is_new) {
        let (local_end, high_watermark) = (known.next, known.high_watermark);
        let is_at_end = if more.contains(partition) {
            // A consumer gets nothing above the high watermark; what a replica got may not be all.
            shared.options.replica_id.is_none() && local_end >= high_watermark
        } else {
            // And readers here see all of it.
            had_room && local_end <= high_watermark
        };
        shared.note(partition, |status| {
            status.local_end = local_end;
            status.source_end = high_watermark.max(local_end);
            status.error = None;
            if is_at_end {
                status.at_end = Some(now);
            }
        });
    }
    Ok(())
}

/// What a fetch meant for a partition.
enum Outcome {
    Appended,
    Unchanged,
    /// To be settled anew.
    Anew,
    /// Somebody else leads it.
    Moved(Error),
}

async fn take_in_partition(
    shared: &Shared,
    sink: &LogSink<'_>,
    partition: &TopicPartition,
    known: &mut Followed,
    data: PartitionData,
) -> Result<Outcome> {
    match data.error_code {
        ErrorCode::NONE => {}
        // Retention has overtaken us, or the leader has lost its end: the check of bounds and epochs tells.
        ErrorCode::OFFSET_OUT_OF_RANGE => return Ok(Outcome::Anew),
        code => return Ok(Outcome::Moved(Error::from_code(code, code.message()))),
    }
    if data.diverging_epoch.end_offset >= 0 {
        let to = EpochEnd { leader_epoch: data.diverging_epoch.epoch, end: data.diverging_epoch.end_offset };
        sink.truncate(partition, to).await?;
        return Ok(Outcome::Anew);
    }
    let records = data.records.unwrap_or_default();
    // What comes is the leader's, to its end; how far it may be read is another matter.
    let run = match Run::check(&records, known.next, known.leader_epoch, i64::MAX) {
        Ok(run) => run,
        Err(error) => {
            // Not written, and fetched again.
            log::error!("refusing what was fetched: {error} partition={partition}");
            shared.note(partition, |status| status.error = Some(error.to_string()));
            return Ok(Outcome::Anew);
        }
    };
    let mut outcome = Outcome::Unchanged;
    if let Some(last) = run.batches().last() {
        (known.next, known.leader_epoch) = (last.next_offset(), last.partition_leader_epoch());
        known.is_changed = true;
        let (records, bytes) = (run.records(), run.bytes().len() as u64);
        // Nothing of it is written where there is no room, and it is not asked for again.
        let mut had_room = true;
        while let Err(error) = sink.write(partition, run.clone()).await {
            if error.kind() != ErrorKind::Full {
                return Err(error);
            }
            had_room = false;
            shared.pause(partition, &error).await;
        }
        if !had_room {
            shared.resumed();
        }
        known.log_start = known.log_start.max(0);
        shared.note(partition, |status| {
            status.records += records;
            status.bytes += bytes;
        });
        outcome = Outcome::Appended;
    } else if !records.is_empty() {
        // A batch larger than what was asked for comes alone and whole (KIP-74), so this is something else.
        let message = format!("the leader sent part of a batch bytes={}", records.len());
        return Err(Error::new(ErrorKind::Retriable, message));
    }
    // Where nothing has come, a batch that begins below the leader's start may still come, unless it has none.
    if data.log_start_offset > known.log_start && (known.log_start >= 0 || known.next >= data.high_watermark) {
        sink.begin_now(partition).await?;
        shared.logs.raise_start(partition, data.log_start_offset).await?;
        known.log_start = data.log_start_offset;
    }
    if data.high_watermark > known.high_watermark {
        shared.logs.raise_high_watermark(partition, data.high_watermark).await?;
        known.high_watermark = data.high_watermark;
    }
    Ok(outcome)
}
