//! What a history must satisfy. Knows no server: a history is judged by itself, and each judge is proven on planted lies.
//!
//! Registers are judged for linearizability. Since no value is written twice, every read names the write it saw, and the
//! question has an exact answer in one pass (Gibbons and Korach, "Testing shared memories", 1997, section 4): a write with its
//! reads is a *cluster*; let its zone reach from the earliest end to the latest beginning among them. A history is linearizable
//! exactly if no read ends before its write begins, no two zones that run forward overlap, and no zone that runs backward lies
//! within one that runs forward.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Ended, History, Moment, NEVER, Op, Queue, Register};

/// Everything that is wrong with a history; `finals` are what the cluster holds after the last request.
pub fn judge(history: &History, finals: &Finals, losses_allowed: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, ops) in &history.registers {
        let mut ops = ops.clone();
        if let Some(last) = finals.registers.get(key) {
            ops.push(Op { asked: Register::Read, ended: Ended::Ok(*last), begin: NEVER - 1, end: NEVER });
        }
        if !losses_allowed {
            wrong.extend(register(&ops).into_iter().map(|text| format!("{key}: {text}")));
        }
    }
    if !losses_allowed {
        for (key, ops) in &history.counters {
            let last = finals.counters.get(key).copied();
            wrong.extend(counter(ops, last).into_iter().map(|text| format!("{key}: {text}")));
        }
        for (key, ops) in &history.queues {
            let left = finals.queues.get(key).map_or(&[][..], Vec::as_slice);
            wrong.extend(queue(ops, left).into_iter().map(|text| format!("{key}: {text}")));
        }
    }
    for (key, ops) in &history.accounts {
        wrong.extend(account(ops, finals.accounts.get(key).copied()).into_iter().map(|text| format!("{key}: {text}")));
    }
    wrong
}

/// What the cluster holds in the end.
#[derive(Debug, Default)]
pub struct Finals {
    pub registers: BTreeMap<String, Option<u64>>,
    pub counters: BTreeMap<String, u64>,
    /// Oldest element first.
    pub queues: BTreeMap<String, Vec<u64>>,
    pub accounts: BTreeMap<String, (i64, i64)>,
}

/// A write and the reads that saw it.
struct Cluster {
    /// `None`: the key as it was before.
    value: Option<u64>,
    write_begin: Moment,
    earliest_end: Moment,
    latest_begin: Moment,
}

/// Why the history of a register is not linearizable, if it is not. Nothing was there before.
pub fn register(ops: &[Op<Register, Option<u64>>]) -> Option<String> {
    let mut clusters: HashMap<Option<u64>, Cluster> = HashMap::new();
    clusters.insert(None, Cluster { value: None, write_begin: 0, earliest_end: 0, latest_begin: 0 });
    let mut refused = HashSet::new();
    let mut unknown = HashSet::new();
    for op in ops {
        let Register::Write(value) = op.asked else { continue };
        let end = match op.ended {
            Ended::Ok(_) => op.end,
            Ended::Unknown => {
                unknown.insert(Some(value));
                NEVER
            }
            Ended::Failed => {
                refused.insert(Some(value));
                continue;
            }
        };
        clusters.insert(
            Some(value),
            Cluster { value: Some(value), write_begin: op.begin, earliest_end: end, latest_begin: op.begin },
        );
    }
    let mut seen = HashSet::new();
    for op in ops {
        let (Register::Read, Ended::Ok(value)) = (op.asked, op.ended) else { continue };
        if refused.contains(&value) {
            return Some(format!("{} was read, and its write was refused", show(value)));
        }
        let Some(cluster) = clusters.get_mut(&value) else {
            return Some(format!("{} was read, and nobody wrote it", show(value)));
        };
        if op.end < cluster.write_begin {
            return Some(format!("{} was read before it was written", show(value)));
        }
        seen.insert(value);
        cluster.earliest_end = cluster.earliest_end.min(op.end);
        cluster.latest_begin = cluster.latest_begin.max(op.begin);
    }
    // A write of which nobody knows and which nobody saw may never have happened.
    let zones =
        clusters.into_values().filter(|cluster| !unknown.contains(&cluster.value) || seen.contains(&cluster.value));
    let (mut forward, backward): (Vec<Cluster>, Vec<Cluster>) =
        zones.partition(|cluster| cluster.earliest_end < cluster.latest_begin);
    forward.sort_by_key(|cluster| cluster.earliest_end);
    for pair in forward.windows(2) {
        if pair[1].earliest_end < pair[0].latest_begin {
            return Some(format!(
                "{} was still read at {} us, after {} had been written or read by {} us",
                show(pair[0].value),
                pair[0].latest_begin / 1000,
                show(pair[1].value),
                pair[1].earliest_end / 1000
            ));
        }
    }
    for cluster in &backward {
        // The last forward zone that begins before this one.
        let at = forward.partition_point(|zone| zone.earliest_end < cluster.latest_begin);
        let Some(zone) = at.checked_sub(1).map(|at| &forward[at]) else { continue };
        if cluster.earliest_end < zone.latest_begin {
            return Some(format!(
                "{} was written between {} and {} us, while {} was read before and after",
                show(cluster.value),
                cluster.latest_begin / 1000,
                cluster.earliest_end / 1000,
                show(zone.value)
            ));
        }
    }
    None
}

