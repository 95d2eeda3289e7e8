//! Reaching a broker: a typed call, whatever carries it.
//!
//! [`Transport`] is what the client runs on. [`Wire`] is a transport over byte streams, which a [`Connector`] opens; the
//! embedded broker is one without any stream. Who writes another connector or transport runs [`conformance`] on it.

mod conformance;
mod in_process;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};

pub use self::conformance::conformance;
pub use self::in_process::{Call, Embedded, RunInline, Runner};
pub use self::wire::{Login, Wire, WireConfig};
use crate::Result;
pub use crate::protocol::Endpoint;
use crate::protocol::{Request, Response, Versions};

/// Calls brokers. [`conformance`] checks that a transport does what this says.
///
/// A broker answers the requests of one connection in their order, so a request that waits there (a long poll, a member's join)
/// holds up those behind it: who waits uses a [`separate`](Transport::separate) transport.
pub trait Transport: Send + Sync + fmt::Debug {
    /// One request to the broker at `to`. Many may be under way at once; they are sent in the order in which the calls were
    /// first polled. Dropping the call forgets its answer and harms nobody else.
    ///
    /// A Produce with `acks=0` answers a default response once it is written.
    fn call<'a>(&'a self, to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>>;

    /// What the broker at `to` and this library both speak.
    fn versions<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, Result<Arc<Versions>>>;

    /// Closes the connections to `to`; the next call opens them again. Calls under way fail.
    fn close(&self, to: &Endpoint);

    /// A transport to the same brokers with connections of its own.
    fn separate(&self) -> Arc<dyn Transport>;
}

/// A stream of bytes in both directions. Every type with the two traits of `futures::io` is one.
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> Link for T {}

/// Opens links: TCP, TLS, WebSocket, a pipe in memory.
pub trait Connector: Send + Sync + fmt::Debug {
    /// Opens a link to the broker at `to`.
    ///
    /// The error's text says what was tried (names resolved, addresses); [`Wire`] adds for whom and what to do. Its kind says
    /// whether to try again: not after `PermissionDenied` (the peer is not who it should be, or does not want us) and
    /// `InvalidInput` (the options cannot work).
    fn connect<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, io::Result<Box<dyn Link>>>;
}
