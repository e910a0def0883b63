//! The sockets of a data thread, and what the kernel says about them.
//!
//! A data thread asks the kernel once for many sockets, and wants to see all that are readable together: their requests
//! are run as one group ([`crate::rounds`]). So its clients are not the runtime's sockets, each of which wakes a task of
//! its own; they are registered here, and the runtime watches the register as a whole. What waits for a single socket
//! in the ordinary way awaits [`Socket::readable`] or [`Socket::writable`].
//!
//! Readiness is told once, when it begins (edge-triggered): it is remembered until a read or write finds the end of it. A
//! read that does not fill its buffer has found it. This file does not know what the bytes mean.

use crate::rounds::Booth;
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, SendFlags};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// The sockets of one thread.
pub struct Sockets {
    register: Rc<OwnedFd>,
    /// By token. Dropped sockets leave free places.
    known: RefCell<Vec<Option<Rc<Readiness>>>>,
    free: RefCell<Vec<usize>>,
}

/// What is known about one socket.
#[derive(Default)]
pub struct Readiness {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The other side sends no more, or the connection broke: a read never leaves anything to be told later.
    ended: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// The client whose requests come from it, while it has one.
    booth: RefCell<Weak<Booth>>,
}

/// One connected socket.
pub struct Socket {
    stream: TcpStream,
    token: usize,
    state: Rc<Readiness>,
    sockets: Rc<Sockets>,
}

impl Sockets {
    /// None yet.
    pub fn new() -> io::Result<Sockets> {
        let register = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        Ok(Sockets { register, known: RefCell::default(), free: RefCell::default() })
    }

    /// Readable while there is news of one of them.
    pub fn register(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.register)
    }

    /// Asks the kernel what is new, without waiting: as many events as there is room for.
    pub fn ask(&self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        epoll::wait(&*self.register, rustix::buffer::spare_capacity(events), Some(&NOW))?;
        Ok(())
    }

    /// Takes a connected socket in.
    pub fn add(self: &Rc<Self>, stream: TcpStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        let state = Rc::new(Readiness::default());
        state.writable.set(true);
        let mut known = self.known.borrow_mut();
        let token = self.free.borrow_mut().pop().unwrap_or(known.len());
        if token == known.len() {
            known.push(None);
        }
        known[token] = Some(Rc::clone(&state));
        drop(known);
        // From here on, dropping it gives the place back.
        let socket = Socket { stream, token, state, sockets: Rc::clone(self) };
        use epoll::EventFlags;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&*self.register, &socket.stream, epoll::EventData::new_u64(token as u64), interest)?;
        Ok(socket)
    }

    /// Takes note of what the kernel says. Returns the client that is to be read from, if nobody else waits for it.
    pub fn note(&self, event: &epoll::Event) -> Option<Rc<Booth>> {
        use epoll::EventFlags;
        let (token, flags) = (event.data.u64() as usize, event.flags);
        let known = self.known.borrow();
        // What was dropped since then may be told of once more.
        let state = known.get(token)?.as_ref()?;
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        if broken || flags.contains(EventFlags::RDHUP) {
            state.ended.set(true);
        }
        if broken || flags.contains(EventFlags::OUT) {
            state.writable.set(true);
            wake(&state.writer);
        }
        if !flags.contains(EventFlags::IN) && !state.ended.get() {
            return None;
        }
        state.readable.set(true);
        wake(&state.reader);
        state.booth.borrow().upgrade()
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    if let Some(waker) = waiting.borrow_mut().take() {
        waker.wake();
    }
}

impl Readiness {
    fn poll(ready: &Cell<bool>, waiting: &RefCell<Option<Waker>>, context: &mut Context<'_>) -> Poll<()> {
        if ready.get() {
            return Poll::Ready(());
        }
        *waiting.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Socket {
    /// From now on, what arrives is for this client.
    pub fn belongs_to(&self, booth: &Rc<Booth>) {
        *self.state.booth.borrow_mut() = Rc::downgrade(booth);
    }

    /// Whether a read may find something.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.state.readable.get()
    }

    /// Returns when a read may find something.
    pub async fn readable(&self) {
        poll_fn(|context| Readiness::poll(&self.state.readable, &self.state.reader, context)).await;
    }

    /// Returns when a write may find room.
    pub async fn writable(&self) {
        poll_fn(|context| Readiness::poll(&self.state.writable, &self.state.writer, context)).await;
    }

    /// Reads what is there; 0: the other side has said everything. The buffer is not empty.
    #[inline]
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&self.stream, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => {
                    if count < buffer.len() && !self.state.ended.get() {
                        self.state.readable.set(false);
                    }
                    return Ok(count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    if error == rustix::io::Errno::WOULDBLOCK {
                        self.state.readable.set(false);
                    }
                    return Err(error.into());
                }
            }
        }
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
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.stream, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    if error == rustix::io::Errno::WOULDBLOCK {
                        self.state.writable.set(false);
                    }
                    return Err(error.into());
                }
            }
        }
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
        // Best effort: one that cannot be told is about to end anyway.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The kernel forgets it when it is closed, which is next.
        self.sockets.known.borrow_mut()[self.token] = None;
        self.sockets.free.borrow_mut().push(self.token);
    }
}
