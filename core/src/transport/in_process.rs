//! The embedded broker behind one lock, and the way into it without encoding or copying.
//!
//! [`Embedded`] does what [`Broker`] leaves to its shell: it takes the lock, hands a request in, drains what came out,
//! and lets go. An answer that is there at once is returned without any other thread taking part. The lock is never held
//! over a wait for a device: checks of produced batches come before it, reads of records after it, and tasks go to a
//! [`Runner`].

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::channel::{mpsc, oneshot};
use futures::future::{self, BoxFuture, Either};
use futures::task::AtomicWaker;

use super::{Endpoint, Transport};
use crate::broker::{
    Broker, BrokerConfig, Context, Incoming, LeadershipEvent, Reply, RequestId, Step, Task, Traced, serves,
};
use crate::clock::Clock;
use crate::protocol::messages::ProduceResponse;
use crate::protocol::{Request, Response, Versions};
use crate::storage::Device;
use crate::{Error, ErrorKind, Result};

/// Runs work that may wait for a device away from the broker's lock.
pub trait Runner: Send + Sync + fmt::Debug {
    /// Runs `job` soon, on a thread that may block.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
}

/// Runs work where it is: for devices that do not make anybody wait, and for platforms with one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunInline;

impl Runner for RunInline {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

/// An embedded broker that any number of threads, connections and clients may use. Clones are handles to the same broker.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Tells who closes it that no task is under way any more.
    idle: Condvar,
    clock: Arc<dyn Clock>,
    runner: Arc<dyn Runner>,
    max_decompressed_bytes: usize,
    /// Wakes the driver when a deadline may have come closer.
    alarm: AtomicWaker,
    alarmed: AtomicBool,
}

struct State {
    /// `None` once it is closed: everything it held is given back then.
    broker: Option<Broker>,
    waiting: HashMap<RequestId, oneshot::Sender<Reply>>,
    /// How many tasks were handed to the runner and have not ended.
    running: usize,
    next_id: u64,
    /// Who follows up on changes of leadership.
    leadership: Option<mpsc::UnboundedSender<LeadershipEvent>>,
    trace: Option<Tracer>,
    /// When the driver wakes by itself.
    next_timeout: Option<i64>,
}

/// Who is told of the steps that records take.
struct Tracer {
    steps: mpsc::Sender<(Duration, Traced)>,
    clock: Arc<dyn Clock>,
    /// How many steps could not be told since the last one that could.
    lost: u64,
}

/// How many steps wait for who reads them.
const MAX_STEPS: usize = 65_536;

