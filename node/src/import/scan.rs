//! Passes over all keys of a source that does not let itself be followed: SCAN, then DUMP and expiry of every key, a few at a
//! time. A pass writes what is new or changed since the last one and removes what is gone; it remembers forty bytes for
//! each key to tell. What is written between two passes is seen by the next; what is published is not seen at all.

use super::Failure;
use super::hand::{Request, Together, error};
use super::keys::KeySet;
use super::load::{is_ours, shown};
use super::run::{Run, remove_where, too_few_databases};
use super::source;
use super::status::Phase;
use super::wire::{Link, text};
use crate::node::now_ms;
use keyward_proto::resp::{Value, encode_command};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Keys asked for by one SCAN.
const SCAN_KEYS: &[u8] = b"500";

/// Keys whose values are under way at once: the source holds that many replies.
const VALUES_AT_ONCE: usize = 32;

/// Between two passes.
const REST: Duration = Duration::from_secs(1);

/// An expiry that was worked out from what is left of it may differ by so much and be the same, in milliseconds.
const BLUR_MS: i64 = 1500;

/// What the last pass saw of a key.
struct Seen {
    value: u64,
    expires_at: Option<i64>,
    pass: u32,
}

/// What passes remember.
#[derive(Default)]
pub(super) struct Memory {
    keys: HashMap<u64, Seen>,
    pass: u32,
    functions_done: bool,
    /// What was brought before is not remembered.
    inherits: bool,
}

impl Memory {
    /// Another primary made passes before: its first one here removes whatever the source does not have.
    pub(super) fn inherit(&mut self) {
        self.inherits = true;
    }
}

/// Makes passes until the import is over.
pub(super) fn passes(run: &mut Run<'_>) -> Result<(), Failure> {
    let job = Arc::clone(run.job);
    let mut link = source::connect(&job.options.source, &job.stop)?;
    if !run.seen.functions_done {
        functions(run, &mut link)?;
    }
    let exact = !matches!(link.call(&[b"PEXPIRETIME", b"keyward"])?, Value::Error(_));
    loop {
        job.hurry.store(false, Ordering::Release);
        job.passes_begun.fetch_add(1, Ordering::AcqRel);
        job.enter(Phase::Scanning);
        // Once its writers wait, if somebody wants the end: a database may have got its first key just before.
        let facts = source::facts(&mut link, &job.options.source)?;
        job.tell(|status| {
            (status.error, status.keys_expected) = (String::new(), facts.keys);
            (status.keys, status.bytes) = (0, 0);
            facts.remarks(&job.options).into_iter().for_each(|note| status.note(note));
        });
        let began = Instant::now();
        let changes = Pass { run, link: &mut link, exact, changes: 0 }.make(&facts.databases)?;
        let took = began.elapsed();
        run.gets_on();
        job.tell(|status| {
            status.passes = job.passes_begun.load(Ordering::Acquire);
            (status.pass_ms, status.pass_changes) = (took.as_millis() as u64, changes);
        });
        run.stand(|_| {})?;
        rest(run)?;
    }
}

/// Waits for the next pass, or for somebody who wants to end.
fn rest(run: &Run<'_>) -> Result<(), Failure> {
    let until = Instant::now() + REST;
    while Instant::now() < until && !run.job.hurry.load(Ordering::Acquire) {
        run.sleep(Duration::from_millis(20))?;
    }
    Ok(())
}

fn functions(run: &mut Run<'_>, link: &mut Link) -> Result<(), Failure> {
    match link.call(&[b"FUNCTION", b"DUMP"])? {
        Value::Bulk(payload) => {
            if let Err(failure) = run.must(0, &[b"FUNCTION", b"RESTORE", &payload, b"REPLACE"]) {
                run.job.problem(format!("the functions of the source cannot be loaded: {failure}"));
            }
        }
        answer => {
            let note = format!("functions were not imported, the source says: {}", text(&answer));
            run.job.tell(|status| status.note(note));
        }
    }
    run.seen.functions_done = true;
    Ok(())
}

/// One pass.
struct Pass<'p, 'r> {
    run: &'p mut Run<'r>,
    link: &'p mut Link,
    /// The source tells the moment of expiry itself.
    exact: bool,
    changes: u64,
}

impl Pass<'_, '_> {
    /// Goes over everything; how many keys were new, changed or gone.
    fn make(mut self, databases: &BTreeMap<u32, u64>) -> Result<u64, Failure> {
        self.run.seen.pass += 1;
        let wanted = databases.keys().copied().filter(|database| self.run.translation.wants(*database));
        for database in wanted.collect::<Vec<u32>>() {
            if database >= self.run.hand.node().config.databases {
                return Err(Failure::Final(too_few_databases(database)));
            }
            let answer = self.link.call(&[b"SELECT", database.to_string().as_bytes()])?;
            if let Value::Error(_) = answer {
                let text = format!("the source does not give database {database}: {}", text(&answer));
                return Err(Failure::Final(text));
            }
            self.database(database)?;
        }
        self.remove_gone()?;
        Ok(self.changes)
    }

