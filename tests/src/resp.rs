//! A tiny blocking RESP2/RESP3 client. Its own codec on purpose: a test that shared the node's codec would share its
//! mistakes.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One reply, as it came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `+OK`
    Simple(String),
    /// `-ERR …`
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3 …`
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`
    Nil,
    /// `*…`
    Array(Vec<Value>),
    /// `%…`
    Map(Vec<(Value, Value)>),
    /// `~…`
    Set(Vec<Value>),
    /// `,1.5`, as written
    Double(String),
    /// `#t`
    Boolean(bool),
    /// `(123…`
    BigNumber(String),
    /// `=…`, without the three letters
    Verbatim(Vec<u8>),
    /// `>…`
    Push(Vec<Value>),
}

impl Value {
    /// The text of a bulk, simple or error reply.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Bulk(bytes) | Value::Verbatim(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::Simple(text) | Value::Error(text) | Value::Double(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// The elements of an array, set or push.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => Some(items),
            _ => None,
        }
    }

    /// The texts of an array of strings; anything else is left out.
    pub fn texts(&self) -> Vec<String> {
        self.items().unwrap_or_default().iter().filter_map(Value::text).collect()
    }

    /// Whether this is an error whose text starts with `prefix`.
    pub fn is_error(&self, prefix: &str) -> bool {
        matches!(self, Value::Error(text) if text.starts_with(prefix))
    }

    /// Whether this is `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Value::Simple(text) if text == "OK")
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::show(self).trim_end_matches('\n'))
    }
}

/// A connection. Calls block, at most [`Client::PATIENCE`].
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    unread: VecDeque<u8>,
}

impl Client {
    /// How long one reply may take.
    pub const PATIENCE: Duration = Duration::from_secs(20);

    /// Connects, without logging in.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_within(address, Duration::from_secs(5))
    }

    /// [`Client::connect`] that gives up after so long.
    pub fn connect_within(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Self::PATIENCE))?;
        stream.set_write_timeout(Some(Self::PATIENCE))?;
        Ok(Self { stream, unread: VecDeque::new() })
    }

    /// Connects and logs in; a refused login is an error of kind `PermissionDenied`.
    pub fn login(address: SocketAddr, user: &str, password: &str) -> io::Result<Self> {
        let mut client = Self::connect(address)?;
        let reply = client.call(&["AUTH", user, password])?;
        if reply.is_ok() { Ok(client) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, reply.to_string())) }
    }

    /// Waits at most this long for each reply from now on.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout that is not zero can be set");
    }

    /// Waits at most this long for the server to take in more.
    pub fn set_send_patience(&self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).expect("a timeout that is not zero can be set");
    }

    /// Sends one command and reads its reply.
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Value> {
        self.send(arguments)?;
        self.read()
    }

    /// [`Client::call`] that must get through: panics when the connection fails.
    pub fn ask<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.call(arguments).unwrap_or_else(|error| panic!("no reply to {}: {error}", spell(arguments)))
    }

    /// [`Client::ask`] that must answer `OK`.
    pub fn ok<A: AsRef<[u8]>>(&mut self, arguments: &[A]) {
        let reply = self.ask(arguments);
        assert!(reply.is_ok(), "{} answered {reply}", spell(arguments));
    }

    /// [`Client::ask`] for a text.
    pub fn text<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> String {
        let reply = self.ask(arguments);
        reply.text().unwrap_or_else(|| panic!("{} answered {reply}", spell(arguments)))
    }

    /// Sends one command without reading.
    pub fn send<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<()> {
        self.stream.write_all(&encode(arguments))
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Closes the sending half: the other side reads the end, and may answer still.
    pub fn sends_no_more(&mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Reads one reply.
    pub fn read(&mut self) -> io::Result<Value> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| garbled("an empty line"))?;
        Ok(match kind {
            "+" => Value::Simple(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Integer(number(rest)?),
            "$" if rest == "-1" => Value::Nil,
            "$" => Value::Bulk(self.blob(rest)?),
            "!" => Value::Error(String::from_utf8_lossy(&self.blob(rest)?).into_owned()),
            "=" => Value::Verbatim(self.blob(rest)?.split_off(4)),
            "*" if rest == "-1" => Value::Nil,
            "*" => Value::Array(self.sequence(rest)?),
            "~" => Value::Set(self.sequence(rest)?),
            ">" => Value::Push(self.sequence(rest)?),
            "%" => Value::Map(self.pairs(rest)?),
            "|" => {
                self.pairs(rest)?;
                self.read()?
            }
            "_" => Value::Nil,
            "," => Value::Double(rest.to_owned()),
            "#" => Value::Boolean(rest == "t"),
            "(" => Value::BigNumber(rest.to_owned()),
            _ => return Err(garbled(&line)),
        })
    }

    /// Whether the server has closed this connection; reads away what it still says.
    pub fn is_closed(&mut self) -> bool {
        let before = self.stream.read_timeout().ok().flatten();
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(1)));
        let mut chunk = [0; 4096];
        let closed = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break true,
                Ok(n) => self.unread.extend(&chunk[..n]),
                Err(error) => {
                    break !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        };
        let _ = self.stream.set_read_timeout(before);
        closed
    }

    fn sequence(&mut self, count: &str) -> io::Result<Vec<Value>> {
        (0..number(count)?).map(|_| self.read()).collect()
    }

    fn pairs(&mut self, count: &str) -> io::Result<Vec<(Value, Value)>> {
        (0..number(count)?).map(|_| Ok((self.read()?, self.read()?))).collect()
    }

    fn blob(&mut self, length: &str) -> io::Result<Vec<u8>> {
        let length = usize::try_from(number(length)?).map_err(|_| garbled("a negative length"))?;
        while self.unread.len() < length + 2 {
            self.fill()?;
        }
        let bytes = self.unread.drain(..length).collect();
        self.unread.drain(..2);
        Ok(bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread.iter().skip(searched).position(|byte| *byte == b'\n') {
                let mut bytes: Vec<u8> = self.unread.drain(..=searched + at).collect();
                bytes.truncate(bytes.len().saturating_sub(2));
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            searched = self.unread.len();
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.unread.extend(&chunk[..read]);
        Ok(())
    }
}

/// One command as RESP.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend(argument);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn spell<A: AsRef<[u8]>>(arguments: &[A]) -> String {
    let words: Vec<_> = arguments.iter().map(|word| String::from_utf8_lossy(word.as_ref())).collect();
    words.join(" ")
}

fn number(text: &str) -> io::Result<i64> {
    text.parse().map_err(|_| garbled(text))
}

fn garbled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not RESP: {what}"))
}
