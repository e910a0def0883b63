//! How each command is written: its arguments as `COMMAND DOCS` tells them, and what joined them over time.
//!
//! `commands/syntax.txt` holds one line a command, in the order of their names:
//!
//! ```text
//! set key:key value [condition<NX@2.6.12 | XX@2.6.12>] [GET@6.2.0] [EX=seconds:int@2.6.12]
//!  7.0.0 GET may be used together with NX.
//! ```
//!
//! `name` is a string, `name:int :double :time :pattern` something else, `name:key` a key (`:key1` of the second key
//! specification); `NX` a word that stands for itself (`change!CH` if it is called otherwise), `EX=…` a word before an
//! argument; `name(…)` several in a row, `name<… | …>` one of several; `[…]` what may be left out, `…...` what may be
//! repeated (`&...` together with its word); `'…'` another text to show, `@…` the version that brought it. A line that
//! begins with a space is a version and what it changed beyond that. This file knows no command by name.

use crate::reply::Reply;
use std::collections::BTreeMap;

/// The lines of all commands.
const LINES: &str = include_str!("commands/syntax.txt");

/// What kind of thing an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Integer,
    Double,
    Time,
    Pattern,
    Key(u8),
    Word,
    OneOf,
    Block,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Integer => "integer",
            Kind::Double => "double",
            Kind::Time => "unix-time",
            Kind::Pattern => "pattern",
            Kind::Key(_) => "key",
            Kind::Word => "pure-token",
            Kind::OneOf => "oneof",
            Kind::Block => "block",
        }
    }

    fn of_suffix(suffix: &str) -> Option<Kind> {
        Some(match suffix {
            "int" => Kind::Integer,
            "double" => Kind::Double,
            "time" => Kind::Time,
            "pattern" => Kind::Pattern,
            "key" => Kind::Key(0),
            "key1" => Kind::Key(1),
            "key2" => Kind::Key(2),
            _ => return None,
        })
    }
}

/// One argument of a command.
#[derive(PartialEq, Debug)]
struct Argument {
    name: String,
    kind: Kind,
    word: Option<&'static str>,
    shown: Option<&'static str>,
    since: Option<&'static str>,
    optional: bool,
    multiple: bool,
    multiple_word: bool,
    parts: Vec<Argument>,
}

impl Argument {
    fn write(&self, reply: &mut Reply) {
        let flags = [(self.optional, "optional"), (self.multiple, "multiple"), (self.multiple_word, "multiple_token")];
        let flags: Vec<&str> = flags.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        let is_leaf = self.parts.is_empty();
        let is_key = matches!(self.kind, Kind::Key(_));
        let optional_parts = [is_leaf, is_key, self.word.is_some(), self.since.is_some(), !flags.is_empty(), !is_leaf];
        reply.map(2 + optional_parts.into_iter().filter(|is| *is).count());
        write_pair("name", &self.name, reply);
        write_pair("type", self.kind.name(), reply);
        if is_leaf {
            write_pair("display_text", self.shown.unwrap_or(&self.name), reply);
        }
        if let Kind::Key(specification) = self.kind {
            reply.bulk(b"key_spec_index");
            reply.integer(i64::from(specification));
        }
        if let Some(word) = self.word {
            write_pair("token", word, reply);
        }
        if let Some(since) = self.since {
            write_pair("since", since, reply);
        }
        if !flags.is_empty() {
            reply.bulk(b"flags");
            reply.set(flags.len());
            flags.iter().for_each(|flag| reply.simple(flag));
        }
        if !is_leaf {
            reply.bulk(b"arguments");
            reply.array(self.parts.len());
            self.parts.iter().for_each(|part| part.write(reply));
        }
    }

    /// What came with which version, as a reader would call it.
    fn additions<'a>(&'a self, into: &mut BTreeMap<Version, Vec<&'a str>>) {
        match self.since {
            Some(since) => self.labels(into.entry(Version::of(since)).or_default()),
            None => self.parts.iter().for_each(|part| part.additions(into)),
        }
    }

    fn labels<'a>(&'a self, into: &mut Vec<&'a str>) {
        match self.word {
            Some(word) => into.push(word),
            None if self.parts.is_empty() => into.push(&self.name),
            None => self.parts.iter().for_each(|part| part.labels(into)),
        }
    }
}

fn write_pair(name: &str, text: &str, reply: &mut Reply) {
    reply.bulk(name.as_bytes());
    reply.bulk(text.as_bytes());
}

/// A version by its numbers, so that 10 comes after 9.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version([u16; 3]);

