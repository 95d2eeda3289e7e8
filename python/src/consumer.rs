//! `KafkaConsumer`'s Rust half: a poll crosses as one buffer with places in it, and records are made when they are asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::channel::oneshot;
use ottla::client::{
    self, ConsumerConfig, FetchedBatch, Listener, OffsetAndMetadata, Polled, Rebalance, TopicPartition,
};
use ottla::record::TimestampType;
use ottla::{Error, ErrorKind, Result as CoreResult};
use pyo3::exceptions::{PyBaseException, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PySet, PyString, PyTuple};

use crate::blocking::{self, Deadline, Life};
use crate::errors;
use crate::future::{Future, Outcome};
use crate::runtime::{Address, Held, Shared};
use crate::values::{self, RecordClass};

/// What `KafkaConsumer` does in Rust.
#[pyclass(subclass, frozen, weakref, module = "ottla._ottla")]
#[derive(Default)]
pub(crate) struct Consumer {
    inner: OnceLock<Inner>,
}

struct Inner {
    consumer: Option<client::Consumer>,
    held: Held,
    life: Life,
    record: RecordClass,
    partition: Py<PyAny>,
    key_deserializer: Option<Py<PyAny>>,
    value_deserializer: Option<Py<PyAny>>,
    /// How long `next` waits; without an end if not set.
    timeout: Option<Duration>,
    state: Mutex<State>,
    closed: AtomicBool,
    records: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    /// What was polled ahead for the iteration.
    buffer: VecDeque<Chunk>,
    /// Called with what happened and the partitions.
    notify: Option<Arc<Py<PyAny>>>,
    idle: Option<Idle>,
    commits: Vec<Commit>,
}

/// What `ottla run` wants when nothing comes.
struct Idle {
    notice_after: Duration,
    notice: Arc<Py<PyAny>>,
    exit_after: Option<Duration>,
    noticed: bool,
}

/// A commit that nobody waits for.
struct Commit {
    answer: oneshot::Receiver<CoreResult<()>>,
    offsets: Py<PyAny>,
    callback: Py<PyAny>,
    future: Py<Future>,
}

/// Where records are from.
struct Source {
    name: TopicPartition,
    leader_epoch: i32,
    timestamp_type: u8,
    topic: OnceLock<Py<PyString>>,
}

/// A place in a chunk's bytes; a negative length is a null.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    length: i32,
}

#[derive(Clone, Copy)]
struct Entry {
    offset: i64,
    timestamp: i64,
    key: Span,
    value: Span,
    /// Of the chunk's headers: the first and how many.
    headers: (u32, u32),
}

/// The records of a batch that are left.
struct Chunk {
    source: Arc<Source>,
    bytes: Bytes,
    entries: Vec<Entry>,
    headers: Arc<Vec<(String, Span)>>,
    next: usize,
    /// What is wrong after the entries.
    error: Option<Error>,
}

/// A record that was taken out of a chunk.
struct Taken {
    source: Arc<Source>,
    bytes: Bytes,
    entry: Entry,
    headers: Option<Arc<Vec<(String, Span)>>>,
}

impl Span {
    fn of(bytes: &Bytes, part: Option<&[u8]>) -> Self {
        match part {
            Some(part) => Self {
                // A batch is smaller than 2 GiB, so both fit.
                start: (part.as_ptr() as usize - bytes.as_ptr() as usize) as u32,
                length: part.len() as i32,
            },
            None => Self { start: 0, length: -1 },
        }
    }

    fn get(self, bytes: &Bytes) -> Option<&[u8]> {
        let length = usize::try_from(self.length).ok()?;
        bytes.get(self.start as usize..self.start as usize + length)
    }
}

impl Chunk {
    /// Notes where each record lies. Runs without the GIL.
    fn new(batch: &FetchedBatch) -> Self {
        let bytes = batch.records.bytes().clone();
        let mut entries = Vec::with_capacity(batch.count);
        let mut headers = Vec::new();
        let mut error = None;
        for record in batch.iter() {
            let record = match record {
                Ok(record) => record,
                Err(broken) => {
                    error = Some(Error::from(broken).context(format_args!("partition={}", batch.partition)));
                    break;
                }
            };
            let first = headers.len();
            for header in record.headers.raw() {
                match header {
                    Ok((name, value)) => {
                        headers.push((String::from_utf8_lossy(name).into_owned(), Span::of(&bytes, value)));
                    }
                    Err(broken) => {
                        error = Some(Error::from(broken).context(format_args!("partition={}", batch.partition)));
                    }
                }
            }
            if error.is_some() {
                break;
            }
            entries.push(Entry {
                offset: record.offset,
                timestamp: record.timestamp,
                key: Span::of(&bytes, record.key),
                value: Span::of(&bytes, record.value),
                headers: (first as u32, (headers.len() - first) as u32),
            });
        }
        let source = Source {
            name: batch.partition.clone(),
            leader_epoch: batch.leader_epoch,
            timestamp_type: u8::from(batch.timestamp_type == TimestampType::LogAppendTime),
            topic: OnceLock::new(),
        };
        Self { source: Arc::new(source), bytes, entries, headers: Arc::new(headers), next: 0, error }
    }

