//! The consumer: positions, fetching ahead, group membership.
//!
//! A [`Consumer`] is a handle; its driver fetches, sends heartbeats and commits while the application works. [`Consumer::poll`]
//! hands out what is there, batch by batch: nothing is allocated for a record, and a batch is decompressed when it is handed
//! out.

mod driver;
mod positions;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;

use self::driver::Driver;
use self::positions::{NotedEnds, Positions, Reset, Start};
use super::group::Member;
use super::offsets::{EARLIEST, LATEST, by_topic};
use super::signal::{Bell, Signal};
use super::{
    BrokerAddress, Client, ConsumerConfig, CoordinatorType, Topic, TopicPartition, Topics, check, lock, repeat,
};
use crate::protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::protocol::messages::{LeaveGroupRequest, OffsetCommitRequest};
use crate::protocol::{ApiKey, ErrorCode};
use crate::record::{Record, RecordError, Records, TimestampType};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result, Timestamp};

/// An offset to commit, or that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next offset to consume.
    pub offset: i64,
    /// What the application keeps with it.
    pub metadata: String,
    /// The leader epoch of the record before it; -1 when not known.
    pub leader_epoch: i32,
}

impl OffsetAndMetadata {
    /// An offset without metadata.
    pub fn new(offset: i64) -> Self {
        Self { offset, metadata: String::new(), leader_epoch: -1 }
    }
}

/// A record's offset found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// The offset.
    pub offset: i64,
    /// The record's timestamp.
    pub timestamp: Timestamp,
    /// Its leader epoch; -1 when not known.
    pub leader_epoch: i32,
}

/// What [`Consumer::poll`] returns.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    /// What happened to the assignment, in order. When a listener was announced, the next poll says that it has run.
    pub events: Vec<Rebalance>,
    /// Records, by partition and batch.
    pub batches: Vec<FetchedBatch>,
}

impl Polled {
    /// How many records there are.
    pub fn count(&self) -> usize {
        self.batches.iter().map(|batch| batch.count).sum()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.batches.is_empty()
    }
}

/// A change of a group member's assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// These are about to go to others: the last moment to commit.
    Revoked(Vec<TopicPartition>),
    /// These are others' already.
    Lost(Vec<TopicPartition>),
    /// These are ours now.
    Assigned(Vec<TopicPartition>),
}

/// Records of one batch, or of a part of it.
#[derive(Clone, Debug)]
pub struct FetchedBatch {
    /// Where they are from.
    pub partition: TopicPartition,
    /// The epoch of the leader that appended them; -1 when not known.
    pub leader_epoch: i32,
    /// Whose time the timestamps are.
    pub timestamp_type: TimestampType,
    /// All records of the batch.
    pub records: Records,
    /// The first offset that counts.
    pub from: i64,
    /// The offset after the last that counts.
    pub to: i64,
    /// How many count.
    pub count: usize,
}

impl FetchedBatch {
    /// The records that count.
    pub fn iter(&self) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
        let (from, to) = (self.from, self.to);
        self.records
            .iter()
            .skip_while(move |record| record.as_ref().is_ok_and(|record| record.offset < from))
            .take_while(move |record| record.as_ref().map_or(true, |record| record.offset < to))
    }
}

/// A test of topic names.
pub type TopicFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A consumer's place in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group.
    pub group_id: String,
    /// The generation; -1 while it is in none.
    pub generation_id: i32,
    /// Its id in it.
    pub member_id: String,
    /// Its name as a static member.
    pub group_instance_id: Option<String>,
    /// Whether it has its assignment.
    pub stable: bool,
}

/// Consumes records. Clones are the same consumer.
#[derive(Clone)]
pub struct Consumer {
    handle: Arc<Handle>,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.0.state).closing = true;
        self.0.driver.give();
    }
}

struct Shared {
    client: Client,
    config: ConsumerConfig,
    state: Mutex<State>,
    driver: Signal,
    /// Rung when there is something for the application: records, events, errors, positions.
    news: Bell,
}

struct State {
    mode: Mode,
    /// The topics subscribed to; those that the pattern matches, as far as is known.
    topics: Vec<Arc<str>>,
    positions: Positions,
    member: Option<Member>,
    events: VecDeque<Rebalance>,
    revocation: Revocation,
    noted: Option<NotedEnds>,
    last_poll: Duration,
    /// An error for the next poll.
    error: Option<Error>,
    /// The driver is committing before it joins again.
    give_up: bool,
    closing: bool,
    closed: bool,
}

