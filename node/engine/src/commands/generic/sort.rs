//! SORT and SORT_RO: the elements of a list, set or sorted set in another order.
//!
//! BY and GET with a pattern read keys the request does not name: `weight_*` is one key for every element. Such a request
//! locks every shard, and the gate lets it through only for users who may read every key (see [`looks_further`]). Others
//! lock the shards of the keys they name, as everybody does. A pattern without `*` names no key: `BY` with one keeps the
//! stored order, `GET` with one answers null.

use super::{Answer, SortOptions, parse_sort};
use crate::args::Args;
use crate::dict::ValueRef;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{EveryKey, Keys};
use crate::reply::Reply;
use crate::types::{End, Ended, Hash, Kind, List, Steps, Value, number};
use std::cmp::Ordering;

/// Elements that several GETs may make of fewer: a small request must not hold the shards, and memory, without end.
const RESULTS_MAX: usize = 1 << 22;

/// Elements a confined user may sort by other keys: every shard is locked meanwhile, and its neighbors' keys with it.
const FURTHER_MAX: usize = 10_000;

/// Elements that are sorted between two questions whether it may go on, at first.
const PIECE_ELEMENTS: usize = 4096;

/// Pieces that are merged between two questions.
const PIECES_MERGED: usize = 8;

/// Which option makes a request read keys it does not name, as far as permissions go: Redis takes every GET for one.
pub(super) fn looks_further(argv: &[&[u8]]) -> Option<&'static str> {
    let options = parse_sort(argv).ok()?;
    if options.by.is_some_and(is_pattern) {
        return Some("BY");
    }
    (!options.get.is_empty()).then_some("GET")
}

fn is_pattern(text: &[u8]) -> bool {
    text.contains(&b'*')
}

pub(super) fn sort(all: &mut dyn EveryKey, args: Args<'_>, reply: &mut Reply) -> Answer {
    let argv = args.argv();
    let options = parse_sort(argv)?;
    let external = options.by.is_some_and(is_pattern) || options.get.iter().any(|pattern| is_pattern(pattern));
    let mut result = Ok(());
    let run = &mut |keys: &mut Keys<'_>| result = sort_locked(keys, argv, &options, external, reply);
    if external && all.reach().is_confined() && len_of(all, argv[1]) > FURTHER_MAX {
        let text = format!("BY and GET of other keys are for up to {FURTHER_MAX} elements where the user is confined");
        return Err(CommandError::err(text));
    }
    if external {
        all.with_all(run);
    } else {
        let named: Vec<&[u8]> = std::iter::once(argv[1]).chain(options.store.map(|store| argv[store])).collect();
        all.with_keys(&named, run);
    }
    result
}

fn len_of(all: &mut dyn EveryKey, key: &[u8]) -> usize {
    let mut len = 0;
    all.with_keys(&[key], &mut |keys| {
        len = keys.peek(key).map_or(0, |entry| match entry.value() {
            ValueRef::Object(object) => object.len(),
            _ => 0,
        });
    });
    len
}

fn sort_locked(
    keys: &mut Keys<'_>,
    argv: &[&[u8]],
    options: &SortOptions<'_>,
    external: bool,
    reply: &mut Reply,
) -> Answer {
    let key = argv[1];
    keys.touch(key);
    let elements = sorted(keys, key, options)?;
    if options.get.len() > 1 && elements.len().saturating_mul(options.get.len()) > RESULTS_MAX {
        return Err(CommandError::err("GET options of SORT make too many elements"));
    }
    match options.store {
        None => answer(keys, &elements, options, reply)?,
        Some(store) => {
            let stored = store_results(keys, argv[store], &elements, options, external)?;
            reply.count(stored);
        }
    }
    Ok(())
}

