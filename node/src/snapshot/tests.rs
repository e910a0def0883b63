//! Snapshots on a real disk: what is written is loaded, whatever is broken in between is told.

use super::files::Files;
use super::{reader, writer};
use crate::shards::Shards;
use keyward_engine::effects::Effects;
use keyward_engine::eviction::Usage;
use keyward_engine::keyspace::{CallContext, Expiry, Keys, Layout, Shard, SpaceId, TenantId, UnixMillis};
use keyward_engine::scope::Reach;
use keyward_engine::types::Limits;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

const NOW: UnixMillis = 1_700_000_000_000;

const DATABASES: u32 = 16;

fn shards() -> Shards {
    Shards::new(Layout { seed: 7, shard_count: 16 }, Default::default(), Default::default(), &Default::default())
}

fn with_key<R>(shards: &Shards, space: SpaceId, key: &[u8], call: impl FnOnce(&mut Keys<'_>) -> R) -> R {
    let layout = shards.layout();
    let index = layout.place(key).shard;
    shards.with(index, |shard| in_shard_of(&layout, space, index, shard, call))
}

fn in_shard<R>(layout: &Layout, index: u32, shard: &mut Shard, call: impl FnOnce(&mut Keys<'_>) -> R) -> R {
    in_shard_of(layout, space(0, 0), index, shard, call)
}

fn in_shard_of<R>(
    layout: &Layout,
    space: SpaceId,
    index: u32,
    shard: &mut Shard,
    call: impl FnOnce(&mut Keys<'_>) -> R,
) -> R {
    let limits = Limits::default();
    let context = CallContext {
        layout: *layout,
        space,
        now: NOW,
        limits: &limits,
        value_bytes_max: 512 << 20,
        room_bytes: u64::MAX,
        databases: DATABASES,
        random: 1,
        no_touch: false,
        usage: Usage::default(),
        keeps_expired: false,
        patience: None,
    };
    call(&mut Keys::one(index, shard, context, &mut Effects::new()).within(&Reach::Everything))
}

fn set(shards: &Shards, space: SpaceId, key: &str, value: &str, expiry: Expiry) {
    with_key(shards, space, key.as_bytes(), |keys| keys.put_string(key.as_bytes(), value.as_bytes(), expiry));
}

fn get(shards: &Shards, space: SpaceId, key: &str) -> Option<String> {
    with_key(shards, space, key.as_bytes(), |keys| {
        let value = keys.string(key.as_bytes()).unwrap();
        value.map(|value| String::from_utf8_lossy(&value).into_owned())
    })
}

fn count(shards: &Shards) -> usize {
    let of = |index| shards.with(index, |shard| shard.spaces().map(|(_, space)| space.len()).sum::<usize>());
    (0..shards.count()).map(of).sum()
}

fn files(folder: &Path, keep: u32) -> Files {
    Files::new(folder, "dump.rdb", keep)
}

fn load(files: &Files) -> Result<Shards, String> {
    load_even(files, false)
}

fn load_even(files: &Files, damaged: bool) -> Result<Shards, String> {
    let shards = shards();
    let (limits, never) = (Limits::default(), AtomicBool::new(false));
    let wanted = reader::Wanted { limits: &limits, databases: DATABASES, now_ms: NOW, damaged, given_up: &never };
    reader::load(&shards, files, &wanted).map(|_| shards)
}

fn space(tenant: u32, database: u32) -> SpaceId {
    SpaceId { tenant: if tenant == 0 { TenantId::SHARED } else { TenantId::with_namespace(tenant) }, database }
}

#[test]
fn what_was_saved_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 2);
    let before = shards();
    for number in 0..5000 {
        set(&before, space(0, 0), &format!("key:{number}"), &format!("value {number}"), Expiry::Never);
    }
    set(&before, space(0, 3), "key:1", "of another database", Expiry::At(NOW + 1));
    set(&before, space(9, 0), "key:1", "of a tenant", Expiry::Never);
    set(&before, space(0, 0), "gone", "long ago", Expiry::At(NOW));
    let written = writer::write(&before, &files, NOW, at_once).unwrap();
    assert_eq!(written.keys, 5002);
    assert_eq!(written.bytes, fs::metadata(folder.path().join("dump.rdb")).unwrap().len());

    let after = load(&files).unwrap();
    assert_eq!(count(&after), 5002);
    assert_eq!(get(&after, space(0, 0), "key:4711").as_deref(), Some("value 4711"));
    assert_eq!(get(&after, space(0, 3), "key:1").as_deref(), Some("of another database"));
    assert_eq!(get(&after, space(9, 0), "key:1").as_deref(), Some("of a tenant"));
    assert_eq!(get(&after, space(0, 0), "gone"), None);
}

#[test]
fn without_a_file_a_node_starts_empty() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(count(&load(&files(folder.path(), 2)).unwrap()), 0);
}

