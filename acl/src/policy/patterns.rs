//! Many patterns, one question: does one of them match?
//!
//! Exact texts and prefixes are sorted; a prefix that begins with another is dropped, so a text has at most one
//! candidate and a binary search finds it. Only patterns with something special in the middle are tried one by one.
//! It refuses to know commands and users.

use crate::fence::Fence;
use crate::glob::Glob;
use crate::rule::KeyAccess;
use crate::user::KeyPattern;

/// The key patterns of one set of permissions, by what is done to the key. One pattern must grant all that is needed.
#[derive(Clone, Debug)]
pub(super) struct KeyMatcher {
    sets: Box<[PatternSet]>,
    /// Which set answers for an access; almost always the same for all.
    by_access: [u8; 4],
}

/// Patterns of the user's own rules, and those that others lend its tenant.
type Source<'p> = (Vec<&'p [u8]>, Vec<&'p [u8]>);

impl KeyMatcher {
    /// What these patterns allow. What lies outside a fence is cut away, but for what is lent: that is reached as far as the
    /// patterns hold it, and by whoever holds the whole of the tenant.
    pub(super) fn fenced(all: bool, patterns: &[KeyPattern], fence: Option<&Fence>) -> KeyMatcher {
        let fence = fence.filter(|fence| !fence.encloses_everything() || !all);
        if all && fence.is_none() {
            return KeyMatcher { sets: Box::new([PatternSet::Everything]), by_access: [0; 4] };
        }
        let everything: &[u8] = b"*";
        let prefixes = fence.and_then(Fence::prefixes);
        let lent = fence.map_or(&[][..], Fence::granted);
        let mut sources: Vec<Source<'_>> = Vec::with_capacity(4);
        let mut by_access = [0; 4];
        for access in [KeyAccess::EITHER, KeyAccess::READ, KeyAccess::WRITE, KeyAccess::READ_WRITE] {
            let granting = |patterns| -> Vec<&[u8]> { granting(patterns, access) };
            let own = if all { vec![everything] } else { granting(patterns) };
            let source = (own, granting(lent));
            let known = sources.iter().position(|known| *known == source);
            by_access[index(access)] = known.unwrap_or(sources.len()) as u8;
            if known.is_none() {
                sources.push(source);
            }
        }
        let sets = sources.iter().map(|(own, lent)| PatternSet::fenced(own, prefixes, lent));
        KeyMatcher { sets: sets.collect(), by_access }
    }

    /// Every key but those that begin with one of these, or `{` and one of them; and whatever these patterns allow.
    pub(super) fn outside(owned: impl Iterator<Item = Box<[u8]>>, patterns: &[KeyPattern]) -> KeyMatcher {
        let mut owned: Vec<Box<[u8]>> = owned.collect();
        owned.sort_unstable();
        owned.dedup_by(|longer, shorter| longer.starts_with(shorter));
        let owned = SortedTexts::new(owned);
        let KeyMatcher { sets, by_access } = KeyMatcher::fenced(false, patterns, None);
        let outside = |own: PatternSet| PatternSet::Outside(Box::new((owned.clone(), own)));
        KeyMatcher { sets: sets.into_iter().map(outside).collect(), by_access }
    }

    /// Whether there is nothing within the fence that it would refuse.
    pub(super) fn allows_whole(&self, fence: &Fence) -> bool {
        match fence.prefixes() {
            None => self.allows_all(KeyAccess::READ_WRITE),
            Some(prefixes) => prefixes.iter().all(|prefix| self.set(KeyAccess::READ_WRITE).holds_prefix(prefix)),
        }
    }

    pub(super) fn allows(&self, key: &[u8], access: KeyAccess) -> bool {
        self.set(access).matches(key)
    }

    /// Whether there is nothing it would refuse.
    pub(super) fn allows_all(&self, access: KeyAccess) -> bool {
        matches!(self.set(access), PatternSet::Everything)
    }

    /// What every key begins with that it allows, whatever is done to it, if it allows all of those; nothing, if it allows
    /// every key.
    pub(super) fn only_beginning(&self) -> Option<&[u8]> {
        match &*self.sets {
            [PatternSet::Everything] => Some(b""),
            // What it allows besides, `{` before the same, is not told.
            [PatternSet::Prefix(prefix) | PatternSet::Tagged([prefix, _])] => Some(prefix),
            _ => None,
        }
    }

