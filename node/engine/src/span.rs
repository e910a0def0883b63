//! How much a command looks at: a few elements, all of a key, or as many as its arguments say.
//!
//! The estimate is by name and arguments alone, and never low: a range without a limit counts as the whole. This file does not
//! know what keys hold, nor what is done with who asks for much.

/// Bytes, of a string or of elements, that take as long as an element.
pub const BYTES_PER_ELEMENT: usize = 64;

/// Elements that a step of a walk looks at if nothing is said.
const COUNT_BY_DEFAULT: usize = 10;

/// What the registers of a HyperLogLog take, in elements.
const COUNTERS_ELEMENTS: usize = 12_304 / BYTES_PER_ELEMENT;

/// What a command looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    /// A few elements, however many there are; or as many as it has arguments.
    Few,
    /// Everything its keys hold.
    All,
    /// Every key there is, if its user may not touch all of them.
    KeyByKey,
    /// Everything its keys hold, each byte with each of the other.
    Product,
    /// What lies between two indexes: the arguments at this place and the next.
    Indexes(usize),
    /// The same, unless it goes by scores or names.
    Range(usize),
    /// Up to `LIMIT offset count`.
    Limit,
    /// As many as `COUNT` says, from this argument on, or few.
    Count(usize),
    /// Up to `COUNT`, or everything.
    Page,
    /// The same among the options of `XREAD`.
    Read,
    /// As many as this argument says.
    Number(usize),
    /// The same of `XPENDING`: everything, if it is told how long they have been idle.
    Pending,
    /// Bytes of this argument.
    Bytes(usize),
    /// A whole HyperLogLog for each of its keys, however short it is kept.
    Counters,
    /// No keys, but libraries that run while they are loaded.
    Libraries,
    /// No keys, but a program of so many bytes to be compiled: this argument.
    Program(usize),
}

impl Span {
    /// Of the command of this name.
    pub fn of(full_name: &str) -> Span {
        match full_name {
            "smembers"
            | "hgetall"
            | "hkeys"
            | "hvals"
            | "sort"
            | "sort_ro"
            | "copy"
            | "dump"
            | "lrem"
            | "lpos"
            | "linsert"
            | "sunion"
            | "sunionstore"
            | "sdiff"
            | "sdiffstore"
            | "sinter"
            | "sinterstore"
            | "sintercard"
            | "zunion"
            | "zunionstore"
            | "zinter"
            | "zinterstore"
            | "zintercard"
            | "zdiff"
            | "zdiffstore"
            | "zremrangebyscore"
            | "zremrangebylex"
            | "geosearch"
            | "geosearchstore"
            | "georadius"
            | "georadius_ro"
            | "georadiusbymember"
            | "georadiusbymember_ro"
            | "bitcount"
            | "bitpos"
            | "bitop"
            | "bitfield"
            | "setbit"
            | "setrange"
            | "append"
            | "xgroup|delconsumer"
            | "xgroup|destroy"
            | "xinfo|stream" => Span::All,
            "pfcount" | "pfmerge" => Span::Counters,
            "lcs" => Span::Product,
            "lrange" | "zrevrange" | "zremrangebyrank" | "getrange" | "substr" => Span::Indexes(2),
            "zrange" => Span::Range(2),
            "zrangestore" => Span::Range(3),
            "zrangebyscore" | "zrevrangebyscore" | "zrangebylex" | "zrevrangebylex" => Span::Limit,
            "xrange" | "xrevrange" => Span::Page,
            "xread" | "xreadgroup" => Span::Read,
            "hscan" | "sscan" | "zscan" | "lmpop" | "zmpop" => Span::Count(3),
            "blmpop" | "bzmpop" => Span::Count(4),
            "xautoclaim" => Span::Count(6),
            "xpending" => Span::Pending,
            "srandmember" | "zrandmember" | "hrandfield" | "spop" | "lpop" | "rpop" | "zpopmin" | "zpopmax" => {
                Span::Number(2)
            }
            "restore" => Span::Bytes(3),
            "flushdb" | "flushall" => Span::KeyByKey,
            "function|load" | "function|restore" | "function|list" => Span::Libraries,
            "script|load" => Span::Program(2),
            _ => Span::Few,
        }
    }
}

fn number(argv: &[&[u8]], at: usize) -> Option<i64> {
    std::str::from_utf8(argv.get(at)?).ok()?.parse().ok()
}

/// Where an option is named, from this argument on.
pub fn options<'a>(argv: &'a [&[u8]], from: usize, word: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    (from..argv.len()).filter(move |at| argv[*at].eq_ignore_ascii_case(word))
}

/// The number, as far as it can be one of elements.
fn count(number: Option<i64>) -> usize {
    number.filter(|number| *number >= 0).and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX)
}

/// How many elements lie between two indexes, if that can be told without their number.
fn between(argv: &[&[u8]], at: usize) -> usize {
    match (number(argv, at), number(argv, at + 1)) {
        (Some(from), Some(to)) if (from < 0) == (to < 0) => {
            count(Some(to.saturating_sub(from).saturating_add(1).max(0)))
        }
        _ => usize::MAX,
    }
}

fn is_by_index(argv: &[&[u8]], at: usize) -> bool {
    options(argv, at + 2, b"byscore").chain(options(argv, at + 2, b"bylex")).next().is_none()
}

/// How many entries `XREAD` reads of each stream.
fn read(argv: &[&[u8]]) -> usize {
    let (mut at, mut most) = (1, usize::MAX);
    while let Some(word) = argv.get(at) {
        match word.to_ascii_lowercase().as_slice() {
            b"streams" => break,
            b"block" => at += 2,
            b"group" => at += 3,
            b"count" => {
                most = count(number(argv, at + 1).filter(|number| *number > 0));
                at += 2;
            }
            _ => at += 1,
        }
    }
    most
}

