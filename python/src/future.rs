//! `Future`: a result that is not there yet, with callbacks, as in kafka-python.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ottla::client::{RecordMetadata, Ticket};
use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::blocking::{self, Deadline, Life};
use crate::errors;
use crate::producer::Callbacks;

/// How a future ended.
pub(crate) enum Outcome {
    /// With a value.
    Value(Py<PyAny>),
    /// With an exception.
    Exception(Py<PyBaseException>),
}

impl Outcome {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Value(value) => Self::Value(value.clone_ref(py)),
            Self::Exception(exception) => Self::Exception(exception.clone_ref(py)),
        }
    }
}

/// Which end a callback waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Value,
    Exception,
}

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    callbacks: Vec<(On, Py<PyAny>)>,
}

/// A result that is not there yet.
///
/// Callbacks run on the thread that completes the future, or at once if it is complete.
#[pyclass(subclass, frozen, weakref, module = "ottla.future")]
#[derive(Default)]
pub(crate) struct Future {
    state: Mutex<State>,
    /// The record that it is about; its outcome is looked up when somebody asks.
    sent: Option<Sent>,
}

/// A record that a producer took.
pub(crate) struct Sent {
    pub(crate) ticket: Ticket,
    pub(crate) callbacks: Arc<Callbacks>,
    pub(crate) life: Life,
    /// Bytes of the key, the value, and all headers; -1 for none.
    pub(crate) sizes: [i32; 3],
}

impl Future {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The future of a record that was sent.
    pub(crate) fn of(sent: Sent) -> Self {
        Self { state: Mutex::default(), sent: Some(sent) }
    }

    /// How it ended, if it did.
    pub(crate) fn outcome(&self, py: Python<'_>) -> PyResult<Option<Outcome>> {
        if let Some(outcome) = &self.state().outcome {
            return Ok(Some(outcome.clone_ref(py)));
        }
        let Some(sent) = &self.sent else { return Ok(None) };
        let Some(done) = sent.ticket.done() else { return Ok(None) };
        let outcome = match done {
            Ok(metadata) => Outcome::Value(record_metadata(py, &metadata, sent.sizes)?),
            Err(error) => Outcome::Exception(errors::raise(py, &error).into_value(py)),
        };
        // The callbacks stay for the producer's own thread.
        let outcome = self.state().outcome.get_or_insert(outcome).clone_ref(py);
        Ok(Some(outcome))
    }

    fn is_done(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.ticket.batch().is_settled()) || self.state().outcome.is_some()
    }

    /// Ends it and runs the callbacks. A future that has ended stays as it is.
    pub(crate) fn complete(this: &Bound<'_, Self>, outcome: Outcome) -> PyResult<()> {
        // Nothing of Python's runs under the lock, not even a destructor.
        {
            let mut state = this.get().state();
            if state.outcome.is_some() {
                drop(state);
                return Ok(());
            }
            state.outcome = Some(outcome);
        }
        Self::deliver(this)
    }

    /// Runs the callbacks of a future that has ended, each once.
    pub(crate) fn deliver(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let Some(outcome) = this.get().outcome(py)? else { return Ok(()) };
        let callbacks = std::mem::take(&mut this.get().state().callbacks);
        for (on, callback) in callbacks {
            Self::run(this, on, callback.bind(py), &outcome)?;
        }
        Ok(())
    }
}

/// Where a record went, as the named tuple.
fn record_metadata(py: Python<'_>, metadata: &RecordMetadata, sizes: [i32; 3]) -> PyResult<Py<PyAny>> {
    static CLASSES: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    let (class, partition_class) = CLASSES.get_or_try_init(py, || {
        PyResult::Ok((
            py.import("ottla.producer.future")?.getattr("RecordMetadata")?.unbind(),
            py.import("ottla.structs")?.getattr("TopicPartition")?.unbind(),
        ))
    })?;
    let topic = &*metadata.topic;
    let partition = partition_class.call1(py, (topic, metadata.partition))?;
    let [key, value, headers] = sizes;
    class.call1(
        py,
        (topic, metadata.partition, partition, metadata.offset, metadata.timestamp, py.None(), key, value, headers),
    )
}

