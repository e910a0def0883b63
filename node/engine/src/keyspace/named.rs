//! Everything a handler may do to the keys it named, one method after the other; which is why it is long. A key past its
//! expiry is missing to all of them, and what a value weighs is counted where it is changed, so handlers do neither.

use super::{
    CallContext, GARBAGE_BYTES_MIN, Garbage, Keys, Keyspace, UnixMillis, discard_later, next_random, type_name,
};
use crate::dict::{self, Entry, NewValue, OldValue, ValueRef};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::eviction::Usage;
use crate::types::{Hash, Kind, KindMut, Limits, List, Set, SortedSet, Stream, Value, number};
use std::ops::Deref;

/// What a write does to the expiry of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// Leaves it.
    Keep,
    /// Removes it.
    Never,
    /// Sets it.
    At(UnixMillis),
}

/// Whether an update may make the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// A missing key is made, empty.
    Create,
    /// A missing key is left missing and the update does not run.
    Skip,
}

/// What any value may grow by however little room there is: any write may go that far beyond it.
pub(crate) const GROWS_FREELY_BYTES: u64 = 1 << 20;

/// A string value: bytes in place, or an integer spelled on the stack.
pub enum StringRef<'a> {
    /// As stored.
    Bytes(&'a [u8]),
    /// Stored as an integer: its digits, and how many bytes of them count.
    Integer([u8; 20], u8),
}

impl<'a> StringRef<'a> {
    /// The value as a string, if it is one.
    #[inline]
    pub(super) fn of(value: ValueRef<'a, Value>) -> Result<StringRef<'a>, CommandError> {
        match value {
            ValueRef::Str(bytes) => Ok(StringRef::Bytes(bytes)),
            ValueRef::Int(value) => Ok(StringRef::from_integer(value)),
            ValueRef::Object(_) => Err(CommandError::WrongType),
        }
    }

    fn from_integer(value: i64) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(value).as_bytes();
        let mut digits = [0; 20];
        digits[..text.len()].copy_from_slice(text);
        StringRef::Integer(digits, text.len() as u8)
    }
}

impl Deref for StringRef<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            StringRef::Bytes(bytes) => bytes,
            StringRef::Integer(digits, len) => &digits[..usize::from(*len)],
        }
    }
}

/// A type of value that an entry holds as an object.
pub trait Typed: Sized {
    /// The value as this type, if it is.
    fn of(value: &Value) -> Option<&Self>;
    /// The value as this type, if it is.
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    /// An empty one.
    fn empty(limits: &Limits) -> Value;
    /// Whether nothing is left, so that the key goes.
    fn is_gone(&self) -> bool;
    /// About what it holds on the heap.
    fn heap_bytes(&self) -> usize;
    /// The earliest expiry of anything in it.
    fn next_part_expiry(&self) -> Option<UnixMillis>;
}

macro_rules! typed {
    ($($variant:ident, $next_expiry:expr;)*) => {$(
        impl Typed for $variant {
            #[inline]
            fn of(value: &Value) -> Option<&Self> {
                if let Kind::$variant(inner) = value.kind() { Some(inner) } else { None }
            }
            #[inline]
            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                if let KindMut::$variant(inner) = value.kind_mut() { Some(inner) } else { None }
            }
            fn empty(_limits: &Limits) -> Value {
                $variant::new().into()
            }
            #[inline]
            fn is_gone(&self) -> bool {
                self.is_empty()
            }
            #[inline]
            fn heap_bytes(&self) -> usize {
                self.memory_bytes()
            }
            #[inline]
            fn next_part_expiry(&self) -> Option<UnixMillis> {
                $next_expiry(self)
            }
        }
    )*};
}

typed! {
    List, |_| None;
    Hash, Hash::next_expiry;
    Set, |_| None;
    SortedSet, |_| None;
}

