//! Clients that never stop trying: each talks to one node after the other, does a bit of everything, and writes down what it
//! asked and what it was told. What an error text means to a client is decided in [`meaning`] and nowhere else.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keyward_tests::{Client, Dice, Value};

use crate::checks::Finals;
use crate::history::{Ended, History, Op, Queue, Register, moment};

/// A node that is cut off answers nobody: the client goes elsewhere soon.
const CONNECT: Duration = Duration::from_millis(400);

/// A client that waits longer gives up; the nodes' own limits lie above and below.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Between two requests of one client: the nodes share a machine with everything else.
const PAUSE: Duration = Duration::from_millis(1);

/// A client stays with a node for about so many requests.
const STAY: usize = 200;

/// Keys of each kind.
const KEYS: usize = 6;

/// Clients at work.
pub struct Clients {
    stop: Arc<AtomicBool>,
    histories: Vec<JoinHandle<History>>,
    /// When a write was last acknowledged, in nanoseconds since the run began.
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    addresses: Vec<SocketAddr>,
    /// No value is written twice.
    next: AtomicU64,
    /// Bits of the nodes that clients keep away from.
    avoided: AtomicU64,
    last_errors: Mutex<Vec<String>>,
}

impl Clients {
    /// `count` clients of the nodes at these addresses.
    pub fn start(addresses: Vec<SocketAddr>, count: usize, began: Instant, seed: u64, pairs: Pairs) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            began,
            addresses,
            next: AtomicU64::new(1),
            avoided: AtomicU64::new(0),
            last_errors: Mutex::default(),
        });
        let work = |number: usize| {
            let (stop, shared) = (Arc::clone(&stop), Arc::clone(&shared));
            let dice = Dice::seeded(seed.wrapping_add(number as u64 * 7919));
            thread::spawn(move || {
                Worker { dice, shared, history: History::default(), home: number, client: None, pairs }.run(&stop)
            })
        };
        let histories = (0..count).map(work).collect();
        Clients { stop, histories, shared }
    }

    /// From now on clients keep away from these nodes.
    pub fn avoid(&self, nodes: &[usize]) {
        let bits = nodes.iter().fold(0, |bits, node| bits | 1 << (node - 1));
        self.shared.avoided.store(bits, Ordering::SeqCst);
    }

    /// Ends the work; what all of them saw.
    pub fn finish(self) -> History {
        self.stop.store(true, Ordering::SeqCst);
        let mut history = History::default();
        for worker in self.histories {
            history.add(worker.join().expect("a client does not panic"));
        }
        history
    }
}

/// What an error reply says about the request.
pub fn meaning<T>(text: &str) -> Ended<T> {
    const CERTAINLY_NOT: [&str; 10] = [
        "was not carried out",
        "the data is served by another node",
        "the data moved to another node while the command was on its way; try again",
        "LOADING",
        "NOREPLICAS",
        "NOQUORUM",
        "MOVED",
        "EXECABORT",
        "no node serves the data",
        "CLUSTERDOWN this node",
    ];
    if text.starts_with("UNKNOWN") {
        return Ended::Unknown;
    }
    if CERTAINLY_NOT.iter().any(|sign| text.contains(sign)) { Ended::Failed } else { Ended::Unknown }
}

fn is_known(text: &str) -> bool {
    text.starts_with("UNKNOWN") || meaning::<()>(text) == Ended::Failed
}

