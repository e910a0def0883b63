//! Transcripts: conversations as redis-cli shows them, read from `tests/transcripts` and replayed against any server.
//!
//! ```text
//! # Anything after a number sign is for the reader, except the words below.
//! > SET a 1                          a command of the connection logged in as nobody in particular
//! OK                                 what must come back, as redis-cli prints it
//! alice> GET cache:1                 on a connection logged in as alice with the password `secret`
//! alice:2> GET cache:1               on another one of hers
//! (integer) …                        an ellipsis stands for anything, over lines too
//! ```
//!
//! | a line of | means |
//! |---|---|
//! | `# only: keyward` or `# only: valkey` | before the first command: the file; later: the next command |
//! | `# skip: valkey <why>` | the other way round, with the reason |
//! | `# valkey: <text>` after a reply | Valkey says this instead: a deliberate difference |
//! | `# password: alice hunter2` | alice logs in with this password from here on |
//! | `# unordered` / `# unordered pairs` | the elements of the next reply may come in any order |
//! | `# eventually` | the next command is repeated until it answers as written |
//! | `# closed: alice:2` | the server must close that connection |
//!
//! Every file starts on an empty server: no keys, no users but `default`.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::workspace;
use crate::{Client, Value, poll, show};

/// How long `# eventually` and `# closed` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Ours.
    Keyward,
    /// The reference that proves the transcript right.
    Valkey,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    line: usize,
    session: String,
    arguments: Vec<Vec<u8>>,
    only: Option<Server>,
    order: Order,
    eventually: bool,
    /// The reply as written, lines joined.
    expected: String,
    /// What Valkey says instead.
    valkey: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Given,
    Any,
    AnyPairs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Step(Box<Step>),
    Password { user: String, password: String },
    Closed { line: usize, session: String, only: Option<Server> },
}

/// A parsed transcript.
#[derive(Clone, Debug)]
pub struct Transcript {
    path: PathBuf,
    only: Option<Server>,
    items: Vec<Item>,
}

/// Every transcript of the project, sorted by path.
pub fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&workspace().join("tests/transcripts"), &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the transcripts' folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            found.push(path);
        }
    }
}

impl Transcript {
    /// Reads a file; panics with file:line on a line it does not understand.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut parser =
            Parser { path: path.to_owned(), only: None, items: Vec::new(), next: Step::default(), open: false };
        for (index, line) in text.lines().enumerate() {
            parser.line(index + 1, line);
        }
        Self { path: parser.path, only: parser.only, items: parser.items }
    }

    /// The commands it asks, in lower case; subcommands are not told apart.
    pub fn commands(&self) -> Vec<String> {
        let steps = self.items.iter().filter_map(|item| match item {
            Item::Step(step) => step.arguments.first(),
            _ => None,
        });
        steps.map(|name| String::from_utf8_lossy(name).to_lowercase()).collect()
    }

    /// Replays it and reports every difference; `Ok` carries the number of commands asked.
    pub fn play(&self, server: Server, address: SocketAddr) -> Result<usize, String> {
        if self.only.is_some_and(|only| only != server) {
            return Ok(0);
        }
        empty(address).map_err(|error| format!("{}: cannot empty the server: {error}", self.path.display()))?;
        let mut sessions = Sessions { address, open: HashMap::new(), passwords: HashMap::new() };
        let mut asked = 0;
        let mut differences = String::new();
        for item in &self.items {
            let difference = match item {
                Item::Password { user, password } => {
                    sessions.passwords.insert(user.clone(), password.clone());
                    None
                }
                Item::Closed { only, .. } if only.is_some_and(|only| only != server) => None,
                Item::Closed { line, session, .. } => {
                    sessions.must_close(session).map(|problem| format!("{line}: {problem}"))
                }
                Item::Step(step) if step.only.is_some_and(|only| only != server) => None,
                Item::Step(step) => {
                    asked += 1;
                    let answer = sessions.check(step, server);
                    (!answer.right).then(|| format!("{}: {}", step.line, answer.report(step)))
                }
            };
            if let Some(difference) = difference {
                let _ = writeln!(differences, "{}:{difference}", self.path.display());
            }
        }
        if differences.is_empty() { Ok(asked) } else { Err(differences) }
    }

    /// The file's text with every reply as `server` gives it now; replies with an ellipsis that still match are kept.
    pub fn record(&self, server: Server, address: SocketAddr) -> io::Result<String> {
        empty(address)?;
        let mut sessions = Sessions { address, open: HashMap::new(), passwords: HashMap::new() };
        let text = fs::read_to_string(&self.path)?;
        let lines: Vec<&str> = text.lines().collect();
        let mut replies: HashMap<usize, String> = HashMap::new();
        for item in &self.items {
            match item {
                Item::Password { user, password } => {
                    sessions.passwords.insert(user.clone(), password.clone());
                }
                Item::Closed { session, .. } => {
                    sessions.open.remove(session);
                }
                Item::Step(step) if step.only.is_some_and(|only| only != server) => {
                    replies.insert(step.line, step.expected.clone());
                }
                Item::Step(step) => {
                    let answer = sessions.check(step, server);
                    let reply = if answer.right { step.expected.clone() } else { answer.actual };
                    replies.insert(step.line, reply);
                }
            }
        }
        Ok(rewrite(&lines, &replies))
    }
}

