//! Files of users: an ACL file, or the `user` lines of a redis.conf.
//!
//! ```text
//!   # comment                               blank lines, indentation and CRLF are fine
//!   user litellm on #5e88… ~litellm:* +@all
//!   USER default off
//! ```
//! All or nothing: every line is checked, all errors come back in Redis' words with file and line, and nothing is
//! taken from a file with an error in it. Closed when in doubt: a file that does not name `default` switches it off
//! (Redis would leave it open), a file without users is refused, and so is one that was never decrypted (SOPS) or never
//! rendered (`#{ … }#`), where the markup would become somebody's password.
//!
//! It refuses to know where the bytes come from, and what becomes of the users.

use crate::catalog::Catalog;
use crate::directory::USERS_MAX;
use crate::printable;
use crate::rule::{Reason, Rule, is_space, merge_selectors};
use crate::user::{User, UserName};
use std::collections::HashMap;
use std::fmt;

/// The largest file. A hundred thousand users of the usual size fit.
pub const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many lines in error are told; the rest are as wrong as these.
const ERRORS_TOLD_MAX: usize = 100;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Only users and comments; words are split at white space.
    AclFile,
    /// A configuration of Redis: only lines that begin with `user` count, words may be quoted.
    RedisConf,
}

impl FileKind {
    /// A redis.conf if a line begins with a directive only it has. A misspelled `user` is still an error.
    pub fn detect(content: &[u8]) -> FileKind {
        const DIRECTIVES: [&[u8]; 16] = [
            b"bind",
            b"port",
            b"protected-mode",
            b"tcp-backlog",
            b"timeout",
            b"daemonize",
            b"loglevel",
            b"databases",
            b"save",
            b"dir",
            b"dbfilename",
            b"appendonly",
            b"maxmemory",
            b"maxmemory-policy",
            b"requirepass",
            b"include",
        ];
        let first_words = content.split(|byte| *byte == b'\n').filter_map(|line| words(line).next());
        let known = |word: &[u8]| DIRECTIVES.iter().any(|directive| directive.eq_ignore_ascii_case(word));
        if first_words.into_iter().any(known) { FileKind::RedisConf } else { FileKind::AclFile }
    }
}

/// The users of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Every user with the rules that make it from nothing; `default` is always among them.
    pub users: Vec<(UserName, Vec<Rule>)>,
    /// Whether the file itself names `default`; if not, it is off.
    pub names_default: bool,
}

/// Why nothing was taken from a file. `Display` is the text of the reply or the log line; it repeats no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// Lines in error, each as Redis words it.
    Lines(Vec<String>),
    /// Not one user.
    Empty {
        /// The file.
        file: String,
    },
    /// Encrypted by SOPS.
    Encrypted {
        /// The file.
        file: String,
    },
    /// A template that was never rendered.
    Unrendered {
        /// The file.
        file: String,
        /// The line.
        line: usize,
    },
    /// Longer than [`FILE_BYTES_MAX`].
    TooLarge {
        /// The file.
        file: String,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Lines(errors) => {
                errors.iter().try_for_each(|error| f.write_str(error))?;
                f.write_str("WARNING: ACL errors detected, no change to the previously active ACL rules was performed")
            }
            FileError::Empty { file } => {
                write!(f, "{file}: there is no user in it; to leave nobody, write 'user default off'")
            }
            FileError::Encrypted { file } => {
                write!(f, "{file}: it is encrypted by SOPS; decrypt it first")
            }
            FileError::Unrendered { file, line } => {
                write!(f, "{file}:{line}: it is a template that was not rendered; render it first")
            }
            FileError::TooLarge { file } => {
                write!(f, "{file}: it is longer than {} MB", FILE_BYTES_MAX >> 20)
            }
        }
    }
}

impl std::error::Error for FileError {}

/// Reads a file of users. `file` is what errors call it.
pub fn parse_policy(
    file: &str,
    kind: FileKind,
    content: &[u8],
    catalog: &dyn Catalog,
) -> Result<PolicyFile, FileError> {
    if content.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { file: file.to_owned() });
    }
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if is_encrypted(content) {
        return Err(FileError::Encrypted { file: file.to_owned() });
    }
    let mut reader = Reader { file, catalog, users: Vec::new(), seen: HashMap::new(), errors: Vec::new() };
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let (number, line) = (index + 1, line.trim_ascii());
        if is_template(line) {
            return Err(FileError::Unrendered { file: file.to_owned(), line: number });
        }
        if !line.is_empty() && !line.starts_with(b"#") {
            reader.line(kind, number, line);
        }
    }
    reader.finish()
}

struct Reader<'a> {
    file: &'a str,
    catalog: &'a dyn Catalog,
    users: Vec<(UserName, Vec<Rule>)>,
    seen: HashMap<UserName, usize>,
    errors: Vec<String>,
}

