//! The driver of a consumer: fetches, looks for positions, keeps the membership, commits from time to time.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};

use super::positions::{FetchPlan, Fetched, Reset, Road, Start};
use super::{Mode, OffsetAndMetadata, OffsetAndTimestamp, Shared, State};
use crate::client::group::{Change, Step};
use crate::client::offsets::{EARLIEST, LATEST};
use crate::client::{BrokerAddress, Client, Cluster, CoordinatorType, TopicPartition, Topics, lock};
use crate::protocol::messages::{HeartbeatResponse, JoinGroupResponse, SyncGroupResponse};
use crate::{Error, ErrorKind, Result};

/// How often to look for topics that were subscribed to and are not there.
const MISSING_TOPICS: Duration = Duration::from_secs(1);

/// How long a commit may take that the driver makes by itself.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

enum Event {
    Fetched(Fetched),
    Listed(Vec<(TopicPartition, u64, Result<OffsetAndTimestamp>)>),
    Committed(Vec<TopicPartition>, Result<HashMap<TopicPartition, Option<OffsetAndMetadata>>>),
    Refreshed(Result<Arc<Cluster>>),
    AutoCommitted(HashMap<TopicPartition, OffsetAndMetadata>, Result<()>),
    GivenUp(Result<()>),
    Coordinator(Result<BrokerAddress>),
    Joined(Result<JoinGroupResponse>),
    MetadataForLeader(Result<Arc<Cluster>>),
    Synced(Result<SyncGroupResponse>),
    Heartbeat(Result<HeartbeatResponse>),
    Left,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    /// The two connections for fetching, and one for what waits at the coordinator.
    busy_road: Client,
    quiet_road: Client,
    membership: Client,
    fetching: HashSet<(i32, Road)>,
    looking_for_committed: bool,
    committed_retry_at: Duration,
    refreshing: bool,
    wants_metadata: bool,
    refreshed_at: Option<Duration>,
    refresh_retry_at: Duration,
    failures: u32,
    committing: bool,
    commit_at: Duration,
    last_commit: HashMap<TopicPartition, OffsetAndMetadata>,
    giving_up: bool,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    timer: Option<(Duration, BoxFuture<'static, ()>)>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let client = &shared.client;
        let (busy_road, quiet_road, membership) = (client.separate(), client.separate(), client.separate());
        let commit_at = client.clock().monotonic() + Duration::from_millis(shared.config.auto_commit_interval_ms);
        Self {
            busy_road,
            quiet_road,
            membership,
            fetching: HashSet::new(),
            looking_for_committed: false,
            committed_retry_at: Duration::ZERO,
            refreshing: false,
            wants_metadata: false,
            refreshed_at: None,
            refresh_retry_at: Duration::ZERO,
            failures: 0,
            committing: false,
            commit_at,
            last_commit: HashMap::new(),
            giving_up: false,
            events: FuturesUnordered::new(),
            timer: None,
            shared,
        }
    }

    /// Runs until the consumer is closed.
    pub(super) async fn run(mut self) {
        loop {
            let now = self.shared.client.clock().monotonic();
            let Some(wake_at) = self.pass(now) else { return };
            match &self.timer {
                // One that fires too early does no harm, and is cheaper than a new one.
                Some((at, _)) if *at <= wake_at => {}
                _ if wake_at == Duration::MAX => self.timer = None,
                _ => self.timer = Some((wake_at, self.shared.client.clock().sleep(wake_at.saturating_sub(now)))),
            }
            let event = poll_fn(|cx| {
                if let Poll::Ready(Some(event)) = self.events.poll_next_unpin(cx) {
                    return Poll::Ready(Some(event));
                }
                if self.shared.driver.poll_take(cx).is_ready() {
                    return Poll::Ready(None);
                }
                if let Some((_, timer)) = &mut self.timer
                    && timer.as_mut().poll(cx).is_ready()
                {
                    self.timer = None;
                    return Poll::Ready(None);
                }
                Poll::Pending
            })
            .await;
            if let Some(event) = event {
                self.handle(event);
            }
        }
    }

