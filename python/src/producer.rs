//! `KafkaProducer`'s Rust half: `send`, and what waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ottla::client::{self, BatchState, Header, ProducerConfig, SendError};
use ottla::{ErrorKind, Result as CoreResult};
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PySet, PyString, PyTuple};

use crate::blocking::{self, Deadline, Life};
use crate::errors;
use crate::future::{Future, FutureRecordMetadata, Sent};
use crate::runtime::{Address, Held, Shared};
use crate::values::{self, Data};

/// What `KafkaProducer` does in Rust.
#[pyclass(subclass, frozen, weakref, module = "ottla._ottla")]
#[derive(Default)]
pub(crate) struct Producer {
    inner: OnceLock<Inner>,
}

struct Inner {
    producer: Option<client::Producer>,
    held: Held,
    life: Life,
    callbacks: Arc<Callbacks>,
    key_serializer: Option<Py<PyAny>>,
    value_serializer: Option<Py<PyAny>>,
    choose: Option<Py<PyAny>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.life.goes_on() {
            self.callbacks.end(Ending::WhenDone);
        } else {
            // Its locks may be held by threads that this process does not have.
            std::mem::forget(self.producer.take());
            self.held.abandon();
        }
    }
}

impl Inner {
    fn producer(&self) -> &client::Producer {
        self.producer.as_ref().expect("it is taken only when dropped")
    }

    /// Waits for the core, as long as it takes; its errors are raised.
    fn wait<T: Send>(&self, py: Python<'_>, future: impl Future2<T>) -> PyResult<T> {
        blocking::wait(py, Deadline::NEVER, future)?
            .expect("there is no deadline")
            .map_err(|error| errors::raise(py, &error))
    }

    /// Runs a serializer, if there is one.
    fn serialize<'py>(
        &self,
        serializer: Option<&Py<PyAny>>,
        topic: &Bound<'py, PyString>,
        headers: Option<&Bound<'py, PyAny>>,
        value: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(serializer) = serializer else { return Ok(value.cloned()) };
        let py = topic.py();
        let headers = match headers {
            Some(headers) => headers.clone(),
            None => PyList::empty(py).into_any(),
        };
        let arguments = (topic, headers, value.cloned().unwrap_or_else(|| py.None().into_bound(py)));
        serializer.bind(py).call_method1(pyo3::intern!(py, "serialize"), arguments).map(Some)
    }
}

/// A future of the core's whose error is the core's.
trait Future2<T>: std::future::Future<Output = CoreResult<T>> + Send {}
impl<T, F: std::future::Future<Output = CoreResult<T>> + Send> Future2<T> for F {}

impl Producer {
    fn inner(&self, py: Python<'_>) -> PyResult<&Inner> {
        let inner = self.inner.get().ok_or_else(|| errors::closed(py, "the producer"))?;
        inner.life.check(py)?;
        Ok(inner)
    }
}

