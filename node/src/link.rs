//! Links between nodes: a proof on both sides, then frames.
//!
//! ```text
//!   caller                               owner
//!   magic · its nonce · its node id ───►
//!                                   ◄─── its nonce · HMAC(secret, "owner"  · both nonces · cluster · owner's id)
//!   HMAC(secret, "caller" · …) ─────────►                                   then frames, both ways
//! ```
//! Neither side sends the secret, an old proof is worth nothing (fresh nonces), and a proof made by one side is none
//! for the other (the label). Frames are a 32-bit little-endian length and a protobuf message. Where it listens: on the
//! peer port, beside the Raft service, told apart by the first bytes.

use crate::node::Node;
use crate::ties::Tie;
use crate::worker::now_us;
use crate::world::net::{self, OwnedReadHalf, OwnedWriteHalf, Parcel, TcpStream};
use hmac::{Hmac, Mac};
use prost::Message;
use sha2::Sha256;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// The first bytes of a link; a gRPC connection begins with `PRI *`.
pub const MAGIC: &[u8; 8] = b"KWLINK1\n";

/// Everything before the first frame must be done in this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// A frame is no longer than this, in bytes: the largest value, and room for its command.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// What one field of a message may hold, in bytes: the rest of the frame is room for the other fields.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX - (1 << 20);

/// A buffer that grew larger than this is given back once it is empty, in bytes.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// The writer is emptied once it holds this much, in bytes.
const WRITE_BYTES_SOFT: usize = 1 << 20;

const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;

/// A link after its proof.
pub struct LinkStream(TcpStream, Arc<Tie>);

impl LinkStream {
    /// Its two directions.
    pub fn into_halves(self) -> (FrameReader, FrameWriter) {
        let (reader, writer) = self.0.into_split();
        (FrameReader { reader, buffer: Vec::new(), start: 0 }, FrameWriter { writer, buffer: Vec::new(), tie: self.1 })
    }
}

/// Connects to a node's peer port and proves the secret both ways. The error is for people.
pub async fn connect(node: &Node, owner: u64, address: &str) -> Result<LinkStream, String> {
    let work = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        let _ = stream.set_nodelay(true);
        let nonce: [u8; NONCE_BYTES] = crate::random::bytes();
        let mut hello = Vec::with_capacity(MAGIC.len() + NONCE_BYTES + 8);
        hello.extend_from_slice(MAGIC);
        hello.extend_from_slice(&nonce);
        hello.extend_from_slice(&node.id().to_le_bytes());
        stream.write_all(&hello).await.map_err(broke)?;
        let mut answer = [0; NONCE_BYTES + PROOF_BYTES];
        stream.read_exact(&mut answer).await.map_err(broke)?;
        let (their_nonce, their_proof) = answer.split_at(NONCE_BYTES);
        let expected = proof(node, b"owner", &nonce, their_nonce, owner);
        if !bool::from(expected.as_slice().ct_eq(their_proof)) {
            return Err(format!("{address} does not know the cluster secret, or is another node"));
        }
        let mine = proof(node, b"caller", &nonce, their_nonce, node.id());
        stream.write_all(&mine).await.map_err(broke)?;
        Ok(LinkStream(stream, node.ties.add(owner, true, now_us() / 1000)))
    };
    timeout(HANDSHAKE_TIMEOUT, work).await.map_err(|_| format!("{address} did not answer in time"))?
}

/// The other side of [`connect`]; the magic is still to be read. The error is for people.
pub async fn accept(node: &Node, stream: Parcel) -> Result<LinkStream, String> {
    let work = async {
        let mut stream = net::unpack(stream).map_err(broke)?;
        let _ = stream.set_nodelay(true);
        let mut hello = [0; 8 + NONCE_BYTES + 8];
        stream.read_exact(&mut hello).await.map_err(broke)?;
        let (magic, rest) = hello.split_at(MAGIC.len());
        let (their_nonce, caller) = rest.split_at(NONCE_BYTES);
        if magic != MAGIC {
            return Err("not a link".to_owned());
        }
        let caller = caller.try_into().map(u64::from_le_bytes).expect("the last eight bytes of the greeting");
        let nonce: [u8; NONCE_BYTES] = crate::random::bytes();
        let mut answer = nonce.to_vec();
        answer.extend_from_slice(&proof(node, b"owner", their_nonce, &nonce, node.id()));
        stream.write_all(&answer).await.map_err(broke)?;
        let mut their_proof = [0; PROOF_BYTES];
        stream.read_exact(&mut their_proof).await.map_err(broke)?;
        let expected = proof(node, b"caller", their_nonce, &nonce, caller);
        if !bool::from(expected.as_slice().ct_eq(&their_proof)) {
            return Err("the caller does not know the cluster secret".to_owned());
        }
        Ok(LinkStream(stream, node.ties.add(caller, false, now_us() / 1000)))
    };
    timeout(HANDSHAKE_TIMEOUT, work).await.map_err(|_| "no proof in time".to_owned())?
}

fn broke(error: io::Error) -> String {
    format!("the link broke: {error}")
}

