//! A transport over byte links: connections, negotiation, pipelining.
//!
//! Nothing is spawned. Whoever waits for an answer drives the connection for all that wait on it: the link is polled with a
//! waker that wakes every waiting call, and the first of them that is polled takes up the work. A call that is dropped, or
//! that nobody polls for a while, therefore holds up nobody.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};

use super::{Connector, Endpoint, Link, Transport};
use crate::clock::Clock;
use crate::error::repeat;
use crate::protocol::messages::{
    ApiVersionsRequest, ProduceResponse, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
    SaslHandshakeResponse,
};
use crate::protocol::sasl::{Credentials, Exchange};
use crate::protocol::{ApiKey, ClientConnection, ErrorCode, ProtocolError, Request, Response, Versions};
use crate::{Error, ErrorKind, Result};

/// How many slices are handed to one write.
const SLICES: usize = 64;

/// The version of ApiVersions that a connection begins with; brokers that do not know it answer in version 0.
const HELLO_VERSION: i16 = 3;

/// The version of SaslHandshake after which the mechanism's messages are Kafka requests (KIP-152).
const HANDSHAKE_VERSION: i16 = 1;

/// After which part of a session's life, in tenths, a client authenticates again (KIP-368): before its end, whatever the clocks.
const SESSION_TENTHS: u64 = 8;

/// Who a [`Wire`] says it is, on connections that ask for SASL.
#[derive(Clone, Debug)]
pub struct Login {
    /// The name, the password and how they are proven.
    pub credentials: Credentials,
    /// Random bytes of the platform's, from which nonces are made.
    pub entropy: [u8; 32],
}

/// Limits and times of a [`Wire`].
#[derive(Clone, Debug)]
pub struct WireConfig {
    /// The name that brokers log.
    pub client_id: String,
    /// Who the client is; `None`, the default, where nobody asks.
    pub login: Option<Login>,
    /// How long to wait for an answer; then the connection is given up.
    pub request_timeout: Duration,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// The first pause before an unreachable broker is tried again; it doubles.
    pub reconnect_backoff: Duration,
    /// The longest such pause.
    pub reconnect_backoff_max: Duration,
    /// How long a connection may be unused before it is opened anew.
    pub max_idle: Duration,
    /// The largest answer that is accepted, in bytes.
    pub receive_max_bytes: usize,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self {
            client_id: "ottla".to_owned(),
            login: None,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            reconnect_backoff: Duration::from_millis(50),
            reconnect_backoff_max: Duration::from_secs(30),
            max_idle: Duration::from_secs(540),
            receive_max_bytes: 100_000_000,
        }
    }
}

/// A transport over the links that a [`Connector`] opens: one connection for each broker, opened when first used.
pub struct Wire {
    connector: Arc<dyn Connector>,
    clock: Arc<dyn Clock>,
    config: Arc<WireConfig>,
    lines: Mutex<HashMap<Endpoint, Arc<Line>>>,
}

impl Wire {
    /// A wire without connections yet.
    pub fn new(connector: Arc<dyn Connector>, clock: Arc<dyn Clock>, config: WireConfig) -> Self {
        Self { connector, clock, config: Arc::new(config), lines: Mutex::default() }
    }