fn rewrite(lines: &[&str], replies: &HashMap<usize, String>) -> String {
    let mut out = String::new();
    let mut in_reply = false;
    for (index, line) in lines.iter().enumerate() {
        let starts_command = prompt(line).is_some();
        if in_reply && !starts_command && !line.is_empty() && !line.starts_with('#') {
            continue;
        }
        in_reply = starts_command;
        let _ = writeln!(out, "{line}");
        if let Some(reply) = replies.get(&(index + 1)) {
            let _ = writeln!(out, "{reply}");
        }
    }
    out
}

/// `name> command` → (name, command).
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (session, command) = line.split_once("> ")?;
    let plain = session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    plain.then_some((session, command))
}

struct Parser {
    path: PathBuf,
    only: Option<Server>,
    items: Vec<Item>,
    /// Directives gathered for the command to come.
    next: Step,
    /// Whether reply lines are being read for the last step.
    open: bool,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) {
        if let Some((session, command)) = prompt(line) {
            let mut step = std::mem::take(&mut self.next);
            step.line = number;
            step.session = session.to_owned();
            step.arguments = words(command).unwrap_or_else(|problem| self.refuse(number, problem));
            self.items.push(Item::Step(Box::new(step)));
            self.open = true;
        } else if let Some(comment) = line.strip_prefix('#') {
            self.comment(number, comment.trim());
        } else if line.is_empty() {
            self.open = false;
        } else if self.open {
            let step = self.last_step(number);
            append_line(&mut step.expected, line);
        } else {
            self.refuse(number, "neither a command, a reply nor a comment");
        }
    }

    fn comment(&mut self, number: usize, comment: &str) {
        let (word, rest) = comment.split_once(':').map_or((comment, ""), |(word, rest)| (word, rest.trim()));
        match word {
            "valkey" if self.open => append_line(self.last_step(number).valkey.get_or_insert_default(), rest),
            "only" => self.restrict(number, rest, false),
            "skip" => self.restrict(number, rest, true),
            "unordered" => self.next.order = Order::Any,
            "unordered pairs" => self.next.order = Order::AnyPairs,
            "eventually" => self.next.eventually = true,
            "password" => {
                let (user, password) = rest.split_once(' ').unwrap_or_else(|| self.refuse(number, "user password"));
                self.items.push(Item::Password { user: user.to_owned(), password: password.to_owned() });
            }
            "closed" => {
                let only = self.next.only.take();
                self.items.push(Item::Closed { line: number, session: rest.to_owned(), only });
            }
            _ => {}
        }
    }

    fn restrict(&mut self, number: usize, rest: &str, skip: bool) {
        let named = match rest.split(' ').next() {
            Some("keyward") => Server::Keyward,
            Some("valkey") => Server::Valkey,
            _ => self.refuse(number, "only keyward and valkey are known"),
        };
        let only = match (named, skip) {
            (Server::Keyward, false) | (Server::Valkey, true) => Server::Keyward,
            (Server::Valkey, false) | (Server::Keyward, true) => Server::Valkey,
        };
        let before_everything = self.items.is_empty() && number <= 3;
        if before_everything {
            self.only = Some(only);
        } else {
            self.next.only = Some(only);
        }
    }

    fn last_step(&mut self, number: usize) -> &mut Step {
        match self.items.last_mut() {
            Some(Item::Step(step)) => step,
            _ => panic!("{}:{number}: a reply without a command", self.path.display()),
        }
    }

    fn refuse(&self, number: usize, problem: &str) -> ! {
        panic!("{}:{number}: {problem}", self.path.display())
    }
}

