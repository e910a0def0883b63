//! A connection to the source: commands out, replies and raw bytes in, on a thread that may wait. It wakes up a few times
//! per second to look whether the import was cancelled, and takes long silence for a loss. Knows no replication.

use super::{Failure, SourceAddress};
use keyward_proto::resp::{ReplyDecoder, ReplyLimits, Value, encode_command};
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one wait for bytes lasts before somebody looks around.
const TICK: Duration = Duration::from_millis(100);

/// A source that takes nothing in for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A source that says nothing for so long is gone: it sends a line feed or a PING every ten seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Read at a time, in bytes.
const READ_BYTES: usize = 64 << 10;

/// Bytes already used that are kept before the rest moves to the front.
const USED_BYTES_MAX: usize = 1 << 20;

/// Room that is kept once a large command is done, in bytes.
const KEPT_BYTES: usize = 4 << 20;

/// Bytes there and back.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// A connection.
pub(super) struct Link {
    stream: Stream,
    input: Vec<u8>,
    start: usize,
    heard: Instant,
    stop: Arc<AtomicBool>,
}

impl Link {
    /// Connects. `stop` ends every wait.
    pub(super) fn open(address: &SourceAddress, stop: &Arc<AtomicBool>) -> Result<Link, Failure> {
        let lost = |text: String| Failure::Lost(format!("{address} cannot be reached: {text}"));
        let resolved =
            (address.host.as_str(), address.port).to_socket_addrs().map_err(|error| lost(error.to_string()))?;
        let mut last = "its name stands for no address".to_owned();
        for socket in resolved {
            match TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    let set = stream
                        .set_nodelay(true)
                        .and_then(|()| stream.set_read_timeout(Some(TICK)))
                        .and_then(|()| stream.set_write_timeout(Some(WRITE_TIMEOUT)));
                    set.map_err(|error| lost(error.to_string()))?;
                    let stream = match &address.tls {
                        None => Stream::Plain(stream),
                        Some(tls) => {
                            let until = Instant::now() + CONNECT_TIMEOUT;
                            Stream::Tls(tls.begin(&address.host, stream, until).map_err(lost)?)
                        }
                    };
                    let (input, stop) = (Vec::new(), Arc::clone(stop));
                    return Ok(Link { stream, input, start: 0, heard: Instant::now(), stop });
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(lost(last))
    }

    /// Sends a command.
    pub(super) fn send(&mut self, argv: &[&[u8]]) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, argv);
        self.send_bytes(&bytes)
    }

    /// Sends what is encoded already.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        // It owes us an answer from now on.
        self.heard = Instant::now();
        self.stream.write_all(bytes).map_err(|error| Failure::Lost(format!("the source takes nothing in: {error}")))
    }

    /// Reads the reply to a command sent before.
    pub(super) fn reply(&mut self) -> Result<Value, Failure> {
        let mut decoder = ReplyDecoder::new(ReplyLimits::default());
        loop {
            let read = decoder.next(self.unread());
            match read.map_err(|error| Failure::Final(format!("the source does not speak RESP: {error}")))? {
                Some((value, bytes)) => {
                    self.consume(bytes);
                    return Ok(value);
                }
                None => drop(self.read()?),
            }
        }
    }

    /// Sends a command and reads its reply.
    pub(super) fn call(&mut self, argv: &[&[u8]]) -> Result<Value, Failure> {
        self.send(argv)?;
        self.reply()
    }

    /// Bytes that came and were not used.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// The same, to be decoded in place.
    pub(super) fn unread_mut(&mut self) -> &mut [u8] {
        &mut self.input[self.start..]
    }

    /// Some of the unread bytes were used.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
            self.input.shrink_to(KEPT_BYTES);
        } else if self.start > USED_BYTES_MAX {
            self.input.drain(..self.start);
            self.start = 0;
        }
    }

    /// Waits a moment for more bytes; how many came.
    pub(super) fn read(&mut self) -> Result<usize, Failure> {
        if self.stop.load(Ordering::Acquire) {
            return Err(Failure::Moved);
        }
        let length = self.input.len();
        self.input.resize(length + READ_BYTES, 0);
        let read = self.stream.read(&mut self.input[length..]);
        self.input.truncate(length + read.as_ref().map_or(0, |bytes| *bytes));
        match read {
            Ok(0) => Err(Failure::Lost("the source closed the connection".to_owned())),
            Ok(bytes) => {
                self.heard = Instant::now();
                Ok(bytes)
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                if self.heard.elapsed() > SILENCE_MAX {
                    return Err(Failure::Lost(format!("the source said nothing for {} s", SILENCE_MAX.as_secs())));
                }
                Ok(0)
            }
            Err(error) => Err(Failure::Lost(format!("the connection to the source broke: {error}"))),
        }
    }

    /// Reads a line, without its end.
    pub(super) fn line(&mut self) -> Result<Vec<u8>, Failure> {
        const LINE_BYTES_MAX: usize = 64 << 10;
        loop {
            if let Some(at) = self.unread().iter().position(|byte| *byte == b'\n') {
                let line = self.unread()[..at].strip_suffix(b"\r").unwrap_or(&self.unread()[..at]).to_vec();
                self.consume(at + 1);
                return Ok(line);
            }
            if self.unread().len() > LINE_BYTES_MAX {
                return Err(Failure::Final("the source does not speak RESP: an endless line".to_owned()));
            }
            self.read()?;
        }
    }
}

/// What a reply says as text; for a reply that is something else, nothing.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Simple(bytes) | Value::Error(bytes) | Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Value::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}