impl Tracer {
    fn tell(&mut self, step: Traced) {
        let since = match step.step {
            Step::Received { .. } | Step::Copied => Duration::ZERO,
            _ => self.clock.monotonic().saturating_sub(step.received),
        };
        match self.steps.try_send((since, step)) {
            Ok(()) if self.lost > 0 => {
                log::warn!("the trace lacks {} steps, it is not read fast enough", std::mem::take(&mut self.lost));
            }
            Ok(()) => {}
            Err(_) => self.lost += 1,
        }
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the broker whose logs are on `device`. Spawn [`Self::drive`], or deadlines and retention do not work.
    ///
    /// # Errors
    /// See [`Broker::open`].
    pub fn open(
        device: Arc<dyn Device>,
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
        runner: Arc<dyn Runner>,
        seed: u64,
    ) -> Result<Self> {
        let max_decompressed_bytes = config.max_decompressed_bytes;
        let broker = Broker::open(device, config, clock.now(), seed)?;
        let state = State {
            broker: Some(broker),
            waiting: HashMap::new(),
            running: 0,
            next_id: 0,
            leadership: None,
            trace: None,
            next_timeout: None,
        };
        let embedded = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                idle: Condvar::new(),
                clock,
                runner,
                max_decompressed_bytes,
                alarm: AtomicWaker::new(),
                alarmed: AtomicBool::new(false),
            }),
        };
        embedded.with(|_, _| ())?;
        Ok(embedded)
    }

    /// Runs the broker's clockwork until the broker is closed.
    pub fn drive(&self) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            loop {
                let (now, monotonic) = (this.shared.clock.now(), this.shared.clock.monotonic());
                let due = {
                    let mut state = this.lock();
                    let Some(broker) = &mut state.broker else { return };
                    broker.note_clocks(now, monotonic);
                    let due = broker.poll_timeout();
                    state.next_timeout = due;
                    due
                };
                match due {
                    Some(due) if due <= now => {
                        if this.with(|broker, now| broker.handle_timeout(now)).is_err() {
                            return;
                        }
                    }
                    due => {
                        let wait = due.map_or(Duration::from_secs(3600), |due| {
                            Duration::from_millis(u64::try_from(due - now).unwrap_or(0))
                        });
                        let alarm = future::poll_fn(|context| {
                            this.shared.alarm.register(context.waker());
                            if this.shared.alarmed.swap(false, Ordering::AcqRel) {
                                Poll::Ready(())
                            } else {
                                Poll::Pending
                            }
                        });
                        future::select(this.shared.clock.sleep(wait), alarm).await;
                    }
                }
            }
        })
    }

    /// Hands a request in. The answer is ready at once unless the broker has to wait for something.
    pub fn call(&self, context: &Context, request: Request) -> Call {
        if !serves(request.api_key()) {
            let message = format!("the embedded broker does not serve this api={}", request.api_key());
            return Call(Either::Left(Some(Err(Error::new(ErrorKind::Unsupported, message)))));
        }
        let arrived = self.shared.clock.monotonic();
        let incoming = Incoming::check(request, self.shared.max_decompressed_bytes);
        let now = self.shared.clock.now();
        let mut state = self.lock();
        let id = RequestId(state.next_id);
        state.next_id += 1;
        let Some(broker) = &mut state.broker else {
            return Call(Either::Left(Some(Err(closed()))));
        };
        broker.arrive(arrived);
        if broker.note_clocks(now, self.shared.clock.monotonic()) {
            // Whatever the driver waits for is due at another time by the clock.
            state.next_timeout = None;
        }
        let Some(broker) = &mut state.broker else {
            return Call(Either::Left(Some(Err(closed()))));
        };
        broker.handle_request(id, context, incoming, now);
        let mut own = None;
        let tasks = state.drain(Some((id, &mut own)), now);
        let answer = match own {
            Some(reply) => Either::Left(Some(Ok(reply))),
            None => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(id, sender);
                Either::Right(receiver)
            }
        };
        let alarm = state.comes_sooner();
        drop(state);
        self.after(tasks, alarm);
        Call(answer)
    }

    /// Does `act` on the broker under its lock, and follows up on what came of it.
    ///
    /// # Errors
    /// `Closed` if the broker is.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Broker, i64) -> T) -> Result<T> {
        let (now, arrived) = (self.shared.clock.now(), self.shared.clock.monotonic());
        let mut state = self.lock();
        let broker = state.broker.as_mut().ok_or_else(closed)?;
        broker.arrive(arrived);
        if broker.note_clocks(now, arrived) {
            state.next_timeout = None;
        }
        let broker = state.broker.as_mut().ok_or_else(closed)?;
        let result = act(broker, now);
        let tasks = state.drain(None, now);
        let alarm = state.comes_sooner();
        drop(state);
        self.after(tasks, alarm);
        Ok(result)
    }

    /// Hands in what `ask` asks of the broker under a fresh id, and returns the future of its answer.
    pub(crate) fn ask<T>(
        &self,
        ask: impl FnOnce(&mut Broker, RequestId, i64) -> Result<T>,
    ) -> Result<(T, impl Future<Output = Result<Response>> + Send + 'static)> {
        let now = self.shared.clock.now();
        let mut state = self.lock();
        let id = RequestId(state.next_id);
        state.next_id += 1;
        let asked = ask(state.broker.as_mut().ok_or_else(closed)?, id, now)?;
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(id, sender);
        let tasks = state.drain(None, now);
        let alarm = state.comes_sooner();
        drop(state);
        self.after(tasks, alarm);
        Ok((asked, Call(Either::Right(receiver)).response()))
    }

    /// The changes of leadership from now on, for the one who follows up on them: who asked before gets no more.
    pub(crate) fn leadership(&self) -> mpsc::UnboundedReceiver<LeadershipEvent> {
        let (sender, receiver) = mpsc::unbounded();
        self.lock().leadership = Some(sender);
        receiver
    }

    /// The steps that records take from now on, each with the time since they came in. Who asked before gets no more; they end
    /// when the broker is closed. What is not read in time is left out, which is logged.
    ///
    /// # Errors
    /// `Closed` if the broker is.
    pub fn trace(&self) -> Result<mpsc::Receiver<(Duration, Traced)>> {
        self.with(|broker, _| broker.trace())?;
        let (steps, receiver) = mpsc::channel(MAX_STEPS);
        self.lock().trace = Some(Tracer { steps, clock: Arc::clone(&self.shared.clock), lost: 0 });
        Ok(receiver)
    }

    /// Tells clients from now on to connect to `host` and `port`.
    ///
    /// # Errors
    /// `Closed` if the broker is.
    pub fn advertise(&self, host: &str, port: u16) -> Result<()> {
        self.with(|broker, _| broker.advertise(host, port))
    }

    /// Its clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// The cluster's id.
    ///
    /// # Errors
    /// `Closed` if the broker is.
    pub fn cluster_id(&self) -> Result<String> {
        self.with(|broker, _| broker.cluster_id().to_owned())
    }

    /// What recovery cut or rebuilt when the broker was opened, a line each.
    ///
    /// # Errors
    /// `Closed` if the broker is.
    pub fn recovered(&self) -> Result<Vec<String>> {
        self.with(|broker, _| broker.recovered().iter().map(|(dir, recovery)| format!("{dir}: {recovery}")).collect())
    }

    /// Closes the broker: syncs everything, marks the directory as cleanly closed, answers who waits. Safe to repeat.
    ///
    /// Returns when no task is under way any more, or one would keep the device from being opened anew. Not to be called from
    /// a job of the [`Runner`].
    ///
    /// # Errors
    /// See [`Broker::close`].
    pub fn close(&self) -> Result<()> {
        let mut state = self.lock();
        let mut result = Ok(());
        if let Some(broker) = &mut state.broker {
            result = broker.close(self.shared.clock.now());
            // Tasks that are left would sync or remove what is closed by now; the next start takes up what they leave.
            let left = state.drain(None, self.shared.clock.now()).len();
            state.running -= left;
            state.broker = None;
            state.waiting.clear();
            state.leadership = None;
            state.trace = None;
        }
        while state.running > 0 {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.wake_driver();
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a defect; the broker's state may still be served, as nothing in it is left half-done
        // that a restart would not repair.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn after(&self, tasks: Vec<Task>, alarm: bool) {
        for task in tasks {
            let running = Running { embedded: self.clone(), task: Some(task) };
            self.shared.runner.run(Box::new(move || running.run()));
        }
        if alarm {
            self.wake_driver();
        }
    }

    fn wake_driver(&self) {
        self.shared.alarmed.store(true, Ordering::Release);
        self.shared.alarm.wake();
    }
}