impl Version {
    fn of(text: &str) -> Version {
        let mut numbers = [0; 3];
        numbers.iter_mut().zip(text.split('.')).for_each(|(number, part)| *number = part.parse().unwrap_or(0));
        Version(numbers)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(out, "{major}.{minor}.{patch}")
    }
}

/// How one command is written.
pub(crate) struct Syntax {
    arguments: Vec<Argument>,
    history: Vec<(Version, String)>,
}

impl Syntax {
    /// That of the command of this full name in small letters, which exists since this version.
    pub(crate) fn of(full_name: &str, since: &str) -> Syntax {
        let mut lines = LINES.lines().skip_while(|line| name_of(line) != full_name);
        let line = lines.next().unwrap_or_default();
        let mut reader = Reader { rest: line.get(full_name.len()..).unwrap_or_default() };
        let arguments = reader.arguments().unwrap_or_default();
        let mut additions = BTreeMap::new();
        arguments.iter().for_each(|argument| argument.additions(&mut additions));
        let mut history: Vec<(Version, String)> = additions
            .into_iter()
            .filter(|(version, _)| *version > Version::of(since))
            .map(|(version, labels)| (version, format!("Added {}.", quoted(&labels))))
            .collect();
        for line in lines.take_while(|line| line.starts_with(' ')) {
            let (version, text) = line.trim_start().split_once(' ').unwrap_or_default();
            history.push((Version::of(version), text.to_owned()));
        }
        history.sort_by_key(|(version, _)| *version);
        Syntax { arguments, history }
    }

    /// How many pairs [`Syntax::write`] adds to a command's map.
    pub(crate) fn pairs(&self) -> usize {
        usize::from(!self.history.is_empty()) + usize::from(!self.arguments.is_empty())
    }

    /// `history` and `arguments`, where there are some.
    pub(crate) fn write(&self, reply: &mut Reply) {
        if !self.history.is_empty() {
            reply.bulk(b"history");
            reply.set(self.history.len());
            for (version, text) in &self.history {
                reply.array(2);
                reply.bulk(version.to_string().as_bytes());
                reply.bulk(text.as_bytes());
            }
        }
        if !self.arguments.is_empty() {
            reply.bulk(b"arguments");
            reply.array(self.arguments.len());
            self.arguments.iter().for_each(|argument| argument.write(reply));
        }
    }
}

fn name_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// `A`, `B` and `C`.
fn quoted(names: &[&str]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let between = match index {
            0 => "",
            _ if index + 1 == names.len() => " and ",
            _ => ", ",
        };
        text += &format!("{between}`{name}`");
    }
    text
}

/// What is left of a line. Every step is `None` where the line is not what the top of this file says.
struct Reader {
    rest: &'static str,
}

impl Reader {
    fn accept(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        rest.inspect(|rest| self.rest = rest).is_some()
    }

    /// As much as consists of such characters.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'static str {
        let end = self.rest.find(|char| !wanted(char)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// The whole line.
    fn arguments(&mut self) -> Option<Vec<Argument>> {
        let mut arguments = Vec::new();
        while !self.rest.is_empty() {
            self.accept(" ").then_some(())?;
            arguments.push(self.argument()?);
        }
        Some(arguments)
    }

    fn parts(&mut self, between: &str, end: &str) -> Option<Vec<Argument>> {
        let mut parts = vec![self.argument()?];
        while !self.accept(end) {
            self.accept(between).then_some(())?;
            parts.push(self.argument()?);
        }
        Some(parts)
    }

    fn argument(&mut self) -> Option<Argument> {
        if self.accept("[") {
            let mut inner = self.argument()?;
            inner.optional = true;
            return self.accept("]").then_some(inner);
        }
        let mut name = self.name()?;
        let mut word = None;
        if self.accept("=") {
            word = Some(name);
            name = self.name()?;
        }
        let (mut kind, mut parts) = (Kind::Text, Vec::new());
        if self.accept("<") {
            (kind, parts) = (Kind::OneOf, self.parts(" | ", ">")?);
        } else if self.accept("(") {
            (kind, parts) = (Kind::Block, self.parts(" ", ")")?);
        } else if self.accept(":") {
            kind = Kind::of_suffix(self.take(|char| char.is_ascii_alphanumeric()))?;
        } else if self.accept("!") {
            let said = self.take(|char| char.is_ascii_uppercase() || "=~*$\"-".contains(char));
            (kind, word) = (Kind::Word, Some(if said == "\"\"" { "" } else { said }));
        } else if name.starts_with(|first: char| first.is_ascii_uppercase()) {
            (kind, word) = (Kind::Word, Some(name));
        }
        let shown = if self.accept("'") {
            let text = self.take(|char| char != '\'');
            self.accept("'").then_some(text)
        } else {
            None
        };
        let since = self.accept("@").then(|| self.version());
        let multiple_word = self.accept("&");
        let multiple = self.accept("...");
        let name = name.to_ascii_lowercase();
        Some(Argument { name, kind, word, shown, since, optional: false, multiple, multiple_word, parts })
    }

    fn name(&mut self) -> Option<&'static str> {
        let name = self.take(|char| char.is_ascii_alphanumeric() || char == '-' || char == '_');
        (!name.is_empty()).then_some(name)
    }

