//! One pattern against one text.

use mlua::Error;

use crate::budget::Work;

const CAPTURES_MAX: usize = 32;
/// Choices within choices, as many as later versions of Lua allow. Each takes some of the thread's stack.
const DEPTH_MAX: usize = 200;
/// A step is as much work as copying so many bytes.
const STEP: usize = 4;

/// Why a match could not be tried.
pub(super) enum Failure {
    /// The pattern is none.
    Malformed(&'static str),
    /// The script may not go on.
    Stopped(Error),
}

type Tried = Result<Option<usize>, Failure>;

/// What was caught.
pub(super) enum Capture<'a> {
    /// A part of the text.
    Text(&'a [u8]),
    /// A place in it: `()`.
    Position(usize),
}

#[derive(Clone, Copy)]
enum Length {
    Open,
    Position,
    Closed(usize),
}

pub(super) struct Matcher<'a> {
    text: &'a [u8],
    pattern: &'a [u8],
    /// Where each begins. In a vector: matches within replacements of matches all lie on one stack.
    captures: Vec<(usize, Length)>,
    depth: usize,
    work: Work,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(text: &'a [u8], pattern: &'a [u8], work: Work) -> Matcher<'a> {
        Matcher { text, pattern, captures: Vec::new(), depth: 0, work }
    }

    /// Where the match ends that begins at `at`, with the pattern from `body` on.
    pub(super) fn matches(&mut self, at: usize, body: usize) -> Tried {
        self.captures.clear();
        self.depth = 0;
        self.run(at, body)
    }

    pub(super) fn count(&self) -> usize {
        self.captures.len()
    }

    pub(super) fn between(&self, start: usize, end: usize) -> &'a [u8] {
        &self.text[start..end]
    }

    pub(super) fn capture(&self, index: usize, start: usize, end: usize) -> Result<Capture<'a>, Failure> {
        if index >= self.captures.len() {
            return if index == 0 {
                Ok(Capture::Text(self.between(start, end)))
            } else {
                Err(Failure::Malformed("invalid capture index"))
            };
        }
        let (from, length) = self.captures[index];
        match length {
            Length::Position => Ok(Capture::Position(from)),
            Length::Closed(length) => Ok(Capture::Text(&self.text[from..from + length])),
            Length::Open => Err(Failure::Malformed("unfinished capture")),
        }
    }

    fn at(&self, place: usize) -> u8 {
        self.pattern.get(place).copied().unwrap_or(0)
    }

    fn step(&mut self) -> Result<(), Failure> {
        self.step_over(0)
    }

    /// One step that looks at so many bytes.
    fn step_over(&mut self, bytes: usize) -> Result<(), Failure> {
        self.work.of(STEP + bytes).map_err(Failure::Stopped)
    }

    fn run(&mut self, at: usize, place: usize) -> Tried {
        if self.depth >= DEPTH_MAX {
            return Err(Failure::Malformed("pattern too complex"));
        }
        self.depth += 1;
        let tried = self.run_here(at, place);
        self.depth -= 1;
        tried
    }

    fn run_here(&mut self, mut at: usize, mut place: usize) -> Tried {
        loop {
            self.step()?;
            if place >= self.pattern.len() {
                return Ok(Some(at));
            }
            match self.pattern[place] {
                b'(' if self.at(place + 1) == b')' => return self.open(at, place + 2, Length::Position),
                b'(' => return self.open(at, place + 1, Length::Open),
                b')' => return self.close(at, place + 1),
                b'%' if self.at(place + 1) == b'b' => {
                    let Some(end) = self.balanced(at, place + 2)? else { return Ok(None) };
                    at = end;
                    place += 4;
                    continue;
                }
                b'%' if self.at(place + 1) == b'f' => {
                    place += 2;
                    if self.at(place) != b'[' {
                        return Err(Failure::Malformed("missing '[' after '%f' in pattern"));
                    }
                    let end = self.class_end(place)?;
                    self.step_over(end - place)?;
                    let before = if at == 0 { 0 } else { self.text[at - 1] };
                    let here = self.text.get(at).copied().unwrap_or(0);
                    if self.in_set(before, place, end - 1) || !self.in_set(here, place, end - 1) {
                        return Ok(None);
                    }
                    place = end;
                    continue;
                }
                b'%' if self.at(place + 1).is_ascii_digit() => {
                    let Some(end) = self.back_reference(at, self.at(place + 1))? else { return Ok(None) };
                    at = end;
                    place += 2;
                    continue;
                }
                b'$' if place + 1 == self.pattern.len() => {
                    return Ok((at == self.text.len()).then_some(at));
                }
                _ => {}
            }
            let end = self.class_end(place)?;
            self.step_over(end - place)?;
            match self.at(end) {
                b'?' => {
                    if self.fits(at, place, end)
                        && let Some(found) = self.run(at + 1, end + 1)?
                    {
                        return Ok(Some(found));
                    }
                    place = end + 1;
                }
                b'*' => return self.most(at, place, end),
                b'+' => return if self.fits(at, place, end) { self.most(at + 1, place, end) } else { Ok(None) },
                b'-' => return self.least(at, place, end),
                _ if !self.fits(at, place, end) => return Ok(None),
                _ => {
                    at += 1;
                    place = end;
                }
            }
        }
    }

    /// As many as there are, then fewer.
    fn most(&mut self, at: usize, place: usize, end: usize) -> Tried {
        let mut count = 0;
        while self.fits(at + count, place, end) {
            self.step_over(end - place)?;
            count += 1;
        }
        loop {
            if let Some(found) = self.run(at + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    /// None, then more.
    fn least(&mut self, mut at: usize, place: usize, end: usize) -> Tried {
        loop {
            if let Some(found) = self.run(at, end + 1)? {
                return Ok(Some(found));
            }
            self.step_over(end - place)?;
            if !self.fits(at, place, end) {
                return Ok(None);
            }
            at += 1;
        }
    }

    fn open(&mut self, at: usize, place: usize, length: Length) -> Tried {
        if self.captures.len() >= CAPTURES_MAX {
            return Err(Failure::Malformed("too many captures"));
        }
        self.captures.push((at, length));
        let found = self.run(at, place)?;
        if found.is_none() {
            self.captures.pop();
        }
        Ok(found)
    }

    fn close(&mut self, at: usize, place: usize) -> Tried {
        let open = (0..self.captures.len()).rev().find(|index| matches!(self.captures[*index].1, Length::Open));
        let index = open.ok_or(Failure::Malformed("invalid pattern capture"))?;
        self.captures[index].1 = Length::Closed(at - self.captures[index].0);
        let found = self.run(at, place)?;
        if found.is_none() {
            self.captures[index].1 = Length::Open;
        }
        Ok(found)
    }

    fn balanced(&mut self, at: usize, place: usize) -> Tried {
        if place + 1 >= self.pattern.len() {
            return Err(Failure::Malformed("unbalanced pattern"));
        }
        let (begin, end) = (self.pattern[place], self.pattern[place + 1]);
        if self.text.get(at) != Some(&begin) {
            return Ok(None);
        }
        let mut open = 1_usize;
        for (index, byte) in self.text.iter().enumerate().skip(at + 1) {
            self.step()?;
            if *byte == end {
                open -= 1;
                if open == 0 {
                    return Ok(Some(index + 1));
                }
            } else if *byte == begin {
                open += 1;
            }
        }
        Ok(None)
    }

    fn back_reference(&mut self, at: usize, digit: u8) -> Tried {
        let index = usize::from(digit).wrapping_sub(usize::from(b'1'));
        match self.captures.get(index) {
            Some((from, Length::Closed(length))) => {
                let caught = &self.text[*from..from + length];
                self.work.of(caught.len()).map_err(Failure::Stopped)?;
                Ok(self.text[at..].starts_with(caught).then_some(at + length))
            }
            Some((_, Length::Position)) => Ok(None),
            _ => Err(Failure::Malformed("invalid capture index")),
        }
    }

    /// Where the single character or class at `place` ends.
    fn class_end(&self, place: usize) -> Result<usize, Failure> {
        match self.at(place) {
            b'%' if place + 1 >= self.pattern.len() => Err(Failure::Malformed("malformed pattern (ends with '%')")),
            b'%' => Ok(place + 2),
            b'[' => {
                let mut end = place + 1;
                if self.at(end) == b'^' {
                    end += 1;
                }
                // A bracket that comes first is an ordinary character.
                loop {
                    if end >= self.pattern.len() {
                        return Err(Failure::Malformed("malformed pattern (missing ']')"));
                    }
                    let byte = self.pattern[end];
                    end += 1;
                    if byte == b'%' && end < self.pattern.len() {
                        end += 1;
                    }
                    if self.at(end) == b']' {
                        return Ok(end + 1);
                    }
                }
            }
            _ => Ok(place + 1),
        }
    }

    /// Whether the character at `at` is one of the class from `place` to `end`.
    fn fits(&self, at: usize, place: usize, end: usize) -> bool {
        let Some(byte) = self.text.get(at).copied() else { return false };
        match self.pattern[place] {
            b'.' => true,
            b'%' => is_in_class(byte, self.at(place + 1)),
            b'[' => self.in_set(byte, place, end - 1),
            literal => literal == byte,
        }
    }

    /// Whether `byte` is in the set whose brackets are at `open` and `close`.
    fn in_set(&self, byte: u8, open: usize, close: usize) -> bool {
        let is_negated = self.at(open + 1) == b'^';
        let mut place = if is_negated { open + 2 } else { open + 1 };
        while place < close {
            if self.at(place) == b'%' {
                if is_in_class(byte, self.at(place + 1)) {
                    return !is_negated;
                }
                place += 2;
            } else if self.at(place + 1) == b'-' && place + 2 < close {
                if (self.at(place)..=self.at(place + 2)).contains(&byte) {
                    return !is_negated;
                }
                place += 3;
            } else {
                if self.at(place) == byte {
                    return !is_negated;
                }
                place += 1;
            }
        }
        is_negated
    }
}

fn is_in_class(byte: u8, class: u8) -> bool {
    let is_in = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is_in != class.is_ascii_uppercase()
}