enum Mode {
    Idle,
    Assigned,
    Subscribed { filter: Option<TopicFilter>, listener: Listener },
}

/// Whether somebody wants to be told before partitions are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Nobody: they are given up when the application polls.
    None,
    /// The application: [`Rebalance::Revoked`] is returned by one poll and they are given up at the next.
    Waits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Revocation {
    None,
    /// The event is in the application's hands.
    Told,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("client", &self.shared().client).finish_non_exhaustive()
    }
}

impl Consumer {
    /// A consumer without partitions, and the driver that does its work: spawn it.
    pub fn new(client: Client, config: ConsumerConfig) -> (Self, BoxFuture<'static, ()>) {
        let member = config.group_id.as_deref().map(|group_id| Member::new(group_id, &config));
        let now = client.clock().monotonic();
        let state = Mutex::new(State {
            mode: Mode::Idle,
            topics: Vec::new(),
            positions: Positions::new(),
            member,
            events: VecDeque::new(),
            revocation: Revocation::None,
            noted: None,
            last_poll: now,
            error: None,
            give_up: false,
            closing: false,
            closed: false,
        });
        let shared = Arc::new(Shared { client, config, state, driver: Signal::default(), news: Bell::default() });
        let driver = Driver::new(Arc::clone(&shared)).run();
        (Self { handle: Arc::new(Handle(shared)) }, Box::pin(driver))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }

    /// The client that it runs on.
    pub fn client(&self) -> &Client {
        &self.shared().client
    }

    /// Its options.
    pub fn config(&self) -> &ConsumerConfig {
        &self.shared().config
    }

    /// Consumes these partitions and no others; those that stay keep their positions.
    pub fn assign(&self, partitions: &[TopicPartition]) -> Result<()> {
        let shared = self.shared();
        let mut state = lock(&shared.state);
        state.check_open()?;
        if matches!(state.mode, Mode::Subscribed { .. }) {
            return Err(invalid(
                "the consumer has subscribed to topics: unsubscribe before partitions are assigned by hand",
            ));
        }
        state.mode = Mode::Assigned;
        let start = if state.member.is_some() { Start::Committed } else { Start::Reset(Reset::Policy) };
        state.positions.assign(partitions.iter().cloned(), start);
        drop(state);
        shared.driver.give();
        Ok(())
    }

