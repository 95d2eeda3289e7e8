//! How a call waits: without the GIL, looking for Ctrl-C, and never in a process that was forked after the handle was opened.
//!
//! This is the only place that waits for the core. A future of the core is polled by the calling thread itself, which
//! sleeps until it is woken or a slice of time has passed; after each slice Python gets to run its signal handlers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::errors;

/// The longest that a waiting call leaves Ctrl-C unnoticed.
const SLICE: Duration = Duration::from_millis(100);

/// How many times this process was forked from the one that loaded the extension.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Which life of the process a handle belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life(u32);

impl Life {
    /// The life that the process is in.
    pub(crate) fn now() -> Self {
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether the process is still in this life; in a forked child it is not, and the handle's threads are not there.
    pub(crate) fn goes_on(self) -> bool {
        self == Self::now()
    }

    /// An error in a forked child: waiting there would hang.
    pub(crate) fn check(self, py: Python<'_>) -> PyResult<()> {
        if self.goes_on() { Ok(()) } else { Err(errors::forked(py)) }
    }
}

/// Called by Python in a child that was just forked.
#[pyfunction]
fn _after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Registers what notices a fork.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let after_fork = wrap_pyfunction!(_after_fork, module)?;
    let os = py.import("os")?;
    if let Ok(register) = os.getattr("register_at_fork") {
        let keywords = pyo3::types::PyDict::new(py);
        keywords.set_item("after_in_child", after_fork)?;
        register.call((), Some(&keywords))?;
    }
    Ok(())
}

/// Wakes the thread that waits.
struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

/// When a call gives up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// Never.
    pub(crate) const NEVER: Self = Self(None);

    /// After `timeout`; never if that is beyond what a clock can say.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    /// After so many seconds, as Python says it: `None` and infinity are never.
    pub(crate) fn after_seconds(timeout: Option<f64>) -> Self {
        match timeout {
            Some(seconds) if seconds.is_finite() => {
                Duration::try_from_secs_f64(seconds.max(0.0)).map_or(Self::NEVER, Self::after)
            }
            _ => Self::NEVER,
        }
    }

    /// Whether it has passed.
    pub(crate) fn passed(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// How long it is from now; `None` if there is no end.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The earlier of two.
    pub(crate) fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(other)) => Self(Some(one.min(other))),
            (one, other) => Self(one.or(other)),
        }
    }
}

/// Waits for `future` until the deadline; `None` if that came first (the future is dropped then).
///
/// A future that is ready at once is polled once, even after the deadline. Releases the GIL while it waits.
///
/// # Errors
/// What a signal handler raises, so `KeyboardInterrupt` after Ctrl-C. `InternalError` after a panic in the core.
pub(crate) fn wait<F>(py: Python<'_>, deadline: Deadline, future: F) -> PyResult<Option<F::Output>>
where
    F: Future + Send,
    F::Output: Send,
{
    let mut future = pin!(future);
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(true) });
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        let polled = py.detach(|| {
            catch_unwind(AssertUnwindSafe(|| {
                let mut context = Context::from_waker(&waker);
                let slice = Deadline::after(SLICE).min(deadline);
                loop {
                    if unpark.woken.swap(false, Ordering::AcqRel)
                        && let Poll::Ready(value) = future.as_mut().poll(&mut context)
                    {
                        return Poll::Ready(value);
                    }
                    match slice.remaining() {
                        Some(left) if !left.is_zero() => thread::park_timeout(left),
                        _ => return Poll::Pending,
                    }
                }
            }))
        });
        match polled {
            Ok(Poll::Ready(value)) => return Ok(Some(value)),
            Ok(Poll::Pending) => {}
            Err(panic) => return Err(errors::panicked(py, &*panic)),
        }
        py.check_signals()?;
        crate::logging::at_waiting_point(py);
        if deadline.passed() {
            return Ok(None);
        }
    }
}
