//! The driver of a producer: what each partition has on its way, and the loop that sends it.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};

use super::accumulator::{Accumulator, Filling, SlotId, Waiting};
use super::{BatchState, Outcome, Shared};
use crate::client::config::{Acks, MAX_IN_FLIGHT_IN_ORDER};
use crate::client::{Cluster, ProducerConfig, Topics, check, lock, repeat};
use crate::protocol::ErrorCode;
use crate::protocol::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
};
use crate::protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use crate::record::{Batch, Builder, BuilderOptions, ProducerFields, RecordError};
use crate::{Error, ErrorKind, Result};

/// How long a batch that is not full waits, beyond `linger_ms`, while a request to the same broker is under way: the answer
/// will come soon, and meanwhile more records do. So a loop that sends makes full batches even without linger.
const WHILE_BUSY: Duration = Duration::from_millis(5);

/// Places of batches are so far apart, as a power of two, that the parts of one that is split have theirs between.
const ORDER_SHIFT: u32 = 32;

/// The most that comes out of a batch that is split, in bytes.
const SPLIT_LIMIT: usize = 1 << 30;

/// Which producer the broker takes us for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
}

impl Identity {
    /// A producer without idempotence.
    pub(super) const NONE: Self = Self { producer_id: -1, epoch: -1 };
}

/// A batch that is sealed.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) batch: Batch,
    pub(super) state: Arc<BatchState>,
    /// Its place among the batches of its partition.
    pub(super) order: u64,
    pub(super) opened: Duration,
    /// What it takes of the buffer.
    pub(super) size: usize,
    /// How often it was sent.
    pub(super) tries: u32,
    /// Whether it was the first to be sent again after a failure, when nothing else was on its way.
    pub(super) led: bool,
}

/// What a partition has on its way, and how its sequence goes on. Decides; does not wait.
///
/// After a failure nothing new is sent until all that is outstanding is settled: then what failed goes again, in order, with
/// its sequence unchanged, or renumbered when the broker's sequence is known to have moved otherwise. What the broker may have
/// under a number is never sent under another in the same epoch.
#[derive(Debug)]
pub(super) struct Lane {
    identity: Identity,
    next_sequence: i32,
    /// The sequence that the broker expects next, by what it has acknowledged.
    expected: i32,
    /// Whether it has acknowledged anything under this identity. Until then it takes whatever sequence comes first, so only
    /// one batch is on its way.
    confirmed: bool,
    next_order: u64,
    /// Sent, not answered; in order.
    outstanding: VecDeque<Sealed>,
    /// To be sent again; in order.
    again: VecDeque<Sealed>,
    /// After a failure: nothing is sent until all that is outstanding is settled.
    recovering: bool,
    renumber: Renumber,
    /// One was given up that may have been written. What goes again keeps its number until the broker has said of each whether
    /// it has it: under another number it could be there twice. Nothing new is sent until then.
    doubtful: bool,
    /// The place of the first batch that was refused: the broker has nothing behind it. What goes again from before it may be
    /// there, and is asked for under its number first.
    refused: Option<u64>,
    retry_at: Duration,
    failures: u32,
    /// Why something has to be sent again, as was said last.
    last_error: Option<Error>,
    /// The leader as of a generation of the cluster's snapshot.
    leader: (u64, Option<i32>),
    /// How many batches were taken for requests that are in the making.
    drafted: usize,
    /// The place of the first of these, if it was sent before.
    drafted_from: Option<u64>,
    /// The broker that has what is outstanding.
    sent_to: i32,
    active: bool,
}

/// What must happen to the sequence before anything is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Renumber {
    No,
    /// A batch was refused and left a gap: those after it close up; under a new epoch if they were sent, for they may still arrive.
    CloseUp,
    /// Nobody knows what the broker has: begin again under a new epoch.
    NewEpoch,
}