#[pymethods]
impl Producer {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // They are for `__init__`.
        let _ = (args, kwargs);
        Self::default()
    }

    fn _open(
        &self,
        py: Python<'_>,
        options: &Bound<'_, PyDict>,
        connect: bool,
        key_serializer: Option<Py<PyAny>>,
        value_serializer: Option<Py<PyAny>>,
        choose: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        crate::logging::start(py)?;
        let mut options = values::options(options)?;
        let runtime = Shared::open()?;
        let address = Address::take(py, &runtime, &mut options)?;
        let (client_config, config) =
            ProducerConfig::from_options(&options).map_err(|error| errors::raise(py, &error))?;
        let client = runtime.client(py, &address, client_config, connect)?;
        let (producer, driver) = client::Producer::new(client, config);
        runtime.drive(driver, &address);
        let inner = Inner {
            producer: Some(producer),
            held: Held::new(runtime, address),
            life: Life::now(),
            callbacks: Arc::default(),
            key_serializer,
            value_serializer,
            choose,
        };
        self.inner.set(inner).map_err(|_| errors::named(py, "IllegalStateError", "the producer is open already"))
    }

    /// Put a record into the batch under construction and return at once.
    #[pyo3(signature = (topic, value = None, key = None, headers = None, partition = None, timestamp_ms = None))]
    #[allow(clippy::too_many_arguments)]
    fn send<'py>(
        &self,
        py: Python<'py>,
        topic: &Bound<'py, PyAny>,
        value: Option<&Bound<'py, PyAny>>,
        key: Option<&Bound<'py, PyAny>>,
        headers: Option<&Bound<'py, PyAny>>,
        partition: Option<i32>,
        timestamp_ms: Option<i64>,
    ) -> PyResult<Bound<'py, FutureRecordMetadata>> {
        let inner = self.inner(py)?;
        if value.is_none() && key.is_none() {
            return Err(PyValueError::new_err("a record needs a value, or a key, or both"));
        }
        let topic = topic.cast::<PyString>().map_err(|_| PyTypeError::new_err("a topic is a text"))?;
        let headers = headers.filter(|headers| !headers.is_none());
        let pairs = match headers {
            Some(headers) => read_headers(headers)?,
            None => Vec::new(),
        };
        let key_object = inner.serialize(inner.key_serializer.as_ref(), topic, headers, key)?;
        let value_object = inner.serialize(inner.value_serializer.as_ref(), topic, headers, value)?;
        let key_data = Data::read("key", key_object.as_ref())?;
        let value_data = Data::read("value", value_object.as_ref())?;
        let name = topic.to_str()?;
        let partition = match (&inner.choose, partition) {
            (Some(choose), None) => {
                let bytes = |data: &Data<'_>| data.as_bytes().map(|bytes| PyBytes::new(py, bytes));
                let arguments = (topic, key, bytes(&key_data), value, bytes(&value_data));
                Some(choose.bind(py).call1(arguments)?.extract()?)
            }
            (_, partition) => partition,
        };
        let borrowed: Vec<Header<'_>> =
            pairs.iter().map(|(name, value)| Ok((name.to_str()?, Some(value.as_bytes())))).collect::<PyResult<_>>()?;

        let producer = inner.producer();
        let mut started: Option<Instant> = None;
        let ticket = loop {
            let sent =
                producer.send(name, partition, timestamp_ms, key_data.as_bytes(), value_data.as_bytes(), &borrowed);
            let refused = match sent {
                Ok(ticket) => break ticket,
                Err(refused) => refused,
            };
            let limit = Duration::from_millis(producer.config().max_block_ms);
            let left = limit.saturating_sub(started.get_or_insert_with(Instant::now).elapsed());
            match refused {
                SendError::NeedMetadata => {
                    values::check_topic(name)?;
                    let prepared = blocking::wait(py, Deadline::NEVER, producer.prepare(name, left))?;
                    match prepared.expect("there is no deadline") {
                        Ok(_) => {}
                        // What a broker says of the topic is the record's fate, as in kafka-python.
                        Err(error) if error.code().is_some() => return FutureRecordMetadata::failed(py, &error),
                        Err(error) => return Err(errors::raise(py, &error)),
                    }
                }
                SendError::Full => inner.wait(py, producer.room(left))?,
                SendError::TooLarge { size, limit } => {
                    let message = format!("the record is larger than max_request_size size={size} limit={limit}");
                    return Err(errors::named(py, "MessageSizeTooLargeError", &message));
                }
                SendError::UnknownPartition { partition, count } => {
                    return Err(PyValueError::new_err(format!(
                        "the topic has no such partition topic={name} partition={partition} count={count}"
                    )));
                }
                SendError::Closed(error) => return Err(errors::raise(py, &error)),
            }
        };
        let in_headers: usize = borrowed.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
        let header_size = if borrowed.is_empty() { -1 } else { i32::try_from(in_headers).unwrap_or(i32::MAX) };
        let sent = Sent {
            ticket,
            callbacks: Arc::clone(&inner.callbacks),
            life: inner.life,
            sizes: [key_data.size(), value_data.size(), header_size],
        };
        FutureRecordMetadata::of(py, sent)
    }

    /// Wait until everything that was sent before is acknowledged or has failed.
    #[pyo3(signature = (timeout = None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let inner = self.inner(py)?;
        inner.wait(py, inner.producer().flush(seconds(timeout)))
    }

    /// Return the topic's partitions.
    fn partitions_for<'py>(&self, py: Python<'py>, topic: &str) -> PyResult<Bound<'py, PySet>> {
        Ok(self._partitions(py, topic)?.0)
    }

    /// Return whether a broker has answered.
    fn bootstrap_connected(&self) -> bool {
        self.inner.get().is_some_and(|inner| inner.life.goes_on() && inner.producer().client().is_connected())
    }

    /// All partitions of a topic, and those that have a leader.
    fn _partitions<'py>(&self, py: Python<'py>, topic: &str) -> PyResult<(Bound<'py, PySet>, Bound<'py, PySet>)> {
        let inner = self.inner(py)?;
        values::check_topic(topic)?;
        let producer = inner.producer();
        let limit = Duration::from_millis(producer.config().max_block_ms);
        let topic = inner.wait(py, producer.client().topic(topic, limit))?;
        let led = topic.partitions.iter().enumerate().filter(|(_, partition)| partition.leader.is_some());
        Ok((PySet::new(py, 0..topic.partitions.len())?, PySet::new(py, led.map(|(number, _)| number))?))
    }

    fn _close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let Some(inner) = self.inner.get() else { return Ok(()) };
        if !inner.life.goes_on() {
            return Ok(());
        }
        // What was not delivered in time the futures say.
        let closed = blocking::wait(py, Deadline::NEVER, inner.producer().close(seconds(timeout)))?;
        if let Some(Err(error)) = closed
            && !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Closed)
        {
            return Err(errors::raise(py, &error));
        }
        inner.callbacks.finish(py);
        inner.held.give_back(py);
        Ok(())
    }

    fn _numbers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.inner(py)?;
        let producer = inner.producer();
        let (total, used) = (producer.config().buffer_memory, producer.buffered_bytes());
        let numbers = PyDict::new(py);
        numbers.set_item("buffer-total-bytes", total as f64)?;
        numbers.set_item("buffer-available-bytes", total.saturating_sub(used) as f64)?;
        let groups = PyDict::new(py);
        groups.set_item("producer-metrics", numbers)?;
        Ok(groups)
    }
}