impl Typed for Stream {
    #[inline]
    fn of(value: &Value) -> Option<&Self> {
        if let Kind::Stream(stream) = value.kind() { Some(stream) } else { None }
    }
    #[inline]
    fn of_mut(value: &mut Value) -> Option<&mut Self> {
        if let KindMut::Stream(stream) = value.kind_mut() { Some(stream) } else { None }
    }
    fn empty(_limits: &Limits) -> Value {
        Stream::new().into()
    }
    /// Its past and its groups are left even when no entry is.
    #[inline]
    fn is_gone(&self) -> bool {
        false
    }
    #[inline]
    fn heap_bytes(&self) -> usize {
        self.memory_bytes()
    }
    #[inline]
    fn next_part_expiry(&self) -> Option<UnixMillis> {
        None
    }
}

/// A value lifted out of the keyspace, for RENAME, COPY, GETDEL and the like.
pub struct Taken {
    /// The value.
    pub value: NewValue<'static, Value>,
    /// Its expiry.
    pub expires_at: Option<UnixMillis>,
}

/// The integer a string is stored as, if it spells one exactly: shorter than the digits, and ready to count with.
#[inline]
fn compact_integer(value: &[u8]) -> Option<i64> {
    const DIGITS_MAX: usize = 20;
    let starts_like_one = value.first().is_some_and(|first| first.is_ascii_digit() || *first == b'-');
    if value.len() > DIGITS_MAX || !starts_like_one { None } else { number::parse_i64(value) }
}

/// The access bits that a write leaves.
#[derive(Clone, Copy)]
struct Marks {
    usage: Usage,
    now: UnixMillis,
    random: u64,
}

impl Marks {
    /// For a key that had these before; none if it was made.
    #[inline]
    pub(super) fn after(self, before: Option<u32>) -> u32 {
        match before {
            Some(before) => self.usage.used(before, self.now, || self.random),
            None => self.usage.fresh(self.now),
        }
    }
}

impl<'a> Keys<'a> {
    /// The key's entry, for OBJECT, TYPE, DUMP, and for commands that read several keys at once.
    #[inline]
    pub fn peek(&self, key: &[u8]) -> Option<&Entry<Value>> {
        let (place, segment) = self.locate(key);
        let entry = self.shards.get(place.shard).space(segment)?.dict.find(place.hash, key)?;
        entry.expires_at().is_none_or(|at| at > self.context.now).then_some(entry)
    }

    /// The key's entry, past its expiry or not: for DEBUG.
    pub fn find(&self, key: &[u8]) -> Option<&Entry<Value>> {
        let (place, segment) = self.locate(key);
        self.shards.get(place.shard).space(segment)?.dict.find(place.hash, key)
    }

    /// The key as a list, hash, set or sorted set, for commands that read several keys at once.
    pub fn peek_as<T: Typed>(&self, key: &[u8]) -> Result<Option<&T>, CommandError> {
        match self.peek(key).map(Entry::value) {
            None => Ok(None),
            Some(ValueRef::Object(value)) => T::of(value).map(Some).ok_or(CommandError::WrongType),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    /// The key as a string, for commands that read several keys at once.
    pub fn peek_string(&self, key: &[u8]) -> Result<Option<StringRef<'_>>, CommandError> {
        self.peek(key).map(|entry| StringRef::of(entry.value())).transpose()
    }

    /// Whether the key is there.
    pub fn exists(&self, key: &[u8]) -> bool {
        self.peek(key).is_some()
    }

    /// The Redis name of the key's type.
    pub fn type_name(&self, key: &[u8]) -> Option<&'static str> {
        self.peek(key).map(|entry| type_name(&entry.value()))
    }

    /// `None`: no such key. `Some(None)`: it never expires.
    pub fn expires_at(&self, key: &[u8]) -> Option<Option<UnixMillis>> {
        self.peek(key).map(Entry::expires_at)
    }

