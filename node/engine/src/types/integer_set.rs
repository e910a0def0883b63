//! Integers in ascending order, each taking two, four or eight bytes: as many as the widest of them needs. Knows no set.

/// Different integers in ascending order.
#[derive(Clone)]
pub(super) enum IntegerSet {
    Narrow(Box<[i16]>),
    Medium(Box<[i32]>),
    Wide(Box<[i64]>),
}

impl IntegerSet {
    pub fn new() -> IntegerSet {
        IntegerSet::Narrow(Box::default())
    }

    #[inline]
    pub fn len(&self) -> usize {
        match self {
            IntegerSet::Narrow(values) => values.len(),
            IntegerSet::Medium(values) => values.len(),
            IntegerSet::Wide(values) => values.len(),
        }
    }

    pub fn heap_bytes(&self) -> usize {
        match self {
            IntegerSet::Narrow(values) => size_of_val(&**values),
            IntegerSet::Medium(values) => size_of_val(&**values),
            IntegerSet::Wide(values) => size_of_val(&**values),
        }
    }

    /// The integer with this index; there must be one.
    #[inline]
    pub fn at(&self, index: usize) -> i64 {
        match self {
            IntegerSet::Narrow(values) => i64::from(values[index]),
            IntegerSet::Medium(values) => i64::from(values[index]),
            IntegerSet::Wide(values) => values[index],
        }
    }

    /// Where the integer is, or where it would be.
    #[inline]
    fn search(&self, value: i64) -> Result<usize, usize> {
        match self {
            IntegerSet::Narrow(values) => values.binary_search_by(|probe| i64::from(*probe).cmp(&value)),
            IntegerSet::Medium(values) => values.binary_search_by(|probe| i64::from(*probe).cmp(&value)),
            IntegerSet::Wide(values) => values.binary_search(&value),
        }
    }

    pub fn contains(&self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    /// Says whether the integer is new.
    pub fn insert(&mut self, value: i64) -> bool {
        let Err(index) = self.search(value) else {
            return false;
        };
        self.widen_for(value);
        match self {
            IntegerSet::Narrow(values) => insert(values, index, value as i16),
            IntegerSet::Medium(values) => insert(values, index, value as i32),
            IntegerSet::Wide(values) => insert(values, index, value),
        }
        true
    }

    /// Says whether the integer was there.
    pub fn remove(&mut self, value: i64) -> bool {
        let Ok(index) = self.search(value) else {
            return false;
        };
        match self {
            IntegerSet::Narrow(values) => remove(values, index),
            IntegerSet::Medium(values) => remove(values, index),
            IntegerSet::Wide(values) => remove(values, index),
        }
        true
    }

    /// The integers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len()).map(|index| self.at(index))
    }

    fn widen_for(&mut self, value: i64) {
        if let IntegerSet::Narrow(values) = self
            && i16::try_from(value).is_err()
        {
            *self = IntegerSet::Medium(values.iter().map(|value| i32::from(*value)).collect());
        }
        if let IntegerSet::Medium(values) = self
            && i32::try_from(value).is_err()
        {
            *self = IntegerSet::Wide(values.iter().map(|value| i64::from(*value)).collect());
        }
    }
}

fn insert<T>(values: &mut Box<[T]>, index: usize, value: T) {
    let mut vec = std::mem::take(values).into_vec();
    vec.reserve_exact(1);
    vec.insert(index, value);
    *values = vec.into_boxed_slice();
}

fn remove<T>(values: &mut Box<[T]>, index: usize) {
    let mut vec = std::mem::take(values).into_vec();
    vec.remove(index);
    *values = vec.into_boxed_slice();
}