    /// Starts what can be started; when to look again at the latest, `None` when all is over.
    fn pass(&mut self, now: Duration) -> Option<Duration> {
        let shared = Arc::clone(&self.shared);
        let mut state = lock(&shared.state);
        if state.closing {
            return None;
        }
        let mut wake_at = Duration::MAX;
        self.pass_subscription(&mut state, now, &mut wake_at);
        self.pass_member(&mut state, now, &mut wake_at);
        self.pass_positions(&mut state, now, &mut wake_at);
        self.pass_commit(&mut state, now, &mut wake_at);
        drop(state);
        self.pass_metadata(now, &mut wake_at);
        Some(wake_at)
    }

    /// Which topics there are, and without a group also which partitions.
    fn pass_subscription(&mut self, state: &mut State, now: Duration, wake_at: &mut Duration) {
        let config = &self.shared.config;
        let Mode::Subscribed { filter, .. } = &state.mode else { return };
        let cluster = self.shared.client.cluster();
        let refreshed = self.refreshed_at.is_some();
        if let Some(filter) = filter.clone() {
            let mut matching: Vec<Arc<str>> = cluster
                .topics
                .values()
                .filter(|topic| !(config.exclude_internal_topics && topic.is_internal) && filter(&topic.name))
                .map(|topic| Arc::clone(&topic.name))
                .collect();
            matching.sort();
            if refreshed && matching != state.topics {
                state.topics = matching;
                if let Some(member) = &mut state.member {
                    member.rebalance("the topics that match the pattern have changed");
                    self.shared.news.ring();
                }
            }
        }
        if !refreshed {
            self.wants_metadata = true;
            return;
        }
        let missing = state.topics.iter().any(|topic| !cluster.topics.contains_key(topic));
        if missing {
            let again = self.refreshed_at.unwrap_or_default() + MISSING_TOPICS;
            self.wants_metadata |= now >= again;
            *wake_at = (*wake_at).min(if now >= again { Duration::MAX } else { again });
        }
        match &mut state.member {
            Some(member) => {
                if let Change::Rebalance = member.handle_cluster(&cluster) {
                    self.shared.news.ring();
                }
            }
            None => {
                // Alone: all partitions of its topics.
                let mut all = Vec::new();
                for name in &state.topics {
                    let Some(topic) = cluster.topics.get(name) else { continue };
                    all.extend(
                        (0..topic.partitions.len())
                            .map(|number| TopicPartition { topic: Arc::clone(name), partition: number as i32 }),
                    );
                }
                if !state.positions.names().eq(all.iter()) {
                    let had: HashSet<TopicPartition> = state.positions.names().cloned().collect();
                    let new: Vec<TopicPartition> = all.iter().filter(|name| !had.contains(name)).cloned().collect();
                    state.positions.assign(all, Start::Reset(Reset::Policy));
                    if !new.is_empty() {
                        state.tell(super::Rebalance::Assigned(new));
                    }
                    self.shared.news.ring();
                }
            }
        }
    }

