//! How far an import is, as the data itself says it: on the primary, and on every copy of what it wrote.
//!
//! What the source's commands did and up to where its stream is carried out travel together, in one record of the stream of effects
//! ([`crate::replication::record`]) and in one moment of a copy. So whoever becomes primary goes on exactly where its data ends:
//! nothing of the source is missing, and nothing is done twice. What is not part of that stays with the thread that imports.

use super::keys::KeySet;
use super::status::Status;
use crate::replication::record::Origin;
use keyward_cluster::State;
use keyward_proto::replication::import_mark::What;
use keyward_proto::replication::{ImportAhead, ImportMark, ImportPlace, ImportStand};
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Keys that were here before are told so many at a time.
const EXISTING_AT_ONCE: usize = 1 << 17;

/// What the data of one shard group says of an import.
#[derive(Clone, Default)]
pub(super) struct Carried {
    /// Which: the entry that began it; 0: of none.
    pub(super) index: u64,
    /// The source says what expires.
    pub(super) follows: bool,
    /// The stream that can be gone on with, and where.
    pub(super) place: Option<(String, Origin)>,
    /// Nothing that is yet to come ran at the source before.
    pub(super) floor_ms: i64,
    /// What was here before and stays; only with `merge`.
    pub(super) existing: Option<Arc<KeySet>>,
    /// Keys that were fetched by themselves, and up to where the stream's word on them is in their values already.
    pub(super) ahead: Ahead,
    /// What was counted.
    pub(super) tally: keyward_proto::replication::ImportTally,
}

/// Keys by database and name, and offsets.
pub(super) type Ahead = HashMap<(u32, Vec<u8>), u64>;

impl Carried {
    fn take_in(&mut self, mark: ImportMark) {
        if self.index != mark.index {
            *self = Carried { index: mark.index, ..Carried::default() };
        }
        match mark.what {
            None => {}
            Some(What::Stand(stand)) => {
                self.follows = stand.follows;
                self.floor_ms = stand.floor_ms;
                self.tally = stand.tally.unwrap_or_default();
                let place =
                    stand.place.map(|place| (place.stream, Origin { offset: place.offset, database: place.database }));
                // Only a whole copy ends what is ahead of everything.
                match &place {
                    None => self.ahead.clear(),
                    Some((_, at)) => self.ahead.retain(|_, until| *until > at.offset),
                }
                self.place = place;
                if !stand.keeps_existing {
                    self.existing = None;
                } else if self.existing.is_none() {
                    self.existing = Some(Arc::default());
                }
            }
            Some(What::Existing(numbers)) => {
                let existing = Arc::make_mut(self.existing.get_or_insert_default());
                let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                numbers.chunks_exact(8).for_each(|bytes| existing.add_number(number(bytes)));
            }
            Some(What::Ahead(ImportAhead { database, key, offset })) => {
                self.ahead.insert((database, key.to_vec()), offset);
            }
        }
    }

    fn mark(&self, what: What) -> ImportMark {
        ImportMark { index: self.index, what: Some(what) }
    }

    /// Where it stands, apart from the keys it names.
    pub(super) fn stand(&self) -> ImportStand {
        ImportStand {
            follows: self.follows,
            place: self.place.as_ref().map(|(stream, at)| ImportPlace {
                stream: stream.clone(),
                offset: at.offset,
                database: at.database,
            }),
            floor_ms: self.floor_ms,
            tally: Some(self.tally.clone()),
            keeps_existing: self.existing.is_some(),
        }
    }

    /// Everything, from nothing.
    fn marks(&self) -> Vec<ImportMark> {
        if self.index == 0 {
            return Vec::new();
        }
        let mut marks = vec![self.mark(What::Stand(self.stand()))];
        if let Some(existing) = &self.existing {
            marks.extend(existing_marks(existing).into_iter().map(|what| self.mark(what)));
        }
        let ahead = |((database, key), offset): (&(u32, Vec<u8>), &u64)| {
            self.mark(What::Ahead(ImportAhead { database: *database, key: key.clone().into(), offset: *offset }))
        };
        marks.extend(self.ahead.iter().map(ahead));
        marks
    }
}

/// Keys that were here before, some at a time.
pub(super) fn existing_marks(existing: &KeySet) -> Vec<What> {
    let numbers: Vec<u64> = existing.numbers().collect();
    let piece = |some: &[u64]| What::Existing(some.iter().flat_map(|number| number.to_le_bytes()).collect());
    numbers.chunks(EXISTING_AT_ONCE).map(piece).collect()
}

/// What one shard group of a node has to do with imports.
#[derive(Default)]
pub struct Part {
    carried: Mutex<Carried>,
    /// The source of an import says what expires.
    following: AtomicBool,
    pub(super) job: Mutex<Option<Arc<super::Job>>>,
}