    /// Numbers with dots between them; dots that follow are not part of it.
    fn version(&mut self) -> &'static str {
        let mut reader = Reader { rest: self.rest };
        let digits = |char: char| char.is_ascii_digit();
        let mut length = reader.take(digits).len();
        while reader.accept(".") {
            match reader.take(digits).len() {
                0 => break,
                more => length += 1 + more,
            }
        }
        let (version, rest) = self.rest.split_at(length);
        self.rest = rest;
        version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Protocol;
    use crate::table::table;

    fn read(line: &'static str) -> Option<Vec<Argument>> {
        Reader { rest: line }.arguments()
    }

    #[test]
    fn every_command_has_its_line_and_every_line_is_understood() {
        let names: Vec<&str> = LINES.lines().filter(|line| !line.starts_with(' ')).map(name_of).collect();
        assert!(names.is_sorted(), "the lines are in the order of their names");
        let of_table: std::collections::BTreeSet<&str> = table().rows().iter().map(|row| row.full_name).collect();
        let of_lines: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        let missing: Vec<_> = of_table.symmetric_difference(&of_lines).collect();
        assert!(missing.is_empty(), "either no line or no command: {missing:?}");
        for line in LINES.lines().filter(|line| !line.starts_with(' ')) {
            assert!(read(&line[name_of(line).len()..]).is_some(), "cannot be read: {line}");
        }
    }

    #[test]
    fn words_kinds_and_repetitions_are_told_apart() {
        let arguments =
            read(" key:key [BY=by-pattern:pattern'pattern'] [change!CH@6.2.0] data(score:double member)...").unwrap();
        assert_eq!(arguments[0].kind, Kind::Key(0));
        assert_eq!((arguments[1].word, arguments[1].shown, arguments[1].optional), (Some("BY"), Some("pattern"), true));
        assert_eq!(
            (arguments[2].name.as_str(), arguments[2].word, arguments[2].since),
            ("change", Some("CH"), Some("6.2.0"))
        );
        assert_eq!((arguments[3].kind, arguments[3].multiple, arguments[3].parts.len()), (Kind::Block, true, 2));
        let [one_of] = &read(" order<ASC | [DESC@2.0.0...]>").unwrap()[..] else { panic!("one argument") };
        assert_eq!((one_of.kind, one_of.parts[1].since, one_of.parts[1].multiple), (Kind::OneOf, Some("2.0.0"), true));
    }

    #[test]
    fn lines_that_end_in_the_middle_are_not_understood() {
        for line in [" a(b", " [a", " a<b | >", " a:what", "a", " a]"] {
            assert!(read(line).is_none(), "{line}");
        }
    }

    #[test]
    fn history_tells_what_came_after_the_command() {
        let history = Syntax::of("set", "1.0.0").history;
        let shown: Vec<String> = history.iter().map(|(version, text)| format!("{version} {text}")).collect();
        assert_eq!(shown[0], "2.6.12 Added `NX`, `XX`, `EX` and `PX`.");
        assert!(shown.iter().any(|line| line.starts_with("7.0.0")), "{shown:?}");
        assert!(Syntax::of("zadd", "9.9.9").history.iter().all(|(_, text)| !text.starts_with("Added")));
    }

    #[test]
    fn an_argument_is_shown_as_a_map() {
        let mut reply = Reply::new(Protocol::Resp3);
        read(" [MATCH=pattern:pattern]").unwrap()[0].write(&mut reply);
        let shown = String::from_utf8(reply.bytes).unwrap().replace("\r\n", " ");
        assert_eq!(
            shown,
            "%5 $4 name $7 pattern $4 type $7 pattern $12 display_text $7 pattern $5 token $5 MATCH $5 flags ~1 +optional "
        );
    }
}
