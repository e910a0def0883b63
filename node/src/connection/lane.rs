//! What the loop of a client owns: what was received and not run, what was answered and not sent, under which view, and what
//! must be confirmed before answers leave. It reads and writes no socket.

use super::doubts::Doubts;
use super::{Connection, KEPT_BUFFER_BYTES, Next};
use crate::gather::Written;
use crate::view::{Surety, View};
use crate::worker::Worker;
use keyward_cluster::GroupId;
use keyward_engine::reply::Reply;
use keyward_engine::session::Session;
use keyward_proto::resp::{Decoder, encode_command};
use std::ops::Range;
use std::sync::Arc;

/// Bytes written, or answered in one go without being sent, before others have their turn: some ten microseconds of the
/// kernel's time.
pub(super) const PIECE_BYTES: usize = 128 << 10;

/// Bytes of an argument that a client may announce for each one it has sent, and have room made for.
const CLAIM_PER_BYTE: usize = 16;

/// What the loop owns of a connection.
pub struct Lane {
    pub(super) decoder: Decoder,
    /// Bytes received and not yet consumed.
    pub(super) input: Vec<u8>,
    /// Replies not yet sent.
    pub(super) output: Vec<u8>,
    /// What was answered may leave once everything up to this position of the stream of effects is confirmed in this reign.
    pub(super) confirm: Option<(Surety, u64)>,
    /// The same in other shard groups than the one it is turned to.
    pub(super) confirm_too: Vec<Written>,
    /// Which answers wait for what, as far as that is known.
    pub(super) doubts: Doubts,
    /// Something may have been run under its view since it was last noted what must be confirmed.
    pub(crate) ran: bool,
    /// Views as other groups see them.
    aside: Vec<(u64, Arc<View>)>,
    /// The last batch ran under the lease: its answers must leave under it as well.
    pub under_lease: bool,
    /// The number of `view`.
    pub generation: u64,
    /// The view the session's login comes from.
    pub view: Arc<View>,
}

impl Lane {
    /// With nothing in it.
    pub fn new(decoder: Decoder, generation: u64, view: Arc<View>) -> Lane {
        Lane {
            decoder,
            input: Vec::new(),
            output: Vec::new(),
            confirm: None,
            confirm_too: Vec::new(),
            doubts: Doubts::default(),
            ran: false,
            aside: Vec::new(),
            under_lease: false,
            generation,
            view,
        }
    }

    /// Whether half a request lies in it.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Keeps what was read and not run; there was nothing before.
    pub(crate) fn keep(&mut self, connection: &Connection, rest: &[u8]) {
        self.input.extend_from_slice(rest);
        connection.holds_input(&self.input);
    }

    /// Whether a batch that ended like this leaves nothing to do.
    pub(crate) fn is_idle(&self, next: &Next) -> bool {
        matches!(next, Next::Read) && self.output.is_empty() && !self.must_confirm()
    }

    pub(super) fn must_confirm(&self) -> bool {
        self.confirm.is_some() || !self.confirm_too.is_empty()
    }

    /// Whether keys of its requests may be looked up here.
    #[inline]
    pub(crate) fn places_keys(&self) -> bool {
        self.view.is_primary() || self.view.routes.is_some()
    }

    /// Turns to another shard group. `quorum`: what was done in this one must be confirmed.
    pub(crate) fn turn(&mut self, front: &Worker, group: GroupId, quorum: bool) {
        if self.view.of == group {
            return;
        }
        if quorum && self.ran {
            self.await_confirmation(front);
        }
        self.ran = false;
        if let Some((reign, position)) = self.confirm.take() {
            self.await_too((self.view.of, reign, position));
        }
        let known = self.aside.iter().position(|(_, view)| view.of == group);
        let next = known.map_or_else(|| front.at(group).node.views.load(), |at| self.aside.swap_remove(at));
        let before = std::mem::replace(&mut self.view, next.1);
        self.aside.push((std::mem::replace(&mut self.generation, next.0), before));
    }

