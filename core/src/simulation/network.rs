//! A network between machines, over which brokers are called: it delays, breaks connections, and keeps machines apart.
//!
//! What holds of TCP holds here: the requests of one connection arrive in their order and so do their answers, and after one
//! was lost none of that connection follows. What was under way when a connection broke may still arrive, even after
//! requests of the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{self, BoxFuture, Either};

use super::executor::{Executor, Owner};
use super::lock;
use crate::broker::{Context, SERVED};
use crate::protocol::messages::ProduceResponse;
use crate::protocol::{Request, Response, Versions};
use crate::storage::memory::MemoryDevice;
use crate::transport::{Embedded, Endpoint, Transport};
use crate::{Error, ErrorKind, Result};

/// Sees answers as a broker gives them, before the network has them.
pub(super) type Observer = Arc<dyn Fn(&Seen<'_>) + Send + Sync>;

/// An answer.
pub(super) struct Seen<'a> {
    pub(super) machine: usize,
    pub(super) owner: Owner,
    pub(super) connection: u64,
    pub(super) request: &'a Request,
    pub(super) response: &'a Response,
}

/// Changes requests on their way: a rule that is broken on purpose.
pub(super) type Spoil = fn(Request) -> Request;

/// A broker that can be reached.
#[derive(Clone, Debug)]
pub(super) struct Listening {
    pub(super) embedded: Embedded,
    pub(super) device: MemoryDevice,
    pub(super) owner: Owner,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(super) struct Network {
    executor: Executor,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

struct State {
    listening: BTreeMap<usize, Listening>,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(usize, usize)>,
    /// Of a hundred requests, with how many the connection breaks.
    breaks: u64,
    /// The longest that anything is under way, ms.
    max_delay: u64,
    observer: Option<Observer>,
    spoil: Option<Spoil>,
    lines: Vec<Weak<Mutex<Line>>>,
    next_line: u64,
}

impl Network {
    pub(super) fn new(executor: &Executor) -> Self {
        let state = State {
            listening: BTreeMap::new(),
            cut: BTreeSet::new(),
            breaks: 0,
            max_delay: 3,
            observer: None,
            spoil: None,
            lines: Vec::new(),
            next_line: 0,
        };
        Self { executor: executor.clone(), state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn observe(&self, observer: Observer) {
        lock(&self.state).observer = Some(observer);
    }

    pub(super) fn spoil(&self, spoil: Spoil) {
        lock(&self.state).spoil = Some(spoil);
    }

    /// A transport of the machine (or client) `from`.
    pub(super) fn transport(&self, from: usize, request_timeout: Duration) -> Arc<dyn Transport> {
        Arc::new(Simulated { network: self.clone(), from, request_timeout, lines: Mutex::default() })
    }

    pub(super) fn listen(&self, machine: usize, listening: Listening) {
        lock(&self.state).listening.insert(machine, listening);
    }

    /// Nobody answers there any more, and its connections break.
    pub(super) fn silence(&self, machine: usize) {
        lock(&self.state).listening.remove(&machine);
        for line in self.lines_of(|line| line.to == machine) {
            self.break_line(&line, "the broker has gone");
        }
    }

    /// Keeps what goes from `from` to `to` from arriving, until it is let through again.
    pub(super) fn cut(&self, from: usize, to: usize) {
        lock(&self.state).cut.insert((from, to));
    }

    pub(super) fn mend(&self, from: usize, to: usize) {
        lock(&self.state).cut.remove(&(from, to));
    }

    /// How often connections break, of a hundred requests, and how long things are under way at most, ms.
    pub(super) fn set_weather(&self, breaks: u64, max_delay: u64) {
        let mut state = lock(&self.state);
        state.breaks = breaks;
        state.max_delay = max_delay;
    }

    /// Lets everything through, soon.
    pub(super) fn heal(&self) {
        lock(&self.state).cut.clear();
        self.set_weather(0, 3);
    }

    fn lines_of(&self, which: impl Fn(&Line) -> bool) -> Vec<Arc<Mutex<Line>>> {
        let mut state = lock(&self.state);
        state.lines.retain(|line| line.strong_count() > 0);
        state.lines.iter().filter_map(Weak::upgrade).filter(|line| which(&lock(line))).collect()
    }

    fn delay(&self) -> Duration {
        let max_delay = lock(&self.state).max_delay;
        // Mostly quick.
        let limit = if self.executor.hits(90) { 2.min(max_delay) } else { max_delay };
        self.executor.draw_ms(0..limit + 1)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        lock(&self.state).cut.contains(&(from, to))
    }

    /// Every call of the connection fails; what is under way to the broker may arrive all the same.
    fn break_line(&self, line: &Arc<Mutex<Line>>, why: &str) {
        let waiting = {
            let mut line = lock(line);
            if line.broken.is_some() {
                return;
            }
            line.broken = Some(if self.executor.hits(50) { Some(self.executor.draw_ms(0..1_500)) } else { None });
            std::mem::take(&mut line.waiting)
        };
        for sender in waiting.into_values() {
            let _ = sender.send(Err(Error::new(ErrorKind::Retriable, format!("the connection was lost: {why}"))));
        }
    }
}

/// A connection.
#[derive(Debug)]
struct Line {
    id: u64,
    from: usize,
    to: usize,
    next: u64,
    /// When the last request arrives.
    arrives: Duration,
    /// Resolves when the answer before is through.
    before: Option<oneshot::Receiver<()>>,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Response>>>,
    /// Whether it is broken; and if what is under way arrives all the same, how much later.
    broken: Option<Option<Duration>>,
}

#[derive(Debug)]
struct Simulated {
    network: Network,
    from: usize,
    request_timeout: Duration,
    lines: Mutex<BTreeMap<Endpoint, Arc<Mutex<Line>>>>,
}

impl Simulated {
    /// The connection to `to`, opened if there is none.
    fn line(&self, endpoint: &Endpoint) -> Result<Arc<Mutex<Line>>> {
        let to = {
            let state = lock(&self.network.state);
            let named = endpoint.host.strip_prefix("machine").and_then(|number| number.parse().ok());
            named.filter(|to| state.listening.contains_key(to))
        };
        let Some(to) = to else {
            lock(&self.lines).remove(endpoint);
            return Err(Error::new(ErrorKind::Retriable, format!("cannot connect: refused broker={endpoint}")));
        };
        let mut lines = lock(&self.lines);
        if let Some(line) = lines.get(endpoint) {
            let known = lock(line);
            if known.broken.is_none() && known.to == to {
                drop(known);
                return Ok(Arc::clone(line));
            }
        }
        let mut state = lock(&self.network.state);
        state.next_line += 1;
        let line = Arc::new(Mutex::new(Line {
            id: state.next_line,
            from: self.from,
            to,
            next: 0,
            arrives: Duration::ZERO,
            before: None,
            waiting: BTreeMap::new(),
            broken: None,
        }));
        state.lines.push(Arc::downgrade(&line));
        lines.insert(endpoint.clone(), Arc::clone(&line));
        Ok(line)
    }

    /// Sends a request on its way; what comes back is the answer, or why there is none.
    fn send(&self, line: &Arc<Mutex<Line>>, request: Request) -> oneshot::Receiver<Result<Response>> {
        let network = self.network.clone();
        let executor = network.executor.clone();
        let (sender, receiver) = oneshot::channel();
        let (through, next) = oneshot::channel();
        let (delay, breaks) = (network.delay(), lock(&network.state).breaks);
        let (number, arrives, before, from, to) = {
            let mut line = lock(line);
            let number = line.next;
            line.next += 1;
            line.waiting.insert(number, sender);
            line.arrives = (executor.now() + delay).max(line.arrives + Duration::from_micros(1));
            (number, line.arrives, line.before.replace(next), line.from, line.to)
        };
        // Whether the connection breaks with it: on the way there, or on the way back.
        let (breaks_before, breaks_after) = (executor.hits(breaks), executor.hits(breaks));
        let line = Arc::clone(line);
        executor.clone().spawn(Owner::World, async move {
            executor.sleep_until(arrives).await;
            if breaks_before {
                network.break_line(&line, "the simulation broke it");
            }
            let broken = lock(&line).broken;
            match broken {
                Some(Some(late)) => executor.sleep(late).await,
                Some(None) => return,
                None => {}
            }
            if network.is_cut(from, to) {
                // Nothing after it on this connection arrives either.
                if lock(&line).broken.is_none() && executor.hits(30) {
                    network.break_line(&line, "unreachable");
                }
                let mut line = lock(&line);
                line.broken = Some(None);
                return;
            }
            let Some(listening) = lock(&network.state).listening.get(&to).cloned() else {
                return network.break_line(&line, "nobody listens");
            };
            network.arrive(listening, line, number, request, before, through, breaks_after);
        });
        receiver
    }
}

impl Network {
    /// Hands a request to the broker; its answer goes the way back.
    #[allow(clippy::too_many_arguments)]
    fn arrive(
        &self,
        listening: Listening,
        line: Arc<Mutex<Line>>,
        number: u64,
        request: Request,
        before: Option<oneshot::Receiver<()>>,
        through: oneshot::Sender<()>,
        breaks: bool,
    ) {
        let Listening { embedded, device, owner } = listening;
        let version = request.api_key().client_versions().map_or(0, |(_, max)| max);
        let context = Context { version, client_id: "ottla".into(), host: "/simulated".into() };
        let is_unacknowledged = matches!(&request, Request::Produce(produce) if produce.acks == 0);
        let (network, asked) = (self.clone(), request.clone());
        let request = match lock(&self.state).spoil {
            Some(spoil) => spoil(request),
            None => request,
        };
        let call = embedded.call(&context, request);
        self.executor.spawn(owner, async move {
            let answer = call.response().await;
            if device.is_off() {
                // A machine without power says nothing.
                return;
            }
            let (connection, from, to) = {
                let line = lock(&line);
                (line.id, line.from, line.to)
            };
            let observe = || {
                // What nobody hears counts for nothing.
                if lock(&line).broken.is_some() {
                    return;
                }
                let observer = lock(&network.state).observer.clone();
                if let (Ok(response), Some(observer)) = (&answer, observer) {
                    observer(&Seen { machine: to, owner, connection, request: &asked, response });
                }
            };
            // Acknowledgements count from when they are given, what is read in the order in which it goes out.
            let is_acknowledgement = matches!(asked, Request::Produce(_));
            if is_acknowledgement {
                observe();
            }
            if let Some(before) = before {
                // An answer that was lost with its connection holds up nobody.
                let _ = before.await;
            }
            if !is_acknowledgement {
                observe();
            }
            network.executor.sleep(network.delay()).await;
            if breaks || answer.is_err() {
                network.break_line(&line, "the answer was lost");
            } else if network.is_cut(to, from) {
                lock(&line).broken = Some(None);
            } else if let Some(sender) = lock(&line).waiting.remove(&number) {
                let answer = if is_unacknowledged { Ok(ProduceResponse::default().into()) } else { answer };
                let _ = sender.send(answer);
            }
            let _ = through.send(());
        });
    }
}

impl Transport for Simulated {
    fn call<'a>(&'a self, to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>> {
        Box::pin(async move {
            let executor = &self.network.executor;
            let line = match self.line(to) {
                Ok(line) => line,
                Err(error) => {
                    executor.sleep(self.network.delay()).await;
                    return Err(error);
                }
            };
            let answer = self.send(&line, request);
            match future::select(answer, executor.sleep(self.request_timeout)).await {
                Either::Left((answer, _)) => {
                    answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Retriable, "the connection was lost")))
                }
                Either::Right(_) => {
                    self.network.break_line(&line, "no answer in time");
                    Err(Error::new(ErrorKind::Retriable, format!("no answer in time broker={to}")))
                }
            }
        })
    }

    fn versions<'a>(&'a self, _to: &'a Endpoint) -> BoxFuture<'a, Result<Arc<Versions>>> {
        Box::pin(future::ready(Ok(Arc::new(SERVED.iter().copied().collect()))))
    }

    fn close(&self, to: &Endpoint) {
        if let Some(line) = lock(&self.lines).remove(to) {
            self.network.break_line(&line, "it was closed");
        }
    }

    fn separate(&self) -> Arc<dyn Transport> {
        self.network.transport(self.from, self.request_timeout)
    }
}