/// What becomes of a batch that was answered.
#[derive(Debug)]
pub(super) enum Verdict {
    Delivered,
    /// Send it again.
    Again {
        /// The leader may have moved.
        metadata: bool,
    },
    /// Too large for the broker, but divisible.
    Split,
    Failed(Error),
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            identity: Identity::NONE,
            next_sequence: 0,
            expected: 0,
            confirmed: false,
            next_order: 0,
            outstanding: VecDeque::new(),
            again: VecDeque::new(),
            recovering: false,
            renumber: Renumber::No,
            doubtful: false,
            refused: None,
            retry_at: Duration::ZERO,
            failures: 0,
            last_error: None,
            leader: (0, None),
            drafted: 0,
            drafted_from: None,
            sent_to: -1,
            active: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.again.is_empty()
    }

    /// Goes over to the producer's current identity, as soon as nothing is on its way under another.
    pub(super) fn adopt(&mut self, current: Identity) {
        if self.identity != current && self.is_idle() && self.drafted == 0 {
            self.identity = current;
            (self.next_sequence, self.expected, self.confirmed) = (0, 0, false);
        }
    }

    /// The producer fields for a batch of `count` records that is sealed now.
    pub(super) fn number(&mut self, count: i32) -> ProducerFields {
        if self.identity == Identity::NONE {
            return ProducerFields::NONE;
        }
        let base_sequence = self.next_sequence;
        self.next_sequence = following(base_sequence, count);
        let Identity { producer_id, epoch } = self.identity;
        ProducerFields { producer_id, producer_epoch: epoch, base_sequence }
    }

    /// The next batch's place. Far enough from the one before that its records' numbers fit between, should it be split.
    fn order(&mut self) -> u64 {
        self.next_order += 1 << ORDER_SHIFT;
        self.next_order
    }

    pub(super) fn send(&mut self, mut sealed: Sealed) -> u64 {
        sealed.led = sealed.tries > 0 && self.outstanding.is_empty();
        sealed.tries += 1;
        let order = sealed.order;
        self.outstanding.push_back(sealed);
        order
    }

    /// Takes out the batch that was answered.
    pub(super) fn answered(&mut self, order: u64) -> Option<Sealed> {
        let place = self.outstanding.iter().position(|sealed| sealed.order == order)?;
        self.outstanding.remove(place)
    }

    /// Whether a new batch would be so far ahead of the oldest without an answer that the broker might have forgotten that
    /// one, should it have to be sent again.
    fn is_far_ahead(&self) -> bool {
        let oldest = self.outstanding.front().map(|sealed| sealed.order).into_iter().chain(self.drafted_from).min();
        let Some(oldest) = oldest else { return self.drafted >= MAX_IN_FLIGHT_IN_ORDER };
        let since = (self.next_order.saturating_sub(oldest) >> ORDER_SHIFT) as usize + 1;
        since + self.drafted >= MAX_IN_FLIGHT_IN_ORDER
    }

    /// Something went wrong: send no more until the rest is answered, and not before `retry_at`.
    fn fault(&mut self, renumber: Renumber, retry_at: Duration) {
        self.recovering = true;
        self.renumber = self.renumber.max(renumber);
        self.retry_at = self.retry_at.max(retry_at);
    }

    /// A batch was given up that may have been written all the same.
    fn give_up(&mut self, now: Duration) {
        self.doubtful = self.identity != Identity::NONE;
        self.fault(Renumber::NewEpoch, now);
    }

    /// The batch at `order` was refused, or is divided: those behind it close up.
    fn refuse(&mut self, order: u64, now: Duration) {
        self.refused = Some(self.refused.map_or(order, |refused| refused.min(order)));
        self.fault(Renumber::CloseUp, now);
    }

    /// Whether the first of those that go again keeps its number, because the broker may have it.
    fn is_first_kept(&self) -> bool {
        let is_kept = |sealed: &Sealed| self.doubtful || self.refused.is_some_and(|refused| sealed.order < refused);
        self.again.front().is_some_and(is_kept)
    }

    /// Whether numbers are given anew before anything else is sent.
    fn is_held(&self) -> bool {
        self.recovering || ((self.doubtful || self.refused.is_some()) && !self.is_first_kept())
    }

    /// Whether all that is on its way is settled after a failure, so that sending can go on.
    fn may_recover(&self) -> bool {
        self.outstanding.is_empty() && self.is_held()
    }

    /// What a broker's answer means for `sealed`, which was just taken out; keeps the sequence's books.
    pub(super) fn judge(
        &mut self,
        sealed: &Sealed,
        answer: &Answer<'_>,
        config: &ProducerConfig,
        now: Duration,
    ) -> Verdict {
        let idempotent = self.identity != Identity::NONE;
        let code = match answer {
            Answer::Partition(partition) => partition.error_code,
            Answer::Written => ErrorCode::NONE,
            Answer::Lost(error) if error.is_retriable() || error.kind() == ErrorKind::Timeout => {
                return self.again_or_failed(sealed, repeat(error), true, config, now);
            }
            Answer::Lost(error) => {
                self.give_up(now);
                return Verdict::Failed(repeat(error));
            }
        };
        match code {
            ErrorCode::NONE | ErrorCode::DUPLICATE_SEQUENCE_NUMBER => {
                if idempotent {
                    // One that goes again may be acknowledged after those behind it were: what they said still holds.
                    let next = following(sealed.batch.base_sequence(), sealed.batch.record_count());
                    if !self.confirmed || next.wrapping_sub(self.expected) & i32::MAX < i32::MAX / 2 {
                        self.expected = next;
                    }
                    self.confirmed = true;
                }
                self.failures = 0;
                self.last_error = None;
                return Verdict::Delivered;
            }
            ErrorCode::MESSAGE_TOO_LARGE if sealed.batch.record_count() > 1 => return Verdict::Split,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER if idempotent => {
                // Behind another that failed, or overtook it, it is no wonder. As the first of those that go again it shows that
                // the broker forgot some, or never had them: they are lost, and only a new epoch lets the rest through.
                let first = self.outstanding.iter().chain(&self.again).all(|other| other.order > sealed.order);
                if first && sealed.led && self.doubtful {
                    // The broker has not what was given up, and so not this, nor will it take it. It may still be on its way.
                    return Verdict::Failed(answer.error(sealed));
                }
                let is_kept = self.refused.is_some_and(|refused| sealed.order < refused);
                if first && sealed.led && (self.renumber == Renumber::No || is_kept) {
                    self.refused = None;
                    self.fault(Renumber::NewEpoch, now);
                }
            }
            ErrorCode::UNKNOWN_PRODUCER_ID if idempotent => self.fault(Renumber::NewEpoch, now),
            ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::PRODUCER_FENCED if idempotent => {
                self.fault(Renumber::NewEpoch, now);
                return Verdict::Failed(answer.error(sealed));
            }
            code if code.is_retriable() => {}
            _ => {
                // Sent more than once, it may still arrive, under a number that is another's then: only an epoch keeps it out.
                if sealed.tries > 1 {
                    self.give_up(now);
                } else {
                    self.refuse(sealed.order, now);
                }
                return Verdict::Failed(answer.error(sealed));
            }
        }
        self.again_or_failed(sealed, answer.error(sealed), code.is_invalid_metadata(), config, now)
    }

    fn again_or_failed(
        &mut self,
        sealed: &Sealed,
        error: Error,
        metadata: bool,
        config: &ProducerConfig,
        now: Duration,
    ) -> Verdict {
        let expired = now.saturating_sub(sealed.opened) >= Duration::from_millis(config.delivery_timeout_ms);
        if sealed.state.outcome.get().is_none() && !expired && sealed.tries <= config.retries {
            self.failures += 1;
            self.last_error = Some(error);
            return Verdict::Again { metadata };
        }
        self.give_up(now);
        Verdict::Failed(if expired { expiry(sealed.opened, now, Some(&error)) } else { error })
    }

    /// Puts a batch back to be sent again, in its place.
    pub(super) fn resend(&mut self, sealed: Sealed) {
        let place = self.again.partition_point(|other| other.order < sealed.order);
        self.again.insert(place, sealed);
    }

    /// Whether one that was sent would get another number. It may still arrive under the one that it had.
    fn moves_what_was_sent(&self) -> bool {
        let mut next = self.expected;
        self.again.iter().any(|sealed| {
            let moves = sealed.tries > 0 && sealed.batch.base_sequence() != next;
            next = following(next, sealed.batch.record_count());
            moves
        })
    }

    /// All that was outstanding is answered: what failed is numbered anew where that is needed, and sending goes on.
    ///
    /// A new epoch is taken from `current`, which is raised if the lane was on it; it is -1 when there are no more.
    pub(super) fn recover(&mut self, current: &mut Identity) {
        if self.is_first_kept() {
            self.recovering = false;
            return;
        }
        (self.doubtful, self.refused) = (false, None);
        let how = match std::mem::replace(&mut self.renumber, Renumber::No) {
            Renumber::CloseUp if self.moves_what_was_sent() => Renumber::NewEpoch,
            how => how,
        };
        if how == Renumber::No || self.identity == Identity::NONE {
            self.recovering = false;
            return;
        }
        if how == Renumber::NewEpoch {
            if self.identity == *current {
                // Within one session an idempotent producer may raise its own epoch (KIP-360).
                current.epoch = current.epoch.checked_add(1).unwrap_or(-1);
            }
            if current.epoch < 0 {
                // Again when there is a new producer id.
                self.renumber = how;
                return;
            }
            self.identity = *current;
            (self.expected, self.confirmed) = (0, false);
        }
        self.recovering = false;
        self.next_sequence = self.expected;
        for sealed in &mut self.again {
            let fields = ProducerFields {
                producer_id: self.identity.producer_id,
                producer_epoch: self.identity.epoch,
                base_sequence: self.next_sequence,
            };
            self.next_sequence = following(self.next_sequence, sealed.batch.record_count());
            sealed.batch = sealed.batch.with_producer(fields);
        }
    }
}

