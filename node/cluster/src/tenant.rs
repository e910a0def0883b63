//! Tenants: who owns which keys, who belongs to whom, and what each may use.
//!
//! ```text
//!   prefix mode      the tenant owns every key that begins with one of its prefixes, or with `{` and one of them
//!   namespace mode   the tenant has a keyspace of its own, and its users see nothing else
//! ```
//! A prefix has one owner: two that could claim the same key are refused, and the refusal names both. A user belongs to
//! one tenant at most, and may be named before it exists. What a tenant may use (memory, rates, connections) is carried as text: which
//! settings there are and what they mean is known to those who enforce them, so an older node carries what a newer one
//! wrote. Numbers of tenants are never used again, since keys are stored under them.
//!
//! This file refuses to know keys, memory and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::placement::{GROUP_SETTING, Holders};
use crate::{FewSet, FewSettings};

/// The number keys of a tenant are stored under. Counted up for ever; none is used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantNumber(pub u32);

/// How a tenant's keys are told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantMode {
    /// By what they begin with. Sorted; none begins with another.
    Prefixes(FewSet<Vec<u8>>),
    /// By who asks: its users have a keyspace of their own.
    Namespace,
}

/// A right to keys of another tenant. Good only while that tenant exports what this one imports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantGrant {
    /// The other tenant: to whom it is exported, or from whom it is imported.
    pub tenant: String,
    /// Which keys, as a key pattern.
    pub pattern: Vec<u8>,
    /// Whether they may be written too.
    pub write: bool,
}

/// A tenant as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// What its keys are stored under.
    pub number: TenantNumber,
    /// Its name; may change.
    pub name: String,
    /// How its keys are told from others.
    pub mode: TenantMode,
    /// The names of its users.
    pub users: FewSet<Vec<u8>>,
    /// What it may use, by setting.
    pub settings: FewSettings,
    /// What others may use of its keys.
    pub exports: BTreeSet<TenantGrant>,
    /// What it uses of others' keys.
    pub imports: BTreeSet<TenantGrant>,
    /// Its users are locked out; its keys stay.
    pub retired: bool,
    /// The change that made it.
    pub created: u64,
    /// The last change to it.
    pub revision: u64,
}

/// What happens to a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantChange {
    /// `TENANT CREATE`.
    Create {
        /// Its name.
        name: String,
        /// How its keys are told from others.
        mode: TenantMode,
        /// Everything else.
        edits: Vec<TenantEdit>,
    },
    /// `TENANT SET`: all of it or nothing.
    Set {
        /// Which.
        name: String,
        /// In this order.
        edits: Vec<TenantEdit>,
    },
    /// `TENANT SET … NAME`.
    Rename {
        /// Which.
        name: String,
        /// Its name from now on.
        to: String,
    },
    /// `TENANT DEL`: its users go with it, for without their tenant they would be less confined than they were.
    Delete {
        /// Which.
        name: String,
        /// Its keys are gone, or may go: a namespace has no other place for them.
        purged: bool,
    },
}

/// One edit of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantEdit {
    /// It owns keys that begin so.
    AddPrefix(Vec<u8>),
    /// It no longer does.
    RemovePrefix(Vec<u8>),
    /// This user belongs to it.
    AddUser(Vec<u8>),
    /// It no longer does.
    RemoveUser(Vec<u8>),
    /// A setting, or its default again.
    Setting(String, Option<String>),
    /// Another tenant may use its keys.
    Export(TenantGrant, bool),
    /// It uses keys of another tenant.
    Import(TenantGrant, bool),
    /// Its users are locked out, or let in again.
    Retired(bool),
}

/// Why a change to a tenant changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantRefusal {
    /// There is one of this name.
    Exists(String),
    /// There is none of this name.
    Unknown(String),
    /// Two prefixes could claim the same key.
    Overlap {
        /// The prefix that was asked for, and by whom.
        asked: (String, String),
        /// The prefix that is in the way, and whose it is.
        known: (String, String),
    },
    /// The user belongs to another tenant already.
    UserTaken {
        /// The user.
        user: String,
        /// Whose it is.
        owner: String,
    },
    /// Only a tenant whose users are locked out may go.
    NotRetired(String),
    /// The keys of a namespace have no other name.
    NeedsPurge(String),
    /// More than [`Tenants::MAX`], or more of something than one may have.
    TooMany(String),
    /// It makes no sense, as a sentence.
    Invalid(String),
}

