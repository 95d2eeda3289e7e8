//! Waking those who wait for a change.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use futures::task::AtomicWaker;

use super::lock;

/// Wakes one who waits: a driver. A signal that is given while nobody waits is kept.
#[derive(Debug, Default)]
pub(super) struct Signal {
    given: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    /// Gives the signal; cheap if it was given already and not taken yet.
    pub(super) fn give(&self) {
        if !self.given.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Takes the signal; `Pending` registers the caller for the next one.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.given.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.given.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Wakes all who wait.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

impl Bell {
    /// How often it was rung: what [`changed`](Self::changed) waits to differ from. Read it before looking at what the bell is about.
    pub(super) fn count(&self) -> u64 {
        self.rung.load(Ordering::Acquire)
    }

    pub(super) fn ring(&self) {
        self.rung.fetch_add(1, Ordering::AcqRel);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Completes when it was rung since it had been rung `seen` times.
    pub(super) async fn changed(&self, seen: u64) {
        poll_fn(|cx| {
            if self.count() != seen {
                return Poll::Ready(());
            }
            let mut waiting = lock(&self.waiting);
            if self.count() != seen {
                return Poll::Ready(());
            }
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