/// Makes the destination a list of the results, or removes it if there are none; how many there are.
fn store_results(
    keys: &mut Keys<'_>,
    destination: &[u8],
    elements: &[Vec<u8>],
    options: &SortOptions<'_>,
    external: bool,
) -> Result<usize, CommandError> {
    let mut values: Vec<Vec<u8>> = Vec::with_capacity(elements.len());
    let mut budget = Budget(keys.value_bytes_max());
    for_each_result(keys, elements, options, |value| {
        if budget.covers(value) {
            values.push(value.unwrap_or_default().to_vec());
        }
    })?;
    budget.check()?;
    let removed = keys.remove(destination);
    if values.is_empty() {
        if removed {
            keys.effects.changed(1);
            keys.effects.replace(&[b"DEL", destination]);
            keys.event(EventClass::GENERIC, "del", destination);
        }
        return Ok(0);
    }
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let mut list = List::new();
    list.push(End::Back, &values, keys.limits());
    keys.put(destination, Value::from(list), None);
    keys.effects.changed(values.len() as u64);
    keys.event(EventClass::LIST, "sortstore", destination);
    if external {
        // What the patterns found here may have expired elsewhere.
        keys.effects.replace(&[b"DEL", destination]);
        keys.effects.replace_in_parts(&[b"RPUSH", destination], values.iter().copied());
    }
    Ok(values.len())
}

/// Bytes that may still be copied: a pattern can find the same long string for every element.
struct Budget(u64);

impl Budget {
    /// Whether a value fits; once one did not, none does.
    fn covers(&mut self, value: Option<&[u8]>) -> bool {
        const ENTRY_BYTES: u64 = 24;
        let bytes = value.map_or(0, |value| value.len() as u64) + ENTRY_BYTES;
        self.0 = self.0.saturating_sub(bytes);
        self.0 > 0
    }

    fn check(&self) -> Answer {
        if self.0 == 0 { Err(CommandError::err("patterns of SORT find too much")) } else { Ok(()) }
    }
}

// ---- the order ----

/// The elements asked for, in the order asked for.
fn sorted(keys: &Keys<'_>, key: &[u8], options: &SortOptions<'_>) -> Result<Vec<Vec<u8>>, CommandError> {
    let value = match keys.peek(key).map(|entry| entry.value()) {
        None => return Ok(Vec::new()),
        Some(ValueRef::Object(value)) => value.kind(),
        Some(_) => return Err(CommandError::WrongType),
    };
    let mut keep_order = options.by.is_some_and(|by| !is_pattern(by));
    let mut alpha = options.alpha;
    if keep_order && matches!(value, Kind::Set(_)) {
        // A set has no order of its own, and what is stored or seen by a script must be the same everywhere.
        (keep_order, alpha) = (false, true);
    }
    let mut elements: Vec<Vec<u8>> = match value {
        Kind::List(list) => list.iter().map(|element| element.to_vec()).collect(),
        Kind::Set(set) => set.iter().map(|member| member.to_vec()).collect(),
        Kind::SortedSet(set) => set.iter().map(|(member, _score)| member.to_vec()).collect(),
        _ => return Err(CommandError::WrongType),
    };
    if keep_order {
        if options.descending && matches!(value, Kind::SortedSet(_) | Kind::List(_)) {
            elements.reverse();
        }
        return Ok(limited(elements, options.limit));
    }
    let by = options.by.filter(|by| is_pattern(by));
    let elements = if alpha {
        sorted_as_texts(keys, elements, by, options.descending)?
    } else {
        sorted_as_numbers(keys, elements, by, options.descending)?
    };
    Ok(limited(elements, options.limit))
}

fn directed(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}

fn sorted_as_texts(
    keys: &Keys<'_>,
    mut elements: Vec<Vec<u8>>,
    by: Option<&[u8]>,
    descending: bool,
) -> Result<Vec<Vec<u8>>, CommandError> {
    let Some(by) = by else {
        sort_in_steps(&mut elements, &keys.steps(), |a, b| directed(a.cmp(b), descending))?;
        return Ok(elements);
    };
    let mut budget = Budget(keys.value_bytes_max());
    let mut weighed: Vec<(Option<Vec<u8>>, Vec<u8>)> = Vec::with_capacity(elements.len());
    for element in elements {
        let weight = look_up(keys, by, &element, |found| found.filter(|_| budget.covers(found)).map(<[u8]>::to_vec));
        weighed.push((weight, element));
    }
    budget.check()?;
    let order = |(weight, _): &_, (other, _): &_| directed(Ord::cmp(weight, other), descending);
    sort_in_steps(&mut weighed, &keys.steps(), order)?;
    Ok(weighed.into_iter().map(|(_weight, element)| element).collect())
}