fn proof(node: &Node, label: &[u8], caller_nonce: &[u8], owner_nonce: &[u8], prover: u64) -> [u8; PROOF_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(node.cluster_secret()).expect("HMAC takes a key of any length");
    for part in [b"keyward link 1 ".as_slice(), label, caller_nonce, owner_nonce, &node.cluster_id()] {
        mac.update(part);
    }
    mac.update(&prover.to_le_bytes());
    mac.finalize().into_bytes().into()
}

/// The two directions as one stream again, for what follows the frames, and what shows it as long as it is kept. An error if the
/// other side did not wait with it until it was asked to.
pub fn into_stream(reader: FrameReader, writer: FrameWriter) -> io::Result<(TcpStream, Arc<Tie>)> {
    let (stream, tie, early) = into_stream_and_rest(reader, writer)?;
    if early.is_empty() {
        Ok((stream, tie))
    } else {
        Err(io::Error::other("bytes behind the last frame came too early"))
    }
}

/// The same where the other side need not wait: with what it has said behind its last frame.
pub fn into_stream_and_rest(reader: FrameReader, writer: FrameWriter) -> io::Result<(TcpStream, Arc<Tie>, Vec<u8>)> {
    if !writer.buffer.is_empty() {
        return Err(io::Error::other("a frame was not sent"));
    }
    let FrameReader { reader, mut buffer, start } = reader;
    let stream = reader.reunite(writer.writer).map_err(io::Error::other)?;
    Ok((stream, writer.tie, buffer.split_off(start)))
}

/// Frames on a link that another runtime has made.
pub fn of_parcel(parcel: Parcel, tie: Arc<Tie>) -> io::Result<(FrameReader, FrameWriter)> {
    Ok(LinkStream(net::unpack(parcel)?, tie).into_halves())
}

/// Reads frames.
pub struct FrameReader {
    reader: OwnedReadHalf,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that are done with.
    start: usize,
}

impl FrameReader {
    /// The next message; `None` when the other side closed. An error ends the link.
    pub async fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        loop {
            if let Some(length) = self.complete()? {
                let body = self.start + 4;
                let message = M::decode(&self.buffer[body..body + length]).map_err(io::Error::other)?;
                self.start = body + length;
                return Ok(Some(message));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BUFFER_BYTES {
                self.buffer = Vec::new();
            }
            // Grows with what arrives, not with what a length claims.
            self.buffer.reserve(64 * 1024);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether no whole frame is waiting in memory.
    pub fn is_drained(&self) -> bool {
        !matches!(self.complete(), Ok(Some(_)))
    }

    fn complete(&self) -> io::Result<Option<usize>> {
        let Some(head) = self.buffer.get(self.start..self.start + 4) else { return Ok(None) };
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::other("a frame longer than any may be"));
        }
        Ok((self.buffer.len() - self.start - 4 >= length).then_some(length))
    }
}

/// Writes frames.
pub struct FrameWriter {
    writer: OwnedWriteHalf,
    buffer: Vec<u8>,
    tie: Arc<Tie>,
}

impl FrameWriter {
    /// Adds a message to what the next flush sends.
    pub fn push<M: Message>(&mut self, message: &M) {
        let length = message.encoded_len();
        // The other side would take a longer one for the end of the link, or for other frames.
        assert!(length <= FRAME_BYTES_MAX, "who makes a message keeps it shorter than a frame");
        let length = length as u32;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        message.encode(&mut self.buffer).expect("a vector grows as needed");
        self.tie.note(self.buffer.capacity(), self.buffer.len());
    }

    /// Whether it is time to flush.
    pub fn is_full(&self) -> bool {
        self.buffer.len() > WRITE_BYTES_SOFT
    }

    /// Sends everything.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.buffer).await?;
        self.buffer.clear();
        if self.buffer.capacity() > 4 * WRITE_BYTES_SOFT {
            self.buffer = Vec::new();
        }
        self.tie.note(self.buffer.capacity(), 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ties::Ties;
    use crate::world::net::TcpListener;
    use keyward_proto::forward::BatchReply;

    // A client that moves may be told something right behind the answer to its hand-over, and both are read at once.
    #[tokio::test]
    async fn what_follows_the_last_frame_is_kept_where_it_may_come_at_any_time() {
        for waits in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut far, _) = listener.accept().await.unwrap();
            let reply = BatchReply { count: 1, ..BatchReply::default() };
            let mut said = (reply.encoded_len() as u32).to_le_bytes().to_vec();
            reply.encode(&mut said).unwrap();
            said.extend_from_slice(b">1\r\n+news\r\n");
            far.write_all(&said).await.unwrap();
            let (mut reader, writer) = LinkStream(near, Ties::default().add(1, true, 0)).into_halves();
            assert_eq!(reader.next::<BatchReply>().await.unwrap(), Some(reply));
            if waits {
                assert!(into_stream(reader, writer).is_err());
            } else {
                let (_, _, rest) = into_stream_and_rest(reader, writer).unwrap();
                assert_eq!(rest, b">1\r\n+news\r\n");
            }
        }
    }
}
