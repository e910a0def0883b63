//! What watched users do: commands, beginnings of keys, channels, databases; each with a count, and no value ever.
//!
//! ```text
//!   app:user:17:name  app:user:18:name …        app: ─ user: ─ *         (more than some, so only their beginning)
//!   app:config                                       └ config            (the key itself)
//! ```
//! Names are learned as a tree of their parts, cut at delimiters. A branch that grows too many twigs is kept as a beginning.
//! Everything has a bound; what went beyond one is said. Each data thread keeps its own, locked by nobody else but whoever
//! asks, and only for users whose rule is `mode=report`, or with `record-traffic`.

use keyward_proto::admin as pb;
use std::collections::{BTreeMap, BTreeSet};

/// Users one thread remembers.
const USERS_MAX: usize = 256;
/// Different parts below one beginning; with more, only the beginning is kept.
const TWIGS_MAX: usize = 12;
/// Parts of a name that are told apart; what comes after them is not.
const DEPTH_MAX: usize = 4;
/// Parts remembered of one user, all together.
const PARTS_MAX: usize = 1024;
/// The longest part that is remembered.
const PART_BYTES_MAX: usize = 128;
/// Channels of one user.
const CHANNELS_MAX: usize = 256;
/// What separates the parts of a name. A part ends with its delimiter.
const DELIMITERS: &[u8] = b":/.|";

/// What one thread saw.
#[derive(Default)]
pub struct Traffic {
    users: BTreeMap<Box<[u8]>, Seen>,
}

/// What was seen of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Since when, milliseconds since 1970.
    pub since_ms: i64,
    /// Commands by full name.
    pub commands: BTreeMap<String, Count>,
    /// Keys.
    pub keys: Branch,
    /// Channels, and whether they are patterns.
    pub channels: BTreeMap<(Vec<u8>, bool), Count>,
    /// Databases.
    pub databases: BTreeSet<u32>,
    /// There was more.
    pub overflowed: bool,
    parts: usize,
}

/// How often, and how often against the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// In all.
    pub total: u64,
    /// Of that, forbidden.
    pub denied: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.total += other.total;
        self.denied += other.denied;
    }
}

/// What was done to keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// How often.
    pub count: Count,
    /// Read.
    pub read: bool,
    /// Written.
    pub written: bool,
}

impl Use {
    fn add(&mut self, other: Use) {
        self.count.add(other.count);
        self.read |= other.read;
        self.written |= other.written;
    }

    fn is_empty(&self) -> bool {
        self.count.total == 0
    }
}

/// Names with a common beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// The name that ends here.
    here: Use,
    /// All that go on in ways that are not told apart.
    beyond: Use,
    /// They branch in too many ways: nothing below is told apart any more.
    folded: bool,
    twigs: BTreeMap<Vec<u8>, Branch>,
}

/// One command that was run, or would have been.
pub struct Deed<'a> {
    /// Its full name.
    pub command: &'a str,
    /// The keys it names, and what is done to them.
    pub keys: &'a [keyward_acl::KeyUse<'a>],
    /// The channels it names, and whether they are patterns.
    pub channels: &'a [keyward_acl::ChannelUse<'a>],
    /// The database it runs in.
    pub database: u32,
    /// The rules forbid it.
    pub denied: bool,
}

impl Traffic {
    /// Remembers what a user did.
    pub fn note(&mut self, user: &[u8], now_ms: i64, deed: &Deed<'_>) {
        if !self.users.contains_key(user) {
            if self.users.len() >= USERS_MAX {
                return;
            }
            self.users.insert(user.into(), Seen { since_ms: now_ms, ..Seen::default() });
        }
        if let Some(seen) = self.users.get_mut(user) {
            seen.note(deed);
        }
    }

    /// What was seen of a user.
    pub fn of(&self, user: &[u8]) -> Option<&Seen> {
        self.users.get(user)
    }

    /// Forgets all but those for whom `stays` says yes.
    pub fn retain(&mut self, stays: impl Fn(&[u8]) -> bool) {
        self.users.retain(|user, _| stays(user));
    }
}

impl Seen {
    fn note(&mut self, deed: &Deed<'_>) {
        let count = Count { total: 1, denied: u64::from(deed.denied) };
        match self.commands.get_mut(deed.command) {
            Some(known) => known.add(count),
            None => _ = self.commands.insert(deed.command.to_owned(), count),
        }
        for named in deed.keys {
            self.note_key(
                named.key,
                Use { count, read: !named.access.write || named.access.read, written: named.access.write },
            );
        }
        for named in deed.channels {
            self.note_channel(named.channel, named.pattern, count);
        }
        if !deed.keys.is_empty() {
            self.databases.insert(deed.database);
        }
    }

    fn note_key(&mut self, key: &[u8], what: Use) {
        self.parts += self.keys.add(parts_of(key), what, self.parts < PARTS_MAX, &mut self.overflowed);
    }

