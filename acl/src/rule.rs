//! One rule: parsed, printed, checked against the commands there are.
//!
//! ```text
//!   rule      = user-rule | grant | "(" grant* ")" | "clearselectors" | ""
//!   user-rule = "on" | "off" | "nopass" | "resetpass" | "reset" | "sanitize-payload" | "skip-sanitize-payload"
//!             | ">" password | "<" password | "#" sha256-hex | "!" sha256-hex
//!             | "ack=" ("quorum" | "async" | "default") | "mode=" ("enforce" | "report")
//!             | "role=" ("tenant-admin" | "default")
//!             | "limit:" limit-name "=" (number [unit] | "default")
//!   grant     = "allkeys" | "resetkeys" | "~" pattern | "%" ("R" | "W" | "RW") "~" pattern
//!             | "allchannels" | "resetchannels" | "&" pattern
//!             | "alldbs" | "resetdbs" | "db=" number ("," number)*
//!             | "allcommands" | "nocommands" | ("+" | "-") ("@" category | command ["|" subcommand])
//!             | "+" command "|" first-argument
//! ```
//! Words are read in any case and printed in lower case. `(`, `+get`, `~x`, `)` as separate words are one selector
//! ([`parse_rules`]). What is alike is one value: `~*` is `allkeys`, `+@all` is `allcommands`.
//!
//! A rule is **text-shaped**: it holds names, not numbers, so it means the same to every version of the program.
//! Passwords are hashed and braces expanded here, at once; a plaintext is never part of a rule.
//! [`validate`] asks a catalog whether the names exist. This file refuses to know users, and what rules add up to.
//!
//! Narrower than Redis, so that every accepted rule survives being printed and read again: no white space or NUL in
//! names and arguments, and inside a selector no word may end in `)`.

use crate::braces::{self, BraceError};
use crate::catalog::Catalog;
use crate::category::Category;
use crate::limit::{self, LimitName};
use crate::password::PasswordHash;
use crate::printable;
use std::fmt;

/// The longest word of a rule, a whole selector included. Redis has no limit; a change must fit an entry of the log.
pub const RULE_BYTES_MAX: usize = 64 * 1024;

/// How much of a rejected word an error repeats.
const ECHO_BYTES_MAX: usize = 512;

/// What a command does to a key: neither means that the right to do either is enough (EXISTS, TYPE, STRLEN, TTL …).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyAccess {
    /// It returns or copies the value.
    pub read: bool,
    /// It changes, adds or deletes.
    pub write: bool,
}

impl KeyAccess {
    /// Either right is enough.
    pub const EITHER: KeyAccess = KeyAccess { read: false, write: false };
    /// Needs the right to read.
    pub const READ: KeyAccess = KeyAccess { read: true, write: false };
    /// Needs the right to write.
    pub const WRITE: KeyAccess = KeyAccess { read: false, write: true };
    /// Needs both rights, from one pattern.
    pub const READ_WRITE: KeyAccess = KeyAccess { read: true, write: true };
}

/// What a key pattern grants. Granting nothing is no value of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyRights {
    /// `%R~`.
    Read,
    /// `%W~`.
    Write,
    /// `~`, `%RW~`.
    ReadWrite,
}

impl KeyRights {
    /// What both grant together.
    pub fn union(self, other: KeyRights) -> KeyRights {
        if self == other { self } else { KeyRights::ReadWrite }
    }

    /// Whether this is enough for `access`.
    pub fn allows(self, access: KeyAccess) -> bool {
        match self {
            KeyRights::ReadWrite => true,
            KeyRights::Read => !access.write,
            KeyRights::Write => !access.read,
        }
    }

    pub(crate) const fn sigil(self) -> &'static [u8] {
        match self {
            KeyRights::Read => b"%R~",
            KeyRights::Write => b"%W~",
            KeyRights::ReadWrite => b"~",
        }
    }
}

