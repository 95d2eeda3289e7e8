//! What a consumer knows of its partitions: where it is in each, what it fetched ahead, what to ask for next. Decides; does
//! not wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::FetchedBatch;
use crate::client::config::{AutoOffsetReset, IsolationLevel};
use crate::client::{Client, Cluster, ConsumerConfig, TopicPartition, check};
use crate::protocol::ErrorCode;
use crate::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData};
use crate::record::{Batch, ControlType, Records, batches};
use crate::{Error, ErrorKind, Result};

/// How much may be fetched ahead of one partition, in answers: one that is consumed, one that is ready.
const ANSWERS_AHEAD: usize = 2;

/// A marker of a transaction's end is a few bytes.
const MARKER_LIMIT: usize = 1 << 16;

/// Which of a broker's two connections for fetching a request takes.
///
/// A broker answers the requests of one connection in turn, so partitions that have nothing new, whose request waits there, are
/// kept apart from those that have: a partition that was just drained, or moved by `seek`, never waits for a silent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Road {
    /// For partitions known to have more, or of which nothing is known yet.
    Busy,
    /// For partitions that are at the end.
    Quiet,
}

/// Where a reset goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    Earliest,
    Latest,
    /// Where `auto_offset_reset` says.
    Policy,
}

/// How a partition's position is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It is known.
    Known,
    /// The group may have committed one.
    Committed,
    /// One of the log's ends.
    Reset(Reset),
}

/// Where the log ended when the consumer subscribed.
#[derive(Clone, Debug, Default)]
pub(super) struct NotedEnds {
    pub(super) ends: HashMap<TopicPartition, i64>,
}

#[derive(Debug)]
pub(super) struct Positions {
    partitions: Vec<Partition>,
    index: HashMap<TopicPartition, usize>,
    next_generation: u64,
    buffered: usize,
    /// Whose records are handed out next, so that each gets its turn.
    turn: usize,
    /// Which was looked for last: who iterates stays with one for a batch.
    recent: usize,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) name: TopicPartition,
    /// Differs after each change of position: answers to what was asked before are dropped.
    generation: u64,
    pub(super) start: Start,
    /// What the application has consumed: what is committed.
    pub(super) consumed: i64,
    /// What it has consumed for sure: it came back for more.
    pub(super) committable: i64,
    /// The offset after the last record handed out.
    delivered: i64,
    /// What is handed out next.
    deliver: i64,
    /// What is fetched next.
    fetch: i64,
    leader_epoch: i32,
    buffer: VecDeque<Buffered>,
    buffered: usize,
    asked: bool,
    /// Whether a fetch from the position has been answered.
    looked: bool,
    pub(super) paused: bool,
    pub(super) high_watermark: Option<i64>,
    last_stable: Option<i64>,
    pub(super) log_start: Option<i64>,
    /// Whether the position is the end as it was noted at the time of subscribing.
    noted: bool,
    /// A replica that the leader pointed us at, and until when.
    preferred: Option<(i32, Duration)>,
    retry_at: Duration,
    failures: u32,
    pub(super) error: Option<Error>,
}

#[derive(Debug)]
enum Buffered {
    Batch {
        batch: Batch,
        records: Option<Records>,
    },
    /// Nothing for the application up to there.
    Nothing {
        next: i64,
    },
}

/// A Fetch to send.
#[derive(Debug)]
pub(super) struct FetchPlan {
    pub(super) node: i32,
    pub(super) road: Road,
    pub(super) request: FetchRequest,
    pub(super) parts: Vec<(TopicPartition, u64)>,
}

/// An answer, taken apart and checked before anybody is kept waiting for it.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) node: i32,
    pub(super) road: Road,
    parts: Vec<(TopicPartition, u64, Result<FetchedPart>)>,
}

#[derive(Debug)]
struct FetchedPart {
    data: PartitionData,
    buffered: Vec<Buffered>,
    /// What comes after the last whole batch.
    next: Option<i64>,
    /// What is wrong with the batch after those.
    error: Option<Error>,
}

