//! The set of all commands, looked at once: what must hold for each, and what Valkey says about each.

use super::*;
use crate::command::Arity;
use std::collections::{BTreeMap, BTreeSet};

/// The table of Valkey 9.1.2, as it tells it itself.
const GOLDEN: &str = include_str!("../../../../tests/golden/valkey-commands.json");

/// Commands that write data without naming a key, and what they write.
const KEYLESS_WRITES: &[(&str, &str)] = &[
    ("flushall", "every key of every database"),
    ("flushdb", "every key of the database"),
    ("swapdb", "two databases"),
    ("tenant|swapdb", "what begins so of two databases"),
    ("cluster|flushslot", "every key of a slot"),
    ("function|delete", "libraries"),
    ("function|flush", "libraries"),
    ("function|load", "libraries"),
    ("function|restore", "libraries"),
];

/// Commands that write data with keys they only read, and why.
const READING_WRITES: &[(&str, &str)] = &[
    ("xreadgroup", "what it changes is the group, as Valkey declares it"),
    ("pfdebug", "a tool for developers, as Valkey declares it"),
];

/// Commands that deliberately differ from Valkey, and why. (Tips do differ, where they would make cluster
/// clients send to every node what the cluster spreads by itself, but they are no part of the golden file.)
const DIFFERENCES: &[(&str, &str)] = &[
    ("tenant", TENANTS),
    ("tenant|create", TENANTS),
    ("tenant|del", TENANTS),
    ("tenant|get", TENANTS),
    ("tenant|help", TENANTS),
    ("tenant|list", TENANTS),
    ("tenant|set", TENANTS),
    ("tenant|stats", TENANTS),
    ("tenant|swapdb", TENANTS),
];
const TENANTS: &str = "Valkey has no tenants";

fn keys<'a>(argv: &'a [&'a [u8]]) -> Vec<(u32, bool, bool)> {
    let resolved = table().look_up(argv).expect("a test names a command that exists");
    let mut keys = Vec::new();
    table().keys_of(resolved.row, argv, &mut keys);
    keys.iter().map(|key| (key.argument, key.access.read, key.access.write)).collect()
}

fn keys_of_words(words: &str) -> Vec<(u32, bool, bool)> {
    let argv: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    keys(&argv)
}

#[test]
fn what_names_one_key_only_is_known_beforehand() {
    let parsed = |row: &&Row| matches!(row.command.keys, KeyRule::Parsed(..)) && row.lone_key.is_some();
    let parsed: Vec<&str> = table().rows().iter().filter(parsed).map(|row| row.full_name).collect();
    assert_eq!(parsed, ["set", "bitfield"], "whoever adds one: it never names another key, whatever its arguments");
    for request in ["SET k v", "SET k v GET", "SET k v EX 5 GET NX", "BITFIELD k GET u8 0"] {
        let argv: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let row = table().resolve(&argv).expect("a command").row;
        let mut keys = Vec::new();
        table().keys_of(row, &argv, &mut keys);
        let named: Vec<(&[u8], bool)> = keys.iter().map(|named| (named.key, named.access.read)).collect();
        assert_eq!((named, row.lone_key), (vec![(&b"k"[..], request.contains("GET"))], Some(1)), "{request}");
    }
}

#[test]
fn names_are_unique_and_upper_case() {
    let names: BTreeSet<&str> = table().rows().iter().map(|row| row.full_name).collect();
    assert_eq!(names.len(), table().rows().len());
    for row in table().rows() {
        let name = row.command.name;
        let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        assert!(name.bytes().all(plain), "{name}");
    }
}

#[test]
fn every_summary_is_a_sentence() {
    for row in table().rows() {
        let docs = row.command.docs;
        assert!(docs.summary.starts_with(|first: char| first.is_ascii_uppercase()), "{}", row.full_name);
        assert!(docs.summary.ends_with('.') && docs.summary.len() < 100, "{}", row.full_name);
        assert!(!docs.since.is_empty() && docs.complexity.starts_with(char::is_uppercase), "{}", row.full_name);
    }
}

