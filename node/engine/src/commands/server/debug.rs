//! `DEBUG`: means of testing. Where they are allowed at all, only users who may use every key may use them.
//!
//! The suites of Redis and Valkey lean on these. Words that speak of parts this server does not have (replication
//! buffers, quicklists, the number of dictionary slots) are accepted and change nothing. What digs in the process, such as
//! SEGFAULT, does not exist.

use crate::args::Args;
use crate::asks::{Ask, DebugAsk};
use crate::dict::ValueRef;
use crate::digest::Digest;
use crate::dump;
use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::reply::{Protocol, Reply};
use crate::session::{Session, Surroundings};
use crate::types::Value;
use keyward_acl::glob;

/// Accepted without effect, with at least this many arguments.
const WITHOUT_EFFECT: &[(&str, usize)] = &[
    ("JMAP", 0),
    ("QUICKLIST-PACKED-THRESHOLD", 1),
    ("REPLYBUFFER", 2),
    ("PAUSE-CRON", 1),
    ("DICT-RESIZING", 1),
    ("HASHING-MODE", 0),
    ("CONFIG-REWRITE-FORCE-ALL", 0),
    ("REPLICATE", 1),
];

/// A value longer than this is not worth building for a test, in bytes.
const POPULATED_BYTES_MAX: u64 = 1 << 20;

/// `DEBUG subcommand …`.
pub(super) fn debug(session: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let word = String::from_utf8_lossy(args.take()?).to_ascii_uppercase();
    let unknown = CommandError::err(format!(
        "unknown subcommand or wrong number of arguments for '{}'. Try DEBUG HELP.",
        word.escape_default()
    ));
    let answered = |reply: Reply| Ok(Ask::Debug(DebugAsk::Answer(reply.bytes)));
    let mut reply = Reply::new(session.protocol);
    if let Some((_, least)) = WITHOUT_EFFECT.iter().find(|(name, _)| *name == word) {
        if args.len() < *least {
            return Err(unknown);
        }
        reply.ok();
        return answered(reply);
    }
    let ask = match (word.as_str(), args.len()) {
        ("SLEEP", 1) => DebugAsk::Sleep { ms: (args.float()?.clamp(0.0, 3600.0) * 1000.0) as u64 },
        ("OBJECT", 1..) => DebugAsk::Keys(object, owned(args.rest())),
        ("LISTPACK" | "ZIPLIST", 1) => DebugAsk::Keys(listpack, owned(args.rest())),
        ("SDSLEN", 1) => DebugAsk::Keys(lengths, owned(args.rest())),
        ("HTSTATS-KEY", 1..) => DebugAsk::Keys(table_of_key, owned(args.rest())),
        ("DIGEST-VALUE", _) => DebugAsk::Keys(digest_values, owned(args.rest())),
        ("DIGEST", 0) => DebugAsk::Digest,
        ("RECOUNT", 0) => DebugAsk::Recount,
        ("HTSTATS", 1..) => DebugAsk::Tables { database: u32::try_from(args.integer()?).map_err(|_| unknown)? },
        ("RELOAD", _) => reload(&mut args)?,
        // There is no append-only file: what is on disk is a snapshot.
        ("LOADAOF", 0) => DebugAsk::Reload { save: true, flush: true, merge: false },
        ("SET-DISABLE-DENY-SCRIPTS", 1) => DebugAsk::InScripts(args.integer()? != 0),
        ("SET-ACTIVE-EXPIRE", 1) => DebugAsk::ActiveExpiry(args.integer()? != 0),
        ("POPULATE", 1..=3) => populate(&mut args)?,
        ("LOG", 1) => DebugAsk::Log(args.take()?.to_vec()),
        ("CHANGE-REPL-ID", 0) => DebugAsk::ChangeReplicationId,
        ("STRINGMATCH-LEN", 2) => {
            let bytes = usize::try_from(args.integer()?.clamp(0, 1 << 22)).unwrap_or(0);
            reply.flag(glob::matches(args.take()?, &vec![b'a'; bytes]));
            return answered(reply);
        }
        ("PROTOCOL", 1) => {
            protocol(args.take()?, &mut reply)?;
            return answered(reply);
        }
        ("ERROR", 1) => {
            reply.error(&String::from_utf8_lossy(args.take()?));
            return answered(reply);
        }
        ("HELP", 0) => {
            help(&mut reply);
            return answered(reply);
        }
        _ => return Err(unknown),
    };
    Ok(Ask::Debug(ask))
}

fn owned(names: &[&[u8]]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.to_vec()).collect()
}

fn help(reply: &mut Reply) {
    const LINES: &[&str] = &[
        "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "CHANGE-REPL-ID, DIGEST, DIGEST-VALUE key ..., ERROR text, HTSTATS db, HTSTATS-KEY key, LISTPACK key, LOG text,",
        "OBJECT key, POPULATE count [prefix] [bytes], PROTOCOL type, RECOUNT, RELOAD [NOSAVE] [NOFLUSH] [MERGE],",
        "SDSLEN key, SET-ACTIVE-EXPIRE 0|1, SLEEP seconds, STRINGMATCH-LEN bytes pattern",
        "HELP",
        "    Prints this help.",
    ];
    reply.array(LINES.len());
    LINES.iter().for_each(|line| reply.simple(line));
}

/// `DEBUG RELOAD [NOSAVE] [NOFLUSH] [MERGE]`.
fn reload(args: &mut Args<'_>) -> Result<DebugAsk, CommandError> {
    let (mut save, mut flush, mut merge) = (true, true, false);
    while !args.is_empty() {
        if args.accept("NOSAVE") {
            save = false;
        } else if args.accept("NOFLUSH") {
            flush = false;
        } else if args.accept("MERGE") {
            merge = true;
        } else {
            return Err(CommandError::err("DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options."));
        }
    }
    Ok(DebugAsk::Reload { save, flush, merge })
}