impl Positions {
    pub(super) fn new() -> Self {
        Self { partitions: Vec::new(), index: HashMap::new(), next_generation: 1, buffered: 0, turn: 0, recent: 0 }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.iter().map(|partition| &partition.name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.partitions.iter_mut()
    }

    pub(super) fn find(&self, name: &TopicPartition) -> Option<&Partition> {
        self.index.get(name).map(|place| &self.partitions[*place])
    }

    pub(super) fn find_mut(&mut self, name: &TopicPartition) -> Option<&mut Partition> {
        if self.partitions.get(self.recent).is_none_or(|partition| partition.name != *name) {
            self.recent = *self.index.get(name)?;
        }
        self.partitions.get_mut(self.recent)
    }

    /// These partitions and no others; those that stay keep where they are.
    pub(super) fn assign(&mut self, names: impl IntoIterator<Item = TopicPartition>, start: Start) {
        let mut old: HashMap<TopicPartition, Partition> = std::mem::take(&mut self.partitions)
            .into_iter()
            .map(|partition| (partition.name.clone(), partition))
            .collect();
        self.index.clear();
        for name in names {
            if self.index.contains_key(&name) {
                continue;
            }
            let partition = old.remove(&name).unwrap_or_else(|| {
                let generation = self.next_generation;
                self.next_generation += 1;
                Partition::new(name.clone(), generation, start)
            });
            self.index.insert(name, self.partitions.len());
            self.partitions.push(partition);
        }
        self.buffered = self.partitions.iter().map(|partition| partition.buffered).sum();
    }

    /// Moves a partition, which drops what was fetched ahead. False if it is not ours.
    pub(super) fn seek(&mut self, name: &TopicPartition, offset: i64) -> bool {
        let Some(place) = self.index.get(name).copied() else { return false };
        self.clear(place, Start::Known);
        self.partitions[place].set(offset);
        true
    }

    /// Has a partition go to an end of its log. False if it is not ours.
    pub(super) fn reset(&mut self, name: &TopicPartition, to: Reset) -> bool {
        let Some(place) = self.index.get(name).copied() else { return false };
        self.clear(place, Start::Reset(to));
        true
    }

    fn clear(&mut self, place: usize, start: Start) {
        let generation = self.next_generation;
        self.next_generation += 1;
        let partition = &mut self.partitions[place];
        self.buffered -= partition.buffered;
        partition.buffered = 0;
        partition.buffer.clear();
        partition.generation = generation;
        partition.start = start;
        partition.asked = false;
        partition.looked = false;
        partition.noted = false;
        partition.error = None;
        partition.retry_at = Duration::ZERO;
    }

    /// Takes in what the group committed, for those that wait for it. `None`: nothing.
    pub(super) fn set_committed(&mut self, name: &TopicPartition, offset: Option<i64>) {
        if let Some(partition) = self.find_mut(name).filter(|partition| partition.start == Start::Committed) {
            match offset {
                Some(offset) => partition.set(offset),
                None => partition.start = Start::Reset(Reset::Policy),
            }
        }
    }

    /// Answers resets that need no broker: by the ends that were noted, or with the error that there is nowhere to go.
    pub(super) fn settle_resets(&mut self, policy: AutoOffsetReset, noted: Option<&NotedEnds>) {
        for partition in &mut self.partitions {
            if partition.start != Start::Reset(Reset::Policy) {
                continue;
            }
            match policy {
                AutoOffsetReset::Earliest => partition.start = Start::Reset(Reset::Earliest),
                AutoOffsetReset::Latest => match noted {
                    // A partition that was not there when the ends were noted came later: all of it is new.
                    Some(noted) => {
                        partition.set(noted.ends.get(&partition.name).copied().unwrap_or(0));
                        partition.noted = true;
                    }
                    None => partition.start = Start::Reset(Reset::Latest),
                },
                AutoOffsetReset::None => {
                    partition.error.get_or_insert_with(|| {
                        Error::new(
                            ErrorKind::OutOfRange,
                            format!(
                                "no committed offset, and auto_offset_reset=none says to start nowhere: seek first \
                                 partition={}",
                                partition.name
                            ),
                        )
                    });
                }
            }
        }
    }

    /// The partitions whose log end or start must be asked for, and not before their pause is over.
    pub(super) fn to_list(&self, now: Duration) -> Vec<(TopicPartition, u64, Reset)> {
        self.partitions
            .iter()
            .filter(|partition| !partition.asked && partition.retry_at <= now)
            .filter_map(|partition| match partition.start {
                Start::Reset(to @ (Reset::Earliest | Reset::Latest)) => {
                    Some((partition.name.clone(), partition.generation, to))
                }
                _ => None,
            })
            .collect()
    }

    pub(super) fn mark_asked(&mut self, name: &TopicPartition, generation: u64) {
        if let Some(partition) = self.find_mut(name).filter(|partition| partition.generation == generation) {
            partition.asked = true;
        }
    }

    /// Takes in where a log starts or ends.
    pub(super) fn set_listed(
        &mut self,
        name: &TopicPartition,
        generation: u64,
        offset: Result<i64>,
        retry_at: Duration,
    ) {
        let Some(partition) = self.find_mut(name).filter(|partition| partition.generation == generation) else {
            return;
        };
        partition.asked = false;
        match offset {
            Ok(offset) => partition.set(offset),
            Err(error) if error.is_retriable() || error.kind() == ErrorKind::Timeout => partition.retry_at = retry_at,
            Err(error) => {
                partition.retry_at = retry_at;
                partition.error = Some(error);
            }
        }
    }

    /// When the first pause ends, of partitions that wait for something else than an answer.
    pub(super) fn next_retry(&self, now: Duration) -> Duration {
        let waiting = self.partitions.iter().filter(|partition| !partition.asked && partition.retry_at > now);
        waiting.map(|partition| partition.retry_at).min().unwrap_or(Duration::MAX)
    }

    /// The Fetch requests that can be sent now. `busy` are the roads with one under way. The second value: whether a leader is
    /// not known.
    pub(super) fn plan(
        &mut self,
        config: &ConsumerConfig,
        cluster: &Cluster,
        busy: &HashSet<(i32, Road)>,
        now: Duration,
    ) -> (Vec<FetchPlan>, bool) {
        let mut plans: Vec<FetchPlan> = Vec::new();
        let mut leaderless = false;
        let limit = config.fetch_max_bytes as usize;
        if self.buffered >= limit {
            return (plans, false);
        }
        let ahead = config.max_partition_fetch_bytes as usize * ANSWERS_AHEAD;
        let count = self.partitions.len();
        for i in 0..count {
            // From where the last one began, so that an answer that is full does not always leave out the same.
            let partition = &mut self.partitions[(self.turn + i) % count];
            let wants = partition.start == Start::Known
                && !partition.paused
                && !partition.asked
                && partition.buffered < ahead
                && partition.error.is_none()
                && partition.retry_at <= now;
            if !wants {
                continue;
            }
            let Some((leader, leader_epoch)) = cluster.leader(&partition.name.topic, partition.name.partition) else {
                leaderless = true;
                continue;
            };
            if partition.preferred.is_some_and(|(node, until)| now >= until || !cluster.brokers.contains_key(&node)) {
                partition.preferred = None;
            }
            let node = partition.preferred.map_or(leader, |(node, _)| node);
            if !cluster.brokers.contains_key(&node) {
                leaderless = true;
                continue;
            }
            let end = match config.isolation_level {
                IsolationLevel::ReadCommitted => partition.last_stable.or(partition.high_watermark),
                IsolationLevel::ReadUncommitted => partition.high_watermark,
            };
            // What was just moved is looked at once before it waits: its offset may be out of range.
            let at_end = partition.looked && end.is_some_and(|end| partition.fetch >= end);
            let road = if at_end { Road::Quiet } else { Road::Busy };
            if busy.contains(&(node, road)) {
                continue;
            }
            let plan = match plans.iter_mut().position(|plan| plan.node == node && plan.road == road) {
                Some(place) => &mut plans[place],
                None => {
                    plans.push(FetchPlan {
                        node,
                        road,
                        request: FetchRequest {
                            replica_id: -1,
                            max_wait_ms: i32::try_from(config.fetch_max_wait_ms).unwrap_or(i32::MAX),
                            min_bytes: config.fetch_min_bytes,
                            max_bytes: config.fetch_max_bytes,
                            isolation_level: config.isolation_level.code(),
                            rack_id: config.client_rack.clone(),
                            ..Default::default()
                        },
                        parts: Vec::new(),
                    });
                    plans.last_mut().expect("it was just pushed")
                }
            };
            if !partition.looked {
                // A first look, to learn where the log ends: it must not keep the others waiting.
                plan.request.max_wait_ms = 0;
            }
            let wanted = FetchPartition {
                partition: partition.name.partition,
                current_leader_epoch: leader_epoch,
                fetch_offset: partition.fetch,
                partition_max_bytes: config.max_partition_fetch_bytes,
                ..Default::default()
            };
            let topic = &partition.name.topic;
            match plan.request.topics.iter_mut().rev().find(|wanted| *wanted.topic == **topic) {
                Some(topic) => topic.partitions.push(wanted),
                None => plan.request.topics.push(FetchTopic {
                    topic: topic.to_string(),
                    partitions: vec![wanted],
                    ..Default::default()
                }),
            }
            partition.asked = true;
            plan.parts.push((partition.name.clone(), partition.generation));
        }
        (plans, leaderless)
    }

    /// Takes in an answer. The first value: whether anything is there for the application, the second: whether leaders have
    /// moved.
    pub(super) fn handle_fetched(
        &mut self,
        fetched: Fetched,
        config: &ConsumerConfig,
        client: &Client,
        now: Duration,
    ) -> (bool, bool) {
        let (mut news, mut moved) = (false, false);
        let mut out_of_range = Vec::new();
        for (name, generation, part) in fetched.parts {
            let Some(place) = self.index.get(&name).copied() else { continue };
            let partition = &mut self.partitions[place];
            if partition.generation != generation {
                continue;
            }
            partition.asked = false;
            let part = match part {
                Ok(part) => part,
                Err(error) if error.is_retriable() || error.kind() == ErrorKind::Timeout => {
                    partition.preferred = None;
                    partition.retry_at = now + client.backoff(partition.failures);
                    partition.failures += 1;
                    moved = true;
                    continue;
                }
                Err(error) => {
                    partition.retry_at = now + client.backoff(partition.failures);
                    partition.failures += 1;
                    partition.error = Some(error);
                    news = true;
                    continue;
                }
            };
            let data = &part.data;
            let code = data.error_code;
            match code {
                ErrorCode::NONE => {
                    partition.looked = true;
                    partition.failures = 0;
                    partition.high_watermark = Some(data.high_watermark);
                    partition.last_stable = Some(data.last_stable_offset).filter(|offset| *offset >= 0);
                    if data.log_start_offset >= 0 {
                        partition.log_start = Some(data.log_start_offset);
                    }
                    if data.preferred_read_replica >= 0 {
                        let until = now + Duration::from_millis(client.config().metadata_max_age_ms);
                        partition.preferred = Some((data.preferred_read_replica, until));
                    }
                    if let Some(next) = part.next {
                        partition.noted = false;
                        partition.fetch = partition.fetch.max(next);
                    }
                    for buffered in part.buffered {
                        if let Buffered::Batch { batch, .. } = &buffered {
                            partition.buffered += batch.size();
                            self.buffered += batch.size();
                        }
                        partition.buffer.push_back(buffered);
                        news = true;
                    }
                    if let Some(error) = part.error {
                        partition.error = Some(error);
                        news = true;
                    }
                }
                ErrorCode::OFFSET_OUT_OF_RANGE if partition.preferred.is_some() => partition.preferred = None,
                // Fetched ahead, but not consumed: what is here comes first.
                ErrorCode::OFFSET_OUT_OF_RANGE => out_of_range.push((place, data.log_start_offset)),
                code if code.is_retriable() => {
                    partition.preferred = None;
                    partition.retry_at = now + client.backoff(partition.failures);
                    partition.failures += 1;
                    moved |= code.is_invalid_metadata();
                }
                code => {
                    partition.retry_at = now + client.backoff(partition.failures);
                    partition.failures += 1;
                    partition.error = check(code, None, format_args!("partition={name}")).err();
                    news = true;
                }
            }
        }
        for (place, log_start) in out_of_range {
            news = true;
            let partition = &mut self.partitions[place];
            let (fetch, noted) = (partition.fetch, partition.noted);
            match config.auto_offset_reset {
                AutoOffsetReset::None => {
                    partition.error = Some(Error::from_code(
                        ErrorCode::OFFSET_OUT_OF_RANGE,
                        format!(
                            "the position is not in the log (any more), and auto_offset_reset=none says to go nowhere: seek \
                             first partition={} position={fetch}",
                            partition.name
                        ),
                    ));
                }
                // Since the end was noted the log start offset has passed it: all that is left came after.
                _ if noted && log_start > fetch => self.clear(place, Start::Reset(Reset::Earliest)),
                _ => {
                    log::info!("position is out of range, resetting it partition={} position={fetch}", partition.name);
                    let to = match config.auto_offset_reset {
                        AutoOffsetReset::Earliest => Reset::Earliest,
                        _ => Reset::Latest,
                    };
                    self.clear(place, Start::Reset(to));
                }
            }
        }
        (news, moved)
    }

    /// Takes up to `max` records, and moves what is consumed past them if `advance`.
    ///
    /// # Errors
    /// A partition's error, when there are no records before it.
    pub(super) fn take(&mut self, max: usize, advance: bool, limit: usize) -> Result<Vec<FetchedBatch>> {
        let mut taken = Vec::new();
        let mut left = max;
        let count = self.partitions.len();
        for i in 0..count {
            let place = (self.turn + i) % count;
            let partition = &mut self.partitions[place];
            if partition.paused || partition.start != Start::Known {
                if let Some(error) = partition.error.take_if(|_| taken.is_empty()) {
                    return Err(error);
                }
                continue;
            }
            let before = partition.buffered;
            let failed = partition.take(&mut taken, &mut left, limit).err();
            self.buffered -= before - partition.buffered;
            if advance || partition.consumed >= partition.delivered {
                partition.consumed = partition.deliver;
                partition.delivered = partition.deliver;
            }
            let error = failed.or_else(|| if partition.buffer.is_empty() { partition.error.take() } else { None });
            if let Some(error) = error {
                if taken.is_empty() {
                    return Err(error);
                }
                partition.error = Some(error);
            }
            if left == 0 {
                // The next one's turn, unless this one has been cut off.
                self.turn = if self.partitions[place].buffer.is_empty() { (place + 1) % count } else { place };
                return Ok(taken);
            }
        }
        if count > 0 {
            self.turn = (self.turn + 1) % count;
        }
        Ok(taken)
    }

    pub(super) fn has_room(&self, config: &ConsumerConfig) -> bool {
        self.buffered < config.fetch_max_bytes as usize
    }
}

impl Partition {
    fn new(name: TopicPartition, generation: u64, start: Start) -> Self {
        Self {
            name,
            generation,
            start,
            consumed: -1,
            committable: -1,
            delivered: -1,
            deliver: -1,
            fetch: -1,
            leader_epoch: -1,
            buffer: VecDeque::new(),
            buffered: 0,
            asked: false,
            looked: false,
            paused: false,
            high_watermark: None,
            last_stable: None,
            log_start: None,
            noted: false,
            preferred: None,
            retry_at: Duration::ZERO,
            failures: 0,
            error: None,
        }
    }

