//! Long work, step by step: whoever lets it run is asked now and then whether it may go on.
//!
//! What goes over the same values many times (`ZUNION 1000 s s s …`), or each byte with each other (`LCS`), takes as long as
//! a request likes, however little there is. It counts its steps here, and ends at the first refusal, before it has changed
//! anything. This file knows neither the time nor why it is up.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

/// Steps between two questions: less than a millisecond of any work.
const STEPS_PER_QUESTION: usize = 1024;

/// Bytes that are read or copied in the time of a step.
const BYTES_PER_STEP: usize = 256;

/// Why work may not go on: the text of the error, its code included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended(pub Cow<'static, str>);

/// Says whether work may go on.
pub struct Patience(Box<dyn Fn() -> Result<(), Ended>>);

impl Patience {
    /// One that asks this.
    pub fn new(ask: impl Fn() -> Result<(), Ended> + 'static) -> Patience {
        Patience(Box::new(ask))
    }
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Patience")
    }
}

/// The steps of one piece of work.
#[derive(Debug)]
pub struct Steps<'p> {
    left: Cell<usize>,
    patience: Option<&'p Patience>,
}

impl<'p> Steps<'p> {
    /// Asked for by this one; `None`: by nobody, it may take as long as it likes.
    pub fn new(patience: Option<&'p Patience>) -> Steps<'p> {
        // Of what is to end at once nothing is begun.
        Steps { left: Cell::new(0), patience }
    }

    /// Whether anybody is asked.
    pub fn is_bounded(&self) -> bool {
        self.patience.is_some()
    }

    /// So many further steps.
    #[inline]
    pub fn take(&self, count: usize) -> Result<(), Ended> {
        match self.left.get().checked_sub(count) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => self.ask(),
        }
    }

    /// A step, and further ones for so many bytes.
    #[inline]
    pub fn take_bytes(&self, bytes: usize) -> Result<(), Ended> {
        self.take(1 + bytes / BYTES_PER_STEP)
    }

    #[cold]
    fn ask(&self) -> Result<(), Ended> {
        match self.patience {
            Some(patience) => {
                (patience.0)()?;
                self.left.set(STEPS_PER_QUESTION);
            }
            None => self.left.set(usize::MAX),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn it_is_asked_first_and_then_once_in_a_while() {
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let patience = Patience::new(move || {
            count.set(count.get() + 1);
            if count.get() > 2 { Err(Ended("ERR enough".into())) } else { Ok(()) }
        });
        let steps = Steps::new(Some(&patience));
        let taken = (0..).find(|_| steps.take(1).is_err());
        assert_eq!((taken, asked.get()), (Some(2 * (STEPS_PER_QUESTION + 1)), 3));
        assert!((0..10_000).all(|_| Steps::new(None).take(usize::MAX).is_ok()));
    }
}
