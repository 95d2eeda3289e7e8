//! Time, for the code that waits: what it is now, how long something took, and sleeping.
//!
//! Rooms that decide never see a clock: they are handed a [`Timestamp`] as an argument.

use std::fmt::Debug;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::Timestamp;

/// A source of time. One for each platform, and [`ManualClock`] for tests.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since 1970; may jump when somebody sets the system's clock.
    fn now(&self) -> Timestamp;

    /// Time since some moment that never moves: for deadlines and for measuring.
    fn monotonic(&self) -> Duration;

    /// Completes when `duration` has passed.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// A clock that stands still until [`advance`](ManualClock::advance) moves it.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<Mutex<Manual>>,
}

#[derive(Debug)]
struct Manual {
    start: Timestamp,
    elapsed: Duration,
    sleepers: Vec<(Duration, Waker)>,
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self { state: Arc::new(Mutex::new(Manual { start, elapsed: Duration::ZERO, sleepers: Vec::new() })) }
    }

    /// Moves the time on and wakes whoever slept until then.
    pub fn advance(&self, by: Duration) {
        let woken: Vec<Waker> = {
            let mut state = self.lock();
            state.elapsed += by;
            let elapsed = state.elapsed;
            let (due, later) = state.sleepers.drain(..).partition(|(at, _)| *at <= elapsed);
            state.sleepers = later;
            let due: Vec<(Duration, Waker)> = due;
            due.into_iter().map(|(_, waker)| waker).collect()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Sets the wall clock, as an administrator does; nobody wakes for that.
    pub fn set(&self, now: Timestamp) {
        let mut state = self.lock();
        state.start = now - state.elapsed.as_millis() as i64;
    }

    /// When the next sleeper wants to be woken, counted from the clock's start.
    pub fn next_wake(&self) -> Option<Duration> {
        self.lock().sleepers.iter().map(|(at, _)| *at).min()
    }

    fn lock(&self) -> MutexGuard<'_, Manual> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let state = self.lock();
        state.start + state.elapsed.as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        self.lock().elapsed
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        let at = self.monotonic() + duration;
        Box::pin(poll_fn(move |cx| {
            let mut state = clock.lock();
            if state.elapsed >= at {
                return Poll::Ready(());
            }
            // Polled again, it is there already; what else wakes this task keeps its own time.
            state.sleepers.retain(|(other, waker)| *other != at || !waker.will_wake(cx.waker()));
            state.sleepers.push((at, cx.waker().clone()));
            Poll::Pending
        }))
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
