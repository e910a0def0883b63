//! A pattern made ready for many short texts: runs of elements with stars between them, classes as sets of bytes.
//!
//! The first run is where the text begins, the last where it ends, and every other at the first place that is left where it
//! fits: a later place could only leave less to the others. Costs at most pattern times text; who has long ones of both must
//! not come here.

use super::linear::{Element, Set};

/// Bytes of a pattern that is made ready, and its classes. Both bound what a subscriber's pattern may take: below a kilobyte.
const PATTERN_BYTES_MAX: usize = 256;
const CLASSES_MAX: usize = 8;

/// Texts longer than this are searched for plain bytes by the library, which has to prepare itself.
const SHORT_TEXT_BYTES: usize = 128;

/// What takes one byte: this one, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Byte(u8),
    Any,
    /// One of the class with this number.
    Class(u8),
}

/// What stands between two stars, or between one and an end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    Plain(Box<[u8]>),
    Mixed(Box<[Step]>),
}

impl Run {
    fn of(steps: Vec<Step>) -> Run {
        let byte = |step: &Step| if let Step::Byte(byte) = step { Some(*byte) } else { None };
        match steps.iter().map(byte).collect::<Option<Vec<u8>>>() {
            Some(bytes) => Run::Plain(bytes.into()),
            None => Run::Mixed(steps.into()),
        }
    }

    /// How many bytes it takes.
    #[inline]
    fn len(&self) -> usize {
        match self {
            Run::Plain(bytes) => bytes.len(),
            Run::Mixed(steps) => steps.len(),
        }
    }

    /// Whether these bytes, as many as it takes, are such ones.
    #[inline]
    fn fits(&self, text: &[u8], classes: &[Set]) -> bool {
        match self {
            Run::Plain(bytes) => text.iter().eq(&**bytes),
            Run::Mixed(steps) => steps.iter().zip(text).all(|(step, byte)| match step {
                Step::Byte(wanted) => wanted == byte,
                Step::Any => true,
                Step::Class(number) => classes[usize::from(*number)].has(*byte),
            }),
        }
    }

    /// The first place where it fits.
    #[inline]
    fn find(&self, text: &[u8], classes: &[Set]) -> Option<usize> {
        match self {
            Run::Plain(bytes) if text.len() > SHORT_TEXT_BYTES => memchr::memmem::find(text, bytes),
            _ => text.windows(self.len()).position(|text| self.fits(text, classes)),
        }
    }
}

/// Runs with stars between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runs {
    first: Run,
    /// None of them empty.
    middle: Box<[Run]>,
    /// `None`: there is no star.
    last: Option<Run>,
    classes: Box<[Set]>,
    /// Elements of all runs.
    len: usize,
}

impl Runs {
    /// The elements of a pattern of so many bytes; `None` among them is a star. Nothing comes of one with much to remember.
    pub(super) fn of(bytes: usize, elements: impl Iterator<Item = Option<Element>>) -> Option<Runs> {
        if bytes > PATTERN_BYTES_MAX {
            return None;
        }
        let mut classes: Vec<Set> = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut open = Vec::new();
        for element in elements {
            open.push(match element {
                None => {
                    runs.push(Run::of(std::mem::take(&mut open)));
                    continue;
                }
                Some(Element::Byte(byte)) => Step::Byte(byte),
                Some(Element::Set(set)) if set.is_full() => Step::Any,
                Some(Element::Set(_)) if classes.len() == CLASSES_MAX => return None,
                Some(Element::Set(set)) => {
                    classes.push(set);
                    Step::Class(classes.len() as u8 - 1)
                }
            });
        }
        runs.push(Run::of(open));
        let len = runs.iter().map(Run::len).sum();
        let mut runs = runs.into_iter();
        let first = runs.next().expect("there always is one");
        let last = runs.next_back();
        let middle = runs.filter(|run| run.len() > 0).collect();
        Some(Runs { first, middle, last, classes: classes.into(), len })
    }

    /// How many elements there are besides stars: what a byte of a text may cost.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let Some((begin, mut rest)) = text.split_at_checked(self.first.len()) else { return false };
        let Some(last) = &self.last else { return rest.is_empty() && self.first.fits(begin, &self.classes) };
        let Some(end_at) = rest.len().checked_sub(last.len()) else { return false };
        if !self.first.fits(begin, &self.classes) || !last.fits(&rest[end_at..], &self.classes) {
            return false;
        }
        rest = &rest[..end_at];
        for run in &self.middle {
            let Some(at) = run.find(rest, &self.classes) else { return false };
            rest = &rest[at + run.len()..];
        }
        true
    }
}