struct Worker {
    dice: Dice,
    shared: Arc<Shared>,
    history: History,
    home: usize,
    client: Option<Client>,
    pairs: Pairs,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool) -> History {
        while !stop.load(Ordering::SeqCst) {
            if self.dice.one_in(STAY) {
                self.leave();
            }
            if self.client.is_none() && !self.connect() {
                self.leave();
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            match self.dice.below(20) {
                0..=5 => self.read_register(),
                6..=11 => self.write_register(),
                12..=13 => self.count(),
                14..=15 => self.push(),
                16..=17 => self.pop(),
                18 => self.transfer(),
                _ => self.look_at_accounts(),
            }
            thread::sleep(PAUSE);
        }
        self.history
    }

    fn leave(&mut self) {
        self.client = None;
        self.home = self.dice.below(self.shared.addresses.len());
    }

    fn connect(&mut self) -> bool {
        let at = self.home % self.shared.addresses.len();
        if self.shared.avoided.load(Ordering::SeqCst) & (1 << at) != 0 {
            return false;
        }
        self.client = Client::connect_within(self.shared.addresses[at], CONNECT).ok();
        if let Some(client) = &self.client {
            client.set_patience(PATIENCE);
        }
        self.client.is_some()
    }

    fn key(&mut self, kind: &str) -> String {
        format!("{kind}:{}", self.dice.below(KEYS))
    }

    fn unique(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::SeqCst)
    }

    /// Sends requests in one write; the last one's reply counts, read with `answer`.
    fn ask<T>(&mut self, requests: &[Vec<String>], answer: impl Fn(Value) -> Option<T>) -> (Ended<T>, u64, u64) {
        let begin = moment(self.shared.began);
        let Some(client) = &mut self.client else { return (Ended::Failed, begin, begin) };
        let reply = talk(client, requests);
        let end = moment(self.shared.began);
        let ended = match reply {
            Ok(Value::Error(text)) => {
                if !is_known(&text) {
                    *self.history.errors.entry(text.clone()).or_default() += 1;
                }
                self.remember(&text);
                // Whoever cannot serve today may do so tomorrow; others can perhaps now.
                self.leave();
                meaning(&text)
            }
            Ok(value) => {
                let shown = value.to_string();
                answer(value).map_or_else(
                    || {
                        *self.history.errors.entry(format!("a strange answer: {shown}")).or_default() += 1;
                        Ended::Unknown
                    },
                    Ended::Ok,
                )
            }
            Err(error) => {
                self.remember(&error.to_string());
                self.leave();
                Ended::Unknown
            }
        };
        (ended, begin, end)
    }

    fn remember(&self, text: &str) {
        let mut last = self.shared.last_errors.lock().expect("nobody panics with it");
        if last.len() < 1000 {
            last.push(text.to_owned());
        }
    }

    fn acknowledged<T>(&mut self, (ended, begin, end): &(Ended<T>, u64, u64)) {
        if matches!(ended, Ended::Ok(_)) {
            self.history.acknowledged.push((*begin, *end));
        }
    }

    fn read_register(&mut self) {
        let key = self.key("register");
        let (ended, begin, end) = self.ask(&[words(&["GET", &key])], optional_number);
        self.history.registers.entry(key).or_default().push(Op { asked: Register::Read, ended, begin, end });
    }

    fn write_register(&mut self) {
        let (key, value) = (self.key("register"), self.unique());
        let mut requests = vec![words(&["SET", &key, &value.to_string()])];
        if self.dice.one_in(8) {
            // What comes before in a pipeline changes nothing about it.
            let longer = "x".repeat(self.dice.below(4000));
            requests.insert(0, words(&["SET", &format!("large:{}", self.dice.below(KEYS)), &longer]));
        }
        let told = self.ask(&requests, |value| value.is_ok().then_some(None));
        self.acknowledged(&told);
        let (ended, begin, end) = told;
        self.history.registers.entry(key).or_default().push(Op { asked: Register::Write(value), ended, begin, end });
    }

    fn count(&mut self) {
        let key = self.key("counter");
        let told = self.ask(&[words(&["INCR", &key])], number);
        self.acknowledged(&told);
        let (ended, begin, end) = told;
        self.history.counters.entry(key).or_default().push(Op { asked: (), ended, begin, end });
    }

    fn push(&mut self) {
        let (key, element) = (self.key("queue"), self.unique());
        let told = self.ask(&[words(&["LPUSH", &key, &element.to_string()])], |value| number(value).map(|_| None));
        self.acknowledged(&told);
        let (ended, begin, end) = told;
        self.history.queues.entry(key).or_default().push(Op { asked: Queue::Push(element), ended, begin, end });
    }

    fn pop(&mut self) {
        let key = self.key("queue");
        let (ended, begin, end) = self.ask(&[words(&["RPOP", &key])], optional_number);
        self.history.queues.entry(key).or_default().push(Op { asked: Queue::Pop, ended, begin, end });
    }

    fn transfer(&mut self) {
        let (pair, amount) = (self.key("account"), 1 + self.dice.below(100) as i64);
        let (one, other) = self.pairs.of(&pair);
        let requests = [
            words(&["MULTI"]),
            words(&["DECRBY", &one, &amount.to_string()]),
            words(&["INCRBY", &other, &amount.to_string()]),
            words(&["EXEC"]),
        ];
        let told = self.ask(&requests, |value| match value.items()? {
            [Value::Integer(one), Value::Integer(other)] => Some((*one, *other)),
            _ => None,
        });
        self.acknowledged(&told);
        let (ended, begin, end) = told;
        self.history.accounts.entry(pair).or_default().push(Op { asked: amount, ended, begin, end });
    }

    fn look_at_accounts(&mut self) {
        let pair = self.key("account");
        let (one, other) = self.pairs.of(&pair);
        let (ended, begin, end) = self.ask(&[words(&["MGET", &one, &other])], balances);
        self.history.accounts.entry(pair).or_default().push(Op { asked: 0, ended, begin, end });
    }
}