impl fmt::Display for TenantRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => write!(f, "tenant '{name}' exists already"),
            Self::Unknown(name) => write!(f, "there is no tenant '{name}'"),
            Self::Overlap { asked: (prefix, tenant), known: (other, owner) } => write!(
                f,
                "prefix '{prefix}' of tenant '{tenant}' overlaps prefix '{other}' of tenant '{owner}': a key has one owner"
            ),
            Self::UserTaken { user, owner } => write!(f, "user '{user}' belongs to tenant '{owner}' already"),
            Self::NotRetired(name) => {
                write!(f, "tenant '{name}' is in use: lock its users out first with TENANT SET {name} STATE retired")
            }
            Self::NeedsPurge(name) => {
                write!(f, "the keys of namespace '{name}' have no other name: delete them with TENANT DEL {name} PURGE")
            }
            Self::TooMany(what) => write!(f, "there are as many {what} as there can be"),
            Self::Invalid(text) => f.write_str(text),
        }
    }
}

/// All tenants, and the next number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tenants {
    by_name: BTreeMap<String, Arc<Tenant>>,
    last_number: u32,
}

/// What a prefix may end with, so that `gw` never claims `gwen:1`.
pub const DELIMITERS: &[u8] = b":./|-_#@";
const NAME_BYTES_MAX: usize = 64;
const PREFIX_BYTES_MAX: usize = 256;
const USER_BYTES_MAX: usize = 1024;
const SETTING_BYTES_MAX: usize = 64;
const PATTERN_BYTES_MAX: usize = 1024;
/// Prefixes, grants or settings of one tenant.
const OF_A_KIND_MAX: usize = 256;
const USERS_MAX: usize = 4096;
/// Numbers fit a SCAN cursor beside the shard and the position.
const LAST_NUMBER: u32 = (1 << 20) - 1;

impl TenantChange {
    /// The groups that it speaks of: each must exist.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        let (Self::Create { edits, .. } | Self::Set { edits, .. }) = self else {
            return [].iter().filter_map(group_of);
        };
        edits.iter().filter_map(group_of)
    }
}

fn group_of(edit: &TenantEdit) -> Option<&str> {
    match edit {
        TenantEdit::Setting(name, Some(value)) if name == GROUP_SETTING => Some(value),
        _ => None,
    }
}

impl Tenants {
    /// Tenants at most.
    pub const MAX: usize = 10_000;

    /// From what was written down.
    pub fn restore(tenants: Vec<Tenant>, last_number: u32) -> Tenants {
        Tenants {
            by_name: tenants.into_iter().map(|tenant| (tenant.name.clone(), Arc::new(tenant))).collect(),
            last_number,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// By name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Tenant>> {
        self.by_name.values()
    }

    /// The tenant of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.by_name.get(name)
    }

    /// The tenant of this number.
    pub fn numbered(&self, number: TenantNumber) -> Option<&Arc<Tenant>> {
        self.by_name.values().find(|tenant| tenant.number == number)
    }

    pub(crate) fn number_mut(&mut self, number: TenantNumber) -> Option<&mut Arc<Tenant>> {
        self.by_name.values_mut().find(|tenant| tenant.number == number)
    }

    /// The number given out last; 0 before the first.
    pub fn last_number(&self) -> u32 {
        self.last_number
    }