    fn database(&mut self, database: u32) -> Result<(), Failure> {
        let mut cursor = b"0".to_vec();
        loop {
            let answer = self.link.call(&[b"SCAN", &cursor, b"COUNT", SCAN_KEYS])?;
            if let Value::Error(_) = answer {
                return Err(Failure::Final(format!("the source does not list its keys: {}", text(&answer))));
            }
            let (next, keys) =
                page(answer).ok_or_else(|| Failure::Final("the source's SCAN makes no sense".to_owned()))?;
            // SCAN may name a key twice.
            let ours = |key: &Vec<u8>| is_ours(self.run.hand.node(), &self.run.translation.key(key));
            let keys: Vec<Vec<u8>> = keys.into_iter().filter(ours).collect::<HashSet<_>>().into_iter().collect();
            for some in keys.chunks(VALUES_AT_ONCE) {
                self.values(database, some)?;
            }
            cursor = next;
            if cursor == b"0" {
                return Ok(());
            }
        }
    }

    fn values(&mut self, database: u32, keys: &[Vec<u8>]) -> Result<(), Failure> {
        let expiry: &[u8] = if self.exact { b"PEXPIRETIME" } else { b"PTTL" };
        let mut bytes = Vec::new();
        for key in keys {
            encode_command(&mut bytes, &[expiry, key.as_slice()]);
            encode_command(&mut bytes, &[b"DUMP", key.as_slice()]);
        }
        self.link.send_bytes(&bytes)?;
        for key in keys {
            let expiry = self.link.reply()?;
            let expires_at = match expiry {
                Value::Integer(at) if at >= 0 && self.exact => Some(at),
                Value::Integer(left) if left >= 0 => Some(now_ms().saturating_add(left)),
                _ => None,
            };
            match self.link.reply()? {
                Value::Bulk(payload) => self.value(database, key, expires_at, &payload)?,
                answer @ Value::Error(_) => {
                    let text = format!("the source does not give key '{}': {}", shown(key), text(&answer));
                    return Err(Failure::Final(text));
                }
                // It is gone again.
                _ => {}
            }
        }
        Ok(())
    }

    fn value(&mut self, database: u32, key: &[u8], expires_at: Option<i64>, payload: &[u8]) -> Result<(), Failure> {
        let here = self.run.translation.key(key);
        let number = KeySet::number(database, &here);
        let value = digest(payload);
        let pass = self.run.seen.pass;
        self.run.job.tell(|status| {
            status.keys += 1;
            status.bytes += payload.len() as u64;
        });
        let blur_ms = if self.exact { 0 } else { BLUR_MS };
        let known = self.run.seen.keys.insert(number, Seen { value, expires_at, pass });
        let same_value = known.as_ref().is_some_and(|known| known.value == value);
        let same_expiry = known.is_some_and(|known| match (known.expires_at, expires_at) {
            (Some(before), Some(now)) => (before - now).abs() <= blur_ms,
            (before, now) => before == now,
        });
        if same_value && same_expiry {
            return Ok(());
        }
        self.changes += 1;
        let at = expires_at.unwrap_or(0).to_string();
        // The whole value, even if only its expiry changed: it may have ended here before the source put the end off.
        let argv: Vec<&[u8]> = vec![b"RESTORE", &here, at.as_bytes(), payload, b"REPLACE", b"ABSTTL"];
        let mut refused = None;
        let request = Request::new(database, argv);
        self.run.hand.run(&[request], now_ms(), Together::Loosely, &mut |_, reply| refused = error(reply))?;
        if let Some(why) = refused {
            let kind = payload.first().copied().unwrap_or_default();
            self.run.job.problem(format!("key '{}' (type {kind} of RDB) cannot be kept here: {why}", shown(key)));
        }
        Ok(())
    }

    /// Removes what this pass no longer saw.
    fn remove_gone(&mut self) -> Result<(), Failure> {
        let (seen, only) = (&mut self.run.seen, self.run.job.options.database);
        let (pass, inherits) = (seen.pass, std::mem::take(&mut seen.inherits));
        if !inherits && seen.keys.values().all(|seen| seen.pass == pass) {
            return Ok(());
        }
        let (keys, existing) = (&seen.keys, self.run.existing.as_deref());
        let stays = |database: u32, key: &[u8]| existing.is_some_and(|existing| existing.has(database, key));
        let gone = |database: u32, key: &[u8]| match keys.get(&KeySet::number(database, key)) {
            Some(seen) => seen.pass != pass,
            None => inherits && !stays(database, key),
        };
        let removed = remove_where(&mut self.run.hand, only, &gone)?;
        let before = seen.keys.len();
        seen.keys.retain(|_, seen| seen.pass == pass);
        self.changes += (before - seen.keys.len()) as u64;
        self.run.job.tell(|status| status.removed += removed);
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The next cursor and the keys of an answer of SCAN.
pub(super) fn page(answer: Value) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Value::Array(parts) = answer else { return None };
    let [Value::Bulk(next), Value::Array(keys)] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    let keys = keys.into_iter().map(|key| match key {
        Value::Bulk(key) => Some(key),
        _ => None,
    });
    Some((next, keys.collect::<Option<_>>()?))
}
