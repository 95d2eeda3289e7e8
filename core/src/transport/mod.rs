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
use crate::protocol::{Request, Response, Versions};
use crate::{Error, ErrorKind, Result};

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// Port; Kafka's own is 9092.
    pub port: u16,
}

impl Endpoint {
    /// The port that is meant when none is written.
    pub const DEFAULT_PORT: u16 = 9092;

    /// An endpoint of its two parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `host`, `host:port`, `[v6]:port`, with or without a scheme such as `PLAINTEXT://`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("bootstrap address is not HOST:PORT, {why} address={text:?}"))
        };
        let rest = text.trim();
        let rest = rest.split_once("://").map_or(rest, |(_, rest)| rest);
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(|| invalid("a bracket is not closed"))?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(invalid("expected a port after the bracket")),
            }
        } else {
            match rest.split_once(':') {
                // More than one colon without brackets: an IPv6 address alone.
                Some((_, port)) if port.contains(':') => (rest, None),
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        if host.is_empty() {
            return Err(invalid("the host is missing"));
        }
        if host.chars().any(|c| c.is_whitespace() || c == '/' || c == ',') {
            return Err(invalid("the host has a character that no host has"));
        }
        let port = match port {
            None => Self::DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(invalid("the port is not a number from 1 to 65535")),
                Ok(port) => port,
            },
        };
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

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
