//! The edge of the process in the simulation: the place of `node/src/world.rs`, which says what each of these is for.
//!
//! Every host is one thread's tasks. Sockets are turmoil's; what would block is done at once, by a task; each host has a clock
//! of its own, which may be slow, fast, or far ahead. What the simulation wants to look into (nodes, clocks, cut links) is found
//! here by the host's address.

use crate::node::Node;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A host as the simulation made it.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Where it is.
    pub ip: IpAddr,
    /// How far its clock is ahead, in milliseconds.
    pub offset_ms: u64,
    /// How fast its clock runs, in thousandths.
    pub rate: u64,
    /// How long its disk takes, in milliseconds.
    pub disk_ms: u64,
}

thread_local! {
    /// By the runtime its tasks run on: a new one for each start.
    static HOSTS: RefCell<BTreeMap<String, Host>> = const { RefCell::new(BTreeMap::new()) };
    /// Whose eyes the simulation looks through while no host runs.
    static VISITED: Cell<Option<Host>> = const { Cell::new(None) };
    static NODES: RefCell<BTreeMap<IpAddr, Weak<Node>>> = const { RefCell::new(BTreeMap::new()) };
    /// Links on which nothing arrives.
    static CUT: RefCell<BTreeSet<(IpAddr, IpAddr)>> = const { RefCell::new(BTreeSet::new()) };
    /// Hosts whose calls to the other hang, while everything else between them goes on.
    static HANGING: RefCell<BTreeSet<(IpAddr, IpAddr)>> = const { RefCell::new(BTreeSet::new()) };
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
}

/// Seconds from 1970 to the beginning of every simulation.
const BEGINNING_S: u64 = 1_700_000_000;

/// The software of a host begins here.
pub fn enter(host: Host) {
    let runtime = Handle::current().id().to_string();
    HOSTS.with_borrow_mut(|hosts| {
        hosts.retain(|_, known| known.ip != host.ip);
        hosts.insert(runtime, host);
    });
    NODES.with_borrow_mut(|nodes| nodes.remove(&host.ip));
}

/// The host whose task this is.
pub fn host() -> Option<Host> {
    VISITED.get().or_else(|| {
        let runtime = Handle::try_current().ok()?.id().to_string();
        HOSTS.with_borrow(|hosts| hosts.get(&runtime).copied())
    })
}

/// Looks at something as if from this host.
pub fn visit<T>(ip: IpAddr, look: impl FnOnce() -> T) -> T {
    let host = HOSTS.with_borrow(|hosts| hosts.values().find(|host| host.ip == ip).copied());
    VISITED.set(host);
    let seen = look();
    VISITED.set(None);
    seen
}

/// A node opened its doors.
pub fn serves(node: &Arc<Node>) {
    if let Some(host) = host() {
        NODES.with_borrow_mut(|nodes| nodes.insert(host.ip, Arc::downgrade(node)));
    }
}

/// The software of a host is gone.
pub fn gone(ip: IpAddr) {
    NODES.with_borrow_mut(|nodes| nodes.remove(&ip));
}

/// The node that serves at a host, if one does.
pub fn node_at(ip: IpAddr) -> Option<Arc<Node>> {
    NODES.with_borrow(|nodes| nodes.get(&ip).and_then(Weak::upgrade))
}

/// From now on nothing arrives from one host at the other; or it does again.
pub fn cut(from: IpAddr, to: IpAddr, is_cut: bool) {
    CUT.with_borrow_mut(|cut| if is_cut { cut.insert((from, to)) } else { cut.remove(&(from, to)) });
}

fn is_cut(one: IpAddr, other: IpAddr) -> bool {
    CUT.with_borrow(|cut| cut.contains(&(one, other)) || cut.contains(&(other, one)))
}

/// From now on calls from one host to the other hang; or go through again.
pub fn hang(from: IpAddr, to: IpAddr, hangs: bool) {
    HANGING.with_borrow_mut(|known| if hangs { known.insert((from, to)) } else { known.remove(&(from, to)) });
}

fn hangs(from: IpAddr, to: IpAddr) -> bool {
    HANGING.with_borrow(|known| known.contains(&(from, to)))
}