/// The sequence after `count` more records: after the largest comes 0, as Kafka counts.
fn following(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) % (i64::from(i32::MAX) + 1)) as i32
}

/// What came back for a batch.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    Partition(&'a PartitionProduceResponse),
    /// `acks=0`: it is on its way.
    Written,
    /// Nothing, or no sense.
    Lost(&'a Error),
}

impl Answer<'_> {
    fn error(&self, sealed: &Sealed) -> Error {
        let facts = format!("partition={}-{}", sealed.state.topic, sealed.state.partition);
        match self {
            Self::Partition(partition) => {
                let code = partition.error_code;
                let mut message = partition.error_message.clone().unwrap_or_else(|| code.message().to_owned());
                for record in partition.record_errors.iter().take(3) {
                    let what = record.batch_index_error_message.as_deref().unwrap_or("refused");
                    message.push_str(&format!("; record {}: {what}", record.batch_index));
                }
                Error::from_code(code, format!("{message} {facts}"))
            }
            Self::Written => Error::new(ErrorKind::Internal, facts),
            Self::Lost(error) => repeat(error),
        }
    }
}

fn expiry(opened: Duration, now: Duration, last: Option<&Error>) -> Error {
    let waited = now.saturating_sub(opened).as_millis();
    let last = last.map_or(String::new(), |error| format!(", last error: {error}"));
    Error::new(ErrorKind::Timeout, format!("not delivered within delivery_timeout_ms waited_ms={waited}{last}"))
}