    /// Applies a change. `Ok(false)`: it already was so. The names of users that go with a deleted tenant are pushed to
    /// `users_gone`.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        change: &TenantChange,
        users_gone: &mut Vec<Vec<u8>>,
    ) -> Result<bool, TenantRefusal> {
        match change {
            TenantChange::Create { name, mode, edits } => self.create(index, name, mode, edits),
            TenantChange::Set { name, edits } => self.set(index, name, edits),
            TenantChange::Rename { name, to } => self.rename(index, name, to),
            TenantChange::Delete { name, purged } => {
                let tenant = self.by_name.get(name).ok_or_else(|| TenantRefusal::Unknown(name.clone()))?;
                if !tenant.retired {
                    return Err(TenantRefusal::NotRetired(name.clone()));
                }
                if tenant.mode == TenantMode::Namespace && !purged {
                    return Err(TenantRefusal::NeedsPurge(name.clone()));
                }
                if !purged {
                    must_lie_by_slots(tenant)?;
                }
                users_gone.extend(tenant.users.iter().cloned());
                self.by_name.remove(name);
                Ok(true)
            }
        }
    }

    fn create(
        &mut self,
        index: u64,
        name: &str,
        mode: &TenantMode,
        edits: &[TenantEdit],
    ) -> Result<bool, TenantRefusal> {
        check_name(name)?;
        if self.by_name.contains_key(name) {
            return Err(TenantRefusal::Exists(name.to_owned()));
        }
        if self.by_name.len() >= Self::MAX || self.last_number >= LAST_NUMBER {
            return Err(TenantRefusal::TooMany("tenants".to_owned()));
        }
        let empty = match mode {
            TenantMode::Prefixes(_) => TenantMode::Prefixes(FewSet::default()),
            TenantMode::Namespace => TenantMode::Namespace,
        };
        let mut tenant = Tenant {
            number: TenantNumber(self.last_number + 1),
            name: name.to_owned(),
            mode: empty,
            users: FewSet::default(),
            settings: FewSettings::default(),
            exports: BTreeSet::new(),
            imports: BTreeSet::new(),
            retired: false,
            created: index,
            revision: index,
        };
        if let TenantMode::Prefixes(prefixes) = mode {
            for prefix in prefixes {
                self.edit(&mut tenant, &TenantEdit::AddPrefix(prefix.clone()))?;
            }
        }
        for edit in edits {
            self.edit(&mut tenant, edit)?;
        }
        if *mode != TenantMode::Namespace && tenant.group().is_some() {
            // There may be keys with its prefix.
            tenant.set_holders(&Holders::Slots);
        }
        needs_a_prefix(&tenant)?;
        self.last_number += 1;
        self.by_name.insert(name.to_owned(), Arc::new(tenant));
        Ok(true)
    }

    fn set(&mut self, index: u64, name: &str, edits: &[TenantEdit]) -> Result<bool, TenantRefusal> {
        let known = self.by_name.get(name).ok_or_else(|| TenantRefusal::Unknown(name.to_owned()))?;
        let mut tenant = Tenant::clone(known);
        for edit in edits {
            self.edit(&mut tenant, edit)?;
        }
        needs_a_prefix(&tenant)?;
        if tenant.mode != known.mode {
            must_lie_by_slots(known)?;
        }
        if tenant.group() != known.group() {
            tenant.set_holders(&known.holders());
        }
        if tenant == **known {
            return Ok(false);
        }
        tenant.revision = index;
        self.by_name.insert(name.to_owned(), Arc::new(tenant));
        Ok(true)
    }

    fn rename(&mut self, index: u64, name: &str, to: &str) -> Result<bool, TenantRefusal> {
        check_name(to)?;
        let known = self.by_name.get(name).ok_or_else(|| TenantRefusal::Unknown(name.to_owned()))?;
        if name == to {
            return Ok(false);
        }
        if self.by_name.contains_key(to) {
            return Err(TenantRefusal::Exists(to.to_owned()));
        }
        let tenant = Tenant { name: to.to_owned(), revision: index, ..Tenant::clone(known) };
        self.by_name.remove(name);
        self.by_name.insert(to.to_owned(), Arc::new(tenant));
        // Grants follow: they name who was meant, not a word.
        for other in self.by_name.values_mut() {
            let names_it = |grants: &BTreeSet<TenantGrant>| grants.iter().any(|grant| grant.tenant == name);
            if names_it(&other.exports) || names_it(&other.imports) {
                let other = Arc::make_mut(other);
                for grants in [&mut other.exports, &mut other.imports] {
                    let renamed = std::mem::take(grants).into_iter().map(|grant| {
                        if grant.tenant == name { TenantGrant { tenant: to.to_owned(), ..grant } } else { grant }
                    });
                    *grants = renamed.collect();
                }
            }
        }
        Ok(true)
    }

    fn edit(&self, tenant: &mut Tenant, edit: &TenantEdit) -> Result<(), TenantRefusal> {
        match edit {
            TenantEdit::AddPrefix(prefix) => self.add_prefix(tenant, prefix)?,
            TenantEdit::RemovePrefix(prefix) => {
                if let TenantMode::Prefixes(prefixes) = &mut tenant.mode {
                    prefixes.remove(prefix);
                }
            }
            TenantEdit::AddUser(user) => self.add_user(tenant, user)?,
            TenantEdit::RemoveUser(user) => tenant.users.remove(user),
            TenantEdit::Setting(name, value) => {
                let known = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
                if name.is_empty() || name.len() > SETTING_BYTES_MAX || !name.bytes().all(known) {
                    return Err(TenantRefusal::Invalid(format!("'{}' is no setting", name.escape_debug())));
                }
                if value.as_ref().is_some_and(|value| value.len() > SETTING_BYTES_MAX) {
                    return Err(TenantRefusal::Invalid(format!("the value of {name} is too long")));
                }
                tenant.settings.set(name, value.as_deref());
                room("settings", tenant.settings.len(), OF_A_KIND_MAX)?;
            }
            TenantEdit::Export(_, true) | TenantEdit::Import(_, true) if tenant.mode == TenantMode::Namespace => {
                let text = "a namespace shares no keys: its names mean nothing outside".to_owned();
                return Err(TenantRefusal::Invalid(text));
            }
            TenantEdit::Export(grant, given) => self.grant(&mut tenant.exports, grant, *given, "exports")?,
            TenantEdit::Import(grant, given) => self.grant(&mut tenant.imports, grant, *given, "imports")?,
            TenantEdit::Retired(retired) => tenant.retired = *retired,
        }
        Ok(())
    }

    fn add_prefix(&self, tenant: &mut Tenant, prefix: &[u8]) -> Result<(), TenantRefusal> {
        let TenantMode::Prefixes(own) = &mut tenant.mode else {
            let text = "a namespace has no prefixes: its users' names are its own".to_owned();
            return Err(TenantRefusal::Invalid(text));
        };
        check_prefix(prefix)?;
        if own.contains(prefix) {
            return Ok(());
        }
        let others = self.by_name.values().filter(|other| other.number != tenant.number);
        let theirs = others.flat_map(|other| other.prefixes().map(move |known| (known, &*other.name)));
        let ours = own.iter().map(|known| (known.as_slice(), &*tenant.name));
        if let Some((known, owner)) = theirs.chain(ours).find(|(known, _)| overlap(known, prefix)) {
            return Err(TenantRefusal::Overlap {
                asked: (shown(prefix), tenant.name.clone()),
                known: (shown(known), owner.to_owned()),
            });
        }
        own.insert(prefix.to_vec());
        room("prefixes", own.len(), OF_A_KIND_MAX)
    }

    fn add_user(&self, tenant: &mut Tenant, user: &[u8]) -> Result<(), TenantRefusal> {
        let wrong = user.is_empty() || user.len() > USER_BYTES_MAX || user.iter().any(u8::is_ascii_whitespace);
        if wrong || user.contains(&0) {
            return Err(TenantRefusal::Invalid(format!("'{}' is no name of a user", shown(user))));
        }
        if user == b"default" {
            let text = "the user 'default' administers the cluster and belongs to no tenant".to_owned();
            return Err(TenantRefusal::Invalid(text));
        }
        let owner = self.by_name.values().find(|other| other.number != tenant.number && other.users.contains(user));
        if let Some(owner) = owner {
            return Err(TenantRefusal::UserTaken { user: shown(user), owner: owner.name.clone() });
        }
        tenant.users.insert(user.to_vec());
        room("users", tenant.users.len(), USERS_MAX)
    }

    fn grant(
        &self,
        grants: &mut BTreeSet<TenantGrant>,
        grant: &TenantGrant,
        given: bool,
        what: &str,
    ) -> Result<(), TenantRefusal> {
        if !given {
            grants.remove(grant);
            return Ok(());
        }
        if !self.by_name.contains_key(&grant.tenant) {
            return Err(TenantRefusal::Unknown(grant.tenant.clone()));
        }
        if grant.pattern.is_empty() || grant.pattern.len() > PATTERN_BYTES_MAX {
            return Err(TenantRefusal::Invalid("a grant needs a pattern of 1 to 1024 bytes".to_owned()));
        }
        grants.insert(grant.clone());
        room(what, grants.len(), OF_A_KIND_MAX)
    }
}