    fn pass_member(&mut self, state: &mut State, now: Duration, wake_at: &mut Duration) {
        let config = &self.shared.config;
        let subscribed = matches!(state.mode, Mode::Subscribed { .. });
        let commits = config.enable_auto_commit;
        if state.member.is_none() {
            return;
        }
        if !subscribed {
            let leaving = state.member.as_mut().and_then(|member| member.leave("the consumer unsubscribed"));
            state.give_up = false;
            self.leave(leaving);
            return;
        }
        if state.give_up && !self.giving_up {
            // The last commit of this generation, then the partitions go.
            self.giving_up = true;
            let offsets = if commits { state.consumed() } else { HashMap::new() };
            state.positions.assign([], Start::Known);
            let shared = Arc::clone(&self.shared);
            self.events.push(Box::pin(async move { Event::GivenUp(shared.commit(offsets, COMMIT_TIMEOUT).await) }));
        }
        let topics = state.topics.clone();
        let poll_until = state.last_poll.saturating_add(Duration::from_millis(config.max_poll_interval_ms));
        let refreshed = self.refreshed_at.is_some();
        let Some(member) = &mut state.member else { return };
        if !member.is_out() && now >= poll_until {
            log::warn!(
                "the application has not polled for max_poll_interval_ms={}: leaving the group group={}",
                config.max_poll_interval_ms,
                member.group_id()
            );
            let leaving = member.leave("the application has not polled in time");
            state.changed(Change::Lost);
            self.leave(leaving);
            self.shared.news.ring();
            return;
        }
        if !member.is_out() {
            *wake_at = (*wake_at).min(poll_until);
        }
        if self.giving_up || !refreshed {
            return;
        }
        while let Some(step) = member.poll_step(now, &topics) {
            self.events.push(self.step(step, member.group_id()));
        }
        *wake_at = (*wake_at).min(member.poll_timeout());
    }

    fn leave(&mut self, leaving: Option<(crate::transport::Endpoint, crate::protocol::messages::LeaveGroupRequest)>) {
        let Some((to, request)) = leaving else { return };
        let shared = Arc::clone(&self.shared);
        self.events.push(Box::pin(async move {
            if let Err(error) = shared.leave(&to, request).await {
                log::debug!("the group was left without its answer: {error}");
            }
            Event::Left
        }));
    }

