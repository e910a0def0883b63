//! A data thread's sockets as the simulation has them: the place of `node/src/socket.rs`. No kernel is asked; a task per client
//! watches its simulated stream and wakes whoever waits for it. Clients are served one by one, by the loop of their own
//! ([`crate::connection`]), not in groups ([`crate::rounds`]).

use crate::rounds::Booth;
use crate::world::net::{Parcel, TcpStream};
use rustix::event::epoll;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The sockets of one thread.
pub struct Sockets(());

struct State {
    stream: TcpStream,
    readable: Cell<bool>,
    emptied: Notify,
    reader: RefCell<Option<Waker>>,
    booth: RefCell<Weak<Booth>>,
}

/// One connected socket.
pub struct Socket {
    state: Rc<State>,
    watcher: JoinHandle<()>,
}

impl Sockets {
    /// None yet.
    pub fn new() -> io::Result<Sockets> {
        Ok(Sockets(()))
    }

    /// Never has news: nobody serves groups here.
    pub fn register(&self) -> Rc<OwnedFd> {
        Rc::new(File::open("/dev/null").expect("every system has it").into())
    }

    /// Nothing new.
    pub fn ask(&self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        events.clear();
        Ok(())
    }

    /// Nobody.
    pub fn note(&self, _: &epoll::Event) -> Option<Rc<Booth>> {
        None
    }

    /// Takes a connected socket in.
    pub fn add(self: &Rc<Self>, stream: Parcel) -> io::Result<Socket> {
        let state = Rc::new(State {
            stream,
            readable: Cell::new(false),
            emptied: Notify::new(),
            reader: RefCell::default(),
            booth: RefCell::default(),
        });
        let watcher = tokio::task::spawn_local(watch(Rc::clone(&state)));
        Ok(Socket { state, watcher })
    }
}

async fn watch(state: Rc<State>) {
    loop {
        // An error is for whoever reads.
        let _ = state.stream.readable().await;
        state.readable.set(true);
        if let Some(reader) = state.reader.borrow_mut().take() {
            reader.wake();
        }
        let booth = state.booth.borrow().upgrade();
        if let Some(booth) = booth {
            booth.connection.mailbox.stir();
        }
        while state.readable.get() {
            state.emptied.notified().await;
        }
    }
}

impl Socket {
    /// From now on, what arrives is for this client.
    pub fn belongs_to(&self, booth: &Rc<Booth>) {
        *self.state.booth.borrow_mut() = Rc::downgrade(booth);
    }

    /// Whether a read may find something.
    pub fn is_readable(&self) -> bool {
        self.state.readable.get()
    }

    /// Returns when a read may find something.
    pub async fn readable(&self) {
        poll_fn(|context| {
            if self.state.readable.get() {
                return Poll::Ready(());
            }
            *self.state.reader.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Returns when a write may find room.
    pub async fn writable(&self) {
        // An error is for whoever writes.
        let _ = self.state.stream.writable().await;
    }

    /// Reads what is there; 0: the other side has said everything.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.state.stream.try_read(buffer);
        if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.state.readable.set(false);
            self.state.emptied.notify_one();
        }
        read
    }

    /// Reads up to `count` bytes behind what is in `buffer`.
    pub fn try_read_behind(&self, buffer: &mut Vec<u8>, count: usize) -> io::Result<usize> {
        let held = buffer.len();
        buffer.resize(held + count, 0);
        let read = self.try_read(&mut buffer[held..]);
        buffer.truncate(held + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Writes as much as there is room for.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.state.stream.try_write(bytes)
    }

    /// Writes everything, waiting for room.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.try_write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the other side that nothing more comes.
    pub fn shutdown_write(&self) {
        self.state.stream.shutdown_write();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}