impl Part {
    /// Whether a source's stream is followed, so that keys end when the source says so.
    #[inline]
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }

    /// The source's stream is carried out up to there. Whoever carries it out is in the corridor, or the only one who does.
    pub fn reached(&self, at: Origin) {
        if let Some((_, place)) = &mut self.carried.lock().place {
            *place = at;
        }
    }

    /// Something is to be known from here on.
    pub fn noted(&self, note: &[u8]) -> Result<(), String> {
        let mark = ImportMark::decode(note).map_err(|_| "what is said of an import makes no sense".to_owned())?;
        self.take_in(mark);
        Ok(())
    }

    pub(super) fn take_in(&self, mark: ImportMark) {
        let mut carried = self.carried.lock();
        carried.take_in(mark);
        self.following.store(carried.follows, Ordering::Relaxed);
    }

    /// All that is known, for a copy of the data of this moment.
    pub fn notes(&self) -> Vec<Vec<u8>> {
        self.carried.lock().marks().iter().map(|mark| mark.encode_to_vec()).collect()
    }

    /// What a copy of the data says instead of what was known. The error is a sentence.
    pub fn restore(&self, notes: &[Vec<u8>]) -> Result<(), String> {
        *self.carried.lock() = Carried::default();
        self.following.store(false, Ordering::Relaxed);
        notes.iter().try_for_each(|note| self.noted(note))
    }

    /// No stream can be gone on with.
    pub fn forget_place(&self) {
        let mut carried = self.carried.lock();
        (carried.place, carried.follows) = (None, false);
        carried.ahead.clear();
        self.following.store(false, Ordering::Relaxed);
    }

    /// Which import it says something of; 0: of none.
    pub(super) fn index(&self) -> u64 {
        self.carried.lock().index
    }

    pub(super) fn carried(&self) -> Carried {
        self.carried.lock().clone()
    }

    /// Changes what is carried along, and hands out what is to be written down of it.
    pub(super) fn stand(&self, change: impl FnOnce(&mut Carried)) -> ImportMark {
        let mut carried = self.carried.lock();
        change(&mut carried);
        self.following.store(carried.follows, Ordering::Relaxed);
        carried.mark(What::Stand(carried.stand()))
    }

    /// Nothing of an import that is over is needed any more.
    pub(super) fn settle(&self, state: &State) {
        let mut carried = self.carried.lock();
        // The entry that began it may yet be on its way here.
        let over = state
            .last_import()
            .is_some_and(|known| known.index > carried.index || known.index == carried.index && known.ended.is_some());
        if carried.index > 0 && over {
            *carried = Carried::default();
            self.following.store(false, Ordering::Relaxed);
        }
    }

    /// What is told of it while nobody works on it.
    pub(super) fn told(&self, status: &mut Status) {
        let carried = self.carried.lock();
        if carried.index > 0 {
            status.restore(&carried.tally);
            status.offset = carried.place.as_ref().map_or(0, |(_, at)| at.offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand(index: u64, place: Option<u64>) -> ImportMark {
        let place = place.map(|offset| ImportPlace { stream: "abc".to_owned(), offset, database: 3 });
        let stand = ImportStand { follows: true, place, floor_ms: 7, tally: None, keeps_existing: true };
        ImportMark { index, what: Some(What::Stand(stand)) }
    }

    #[test]
    fn a_copy_knows_what_its_original_knew() {
        let part = Part::default();
        part.reached(Origin { offset: 5, database: 0 });
        assert!(part.notes().is_empty() && !part.is_following());
        part.take_in(stand(9, Some(100)));
        let mut existing = KeySet::default();
        (0..300_000u32).for_each(|number| existing.add(0, &number.to_le_bytes()));
        existing_marks(&existing).into_iter().for_each(|what| part.take_in(ImportMark { index: 9, what: Some(what) }));
        let ahead = ImportAhead { database: 1, key: b"k".as_slice().into(), offset: 150 };
        part.take_in(ImportMark { index: 9, what: Some(What::Ahead(ahead)) });
        part.reached(Origin { offset: 120, database: 4 });
        let copy = Part::default();
        copy.restore(&part.notes()).expect("its own notes");
        let known = copy.carried();
        assert!(copy.is_following() && known.index == 9 && known.floor_ms == 7);
        assert_eq!(known.place, Some(("abc".to_owned(), Origin { offset: 120, database: 4 })));
        assert_eq!(known.ahead, HashMap::from([((1, b"k".to_vec()), 150)]));
        assert!(
            (0..300_000u32).all(|number| known.existing.as_ref().is_some_and(|set| set.has(0, &number.to_le_bytes())))
        );
        // What is reached is ahead no longer; another import knows nothing of this one.
        copy.take_in(stand(9, Some(150)));
        assert!(copy.carried().ahead.is_empty());
        copy.take_in(stand(10, None));
        assert!(copy.carried().existing.is_some_and(|set| set.numbers().next().is_none()));
        assert!(copy.restore(&[b"\xff".to_vec()]).is_err());
        // What the primary says itself holds for it, too.
        copy.stand(|carried| carried.follows = true);
        assert!(copy.is_following());
        copy.forget_place();
        assert!(!copy.is_following());
    }
}
