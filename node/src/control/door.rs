//! The peer port's door: tells Raft's connections from links that carry commands, by their first bytes.
//!
//! ```text
//!   accept ─► peek 8 bytes ─► "KWLINK1\n" ─► a data thread takes the socket over; its proof comes first
//!                          └► anything else ─► the gRPC server, which checks the secret of every call
//! ```
//! Looking takes a bounded time and a bounded number of sockets; it reads nothing away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use crate::link::MAGIC;
use crate::places::{Placed, Places, PortPlace};
use crate::world::net::{self, Parcel, TcpListener, TcpStream};

/// A caller that says nothing for this long is dropped.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that have proved nothing yet, and those of the gRPC server, at a time. A cluster opens a few for each node. Who
/// comes when there are that many takes the place of a stranger; without a bound, strangers would use up the files of the process.
const PLACES_MAX: usize = 512;

/// Connections waiting for the gRPC server.
const WAITING_MAX: usize = 64;

/// Between two tries to accept when the process is out of files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Takes over a link's socket. It keeps its place until it has proved that it is a link.
pub type LinkTaker = Arc<dyn Fn(Parcel, PortPlace) + Send + Sync>;

/// A connection of the gRPC server, or why there is none.
type Call = io::Result<Placed<TcpStream>>;

/// The gRPC connections of the listener; links go to `links`.
pub fn open(listener: TcpListener, links: LinkTaker) -> ReceiverStream<Call> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(accept(listener, links, sender));
    ReceiverStream::new(receiver)
}

async fn accept(listener: TcpListener, links: LinkTaker, calls: mpsc::Sender<Call>) {
    let places = Places::new(PLACES_MAX);
    loop {
        let (stream, address) = tokio::select! {
            () = calls.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the peer port cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        // A peer that finds no place tries again soon.
        let Some(place) = places.take(address.ip()) else { continue };
        // Small messages that must not wait for each other.
        let _ = stream.set_nodelay(true);
        tokio::spawn(show_in((stream, address, place), Arc::clone(&links), calls.clone()));
    }
}

/// Finds out what a connection is for.
async fn show_in(
    (stream, address, mut place): (TcpStream, SocketAddr, PortPlace),
    links: LinkTaker,
    calls: mpsc::Sender<Call>,
) {
    let looked = tokio::select! {
        () = place.told() => return,
        looked = timeout(FIRST_BYTES_TIMEOUT, is_link(&stream)) => looked,
    };
    match looked {
        Ok(Ok(true)) => {
            if let Ok(stream) = net::pack(stream) {
                links(stream, place);
            }
        }
        // A closed channel means that the server is stopping.
        Ok(Ok(false)) => drop(calls.send(Ok(Placed::new(stream, address, place))).await),
        Ok(Err(_)) | Err(_) => {}
    }
}

async fn is_link(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; MAGIC.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen == MAGIC.len() || first[..seen] != MAGIC[..seen] {
            return Ok(first == *MAGIC);
        }
        // The rest of a greeting is on its way; peeking again at once would only spin.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
