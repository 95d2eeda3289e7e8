//! Where records become batches: what callers of `send` and the driver share, under one lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{BatchState, Header, Outcome, SendError, Ticket};
use crate::client::{Chance, ProducerConfig, Topic, repeat};
use crate::record::{Builder, BuilderOptions};
use crate::{Error, ErrorKind, Result, Timestamp};

/// The most that lies around a record's key, value and headers: lengths, attributes, deltas.
const RECORD_OVERHEAD: usize = 36;
/// The same for a header.
const HEADER_OVERHEAD: usize = 10;

/// What of a request is left to what lies around a batch that has grown, in bytes.
const AROUND_BATCH: usize = 4096;
/// Which part of the buffer is used when sending is behind: batches grow until it is not.
const BEHIND: usize = 8;
/// How much memory of settled batches is kept for new ones while there are none, in bytes.
const IDLE_SPARE: usize = 1024 * 1024;
/// How many of these buffers are looked at for one that is large enough.
const SPARE_LOOKS: usize = 8;
/// Below this `batch_size` somebody wants small batches: they do not grow.
const GROWING_FROM: usize = 16_384;

/// A record's place among the partitions that the accumulator knows.
pub(super) type SlotId = usize;

#[derive(Debug)]
pub(super) struct Accumulator {
    options: BuilderOptions,
    batch_size: usize,
    /// How large a batch may grow while sending is behind: a broker takes a large one for hardly more than a small one.
    grown_batch: usize,
    max_record: usize,
    limit: usize,
    used: usize,
    /// Memory of settled batches, for new ones: memory fresh from the system costs more than what is written into it.
    spare: Vec<Vec<u8>>,
    /// Its size; with `used` it is at most `limit`.
    spare_bytes: usize,
    topics: HashMap<Arc<str>, usize>,
    queues: Vec<TopicQueue>,
    /// The topic of the last record: most callers stay with one.
    last: usize,
    slots: Vec<Slot>,
    /// Slots that got something to send since the driver last looked.
    roused: Vec<SlotId>,
    /// Batches that are not settled, oldest first; settled ones may linger behind older ones.
    unsettled: VecDeque<Arc<BatchState>>,
    /// Batches opened before this number go without lingering.
    flush_below: u64,
    next_batch: u64,
    stopped: bool,
    /// Why nothing more is taken, and what is here fails.
    failed: Option<Error>,
    chance: Chance,
}

#[derive(Debug)]
struct TopicQueue {
    name: Arc<str>,
    /// `slots[i]` is partition `i`.
    slots: Vec<SlotId>,
    /// Those with a leader; all while none has one.
    available: Vec<i32>,
    /// The partition for records without a key, and how many bytes it still gets.
    sticky: Option<(i32, usize)>,
}

/// A partition's batches.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    open: Option<Filling>,
    closed: VecDeque<Filling>,
    roused: bool,
    /// The size of the last batch: a guess for the next.
    last_size: usize,
}

/// A batch before it is sealed.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) builder: Builder,
    pub(super) state: Arc<BatchState>,
    pub(super) opened: Duration,
    /// What it takes of the buffer.
    pub(super) size: usize,
    number: u64,
}

/// Whether a slot has something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Nothing,
    /// A batch that is closed, or that must not linger.
    Due,
    /// A batch that was opened then.
    Since(Duration),
}

impl Accumulator {
    pub(super) fn new(config: &ProducerConfig, seed: u64) -> Self {
        let grown = if config.batch_size >= GROWING_FROM { config.max_request_size } else { 0 };
        Self {
            options: BuilderOptions {
                compression: config.compression_type,
                level: config.compression_level,
                ..BuilderOptions::default()
            },
            batch_size: config.batch_size,
            // A batch is no larger than a request, however far its partition is behind.
            grown_batch: grown.saturating_sub(AROUND_BATCH).max(config.batch_size),
            max_record: config.max_request_size,
            limit: config.buffer_memory,
            used: 0,
            spare: Vec::new(),
            spare_bytes: 0,
            topics: HashMap::new(),
            queues: Vec::new(),
            last: 0,
            slots: Vec::new(),
            roused: Vec::new(),
            unsettled: VecDeque::new(),
            flush_below: 0,
            next_batch: 0,
            stopped: false,
            failed: None,
            chance: Chance::new(seed),
        }
    }

    /// Takes in how many partitions a topic has and which have leaders.
    pub(super) fn learn(&mut self, topic: &Topic) {
        let index = match self.topics.get(&topic.name) {
            Some(index) => *index,
            None => {
                let index = self.queues.len();
                self.topics.insert(Arc::clone(&topic.name), index);
                let name = Arc::clone(&topic.name);
                self.queues.push(TopicQueue { name, slots: Vec::new(), available: Vec::new(), sticky: None });
                index
            }
        };
        let queue = &mut self.queues[index];
        while queue.slots.len() < topic.partitions.len() {
            queue.slots.push(self.slots.len());
            self.slots.push(Slot {
                topic: Arc::clone(&queue.name),
                partition: queue.slots.len() as i32 - 1,
                open: None,
                closed: VecDeque::new(),
                roused: false,
                last_size: 0,
            });
        }
        queue.available.clear();
        let led = topic.partitions.iter().enumerate().filter(|(_, partition)| partition.leader.is_some());
        queue.available.extend(led.map(|(number, _)| number as i32));
        if queue.available.is_empty() {
            queue.available.extend(0..queue.slots.len() as i32);
        }
        if queue.sticky.is_some_and(|(partition, _)| !queue.available.contains(&partition)) {
            queue.sticky = None;
        }
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.topics.keys()
    }