    /// What was answered leaves only once this is confirmed, too.
    pub(crate) fn await_too(&mut self, (group, reign, position): Written) {
        let same = |written: &&mut Written| written.0 == group && written.1 == reign;
        match self.confirm_too.iter_mut().find(same) {
            Some(written) => written.2 = written.2.max(position),
            None => self.confirm_too.push((group, reign, position)),
        }
    }

    /// Something was run: its answers may have to wait until others have it too.
    #[inline]
    pub(crate) fn await_quorum(&mut self, worker: &Worker, session: &Session) {
        if session.wants_quorum() && self.ran {
            self.await_confirmation(worker);
            let replication = &worker.at(self.view.of).node.replication;
            self.confirm = self.confirm.filter(|(reign, position)| !replication.is_confirmed(*reign, *position));
        }
        if !self.doubts.is_empty() && !self.must_confirm() {
            self.doubts.clear();
        }
    }

    /// These bytes of `replies`, which come behind those not yet sent, may leave once all that was written until now is confirmed.
    #[cold]
    pub(crate) fn doubt(&mut self, worker: &Worker, replies: Range<usize>) {
        if let Some(surety) = self.view.surety().filter(|_| !replies.is_empty()) {
            let position = worker.at(self.view.of).node.replication.log.position();
            self.note(replies, Some((self.view.of, surety, position)));
        }
    }

    /// The same once this is confirmed; `None`: at once.
    pub(crate) fn note(&mut self, replies: Range<usize>, needs: Option<Written>) {
        let before = self.output.len();
        if self.doubts.is_empty() && before > 0 && !self.must_confirm() {
            // It was on its way out already, and may begin in the middle of an answer.
            self.doubts.add(0..before, None);
        }
        self.doubts.add(before + replies.start..before + replies.end, needs);
    }

    /// If this node serves the data, as of the lane's view: what was answered until now leaves only once it is confirmed.
    pub fn await_confirmation(&mut self, worker: &Worker) {
        self.ran = false;
        let Some(surety) = self.view.surety() else { return };
        // What waits since an earlier reign is confirmed in that one or never: both are waited for.
        if let Some((earlier, position)) = self.confirm.filter(|(earlier, _)| *earlier != surety) {
            self.await_too((self.view.of, earlier, position));
        }
        self.confirm = Some((surety, worker.at(self.view.of).node.replication.log.position()));
    }

    /// What was received and not run.
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// This request comes next, before all that was received.
    pub(super) fn go_back_to(&mut self, worker: &Worker, argv: &[&[u8]]) {
        let mut input = Vec::new();
        encode_command(&mut input, argv);
        input.append(&mut self.input);
        self.input = input;
        self.decoder = Decoder::new(worker.hot().decoder.clone());
    }

    /// Moves replies to those not yet sent.
    pub fn take_replies(&mut self, reply: &mut Reply) {
        self.take_bytes(&mut reply.bytes);
    }

    /// The same for a buffer that was filled for this client: what is long is not copied.
    pub(crate) fn take_bytes(&mut self, replies: &mut Vec<u8>) {
        if self.output.is_empty() && replies.len() > PIECE_BYTES {
            self.output = std::mem::take(replies);
        } else {
            self.output.append(replies);
        }
    }

    /// Whether so much waits to be sent that nothing more should run before.
    pub(crate) fn is_full(&self) -> bool {
        self.output.len() > PIECE_BYTES
    }

    /// Makes room for what arrives next; how much of it to read. Once a part of a long argument is here, there is room for
    /// the rest of it: memory that nothing was written to costs nothing, and growing step by step copies what is there each
    /// time. The claim alone is worth nothing.
    pub(super) fn make_room(&mut self) -> usize {
        let held = self.input.len();
        let Some(expected) = self.decoder.bytes_expected().filter(|expected| *expected > held) else {
            return KEPT_BUFFER_BYTES;
        };
        let needed = expected + KEPT_BUFFER_BYTES;
        if needed > self.input.capacity() && held.saturating_mul(CLAIM_PER_BYTE) >= expected {
            // Without room it grows as it comes.
            let _ = self.input.try_reserve(needed - held);
        }
        KEPT_BUFFER_BYTES
    }
}
