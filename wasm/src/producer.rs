//! The producer. Records come in frames, many at a time; what became of them goes back for each sealed batch at once.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use js_sys::{Float64Array, Function};
use ottla::client::{self, Header, SendError, Ticket};
use ottla::{Error, ErrorKind, Timestamp};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;

use crate::error::{thrown, to_js};
use crate::values::{Cursor, milliseconds};

/// A producer, as js/producer.ts drives it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Producer {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: client::Producer,
    /// Tells what became of records: `delivered(partition, rows)` with a sequence number, an offset and a timestamp for each,
    /// `failed(sequences, error)`.
    delivered: Function,
    failed: Function,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Names of topics; frames say their place.
    topics: Vec<Arc<str>>,
    /// Records that a batch has, by the batch's address.
    waiting: HashMap<usize, Vec<(f64, Ticket)>>,
    /// Frames that wait for metadata or for room, in order.
    backlog: VecDeque<Backlog>,
    /// Whether somebody works on the backlog; as long as that is so, all frames go this way.
    at_work: bool,
    /// Who waits until the backlog is empty.
    emptied: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Backlog {
    frames: Vec<u8>,
    position: usize,
    sequence: f64,
    since: Duration,
}

impl Producer {
    pub(crate) fn new(core: client::Producer, delivered: Function, failed: Function) -> Self {
        Self { inner: Rc::new(Inner { core, delivered, failed, state: RefCell::default() }) }
    }
}

#[wasm_bindgen]
impl Producer {
    /// The place of a topic's name, for frames.
    pub fn topic(&self, name: &str) -> usize {
        let mut state = self.inner.state.borrow_mut();
        state.topics.push(name.into());
        state.topics.len() - 1
    }

    /// Takes records whose sequence numbers begin with `sequence`.
    ///
    /// A frame is, in little-endian order, `topic: u32, partition: i32, timestamp: f64, key: i32, value: i32, headers: u32`, where
    /// key and value are lengths and -1 is null, no partition is -1 and no timestamp is NaN; then the key's and the value's bytes; then
    /// for each header `key: i32, value: i32` and the bytes of both.
    pub fn send(&self, frames: &[u8], sequence: f64) -> Result<(), JsValue> {
        let inner = &self.inner;
        let mut cursor = Cursor::new(frames);
        let mut sequence = sequence;
        if !inner.state.borrow().at_work {
            while !cursor.is_empty() {
                let before = cursor.position();
                if !inner.send_one(&mut cursor, sequence).map_err(thrown)? {
                    cursor.set_position(before);
                    break;
                }
                sequence += 1.0;
            }
        }
        if !cursor.is_empty() {
            let since = inner.core.client().clock().monotonic();
            let frames = frames[cursor.position()..].to_vec();
            let mut state = inner.state.borrow_mut();
            state.backlog.push_back(Backlog { frames, position: 0, sequence, since });
            if !state.at_work {
                state.at_work = true;
                spawn_local(Rc::clone(inner).work_off());
            }
        }
        Ok(())
    }

    /// Sends what was taken without lingering and waits until it is settled, up to `timeout_ms`.
    pub async fn flush(&self, timeout_ms: f64) -> Result<(), JsValue> {
        let inner = Rc::clone(&self.inner);
        let clock = Arc::clone(inner.core.client().clock());
        let deadline = clock.monotonic().saturating_add(milliseconds(timeout_ms));
        inner.emptied(deadline.saturating_sub(clock.monotonic())).await.map_err(thrown)?;
        let left = deadline.saturating_sub(clock.monotonic());
        inner.core.flush(left).await.map_err(thrown)
    }

    /// Takes no more records, delivers what it has for up to `timeout_ms` and fails the rest.
    pub async fn close(&self, timeout_ms: f64) -> Result<(), JsValue> {
        let inner = Rc::clone(&self.inner);
        let clock = Arc::clone(inner.core.client().clock());
        let deadline = clock.monotonic().saturating_add(milliseconds(timeout_ms));
        // What is still in the backlog then is refused by the closed producer.
        drop(inner.emptied(milliseconds(timeout_ms)).await);
        let left = deadline.saturating_sub(clock.monotonic());
        let closed = inner.core.close(left).await.map_err(thrown);
        drop(inner.emptied(Duration::MAX).await);
        closed
    }

    /// How many bytes are in the buffer or on their way.
    #[wasm_bindgen(getter, js_name = bufferedBytes)]
    pub fn buffered_bytes(&self) -> usize {
        self.inner.core.buffered_bytes()
    }
}

impl Inner {
    /// Hands one record to the core; false if it has to wait.
    fn send_one(self: &Rc<Self>, cursor: &mut Cursor<'_>, sequence: f64) -> Result<bool, Error> {
        let frame = Frame::read(cursor)?;
        match self.try_send(&frame) {
            Ok(ticket) => self.watch(sequence, ticket),
            Err(SendError::NeedMetadata | SendError::Full) => return Ok(false),
            Err(error) => self.fail(&[sequence], &error.into()),
        }
        Ok(true)
    }

    fn topic(&self, place: usize) -> Option<Arc<str>> {
        self.state.borrow().topics.get(place).cloned()
    }

    fn try_send(&self, frame: &Frame<'_>) -> Result<Ticket, SendError> {
        let Some(topic) = self.topic(frame.topic) else {
            return Err(SendError::Closed(Error::new(ErrorKind::Internal, "a frame names no topic")));
        };
        self.core.send(&topic, frame.partition, frame.timestamp, frame.key, frame.value, &frame.headers)
    }

