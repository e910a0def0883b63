//! A user: name, passwords, and what the rules granted, in their own words and their own order.
//!
//! Rules add up as in Redis. The list of command rules is kept as written: a new rule drops earlier ones of the same
//! target and goes to the end, a rule about a whole command also drops those about its subcommands, and a rule about
//! all commands drops everything. Nothing here fails and nothing is looked up: a name nobody knows is kept.
//! It refuses to know commands (see policy.rs) and how users are kept and changed (see directory.rs).

use crate::catalog::Catalog;
use crate::limit::LimitName;
use crate::password::{self, PasswordHash};
use crate::printable;
use crate::rule::{Acknowledge, Grant, KeyRights, Mode, Reason, Role, Rule, RuleError, check_names, has_spaces};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest name. Names are part of every entry of the log and of every denial.
pub const USER_NAME_BYTES_MAX: usize = 1024;
/// Key and channel patterns of one user, all selectors together: each is looked at when rules are compiled, and a
/// user of more is better served by a prefix.
pub const PATTERNS_PER_USER_MAX: usize = 4096;
/// Selectors of one user: a denied request looks at all of them.
pub const SELECTORS_PER_USER_MAX: usize = 256;
/// Passwords of one user: a login compares all of them.
pub const PASSWORDS_PER_USER_MAX: usize = 128;
/// Command rules of one user, all selectors together: several times the commands there are.
pub const COMMAND_RULES_PER_USER_MAX: usize = 4096;

/// The name of a user: bytes without white space or NUL, case-sensitive. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Arc<[u8]>);

impl UserName {
    /// The user of connections that never logged in.
    pub const DEFAULT: &'static [u8] = b"default";

    /// Checks and takes a name. The empty name is refused, other than in Redis: a file cannot hold it.
    pub fn new(name: &[u8]) -> Result<UserName, RuleError> {
        let wrong = name.is_empty() || name.len() > USER_NAME_BYTES_MAX || has_spaces(name);
        if wrong { Err(RuleError::UserName) } else { Ok(UserName(name.into())) }
    }

    pub(crate) fn default_user() -> UserName {
        UserName(UserName::DEFAULT.into())
    }

    /// The name itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is `default`.
    pub fn is_default(&self) -> bool {
        self.as_bytes() == UserName::DEFAULT
    }
}

impl Borrow<[u8]> for UserName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for UserName {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable::as_typed(&self.0, USER_NAME_BYTES_MAX))
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserName({self})")
    }
}

/// Who made a user, and so who may take it away again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Made by a client or an operator while the cluster runs; no import removes it.
    #[default]
    Runtime,
    /// Came with an import from this source and goes when the source no longer names it.
    Import(Arc<str>),
}

/// A user. Compare [`User::same_rules`] to know whether two mean the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: UserName,
    /// The index of the change that made it. Deleted and made again, it differs.
    pub created: u64,
    /// The index of the last change that made a difference.
    pub revision: u64,
    /// The index of the last change to passwords, `nopass` or `on`/`off`.
    pub credentials_revision: u64,
    /// The index of the last change that took a way to log in away: a password or `nopass` removed, switched off.
    /// Adding a second password moves only [`User::credentials_revision`], so a rotation need not end sessions.
    pub withdrawn_revision: u64,
    /// Who made it.
    pub origin: Origin,
    /// Whether it may log in.
    pub enabled: bool,
    /// Whether any password will do.
    pub nopass: bool,
    /// When its writes are answered; `None`: as the server is set.
    pub acknowledge: Option<Acknowledge>,
    /// What becomes of what its rules forbid.
    pub mode: Mode,
    /// What it is to the other users of its tenant, if it has one.
    pub role: Role,
    /// What it may not exceed, sorted, each once.
    pub limits: Vec<(LimitName, u64)>,
    /// In the order they were added, each once.
    pub passwords: Vec<PasswordHash>,
    /// Its own permissions.
    pub root: Selector,
    /// Further sets of permissions, in the order they were added.
    pub selectors: Vec<Selector>,
}

impl User {
    /// A user as `ACL SETUSER name` makes it: off, no password, no permission.
    pub fn new(name: UserName, index: u64) -> User {
        User {
            name,
            created: index,
            revision: index,
            credentials_revision: index,
            withdrawn_revision: index,
            origin: Origin::Runtime,
            enabled: false,
            nopass: false,
            acknowledge: None,
            mode: Mode::Enforce,
            role: Role::User,
            limits: Vec::new(),
            passwords: Vec::new(),
            root: Selector::default(),
            selectors: Vec::new(),
        }
    }

    /// `default` of a cluster nobody configured yet: everything, without a password.
    pub fn open_default() -> User {
        let mut user = User::new(UserName::default_user(), 0);
        user.enabled = true;
        user.nopass = true;
        user.root.all_keys = true;
        user.root.all_channels = true;
        user.root.all_commands = true;
        user
    }

