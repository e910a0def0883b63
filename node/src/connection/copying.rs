//! Sends a client a copy of all data, or of the functions alone, as `SYNC` asks for it: the length, then the file, piece by
//! piece as it is read from. The connection ends with it. It writes no file and knows no record.

use super::{Connection, Lane, flush};
use crate::snapshot;
use crate::socket::Socket;
use crate::worker::Worker;
use keyward_engine::session::CopyHolds;
use std::fs::File;
use std::io::{self, Read};

/// Read from the file at a time, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// All of it, or an error reply; the caller closes the connection.
pub(super) async fn send_copy(
    worker: &Worker,
    stream: &Socket,
    connection: &Connection,
    lane: &mut Lane,
    holds: CopyHolds,
) -> io::Result<()> {
    let copied = tokio::select! {
        biased;
        () = connection.killed() => return Ok(()),
        copied = snapshot::copy(&worker.node, holds) => copied,
    };
    let (mut file, mut left) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            lane.output.extend_from_slice(format!("-ERR {error}\r\n").as_bytes());
            return flush(worker, stream, connection, lane).await;
        }
    };
    tracing::info!(client = %connection.session.borrow().address, bytes = left, "a copy of all data is sent");
    lane.output.extend_from_slice(format!("${left}\r\n").as_bytes());
    while left > 0 {
        let mut piece;
        (file, piece) = read_apart(file, left.min(PIECE_BYTES as u64) as usize).await?;
        left -= piece.len() as u64;
        lane.output.append(&mut piece);
        flush(worker, stream, connection, lane).await?;
    }
    Ok(())
}

/// The disk must not keep the other clients of this thread waiting.
async fn read_apart(mut file: File, bytes: usize) -> io::Result<(File, Vec<u8>)> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; bytes];
        file.read_exact(&mut piece)?;
        Ok((file, piece))
    });
    reading.await.map_err(io::Error::other)?
}
