//! What a write did: enough to do it again elsewhere, deterministically.
//!
//! A handler that changed something says so through [`Effects`]. By default the request itself is the effect; a
//! handler whose request depends on time, chance or the state of the data (a relative expiry, `SPOP`, `INCRBYFLOAT`)
//! replaces it by commands that do not. The node appends the effects to the shard group's journal while the shard is
//! still locked: journal order is memory order. Replicas apply effects without deciding anything.

use std::cell::Cell;

/// One effect: a command with its arguments, deterministic.
pub type EffectCommand = Vec<Vec<u8>>;

/// What the commands of one call did.
#[derive(Default, Debug)]
pub struct Effects {
    changes: u64,
    replaced: bool,
    commands: Vec<EffectCommand>,
    removed: Vec<Vec<u8>>,
    // Reading borrows the keys shared, so these two count through a cell.
    hits: Cell<u64>,
    misses: Cell<u64>,
}

/// The parts of an effect, for the journal.
pub enum Effect<'a> {
    /// The request, exactly as it came.
    Request(&'a [&'a [u8]]),
    /// This command instead.
    Command(&'a EffectCommand),
    /// A key that was found expired and removed.
    Removed(&'a [u8]),
}

impl Effects {
    /// Nothing happened yet.
    pub fn new() -> Effects {
        Effects::default()
    }

    /// `count` things changed.
    #[inline]
    pub fn changed(&mut self, count: u64) {
        self.changes += count;
    }

    /// Something changed, and these commands say what; the request itself is not repeated elsewhere.
    pub fn replace(&mut self, command: &[&[u8]]) {
        self.replaced = true;
        self.commands.push(command.iter().map(|argument| argument.to_vec()).collect());
    }

    /// A key was found expired and removed, before the request did anything.
    pub fn expired(&mut self, key: &[u8]) {
        self.removed.push(key.to_vec());
    }

    /// How many things the request changed (the `dirty` count of `INFO persistence`).
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many keys were found expired.
    pub fn expired_count(&self) -> usize {
        self.removed.len()
    }

    /// A read looked for a key.
    #[inline]
    pub fn looked_up(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
    }

    /// Reads that found their key, and reads that did not.
    #[inline]
    pub fn lookups(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }

    /// Whether there is anything to append.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.changes == 0 && self.removed.is_empty()
    }

    /// The effects in the order they must be applied.
    pub fn for_each<'a>(&'a self, request: &'a [&'a [u8]], mut visit: impl FnMut(Effect<'a>)) {
        for key in &self.removed {
            visit(Effect::Removed(key));
        }
        if self.changes > 0 && !self.replaced {
            visit(Effect::Request(request));
        }
        for command in &self.commands {
            visit(Effect::Command(command));
        }
    }

    /// Ready for the next call.
    #[inline]
    pub fn clear(&mut self) {
        self.changes = 0;
        self.replaced = false;
        self.commands.clear();
        self.removed.clear();
        self.hits.set(0);
        self.misses.set(0);
    }
}
