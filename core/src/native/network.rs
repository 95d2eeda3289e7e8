//! Links over TCP, with or without TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::tls::{self, TlsOptions};
use crate::transport::{Connector, Endpoint, Link};

/// What can be set on a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpOptions {
    /// The receive buffer, in bytes; the system's choice when not set.
    pub receive_buffer_bytes: Option<usize>,
    /// The send buffer, in bytes; the system's choice when not set.
    pub send_buffer_bytes: Option<usize>,
}

/// Opens TCP connections.
#[derive(Clone, Debug)]
pub struct TcpConnector {
    handle: Handle,
    options: TcpOptions,
    tls: Option<TlsOptions>,
}

impl TcpConnector {
    /// A connector whose sockets belong to the runtime behind `handle`; its links may be polled from anywhere. With `tls` they
    /// are encrypted.
    pub fn new(handle: Handle, options: TcpOptions, tls: Option<TlsOptions>) -> Self {
        Self { handle, options, tls }
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, io::Result<Box<dyn Link>>> {
        let (to, options, tls) = (to.clone(), self.options, self.tls.clone());
        let mut connecting = Ending(self.handle.spawn(async move {
            let Some(tls) = tls else {
                return connect(&to, options)
                    .await
                    .map(|stream| Box::new(TokioLink { stream, explain: |error| error }) as Box<dyn Link>);
            };
            // Before anybody is called: what is wrong with the options is so whether they answer or not.
            let connector = TlsConnector::from(tls.load()?);
            let name = tls::server_name(&to.host)?;
            let stream = connect(&to, options).await?;
            let stream = connector.connect(name, stream).await.map_err(tls::explain_handshake)?;
            Ok(Box::new(TokioLink { stream, explain: tls::explain }) as Box<dyn Link>)
        }));
        Box::pin(async move { (&mut connecting.0).await.map_err(io::Error::other)? })
    }
}

/// A task that ends with who waits for it: a peer that never says anything must not keep a socket for ever.
struct Ending<T>(JoinHandle<T>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tries every address of the name in turn; the error tells them all.
async fn connect(to: &Endpoint, options: TcpOptions) -> io::Result<TcpStream> {
    let addresses = lookup_host((to.host.as_str(), to.port))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("the name {} cannot be resolved: {error}", to.host)))?;
    let mut failed = Vec::new();
    let mut kind = io::ErrorKind::NotFound;
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let attempt = async {
            let socket = socket?;
            if let Some(bytes) = options.receive_buffer_bytes {
                socket.set_recv_buffer_size(u32::try_from(bytes).unwrap_or(u32::MAX))?;
            }
            if let Some(bytes) = options.send_buffer_bytes {
                socket.set_send_buffer_size(u32::try_from(bytes).unwrap_or(u32::MAX))?;
            }
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        };
        match attempt.await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                kind = error.kind();
                failed.push(format!("{address}: {error}"));
            }
        }
    }
    if failed.is_empty() {
        return Err(io::Error::new(kind, format!("the name {} has no address", to.host)));
    }
    Err(io::Error::new(kind, failed.join("; ")))
}

/// A stream of tokio's with the traits that a link has.
struct TokioLink<S> {
    stream: S,
    /// What a failed read means: with TLS 1.3 a broker refuses a client's certificate when the client's handshake is over.
    explain: fn(io::Error) -> io::Error,
}

impl<S: tokio::io::AsyncRead + Unpin> AsyncRead for TokioLink<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err((self.explain)(error))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> AsyncWrite for TokioLink<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