impl Reader<'_> {
    fn line(&mut self, kind: FileKind, number: usize, line: &[u8]) {
        let is_user = words(line).next().is_some_and(|word| word.eq_ignore_ascii_case(b"user"));
        let split = match kind {
            FileKind::RedisConf if !is_user => return,
            FileKind::RedisConf => split_quoted(line),
            FileKind::AclFile => Some(words(line).map(<[u8]>::to_vec).collect()),
        };
        let Some(split) = split else {
            return self.error(format!("{}:{number}: Unbalanced quotes in configuration line. ", self.file));
        };
        let (true, Some(name)) = (is_user, split.get(1)) else {
            let file = self.file;
            return self.error(format!("{file}:{number} should start with user keyword followed by the username. "));
        };
        let shown = printable::as_typed(name, 128);
        let Ok(name) = UserName::new(name) else {
            return self.error(format!("{}:{number}: username '{shown}' contains invalid characters. ", self.file));
        };
        if self.seen.insert(name.clone(), number).is_some() {
            return self.error(format!("WARNING: Duplicate user '{shown}' found on line {number}. "));
        }
        let rules = self.rules(number, &name, &split[2..]);
        if self.users.len() < USERS_MAX {
            self.users.push((name, rules));
        } else {
            self.error(format!("{}:{number}: there are more than {USERS_MAX} users. ", self.file));
        }
    }

    /// The rules of one user: every unknown name is an error of its own, of the others only the first is told.
    fn rules(&mut self, number: usize, name: &UserName, tokens: &[Vec<u8>]) -> Vec<Rule> {
        let file = self.file;
        let Ok(tokens) = merge_selectors(tokens) else {
            self.error(format!("{file}:{number}: Unmatched parenthesis in selector definition."));
            return Vec::new();
        };
        let mut user = User::new(name.clone(), 0);
        let mut rules = Vec::with_capacity(tokens.len());
        let mut told = false;
        for token in &tokens {
            let parsed = Rule::parse(token).map_err(|error| error.reason().unwrap_or(Reason::Syntax));
            let applied = parsed.and_then(|parsed| {
                parsed.iter().try_for_each(|rule| user.apply_checked(rule, self.catalog))?;
                Ok(parsed)
            });
            match applied {
                Ok(parsed) => rules.extend(parsed),
                Err(reason @ Reason::UnknownCommandOrCategory) => {
                    let token = printable::as_typed(token, 128);
                    self.error(format!("{file}:{number}: Error in applying operation '{token}': {reason}. "));
                }
                Err(reason) if !told => {
                    told = true;
                    self.error(format!("{file}:{number}: {reason}. "));
                }
                Err(_) => {}
            }
        }
        if let Err(error) = user.check_bounds() {
            self.error(format!("{file}:{number}: {error}. "));
        }
        rules
    }

    fn error(&mut self, error: String) {
        if self.errors.len() < ERRORS_TOLD_MAX {
            self.errors.push(error);
        }
    }

    fn finish(mut self) -> Result<PolicyFile, FileError> {
        if !self.errors.is_empty() {
            return Err(FileError::Lines(self.errors));
        }
        if self.users.is_empty() {
            return Err(FileError::Empty { file: self.file.to_owned() });
        }
        let default = UserName::default_user();
        let names_default = self.seen.contains_key(&default);
        if !names_default {
            self.users.push((default, vec![Rule::Off]));
        }
        Ok(PolicyFile { users: self.users, names_default })
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| is_space(*byte)).filter(|word| !word.is_empty())
}

/// The words of a line of redis.conf: `"…"` with escapes, `'…'` with `\'`; `None` if a quote is not closed, or is
/// closed in the middle of a word.
fn split_quoted(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        // The same white space that ends a word below, or a byte that is one and not the other would go round for ever.
        while let [byte, after @ ..] = rest
            && is_space(*byte)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let [byte, after @ ..] = rest
            && !is_space(*byte)
        {
            rest = match byte {
                b'"' => double_quoted(after, &mut word)?,
                b'\'' => single_quoted(after, &mut word)?,
                _ => {
                    word.push(*byte);
                    after
                }
            };
        }
        words.push(word);
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0) as u8;
                word.push(digit(high) << 4 | digit(low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return ends_word(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return ends_word(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return None,
        }
    }
}

fn ends_word(after: &[u8]) -> Option<&[u8]> {
    after.first().is_none_or(|byte| is_space(*byte)).then_some(after)
}

/// SOPS leaves its envelope in every format it writes.
fn is_encrypted(content: &[u8]) -> bool {
    const MARKS: [&[u8]; 3] = [b"ENC[AES256_GCM,", b"sops_version=", b"\"sops\":"];
    let envelope = || content.split(|byte| *byte == b'\n').any(|line| line.trim_ascii_end() == b"sops:");
    MARKS.iter().any(|mark| find(content, mark).is_some()) || envelope()
}

/// Markup of the usual template languages. A comment counts only if it is one markup itself, as `#% if x %#` is.
fn is_template(line: &[u8]) -> bool {
    const MARKUP: [(&[u8], &[u8]); 7] = [
        (b"#{", b"}#"),
        (b"#%", b"%#"),
        (b"{{ ", b"}}"),
        (b"{{-", b"}}"),
        (b"{{.", b"}}"),
        (b"{%", b"%}"),
        (b"<%", b"%>"),
    ];
    let comment = line.starts_with(b"#");
    let marked = |(open, close): &(&[u8], &[u8])| {
        let start = if comment { line.starts_with(open).then_some(0) } else { find(line, open) };
        start.is_some_and(|start| find(&line[start + open.len()..], close).is_some())
    };
    MARKUP.iter().any(marked) || !comment && words(line).any(is_variable)
}

/// `>${PASSWORD}`, `>$(PASSWORD)`: an environment variable nobody put in.
fn is_variable(word: &[u8]) -> bool {
    let name = word.strip_prefix(b">").and_then(|word| match word {
        [b'$', b'{', name @ .., b'}'] | [b'$', b'(', name @ .., b')'] => Some(name),
        _ => None,
    });
    name.is_some_and(|name| !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'))
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests;