/// A rule about one set of permissions: the user's own, or a selector's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// `allkeys`, `~*`.
    AllKeys,
    /// `resetkeys`.
    ResetKeys,
    /// `~pattern` and its `%` forms.
    Key {
        /// A Redis pattern without white space, NUL or alternatives in braces.
        pattern: Box<[u8]>,
        /// What it grants.
        rights: KeyRights,
    },
    /// `allchannels`, `&*`.
    AllChannels,
    /// `resetchannels`.
    ResetChannels,
    /// `&pattern`.
    Channel(Box<[u8]>),
    /// `alldbs`.
    AllDatabases,
    /// `resetdbs`.
    ResetDatabases,
    /// `db=0,2`: these and no others.
    Databases(Vec<u32>),
    /// `allcommands`, `+@all`.
    AllCommands,
    /// `nocommands`, `-@all`.
    NoCommands,
    /// `+@read`, `-@dangerous`.
    Category {
        /// `+` or `-`.
        allow: bool,
        /// Lower case, without `@`.
        name: Box<str>,
    },
    /// `+get`, `-config|set`, and `+select|0`: whether `a|b` is a subcommand or a first argument is the catalog's
    /// to say.
    Command {
        /// `+` or `-`.
        allow: bool,
        /// Lower case.
        name: Box<str>,
    },
}

/// One step in the making of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `on`.
    On,
    /// `off`: no new logins.
    Off,
    /// `nopass`: any password will do; forgets the passwords.
    NoPass,
    /// `resetpass`: no password will do.
    ResetPass,
    /// `reset`: back to a user just made.
    Reset,
    /// `sanitize-payload`: accepted, without effect and never shown; every payload is checked.
    SanitizePayload,
    /// `skip-sanitize-payload`: accepted, without effect and never shown.
    SkipSanitizePayload,
    /// `>password`, `#hash`.
    AddPassword(PasswordHash),
    /// `<password`, `!hash`.
    RemovePassword(PasswordHash),
    /// `(…)`: one more set of permissions.
    Selector(Vec<Grant>),
    /// `clearselectors`.
    ClearSelectors,
    /// `ack=quorum`, `ack=async`: when writes of this user are answered; `ack=default`: as the server is set.
    Acknowledge(Option<Acknowledge>),
    /// `mode=report`: what the rules forbid is noted and happens nevertheless; `mode=enforce`: it does not happen.
    Mode(Mode),
    /// `role=tenant-admin`: it sees all users of its tenant; `role=default`: itself.
    Role(Role),
    /// `limit:connections=20`: so much and no more; `limit:connections=default`: as if this had never been said.
    Limit(LimitName, Option<u64>),
    /// Changes the user's own permissions.
    Grant(Grant),
}

/// What becomes of a request that the rules forbid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is noted and runs, unless no rule could have allowed it.
    Report,
}

impl Mode {
    /// The rule that asks for it.
    pub fn rule(self) -> &'static str {
        match self {
            Mode::Enforce => "mode=enforce",
            Mode::Report => "mode=report",
        }
    }
}

/// What a user is to the other users of its tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// One of them: they do not exist for it.
    #[default]
    User,
    /// It sees who they are, what their rules are and what they were denied, and changes nothing.
    TenantAdmin,
}

impl Role {
    /// The rule that asks for it.
    pub fn rule(self) -> &'static str {
        match self {
            Role::User => "role=default",
            Role::TenantAdmin => "role=tenant-admin",
        }
    }
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acknowledge {
    /// As soon as it is made.
    Async,
    /// When every node in sync has it.
    Quorum,
}

impl Acknowledge {
    /// The rule that asks for it.
    pub fn rule(self) -> &'static str {
        match self {
            Acknowledge::Async => "ack=async",
            Acknowledge::Quorum => "ack=quorum",
        }
    }
}

impl Rule {
    /// Reads one word as a client sends it; none for the empty word, several if braces expand.
    pub fn parse(token: &[u8]) -> Result<Vec<Rule>, RuleError> {
        if token.first() == Some(&b'(') && token.last() != Some(&b')') {
            return Err(RuleError::UnmatchedParenthesis { token: token.into() });
        }
        parse_token(token).map_err(|reason| RuleError::modifier(token, reason))
    }

