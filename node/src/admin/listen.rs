//! Accepts a bounded number of admin connections: who comes when there are that many takes the place of the oldest that has
//! not logged in.

use crate::places::{Placed, Places};
use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

/// Connections at a time. A few operators and their scripts; if all of them are logged in, further ones are closed.
const CONNECTIONS_MAX: usize = 256;
/// How long to wait when the system has no file descriptor left to accept with.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of `listener`, as they come.
pub(super) fn incoming(listener: TcpListener) -> ReceiverStream<io::Result<Placed<TcpStream>>> {
    // One: who accepts ahead of the server only lengthens the queue.
    let (accepted, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, &accepted) => {}
            () = accepted.closed() => {}
        }
    });
    ReceiverStream::new(stream)
}

async fn accept(listener: TcpListener, accepted: &mpsc::Sender<io::Result<Placed<TcpStream>>>) {
    let places = Places::new(CONNECTIONS_MAX);
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(place) = places.take(address.ip()) else { continue };
        // Only latency is lost if the system refuses.
        let _ = stream.set_nodelay(true);
        if accepted.send(Ok(Placed::new(stream, address, place))).await.is_err() {
            return;
        }
    }
}