    fn line(&self, to: &Endpoint) -> Arc<Line> {
        let mut lines = lock(&self.lines);
        if let Some(line) = lines.get(to) {
            return Arc::clone(line);
        }
        let waiting = Arc::new(Waiting::default());
        let line = Arc::new(Line {
            to: to.clone(),
            connector: Arc::clone(&self.connector),
            clock: Arc::clone(&self.clock),
            config: Arc::clone(&self.config),
            waker: Waker::from(Arc::clone(&waiting)),
            waiting,
            state: Mutex::default(),
        });
        lines.insert(to.clone(), Arc::clone(&line));
        line
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Transport for Wire {
    fn call<'a>(&'a self, to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>> {
        let timeout = timeout_of(&request, &self.config);
        Box::pin(Call::new(self.line(to), Some(request), timeout).answer())
    }

    fn versions<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, Result<Arc<Versions>>> {
        let line = self.line(to);
        Box::pin(async move {
            if let Some(versions) = lock(&line.state).versions() {
                return Ok(versions);
            }
            match Call::new(line, None, self.config.request_timeout).await? {
                Outcome::Ready(versions) => Ok(versions),
                Outcome::Response(_) => Err(Error::new(ErrorKind::Internal, "a call without a request was answered")),
            }
        })
    }

    fn close(&self, to: &Endpoint) {
        let line = lock(&self.lines).remove(to);
        if let Some(line) = line {
            line.fail(&mut lock(&line.state), Error::new(ErrorKind::Closed, "the connection was closed"));
        }
    }

    fn separate(&self) -> Arc<dyn Transport> {
        Arc::new(Self {
            connector: Arc::clone(&self.connector),
            clock: Arc::clone(&self.clock),
            config: Arc::clone(&self.config),
            lines: Mutex::default(),
        })
    }
}

/// Some requests wait at the broker, by their nature, longer than others.
fn timeout_of(request: &Request, config: &WireConfig) -> Duration {
    let extra = match request {
        Request::JoinGroup(join) => i64::from(join.rebalance_timeout_ms.max(join.session_timeout_ms)),
        Request::Fetch(fetch) => i64::from(fetch.max_wait_ms),
        _ => 0,
    };
    config.request_timeout.saturating_add(Duration::from_millis(u64::try_from(extra).unwrap_or(0)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calls that wait on one line, and whether there is something to do on it.
#[derive(Default)]
struct Waiting {
    ready: AtomicBool,
    wakers: Mutex<HashMap<u64, Waker>>,
}

impl Waiting {
    fn register(&self, id: u64, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        match wakers.get_mut(&id) {
            Some(known) => known.clone_from(waker),
            None => drop(wakers.insert(id, waker.clone())),
        }
    }

    fn wake_one(&self, id: u64) {
        let waker = lock(&self.wakers).get(&id).cloned();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn forget(&self, id: u64) {
        lock(&self.wakers).remove(&id);
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.store(true, Ordering::Release);
        // Woken outside of the lock: a waker may poll, and so register, at once.
        let wakers: Vec<Waker> = lock(&self.wakers).values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One broker's connection, in whatever state it is.
struct Line {
    to: Endpoint,
    connector: Arc<dyn Connector>,
    clock: Arc<dyn Clock>,
    config: Arc<WireConfig>,
    waiting: Arc<Waiting>,
    /// `waiting` as a waker.
    waker: Waker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    next_id: u64,
    /// Calls that were not answered yet, or whose answer was not taken yet.
    calls: HashMap<u64, Pending>,
    /// Those that were not written yet, in order.
    queue: VecDeque<u64>,
    /// How often in a row the broker could not be reached, and when it may be tried again.
    failures: u32,
    retry_at: Duration,
    last_error: Option<Error>,
}

impl State {
    /// What both sides speak, once the connection may be used.
    fn versions(&self) -> Option<Arc<Versions>> {
        match &self.phase {
            Phase::Open(open) if open.proving.is_none() => open.versions.clone(),
            _ => None,
        }
    }
}

struct Pending {
    /// `None` when only the versions are wanted, and after it was written.
    request: Option<Request>,
    outcome: Option<Result<Outcome>>,
}

enum Outcome {
    Response(Response),
    Ready(Arc<Versions>),
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Connecting(BoxFuture<'static, io::Result<Box<dyn Link>>>, BoxFuture<'static, ()>),
    Open(Box<Open>),
}

struct Open {
    link: Box<dyn Link>,
    codec: ClientConnection,
    versions: Option<Arc<Versions>>,
    /// What is missing until the broker knows who we are; calls wait meanwhile.
    proving: Option<Proving>,
    /// When the broker wants to know it again.
    prove_at: Duration,
    /// Whether it has answered anything but who and what it is.
    answered: bool,
    /// What is to be written, and how much was put in and taken out of it over time.
    out: VecDeque<Bytes>,
    queued: u64,
    written: u64,
    flushed: bool,
    /// Which call a correlation id belongs to.
    sent: HashMap<i32, u64>,
    /// Calls without an answer, with what must be written until they are done.
    unanswered: VecDeque<(u64, u64)>,
    last_used: Duration,
}

/// Where a login stands.
enum Proving {
    /// The mechanism is to be agreed on, and will be as soon as the versions are known.
    Due,
    /// The mechanism was proposed.
    Proposed,
    /// The mechanism's messages go back and forth.
    Exchange(Exchange),
}

impl Open {
    fn push(&mut self, pieces: Vec<Bytes>) {
        for piece in pieces {
            self.queued += piece.len() as u64;
            self.out.push_back(piece);
        }
        self.flushed = false;
    }
}

impl Line {
    /// Does all that can be done without waiting.
    fn drive(&self, state: &mut State) {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            let again = match &mut state.phase {
                Phase::Idle => self.drive_idle(state),
                Phase::Connecting(..) => self.drive_connecting(state, &mut cx),
                Phase::Open(_) => match self.drive_open(state, &mut cx) {
                    Ok(again) => again,
                    Err(error) => {
                        self.fail(state, error);
                        false
                    }
                },
            };
            if !again {
                return;
            }
        }
    }

    fn drive_idle(&self, state: &mut State) -> bool {
        if state.queue.is_empty() {
            return false;
        }
        if self.clock.monotonic() < state.retry_at {
            let error = state.last_error.as_ref().map_or_else(|| self.lost(broken("it was closed")), repeat);
            self.fail_calls(state, &error);
            return false;
        }
        let (connector, to) = (Arc::clone(&self.connector), self.to.clone());
        let connecting = Box::pin(async move { connector.connect(&to).await });
        state.phase = Phase::Connecting(connecting, self.clock.sleep(self.config.connect_timeout));
        true
    }

    fn drive_connecting(&self, state: &mut State, cx: &mut Context<'_>) -> bool {
        let Phase::Connecting(connecting, timeout) = &mut state.phase else { return true };
        let error = match connecting.as_mut().poll(cx) {
            Poll::Ready(Ok(link)) => {
                let mut open = Box::new(Open {
                    link,
                    codec: ClientConnection::new(Some(self.config.client_id.clone()), self.config.receive_max_bytes),
                    versions: None,
                    proving: self.config.login.is_some().then_some(Proving::Due),
                    prove_at: Duration::MAX,
                    answered: false,
                    out: VecDeque::new(),
                    queued: 0,
                    written: 0,
                    flushed: true,
                    sent: HashMap::new(),
                    unanswered: VecDeque::new(),
                    last_used: self.clock.monotonic(),
                });
                match hello(&mut open, HELLO_VERSION) {
                    Ok(()) => {
                        state.phase = Phase::Open(open);
                        return true;
                    }
                    Err(error) => error,
                }
            }
            Poll::Ready(Err(error)) => of_link(&error),
            Poll::Pending => match timeout.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(()) => {
                    broken(format!("no connection after {} ms", self.config.connect_timeout.as_millis()))
                }
            },
        };
        self.unreachable(state, error);
        false
    }

    /// The broker cannot be reached: all calls fail, and the next ones for a while.
    fn unreachable(&self, state: &mut State, error: Error) {
        let pause = self.config.reconnect_backoff.saturating_mul(1 << state.failures.min(20));
        state.failures += 1;
        state.retry_at = self.clock.monotonic() + pause.min(self.config.reconnect_backoff_max);
        state.phase = Phase::Idle;
        let error = error.context(format_args!("cannot connect to {}", self.to));
        self.fail_calls(state, &error);
        state.last_error = Some(error);
    }

    /// `Ok(true)` when there is more to do at once.
    fn drive_open(&self, state: &mut State, cx: &mut Context<'_>) -> Result<bool> {
        let Phase::Open(open) = &mut state.phase else { return Ok(true) };
        let now = self.clock.monotonic();
        let idle = open.sent.is_empty() && open.unanswered.is_empty() && open.out.is_empty();
        if idle && open.versions.is_some() && open.proving.is_none() && !state.queue.is_empty() {
            // Unused for a while: the broker may have closed it long ago, and the request would be lost in it.
            let stale = now.saturating_sub(open.last_used) >= self.config.max_idle;
            if stale || !matches!(read(open, cx), Ok(false)) {
                state.phase = Phase::Idle;
                return Ok(true);
            }
        }
        if let Some(versions) = &open.versions {
            let versions = Arc::clone(versions);
            if now >= open.prove_at && open.proving.is_none() && open.sent.is_empty() {
                open.proving = Some(Proving::Due);
            }
            if let (Some(Proving::Due), Some(login)) = (&open.proving, &self.config.login) {
                let mechanism = login.credentials.mechanism.name().to_owned();
                ask(open, &SaslHandshakeRequest { mechanism }.into(), HANDSHAKE_VERSION)?;
                open.proving = Some(Proving::Proposed);
            }
            // With a login due, what is under way is waited for first.
            while open.proving.is_none()
                && now < open.prove_at
                && let Some(id) = state.queue.pop_front()
            {
                // A call that was dropped while it waited has left its place in the queue.
                let Some(call) = state.calls.get_mut(&id) else { continue };
                open.last_used = now;
                let outcome = match call.request.take() {
                    None => Ok(Outcome::Ready(Arc::clone(&versions))),
                    Some(request) => match encode(open, &request, &versions) {
                        Ok(sent) => {
                            match sent {
                                Some(correlation_id) => drop(open.sent.insert(correlation_id, id)),
                                None => open.unanswered.push_back((open.queued, id)),
                            }
                            continue;
                        }
                        Err(error) => Err(error.context(format_args!("broker {}", self.to))),
                    },
                };
                call.outcome = Some(outcome);
                self.waiting.wake_one(id);
            }
        }
        write(open, cx)?;
        while let Some((mark, id)) = open.unanswered.front().copied() {
            if open.written < mark {
                break;
            }
            open.unanswered.pop_front();
            let response = Response::Produce(ProduceResponse::default());
            complete(&mut state.calls, &self.waiting, id, Ok(Outcome::Response(response)));
        }
        let mut more = false;
        loop {
            let received = read(open, cx)?;
            while let Some((correlation_id, response)) = open.codec.poll_response().map_err(nonsense)? {
                open.last_used = now;
                if let Some(id) = open.sent.remove(&correlation_id) {
                    open.answered = true;
                    // A login may be due that has waited for this.
                    more |= now >= open.prove_at;
                    complete(&mut state.calls, &self.waiting, id, Ok(Outcome::Response(response)));
                    continue;
                }
                match (response, &open.versions, &mut open.proving) {
                    (Response::ApiVersions(response), None, _) => {
                        // A broker that does not know our version of this answers in version 0, and with what it speaks.
                        if !response.error_code.is_ok() && response.error_code != ErrorCode::UNSUPPORTED_VERSION {
                            let code = response.error_code.name();
                            return Err(broken(format!("the broker refused to say what it speaks: {code}")));
                        }
                        if response.api_keys.is_empty() {
                            // Before 2.4 the answer is empty: ask again in version 0.
                            hello(open, 0)?;
                        } else {
                            open.versions = Some(Arc::new(Versions::from(&response)));
                            if open.proving.is_none() {
                                state.failures = 0;
                            }
                        }
                        more = true;
                    }
                    (Response::SaslHandshake(response), _, Some(Proving::Proposed)) => {
                        self.agreed(open, &response, now)?;
                        more = true;
                    }
                    (Response::SaslAuthenticate(response), _, Some(Proving::Exchange(_))) => {
                        if self.heard(open, &response, now)? {
                            state.failures = 0;
                        }
                        more = true;
                    }
                    // Anything else answers a call that was dropped.
                    _ => {}
                }
            }
            if !received {
                return Ok(more);
            }
        }
    }

    /// The broker has answered our choice of a mechanism: the exchange begins.
    fn agreed(&self, open: &mut Open, response: &SaslHandshakeResponse, now: Duration) -> Result<()> {
        let Some(Login { credentials, entropy }) = &self.config.login else { return Ok(()) };
        if !response.error_code.is_ok() {
            let message = format!(
                "the broker takes no sasl_mechanism={} here, but {}",
                credentials.mechanism.name(),
                if response.mechanisms.is_empty() { "no SASL".to_owned() } else { response.mechanisms.join(", ") },
            );
            return Err(Error::from_code(response.error_code, message));
        }
        let mut nonce = blake3::Hasher::new_keyed(entropy);
        nonce.update(self.to.to_string().as_bytes());
        nonce.update(&self.clock.now().to_le_bytes());
        nonce.update(&now.as_nanos().to_le_bytes());
        // Two connections at one moment differ in where they lie.
        nonce.update(&(std::ptr::from_ref(open) as usize).to_le_bytes());
        let exchange = Exchange::new(credentials.clone(), &nonce.finalize().as_bytes()[..24]);
        let first = exchange.first();
        open.proving = Some(Proving::Exchange(exchange));
        authenticate(open, first)
    }

    /// The broker has answered a message of the exchange; whether that was the last.
    fn heard(&self, open: &mut Open, response: &SaslAuthenticateResponse, now: Duration) -> Result<bool> {
        let Some(Proving::Exchange(exchange)) = &mut open.proving else { return Ok(false) };
        let username = self.config.login.as_ref().map_or("", |login| login.credentials.username.as_str());
        if !response.error_code.is_ok() {
            let said = response.error_message.as_deref().filter(|said| !said.is_empty());
            let said = said.unwrap_or_else(|| response.error_code.message());
            return Err(Error::from_code(response.error_code, format!("{said} username={username}")));
        }
        let answer = exchange.answer(&response.auth_bytes);
        let answer = answer.map_err(|error| {
            Error::from_code(ErrorCode::SASL_AUTHENTICATION_FAILED, format!("{error} username={username}"))
        })?;
        match answer {
            Some(message) => authenticate(open, message).map(|()| false),
            None => {
                open.proving = None;
                let lifetime = u64::try_from(response.session_lifetime_ms).unwrap_or(0);
                open.prove_at = match lifetime {
                    0 => Duration::MAX,
                    lifetime => now + Duration::from_millis(lifetime / 10 * SESSION_TENTHS),
                };
                Ok(true)
            }
        }
    }

    fn lost(&self, error: Error) -> Error {
        error.context(format_args!("connection to {} is lost", self.to))
    }

    /// Gives the connection up.
    fn fail(&self, state: &mut State, error: Error) {
        if let Phase::Open(open) = &state.phase {
            // What it may be where the broker does not say it.
            let hint = match (open.versions.is_some(), open.proving.is_some(), open.answered) {
                _ if error.code().is_some() || error.kind() != ErrorKind::Retriable => "",
                (false, ..) => "; is it a Kafka broker, and does security_protocol fit its listener?",
                (_, true, _) => "; it was asked to log in: does its listener do SASL?",
                (_, false, false) => "; if its listener does SASL, set security_protocol and sasl_mechanism",
                _ => "",
            };
            let is_new = open.versions.is_none() || open.proving.is_some();
            let error = match hint {
                "" => error,
                hint => broken(format!("{error}{hint}")),
            };
            if is_new && error.kind() != ErrorKind::Closed {
                // It listens, but does not talk to us: as good as unreachable, and a reason to pause before the next try.
                return self.unreachable(state, error);
            }
            state.phase = Phase::Idle;
            return self.fail_calls(state, &self.lost(error));
        }
        state.phase = Phase::Idle;
        self.fail_calls(state, &self.lost(error));
    }

    fn fail_calls(&self, state: &mut State, error: &Error) {
        state.queue.clear();
        for (id, call) in &mut state.calls {
            if call.outcome.is_none() {
                call.outcome = Some(Err(repeat(error)));
                self.waiting.wake_one(*id);
            }
        }
    }
}

/// The connection is of no more use; another may be.
fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Retriable, message)
}

/// What a link failed with. Some of that trying again will not mend.
fn of_link(error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::InvalidInput => ErrorKind::Invalid,
        _ => ErrorKind::Retriable,
    };
    Error::new(kind, error.to_string())
}

/// The broker's bytes are not Kafka's protocol.
fn nonsense(error: ProtocolError) -> Error {
    match error {
        // A TLS record (RFC 8446, section 5.1) where the size of an answer should be: an alert, version 3.
        ProtocolError::FrameTooLarge { size, .. } if size >> 16 == 0x1503 => {
            broken("the listener speaks TLS: set security_protocol to SSL or SASL_SSL")
        }
        error => broken(error.to_string()),
    }
}

fn complete(calls: &mut HashMap<u64, Pending>, waiting: &Waiting, id: u64, outcome: Result<Outcome>) {
    if let Some(call) = calls.get_mut(&id) {
        call.outcome = Some(outcome);
        waiting.wake_one(id);
    }
}

/// Asks the broker what it speaks: the first request on every connection.
fn hello(open: &mut Open, version: i16) -> Result<()> {
    let request = ApiVersionsRequest {
        client_software_name: "ottla".to_owned(),
        client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    ask(open, &request.into(), version)
}

/// Puts a request of the connection's own into what is to be written.
fn ask(open: &mut Open, request: &Request, version: i16) -> Result<()> {
    let outgoing = open.codec.request(request, version)?;
    open.push(outgoing.bytes);
    Ok(())
}

/// Sends a message of the login's exchange.
fn authenticate(open: &mut Open, message: Vec<u8>) -> Result<()> {
    let version = match &open.versions {
        Some(versions) => versions.version_for(ApiKey::SASL_AUTHENTICATE)?,
        None => 0,
    };
    ask(open, &SaslAuthenticateRequest { auth_bytes: message.into() }.into(), version)
}

/// Puts a request into what is to be written; the correlation id if an answer will come.
fn encode(open: &mut Open, request: &Request, versions: &Versions) -> Result<Option<i32>> {
    let version = versions.version_for(request.api_key())?;
    let outgoing = open.codec.request(request, version)?;
    open.push(outgoing.bytes);
    Ok(outgoing.expects_response.then_some(outgoing.correlation_id))
}

/// Writes until the link takes no more.
fn write(open: &mut Open, cx: &mut Context<'_>) -> Result<()> {
    while !open.out.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&open.out) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        match Pin::new(&mut open.link).poll_write_vectored(cx, &slices[..count]) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(0)) => return Err(broken("the broker takes no more bytes")),
            Poll::Ready(Ok(mut written)) => {
                open.written += written as u64;
                while let Some(piece) = open.out.front_mut() {
                    if piece.len() > written {
                        piece.advance(written);
                        break;
                    }
                    written -= piece.len();
                    open.out.pop_front();
                }
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Poll::Ready(Err(error)) => return Err(of_link(&error)),
        }
    }
    if !open.flushed {
        match Pin::new(&mut open.link).poll_flush(cx) {
            Poll::Ready(Ok(())) => open.flushed = true,
            Poll::Ready(Err(error)) => return Err(of_link(&error)),
            Poll::Pending => {}
        }
    }
    Ok(())
}

/// Reads once; false when there is nothing to read yet. The end of the stream is an error.
fn read(open: &mut Open, cx: &mut Context<'_>) -> Result<bool> {
    let Open { codec, link, .. } = open;
    loop {
        let outcome = codec.read_with(|space| match Pin::new(&mut *link).poll_read(cx, space) {
            Poll::Ready(read) => read.map_err(Some),
            Poll::Pending => Err(None),
        });
        return match outcome {
            Err(None) => Ok(false),
            Ok(0) => Err(broken("the broker closed it")),
            Ok(_) => Ok(true),
            Err(Some(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(Some(error)) => Err(of_link(&error)),
        };
    }
}

/// One call on a line, from its first poll to its answer.
struct Call {
    line: Arc<Line>,
    id: Option<u64>,
    request: Option<Request>,
    timeout: Duration,
    timer: Option<BoxFuture<'static, ()>>,
}

impl Call {
    fn new(line: Arc<Line>, request: Option<Request>, timeout: Duration) -> Self {
        Self { line, id: None, request, timeout, timer: None }
    }

    async fn answer(self) -> Result<Response> {
        match self.await? {
            Outcome::Response(response) => Ok(response),
            Outcome::Ready(_) => Err(Error::new(ErrorKind::Internal, "a request was answered with versions")),
        }
    }
}

impl Future for Call {
    type Output = Result<Outcome>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let line = Arc::clone(&this.line);
        let mut guard = lock(&line.state);
        let state = &mut *guard;
        let (id, first) = match this.id {
            Some(id) => (id, false),
            None => {
                let id = state.next_id;
                state.next_id += 1;
                state.calls.insert(id, Pending { request: this.request.take(), outcome: None });
                state.queue.push_back(id);
                this.id = Some(id);
                (id, true)
            }
        };
        // Registered before the work is taken up: whoever takes it up wakes this call when its answer is there.
        line.waiting.register(id, cx.waker());
        if line.waiting.ready.swap(false, Ordering::AcqRel) || first {
            line.drive(state);
        }
        if let Some(outcome) = state.calls.get_mut(&id).and_then(|call| call.outcome.take()) {
            return Poll::Ready(outcome);
        }
        let timer = this.timer.get_or_insert_with(|| line.clock.sleep(this.timeout));
        if timer.as_mut().poll(cx).is_ready() {
            // The answer may still come, and nobody could tell what the next one belongs to: a new connection is cleaner.
            let error = format!("no answer after {} ms", this.timeout.as_millis());
            line.fail(state, broken(error.as_str()));
            return match state.calls.get_mut(&id).and_then(|call| call.outcome.take()) {
                Some(outcome) => Poll::Ready(outcome),
                None => Poll::Ready(Err(Error::new(ErrorKind::Timeout, error))),
            };
        }
        Poll::Pending
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        lock(&self.line.state).calls.remove(&id);
        self.line.waiting.forget(id);
    }
}
