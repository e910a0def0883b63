//! Snapshots against a model: whatever happens between two slices, the file is the moment.

use super::*;
use crate::dict::NewValue;
use crate::dump::{Checksum, FileReader};
use crate::effects::Effects;
use crate::eviction::Usage;
use crate::keyspace::{CallContext, Expiry, Keys, Layout, Missing, TenantId};
use crate::scope::Reach;
use crate::types::{End, Kind, Limits, List};
use std::collections::BTreeMap;

const NOW: UnixMillis = 1_700_000_000_000;
const LAYOUT: Layout = Layout { seed: 7, shard_count: 1 };

type Model = BTreeMap<(u32, Vec<u8>), (String, Option<UnixMillis>)>;

fn with_keys<R>(shard: &mut Shard, database: u32, random: u64, call: impl FnOnce(&mut Keys<'_>) -> R) -> R {
    let limits = Limits::default();
    let context = CallContext {
        layout: LAYOUT,
        space: SpaceId { tenant: TenantId::SHARED, database },
        now: NOW,
        limits: &limits,
        value_bytes_max: 512 << 20,
        room_bytes: u64::MAX,
        databases: 16,
        random,
        no_touch: false,
        usage: Usage::default(),
        keeps_expired: false,
        patience: None,
    };
    call(&mut Keys::one(0, shard, context, &mut Effects::new()).within(&Reach::Everything))
}

fn spelled(value: &NewValue<'_, Value>) -> String {
    match value {
        NewValue::Int(number) => number.to_string(),
        NewValue::Str(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        NewValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        NewValue::Object(object) => {
            let Kind::List(list) = object.kind() else { panic!("no test makes {object:?}") };
            list.iter().map(|element| String::from_utf8_lossy(&element).into_owned()).collect::<Vec<_>>().join(",")
        }
    }
}

/// What the shard holds now, expired keys left out.
fn model(shard: &mut Shard) -> Model {
    let mut all = Model::new();
    for database in 0..4 {
        with_keys(shard, database, 1, |keys| {
            let mut names = Vec::new();
            keys.for_each(&mut |entry| names.push(entry.key().to_vec()));
            for name in names {
                let copy = keys.copy(&name).unwrap();
                all.insert((database, name), (spelled(&copy.value), copy.expires_at));
            }
        });
    }
    all
}

fn read(body: &[u8]) -> Model {
    let mut file = Vec::new();
    dump::begin(&mut file, false, &[]);
    file.extend_from_slice(body);
    let mut so_far = Checksum::new();
    so_far.update(&file);
    dump::end(&mut file, so_far);
    let limits = Limits::default();
    let mut reader = FileReader::open(file.as_slice(), &limits).unwrap();
    let mut all = Model::new();
    while let Some(record) = reader.next().unwrap() {
        let held = (spelled(&record.value), record.expires_at);
        let before = all.insert((record.space.database, record.key), held);
        assert_eq!(before, None, "no key is written twice");
    }
    all
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn write_something(shard: &mut Shard, dice: &mut Dice, keys: u64) {
    let (database, random) = (dice.below(3) as u32, dice.below(u64::MAX >> 33));
    let key = format!("key:{}", dice.below(keys)).into_bytes();
    let other = format!("key:{}", dice.below(keys)).into_bytes();
    let list = |key: &[u8]| [key, b":list"].concat();
    let (kind, text) = (dice.below(100), format!("value {random}"));
    let expiry = if dice.below(4) == 0 { Expiry::At(NOW + 1 + random as i64) } else { Expiry::Never };
    with_keys(shard, database, random, |keys| match kind {
        0..30 => keys.put_string(&key, text.as_bytes(), expiry),
        30..45 => keys.put_string(&key, random.to_string().as_bytes(), Expiry::Keep),
        45..55 => _ = keys.edit_integer(&key, |before| Ok(before / 2 + 1)),
        55..70 => _ = keys.remove(&key),
        70..76 => _ = keys.append_string(&key, b"!"),
        76..80 => _ = keys.set_expiry(&key, Some(NOW + 5)),
        80..88 => {
            let pushed = |list: &mut List| list.push(End::Back, &[text.as_bytes()], &Limits::default());
            keys.update::<List, _>(&list(&key), Missing::Create, pushed).unwrap();
        }
        88..92 => {
            if let Some(taken) = keys.take(&key) {
                keys.put_taken(&other, taken);
            }
        }
        92..96 => _ = keys.edit_string(&key, 9, |bytes| bytes[8] = b'x'),
        96 => keys.swap_databases(0, 1),
        97 => keys.swap_prefixes(0, 1, &[&key]),
        _ if dice.below(50) == 0 => _ = keys.clear(),
        _ => {}
    });
}

fn take_all(shard: &mut Shard, mut between: impl FnMut(&mut Shard)) -> Model {
    let (mut out, mut taken) = (Vec::new(), Taken::default());
    loop {
        if shard.snapshot_slice(&mut out, &mut taken, &mut || false) {
            break;
        }
        taken.garbage.clear();
        between(shard);
    }
    let read = read(&out);
    assert_eq!(taken.keys, read.len() as u64);
    read
}

#[test]
fn whatever_is_written_meanwhile_the_snapshot_is_the_moment() {
    for seed in 0..12 {
        let (mut shard, mut dice) = (Shard::new(LAYOUT.seed), Dice(seed));
        let keys = [50, 3000][seed as usize % 2];
        (0..keys * 4).for_each(|_| write_something(&mut shard, &mut dice, keys));
        // Three in a row: nothing of one is left to disturb the next.
        for _ in 0..3 {
            let moment = model(&mut shard);
            shard.begin_snapshot(NOW, None);
            let taken = take_all(&mut shard, |shard| {
                (0..20).for_each(|_| write_something(shard, &mut dice, keys));
            });
            assert!(taken == moment, "seed {seed}: {} keys for {}", taken.len(), moment.len());
        }
    }
}

#[test]
fn what_is_made_after_the_moment_is_not_in_it() {
    let mut shard = Shard::new(LAYOUT.seed);
    with_keys(&mut shard, 0, 1, |keys| keys.put_string(b"old", b"1", Expiry::Never));
    shard.begin_snapshot(NOW, None);
    for number in 0..1000 {
        with_keys(&mut shard, 0, 1, |keys| keys.put_string(format!("new:{number}").as_bytes(), b"1", Expiry::Never));
    }
    assert_eq!(take_all(&mut shard, |_| {}).len(), 1);
    shard.begin_snapshot(NOW, None);
    assert_eq!(take_all(&mut shard, |_| {}).len(), 1001);
}

#[test]
fn a_flushed_keyspace_is_still_in_the_moment() {
    let mut shard = Shard::new(LAYOUT.seed);
    for number in 0..1000 {
        with_keys(&mut shard, 0, 1, |keys| keys.put_string(format!("key:{number}").as_bytes(), b"1", Expiry::Never));
    }
    shard.begin_snapshot(NOW, None);
    let mut flushed = false;
    let taken = take_all(&mut shard, |shard| {
        if !std::mem::replace(&mut flushed, true) {
            assert_eq!(with_keys(shard, 0, 1, |keys| keys.clear()), 1000);
        }
    });
    assert_eq!(taken.len(), 1000);
    assert_eq!(model(&mut shard).len(), 0);
    assert!(shard.detached.is_empty());
}

#[test]
fn what_was_kept_can_be_handed_out_early() {
    let mut shard = Shard::new(LAYOUT.seed);
    with_keys(&mut shard, 0, 1, |keys| keys.put_string(b"key", b"before", Expiry::Never));
    shard.begin_snapshot(NOW, None);
    with_keys(&mut shard, 0, 1, |keys| keys.put_string(b"key", b"after", Expiry::Never));
    let (mut out, mut taken) = (Vec::new(), Taken::default());
    shard.snapshot_kept(&mut out, &mut taken);
    assert_eq!((taken.keys, read(&out).len()), (1, 1));
    assert!(take_all(&mut shard, |_| {}).is_empty());
}

#[test]
fn keys_past_their_expiry_are_left_out() {
    let mut shard = Shard::new(LAYOUT.seed);
    with_keys(&mut shard, 0, 1, |keys| {
        keys.put_string(b"gone", b"1", Expiry::At(NOW));
        keys.put_string(b"there", b"1", Expiry::At(NOW + 1));
    });
    shard.begin_snapshot(NOW, None);
    assert_eq!(
        take_all(&mut shard, |_| {}).keys().map(|(_, key)| key.clone()).collect::<Vec<_>>(),
        [b"there".to_vec()]
    );
}