fn append_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

/// Splits a command line as redis-cli does: words, "quoted \x00 words" and 'plain quotes'.
pub fn words(line: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    let bytes = line.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        let Some(first) = bytes.get(at) else { return Ok(found) };
        let (word, after) = match first {
            b'"' => double_quoted(bytes, at + 1)?,
            b'\'' => {
                let length = bytes[at + 1..].iter().position(|byte| *byte == b'\'').ok_or("an unclosed quote")?;
                (bytes[at + 1..at + 1 + length].to_vec(), at + length + 2)
            }
            _ => {
                let length = bytes[at..].iter().position(u8::is_ascii_whitespace).unwrap_or(bytes.len() - at);
                (bytes[at..at + length].to_vec(), at + length)
            }
        };
        found.push(word);
        at = after;
    }
}

fn double_quoted(bytes: &[u8], mut at: usize) -> Result<(Vec<u8>, usize), &'static str> {
    let mut word = Vec::new();
    loop {
        match (bytes.get(at).ok_or("an unclosed quote")?, bytes.get(at + 1)) {
            (b'"', _) => return Ok((word, at + 1)),
            (b'\\', Some(b'x')) => {
                let digits = bytes.get(at + 2..at + 4).and_then(|hex| std::str::from_utf8(hex).ok());
                let byte = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or("\\x wants two digits")?;
                word.push(byte);
                at += 4;
            }
            (b'\\', Some(escaped)) => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    other => *other,
                });
                at += 2;
            }
            (byte, _) => {
                word.push(*byte);
                at += 1;
            }
        }
    }
}

struct Answer {
    right: bool,
    expected: String,
    actual: String,
}

impl Answer {
    fn report(&self, step: &Step) -> String {
        format!("{}\n  expected: {}\n  answered: {}", step.spell(), indent(&self.expected), indent(&self.actual))
    }
}

/// The connections of one replay.
struct Sessions {
    address: SocketAddr,
    open: HashMap<String, Client>,
    passwords: HashMap<String, String>,
}

impl Sessions {
    fn check(&mut self, step: &Step, server: Server) -> Answer {
        let expected = match (server, &step.valkey) {
            (Server::Valkey, Some(theirs)) => theirs.clone(),
            _ => step.expected.clone(),
        };
        let mut actual = self.ask(step);
        if step.eventually {
            poll(PATIENCE, || {
                let right = matches(&expected, &actual, step.order);
                if !right {
                    actual = self.ask(step);
                }
                right.then_some(())
            });
        }
        Answer { right: matches(&expected, &actual, step.order), expected, actual }
    }

    fn ask(&mut self, step: &Step) -> String {
        let reply = match self.session(&step.session) {
            Ok(client) => client.call(&step.arguments),
            Err(error) => Err(error),
        };
        match reply {
            Ok(value) => ordered(value, step.order),
            Err(error) => {
                self.open.remove(&step.session);
                format!("(connection) {error}")
            }
        }
    }

