//! `Future`: a result that is not there yet, with callbacks, as in kafka-python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

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
}

impl Future {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, if it did.
    pub(crate) fn outcome(&self, py: Python<'_>) -> Option<Outcome> {
        self.state().outcome.as_ref().map(|outcome| outcome.clone_ref(py))
    }

    /// Ends it and runs the callbacks. A future that has ended stays as it is.
    pub(crate) fn complete(&self, py: Python<'_>, outcome: Outcome) -> PyResult<()> {
        // Nothing of Python's runs under the lock, not even a destructor.
        let callbacks = {
            let mut state = self.state();
            if state.outcome.is_some() {
                return Ok(());
            }
            state.outcome = Some(outcome.clone_ref(py));
            std::mem::take(&mut state.callbacks)
        };
        for (on, callback) in callbacks {
            run(py, on, callback.bind(py), &outcome)?;
        }
        Ok(())
    }

    fn add(&self, py: Python<'_>, on: On, callback: Bound<'_, PyAny>) -> PyResult<()> {
        let outcome = {
            let mut state = self.state();
            match &state.outcome {
                None => {
                    state.callbacks.push((on, callback.unbind()));
                    return Ok(());
                }
                Some(outcome) => outcome.clone_ref(py),
            }
        };
        run(py, on, &callback, &outcome)
    }
}

/// Runs a callback if it waits for this outcome; what it raises is logged.
fn run(py: Python<'_>, on: On, callback: &Bound<'_, PyAny>, outcome: &Outcome) -> PyResult<()> {
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
        if py.get_type::<Future>().getattr("error_on_callbacks")?.is_truthy()? {
            return Err(error);
        }
    }
    Ok(())
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
    #[getter]
    fn is_done(&self) -> bool {
        self.state().outcome.is_some()
    }

    /// The value, or None.
    #[getter]
    fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self.outcome(py) {
            Some(Outcome::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// The exception, or None.
    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        match self.outcome(py) {
            Some(Outcome::Exception(exception)) => Some(exception),
            _ => None,
        }
    }

    /// Return whether it has ended with a value.
    fn succeeded(&self) -> bool {
        matches!(self.state().outcome, Some(Outcome::Value(_)))
    }

    /// Return whether it has ended with an exception.
    fn failed(&self) -> bool {
        matches!(self.state().outcome, Some(Outcome::Exception(_)))
    }

    /// Return whether it has failed in a way that may succeed later.
    fn retriable(&self, py: Python<'_>) -> PyResult<bool> {
        match self.exception(py) {
            Some(exception) => exception.bind(py).is_instance(&py.import("ottla.errors")?.getattr("RetriableError")?),
            None => Ok(false),
        }
    }

    /// End it with a value.
    fn success(slf: Bound<'_, Self>, value: Py<PyAny>) -> PyResult<Bound<'_, Self>> {
        slf.get().complete(slf.py(), Outcome::Value(value))?;
        Ok(slf)
    }

    /// End it with an exception, or a class of them.
    fn failure<'py>(slf: Bound<'py, Self>, e: Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let e = if e.is_instance_of::<pyo3::types::PyType>() { e.call0()? } else { e };
        let exception =
            e.cast_into::<PyBaseException>().map_err(|_| PyTypeError::new_err("a future fails with an exception"))?;
        slf.get().complete(slf.py(), Outcome::Exception(exception.unbind()))?;
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
        slf.get().add(slf.py(), On::Value, bind(f, args, kwargs)?)?;
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
        slf.get().add(slf.py(), On::Exception, bind(f, args, kwargs)?)?;
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
        slf.get().add(slf.py(), On::Value, f.clone())?;
        slf.get().add(slf.py(), On::Exception, f)?;
        Ok(slf)
    }

    /// Have another future end as this one does.
    fn chain<'py>(slf: Bound<'py, Self>, future: Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        slf.get().add(slf.py(), On::Value, future.getattr("success")?)?;
        slf.get().add(slf.py(), On::Exception, future.getattr("failure")?)?;
        Ok(slf)
    }
}
