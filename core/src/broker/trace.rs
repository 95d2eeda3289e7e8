//! What happens to records on their way through this broker, step by step: `ottla serve --trace`.
//!
//! A *piece* is what came at once: a producer's batch, or what a follower was given of a partition. Steps are noted while
//! somebody traces and cost a test of an `Option` otherwise. A step is known when the broker learns of it: that of a follower
//! by its next fetch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::partition::PartitionId;
use super::{Broker, RequestId};
use crate::log::Slice;
use crate::protocol::ErrorCode;
use crate::protocol::messages::ProduceResponse;
use crate::record::Batch;

/// How many pieces are watched at a time: the latest.
const MAX_PIECES: usize = 1_000;

/// A step on the way of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It came from a producer, who asks for these `acks`: 0, 1, or -1 for all.
    Received {
        /// The producer's `acks`.
        acks: i16,
    },
    /// It came from the leader, or another source that is copied.
    Copied,
    /// It is in the log, and with the operating system.
    Written,
    /// It is on this broker's device.
    Synced,
    /// It is in an answer to a Fetch of this follower's; of a reader's if it is `None`, the first time alone. An asynchronous
    /// follower is a reader.
    Sent(Option<i32>),
    /// This follower has it on its device: it fetches what comes after.
    SyncedAt(i32),
    /// The producer's answer goes out.
    Acknowledged,
    /// The producer is told that it was not written, or is not everywhere where it has to be.
    Refused(ErrorCode),
}

/// A piece, and a step that it has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// Its first and last offset, if it has been written.
    pub offsets: Option<(i64, i64)>,
    /// How many bytes its batches have.
    pub bytes: usize,
    /// When it came in, as the shell's monotonic clock had it.
    pub received: Duration,
    /// What happened.
    pub step: Step,
}

#[derive(Debug)]
struct Piece {
    at: PartitionId,
    topic: Arc<str>,
    partition: i32,
    offsets: Option<(i64, i64)>,
    bytes: usize,
    received: Duration,
    /// Whether it is in the log for the first time, and not what a producer has sent again.
    is_new: bool,
    /// The request that is to be answered.
    request: Option<RequestId>,
    is_synced: bool,
    is_read: bool,
    sent: Vec<i32>,
    synced_at: Vec<i32>,
}

impl Piece {
    fn step(&self, step: Step) -> Traced {
        Traced {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            offsets: self.offsets,
            bytes: self.bytes,
            received: self.received,
            step,
        }
    }

    /// Its last offset, if it is in the log of `at`.
    fn last_in(&self, at: PartitionId) -> Option<i64> {
        self.offsets.filter(|_| self.is_new && self.at == at).map(|(_, last)| last)
    }
}

/// The pieces that are watched, and the steps that nobody has fetched yet.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pieces: VecDeque<Piece>,
    steps: VecDeque<Traced>,
}

impl Trace {
    fn watch(&mut self, piece: Piece) {
        if let Some((first, _)) = piece.offsets.filter(|_| piece.is_new) {
            // What was cut off has made room for it.
            self.pieces.retain(|other| other.last_in(piece.at).is_none_or(|last| last < first));
        }
        if self.pieces.len() >= MAX_PIECES {
            self.pieces.pop_front();
        }
        self.pieces.push_back(piece);
    }
}

/// What a producer sent for a partition, and what came of it.
pub(super) struct Produced<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) bytes: usize,
    pub(super) acks: i16,
    /// Its place, its first offset and the one after its last, and whether it was appended now.
    pub(super) written: Option<(PartitionId, i64, i64, bool)>,
}

impl Broker {
    /// Collects from now on the steps that records take, for [`Self::poll_step`].
    pub fn trace(&mut self) {
        self.trace.get_or_insert_default();
    }

    /// The next step that was taken; none unless [`Self::trace`] was called.
    pub fn poll_step(&mut self) -> Option<Traced> {
        self.trace.as_mut()?.steps.pop_front()
    }

    /// What is handed in next came in at `at`, by the shell's monotonic clock.
    pub fn arrive(&mut self, at: Duration) {
        self.arrived = at;
    }