#[test]
fn as_many_files_are_kept_as_configured() {
    for keep in [1, 2, 4] {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), keep);
        let shards = shards();
        for number in 0..6 {
            set(&shards, space(0, 0), "number", &number.to_string(), Expiry::Never);
            writer::write(&shards, &files, NOW, at_once).unwrap();
        }
        let names: Vec<String> = files.list().unwrap().into_iter().map(|file| file.name).collect();
        let expected: Vec<String> =
            (0..keep).map(|age| if age == 0 { "dump.rdb".to_owned() } else { format!("dump.rdb.{age}") }).collect();
        assert_eq!(names, expected);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), keep as usize, "nothing else is left");
        for age in 0..keep {
            let older = tempfile::tempdir().unwrap();
            fs::copy(folder.path().join(&names[age as usize]), older.path().join("dump.rdb")).unwrap();
            let loaded = load(&super::files::Files::new(older.path(), "dump.rdb", 1)).unwrap();
            assert_eq!(get(&loaded, space(0, 0), "number"), Some((5 - age).to_string()));
        }
    }
}

#[test]
fn an_unfinished_file_is_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 2);
    fs::write(folder.path().join("dump.rdb.tmp"), b"REDIS0010 half a").unwrap();
    assert_eq!(count(&load(&files).unwrap()), 0);
    writer::write(&shards(), &files, NOW, at_once).unwrap();
    assert!(!folder.path().join("dump.rdb.tmp").exists());
}

#[test]
fn if_only_an_older_file_is_left_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 2);
    let before = shards();
    set(&before, space(0, 0), "a", "1", Expiry::Never);
    writer::write(&before, &files, NOW, at_once).unwrap();
    fs::rename(folder.path().join("dump.rdb"), folder.path().join("dump.rdb.1")).unwrap();
    assert_eq!(get(&load(&files).unwrap(), space(0, 0), "a").as_deref(), Some("1"));
}

#[test]
fn a_save_that_fails_leaves_the_last_good_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 2);
    let before = shards();
    set(&before, space(0, 0), "a", "1", Expiry::Never);
    writer::write(&before, &files, NOW, at_once).unwrap();
    // A folder stands where the unfinished file would go.
    fs::create_dir(folder.path().join("dump.rdb.tmp")).unwrap();
    set(&before, space(0, 0), "a", "2", Expiry::Never);
    let error = writer::write(&before, &files, NOW, at_once).unwrap_err();
    assert!(error.contains("dump.rdb cannot be written"), "{error}");
    assert_eq!(get(&load(&files).unwrap(), space(0, 0), "a").as_deref(), Some("1"));
}

#[test]
fn a_damaged_file_stops_the_start_with_file_place_and_advice() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 2);
    let before = shards();
    set(&before, space(0, 0), "a", "text that is long enough", Expiry::Never);
    writer::write(&before, &files, NOW, at_once).unwrap();
    writer::write(&before, &files, NOW, at_once).unwrap();
    let path = folder.path().join("dump.rdb");
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len();
    bytes[len - 20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let shown = path.display();
    assert_eq!(
        load(&files).map(drop).unwrap_err(),
        format!(
            "the data in {shown} cannot be loaded (at byte {}: the checksum does not fit the content): put an intact \
             copy in its place, set `load-damaged-snapshot` to load what comes before, or move it away to start with the older {shown}.1",
            len - 9
        )
    );
    fs::write(&path, &bytes[..len - 12]).unwrap();
    assert!(load(&files).map(drop).unwrap_err().contains("the data ends too early"));
}

