//! The arguments of one request: a cursor the handlers read from left to right.
//!
//! It knows how Redis spells numbers and how it complains; it does not know any command.

use crate::error::CommandError;
use crate::types::number;

/// What is left of a request after its name.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    argv: &'a [&'a [u8]],
    next: usize,
}

impl<'a> Args<'a> {
    /// A cursor over `argv`, the first `skip` of which are the command's name.
    #[inline]
    pub fn new(argv: &'a [&'a [u8]], skip: usize) -> Args<'a> {
        Args { argv, next: skip }
    }

    /// The whole request, name included.
    #[inline]
    pub fn argv(&self) -> &'a [&'a [u8]] {
        self.argv
    }

    /// The index in [`Args::argv`] of the argument that comes next.
    #[inline]
    pub fn index(&self) -> usize {
        self.next
    }

    /// How many arguments are left.
    #[inline]
    pub fn len(&self) -> usize {
        self.argv.len() - self.next
    }

    /// Whether none is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.next >= self.argv.len()
    }

    /// The next argument; a syntax error if there is none (arity was checked before).
    #[inline]
    pub fn take(&mut self) -> Result<&'a [u8], CommandError> {
        let argument = self.argv.get(self.next).ok_or(CommandError::Syntax)?;
        self.next += 1;
        Ok(argument)
    }

    /// The next argument, not taken.
    #[inline]
    pub fn peek(&self) -> Option<&'a [u8]> {
        self.argv.get(self.next).copied()
    }

    /// Everything that is left; nothing is left afterwards.
    pub fn rest(&mut self) -> &'a [&'a [u8]] {
        let rest = &self.argv[self.next.min(self.argv.len())..];
        self.next = self.argv.len();
        rest
    }

    /// Takes the next argument if it is `word`, ASCII case ignored.
    pub fn accept(&mut self, word: &str) -> bool {
        let matches = self.peek().is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()));
        if matches {
            self.next += 1;
        }
        matches
    }

    /// The next argument as a 64-bit integer.
    pub fn integer(&mut self) -> Result<i64, CommandError> {
        number::parse_i64(self.take()?).ok_or(CommandError::NotInteger)
    }

    /// The next argument as an integer of at least zero; `error` otherwise.
    pub fn count(&mut self, error: CommandError) -> Result<u64, CommandError> {
        number::parse_i64(self.take()?).and_then(|n| u64::try_from(n).ok()).ok_or(error)
    }

    /// The next argument as a floating point number.
    pub fn float(&mut self) -> Result<f64, CommandError> {
        number::parse_f64(self.take()?).ok_or(CommandError::NotFloat)
    }

    /// The next argument as a pattern: every name it is compared with costs a look at it, so it has a bound (`pattern-bytes-max`).
    pub fn pattern(&mut self, bytes_max: usize) -> Result<&'a [u8], CommandError> {
        let pattern = self.take()?;
        if pattern.len() <= bytes_max {
            return Ok(pattern);
        }
        let len = pattern.len();
        Err(CommandError::err(format!("a pattern of {len} bytes is longer than pattern-bytes-max ({bytes_max})")))
    }

    /// All that is left, as patterns.
    pub fn patterns(mut self, bytes_max: usize) -> Result<Vec<Vec<u8>>, CommandError> {
        let mut patterns = Vec::with_capacity(self.len());
        while !self.is_empty() {
            patterns.push(self.pattern(bytes_max)?.to_vec());
        }
        Ok(patterns)
    }

    /// Fails with a syntax error if an argument is left.
    pub fn finish(&self) -> Result<(), CommandError> {
        if self.is_empty() { Ok(()) } else { Err(CommandError::Syntax) }
    }
}