    /// The canonical text; [`Rule::parse`] makes exactly this rule of it. Passwords are `#hash` and `!hash`.
    pub fn to_text(&self) -> Vec<u8> {
        match self {
            Rule::On => b"on".to_vec(),
            Rule::Off => b"off".to_vec(),
            Rule::NoPass => b"nopass".to_vec(),
            Rule::ResetPass => b"resetpass".to_vec(),
            Rule::Reset => b"reset".to_vec(),
            Rule::SanitizePayload => b"sanitize-payload".to_vec(),
            Rule::SkipSanitizePayload => b"skip-sanitize-payload".to_vec(),
            Rule::AddPassword(hash) => format!("#{}", hash.to_hex()).into_bytes(),
            Rule::RemovePassword(hash) => format!("!{}", hash.to_hex()).into_bytes(),
            Rule::Selector(grants) => {
                let words: Vec<Vec<u8>> = grants.iter().map(Grant::to_text).collect();
                [b"(", &*words.join(&b' '), b")"].concat()
            }
            Rule::ClearSelectors => b"clearselectors".to_vec(),
            Rule::Acknowledge(how) => how.map_or("ack=default", Acknowledge::rule).as_bytes().to_vec(),
            Rule::Mode(mode) => mode.rule().as_bytes().to_vec(),
            Rule::Role(role) => role.rule().as_bytes().to_vec(),
            Rule::Limit(name, value) => limit::rule(*name, *value).into_bytes(),
            Rule::Grant(grant) => grant.to_text(),
        }
    }
}

impl Grant {
    /// The canonical text.
    pub fn to_text(&self) -> Vec<u8> {
        match self {
            Grant::AllKeys => b"~*".to_vec(),
            Grant::ResetKeys => b"resetkeys".to_vec(),
            Grant::Key { pattern, rights } => [rights.sigil(), pattern].concat(),
            Grant::AllChannels => b"&*".to_vec(),
            Grant::ResetChannels => b"resetchannels".to_vec(),
            Grant::Channel(pattern) => [b"&", &**pattern].concat(),
            Grant::AllDatabases => b"alldbs".to_vec(),
            Grant::ResetDatabases => b"resetdbs".to_vec(),
            Grant::Databases(numbers) if numbers.is_empty() => b"resetdbs".to_vec(),
            Grant::Databases(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                format!("db={}", numbers.join(",")).into_bytes()
            }
            Grant::AllCommands => b"+@all".to_vec(),
            Grant::NoCommands => b"-@all".to_vec(),
            Grant::Category { allow, name } => format!("{}@{name}", sign(*allow)).into_bytes(),
            Grant::Command { allow, name } => format!("{}{name}", sign(*allow)).into_bytes(),
        }
    }
}

pub(crate) const fn sign(allow: bool) -> char {
    if allow { '+' } else { '-' }
}

/// Reads the words of `ACL SETUSER name …`: a selector spread over several words is one rule.
pub fn parse_rules<T: AsRef<[u8]>>(tokens: &[T]) -> Result<Vec<Rule>, RuleError> {
    let mut rules = Vec::new();
    for token in merge_selectors(tokens)? {
        rules.extend(Rule::parse(&token)?);
    }
    Ok(rules)
}

/// Joins `(`, `+get`, `~x`, `)` into one word, as Redis does: from a word that begins with `(` and does not end with
/// `)`, to the next that ends with `)`.
pub(crate) fn merge_selectors<T: AsRef<[u8]>>(tokens: &[T]) -> Result<Vec<Vec<u8>>, RuleError> {
    let mut merged = Vec::with_capacity(tokens.len());
    let mut open: Option<(&[u8], Vec<u8>)> = None;
    for token in tokens {
        let token = token.as_ref();
        let closes = token.last() == Some(&b')');
        match &mut open {
            None if token.first() == Some(&b'(') && !closes => open = Some((token, token.to_vec())),
            None => merged.push(token.to_vec()),
            Some((_, words)) => {
                words.push(b' ');
                words.extend_from_slice(token);
                if closes {
                    merged.extend(open.take().map(|(_, words)| words));
                }
            }
        }
    }
    match open {
        Some((token, _)) => Err(RuleError::UnmatchedParenthesis { token: token.into() }),
        None => Ok(merged),
    }
}

/// Whether every command and category exists, with Redis' texts for those that do not. What depends on the user it
/// is meant for is checked by [`crate::Directory::validate`].
pub fn validate(rules: &[Rule], catalog: &dyn Catalog) -> Result<(), RuleError> {
    rules
        .iter()
        .try_for_each(|rule| check_names(rule, catalog).map_err(|reason| RuleError::modifier(&rule.to_text(), reason)))
}

pub(crate) fn check_names(rule: &Rule, catalog: &dyn Catalog) -> Result<(), Reason> {
    match rule {
        Rule::Grant(grant) => grant.check_names(catalog),
        Rule::Selector(grants) => grants.iter().try_for_each(|grant| grant.check_names(catalog)),
        _ => Ok(()),
    }
}

