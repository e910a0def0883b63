//! Fields and their values. Knows no command and no clock: times come in, and what is past them stays until it is purged.
//!
//! Small hashes are one packed run of field, value, field, value. Big ones are a table of records; a record is the length of the
//! field (and whether there is an expiry), the expiry, the field, the value, in one piece. A hash whose fields expire is a table.

use std::collections::BTreeSet;

use super::Limits;
use super::compact::CompactBytes;
use super::listpack::Unpacked;
use super::packed::{Item, Packed};
use super::table::{Table, below, hash_bytes};
use super::text::Text;
use super::word::{Form, FormMut, Slim};

/// A hash. Grows out of its small form by itself, and never back into it.
#[derive(Clone)]
#[repr(transparent)]
pub struct Hash(Slim<Records>);

/// A field as the iterators show it.
#[derive(Clone, Debug)]
pub struct HashField<'a> {
    /// The field's name.
    pub field: Text<'a>,
    /// Its value.
    pub value: Text<'a>,
    /// When it expires, in the unit the caller set it in.
    pub expires_at: Option<i64>,
}

#[derive(Clone)]
pub(super) struct Records {
    table: Table<Record>,
    /// Expiries in ascending order, with their fields.
    expiries: BTreeSet<(i64, Box<[u8]>)>,
    seed: u64,
    heap_bytes: usize,
}

/// Field, value and maybe an expiry in one piece: `varint(field length * 2 + has expiry)`, expiry, field, value.
#[derive(Clone)]
struct Record(CompactBytes);

struct RecordView<'a> {
    field: &'a [u8],
    value: &'a [u8],
    expires_at: Option<i64>,
}

impl Record {
    fn new(field: &[u8], value: &[u8], expires_at: Option<i64>) -> Record {
        let mut head = [0u8; 10];
        let mut head_bytes = 0;
        let mut rest = field.len() << 1 | usize::from(expires_at.is_some());
        while rest > 0x7F {
            head[head_bytes] = rest as u8 | 0x80;
            rest >>= 7;
            head_bytes += 1;
        }
        head[head_bytes] = rest as u8;
        let expiry = expires_at.map(i64::to_le_bytes);
        let expiry: &[u8] = expiry.as_ref().map_or(&[], |bytes| bytes);
        Record(CompactBytes::concat(&[&head[..=head_bytes], expiry, field, value]))
    }

    #[inline]
    fn view(&self) -> RecordView<'_> {
        let bytes: &[u8] = &self.0;
        let mut head = usize::from(bytes[0] & 0x7F);
        let mut at = 1;
        while bytes[at - 1] & 0x80 != 0 {
            head |= usize::from(bytes[at] & 0x7F) << (7 * at);
            at += 1;
        }
        let mut rest = &bytes[at..];
        let mut expires_at = None;
        if head & 1 == 1
            && let Some((expiry, behind)) = rest.split_first_chunk::<8>()
        {
            expires_at = Some(i64::from_le_bytes(*expiry));
            rest = behind;
        }
        let (field, value) = rest.split_at(head >> 1);
        RecordView { field, value, expires_at }
    }

    #[inline]
    fn field(&self) -> &[u8] {
        self.view().field
    }
}

/// The fields of a hash that have not expired at some moment: what readers see.
#[derive(Clone, Copy)]
pub struct LiveHash<'a> {
    hash: &'a Hash,
    /// Fields that expire then or before are not shown. Before all time if there are none such, which is the usual case.
    due: i64,
}

impl<'a> RecordView<'a> {
    fn shown(&self) -> HashField<'a> {
        HashField { field: self.field.into(), value: self.value.into(), expires_at: self.expires_at }
    }
}

impl Records {
    fn new(seed: u64) -> Records {
        Records { table: Table::new(), expiries: BTreeSet::new(), seed, heap_bytes: 0 }
    }