impl Tenant {
    /// What its keys begin with; none for a namespace.
    pub fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        let prefixes = if let TenantMode::Prefixes(prefixes) = &self.mode { Some(prefixes) } else { None };
        prefixes.into_iter().flatten().map(Vec::as_slice)
    }
}

impl TenantChange {
    /// For the history: what happened to whom.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Create { name, mode, edits } => {
                let mode = match mode {
                    TenantMode::Prefixes(prefixes) => {
                        let prefixes: Vec<String> = prefixes.iter().map(|prefix| shown(prefix)).collect();
                        format!("prefix {}", prefixes.join(" "))
                    }
                    TenantMode::Namespace => "namespace".to_owned(),
                };
                format!("create tenant {name}, {mode}{}", edits_summary(edits))
            }
            Self::Set { name, edits } => format!("set tenant {name}{}", edits_summary(edits)),
            Self::Rename { name, to } => format!("rename tenant {name} to {to}"),
            Self::Delete { name, purged: true } => format!("delete tenant {name} and its keys"),
            Self::Delete { name, purged: false } => format!("delete tenant {name}"),
        }
    }
}

fn edits_summary(edits: &[TenantEdit]) -> String {
    let word = |edit: &TenantEdit| match edit {
        TenantEdit::AddPrefix(prefix) => format!("+prefix {}", shown(prefix)),
        TenantEdit::RemovePrefix(prefix) => format!("-prefix {}", shown(prefix)),
        TenantEdit::AddUser(user) => format!("+user {}", shown(user)),
        TenantEdit::RemoveUser(user) => format!("-user {}", shown(user)),
        TenantEdit::Setting(name, Some(value)) => format!("{name} {value}"),
        TenantEdit::Setting(name, None) => format!("{name} default"),
        TenantEdit::Export(grant, true) => format!("export {} to {}", shown(&grant.pattern), grant.tenant),
        TenantEdit::Export(grant, false) => format!("no export {} to {}", shown(&grant.pattern), grant.tenant),
        TenantEdit::Import(grant, true) => format!("import {} from {}", shown(&grant.pattern), grant.tenant),
        TenantEdit::Import(grant, false) => format!("no import {} from {}", shown(&grant.pattern), grant.tenant),
        TenantEdit::Retired(true) => "retired".to_owned(),
        TenantEdit::Retired(false) => "active".to_owned(),
    };
    edits.iter().take(16).map(|edit| format!(", {}", word(edit))).collect()
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn overlap(one: &[u8], other: &[u8]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn room(what: &str, count: usize, max: usize) -> Result<(), TenantRefusal> {
    if count > max { Err(TenantRefusal::TooMany(what.to_owned())) } else { Ok(()) }
}

fn check_name(name: &str) -> Result<(), TenantRefusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        let text = "the name of a tenant is 1 to 64 letters, digits, dashes, dots and underscores";
        return Err(TenantRefusal::Invalid(text.to_owned()));
    }
    Ok(())
}

