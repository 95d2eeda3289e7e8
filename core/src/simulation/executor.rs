//! One thread for all tasks, in an order drawn from the seed, and a clock that moves when nothing else can.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;

use super::lock;
use crate::Timestamp;
use crate::client::Chance;
use crate::clock::Clock;

/// What the wall clocks show when a simulation begins: some day in 2026.
const START: Timestamp = 1_780_000_000_000;
/// How many turns tasks may take while no time passes: more is a task that wakes itself for ever.
const MAX_TURNS: u64 = 200_000;

/// Whose task it is: all of a machine's are dropped when it loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// The simulation itself: faults, checkers, the network.
    World,
    /// The broker of a machine, as it was started for the n-th time.
    Machine(usize, u64),
}

/// Runs tasks. Clones are the same executor.
#[derive(Clone)]
pub(super) struct Executor {
    shared: Arc<Shared>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("now", &self.now()).finish_non_exhaustive()
    }
}

struct Shared {
    chance: Chance,
    tasks: Mutex<Tasks>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
    time: Mutex<Time>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    /// A task that has its turn is not in its place.
    all: BTreeMap<u64, (Owner, Option<BoxFuture<'static, ()>>)>,
    turns: u64,
}

#[derive(Default)]
struct Time {
    now: Duration,
    next: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        lock(&self.ready).insert(self.task);
    }
}

impl Executor {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                chance: Chance::new(seed),
                tasks: Mutex::default(),
                ready: Arc::default(),
                time: Mutex::default(),
            }),
        }
    }

    /// What everything that is left to chance is drawn from.
    pub(super) fn chance(&self) -> &Chance {
        &self.shared.chance
    }

    /// A number from `range`.
    pub(super) fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.chance().below((range.end - range.start) as usize) as u64
    }

    /// Whether something happens that does so `percent` times of a hundred.
    pub(super) fn hits(&self, percent: u64) -> bool {
        self.draw(0..100) < percent
    }

    /// A time from `range`, in milliseconds.
    pub(super) fn draw_ms(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_micros(self.draw(range.start * 1_000..range.end * 1_000))
    }

    /// The time that has passed since the simulation began.
    pub(super) fn now(&self) -> Duration {
        lock(&self.shared.time).now
    }

    /// How many turns tasks have had.
    pub(super) fn turns(&self) -> u64 {
        lock(&self.shared.tasks).turns
    }

    pub(super) fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { shared: Arc::clone(&self.shared), until: self.now().saturating_add(duration), timer: None }
    }

    pub(super) fn sleep_until(&self, until: Duration) -> Sleep {
        Sleep { shared: Arc::clone(&self.shared), until, timer: None }
    }

    pub(super) fn spawn(&self, owner: Owner, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.shared.tasks);
        let id = tasks.next;
        tasks.next += 1;
        tasks.all.insert(id, (owner, Some(Box::pin(task))));
        lock(&self.shared.ready).insert(id);
    }

    /// Drops every task of `owner` where it stands.
    pub(super) fn kill(&self, owner: Owner) {
        let killed: Vec<_> = {
            let mut tasks = lock(&self.shared.tasks);
            let ids: Vec<u64> = tasks.all.iter().filter(|(_, (other, _))| *other == owner).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| tasks.all.remove(id)).collect()
        };
        // What they hold may spawn or wake when it goes.
        drop(killed);
    }

    /// Runs until `is_done` says so; `Err` if there is nothing left to do, or no end of it.
    pub(super) fn run(&self, mut is_done: impl FnMut() -> bool) -> Result<(), String> {
        let mut turns = 0;
        while !is_done() {
            if self.take_turn() {
                turns += 1;
                if turns > MAX_TURNS {
                    return Err(format!("tasks wake each other without end at {:?}", self.now()));
                }
                continue;
            }
            turns = 0;
            let due = {
                let mut time = lock(&self.shared.time);
                let Some((at, _)) = time.timers.keys().next().copied() else {
                    return Err(format!("nothing is left to wait for at {:?}", time.now));
                };
                time.now = time.now.max(at);
                let later = time.timers.split_off(&(at, u64::MAX));
                std::mem::replace(&mut time.timers, later)
            };
            due.into_values().for_each(Waker::wake);
        }
        Ok(())
    }

    /// Lets one of the tasks that can go on do so.
    fn take_turn(&self) -> bool {
        let id = {
            let mut ready = lock(&self.shared.ready);
            if ready.is_empty() {
                return false;
            }
            let place = self.chance().below(ready.len());
            let Some(id) = ready.iter().nth(place).copied() else { return false };
            ready.remove(&id);
            id
        };
        let task = {
            let mut tasks = lock(&self.shared.tasks);
            tasks.turns += 1;
            tasks.all.get_mut(&id).and_then(|(_, task)| task.take())
        };
        let Some(mut task) = task else { return true };
        let waker = Waker::from(Arc::new(TaskWaker { task: id, ready: Arc::clone(&self.shared.ready) }));
        let poll = task.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = lock(&self.shared.tasks);
        match (poll, tasks.all.get_mut(&id)) {
            (Poll::Pending, Some((_, place))) => *place = Some(task),
            // Done, or killed by itself.
            _ => {
                let gone = tasks.all.remove(&id);
                drop(tasks);
                drop((gone, task));
            }
        }
        true
    }

    /// Drops all tasks.
    pub(super) fn clear(&self) {
        loop {
            let all = std::mem::take(&mut lock(&self.shared.tasks).all);
            if all.is_empty() {
                return;
            }
        }
    }
}

/// Completes when its time has come.
pub(super) struct Sleep {
    shared: Arc<Shared>,
    until: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut time = lock(&shared.time);
        if let Some(timer) = self.timer.take() {
            time.timers.remove(&timer);
        }
        if time.now >= self.until {
            return Poll::Ready(());
        }
        let timer = (self.until, time.next);
        time.next += 1;
        time.timers.insert(timer, cx.waker().clone());
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            lock(&self.shared.time).timers.remove(&timer);
        }
    }
}

/// A machine's clock: its wall clock may be set, time goes on for all alike.
#[derive(Clone, Debug)]
pub(super) struct SimulatedClock {
    executor: Executor,
    /// How far the wall clock is ahead, ms.
    ahead: Arc<AtomicI64>,
}

impl SimulatedClock {
    pub(super) fn new(executor: &Executor) -> Self {
        Self { executor: executor.clone(), ahead: Arc::default() }
    }

    /// Sets the wall clock to run so many milliseconds ahead.
    pub(super) fn set_ahead(&self, ms: i64) {
        self.ahead.store(ms, Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        START + self.executor.now().as_millis() as i64 + self.ahead.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.executor.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.executor.sleep(duration))
    }
}