/// A task in the hands of the runner; it has ended when this is dropped.
struct Running {
    embedded: Embedded,
    task: Option<Task>,
}

impl Running {
    fn run(mut self) {
        if let Some(task) = self.task.take() {
            let done = task.run();
            // A broker that was closed meanwhile has synced by itself.
            let _ = self.embedded.with(|broker, now| broker.handle_done(done, now));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may hold the device.
        self.task = None;
        self.embedded.lock().running -= 1;
        self.embedded.shared.idle.notify_all();
    }
}

impl State {
    /// Sends out every answer, but gives the one for `own` back; returns the tasks, which
    /// count as running.
    fn drain(&mut self, mut own: Option<(RequestId, &mut Option<Reply>)>, now: i64) -> Vec<Task> {
        let Some(broker) = &mut self.broker else { return Vec::new() };
        while let Some(event) = broker.poll_leadership() {
            let told =
                self.leadership.as_ref().is_some_and(|leadership| leadership.unbounded_send(event.clone()).is_ok());
            match event {
                LeadershipEvent::Forward(id, _) if !told => broker.finish_forwarded(id, None, now),
                LeadershipEvent::Asked(id) if !told => {
                    let error = Error::new(ErrorKind::Retriable, "nothing follows the leader now");
                    broker.finish_election(id, Err(error), now);
                }
                _ => {}
            }
        }
        while let Some(step) = broker.poll_step() {
            if let Some(trace) = &mut self.trace {
                trace.tell(step);
            }
        }
        while let Some((id, reply)) = broker.poll_response() {
            match &mut own {
                Some((wanted, slot)) if *wanted == id => **slot = Some(reply),
                _ => {
                    if let Some(sender) = self.waiting.remove(&id) {
                        // Who asked may have gone away; its answer is nobody's then.
                        let _ = sender.send(reply);
                    }
                }
            }
        }
        let mut tasks = Vec::new();
        while let Some(task) = broker.poll_task() {
            tasks.push(task);
        }
        self.running += tasks.len();
        tasks
    }

