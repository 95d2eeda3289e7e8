//! The producer: an accumulator that callers fill, and a driver that empties it.
//!
//! `send` takes one short lock and encodes the record straight into its partition's open batch. The driver closes batches,
//! compresses them, sends them to their leaders and settles them; it is woken once or twice for each batch, not for each
//! record. A [`Ticket`] is a batch and a number in it: nothing is allocated for a record.

mod accumulator;
mod sender;

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;

use self::accumulator::Accumulator;
pub use self::accumulator::murmur2;
use self::sender::Sender;
use super::signal::{Bell, Signal};
use super::{Client, ProducerConfig, Topic, lock, repeat};
use crate::{Error, ErrorKind, Result, Timestamp};

/// A header: a key and a value, which may be null.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// Where a record went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The record's offset; -1 when the broker did not say (`acks=0`, or it had the record already).
    pub offset: i64,
    /// The record's timestamp, or the broker's if the topic takes that.
    pub timestamp: Timestamp,
}

/// Why `send` did not take a record.
#[derive(Debug)]
pub enum SendError {
    /// The topic is not known yet: [`prepare`](Producer::prepare) it and send again.
    NeedMetadata,
    /// The buffer is full: wait for [`room`](Producer::room) and send again.
    Full,
    /// The record is larger than `max_request_size`.
    TooLarge {
        /// Its size in bytes, with what is around it.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The topic has no such partition.
    UnknownPartition {
        /// The partition that was asked for.
        partition: i32,
        /// How many there are, numbered from 0.
        count: usize,
    },
    /// The producer was closed, or cannot go on.
    Closed(Error),
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NeedMetadata => Self::new(ErrorKind::Retriable, "the topic is not known yet"),
            SendError::Full => Self::new(ErrorKind::Full, "the producer's buffer is full (buffer_memory)"),
            SendError::TooLarge { size, limit } => Self::new(
                ErrorKind::Invalid,
                format!("record is larger than max_request_size size={size} limit={limit}"),
            ),
            SendError::UnknownPartition { partition, count } => Self::new(
                ErrorKind::Invalid,
                format!("the topic has no such partition partition={partition} count={count}"),
            ),
            SendError::Closed(error) => error,
        }
    }
}

/// Sends records. Clones are the same producer; when the last is dropped, what was sent is still delivered and the driver ends.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.0.accumulator).stop();
        self.0.driver.give();
    }
}

struct Shared {
    client: Client,
    config: ProducerConfig,
    accumulator: Mutex<Accumulator>,
    driver: Signal,
    /// Rung when there is room again, or when there will never be.
    room: Bell,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("client", &self.shared().client).finish_non_exhaustive()
    }
}

