//! The core's errors as Python's exceptions: one function for all.

use std::any::Any;
use std::error::Error as _;
use std::io;

use ottla::{Error, ErrorKind};
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The class in `ottla.errors` for what no broker said.
fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Retriable => "UnavailableError",
        ErrorKind::Fenced => "FencedError",
        ErrorKind::OutOfRange => "OutOfRangeError",
        ErrorKind::NotFound => "NotFoundError",
        ErrorKind::AlreadyExists => "AlreadyExistsError",
        ErrorKind::Denied => "DeniedError",
        ErrorKind::Invalid => "InvalidError",
        ErrorKind::Unsupported => "UnsupportedError",
        ErrorKind::Corrupt => "CorruptError",
        ErrorKind::Full => "FullError",
        ErrorKind::Closed => "ClosedError",
        ErrorKind::Timeout => "TimedOutError",
        _ => "InternalError",
    }
}

/// `ottla.errors`.
fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Ok(MODULE.get_or_try_init(py, || py.import("ottla.errors").map(Bound::unbind))?.bind(py).clone())
}

/// An exception of the class with this name in `ottla.errors`.
pub(crate) fn named(py: Python<'_>, class: &str, message: &str) -> PyErr {
    let made = module(py).and_then(|module| module.getattr(class)).and_then(|class| Ok(class.cast_into::<PyType>()?));
    match made {
        Ok(class) => PyErr::from_type(class, (message.to_owned(),)),
        Err(error) => error,
    }
}

/// The exception for an error of the core: kafka-python's class if a broker gave a code, else the one for the kind.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let raised = match error.code() {
        Some(code) => match for_code(py, code.0) {
            Ok(class) => PyErr::from_type(class, (error.to_string(),)),
            Err(error) => return error,
        },
        None => named(py, class_name(error.kind()), &error.to_string()),
    };
    if let Some(source) = error.source() {
        raised.set_cause(py, Some(cause(py, source)));
    }
    raised
}

/// The class for a broker's code.
pub(crate) fn for_code(py: Python<'_>, code: i16) -> PyResult<Bound<'_, PyType>> {
    Ok(module(py)?.getattr("for_code")?.call1((code,))?.cast_into::<PyType>()?)
}

/// What stands behind an error, as `__cause__`.
fn cause(py: Python<'_>, source: &(dyn std::error::Error + 'static)) -> PyErr {
    if let Some(error) = source.downcast_ref::<Error>() {
        return raise(py, error);
    }
    let text = source.to_string();
    let raised = match source.downcast_ref::<io::Error>().map(io::Error::raw_os_error) {
        Some(Some(number)) => PyOSError::new_err((number, text)),
        Some(None) => PyOSError::new_err(text),
        None => PyException::new_err(text),
    };
    if let Some(source) = source.source() {
        raised.set_cause(py, Some(cause(py, source)));
    }
    raised
}

/// The error of a call in a forked child.
pub(crate) fn forked(py: Python<'_>) -> PyErr {
    named(
        py,
        "ForkedError",
        "opened before this process was forked, and its threads live on in the parent only: open a new one here, or start \
         processes with multiprocessing's spawn",
    )
}

/// The error of a call whose handle is not open any more, or not yet.
pub(crate) fn closed(py: Python<'_>, what: &str) -> PyErr {
    named(py, "ClosedError", &format!("{what} is closed"))
}

/// The error of a call in which the core broke a promise of its own.
pub(crate) fn panicked(py: Python<'_>, panic: &(dyn Any + Send)) -> PyErr {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    named(py, "InternalError", &format!("a defect of Ottla, please report it: {text}"))
}