#[test]
fn a_damaged_file_is_loaded_up_to_the_damage_if_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 1);
    let before = shards();
    for number in 0..1000 {
        set(&before, space(0, 0), &format!("key:{number}"), "text", Expiry::Never);
    }
    writer::write(&before, &files, NOW, at_once).unwrap();
    let path = folder.path().join("dump.rdb");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(load(&files).is_err());
    let loaded = load_even(&files, true).unwrap();
    assert!((400..600).contains(&count(&loaded)), "{}", count(&loaded));

    // Saving keeps one file only, and still nothing of the damaged one is lost. Loading it once more keeps it once.
    load_even(&files, true).unwrap();
    for _ in 0..2 {
        writer::write(&loaded, &files, NOW, at_once).unwrap();
    }
    assert!(load(&files).is_ok(), "what is saved now is whole");
    let kept = format!("dump.rdb.damaged-{}", NOW / 1000);
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dump.rdb", kept.as_str()]);
    assert_eq!(fs::read(folder.path().join(kept)).unwrap(), bytes[..bytes.len() / 2]);
}

#[test]
fn loading_ends_when_nobody_wants_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 1);
    let before = shards();
    set(&before, space(0, 0), "a", "1", Expiry::Never);
    writer::write(&before, &files, NOW, at_once).unwrap();
    let (limits, given_up) = (Limits::default(), AtomicBool::new(true));
    let wanted =
        reader::Wanted { limits: &limits, databases: DATABASES, now_ms: NOW, damaged: false, given_up: &given_up };
    let error = reader::load(&shards(), &files, &wanted).map(drop).unwrap_err();
    assert!(error.contains("the node is stopping"), "{error}");
}

/// Pairs of keys are always written together. A file that holds one without the other, or the two of different rounds,
/// would bring back what never was.
#[test]
fn what_was_written_together_is_never_torn() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 1);
    let shards = shards();
    let write_pair = |number: u32, round: u32| {
        let (first, second) = (format!("first:{number}"), format!("second:{number}"));
        let places = [first.as_str(), second.as_str()].map(|key| shards.layout().place(key.as_bytes()).shard);
        shards.with_several(places, |index, shard| {
            for (key, _) in [&first, &second].into_iter().zip(places).filter(|(_, place)| *place == index) {
                in_shard(&shards.layout(), index, shard, |keys| {
                    keys.put_string(key.as_bytes(), round.to_string().as_bytes(), Expiry::Never);
                });
            }
        });
    };
    const PAIRS: u32 = 2000;
    (0..PAIRS).for_each(|number| write_pair(number, 0));
    // It goes on from file to file: what the last one left behind must not look like a later round.
    let mut round = 1;
    for _ in 0..3 {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    (0..PAIRS).for_each(|number| write_pair(number, round));
                    round += 1;
                }
            });
            let written = writer::write(&shards, &files, NOW, at_once);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(written.unwrap().keys, u64::from(2 * PAIRS));
        });
        let loaded = load(&files).unwrap();
        let of = |name: &str, number| get(&loaded, space(0, 0), &format!("{name}:{number}"));
        let torn = (0..PAIRS).filter(|number| of("first", *number) != of("second", *number)).count();
        assert_eq!(torn, 0);
        let first: u32 = of("first", 0).unwrap().parse().unwrap();
        let last: u32 = of("first", PAIRS - 1).unwrap().parse().unwrap();
        assert!(first == last || first == last + 1, "one moment: {first} and {last}");
    }
}

#[test]
fn files_of_other_servers_load() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/rdb");
    for name in ["redis-7.0.rdb", "valkey-9.1.rdb"] {
        let loaded = load(&Files::new(Path::new(golden), name, 1)).unwrap();
        assert_eq!(count(&loaded), 32);
        assert_eq!(get(&loaded, space(0, 3), "other").as_deref(), Some("database"));
    }
    let loaded = load(&Files::new(Path::new(golden), "redis-7.0-stream.rdb", 1)).unwrap();
    assert_eq!(count(&loaded), 2, "streams are kept");
}

fn at_once(moment: &mut dyn FnMut()) -> writer::Besides {
    moment();
    writer::Besides::default()
}