    /// The key's entry.
    #[inline]
    pub fn entry(&mut self, key: &[u8]) -> Option<&Entry<Value>> {
        let (place, segment) = self.locate(key);
        let now = self.context.now;
        // Reading makes no segment.
        let found = self.shards.get_mut(place.shard).existing_mut(segment).and_then(|space| {
            let Keyspace { dict, objects_bytes, field_expiries, .. } = space;
            Some((dict.find_mut(place.hash, key)?, objects_bytes, field_expiries))
        });
        let Some((mut entry, objects_bytes, field_expiries)) = found else {
            self.effects.looked_up(false);
            self.effects.event(EventClass::KEY_MISS, "keymiss", self.context.space.database, key);
            return None;
        };
        if entry.expires_at().is_some_and(|at| at <= now) {
            if self.context.keeps_expired {
                self.effects.looked_up(false);
                self.effects.event(EventClass::KEY_MISS, "keymiss", self.context.space.database, key);
                return None;
            }
            let removed = entry.remove();
            if let ValueRef::Object(object) = removed.value() {
                *objects_bytes = objects_bytes.saturating_sub(object.memory_bytes());
                field_expiries.moved(key, object.next_field_expiry(), None);
            }
            discard_later(&mut self.garbage, removed);
            self.effects.looked_up(false);
            let database = self.context.space.database;
            self.effects.expired(database, key);
            self.effects.event(EventClass::KEY_MISS, "keymiss", database, key);
            return None;
        }
        self.effects.looked_up(true);
        if !self.context.no_touch {
            let access = self.context.usage.used(entry.access(), now, || next_random(&mut self.random));
            if access != entry.access() {
                entry.set_access(access);
            }
        }
        Some(entry.into_ref())
    }

    /// Makes the key look used (TOUCH); whether it is there.
    pub fn touch(&mut self, key: &[u8]) -> bool {
        self.entry(key).is_some()
    }

