//! The TCP server in front of an embedded broker: what `ottla serve` runs.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout};

use super::Runtime;
use crate::broker::{Context, SERVED};
use crate::protocol::ServerConnection;
use crate::transport::Embedded;
use crate::{Error, ErrorKind, Result};

/// Limits of a [`Server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// The largest request, bytes; default 100 MiB, as Kafka's `socket.request.max.bytes`.
    pub max_request_bytes: usize,
    /// How many bytes of requests that are not complete yet may be held for all connections together; default 256 MiB, as
    /// Kafka's `queued.max.request.bytes`, which has none. A connection waits for room, and is closed if there is none within
    /// 2 s: so those that hold it all, and want more, let go. Its first 64 KiB are not counted, so that small requests are
    /// served whatever others send.
    pub max_buffered_bytes: usize,
    /// The most connections at a time; default 4,096. One more is closed at once.
    pub max_connections: usize,
    /// How long a connection may be silent before it is closed, or take nothing of an answer; default 10 minutes, as Kafka's
    /// `connections.max.idle.ms`.
    pub max_idle: Duration,
    /// How long the rest of a request may take to arrive once it has begun; default 30 s.
    pub max_request_time: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_request_bytes: crate::protocol::connection::DEFAULT_MAX_FRAME,
            max_buffered_bytes: 256 << 20,
            max_connections: 4_096,
            max_idle: Duration::from_secs(600),
            max_request_time: Duration::from_secs(30),
        }
    }
}

