//! What clients do in the simulated world, and what they write down about it. It judges nothing.
//!
//! Three kinds of them: *sure* ones read and write registers and counters as a user with `ack=quorum`; *quick* ones write
//! without; the *owner* takes rights from the user `probe` and gives them back, while *probes* do as that user what may be
//! forbidden by then: read, read from a queue they wait at, carry out a transaction they began before.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::client::{Client, Value, meaning};
use crate::dice::Dice;
use crate::history::{Ended, History, Moment, Op, Register};

/// Keys of each kind.
pub const REGISTERS: usize = 3;
pub const COUNTERS: usize = 2;
pub const QUICK_KEYS: usize = 6;

/// A change of what `probe` may do.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Rights were given back; otherwise taken.
    pub gives: bool,
    pub asked: Moment,
    /// When its `OK` came, if it did.
    pub answered: Option<Moment>,
}

/// Something `probe` did. It certainly began at or after `begin`, and was over at `end`.
#[derive(Clone, Debug)]
pub struct Probed {
    pub what: &'static str,
    pub begin: Moment,
    pub end: Moment,
}

/// Everything that was written down.
#[derive(Default)]
pub struct Notes {
    pub history: RefCell<History>,
    pub turns: RefCell<Vec<Turn>>,
    pub probed: RefCell<Vec<Probed>>,
    /// When each element was pushed.
    pub pushed: RefCell<Vec<(String, Moment)>>,
    pub over: Cell<bool>,
    /// How much longer than usual clients that write rest: what nobody writes to is told apart by nothing but promises.
    pub calm: Cell<usize>,
    next: Cell<u64>,
}

impl Notes {
    fn next(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }
}

/// The simulated time.
pub fn now() -> Moment {
    turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_nanos() as u64)
}