    fn take(&mut self) -> Option<Taken> {
        let entry = *self.entries.get(self.next)?;
        self.next += 1;
        let headers = (entry.headers.1 > 0).then(|| Arc::clone(&self.headers));
        Some(Taken { source: Arc::clone(&self.source), bytes: self.bytes.clone(), entry, headers })
    }
}

/// What a poll brought: what happened, and records.
struct Arrived {
    events: Vec<Rebalance>,
    chunks: Vec<Chunk>,
}

impl From<Polled> for Arrived {
    fn from(polled: Polled) -> Self {
        Self { events: polled.events, chunks: polled.batches.iter().map(Chunk::new).collect() }
    }
}

/// How a poll leaves the positions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Positions {
    /// After what it brought.
    Move,
    /// Where they are: each record moves them when it is handed out, or never.
    Stay,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.life.goes_on() {
            // Its locks may be held by threads that this process does not have.
            std::mem::forget(self.consumer.take());
            self.held.abandon();
        }
    }
}

impl Inner {
    fn consumer(&self) -> &client::Consumer {
        self.consumer.as_ref().expect("it is taken only when dropped")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the core, as long as it takes; its errors are raised.
    fn wait<T: Send>(
        &self,
        py: Python<'_>,
        future: impl std::future::Future<Output = CoreResult<T>> + Send,
    ) -> PyResult<T> {
        blocking::wait(py, Deadline::NEVER, future)?
            .expect("there is no deadline")
            .map_err(|error| errors::raise(py, &error))
    }

    /// A timeout of the core's from Python's milliseconds; `request_timeout_ms` if there is none.
    fn limit(&self, timeout_ms: Option<f64>) -> Duration {
        match timeout_ms {
            Some(ms) => milliseconds(ms),
            None => Duration::from_millis(self.consumer().client().config().request_timeout_ms),
        }
    }

    /// Polls once, and tells the listener what happened.
    fn arrive(
        &self,
        py: Python<'_>,
        timeout: Duration,
        max: Option<usize>,
        positions: Positions,
    ) -> PyResult<Vec<Chunk>> {
        let consumer = self.consumer();
        let polling = async move {
            let polled = match positions {
                Positions::Move => consumer.poll(timeout, max).await,
                Positions::Stay => consumer.poll_ahead(timeout, max).await,
            };
            polled.map(Arrived::from)
        };
        let polled = blocking::wait(py, Deadline::NEVER, polling)?.expect("there is no deadline");
        let Arrived { events, chunks } = polled.map_err(|error| match error.kind() {
            // Neither subscribed nor assigned.
            ErrorKind::Invalid if error.code().is_none() => errors::named(py, "IllegalStateError", &error.to_string()),
            _ => errors::raise(py, &error),
        })?;
        for event in events {
            let (what, partitions) = match event {
                Rebalance::Revoked(partitions) => ("on_partitions_revoked", partitions),
                Rebalance::Lost(partitions) => ("on_partitions_lost", partitions),
                Rebalance::Assigned(partitions) => ("on_partitions_assigned", partitions),
            };
            if what != "on_partitions_assigned" {
                // What is left of them is another member's.
                self.forget(&partitions);
            }
            self.tell(py, what, &partitions)?;
        }
        Ok(chunks)
    }

    fn tell(&self, py: Python<'_>, what: &str, partitions: &[TopicPartition]) -> PyResult<()> {
        let Some(notify) = self.state().notify.clone() else { return Ok(()) };
        notify.call1(py, (what, self.partition_set(py, partitions)?)).map(drop)
    }

    /// Drops what was polled ahead of these partitions.
    fn forget(&self, partitions: &[TopicPartition]) {
        let mut buffer = std::mem::take(&mut self.state().buffer);
        buffer.retain(|chunk| !partitions.contains(&chunk.source.name));
        self.state().buffer.extend(buffer);
    }

    /// Gives back what was polled ahead, of these partitions or of all: it is read again from where the iteration stands.
    fn rewind(&self, partitions: Option<&[TopicPartition]>) {
        let buffer = std::mem::take(&mut self.state().buffer);
        let (mut kept, mut seen) = (VecDeque::new(), Vec::new());
        for chunk in buffer {
            if partitions.is_some_and(|partitions| !partitions.contains(&chunk.source.name)) {
                kept.push_back(chunk);
                continue;
            }
            let Some(entry) = chunk.entries.get(chunk.next) else { continue };
            if !seen.contains(&chunk.source.name) {
                seen.push(chunk.source.name.clone());
                // It fails if the partition is not assigned any more, and then there is nothing to go back to.
                let _ = self.consumer().seek(&chunk.source.name, entry.offset);
            }
        }
        self.state().buffer.extend(kept);
    }

    /// The next record that was polled ahead. It counts as consumed with that.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Python's code never runs under the lock.
        let (taken, spent) = {
            let mut state = self.state();
            let mut spent = Vec::new();
            let taken = loop {
                let Some(chunk) = state.buffer.front_mut() else { break None };
                if let Some(taken) = chunk.take() {
                    break Some(Ok(taken));
                }
                match chunk.error.take() {
                    Some(error) => break Some(Err(error)),
                    None => spent.extend(state.buffer.pop_front()),
                }
            };
            (taken, spent)
        };
        drop(spent);
        let taken = match taken {
            None => return Ok(None),
            Some(Err(error)) => return Err(errors::raise(py, &error)),
            Some(Ok(taken)) => taken,
        };
        match self.make(py, &taken) {
            Ok(record) => {
                self.consumer().advance(&taken.source.name, taken.entry.offset + 1);
                Ok(Some(record))
            }
            Err(error) => {
                // The deserializer's: the record is not consumed, and comes again.
                if let Some(chunk) = self.state().buffer.front_mut()
                    && Arc::ptr_eq(&chunk.source, &taken.source)
                    && chunk.next > 0
                {
                    chunk.next -= 1;
                }
                Err(error)
            }
        }
    }