/// Has a callback called when the future ends, or calls it if it is known to have ended.
///
/// A record's future whose outcome nobody has looked at leaves the callback to the producer's thread even when the batch is
/// settled, so that callbacks run in the order of the records.
fn add(future: &Bound<'_, Future>, on: On, callback: Bound<'_, PyAny>) -> PyResult<()> {
    let (py, this) = (future.py(), future.get());
    let ended = {
        let mut state = this.state();
        match &state.outcome {
            Some(outcome) => Some(outcome.clone_ref(py)),
            None => {
                state.callbacks.push((on, callback.clone().unbind()));
                None
            }
        }
    };
    if let Some(outcome) = ended {
        return Future::run(future, on, &callback, &outcome);
    }
    match &this.sent {
        Some(sent) if !Callbacks::register(&sent.callbacks, sent.ticket.batch(), future.clone().unbind())? => {
            Future::deliver(future)
        }
        _ => Ok(()),
    }
}

impl Future {
    /// Runs a callback if it waits for this outcome; what it raises is logged.
    fn run(this: &Bound<'_, Self>, on: On, callback: &Bound<'_, PyAny>, outcome: &Outcome) -> PyResult<()> {
        let py = this.py();
        let argument = match (on, outcome) {
            (On::Value, Outcome::Value(value)) => value.bind(py),
            (On::Exception, Outcome::Exception(exception)) => exception.bind(py).as_any(),
            _ => return Ok(()),
        };
        if let Err(error) = callback.call1((argument,)) {
            let keywords = PyDict::new(py);
            keywords.set_item("exc_info", error.value(py))?;
            let logger = py.import("logging")?.call_method1("getLogger", ("ottla.future",))?;
            logger.call_method("error", ("a callback of a future raised",), Some(&keywords))?;
            if this.getattr(pyo3::intern!(py, "error_on_callbacks"))?.is_truthy()? {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// `f` with its leading arguments, if it has any.
fn bind<'py>(
    f: Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    if arguments.is_empty() && keywords.is_none_or(|keywords| keywords.is_empty()) {
        return Ok(f);
    }
    let py = f.py();
    let mut all = vec![f];
    all.extend(arguments.iter());
    py.import("functools")?.getattr("partial")?.call(PyTuple::new(py, all)?, keywords)
}

#[pymethods]
impl Future {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Whether what a callback raises is raised again after it was logged.
    #[classattr]
    fn error_on_callbacks() -> bool {
        false
    }

    /// Whether it has ended.
    #[getter(is_done)]
    fn py_is_done(&self) -> bool {
        self.is_done()
    }

    /// The value, or None.
    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(match self.outcome(py)? {
            Some(Outcome::Value(value)) => Some(value),
            _ => None,
        })
    }

    /// The exception, or None.
    #[getter]
    fn exception(&self, py: Python<'_>) -> PyResult<Option<Py<PyBaseException>>> {
        Ok(match self.outcome(py)? {
            Some(Outcome::Exception(exception)) => Some(exception),
            _ => None,
        })
    }

    /// Return whether it has ended with a value.
    fn succeeded(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(matches!(self.outcome(py)?, Some(Outcome::Value(_))))
    }

    /// Return whether it has ended with an exception.
    fn failed(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(matches!(self.outcome(py)?, Some(Outcome::Exception(_))))
    }

    /// Return whether it has failed in a way that may succeed later.
    fn retriable(&self, py: Python<'_>) -> PyResult<bool> {
        match self.exception(py)? {
            Some(exception) => exception.bind(py).is_instance(&py.import("ottla.errors")?.getattr("RetriableError")?),
            None => Ok(false),
        }
    }

    /// End it with a value.
    fn success(slf: Bound<'_, Self>, value: Py<PyAny>) -> PyResult<Bound<'_, Self>> {
        Self::complete(&slf, Outcome::Value(value))?;
        Ok(slf)
    }

    /// End it with an exception, or a class of them.
    fn failure<'py>(slf: Bound<'py, Self>, e: Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let e = if e.is_instance_of::<pyo3::types::PyType>() { e.call0()? } else { e };
        let exception =
            e.cast_into::<PyBaseException>().map_err(|_| PyTypeError::new_err("a future fails with an exception"))?;
        Self::complete(&slf, Outcome::Exception(exception.unbind()))?;
        Ok(slf)
    }

    /// Have `f(*args, value, **kwargs)` called when it ends with a value; at once if it has.
    #[pyo3(signature = (f, *args, **kwargs))]
    fn add_callback<'py>(
        slf: Bound<'py, Self>,
        f: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Self>> {
        add(&slf, On::Value, bind(f, args, kwargs)?)?;
        Ok(slf)
    }

    /// Have `f(*args, exception, **kwargs)` called when it ends with an exception; at once if it has.
    #[pyo3(signature = (f, *args, **kwargs))]
    fn add_errback<'py>(
        slf: Bound<'py, Self>,
        f: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Self>> {
        add(&slf, On::Exception, bind(f, args, kwargs)?)?;
        Ok(slf)
    }

    /// Have `f` called with the value or the exception, whichever comes.
    #[pyo3(signature = (f, *args, **kwargs))]
    fn add_both<'py>(
        slf: Bound<'py, Self>,
        f: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Self>> {
        let f = bind(f, args, kwargs)?;
        add(&slf, On::Value, f.clone())?;
        add(&slf, On::Exception, f)?;
        Ok(slf)
    }

    /// In a coroutine: wait in its loop, whichever thread ends the future.
    fn __await__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("ottla._aio")?.call_method1("awaited", (slf,))
    }

    /// Have another future end as this one does.
    fn chain<'py>(slf: Bound<'py, Self>, future: Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        add(&slf, On::Value, future.getattr("success")?)?;
        add(&slf, On::Exception, future.getattr("failure")?)?;
        Ok(slf)
    }
}

