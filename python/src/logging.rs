//! The core's log records on their way to Python's `logging`.
//!
//! A thread that logs must not wait for the GIL, so records go into a queue with a bound; a daemon thread of Python's takes
//! them out and hands them to the logger named after the Rust module (`ottla::client` is `ottla.client`). When the queue is
//! full the record is counted instead, and the count is logged later. Before the interpreter ends the thread is stopped: it
//! must not look for the GIL when there is none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

/// How many records wait at most.
const LIMIT: usize = 4096;

struct Entry {
    level: Level,
    target: String,
    message: String,
    line: u32,
    file: Option<&'static str>,
}

struct Queue {
    entries: Mutex<VecDeque<Entry>>,
    filled: Condvar,
    lost: AtomicU64,
    stopped: AtomicBool,
}

static QUEUE: Queue = Queue {
    entries: Mutex::new(VecDeque::new()),
    filled: Condvar::new(),
    lost: AtomicU64::new(0),
    stopped: AtomicBool::new(false),
};

impl Queue {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ottla") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let entry = Entry {
            level: record.level(),
            target: record.target().replace("::", "."),
            message: record.args().to_string(),
            line: record.line().unwrap_or(0),
            file: record.file_static(),
        };
        let mut entries = QUEUE.entries();
        if entries.len() >= LIMIT {
            QUEUE.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        entries.push_back(entry);
        if entries.len() == 1 {
            QUEUE.filled.notify_one();
        }
    }

    fn flush(&self) {}
}

/// Python's number for a level; it has none for `trace`.
fn number(level: Level) -> u8 {
    match level {
        Level::Error => 40,
        Level::Warn => 30,
        Level::Info => 20,
        Level::Debug => 10,
        Level::Trace => 5,
    }
}

fn filter(number: u32) -> LevelFilter {
    match number {
        0..=5 => LevelFilter::Trace,
        6..=10 => LevelFilter::Debug,
        11..=20 => LevelFilter::Info,
        21..=30 => LevelFilter::Warn,
        31..=40 => LevelFilter::Error,
        _ => LevelFilter::Off,
    }
}

/// Registers what the thread calls. Nothing runs until the first handle is opened.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_drain_logs, module)?)?;
    module.add_function(wrap_pyfunction!(_stop_logs, module)?)
}

/// Starts the thread that hands records on, once; called when a handle is opened.
pub(crate) fn start(py: Python<'_>) -> PyResult<()> {
    static STARTED: PyOnceLock<()> = PyOnceLock::new();
    at_waiting_point(py);
    let started = STARTED.get_or_try_init(py, || {
        // Not at import: the command line, which runs in this process too, logs to stderr.
        let _ = log::set_logger(&Logger);
        py.import("ottla._logging")?.call_method0("start").map(|_| ())
    });
    started.map(|_| ())
}

/// Reads the level that Python's logger has now, so that records below it are not even made.
pub(crate) fn at_waiting_point(py: Python<'_>) {
    static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let level = LOGGER
        .get_or_try_init(py, || Ok(py.import("logging")?.call_method1("getLogger", ("ottla",))?.unbind()))
        .and_then(|logger: &Py<PyAny>| logger.call_method0(py, "getEffectiveLevel"))
        .and_then(|level| level.extract::<u32>(py));
    if let Ok(level) = level {
        log::set_max_level(filter(level));
    }
}

/// Waits for records and hands them to `logging`; returns False when the thread is to end.
#[pyfunction]
fn _drain_logs(py: Python<'_>) -> PyResult<bool> {
    let (batch, stopped) = py.detach(|| {
        let mut entries = QUEUE.entries();
        while entries.is_empty() && !QUEUE.stopped.load(Ordering::Acquire) {
            entries = QUEUE.filled.wait(entries).unwrap_or_else(PoisonError::into_inner);
        }
        (std::mem::take(&mut *entries), QUEUE.stopped.load(Ordering::Acquire))
    });
    let logging = py.import("logging")?;
    for entry in batch {
        let logger = logging.call_method1("getLogger", (entry.target.as_str(),))?;
        let level = number(entry.level);
        if !logger.call_method1("isEnabledFor", (level,))?.is_truthy()? {
            continue;
        }
        let arguments = (
            entry.target.as_str(),
            level,
            entry.file.unwrap_or("ottla"),
            entry.line,
            entry.message.as_str(),
            py.None(),
            py.None(),
        );
        let record = logger.call_method1("makeRecord", arguments)?;
        logger.call_method1("handle", (record,))?;
    }
    let lost = QUEUE.lost.swap(0, Ordering::Relaxed);
    if lost > 0 {
        let keywords = PyDict::new(py);
        let logger = logging.call_method1("getLogger", ("ottla",))?;
        logger.call_method("warning", ("%d log records were dropped: they came too fast", lost), Some(&keywords))?;
    }
    Ok(!stopped)
}

/// Ends the thread, after what is in the queue.
#[pyfunction]
fn _stop_logs() {
    QUEUE.stopped.store(true, Ordering::Release);
    // With the lock, so that a drain between its look and its wait does not miss it.
    let _entries = QUEUE.entries();
    QUEUE.filled.notify_all();
}