/// A timeout of the core's from one of Python's: seconds, or none at all.
fn seconds(timeout: Option<f64>) -> Duration {
    timeout.map_or(Duration::MAX, |seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

type Pair<'py> = (Bound<'py, PyString>, Bound<'py, PyBytes>);

fn read_headers<'py>(headers: &Bound<'py, PyAny>) -> PyResult<Vec<Pair<'py>>> {
    let wrong = || PyTypeError::new_err("headers are a list of (str, bytes) tuples");
    let list = headers.cast::<PyList>().map_err(|_| wrong())?;
    list.iter()
        .map(|header| {
            let pair = header.cast::<PyTuple>().map_err(|_| wrong())?;
            if pair.len() != 2 {
                return Err(wrong());
            }
            let name = pair.get_item(0)?.cast_into::<PyString>().map_err(|_| wrong())?;
            let value = pair.get_item(1)?.cast_into::<PyBytes>().map_err(|_| wrong())?;
            Ok((name, value))
        })
        .collect()
}

/// Runs the callbacks of a producer's futures, on a thread that is started with the first.
///
/// A batch that is settled puts itself into the queue (on the core's thread, which never waits for the GIL); the thread takes
/// the futures that have callbacks and runs them, in the order in which they were registered.
#[derive(Default)]
pub(crate) struct Callbacks {
    state: Mutex<CallbackState>,
    changed: Condvar,
}

#[derive(Default)]
struct CallbackState {
    /// Futures with callbacks, by batch.
    waiting: HashMap<usize, (Arc<BatchState>, Vec<Py<Future>>)>,
    /// Batches that are settled.
    settled: VecDeque<usize>,
    thread: Option<thread::JoinHandle<()>>,
    ending: Ending,
}

/// When the thread of the callbacks is to end.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Ending {
    #[default]
    Never,
    /// When no future has a callback: the producer was dropped, and delivers what it has.
    WhenDone,
    /// After what is settled: the producer was closed, and everything is.
    Now,
}

impl Callbacks {
    fn state(&self) -> MutexGuard<'_, CallbackState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a future of this batch has a callback. False after the producer was closed: nobody would run it.
    pub(crate) fn register(this: &Arc<Self>, batch: &Arc<BatchState>, future: Py<Future>) -> PyResult<bool> {
        let key = Arc::as_ptr(batch) as usize;
        let first = {
            let mut state = this.state();
            if state.ending == Ending::Now {
                drop(state);
                return Ok(false);
            }
            if state.thread.is_none() {
                let callbacks = Arc::clone(this);
                let thread =
                    thread::Builder::new()
                        .name("ottla-callbacks".to_owned())
                        .spawn(move || callbacks.run())
                        .map_err(|error| PyOSError::new_err(format!("cannot start a thread for callbacks: {error}")))?;
                state.thread = Some(thread);
            }
            let (_, futures) = state.waiting.entry(key).or_insert_with(|| (Arc::clone(batch), Vec::new()));
            futures.push(future);
            futures.len() == 1
        };
        if first {
            // Called here and now if the batch was settled meanwhile, so not under the lock.
            let callbacks = Arc::clone(this);
            batch.on_settled(move || {
                callbacks.state().settled.push_back(key);
                callbacks.changed.notify_one();
            });
        }
        Ok(true)
    }

    fn run(&self) {
        loop {
            let ready: Vec<Py<Future>> = {
                let mut state = self.state();
                while state.settled.is_empty() {
                    let ends = match state.ending {
                        Ending::Never => false,
                        Ending::WhenDone => state.waiting.is_empty(),
                        // Of a batch that was settled a moment ago the news is still to come.
                        Ending::Now => !state.waiting.values().any(|(batch, _)| batch.is_settled()),
                    };
                    if ends {
                        state.thread = None;
                        return;
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                let settled = std::mem::take(&mut state.settled);
                settled.iter().filter_map(|key| state.waiting.remove(key)).flat_map(|(_, futures)| futures).collect()
            };
            Python::attach(|py| {
                for future in ready {
                    if let Err(error) = Future::deliver(future.bind(py)) {
                        error.write_unraisable(py, Some(future.bind(py)));
                    }
                }
            });
        }
    }

    fn end(&self, ending: Ending) {
        self.state().ending = ending;
        self.changed.notify_all();
    }

    /// Waits until the thread has run what is settled, unless this is the thread itself.
    fn finish(&self, py: Python<'_>) {
        self.end(Ending::Now);
        let thread = self.state().thread.take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A callback that panics was reported where it did.
            let _ = py.detach(|| thread.join());
        }
    }
}
