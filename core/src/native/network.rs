//! Links over TCP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::runtime::Handle;

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
}

impl TcpConnector {
    /// A connector whose sockets belong to the runtime behind `handle`; its links may be polled from anywhere.
    pub fn new(handle: Handle, options: TcpOptions) -> Self {
        Self { handle, options }
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, io::Result<Box<dyn Link>>> {
        let (to, options) = (to.clone(), self.options);
        let connecting = self.handle.spawn(async move { connect(&to, options).await });
        Box::pin(async move {
            let stream = connecting.await.map_err(io::Error::other)??;
            Ok(Box::new(TcpLink(stream)) as Box<dyn Link>)
        })
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

/// A TCP stream with the traits that a link has.
#[derive(Debug)]
struct TcpLink(TcpStream);

impl AsyncRead for TcpLink {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut self.0).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for TcpLink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