impl Grant {
    fn check_names(&self, catalog: &dyn Catalog) -> Result<(), Reason> {
        match self {
            Grant::Category { name, .. } => {
                Category::find(name.as_bytes()).map(|_| ()).ok_or(Reason::UnknownCommandOrCategory)
            }
            Grant::Command { name, .. } if catalog.find(name).is_some() => Ok(()),
            Grant::Command { allow: true, name } => check_first_argument(name, catalog),
            Grant::Command { allow: false, .. } => Err(Reason::UnknownCommandOrCategory),
            _ => Ok(()),
        }
    }
}

/// A name that is no command may still be a command and its first argument.
fn check_first_argument(name: &str, catalog: &dyn Catalog) -> Result<(), Reason> {
    let (command, argument) = name.rsplit_once('|').ok_or(Reason::UnknownCommandOrCategory)?;
    let id = catalog.find(command).ok_or(Reason::UnknownCommandOrCategory)?;
    if catalog.parent(id).is_some() {
        return Err(Reason::FirstArgumentOfSubcommand);
    }
    if argument.is_empty() {
        return Err(Reason::Syntax);
    }
    if catalog.subcommands(id).is_empty() { Ok(()) } else { Err(Reason::UnknownCommandOrCategory) }
}

fn parse_token(token: &[u8]) -> Result<Vec<Rule>, Reason> {
    if token.len() > RULE_BYTES_MAX {
        return Err(Reason::TooLong);
    }
    let rule = match token {
        [] => return Ok(Vec::new()),
        [b'(', inside @ .., b')'] => Rule::Selector(parse_selector(inside)?),
        [b'>', password @ ..] => Rule::AddPassword(PasswordHash::of(password)),
        [b'<', password @ ..] => Rule::RemovePassword(PasswordHash::of(password)),
        [b'#', hash @ ..] => Rule::AddPassword(PasswordHash::from_hex(hash).ok_or(Reason::PasswordHash)?),
        [b'!', hash @ ..] => Rule::RemovePassword(PasswordHash::from_hex(hash).ok_or(Reason::PasswordHash)?),
        _ => match token.to_ascii_lowercase().as_slice() {
            b"on" => Rule::On,
            b"off" => Rule::Off,
            b"nopass" => Rule::NoPass,
            b"resetpass" => Rule::ResetPass,
            b"reset" => Rule::Reset,
            b"sanitize-payload" => Rule::SanitizePayload,
            b"skip-sanitize-payload" => Rule::SkipSanitizePayload,
            b"clearselectors" => Rule::ClearSelectors,
            b"ack=quorum" => Rule::Acknowledge(Some(Acknowledge::Quorum)),
            b"ack=async" => Rule::Acknowledge(Some(Acknowledge::Async)),
            b"ack=default" => Rule::Acknowledge(None),
            b"mode=report" => Rule::Mode(Mode::Report),
            b"mode=enforce" => Rule::Mode(Mode::Enforce),
            b"role=tenant-admin" => Rule::Role(Role::TenantAdmin),
            b"role=default" => Rule::Role(Role::User),
            [b'l', b'i', b'm', b'i', b't', b':', text @ ..] => {
                let (name, value) = limit::parse(text).ok_or(Reason::Limit)?;
                Rule::Limit(name, value)
            }
            _ => return Ok(parse_grants(token)?.into_iter().map(Rule::Grant).collect()),
        },
    };
    Ok(vec![rule])
}

fn parse_selector(inside: &[u8]) -> Result<Vec<Grant>, Reason> {
    let mut grants = Vec::new();
    for word in inside.split(|byte| is_space(*byte)).filter(|word| !word.is_empty()) {
        // Printed and split again at spaces, such a word would close the selector.
        if word.ends_with(b")") {
            return Err(Reason::Syntax);
        }
        grants.extend(parse_grants(word)?);
    }
    Ok(grants)
}

fn parse_grants(token: &[u8]) -> Result<Vec<Grant>, Reason> {
    let grant = match token {
        [b'~', pattern @ ..] => return key_patterns(pattern, KeyRights::ReadWrite),
        [b'%', rest @ ..] => {
            let (rights, pattern) = parse_rights(rest).ok_or(Reason::Syntax)?;
            return key_patterns(pattern, rights);
        }
        [b'&', pattern @ ..] => return channel_patterns(pattern),
        [b'+', rest @ ..] => parse_command(true, rest)?,
        [b'-', rest @ ..] => parse_command(false, rest)?,
        _ => match token.to_ascii_lowercase().as_slice() {
            b"allkeys" => Grant::AllKeys,
            b"resetkeys" => Grant::ResetKeys,
            b"allchannels" => Grant::AllChannels,
            b"resetchannels" => Grant::ResetChannels,
            b"alldbs" => Grant::AllDatabases,
            b"resetdbs" => Grant::ResetDatabases,
            b"allcommands" => Grant::AllCommands,
            b"nocommands" => Grant::NoCommands,
            [b'd', b'b', b'=', numbers @ ..] => parse_databases(numbers)?,
            _ => return Err(Reason::Syntax),
        },
    };
    Ok(vec![grant])
}

