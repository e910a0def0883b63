//! How far an import is, as the data itself says it: on the primary, and on every copy of what it wrote.
//!
//! What the source's commands did and up to where its stream is carried out travel together, in one record of the stream of effects
//! ([`crate::replication::record`]) and in one moment of a copy. So whoever becomes primary goes on exactly where its data ends:
//! nothing of the source is missing, and nothing is done twice. What is not part of that stays with the thread that imports.
//!
//! What holds of a shard group at every moment, on its primary and on each copy, if it has a place `p` in the source's stream:
//!
//! ```text
//!   a key k of the group is what it was at the source when the stream was max(p, ahead[k]) long
//! ```
//! - Nothing in it is about another group: what a command needs of another group's keys is fetched from the source, never asked
//!   of that group. So each group may go on from its own place, whatever becomes of the others' primaries.
//! - Who fetches a key writes value and `ahead[k]` as one step, and leaves out whatever the stream says of `k` up to there; a command
//!   whose result depends on such a key has its results fetched, too.
//! - `p` moves in one record with what was carried out up to there, and never back: else that would be done twice.
//! - Where a step is done by half there is no place (`None`): whoever becomes primary then copies anew.

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

/// Names of keys that are ahead take up to so much, in bytes. Where a stream is so far behind, a whole copy is there sooner.
const AHEAD_BYTES_MAX: usize = 128 << 20;

/// What the name of a key costs besides itself, in bytes.
const AHEAD_KEY_BYTES: usize = 64;

/// Keys by database and name, and up to where the source's stream is in their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    until: HashMap<(u32, Vec<u8>), u64>,
    bytes: usize,
}

impl Ahead {
    /// A key's value has the stream up to there.
    pub(super) fn insert(&mut self, database: u32, key: &[u8], until: u64) {
        if self.until.insert((database, key.to_vec()), until).is_none() {
            self.bytes += key.len() + AHEAD_KEY_BYTES;
        }
    }

    /// Whether a key's value has what the stream says up to `end`.
    pub(super) fn has(&self, database: u32, key: &[u8], end: u64) -> bool {
        !self.until.is_empty() && self.until.get(&(database, key.to_vec())).is_some_and(|until| *until >= end)
    }

    /// The keys of these databases whose values have what the stream says up to `end`.
    pub(super) fn beyond(&self, end: u64, wanted: impl Fn(u32) -> bool) -> Vec<(u32, Vec<u8>)> {
        let beyond = self.until.iter().filter(|((database, _), until)| **until >= end && wanted(*database));
        beyond.map(|(key, _)| key.clone()).collect()
    }

    /// The stream is there: these keys are ahead no longer.
    pub(super) fn reached(&mut self, offset: u64) {
        let mut bytes = 0;
        self.until.retain(|(_, key), until| {
            let stays = *until > offset;
            bytes += if stays { key.len() + AHEAD_KEY_BYTES } else { 0 };
            stays
        });
        self.bytes = bytes;
    }

    /// Nothing is ahead.
    pub(super) fn clear(&mut self) {
        *self = Ahead::default();
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Whether there are more than anybody should keep.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes > AHEAD_BYTES_MAX
    }

    /// All of them, as they are told.
    pub(super) fn marks(&self) -> Vec<What> {
        let mark = |((database, key), offset): (&(u32, Vec<u8>), &u64)| {
            What::Ahead(ImportAhead { database: *database, key: key.clone().into(), offset: *offset })
        };
        self.until.iter().map(mark).collect()
    }
}

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
                self.place = place;
                self.prune();
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
                self.ahead.insert(database, &key, offset);
            }
        }
    }

    /// Forgets which keys were ahead of where the stream is now. With no place to go on from there will be a whole copy, and nothing is
    /// ahead of that.
    fn prune(&mut self) {
        match &self.place {
            None => self.ahead.clear(),
            Some((_, at)) => self.ahead.reached(at.offset),
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
        marks.extend(self.ahead.marks().into_iter().map(|what| self.mark(what)));
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
        let before = carried.place.clone();
        change(&mut carried);
        // Who says where the stream is may not know yet what was carried out since: a place never goes back.
        if let (Some((stream, at)), Some((known, reached))) = (&carried.place, &before)
            && stream == known
            && at.offset < reached.offset
        {
            carried.place = before;
        }
        carried.prune();
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
        assert!(known.ahead.has(1, b"k", 150) && !known.ahead.has(1, b"k", 151) && !known.ahead.has(0, b"k", 1));
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

    #[test]
    fn a_place_never_goes_back_and_what_it_has_reached_is_forgotten() {
        let part = Part::default();
        part.take_in(stand(9, Some(100)));
        let ahead = |key: &[u8], offset| {
            let ahead = ImportAhead { database: 1, key: key.to_vec().into(), offset };
            ImportMark { index: 9, what: Some(What::Ahead(ahead)) }
        };
        part.take_in(ahead(b"near", 150));
        part.take_in(ahead(b"far", 250));
        part.reached(Origin { offset: 200, database: 0 });
        let place = |offset| Some(("abc".to_owned(), Origin { offset, database: 0 }));
        // Whoever notes how far it is has not counted yet what was carried out last.
        part.stand(|carried| carried.place = place(120));
        let known = part.carried();
        assert_eq!(known.place, place(200));
        assert!(!known.ahead.has(1, b"near", 1) && known.ahead.has(1, b"far", 250));
        // Half a step is no place, and after a whole copy nothing is ahead.
        part.stand(|carried| carried.place = None);
        assert!(part.carried().ahead.is_empty());
        part.stand(|carried| carried.place = place(150));
        assert_eq!(part.carried().place, place(150));
        let mut many = Ahead::default();
        let long = vec![b'k'; 1 << 20];
        (0..130).for_each(|database| many.insert(database, &long, 7));
        assert!(many.is_too_much());
        many.reached(7);
        assert!(!many.is_too_much() && many.is_empty());
    }
}