#[test]
fn no_command_both_writes_and_only_reads() {
    for row in table().rows() {
        assert!(!(row.is_write && row.is_read_only), "{}", row.full_name);
    }
}

#[test]
fn every_key_position_lies_inside_the_arity() {
    for row in table().rows() {
        let (Arity::Exactly(least) | Arity::AtLeast(least)) = row.command.arity;
        let optional = row.has(Flags::NO_MANDATORY_KEYS) || row.command.keys.specs().len() == 1;
        for spec in row.command.keys.specs() {
            let Begin::Index(index) = spec.begin else { continue };
            let inside = index < least || (optional && row.command.arity == Arity::AtLeast(index));
            // PFMERGE and its like may be called without sources.
            let variadic = matches!(spec.find, Find::Range { last: ..0, .. }) && row.command.keys.specs().len() > 1;
            assert!(inside || variadic, "{}: key at {index}, but {least} arguments are enough", row.full_name);
        }
    }
}

#[test]
fn every_write_names_what_it_writes() {
    let excused = |list: &[(&str, &str)], name: &str| list.iter().any(|(excused, _)| *excused == name);
    for row in table().rows().iter().filter(|row| row.is_write) {
        let specs = row.command.keys.specs();
        let writes = specs.iter().any(|spec| spec.flags.access().write);
        let name = row.full_name;
        assert_eq!(specs.is_empty(), excused(KEYLESS_WRITES, name), "{name}");
        assert_eq!(!specs.is_empty() && !writes, excused(READING_WRITES, name), "{name}");
    }
}

#[test]
fn positions_alone_suffice_where_no_parser_is_named() {
    for row in table().rows() {
        let KeyRule::At(specs) = row.command.keys else { continue };
        for spec in specs {
            assert!(matches!(spec.begin, Begin::Index(1..)), "{}", row.full_name);
            assert_ne!(spec.find, Find::Unknown, "{}", row.full_name);
            let undecided = spec.flags.has(KeyFlags::VARIABLE_FLAGS) || spec.flags.has(KeyFlags::INCOMPLETE);
            assert!(!undecided, "{}", row.full_name);
        }
    }
}

