//! Accepts a bounded number of admin connections. Knows sockets, not what is said on them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections at a time. A few operators and their scripts; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// How long to wait when the system has no file descriptor left to accept with.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of `listener`, as they come.
pub(super) fn incoming(listener: TcpListener) -> ReceiverStream<io::Result<Connection>> {
    // One: who accepts ahead of the server only lengthens the queue.
    let (accepted, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, &accepted) => {}
            () = accepted.closed() => {}
        }
    });
    ReceiverStream::new(stream)
}

async fn accept(listener: TcpListener, accepted: &mpsc::Sender<io::Result<Connection>>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes this semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                // Only latency is lost if the system refuses.
                let _ = stream.set_nodelay(true);
                if accepted.send(Ok(Connection { stream, _permit: permit })).await.is_err() {
                    return;
                }
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// A connection that gives its place to another when it ends.
pub(super) struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
