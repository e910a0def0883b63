//! `~{litellm,langfuse}:*`: alternatives in braces, expanded into plain patterns when a rule is parsed.
//!
//! A group counts only if it is closed and has a comma of its own; `{tag}` stays what it is, the hash tag of a cluster.
//! A backslash takes the meaning from the next byte, and a `[class]` is skipped as one. What comes out contains no such
//! group any more, so a plain Redis understands what `ACL LIST` prints. It refuses to know what the patterns select.

/// The most patterns one rule may expand to. Ten alternatives are a long list; six groups of two are a mistake.
pub const EXPANSIONS_MAX: usize = 64;

/// Why a pattern cannot be expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BraceError {
    /// More than [`EXPANSIONS_MAX`].
    TooMany,
    /// `{a,}`: an empty alternative would turn `~{app:,}*` into `~*`.
    EmptyAlternative,
}

/// The plain patterns `pattern` stands for, in the order they are written.
pub(crate) fn expand(pattern: &[u8]) -> Result<Vec<Vec<u8>>, BraceError> {
    let mut open = vec![pattern.to_vec()];
    let mut plain = Vec::new();
    // Depth first and from the left, so the order is the written one. Every round either finishes a pattern or
    // removes one group, and there are never more patterns than may come out.
    while let Some(pattern) = open.pop() {
        let Some(group) = find_group(&pattern) else {
            plain.push(pattern);
            continue;
        };
        let alternatives = group.alternatives(&pattern);
        if alternatives.iter().any(|alternative| alternative.is_empty()) {
            return Err(BraceError::EmptyAlternative);
        }
        if open.len() + plain.len() + alternatives.len() > EXPANSIONS_MAX {
            return Err(BraceError::TooMany);
        }
        for alternative in alternatives.iter().rev() {
            open.push([&pattern[..group.open], alternative, &pattern[group.close + 1..]].concat());
        }
    }
    Ok(plain)
}

/// A group with a comma: the places of its braces and of its own commas.
struct Group {
    open: usize,
    close: usize,
    commas: Vec<usize>,
}

impl Group {
    fn alternatives<'p>(&self, pattern: &'p [u8]) -> Vec<&'p [u8]> {
        let starts = std::iter::once(self.open).chain(self.commas.iter().copied());
        let ends = self.commas.iter().copied().chain(std::iter::once(self.close));
        starts.zip(ends).map(|(start, end)| &pattern[start + 1..end]).collect()
    }
}

/// The group that opens first among those that are closed and have a comma; one pass.
fn find_group(pattern: &[u8]) -> Option<Group> {
    let mut waiting: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut first: Option<Group> = None;
    let mut at = 0;
    // If one class is never closed, none after it is: they are not looked for again, so that many `[` stay linear.
    let mut classes_close = true;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            b'[' if classes_close => match class_end(pattern, at) {
                Some(end) => at = end,
                None => classes_close = false,
            },
            b'{' => waiting.push((at, Vec::new())),
            b',' => {
                if let Some((_, commas)) = waiting.last_mut() {
                    commas.push(at);
                }
            }
            b'}' => {
                if let Some((open, commas)) = waiting.pop()
                    && !commas.is_empty()
                    && first.as_ref().is_none_or(|group| open < group.open)
                {
                    first = Some(Group { open, close: at, commas });
                }
            }
            _ => {}
        }
        at += 1;
    }
    first
}

/// The bracket that closes the class opened at `open`.
fn class_end(pattern: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            b']' => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expanded(pattern: &str) -> Vec<String> {
        let patterns = expand(pattern.as_bytes()).unwrap();
        patterns.into_iter().map(|pattern| String::from_utf8(pattern).unwrap()).collect()
    }

    #[test]
    fn a_group_with_a_comma_is_expanded_in_order() {
        assert_eq!(expanded("{litellm,langfuse}:*"), ["litellm:*", "langfuse:*"]);
        assert_eq!(expanded("{a,b}:{c,d}"), ["a:c", "a:d", "b:c", "b:d"]);
        assert_eq!(expanded("{a,{b,c}d}"), ["a", "bd", "cd"]);
    }

    #[test]
    fn everything_else_is_literal() {
        for pattern in
            ["{tag}:x", "\\{a,b\\}", "\\{a,b}", "{a,b", "a,b}", "a,b", "[{,}]", "{[a,b]}", "{a\\,b}", "{}", "{"]
        {
            assert_eq!(expanded(pattern), [pattern], "{pattern}");
        }
        assert_eq!(expanded("{{tag},x}"), ["{tag}", "x"]);
        assert_eq!(expanded("{{a,b}"), ["{a", "{b"]);
    }

    #[test]
    fn there_are_bounds() {
        assert_eq!(expand(b"{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}").map(|patterns| patterns.len()), Ok(64));
        assert_eq!(expand(b"{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}"), Err(BraceError::TooMany));
        assert_eq!(expand(&[b"{", &*b"a,".repeat(64), b"a}"].concat()), Err(BraceError::TooMany));
        assert_eq!(expand(b"{app:,}*"), Err(BraceError::EmptyAlternative));
    }

    #[test]
    fn a_hostile_pattern_is_read_in_linear_time() {
        assert_eq!(expand(&b"[{".repeat(30_000)).map(|patterns| patterns.len()), Ok(1));
        assert_eq!(expand(&b"{".repeat(60_000)).map(|patterns| patterns.len()), Ok(1));
    }

    proptest! {
        #[test]
        fn what_comes_out_is_not_expanded_again(pattern in proptest::collection::vec(proptest::sample::select(&b"ab{},[]\\*"[..]), 0..20)) {
            for plain in expand(&pattern).unwrap_or_default() {
                prop_assert_eq!(expand(&plain), Ok(vec![plain.clone()]));
            }
        }
    }
}