fn key_patterns(pattern: &[u8], rights: KeyRights) -> Result<Vec<Grant>, Reason> {
    let grant = |pattern: Vec<u8>| match (&*pattern, rights) {
        (b"*", KeyRights::ReadWrite) => Grant::AllKeys,
        _ => Grant::Key { pattern: pattern.into(), rights },
    };
    Ok(patterns(pattern)?.into_iter().map(grant).collect())
}

fn channel_patterns(pattern: &[u8]) -> Result<Vec<Grant>, Reason> {
    let grant = |pattern: Vec<u8>| {
        if pattern == b"*" { Grant::AllChannels } else { Grant::Channel(pattern.into()) }
    };
    Ok(patterns(pattern)?.into_iter().map(grant).collect())
}

fn patterns(pattern: &[u8]) -> Result<Vec<Vec<u8>>, Reason> {
    if has_spaces(pattern) {
        return Err(Reason::Syntax);
    }
    braces::expand(pattern).map_err(|error| match error {
        BraceError::TooMany => Reason::TooManyAlternatives,
        BraceError::EmptyAlternative => Reason::EmptyAlternative,
    })
}

/// What is between `%` and `~`, each letter once and in any case, and what follows. As in Redis, `%RW` alone is a
/// pattern without a `~`: the empty one.
fn parse_rights(rest: &[u8]) -> Option<(KeyRights, &[u8])> {
    let end = rest.iter().position(|byte| *byte == b'~');
    let letters = &rest[..end.unwrap_or(rest.len())];
    let rights = match letters.to_ascii_uppercase().as_slice() {
        b"R" => KeyRights::Read,
        b"W" => KeyRights::Write,
        b"RW" | b"WR" => KeyRights::ReadWrite,
        _ => return None,
    };
    Some((rights, end.map_or(&[], |end| &rest[end + 1..])))
}

fn parse_command(allow: bool, rest: &[u8]) -> Result<Grant, Reason> {
    // Redis compares with the names it has; what holds spaces or is no text is none of them.
    let name = std::str::from_utf8(rest).ok().filter(|name| !has_spaces(name.as_bytes()));
    let name = name.ok_or(Reason::UnknownCommandOrCategory)?.to_ascii_lowercase();
    Ok(match name.strip_prefix('@') {
        Some("all") if allow => Grant::AllCommands,
        Some("all") => Grant::NoCommands,
        Some(category) => Grant::Category { allow, name: category.into() },
        None => Grant::Command { allow, name: name.into() },
    })
}

/// Sorted, each once; a number is one even if this server has fewer databases.
fn parse_databases(numbers: &[u8]) -> Result<Grant, Reason> {
    let mut parsed = Vec::new();
    for number in numbers.split(|byte| *byte == b',') {
        let digits = number.strip_prefix(b"-").unwrap_or(number);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Reason::Syntax);
        }
        let text = std::str::from_utf8(number).map_err(|_| Reason::Syntax)?;
        let number = text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
        parsed.push(number.ok_or(Reason::DatabaseRange)?);
    }
    parsed.sort_unstable();
    parsed.dedup();
    Ok(Grant::Databases(parsed))
}

/// What C calls white space.
pub(crate) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Whether there is white space or NUL in it: neither survives a file of users.
pub(crate) fn has_spaces(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| *byte == 0 || is_space(*byte))
}

