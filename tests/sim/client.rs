//! A client in the simulated world: one connection at a time, RESP2, and what an answer means for whoever judges.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use turmoil::net::TcpStream;

use crate::history::Ended;

/// Where nodes listen for clients.
pub const PORT: u16 = 6379;

/// How long a client waits for one answer. Longer than a failover.
const PATIENCE: Duration = Duration::from_secs(8);

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Error(String),
    Number(i64),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    pub fn is_ok(&self) -> bool {
        matches!(self, Value::Text(text) if text == "OK")
    }
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and logs in.
    pub async fn login(ip: IpAddr, user: &str) -> io::Result<Client> {
        let stream =
            timeout(Duration::from_secs(1), TcpStream::connect((ip, PORT))).await.map_err(io::Error::other)??;
        let mut client = Client { stream, buffer: Vec::new() };
        let reply = client.call(&["AUTH", user, "pw"]).await?;
        if reply.is_ok() { Ok(client) } else { Err(io::Error::other(format!("{reply:?}"))) }
    }

    /// Sends one command and reads its reply.
    pub async fn call(&mut self, words: &[&str]) -> io::Result<Value> {
        self.send(words).await?;
        timeout(PATIENCE, self.read()).await.map_err(io::Error::other)?
    }

    /// Sends one command.
    pub async fn send(&mut self, words: &[&str]) -> io::Result<()> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.write_all(request.as_bytes()).await
    }

    /// The next reply.
    pub async fn read(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, used)) = parse(&self.buffer) {
                self.buffer.drain(..used);
                return Ok(value);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.buffer.extend_from_slice(&piece[..count]),
            }
        }
    }
}

/// The first reply and its length, once it is all there.
fn parse(bytes: &[u8]) -> Option<(Value, usize)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let line = std::str::from_utf8(bytes.get(1..end)?).ok()?;
    let after = end + 2;
    Some(match bytes[0] {
        b'+' => (Value::Text(line.to_owned()), after),
        b'-' => (Value::Error(line.to_owned()), after),
        b':' => (Value::Number(line.parse().ok()?), after),
        b'$' => match line.parse::<i64>().ok()? {
            -1 => (Value::Nil, after),
            length => {
                let body = bytes.get(after..after + length as usize)?;
                bytes.get(after + length as usize + 1)?;
                (Value::Text(String::from_utf8_lossy(body).into_owned()), after + length as usize + 2)
            }
        },
        b'*' => match line.parse::<i64>().ok()? {
            -1 => (Value::Nil, after),
            count => {
                let (mut items, mut at) = (Vec::new(), after);
                for _ in 0..count {
                    let (item, used) = parse(bytes.get(at..)?)?;
                    items.push(item);
                    at += used;
                }
                (Value::Array(items), at)
            }
        },
        _ => return None,
    })
}

/// Errors after which certainly nothing was carried out.
const CERTAINLY_NOT: [&str; 4] = ["NOREPLICAS", "LOADING", "NOPERM", "was not carried out"];

/// What an answer means to whoever asked for a write.
pub fn meaning<T>(answer: io::Result<Value>, read: impl FnOnce(Value) -> Option<T>) -> Ended<T> {
    match answer {
        Ok(Value::Error(text)) if CERTAINLY_NOT.iter().any(|sign| text.contains(sign)) => Ended::Failed,
        Ok(Value::Error(_)) | Err(_) => Ended::Unknown,
        Ok(value) => read(value).map_or(Ended::Unknown, Ended::Ok),
    }
}
