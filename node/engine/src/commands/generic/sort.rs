//! SORT and SORT_RO: the elements of a list, set or sorted set in another order.
//!
//! BY and GET with a pattern would read keys the request does not name; they are refused, as Redis Cluster does, because
//! only named keys are locked, routed and checked. A pattern without `*` names no key: `BY` with one keeps the stored
//! order, `GET` with one answers null.

use super::{Answer, SortOptions, parse_sort};
use crate::args::Args;
use crate::dict::ValueRef;
use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::reply::Reply;
use crate::types::{End, List, Value, number};
use std::cmp::Ordering;

/// Elements that several GETs may make of fewer: a small request must not hold the shard, and memory, without end.
const RESULTS_MAX: usize = 1 << 22;

pub(super) fn sort(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let options = parse_sort(args.argv())?;
    refuse_patterns(&options)?;
    let key = args.take()?;
    keys.touch(key);
    let elements = sorted(keys, key, &options)?;
    if options.get.len() > 1 && elements.len().saturating_mul(options.get.len()) > RESULTS_MAX {
        return Err(CommandError::err("GET options of SORT make too many elements"));
    }
    let Some(store) = options.store else {
        answer(&elements, &options, reply);
        return Ok(());
    };
    let destination = args.argv()[store];
    let values = results(&elements, &options).map(|value| value.unwrap_or_default());
    let values: Vec<&[u8]> = values.collect();
    let removed = keys.remove(destination);
    if values.is_empty() {
        if removed {
            keys.effects.changed(1);
            keys.effects.replace(&[b"DEL", destination]);
        }
    } else {
        let mut list = List::new();
        list.push(End::Back, &values, keys.limits());
        keys.put(destination, Value::List(list), None);
        keys.effects.changed(values.len() as u64);
    }
    reply.count(values.len());
    Ok(())
}

fn refuse_patterns(options: &SortOptions<'_>) -> Answer {
    let external = |pattern: &[u8]| pattern.contains(&b'*');
    let option = if options.by.is_some_and(external) {
        "BY"
    } else if options.get.iter().any(|pattern| external(pattern)) {
        "GET"
    } else {
        return Ok(());
    };
    Err(CommandError::err(format!(
        "{option} option of SORT denied in cluster mode when keys formed by the pattern may be in different slots."
    )))
}

/// The elements asked for, in the order asked for.
fn sorted(keys: &Keys<'_>, key: &[u8], options: &SortOptions<'_>) -> Result<Vec<Vec<u8>>, CommandError> {
    let value = match keys.peek(key).map(|entry| entry.value()) {
        None => return Ok(Vec::new()),
        Some(ValueRef::Object(value)) => value,
        Some(_) => return Err(CommandError::WrongType),
    };
    let mut keep_order = options.by.is_some();
    let mut alpha = options.alpha;
    if keep_order && options.store.is_some() && matches!(value, Value::Set(_)) {
        // A set has no order of its own, and what is stored must be the same everywhere.
        (keep_order, alpha) = (false, true);
    }
    let mut elements: Vec<Vec<u8>> = match value {
        Value::List(list) => list.iter().map(|element| element.to_vec()).collect(),
        Value::Set(set) => set.iter().map(|member| member.to_vec()).collect(),
        Value::SortedSet(set) => set.iter().map(|(member, _score)| member.to_vec()).collect(),
        Value::Hash(_) => return Err(CommandError::WrongType),
    };
    if !keep_order {
        elements = if alpha { sorted_as_texts(elements) } else { sorted_as_numbers(elements)? };
    }
    let descends = options.descending && (!keep_order || matches!(value, Value::SortedSet(_) | Value::List(_)));
    if descends {
        elements.reverse();
    }
    Ok(limited(elements, options.limit))
}

fn sorted_as_texts(mut elements: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    elements.sort_unstable();
    elements
}

fn sorted_as_numbers(elements: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut weighed = Vec::with_capacity(elements.len());
    for element in elements {
        let weight =
            weight(&element).ok_or_else(|| CommandError::err("One or more scores can't be converted into double"))?;
        weighed.push((weight, element));
    }
    // Equal numbers are ordered as texts: the result depends on nothing but the elements.
    weighed.sort_unstable_by(|(weight, element), (other_weight, other)| {
        weight.partial_cmp(other_weight).unwrap_or(Ordering::Equal).then_with(|| element.cmp(other))
    });
    Ok(weighed.into_iter().map(|(_weight, element)| element).collect())
}

fn weight(element: &[u8]) -> Option<f64> {
    number::parse_f64(element)
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

/// What is answered or stored: for each element itself, or every GET in turn.
fn results<'a>(elements: &'a [Vec<u8>], options: &'a SortOptions<'_>) -> impl Iterator<Item = Option<&'a [u8]>> {
    const ITSELF: &[&[u8]] = &[b"#"];
    let gets = if options.get.is_empty() { ITSELF } else { &options.get };
    elements.iter().flat_map(move |element| gets.iter().map(move |get| (*get == b"#").then_some(&**element)))
}

fn answer(elements: &[Vec<u8>], options: &SortOptions<'_>, reply: &mut Reply) {
    reply.array(elements.len() * options.get.len().max(1));
    for value in results(elements, options) {
        match value {
            Some(value) => reply.bulk(value),
            None => reply.null(),
        }
    }
}