    /// Consumes these topics: all of their partitions, or with a group those that it assigns.
    pub fn subscribe<T: AsRef<str>>(&self, topics: &[T], listener: Listener) -> Result<()> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for topic in topics {
            if !names.iter().any(|name| **name == *topic.as_ref()) {
                names.push(Arc::from(topic.as_ref()));
            }
        }
        self.subscribe_to(names, None, listener)
    }

    /// Consumes the topics whose names pass `filter`, also those that come later.
    pub fn subscribe_filter(&self, filter: TopicFilter, listener: Listener) -> Result<()> {
        self.subscribe_to(Vec::new(), Some(filter), listener)
    }

    /// Consumes the topics whose names match the regular expression from their start, as Python's `re.match` does.
    pub fn subscribe_pattern(&self, pattern: &str, listener: Listener) -> Result<()> {
        let regex = regex_lite::Regex::new(&format!("^(?:{pattern})")).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("pattern is not a regular expression: {error} pattern={pattern:?}"))
        })?;
        self.subscribe_filter(Arc::new(move |name| regex.is_match(name)), listener)
    }

    fn subscribe_to(&self, topics: Vec<Arc<str>>, filter: Option<TopicFilter>, listener: Listener) -> Result<()> {
        let shared = self.shared();
        let mut state = lock(&shared.state);
        state.check_open()?;
        if matches!(state.mode, Mode::Assigned) {
            return Err(invalid("partitions were assigned by hand: unsubscribe before subscribing to topics"));
        }
        if state.topics != topics || filter.is_some() {
            if let Some(member) = &mut state.member {
                member.rebalance("the subscription has changed");
            }
            state.noted = None;
        }
        state.topics = topics;
        state.mode = Mode::Subscribed { filter, listener };
        drop(state);
        shared.driver.give();
        shared.news.ring();
        Ok(())
    }

    /// Gives up subscription and assignment, and leaves the group.
    pub fn unsubscribe(&self) {
        let shared = self.shared();
        let mut state = lock(&shared.state);
        state.mode = Mode::Idle;
        state.topics.clear();
        state.noted = None;
        state.revocation = Revocation::None;
        state.positions.assign([], Start::Known);
        drop(state);
        shared.driver.give();
        shared.news.ring();
    }

    /// The topics subscribed to.
    pub fn subscription(&self) -> Vec<Arc<str>> {
        lock(&self.shared().state).topics.clone()
    }

    /// The partitions that are consumed now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        lock(&self.shared().state).positions.names().cloned().collect()
    }

    /// Notes where the logs of the subscribed topics end now: with `auto_offset_reset=latest` a partition without a committed
    /// offset starts there, and one that is not there yet at its beginning, so that nothing sent from now on is missed.
    ///
    /// Call it after [`subscribe`](Self::subscribe), before that returns to the user. Does nothing when another reset is set.
    pub async fn note_ends(&self, timeout: Duration) -> Result<()> {
        let shared = self.shared();
        if shared.config.auto_offset_reset != super::config::AutoOffsetReset::Latest {
            return Ok(());
        }
        let (topics, filter) = {
            let state = lock(&shared.state);
            match &state.mode {
                Mode::Subscribed { filter, .. } => (state.topics.clone(), filter.clone()),
                _ => return Ok(()),
            }
        };
        let client = &shared.client;
        let topics = client
            .retry(timeout, || async {
                match &filter {
                    Some(filter) => {
                        let cluster = client.refresh_with(Topics::All, false).await?;
                        Ok(cluster.topics.keys().filter(|name| filter(name)).cloned().collect())
                    }
                    None => shared.existing(&topics).await,
                }
            })
            .await?;
        let mut wanted = Vec::new();
        for name in &topics {
            let topic: Arc<Topic> = client.topic(name, timeout).await?;
            wanted.extend(
                topic
                    .partitions
                    .iter()
                    .enumerate()
                    .map(|(number, _)| TopicPartition { topic: Arc::clone(name), partition: number as i32 }),
            );
        }
        let ends = self.end_offsets(&wanted, timeout).await?;
        let mut state = lock(&shared.state);
        state.noted = Some(NotedEnds { ends });
        drop(state);
        shared.driver.give();
        Ok(())
    }

    /// Waits up to `timeout` for records or events, and returns at most `max_records` (by default `max_poll_records`); the
    /// positions move past them.
    pub async fn poll(&self, timeout: Duration, max_records: Option<usize>) -> Result<Polled> {
        self.poll_with(timeout, max_records, true).await
    }

    /// As [`poll`](Self::poll), but leaves the positions where they are, for [`advance`](Self::advance) to move them record by
    /// record.
    pub async fn poll_ahead(&self, timeout: Duration, max_records: Option<usize>) -> Result<Polled> {
        self.poll_with(timeout, max_records, false).await
    }

    async fn poll_with(&self, timeout: Duration, max_records: Option<usize>, advance: bool) -> Result<Polled> {
        let shared = self.shared();
        let clock = shared.client.clock();
        let max = max_records.unwrap_or(shared.config.max_poll_records);
        let deadline = clock.monotonic().saturating_add(timeout);
        let mut timer = None;
        let mut first = true;
        loop {
            let seen = shared.news.count();
            let now = clock.monotonic();
            let (polled, wake) = lock(&shared.state).poll(&shared.config, max, advance, first, now)?;
            first = false;
            if wake {
                shared.driver.give();
            }
            if !polled.is_empty() || now >= deadline {
                return Ok(polled);
            }
            let timer = timer.get_or_insert_with(|| clock.sleep(deadline - now));
            let changed = shared.news.changed(seen);
            futures::pin_mut!(changed);
            futures::future::select(changed, timer).await;
        }
    }

    /// Says that what is below `offset` is consumed.
    pub fn advance(&self, partition: &TopicPartition, offset: i64) {
        if let Some(partition) = lock(&self.shared().state).positions.find_mut(partition) {
            partition.advance(offset);
        }
    }

    /// Goes on at `offset`.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        if offset < 0 {
            return Err(invalid(format!("an offset is not negative offset={offset}")));
        }
        self.with_position(partition, |positions| positions.seek(partition, offset))
    }

    /// Goes on at the first record of each; of all that are assigned if none is named.
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.seek_to(partitions, Reset::Earliest)
    }

    /// Goes on after the last record of each; of all that are assigned if none is named.
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.seek_to(partitions, Reset::Latest)
    }

    fn seek_to(&self, partitions: &[TopicPartition], to: Reset) -> Result<()> {
        let all = if partitions.is_empty() { self.assignment() } else { partitions.to_vec() };
        for partition in &all {
            self.with_position(partition, |positions| positions.reset(partition, to))?;
        }
        Ok(())
    }

    fn with_position(&self, partition: &TopicPartition, change: impl FnOnce(&mut Positions) -> bool) -> Result<()> {
        let shared = self.shared();
        let mut state = lock(&shared.state);
        state.check_open()?;
        if !change(&mut state.positions) {
            return Err(invalid(format!("the partition is not assigned to this consumer partition={partition}")));
        }
        drop(state);
        shared.driver.give();
        Ok(())
    }

    /// The next offset to consume, once it is known; waits for that up to `timeout`.
    pub async fn position(&self, partition: &TopicPartition, timeout: Duration) -> Result<i64> {
        let shared = self.shared();
        let waiting = async {
            loop {
                let seen = shared.news.count();
                {
                    let mut state = lock(&shared.state);
                    state.check_open()?;
                    let Some(found) = state.positions.find_mut(partition) else {
                        return Err(invalid(format!(
                            "the partition is not assigned to this consumer partition={partition}"
                        )));
                    };
                    if let Some(position) = found.position() {
                        return Ok(position);
                    }
                    if let Some(error) = &found.error {
                        return Err(repeat(error));
                    }
                }
                shared.driver.give();
                shared.news.changed(seen).await;
            }
        };
        shared.client.within(timeout, waiting).await
    }

    /// Returns no records of these until they are resumed.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, true)
    }

    /// Returns records of these again.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, false)
    }

    fn set_paused(&self, partitions: &[TopicPartition], paused: bool) -> Result<()> {
        for partition in partitions {
            self.with_position(partition, |positions| {
                positions.find_mut(partition).is_some_and(|partition| {
                    partition.paused = paused;
                    true
                })
            })?;
        }
        self.shared().news.ring();
        Ok(())
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> Vec<TopicPartition> {
        let state = lock(&self.shared().state);
        state.positions.iter().filter(|partition| partition.paused).map(|partition| partition.name.clone()).collect()
    }

    /// The high watermark as of the last answer.
    pub fn highwater(&self, partition: &TopicPartition) -> Option<i64> {
        lock(&self.shared().state).positions.find(partition)?.high_watermark
    }

    /// Where each partition's log starts.
    pub async fn beginning_offsets(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, i64>> {
        let wanted = partitions.iter().map(|partition| (partition.clone(), EARLIEST)).collect();
        let found = self.shared().list_offsets(wanted, timeout).await?;
        Ok(found.into_iter().map(|(partition, found)| (partition, found.offset)).collect())
    }

    /// Where each partition's log ends: its high watermark, or with `read_committed` its last stable offset.
    pub async fn end_offsets(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, i64>> {
        let wanted = partitions.iter().map(|partition| (partition.clone(), LATEST)).collect();
        let found = self.shared().list_offsets(wanted, timeout).await?;
        Ok(found.into_iter().map(|(partition, found)| (partition, found.offset)).collect())
    }

    /// The first record of each partition whose timestamp is that or later; `None` when there is none.
    pub async fn offsets_for_times(
        &self,
        times: &HashMap<TopicPartition, Timestamp>,
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Option<OffsetAndTimestamp>>> {
        if let Some((partition, time)) = times.iter().find(|(_, time)| **time < 0) {
            return Err(invalid(format!("a time is not negative partition={partition} time={time}")));
        }
        let wanted = times.iter().map(|(partition, time)| (partition.clone(), *time)).collect();
        let found = self.shared().list_offsets(wanted, timeout).await?;
        Ok(found
            .into_iter()
            .map(|(partition, found)| (partition, Some(found).filter(|found| found.offset >= 0)))
            .collect())
    }

    /// Commits `offsets`, or all positions; waits for the answer up to `timeout`.
    pub async fn commit(
        &self,
        offsets: Option<HashMap<TopicPartition, OffsetAndMetadata>>,
        timeout: Duration,
    ) -> Result<()> {
        let shared = self.shared();
        let offsets = {
            let state = lock(&shared.state);
            if state.member.is_none() {
                return Err(invalid("committing needs a group: set group_id"));
            }
            offsets.unwrap_or_else(|| state.consumed())
        };
        shared.commit(offsets, timeout).await
    }

    /// What the group committed for each; `None` when it did not.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Option<OffsetAndMetadata>>> {
        let shared = self.shared();
        if lock(&shared.state).member.is_none() {
            return Err(invalid("committed offsets need a group: set group_id"));
        }
        shared.client.retry(timeout, || shared.committed(partitions)).await
    }

    /// The names of all topics, as a broker says.
    pub async fn topics(&self, timeout: Duration) -> Result<Vec<Arc<str>>> {
        let client = &self.shared().client;
        let cluster = client.retry(timeout, || client.refresh_with(Topics::All, false)).await?;
        let hidden = self.config().exclude_internal_topics;
        let mut names: Vec<Arc<str>> = cluster
            .topics
            .values()
            .filter(|topic| !(hidden && topic.is_internal))
            .map(|topic| Arc::clone(&topic.name))
            .collect();
        names.sort();
        Ok(names)
    }

    /// A topic's partitions, as a broker says; `None` when there is no such topic.
    pub async fn partitions_for_topic(&self, topic: &str, timeout: Duration) -> Result<Option<Arc<Topic>>> {
        let shared = self.shared();
        let name: Arc<str> = Arc::from(topic);
        let existing = shared.client.retry(timeout, || shared.existing(std::slice::from_ref(&name))).await?;
        if existing.is_empty() {
            return Ok(None);
        }
        shared.client.topic(topic, timeout).await.map(Some)
    }

    /// The consumer's place in its group.
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        let state = lock(&self.shared().state);
        let member = state.member.as_ref()?;
        Some(GroupMetadata {
            group_id: member.group_id().to_string(),
            generation_id: member.generation(),
            member_id: member.member_id().to_owned(),
            group_instance_id: member.instance_id().map(str::to_owned),
            stable: member.is_stable(),
        })
    }

    /// Commits if it does so by itself and `commit` is set, leaves the group, and ends the driver.
    pub async fn close(&self, commit: bool, timeout: Duration) -> Result<()> {
        let shared = self.shared();
        let offsets = {
            let mut state = lock(&shared.state);
            if state.closed {
                return Ok(());
            }
            state.closed = true;
            let commits = commit && shared.config.enable_auto_commit && state.member.is_some();
            if commits { state.consumed() } else { HashMap::new() }
        };
        shared.news.ring();
        let committed = if offsets.is_empty() { Ok(()) } else { shared.commit(offsets, timeout).await };
        let leaving = {
            let mut state = lock(&shared.state);
            state.closing = true;
            state.positions.assign([], Start::Known);
            state.member.as_mut().and_then(|member| member.leave("the consumer was closed"))
        };
        shared.driver.give();
        if let Some((to, request)) = leaving {
            // Over another connection than a join that may be waiting at the coordinator.
            if let Err(error) = shared.client.within(timeout, shared.leave(&to, request)).await {
                log::debug!("the group was left without its answer: {error}");
            }
        }
        committed
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

impl State {
    fn check_open(&self) -> Result<()> {
        if self.closed || self.closing {
            return Err(Error::new(ErrorKind::Closed, "the consumer was closed"));
        }
        Ok(())
    }

    /// The positions, as they would be committed.
    fn consumed(&self) -> HashMap<TopicPartition, OffsetAndMetadata> {
        self.offsets(|partition| partition.position())
    }

    /// Those positions of which the application has come back for more.
    fn committable(&self) -> HashMap<TopicPartition, OffsetAndMetadata> {
        self.offsets(|partition| partition.position().map(|_| partition.committable))
    }

    fn offsets(
        &self,
        offset: impl Fn(&positions::Partition) -> Option<i64>,
    ) -> HashMap<TopicPartition, OffsetAndMetadata> {
        let known = self.positions.iter().filter_map(|partition| {
            let offset = offset(partition).filter(|offset| *offset >= 0)?;
            let leader_epoch = partition.leader_epoch();
            Some((partition.name.clone(), OffsetAndMetadata { offset, metadata: String::new(), leader_epoch }))
        });
        known.collect()
    }

    /// What is there for the application. The second value: whether the driver has something to do.
    fn poll(
        &mut self,
        config: &ConsumerConfig,
        max: usize,
        advance: bool,
        first: bool,
        now: Duration,
    ) -> Result<(Polled, bool)> {
        self.check_open()?;
        self.last_poll = now;
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let mut wake = false;
        if first && advance {
            // It came back for more: what it had is done.
            for partition in self.positions.iter_mut() {
                partition.committable = partition.consumed;
            }
        }
        match &self.mode {
            Mode::Idle => {
                return Err(invalid("the consumer has neither subscribed to topics nor been assigned partitions"));
            }
            Mode::Assigned => {}
            Mode::Subscribed { listener, .. } => {
                if let Some(member) = &mut self.member {
                    if member.is_out() {
                        member.join();
                        wake = true;
                    } else if member.is_revoking() && !self.give_up {
                        let has = self.positions.names().next().is_some();
                        let told = self.revocation == Revocation::Told;
                        if *listener == Listener::Waits && has && !told {
                            self.revocation = Revocation::Told;
                            self.events.push_back(Rebalance::Revoked(self.positions.names().cloned().collect()));
                        } else if *listener == Listener::None || !has || first {
                            // Nobody to tell, or told and back again.
                            self.revocation = Revocation::None;
                            self.give_up = true;
                            wake = true;
                        }
                    }
                }
            }
        }
        if !self.events.is_empty() {
            return Ok((Polled { events: self.events.drain(..).collect(), batches: Vec::new() }, wake));
        }
        if self.give_up {
            return Ok((Polled::default(), wake));
        }
        let had_room = self.positions.has_room(config);
        let batches = self.positions.take(max, advance, config.max_batch_bytes)?;
        wake |= !batches.is_empty() || !had_room;
        Ok((Polled { events: Vec::new(), batches }, wake))
    }

    /// Takes in a change of the membership.
    fn changed(&mut self, change: super::group::Change) {
        use super::group::Change;
        match change {
            Change::Nothing | Change::Rebalance => {}
            Change::Lost => {
                let lost: Vec<TopicPartition> = self.positions.names().cloned().collect();
                self.positions.assign([], Start::Known);
                self.revocation = Revocation::None;
                self.give_up = false;
                if !lost.is_empty() {
                    self.tell(Rebalance::Lost(lost));
                }
            }
            Change::Assigned(partitions) => {
                self.positions.assign([], Start::Known);
                self.positions.assign(partitions.iter().cloned(), Start::Committed);
                self.revocation = Revocation::None;
                self.tell(Rebalance::Assigned(partitions));
            }
            Change::Failed(error) => self.error = Some(error),
        }
    }

    fn tell(&mut self, event: Rebalance) {
        if matches!(self.mode, Mode::Subscribed { listener: Listener::Waits, .. }) {
            self.events.push_back(event);
        }
    }
}

impl Shared {
    /// Which of the topics are there, without creating the others.
    async fn existing(&self, topics: &[Arc<str>]) -> Result<Vec<Arc<str>>> {
        let response = self.client.ask(Topics::Named(topics), false).await?;
        self.client.learn(&response, false);
        let mut existing = Vec::new();
        for topic in response.topics {
            let name = topic.name.unwrap_or_default();
            match topic.error_code {
                ErrorCode::NONE | ErrorCode::LEADER_NOT_AVAILABLE => existing.push(Arc::from(name)),
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {}
                code => check(code, None, format_args!("topic={name}"))?,
            }
        }
        Ok(existing)
    }

    /// Asks leaders for offsets by time, until all have answered.
    async fn list_offsets(
        &self,
        wanted: Vec<(TopicPartition, i64)>,
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, OffsetAndTimestamp>> {
        let found = self.client.list_offsets(wanted, self.config.isolation_level, timeout).await?;
        found.into_iter().map(|(name, found)| Ok((name, found?))).collect()
    }

    /// The group's coordinator, as it is known or as a broker says.
    async fn coordinator(&self) -> Result<BrokerAddress> {
        let group = {
            let state = lock(&self.state);
            let Some(member) = &state.member else { return Err(invalid("this needs a group: set group_id")) };
            if let Some(coordinator) = member.coordinator() {
                return Ok(coordinator.clone());
            }
            Arc::clone(member.group_id())
        };
        let coordinator = self.client.coordinator(CoordinatorType::Group, &group).await?;
        if let Some(member) = &mut lock(&self.state).member {
            member.set_coordinator(Some(coordinator.clone()));
        }
        Ok(coordinator)
    }

    /// Forgets the coordinator when an error says that it is another, or cannot be reached.
    fn doubt_coordinator(&self, error: &Error) {
        let moved = match error.code() {
            Some(code) => matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE),
            None => error.is_retriable() || error.kind() == ErrorKind::Timeout,
        };
        if moved && let Some(member) = &mut lock(&self.state).member {
            member.set_coordinator(None);
        }
    }

    async fn leave(&self, to: &Endpoint, mut request: LeaveGroupRequest) -> Result<()> {
        // From version 3 on many may leave at once, in a field of its own.
        if self.client.transport().versions(to).await?.version_for(ApiKey::LEAVE_GROUP)? >= 3 {
            request.member_id.clear();
        } else {
            request.members.clear();
        }
        let response = self.client.call_endpoint(to, request).await?;
        check(response.error_code, None, "leaving the group")
    }

    async fn commit(&self, offsets: HashMap<TopicPartition, OffsetAndMetadata>, timeout: Duration) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.client.retry(timeout, || self.commit_once(&offsets)).await
    }

    async fn commit_once(&self, offsets: &HashMap<TopicPartition, OffsetAndMetadata>) -> Result<()> {
        let coordinator = self.coordinator().await?;
        let request = {
            let state = lock(&self.state);
            let Some(member) = &state.member else { return Err(invalid("committing needs a group: set group_id")) };
            // Assigned by hand it is no member, and says so.
            let in_group = matches!(state.mode, Mode::Subscribed { .. });
            OffsetCommitRequest {
                group_id: member.group_id().to_string(),
                generation_id_or_member_epoch: if in_group { member.generation() } else { -1 },
                member_id: if in_group { member.member_id().to_owned() } else { String::new() },
                group_instance_id: member.instance_id().filter(|_| in_group).map(str::to_owned),
                topics: by_topic(offsets.iter().map(|(partition, offset)| (partition.clone(), offset)))
                    .into_iter()
                    .map(|(topic, partitions)| OffsetCommitRequestTopic {
                        name: topic.to_string(),
                        partitions: partitions
                            .into_iter()
                            .map(|(partition_index, offset)| OffsetCommitRequestPartition {
                                partition_index,
                                committed_offset: offset.offset,
                                committed_leader_epoch: offset.leader_epoch,
                                committed_metadata: Some(offset.metadata.clone()),
                            })
                            .collect(),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }
        };
        let response = self.client.call_endpoint(&coordinator.endpoint, request).await;
        let result = response.and_then(|response| {
            for topic in &response.topics {
                for partition in &topic.partitions {
                    let facts = format!("partition={}-{}", topic.name, partition.partition_index);
                    match partition.error_code {
                        ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION => {
                            let code = partition.error_code;
                            let now = self.client.clock().monotonic();
                            if let Some(member) = &mut lock(&self.state).member {
                                drop(member.handle_refused_commit(code, now));
                            }
                            self.driver.give();
                            // The same commit will not be accepted later.
                            let message = format!(
                                "the commit was refused, for the group has gone on without this member ({}): its partitions may be \
                                 others' now; poll more often, or raise max_poll_interval_ms {facts}",
                                code.name()
                            );
                            return Err(Error::from_code(code, message));
                        }
                        code => check(code, None, facts)?,
                    }
                }
            }
            Ok(())
        });
        result.inspect_err(|error| self.doubt_coordinator(error))
    }

    /// Asks for committed offsets, once.
    async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<OffsetAndMetadata>>> {
        let coordinator = self.coordinator().await?;
        let group = {
            let state = lock(&self.state);
            state.member.as_ref().map(|member| member.group_id().to_string()).unwrap_or_default()
        };
        let result = self.client.committed_offsets(&coordinator.endpoint, &group, Some(partitions)).await;
        let mut found = result.inspect_err(|error| self.doubt_coordinator(error))?;
        Ok(partitions.iter().map(|name| (name.clone(), found.remove(name))).collect())
    }
}