    fn make<'py>(&self, py: Python<'py>, taken: &Taken) -> PyResult<Bound<'py, PyAny>> {
        let Taken { source, bytes, entry, headers } = taken;
        let topic = source.topic.get_or_init(|| PyString::new(py, &source.name.topic).unbind()).bind(py);
        let list = PyList::empty(py);
        let mut header_size = -1;
        if let Some(headers) = headers {
            let (first, count) = (entry.headers.0 as usize, entry.headers.1 as usize);
            header_size = 0;
            for (name, value) in &headers[first..first + count] {
                let value = value.get(bytes);
                header_size += (name.len() + value.map_or(0, <[u8]>::len)) as i64;
                list.append((name, value.map(|value| PyBytes::new(py, value))))?;
            }
        }
        // Only a program that puts the record into its own list of headers makes a cycle of it.
        values::leave_alone(&list);
        let key = self.deserialize(self.key_deserializer.as_ref(), topic, &list, entry.key.get(bytes))?;
        let value = self.deserialize(self.value_deserializer.as_ref(), topic, &list, entry.value.get(bytes))?;
        self.records.fetch_add(1, Ordering::Relaxed);
        let size = entry.key.length.max(0) as u64 + entry.value.length.max(0) as u64;
        self.bytes.fetch_add(size, Ordering::Relaxed);
        self.record.make(
            py,
            [
                topic.clone().into_any(),
                int(py, source.name.partition.into()),
                int(py, source.leader_epoch.into()),
                int(py, entry.offset),
                int(py, entry.timestamp),
                int(py, source.timestamp_type.into()),
                key,
                value,
                list.into_any(),
                py.None().into_bound(py),
                int(py, entry.key.length.into()),
                int(py, entry.value.length.into()),
                int(py, header_size),
            ],
            self.key_deserializer.is_none() && self.value_deserializer.is_none(),
        )
    }

    fn deserialize<'py>(
        &self,
        deserializer: Option<&Py<PyAny>>,
        topic: &Bound<'py, PyString>,
        headers: &Bound<'py, PyList>,
        data: Option<&[u8]>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = topic.py();
        let data = match data {
            Some(data) => PyBytes::new(py, data).into_any(),
            None => py.None().into_bound(py),
        };
        match deserializer {
            None => Ok(data),
            Some(deserializer) => {
                deserializer.bind(py).call_method1(pyo3::intern!(py, "deserialize"), (topic, headers, data))
            }
        }
    }

    /// Makes the records of these chunks, each handed to `put` with its partition. When one fails, the call returns nothing:
    /// all partitions go back to the `first` record that it would have returned.
    fn make_all<'py>(
        &self,
        py: Python<'py>,
        chunks: Vec<Chunk>,
        first: &mut HashMap<TopicPartition, i64>,
        mut put: impl FnMut(&TopicPartition, Bound<'py, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        for chunk in &chunks {
            if let Some(entry) = chunk.entries.first() {
                first.entry(chunk.source.name.clone()).or_insert(entry.offset);
            }
        }
        let make = || {
            for mut chunk in chunks {
                while let Some(taken) = chunk.take() {
                    let record = self.make(py, &taken)?;
                    put(&taken.source.name, record)?;
                }
                if let Some(error) = chunk.error.take() {
                    return Err(errors::raise(py, &error));
                }
            }
            Ok(())
        };
        make().inspect_err(|_| {
            for (name, offset) in &*first {
                // It fails if the partition is not assigned any more, and then there is nothing to go back to.
                let _ = self.consumer().seek(name, *offset);
            }
        })
    }

    fn python_partition<'py>(&self, py: Python<'py>, partition: &TopicPartition) -> PyResult<Bound<'py, PyAny>> {
        self.partition.bind(py).call1((&*partition.topic, partition.partition))
    }

    fn partition_set<'py>(&self, py: Python<'py>, partitions: &[TopicPartition]) -> PyResult<Bound<'py, PySet>> {
        let set = PySet::empty(py)?;
        for partition in partitions {
            set.add(self.python_partition(py, partition)?)?;
        }
        Ok(set)
    }

    /// Runs the callbacks of commits that have been answered.
    fn answer_commits(&self, py: Python<'_>) -> PyResult<()> {
        let mut answered = Vec::new();
        {
            let mut state = self.state();
            if state.commits.is_empty() {
                return Ok(());
            }
            let mut waiting = Vec::new();
            for mut commit in std::mem::take(&mut state.commits) {
                match commit.answer.try_recv() {
                    Ok(None) => waiting.push(commit),
                    Ok(Some(answer)) => answered.push((commit, answer)),
                    Err(_) => {
                        let gone =
                            Error::new(ErrorKind::Closed, "the consumer was closed before the commit was answered");
                        answered.push((commit, Err(gone)));
                    }
                }
            }
            state.commits = waiting;
        }
        for (commit, answer) in answered {
            let (outcome, said) = match answer {
                Ok(()) => (Outcome::Value(py.None()), py.None()),
                Err(error) => {
                    let exception: Py<PyBaseException> = errors::raise(py, &error).into_value(py);
                    (Outcome::Exception(exception.clone_ref(py)), exception.into_any())
                }
            };
            Future::complete(commit.future.bind(py), outcome)?;
            if let Err(error) = commit.callback.call1(py, (commit.offsets, said)) {
                error.write_unraisable(py, None);
            }
        }
        Ok(())
    }
}