    fn step(&self, step: Step, group: &Arc<str>) -> BoxFuture<'static, Event> {
        let client = self.membership.clone();
        match step {
            Step::FindCoordinator => {
                let (client, group) = (self.shared.client.clone(), Arc::clone(group));
                Box::pin(async move { Event::Coordinator(client.coordinator(CoordinatorType::Group, &group).await) })
            }
            Step::Join(to, request) => Box::pin(async move { Event::Joined(client.call_endpoint(&to, request).await) }),
            Step::Metadata(topics) => {
                let client = self.shared.client.clone();
                Box::pin(async move { Event::MetadataForLeader(client.refresh(Topics::Named(&topics)).await) })
            }
            Step::Sync(to, request) => Box::pin(async move { Event::Synced(client.call_endpoint(&to, request).await) }),
            Step::Heartbeat(to, request) => {
                Box::pin(async move { Event::Heartbeat(client.call_endpoint(&to, request).await) })
            }
        }
    }

    /// Positions that are not known, and fetches.
    fn pass_positions(&mut self, state: &mut State, now: Duration, wake_at: &mut Duration) {
        let shared = &self.shared;
        let config = &shared.config;
        let wants: Vec<TopicPartition> = state
            .positions
            .iter()
            .filter(|partition| partition.start == Start::Committed)
            .map(|partition| partition.name.clone())
            .collect();
        if !wants.is_empty() && !self.looking_for_committed {
            if now >= self.committed_retry_at {
                self.looking_for_committed = true;
                let shared = Arc::clone(shared);
                self.events.push(Box::pin(async move {
                    let committed = shared.committed(&wants).await;
                    Event::Committed(wants, committed)
                }));
            } else {
                *wake_at = (*wake_at).min(self.committed_retry_at);
            }
        }

        let State { positions, noted, .. } = state;
        positions.settle_resets(config.auto_offset_reset, noted.as_ref());
        let to_list = positions.to_list(now);
        if !to_list.is_empty() {
            for (name, generation, _) in &to_list {
                positions.mark_asked(name, *generation);
            }
            let shared = Arc::clone(shared);
            self.events.push(Box::pin(async move { Event::Listed(list(&shared, to_list).await) }));
        }

        let cluster = shared.client.cluster();
        let (plans, leaderless) = positions.plan(config, &cluster, &self.fetching, now);
        self.wants_metadata |= leaderless;
        *wake_at = (*wake_at).min(positions.next_retry(now));
        for plan in plans {
            self.fetch(plan);
        }
    }

    fn fetch(&mut self, plan: FetchPlan) {
        self.fetching.insert((plan.node, plan.road));
        let shared = Arc::clone(&self.shared);
        let client = match plan.road {
            Road::Busy => self.busy_road.clone(),
            Road::Quiet => self.quiet_road.clone(),
        };
        self.events.push(Box::pin(async move {
            let result = client.call_node(plan.node, plan.request.clone()).await;
            Event::Fetched(Fetched::new(plan, result, &shared.config))
        }));
    }

    fn pass_commit(&mut self, state: &mut State, now: Duration, wake_at: &mut Duration) {
        let config = &self.shared.config;
        let Some(member) = &state.member else { return };
        if !config.enable_auto_commit || self.committing {
            return;
        }
        let may = match state.mode {
            Mode::Idle => false,
            Mode::Assigned => true,
            Mode::Subscribed { .. } => member.is_stable(),
        };
        if !may {
            return;
        }
        if now < self.commit_at {
            *wake_at = (*wake_at).min(self.commit_at);
            return;
        }
        self.commit_at = now + Duration::from_millis(config.auto_commit_interval_ms);
        *wake_at = (*wake_at).min(self.commit_at);
        let mut offsets = state.committable();
        offsets.retain(|name, offset| self.last_commit.get(name) != Some(offset));
        if offsets.is_empty() {
            return;
        }
        self.committing = true;
        let shared = Arc::clone(&self.shared);
        self.events.push(Box::pin(async move {
            let result = shared.commit(offsets.clone(), COMMIT_TIMEOUT).await;
            Event::AutoCommitted(offsets, result)
        }));
    }

    fn pass_metadata(&mut self, now: Duration, wake_at: &mut Duration) {
        let client = &self.shared.client;
        let age = Duration::from_millis(client.config().metadata_max_age_ms);
        if let Some(refreshed_at) = self.refreshed_at {
            let stale = refreshed_at.saturating_add(age);
            self.wants_metadata |= now >= stale;
            *wake_at = (*wake_at).min(if now >= stale { Duration::MAX } else { stale });
        }
        if !self.wants_metadata || self.refreshing {
            return;
        }
        if now < self.refresh_retry_at {
            *wake_at = (*wake_at).min(self.refresh_retry_at);
            return;
        }
        let (topics, all) = {
            let state = lock(&self.shared.state);
            let mut topics: HashSet<Arc<str>> = state.positions.names().map(|name| Arc::clone(&name.topic)).collect();
            topics.extend(state.topics.iter().cloned());
            (topics, matches!(state.mode, Mode::Subscribed { filter: Some(_), .. }))
        };
        self.wants_metadata = false;
        self.refreshing = true;
        let client = client.clone();
        self.events.push(Box::pin(async move {
            let topics: Vec<Arc<str>> = topics.into_iter().collect();
            Event::Refreshed(if all {
                client.refresh_with(Topics::All, false).await
            } else {
                client.refresh(Topics::Named(&topics)).await
            })
        }));
    }

    fn handle(&mut self, event: Event) {
        let shared = Arc::clone(&self.shared);
        let client = &shared.client;
        let now = client.clock().monotonic();
        let mut guard = lock(&shared.state);
        let state = &mut *guard;
        let mut news = false;
        let pause = client.backoff(state.member.as_ref().map_or(0, |member| member.failures()));
        let mut change = Change::Nothing;
        match event {
            Event::Fetched(fetched) => {
                self.fetching.remove(&(fetched.node, fetched.road));
                let (more, moved) = state.positions.handle_fetched(fetched, &shared.config, client, now);
                news = more;
                self.wants_metadata |= moved;
            }
            Event::Listed(listed) => {
                for (name, generation, result) in listed {
                    let retry_at = now + client.backoff(0);
                    self.wants_metadata |= result.is_err();
                    state.positions.set_listed(&name, generation, result.map(|found| found.offset), retry_at);
                }
                news = true;
            }
            Event::Committed(wanted, result) => {
                self.looking_for_committed = false;
                match result {
                    Ok(committed) => {
                        for name in wanted {
                            let offset = committed.get(&name).and_then(Option::as_ref).map(|found| found.offset);
                            state.positions.set_committed(&name, offset);
                        }
                    }
                    Err(error) => {
                        self.committed_retry_at = now + client.backoff(1);
                        if !error.is_retriable() && error.kind() != ErrorKind::Timeout {
                            state.error = Some(error);
                        }
                    }
                }
                news = true;
            }
            Event::Refreshed(result) => {
                self.refreshing = false;
                match result {
                    Ok(_) => {
                        self.failures = 0;
                        self.refreshed_at = Some(now);
                        self.refresh_retry_at = now + client.backoff(0);
                    }
                    Err(error) => {
                        self.wants_metadata = true;
                        self.refresh_retry_at = now + client.backoff(self.failures);
                        self.failures += 1;
                        if error.is_retriable() || error.kind() == ErrorKind::Timeout {
                            log::debug!("metadata could not be refreshed: {error}");
                        } else {
                            state.error = Some(error);
                            news = true;
                        }
                    }
                }
            }
            Event::AutoCommitted(offsets, result) => {
                self.committing = false;
                match result {
                    Ok(()) => self.last_commit.extend(offsets),
                    Err(error) => log::warn!("positions could not be committed: {error}"),
                }
            }
            Event::GivenUp(result) => {
                if let Err(error) = result {
                    log::warn!("positions could not be committed before the partitions were given up: {error}");
                }
                self.giving_up = false;
                state.give_up = false;
                self.last_commit.clear();
                if let Some(member) = &mut state.member {
                    member.join();
                }
            }
            Event::Coordinator(result) => {
                if let Some(member) = &mut state.member {
                    change = member.handle_coordinator(result, now, pause);
                }
            }
            Event::Joined(result) => {
                if let Some(member) = &mut state.member {
                    change = member.handle_joined(result, now, pause);
                }
            }
            Event::MetadataForLeader(result) => {
                if let Some(member) = &mut state.member {
                    change = member.handle_metadata(result, now, pause);
                }
            }
            Event::Synced(result) => {
                if let Some(member) = &mut state.member {
                    change = member.handle_synced(result, now, pause);
                }
            }
            Event::Heartbeat(result) => {
                if let Some(member) = &mut state.member {
                    change = member.handle_heartbeat(result, now, pause);
                }
            }
            Event::Left => {}
        }
        if !matches!(change, Change::Nothing) {
            log::debug!("membership: {change:?}");
            news = true;
            state.changed(change);
        }
        drop(guard);
        if news {
            shared.news.ring();
        }
    }
}

impl Drop for Driver {
    /// Nobody will bring news any more.
    fn drop(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.news.ring();
    }
}

/// Where logs start or end, each with its own result.
async fn list(
    shared: &Shared,
    wanted: Vec<(TopicPartition, u64, Reset)>,
) -> Vec<(TopicPartition, u64, Result<OffsetAndTimestamp>)> {
    let times: Vec<(TopicPartition, i64)> = wanted
        .iter()
        .map(|(name, _, to)| (name.clone(), if *to == Reset::Earliest { EARLIEST } else { LATEST }))
        .collect();
    let mut found = shared.client.list_offsets_once(&times, shared.config.isolation_level).await;
    wanted
        .into_iter()
        .map(|(name, generation, _)| {
            let result = found
                .remove(&name)
                .unwrap_or_else(|| Err(Error::new(ErrorKind::Retriable, "no broker answered for the partition")));
            (name, generation, result)
        })
        .collect()
}