/// Something that the driver waited for.
enum Event {
    Produced { number: u64, node: i32, sent: Vec<(SlotId, u64)>, result: Result<ProduceResponse> },
    Identified(Result<InitProducerIdResponse>),
    Refreshed(Result<Arc<Cluster>>),
}

/// Something that is done once at a time and again after a pause when it fails.
#[derive(Debug, Default)]
struct Errand {
    under_way: bool,
    failures: u32,
    not_before: Duration,
    last_error: Option<Error>,
}

impl Errand {
    fn may_start(&self, now: Duration) -> bool {
        !self.under_way && now >= self.not_before
    }
}

/// The driver.
pub(super) struct Sender {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    /// Slots with anything to send or to settle.
    active: Vec<SlotId>,
    /// Requests under way for each broker.
    in_flight: HashMap<i32, usize>,
    identity: Option<Identity>,
    identify: Errand,
    refresh: Errand,
    wants_metadata: bool,
    refreshed_at: Duration,
    /// How many requests were sent.
    requests: u64,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    timer: Option<(Duration, BoxFuture<'static, ()>)>,
}

/// A request in the making.
#[derive(Default)]
struct Draft {
    bytes: usize,
    batches: Vec<(SlotId, Source)>,
}

enum Source {
    New(Filling),
    Again(Sealed),
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let identity = (!shared.config.enable_idempotence).then_some(Identity::NONE);
        let refreshed_at = shared.client.clock().monotonic();
        Self {
            shared,
            lanes: Vec::new(),
            active: Vec::new(),
            in_flight: HashMap::new(),
            identity,
            identify: Errand::default(),
            refresh: Errand::default(),
            wants_metadata: false,
            refreshed_at,
            requests: 0,
            events: FuturesUnordered::new(),
            timer: None,
        }
    }

