//! Frames on a link between nodes: requests of many clients one way, their replies the other.
//!
//! ```text
//!   length u32 · kind u8 · seat u32 · body        little-endian; the length counts what follows it
//!
//!   CALLER    who sits on the seat: a protobuf `Batch` without commands. Holds until the next one
//!   REQUESTS  the policy version the sender had applied u64 · how many u32 · the requests, as a client sends them
//!   REPLIES   error u8 · how many u32 · the replies, as a client gets them; or the error in words
//!   PART      the beginning of the requests or replies that follow on this seat: those longer than 64 KiB come in parts,
//!             so that nobody's short command waits behind a long value
//!   PING      answered by PONG at once: the other side is alive, however long its commands take. Seat 0
//!   LEFT      the client is gone; answered by GONE, after which nothing about the seat is on its way any more
//! ```
//! Each client has a seat and at most one batch in flight: no sequence numbers, no messages to build. Everything that
//! is ready when the socket is leaves in one write. This file moves bytes; it knows no command and no client.

use crate::ties::Tie;
use crate::world::net::{self, TcpStream};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// Bodies longer than this come in parts of this length, in bytes: a hundredth of a millisecond of a fast network.
pub const PART_BYTES: usize = 64 * 1024;

/// A frame is no longer than this, in bytes: a part and its envelope, or who a caller is.
const FRAME_BYTES_MAX: usize = 256 * 1024;

/// The parts of one body together are no longer than this, in bytes: the largest value, and room for its command.
pub const BODY_BYTES_MAX: usize = 1 << 30;

/// What one read asks for, in bytes: a pipeline of many clients at once.
const READ_BYTES: usize = 128 * 1024;

/// Bytes that may lie in the kernel unsent: what lies there is ahead of every short command, and must keep the network
/// busy for the time of a round trip.
const UNSENT_BYTES_MAX: usize = 512 * 1024;

/// A buffer larger than this is given back once it is empty, in bytes.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

const HEADER_BYTES: usize = 9;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Who sits on a seat.
    Caller = 1,
    /// Requests, or the last part of them.
    Requests = 2,
    /// Replies, or the last part of them.
    Replies = 3,
    /// A part of what follows.
    Part = 4,
    /// The client is gone.
    Left = 5,
    /// Nothing about the seat follows.
    Gone = 6,
    /// Is anybody there?
    Ping = 7,
    /// Yes.
    Pong = 8,
}

const KINDS: [Kind; 8] =
    [Kind::Caller, Kind::Requests, Kind::Replies, Kind::Part, Kind::Left, Kind::Gone, Kind::Ping, Kind::Pong];

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame in the buffer of an [`Arrivals`].
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// What it is.
    pub kind: Kind,
    /// Whose.
    pub seat: u32,
    /// Where its body begins in the buffer.
    pub from: usize,
    /// Where it ends.
    pub to: usize,
}

/// Requests before their bytes: what the sender had applied, and how many there are.
pub fn requests_head(policy_version: u64, count: u32) -> [u8; 12] {
    let mut head = [0; 12];
    head[..8].copy_from_slice(&policy_version.to_le_bytes());
    head[8..].copy_from_slice(&count.to_le_bytes());
    head
}

/// The other end of [`requests_head`]: both, and where the requests begin.
pub fn read_requests_head(body: &[u8]) -> Option<(u64, u32, usize)> {
    let (version, rest) = body.split_first_chunk::<8>()?;
    let (count, _) = rest.split_first_chunk::<4>()?;
    Some((u64::from_le_bytes(*version), u32::from_le_bytes(*count), 12))
}

/// Replies before their bytes: an error or none, and how many there are.
pub fn replies_head(error: u8, count: u32) -> [u8; 5] {
    let count = count.to_le_bytes();
    [error, count[0], count[1], count[2], count[3]]
}

/// The other end of [`replies_head`]: both, and where the replies begin.
pub fn read_replies_head(body: &[u8]) -> Option<(u8, u32, usize)> {
    let (error, rest) = body.split_first()?;
    let (count, _) = rest.split_first_chunk::<4>()?;
    Some((*error, u32::from_le_bytes(*count), 5))
}