    fn set(&mut self, offset: i64) {
        self.start = Start::Known;
        (self.consumed, self.committable, self.delivered) = (offset, offset, offset);
        (self.deliver, self.fetch) = (offset, offset);
        self.leader_epoch = -1;
        self.failures = 0;
    }

    /// The position, when it is known.
    pub(super) fn position(&self) -> Option<i64> {
        (self.start == Start::Known).then_some(self.consumed)
    }

    /// The leader epoch of the last batch that was handed out; -1 when none was.
    pub(super) fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// The application has consumed what is below `offset`.
    pub(super) fn advance(&mut self, offset: i64) {
        if self.start == Start::Known && offset > self.consumed {
            // After the last record handed out come perhaps a few that are not for the application.
            self.consumed = if offset >= self.delivered { self.deliver } else { offset };
            self.committable = self.consumed;
        }
    }

    fn take(&mut self, taken: &mut Vec<FetchedBatch>, left: &mut usize, limit: usize) -> Result<()> {
        while let Some(first) = self.buffer.front_mut() {
            let Buffered::Batch { batch, records } = first else {
                if let Some(Buffered::Nothing { next }) = self.buffer.pop_front() {
                    self.deliver = self.deliver.max(next);
                }
                continue;
            };
            if *left == 0 {
                break;
            }
            let records = match records {
                Some(records) => records,
                none => none.insert(batch.records(limit).map_err(|error| malformed(&self.name, batch, &error))?),
            };
            let (count, next) =
                cut(batch, records, self.deliver, *left).map_err(|error| malformed(&self.name, batch, &error))?;
            if count > 0 {
                *left -= count;
                self.leader_epoch = batch.partition_leader_epoch();
                taken.push(FetchedBatch {
                    partition: self.name.clone(),
                    leader_epoch: batch.partition_leader_epoch(),
                    timestamp_type: batch.timestamp_type(),
                    records: records.clone(),
                    from: self.deliver,
                    to: next,
                    count,
                });
                self.delivered = next;
                // The next part begins where this one ends, or a large batch would be gone through for each.
                records.skip(count);
            }
            self.deliver = next;
            if next < batch.next_offset() {
                break;
            }
            self.buffered -= batch.size();
            self.buffer.pop_front();
        }
        Ok(())
    }
}

/// How many records there are from offset `from` on, `most` at most, and the offset after them. Skips those before.
fn cut(
    batch: &Batch,
    records: &mut Records,
    from: i64,
    most: usize,
) -> Result<(usize, i64), crate::record::RecordError> {
    let from = from.max(batch.base_offset());
    let end = batch.next_offset();
    if i64::from(batch.record_count()) == end - batch.base_offset() {
        // No offset is missing, as in all that was never compacted.
        let before = usize::try_from(from - batch.base_offset()).unwrap_or(0);
        records.skip(before.saturating_sub(records.skipped()));
        let count = usize::try_from(end - from).unwrap_or(0).min(most);
        return Ok((count, if count == most { from + count as i64 } else { end }));
    }
    let (mut before, mut count, mut next) = (0, 0, end);
    for record in records.iter() {
        let record = record?;
        if record.offset < from {
            before += 1;
        } else if count == most {
            next = record.offset;
            break;
        } else {
            count += 1;
        }
    }
    records.skip(before);
    Ok((count, next))
}

fn malformed(name: &TopicPartition, batch: &Batch, error: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "{error} partition={name} offset={}: seek past offset {} to skip it",
            batch.base_offset(),
            batch.last_offset()
        ),
    )
}