/// Users and their rights, before anything else.
pub async fn prepare(nodes: &[IpAddr]) {
    let users: [&[&str]; 4] = [
        &["ACL", "SETUSER", "sure", "on", ">pw", "~*", "+@all", "ack=quorum"],
        &["ACL", "SETUSER", "quick", "on", ">pw", "~*", "+@all"],
        &["ACL", "SETUSER", "probe", "on", ">pw", "~*", "+@all", "-get", "-lpop", "-blpop"],
        &["ACL", "SETUSER", "probe", "+get", "+lpop", "+blpop"],
    ];
    for user in users {
        loop {
            if let Ok(mut client) = Client::login(nodes[0], "default").await
                && client.call(user).await.is_ok_and(|reply| reply.is_ok())
            {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A client that keeps a connection to some node.
struct Worker {
    notes: Rc<Notes>,
    nodes: Vec<IpAddr>,
    user: &'static str,
    dice: Dice,
    client: Option<Client>,
}

impl Worker {
    fn new(notes: &Rc<Notes>, nodes: &[IpAddr], user: &'static str, seed: u64) -> Worker {
        Worker { notes: Rc::clone(notes), nodes: nodes.to_vec(), user, dice: Dice::seeded(seed), client: None }
    }

    async fn connected(&mut self) -> bool {
        while self.client.is_none() && !self.notes.over.get() {
            let ip = *self.dice.pick(&self.nodes);
            match Client::login(ip, self.user).await {
                Ok(client) => self.client = Some(client),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
        !self.notes.over.get()
    }

    /// One request; the connection ends when it fails, and after some errors that are not about the request.
    async fn call(&mut self, words: &[&str]) -> io::Result<Value> {
        let Some(client) = &mut self.client else { return Err(io::ErrorKind::NotConnected.into()) };
        let answer = client.call(words).await;
        let stays = match &answer {
            Ok(Value::Error(text)) => text.contains("NOPERM"),
            Ok(_) => !self.dice.one_in(40),
            Err(_) => false,
        };
        if !stays {
            self.client = None;
        }
        answer
    }

    async fn rest_calmly(&mut self, most_ms: usize) {
        self.rest(most_ms * self.notes.calm.get().max(1)).await;
    }

    async fn rest(&mut self, most_ms: usize) {
        let ms = self.dice.below(most_ms) as u64;
        sleep(Duration::from_millis(5 + ms)).await;
    }
}

/// Registers and counters, each answer confirmed by every node in sync.
pub async fn sure(notes: Rc<Notes>, nodes: Vec<IpAddr>, seed: u64) {
    let mut worker = Worker::new(&notes, &nodes, "sure", seed);
    while worker.connected().await {
        match worker.dice.below(5) {
            0 => {
                let key = format!("c{}", worker.dice.below(COUNTERS));
                let begin = now();
                let answer = worker.call(&["INCR", &key]).await;
                let ended =
                    meaning(answer, |value| if let Value::Number(count) = value { Some(count as u64) } else { None });
                let op = Op { asked: (), ended, begin, end: now() };
                notes.history.borrow_mut().counters.entry(key).or_default().push(op);
            }
            1 | 2 => {
                let (key, value) = (format!("r{}", worker.dice.below(REGISTERS)), notes.next());
                let begin = now();
                let answer = worker.call(&["SET", &key, &value.to_string()]).await;
                let ended = meaning(answer, |value| value.is_ok().then_some(None));
                let op = Op { asked: Register::Write(value), ended, begin, end: now() };
                notes.history.borrow_mut().registers.entry(key).or_default().push(op);
            }
            _ => {
                let key = format!("r{}", worker.dice.below(REGISTERS));
                let begin = now();
                let answer = worker.call(&["GET", &key]).await;
                let ended = meaning(answer, |value| match value {
                    Value::Text(text) => text.parse().ok().map(Some),
                    Value::Nil => Some(None),
                    _ => None,
                });
                let op = Op { asked: Register::Read, ended, begin, end: now() };
                notes.history.borrow_mut().registers.entry(key).or_default().push(op);
            }
        }
        worker.rest_calmly(60).await;
    }
}

/// Writes nobody confirms: of these only the copies are compared.
pub async fn quick(notes: Rc<Notes>, nodes: Vec<IpAddr>, seed: u64) {
    let mut worker = Worker::new(&notes, &nodes, "quick", seed);
    while worker.connected().await {
        let (key, value) = (format!("q{}", worker.dice.below(QUICK_KEYS)), notes.next().to_string());
        let request: &[&str] = match worker.dice.below(4) {
            0 => &["DEL", &key],
            1 => &["APPEND", &key, &value],
            _ => &["SET", &key, &value],
        };
        // Whatever became of it.
        let _ = worker.call(request).await;
        worker.rest_calmly(40).await;
    }
}

/// Takes rights and gives them back, one change after the other.
pub async fn owner(notes: Rc<Notes>, nodes: Vec<IpAddr>, seed: u64) {
    let mut worker = Worker::new(&notes, &nodes, "default", seed);
    let mut gives = false;
    while worker.connected().await {
        let change: &[&str] = match gives {
            true => &["ACL", "SETUSER", "probe", "+get", "+lpop", "+blpop"],
            false => &["ACL", "SETUSER", "probe", "-get", "-lpop", "-blpop"],
        };
        let at = {
            let mut turns = notes.turns.borrow_mut();
            turns.push(Turn { gives, asked: now(), answered: None });
            turns.len() - 1
        };
        if worker.call(change).await.is_ok_and(|answer| answer.is_ok()) {
            notes.turns.borrow_mut()[at].answered = Some(now());
            gives = !gives;
            worker.rest(if gives { 800 } else { 500 }).await;
        } else {
            worker.rest(200).await;
        }
    }
}

/// Pushes what probes wait for.
pub async fn pusher(notes: Rc<Notes>, nodes: Vec<IpAddr>, seed: u64) {
    let mut worker = Worker::new(&notes, &nodes, "quick", seed);
    while worker.connected().await {
        let element = format!("e{}", notes.next());
        notes.pushed.borrow_mut().push((element.clone(), now()));
        let _ = worker.call(&["RPUSH", "queue", &element]).await;
        worker.rest_calmly(300).await;
    }
}

/// Reads as `probe` at one node.
pub async fn reader(notes: Rc<Notes>, node: IpAddr, seed: u64) {
    let mut worker = Worker::new(&notes, &[node], "probe", seed);
    while worker.connected().await {
        // From the node's own copy, if it has one: that needs nobody else.
        if !matches!(worker.call(&["READONLY"]).await, Ok(value) if value.is_ok()) {
            continue;
        }
        let begin = now();
        if let Ok(Value::Text(_) | Value::Nil) = worker.call(&["GET", "q0"]).await {
            notes.probed.borrow_mut().push(Probed { what: "GET", begin, end: now() });
        }
        worker.rest(30).await;
    }
}

/// Queues a read, and carries it out a while later.
pub async fn transactor(notes: Rc<Notes>, nodes: Vec<IpAddr>, seed: u64) {
    let mut worker = Worker::new(&notes, &nodes, "probe", seed);
    while worker.connected().await {
        let queued = worker.call(&["MULTI"]).await.is_ok_and(|answer| answer.is_ok())
            && worker.call(&["GET", "q1"]).await.is_ok_and(|answer| answer == Value::Text("QUEUED".to_owned()));
        worker.rest(700).await;
        let begin = now();
        let carried_out = worker.call(&["EXEC"]).await;
        if let (true, Ok(Value::Array(answers))) = (queued, carried_out)
            && let [Value::Text(_) | Value::Nil] = answers.as_slice()
        {
            notes.probed.borrow_mut().push(Probed { what: "EXEC", begin, end: now() });
        }
    }
}

/// Waits for elements of the queue.
pub async fn waiter(notes: Rc<Notes>, nodes: Vec<IpAddr>, seed: u64) {
    let mut worker = Worker::new(&notes, &nodes, "probe", seed);
    while worker.connected().await {
        let begun = now();
        let answer = worker.call(&["BLPOP", "queue", "4"]).await;
        if let Ok(Value::Array(items)) = answer
            && let [_, Value::Text(element)] = items.as_slice()
        {
            // It cannot have been carried out before there was something.
            let pushed = notes.pushed.borrow().iter().find(|(known, _)| known == element).map(|(_, at)| *at);
            let begin = pushed.unwrap_or(begun).max(begun);
            notes.probed.borrow_mut().push(Probed { what: "BLPOP", begin, end: now() });
        }
        worker.rest(30).await;
    }
}

/// What every node says about every key, once the others have what the primary has: the same, or why not.
pub async fn compare(nodes: &[IpAddr]) -> Result<Vec<(String, Option<String>)>, String> {
    let keys: Vec<String> = (0..REGISTERS)
        .map(|number| format!("r{number}"))
        .chain((0..COUNTERS).map(|number| format!("c{number}")))
        .chain((0..QUICK_KEYS).map(|number| format!("q{number}")))
        .collect();
    let mut all: Vec<Vec<(String, Option<String>)>> = Vec::new();
    for ip in nodes {
        let mut client = Client::login(*ip, "quick").await.map_err(|error| format!("{ip}: {error}"))?;
        client.call(&["READONLY"]).await.map_err(|error| format!("{ip}: {error}"))?;
        let mut held = Vec::new();
        for key in &keys {
            let answer = timeout(Duration::from_secs(3), client.call(&["GET", key])).await;
            match answer {
                Ok(Ok(Value::Text(text))) => held.push((key.clone(), Some(text))),
                Ok(Ok(Value::Nil)) => held.push((key.clone(), None)),
                other => return Err(format!("{ip} answers GET {key} with {other:?}")),
            }
        }
        all.push(held);
    }
    match all.iter().find(|held| **held != all[0]) {
        None => Ok(all.swap_remove(0)),
        Some(other) => Err(format!("copies differ: {:?} and {other:?}", all[0])),
    }
}

/// How many requests ended well.
pub fn done(history: &History) -> usize {
    let registers = history.registers.values().flatten().filter(|op| matches!(op.ended, Ended::Ok(_))).count();
    let counters = history.counters.values().flatten().filter(|op| matches!(op.ended, Ended::Ok(_))).count();
    registers + counters
}
