//! What the source is asked: who are you, where does your stream stand, let us follow. One function per question; the
//! answers become sentences. Knows what Redis, Valkey and those like them say, and nothing of what is here.

use super::followed::Sample;
use super::wire::{Link, text};
use super::{Failure, Options, SourceAddress};
use crate::node::now_ms;
use keyward_proto::resp::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What the source says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Such as `redis 7.0.15`.
    pub(super) server: String,
    /// It is a node of a cluster.
    pub(super) clustered: bool,
    /// Keys it counts in all databases.
    pub(super) keys: u64,
    /// The databases with keys, and how many keys are in each.
    pub(super) databases: BTreeMap<u32, u64>,
    /// The length of its stream.
    pub(super) offset: u64,
    replica_of: Option<String>,
    loading: bool,
    scripts_travel: bool,
}

impl Facts {
    pub(super) fn read(info: &str) -> Facts {
        let fields: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let field = |name: &str| fields.get(name).copied();
        let named = [("valkey_version", "valkey"), ("dragonfly_version", "dragonfly"), ("redis_version", "redis")];
        let server = named.iter().find_map(|(name, server)| field(name).map(|version| format!("{server} {version}")));
        let databases: BTreeMap<u32, u64> = fields
            .iter()
            .filter_map(|(name, value)| {
                let number = name.strip_prefix("db")?.parse().ok()?;
                let keys = value.strip_prefix("keys=")?.split(',').next()?.parse().ok()?;
                Some((number, keys))
            })
            .collect();
        let is_replica = matches!(field("role"), Some("slave" | "replica"));
        let primary = || format!("{}:{}", field("master_host").unwrap_or("?"), field("master_port").unwrap_or("?"));
        let major = field("redis_version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        Facts {
            server: server.unwrap_or_default(),
            clustered: field("cluster_enabled") == Some("1") || field("redis_mode") == Some("cluster"),
            keys: databases.values().sum(),
            databases,
            offset: field("master_repl_offset").and_then(|offset| offset.parse().ok()).unwrap_or(0),
            replica_of: is_replica.then(primary),
            loading: field("loading") == Some("1"),
            scripts_travel: major.is_some_and(|major| major < 7),
        }
    }

    /// The length of its stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What an operator should know before relying on it.
    pub(super) fn remarks(&self, options: &Options) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.clustered {
            let text = "the source is one node of a cluster: only the keys of its own slots come from it";
            remarks.push(text.to_owned());
        }
        if self.scripts_travel {
            let text = "the source is older than Redis 7: scripts travel as scripts and run here anew";
            remarks.push(text.to_owned());
        }
        if options.database.is_some() {
            let text = "MOVE, COPY and SWAPDB between databases are not followed while only one is imported";
            remarks.push(text.to_owned());
        }
        remarks
    }
}

/// Connects and logs in.
pub(super) fn connect(address: &SourceAddress, stop: &Arc<AtomicBool>) -> Result<Link, Failure> {
    let mut link = Link::open(address, stop)?;
    let password = address.password.as_ref().map_or("", |password| password.expose()).as_bytes();
    let answer = match &address.user {
        Some(user) => Some(link.call(&[b"AUTH", user.as_bytes(), password])?),
        None if address.password.is_some() => Some(link.call(&[b"AUTH", password])?),
        None => None,
    };
    if let Some(answer) = answer
        && let Value::Error(_) = answer
    {
        return Err(not_let_in(address, &text(&answer)));
    }
    let answer = link.call(&[b"PING"])?;
    match text(&answer) {
        said if said.starts_with("NOAUTH") => {
            Err(Failure::Final(format!("{address} wants a password: name it, or user and password")))
        }
        said if said.starts_with("LOADING") => Err(loading(address)),
        said if said.starts_with("MASTERDOWN") => Err(Failure::Lost(format!("{address} has lost its own primary"))),
        // A user without PING may still do everything else.
        _ => Ok(link),
    }
}

fn not_let_in(address: &SourceAddress, said: &str) -> Failure {
    if said.starts_with("LOADING") {
        return loading(address);
    }
    let sentence = if said.starts_with("WRONGPASS") || said.contains("invalid password") {
        format!("{address} says that user name or password are wrong")
    } else if said.contains("without any password configured") {
        format!("{address} has no password for its default user: leave it out, or name a user")
    } else {
        format!("{address} does not let us log in: {said}")
    };
    Failure::Final(sentence)
}

fn loading(address: &SourceAddress) -> Failure {
    Failure::Lost(format!("{address} is still loading its own data"))
}

/// Asks the source who it is.
pub(super) fn facts(link: &mut Link, address: &impl fmt::Display) -> Result<Facts, Failure> {
    let answer = link.call(&[b"INFO"])?;
    if let Value::Error(_) = answer {
        return Err(Failure::Final(format!("{address} must allow INFO, and says: {}", text(&answer))));
    }
    Ok(Facts::read(&text(&answer)))
}

