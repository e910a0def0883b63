//! What native functions take for a script where the language does not look: memory beside Lua's own, and time between
//! two instructions of the program.
//!
//! All native memory of a run together, however calls are nested, may be as much as what its state has left; whoever
//! copies, searches or walks tells how much, and now and then the host is asked whether the script may go on.
//! It refuses to know what is written.

use mlua::{Lua, LuaString, Result};

use crate::host::with_run;
use crate::interpreter::may_go_on;
use crate::raise::raise;

/// A value that is read or written is as much work as copying so many bytes.
pub(crate) const STEP: usize = 128;
/// A command of the server is as much work as copying so many bytes.
pub(crate) const COMMAND: usize = 1 << 16;

/// Work between two questions whether the script may go on: below a millisecond.
const WORK_PER_QUESTION: usize = 1 << 20;
/// Work that is noted in the run at once: each time costs a few nanoseconds.
const WORK_NOTED: usize = 1 << 14;
/// What a function leaves that did less is not noted: the program's own instructions are counted, and it is one of them.
const WORK_NOT_NOTED: usize = 1 << 10;

/// What a run has taken so far.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Bytes of native memory in use.
    memory: usize,
    /// Work since the last question.
    work: usize,
}

/// The work of one native function.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pending: usize,
}

impl Work {
    /// Begins some: with a question, if those before left one open.
    pub(crate) fn begin() -> Result<Work> {
        did(0)?;
        Ok(Work { pending: 0 })
    }

    /// One value more was read or written.
    pub(crate) fn step(&mut self) -> Result<()> {
        self.of(STEP)
    }

    /// As much as copying so many bytes.
    #[inline]
    pub(crate) fn of(&mut self, bytes: usize) -> Result<()> {
        self.pending = self.pending.saturating_add(bytes);
        if self.pending < WORK_NOTED { Ok(()) } else { did(std::mem::take(&mut self.pending)) }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.pending > WORK_NOT_NOTED {
            // The next one asks.
            note(self.pending);
        }
    }
}

/// Notes work. Whether a question is due.
fn note(work: usize) -> bool {
    let is_due = with_run(|_, state| {
        state.taken.work = state.taken.work.saturating_add(work);
        state.taken.work >= WORK_PER_QUESTION
    });
    is_due == Some(true)
}

/// Notes work, and asks whether the script may go on if it is time to.
pub(crate) fn did(work: usize) -> Result<()> {
    if !note(work) {
        return Ok(());
    }
    with_run(|_, state| state.taken.work = 0);
    may_go_on()
}

/// Native memory in use for a script, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: usize,
}

impl Held {
    /// So many bytes, or the script's error that there is no memory.
    pub(crate) fn of(lua: &Lua, bytes: usize) -> Result<Held> {
        let mut held = Held::default();
        held.more(lua, bytes)?;
        Ok(held)
    }

    /// So many bytes more, or the script's error that there is no memory.
    pub(crate) fn more(&mut self, lua: &Lua, bytes: usize) -> Result<()> {
        if !self.try_more(lua, bytes) {
            // What the program dropped may lie about uncollected. To look takes as long as there is memory.
            did(lua.used_memory())?;
            lua.gc_collect()?;
            if !self.try_more(lua, bytes) {
                return Err(raise(lua, "not enough memory"));
            }
        }
        Ok(())
    }

    fn try_more(&mut self, lua: &Lua, bytes: usize) -> bool {
        let has_room = with_run(|_, state| {
            let all = lua.used_memory().saturating_add(state.taken.memory).saturating_add(bytes);
            let has_room = all <= state.memory_max;
            if has_room {
                state.taken.memory += bytes;
            }
            has_room
        });
        // No run, no script that would take it.
        let has_room = has_room.unwrap_or(true);
        self.bytes += if has_room { bytes } else { 0 };
        has_room
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        with_run(|_, state| state.taken.memory = state.taken.memory.saturating_sub(self.bytes));
    }
}

/// Bytes that a native function makes for a script: never more than its state has room for.
pub(crate) struct Buffer<'a> {
    lua: &'a Lua,
    bytes: Vec<u8>,
    held: Held,
    /// What making them takes.
    pub work: Work,
}

impl<'a> Buffer<'a> {
    pub(crate) fn new(lua: &'a Lua) -> Result<Buffer<'a>> {
        Ok(Buffer { lua, bytes: Vec::new(), held: Held::default(), work: Work::begin()? })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Everything from `start` on.
    pub(crate) fn since(&mut self, start: usize) -> &mut [u8] {
        &mut self.bytes[start..]
    }

    #[inline]
    pub(crate) fn push(&mut self, byte: u8) -> Result<()> {
        self.make_room(1)?;
        self.bytes.push(byte);
        Ok(())
    }

    #[inline]
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> Result<()> {
        self.make_room(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The text as a string of the language.
    pub(crate) fn into_string(self) -> Result<LuaString> {
        self.lua.create_string(&self.bytes)
    }

    #[inline]
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.held.bytes - self.bytes.len() { Ok(()) } else { self.grow(bytes) }
    }

    #[cold]
    fn grow(&mut self, bytes: usize) -> Result<()> {
        const LEAST: usize = 64;
        const MANY: usize = 64 * 1024;
        let held = self.held.bytes;
        let needed = self.bytes.len().saturating_add(bytes) - held;
        // Near the end of the memory it grows less, but not byte by byte.
        let grown =
            [needed.max(held).max(LEAST), needed.max(MANY)].iter().any(|more| self.held.try_more(self.lua, *more));
        if !grown {
            self.held.more(self.lua, needed)?;
        }
        self.bytes.reserve_exact(self.held.bytes - self.bytes.len());
        // Every byte that is written was room once.
        self.work.of(self.held.bytes - held)
    }
}