    fn note_channel(&mut self, name: &[u8], pattern: bool, count: Count) {
        let name = name[..name.len().min(PART_BYTES_MAX)].to_vec();
        let room = self.channels.len() < CHANNELS_MAX;
        match self.channels.get_mut(&(name.clone(), pattern)) {
            Some(known) => known.add(count),
            None if room => _ = self.channels.insert((name, pattern), count),
            None => self.overflowed = true,
        }
    }

    /// What another thread or node saw of the same user.
    pub fn join(&mut self, other: &Seen) {
        let other_begins = self.since_ms == 0 || other.since_ms > 0 && other.since_ms < self.since_ms;
        if other_begins {
            self.since_ms = other.since_ms;
        }
        for (name, count) in &other.commands {
            self.commands.entry(name.clone()).or_default().add(*count);
        }
        for (name, whole, what) in other.keys.leaves() {
            if whole {
                self.note_key(&name, what);
            } else {
                self.note_beginning(&name, what);
            }
        }
        for ((name, pattern), count) in &other.channels {
            self.note_channel(name, *pattern, *count);
        }
        self.databases.extend(&other.databases);
        self.overflowed |= other.overflowed;
    }

    /// Names that begin like this and were not told apart.
    fn note_beginning(&mut self, name: &[u8], what: Use) {
        self.parts += self.keys.add_beyond(parts_of(name), what);
    }

    /// As it travels between nodes.
    pub fn to_message(&self) -> pb::Traffic {
        let command = |(name, count): (&String, &Count)| pb::CommandUse {
            name: name.clone(),
            count: count.total,
            denied: count.denied,
        };
        let channel = |((name, pattern), count): (&(Vec<u8>, bool), &Count)| pb::ChannelUse {
            name: name.clone(),
            pattern: *pattern,
            count: count.total,
            denied: count.denied,
        };
        pb::Traffic {
            watched: true,
            since_unix_ms: self.since_ms,
            commands: self.commands.iter().map(command).collect(),
            keys: self.keys.leaves().into_iter().map(|(name, whole, what)| key_use(name, whole, what)).collect(),
            channels: self.channels.iter().map(channel).collect(),
            databases: self.databases.iter().copied().collect(),
            overflowed: self.overflowed,
        }
    }

    /// The same read back.
    pub fn from_message(message: &pb::Traffic) -> Seen {
        let mut seen = Seen { since_ms: message.since_unix_ms, overflowed: message.overflowed, ..Seen::default() };
        for command in &message.commands {
            let count = Count { total: command.count, denied: command.denied };
            seen.commands.entry(command.name.clone()).or_default().add(count);
        }
        for key in &message.keys {
            let count = Count { total: key.count, denied: key.denied };
            let what = Use { count, read: key.read, written: key.written };
            if key.whole { seen.note_key(&key.prefix, what) } else { seen.note_beginning(&key.prefix, what) }
        }
        for channel in &message.channels {
            let count = Count { total: channel.count, denied: channel.denied };
            seen.note_channel(&channel.name, channel.pattern, count);
        }
        seen.databases.extend(&message.databases);
        seen
    }
}

/// One beginning, or one key, as it travels.
pub fn key_use(prefix: Vec<u8>, whole: bool, what: Use) -> pb::KeyUse {
    let Use { count, read, written } = what;
    pb::KeyUse { prefix, whole, read, written, count: count.total, denied: count.denied }
}

impl Branch {
    /// Adds a name; how many parts are remembered more. Without room, or past a bound, only its beginning is kept.
    fn add(&mut self, mut parts: Parts<'_>, what: Use, room: bool, overflowed: &mut bool) -> usize {
        let Some(part) = parts.next() else {
            self.here.add(what);
            return 0;
        };
        let known = self.twigs.contains_key(part);
        let crowded = self.folded || self.twigs.len() >= TWIGS_MAX;
        let too_many = !known && (crowded || !self.beyond.is_empty() && parts.is_over());
        if too_many || part.len() > PART_BYTES_MAX || parts.depth > DEPTH_MAX {
            self.beyond.add(what);
            if self.twigs.len() >= TWIGS_MAX {
                self.prune();
            }
            return 0;
        }
        if !known && !room {
            *overflowed = true;
            self.beyond.add(what);
            return 0;
        }
        let twig = self.twigs.entry(part.to_vec()).or_default();
        usize::from(!known) + twig.add(parts, what, room, overflowed)
    }

    fn add_beyond(&mut self, mut parts: Parts<'_>, what: Use) -> usize {
        let Some(part) = parts.next() else {
            self.beyond.add(what);
            return 0;
        };
        if self.folded || parts.depth > DEPTH_MAX || part.len() > PART_BYTES_MAX {
            self.beyond.add(what);
            return 0;
        }
        let known = self.twigs.contains_key(part);
        usize::from(!known) + self.twigs.entry(part.to_vec()).or_default().add_beyond(parts, what)
    }

