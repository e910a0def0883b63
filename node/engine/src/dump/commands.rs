//! `DUMP` and `RESTORE`: one value as bytes that any Redis or Valkey understands. Knows the options, not the bytes.

use super::{Payload, Problem, Unpacking, payload};
use crate::args::Args;
use crate::dict::NewValue;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{GROWS_FREELY_BYTES, Keys, Taken, UnixMillis};
use crate::reply::Reply;
use crate::types::{Value, number};

const TOO_LONG: &str = "the payload unpacks to more than one argument may have (value-bytes, proto-max-bulk-len)";
const TOO_MUCH: &str = "OOM the payload unpacks to more than there is memory for";

/// `DUMP key`
pub(crate) fn dump(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    match keys.value(args.take()?) {
        Some(value) => reply.bulk(&payload(&value)),
        None => reply.null(),
    }
    Ok(())
}

#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
    idle_s: Option<i64>,
    frequency: Option<u8>,
}

/// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`
pub(crate) fn restore(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let (key, ttl, bytes) = (args.take()?, args.take()?, args.take()?);
    let options = options(&mut args)?;
    if !options.replace && keys.exists(key) {
        return Err(CommandError::Text("BUSYKEY Target key name already exists.".into()));
    }
    let expires_at = expires_at(ttl, options.absolute, keys.now())?;
    let payload = Payload::check(bytes).map_err(|_| CommandError::err("DUMP payload version or checksum are wrong"))?;
    // What came as it is was let in by its size.
    let room = keys.room_bytes().max(bytes.len() as u64).max(GROWS_FREELY_BYTES);
    let unpacking = Unpacking { argument_bytes_max: keys.value_bytes_max(), bytes_max: room };
    let value = payload.value(keys.limits(), unpacking).map_err(|problem| match problem {
        Problem::TooLong => CommandError::err(TOO_LONG),
        Problem::TooMuch => CommandError::Text(TOO_MUCH.into()),
        _ => CommandError::err("Bad data format"),
    })?;
    if memory_bytes(&value) > room {
        return Err(CommandError::Text(TOO_MUCH.into()));
    }
    let existed = keys.remove(key);
    if expires_at.is_some_and(|at| at <= keys.now()) {
        if existed {
            keys.effects.changed(1);
            keys.effects.replace(&[b"DEL", key]);
            keys.event(EventClass::GENERIC, "del", key);
        }
        reply.ok();
        return Ok(());
    }
    keys.put_taken(key, Taken { value, expires_at });
    // What the other kind of policy would want to know is left aside, as in Redis.
    let (usage, now) = (keys.usage(), keys.now());
    match (options.idle_s, options.frequency) {
        (Some(idle_s), _) if !usage.counted => keys.set_access(key, usage.with_idle_seconds(idle_s, now)),
        (_, Some(frequency)) if usage.counted => keys.set_access(key, usage.with_frequency(frequency, now)),
        _ => {}
    }
    keys.effects.changed(1);
    let at = number::format_i64(expires_at.unwrap_or(0));
    keys.effects.replace(&[b"RESTORE", key, &at, bytes, b"REPLACE", b"ABSTTL"]);
    keys.event(EventClass::GENERIC, "restore", key);
    reply.ok();
    Ok(())
}

fn memory_bytes(value: &NewValue<'_, Value>) -> u64 {
    match value {
        NewValue::Int(_) => 0,
        NewValue::Str(bytes) => bytes.len() as u64,
        NewValue::Bytes(bytes) => bytes.len() as u64,
        NewValue::Object(object) => object.memory_bytes() as u64,
    }
}

fn options(args: &mut Args<'_>) -> Result<Options, CommandError> {
    let mut options = Options::default();
    while !args.is_empty() {
        if args.accept("REPLACE") {
            options.replace = true;
        } else if args.accept("ABSTTL") {
            options.absolute = true;
        } else if args.len() > 1 && options.frequency.is_none() && args.accept("IDLETIME") {
            options.idle_s = Some(args.integer()?).filter(|seconds| *seconds >= 0);
            if options.idle_s.is_none() {
                return Err(CommandError::err("Invalid IDLETIME value, must be >= 0"));
            }
        } else if args.len() > 1 && options.idle_s.is_none() && args.accept("FREQ") {
            options.frequency = u8::try_from(args.integer()?).ok();
            if options.frequency.is_none() {
                return Err(CommandError::err("Invalid FREQ value, must be >= 0 and <= 255"));
            }
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(options)
}

fn expires_at(ttl: &[u8], absolute: bool, now: UnixMillis) -> Result<Option<UnixMillis>, CommandError> {
    let ttl = number::parse_i64(ttl).ok_or(CommandError::NotInteger)?;
    if ttl < 0 {
        return Err(CommandError::err("Invalid TTL value, must be >= 0"));
    }
    Ok(match ttl {
        0 => None,
        at if absolute => Some(at),
        // Further than time is counted: never, near enough.
        relative => Some(now.saturating_add(relative)),
    })
}