    fn get(&self, field: &[u8]) -> Option<&Record> {
        self.table.find(hash_bytes(self.seed, field), |record| record.field() == field)
    }

    fn set(&mut self, field: &[u8], value: &[u8], expires_at: Option<i64>) -> bool {
        let seed = self.seed;
        let hash = hash_bytes(seed, field);
        if let Some(record) = self.table.find_mut(hash, |record| record.field() == field) {
            let old = record.view();
            let (old_value_bytes, old_expiry) = (old.value.len(), old.expires_at);
            if old_value_bytes == value.len() && old_expiry.is_none() && expires_at.is_none() {
                let bytes = record.0.as_mut_slice();
                let value_at = bytes.len() - value.len();
                bytes[value_at..].copy_from_slice(value);
                return false;
            }
            self.heap_bytes -= record.0.heap_bytes();
            *record = Record::new(field, value, expires_at);
            self.heap_bytes += record.0.heap_bytes();
            self.note_expiry(field, old_expiry, expires_at);
            return false;
        }
        let record = Record::new(field, value, expires_at);
        self.heap_bytes += record.0.heap_bytes();
        self.table.insert_new(hash, record, |record| hash_bytes(seed, record.field()));
        self.note_expiry(field, None, expires_at);
        true
    }

    fn note_expiry(&mut self, field: &[u8], old: Option<i64>, new: Option<i64>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.expiries.remove(&(old, field.into()));
        }
        if let Some(new) = new {
            self.expiries.insert((new, field.into()));
        }
    }

    fn remove(&mut self, field: &[u8]) -> Option<Record> {
        let seed = self.seed;
        let is_field = |record: &Record| record.field() == field;
        let removed =
            self.table.remove(hash_bytes(seed, field), is_field, |record| hash_bytes(seed, record.field()))?;
        self.heap_bytes -= removed.0.heap_bytes();
        self.note_expiry(field, removed.view().expires_at, None);
        Some(removed)
    }
}

impl Default for Hash {
    fn default() -> Hash {
        Hash::new()
    }
}

impl Hash {
    /// A hash without fields.
    pub fn new() -> Hash {
        Hash(Slim::small(Packed::new()))
    }

    /// The hash that a run of fields and values is; `None` if it is none, or too big to be one.
    pub(crate) fn of_run(unpacked: Unpacked, limits: &Limits) -> Option<Hash> {
        let Unpacked { run, longest, .. } = unpacked;
        let small =
            run.len() / 2 <= limits.hash_listpack_entries_max && longest <= limits.hash_listpack_value_bytes_max;
        let whole = small && run.len().is_multiple_of(2) && run.are_distinct(2, limits.hash_seed);
        whole.then(|| Hash(Slim::small(run)))
    }

    /// The run of fields and values it is, while it is small.
    pub(crate) fn run(&self) -> Option<&Packed> {
        if let Form::Small(packed) = self.0.form() { Some(packed) } else { None }
    }