fn talk(client: &mut Client, requests: &[Vec<String>]) -> io::Result<Value> {
    let bytes: Vec<u8> = requests.iter().flat_map(|words| keyward_tests::resp::encode(words)).collect();
    client.send_raw(&bytes)?;
    for _ in 1..requests.len() {
        if let Value::Error(text) = client.read()? {
            // Whether the last one was carried out nobody will hear.
            return Err(io::Error::other(text));
        }
    }
    client.read()
}

/// Where the two keys of a pair lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// In different slots.
    Apart,
    /// In one slot: with several shard groups a transaction has one.
    Together,
}

impl Pairs {
    fn of(self, pair: &str) -> (String, String) {
        match self {
            Self::Apart => (format!("{pair}:one"), format!("{pair}:other")),
            Self::Together => (format!("{{{pair}}}:one"), format!("{{{pair}}}:other")),
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn number(value: Value) -> Option<u64> {
    if let Value::Integer(number) = value { u64::try_from(number).ok() } else { None }
}

fn optional_number(value: Value) -> Option<Option<u64>> {
    match value {
        Value::Nil => Some(None),
        value => value.text()?.parse().ok().map(Some),
    }
}

fn balances(value: Value) -> Option<(i64, i64)> {
    let balance = |value: &Value| match value {
        Value::Nil => Some(0),
        value => value.text()?.parse().ok(),
    };
    let [one, other] = value.items()? else { return None };
    Some((balance(one)?, balance(other)?))
}

/// What the cluster holds, read through `client`.
pub fn finals(client: &mut Client, pairs: Pairs) -> Finals {
    let mut finals = Finals::default();
    for number_of in 0..KEYS {
        let key = |kind: &str| format!("{kind}:{number_of}");
        let register = optional_number(client.ask(&["GET", &key("register")])).expect("a number or nothing");
        finals.registers.insert(key("register"), register);
        let counter = optional_number(client.ask(&["GET", &key("counter")])).expect("a number or nothing");
        finals.counters.insert(key("counter"), counter.unwrap_or(0));
        let mut queue: Vec<u64> = client
            .ask(&["LRANGE", &key("queue"), "0", "-1"])
            .texts()
            .iter()
            .map(|text| text.parse().expect("elements are numbers"))
            .collect();
        queue.reverse();
        finals.queues.insert(key("queue"), queue);
        let (one, other) = pairs.of(&key("account"));
        let both = balances(client.ask(&["MGET", &one, &other])).expect("two balances");
        finals.accounts.insert(key("account"), both);
    }
    finals
}