    /// Runs until the producer is stopped and has nothing left.
    pub(super) async fn run(mut self) {
        loop {
            let now = self.shared.client.clock().monotonic();
            let Some(wake_at) = self.pass(now) else { return };
            self.set_timer(wake_at, now);
            let mut events = Vec::new();
            poll_fn(|cx| {
                while let Poll::Ready(Some(event)) = self.events.poll_next_unpin(cx) {
                    events.push(event);
                }
                if !events.is_empty() || self.shared.driver.poll_take(cx).is_ready() {
                    return Poll::Ready(());
                }
                if let Some((_, timer)) = &mut self.timer
                    && timer.as_mut().poll(cx).is_ready()
                {
                    self.timer = None;
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
            // Which of the calls was looked at first says nothing: answers came in the order of their requests.
            events.sort_by_key(|event| match event {
                Event::Produced { number, .. } => *number,
                Event::Identified(_) | Event::Refreshed(_) => 0,
            });
            for event in events {
                self.handle(event);
            }
        }
    }

    fn set_timer(&mut self, wake_at: Duration, now: Duration) {
        match &self.timer {
            // One that fires too early does no harm, and is cheaper than a new one.
            Some((at, _)) if *at <= wake_at => {}
            _ if wake_at == Duration::MAX => self.timer = None,
            _ => {
                let sleep = self.shared.client.clock().sleep(wake_at.saturating_sub(now));
                self.timer = Some((wake_at, sleep));
            }
        }
    }

    /// Sends what can be sent now; when to look again at the latest, `None` when all is over.
    fn pass(&mut self, now: Duration) -> Option<Duration> {
        let shared = Arc::clone(&self.shared);
        let cluster = shared.client.cluster();
        let mut accumulator = lock(&shared.accumulator);
        if let Some(error) = accumulator.failed() {
            let error = repeat(error);
            self.fail_all(&mut accumulator, &error);
            return None;
        }
        while self.lanes.len() < accumulator.slots() {
            self.lanes.push(Lane::new());
        }
        let mut place = self.active.len();
        accumulator.take_roused(&mut self.active);
        while place < self.active.len() {
            if std::mem::replace(&mut self.lanes[self.active[place]].active, true) {
                self.active.swap_remove(place);
            } else {
                place += 1;
            }
        }
        let mut wake_at = self.expire(&mut accumulator, now);
        let lanes = &mut self.lanes;
        self.active.retain(|&id| {
            let active = !lanes[id].is_idle() || accumulator.waiting(id) != Waiting::Nothing;
            lanes[id].active = active;
            active
        });
        if self.active.is_empty() && accumulator.is_stopped() && self.in_flight.values().all(|count| *count == 0) {
            return None;
        }

        let mut drafts = Vec::new();
        if let Some(identity) = &mut self.identity {
            for &id in &self.active {
                let lane = &mut self.lanes[id];
                if lane.may_recover() {
                    if now < lane.retry_at {
                        wake_at = wake_at.min(lane.retry_at);
                        continue;
                    }
                    lane.recover(identity);
                }
            }
            if identity.epoch < 0 && *identity != Identity::NONE {
                // Every epoch of the id is used up: a new id, and what waits is numbered once it is there.
                self.identity = None;
            }
        }
        if self.identity.is_some() {
            // Several rounds, for a request holds one batch of a partition.
            loop {
                let round = self.draft(&mut accumulator, &cluster, now, &mut wake_at);
                if round.is_empty() {
                    break;
                }
                drafts.extend(round);
            }
        }
        drop(accumulator);
        if !self.active.is_empty() {
            // So that no partition is always the first.
            self.active.rotate_left(1);
        }
        for (node, draft) in drafts {
            self.dispatch(node, draft, now);
        }
        self.run_errands(now, &mut wake_at);
        Some(wake_at)
    }

    /// At most one request for each broker.
    fn draft(
        &mut self,
        accumulator: &mut Accumulator,
        cluster: &Cluster,
        now: Duration,
        wake_at: &mut Duration,
    ) -> HashMap<i32, Draft> {
        let config = &self.shared.config;
        let linger = Duration::from_millis(config.linger_ms);
        let identity = self.identity.unwrap_or(Identity::NONE);
        let most = self.shared.client.config().max_in_flight_requests_per_connection;
        let mut drafts: HashMap<i32, Draft> = HashMap::new();
        for &id in &self.active {
            let lane = &mut self.lanes[id];
            let waiting = if lane.again.is_empty() { accumulator.waiting(id) } else { Waiting::Due };
            if waiting == Waiting::Nothing || lane.is_held() {
                continue;
            }
            if lane.leader.0 != cluster.generation {
                let slot = accumulator.slot(id);
                let leader = cluster.leader(&slot.topic, slot.partition).map(|(leader, _)| leader);
                lane.leader = (cluster.generation, leader.filter(|leader| cluster.brokers.contains_key(leader)));
            }
            let Some(node) = lane.leader.1 else {
                self.wants_metadata = true;
                continue;
            };
            lane.adopt(identity);
            let unconfirmed = config.enable_idempotence && !lane.confirmed;
            if lane.outstanding.len() + lane.drafted > 0 && (lane.sent_to != node || unconfirmed) {
                // What the former leader has not answered yet comes first.
                continue;
            }
            if lane.again.is_empty() && config.enable_idempotence && lane.is_far_ahead() {
                continue;
            }
            let busy = self.in_flight.get(&node).copied().unwrap_or(0);
            if busy >= most {
                continue;
            }
            if let Waiting::Since(opened) = waiting {
                let due = opened + if busy > 0 { linger.max(WHILE_BUSY) } else { linger };
                if now < due {
                    *wake_at = (*wake_at).min(due);
                    continue;
                }
            }
            let draft = drafts.entry(node).or_default();
            let size = lane.again.front().map_or_else(|| accumulator.next_size(id), |sealed| sealed.batch.size());
            if draft.bytes > 0 && draft.bytes + size > config.max_request_size {
                continue;
            }
            let source = match lane.again.pop_front() {
                Some(sealed) => Some(Source::Again(sealed)),
                None => accumulator.take(id).map(Source::New),
            };
            let Some(source) = source else { continue };
            lane.sent_to = node;
            lane.drafted += 1;
            if let Source::Again(sealed) = &source {
                lane.drafted_from.get_or_insert(sealed.order);
            }
            draft.bytes += size;
            draft.batches.push((id, source));
        }
        drafts.retain(|_, draft| !draft.batches.is_empty());
        for node in drafts.keys() {
            *self.in_flight.entry(*node).or_default() += 1;
        }
        drafts
    }

    /// Seals the new batches and sends the request.
    fn dispatch(&mut self, node: i32, draft: Draft, now: Duration) {
        let config = &self.shared.config;
        let mut sent = Vec::with_capacity(draft.batches.len());
        let mut topics: Vec<TopicProduceData> = Vec::new();
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        let mut released = 0;
        for (id, source) in draft.batches {
            let lane = &mut self.lanes[id];
            lane.drafted -= 1;
            lane.drafted_from = None;
            let sealed = match source {
                Source::Again(sealed) => sealed,
                Source::New(filling) => {
                    let fields = lane.number(filling.builder.len() as i32);
                    match filling.builder.seal(fields) {
                        Ok(batch) => Sealed {
                            batch,
                            state: filling.state,
                            order: lane.order(),
                            opened: filling.opened,
                            size: filling.size,
                            tries: 0,
                            led: false,
                        },
                        Err(error) => {
                            // Its sequence was given out: those after it close up.
                            let order = lane.order();
                            lane.refuse(order, now);
                            filling.state.settle(Outcome::Failed(Error::new(ErrorKind::Internal, error.to_string())));
                            released += filling.size;
                            continue;
                        }
                    }
                }
            };
            let topic = &sealed.state.topic;
            let place = *places.entry(Arc::clone(topic)).or_insert_with(|| {
                topics.push(TopicProduceData { name: topic.to_string(), ..Default::default() });
                topics.len() - 1
            });
            topics[place].partition_data.push(PartitionProduceData {
                index: sealed.state.partition,
                records: Some(sealed.batch.as_bytes().clone()),
            });
            sent.push((id, lane.send(sealed)));
        }
        if released > 0 {
            self.release(released, Vec::new());
        }
        if sent.is_empty() {
            self.finish(node);
            return;
        }
        let client = self.shared.client.clone();
        let request = ProduceRequest {
            transactional_id: None,
            acks: config.acks.code(),
            timeout_ms: i32::try_from(client.config().request_timeout_ms).unwrap_or(i32::MAX),
            topic_data: topics,
        };
        self.requests += 1;
        let number = self.requests;
        self.events.push(Box::pin(async move {
            let result = client.call_node(node, request).await;
            Event::Produced { number, node, sent, result }
        }));
    }

    fn finish(&mut self, node: i32) {
        if let Some(count) = self.in_flight.get_mut(&node) {
            *count -= 1;
        }
    }

    /// Gives back what batches took of the buffer, and their memory.
    fn release(&self, bytes: usize, batches: Vec<Bytes>) {
        let mut accumulator = lock(&self.shared.accumulator);
        accumulator.release(bytes);
        batches.into_iter().for_each(|batch| accumulator.recycle(batch));
        let room = accumulator.has_room();
        drop(accumulator);
        if room {
            self.shared.room.ring();
        }
    }

    /// Who we are, and where the leaders are.
    fn run_errands(&mut self, now: Duration, wake_at: &mut Duration) {
        let client = &self.shared.client;
        if self.identity.is_none() && !self.active.is_empty() {
            if self.identify.may_start(now) {
                self.identify.under_way = true;
                let client = client.clone();
                self.events.push(Box::pin(async move {
                    let request = InitProducerIdRequest {
                        transactional_id: None,
                        transaction_timeout_ms: i32::MAX,
                        producer_id: -1,
                        producer_epoch: -1,
                        ..Default::default()
                    };
                    Event::Identified(client.call_any(request).await)
                }));
            } else if !self.identify.under_way {
                *wake_at = (*wake_at).min(self.identify.not_before);
            }
        }
        if !self.active.is_empty() {
            let stale = self.refreshed_at + Duration::from_millis(client.config().metadata_max_age_ms);
            self.wants_metadata |= now >= stale;
            *wake_at = (*wake_at).min(if now >= stale { Duration::MAX } else { stale });
        }
        if self.wants_metadata {
            if self.refresh.may_start(now) {
                self.refresh.under_way = true;
                self.wants_metadata = false;
                let topics: Vec<Arc<str>> = lock(&self.shared.accumulator).topics().cloned().collect();
                let client = client.clone();
                self.events
                    .push(Box::pin(async move { Event::Refreshed(client.refresh(Topics::Named(&topics)).await) }));
            } else if !self.refresh.under_way {
                *wake_at = (*wake_at).min(self.refresh.not_before);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.shared.client.clock().monotonic();
        match event {
            Event::Produced { node, sent, result, .. } => {
                self.finish(node);
                self.handle_produced(sent, result, now);
            }
            Event::Identified(result) => {
                self.identify.under_way = false;
                let result = result.and_then(|response| {
                    check(response.error_code, None, "asked for a producer id")?;
                    Ok(Identity { producer_id: response.producer_id, epoch: response.producer_epoch })
                });
                match result {
                    Ok(identity) => {
                        self.identify.failures = 0;
                        self.identity = Some(identity);
                    }
                    Err(error) if error.is_retriable() || error.kind() == ErrorKind::Timeout => {
                        self.identify.not_before = now + self.shared.client.backoff(self.identify.failures);
                        self.identify.failures += 1;
                        self.identify.last_error = Some(error);
                    }
                    Err(error) => {
                        let error = error.context("no producer id, which enable_idempotence=true needs");
                        drop(lock(&self.shared.accumulator).abort(error));
                        self.shared.room.ring();
                    }
                }
            }
            Event::Refreshed(result) => {
                self.refresh.under_way = false;
                self.refresh.not_before = now + self.shared.client.backoff(self.refresh.failures);
                match result {
                    Ok(cluster) => {
                        self.refresh.failures = 0;
                        self.refresh.last_error = None;
                        self.refreshed_at = now;
                        let mut accumulator = lock(&self.shared.accumulator);
                        for topic in cluster.topics.values() {
                            if accumulator.knows(&topic.name) {
                                accumulator.learn(topic);
                            }
                        }
                    }
                    Err(error) => {
                        log::debug!("metadata could not be refreshed: {error}");
                        self.refresh.failures += 1;
                        self.refresh.last_error = Some(error);
                        self.wants_metadata = true;
                    }
                }
            }
        }
    }

    fn handle_produced(&mut self, sent: Vec<(SlotId, u64)>, result: Result<ProduceResponse>, now: Duration) {
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let mut by_partition = HashMap::new();
        if let Ok(response) = &result {
            for topic in &response.responses {
                for partition in &topic.partition_responses {
                    by_partition.insert((topic.name.as_str(), partition.index), partition);
                }
            }
        }
        let missing = Error::new(ErrorKind::Retriable, "the broker's answer leaves the partition out");
        let mut released = 0;
        let mut spare = Vec::with_capacity(sent.len());
        let mut settled = Vec::with_capacity(sent.len());
        for (id, order) in sent {
            let lane = &mut self.lanes[id];
            let Some(sealed) = lane.answered(order) else { continue };
            let answer = match &result {
                Err(error) => Answer::Lost(error),
                Ok(_) if config.acks == Acks::None => Answer::Written,
                Ok(_) => by_partition
                    .get(&(&*sealed.state.topic, sealed.state.partition))
                    .map_or(Answer::Lost(&missing), |partition| Answer::Partition(partition)),
            };
            match lane.judge(&sealed, &answer, config, now) {
                Verdict::Delivered => {
                    let (base_offset, log_append_time) = match answer {
                        Answer::Partition(partition) => (partition.base_offset, partition.log_append_time_ms),
                        _ => (-1, -1),
                    };
                    let log_append_time = (log_append_time >= 0).then_some(log_append_time);
                    released += sealed.size;
                    spare.push(sealed.batch.into_bytes());
                    settled.push((sealed.state, Outcome::Delivered { base_offset, log_append_time }));
                }
                Verdict::Again { metadata } => {
                    log::debug!("a batch of {}-{} goes again: {answer:?}", sealed.state.topic, sealed.state.partition);
                    self.wants_metadata |= metadata;
                    let pause = shared.client.backoff(lane.failures);
                    lane.fault(Renumber::No, now + pause);
                    lane.resend(sealed);
                }
                Verdict::Split => match split(&sealed, config) {
                    Ok(parts) => {
                        let mut states = Vec::with_capacity(2);
                        let mut accumulator = lock(&shared.accumulator);
                        for (first, part) in parts {
                            accumulator.keep(Arc::clone(&part.state));
                            states.push((first, Arc::clone(&part.state)));
                            lane.resend(part);
                        }
                        drop(accumulator);
                        lane.refuse(sealed.order, now);
                        settled.push((sealed.state, Outcome::Split(states)));
                    }
                    Err(error) => {
                        released += sealed.size;
                        let error = Error::new(ErrorKind::Internal, error.to_string());
                        settled.push((sealed.state, Outcome::Failed(error)));
                    }
                },
                Verdict::Failed(error) => {
                    released += sealed.size;
                    settled.push((sealed.state, Outcome::Failed(error)));
                }
            }
        }
        // Before anybody hears of it: who does finds the room.
        if released > 0 {
            self.release(released, spare);
        }
        for (state, outcome) in settled {
            state.settle(outcome);
        }
    }

    /// Fails what was on its way for too long; when to look for the next.
    fn expire(&mut self, accumulator: &mut Accumulator, now: Duration) -> Duration {
        let timeout = Duration::from_millis(self.shared.config.delivery_timeout_ms);
        let mut next = Duration::MAX;
        let mut released = 0;
        // What was opened up to then is due.
        let due = now.checked_sub(timeout);
        for &id in &self.active {
            let lane = &mut self.lanes[id];
            if let Some(due) = due {
                let told = lane.last_error.take();
                let last = || told.as_ref().or(self.identify.last_error.as_ref()).or(self.refresh.last_error.as_ref());
                for filling in accumulator.take_older(id, due) {
                    released += filling.size;
                    filling.state.settle(Outcome::Failed(expiry(filling.opened, now, last())));
                }
                while lane.again.front().is_some_and(|sealed| sealed.opened <= due) {
                    let Some(sealed) = lane.again.pop_front() else { break };
                    // It was sent before.
                    lane.give_up(now);
                    released += sealed.size;
                    sealed.state.settle(Outcome::Failed(expiry(sealed.opened, now, last())));
                }
                for sealed in lane.outstanding.iter().take_while(|sealed| sealed.opened <= due) {
                    // Its bytes are given back when the answer comes, or the connection fails.
                    sealed.state.settle(Outcome::Failed(expiry(sealed.opened, now, last())));
                }
                lane.last_error = told;
            }
            let unsettled = lane.outstanding.iter().find(|sealed| sealed.state.outcome.get().is_none());
            let oldest = [unsettled.map(|sealed| sealed.opened), lane.again.front().map(|sealed| sealed.opened)]
                .into_iter()
                .chain([accumulator.oldest(id)])
                .flatten()
                .min();
            if let Some(oldest) = oldest {
                next = next.min(oldest.saturating_add(timeout));
            }
        }
        if released > 0 {
            accumulator.release(released);
            self.shared.room.ring();
        }
        next
    }

    fn fail_all(&mut self, accumulator: &mut Accumulator, error: &Error) {
        let mut released = 0;
        for lane in &mut self.lanes {
            for sealed in lane.outstanding.drain(..).chain(lane.again.drain(..)) {
                released += sealed.size;
                sealed.state.settle(Outcome::Failed(repeat(error)));
            }
        }
        accumulator.release(released);
        self.shared.room.ring();
    }
}

impl Drop for Sender {
    /// Nobody will settle what is left.
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut accumulator = lock(&shared.accumulator);
        let error = Error::new(ErrorKind::Closed, "the producer's driver has ended");
        drop(accumulator.abort(error));
        let error = accumulator.failed().map_or_else(|| Error::new(ErrorKind::Closed, ""), repeat);
        self.fail_all(&mut accumulator, &error);
    }
}

/// Halves a batch; each part with the number of its first record.
fn split(sealed: &Sealed, config: &ProducerConfig) -> Result<Vec<(u32, Sealed)>, RecordError> {
    let records = sealed.batch.records(SPLIT_LIMIT)?;
    let count = sealed.batch.record_count().max(0) as usize;
    let options = BuilderOptions {
        compression: config.compression_type,
        level: config.compression_level,
        capacity: sealed.size / 2,
        ..BuilderOptions::default()
    };
    let mut builders = [Builder::new(options), Builder::new(options)];
    for (i, record) in records.iter().enumerate() {
        let record = record?;
        let headers: Vec<(&[u8], Option<&[u8]>)> = record.headers.raw().collect::<Result<_, _>>()?;
        builders[usize::from(i >= count / 2)].append(
            record.timestamp,
            record.key,
            record.value,
            headers.iter().copied(),
        )?;
    }
    let mut parts = Vec::with_capacity(2);
    let mut first = 0;
    for builder in builders {
        let count = builder.len() as u32;
        let size = if first == 0 { sealed.size / 2 } else { sealed.size - sealed.size / 2 };
        let fields = ProducerFields {
            producer_id: sealed.batch.producer_id(),
            producer_epoch: sealed.batch.producer_epoch(),
            base_sequence: sealed.batch.base_sequence(),
        };
        let part = Sealed {
            batch: builder.seal(fields)?,
            state: Arc::new(BatchState::new(Arc::clone(&sealed.state.topic), sealed.state.partition)),
            order: sealed.order + u64::from(first),
            opened: sealed.opened,
            size,
            tries: 0,
            led: false,
        };
        parts.push((first, part));
        first += count;
    }
    Ok(parts)
}

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;