fn sorted_as_numbers(
    keys: &Keys<'_>,
    elements: Vec<Vec<u8>>,
    by: Option<&[u8]>,
    descending: bool,
) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut weighed = Vec::with_capacity(elements.len());
    for element in elements {
        let weight = match by {
            None => number::parse_f64(&element),
            // What has no weight weighs nothing.
            Some(by) => look_up(keys, by, &element, |found| found.map_or(Some(0.0), number::parse_f64)),
        };
        let weight = weight.ok_or_else(|| CommandError::err("One or more scores can't be converted into double"))?;
        weighed.push((weight, element));
    }
    // Equal numbers are ordered as texts: the result depends on nothing but the elements.
    let order = |(weight, element): &(f64, Vec<u8>), (other_weight, other): &(f64, Vec<u8>)| {
        let by_weight = weight.partial_cmp(other_weight).unwrap_or(Ordering::Equal);
        directed(by_weight.then_with(|| element.cmp(other)), descending)
    };
    sort_in_steps(&mut weighed, &keys.steps(), order)?;
    Ok(weighed.into_iter().map(|(_weight, element)| element).collect())
}

/// Sorts, in pieces that become ever longer if somebody is asked whether it may go on: what lies in order already is found and
/// merged. Equal elements keep their order.
fn sort_in_steps<T>(
    elements: &mut [T],
    steps: &Steps<'_>,
    mut order: impl FnMut(&T, &T) -> Ordering,
) -> Result<(), Ended> {
    let mut piece = if steps.is_bounded() { PIECE_ELEMENTS } else { elements.len().max(1) };
    loop {
        for elements in elements.chunks_mut(piece) {
            steps.take(elements.len())?;
            elements.sort_by(&mut order);
        }
        if piece >= elements.len() {
            return Ok(());
        }
        piece = piece.saturating_mul(PIECES_MERGED);
    }
}

fn limited(mut elements: Vec<Vec<u8>>, limit: Option<(i64, i64)>) -> Vec<Vec<u8>> {
    let Some((offset, count)) = limit else { return elements };
    let start = usize::try_from(offset).unwrap_or(0).min(elements.len());
    // A negative count means all the rest.
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    elements.drain(..start);
    elements.truncate(count);
    elements
}

// ---- patterns ----

/// Gives `with` what a pattern finds for an element: the string at the key that has the element in place of the first `*`,
/// or the field of the hash at it that stands behind `->`; the element itself for `#`.
fn look_up<R>(keys: &Keys<'_>, pattern: &[u8], element: &[u8], with: impl FnOnce(Option<&[u8]>) -> R) -> R {
    if pattern == b"#" {
        return with(Some(element));
    }
    let Some(star) = memchr::memchr(b'*', pattern) else { return with(None) };
    let (before, behind) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = memchr::memmem::find(behind, b"->").filter(|arrow| arrow + 2 < behind.len());
    let (after, field) = match arrow {
        Some(arrow) => (&behind[..arrow], Some(&behind[arrow + 2..])),
        None => (behind, None),
    };
    let key = [before, element, after].concat();
    match field {
        // A key of another type is as good as missing.
        None => with(keys.peek_string(&key).ok().flatten().as_deref()),
        Some(field) => {
            let now = keys.now();
            let value = keys.peek_as::<Hash>(&key).ok().flatten().and_then(|hash| live_field(hash, field, now));
            with(value.as_deref())
        }
    }
}

fn live_field(hash: &Hash, field: &[u8], now: i64) -> Option<Vec<u8>> {
    let live = hash.expiry(field).is_none_or(|at| at > now);
    hash.get(field).filter(|_| live).map(|value| value.to_vec())
}

/// What is answered or stored: for each element itself, or every GET in turn.
fn for_each_result(
    keys: &Keys<'_>,
    elements: &[Vec<u8>],
    options: &SortOptions<'_>,
    mut with: impl FnMut(Option<&[u8]>),
) -> Result<(), Ended> {
    const ITSELF: &[&[u8]] = &[b"#"];
    let gets = if options.get.is_empty() { ITSELF } else { &options.get };
    let steps = keys.steps();
    for element in elements {
        for get in gets {
            steps.take_bytes(element.len())?;
            look_up(keys, get, element, &mut with);
        }
    }
    Ok(())
}

fn answer(keys: &Keys<'_>, elements: &[Vec<u8>], options: &SortOptions<'_>, reply: &mut Reply) -> Result<(), Ended> {
    reply.array(elements.len() * options.get.len().max(1));
    for_each_result(keys, elements, options, |value| match value {
        Some(value) => reply.bulk(value),
        None => reply.null(),
    })
}
