//! The edge of the process, where the simulation puts another world: sockets between nodes, threads of its own, work that
//! blocks, and the clocks that promises are counted by.
//!
//! `tests/sim` compiles this crate a second time, under `cfg(simulated)`, with `tests/sim/inside/world.rs` in the place of this
//! file. Both offer the same names; everything here is what the runtime and the standard library have, so that it costs nothing.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_blocking};

/// Milliseconds since the machine was started, sleep included: a node that was suspended must find its lease over.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// The wall clock, in microseconds since 1970.
#[inline]
pub fn unix_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Nanoseconds on a clock that never goes back.
#[inline]
pub fn steady_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Counts milliseconds of this process; never goes back.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now on.
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Since then.
    pub fn ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

/// A thread that was started.
pub type Beside = std::thread::JoinHandle<()>;

/// Runs a future on a thread of its own, with a runtime of its own. It ends with the process at the latest.
pub fn beside<F: Future<Output = ()>>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> io::Result<Beside> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let run = move || LocalSet::new().block_on(&runtime, work());
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Runs a future on a runtime with so many threads, which others may use until it is over; it has `grace` for what is left.
pub fn apart<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    threads: usize,
    grace: Duration,
    work: F,
) -> io::Result<(Handle, Beside)> {
    let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || {
        runtime.block_on(work);
        runtime.shutdown_timeout(grace);
    };
    Ok((handle, std::thread::Builder::new().name(name.to_owned()).spawn(run)?))
}

/// Waits until it is over.
pub async fn over(beside: Beside) {
    let _ = spawn_blocking(move || beside.join()).await;
}

/// Before the disk is asked to keep something: a disk takes as long as it takes.
pub async fn before_disk() {}

/// Runs work that blocks where it keeps nobody.
pub fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_blocking(work)
}

/// The same for work on what it is fed meanwhile.
pub fn aside_fed<F: Send + 'static, T: Send + 'static>(
    fed: Fed<F>,
    work: impl FnOnce(Fed<F>) -> T + Send + 'static,
) -> JoinHandle<T> {
    spawn_blocking(move || work(fed))
}

/// What feeds work that blocks, and what it is fed by.
pub type Feed<T> = mpsc::Sender<T>;
/// The other end of a [`Feed`].
pub type Fed<T> = mpsc::Receiver<T>;

/// Room for `places` pieces on their way to or from work that blocks.
pub fn feed<T>(places: usize) -> (Feed<T>, Fed<T>) {
    mpsc::channel(places)
}

/// Sockets between nodes.
pub mod net {
    use std::io;
    use std::net::Shutdown;
    use std::time::Duration;

    use rustix::net::SendFlags;
    use socket2::{SockRef, TcpKeepalive};
    use tokio::io::Interest;
    pub use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    pub use tokio::net::{TcpListener, TcpStream};
    use tonic::transport::{Channel, Endpoint};

    /// A listener that no runtime serves yet.
    pub type Door = std::net::TcpListener;

    /// A connection on its way from one runtime to another.
    pub type Parcel = std::net::TcpStream;

    /// Takes a port.
    pub fn listen(address: &str) -> io::Result<Door> {
        let door = Door::bind(address)?;
        door.set_nonblocking(true)?;
        Ok(door)
    }

    /// Serves a port from this runtime.
    pub fn open(door: Door) -> io::Result<TcpListener> {
        TcpListener::from_std(door)
    }

    /// Takes a connection from this runtime.
    pub fn pack(stream: TcpStream) -> io::Result<Parcel> {
        stream.into_std()
    }

    /// Has this runtime serve a connection.
    pub fn unpack(parcel: Parcel) -> io::Result<TcpStream> {
        parcel.set_nonblocking(true)?;
        TcpStream::from_std(parcel)
    }

    /// Says something if there is room for it, and nothing otherwise.
    pub fn say(parcel: &Parcel, bytes: &[u8]) {
        let _ = rustix::net::send(parcel, bytes, SendFlags::NOSIGNAL);
    }

    /// Ends both directions.
    pub fn shut(stream: &TcpStream) {
        let _ = SockRef::from(stream).shutdown(Shutdown::Both);
    }

    /// Only a wish: how much may lie unsent in the kernel.
    pub fn limit_unsent(stream: &TcpStream, bytes: usize) {
        let _ = SockRef::from(stream).set_send_buffer_size(bytes);
    }

    /// Asks now and then whether the other side is still there. Only a convenience.
    pub fn keep_alive(stream: &TcpStream, after: Duration) {
        if !after.is_zero() {
            let probes = TcpKeepalive::new().with_time(after).with_interval(after / 3);
            let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
        }
    }

    /// A read that does not fill the buffer has emptied the socket, and says so to the runtime: that saves the one that
    /// would find nothing, and lets others run.
    pub fn read_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut short = None;
        let outcome = stream.try_io(Interest::READABLE, || {
            let count = rustix::io::read(stream, &mut *buffer)?;
            if count > 0 && count < buffer.len() {
                short = Some(count);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        short.map_or(outcome, Ok)
    }

    /// A channel that connects when it is used.
    pub fn channel(endpoint: &Endpoint) -> Channel {
        endpoint.connect_lazy()
    }
}