    /// The key's value.
    #[inline]
    pub fn value(&mut self, key: &[u8]) -> Option<ValueRef<'_, Value>> {
        self.entry(key).map(Entry::value)
    }

    /// The key as a string.
    #[inline]
    pub fn string(&mut self, key: &[u8]) -> Result<Option<StringRef<'_>>, CommandError> {
        self.value(key).map(StringRef::of).transpose()
    }

    /// The key as a list, hash, set or sorted set.
    #[inline]
    pub fn get<T: Typed>(&mut self, key: &[u8]) -> Result<Option<&T>, CommandError> {
        match self.value(key) {
            None => Ok(None),
            Some(ValueRef::Object(value)) => T::of(value).map(Some).ok_or(CommandError::WrongType),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    #[inline]
    fn place_of(&mut self, key: &[u8]) -> (u64, &mut Keyspace) {
        let (place, segment) = self.locate(key);
        let space = self.shards.get_mut(place.shard).space_mut(segment);
        // Whoever asks for the place may change what lies there: a snapshot that has not seen it keeps it first.
        space.preserve(place.hash, key);
        (place.hash, space)
    }

    /// What the access bits of a key become that is written now: made if it was not there, used if it was.
    #[inline]
    fn marks(&mut self) -> Marks {
        let Keys { context: CallContext { usage, now, .. }, random, .. } = self;
        Marks { usage: *usage, now: *now, random: if usage.counted { next_random(random) } else { 0 } }
    }

    /// Removes the key if it is past its expiry; the removal becomes an effect of its own.
    pub fn settle(&mut self, key: &[u8]) {
        if self.context.keeps_expired {
            return;
        }
        let now = self.context.now;
        let (hash, space) = self.place_of(key);
        let due = space.dict.find(hash, key).and_then(Entry::expires_at).is_some_and(|at| at <= now);
        if due {
            self.discard(key);
            self.found_expired(key);
        }
    }

    pub(super) fn discard(&mut self, key: &[u8]) -> bool {
        let (hash, space) = self.place_of(key);
        let Some(entry) = space.dict.remove(hash, key) else { return false };
        space.forget(&entry);
        discard_later(&mut self.garbage, entry);
        true
    }

    fn bin(&mut self, old: OldValue<Value>) {
        let big = match &old {
            OldValue::Small => false,
            OldValue::Bytes(bytes) => bytes.capacity() > GARBAGE_BYTES_MIN,
            OldValue::Object(object) => object.memory_bytes() > GARBAGE_BYTES_MIN,
        };
        if big {
            self.garbage.push(Garbage::Value(old));
        }
    }

    /// Makes the key this string, whatever it was. Does not count as a change; the handler does that.
    #[inline]
    pub fn put_string(&mut self, key: &[u8], value: &[u8], expiry: Expiry) {
        let expiry = match expiry {
            Expiry::Keep => {
                // What is kept must not be the expiry of a key that is already gone.
                self.settle(key);
                dict::Expiry::Keep
            }
            Expiry::Never => dict::Expiry::Set(None),
            Expiry::At(at) => dict::Expiry::Set(Some(at)),
        };
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        let mut made = false;
        let old = match compact_integer(value) {
            None => {
                let mut upserted = space.dict.upsert_string(hash, key, value, expiry);
                let before = upserted.existed.then(|| upserted.entry.access());
                upserted.entry.set_access(marks.after(before));
                made = !upserted.existed;
                upserted.old_value
            }
            Some(number) => match space.dict.place_of(hash, key) {
                dict::Place::Occupied(mut entry) => {
                    if let dict::Expiry::Set(expires_at) = expiry {
                        entry.set_expiry(expires_at);
                    }
                    let before = entry.access();
                    entry.set_access(marks.after(Some(before)));
                    entry.set_int(number)
                }
                dict::Place::Vacant(vacant) => {
                    let expires_at = if let dict::Expiry::Set(expires_at) = expiry { expires_at } else { None };
                    vacant.insert(NewValue::Int(number), expires_at).set_access(marks.after(None));
                    made = true;
                    OldValue::Small
                }
            },
        };
        if let OldValue::Object(object) = &old {
            space.forget_object(key, object);
        }
        self.bin(old);
        self.touched(key);
        if made {
            self.made(key);
        }
    }

    /// Reads the string as an integer, a missing key as 0, and makes it what `change` answers. The expiry stays (INCR).
    #[inline]
    pub fn edit_integer(
        &mut self,
        key: &[u8],
        change: impl FnOnce(i64) -> Result<i64, CommandError>,
    ) -> Result<i64, CommandError> {
        let now = self.context.now;
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        match space.dict.place_of(hash, key) {
            dict::Place::Occupied(mut entry) if entry.expires_at().is_none_or(|at| at > now) => {
                let before = match entry.value() {
                    ValueRef::Int(value) => value,
                    ValueRef::Str(bytes) => number::parse_i64(bytes).ok_or(CommandError::NotInteger)?,
                    ValueRef::Object(_) => return Err(CommandError::WrongType),
                };
                let after = change(before)?;
                let access = marks.after(Some(entry.access()));
                entry.set_access(access);
                entry.set_int(after);
                self.touched(key);
                return Ok(after);
            }
            dict::Place::Vacant(vacant) => {
                let after = change(0)?;
                vacant.insert(NewValue::Int(after), None).set_access(marks.after(None));
                self.touched(key);
                self.made(key);
                return Ok(after);
            }
            dict::Place::Occupied(_) => {}
        }
        self.settle(key);
        self.edit_integer(key, change)
    }

    /// Makes the key this object, whatever it was, with this expiry.
    pub fn put(&mut self, key: &[u8], value: Value, expires_at: Option<UnixMillis>) {
        self.put_taken(key, Taken { value: NewValue::Object(value), expires_at });
    }

    /// Makes the key what was taken or copied.
    pub fn put_taken(&mut self, key: &[u8], taken: Taken) {
        if !self.discard(key) {
            self.made(key);
        }
        self.touched(key);
        let fresh = self.context.usage.fresh(self.context.now);
        let (hash, space) = self.place_of(key);
        if let NewValue::Object(object) = &taken.value {
            space.objects_bytes += object.memory_bytes();
            space.field_expiries.moved(key, None, object.next_field_expiry());
        }
        space.dict.insert(hash, key, taken.value, taken.expires_at).set_access(fresh);
    }

    /// Lifts the key's value out.
    pub fn take(&mut self, key: &[u8]) -> Option<Taken> {
        self.settle(key);
        let (hash, space) = self.place_of(key);
        let entry = space.dict.remove(hash, key)?;
        space.forget(&entry);
        self.touched(key);
        Some(Taken { expires_at: entry.expires_at(), value: entry.into_value() })
    }

    /// A copy of the key's value.
    pub fn copy(&self, key: &[u8]) -> Option<Taken> {
        let entry = self.peek(key)?;
        let value = match entry.value() {
            ValueRef::Int(value) => NewValue::Int(value),
            ValueRef::Str(bytes) => NewValue::Bytes(bytes.to_vec()),
            ValueRef::Object(value) => NewValue::Object(value.clone()),
        };
        Some(Taken { value, expires_at: entry.expires_at() })
    }

    /// Appends to the string, making it if need be; its new length.
    pub fn append_string(&mut self, key: &[u8], suffix: &[u8]) -> Result<usize, CommandError> {
        let now = self.context.now;
        let limit = self.context.value_bytes_max;
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        match space.dict.place_of(hash, key) {
            dict::Place::Occupied(mut entry) if entry.expires_at().is_none_or(|at| at > now) => {
                let len = StringRef::of(entry.value())?.len();
                if (len + suffix.len()) as u64 > limit {
                    return Err(CommandError::StringTooLong);
                }
                let access = marks.after(Some(entry.access()));
                entry.set_access(access);
                let len = entry.append(suffix).ok_or(CommandError::WrongType);
                self.touched(key);
                return len;
            }
            dict::Place::Vacant(vacant) => {
                vacant.insert(NewValue::Str(suffix), None).set_access(marks.after(None));
                self.touched(key);
                self.made(key);
                return Ok(suffix.len());
            }
            dict::Place::Occupied(_) => {}
        }
        self.settle(key);
        self.append_string(key, suffix)
    }

    /// Whether there is memory for what a few words make: a value copied, a string grown to a far offset. What is sent as it
    /// is was let in by its size.
    pub fn lets_grow(&self, bytes: u64) -> Result<(), CommandError> {
        if bytes > self.context.room_bytes.max(GROWS_FREELY_BYTES) {
            return Err(CommandError::Text("OOM the value would grow by more than there is memory for".into()));
        }
        Ok(())
    }

    /// Makes the string at least `len` bytes long, padding with zero bytes, and lets `change` write into it
    /// (SETRANGE, SETBIT), if there is memory for that. A missing key begins empty; the expiry stays. The caller has checked the
    /// length limit.
    pub fn edit_string<R>(
        &mut self,
        key: &[u8],
        len: usize,
        change: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, CommandError> {
        self.settle(key);
        let length_before = self.peek_string(key)?.map_or(0, |old| old.len());
        self.lets_grow(len.saturating_sub(length_before) as u64)?;
        if !self.exists(key) {
            self.made(key);
        }
        self.touched(key);
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        let (mut entry, before) = match space.dict.place_of(hash, key) {
            dict::Place::Occupied(entry) => {
                let before = entry.access();
                (entry, Some(before))
            }
            dict::Place::Vacant(vacant) => (vacant.insert(NewValue::Str(b""), None), None),
        };
        entry.set_access(marks.after(before));
        let length_now = match entry.value() {
            ValueRef::Object(_) => return Err(CommandError::WrongType),
            ValueRef::Str(bytes) => bytes.len(),
            ValueRef::Int(value) => itoa::Buffer::new().format(value).len(),
        };
        // Resizing also turns a stored integer into bytes.
        entry.resize(len.max(length_now));
        match entry.value_mut() {
            dict::ValueMut::Str(bytes) => Ok(change(bytes)),
            _ => Err(CommandError::WrongType),
        }
    }

    /// Changes an object in place. The key goes when nothing is left of it.
    /// `Ok(None)`: the key is missing and `missing` says to leave it so.
    #[inline]
    pub fn update<T: Typed, R>(
        &mut self,
        key: &[u8],
        missing: Missing,
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, CommandError> {
        let result = self.amend(key, missing, change)?;
        if result.is_some() {
            self.touched(key);
        }
        Ok(result)
    }

    /// The same, for changes nobody waits for or watches (who reads for a group), or that may turn out to be none: the
    /// handler says [`Keys::touched`] if they were.
    #[inline]
    pub fn amend<T: Typed, R>(
        &mut self,
        key: &[u8],
        missing: Missing,
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, CommandError> {
        let (now, limits, (place, segment)) = (self.context.now, self.context.limits, self.locate(key));
        let marks = self.marks();
        let space = self.shards.get_mut(place.shard).space_mut(segment);
        space.preserve(place.hash, key);
        let Keyspace { dict, objects_bytes, field_expiries, .. } = space;
        let mut made = false;
        let mut entry = match dict.place_of(place.hash, key) {
            dict::Place::Occupied(entry) if entry.expires_at().is_some_and(|at| at <= now) => {
                self.settle(key);
                return self.amend(key, missing, change);
            }
            dict::Place::Occupied(entry) => entry,
            dict::Place::Vacant(_) if missing == Missing::Skip => return Ok(None),
            dict::Place::Vacant(vacant) => {
                let value = T::empty(limits);
                *objects_bytes += value.memory_bytes();
                made = true;
                vacant.insert(NewValue::Object(value), None)
            }
        };
        let before = (!made).then(|| entry.access());
        entry.set_access(marks.after(before));
        let typed = entry.object_mut().and_then(T::of_mut).ok_or(CommandError::WrongType)?;
        let (bytes_before, expiry_before) = (typed.heap_bytes(), typed.next_part_expiry());
        let result = change(typed);
        self.emptied = typed.is_gone();
        if self.emptied {
            *objects_bytes = objects_bytes.saturating_sub(bytes_before);
            field_expiries.moved(key, expiry_before, None);
            discard_later(&mut self.garbage, entry.remove());
        } else {
            *objects_bytes = (*objects_bytes + typed.heap_bytes()).saturating_sub(bytes_before);
            field_expiries.moved(key, expiry_before, typed.next_part_expiry());
        }
        if made && !self.emptied {
            self.made(key);
        }
        Ok(Some(result))
    }

    /// Makes the key look used so often or so long ago (RESTORE).
    pub fn set_access(&mut self, key: &[u8], access: u32) {
        let (hash, space) = self.place_of(key);
        if let Some(mut entry) = space.dict.find_mut(hash, key) {
            entry.set_access(access);
        }
    }

    /// Removes the key; whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let now = self.context.now;
        let (hash, space) = self.place_of(key);
        let Some(entry) = space.dict.remove(hash, key) else { return false };
        space.forget(&entry);
        let expired = entry.expires_at().is_some_and(|at| at <= now);
        discard_later(&mut self.garbage, entry);
        if expired {
            self.found_expired(key);
        } else {
            self.touched(key);
        }
        !expired
    }

    /// Sets or clears the expiry; whether the key is there.
    pub fn set_expiry(&mut self, key: &[u8], expires_at: Option<UnixMillis>) -> bool {
        self.settle(key);
        let (hash, space) = self.place_of(key);
        match space.dict.find_mut(hash, key) {
            Some(mut entry) => {
                entry.set_expiry(expires_at);
                self.touched(key);
                true
            }
            None => false,
        }
    }
}