    /// What matching keys begin with; `None` if with anything.
    pub(super) fn prefixes(&self) -> Option<Vec<&[u8]>> {
        self.set(KeyAccess::EITHER).prefixes()
    }

    #[inline]
    fn set(&self, access: KeyAccess) -> &PatternSet {
        &self.sets[usize::from(self.by_access[index(access)])]
    }
}

/// The patterns that grant this access.
fn granting(patterns: &[KeyPattern], access: KeyAccess) -> Vec<&[u8]> {
    patterns.iter().filter(|pattern| pattern.rights.allows(access)).map(|pattern| &*pattern.pattern).collect()
}

#[inline]
fn index(access: KeyAccess) -> usize {
    usize::from(access.read) | usize::from(access.write) << 1
}

/// The channel patterns of one set of permissions.
#[derive(Clone, Debug)]
pub(super) struct ChannelMatcher {
    matching: PatternSet,
    /// As written and sorted: a pattern subscription must be one of them.
    literal: Box<[Box<[u8]>]>,
    /// What every channel of a tenant begins with, where that is meant by every channel.
    within: Option<Box<[Box<[u8]>]>>,
}

/// The server's own channels, which tell of keys: of those that exist for whoever listens.
const SERVERS: [&[u8]; 3] = [b"__keyspace@", b"__keyevent@", b"__redis__:"];

/// Whether a channel is the server's, or a pattern is meant for such: `__key*__:*`. What else it matches is looked at when it is said.
fn is_servers(channel: &[u8], pattern: bool) -> bool {
    let literal =
        if pattern { channel.split(|byte| b"*?[\\".contains(byte)).next().unwrap_or_default() } else { channel };
    let begins = |own: &&[u8]| literal.starts_with(own) || pattern && literal.len() >= 5 && own.starts_with(literal);
    SERVERS.iter().any(begins)
}

impl ChannelMatcher {
    /// `within`: what every channel begins with, if there are others.
    pub(super) fn new(all: bool, patterns: &[Box<[u8]>], within: Option<&[Box<[u8]>]>) -> ChannelMatcher {
        let mut literal = patterns.to_vec();
        literal.sort_unstable();
        let sources: Vec<&[u8]> = patterns.iter().map(|pattern| &**pattern).collect();
        let within = within.filter(|_| all).map(Box::from);
        let matching = if all && within.is_none() { PatternSet::Everything } else { PatternSet::new(&sources) };
        ChannelMatcher { matching, literal: literal.into(), within }
    }

    pub(super) fn allows_all(&self) -> bool {
        matches!(self.matching, PatternSet::Everything)
    }

    pub(super) fn allows(&self, channel: &[u8], pattern: bool) -> bool {
        if let Some(within) = &self.within
            && (within.iter().any(|beginning| channel.starts_with(beginning)) || is_servers(channel, pattern))
        {
            return true;
        }
        if pattern && !self.allows_all() {
            return self.literal.binary_search_by(|allowed| (**allowed).cmp(channel)).is_ok();
        }
        self.matching.matches(channel)
    }
}

/// Patterns, any of which may match.
#[derive(Clone, Debug)]
enum PatternSet {
    Everything,
    /// One prefix: nearly every user of a shared cache.
    Prefix(Box<[u8]>),
    /// One prefix, and `{` with that prefix: nearly every user of a tenant.
    Tagged([Box<[u8]>; 2]),
    Many(Box<Many>),
    /// What begins with none of these, and what the others match: what a user of no tenant is only watched for.
    Outside(Box<(SortedTexts, PatternSet)>),
}

#[derive(Clone, Debug)]
struct Many {
    exact: SortedTexts,
    /// None begins with another.
    prefixes: SortedTexts,
    others: Box<[Glob]>,
    /// What a pattern and something it reaches beyond, a part of a fence or what is lent, both match.
    within: Box<[(Glob, Glob)]>,
}

impl PatternSet {
    fn new(patterns: &[&[u8]]) -> PatternSet {
        PatternSet::fenced(patterns, None, &[])
    }