/// A body on its way in parts.
struct Long {
    kind: Kind,
    seat: u32,
    head: Vec<u8>,
    body: Bytes,
    sent: usize,
    end: Rc<Cell<u64>>,
}

/// The sending side of a link.
pub struct Departures {
    stream: Rc<TcpStream>,
    /// Whole frames not yet given to the socket.
    ready: RefCell<Vec<u8>>,
    long: RefCell<VecDeque<Long>>,
    /// What the socket is taking, and how much of it is gone.
    sending: RefCell<(Vec<u8>, usize)>,
    /// Bytes that were made ready since the link began, and that the socket took.
    readied: Cell<u64>,
    taken: Cell<u64>,
    /// Bytes of replies or requests that wait to be sent.
    waiting_bytes: Cell<usize>,
    writer: RefCell<Option<Waker>>,
    /// Whoever waits until little is left to be sent.
    reader: RefCell<Option<Waker>>,
    broken: Cell<bool>,
    tie: Option<Arc<Tie>>,
}

impl Departures {
    /// Of a link that was just made.
    pub fn new(stream: Rc<TcpStream>, tie: Option<Arc<Tie>>) -> Departures {
        // Only a wish: without it, short commands wait longer behind long values.
        net::limit_unsent(&stream, UNSENT_BYTES_MAX);
        Departures {
            stream,
            ready: RefCell::default(),
            long: RefCell::default(),
            sending: RefCell::default(),
            readied: Cell::new(0),
            taken: Cell::new(0),
            waiting_bytes: Cell::new(0),
            writer: RefCell::default(),
            reader: RefCell::default(),
            broken: Cell::new(false),
            tie,
        }
    }

    /// Makes a frame ready that is no longer than [`PART_BYTES`]. Returns where it ends in the stream.
    pub fn push(&self, kind: Kind, seat: u32, head: &[u8], body: &[u8]) -> u64 {
        frame(&mut self.ready.borrow_mut(), kind, seat, head, body);
        let end = self.readied.get() + (HEADER_BYTES + head.len() + body.len()) as u64;
        self.readied.set(end);
        self.wake();
        end
    }

    /// Makes a body ready, in parts if it is long. `end` is told where it ends in the stream: `u64::MAX` until it is known.
    pub fn push_body(&self, kind: Kind, seat: u32, head: &[u8], body: Bytes, end: &Rc<Cell<u64>>) {
        if body.len() <= PART_BYTES {
            return end.set(self.push(kind, seat, head, &body));
        }
        end.set(u64::MAX);
        self.waiting_bytes.set(self.waiting_bytes.get() + body.len());
        let long = Long { kind, seat, head: head.to_vec(), body, sent: 0, end: Rc::clone(end) };
        self.long.borrow_mut().push_back(long);
        self.wake();
    }

    /// What is still to be sent about a seat in parts is wanted by nobody.
    pub fn forget(&self, seat: u32) {
        self.long.borrow_mut().retain(|long| {
            if long.seat == seat {
                self.waiting_bytes.set(self.waiting_bytes.get() - (long.body.len() - long.sent));
            }
            long.seat != seat
        });
    }

