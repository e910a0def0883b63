//! Waiting for facts. Knows nothing about nodes; the only place of the harness that lets time pass.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long a fact may take to become true before a test gives up: two slow cores shared with a build need patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks: short enough that waiting costs a test nothing, long enough not to starve the node it waits for.
const PAUSE: Duration = Duration::from_millis(10);

/// Polls `fact` until it yields a value; panics with `what` when patience ends.
pub fn wait_until<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    wait_until_for(PATIENCE, what, fact)
}

/// [`wait_until`] with its own patience.
pub fn wait_until_for<T>(patience: Duration, what: &str, fact: impl FnMut() -> Option<T>) -> T {
    poll(patience, fact).unwrap_or_else(|| panic!("waited {patience:?} in vain until {what}"))
}

/// Polls `fact` until it yields a value, or gives up.
pub fn poll<T>(patience: Duration, mut fact: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = fact() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// A bare `GET`: the status code and the body, or `None` when nobody answers.
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    // A server that resets after its answer has still answered.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
