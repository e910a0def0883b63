//! Redis' patterns: `*`, `?`, `[abc]`, `[^a-z]`, `\x`.
//!
//! ```text
//!   prefix:*      almost every key pattern there is    ─► one comparison of a prefix
//!   exact         no special byte                      ─► one comparison
//!   a*b?[cd]      anything else                        ─► one star at a time, ends first if it is made ready for many texts
//! ```
//! Between two stars every element takes exactly one byte, so only the last star ever has to be tried again: the cost
//! is at most pattern times text, whatever the pattern (a recursive matcher is exponential in the number of stars). What
//! takes more than a few steps all the same, which only long patterns and texts together do, begins anew in [`linear`].
//! As in Redis: `[]` matches nothing, a class that is never closed ends with the pattern, `!` is not a negation, braces
//! are literal, and a trailing backslash stands for itself. Unlike Redis, `*` also matches the empty text.

mod linear;
mod runs;

use linear::{Element, Set};
use runs::Runs;

/// Whether `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    run::<false>(pattern, text)
}

/// Whether `text` matches `pattern`, ASCII case ignored (`CONFIG GET`).
pub fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    run::<true>(pattern, text)
}

/// A pattern made ready for many texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glob {
    /// `*`.
    Any,
    /// No special byte: the text itself, unescaped.
    Exact(Box<[u8]>),
    /// Nothing special but a star at the end: what comes before it, unescaped.
    Prefix(Box<[u8]>),
    /// Everything else: the literal beginning, unescaped, and the rest.
    General(Box<[u8]>, Rest),
}

/// What a pattern goes on with after its literal beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    pattern: Box<[u8]>,
    /// The same, unless there is much to remember.
    runs: Option<Runs>,
}

impl Rest {
    fn compile(pattern: &[u8]) -> Rest {
        Rest { pattern: pattern.into(), runs: Runs::of(pattern.len(), elements::<false>(pattern)) }
    }

    #[inline]
    fn matches(&self, text: &[u8]) -> bool {
        match &self.runs {
            Some(runs) if runs.len() * text.len() <= STEPS_MAX => runs.matches(text),
            _ => matches(&self.pattern, text),
        }
    }
}

impl Glob {
    /// Reads a pattern. Every sequence of bytes is one.
    pub fn compile(pattern: &[u8]) -> Glob {
        let mut literal = Vec::new();
        let mut at = 0;
        while at < pattern.len() {
            match pattern[at] {
                b'*' | b'?' | b'[' => break,
                b'\\' if at + 1 < pattern.len() => at += 1,
                _ => {}
            }
            literal.push(pattern[at]);
            at += 1;
        }
        let (literal, rest) = (literal.into_boxed_slice(), &pattern[at..]);
        match (rest.is_empty(), rest.iter().all(|byte| *byte == b'*')) {
            (true, _) => Glob::Exact(literal),
            (false, true) if literal.is_empty() => Glob::Any,
            (false, true) => Glob::Prefix(literal),
            (false, false) => Glob::General(literal, Rest::compile(rest)),
        }
    }

    /// What every matching text begins with; `None`: with anything.
    pub fn beginning(&self) -> Option<&[u8]> {
        match self {
            Glob::Any => None,
            Glob::Exact(text) | Glob::Prefix(text) | Glob::General(text, _) => {
                Some(&**text).filter(|text| !text.is_empty())
            }
        }
    }

    /// Whether `text` matches.
    #[inline]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Glob::Any => true,
            Glob::Exact(exact) => text == &**exact,
            Glob::Prefix(prefix) => text.starts_with(prefix),
            Glob::General(prefix, rest) => text.strip_prefix(&**prefix).is_some_and(|text| rest.matches(text)),
        }
    }
}

/// Bytes of a pattern that are compared before the text is looked at as a whole: tens of microseconds.
const STEPS_MAX: usize = 1 << 15;