fn check_prefix(prefix: &[u8]) -> Result<(), TenantRefusal> {
    let text = match prefix {
        [] => "a prefix is not empty".to_owned(),
        _ if prefix.len() > PREFIX_BYTES_MAX => "a prefix has 256 bytes at most".to_owned(),
        [b'{', ..] => "a prefix also owns the keys that begin with { and the prefix: leave the { away".to_owned(),
        [.., last] if !DELIMITERS.contains(last) => {
            format!("prefix '{}' must end with one of : . / | - _ # @, or it would claim longer words", shown(prefix))
        }
        _ => return Ok(()),
    };
    Err(TenantRefusal::Invalid(text))
}

/// What keys belong to a tenant does not change while a group holds them for its sake.
fn must_lie_by_slots(tenant: &Tenant) -> Result<(), TenantRefusal> {
    if tenant.holders() == Holders::Slots && !tenant.is_on_its_way() {
        return Ok(());
    }
    let name = &tenant.name;
    let text = format!(
        "its keys are held by one group: have them go where their slots say first, with TENANT SET {name} GROUP default"
    );
    Err(TenantRefusal::Invalid(text))
}

fn needs_a_prefix(tenant: &Tenant) -> Result<(), TenantRefusal> {
    if matches!(&tenant.mode, TenantMode::Prefixes(prefixes) if prefixes.is_empty()) {
        return Err(TenantRefusal::Invalid("a tenant without a namespace needs a prefix".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