/// What time it is, since the simulation began. Told by whoever moves it on.
pub fn set_now(now: Duration) {
    NOW_NS.set(now.as_nanos() as u64);
}

/// The time since the simulation began, in nanoseconds.
pub fn now_ns() -> u64 {
    NOW_NS.get()
}

/// As production's, by the clock of the host.
pub fn boot_ms() -> u64 {
    let (offset, rate) = host().map_or((0, 1000), |host| (host.offset_ms, host.rate));
    offset + now_ns() / 1_000_000 * rate / 1000
}

/// As production's; all hosts agree on it.
pub fn unix_us() -> i64 {
    (BEGINNING_S * 1_000_000 + now_ns() / 1000) as i64
}

/// As production's: within a moment of the simulation no time passes.
pub fn steady_ns() -> u64 {
    now_ns()
}

/// As production's, by the clock of the host.
pub struct Stopwatch(u64);

impl Stopwatch {
    /// From now on.
    pub fn start() -> Stopwatch {
        Stopwatch(boot_ms())
    }

    /// Since then.
    pub fn ms(&self) -> u64 {
        boot_ms().saturating_sub(self.0)
    }
}

/// A task that was started.
pub type Beside = JoinHandle<()>;

/// As a task of the host.
pub fn beside<F: Future<Output = ()> + 'static>(
    _: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<Beside> {
    Ok(tokio::task::spawn_local(work()))
}

/// As a task of the host.
pub fn apart<F: Future<Output = ()> + Send + 'static>(
    _: &str,
    _: usize,
    _: Duration,
    work: F,
) -> io::Result<(Handle, Beside)> {
    Ok((Handle::current(), tokio::spawn(work)))
}

/// Waits until it is over.
pub async fn over(beside: Beside) {
    let _ = beside.await;
}

/// A disk takes as long as the host's does.
pub async fn before_disk() {
    let ms = host().map_or(0, |host| host.disk_ms);
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// At once, as soon as it is the task's turn.
pub fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(async move { work() })
}

/// Once it was fed everything.
pub fn aside_fed<F: Send + 'static, T: Send + 'static>(
    fed: Fed<F>,
    work: impl FnOnce(Fed<F>) -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(async move {
        loop {
            let more = fed.0.more.notified();
            if fed.0.pieces.lock().feeders == 0 {
                break;
            }
            more.await;
        }
        work(fed)
    })
}

struct Trough<T> {
    pieces: Mutex<Pieces<T>>,
    more: Notify,
}

struct Pieces<T> {
    waiting: VecDeque<T>,
    feeders: usize,
    /// The other end is gone.
    closed: bool,
}

/// As production's, without a bound: nobody may block.
pub struct Feed<T>(Arc<Trough<T>>);

/// The other end of a [`Feed`].
pub struct Fed<T>(Arc<Trough<T>>);

/// As production's.
pub fn feed<T>(_: usize) -> (Feed<T>, Fed<T>) {
    let pieces = Pieces { waiting: VecDeque::new(), feeders: 1, closed: false };
    let trough = Arc::new(Trough { pieces: Mutex::new(pieces), more: Notify::new() });
    (Feed(Arc::clone(&trough)), Fed(trough))
}

impl<T> Feed<T> {
    /// Gives back what nobody takes.
    pub fn blocking_send(&self, piece: T) -> Result<(), T> {
        let mut pieces = self.0.pieces.lock();
        if pieces.closed {
            return Err(piece);
        }
        pieces.waiting.push_back(piece);
        self.0.more.notify_waiters();
        Ok(())
    }

    /// The same.
    pub async fn send(&self, piece: T) -> Result<(), T> {
        self.blocking_send(piece)
    }
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        self.0.pieces.lock().feeders += 1;
        Feed(Arc::clone(&self.0))
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        self.0.pieces.lock().feeders -= 1;
        self.0.more.notify_waiters();
    }
}

impl<T> Fed<T> {
    /// What is there.
    pub fn blocking_recv(&mut self) -> Option<T> {
        self.0.pieces.lock().waiting.pop_front()
    }

