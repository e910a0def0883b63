//! The table against a model, and its promises one by one. Every dice roll is seeded.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicIsize, Ordering};

use super::*;

const SEED: u64 = 0x5eed;

/// A small generator, so that a failure repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll() as u8).collect()
    }

    /// Lengths around every limit that matters, mostly short.
    fn value_len(&mut self) -> usize {
        match self.below(20) {
            0 => 0,
            1 => INLINE_VALUE_BYTES_MAX - self.below(2),
            2 => INLINE_VALUE_BYTES_MAX + 1 + self.below(1000),
            _ => self.below(100),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Model {
    Int(i64),
    Str(Vec<u8>),
    Object(u64),
}

static LIVING: AtomicIsize = AtomicIsize::new(0);

/// An object that counts how many of it there are.
#[derive(Debug)]
struct Counted(u64);

impl Counted {
    fn new(number: u64) -> Self {
        LIVING.fetch_add(1, Ordering::Relaxed);
        Counted(number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn model_of(entry: &Entry<Counted>) -> (Model, Option<i64>) {
    let value = match entry.value() {
        ValueRef::Int(number) => Model::Int(number),
        ValueRef::Str(bytes) => Model::Str(bytes.to_vec()),
        ValueRef::Object(object) => Model::Object(object.0),
    };
    (value, entry.expires_at())
}

fn key_of(number: u64) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

fn filled(count: u64) -> Dict<u64> {
    let mut dict = Dict::new(SEED);
    for number in 0..count {
        let key = key_of(number);
        dict.insert(dict.hash(&key), &key, NewValue::Int(number as i64), None);
    }
    dict
}

/// Counts everything again that the table counts as it goes.
fn recount<V>(dict: &Dict<V>) {
    dict.for_each(&mut |entry| {
        assert_eq!(dict.find(dict.hash(entry.key()), entry.key()).map(Entry::key), Some(entry.key()));
    });
    assert_eq!((dict.len(), dict.expiring_len(), dict.memory_bytes()), dict.recount());
    let (mut expiring, mut cursor) = (Vec::new(), 0);
    dict.for_each(&mut |entry| expiring.extend(entry.expires_at().map(|_| entry.key().to_vec())));
    let mut found = Vec::new();
    loop {
        cursor = dict.scan_expiring(cursor, &mut |entry| found.push(entry.key().to_vec()));
        if cursor == 0 {
            break;
        }
    }
    expiring.sort();
    found.sort();
    assert_eq!(found, expiring);
    let deepest = dict.segments().filter(|segment| segment.depth == dict.depth).count() as u32;
    assert_eq!(dict.deepest, deepest);
}

fn scan_all<V>(dict: &Dict<V>) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut cursor = 0;
    loop {
        cursor = dict.scan(cursor, &mut |entry| keys.push(entry.key().to_vec()));
        if cursor == 0 {
            return keys;
        }
    }
}

/// One random operation on both; what they answer must agree.
fn step(dice: &mut Dice, dict: &mut Dict<Counted>, model: &mut HashMap<Vec<u8>, (Model, Option<i64>)>, keys: u64) {
    let key = match dice.below(50) {
        0 => Vec::new(),
        1 if !cfg!(miri) => vec![b'k'; 65_530 + dice.below(12)],
        _ => key_of(dice.roll() % keys),
    };
    let hash = dict.hash(&key);
    let expiry = (dice.below(3) == 0).then(|| dice.roll() as i64);
    match dice.below(10) {
        0..3 => {
            let len = dice.value_len();
            let value = dice.bytes(len);
            let keep = dice.below(2) == 0;
            let old = model.get(&key);
            let done = dict.upsert_string(hash, &key, &value, if keep { Expiry::Keep } else { Expiry::Set(expiry) });
            assert_eq!((done.existed, done.old_expires_at), (old.is_some(), old.and_then(|old| old.1)));
            let expires_at = if keep { old.and_then(|old| old.1) } else { expiry };
            model.insert(key, (Model::Str(value), expires_at));
        }
        3..5 => {
            let removed = dict.remove(hash, &key);
            assert_eq!(removed.as_deref().map(model_of), model.remove(&key));
            if let Some(removed) = removed {
                let expected = model_of(&removed).0;
                let value = match removed.into_value() {
                    NewValue::Int(number) => Model::Int(number),
                    NewValue::Bytes(bytes) => Model::Str(bytes),
                    NewValue::Str(bytes) => Model::Str(bytes.to_vec()),
                    NewValue::Object(object) => Model::Object(object.0),
                };
                assert_eq!(value, expected);
            }
        }
        5 => match dict.place_of(hash, &key) {
            Place::Occupied(mut entry) => {
                entry.set_expiry(expiry);
                entry.set_access(0xff00_1234);
                assert_eq!(entry.access(), 0x1234);
                model.get_mut(&key).expect("the table has it").1 = expiry;
            }
            Place::Vacant(vacant) => {
                let number = dice.roll();
                vacant.insert(NewValue::Object(Counted::new(number)), expiry);
                assert_eq!(model.insert(key, (Model::Object(number), expiry)), None);
            }
        },
        _ => change(dice, dict.find_mut(hash, &key), model.get_mut(&key)),
    }
}

fn change(dice: &mut Dice, entry: Option<EntryMut<'_, Counted>>, model: Option<&mut (Model, Option<i64>)>) {
    assert_eq!(entry.is_some(), model.is_some());
    let (Some(mut entry), Some((value, _))) = (entry, model) else { return };
    let number = dice.roll();
    match (dice.below(6), &mut *value) {
        (0, _) => {
            entry.set_int(number as i64);
            *value = Model::Int(number as i64);
        }
        (1, _) => {
            entry.set_object(Counted::new(number));
            *value = Model::Object(number);
        }
        (2, _) => {
            let len = dice.value_len();
            let bytes = dice.bytes(len);
            entry.set_value(NewValue::Bytes(bytes.clone()));
            *value = Model::Str(bytes);
        }
        (_, Model::Object(object)) => {
            assert_eq!(entry.append(b"x"), None);
            assert!(!entry.resize(3));
            entry.object_mut().expect("the model says so").0 = number;
            *object = number;
        }
        (action, old) => {
            let mut bytes = match old {
                Model::Int(number) => number.to_string().into_bytes(),
                Model::Str(bytes) => bytes.clone(),
                Model::Object(_) => unreachable!("matched above"),
            };
            let len = dice.value_len();
            if action == 3 {
                bytes.resize(len, 0);
                assert!(entry.resize(len));
            } else {
                let more = dice.bytes(len);
                bytes.extend_from_slice(&more);
                assert_eq!(entry.append(&more), Some(bytes.len()));
            }
            if let (ValueMut::Str(own), Some(first)) = (entry.value_mut(), bytes.first_mut()) {
                own[0] ^= 1;
                *first ^= 1;
            }
            *value = Model::Str(bytes);
        }
    }
}

#[test]
fn the_table_agrees_with_a_model_and_drops_every_object_once() {
    // One test counts `LIVING`, so nothing else may make a `Counted`.
    for (seed, keys, steps) in [(1, 5, 3_000), (2, 60, 6_000), (3, 3_000, 30_000)] {
        let steps = if cfg!(miri) { steps / 100 } else { steps };
        let mut dice = Dice(seed);
        let mut dict = Dict::new(seed);
        let mut model = HashMap::new();
        for round in 0..steps {
            step(&mut dice, &mut dict, &mut model, keys);
            if round % 1_000 == 0 {
                recount(&dict);
            }
        }
        recount(&dict);
        assert_eq!(dict.len(), model.len());
        for (key, expected) in &model {
            assert_eq!(dict.find(dict.hash(key), key).map(model_of).as_ref(), Some(expected));
        }
        let objects = model.values().filter(|(value, _)| matches!(value, Model::Object(_))).count();
        assert_eq!(LIVING.load(Ordering::Relaxed), objects as isize);
        drop(dict);
        assert_eq!(LIVING.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn entries_that_move_to_fresh_memory_stay_what_they_are() {
    let mut dice = Dice(8);
    let mut dict: Dict<u64> = Dict::new(SEED);
    let count = if cfg!(miri) { 200 } else { 20_000 };
    for number in 0..count {
        let key = key_of(number);
        let hash = dict.hash(&key);
        let expiry = (number % 3 == 0).then_some(number as i64);
        match number % 4 {
            0 => _ = dict.insert(hash, &key, NewValue::Int(number as i64), expiry),
            1 => _ = dict.insert(hash, &key, NewValue::Object(number), expiry),
            2 => _ = dict.insert(hash, &key, NewValue::Bytes(dice.bytes(2000)), expiry),
            _ => _ = dict.insert(hash, &key, NewValue::Str(&dice.bytes(50)), expiry),
        }
    }
    let told = |dict: &Dict<u64>| {
        let mut all = Vec::new();
        dict.for_each(&mut |entry| {
            all.push((entry.key().to_vec(), format!("{:?} {:?}", entry.value(), entry.expires_at())))
        });
        all.sort();
        all
    };
    let before = told(&dict);
    let (mut cursor, mut husks, mut objects) = (0, Vec::new(), 0);
    loop {
        cursor = dict.repack(cursor, &mut husks, &mut |_| objects += 1);
        if cursor == 0 {
            break;
        }
    }
    assert_eq!((husks.len() as u64, objects), (count, count / 4));
    drop(husks);
    assert!(told(&dict) == before);
    recount(&dict);
}

#[test]
fn a_table_that_grows_and_is_emptied_gives_everything_back() {
    let count = if cfg!(miri) { 1_000 } else { 40_000 };
    let mut dict = filled(count);
    recount(&dict);
    let full = dict.memory_bytes();
    for number in 0..count {
        let key = key_of(number);
        assert!(dict.remove(dict.hash(&key), &key).is_some());
        if number == count / 20 * 19 {
            recount(&dict);
            assert!(dict.memory_bytes() < full / 5, "{} of {full}", dict.memory_bytes());
        }
    }
    assert_eq!((dict.len(), dict.memory_bytes(), dict.directory.len()), (0, 0, 0));
}

#[test]
fn an_empty_table_costs_less_than_a_cache_line() {
    assert!(size_of::<Dict<u64>>() <= 64);
    let mut dict = filled(1);
    assert!(dict.memory_bytes() <= 64 + 16 + 32);
    dict.clear();
    assert_eq!(dict.memory_bytes(), 0);
    assert!(dict.find(dict.hash(b"a"), b"a").is_none());
    assert_eq!(dict.scan(0, &mut |_| panic!("nothing is there")), 0);
    assert!(dict.random(7).is_none());
    dict.prefetch_bucket(1);
    dict.prefetch_entry(1);
    dict.prefetch_value(1);
}

#[test]
fn a_scan_of_a_quiet_table_sees_every_key_once() {
    for count in [1, 7, 8, 50, 400, if cfg!(miri) { 900 } else { 20_000 }] {
        let dict = filled(count);
        let keys = scan_all(&dict);
        assert_eq!(keys.len() as u64, count);
        assert_eq!(keys.into_iter().collect::<HashSet<_>>().len() as u64, count);
    }
}

#[test]
fn a_scan_sees_what_stays_whatever_comes_and_goes_meanwhile() {
    for (seed, stay, guests) in [(1, 3, 2_000), (2, 300, 4_000), (3, 2_000, 1_000)] {
        let (stay, guests) = if cfg!(miri) { (stay / 10 + 1, guests / 10) } else { (stay, guests) };
        let mut dice = Dice(seed);
        let mut dict = filled(stay);
        let mut seen = HashSet::new();
        let mut cursor = 0;
        let mut round = 0;
        loop {
            cursor = dict.scan(cursor, &mut |entry| {
                seen.insert(entry.key().to_vec());
            });
            if cursor == 0 {
                break;
            }
            // Guests come in a flood, then leave, so that segments split and merge under the cursor.
            round += 1;
            for guest in 0..guests / 20 {
                let key = key_of(1_000_000 + dice.roll() % guests);
                let hash = dict.hash(&key);
                if round / 30 % 2 == 0 {
                    dict.upsert_string(hash, &key, b"guest", Expiry::Keep);
                } else if guest % 2 == 0 {
                    dict.remove(hash, &key);
                }
            }
        }
        assert!((0..stay).all(|number| seen.contains(&key_of(number))), "seed {seed}");
        recount(&dict);
    }
}

#[test]
fn any_cursor_is_taken() {
    let dict = filled(1_000);
    let mut dice = Dice(9);
    for _ in 0..1_000 {
        let cursor = dice.roll() >> dice.below(64);
        let next = dict.scan(cursor, &mut |_| {});
        assert!(next == 0 || (next > cursor && next >> POSITION_BITS == 0));
    }
}

#[test]
fn the_lowest_sixteen_bits_of_a_hash_are_left_to_the_caller() {
    let mut dice = Dice(11);
    for _ in 0..1_000 {
        let hash = dice.roll();
        assert_eq!(bucket::tag_of(hash), bucket::tag_of(hash ^ dice.roll() & 0xffff));
    }
    // As in a shard chosen by those bits: the table is as dense as any other.
    let mut dict: Dict<u64> = Dict::new(SEED);
    let wanted = if cfg!(miri) { 4 } else { 2_000 };
    let keys = (0..).map(key_of).filter(|key| hash_key(SEED, key) & 63 == 5).take(wanted);
    for key in keys {
        dict.insert(dict.hash(&key), &key, NewValue::Int(1), None);
    }
    assert!(cfg!(miri) || dict.memory_bytes() < dict.len() * (32 + 20));
    recount(&dict);
}

#[test]
fn random_choices_are_nearly_uniform() {
    for count in [1, 5, 100, if cfg!(miri) { 300 } else { 3_000 }] {
        let dict = filled(count);
        let mut dice = Dice(4);
        let mut hits = vec![0_u32; count as usize];
        let each = if cfg!(miri) { 2 } else { 100 };
        for _ in 0..count * each {
            let entry = dict.random(dice.roll()).expect("there are entries");
            let ValueRef::Int(number) = entry.value() else { panic!("all values are integers") };
            hits[number as usize] += 1;
        }
        if !cfg!(miri) {
            let odd = hits.iter().filter(|hits| !(50..200).contains(*hits)).count();
            assert!(
                odd * 50 <= hits.len() && !hits.contains(&0),
                "{odd} of {count} are chosen far too often or too rarely"
            );
        }
    }
}

#[test]
fn random_finds_the_last_of_many() {
    let mut dict = filled(5_000);
    for number in 0..4_999 {
        let key = key_of(number);
        dict.remove(dict.hash(&key), &key);
        if number % 500 == 0 {
            assert!(dict.random(number).is_some());
        }
    }
    assert_eq!(dict.random(3).map(Entry::key), Some(&key_of(4_999)[..]));
}

#[test]
fn long_strings_grow_in_place_and_shrink_back() {
    let mut dict: Dict<u64> = Dict::new(SEED);
    let hash = dict.hash(b"k");
    let long = vec![7; 512 << 10];
    let mut entry = dict.upsert_string(hash, b"k", &long, Expiry::Set(Some(5))).entry;
    assert_eq!(entry.append(b"xyz"), Some(long.len() + 3));
    assert!(!entry.is_inline());
    assert_eq!(entry.expires_at(), Some(5));
    let done = dict.upsert_string(hash, b"k", b"", Expiry::Keep);
    assert!(matches!(done.old_value, OldValue::Bytes(bytes) if bytes.ends_with(b"\x07xyz")));
    assert_eq!(done.entry.value(), ValueRef::Str(b""));
    assert_eq!(done.entry.expires_at(), Some(5));
    recount(&dict);
}

#[test]
fn keys_that_share_their_top_bits_cost_chains_not_a_directory() {
    // Hashes cannot be chosen, but found: these keys agree in their top 12 bits.
    let wanted = if cfg!(miri) { 20 } else { 300 };
    let mut dict: Dict<u64> = Dict::new(SEED);
    let mut keys = Vec::new();
    for number in 0.. {
        let key = key_of(number);
        if cfg!(miri) || dict.hash(&key) >> 52 == 0x123 {
            keys.push(key);
        }
        if keys.len() == wanted {
            break;
        }
    }
    for key in &keys {
        dict.upsert_string(dict.hash(key), key, b"v", Expiry::Keep);
    }
    recount(&dict);
    assert!(dict.directory.len() <= 64);
    assert_eq!(scan_all(&dict).len(), keys.len());
    for key in &keys {
        assert!(dict.remove(dict.hash(key), key).is_some());
    }
    assert_eq!(dict.memory_bytes(), 0);
}

#[test]
fn owned_entries_and_tables_may_be_dropped_elsewhere() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let mut dict = filled(100);
    let key = key_of(5);
    let removed = dict.remove(dict.hash(&key), &key).expect("it was inserted");
    assert_eq!(sendable(removed).key(), key);
    drop(sendable(dict));
}

#[test]
fn size_classes_are_the_allocators() {
    let classes = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024];
    for request in 1..=1024 {
        let expected = classes.into_iter().find(|class| *class >= request);
        assert_eq!(Some(entry::allocation_bytes(request)), expected, "request {request}");
    }
}

#[test]
fn the_hash_spreads_and_depends_on_every_byte_and_the_seed() {
    let mut dice = Dice(6);
    for len in 0..200 {
        let key = dice.bytes(len);
        let hash = hash_key(SEED, &key);
        assert_ne!(hash, hash_key(SEED + 1, &key));
        let mut flips = 0;
        for at in 0..len {
            let mut other = key.clone();
            other[at] ^= 1 << dice.below(8);
            flips += (hash ^ hash_key(SEED, &other)).count_ones();
        }
        assert!(len < 30 || (28..36).contains(&(flips as usize / len)), "{flips} flips at length {len}");
    }
}
