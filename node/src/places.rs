//! A bounded number of connections to a port: who comes when there are that many takes the place of one that has not proved
//! who it is, so that strangers shut nobody out. Knows sockets, not what is said on them.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::Request;
use tonic::transport::server::Connected;

/// The places of one port.
pub struct Places {
    max: usize,
    /// In the order in which they came.
    taken: Mutex<Vec<Taken>>,
}

/// A place, as its port sees it.
struct Taken {
    of: IpAddr,
    known: Known,
    leave: oneshot::Sender<()>,
}

/// A connection's place. It is free again when this is dropped.
pub struct PortPlace {
    /// Until the port is gone.
    told: Option<oneshot::Receiver<()>>,
    known: Known,
}

/// Whether the other side of a connection has proved who it is.
#[derive(Clone, Default)]
struct Known(Arc<AtomicBool>);

impl Known {
    fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Places {
    /// So many.
    pub fn new(max: usize) -> Places {
        Places { max, taken: Mutex::default() }
    }

    /// A place for a connection from this address; none if those who are known have them all.
    pub fn take(&self, of: IpAddr) -> Option<PortPlace> {
        let mut taken = self.taken.lock();
        taken.retain(|one| !one.leave.is_closed());
        if taken.len() >= self.max {
            let at = gives_way(&taken)?;
            // One that ended by itself has left already.
            let _ = taken.remove(at).leave.send(());
        }
        let ((leave, told), known) = (oneshot::channel(), Known::default());
        taken.push(Taken { of, known: known.clone(), leave });
        Some(PortPlace { told: Some(told), known })
    }
}

/// Of the address with most strangers the one that came first.
fn gives_way(taken: &[Taken]) -> Option<usize> {
    let mut strangers: HashMap<IpAddr, (usize, usize)> = HashMap::new();
    for (at, _) in taken.iter().enumerate().filter(|(_, one)| !one.known.is_known()) {
        strangers.entry(taken[at].of).or_insert((0, at)).0 += 1;
    }
    let (_, first) = strangers.into_values().max_by_key(|(count, first)| (*count, std::cmp::Reverse(*first)))?;
    Some(first)
}

impl PortPlace {
    /// Returns when it must be given to another one.
    pub async fn told(&mut self) {
        poll_fn(|context| self.poll_told(context)).await;
    }

    fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.told.as_mut().map(|told| Pin::new(told).poll(context)) {
            Some(Poll::Ready(Ok(()))) => Poll::Ready(()),
            Some(Poll::Ready(Err(_))) => {
                self.told = None;
                Poll::Pending
            }
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}

/// Who is at the other end of a call's connection.
#[derive(Clone)]
pub struct Caller {
    address: SocketAddr,
    known: Known,
}

impl Caller {
    /// Of a call; none where it came over no socket.
    pub fn of<T>(request: &Request<T>) -> Option<&Caller> {
        request.extensions().get()
    }

    /// Its address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on its connection stays, whoever comes.
    pub fn note_proof(&self) {
        self.known.note();
    }
}

/// A connection of a gRPC server that ends when its place must be given to another one.
pub struct Placed<S> {
    stream: S,
    address: SocketAddr,
    place: PortPlace,
}

impl<S> Placed<S> {
    /// It sits down.
    pub fn new(stream: S, address: SocketAddr, place: PortPlace) -> Placed<S> {
        Placed { stream, address, place }
    }
}

impl<S> Connected for Placed<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { address: self.address, known: self.place.known.clone() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Placed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.place.poll_told(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Placed<S> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[tokio::test]
    async fn the_oldest_stranger_of_the_busiest_address_gives_way() {
        let places = Places::new(4);
        let mut peer = places.take(address(1)).unwrap();
        let mut first = places.take(address(2)).unwrap();
        let _second = places.take(address(2)).unwrap();
        let _third = places.take(address(2)).unwrap();
        let _another = places.take(address(3)).unwrap();
        first.told().await;
        assert!(!is_told(&mut peer));
    }

    #[tokio::test]
    async fn who_is_known_stays_and_whoever_left_makes_room() {
        let places = Places::new(2);
        let mut known = places.take(address(1)).unwrap();
        known.known.note();
        let other = places.take(address(1)).unwrap();
        other.known.note();
        assert!(places.take(address(2)).is_none());
        drop(other);
        let _next = places.take(address(2)).unwrap();
        let _last = places.take(address(3)).unwrap();
        assert!(!is_told(&mut known));
    }

    fn is_told(place: &mut PortPlace) -> bool {
        place.poll_told(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }
}