fn run<const IGNORE_CASE: bool>(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    // Where the pattern goes on after the last star, and where the text does if that star takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    let mut steps = 0;
    loop {
        if pattern.get(at) == Some(&b'*') {
            while pattern.get(at) == Some(&b'*') {
                at += 1;
            }
            if at == pattern.len() {
                return true;
            }
            retry = Some((at, position + 1));
            continue;
        }
        let Some(byte) = text.get(position) else { return at == pattern.len() };
        if at < pattern.len() {
            let (fits, next) = element::<IGNORE_CASE>(pattern, at, *byte);
            steps += next - at;
            if fits {
                (at, position) = (next, position + 1);
                continue;
            }
        }
        let Some((after_star, start)) = retry else { return false };
        if steps > STEPS_MAX {
            return linear::matches(elements::<IGNORE_CASE>(pattern), text);
        }
        (at, position) = (after_star, start);
        retry = Some((after_star, start + 1));
    }
}

/// The pattern, element by element. None: a star.
fn elements<const IGNORE_CASE: bool>(pattern: &[u8]) -> impl Iterator<Item = Option<Element>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (element, next) = match pattern.get(at)? {
            b'*' => (None, at + 1),
            b'[' => {
                let (set, next) = class_set::<IGNORE_CASE>(pattern, at + 1);
                (Some(Element::Set(set)), next)
            }
            b'?' => {
                let mut every = Set::default();
                every.invert();
                (Some(Element::Set(every)), at + 1)
            }
            b'\\' if at + 1 < pattern.len() => (Some(literal::<IGNORE_CASE>(pattern[at + 1])), at + 2),
            byte => (Some(literal::<IGNORE_CASE>(*byte)), at + 1),
        };
        at = next;
        Some(element)
    })
}

fn literal<const IGNORE_CASE: bool>(byte: u8) -> Element {
    if !IGNORE_CASE || !byte.is_ascii_alphabetic() {
        return Element::Byte(byte);
    }
    let mut set = Set::default();
    set.add(byte.to_ascii_lowercase());
    set.add(byte.to_ascii_uppercase());
    Element::Set(set)
}

/// Whether the element at `at`, which is no star, matches `byte`, and where the pattern goes on after it.
#[inline]
fn element<const IGNORE_CASE: bool>(pattern: &[u8], at: usize, byte: u8) -> (bool, usize) {
    let same = |wanted: u8| wanted == byte || IGNORE_CASE && wanted.eq_ignore_ascii_case(&byte);
    match pattern[at] {
        b'?' => (true, at + 1),
        b'[' => class::<IGNORE_CASE>(pattern, at + 1, byte),
        b'\\' if at + 1 < pattern.len() => (same(pattern[at + 1]), at + 2),
        literal => (same(literal), at + 1),
    }
}

/// A part of a class.
#[derive(Clone, Copy)]
struct Part {
    first: u8,
    last: u8,
}

/// The part of a class at `at` and where the next one is; what closes the class, or ends it unclosed, is none.
#[inline]
fn part<const IGNORE_CASE: bool>(pattern: &[u8], at: usize) -> (Option<Part>, usize) {
    let fold = |byte: u8| if IGNORE_CASE { byte.to_ascii_lowercase() } else { byte };
    let one = |byte: u8| Some(Part { first: fold(byte), last: fold(byte) });
    match pattern[at.min(pattern.len())..] {
        [] => (None, pattern.len()),
        [b'\\', escaped, ..] => (one(escaped), at + 2),
        [b']', ..] => (None, at + 1),
        [first, b'-', last, ..] => (Some(Part { first: fold(first.min(last)), last: fold(first.max(last)) }), at + 3),
        [literal, ..] => (one(literal), at + 1),
    }
}

/// Whether the class whose inside begins at `at` holds `byte`, and where the pattern goes on after it.
fn class<const IGNORE_CASE: bool>(pattern: &[u8], mut at: usize, byte: u8) -> (bool, usize) {
    let byte = if IGNORE_CASE { byte.to_ascii_lowercase() } else { byte };
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut found = false;
    loop {
        let (part, next) = part::<IGNORE_CASE>(pattern, at);
        let Some(part) = part else { return (found != negated, next) };
        found |= (part.first..=part.last).contains(&byte);
        at = next;
    }
}

