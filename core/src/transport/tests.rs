//! The suite that every transport passes, on those that need no platform: in process, and a wire over pipes in memory. The
//! time is simulated. `core/tests/transport.rs` has it on TCP.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures::channel::mpsc;
use futures::executor::LocalPool;
use futures::future::{self, BoxFuture, FutureExt};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures::stream::{FuturesUnordered, StreamExt};
use futures::task::LocalSpawnExt;

use super::{Connector, Embedded, Endpoint, Link, RunInline, Transport, Wire, WireConfig, conformance};
use crate::Result;
use crate::broker::{BrokerConfig, Context as Caller, SERVED};
use crate::clock::{Clock, ManualClock};
use crate::protocol::ServerConnection;
use crate::storage::memory::MemoryDevice;

type Driver = BoxFuture<'static, ()>;

/// Runs the suite on what `transport` makes of an embedded broker, and the drivers that it hands over.
fn check(
    nobody: Option<Endpoint>,
    transport: impl FnOnce(Embedded, Arc<dyn Clock>, mpsc::UnboundedSender<Driver>) -> Arc<dyn Transport>,
) {
    let clock = ManualClock::new(1_700_000_000_000);
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let device = Arc::new(MemoryDevice::new());
    let broker = Embedded::open(device, BrokerConfig::default(), Arc::clone(&shared), Arc::new(RunInline), 1).unwrap();
    let mut pool = LocalPool::new();
    let (spawn, drivers) = mpsc::unbounded::<Driver>();
    pool.spawner().spawn_local(drivers.for_each_concurrent(None, |driver| driver)).unwrap();
    spawn.unbounded_send(broker.drive()).unwrap();
    let transport = transport(broker, Arc::clone(&shared), spawn);
    let endpoint = Endpoint::new("broker", 9092);
    let suite = async move { conformance(&*transport, &*shared, &endpoint, nobody.as_ref()).await };
    let mut done = pool.spawner().spawn_local_with_handle(suite).unwrap();
    loop {
        pool.run_until_stalled();
        if (&mut done).now_or_never().is_some() {
            return;
        }
        let next = clock.next_wake().expect("everybody waits, and for nothing");
        clock.advance(next.saturating_sub(clock.monotonic()));
    }
}

#[test]
fn the_embedded_broker_is_a_transport() {
    check(None, |broker, _, _| Arc::new(broker));
}

#[test]
fn a_wire_is_a_transport_whatever_its_links_take_at_a_time() {
    for room in [1009, 64 << 10, usize::MAX] {
        check(Some(Endpoint::new("nobody", 9092)), |broker, clock, spawn| {
            let connector = Pipes { broker, room, spawn };
            Arc::new(Wire::new(Arc::new(connector), clock, WireConfig::default()))
        });
    }
}

/// Links in memory to an embedded broker, at every endpoint but `nobody`.
struct Pipes {
    broker: Embedded,
    /// How many bytes a pipe holds.
    room: usize,
    spawn: mpsc::UnboundedSender<Driver>,
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").field("room", &self.room).finish_non_exhaustive()
    }
}

impl Connector for Pipes {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, io::Result<Box<dyn Link>>> {
        if to.host == "nobody" {
            return future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed();
        }
        let (there, back) = (Pipe::new(self.room), Pipe::new(self.room));
        let server = serve(Ends { read: there.clone(), write: back.clone() }, self.broker.clone());
        self.spawn.unbounded_send(server.map(drop).boxed()).unwrap();
        let link: Box<dyn Link> = Box::new(Ends { read: back, write: there });
        future::ready(Ok(link)).boxed()
    }
}

/// The broker's end of a link: requests in their order, answers in theirs.
async fn serve(link: Ends, broker: Embedded) -> Result<()> {
    let (mut reader, mut writer) = link.split();
    let mut connection = ServerConnection::new(Arc::from(SERVED), 64 << 20);
    let mut waiting = FuturesUnordered::new();
    loop {
        while let Some(received) = connection.poll_request()? {
            let caller = Caller { version: received.version, client_id: "test".into(), host: "/pipe".into() };
            let call = broker.call(&caller, received.request);
            if let Some(ticket) = received.ticket {
                waiting.push(async move { (ticket, call.response().await) });
            }
        }
        while let Some(chunks) = connection.poll_transmit() {
            for chunk in chunks {
                writer.write_all(&chunk).await?;
            }
        }
        let mut buffer = [0; 4096];
        let read =
            async { if connection.wants_bytes() { reader.read(&mut buffer).await } else { future::pending().await } };
        let answered = async { if waiting.is_empty() { future::pending().await } else { waiting.next().await } };
        match future::select(Box::pin(read), Box::pin(answered)).await {
            future::Either::Left((read, answered)) => {
                drop(answered);
                match read? {
                    0 => return Ok(()),
                    read => connection.read_buffer().extend_from_slice(&buffer[..read]),
                }
            }
            future::Either::Right((answered, read)) => {
                drop(read);
                if let Some((ticket, response)) = answered {
                    connection.respond(ticket, &response?)?;
                }
            }
        }
    }
}

/// A stream of bytes in one direction.
#[derive(Clone)]
struct Pipe(Arc<Mutex<PipeState>>);

struct PipeState {
    bytes: VecDeque<u8>,
    room: usize,
    closed: bool,
    waiting: Vec<Waker>,
}

impl Pipe {
    fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(PipeState { bytes: VecDeque::new(), room, closed: false, waiting: Vec::new() })))
    }

    /// Lets `act` do what it can; `None` waits until the other side has done something.
    fn poll<T>(&self, cx: &Context<'_>, act: impl FnOnce(&mut PipeState) -> Option<T>) -> Poll<T> {
        let mut state = self.0.lock().unwrap();
        match act(&mut state) {
            None => {
                state.waiting.push(cx.waker().clone());
                Poll::Pending
            }
            Some(done) => {
                state.waiting.drain(..).for_each(Waker::wake);
                Poll::Ready(done)
            }
        }
    }
}

/// One side of a link.
struct Ends {
    read: Pipe,
    write: Pipe,
}

impl Drop for Ends {
    fn drop(&mut self) {
        for pipe in [&self.read, &self.write] {
            let mut state = pipe.0.lock().unwrap();
            state.closed = true;
            state.waiting.drain(..).for_each(Waker::wake);
        }
    }
}

impl AsyncRead for Ends {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read.poll(cx, |state| {
            let count = buffer.len().min(state.bytes.len());
            for (byte, from) in buffer.iter_mut().zip(state.bytes.drain(..count)) {
                *byte = from;
            }
            (count > 0 || state.closed).then_some(Ok(count))
        })
    }
}

impl AsyncWrite for Ends {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write.poll(cx, |state| {
            if state.closed {
                return Some(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = bytes.len().min(state.room - state.bytes.len());
            state.bytes.extend(&bytes[..count]);
            (count > 0).then_some(Ok(count))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