    /// Remembers whom to tell when the batch is settled.
    fn watch(self: &Rc<Self>, sequence: f64, ticket: Ticket) {
        let batch = Arc::clone(ticket.batch());
        let address = Arc::as_ptr(&batch) as usize;
        let is_first = {
            let mut state = self.state.borrow_mut();
            // The tickets keep the batch alive, so no other gets its address.
            let tickets = state.waiting.entry(address).or_default();
            tickets.push((sequence, ticket));
            tickets.len() == 1
        };
        if is_first {
            let inner = SendWrapper::new(Rc::clone(self));
            batch.on_settled(move || inner.take().settled(address));
        }
    }

    /// Tells what became of a batch's records.
    fn settled(&self, address: usize) {
        let Some(tickets) = self.state.borrow_mut().waiting.remove(&address) else { return };
        let Some((_, first)) = tickets.first() else { return };
        let partition = first.batch().partition();
        let mut rows = Vec::with_capacity(3 * tickets.len());
        // A batch fails as one; its parts, if it was split, each by itself.
        let mut failed: Vec<(Error, Vec<f64>)> = Vec::new();
        for (sequence, ticket) in &tickets {
            let error = match ticket.done() {
                Some(Ok(metadata)) => {
                    rows.extend([*sequence, metadata.offset as f64, metadata.timestamp as f64]);
                    continue;
                }
                Some(Err(error)) => error,
                None => Error::new(ErrorKind::Internal, "a settled batch has no outcome"),
            };
            match failed.last_mut() {
                Some((last, sequences)) if last.message() == error.message() => sequences.push(*sequence),
                _ => failed.push((error, vec![*sequence])),
            }
        }
        for (error, sequences) in &failed {
            self.fail(sequences, error);
        }
        if !rows.is_empty() {
            let rows = Float64Array::from(rows.as_slice());
            call(&self.delivered, &partition.into(), &rows);
        }
    }

    fn fail(&self, sequences: &[f64], error: &Error) {
        call(&self.failed, &Float64Array::from(sequences), &to_js(error));
    }

    /// Hands over what had to wait, in order, as a producer's caller would that blocks.
    async fn work_off(self: Rc<Self>) {
        loop {
            let Some(mut chunk) = self.state.borrow_mut().backlog.pop_front() else { break };
            while let Err(error) = self.work_off_chunk(&mut chunk).await {
                // The record at hand failed; go on with the next.
                self.fail(&[chunk.sequence], &error);
                let mut cursor = Cursor::new(&chunk.frames);
                cursor.set_position(chunk.position);
                if Frame::read(&mut cursor).is_err() {
                    break;
                }
                chunk.position = cursor.position();
                chunk.sequence += 1.0;
            }
        }
        let emptied = {
            let mut state = self.state.borrow_mut();
            state.at_work = false;
            std::mem::take(&mut state.emptied)
        };
        for waiting in emptied {
            // Who waited may have given up.
            let _ = waiting.send(());
        }
    }

    async fn work_off_chunk(self: &Rc<Self>, chunk: &mut Backlog) -> Result<(), Error> {
        let clock = self.core.client().clock();
        let deadline = chunk.since.saturating_add(Duration::from_millis(self.core.config().max_block_ms));
        while chunk.position < chunk.frames.len() {
            let mut cursor = Cursor::new(&chunk.frames);
            cursor.set_position(chunk.position);
            let frame = Frame::read(&mut cursor)?;
            let left = deadline.saturating_sub(clock.monotonic());
            match self.try_send(&frame) {
                Ok(ticket) => self.watch(chunk.sequence, ticket),
                Err(SendError::NeedMetadata) => {
                    let topic = self.topic(frame.topic).unwrap_or_default();
                    self.core.prepare(&topic, left).await?;
                    continue;
                }
                Err(SendError::Full) => {
                    self.core.room(left).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            chunk.position = cursor.position();
            chunk.sequence += 1.0;
        }
        Ok(())
    }

    /// Waits until nothing is in the backlog.
    async fn emptied(&self, timeout: Duration) -> Result<(), Error> {
        let waiting = {
            let mut state = self.state.borrow_mut();
            if !state.at_work {
                return Ok(());
            }
            let (sender, receiver) = oneshot::channel();
            state.emptied.push(sender);
            receiver
        };
        let emptied = async {
            let _ = waiting.await;
            Ok(())
        };
        self.core.client().within(timeout, emptied).await
    }
}

/// Calls the face; it does not throw.
fn call(function: &Function, first: &JsValue, second: &JsValue) {
    drop(function.call2(&JsValue::UNDEFINED, first, second));
}

/// A record on its way in.
struct Frame<'a> {
    topic: usize,
    partition: Option<i32>,
    timestamp: Option<Timestamp>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<Header<'a>>,
}

impl<'a> Frame<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        let topic = cursor.u32()? as usize;
        let partition = cursor.i32()?;
        let timestamp = cursor.f64()?;
        let key = cursor.i32()?;
        let value = cursor.i32()?;
        let headers = cursor.u32()?;
        Ok(Self {
            topic,
            partition: (partition >= 0).then_some(partition),
            timestamp: (!timestamp.is_nan()).then_some(timestamp as Timestamp),
            key: cursor.nullable(key)?,
            value: cursor.nullable(value)?,
            headers: (0..headers)
                .map(|_| {
                    let key = cursor.i32()?;
                    let value = cursor.i32()?;
                    Ok((cursor.text(key)?, cursor.nullable(value)?))
                })
                .collect::<Result<_, Error>>()?,
        })
    }
}
