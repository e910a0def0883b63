//! The smallest rules that allow what a user was seen doing, and what of its rights it never used.
//!
//! Pure: rules, what was seen and the command table in, sentences out. It advises nothing that was not seen; whoever follows
//! the advice should have watched for long enough, and is told since when.

use crate::insight::traffic::{Seen, Use, key_use};
use keyward_acl::{CommandId, KeyAccess, Policy, Treatment, User, Walls};
use keyward_engine::table::Table;
use keyward_proto::admin as pb;

/// Key patterns advised at most: with more, those with a common beginning become one.
const PATTERNS_MAX: usize = 16;

/// Who is advised.
pub struct Subject<'a> {
    /// The user.
    pub user: &'a User,
    /// Its rules, compiled.
    pub policy: &'a Policy,
    /// What the keys of its tenant begin with; none without a tenant, or in a namespace.
    pub prefixes: Vec<Vec<u8>>,
    /// Whether users without every key are kept within walls.
    pub walls: Walls,
}

/// A pattern that covers some of the keys that were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Advised {
    name: Vec<u8>,
    whole: bool,
    what: Use,
}

impl Advised {
    fn covers(&self, other: &Advised) -> bool {
        !self.whole && other.name.starts_with(&self.name)
    }

    /// As a rule says it.
    fn word(&self) -> String {
        let sigil = match (self.what.read, self.what.written) {
            (true, true) => "~",
            (false, true) => "%W~",
            (_, false) => "%R~",
        };
        let star = if self.whole { "" } else { "*" };
        format!("{sigil}{}{star}", literally(&self.name))
    }
}

/// The advice about `subject`, of whom this was seen.
pub fn advise(table: &Table, subject: &Subject<'_>, seen: &Seen) -> pb::AdviseResponse {
    let patterns = patterns(seen);
    let mut notes = Vec::new();
    if seen.overflowed {
        notes.push("more was seen than is remembered: the advice may lack some of it".to_owned());
    }
    if patterns.iter().any(|pattern| pattern.name.is_empty()) {
        notes.push(
            "its keys begin with nothing in common: give them a prefix, or make it the user of a namespace \
             (TENANT CREATE … NAMESPACE)"
                .to_owned(),
        );
    }
    let beyond = beyond(table, subject, seen, &patterns);
    if !beyond.is_empty() {
        let names = beyond.join(", ");
        notes.push(format!("no rule gives {names} to a user without ~*: that concerns the whole server"));
    }
    let outside: Vec<pb::KeyUse> = patterns_outside(subject, seen);
    if outside.iter().any(|key| key.denied > 0) {
        notes.push("some of its keys are outside its patterns; look at them before a rule allows them".to_owned());
    }
    pb::AdviseResponse {
        watched: true,
        since_unix_ms: seen.since_ms,
        rules: rules(table, seen, &patterns, &beyond),
        current: current(subject.user),
        unused_commands: unused_commands(table, subject.policy, seen),
        unused_patterns: unused_patterns(subject.user, seen),
        outside,
        traffic: Some(seen.to_message()),
        notes,
        silent: Vec::new(),
    }
}

/// The rules it has, without its passwords.
fn current(user: &User) -> Vec<String> {
    let words = user.words().into_iter().filter(|word| word.first() != Some(&b'#'));
    words.map(|word| crate::insight::shown(&word)).collect()
}

/// Commands it ran or tried that a user with these patterns cannot have, whatever its rules say.
fn beyond<'s>(table: &Table, subject: &Subject<'_>, seen: &'s Seen, patterns: &[Advised]) -> Vec<&'s str> {
    let is_every_key =
        |pattern: &Advised| pattern.name.is_empty() && !pattern.whole && pattern.what.read && pattern.what.written;
    let within_walls = subject.walls == Walls::Up && !patterns.iter().any(is_every_key);
    if !within_walls && !subject.policy.is_confined() {
        return Vec::new();
    }
    let never = |name: &&str| match treatment(table, name) {
        Some(Treatment::Never) => true,
        Some(Treatment::OfWholeTenant) => !subject.policy.holds_tenant(),
        _ => false,
    };
    seen.commands.keys().map(String::as_str).filter(never).collect()
}

fn treatment(table: &Table, name: &str) -> Option<Treatment> {
    table.find(name.as_bytes()).map(|row| row.command.scope.treatment())
}