impl Fetched {
    /// Takes an answer apart: splits and checks the batches, drops what is not for the application.
    pub(super) fn new(plan: FetchPlan, result: Result<FetchResponse>, config: &ConsumerConfig) -> Self {
        let FetchPlan { node, road, request, parts } = plan;
        let offsets: HashMap<(&str, i32), i64> = request
            .topics
            .iter()
            .flat_map(|topic| {
                topic.partitions.iter().map(|wanted| ((topic.topic.as_str(), wanted.partition), wanted.fetch_offset))
            })
            .collect();
        let response = result.and_then(|response| {
            check(response.error_code, None, format_args!("broker={node}"))?;
            Ok(response)
        });
        let mut answers: HashMap<(String, i32), PartitionData> = HashMap::new();
        let mut lost = Error::new(ErrorKind::Retriable, "the broker's answer leaves the partition out");
        match response {
            Ok(response) => {
                for topic in response.responses {
                    for data in topic.partitions {
                        answers.insert((topic.topic.clone(), data.partition_index), data);
                    }
                }
            }
            Err(error) => lost = error,
        }
        let parts = parts
            .into_iter()
            .map(|(name, generation)| {
                let key = (name.topic.to_string(), name.partition);
                let from = offsets.get(&(&*name.topic, name.partition)).copied().unwrap_or(0);
                let part = match answers.remove(&key) {
                    Some(data) => Ok(FetchedPart::new(data, &name, from, config)),
                    None => Err(crate::client::repeat(&lost)),
                };
                (name, generation, part)
            })
            .collect();
        Self { node, road, parts }
    }
}