/// All that such a class holds.
fn class_set<const IGNORE_CASE: bool>(pattern: &[u8], mut at: usize) -> (Set, usize) {
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut set = Set::default();
    loop {
        let (part, next) = part::<IGNORE_CASE>(pattern, at);
        let Some(part) = part else { break at = next };
        let takes = |byte: u8| (part.first..=part.last).contains(&byte.to_ascii_lowercase());
        if IGNORE_CASE {
            (0..=255).filter(|byte| takes(*byte)).for_each(|byte| set.add(byte));
        } else {
            (part.first..=part.last).for_each(|byte| set.add(byte));
        }
        at = next;
    }
    if negated {
        set.invert();
    }
    (set, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_patterns_of_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("a*", "b", false),
            ("*a", "ba", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[!e]llo", "h!llo", true),
            ("h[!e]llo", "hallo", false),
            ("[a-c]", "b", true),
            ("[c-a]", "b", true),
            ("[a-c]", "d", false),
            ("[]", "a", false),
            ("a[", "a", false),
            ("a[", "ab", false),
            ("[abc", "b", true),
            ("[^]", "a", true),
            ("[\\]]", "]", true),
            ("[\\-a]", "-", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
            ("A", "a", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("**a**", "bab", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
            assert_eq!(Glob::compile(pattern.as_bytes()).matches(text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn case_is_ignored_only_where_asked() {
        assert!(matches_ignore_case(b"MAX[A-M]*", b"maxmemory"));
        assert!(!matches(b"MAX*", b"maxmemory"));
    }

    #[test]
    fn common_patterns_have_a_short_form() {
        assert_eq!(Glob::compile(b"*"), Glob::Any);
        assert_eq!(Glob::compile(b"app:*"), Glob::Prefix(b"app:"[..].into()));
        assert_eq!(Glob::compile(b"a\\*b*"), Glob::Prefix(b"a*b"[..].into()));
        assert_eq!(Glob::compile(b"app"), Glob::Exact(b"app"[..].into()));
        assert_eq!(Glob::compile(b"a*b"), Glob::General(b"a"[..].into(), Rest::compile(b"*b")));
    }

    // CVE-2024-31228: a pattern with many stars took a recursive matcher for ever.
    #[test]
    fn many_stars_cost_no_more_than_pattern_times_text() {
        let pattern = [b"a*".repeat(2000), b"b".to_vec()].concat();
        assert!(!matches(&pattern, &b"a".repeat(20_000)));
    }

    // Place by place each of these takes between minutes and days.
    #[test]
    fn long_patterns_on_long_texts_take_one_pass() {
        const LONG: usize = 1 << 18;
        let text = b"a".repeat(2 * LONG);
        let run = |middle: &[u8], end: &[u8]| [b"*", &b"a".repeat(LONG)[..], middle, end].concat();
        assert!(!matches(&run(b"", b"b"), &text));
        assert!(!matches(&run(b"b", b"*"), &text));
        assert!(matches(&run(b"", b"*"), &text));
        assert!(matches(&run(b"*", b"a"), &text));
        assert!(!matches(&[&b"*a?".repeat(LONG)[..], b"b*"].concat(), &text));
        // A class that is read for every byte, and classes in a run that is long.
        assert!(!matches(&[b"*[", &b"b".repeat(LONG)[..], b"]*"].concat(), &text));
        assert!(!matches(&[b"*", &b"[ab]".repeat(4000)[..], b"b*"].concat(), &text));
        assert!(matches(&[b"*", &b"[ab]?".repeat(2000)[..], b"a*"].concat(), &text));
        // What is longer than the text, and more sets than are kept.
        assert!(!matches(&[b"*", &b"?".repeat(8 * LONG)[..], b"b"].concat(), &text[..1000]));
        assert!(!matches(&[b"*a*", &b"?".repeat((1 << 20) + 1)[..], b"b*"].concat(), &b"a".repeat(2 << 20)));
        // As many elements as are tried together, at each byte of a text that is too long for it; few are no matter.
        let long_text = b"a".repeat(4 << 20);
        assert!(!matches(&[b"*", &b"[ab]".repeat(4000)[..], b"z*"].concat(), &[&long_text[..], b"z"].concat()));
        assert!(matches(b"*[ab]?z*", &[&long_text[..], b"z"].concat()));
        // Longer ones are given up, and then match nothing.
        assert!(!matches(&[b"*", &b"[ab]".repeat(LONG / 4)[..], b"b*"].concat(), &text));
        assert!(!matches_ignore_case(&run(b"", b"b"), &text[..LONG + LONG / 2]));
    }

    /// The definition, without regard to cost.
    fn reference(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| reference(rest, &text[taken..])),
            (_, []) => false,
            (_, [byte, text @ ..]) => {
                let (fits, next) = element::<false>(pattern, 0, *byte);
                fits && reference(&pattern[next..], text)
            }
        }
    }

    #[test]
    fn a_pattern_made_ready_looks_at_both_ends_first() {
        for (pattern, text, expected) in [
            ("*123", "s:0123", true),
            ("*123", "123", true),
            ("*123", "23", false),
            ("*123", "s:1234", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*ab", "ab", false),
            ("*ab*ab", "abab", true),
            ("*[13]7?", "s:178", true),
            ("*[13]7?", "s:278", false),
            ("?*?", "a", false),
            ("?*?", "ab", true),
            ("*a?*?b*", "xaayb", true),
            ("*a?*?b*", "xaab", false),
            ("**x**", "axb", true),
        ] {
            let glob = Glob::compile(pattern.as_bytes());
            assert_eq!(glob.matches(text.as_bytes()), expected, "{pattern} {text}");
            assert!(matches!(&glob, Glob::General(_, Rest { runs: Some(_), .. })), "{pattern}");
        }
        // Long ones, of either kind, are not for it.
        let long_text = [&b"b".repeat(1 << 16)[..], b"a"].concat();
        assert!(Glob::compile(b"*bbbba").matches(&long_text));
        assert!(!Glob::compile(b"*?[ab]c*").matches(&long_text));
        let long_pattern = [&b"*"[..], &b"?a".repeat(600)[..]].concat();
        assert!(matches!(Glob::compile(&long_pattern), Glob::General(_, Rest { runs: None, .. })));
        assert!(Glob::compile(&long_pattern).matches(&b"a".repeat(1300)));
        let classes = b"*[ab]".repeat(9);
        assert!(matches!(Glob::compile(&classes), Glob::General(_, Rest { runs: None, .. })));
        assert!(Glob::compile(&classes).matches(&b"a".repeat(9)));
    }

    /// Texts of more than a few bytes, among them such as are searched by the library.
    fn long_texts() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(&b"ab"[..]), 0..300)
    }

    fn alphabet(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(&b"ab*?[]^-\\"[..]), 0..most)
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in alphabet(9), text in alphabet(7)) {
            let expected = reference(&pattern, &text);
            prop_assert_eq!(matches(&pattern, &text), expected);
            prop_assert_eq!(linear::matches(elements::<false>(&pattern), &text), expected);
            prop_assert_eq!(Glob::compile(&pattern).matches(&text), expected);
        }

        #[test]
        fn a_pattern_made_ready_agrees_with_one_that_is_not(
            pattern in proptest::collection::vec(proptest::sample::select(&b"ab**??[]^-\\"[..]), 0..14),
            text in long_texts(),
        ) {
            prop_assert_eq!(Glob::compile(&pattern).matches(&text), matches(&pattern, &text));
        }

        #[test]
        fn any_bytes_are_a_pattern(pattern in proptest::collection::vec(any::<u8>(), 0..40), text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let ignoring_case = linear::matches(elements::<true>(&pattern), &text);
            prop_assert_eq!(ignoring_case, matches_ignore_case(&pattern, &text));
            prop_assert_eq!(Glob::compile(&pattern).matches(&text), matches(&pattern, &text));
        }
    }
}
