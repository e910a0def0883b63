//! The segments of a shard besides the one nobody owns: sorted, and the one asked for last is found at once.
//!
//! A request asks for the segment of its key several times in a row, and a client's next request mostly for the same one. There
//! are as many as tenants with keys in the shard, so a search among them takes a few steps. This file does not know what a
//! tenant is.

use super::{Keyspace, SpaceId};
use std::cell::Cell;
use std::ops::RangeInclusive;

/// See the head of this file.
#[derive(Default)]
pub(super) struct Others {
    spaces: Vec<(SpaceId, Box<Keyspace>)>,
    /// Where the one lies that was asked for last; only a guess.
    last: Cell<usize>,
}

impl Others {
    #[inline]
    fn find(&self, id: SpaceId) -> Option<usize> {
        let last = self.last.get();
        if self.spaces.get(last).is_some_and(|(known, _)| *known == id) { Some(last) } else { self.search(id) }
    }

    #[cold]
    fn search(&self, id: SpaceId) -> Option<usize> {
        let at = self.spaces.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        self.last.set(at);
        Some(at)
    }

    #[inline]
    pub(super) fn get(&self, id: SpaceId) -> Option<&Keyspace> {
        match self.spaces.get(self.last.get()) {
            Some((known, space)) if *known == id => Some(space),
            _ => self.search(id).map(|at| &*self.spaces[at].1),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: SpaceId) -> Option<&mut Keyspace> {
        self.find(id).map(|at| &mut *self.spaces[at].1)
    }

    #[inline]
    pub(super) fn get_or_make(&mut self, id: SpaceId, make: impl FnOnce() -> Keyspace) -> &mut Keyspace {
        match self.find(id) {
            Some(at) => &mut self.spaces[at].1,
            None => self.make(id, make()),
        }
    }

    #[cold]
    fn make(&mut self, id: SpaceId, space: Keyspace) -> &mut Keyspace {
        let at = self.first_from(id);
        self.spaces.insert(at, (id, Box::new(space)));
        &mut self.spaces[at].1
    }

    pub(super) fn remove(&mut self, id: SpaceId) -> Option<Keyspace> {
        let at = self.find(id)?;
        Some(*self.spaces.remove(at).1)
    }

    /// Where the first one lies, or would lie, that is not before `id`.
    fn first_from(&self, id: SpaceId) -> usize {
        self.spaces.partition_point(|(known, _)| *known < id)
    }

    /// All from `id` on, in order.
    pub(super) fn from(&self, id: SpaceId) -> impl Iterator<Item = (SpaceId, &Keyspace)> {
        self.spaces[self.first_from(id)..].iter().map(|(id, space)| (*id, &**space))
    }

    pub(super) fn range(&self, ids: RangeInclusive<SpaceId>) -> impl Iterator<Item = (SpaceId, &Keyspace)> {
        let last = *ids.end();
        self.from(*ids.start()).take_while(move |(id, _)| *id <= last)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SpaceId, &Keyspace)> {
        self.spaces.iter().map(|(id, space)| (*id, &**space))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (SpaceId, &mut Keyspace)> {
        self.spaces.iter_mut().map(|(id, space)| (*id, &mut **space))
    }
}
