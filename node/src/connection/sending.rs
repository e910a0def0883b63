//! Answers on their way out: straight from the thread's buffer as far as there is room, the rest from the connection; and none
//! of them once the lease they were made under is over. It reads nothing.

use super::lane::PIECE_BYTES;
use super::{Connection, KEPT_BUFFER_BYTES, KEPT_IDLE_BYTES, Lane, OUTPUT_BYTES_SOFT, give_back, turn_of};
use crate::gate::LeaseState;
use crate::holding::Part;
use crate::socket::Socket;
use crate::worker::{Scratch, Worker};
use std::io;

/// Sends what was answered. While the client does not read, we wait here and read nothing from it.
pub(super) async fn flush(
    worker: &Worker,
    stream: &Socket,
    connection: &Connection,
    lane: &mut Lane,
) -> io::Result<()> {
    if connection.mailbox.is_filled() {
        // Nobody learns what happened after their rights may have ended.
        lane.under_lease = true;
        connection.mailbox.collect(&mut lane.output);
    }
    if !lane.output.is_empty() {
        may_leave(worker, lane)?;
    }
    // What is short leaves at once, or is not worth being counted.
    if lane.output.len() > KEPT_IDLE_BYTES {
        connection.mailbox.holding.set(Part::Output, lane.output.len() as u64);
    }
    let mut sent = 0;
    while sent < lane.output.len() {
        connection.output_bytes.set(lane.output.len() - sent);
        match stream.try_write(piece(&lane.output[sent..])) {
            Ok(count) => {
                sent += count;
                connection.sent(worker, count);
                if sent < lane.output.len() && turn_of(worker, connection).await.is_none() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    biased;
                    () = connection.killed() => return Err(io::ErrorKind::ConnectionAborted.into()),
                    () = stream.writable() => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
    connection.output_bytes.set(0);
    if sent > 0 {
        connection.charge_traffic(worker);
    }
    give_back(worker, &mut lane.output);
    connection.mailbox.holding.set(Part::Output, 0);
    Ok(())
}

/// What is sent at once: the kernel takes its time for megabytes, too.
#[inline]
fn piece(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(PIECE_BYTES)]
}

/// A process may have stood still since it looked at its lease. What it did then may be after the rights of the client
/// ended, so the client must not hear of it.
#[inline]
fn may_leave(worker: &Worker, lane: &Lane) -> io::Result<()> {
    if lane.under_lease && worker.node.lease_state() == LeaseState::Over {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}

/// Tries to send the replies of the batch straight from the thread's buffer; the rest moves into the connection.
pub(crate) fn send_now(
    worker: &Worker,
    stream: &Socket,
    connection: &Connection,
    lane: &mut Lane,
    scratch: &mut Scratch,
) -> io::Result<()> {
    if scratch.reply.bytes.len() > PIECE_BYTES {
        lane.take_bytes(&mut scratch.reply.bytes);
    }
    let sent = send_or_keep(worker, stream, connection, lane, &scratch.reply.bytes);
    give_back_large(&mut scratch.reply.bytes);
    sent
}

/// Empties a buffer of the thread, and gives it back if it has become large.
pub(crate) fn give_back_large(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > 4 * OUTPUT_BYTES_SOFT {
        *buffer = Vec::with_capacity(KEPT_BUFFER_BYTES);
    }
}

/// Sends what there is room for; the connection keeps the rest.
#[inline]
pub(crate) fn send_or_keep(
    worker: &Worker,
    stream: &Socket,
    connection: &Connection,
    lane: &mut Lane,
    bytes: &[u8],
) -> io::Result<()> {
    if !bytes.is_empty() {
        may_leave(worker, lane)?;
    }
    let mut sent = 0;
    if !bytes.is_empty() && lane.output.is_empty() && !lane.must_confirm() {
        match stream.try_write(piece(bytes)) {
            Ok(count) => {
                connection.sent(worker, count);
                sent = count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    lane.output.extend_from_slice(&bytes[sent..]);
    Ok(())
}