    /// How many fields there are, expired ones that were not purged included.
    pub fn len(&self) -> usize {
        match self.0.form() {
            Form::Small(packed) => packed.len() / 2,
            Form::Big(records) => records.table.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoding's name in OBJECT ENCODING.
    pub fn encoding(&self) -> &'static str {
        match self.0.form() {
            Form::Small(_) => "listpack",
            Form::Big(_) => "hashtable",
        }
    }

    /// About what this hash holds on the heap.
    pub fn memory_bytes(&self) -> usize {
        match self.0.form() {
            Form::Small(packed) => packed.heap_bytes(),
            Form::Big(records) => {
                let expiry_bytes = records.expiries.len() * 64;
                Slim::<Records>::BIG_BYTES + records.table.table_bytes() + records.heap_bytes + expiry_bytes
            }
        }
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        let Form::Big(records) = self.0.form() else { return true };
        let expiring = records.table.iter().filter(|record| record.view().expires_at.is_some()).count();
        let heap_bytes: usize = records.table.iter().map(|record| record.0.heap_bytes()).sum();
        (records.heap_bytes, records.expiries.len()) == (heap_bytes, expiring)
    }

    /// Says what is about to be set, so that the hash takes at once the form it would take in the end: up to `fields` pairs, the
    /// longest field or value among them of `longest` bytes.
    pub fn prepare(&mut self, fields: usize, longest: usize, limits: &Limits) {
        if fields > limits.hash_listpack_entries_max || longest > limits.hash_listpack_value_bytes_max {
            self.table(limits);
        }
    }

    /// Makes room in a table for as many fields as are about to come, at once.
    pub(crate) fn reserve(&mut self, fields: usize) {
        if let FormMut::Big(records) = self.0.form_mut()
            && records.table.len() == 0
        {
            records.table = Table::with_capacity(fields);
        }
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<Text<'_>> {
        match self.0.form() {
            Form::Small(packed) => find_field(packed, field).map(|at| packed.get(packed.next(at)).text()),
            Form::Big(records) => records.get(field).map(|record| record.view().value.into()),
        }
    }

    /// Whether there is such a field.
    pub fn contains(&self, field: &[u8]) -> bool {
        match self.0.form() {
            Form::Small(packed) => find_field(packed, field).is_some(),
            Form::Big(records) => records.get(field).is_some(),
        }
    }

    /// Sets a field; says whether it is new. An expiry it had is gone.
    pub fn set(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        let longest = field.len().max(value.len());
        if let FormMut::Small(packed) = self.0.form_mut()
            && longest <= limits.hash_listpack_value_bytes_max
            && packed.fits(longest * 2)
        {
            let added = set_packed(packed, field, value);
            if packed.len() / 2 > limits.hash_listpack_entries_max {
                self.table(limits);
            }
            return added;
        }
        self.table(limits).set(field, value, None)
    }

    /// Sets a field's value and leaves its expiry as it is: what increments do.
    pub fn set_value(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        match self.expiry(field) {
            None => self.set(field, value, limits),
            kept => self.table(limits).set(field, value, kept),
        }
    }

    /// Sets a field that expires; says whether it is new.
    pub fn set_expiring(&mut self, field: &[u8], value: &[u8], expires_at: i64, limits: &Limits) -> bool {
        self.table(limits).set(field, value, Some(expires_at))
    }

    /// Takes a field out; says whether it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match self.0.form_mut() {
            FormMut::Small(packed) => {
                let found = find_field(packed, field);
                found.inspect(|at| packed.remove(*at, 2)).is_some()
            }
            FormMut::Big(records) => records.remove(field).is_some(),
        }
    }

    /// All fields, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = HashField<'_>> {
        let (packed, records) = match self.0.form() {
            Form::Small(packed) => (Some(packed), None),
            Form::Big(records) => (None, Some(records)),
        };
        let small = packed.into_iter().flat_map(packed_fields);
        small.chain(records.into_iter().flat_map(|records| {
            records.table.iter_ahead(|record| record.0.prefetch()).map(|record| record.view().shown())
        }))
    }

    /// Shows about `count` fields from the cursor on, and returns the cursor to go on with; zero when all have been seen. A field
    /// that is there from the first call to the last is shown, whatever happens in between.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(HashField<'_>)) -> u64 {
        match self.0.form() {
            Form::Small(packed) => {
                packed_fields(packed).for_each(visit);
                0
            }
            Form::Big(records) => {
                let hash_of = |record: &Record| hash_bytes(records.seed, record.field());
                records.table.scan(cursor, count, hash_of, |record| visit(record.view().shown()))
            }
        }
    }

    /// A field, each as likely as every other. `random` gives evenly distributed numbers.
    pub fn random(&self, random: &mut dyn FnMut() -> u64) -> Option<HashField<'_>> {
        match self.0.form() {
            Form::Small(packed) if packed.is_empty() => None,
            Form::Small(packed) => {
                let at = packed.locate(2 * below(random(), packed.len() / 2))?;
                let (field, value_at) = packed.read(at);
                Some(HashField { field: field.text(), value: packed.get(value_at).text(), expires_at: None })
            }
            Form::Big(records) => records.table.random(random).map(|record| record.view().shown()),
        }
    }

    /// `count` different fields, or all if there are no more, in no order that means anything.
    pub fn random_distinct(&self, count: usize, random: &mut dyn FnMut() -> u64) -> Vec<HashField<'_>> {
        super::random_distinct(self.len(), count, random, self.iter())
    }

    /// When a field expires.
    pub fn expiry(&self, field: &[u8]) -> Option<i64> {
        match self.0.form() {
            Form::Small(_) => None,
            Form::Big(records) => records.get(field)?.view().expires_at,
        }
    }

    /// Sets or takes away when a field expires; false if there is no such field.
    pub fn set_expiry(&mut self, field: &[u8], expires_at: Option<i64>, limits: &Limits) -> bool {
        if let Form::Small(packed) = self.0.form() {
            let found = find_field(packed, field).is_some();
            if !found || expires_at.is_none() {
                return found;
            }
        }
        let records = self.table(limits);
        let Some(record) = records.get(field) else {
            return false;
        };
        let value = record.view().value.to_vec();
        records.set(field, &value, expires_at);
        true
    }

    /// How many fields have an expiry.
    pub fn expiring_len(&self) -> usize {
        match self.0.form() {
            Form::Small(_) => 0,
            Form::Big(records) => records.expiries.len(),
        }
    }

    /// The earliest expiry of any field.
    pub fn next_expiry(&self) -> Option<i64> {
        match self.0.form() {
            Form::Small(_) => None,
            Form::Big(records) => records.expiries.first().map(|(expires_at, _)| *expires_at),
        }
    }

    /// The hash as it looks at `now`.
    #[inline]
    pub fn at(&self, now: i64) -> LiveHash<'_> {
        LiveHash { hash: self, due: if self.is_due(now) { now } else { i64::MIN } }
    }

    /// Whether a field expires at `now` or before.
    #[inline]
    pub fn is_due(&self, now: i64) -> bool {
        self.next_expiry().is_some_and(|at| at <= now)
    }

    /// Takes out those of the fields that expire at `now` or before, and returns their names.
    pub fn purge_of<'f>(&mut self, now: i64, fields: impl Iterator<Item = &'f [u8]>) -> Vec<&'f [u8]> {
        let due = |hash: &mut Hash, field: &[u8]| hash.expiry(field).is_some_and(|at| at <= now) && hash.remove(field);
        fields.filter(|field| due(self, field)).collect()
    }

    /// Takes out fields that expire at `now` or before, at most `max` of them, and returns their names.
    pub fn purge(&mut self, now: i64, max: usize) -> Vec<Box<[u8]>> {
        let mut purged = Vec::new();
        let FormMut::Big(records) = self.0.form_mut() else {
            return purged;
        };
        while purged.len() < max {
            let Some((_, field)) = records.expiries.first().filter(|(expires_at, _)| *expires_at <= now).cloned()
            else {
                break;
            };
            records.remove(&field);
            purged.push(field);
        }
        purged
    }

    fn table(&mut self, limits: &Limits) -> &mut Records {
        if let Form::Small(packed) = self.0.form() {
            let mut records = Records::new(limits.hash_seed);
            for HashField { field, value, .. } in packed_fields(packed) {
                records.set(&field, &value, None);
            }
            self.0 = Slim::big(records);
        }
        match self.0.form_mut() {
            FormMut::Big(records) => records,
            FormMut::Small(_) => unreachable!("was made a table above"),
        }
    }
}