#[test]
fn nothing_is_left_pending() {
    let pending = |row: &&Row| matches!(row.run, Run::Refused("pending"));
    let names: Vec<&str> = table().rows().iter().filter(pending).map(|row| row.full_name).collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn every_refusal_fits_its_sentence() {
    for row in table().rows() {
        // The client reads "ERR NAME is not available: <text>".
        let Run::Refused(text) = row.run else { continue };
        assert!(!text.ends_with('.') && !text.is_empty() && text.len() < 100, "{}", row.full_name);
    }
}

#[test]
fn a_number_is_the_index_of_its_row() {
    for (index, row) in table().rows().iter().enumerate() {
        assert_eq!(usize::from(row.id), index);
        assert_eq!(table().find(row.full_name.as_bytes()).map(|found| found.id), Some(row.id));
        let upper = row.full_name.to_ascii_uppercase();
        assert_eq!(table().find(upper.as_bytes()).map(|found| found.id), Some(row.id));
    }
}

#[test]
fn commands_are_those_of_valkey() {
    let golden: BTreeMap<&str, &str> =
        GOLDEN.lines().filter_map(|line| line.trim_end_matches(',').split_once(": ")).collect();
    let mut wrong = Vec::new();
    for row in table().rows() {
        let ours = facts(row);
        let theirs = golden.get(format!("\"{}\"", row.full_name).as_str()).copied().unwrap_or("nothing");
        if (ours == theirs) == DIFFERENCES.iter().any(|(name, _)| *name == row.full_name) {
            wrong.push(format!("{}\n  we say {ours}\n  Valkey {theirs}", row.full_name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let ours_alone = |row: &&Row| !golden.contains_key(format!("\"{}\"", row.full_name).as_str());
    let shared = table().rows().len() - table().rows().iter().filter(ours_alone).count();
    assert_eq!(golden.len(), shared, "Valkey has commands we do not");
}

/// What the golden file says about a command, from our declaration: one line of JSON.
fn facts(row: &Row) -> String {
    let mut flags: Vec<&str> = Flags::ALL.iter().filter(|(flag, _)| row.has(*flag)).map(|(_, name)| *name).collect();
    flags.extend(row.has_movable_keys().then_some("movablekeys"));
    let categories = row.categories.iter().map(|category| category.name()).collect();
    let specs: Vec<String> = row.command.keys.specs().iter().map(spec_as_golden).collect();
    format!(
        r#"{{"arity": {}, "flags": {}, "categories": {}, "key_specs": [{}]}}"#,
        row.command.arity.as_redis(),
        sorted(flags),
        sorted(categories),
        specs.join(", ")
    )
}

fn sorted(mut names: Vec<&str>) -> String {
    names.sort_unstable();
    format!("[{}]", names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "))
}

fn spec_as_golden(spec: &KeySpec) -> String {
    let flags = KeyFlags::ALL.iter().filter(|(flag, _)| spec.flags.has(*flag)).map(|(_, name)| *name).collect();
    let begin = match spec.begin {
        Begin::Index(index) => format!("index {index}"),
        Begin::Keyword { word, from } => format!("keyword {word} {from}"),
        Begin::Unknown => "unknown".to_string(),
    };
    let find = match spec.find {
        Find::Range { last, step, limit } => format!("range {last} {step} {limit}"),
        Find::KeyNum { count, first, step } => format!("keynum {count} {first} {step}"),
        Find::Unknown => "unknown".to_string(),
    };
    format!(r#"{{"flags": {}, "begin": "{begin}", "find": "{find}"}}"#, sorted(flags))
}

#[test]
fn a_name_is_found_in_any_case_and_no_other_word_is() {
    for word in ["get", "GET", "gEt"] {
        assert_eq!(table().find(word.as_bytes()).map(|row| row.full_name), Some("get"));
    }
    for word in ["", "ge", "gett", "get\0", "GET ", "\x07ET", "restore\rasking", "config|", "|get", "get|x", "a|b|c"] {
        assert!(table().find(word.as_bytes()).is_none(), "{word:?}");
    }
    assert!(table().find(&[0xff; 40]).is_none());
}

#[test]
fn folding_is_ascii_lower_case_for_every_byte() {
    for byte in 0..=u8::MAX {
        for length in 1..=24 {
            let word = vec![byte; length];
            let mut expected = [0u8; 24];
            expected[..length].copy_from_slice(&word.to_ascii_lowercase());
            let found = fold(&word).map(|words| words.map(u64::to_le_bytes).concat());
            assert_eq!(found, (byte != 0).then(|| expected.to_vec()), "{byte} x {length}");
        }
    }
}

#[test]
fn unknown_words_are_refused_in_the_words_of_redis() {
    let text = |argv: &[&[u8]]| table().resolve(argv).err().map(|error| error.to_string());
    let expect = |words: &str, expected: &str| {
        let argv: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        assert_eq!(text(&argv).as_deref(), Some(expected));
    };
    expect("foo", "ERR unknown command 'foo', with args beginning with: ");
    expect("foo a b", "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
    expect("acl bogus", "ERR unknown subcommand 'bogus'. Try ACL HELP.");
    expect("get", "ERR wrong number of arguments for 'get' command");
    expect("acl", "ERR wrong number of arguments for 'acl' command");
    expect("acl getuser", "ERR wrong number of arguments for 'acl|getuser' command");
    let long = [b'a'; 300];
    let capped = format!("ERR unknown command '{0}', with args beginning with: '{0}' ", "a".repeat(128));
    assert_eq!(text(&[&long, &long, b"b"]), Some(capped));
    assert!(text(&[]).is_some());
}

#[test]
fn a_subcommand_takes_two_words_and_command_alone_one() {
    let words = |argv: &[&[u8]]| table().resolve(argv).map(|found| (found.row.full_name, found.words));
    assert_eq!(words(&[b"CONFIG", b"Get", b"x"]), Ok(("config|get", 2)));
    assert_eq!(words(&[b"COMMAND"]), Ok(("command", 1)));
    let row = table().find(b"command").expect("COMMAND exists");
    assert!(!matches!(row.run, Run::Container(_)), "COMMAND alone answers as COMMAND INFO");
}

/// The rights a request needs on the key at an argument: read, write.
type Needs = (u32, (bool, bool));

const READ: (bool, bool) = (true, false);
const WRITE: (bool, bool) = (false, true);
const BOTH: (bool, bool) = (true, true);

/// The security bugs of other servers, as requests: which keys each names, and with which rights.
#[test]
fn the_key_that_is_checked_is_the_key_that_is_used() {
    let cases: &[(&str, &[Needs])] = &[
        ("GET k", &[(1, READ)]),
        ("EXISTS a b", &[(1, (false, false)), (2, (false, false))]),
        ("SET k v", &[(1, WRITE)]),
        ("SET k v NX get", &[(1, BOTH)]),
        ("SET k GET", &[(1, WRITE)]),
        ("SET k v IFEQ GET", &[(1, WRITE)]),
        ("MSET a 1 b 2", &[(1, WRITE), (3, WRITE)]),
        ("MSETEX 2 a 1 b 2 NX", &[(2, WRITE), (4, WRITE)]),
        ("MSETEX 2 a 1 b", &[]),
        ("COPY a b DB 1", &[(1, READ), (2, WRITE)]),
        ("RENAME a b", &[(1, BOTH), (2, WRITE)]),
        ("LMOVE a b LEFT LEFT", &[(1, BOTH), (2, WRITE)]),
        ("BITOP AND d a b", &[(2, WRITE), (3, READ), (4, READ)]),
        ("BITFIELD k GET u8 0 OVERFLOW WRAP GET u8 1", &[(1, READ)]),
        ("BITFIELD k GET u8 0 SET u8 0 1", &[(1, BOTH)]),
        ("BITFIELD k", &[(1, READ)]),
        ("BITFIELD k GET SET", &[(1, BOTH)]),
        ("SORT k STORE a STORE b", &[(1, READ), (5, WRITE)]),
        ("SORT k STORE BY STORE forbidden", &[(1, READ), (5, WRITE)]),
        ("SORT k BY STORE STORE d", &[(1, READ), (5, WRITE)]),
        ("SORT k BY STORE", &[(1, READ)]),
        ("SORT k LIMIT STORE x", &[(1, READ)]),
        ("SORT_RO k STORE d", &[(1, READ)]),
        ("GEORADIUS k 0 0 1 m STORE a STOREDIST b", &[(1, READ), (9, WRITE)]),
        ("GEORADIUS k 0 0 1 m COUNT 5 ANY STORE a", &[(1, READ), (10, WRITE)]),
        ("GEORADIUS k 0 0 1 m COUNT STORE STORE a", &[(1, READ)]),
        ("GEORADIUSBYMEMBER k STORE 1 m STORE a", &[(1, READ), (6, WRITE)]),
        ("XREAD COUNT 1 STREAMS a b 0 0", &[(4, READ), (5, READ)]),
        ("XREAD STREAMS a b 0", &[]),
        ("XREAD COUNT STREAMS STREAMS a 0", &[(4, READ)]),
        ("XREADGROUP NOACK GROUP g STREAMS STREAMS secret >", &[(6, READ)]),
        ("XREADGROUP GROUP STREAMS c STREAMS s >", &[(5, READ)]),
        ("XREADGROUP BLOCK 1 GROUP g c STREAMS s >", &[(7, READ)]),
        ("EVAL s 2 a b c", &[(3, BOTH), (4, BOTH)]),
        ("EVAL s 0 a", &[]),
        ("EVAL s 3 a b", &[]),
        ("EVAL s -1 a", &[]),
        ("EVAL s 99999999999999999999 a", &[]),
        ("EVAL_RO s 9223372036854775807 a", &[]),
        ("FCALL_RO f 1 a", &[(3, READ)]),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", &[(1, WRITE), (3, READ), (4, READ)]),
        ("ZUNIONSTORE d 3 a b", &[(1, WRITE)]),
        ("ZINTER 2 a b", &[(2, READ), (3, READ)]),
        ("SINTERCARD 2 a b LIMIT 1", &[(2, READ), (3, READ)]),
        ("LMPOP 1 a LEFT", &[(2, BOTH)]),
        ("BLMPOP 0 1 a LEFT", &[(3, BOTH)]),
        ("BLPOP a b 0", &[(1, BOTH), (2, BOTH)]),
        ("MIGRATE h 1 k 0 1 KEYS a", &[(3, BOTH)]),
        ("MIGRATE h 1  0 1 AUTH KEYS KEYS a b", &[(9, BOTH), (10, BOTH)]),
        ("OBJECT ENCODING k", &[(2, (false, false))]),
        ("MEMORY USAGE k", &[(2, (false, false))]),
        ("SPUBLISH c m", &[]),
    ];
    for (request, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|(index, (read, write))| (*index, *read, *write)).collect();
        assert_eq!(keys_of_words(request), expected, "{request}");
    }
}

#[test]
fn a_channel_chooses_a_slot_but_is_no_key() {
    let argv: [&[u8]; 3] = [b"SPUBLISH", b"c", b"m"];
    let row = table().find(b"spublish").expect("SPUBLISH exists");
    let mut keys = Vec::new();
    table().slot_keys_of(row, &argv, &mut keys);
    assert_eq!(keys.iter().map(|key| key.argument).collect::<Vec<_>>(), [1]);
    let mut channels = Vec::new();
    table().channels_of(row, &argv, &mut channels);
    assert_eq!(channels.iter().map(|channel| channel.channel).collect::<Vec<_>>(), [b"c"]);
}

/// Every command, with every mixture of hostile words: no panic, and no index past the end.
#[test]
fn key_extraction_is_total() {
    let words: [&[u8]; 14] = [
        b"",
        b"STORE",
        b"BY",
        b"GET",
        b"STREAMS",
        b"GROUP",
        b"KEYS",
        b"LIMIT",
        b"COUNT",
        b"-1",
        b"2",
        b"9223372036854775807",
        b"k",
        b"AUTH2",
    ];
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    for row in table().rows() {
        for length in 1..12 {
            for _ in 0..40 {
                let mut argv: Vec<&[u8]> = row.command.name.split('|').map(str::as_bytes).collect();
                while argv.len() < length {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    argv.push(words[(dice >> 33) as usize % words.len()]);
                }
                let (mut keys, mut channels) = (Vec::new(), Vec::new());
                table().keys_of(row, &argv, &mut keys);
                table().slot_keys_of(row, &argv, &mut keys);
                table().channels_of(row, &argv, &mut channels);
                assert!(keys.iter().all(|key| argv[key.argument as usize] == key.key), "{}", row.full_name);
            }
        }
    }
}

#[test]
fn every_command_has_the_home_its_nature_says() {
    use crate::command::Home;
    let home = |words: &[&str]| {
        let argv: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        table().resolve(&argv).unwrap_or_else(|_| panic!("{words:?} is no request")).row.command.home(&argv)
    };
    for request in ["PING", "AUTH a b", "HELLO 3", "SELECT 1", "CLIENT ID", "CLIENT GETREDIR", "ACL LIST"] {
        assert_eq!(home(&request.split(' ').collect::<Vec<_>>()), Home::Anywhere, "{request}");
    }
    let once = [
        "GET k",
        "DBSIZE",
        "WAIT 0 0",
        "PUBLISH c m",
        "SPUBLISH c m",
        "PUBSUB CHANNELS",
        "CLIENT UNBLOCK 3",
        "LASTSAVE",
    ];
    for request in once.into_iter().chain(["XREAD STREAMS s 0"]) {
        assert_eq!(home(&request.split(' ').collect::<Vec<_>>()), Home::Data, "{request}");
    }
    let lasting = ["MULTI", "EXEC", "WATCH k", "SUBSCRIBE c", "PUNSUBSCRIBE", "BLPOP k 0", "BZPOPMIN k 0", "MONITOR"];
    for request in lasting.into_iter().chain(["XREAD BLOCK 0 STREAMS s $", "CLIENT TRACKING ON", "CLIENT CACHING YES"])
    {
        assert_eq!(home(&request.split(' ').collect::<Vec<_>>()), Home::DataForGood, "{request}");
    }
}