impl FetchedPart {
    fn new(mut data: PartitionData, name: &TopicPartition, from: i64, config: &ConsumerConfig) -> Self {
        let bytes = data.records.take().unwrap_or_default();
        let mut aborted = data.aborted_transactions.take().unwrap_or_default();
        // Those that begin last come last off the stack.
        aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        let committed_only = config.isolation_level == IsolationLevel::ReadCommitted;
        let mut part = Self { data, buffered: Vec::new(), next: None, error: None };
        let mut open: HashSet<i64> = HashSet::new();
        for batch in batches(bytes) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    let at = part.next.unwrap_or(from);
                    part.error = Some(Error::new(ErrorKind::Corrupt, format!("{error} partition={name} offset={at}")));
                    break;
                }
            };
            if config.check_crcs
                && let Err(error) = batch.check_crc()
            {
                part.error = Some(malformed(name, &batch, &error));
                break;
            }
            while aborted.last().is_some_and(|transaction| transaction.first_offset <= batch.last_offset()) {
                open.extend(aborted.pop().map(|transaction| transaction.producer_id));
            }
            let next = batch.next_offset();
            if next <= from {
                // The offset is in the middle of an answer's first batch, or compaction has removed it.
                continue;
            }
            part.next = Some(next);
            if batch.is_control() {
                let ended =
                    batch.records(MARKER_LIMIT).is_ok() && matches!(batch.control_type(), Ok(ControlType::Abort));
                if ended {
                    open.remove(&batch.producer_id());
                }
                part.buffered.push(Buffered::Nothing { next });
            } else if committed_only && batch.is_transactional() && open.contains(&batch.producer_id()) {
                part.buffered.push(Buffered::Nothing { next });
            } else {
                part.buffered.push(Buffered::Batch { batch, records: None });
            }
        }
        part
    }
}