    /// Whether both mean the same: everything but when and by whom they were changed.
    pub fn same_rules(&self, other: &User) -> bool {
        self.same_credentials(other)
            && self.acknowledge == other.acknowledge
            && self.mode == other.mode
            && self.role == other.role
            && self.limits == other.limits
            && self.root == other.root
            && self.selectors == other.selectors
    }

    pub(crate) fn same_credentials(&self, other: &User) -> bool {
        self.enabled == other.enabled && self.nopass == other.nopass && self.passwords == other.passwords
    }

    /// Whether every way to log in that `before` had still works.
    pub(crate) fn keeps_logins_of(&self, before: &User) -> bool {
        let kept = || self.nopass || before.passwords.iter().all(|password| self.passwords.contains(password));
        !before.enabled || self.enabled && (!before.nopass || self.nopass) && kept()
    }

    /// Whether `candidate` is its password. Says nothing about `on` and `off`.
    pub fn accepts_password(&self, candidate: &PasswordHash) -> bool {
        password::is_one_of(candidate, &self.passwords) | self.nopass
    }

    /// Applies one rule. Total: what Redis would call an error changes nothing here.
    pub fn apply(&mut self, rule: &Rule) {
        match rule {
            Rule::On => self.enabled = true,
            Rule::Off => self.enabled = false,
            Rule::NoPass => {
                self.nopass = true;
                self.passwords.clear();
            }
            Rule::ResetPass => {
                self.nopass = false;
                self.passwords.clear();
            }
            Rule::Reset => {
                self.enabled = false;
                self.nopass = false;
                self.passwords.clear();
                self.acknowledge = None;
                self.mode = Mode::Enforce;
                self.role = Role::User;
                self.limits = Vec::new();
                self.root = Selector::default();
                self.selectors.clear();
            }
            Rule::SanitizePayload | Rule::SkipSanitizePayload => {}
            Rule::AddPassword(hash) => {
                self.nopass = false;
                if !self.passwords.contains(hash) {
                    self.passwords.push(hash.clone());
                }
            }
            Rule::RemovePassword(hash) => self.passwords.retain(|password| password != hash),
            Rule::Selector(grants) => {
                let selector = Selector::of(grants);
                // Cluster clients send one SETUSER to every node: the repetition must not add it again.
                if !self.selectors.contains(&selector) {
                    self.selectors.push(selector);
                }
            }
            Rule::ClearSelectors => self.selectors.clear(),
            Rule::Acknowledge(how) => self.acknowledge = *how,
            Rule::Mode(mode) => self.mode = *mode,
            Rule::Role(role) => self.role = *role,
            Rule::Limit(name, value) => {
                self.limits.retain(|(known, _)| known != name);
                self.limits.extend(value.map(|value| (*name, value)));
                self.limits.sort_unstable();
            }
            Rule::Grant(grant) => self.root.apply(grant),
        }
    }

    /// Applies one rule, or says why Redis would refuse it.
    pub(crate) fn apply_checked(&mut self, rule: &Rule, catalog: &dyn Catalog) -> Result<(), Reason> {
        check_names(rule, catalog)?;
        match rule {
            Rule::RemovePassword(hash) if !self.passwords.contains(hash) => {
                return Err(Reason::NoSuchPassword);
            }
            Rule::Grant(grant) => self.root.check(grant)?,
            Rule::Selector(grants) => {
                let mut selector = Selector::default();
                for grant in grants {
                    selector.check(grant)?;
                    selector.apply(grant);
                }
            }
            _ => {}
        }
        self.apply(rule);
        Ok(())
    }

    /// Whether it is within the bounds.
    pub(crate) fn check_bounds(&self) -> Result<(), RuleError> {
        let all = || std::iter::once(&self.root).chain(&self.selectors);
        let patterns: usize = all().map(|selector| selector.keys.len() + selector.channels.len()).sum();
        let command_rules: usize = all().map(|selector| selector.commands.len()).sum();
        for (count, max, what) in [
            (self.passwords.len(), PASSWORDS_PER_USER_MAX, "passwords of one user"),
            (self.selectors.len(), SELECTORS_PER_USER_MAX, "selectors of one user"),
            (patterns, PATTERNS_PER_USER_MAX, "patterns of one user"),
            (command_rules, COMMAND_RULES_PER_USER_MAX, "command rules of one user"),
        ] {
            if count > max {
                return Err(RuleError::Bound { what, max });
            }
        }
        Ok(())
    }
}

/// Which databases may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Databases {
    /// `alldbs`.
    #[default]
    All,
    /// `db=0,2`, sorted; `resetdbs` is the empty list.
    Only(Box<[u32]>),
}

