//! Accepts a bounded number of admin connections: who comes when there are that many takes the place of the oldest that has
//! not logged in, so that strangers shut nobody out. Knows sockets, not what is said on them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::server::Connected;

/// Connections at a time. A few operators and their scripts; if all of them are logged in, further ones are closed.
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

/// A connection that is open, as whoever accepts sees it.
struct Open {
    is_known: Arc<AtomicBool>,
    leave: oneshot::Sender<()>,
}

async fn accept(listener: TcpListener, accepted: &mpsc::Sender<io::Result<Connection>>) {
    // In the order in which they came.
    let mut open: Vec<Open> = Vec::new();
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        open.retain(|one| !one.leave.is_closed());
        if open.len() >= CONNECTIONS_MAX {
            let Some(at) = open.iter().position(|one| !one.is_known.load(Ordering::Relaxed)) else { continue };
            // One that ended by itself has left already.
            let _ = open.remove(at).leave.send(());
        }
        // Only latency is lost if the system refuses.
        let _ = stream.set_nodelay(true);
        let ((leave, told), is_known) = (oneshot::channel(), Arc::<AtomicBool>::default());
        open.push(Open { is_known: Arc::clone(&is_known), leave });
        let connection = Connection { stream, told: Some(told), caller: Caller { address, is_known } };
        if accepted.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

/// Who is at the other end of a call's connection.
#[derive(Clone)]
pub(super) struct Caller {
    address: SocketAddr,
    /// Somebody logged in on it.
    is_known: Arc<AtomicBool>,
}

impl Caller {
    /// Of a call; none where it came over no socket.
    pub(super) fn of<T>(request: &Request<T>) -> Option<&Caller> {
        request.extensions().get()
    }

    /// Its address and port.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on its connection stays, whoever comes.
    pub(super) fn note_login(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }
}

/// A connection; it ends when it is told to make room.
pub(super) struct Connection {
    stream: TcpStream,
    /// Until whoever accepts is gone.
    told: Option<oneshot::Receiver<()>>,
    caller: Caller,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.told.as_mut().map(|told| Pin::new(told).poll(context)) {
            Some(Poll::Ready(Ok(()))) => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Some(Poll::Ready(Err(_))) => self.told = None,
            Some(Poll::Pending) | None => {}
        }
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
