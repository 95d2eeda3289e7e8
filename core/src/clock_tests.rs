use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::noop_waker;

use super::{Clock, ManualClock};

#[test]
fn sleeps_of_one_task_do_not_displace_each_other() {
    let clock = ManualClock::new(0);
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    let mut soon = clock.sleep(Duration::from_secs(1));
    let mut late = clock.sleep(Duration::from_secs(5));
    for _ in 0..3 {
        // As a task does that selects between the two: each is polled when it is woken.
        assert!(soon.as_mut().poll(&mut cx).is_pending());
        assert!(late.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(clock.next_wake(), Some(Duration::from_secs(1)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(soon.as_mut().poll(&mut cx), Poll::Ready(()));
    assert_eq!(clock.next_wake(), Some(Duration::from_secs(5)));
    clock.advance(Duration::from_secs(4));
    assert_eq!(late.as_mut().poll(&mut cx), Poll::Ready(()));
    assert_eq!((clock.next_wake(), clock.now()), (None, 5_000));
}