fn int(py: Python<'_>, number: i64) -> Bound<'_, PyAny> {
    PyInt::new(py, number).into_any()
}

fn milliseconds(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms.max(0.0) / 1000.0).unwrap_or(Duration::MAX)
}

pub(crate) fn partition(partition: &Bound<'_, PyAny>) -> PyResult<TopicPartition> {
    let (topic, number): (String, i32) = partition.extract()?;
    Ok(TopicPartition::new(topic, number))
}

pub(crate) fn partitions(list: &Bound<'_, PyList>) -> PyResult<Vec<TopicPartition>> {
    list.iter().map(|entry| partition(&entry)).collect()
}

type Offset = (i64, String, i32);

pub(crate) fn offsets(list: &Bound<'_, PyList>) -> PyResult<HashMap<TopicPartition, OffsetAndMetadata>> {
    let mut found = HashMap::new();
    for entry in list {
        let (name, offset, metadata, leader_epoch): (Bound<'_, PyAny>, i64, String, i32) = entry.extract()?;
        found.insert(partition(&name)?, OffsetAndMetadata { offset, metadata, leader_epoch });
    }
    Ok(found)
}

impl Consumer {
    fn inner(&self, py: Python<'_>) -> PyResult<&Inner> {
        let inner = self.inner.get().ok_or_else(|| errors::closed(py, "the consumer"))?;
        inner.life.check(py)?;
        if inner.closed.load(Ordering::Acquire) {
            return Err(errors::closed(py, "the consumer"));
        }
        Ok(inner)
    }
}

#[pymethods]
impl Consumer {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // They are for `__init__`.
        let _ = (args, kwargs);
        Self::default()
    }

    #[allow(clippy::too_many_arguments)]
    fn _open(
        &self,
        py: Python<'_>,
        options: &Bound<'_, PyDict>,
        topics: Vec<String>,
        connect: bool,
        key_deserializer: Option<Py<PyAny>>,
        value_deserializer: Option<Py<PyAny>>,
        consumer_timeout_ms: Option<f64>,
    ) -> PyResult<()> {
        crate::logging::start(py)?;
        let mut options = values::options(options)?;
        let runtime = Shared::open()?;
        let address = Address::take(py, &runtime, &mut options)?;
        let (client_config, config) =
            ConsumerConfig::from_options(&options).map_err(|error| errors::raise(py, &error))?;
        let client = runtime.client(py, &address, client_config, connect)?;
        let (consumer, driver) = client::Consumer::new(client, config);
        runtime.drive(driver, &address);
        let inner = Inner {
            consumer: Some(consumer),
            held: Held::new(runtime, address),
            life: Life::now(),
            record: RecordClass::new(py)?,
            partition: py.import("ottla.structs")?.getattr("TopicPartition")?.unbind(),
            key_deserializer,
            value_deserializer,
            timeout: consumer_timeout_ms.map(milliseconds),
            state: Mutex::default(),
            closed: AtomicBool::new(false),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        self.inner.set(inner).map_err(|_| errors::named(py, "IllegalStateError", "the consumer is open already"))?;
        if topics.is_empty() { Ok(()) } else { self._subscribe(py, topics, None, None) }
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(inner) = self.inner.get() else { return Err(errors::closed(py, "the consumer")) };
        inner.life.check(py)?;
        if inner.closed.load(Ordering::Acquire) {
            return Ok(None);
        }
        if let Some(record) = inner.next(py)? {
            return Ok(Some(record));
        }
        let started = Instant::now();
        loop {
            inner.answer_commits(py)?;
            let waited = started.elapsed();
            let mut limit = inner.timeout.unwrap_or(Duration::MAX);
            if waited >= limit {
                return Ok(None);
            }
            let mut notice = None;
            if let Some(idle) = &mut inner.state().idle {
                if idle.exit_after.is_some_and(|after| waited >= after) {
                    return Ok(None);
                }
                limit = limit.min(idle.exit_after.unwrap_or(Duration::MAX));
                if !idle.noticed {
                    if waited >= idle.notice_after {
                        idle.noticed = true;
                        notice = Some(Arc::clone(&idle.notice));
                    } else {
                        limit = limit.min(idle.notice_after);
                    }
                }
            }
            if let Some(notice) = notice {
                notice.call0(py)?;
            }
            let arrived = inner.arrive(py, limit.saturating_sub(waited), None, Positions::Stay);
            if inner.closed.load(Ordering::Acquire) {
                return Ok(None);
            }
            let chunks = arrived?;
            inner.state().buffer.extend(chunks);
            if let Some(record) = inner.next(py)? {
                return Ok(Some(record));
            }
        }
    }

    /// Return records that are there, or wait for some.
    #[pyo3(signature = (timeout_ms = 0.0, max_records = None, update_offsets = true))]
    #[pyo3(text_signature = "($self, timeout_ms=0, max_records=None, update_offsets=True)")]
    fn poll<'py>(
        &self,
        py: Python<'py>,
        timeout_ms: f64,
        max_records: Option<&Bound<'py, PyAny>>,
        update_offsets: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        if timeout_ms < 0.0 {
            return Err(PyValueError::new_err("a timeout is not negative"));
        }
        let max = match max_records {
            None => None,
            Some(max) if !max.is_instance_of::<PyInt>() => {
                return Err(PyTypeError::new_err("max_records is a whole number"));
            }
            Some(max) => match max.extract::<usize>() {
                Ok(max) if max > 0 => Some(max),
                _ => return Err(PyValueError::new_err("max_records is 1 at least")),
            },
        };
        let inner = self.inner(py)?;
        inner.answer_commits(py)?;
        // What an iteration left is read again.
        inner.rewind(None);
        let deadline = Deadline::after(milliseconds(timeout_ms));
        let positions = if update_offsets { Positions::Move } else { Positions::Stay };
        let found = PyDict::new(py);
        let mut first = HashMap::new();
        loop {
            let left = deadline.remaining().unwrap_or(Duration::MAX);
            let chunks = inner.arrive(py, left, max, positions)?;
            let mut last: Option<(TopicPartition, Bound<'py, PyList>)> = None;
            inner.make_all(py, chunks, &mut first, |name, record| {
                if let Some((before, list)) = &last
                    && before == name
                {
                    return list.append(record);
                }
                let key = inner.python_partition(py, name)?;
                let list = match found.get_item(&key)? {
                    Some(list) => list.cast_into::<PyList>()?,
                    None => {
                        let list = PyList::empty(py);
                        found.set_item(key, &list)?;
                        list
                    }
                };
                list.append(record)?;
                last = Some((name.clone(), list));
                Ok(())
            })?;
            if !found.is_empty() || deadline.passed() {
                return Ok(found);
            }
        }
    }

    /// Return up to so many records as one list, waiting until there are as many or the time is over.
    #[pyo3(signature = (num_messages = 1, timeout = -1.0))]
    #[pyo3(text_signature = "($self, num_messages=1, timeout=-1)")]
    fn consume<'py>(&self, py: Python<'py>, num_messages: usize, timeout: f64) -> PyResult<Bound<'py, PyList>> {
        let inner = self.inner(py)?;
        inner.answer_commits(py)?;
        inner.rewind(None);
        let deadline = Deadline::after_seconds((timeout >= 0.0).then_some(timeout));
        let found = PyList::empty(py);
        let mut first = HashMap::new();
        while found.len() < num_messages {
            let left = deadline.remaining().unwrap_or(Duration::MAX);
            let chunks = inner.arrive(py, left, Some(num_messages - found.len()), Positions::Move)?;
            inner.make_all(py, chunks, &mut first, |_, record| found.append(record))?;
            if deadline.passed() {
                break;
            }
        }
        Ok(found)
    }

    /// Return the topics that were subscribed to, or None.
    fn subscription<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PySet>>> {
        let topics = self.inner(py)?.consumer().subscription();
        if topics.is_empty() { Ok(None) } else { PySet::new(py, topics.iter().map(|topic| &**topic)).map(Some) }
    }

    /// Read nothing any more, and leave the group.
    fn unsubscribe(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner(py)?;
        let notify = {
            let mut state = inner.state();
            state.buffer.clear();
            state.notify.take()
        };
        if let Some(notify) = notify {
            let assigned = inner.consumer().assignment();
            if !assigned.is_empty() {
                notify.call1(py, ("on_partitions_revoked", inner.partition_set(py, &assigned)?))?;
            }
        }
        inner.consumer().unsubscribe();
        Ok(())
    }

    /// Return the partitions that this consumer reads.
    fn assignment<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        let inner = self.inner(py)?;
        inner.partition_set(py, &inner.consumer().assignment())
    }

    /// Return the partitions that are paused.
    fn paused<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        let inner = self.inner(py)?;
        inner.partition_set(py, &inner.consumer().paused())
    }

    /// Return the names of all topics that this user may see.
    fn topics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        let inner = self.inner(py)?;
        let topics = inner.wait(py, inner.consumer().topics(inner.limit(None)))?;
        PySet::new(py, topics.iter().map(|topic| &**topic))
    }

    /// Return the topic's partitions; none if it is not there.
    fn partitions_for_topic<'py>(&self, py: Python<'py>, topic: &str) -> PyResult<Bound<'py, PySet>> {
        let inner = self.inner(py)?;
        let found = inner.wait(py, inner.consumer().partitions_for_topic(topic, inner.limit(None)))?;
        PySet::new(py, 0..found.map_or(0, |topic| topic.partitions.len()))
    }

    /// Find a broker that answers; the constructor did so, `refresh` does it again.
    #[pyo3(signature = (timeout_ms = None, refresh = false))]
    fn bootstrap(&self, py: Python<'_>, timeout_ms: Option<f64>, refresh: bool) -> PyResult<()> {
        let inner = self.inner(py)?;
        let client = inner.consumer().client();
        let limit = match timeout_ms {
            Some(ms) => milliseconds(ms),
            None => Duration::from_millis(client.config().bootstrap_timeout_ms),
        };
        if refresh {
            let again = client.retry(limit, || client.refresh(client::Topics::None));
            inner.wait(py, again).map(drop)
        } else {
            inner.wait(py, client.connect(limit))
        }
    }

    /// Return whether a broker has answered.
    fn bootstrap_connected(&self) -> bool {
        self.inner.get().is_some_and(|inner| inner.life.goes_on() && inner.consumer().client().is_connected())
    }

    fn _subscribe(
        &self,
        py: Python<'_>,
        topics: Vec<String>,
        pattern: Option<&str>,
        notify: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let inner = self.inner(py)?;
        for topic in &topics {
            values::check_topic(topic)?;
        }
        inner.rewind(None);
        let listener = if notify.is_some() { Listener::Waits } else { Listener::None };
        let consumer = inner.consumer();
        let subscribed = match pattern {
            Some(pattern) => consumer.subscribe_pattern(pattern, listener),
            None => consumer.subscribe(&topics, listener),
        };
        subscribed.map_err(|error| errors::raise(py, &error))?;
        inner.state().notify = notify.map(Arc::new);
        inner.wait(py, consumer.note_ends(inner.limit(None)))
    }

    fn _assign(&self, py: Python<'_>, list: &Bound<'_, PyList>) -> PyResult<()> {
        let inner = self.inner(py)?;
        inner.rewind(None);
        inner.consumer().assign(&partitions(list)?).map_err(|error| errors::raise(py, &error))
    }

    fn _seek(&self, py: Python<'_>, name: &Bound<'_, PyAny>, offset: i64) -> PyResult<()> {
        let inner = self.inner(py)?;
        let name = partition(name)?;
        inner.forget(std::slice::from_ref(&name));
        inner.consumer().seek(&name, offset).map_err(|error| errors::raise(py, &error))
    }

    fn _seek_to(&self, py: Python<'_>, time: i64, list: &Bound<'_, PyList>) -> PyResult<()> {
        let inner = self.inner(py)?;
        let names = partitions(list)?;
        inner.forget(&names);
        let consumer = inner.consumer();
        let sought =
            if time == client::EARLIEST { consumer.seek_to_beginning(&names) } else { consumer.seek_to_end(&names) };
        sought.map_err(|error| errors::raise(py, &error))
    }

    fn _pause(&self, py: Python<'_>, list: &Bound<'_, PyList>) -> PyResult<()> {
        let inner = self.inner(py)?;
        let names = partitions(list)?;
        inner.rewind(Some(&names));
        inner.consumer().pause(&names).map_err(|error| errors::raise(py, &error))
    }

    fn _resume(&self, py: Python<'_>, list: &Bound<'_, PyList>) -> PyResult<()> {
        self.inner(py)?.consumer().resume(&partitions(list)?).map_err(|error| errors::raise(py, &error))
    }

    fn _position(&self, py: Python<'_>, name: &Bound<'_, PyAny>, timeout_ms: Option<f64>) -> PyResult<Option<i64>> {
        let inner = self.inner(py)?;
        let name = partition(name)?;
        let waiting = inner.consumer().position(&name, inner.limit(timeout_ms));
        match blocking::wait(py, Deadline::NEVER, waiting)?.expect("there is no deadline") {
            Ok(position) => Ok(Some(position)),
            Err(error) if error.kind() == ErrorKind::Timeout => Ok(None),
            Err(error) => Err(errors::raise(py, &error)),
        }
    }

    fn _highwater(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
        Ok(self.inner(py)?.consumer().highwater(&partition(name)?))
    }

    fn _commit(&self, py: Python<'_>, given: Option<&Bound<'_, PyList>>, timeout_ms: Option<f64>) -> PyResult<()> {
        let inner = self.inner(py)?;
        inner.answer_commits(py)?;
        let given = given.map(offsets).transpose()?;
        inner.wait(py, inner.consumer().commit(given, inner.limit(timeout_ms)))
    }

    /// Commits in the background: `list` is what to commit, `given` the same as the callback sees it.
    fn _commit_async(
        &self,
        py: Python<'_>,
        list: &Bound<'_, PyList>,
        given: Py<PyAny>,
        callback: Py<PyAny>,
    ) -> PyResult<Py<Future>> {
        let inner = self.inner(py)?;
        inner.answer_commits(py)?;
        let wanted = offsets(list)?;
        let (consumer, limit) = (inner.consumer().clone(), inner.limit(None));
        let (sender, answer) = oneshot::channel();
        let runtime = inner.held.runtime().ok_or_else(|| errors::closed(py, "the consumer"))?;
        runtime.runtime().spawn(async move {
            // Nobody may be there any more to hear it.
            let _ = sender.send(consumer.commit(Some(wanted), limit).await);
        });
        let future = Py::new(py, Future::default())?;
        let commit = Commit { answer, offsets: given, callback, future: future.clone_ref(py) };
        inner.state().commits.push(commit);
        Ok(future)
    }

    fn _committed(&self, py: Python<'_>, name: &Bound<'_, PyAny>, timeout_ms: Option<f64>) -> PyResult<Option<Offset>> {
        let inner = self.inner(py)?;
        let name = partition(name)?;
        let asked = inner.consumer().committed(std::slice::from_ref(&name), inner.limit(timeout_ms));
        let found = inner.wait(py, asked)?.remove(&name).flatten();
        Ok(found.map(|found| (found.offset, found.metadata, found.leader_epoch)))
    }

    /// Where logs start, if `time` is BEGINNING, or end.
    fn _ends<'py>(
        &self,
        py: Python<'py>,
        list: &Bound<'py, PyList>,
        time: i64,
        timeout_ms: Option<f64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.inner(py)?;
        let (names, limit) = (partitions(list)?, inner.limit(timeout_ms));
        let found = if time == client::EARLIEST {
            inner.wait(py, inner.consumer().beginning_offsets(&names, limit))?
        } else {
            inner.wait(py, inner.consumer().end_offsets(&names, limit))?
        };
        let offsets = PyDict::new(py);
        for (name, offset) in &found {
            offsets.set_item(inner.python_partition(py, name)?, offset)?;
        }
        Ok(offsets)
    }

    fn _offsets_for_times<'py>(
        &self,
        py: Python<'py>,
        times: Vec<(Bound<'py, PyAny>, i64)>,
        timeout_ms: Option<f64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.inner(py)?;
        let mut wanted = HashMap::new();
        for (name, time) in &times {
            wanted.insert(partition(name)?, *time);
        }
        let found = inner.wait(py, inner.consumer().offsets_for_times(&wanted, inner.limit(timeout_ms)))?;
        let offsets = PyDict::new(py);
        for (name, found) in &found {
            let found = found.as_ref().map(|found| (found.offset, found.timestamp, found.leader_epoch));
            offsets.set_item(inner.python_partition(py, name)?, found)?;
        }
        Ok(offsets)
    }

    #[allow(clippy::type_complexity)]
    fn _group_metadata(&self, py: Python<'_>) -> PyResult<(Option<String>, i32, String, Option<String>, &'static str)> {
        let Some(found) = self.inner(py)?.consumer().group_metadata() else {
            return Ok((None, -1, String::new(), None, "<unjoined>"));
        };
        let state = match (found.stable, found.member_id.is_empty()) {
            (true, _) => "<stable>",
            (false, false) => "<rebalancing>",
            (false, true) => "<unjoined>",
        };
        Ok((Some(found.group_id), found.generation_id, found.member_id, found.group_instance_id, state))
    }

    fn _watch_idle(
        &self,
        py: Python<'_>,
        notice_after: f64,
        notice: Py<PyAny>,
        exit_after: Option<f64>,
    ) -> PyResult<()> {
        let seconds = |seconds: f64| milliseconds(seconds * 1000.0);
        self.inner(py)?.state().idle = Some(Idle {
            notice_after: seconds(notice_after),
            notice: Arc::new(notice),
            exit_after: exit_after.map(seconds),
            noticed: false,
        });
        Ok(())
    }

    fn _close(&self, py: Python<'_>, autocommit: bool, timeout_ms: f64) -> PyResult<()> {
        let Some(inner) = self.inner.get() else { return Ok(()) };
        if !inner.life.goes_on() || inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let deadline = Deadline::after(milliseconds(timeout_ms));
        let consumer = inner.consumer();
        let assigned = consumer.assignment();
        let told = if assigned.is_empty() { Ok(()) } else { inner.tell(py, "on_partitions_revoked", &assigned) };
        let left = || deadline.remaining().unwrap_or(Duration::MAX);
        let closed = blocking::wait(py, Deadline::NEVER, consumer.close(autocommit, left()))?;
        while !inner.state().commits.is_empty() && !deadline.passed() {
            inner.answer_commits(py)?;
            blocking::wait(py, Deadline::after(Duration::from_millis(5)), futures::future::pending::<()>())?;
        }
        inner.held.give_back(py);
        told?;
        match closed {
            Some(Err(error)) => {
                // The group goes on from what was committed before.
                log::warn!("the positions could not be committed at close: {error}");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn _numbers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.inner(py)?;
        let fetched = PyDict::new(py);
        fetched.set_item("records-consumed-total", inner.records.load(Ordering::Relaxed) as f64)?;
        fetched.set_item("bytes-consumed-total", inner.bytes.load(Ordering::Relaxed) as f64)?;
        let coordinated = PyDict::new(py);
        coordinated.set_item("assigned-partitions", inner.consumer().assignment().len() as f64)?;
        let groups = PyDict::new(py);
        groups.set_item("consumer-fetch-manager-metrics", fetched)?;
        groups.set_item("consumer-coordinator-metrics", coordinated)?;
        Ok(groups)
    }
}