impl<'a> LiveHash<'a> {
    #[inline]
    fn shows(self, expires_at: Option<i64>) -> bool {
        expires_at.is_none_or(|at| at > self.due)
    }

    #[inline]
    fn hides_some(self) -> bool {
        self.due != i64::MIN
    }

    /// How many fields there are.
    pub fn len(self) -> usize {
        match self.hash.0.form() {
            Form::Big(records) if self.hides_some() => {
                let end = (self.due.saturating_add(1), Box::default());
                records.table.len() - records.expiries.range(..end).count()
            }
            _ => self.hash.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The value of a field.
    #[inline]
    pub fn get(self, field: &[u8]) -> Option<Text<'a>> {
        match self.hash.0.form() {
            Form::Big(records) if self.hides_some() => {
                let record = records.get(field)?.view();
                self.shows(record.expires_at).then(|| record.value.into())
            }
            _ => self.hash.get(field),
        }
    }

    /// Whether there is such a field.
    pub fn contains(self, field: &[u8]) -> bool {
        if self.hides_some() { self.get(field).is_some() } else { self.hash.contains(field) }
    }

    /// When a field expires. `None`: there is no such field. `Some(None)`: it never does.
    pub fn expiry(self, field: &[u8]) -> Option<Option<i64>> {
        match self.hash.0.form() {
            Form::Small(packed) => find_field(packed, field).map(|_| None),
            Form::Big(records) => {
                records.get(field).map(|record| record.view().expires_at).filter(|expires_at| self.shows(*expires_at))
            }
        }
    }

    /// All fields, in no order that means anything.
    pub fn iter(self) -> impl Iterator<Item = HashField<'a>> {
        self.hash.iter().filter(move |shown| self.shows(shown.expires_at))
    }

