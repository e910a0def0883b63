//! Requests out of bytes, up to a batch at a time. It knows no command.

use super::Lane;
use keyward_proto::resp::ArgRange;

/// Requests of one batch at most: enough to hide memory latency, few enough that their bookkeeping stays in cache.
const BATCH_REQUESTS_MAX: usize = 64;

/// One decoded request: where its arguments are in the batch, and where it lies in the input.
#[derive(Clone, Copy)]
pub struct Decoded {
    /// Its first argument, among those of the batch.
    pub first: u32,
    /// How many arguments it has.
    pub count: u32,
    /// Where it begins in the input.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// How far decoding came.
pub(crate) struct DecodeEnd {
    /// The first byte not decoded.
    pub(super) position: usize,
    pub(super) how: Ended,
}

pub(super) enum Ended {
    BatchFull,
    NeedMore,
    Broken(String),
}

/// Decodes up to one batch from `from` on, and appends it. `known`: the client is logged in.
pub(crate) fn decode(
    lane: &mut Lane,
    known: bool,
    input: &mut [u8],
    from: usize,
    ranges: &mut Vec<ArgRange>,
    requests: &mut Vec<Decoded>,
) -> DecodeEnd {
    let decoder = &mut lane.decoder;
    // Since the last batch a login, a RESET or another thread may have changed who this is.
    decoder.set_authenticated(known);
    // Nobody logged in: each request may change what the next one is allowed to be.
    let limit = requests.len() + if known { BATCH_REQUESTS_MAX } else { 1 };
    let before = requests.len();
    let mut position = from;
    while requests.len() < limit {
        if position == input.len() && position > from {
            return DecodeEnd { position, how: Ended::NeedMore };
        }
        let first = ranges.len();
        // Decoding a line of words changes it in place. Alone in its batch, it is never decoded a second time.
        let is_line = input.get(position).is_some_and(|byte| *byte != b'*');
        if is_line && requests.len() > before {
            break;
        }
        match decoder.next(&mut input[position..], ranges) {
            Ok(Some(used)) => {
                for range in &mut ranges[first..] {
                    range.offset += position as u32;
                }
                let start = position;
                position += used;
                if ranges.len() > first {
                    let count = (ranges.len() - first) as u32;
                    requests.push(Decoded { first: first as u32, count, start, end: position });
                }
                if is_line {
                    break;
                }
            }
            Ok(None) => return DecodeEnd { position, how: Ended::NeedMore },
            Err(error) => return DecodeEnd { position, how: Ended::Broken(error.to_string()) },
        }
    }
    DecodeEnd { position, how: Ended::BatchFull }
}