impl Producer {
    /// A producer, and the driver that does its work: spawn it.
    pub fn new(client: Client, config: ProducerConfig) -> (Self, BoxFuture<'static, ()>) {
        let accumulator = Mutex::new(Accumulator::new(&config, client.chance().next()));
        let shared = Arc::new(Shared { client, config, accumulator, driver: Signal::default(), room: Bell::default() });
        let driver = Sender::new(Arc::clone(&shared)).run();
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
    pub fn config(&self) -> &ProducerConfig {
        &self.shared().config
    }

    /// Takes a record; it is encoded when this returns, and on its way soon after.
    ///
    /// Without a partition a key decides it as Kafka's own client does (murmur2), and without a key it stays with one
    /// partition for a batch, then goes on to another. Without a timestamp it is now. Never waits.
    pub fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        timestamp: Option<Timestamp>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<Ticket, SendError> {
        let shared = self.shared();
        let clock = shared.client.clock();
        let timestamp = timestamp.unwrap_or_else(|| clock.now());
        let mut accumulator = lock(&shared.accumulator);
        let pushed = accumulator.push(topic, partition, timestamp, key, value, headers, || clock.monotonic());
        drop(accumulator);
        let (ticket, wake) = pushed?;
        if wake {
            shared.driver.give();
        }
        Ok(ticket)
    }

    /// As [`send`](Self::send), but waits for metadata and for room, `max_block_ms` at most.
    pub async fn send_waiting(
        &self,
        topic: &str,
        partition: Option<i32>,
        timestamp: Option<Timestamp>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<Ticket> {
        let clock = self.client().clock();
        let deadline = clock.monotonic().saturating_add(Duration::from_millis(self.config().max_block_ms));
        loop {
            let left = deadline.saturating_sub(clock.monotonic());
            match self.send(topic, partition, timestamp, key, value, headers) {
                Ok(ticket) => return Ok(ticket),
                Err(SendError::NeedMetadata) => drop(self.prepare(topic, left).await?),
                Err(SendError::Full) => self.room(left).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes a topic known, waiting for the brokers' answer up to `timeout`.
    pub async fn prepare(&self, topic: &str, timeout: Duration) -> Result<Arc<Topic>> {
        let topic = self.client().topic(topic, timeout).await?;
        if topic.partitions.is_empty() {
            return Err(Error::new(ErrorKind::Retriable, format!("topic has no partitions topic={}", topic.name)));
        }
        lock(&self.shared().accumulator).learn(&topic);
        Ok(topic)
    }

    /// Waits until a good part of the buffer is free, up to `timeout`.
    pub async fn room(&self, timeout: Duration) -> Result<()> {
        let shared = self.shared();
        let waiting = async {
            loop {
                let seen = shared.room.count();
                {
                    let accumulator = lock(&shared.accumulator);
                    accumulator.check_open()?;
                    if accumulator.has_room() {
                        return Ok(());
                    }
                }
                shared.room.changed(seen).await;
            }
        };
        shared.client.within(timeout, waiting).await.map_err(|error| match error.kind() {
            ErrorKind::Timeout => Error::new(
                ErrorKind::Timeout,
                format!(
                    "no room in the producer's buffer buffer_memory={} waited_ms={}",
                    shared.config.buffer_memory,
                    timeout.as_millis()
                ),
            ),
            _ => error,
        })
    }

    /// Sends what was taken before this call without lingering, and waits until all of it is settled, up to `timeout`.
    ///
    /// Whether it succeeded the tickets say.
    pub async fn flush(&self, timeout: Duration) -> Result<()> {
        let shared = self.shared();
        let batches = lock(&shared.accumulator).flush();
        if batches.is_empty() {
            return Ok(());
        }
        shared.driver.give();
        let count = batches.len();
        let waiting = async {
            for batch in &batches {
                batch.settled().await;
            }
            Ok(())
        };
        shared.client.within(timeout, waiting).await.map_err(|_| {
            let left = batches.iter().filter(|batch| batch.outcome().is_none()).count();
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "not all was delivered in time batches={count} undelivered={left} timeout_ms={}",
                    timeout.as_millis()
                ),
            )
        })
    }

    /// Takes no more records, delivers those it has for up to `timeout`, fails the rest, and ends the driver.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        let shared = self.shared();
        lock(&shared.accumulator).stop();
        shared.driver.give();
        let flushed = self.flush(timeout).await;
        let closed = Error::new(ErrorKind::Closed, "the producer was closed before the record was delivered");
        let rest = lock(&shared.accumulator).abort(closed);
        shared.driver.give();
        shared.room.ring();
        // The driver settles them at once; but it may not be running any more.
        let settled = async {
            for batch in rest {
                batch.settled().await;
            }
            Ok(())
        };
        drop(shared.client.within(Duration::from_secs(1), settled).await);
        flushed
    }

    /// How many bytes are in the buffer or on their way.
    pub fn buffered_bytes(&self) -> usize {
        lock(&self.shared().accumulator).used()
    }
}

/// The promise of a record's delivery.
#[derive(Clone, Debug)]
pub struct Ticket {
    batch: Arc<BatchState>,
    index: u32,
    timestamp: Timestamp,
}

impl Ticket {
    /// The outcome, if it is there.
    pub fn done(&self) -> Option<Result<RecordMetadata>> {
        self.batch.outcome().map(|outcome| self.metadata(outcome))
    }

    /// Waits for the outcome.
    pub async fn wait(&self) -> Result<RecordMetadata> {
        loop {
            if let Some(done) = self.done() {
                return done;
            }
            self.batch.settled().await;
        }
    }

    /// The batch that the record is in.
    pub fn batch(&self) -> &Arc<BatchState> {
        &self.batch
    }

    /// The record's number in its batch.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The timestamp that the record was sent with.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    fn metadata(&self, outcome: &Outcome) -> Result<RecordMetadata> {
        let mut outcome = outcome;
        let mut index = self.index;
        // Settled as a whole: `settled` waits for the parts, too.
        while let Outcome::Split(parts) = outcome {
            let part = parts.partition_point(|(first, _)| *first <= index) - 1;
            let (first, state) = &parts[part];
            index -= first;
            outcome = state.outcome.get().ok_or_else(|| Error::new(ErrorKind::Internal, "a part is not settled"))?;
        }
        match outcome {
            Outcome::Delivered { base_offset, log_append_time } => Ok(RecordMetadata {
                topic: Arc::clone(&self.batch.topic),
                partition: self.batch.partition,
                offset: if *base_offset < 0 { -1 } else { base_offset + i64::from(index) },
                timestamp: log_append_time.unwrap_or(self.timestamp),
            }),
            Outcome::Failed(error) => Err(repeat(error)),
            Outcome::Split(_) => Err(Error::new(ErrorKind::Internal, "a part has no end")),
        }
    }
}

/// A batch on its way, shared by the tickets of its records.
pub struct BatchState {
    topic: Arc<str>,
    partition: i32,
    outcome: OnceLock<Outcome>,
    interest: Mutex<Interest>,
}

#[derive(Default)]
struct Interest {
    wakers: Vec<Waker>,
    hooks: Vec<Box<dyn FnOnce() + Send>>,
}

/// How it ended.
#[derive(Debug)]
enum Outcome {
    Delivered {
        base_offset: i64,
        log_append_time: Option<Timestamp>,
    },
    Failed(Error),
    /// It was too large for the broker and went on in parts: each with the number of its first record.
    Split(Vec<(u32, Arc<BatchState>)>),
}

impl fmt::Debug for BatchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchState")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl BatchState {
    fn new(topic: Arc<str>, partition: i32) -> Self {
        Self { topic, partition, outcome: OnceLock::new(), interest: Mutex::default() }
    }

