//! The peer port's door: tells Raft's connections from links that carry commands, by their first bytes.
//!
//! ```text
//!   accept ─► peek 8 bytes ─► "KWLINK1\n" ─► a data thread takes the socket over; its proof comes first
//!                          └► anything else ─► the gRPC server, which checks the secret of every call
//! ```
//! Looking takes a bounded time and a bounded number of sockets; it reads nothing away.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::link::MAGIC;
use crate::world::net::{self, Parcel, TcpListener, TcpStream};

/// A caller that says nothing for this long is dropped.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(5);

/// Sockets looked at, at once: far more than a cluster opens, few enough for a stranger to exhaust nothing else.
const LOOKED_AT_MAX: usize = 256;

/// Connections of the gRPC server at a time. A cluster opens a few for each node; a stranger, who is refused only when a
/// call comes, must not use up the files of the whole process.
const CALLERS_MAX: usize = 512;

/// Connections waiting for the gRPC server.
const WAITING_MAX: usize = 64;

/// Between two tries to accept when the process is out of files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Takes over a link's socket.
pub type LinkTaker = Arc<dyn Fn(Parcel) + Send + Sync>;

/// The gRPC connections of the listener; links go to `links`.
pub fn open(listener: TcpListener, links: LinkTaker) -> ReceiverStream<std::io::Result<Caller>> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(accept(listener, links, sender));
    ReceiverStream::new(receiver)
}

async fn accept(listener: TcpListener, links: LinkTaker, calls: mpsc::Sender<std::io::Result<Caller>>) {
    let places = Arc::new(Semaphore::new(LOOKED_AT_MAX));
    let callers = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes this semaphore");
        let stream = tokio::select! {
            () = calls.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the peer port cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        // Small messages that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let (links, calls, callers) = (Arc::clone(&links), calls.clone(), Arc::clone(&callers));
        tokio::spawn(async move {
            match tokio::time::timeout(FIRST_BYTES_TIMEOUT, is_link(&stream)).await {
                Ok(Ok(true)) => {
                    if let Ok(stream) = net::pack(stream) {
                        links(stream);
                    }
                }
                // A closed channel means that the server is stopping.
                Ok(Ok(false)) => {
                    // Beyond the bound it is dropped: a peer tries again soon.
                    if let Ok(place) = callers.try_acquire_owned() {
                        drop(calls.send(Ok(Caller { stream, _place: place })).await);
                    }
                }
                Ok(Err(_)) | Err(_) => {}
            }
            drop(place);
        });
    }
}

/// A connection of the gRPC server; gives its place to another when it ends.
pub struct Caller {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Caller {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

async fn is_link(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; MAGIC.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if seen == MAGIC.len() || first[..seen] != MAGIC[..seen] {
            return Ok(first == *MAGIC);
        }
        // The rest of a greeting is on its way; peeking again at once would only spin.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