    /// What these patterns match of texts with one of these beginnings and of what is `lent`. All of that is matched by those
    /// that match every text with such a beginning: who holds a whole tenant holds what others lend it.
    fn fenced(patterns: &[&[u8]], fence: Option<&[Box<[u8]>]>, lent: &[&[u8]]) -> PatternSet {
        let (mut exact, mut prefixes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut within: Vec<(Glob, Glob)> = Vec::new();
        let own: Vec<Glob> = patterns.iter().map(|pattern| Glob::compile(pattern)).collect();
        let lent = || lent.iter().map(|pattern| Glob::compile(pattern));
        let bounds: Vec<Glob> = match fence {
            None => vec![Glob::Any],
            Some(fence) => fence.iter().map(|prefix| Glob::Prefix(prefix.clone())).chain(lent()).collect(),
        };
        let mut all: Vec<Both> =
            own.iter().flat_map(|own| bounds.iter().filter_map(move |bound| both(own, bound))).collect();
        if fence.is_some_and(|fence| holds_all(&own, fence)) {
            all.extend(lent().map(Both::One));
        }
        for matched in all {
            match matched {
                Both::One(Glob::Any) => return PatternSet::Everything,
                Both::One(Glob::Exact(text)) => exact.push(text),
                Both::One(Glob::Prefix(prefix)) => prefixes.push(prefix),
                Both::One(general) => others.push(general),
                Both::Two(bound, general) => within.push((bound, general)),
            }
        }
        exact.sort_unstable();
        exact.dedup();
        prefixes.sort_unstable();
        prefixes.dedup_by(|longer, shorter| longer.starts_with(shorter));
        match (&mut *prefixes, exact.is_empty() && others.is_empty() && within.is_empty()) {
            ([only], true) => PatternSet::Prefix(std::mem::take(only)),
            ([one, other], true) if is_tagged(one, other) => {
                PatternSet::Tagged([std::mem::take(one), std::mem::take(other)])
            }
            ([one, other], true) if is_tagged(other, one) => {
                PatternSet::Tagged([std::mem::take(other), std::mem::take(one)])
            }
            _ => PatternSet::Many(Box::new(Many {
                exact: SortedTexts::new(exact),
                prefixes: SortedTexts::new(prefixes),
                others: others.into(),
                within: within.into(),
            })),
        }
    }

    #[inline]
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            PatternSet::Everything => true,
            PatternSet::Prefix(prefix) => text.starts_with(prefix),
            PatternSet::Tagged([prefix, tagged]) => {
                text.starts_with(prefix) || text.first() == Some(&b'{') && text.starts_with(tagged)
            }
            PatternSet::Many(many) => many.matches(text),
            PatternSet::Outside(outside) => {
                let (owned, own) = &**outside;
                // `{x:…}` is a key of `x:` whose slot was chosen by its author.
                let name = text.strip_prefix(b"{").unwrap_or(text);
                !owned.last_up_to(name).is_some_and(|prefix| name.starts_with(prefix)) || own.matches(text)
            }
        }
    }

    /// Whether every text that begins so matches.
    fn holds_prefix(&self, wanted: &[u8]) -> bool {
        match self {
            PatternSet::Everything => true,
            PatternSet::Prefix(prefix) => wanted.starts_with(prefix),
            PatternSet::Tagged(both) => both.iter().any(|prefix| wanted.starts_with(prefix)),
            PatternSet::Many(many) => many.prefixes.texts.iter().any(|prefix| wanted.starts_with(prefix)),
            PatternSet::Outside(_) => false,
        }
    }

    fn prefixes(&self) -> Option<Vec<&[u8]>> {
        match self {
            PatternSet::Everything | PatternSet::Outside(_) => None,
            PatternSet::Prefix(prefix) => Some(vec![prefix]),
            PatternSet::Tagged(both) => Some(both.iter().map(|prefix| &**prefix).collect()),
            PatternSet::Many(many) => {
                let others = many.others.iter().map(Glob::beginning);
                let known = many.exact.texts.iter().chain(&many.prefixes.texts).map(|text| Some(&**text));
                let within = many.within.iter().map(|(bound, _)| bound.beginning());
                known.chain(others).chain(within).collect()
            }
        }
    }
}

/// What two patterns both match.
enum Both {
    One(Glob),
    /// What only the two together can say; what the first begins with is the longer beginning.
    Two(Glob, Glob),
}

