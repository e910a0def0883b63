//! The scripts a machine knows, by the SHA-1 of their text.
//!
//! Scripts of EVAL come and go: the ones used longest ago make room. Scripts of SCRIPT LOAD stay until SCRIPT FLUSH.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use sha1::{Digest, Sha1};

use crate::interpreter::Program;
use crate::shebang::ScriptFlags;

/// Scripts of EVAL that are kept. Valkey keeps as many.
const EVALUATED_MAX: usize = 500;
/// Bytes of their texts that are kept.
const EVALUATED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The name of a script.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha([u8; 20]);

impl Sha {
    /// The name of this text.
    pub fn of(body: &[u8]) -> Sha {
        Sha(Sha1::digest(body).into())
    }

    /// Reads forty hexadecimal digits.
    pub fn parse(text: &[u8]) -> Option<Sha> {
        let mut sha = [0; 20];
        if text.len() != 2 * sha.len() {
            return None;
        }
        for (byte, digits) in sha.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |place: usize| char::from(digits[place]).to_digit(16);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Some(Sha(sha))
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let text: String = digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect();
        formatter.write_str(&text)
    }
}

impl fmt::Debug for Sha {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// A script that is known.
#[derive(Debug)]
pub struct Script {
    /// Its text.
    pub body: Arc<[u8]>,
    /// What its first line says.
    pub flags: ScriptFlags,
    /// Whether SCRIPT LOAD brought it, so that it stays.
    pub is_loaded: bool,
    /// Where the program begins, behind the first line's words.
    pub(crate) start: usize,
    /// The program, in the state that compiled it; none after that state was replaced.
    pub(crate) program: Option<Program>,
    last_use: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    scripts: HashMap<Sha, Script>,
    evaluated: usize,
    evaluated_bytes: usize,
    bytes: usize,
    uses: u64,
}

impl Cache {
    pub(crate) fn get(&self, sha: &Sha) -> Option<&Script> {
        self.scripts.get(sha)
    }

    /// The script, noted as used now.
    pub(crate) fn used(&mut self, sha: &Sha) -> Option<&mut Script> {
        self.uses += 1;
        let script = self.scripts.get_mut(sha)?;
        script.last_use = self.uses;
        Some(script)
    }

    /// A script of EVAL that SCRIPT LOAD brings too stays from now on.
    pub(crate) fn keep(&mut self, sha: &Sha) {
        if let Some(script) = self.scripts.get_mut(sha)
            && !std::mem::replace(&mut script.is_loaded, true)
        {
            self.evaluated -= 1;
            self.evaluated_bytes -= script.body.len();
        }
    }

    pub(crate) fn insert(&mut self, sha: Sha, body: &[u8], flags: ScriptFlags, start: usize, program: Program) {
        self.uses += 1;
        let script =
            Script { body: body.into(), flags, is_loaded: false, start, program: Some(program), last_use: self.uses };
        self.evaluated += 1;
        self.evaluated_bytes += body.len();
        self.bytes += body.len();
        self.scripts.insert(sha, script);
        while self.evaluated > EVALUATED_MAX || (self.evaluated > 1 && self.evaluated_bytes > EVALUATED_BYTES_MAX) {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let evaluated = self.scripts.iter().filter(|(_, script)| !script.is_loaded);
        let Some(oldest) = evaluated.min_by_key(|(_, script)| script.last_use).map(|(sha, _)| *sha) else { return };
        if let Some(script) = self.scripts.remove(&oldest) {
            self.evaluated -= 1;
            self.evaluated_bytes -= script.body.len();
            self.bytes -= script.body.len();
        }
    }

    /// Forgets those of EVAL.
    pub(crate) fn forget_evaluated(&mut self) {
        self.scripts.retain(|_, script| script.is_loaded);
        self.bytes -= self.evaluated_bytes;
        (self.evaluated, self.evaluated_bytes) = (0, 0);
    }

    pub(crate) fn clear(&mut self) {
        *self = Cache { uses: self.uses, ..Cache::default() };
    }

    /// The state that compiled the programs is gone.
    pub(crate) fn forget_programs(&mut self) {
        self.scripts.values_mut().for_each(|script| script.program = None);
    }

    pub(crate) fn len(&self) -> usize {
        self.scripts.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