    /// Whether the broker is due before the driver would wake by itself.
    fn comes_sooner(&mut self) -> bool {
        let due = self.broker.as_ref().and_then(Broker::poll_timeout);
        let sooner = match (due, self.next_timeout) {
            (Some(due), Some(next)) => due < next,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner {
            self.next_timeout = due;
        }
        sooner
    }
}

/// The answer to a request that was handed in, as a future.
#[derive(Debug)]
pub struct Call(Either<Option<Result<Reply>>, oneshot::Receiver<Reply>>);

impl Call {
    /// The answer, if it was there at once: nothing has to be waited for.
    pub fn try_take(&mut self) -> Option<Result<Response>> {
        match &mut self.0 {
            Either::Left(reply) => reply.take().map(|reply| reply.map(Reply::read)),
            Either::Right(_) => None,
        }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// `Closed` when the broker was closed first.
    pub async fn response(self) -> Result<Response> {
        let reply = match self.0 {
            Either::Left(reply) => reply.unwrap_or_else(|| Err(closed()))?,
            Either::Right(receiver) => receiver.await.map_err(|_| closed())?,
        };
        Ok(reply.read())
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the embedded broker is closed")
}

/// The transport straight into the broker: every endpoint is this broker, and nothing is encoded.
impl Transport for Embedded {
    fn call<'a>(&'a self, _to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>> {
        let version = request.api_key().client_versions().map_or(0, |(_, max)| max);
        // Handed in when it is first polled: a call that is dropped before was never made.
        Box::pin(async move {
            let context = Context { version, client_id: "ottla".into(), host: "/in-process".into() };
            let is_unacknowledged = matches!(&request, Request::Produce(produce) if produce.acks == 0);
            let response = Self::call(self, &context, request).response().await?;
            Ok(if is_unacknowledged { ProduceResponse::default().into() } else { response })
        })
    }

    fn versions<'a>(&'a self, _to: &'a Endpoint) -> BoxFuture<'a, Result<Arc<Versions>>> {
        Box::pin(future::ready(Ok(Arc::new(crate::broker::SERVED.iter().copied().collect()))))
    }

    fn close(&self, _to: &Endpoint) {}

    fn separate(&self) -> Arc<dyn Transport> {
        // Requests do not hold each other up here.
        Arc::new(self.clone())
    }
}