    /// Notes what a producer has sent; it is answered under `id`.
    pub(super) fn trace_produced(&mut self, id: RequestId, produced: &Produced<'_>) {
        let Some(trace) = &mut self.trace else { return };
        let &Produced { topic, partition, bytes, acks, written } = produced;
        let piece = Piece {
            at: written.map_or(PartitionId(usize::MAX), |(at, ..)| at),
            topic: topic.into(),
            partition,
            offsets: written.map(|(_, first, end, _)| (first, end - 1)),
            bytes,
            received: self.arrived,
            is_new: written.is_some_and(|(.., is_new)| is_new),
            // Nobody hears the answer to acks=0.
            request: Some(id).filter(|_| acks != 0),
            is_synced: false,
            is_read: false,
            sent: Vec::new(),
            synced_at: Vec::new(),
        };
        trace.steps.push_back(Traced { offsets: None, ..piece.step(Step::Received { acks }) });
        if piece.is_new {
            trace.steps.push_back(piece.step(Step::Written));
        }
        trace.watch(piece);
    }

    /// Notes what a copy has been given.
    pub(super) fn trace_copied(&mut self, at: PartitionId, batches: &[Batch]) {
        let Some(trace) = &mut self.trace else { return };
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return };
        let Some(partition) = self.partitions[at.0].as_ref() else { return };
        let piece = Piece {
            at,
            topic: Arc::clone(&partition.topic),
            partition: partition.index,
            offsets: Some((first.base_offset(), last.next_offset() - 1)),
            bytes: batches.iter().map(Batch::size).sum(),
            received: self.arrived,
            is_new: true,
            request: None,
            is_synced: false,
            is_read: false,
            sent: Vec::new(),
            synced_at: Vec::new(),
        };
        trace.steps.extend([piece.step(Step::Copied), piece.step(Step::Written)]);
        trace.watch(piece);
    }

    /// Notes what is on this broker's device by now.
    pub(super) fn trace_synced(&mut self, at: PartitionId) {
        let Some(trace) = &mut self.trace else { return };
        // A device that keeps nothing syncs nothing.
        let Some(partition) = self.partitions[at.0].as_ref().filter(|_| self.device.is_durable()) else { return };
        let end = partition.synced_end();
        for piece in &mut trace.pieces {
            if !piece.is_synced && piece.last_in(at).is_some_and(|last| last < end) {
                piece.is_synced = true;
                trace.steps.push_back(piece.step(Step::Synced));
            }
        }
    }

    /// Notes what is sent to a follower, or to a reader.
    pub(super) fn trace_sent(&mut self, node: Option<i32>, at: PartitionId, slice: &Slice) {
        let Some(trace) = &mut self.trace else { return };
        let (mut next, mut left) = (slice.first_offset(), slice.len());
        for piece in &mut trace.pieces {
            let Some((first, last)) = piece.offsets.filter(|_| piece.is_new && piece.at == at) else { continue };
            if last < next || last >= slice.upto() {
                continue;
            }
            // Of what a limit has cut, only that is sure to be whole whose place is known.
            if slice.is_cut() && (first != next || piece.bytes > left) {
                break;
            }
            next = last + 1;
            left = left.saturating_sub(piece.bytes);
            let is_news = match node {
                None => !std::mem::replace(&mut piece.is_read, true),
                Some(node) if piece.sent.contains(&node) => false,
                Some(node) => {
                    piece.sent.push(node);
                    true
                }
            };
            if is_news {
                trace.steps.push_back(piece.step(Step::Sent(node)));
            }
        }
    }

    /// Notes that a follower asks for `offset`: it has everything below.
    pub(super) fn trace_fetched(&mut self, node: i32, at: PartitionId, offset: i64) {
        let Some(trace) = &mut self.trace else { return };
        for piece in &mut trace.pieces {
            if piece.last_in(at).is_some_and(|last| last < offset) && !piece.synced_at.contains(&node) {
                piece.synced_at.push(node);
                trace.steps.push_back(piece.step(Step::SyncedAt(node)));
            }
        }
    }

    /// Notes the answer that a producer gets.
    pub(super) fn trace_answered(&mut self, id: RequestId, response: &ProduceResponse) {
        let Some(trace) = &mut self.trace else { return };
        for piece in &mut trace.pieces {
            if piece.request != Some(id) {
                continue;
            }
            piece.request = None;
            let topics = response.responses.iter().filter(|topic| *topic.name == *piece.topic);
            let mut answers = topics.flat_map(|topic| &topic.partition_responses);
            let answer = answers.find(|answer| answer.index == piece.partition);
            let step = match answer.map_or(ErrorCode::NONE, |answer| answer.error_code) {
                ErrorCode::NONE => Step::Acknowledged,
                code => Step::Refused(code),
            };
            trace.steps.push_back(piece.step(step));
        }
        trace.pieces.retain(|piece| piece.is_new || piece.request.is_some());
    }
}