impl Span {
    /// Elements the command looks at by its arguments alone.
    pub fn bound(self, argv: &[&[u8]]) -> usize {
        match self {
            Span::Few => 0,
            Span::All | Span::Product | Span::KeyByKey | Span::Libraries => usize::MAX,
            Span::Indexes(at) => between(argv, at),
            Span::Range(at) if is_by_index(argv, at) => between(argv, at),
            Span::Limit | Span::Range(_) => {
                let limit = |at| count(number(argv, at + 1)).saturating_add(count(number(argv, at + 2)));
                options(argv, 4, b"limit").map(limit).max().unwrap_or(usize::MAX)
            }
            Span::Count(from) => options(argv, from, b"count").map(|at| count(number(argv, at + 1))).max().unwrap_or(0),
            Span::Page => options(argv, 4, b"count").map(|at| count(number(argv, at + 1))).max().unwrap_or(usize::MAX),
            Span::Read => read(argv),
            Span::Number(at) => {
                number(argv, at).map_or(0, |number| usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX))
            }
            Span::Pending if argv.get(3).is_some_and(|word| word.eq_ignore_ascii_case(b"idle")) => usize::MAX,
            Span::Pending => number(argv, 5).map_or(0, |number| count(Some(number))),
            Span::Bytes(at) | Span::Program(at) => argv.get(at).map_or(0, |bytes| bytes.len() / BYTES_PER_ELEMENT),
            Span::Counters => argv.len().saturating_sub(1).saturating_mul(COUNTERS_ELEMENTS),
        }
    }

    /// What looking at so many elements weighs, of `len` that weigh `units` together: as much as so many are likely to, for
    /// which of them are looked at nobody can choose. Without a `COUNT` some ten are.
    pub fn share(bound: usize, (len, units): (usize, usize)) -> usize {
        let looked_at = bound.max(COUNT_BY_DEFAULT).min(len);
        looked_at.saturating_mul(units.div_ceil(len.max(1)))
    }

    /// Whether it may return more than there is.
    pub fn repeats(self, argv: &[&[u8]]) -> bool {
        matches!(self, Span::Number(at) if number(argv, at).is_some_and(|number| number < 0))
            || matches!(self, Span::Bytes(_) | Span::Counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(request: &str) -> usize {
        let argv: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        Span::of(&String::from_utf8_lossy(argv[0]).to_ascii_lowercase()).bound(&argv)
    }

    // `SSCAN` of a set of huge members looked at them on a data thread, and was known by its `COUNT` alone.
    #[test]
    fn few_elements_that_are_huge_weigh_as_much_as_many() {
        let of_a_megabyte = (1 << 20) / BYTES_PER_ELEMENT;
        for (bound, holds, expected) in [
            (0, (1_000_000, 1_000_000), 10),
            (100, (1_000_000, 1_000_000), 100),
            (100, (10, 10), 10),
            (0, (1000, 1000 * of_a_megabyte), 10 * of_a_megabyte),
            (500, (1000, 1000 * of_a_megabyte), 500 * of_a_megabyte),
            (usize::MAX, (3, 7), 9),
            (10, (0, 0), 0),
        ] {
            assert_eq!(Span::share(bound, holds), expected, "{bound} of {holds:?}");
        }
    }

    #[test]
    fn arguments_bound_what_is_looked_at() {
        for (request, expected) in [
            ("GET k", 0),
            ("LRANGE k 0 9", 10),
            ("LRANGE k -10 -1", 10),
            ("LRANGE k 5 2", 0),
            ("LRANGE k 0 -1", usize::MAX),
            ("LRANGE k 0 x", usize::MAX),
            ("ZRANGE k 0 99 REV", 100),
            ("ZRANGE k 0 99 BYSCORE", usize::MAX),
            ("ZRANGE k 0 99 BYSCORE LIMIT 10 5", 15),
            ("ZRANGEBYSCORE k -inf +inf limit 0 -1", usize::MAX),
            ("XRANGE k - + COUNT 7", 7),
            ("XRANGE k - +", usize::MAX),
            ("XREAD BLOCK 0 STREAMS k 0", usize::MAX),
            ("XREADGROUP GROUP g c COUNT 7 BLOCK 0 STREAMS k >", 7),
            ("XREAD STREAMS k 0", usize::MAX),
            ("XREAD STREAMS count 5 0 0", usize::MAX),
            ("XREADGROUP GROUP count 5 COUNT 7 STREAMS k >", 7),
            ("XREADGROUP GROUP count 5 STREAMS k >", usize::MAX),
            ("SSCAN k 0", 0),
            ("SSCAN k 0 COUNT 100000", 100_000),
            ("LMPOP 1 k LEFT", 0),
            ("SRANDMEMBER k", 0),
            ("SRANDMEMBER k -70000", 70_000),
            ("SMEMBERS k", usize::MAX),
            ("BZMPOP 0 1 k MIN COUNT 1000000", 1_000_000),
            ("BLMPOP 0 1 k LEFT", 0),
            ("XAUTOCLAIM k g c 0 0 COUNT 1000000 JUSTID", 1_000_000),
            ("XPENDING k g", 0),
            ("XPENDING k g - + 1000000", 1_000_000),
            ("XPENDING k g IDLE 1 - + 10", usize::MAX),
            ("PFCOUNT k", 192),
            ("PFMERGE d a b", 576),
        ] {
            assert_eq!(bound(request), expected, "{request}");
        }
    }
}