    /// As [`Hash::scan`].
    pub fn scan(self, cursor: u64, count: usize, mut visit: impl FnMut(HashField<'_>)) -> u64 {
        self.hash.scan(cursor, count, |shown| {
            if self.shows(shown.expires_at) {
                visit(shown);
            }
        })
    }

    /// A field, each as likely as every other. `random` gives evenly distributed numbers.
    pub fn random(self, random: &mut dyn FnMut() -> u64) -> Option<HashField<'a>> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let drawn = self.hash.random(random)?;
            if self.shows(drawn.expires_at) {
                return Some(drawn);
            }
        }
        // Most of them are hidden: count them out.
        self.random_distinct(1, random).pop()
    }

    /// Draws fields again and again, each from all. To be dropped before the hash changes, which the borrow sees to.
    pub fn draws(self) -> impl FnMut(&mut dyn FnMut() -> u64) -> Option<HashField<'a>> {
        let pool: Vec<HashField<'a>> = if self.hides_some() { self.iter().collect() } else { Vec::new() };
        move |random| match pool.len() {
            0 => self.random(random),
            len => pool.get(below(random(), len)).cloned(),
        }
    }

    /// `count` different fields, or all if there are no more, in no order that means anything.
    pub fn random_distinct(self, count: usize, random: &mut dyn FnMut() -> u64) -> Vec<HashField<'a>> {
        super::random_distinct(self.len(), count, random, self.iter())
    }
}

#[inline]
fn find_field(packed: &Packed, field: &[u8]) -> Option<usize> {
    packed.find(packed.start(), Item::of(field), 1)
}

fn set_packed(packed: &mut Packed, field: &[u8], value: &[u8]) -> bool {
    if let Some(at) = find_field(packed, field) {
        packed.replace(packed.next(at), Item::of(value));
        return false;
    }
    packed.push_back(Item::of(field));
    packed.push_back(Item::of(value));
    true
}

fn packed_fields(packed: &Packed) -> impl Iterator<Item = HashField<'_>> {
    let mut elements = packed.iter();
    std::iter::from_fn(move || {
        let (field, value) = (elements.next()?, elements.next()?);
        Some(HashField { field: field.text(), value: value.text(), expires_at: None })
    })
}