/// What both match; `None`: no text.
fn both(one: &Glob, other: &Glob) -> Option<Both> {
    let alike = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
    match (one, other) {
        (Glob::Any, same) | (same, Glob::Any) => Some(Both::One(same.clone())),
        (Glob::Exact(text), glob) | (glob, Glob::Exact(text)) => {
            glob.matches(text).then(|| Both::One(Glob::Exact(text.clone())))
        }
        (Glob::Prefix(one), Glob::Prefix(other)) => {
            let longer = if one.len() > other.len() { one } else { other };
            alike(one, other).then(|| Both::One(Glob::Prefix(longer.clone())))
        }
        (prefix @ Glob::Prefix(begins), general @ Glob::General(beginning, _))
        | (general @ Glob::General(beginning, _), prefix @ Glob::Prefix(begins)) => {
            if beginning.starts_with(begins) {
                return Some(Both::One(general.clone()));
            }
            begins.starts_with(beginning).then(|| Both::Two(prefix.clone(), general.clone()))
        }
        (Glob::General(begins, _), Glob::General(beginning, _)) if one != other => {
            let (longer, shorter) = if begins.len() > beginning.len() { (one, other) } else { (other, one) };
            alike(begins, beginning).then(|| Both::Two(longer.clone(), shorter.clone()))
        }
        (same @ Glob::General(..), Glob::General(..)) => Some(Both::One(same.clone())),
    }
}

/// Whether these match every key of a tenant with these prefixes. What begins with `{` and one of them is not asked for: who
/// names its keys so is not thought of when rules are written.
fn holds_all(own: &[Glob], fence: &[Box<[u8]>]) -> bool {
    let holds = |prefix: &[u8]| {
        own.iter().any(|own| match own {
            Glob::Any => true,
            Glob::Prefix(begins) => prefix.starts_with(begins),
            Glob::Exact(_) | Glob::General(..) => false,
        })
    };
    !fence.is_empty() && fence.iter().filter(|prefix| !prefix.starts_with(b"{")).all(|prefix| holds(prefix))
}

/// Whether `tagged` is `{` and `prefix`.
fn is_tagged(prefix: &[u8], tagged: &[u8]) -> bool {
    tagged.strip_prefix(b"{") == Some(prefix)
}

impl Many {
    fn matches(&self, text: &[u8]) -> bool {
        // Between a prefix of the text and the text, every entry begins with that prefix, and there is none.
        self.prefixes.last_up_to(text).is_some_and(|prefix| text.starts_with(prefix))
            || self.exact.last_up_to(text).is_some_and(|exact| exact == text)
            || self.others.iter().any(|glob| glob.matches(text))
            || self.within.iter().any(|(bound, glob)| bound.matches(text) && glob.matches(text))
    }
}

/// Sorted texts, with the first eight bytes of each side by side: a search seldom has to follow a pointer.
#[derive(Clone, Debug)]
struct SortedTexts {
    heads: Box<[u64]>,
    texts: Box<[Box<[u8]>]>,
}

impl SortedTexts {
    fn new(sorted: Vec<Box<[u8]>>) -> SortedTexts {
        SortedTexts { heads: sorted.iter().map(|text| head(text)).collect(), texts: sorted.into() }
    }

    /// The last that does not come after `text`.
    #[inline]
    fn last_up_to(&self, text: &[u8]) -> Option<&[u8]> {
        let wanted = head(text);
        let before = self.heads.partition_point(|head| *head < wanted);
        // Only texts with this very head must be looked at themselves.
        let alike = self.heads[before..].partition_point(|head| *head == wanted);
        let alike = self.texts[before..before + alike].partition_point(|candidate| &**candidate <= text);
        (before + alike).checked_sub(1).map(|last| &*self.texts[last])
    }
}

/// The first eight bytes as a number that orders like them; missing ones are zero.
#[inline]
fn head(text: &[u8]) -> u64 {
    if let Some(bytes) = text.first_chunk::<8>() {
        return u64::from_be_bytes(*bytes);
    }
    text.iter().fold(0, |head, byte| head << 8 | u64::from(*byte)) << (8 * (8 - text.len()) as u32 % 64)
}