/// A listener whose connections speak to one embedded broker. Dropping it closes the listener and its connections; the broker
/// stays open.
pub struct Server {
    address: SocketAddr,
    accept: JoinHandle<()>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `listen` (`HOST:PORT`; port 0 takes a free one) for clients of `broker`.
    ///
    /// # Errors
    /// The address cannot be parsed or is in use; the message names it.
    pub fn start(runtime: &Runtime, broker: Embedded, listen: &str, options: ServerOptions) -> Result<Self> {
        let listener = std::net::TcpListener::bind(listen).map_err(|error| {
            let hint = if error.kind() == io::ErrorKind::AddrInUse {
                "; another program listens there: stop it or choose another port with --listen HOST:PORT"
            } else {
                ""
            };
            let kind =
                if error.kind() == io::ErrorKind::AddrInUse { ErrorKind::AlreadyExists } else { ErrorKind::Invalid };
            Error::new(kind, format!("cannot listen on {listen}: {error}{hint}"))
        })?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _entered = runtime.handle().enter();
        let listener = TcpListener::from_std(listener)?;
        let accept = runtime.spawn(accept(listener, broker, options));
        Ok(Self { address, accept })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and its connections, and returns when the address is free again.
    pub async fn close(mut self) {
        self.accept.abort();
        // What it ended with was logged where it happened; that it was aborted is no news.
        drop((&mut self.accept).await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, broker: Embedded, options: ServerOptions) {
    let room = Arc::new(Semaphore::new(options.max_connections));
    let budget = Arc::new(Semaphore::new(options.max_buffered_bytes));
    // Aborting this task drops the set and with it every connection.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    log::warn!(
                        "a connection is refused, there are too many peer={peer} max={}",
                        options.max_connections
                    );
                    continue;
                };
                let (broker, buffered) = (broker.clone(), Buffered { budget: Arc::clone(&budget), held: None });
                connections.spawn(async move {
                    let _permit = permit;
                    let served = match stream.set_nodelay(true) {
                        Ok(()) => {
                            let (reader, writer) = stream.into_split();
                            serve_within(reader, writer, &peer.ip().to_string(), broker, buffered, options).await
                        }
                        Err(error) => Err(error.into()),
                    };
                    if let Err(error) = served {
                        log::info!("a connection is closed peer={peer} reason={error}");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait until some connections are gone.
                log::warn!("a connection cannot be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What one connection holds of the bytes for requests.
struct Buffered {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

/// How long a connection waits for others to let go.
const MAX_WAIT_FOR_ROOM: Duration = Duration::from_secs(2);
/// So many bytes everybody may hold.
const FREE_BYTES: usize = 64 << 10;

impl Buffered {
    /// Returns when `bytes` may be held, or fewer than before.
    async fn hold(&mut self, bytes: usize, options: &ServerOptions) -> Result<()> {
        let wanted = bytes.saturating_sub(FREE_BYTES).min(options.max_buffered_bytes);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted > held {
            let more = u32::try_from(wanted - held).unwrap_or(u32::MAX);
            let room = timeout(MAX_WAIT_FOR_ROOM, Arc::clone(&self.budget).acquire_many_owned(more)).await;
            let room = room.map_err(|_| Error::new(ErrorKind::Full, "unfinished requests take up too much memory"))?;
            let permit = room.map_err(|_| Error::new(ErrorKind::Closed, "the server is closed"))?;
            match &mut self.held {
                Some(held) => held.merge(permit),
                None => self.held = Some(permit),
            }
        } else {
            self.let_go(bytes);
        }
        Ok(())
    }

    /// Gives back what is held beyond `bytes`.
    fn let_go(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.held {
            drop(permit.split(permit.num_permits().saturating_sub(bytes.saturating_sub(FREE_BYTES))));
        }
    }
}

/// Serves one connection to `broker`, until the client at `host` closes it or says something that is not Kafka's protocol.
/// [`Server`] does this for what it accepts; links of other kinds, as a Unix socket's, are served the same way.
///
/// # Errors
/// Why the connection was given up.
pub async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    host: &str,
    broker: Embedded,
    options: ServerOptions,
) -> Result<()> {
    let budget = Arc::new(Semaphore::new(options.max_buffered_bytes));
    serve_within(reader, writer, host, broker, Buffered { budget, held: None }, options).await
}

/// As [`serve`], within what all connections may hold.
async fn serve_within(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    host: &str,
    broker: Embedded,
    mut buffered: Buffered,
    options: ServerOptions,
) -> Result<()> {
    let mut connection = ServerConnection::new(Arc::from(SERVED), options.max_request_bytes);
    let mut waiting = FuturesUnordered::new();
    let host: Arc<str> = format!("/{host}").into();
    let mut client_id: Arc<str> = Arc::from("");
    // Since when the rest of a request has been waited for.
    let mut began: Option<Instant> = None;
    loop {
        loop {
            while let Some(received) = connection.poll_request()? {
                began = None;
                let name = received.client_id.as_deref().unwrap_or("");
                if *client_id != *name {
                    client_id = name.into();
                }
                let context =
                    Context { version: received.version, client_id: Arc::clone(&client_id), host: Arc::clone(&host) };
                let mut call = broker.call(&context, received.request);
                match (received.ticket, call.try_take()) {
                    (Some(ticket), Some(response)) => connection.respond(ticket, &response?)?,
                    (Some(ticket), None) => waiting.push(async move { (ticket, call.response().await) }),
                    // acks=0: nobody waits for the answer; a failure closes the connection, as Kafka does.
                    (None, Some(response)) => check_unacknowledged(&response?)?,
                    (None, None) => {}
                }
            }
            buffered.let_go(connection.buffered());
            let Some(chunks) = connection.poll_transmit() else { break };
            let before = Instant::now();
            write_all(&mut writer, chunks, options.max_idle).await?;
            // Meanwhile nothing was read.
            began = began.map(|began| began + before.elapsed());
        }
        began = if connection.is_mid_frame() { began.or_else(|| Some(Instant::now())) } else { None };
        let wants_bytes = connection.wants_bytes();
        let busy = !waiting.is_empty();
        tokio::select! {
            Some((ticket, response)) = waiting.next(), if busy => {
                connection.respond(ticket, &response?)?;
            }
            read = read_some(&mut reader, &mut connection, &mut buffered, began, busy, &options), if wants_bytes => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

async fn read_some(
    reader: &mut (impl AsyncRead + Unpin),
    connection: &mut ServerConnection,
    buffered: &mut Buffered,
    began: Option<Instant>,
    busy: bool,
    options: &ServerOptions,
) -> Result<usize> {
    let limit = if let Some(began) = began {
        options.max_request_time.saturating_sub(began.elapsed())
    } else if busy {
        // A long poll is under way: silence is what the client promised.
        Duration::MAX
    } else {
        options.max_idle
    };
    let read = async {
        buffered.hold(connection.buffered(), options).await?;
        Ok(reader.read_buf(connection.read_buffer()).await?)
    };
    match timeout(limit, read).await {
        Ok(read) => read,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "nothing arrived in time")),
    }
}

fn check_unacknowledged(response: &crate::protocol::Response) -> Result<()> {
    if let crate::protocol::Response::Produce(response) = response {
        for topic in &response.responses {
            for partition in &topic.partition_responses {
                if partition.error_code != crate::protocol::ErrorCode::NONE {
                    let at = format!(
                        "a produce without acknowledgement failed partition={}-{}",
                        topic.name, partition.index
                    );
                    return Err(Error::from_code(partition.error_code, at));
                }
            }
        }
    }
    Ok(())
}

/// Writes all of it; fails when nothing of it is taken for `max_idle`.
async fn write_all(writer: &mut (impl AsyncWrite + Unpin), chunks: Vec<Bytes>, max_idle: Duration) -> Result<()> {
    let mut chunks = std::collections::VecDeque::from(chunks);
    while !chunks.is_empty() {
        let slices: Vec<io::IoSlice<'_>> = chunks.iter().take(64).map(|chunk| io::IoSlice::new(chunk)).collect();
        let written = timeout(max_idle, writer.write_vectored(&slices)).await;
        let mut written = written.map_err(|_| Error::new(ErrorKind::Timeout, "an answer was not taken in time"))??;
        if written == 0 && chunks.iter().any(|chunk| !chunk.is_empty()) {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        while let Some(first) = chunks.front_mut() {
            if written >= first.len() {
                written -= first.len();
                chunks.pop_front();
            } else {
                first.advance(written);
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