    /// Bytes of long bodies, and of frames, that wait to be sent.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.get() + (self.readied.get() - self.taken.get()) as usize
    }

    /// Whether the socket has taken everything up to `end`: the other side may have it.
    pub fn has_left(&self, end: u64) -> bool {
        self.taken.get() >= end
    }

    /// Whether nothing more will be sent.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Sends nothing more. Whoever waits for the writer is woken.
    pub fn break_off(&self) {
        self.broken.set(true);
        // The other direction ends with this one.
        net::shut(&self.stream);
        self.wake();
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.borrow_mut().take() {
            writer.wake();
        }
    }

    /// Gives the socket what it takes now. True: everything is gone.
    pub fn send_now(&self) -> io::Result<bool> {
        let sent = self.give_to_socket();
        if let Some(tie) = &self.tie {
            let allocated = self.ready.borrow().capacity() + self.sending.borrow().0.capacity();
            tie.note(allocated, self.waiting_bytes());
        }
        sent
    }

    fn give_to_socket(&self) -> io::Result<bool> {
        let mut sending = self.sending.borrow_mut();
        loop {
            let (buffer, gone) = &mut *sending;
            if *gone == buffer.len() {
                buffer.clear();
                *gone = 0;
                if buffer.capacity() > KEPT_BUFFER_BYTES {
                    *buffer = Vec::new();
                }
                std::mem::swap(buffer, &mut self.ready.borrow_mut());
                self.add_part(buffer);
                if buffer.is_empty() {
                    if let Some(reader) = self.reader.borrow_mut().take() {
                        reader.wake();
                    }
                    return Ok(true);
                }
            }
            match self.stream.try_write(&buffer[*gone..]) {
                Ok(count) => {
                    *gone += count;
                    self.taken.set(self.taken.get() + count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// One part of one long body, behind everything short. The bodies take turns.
    fn add_part(&self, buffer: &mut Vec<u8>) {
        let Some(mut long) = self.long.borrow_mut().pop_front() else { return };
        let left = long.body.len() - long.sent;
        let part = &long.body[long.sent..long.sent + left.min(PART_BYTES)];
        let before = buffer.len();
        if left > PART_BYTES {
            frame(buffer, Kind::Part, long.seat, &[], part);
        } else {
            frame(buffer, long.kind, long.seat, &long.head, part);
        }
        long.sent += part.len();
        self.readied.set(self.readied.get() + (buffer.len() - before) as u64);
        self.waiting_bytes.set(self.waiting_bytes.get() - left.min(PART_BYTES));
        if left > PART_BYTES {
            self.long.borrow_mut().push_back(long);
        } else {
            long.end.set(self.readied.get());
        }
    }

    /// Sends whatever is made ready until the link breaks. One task does this.
    pub async fn send_all(&self) {
        loop {
            poll_fn(|context| {
                let idle = self.waiting_bytes() == 0 && !self.broken.get();
                if idle {
                    *self.writer.borrow_mut() = Some(context.waker().clone());
                }
                if idle { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            if self.broken.get() {
                return;
            }
            match self.send_now() {
                Ok(true) => {}
                Ok(false) if self.stream.writable().await.is_ok() => {}
                Ok(false) | Err(_) => return self.break_off(),
            }
        }
    }

    /// Returns once no more than `bytes_max` wait to be sent, or the link is broken: whoever answers must not answer faster
    /// than the other side reads.
    pub async fn room(&self, bytes_max: usize) {
        while self.waiting_bytes() > bytes_max && !self.broken.get() {
            let mut woken = false;
            poll_fn(|context| {
                if woken {
                    return Poll::Ready(());
                }
                woken = true;
                *self.reader.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: Kind, seat: u32, head: &[u8], body: &[u8]) {
    let length = (HEADER_BYTES - 4 + head.len() + body.len()) as u32;
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&seat.to_le_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(body);
}

/// The receiving side of a link.
pub struct Arrivals {
    stream: Rc<TcpStream>,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that are done with.
    start: usize,
    /// Where what was read ends.
    end: usize,
}

impl Arrivals {
    /// Of a link that was just made.
    pub fn new(stream: Rc<TcpStream>) -> Arrivals {
        Arrivals { stream, buffer: Vec::new(), start: 0, end: 0 }
    }

    /// Reads once. False: the other side closed. Frames taken before are gone from the buffer.
    pub async fn read(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // A frame that is half there always has room: it is no longer than it may be.
        self.buffer.resize(READ_BYTES + FRAME_BYTES_MAX, 0);
        loop {
            self.stream.readable().await?;
            match net::read_now(&self.stream, &mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next whole frame that was read.
    pub fn take(&mut self) -> io::Result<Option<Arrival>> {
        let waiting = &self.buffer[self.start..self.end];
        let Some((length, _)) = waiting.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if !(HEADER_BYTES - 4..=FRAME_BYTES_MAX).contains(&length) {
            return Err(io::Error::other("a frame longer or shorter than any may be"));
        }
        let Some(frame) = waiting.get(4..4 + length) else { return Ok(None) };
        let kind = Kind::of(frame[0]).ok_or_else(|| io::Error::other("a frame of a kind nobody knows"))?;
        let seat = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
        let from = self.start + HEADER_BYTES;
        self.start += 4 + length;
        Ok(Some(Arrival { kind, seat, from, to: self.start }))
    }

    /// What was read: where an [`Arrival`] says, until the next [`read`](Self::read).
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (Rc<TcpStream>, Rc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let near = TcpStream::connect(listener.local_addr().expect("it listens")).await.expect("it accepts");
        let (far, _) = listener.accept().await.expect("it accepts");
        (Rc::new(near), Rc::new(far))
    }

    async fn frames(arrivals: &mut Arrivals, count: usize) -> Vec<(Kind, u32, Vec<u8>)> {
        let mut all = Vec::new();
        while all.len() < count {
            assert!(arrivals.read().await.expect("it can be read"), "closed after {} frames", all.len());
            while let Some(arrival) = arrivals.take().expect("frames are well formed") {
                all.push((arrival.kind, arrival.seat, arrivals.bytes()[arrival.from..arrival.to].to_vec()));
            }
        }
        all
    }

    #[tokio::test]
    async fn a_short_frame_overtakes_the_parts_of_a_long_body() {
        let (near, far) = pair().await;
        let departures = Departures::new(near, None);
        let mut arrivals = Arrivals::new(far);
        let body: Vec<u8> = (0..3 * PART_BYTES + 5).map(|index| (index % 251) as u8).collect();
        let end = Rc::new(Cell::new(0));
        departures.push_body(Kind::Requests, 7, &requests_head(3, 1), body.clone().into(), &end);
        assert_eq!(end.get(), u64::MAX, "nobody knows yet where it ends");
        departures.push(Kind::Requests, 8, &requests_head(3, 2), b"short");
        let (received, ()) = tokio::join!(frames(&mut arrivals, 5), async {
            while !departures.send_now().expect("it can be written") {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!((received[0].0, received[0].1), (Kind::Requests, 8));
        let kinds: Vec<Kind> = received[1..].iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [Kind::Part, Kind::Part, Kind::Part, Kind::Requests]);
        let last = &received[4].2;
        assert_eq!(read_requests_head(last), Some((3, 1, 12)));
        let together: Vec<u8> =
            received[1..4].iter().flat_map(|(.., part)| part.clone()).chain(last[12..].to_vec()).collect();
        assert_eq!(together, body);
        assert!(departures.has_left(end.get()));
        assert_eq!(departures.waiting_bytes(), 0);
    }

    #[tokio::test]
    async fn what_nobody_wants_any_more_is_not_sent() {
        let (near, far) = pair().await;
        let departures = Departures::new(near, None);
        let mut arrivals = Arrivals::new(far);
        let end = Rc::new(Cell::new(0));
        departures.push_body(Kind::Replies, 1, &replies_head(0, 1), vec![1; 10 * PART_BYTES].into(), &end);
        departures.forget(1);
        departures.push(Kind::Gone, 1, &[], &[]);
        assert!(departures.send_now().expect("it can be written"));
        assert_eq!(frames(&mut arrivals, 1).await, [(Kind::Gone, 1, Vec::new())]);
    }

    #[tokio::test]
    async fn a_frame_nobody_could_have_meant_is_an_error() {
        let (near, far) = pair().await;
        let mut arrivals = Arrivals::new(far);
        near.try_write(&[255, 255, 255, 255, 1, 0, 0, 0, 0]).expect("it can be written");
        arrivals.read().await.expect("it can be read");
        assert!(arrivals.take().is_err());
    }
}