    pub(super) fn knows(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Appends a record to its partition's batch. The second value: whether the driver has something new to look at.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn push(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
        now: impl FnOnce() -> Duration,
    ) -> Result<(Ticket, bool), SendError> {
        self.check_open().map_err(SendError::Closed)?;
        let in_headers: usize =
            headers.iter().map(|(name, value)| HEADER_OVERHEAD + name.len() + value.map_or(0, <[u8]>::len)).sum();
        let size = RECORD_OVERHEAD + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + in_headers;
        if size > self.max_record {
            return Err(SendError::TooLarge { size, limit: self.max_record });
        }
        if self.used + size > self.limit && self.used > 0 {
            return Err(SendError::Full);
        }
        let index = match self.queues.get(self.last) {
            Some(queue) if *queue.name == *topic => self.last,
            _ => *self.topics.get(topic).ok_or(SendError::NeedMetadata)?,
        };
        self.last = index;
        let (id, sticky) = self.choose(index, partition, key, size)?;

        let much = self.used > self.limit / BEHIND;
        let behind = |slot: &Slot| much || !slot.closed.is_empty();
        let mut wake = false;
        let slot = &mut self.slots[id];
        let full = slot.open.as_ref().is_some_and(|open| {
            open.builder.estimated_size() + size > if behind(slot) { self.grown_batch } else { self.batch_size }
        });
        if full {
            slot.close();
            wake = true;
        }
        let open = match &mut slot.open {
            Some(open) => open,
            none => {
                let capacity = slot.last_size.clamp(512, self.grown_batch.max(512)).max(size + 64);
                let state = Arc::new(BatchState::new(Arc::clone(&slot.topic), slot.partition));
                self.unsettled.push_back(Arc::clone(&state));
                let options = BuilderOptions { capacity, ..self.options };
                let builder = Builder::in_buffer(options, take_spare(&mut self.spare, &mut self.spare_bytes, capacity));
                let number = self.next_batch;
                self.next_batch += 1;
                wake = true;
                if !slot.roused {
                    slot.roused = true;
                    self.roused.push(id);
                }
                none.insert(Filling { builder, state, opened: now(), size: 0, number })
            }
        };
        let before = if open.size == 0 { 0 } else { open.builder.estimated_size() };
        let appended = open
            .builder
            .append(timestamp, key, value, headers.iter().copied())
            .map_err(|error| SendError::Closed(Error::new(ErrorKind::Invalid, error.to_string())))?;
        let after = open.builder.estimated_size();
        open.size += after - before;
        self.used += after - before;
        let ticket = Ticket { batch: Arc::clone(&open.state), index: appended as u32, timestamp };
        // As full as it gets: the driver may take it now.
        if after >= if behind(slot) { self.grown_batch } else { self.batch_size } {
            slot.close();
            wake = true;
        }
        if sticky {
            let growing = slot.open.is_some() && behind(slot);
            let queue = &mut self.queues[index];
            if let Some((_, left)) = &mut queue.sticky {
                *left = left.saturating_sub(after - before);
                if *left == 0 && !growing {
                    queue.sticky = None;
                }
            }
        }
        Ok((ticket, wake))
    }

