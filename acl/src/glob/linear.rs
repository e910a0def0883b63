//! Matching for patterns and texts so long that trying each place would take seconds: one pass over each.
//!
//! A pattern is runs of elements with stars between them. The first run is where the text begins, the last where it ends, and
//! every other at the first place that is left where it fits. A run of plain bytes is searched by the two-way algorithm, one
//! with `?` or classes by a bit for each of its elements (Baeza-Yates and Gonnet, "A new approach to text searching", 1992).

use memchr::memmem;

/// Elements of a run that are tried together: 32 bytes of tables for each. A longer run with `?` or classes in it, between two
/// stars, is tried place by place.
const TOGETHER_MAX: usize = 4096;

/// Steps for runs with `?` or classes, beyond one look at each byte of the text: milliseconds. Past it the pattern does not match:
/// nobody is given anything by a pattern that takes so long.
const TRIES_MAX: usize = 1 << 22;

/// What the tables of an element take, in such steps: half as many as there are bytes.
const TABLE_STEPS: usize = 128;

/// Elements of runs with `?` or classes, which are kept as sets of 32 bytes. A pattern with more matches nothing either.
const SETS_MAX: usize = 1 << 20;

/// The bytes an element takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set([u64; 4]);

impl Set {
    pub(super) fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub(super) fn invert(&mut self) {
        self.0.iter_mut().for_each(|bits| *bits = !*bits);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0 == [u64::MAX; 4]
    }

    #[inline]
    pub(super) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & 1 << (byte & 63) != 0
    }
}

/// An element of a pattern that is no star.
pub(super) enum Element {
    Byte(u8),
    Set(Set),
}

/// What stands between two stars.
enum Run {
    Plain(Vec<u8>),
    Mixed(Vec<Set>),
}

impl Run {
    fn len(&self) -> usize {
        match self {
            Run::Plain(bytes) => bytes.len(),
            Run::Mixed(sets) => sets.len(),
        }
    }

    fn fits(&self, text: &[u8]) -> bool {
        match self {
            Run::Plain(bytes) => text == bytes,
            Run::Mixed(sets) => text.len() == sets.len() && text.iter().zip(sets).all(|(byte, set)| set.has(*byte)),
        }
    }

    fn push(&mut self, element: Element) {
        match (&mut *self, element) {
            (Run::Plain(bytes), Element::Byte(byte)) => bytes.push(byte),
            (Run::Plain(bytes), Element::Set(set)) => {
                *self = Run::Mixed(bytes.iter().map(|byte| only(*byte)).chain([set]).collect());
            }
            (Run::Mixed(sets), Element::Byte(byte)) => sets.push(only(byte)),
            (Run::Mixed(sets), Element::Set(set)) => sets.push(set),
        }
    }

    /// The end of the first place where it fits.
    fn find(&self, text: &[u8], tries: &mut usize) -> Option<usize> {
        match self {
            Run::Plain(bytes) => memmem::find(text, bytes).map(|start| start + bytes.len()),
            Run::Mixed(sets) if sets.len() <= TOGETHER_MAX => find_together(sets, text, tries),
            Run::Mixed(sets) => {
                for (start, place) in text.windows(sets.len()).enumerate() {
                    let fitting = place.iter().zip(sets).take_while(|(byte, set)| set.has(**byte)).count();
                    if fitting == sets.len() {
                        return Some(start + fitting);
                    }
                    *tries = tries.checked_sub(fitting + 1)?;
                }
                None
            }
        }
    }
}

fn only(byte: u8) -> Set {
    let mut set = Set::default();
    set.add(byte);
    set
}

/// Bit n of the state: the first n + 1 elements fit what ends here. A byte takes a step for every word of it but the first.
fn find_together(sets: &[Set], text: &[u8], tries: &mut usize) -> Option<usize> {
    if sets.len() > text.len() {
        return None;
    }
    *tries = tries.checked_sub(sets.len() * TABLE_STEPS)?;
    let words = sets.len().div_ceil(64);
    let mut takes = vec![0_u64; 256 * words];
    for (index, set) in sets.iter().enumerate() {
        for byte in (0..=255).filter(|byte| set.has(*byte)) {
            takes[usize::from(byte) * words + index / 64] |= 1 << (index % 64);
        }
    }
    let (last_word, last_bit) = ((sets.len() - 1) / 64, 1 << ((sets.len() - 1) % 64));
    let mut state = vec![0_u64; words];
    for (position, byte) in text.iter().enumerate() {
        *tries = tries.checked_sub(words - 1)?;
        let mut carry = 1;
        for (word, takes) in state.iter_mut().zip(&takes[usize::from(*byte) * words..]) {
            let moved = *word << 1 | carry;
            carry = *word >> 63;
            *word = moved & takes;
        }
        if state[last_word] & last_bit != 0 {
            return Some(position + 1);
        }
    }
    None
}

/// Whether a text matches the elements of a pattern, where nothing is a star.
pub(super) fn matches(pattern: impl Iterator<Item = Option<Element>>, text: &[u8]) -> bool {
    let mut runs = vec![Run::Plain(Vec::new())];
    let (mut elements, mut sets) = (0, 0);
    for element in pattern {
        // Each takes a byte: what is longer than the text cannot match, and is not read to its end.
        elements += usize::from(element.is_some());
        sets += match (&element, runs.last()) {
            (Some(Element::Set(_)), Some(Run::Plain(bytes))) => bytes.len() + 1,
            (Some(_), Some(Run::Mixed(_))) => 1,
            _ => 0,
        };
        if elements > text.len() || sets > SETS_MAX {
            return false;
        }
        match (element, runs.last_mut()) {
            (Some(element), Some(run)) => run.push(element),
            _ => runs.push(Run::Plain(Vec::new())),
        }
    }
    let (first, between) = runs.split_first().expect("there is always one");
    let Some((last, between)) = between.split_last() else { return first.fits(text) };
    if first.len() + last.len() > text.len() {
        return false;
    }
    let (beginning, text) = text.split_at(first.len());
    let (mut text, end) = text.split_at(text.len() - last.len());
    if !first.fits(beginning) || !last.fits(end) {
        return false;
    }
    let mut tries = TRIES_MAX;
    for run in between.iter().filter(|run| run.len() > 0) {
        let Some(end) = run.find(text, &mut tries) else { return false };
        text = &text[end..];
    }
    true
}