impl Databases {
    /// Whether this one may be used.
    pub fn allow(&self, database: u32) -> bool {
        match self {
            Databases::All => true,
            Databases::Only(numbers) => numbers.binary_search(&database).is_ok(),
        }
    }
}

/// A key pattern and what it grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    /// A Redis pattern.
    pub pattern: Box<[u8]>,
    /// What it grants.
    pub rights: KeyRights,
}

impl KeyPattern {
    /// As a rule says it: `~app:*`, `%R~shared:*`.
    pub fn word(&self) -> Vec<u8> {
        [self.rights.sigil(), &self.pattern].concat()
    }
}

/// A rule about commands that is still in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRule {
    /// `+` or `-`.
    pub allow: bool,
    /// `@read`, `get`, `config|get`, `select|0`; lower case.
    pub target: Box<str>,
}

/// One set of permissions: a request must be allowed by one of them in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Every key; then there are no patterns.
    pub all_keys: bool,
    /// In the order they were added, each pattern once.
    pub keys: Vec<KeyPattern>,
    /// Every channel; then there are no patterns.
    pub all_channels: bool,
    /// In the order they were added, each once.
    pub channels: Vec<Box<[u8]>>,
    /// Which databases.
    pub databases: Databases,
    /// What the command rules start from: `+@all` or `-@all`.
    pub all_commands: bool,
    /// In the order they were added, each target once.
    pub commands: Vec<CommandRule>,
}

impl Selector {
    /// What these grants add up to.
    pub fn of(grants: &[Grant]) -> Selector {
        let mut selector = Selector::default();
        grants.iter().for_each(|grant| selector.apply(grant));
        selector
    }

    fn apply(&mut self, grant: &Grant) {
        match grant {
            Grant::AllKeys => self.allow_all_keys(),
            Grant::ResetKeys => {
                self.all_keys = false;
                self.keys.clear();
            }
            Grant::Key { pattern, rights } => self.allow_key(pattern, *rights),
            Grant::AllChannels => {
                self.all_channels = true;
                self.channels.clear();
            }
            Grant::ResetChannels => {
                self.all_channels = false;
                self.channels.clear();
            }
            Grant::Channel(pattern) => self.allow_channel(pattern),
            Grant::AllDatabases => self.databases = Databases::All,
            Grant::ResetDatabases => self.databases = Databases::Only(Box::default()),
            Grant::Databases(numbers) => {
                let mut numbers = numbers.clone();
                numbers.sort_unstable();
                numbers.dedup();
                self.databases = Databases::Only(numbers.into());
            }
            Grant::AllCommands => {
                self.all_commands = true;
                self.commands.clear();
            }
            Grant::NoCommands => {
                self.all_commands = false;
                self.commands.clear();
            }
            Grant::Category { allow, name } => self.add_command_rule(*allow, format!("@{name}")),
            Grant::Command { allow, name } => self.add_command_rule(*allow, name.to_string()),
        }
    }

    /// Why Redis would refuse this grant here.
    fn check(&self, grant: &Grant) -> Result<(), Reason> {
        match grant {
            Grant::Key { .. } if self.all_keys => Err(Reason::PatternAfterAllKeys),
            Grant::Channel(_) if self.all_channels => Err(Reason::PatternAfterAllChannels),
            _ => Ok(()),
        }
    }

    fn allow_all_keys(&mut self) {
        self.all_keys = true;
        self.keys.clear();
    }

    fn allow_key(&mut self, pattern: &[u8], rights: KeyRights) {
        if self.all_keys {
            return;
        }
        let known = self.keys.iter_mut().find(|known| &*known.pattern == pattern);
        let rights = known.as_ref().map_or(rights, |known| known.rights.union(rights));
        if pattern == b"*" && rights == KeyRights::ReadWrite {
            return self.allow_all_keys();
        }
        match known {
            Some(known) => known.rights = rights,
            None => self.keys.push(KeyPattern { pattern: pattern.into(), rights }),
        }
    }

    fn allow_channel(&mut self, pattern: &[u8]) {
        if self.all_channels || self.channels.iter().any(|known| &**known == pattern) {
            return;
        }
        match pattern {
            b"*" => self.apply(&Grant::AllChannels),
            _ => self.channels.push(pattern.into()),
        }
    }

    fn add_command_rule(&mut self, allow: bool, target: String) {
        self.commands.retain(|rule| !covers(&target, &rule.target));
        self.commands.push(CommandRule { allow, target: target.into() });
    }
}

/// Whether a rule about `whole` makes an earlier one about `target` void: the same, or a part of it.
fn covers(whole: &str, target: &str) -> bool {
    target.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
}

#[cfg(test)]
mod tests;