    /// Twigs that are single names, and so many of them, become part of what lies beyond.
    fn prune(&mut self) {
        let beyond = &mut self.beyond;
        self.twigs.retain(|_, twig| {
            let single = twig.twigs.is_empty() && twig.beyond.is_empty();
            if single {
                beyond.add(twig.here);
            }
            !single
        });
        // All of them branch: they have nothing in common but this beginning.
        if self.twigs.len() >= TWIGS_MAX {
            self.folded = true;
            for (_, twig) in std::mem::take(&mut self.twigs) {
                twig.leaves().into_iter().for_each(|(_, _, what)| beyond.add(what));
            }
        }
    }

    /// Every name that is known whole (`true`), and every beginning whose rest is not.
    pub fn leaves(&self) -> Vec<(Vec<u8>, bool, Use)> {
        let mut leaves = Vec::new();
        self.collect(&mut Vec::new(), &mut leaves);
        leaves
    }

    fn collect(&self, name: &mut Vec<u8>, leaves: &mut Vec<(Vec<u8>, bool, Use)>) {
        if !self.here.is_empty() {
            leaves.push((name.clone(), true, self.here));
        }
        if !self.beyond.is_empty() {
            leaves.push((name.clone(), false, self.beyond));
        }
        for (part, twig) in &self.twigs {
            let length = name.len();
            name.extend_from_slice(part);
            twig.collect(name, leaves);
            name.truncate(length);
        }
    }
}

/// The parts of a name, each with the delimiter it ends with.
struct Parts<'a> {
    rest: &'a [u8],
    depth: usize,
}

fn parts_of(name: &[u8]) -> Parts<'_> {
    Parts { rest: name, depth: 0 }
}

impl<'a> Parts<'a> {
    /// Whether the part that was just taken was the last.
    fn is_over(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.depth += 1;
        let end = self.rest.iter().position(|byte| DELIMITERS.contains(byte)).map_or(self.rest.len(), |at| at + 1);
        let (part, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_acl::KeyAccess;

    fn seen(keys: &[&str]) -> Seen {
        let mut traffic = Traffic::default();
        for key in keys {
            let named = [keyward_acl::KeyUse { key: key.as_bytes(), access: KeyAccess::READ, argument: 1 }];
            let deed = Deed { command: "get", keys: &named, channels: &[], database: 0, denied: false };
            traffic.note(b"app", 5, &deed);
        }
        traffic.of(b"app").cloned().unwrap_or_default()
    }

    fn names(seen: &Seen) -> Vec<String> {
        let name = |(name, whole, _): (Vec<u8>, bool, Use)| {
            format!("{}{}", String::from_utf8(name).unwrap(), if whole { "" } else { "*" })
        };
        seen.keys.leaves().into_iter().map(name).collect()
    }

    #[test]
    fn a_few_keys_are_kept_and_many_are_a_beginning() {
        assert_eq!(names(&seen(&["app:a", "app:b", "app:a"])), ["app:a", "app:b"]);
        let many: Vec<String> =
            (0..100).map(|number| format!("app:user:{number}")).chain(["app:one".to_owned()]).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(names(&seen(&many)), ["app:one", "app:user:*"]);
        assert_eq!(seen(&many).commands["get"].total, 101);
    }

    #[test]
    fn ids_in_the_middle_of_names_are_not_told_apart() {
        let many: Vec<String> = (0..500).map(|number| format!("bull:{number}:meta")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(names(&seen(&many)), ["bull:*"]);
        let without: Vec<String> = (0..500).map(|number| format!("k{number}")).collect();
        let without: Vec<&str> = without.iter().map(String::as_str).collect();
        assert_eq!(names(&seen(&without)), ["*"], "nothing in common");
    }

    #[test]
    fn it_stays_bounded_and_says_so() {
        let mut all = Seen::default();
        for outer in 0..TWIGS_MAX {
            for middle in 0..TWIGS_MAX {
                for inner in 0..TWIGS_MAX {
                    all.note_key(
                        format!("{outer}:{middle}:{inner}:x").as_bytes(),
                        Use { count: Count { total: 1, denied: 0 }, read: true, written: false },
                    );
                }
            }
        }
        assert!(all.overflowed && all.parts <= PARTS_MAX + DEPTH_MAX, "{}", all.parts);
        assert!(all.keys.leaves().len() <= PARTS_MAX * 2);
        let total: u64 = all.keys.leaves().iter().map(|(_, _, what)| what.count.total).sum();
        assert_eq!(total, (TWIGS_MAX * TWIGS_MAX * TWIGS_MAX) as u64, "nothing is forgotten");
    }

    #[test]
    fn it_crosses_nodes_and_adds_up() {
        let one = seen(&["app:a", "other:x"]);
        let mut both = Seen::from_message(&one.to_message());
        assert_eq!(names(&both), names(&one));
        both.join(&one);
        assert_eq!((both.commands["get"].total, names(&both)), (4, names(&one)));
        assert_eq!(both.since_ms, 5);
    }
}
