//! Sets and maps of a few: sorted and packed, since there are thousands of them and most hold one thing or none.
//!
//! The least a `BTreeSet` of one name takes is a node with room for eleven. Looking something up halves the rest each time, as
//! there; adding moves what comes after, which is little. This file does not know what they hold.

use std::borrow::Borrow;
use std::sync::Arc;

/// A set of a few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FewSet<T>(Box<[T]>);

impl<T> Default for FewSet<T> {
    fn default() -> Self {
        FewSet(Box::default())
    }
}

impl<T: Ord> FewSet<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    fn find<Q: Ord + ?Sized>(&self, item: &Q) -> Result<usize, usize>
    where
        T: Borrow<Q>,
    {
        self.0.binary_search_by(|known| known.borrow().cmp(item))
    }

    /// Whether it is among them.
    pub fn contains<Q: Ord + ?Sized>(&self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.find(item).is_ok()
    }

    /// Adds it, unless it is among them.
    pub fn insert(&mut self, item: T) {
        if let Err(at) = self.find(&item) {
            let mut items = std::mem::take(&mut self.0).into_vec();
            items.insert(at, item);
            self.0 = items.into_boxed_slice();
        }
    }

    /// Removes it, if it is among them.
    pub fn remove<Q: Ord + ?Sized>(&mut self, item: &Q)
    where
        T: Borrow<Q>,
    {
        if let Ok(at) = self.find(item) {
            let mut items = std::mem::take(&mut self.0).into_vec();
            items.remove(at);
            self.0 = items.into_boxed_slice();
        }
    }
}

impl<T: Ord> FromIterator<T> for FewSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items: Vec<T> = items.into_iter().collect();
        items.sort_unstable();
        items.dedup();
        FewSet(items.into_boxed_slice())
    }
}

impl<T> IntoIterator for FewSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<'a, T> IntoIterator for &'a FewSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Settings by name: a map of a few, shared with whoever compiles them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FewSettings(Arc<[(Box<str>, Box<str>)]>);

impl FewSettings {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By name, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// All of them, sorted by name.
    pub fn shared(&self) -> &Arc<[(Box<str>, Box<str>)]> {
        &self.0
    }

    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).ok().map(|at| &*self.0[at].1)
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    /// Sets one, or with `None` forgets it.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        let at = self.find(name);
        let mut items = self.0.to_vec();
        match (at, value) {
            (Ok(at), Some(value)) => items[at].1 = value.into(),
            (Err(at), Some(value)) => items.insert(at, (name.into(), value.into())),
            (Ok(at), None) => _ = items.remove(at),
            (Err(_), None) => {}
        }
        self.0 = items.into();
    }
}

impl FromIterator<(String, String)> for FewSettings {
    /// Of several of one name the last one counts.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(items: I) -> Self {
        let mut settings = FewSettings::default();
        items.into_iter().for_each(|(name, value)| settings.set(&name, Some(&value)));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn they_hold_what_the_usual_ones_hold() {
        let (mut few, mut set) = (FewSet::default(), BTreeSet::new());
        let (mut settings, mut map) = (FewSettings::default(), BTreeMap::new());
        for step in 0..200_u32 {
            let (item, remove) = (step * 7919 % 13, step % 3 == 0);
            let name = format!("s{item}");
            if remove {
                few.remove(&item);
                set.remove(&item);
                settings.set(&name, None);
                map.remove(&name);
            } else {
                few.insert(item);
                set.insert(item);
                settings.set(&name, Some(&step.to_string()));
                map.insert(name.clone(), step.to_string());
            }
            assert!(few.iter().eq(&set) && few.contains(&item) == set.contains(&item));
            assert!(settings.iter().eq(map.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
            assert_eq!(settings.get(&name), map.get(&name).map(String::as_str));
        }
        assert_eq!(set.into_iter().rev().collect::<FewSet<u32>>(), few);
        assert_eq!(map.into_iter().collect::<FewSettings>(), settings);
    }
}