/// `DEBUG POPULATE count [prefix] [bytes]`.
fn populate(args: &mut Args<'_>) -> Result<DebugAsk, CommandError> {
    let count = args.count(CommandError::NotPositive)?;
    let prefix = if args.is_empty() { b"key".to_vec() } else { args.take()?.to_vec() };
    let bytes = if args.is_empty() { None } else { Some(args.count(CommandError::NotPositive)?) };
    if bytes.is_some_and(|bytes| bytes > POPULATED_BYTES_MAX) {
        return Err(CommandError::NotPositive);
    }
    Ok(DebugAsk::Populate { count, prefix, bytes })
}

/// One answer of each kind there is, those Redis gives: its number is no pi.
#[allow(clippy::approx_constant)]
fn protocol(kind: &[u8], reply: &mut Reply) -> Result<(), CommandError> {
    let resp3 = reply.protocol == Protocol::Resp3;
    match String::from_utf8_lossy(kind).to_ascii_lowercase().as_str() {
        "string" => reply.bulk(b"Hello World"),
        "integer" => reply.integer(12345),
        "double" => reply.double(3.141),
        "null" => reply.null(),
        "array" => numbers(reply, |reply| reply.array(3)),
        "set" => numbers(reply, |reply| reply.set(3)),
        "map" => {
            reply.map(3);
            for index in 0..3 {
                reply.integer(index);
                reply.boolean(index == 1);
            }
        }
        "attrib" => {
            if resp3 {
                reply.raw(b"|1\r\n");
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.integer(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        "push" => {
            if !resp3 {
                return Err(CommandError::err("RESP2 is not supported by this command"));
            }
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
        }
        "true" => reply.boolean(true),
        "false" => reply.boolean(false),
        "verbatim" => reply.verbatim(b"This is a verbatim\nstring"),
        "bignum" if resp3 => reply.raw(b"(1234567999999999999999999999999999999\r\n"),
        "bignum" => reply.bulk(b"1234567999999999999999999999999999999"),
        _ => {
            return Err(CommandError::err(
                "Wrong protocol type name. Please use one of the following: \
                 string|integer|double|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}

fn numbers(reply: &mut Reply, head: impl FnOnce(&mut Reply)) {
    head(reply);
    (0..3).for_each(|number| reply.integer(number));
}

fn encoding(value: &ValueRef<'_, Value>) -> &'static str {
    match value {
        ValueRef::Int(_) => "int",
        ValueRef::Str(_) => "raw",
        ValueRef::Object(value) => value.encoding(),
    }
}

/// `DEBUG OBJECT key`.
fn object(keys: &mut Keys<'_>, names: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
    let entry = names.first().and_then(|name| keys.find(name)).ok_or(CommandError::NoSuchKey)?;
    let value = entry.value();
    let object = match &value {
        ValueRef::Object(object) => object.memory_bytes(),
        _ => 0,
    };
    reply.simple(&format!(
        "Value at:0x0 refcount:1 encoding:{} serializedlength:{} lru:{} lru_seconds_idle:0 memory:{}",
        encoding(&value),
        dump::payload(&value).len(),
        entry.access(),
        entry.memory_bytes() + object,
    ));
    Ok(())
}

/// `DEBUG LISTPACK key`.
fn listpack(keys: &mut Keys<'_>, names: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
    let entry = names.first().and_then(|name| keys.peek(name)).ok_or(CommandError::NoSuchKey)?;
    match entry.value() {
        ValueRef::Object(value) if matches!(value.encoding(), "listpack") => reply.ok(),
        _ => return Err(CommandError::err("Not a listpack encoded object.")),
    }
    Ok(())
}

/// `DEBUG SDSLEN key`.
fn lengths(keys: &mut Keys<'_>, names: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
    let name = names.first().copied().unwrap_or_default();
    let entry = keys.peek(name).ok_or(CommandError::NoSuchKey)?;
    let bytes = match entry.value() {
        ValueRef::Str(bytes) => bytes.len(),
        _ => return Err(CommandError::err("Not an sds encoded string.")),
    };
    reply.simple(&format!(
        "key_sds_len:{}, key_sds_avail:0, key_zmalloc: {}, val_sds_len:{bytes}, val_sds_avail:0, val_zmalloc: {bytes}",
        name.len(),
        entry.memory_bytes(),
    ));
    Ok(())
}

/// `DEBUG HTSTATS-KEY key [full]`.
fn table_of_key(keys: &mut Keys<'_>, names: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
    let entry = names.first().and_then(|name| keys.peek(name)).ok_or(CommandError::NoSuchKey)?;
    let ValueRef::Object(value) = entry.value() else {
        return Err(CommandError::err("The value stored at the specified key is not represented using an hash table"));
    };
    if !matches!(value.encoding(), "hashtable" | "skiplist") {
        return Err(CommandError::err("The value stored at the specified key is not represented using an hash table"));
    }
    let len = value.len();
    let text = format!(
        "Hash table 0 stats (main hash table):\n table size: {}\n number of elements: {len}\n",
        len.next_power_of_two()
    );
    reply.verbatim(text.as_bytes());
    Ok(())
}

/// `DEBUG DIGEST-VALUE key …`.
fn digest_values(keys: &mut Keys<'_>, names: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
    reply.array(names.len());
    for name in names {
        let digest = keys.peek(name).map_or(Digest::default(), |entry| Digest::of_value(&entry.value()));
        reply.simple(&digest.to_string());
    }
    Ok(())
}
