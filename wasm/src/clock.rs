//! The clock: the platform's date, its monotonic time and its timers.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use js_sys::{Date, Function};
use ottla::Timestamp;
use ottla::clock::Clock;
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;

    /// What `setTimeout` returns: a number in browsers, an object in Node.
    type Timeout;

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: f64) -> Timeout;

    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timeout: &Timeout);

    #[wasm_bindgen(method, getter, structural)]
    fn unref(this: &Timeout) -> JsValue;
}

/// The longest time that `setTimeout` takes.
const MAX_MILLISECONDS: f64 = 2_147_483_647.0;

/// The platform's clock.
#[derive(Debug)]
pub(crate) struct PlatformClock;

impl Clock for PlatformClock {
    fn now(&self) -> Timestamp {
        Date::now() as Timestamp
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros((performance_now() * 1000.0) as u64)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(SendWrapper::new(Sleep { until: self.monotonic().saturating_add(duration), timer: None }))
    }
}

/// Completes at a moment of the monotonic time; the timer starts when somebody waits and ends with the waiting.
struct Sleep {
    until: Duration,
    timer: Option<Timer>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.until.saturating_sub(PlatformClock.monotonic());
        if left.is_zero() {
            self.timer = None;
            return Poll::Ready(());
        }
        match &self.timer {
            // A timer may ring a little early, and rings early when the time is longer than it takes.
            Some(timer) if !timer.has_rung() => timer.set_waker(cx.waker()),
            _ => self.timer = Some(Timer::start(left, cx.waker())),
        }
        Poll::Pending
    }
}

struct Timer {
    timeout: Timeout,
    /// Whom to wake; nobody once it has rung.
    waker: Rc<RefCell<Option<Waker>>>,
    /// What the platform calls; lives as long as the timer.
    _ring: Closure<dyn FnMut()>,
}

impl Timer {
    fn start(after: Duration, waker: &Waker) -> Self {
        let waker = Rc::new(RefCell::new(Some(waker.clone())));
        let ring = Closure::new({
            let waker = Rc::clone(&waker);
            move || {
                let waker = waker.borrow_mut().take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        });
        let milliseconds = (after.as_secs_f64() * 1000.0).ceil().min(MAX_MILLISECONDS);
        let timeout = set_timeout(ring.as_ref().unchecked_ref(), milliseconds);
        // A broker that waits for its next turn is no reason for a program to go on; calls under way are (js/alive.ts).
        if let Ok(unref) = timeout.unref().dyn_into::<Function>() {
            // It is Node's own method and does not fail.
            drop(unref.call0(&timeout));
        }
        Self { timeout, waker, _ring: ring }
    }

    fn has_rung(&self) -> bool {
        self.waker.borrow().is_none()
    }

    fn set_waker(&self, waker: &Waker) {
        self.waker.borrow_mut().replace(waker.clone());
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        clear_timeout(&self.timeout);
    }
}