    /// The slot for a record, and whether that was up to us.
    fn choose(
        &mut self,
        index: usize,
        partition: Option<i32>,
        key: Option<&[u8]>,
        size: usize,
    ) -> Result<(SlotId, bool), SendError> {
        let queue = &mut self.queues[index];
        let count = queue.slots.len();
        let partition = match (partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, count),
            (None, None) => {
                let chosen = match queue.sticky {
                    Some((partition, _)) => partition,
                    None => {
                        // The less busy one of two: a partition whose leader is slow gets fewer (KIP-794's aim).
                        let draw = || queue.available[self.chance.below(queue.available.len())];
                        let (one, other) = (draw(), draw());
                        let waiting = |partition: i32| self.slots[queue.slots[partition as usize]].closed.len();
                        let chosen = if waiting(other) < waiting(one) { other } else { one };
                        queue.sticky = Some((chosen, self.batch_size.max(size)));
                        chosen
                    }
                };
                return Ok((queue.slots[chosen as usize], true));
            }
        };
        let id = usize::try_from(partition).ok().and_then(|partition| queue.slots.get(partition));
        id.map(|id| (*id, false)).ok_or(SendError::UnknownPartition { partition, count })
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(repeat(error));
        }
        if self.stopped {
            return Err(Error::new(ErrorKind::Closed, "the producer was closed"));
        }
        Ok(())
    }

    /// Whether an eighth of the buffer is free: not less, so that who waits is not woken for each batch.
    pub(super) fn has_room(&self) -> bool {
        self.used <= self.limit / 8 * 7
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Gives back what settled batches took.
    pub(super) fn release(&mut self, bytes: usize) {
        self.used -= bytes;
        while self.unsettled.front().is_some_and(|batch| batch.outcome.get().is_some()) {
            self.unsettled.pop_front();
        }
    }

    /// Keeps the memory of a settled batch for another, if nobody else has it and there is room.
    pub(super) fn recycle(&mut self, batch: Bytes) {
        if !batch.is_unique() {
            return;
        }
        let buffer = Vec::from(batch);
        let most = if self.used == 0 { IDLE_SPARE } else { self.limit.saturating_sub(self.used) };
        if self.spare_bytes + buffer.capacity() <= most {
            self.spare_bytes += buffer.capacity();
            self.spare.push(buffer);
        }
        while self.spare_bytes > most {
            let Some(buffer) = self.spare.pop() else { break };
            self.spare_bytes -= buffer.capacity();
        }
    }

    /// Keeps the parts of a split batch until they are settled, for those who flush.
    pub(super) fn keep(&mut self, state: Arc<BatchState>) {
        self.unsettled.push_back(state);
    }

    /// Lets nothing linger that is here now; what it is.
    pub(super) fn flush(&mut self) -> Vec<Arc<BatchState>> {
        self.flush_below = self.next_batch;
        self.unsettled.iter().filter(|batch| batch.outcome().is_none()).cloned().collect()
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.flush_below = u64::MAX;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Takes no more, and fails what is here; the driver fails what it has. What is not settled yet.
    pub(super) fn abort(&mut self, error: Error) -> Vec<Arc<BatchState>> {
        self.stopped = true;
        let error = self.failed.get_or_insert(error);
        for slot in &mut self.slots {
            slot.close();
            for filling in slot.closed.drain(..) {
                self.used -= filling.size;
                filling.state.settle(Outcome::Failed(repeat(error)));
            }
        }
        self.unsettled.iter().filter(|batch| batch.outcome().is_none()).cloned().collect()
    }

    // What the driver asks.

    pub(super) fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id]
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Slots that got something since the last call, into `into`.
    pub(super) fn take_roused(&mut self, into: &mut Vec<SlotId>) {
        for id in self.roused.drain(..) {
            self.slots[id].roused = false;
            into.push(id);
        }
    }

    pub(super) fn waiting(&self, id: SlotId) -> Waiting {
        let slot = &self.slots[id];
        if !slot.closed.is_empty() {
            return Waiting::Due;
        }
        match &slot.open {
            None => Waiting::Nothing,
            Some(open) if open.number < self.flush_below => Waiting::Due,
            Some(open) => Waiting::Since(open.opened),
        }
    }

    /// The size of the batch that [`take`](Self::take) would return.
    pub(super) fn next_size(&self, id: SlotId) -> usize {
        let slot = &self.slots[id];
        slot.closed.front().or(slot.open.as_ref()).map_or(0, |filling| filling.size)
    }

    /// The oldest batch of the slot, closed.
    pub(super) fn take(&mut self, id: SlotId) -> Option<Filling> {
        let slot = &mut self.slots[id];
        if slot.closed.is_empty() {
            slot.close();
        }
        slot.closed.pop_front()
    }

    /// Takes out the slot's batches that were opened up to `opened`.
    pub(super) fn take_older(&mut self, id: SlotId, opened: Duration) -> Vec<Filling> {
        let slot = &mut self.slots[id];
        let mut old = Vec::new();
        while slot.closed.front().or(slot.open.as_ref()).is_some_and(|filling| filling.opened <= opened) {
            if slot.closed.is_empty() {
                slot.close();
            }
            old.extend(slot.closed.pop_front());
        }
        old
    }

    pub(super) fn oldest(&self, id: SlotId) -> Option<Duration> {
        let slot = &self.slots[id];
        slot.closed.front().or(slot.open.as_ref()).map(|filling| filling.opened)
    }
}

/// A buffer for a batch: one of the last that came back, if it is large enough, or a new one.
fn take_spare(spare: &mut Vec<Vec<u8>>, bytes: &mut usize, capacity: usize) -> Vec<u8> {
    let found = spare.iter().rev().take(SPARE_LOOKS).position(|buffer| buffer.capacity() >= capacity);
    let Some(buffer) = found.map(|from_end| spare.swap_remove(spare.len() - 1 - from_end)) else {
        return Vec::new();
    };
    *bytes -= buffer.capacity();
    buffer
}

impl Slot {
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.last_size = open.builder.estimated_size();
            self.closed.push_back(open);
        }
    }
}

/// The partition of a key, as Kafka's own client has it.
fn partition_of(key: &[u8], count: usize) -> i32 {
    ((murmur2(key) & 0x7fff_ffff) as usize % count.max(1)) as i32
}

/// The hash by which Kafka's clients choose a partition: MurmurHash2 with Kafka's seed.
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}