/// What becomes of a record that was sent. Callbacks run on a thread of the producer's.
#[pyclass(extends = Future, frozen, module = "ottla.producer.future")]
pub(crate) struct FutureRecordMetadata;

impl FutureRecordMetadata {
    /// The future of a record that a producer took.
    pub(crate) fn of(py: Python<'_>, sent: Sent) -> PyResult<Bound<'_, Self>> {
        Bound::new(py, PyClassInitializer::from(Future::of(sent)).add_subclass(Self))
    }

    /// The future of a record that no broker takes.
    pub(crate) fn failed<'py>(py: Python<'py>, error: &ottla::Error) -> PyResult<Bound<'py, Self>> {
        let future = Bound::new(py, PyClassInitializer::from(Future::default()).add_subclass(Self))?;
        let exception = errors::raise(py, error).into_value(py);
        Future::complete(future.as_super(), Outcome::Exception(exception))?;
        Ok(future)
    }
}

#[pymethods]
impl FutureRecordMetadata {
    /// Wait for the record to be acknowledged and return where it went.
    #[pyo3(signature = (timeout = None))]
    fn get(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let future = slf.as_super().get();
        if let Some(sent) = &future.sent
            && !future.is_done()
        {
            sent.life.check(py)?;
            let deadline = Deadline::after_seconds(timeout);
            if blocking::wait(py, deadline, sent.ticket.batch().settled())?.is_none() {
                let seconds = timeout.unwrap_or_default();
                return Err(errors::named(
                    py,
                    "KafkaTimeoutError",
                    &format!("the record was not acknowledged in time, and may still be timeout={seconds}"),
                ));
            }
        }
        match future.outcome(py)? {
            Some(Outcome::Value(value)) => Ok(value),
            Some(Outcome::Exception(exception)) => Err(PyErr::from_value(exception.into_bound(py).into_any())),
            None => Err(errors::named(py, "InternalError", "a settled record has no outcome")),
        }
    }
}
