//! What clients did and what they were told, with the time on both ends. It judges nothing.

use std::collections::BTreeMap;
use std::time::Instant;

/// Nanoseconds since the run began.
pub type Moment = u64;

/// Later than everything.
pub const NEVER: Moment = u64::MAX;

/// How a request ended, as far as the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// It was carried out, and this was the answer.
    Ok(T),
    /// It certainly was not carried out.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op<K, A> {
    /// What was asked.
    pub asked: K,
    /// What came of it.
    pub ended: Ended<A>,
    /// Before it was sent.
    pub begin: Moment,
    /// After the answer came, or the client gave up.
    pub end: Moment,
}

/// On a register: `SET` of a value never set before, or `GET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Write(u64),
    Read,
}

/// On a queue: `LPUSH` of an element never pushed before, or `RPOP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Push(u64),
    Pop,
}

/// Money moved: by how much, and both balances afterwards.
pub type Transfer = Op<i64, (i64, i64)>;

/// Everything that was done to the keys of one run.
#[derive(Debug, Default)]
pub struct History {
    /// `GET` answers a value or nothing.
    pub registers: BTreeMap<String, Vec<Op<Register, Option<u64>>>>,
    /// `INCR` answers the new value.
    pub counters: BTreeMap<String, Vec<Op<(), u64>>>,
    /// `RPOP` answers an element or nothing.
    pub queues: BTreeMap<String, Vec<Op<Queue, Option<u64>>>>,
    /// Transfers between two accounts answer both balances; so do reads.
    pub accounts: BTreeMap<String, Vec<Transfer>>,
    /// When writes were acknowledged: began, answered.
    pub acknowledged: Vec<(Moment, Moment)>,
    /// Error texts nobody expected, how often.
    pub errors: BTreeMap<String, u64>,
}

impl History {
    /// Adds what another client saw.
    pub fn add(&mut self, other: History) {
        fn merge<T>(into: &mut BTreeMap<String, Vec<T>>, from: BTreeMap<String, Vec<T>>) {
            for (key, mut ops) in from {
                into.entry(key).or_default().append(&mut ops);
            }
        }
        merge(&mut self.registers, other.registers);
        merge(&mut self.counters, other.counters);
        merge(&mut self.queues, other.queues);
        merge(&mut self.accounts, other.accounts);
        self.acknowledged.extend(other.acknowledged);
        for (text, count) in other.errors {
            *self.errors.entry(text).or_default() += count;
        }
    }

    /// How many requests ended well, certainly not, and nobody knows how.
    pub fn tally(&self) -> [usize; 3] {
        let mut tally = [0; 3];
        fn count<K, A>(ops: &[Op<K, A>], tally: &mut [usize; 3]) {
            for op in ops {
                tally[match op.ended {
                    Ended::Ok(_) => 0,
                    Ended::Failed => 1,
                    Ended::Unknown => 2,
                }] += 1;
            }
        }
        self.registers.values().for_each(|ops| count(ops, &mut tally));
        self.counters.values().for_each(|ops| count(ops, &mut tally));
        self.queues.values().for_each(|ops| count(ops, &mut tally));
        self.accounts.values().for_each(|ops| count(ops, &mut tally));
        tally
    }
}

/// Nanoseconds from `began` to now.
pub fn moment(began: Instant) -> Moment {
    began.elapsed().as_nanos() as u64
}
