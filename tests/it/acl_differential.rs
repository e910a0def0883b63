//! Thousands of seeded random rule sequences and commands, fed to us and to a running Valkey 9.1: `ACL LIST`,
//! `GETUSER`, `DRYRUN`, error texts and real denials must be the same.
//!
//! `KEYWARD_DIFF_CASES` (3000 unless told) and `KEYWARD_DIFF_SEED` steer it. Every deliberate difference stands in
//! [`DIFFERENCES`] with its reason and is either not generated or evened out before comparing.

use std::collections::BTreeSet;
use std::env;

use keyward_tests::{Client, Cluster, Dice, Peer, Value};

/// What differs on purpose, why, and what this test does about it.
const DIFFERENCES: [(&str, &str, &str); 9] = [
    (
        "denials name the key and the user",
        "an operator must see what was denied; `acl-error-detail redis` gives Redis' text",
        "our node runs with `acl-error-detail redis`",
    ),
    (
        "`{a,b}` in a pattern means either",
        "the pattern document writes it so, and no peer matches it",
        "no generated pattern holds braces with a comma",
    ),
    (
        "a selector that a user already has is not appended again",
        "cluster clients send one SETUSER to every node; N copies would pile up",
        "repeated selectors are dropped from Valkey's side",
    ),
    (
        "an error does not repeat a password: `<***`",
        "replies end up in logs of clients",
        "the word is masked on Valkey's side",
    ),
    (
        "`%RW~*` is `allkeys`",
        "they mean the same, and a user reads back in one way only",
        "`%R~*`, `%W~*` and `%RW~*` are not generated",
    ),
    (
        "of two things wrong with a pattern, a bad form and a place after `~*`, the form is told",
        "the form is wrong wherever it stands",
        "the two reasons count as the same refusal",
    ),
    (
        "of several rights that are missing, another may be named if a database is among them",
        "Valkey ranks them in an order it does not document, and names a database after the command",
        "two denials count as the same if one is about a database",
    ),
    (
        "commands of later releases do not exist yet",
        "streams, pub/sub, scripting and more are their own issues",
        "rules and commands are drawn from those both servers list",
    ),
    (
        "`off` and a lost password end a user's connections",
        "a revoked credential must stop working now, not at the next login",
        "every real command runs on a fresh connection",
    ),
];

const USERS: [&str; 4] = ["alice", "bob", "carol", "default-like"];
const PATTERNS: [&str; 14] =
    ["*", "a:*", "b:*", "a:1", "a*", "*:1", "?:1", "[ab]:*", "[^a]:*", "", "{tag}:*", "\\*", "a:*:z", "[a-c]?*"];
const KEYS: [&str; 9] = ["a:1", "b:1", "c:1", "a:2:z", "{tag}:1", "*", "", "ab", "z"];
const PASSWORDS: [&str; 3] = ["secret", "other", "third"];

/// Commands with a shape each, so that key rights of every kind are asked; `K` is a key.
const CALLS: [&[&str]; 40] = [
    &["get", "K"],
    &["set", "K", "v"],
    &["set", "K", "v", "GET"],
    &["setnx", "K", "v"],
    &["getdel", "K"],
    &["getex", "K"],
    &["append", "K", "x"],
    &["strlen", "K"],
    &["mget", "K", "K"],
    &["mset", "K", "1", "K", "2"],
    &["incr", "K"],
    &["del", "K", "K"],
    &["unlink", "K"],
    &["exists", "K"],
    &["type", "K"],
    &["ttl", "K"],
    &["expire", "K", "100"],
    &["rename", "K", "K"],
    &["copy", "K", "K"],
    &["touch", "K"],
    &["lpush", "K", "x"],
    &["lrange", "K", "0", "-1"],
    &["llen", "K"],
    &["lmove", "K", "K", "LEFT", "RIGHT"],
    &["hset", "K", "f", "v"],
    &["hget", "K", "f"],
    &["hgetall", "K"],
    &["sadd", "K", "m"],
    &["smembers", "K"],
    &["sinterstore", "K", "K", "K"],
    &["smove", "K", "K", "m"],
    &["zadd", "K", "1", "m"],
    &["zrange", "K", "0", "-1"],
    &["zunionstore", "K", "2", "K", "K"],
    &["scard", "K"],
    &["ping"],
    &["config", "get", "maxmemory"],
    &["client", "getname"],
    &["select", "1"],
    &["dbsize"],
];