    /// The topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Whether it is settled: its tickets are done.
    pub fn is_settled(&self) -> bool {
        self.outcome().is_some()
    }

    /// The outcome, if it and its parts are settled.
    fn outcome(&self) -> Option<&Outcome> {
        let outcome = self.outcome.get()?;
        match outcome {
            Outcome::Split(parts) if parts.iter().any(|(_, part)| part.outcome().is_none()) => None,
            outcome => Some(outcome),
        }
    }

    /// Waits until it is settled.
    pub async fn settled(&self) {
        self.ended().await;
        if let Some(Outcome::Split(parts)) = self.outcome.get() {
            for (_, part) in parts {
                Box::pin(part.settled()).await;
            }
        }
    }

    async fn ended(&self) {
        poll_fn(|cx| {
            if self.outcome.get().is_some() {
                return Poll::Ready(());
            }
            let mut interest = lock(&self.interest);
            if self.outcome.get().is_some() {
                return Poll::Ready(());
            }
            if !interest.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                interest.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Has `hook` called once when the batch is settled: on the driver's thread, or here and now if it is settled already.
    ///
    /// One hook for a batch is enough for all its tickets, so a binding registers one when the first future of a batch gets a
    /// callback. The hook must not wait.
    pub fn on_settled(self: &Arc<Self>, hook: impl FnOnce() + Send + 'static) {
        self.hook(Box::new(hook));
    }

    fn hook(self: &Arc<Self>, hook: Box<dyn FnOnce() + Send>) {
        if self.outcome.get().is_none() {
            let mut interest = lock(&self.interest);
            // Looked at again under the lock, which `settle` takes after the outcome is there.
            if self.outcome.get().is_none() {
                interest.hooks.push(hook);
                return;
            }
        }
        if let Some(Outcome::Split(parts)) = self.outcome.get() {
            // A part that is not settled carries it on, and asks again then.
            if let Some((_, part)) = parts.iter().find(|(_, part)| part.outcome().is_none()) {
                let whole = Arc::clone(self);
                return part.hook(Box::new(move || whole.hook(hook)));
            }
        }
        hook();
    }

    fn settle(self: &Arc<Self>, outcome: Outcome) {
        if self.outcome.set(outcome).is_err() {
            return;
        }
        let Interest { wakers, hooks } = std::mem::take(&mut *lock(&self.interest));
        for hook in hooks {
            self.hook(hook);
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}