fn rules(table: &Table, seen: &Seen, patterns: &[Advised], beyond: &[&str]) -> Vec<String> {
    let mut rules = vec!["resetkeys".to_owned()];
    rules.extend(patterns.iter().map(Advised::word));
    rules.push("resetchannels".to_owned());
    rules.extend(seen.channels.keys().map(|(name, pattern)| {
        // A pattern that is subscribed to must be granted as it is.
        format!("&{}", if *pattern { crate::insight::shown(name) } else { literally(name) })
    }));
    if seen.databases.iter().any(|database| *database != 0) {
        let numbers: Vec<String> = seen.databases.iter().map(u32::to_string).collect();
        rules.push(format!("db={}", numbers.join(",")));
    }
    rules.push("-@all".to_owned());
    let holds_all = patterns.iter().any(|pattern| pattern.word() == "~*");
    let needs_rule = |name: &&String| {
        table.find(name.as_bytes()).is_some_and(|row| !is_free(row)) && !beyond.contains(&name.as_str())
    };
    rules.extend(seen.commands.keys().filter(needs_rule).map(|name| match treatment(table, name) {
        // Patterns of what was seen hold less than all of a tenant, and it is to hold all for nothing else.
        Some(Treatment::OfWholeTenant) if !holds_all => format!("(~* +{name})"),
        _ => format!("+{name}"),
    }));
    rules
}

/// Whether everybody may run it.
fn is_free(row: &keyward_engine::table::Row) -> bool {
    use keyward_engine::command::Flags;
    use keyward_engine::scope::Scope;
    row.command.flags.has(Flags::NO_AUTH) || matches!(row.command.scope, Scope::Everybody)
}

/// Few patterns for all keys that were seen.
fn patterns(seen: &Seen) -> Vec<Advised> {
    let leaves = seen.keys.leaves().into_iter();
    let mut patterns: Vec<Advised> = leaves.map(|(name, whole, what)| Advised { name, whole, what }).collect();
    loop {
        patterns = without_covered(patterns);
        if patterns.len() <= PATTERNS_MAX {
            return patterns;
        }
        // The longest name gives up its last part: the most special rule says the least.
        let Some(at) = (0..patterns.len()).max_by_key(|at| patterns[*at].name.len()) else { return patterns };
        let name = &patterns[at].name;
        let body = &name[..name.len().saturating_sub(1)];
        let cut = body.iter().rposition(|byte| b":/.|".contains(byte)).map_or(0, |at| at + 1);
        let shorter = Advised { name: name[..cut].to_vec(), whole: false, what: patterns[at].what };
        patterns[at] = shorter;
    }
}

fn without_covered(patterns: Vec<Advised>) -> Vec<Advised> {
    let mut kept: Vec<Advised> = Vec::new();
    let mut sorted = patterns;
    // Beginnings before what they cover.
    sorted.sort_by(|a, b| (a.name.len(), a.whole, &a.name).cmp(&(b.name.len(), b.whole, &b.name)));
    for pattern in sorted {
        match kept.iter_mut().find(|wide| wide.covers(&pattern)) {
            Some(wide) => {
                wide.what.read |= pattern.what.read;
                wide.what.written |= pattern.what.written;
                wide.what.count.total += pattern.what.count.total;
                wide.what.count.denied += pattern.what.count.denied;
            }
            None => kept.push(pattern),
        }
    }
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    kept
}

/// Keys that were seen and that its patterns do not hold, or that are not its tenant's.
fn patterns_outside(subject: &Subject<'_>, seen: &Seen) -> Vec<pb::KeyUse> {
    let own = |name: &[u8]| {
        subject.prefixes.is_empty()
            || subject.prefixes.iter().any(|prefix| {
                let tagged = name.strip_prefix(b"{").is_some_and(|name| name.starts_with(prefix));
                name.starts_with(prefix) || tagged
            })
    };
    let held = |name: &[u8], what: Use| {
        subject.policy.may_access_key(name, KeyAccess { read: what.read, write: what.written })
    };
    let leaves = seen.keys.leaves().into_iter();
    let outside = leaves.filter(|(name, _, what)| what.count.denied > 0 || !own(name) || !held(name, *what));
    outside.map(|(name, whole, what)| key_use(name, whole, what)).collect()
}

/// Commands its rules allow and it never ran; without what everybody may run.
fn unused_commands(table: &Table, policy: &Policy, seen: &Seen) -> Vec<String> {
    let ran = |name: &str| seen.commands.contains_key(name);
    let is_unused = |row: &&keyward_engine::table::Row| {
        let held = policy.is_unrestricted() || policy.holds_command(row.id as CommandId);
        let container = matches!(row.run, keyward_engine::command::Run::Container(_));
        held && !container && !is_free(row) && !ran(row.full_name)
    };
    table.rows().iter().filter(is_unused).map(|row| row.full_name.to_owned()).collect()
}