    /// The next, once there is one.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            let more = self.0.more.notified();
            {
                let mut pieces = self.0.pieces.lock();
                if let Some(piece) = pieces.waiting.pop_front() {
                    return Some(piece);
                }
                if pieces.feeders == 0 {
                    return None;
                }
            }
            more.await;
        }
    }
}

impl<T> Drop for Fed<T> {
    fn drop(&mut self) {
        self.0.pieces.lock().closed = true;
    }
}

/// Simulated sockets.
pub mod net {
    use super::{hangs, host, is_cut};
    use hyper_util::rt::TokioIo;
    use parking_lot::Mutex;
    use std::future::poll_fn;
    use std::io;
    use std::net::{IpAddr, SocketAddr};
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::codegen::Service;
    use tonic::codegen::http::Uri;
    use tonic::transport::server::{Connected, TcpConnectInfo};
    use tonic::transport::{Channel, Endpoint};
    use turmoil::net as sim;

    /// A listener.
    pub struct TcpListener(sim::TcpListener);

    /// A listener that nobody serves yet.
    pub type Door = TcpListener;

    /// A connection.
    pub type Parcel = TcpStream;

    impl TcpListener {
        /// Where it listens.
        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            self.0.local_addr()
        }

        /// The next connection.
        pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            let (stream, peer) = self.0.accept().await?;
            Ok((TcpStream::of(stream), peer))
        }
    }

    /// Takes a port.
    pub fn listen(address: &str) -> io::Result<Door> {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let port = port.ok_or_else(|| io::Error::other("no port"))?;
        let bound = pin!(sim::TcpListener::bind(("0.0.0.0", port))).poll(&mut Context::from_waker(Waker::noop()));
        match bound {
            Poll::Ready(bound) => bound.map(TcpListener),
            Poll::Pending => Err(io::Error::other("a simulated port is taken at once")),
        }
    }

    /// Nothing to do.
    pub fn open(door: Door) -> io::Result<TcpListener> {
        Ok(door)
    }

    /// Nothing to do.
    pub fn pack(stream: TcpStream) -> io::Result<Parcel> {
        Ok(stream)
    }

    /// Nothing to do.
    pub fn unpack(parcel: Parcel) -> io::Result<TcpStream> {
        Ok(parcel)
    }

    /// Says something if there is room for it.
    pub fn say(parcel: &Parcel, bytes: &[u8]) {
        let _ = parcel.try_write(bytes);
    }

    /// Ends both directions.
    pub fn shut(stream: &TcpStream) {
        stream.shutdown_write();
        let mut inner = stream.inner.lock();
        inner.ended = true;
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
    }

    /// Nothing to do.
    pub fn limit_unsent(_: &TcpStream, _: usize) {}

    /// Nothing to do.
    pub fn keep_alive(_: &TcpStream, _: Duration) {}

    /// Reads what is there.
    pub fn read_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        stream.try_read(buffer)
    }

    /// A channel that connects when it is used.
    pub fn channel(endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(Connector)
    }

    /// Connects for gRPC.
    #[derive(Clone)]
    struct Connector;

    impl Service<Uri> for Connector {
        type Response = TokioIo<Calls>;
        type Error = io::Error;
        type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Calls>>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, uri: Uri) -> Self::Future {
            Box::pin(async move {
                let address = uri.authority().map(|authority| authority.to_string()).unwrap_or_default();
                let stream = TcpStream::connect(address).await?;
                let from = host().map_or(stream.local_addr()?.ip(), |host| host.ip);
                let to = stream.peer_addr()?.ip();
                Ok(TokioIo::new(Calls { stream, from, to, pause: None }))
            })
        }
    }

    /// The calling end of a gRPC connection: while it hangs, nothing more is sent.
    pub struct Calls {
        stream: TcpStream,
        from: IpAddr,
        to: IpAddr,
        pause: Option<Pin<Box<tokio::time::Sleep>>>,
    }

    impl AsyncRead for Calls {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Calls {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            while hangs(self.from, self.to) {
                let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(20))));
                if pause.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    /// One end of a connection.
    pub struct TcpStream {
        inner: Mutex<Inner>,
    }

    struct Inner {
        stream: sim::TcpStream,
        /// This side wants to hear no more.
        ended: bool,
        reader: Option<Waker>,
    }

    impl Inner {
        fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            self.reader = Some(context.waker().clone());
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }

        fn poll_peek(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            self.reader = Some(context.waker().clone());
            self.stream.poll_peek(context, buffer)
        }
    }

    impl TcpStream {
        fn of(stream: sim::TcpStream) -> TcpStream {
            TcpStream { inner: Mutex::new(Inner { stream, ended: false, reader: None }) }
        }

        /// Connects. Nobody answers across a cut link; a refusal comes from a host that is there, and from no process.
        pub async fn connect(address: impl AsRef<str>) -> io::Result<TcpStream> {
            let address: SocketAddr = address.as_ref().parse().map_err(io::Error::other)?;
            let from: Option<IpAddr> = host().map(|host| host.ip);
            let is_lost = || from.is_some_and(|from| is_cut(from, address.ip()));
            if is_lost() {
                return std::future::pending().await;
            }
            match sim::TcpStream::connect(address).await {
                Ok(stream) => Ok(TcpStream::of(stream)),
                Err(_) if is_lost() => std::future::pending().await,
                Err(error) => Err(error),
            }
        }

        /// Nothing to do.
        pub fn set_nodelay(&self, _: bool) -> io::Result<()> {
            Ok(())
        }

        /// The other end.
        pub fn peer_addr(&self) -> io::Result<SocketAddr> {
            self.inner.lock().stream.peer_addr()
        }

        /// This end.
        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            self.inner.lock().stream.local_addr()
        }

        /// What comes next, without taking it.
        pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
            let mut buffer = ReadBuf::new(buffer);
            poll_fn(|context| self.inner.lock().poll_peek(context, &mut buffer)).await
        }

        /// Returns when a read finds something.
        pub async fn readable(&self) -> io::Result<()> {
            let mut byte = [0];
            self.peek(&mut byte).await.map(drop)
        }

        /// Returns when a write finds room.
        pub async fn writable(&self) -> io::Result<()> {
            poll_fn(|context| pin!(self.inner.lock().stream.writable()).poll(context)).await
        }

        /// Reads what is there.
        pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
            let mut buffer = ReadBuf::new(buffer);
            let mut inner = self.inner.lock();
            let waker = inner.reader.clone();
            let mut context = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
            match inner.poll_read(&mut context, &mut buffer) {
                Poll::Ready(read) => read.map(|()| buffer.filled().len()),
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            }
        }

        /// Writes what there is room for.
        pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            self.inner.lock().stream.try_write(bytes)
        }

        /// Says that nothing more comes.
        pub fn shutdown_write(&self) {
            let mut inner = self.inner.lock();
            let _ = Pin::new(&mut inner.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }

        /// Its two directions.
        pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
            let (reader, writer) = self.inner.into_inner().stream.into_split();
            (OwnedReadHalf(reader), OwnedWriteHalf(writer))
        }
    }

    impl AsyncRead for TcpStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.inner.get_mut().poll_read(context, buffer)
        }
    }

    impl AsyncWrite for TcpStream {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.inner.get_mut().stream).poll_write(context, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner.get_mut().stream).poll_shutdown(context)
        }
    }

    impl Connected for TcpStream {
        type ConnectInfo = TcpConnectInfo;

        fn connect_info(&self) -> TcpConnectInfo {
            TcpConnectInfo { local_addr: self.local_addr().ok(), remote_addr: self.peer_addr().ok() }
        }
    }

    /// The half that reads.
    pub struct OwnedReadHalf(sim::tcp::OwnedReadHalf);

    /// The half that writes.
    pub struct OwnedWriteHalf(sim::tcp::OwnedWriteHalf);

    impl OwnedReadHalf {
        /// Both halves as one again.
        pub fn reunite(self, writer: OwnedWriteHalf) -> Result<TcpStream, &'static str> {
            self.0.reunite(writer.0).map(TcpStream::of).map_err(|_| "halves of two streams")
        }
    }

    impl AsyncRead for OwnedReadHalf {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for OwnedWriteHalf {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }
}