#[test]
fn rules_read_back_and_decide_as_on_valkey() {
    let Some(valkey) = Peer::valkey(&[]) else { return };
    let cluster = Cluster::of(1).flag("acl-error-detail", "redis").flag("strict-redis-acl", "true").start();
    let cases: usize = env::var("KEYWARD_DIFF_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    let mut pair = Pair::of(cluster.node(1).client(), cluster.node(1).address(), valkey.client(), valkey.address());
    let mut dice = Dice::from_env("KEYWARD_DIFF_SEED");
    for (difference, reason, _) in DIFFERENCES {
        println!("deliberate: {difference} ({reason})");
    }
    pair.compare_categories();
    for case in 0..cases {
        pair.step(case, &mut dice);
        assert!(pair.problems.len() < 20, "too many differences:\n{}", pair.problems.join("\n"));
    }
    assert!(pair.problems.is_empty(), "{} differences:\n{}", pair.problems.len(), pair.problems.join("\n"));
    println!("{cases} cases, {} comparisons", pair.compared);
}

#[test]
fn the_differential_test_finds_no_difference_between_two_valkeys() {
    // Proves the generator and the comparison: they must not see differences where there are none.
    let (Some(one), Some(two)) = (Peer::valkey(&[]), Peer::valkey(&[])) else { return };
    let mut pair = Pair::of(one.client(), one.address(), two.client(), two.address());
    let mut dice = Dice::seeded(1);
    pair.compare_categories();
    for case in 0..1500 {
        pair.step(case, &mut dice);
    }
    assert!(pair.problems.is_empty(), "{}", pair.problems.join("\n"));
    assert!(pair.denied > 50 && pair.allowed > 50, "{} denied, {} allowed: too one-sided", pair.denied, pair.allowed);
}

struct Pair {
    ours: Client,
    our_address: std::net::SocketAddr,
    theirs: Client,
    their_address: std::net::SocketAddr,
    /// Full names both list.
    commands: Vec<String>,
    categories: Vec<String>,
    /// What led here, newest last; printed with a difference.
    history: Vec<String>,
    problems: Vec<String>,
    compared: usize,
    denied: usize,
    allowed: usize,
}

impl Pair {
    fn of(
        mut ours: Client,
        our_address: std::net::SocketAddr,
        mut theirs: Client,
        their_address: std::net::SocketAddr,
    ) -> Self {
        let (mine, other) = (names(&mut ours), names(&mut theirs));
        let commands: Vec<String> = mine.intersection(&other).cloned().collect();
        let categories = theirs.ask(&["ACL", "CAT"]).texts();
        assert!(commands.len() > 100, "only {} commands in common", commands.len());
        let history = Vec::new();
        let problems = Vec::new();
        Self {
            ours,
            our_address,
            theirs,
            their_address,
            commands,
            categories,
            history,
            problems,
            compared: 0,
            denied: 0,
            allowed: 0,
        }
    }

    /// `ACL CAT x` must name the same commands, as far as both have them.
    fn compare_categories(&mut self) {
        for category in &self.categories {
            let common = |client: &mut Client| -> BTreeSet<String> {
                let names = client.ask(&["ACL", "CAT", category]).texts();
                names.into_iter().filter(|name| self.commands.contains(name)).collect()
            };
            let (mine, other) = (common(&mut self.ours), common(&mut self.theirs));
            if mine != other {
                let ours: Vec<_> = mine.difference(&other).collect();
                let theirs: Vec<_> = other.difference(&mine).collect();
                self.problems.push(format!("@{category}: only ours {ours:?}, only theirs {theirs:?}"));
            }
        }
    }

    fn step(&mut self, case: usize, dice: &mut Dice) {
        let user = *dice.pick(&USERS);
        match dice.below(10) {
            0..4 => {
                let mut command = vec!["ACL".to_owned(), "SETUSER".to_owned(), user.to_owned()];
                for _ in 0..=dice.below(5) {
                    command.push(self.rule(dice, true));
                }
                self.compare(case, &command);
                self.compare(case, &["ACL", "LIST"].map(ToOwned::to_owned));
                self.compare(case, &["ACL", "GETUSER", user].map(ToOwned::to_owned));
            }
            4..7 => {
                let mut command = vec!["ACL".to_owned(), "DRYRUN".to_owned(), user.to_owned()];
                command.extend(call(dice));
                self.compare(case, &command);
            }
            7..9 => {
                let password = PASSWORDS[dice.below(PASSWORDS.len())];
                self.really(case, user, password, &call(dice));
            }
            _ if dice.one_in(4) => self.compare(case, &["ACL", "DELUSER", user, "nobody"].map(ToOwned::to_owned)),
            _ => self.compare(case, &["ACL", "SETUSER", user, "reset", "on", ">secret"].map(ToOwned::to_owned)),
        }
    }

    fn rule(&self, dice: &mut Dice, selectors: bool) -> String {
        let command = dice.pick(&self.commands);
        let category = dice.pick(&self.categories);
        let pattern = *dice.pick(&PATTERNS);
        match dice.below(if selectors { 40 } else { 22 }) {
            0..5 => format!("+{command}"),
            5..8 => format!("-{command}"),
            8..10 => format!("+@{category}"),
            10..12 => format!("-@{category}"),
            12..15 => format!("~{pattern}"),
            15..18 if pattern == "*" => "~*".to_owned(),
            15 => format!("%R~{pattern}"),
            16 => format!("%W~{pattern}"),
            17 => format!("%RW~{pattern}"),
            18 => format!("&{pattern}"),
            19 => ["allkeys", "resetkeys", "allchannels", "resetchannels"][dice.below(4)].to_owned(),
            20 => ["allcommands", "nocommands", "+@all", "-@all"][dice.below(4)].to_owned(),
            21 => ["db=0", "db=0,1", "db=1", "alldbs", "resetdbs"][dice.below(5)].to_owned(),
            22..26 => "on".to_owned(),
            26 => "off".to_owned(),
            27 => "nopass".to_owned(),
            28..31 => format!(">{}", dice.pick(&PASSWORDS)),
            31 => format!("<{}", dice.pick(&PASSWORDS)),
            32 => ["resetpass", "clearselectors", "sanitize-payload", "reset"][dice.below(4)].to_owned(),
            33 => self.nonsense(dice),
            34 => format!("+{}|{}", command.split('|').next().unwrap_or(command), dice.below(2)),
            _ => {
                let rules: Vec<String> = (0..=dice.below(3)).map(|_| self.rule(dice, false)).collect();
                format!("({})", rules.join(" "))
            }
        }
    }

    fn nonsense(&self, dice: &mut Dice) -> String {
        let words = [
            "bogus",
            "+nothing",
            "-nothing",
            "+@nothing",
            "%~a",
            "%X~a",
            "%",
            "#abc",
            "!abc",
            "(+get",
            "+get)",
            "()",
            "(on)",
            "+",
            "-",
            "+@",
            "-@",
            "~a b",
            "&a b",
            ">",
            "<",
            "db=",
            "db=x",
            "db=1,",
            "+config|get|x",
            "+config|nothing",
            "+get|",
            "+|get",
            "%R~",
        ];
        (*dice.pick(&words)).to_owned()
    }

    fn compare(&mut self, case: usize, command: &[String]) {
        let mine = masked(without_repeated_selectors(self.ours.ask(command)));
        let other = masked(without_repeated_selectors(self.theirs.ask(command)));
        self.judge(case, command.join(" "), &mine, &other);
    }

    /// Runs a command as the user, each time on a fresh connection.
    fn really(&mut self, case: usize, user: &str, password: &str, command: &[String]) {
        let ask = |address| {
            let mut client = Client::connect(address).expect("the server accepts");
            let login = client.ask(&["AUTH", user, password]);
            if login.is_ok() { client.ask(command) } else { login }
        };
        let (mine, other) = (ask(self.our_address), ask(self.their_address));
        // Only the decision is compared: sets and scans may come in another order.
        let (mine, other) = (decision(mine), decision(other));
        self.judge(case, format!("as {user}/{password}: {}", command.join(" ")), &mine, &other);
    }

    fn judge(&mut self, case: usize, what: String, mine: &Value, other: &Value) {
        self.compared += 1;
        let text = other.text().unwrap_or_default();
        self.denied += usize::from(text.contains("no permissions") || text.contains("No permissions"));
        self.allowed += usize::from(text == "OK" || text == "allowed");
        let same = mine == other || same_refusal(mine, other);
        let mine = mine.to_string();
        let other = other.to_string();
        self.history.push(what.clone());
        if !same {
            let recent = self.history.len().saturating_sub(6);
            let story = self.history[recent..].join("\n    ");
            // From here on the two may hold different users: they start again from none.
            let forget = ["ACL", "DELUSER", USERS[0], USERS[1], USERS[2], USERS[3]];
            self.ours.ask(&forget);
            self.theirs.ask(&forget);
            self.problems
                .push(format!("case {case}: {what}\n  ours:   {mine}\n  theirs: {other}\n  after\n    {story}"));
        }
    }
}

/// Whether both refuse, for reasons that [`DIFFERENCES`] lets stand for each other.
fn same_refusal(mine: &Value, other: &Value) -> bool {
    let (Some(mine), Some(other)) = (mine.text(), other.text()) else { return false };
    let denies = |text: &str| text.contains("no permissions to") || text.contains("No permissions to");
    let on_database = |text: &str| text.contains("access database");
    if denies(&mine) && denies(&other) && (on_database(&mine) || on_database(&other)) {
        return true;
    }
    let bad_form = mine.strip_suffix("Syntax error");
    bad_form.is_some_and(|word| other.starts_with(&format!("{word}Adding a pattern after")))
}

/// An error about a password, without the password.
fn masked(reply: Value) -> Value {
    let Value::Error(text) = &reply else { return reply };
    let Some((before, rest)) = text.split_once("modifier '<") else { return reply };
    let Some((_, after)) = rest.split_once("': ") else { return reply };
    Value::Error(format!("{before}modifier '<***': {after}"))
}

/// The user's decision about a command: refused with which text, or not.
fn decision(reply: Value) -> Value {
    match reply {
        Value::Error(text)
            if text.starts_with("NOPERM") || text.starts_with("WRONGPASS") || text.starts_with("NOAUTH") =>
        {
            Value::Error(text)
        }
        _ => Value::Simple("allowed".to_owned()),
    }
}

fn call(dice: &mut Dice) -> Vec<String> {
    let shape = *dice.pick(&CALLS);
    shape.iter().map(|word| if *word == "K" { (*dice.pick(&KEYS)).to_owned() } else { (*word).to_owned() }).collect()
}

fn names(client: &mut Client) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let listed = client.ask(&["COMMAND"]);
    let mut open: Vec<&Value> = listed.items().unwrap_or_default().iter().collect();
    while let Some(row) = open.pop() {
        let fields = row.items().unwrap_or_default();
        found.extend(fields.first().and_then(Value::text).map(|name| name.to_lowercase()));
        open.extend(fields.get(9).and_then(Value::items).unwrap_or_default());
    }
    found
}

/// Drops a selector that already stood before it, from an `ACL LIST` line or a `GETUSER` reply.
fn without_repeated_selectors(reply: Value) -> Value {
    let Value::Array(items) = reply else { return reply };
    let is_user = items.first().and_then(Value::text).as_deref() == Some("flags");
    let items = items.into_iter().enumerate().map(|(index, item)| match item {
        Value::Bulk(line) if !is_user => Value::Bulk(unrepeated_line(&String::from_utf8_lossy(&line)).into_bytes()),
        Value::Array(selectors) if is_user && index == 13 => Value::Array(unrepeated(selectors)),
        other => other,
    });
    Value::Array(items.collect())
}

fn unrepeated_line(line: &str) -> String {
    let mut parts = line.split(" (");
    let root = parts.next().unwrap_or_default().to_owned();
    let selectors = unrepeated(parts.map(|part| part.trim_end_matches(')').to_owned()).collect());
    selectors.into_iter().fold(root, |line, selector| format!("{line} ({selector})"))
}

fn unrepeated<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}