/// Patterns of its rules that nothing it did needed.
fn unused_patterns(user: &User, seen: &Seen) -> Vec<String> {
    let leaves = seen.keys.leaves();
    let sets = || std::iter::once(&user.root).chain(&user.selectors);
    let matches = |pattern: &[u8], name: &[u8], whole: bool| {
        // A beginning that is no whole name: anything may follow, also what the pattern asks for.
        keyward_acl::glob::matches(pattern, name)
            || !whole && pattern.starts_with(name)
            || !whole && keyward_acl::glob::matches(pattern, &[name, b"x"].concat())
    };
    let unused_key = |pattern: &&keyward_acl::KeyPattern| {
        !leaves.iter().any(|(name, whole, _)| matches(&pattern.pattern, name, *whole))
    };
    let keys =
        sets().flat_map(|set| &set.keys).filter(unused_key).map(|pattern| crate::insight::shown(&pattern.word()));
    let channels = sets().flat_map(|set| &set.channels).filter(|pattern| {
        let used = |name: &[u8], is_pattern: bool| {
            if is_pattern { name == &***pattern } else { keyward_acl::glob::matches(pattern, name) }
        };
        !seen.channels.keys().any(|(name, is_pattern)| used(name, *is_pattern))
    });
    keys.chain(channels.map(|pattern| format!("&{}", crate::insight::shown(pattern)))).collect()
}

/// A name as a pattern that matches it alone.
fn literally(name: &[u8]) -> String {
    let mut pattern = Vec::with_capacity(name.len());
    for byte in name {
        if b"*?[]\\{}".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    crate::insight::shown(&pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::traffic::{Deed, Traffic};
    use keyward_acl::{KeyUse, UserName, Walls, parse_rules};

    fn user(rules: &str) -> User {
        let mut user = User::new(UserName::new(b"app").unwrap(), 1);
        let words: Vec<&str> = rules.split(' ').collect();
        parse_rules(&words).unwrap().iter().for_each(|rule| user.apply(rule));
        user
    }

    fn advice(rules: &str, deeds: &[(&str, &str, KeyAccess, bool)]) -> pb::AdviseResponse {
        let mut traffic = Traffic::default();
        for (command, key, access, denied) in deeds {
            let keys = [KeyUse { key: key.as_bytes(), access: *access, argument: 1 }];
            let deed = Deed { command, keys: &keys, channels: &[], database: 0, denied: *denied };
            traffic.note(b"app", 5, &deed);
        }
        let (user, table) = (user(rules), keyward_engine::table::table());
        let policy = Policy::compile(&user, table, Walls::Up);
        let subject = Subject { user: &user, policy: &policy, prefixes: Vec::new(), walls: Walls::Up };
        advise(table, &subject, traffic.of(b"app").unwrap())
    }

    const R: KeyAccess = KeyAccess::READ;
    const W: KeyAccess = KeyAccess::WRITE;

    #[test]
    fn the_rules_allow_what_was_seen_and_no_more() {
        let advice = advice(
            "+@all ~app:* ~old:* %R~shared:*",
            &[("get", "app:{a}:1", R, false), ("set", "app:{a}:1", W, false), ("get", "shared:1", R, false)],
        );
        let rules = "resetkeys ~app:\\{a\\}:1 %R~shared:1 resetchannels -@all +get +set";
        assert_eq!(advice.rules.join(" "), rules);
        let words: Vec<&str> = rules.split(' ').collect();
        assert!(parse_rules(&words).is_ok(), "the advice can be followed");
        assert_eq!(advice.unused_patterns, ["~old:*"]);
        assert!(advice.unused_commands.contains(&"lpush".to_owned()));
        assert!(!advice.unused_commands.contains(&"get".to_owned()));
        assert!(!advice.unused_commands.contains(&"acl|setuser".to_owned()), "it never could");
        assert!(advice.outside.is_empty() && advice.notes.is_empty(), "{advice:?}");
    }

    #[test]
    fn what_no_rule_gives_is_not_advised() {
        let seen = [("get", "app:1", R, false), ("acl|setuser", "app:1", W, true), ("shutdown", "app:1", R, true)];
        let advice = advice("+@all ~app:*", &seen);
        assert!(advice.rules.join(" ").ends_with("-@all +get"), "{:?}", advice.rules);
        let note = "no rule gives acl|setuser, shutdown to a user without ~*: that concerns the whole server";
        assert!(advice.notes.iter().any(|told| told == note), "{:?}", advice.notes);
    }

    #[test]
    fn keys_outside_are_named_with_how_often() {
        let advice = advice("+get ~app:*", &[("get", "langfuse:1", R, true), ("get", "app:1", R, false)]);
        let outside: Vec<(&[u8], u64)> = advice.outside.iter().map(|key| (&*key.prefix, key.denied)).collect();
        assert_eq!(outside, [(&b"langfuse:1"[..], 1)]);
        assert!(!advice.notes.is_empty());
    }

    #[test]
    fn many_patterns_become_few() {
        let keys: Vec<String> = (0..5).flat_map(|a| (0..8).map(move |b| format!("app:part{a}:item{b}:x"))).collect();
        let deeds: Vec<_> = keys.iter().map(|key| ("get", key.as_str(), R, false)).collect();
        let advice = advice("+get ~app:*", &deeds);
        let patterns = advice.rules.iter().filter(|rule| rule.starts_with('%')).count();
        assert!((1..=PATTERNS_MAX).contains(&patterns), "{:?}", advice.rules);
    }
}
