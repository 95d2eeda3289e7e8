//! The threads that run drivers, and the system's clock.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

use super::{TcpConnector, TcpOptions, TlsOptions};
use crate::Timestamp;
use crate::client::{Client, ClientConfig};
use crate::clock::Clock;
use crate::transport::{Transport, Wire};

/// A few threads that run drivers and sockets. Clones share them; they end when the last clone is dropped.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Threads>,
}

struct Threads {
    runtime: Option<tokio::runtime::Runtime>,
    clock: Arc<SystemClock>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Never waits, so it may be dropped anywhere, also on one of its own threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Runtime {
    /// Starts the threads: two at most.
    pub fn new() -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, |n| n.get().min(2));
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(4)
            .thread_name("ottla")
            .enable_all()
            .build()?;
        let clock = Arc::new(SystemClock::new(runtime.handle().clone()));
        Ok(Self { inner: Arc::new(Threads { runtime: Some(runtime), clock }) })
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.inner.runtime.as_ref().expect("it is taken only when dropped")
    }

    /// The handle of the runtime below.
    pub fn handle(&self) -> &Handle {
        self.runtime().handle()
    }

    /// The system's clock; its sleeps run on this runtime.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.clock) as Arc<dyn Clock>
    }

    /// Runs a driver until it ends or is aborted.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime().spawn(future)
    }

    /// Waits for `future` on the calling thread, which is not one of the runtime's.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    /// A transport over TCP, with TLS and SASL as `config` says.
    pub fn tcp(&self, config: &ClientConfig) -> Arc<dyn Transport> {
        let options = TcpOptions {
            receive_buffer_bytes: config.receive_buffer_bytes,
            send_buffer_bytes: config.send_buffer_bytes,
        };
        let connector = Arc::new(TcpConnector::new(self.handle().clone(), options, TlsOptions::of(config)));
        let mut wire = config.wire();
        if let Some(login) = &mut wire.login {
            getrandom::fill(&mut login.entropy).expect("the system has random bytes");
        }
        Arc::new(Wire::new(connector, self.clock(), wire))
    }

    /// A client over TCP.
    pub fn client(&self, config: ClientConfig) -> Client {
        Client::new(self.tcp(&config), self.clock(), config)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock {
    handle: Handle,
    start: Instant,
}

impl SystemClock {
    /// A clock whose sleeps run on the runtime behind `handle`.
    pub fn new(handle: Handle) -> Self {
        Self { handle, start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Timestamp)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let _entered = self.handle.enter();
        Box::pin(tokio::time::sleep(duration))
    }
}