    fn session(&mut self, name: &str) -> io::Result<&mut Client> {
        if !self.open.contains_key(name) {
            let user = name.split(':').next().unwrap_or_default();
            let client = if user.is_empty() {
                Client::connect(self.address)?
            } else {
                let password = self.passwords.get(user).map_or("secret", String::as_str);
                Client::login(self.address, user, password)?
            };
            self.open.insert(name.to_owned(), client);
        }
        Ok(self.open.get_mut(name).expect("it was inserted above"))
    }

    fn must_close(&mut self, name: &str) -> Option<String> {
        let Some(mut client) = self.open.remove(name) else {
            return Some(format!("{name} was never connected"));
        };
        let closed = poll(PATIENCE, || client.is_closed().then_some(()));
        closed.is_none().then(|| format!("the connection of {name} is still open"))
    }
}

impl Step {
    fn spell(&self) -> String {
        let words: Vec<_> = self.arguments.iter().map(|word| String::from_utf8_lossy(word)).collect();
        format!("{}> {}", self.session, words.join(" "))
    }
}

fn indent(text: &str) -> String {
    text.replace('\n', "\n            ")
}

/// The reply as text; elements sorted when their order means nothing.
fn ordered(value: Value, order: Order) -> String {
    let items = match (order, value) {
        (Order::Given, value) => return show(&value).trim_end_matches('\n').to_owned(),
        (_, Value::Array(items) | Value::Set(items)) => items,
        (_, value) => return show(&value).trim_end_matches('\n').to_owned(),
    };
    let width = if order == Order::AnyPairs { 2 } else { 1 };
    let mut groups: Vec<Vec<Value>> = items.chunks(width).map(<[Value]>::to_vec).collect();
    groups.sort_by_key(|group| group.iter().map(show).collect::<String>());
    show(&Value::Array(groups.concat())).trim_end_matches('\n').to_owned()
}

/// Whether `actual` is what was written; `…` stands for anything.
fn matches(expected: &str, actual: &str, order: Order) -> bool {
    if order == Order::Given {
        return matches_with_gaps(expected, actual);
    }
    expected == actual
}

fn matches_with_gaps(expected: &str, actual: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// No keys, no users but `default`, an empty ACL log.
fn empty(address: SocketAddr) -> io::Result<()> {
    let mut client = Client::connect(address)?;
    let mut must = |arguments: &[String]| -> io::Result<Value> {
        match client.call(arguments)? {
            Value::Error(text) => Err(io::Error::other(format!("{}: {text}", arguments.join(" ")))),
            reply => Ok(reply),
        }
    };
    let words = |line: &str| line.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
    must(&words("FLUSHALL"))?;
    let users = must(&words("ACL USERS"))?.texts();
    let others: Vec<String> = users.into_iter().filter(|user| user != "default").collect();
    if !others.is_empty() {
        must(&[words("ACL DELUSER"), others].concat())?;
    }
    must(&words("ACL LOG RESET"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_redis_cli_splits_them() {
        let split = words(r#"SET "a\x00b\n" 'it is' plain"#).unwrap();
        assert_eq!(split, [b"SET".to_vec(), b"a\0b\n".to_vec(), b"it is".to_vec(), b"plain".to_vec()]);
        assert!(words("\"open").is_err());
    }

    #[test]
    fn an_ellipsis_stands_for_anything() {
        assert!(matches_with_gaps("(integer) …", "(integer) 17"));
        assert!(matches_with_gaps("1) …\n2) \"x\"", "1) \"a\"\n2) \"x\""));
        assert!(!matches_with_gaps("a…b", "a"));
        assert!(!matches_with_gaps("a", "ab"));
    }

    #[test]
    fn a_reply_is_not_a_prompt() {
        assert_eq!(prompt("alice:2> GET a"), Some(("alice:2", "GET a")));
        assert_eq!(prompt("> PING"), Some(("", "PING")));
        assert_eq!(prompt("(error) ERR a > b"), None);
    }
}