/// What is wrong with a rule. Its `Display` is what Redis says after the colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not a rule.
    Syntax,
    /// No such command, subcommand or category.
    UnknownCommandOrCategory,
    /// A key pattern after `~*`.
    PatternAfterAllKeys,
    /// A channel pattern after `&*`.
    PatternAfterAllChannels,
    /// `<password` or `!hash` of a password the user does not have.
    NoSuchPassword,
    /// After `#` or `!` come 64 lower-case hex digits.
    PasswordHash,
    /// `+config|get|x`.
    FirstArgumentOfSubcommand,
    /// `db=-1`.
    DatabaseRange,
    /// Longer than [`RULE_BYTES_MAX`].
    TooLong,
    /// Braces that expand to more than [`crate::EXPANSIONS_MAX`] patterns.
    TooManyAlternatives,
    /// `{a,}`.
    EmptyAlternative,
    /// `limit:speed=1`, `limit:connections=0`.
    Limit,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Syntax => "Syntax error",
            Reason::UnknownCommandOrCategory => "Unknown command or category name in ACL",
            Reason::PatternAfterAllKeys => {
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any \
                 effect. Try 'resetkeys' to start with an empty list of patterns"
            }
            Reason::PatternAfterAllChannels => {
                "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any \
                 effect. Try 'resetchannels' to start with an empty list of channels"
            }
            Reason::NoSuchPassword => "The password you are trying to remove from the user does not exist",
            Reason::PasswordHash => {
                "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
            }
            Reason::FirstArgumentOfSubcommand => "Allowing first-arg of a subcommand is not supported",
            Reason::DatabaseRange => "The provided database ID is out of range",
            Reason::TooLong => "The rule is longer than 64 KB",
            Reason::TooManyAlternatives => "The braces expand to more than 64 patterns",
            Reason::EmptyAlternative => "Empty alternative in braces. Write \\{ for a literal brace",
            Reason::Limit => {
                "A limit is limit:NAME=VALUE. The names are ops-per-second, bytes-per-second, cpu-ms-per-second, \
                 connections, connections-per-second, blocked-clients, subscriptions, output-bytes, script-ms, command-ms, keys-names, \
                 monitor-per-second, value-bytes, client-bytes; the value is a whole number above 0, of bytes also such as 512mb, or 'default' for none"
            }
        })
    }
}

/// Why a change of users is refused before it is proposed. `Display` is the text of the reply, without `ERR`.
#[derive(Clone, PartialEq, Eq)]
pub enum RuleError {
    /// One rule makes no sense.
    Modifier {
        /// The rule as typed; plaintext passwords are left out.
        token: Box<[u8]>,
        /// What is wrong with it.
        reason: Reason,
    },
    /// A selector that is opened and never closed.
    UnmatchedParenthesis {
        /// The word that opens it.
        token: Box<[u8]>,
    },
    /// A name with white space or NUL, or none at all.
    UserName,
    /// `default` is never deleted.
    DefaultUser,
    /// The same user twice in one change.
    DuplicateUser {
        /// Its name, printable.
        name: String,
    },
    /// The result would be larger than a bound allows.
    Bound {
        /// Of what there would be too many.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

impl RuleError {
    /// Of a rule as typed. Passwords are left out: an error is read by more people than a request.
    pub(crate) fn modifier(token: &[u8], reason: Reason) -> RuleError {
        let token = match token.first() {
            Some(sigil @ (b'>' | b'<')) => [&[*sigil], &b"***"[..]].concat().into(),
            _ => token[..token.len().min(ECHO_BYTES_MAX + 1)].into(),
        };
        RuleError::Modifier { token, reason }
    }

    /// What is wrong, if it is one rule.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            RuleError::Modifier { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Modifier { token, reason } => {
                let token = printable::as_typed(token, ECHO_BYTES_MAX);
                write!(f, "Error in ACL SETUSER modifier '{token}': {reason}")
            }
            RuleError::UnmatchedParenthesis { token } => {
                let token = printable::as_typed(token, ECHO_BYTES_MAX);
                write!(f, "Unmatched parenthesis in acl selector starting at '{token}'.")
            }
            RuleError::UserName => f.write_str("Usernames can't contain spaces or null characters"),
            RuleError::DefaultUser => f.write_str("The 'default' user cannot be removed"),
            RuleError::DuplicateUser { name } => write!(f, "Duplicate user '{name}'"),
            RuleError::Bound { what, max } => {
                write!(f, "Too many {what}: there may be at most {max}")
            }
        }
    }
}

impl fmt::Debug for RuleError {
    /// Without the rule itself: what somebody took for a hash may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Modifier { reason, .. } => write!(f, "RuleError({reason:?})"),
            RuleError::UnmatchedParenthesis { .. } => f.write_str("RuleError(UnmatchedParenthesis)"),
            other => write!(f, "RuleError({other})"),
        }
    }
}

impl std::error::Error for RuleError {}

#[cfg(test)]
mod tests;