/// Connects and looks whether an import from there makes sense.
pub(super) fn inspect(address: &SourceAddress, stop: &Arc<AtomicBool>) -> Result<Facts, Failure> {
    let mut link = connect(address, stop)?;
    let facts = facts(&mut link, address)?;
    if let Some(primary) = &facts.replica_of {
        let text = format!("{address} is itself a replica, of {primary}: import from its primary");
        return Err(Failure::Final(text));
    }
    if facts.loading {
        return Err(loading(address));
    }
    Ok(facts)
}

/// The source's clock, in milliseconds since 1970; ours if it does not tell.
pub(super) fn clock_ms(link: &mut Link) -> Result<i64, Failure> {
    Ok(clock_of(&link.call(&[b"TIME"])?))
}

/// The same from an answer of `TIME`.
pub(super) fn clock_of(answer: &Value) -> i64 {
    let told = match answer {
        Value::Array(parts) => {
            let part = |index: usize| parts.get(index).and_then(|part| text(part).parse::<i64>().ok());
            part(0).zip(part(1)).map(|(seconds, microseconds)| seconds * 1000 + microseconds / 1000)
        }
        _ => None,
    };
    told.unwrap_or_else(now_ms)
}

/// Asks where its stream stands.
pub(super) fn sample(link: &mut Link) -> Result<Sample, Failure> {
    let source_ms = clock_ms(link)?;
    let answer = link.call(&[b"INFO", b"replication"])?;
    // The offset is the later of the two: what lies behind it ran after that time.
    Ok(Sample { offset: Facts::read(&text(&answer)).offset, source_ms, at: Instant::now() })
}

/// Where we stopped in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Whose stream.
    pub(super) id: String,
    /// Everything up to there was applied.
    pub(super) offset: u64,
}

/// What the source gives us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// A whole copy, then its stream from there on.
    Copy(Place),
    /// The stream, from where we stopped; it may have another name now.
    Rest(Option<String>),
}

/// Asks to be treated as a replica, one that knows `known`.
pub(super) fn follow(link: &mut Link, known: Option<&Place>) -> Result<Given, Failure> {
    // Port 0: nobody shall find this node among the source's replicas and take it for one (Sentinel would).
    for argv in
        [&[b"REPLCONF".as_slice(), b"listening-port", b"0"][..], &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]]
    {
        let answer = link.call(argv)?;
        if let Value::Error(_) = answer {
            return Err(refusal(&text(&answer)));
        }
    }
    // Valkey makes its copy in the form of an old version for who does not say this, and cannot if fields of hashes expire.
    // Redis knows no such word, which is as good.
    link.call(&[b"REPLCONF", b"version", b"9.0.0"])?;
    let offset = known.map_or("-1".to_owned(), |known| (known.offset + 1).to_string());
    let id = known.map_or("?", |known| known.id.as_str());
    link.send(&[b"PSYNC", id.as_bytes(), offset.as_bytes()])?;
    let line = loop {
        let line = link.line()?;
        // Line feeds say that it is still there.
        if !line.is_empty() {
            break String::from_utf8_lossy(&line).into_owned();
        }
    };
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("+FULLRESYNC") => {
            let place = words.next().zip(words.next().and_then(|offset| offset.parse().ok()));
            let (id, offset) =
                place.ok_or_else(|| Failure::Final(format!("the source answered PSYNC with: {line}")))?;
            Ok(Given::Copy(Place { id: id.to_owned(), offset }))
        }
        Some("+CONTINUE") => Ok(Given::Rest(words.next().map(str::to_owned))),
        _ => Err(refusal(line.strip_prefix('-').unwrap_or(&line))),
    }
}

fn refusal(said: &str) -> Failure {
    if said.starts_with("NOMASTERLINK") || said.starts_with("LOADING") {
        return Failure::Lost(format!("the source is not ready to be followed: {said}"));
    }
    Failure::NoStream(said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_info() {
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nloading:0\r\nrole:master\r\n\
            master_repl_offset:4711\r\n# Keyspace\r\ndb0:keys=12,expires=1,avg_ttl=5\r\ndb9:keys=3,expires=0\r\n";
        let facts = Facts::read(info);
        assert_eq!((facts.server.as_str(), facts.keys, facts.offset), ("redis 7.0.15", 15, 4711));
        assert_eq!(facts.databases, BTreeMap::from([(0, 12), (9, 3)]));
        assert!(facts.replica_of.is_none() && !facts.loading && !facts.clustered && !facts.scripts_travel);
        let replica =
            Facts::read("redis_version:6.2.1\r\nrole:slave\r\nmaster_host:a\r\nmaster_port:1\r\nloading:1\r\n");
        assert_eq!(replica.replica_of.as_deref(), Some("a:1"));
        assert!(replica.loading && replica.scripts_travel);
        assert_eq!(Facts::read("redis_version:7.2.4\r\nvalkey_version:9.0.0\r\n").server, "valkey 9.0.0");
    }
}