fn show(value: Option<u64>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| format!("value {value}"))
}

/// What is wrong with a counter that only `INCR` changed, and that was 0 before.
pub fn counter(ops: &[Op<(), u64>], last: Option<u64>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut told: Vec<(u64, Moment, Moment)> = Vec::new();
    let mut unknown = 0;
    for op in ops {
        match op.ended {
            Ended::Ok(value) => told.push((value, op.begin, op.end)),
            Ended::Unknown => unknown += 1,
            Ended::Failed => {}
        }
    }
    told.sort_unstable();
    for pair in told.windows(2) {
        if pair[0].0 == pair[1].0 {
            wrong.push(format!("two clients were told {}", pair[0].0));
        }
    }
    // Whoever was told less cannot have begun after somebody who was told more had his answer.
    let mut latest_begin = 0;
    for (value, begin, end) in &told {
        if *end < latest_begin {
            wrong.push(format!("{value} was answered before a smaller number was asked for"));
            break;
        }
        latest_begin = latest_begin.max(*begin);
    }
    if let Some(last) = last {
        let highest = told.last().map_or(0, |told| told.0);
        if highest > last {
            wrong.push(format!("{highest} was answered, and in the end it is {last}"));
        }
        let done = told.len() as u64;
        if !(done..=done + unknown).contains(&last) {
            wrong.push(format!("{done} were counted and {unknown} perhaps, and in the end it is {last}"));
        }
    }
    wrong
}

/// What is wrong with a queue that was empty before and holds `left` in the end, oldest first.
pub fn queue(ops: &[Op<Queue, Option<u64>>], left: &[u64]) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut sure, mut perhaps, mut refused) = (HashMap::new(), HashSet::new(), HashSet::new());
    let (mut popped, mut lost_pops) = (HashMap::new(), 0);
    for op in ops {
        match (op.asked, op.ended) {
            (Queue::Push(element), Ended::Ok(_)) => drop(sure.insert(element, (op.begin, op.end))),
            (Queue::Push(element), Ended::Unknown) => drop(perhaps.insert(element)),
            (Queue::Push(element), Ended::Failed) => drop(refused.insert(element)),
            (Queue::Pop, Ended::Ok(Some(element))) => {
                if popped.insert(element, (op.begin, op.end)).is_some() {
                    wrong.push(format!("{element} was popped twice"));
                }
            }
            (Queue::Pop, Ended::Unknown) => lost_pops += 1,
            (Queue::Pop, Ended::Ok(None) | Ended::Failed) => {}
        }
    }
    let held: BTreeSet<u64> = left.iter().copied().collect();
    if held.len() != left.len() {
        wrong.push("an element is there twice".to_owned());
    }
    for element in popped.keys().chain(&held) {
        if refused.contains(element) {
            wrong.push(format!("{element} is there, and its push was refused"));
        } else if !sure.contains_key(element) && !perhaps.contains(element) {
            wrong.push(format!("{element} is there, and nobody pushed it"));
        }
    }
    if let Some(both) = held.iter().find(|element| popped.contains_key(element)) {
        wrong.push(format!("{both} was popped, and is still there"));
    }
    let missing: Vec<u64> =
        sure.keys().filter(|element| !popped.contains_key(element) && !held.contains(element)).copied().collect();
    if missing.len() > lost_pops {
        wrong
            .push(format!("{} pushed elements are gone, and only {lost_pops} pops are unaccounted for", missing.len()));
    }
    wrong.extend(out_of_order(&sure, &popped));
    wrong
}

/// A pair that went in one after the other and came out the other way round.
fn out_of_order(pushed: &HashMap<u64, (Moment, Moment)>, popped: &HashMap<u64, (Moment, Moment)>) -> Option<String> {
    let mut known: Vec<_> =
        popped.iter().filter_map(|(element, pop)| Some((*pushed.get(element)?, *pop, *element))).collect();
    // Oldest push first; of all that were certainly pushed before, the one whose pop began last.
    known.sort_unstable_by_key(|((begin, _), ..)| *begin);
    let mut by_end: Vec<_> = known.iter().collect();
    by_end.sort_unstable_by_key(|((_, end), ..)| *end);
    let (mut at, mut latest) = (0, None::<(Moment, u64)>);
    for ((begin, _), (_, pop_end), element) in &known {
        while at < by_end.len() && by_end[at].0.1 < *begin {
            let candidate = (by_end[at].1.0, by_end[at].2);
            latest = latest.max(Some(candidate));
            at += 1;
        }
        if let Some((pop_begin, earlier)) = latest
            && *pop_end < pop_begin
        {
            return Some(format!("{element} overtook {earlier}"));
        }
    }
    None
}

/// What is wrong with two accounts that together hold nothing.
pub fn account(ops: &[Op<i64, (i64, i64)>], last: Option<(i64, i64)>) -> Vec<String> {
    let told = ops.iter().filter_map(|op| if let Ended::Ok(balances) = op.ended { Some(balances) } else { None });
    let torn = told.chain(last).find(|(one, other)| one + other != 0);
    torn.map(|(one, other)| format!("half a transfer was seen: {one} and {other}")).into_iter().collect()
}
