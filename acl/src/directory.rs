//! All users, and what a change makes of them.
//!
//! ```text
//!   prepare_set / validate   where a change is proposed: everything that can be refused is refused here
//!   apply                    on every node, in the order of the log: total, deterministic, asks nobody
//! ```
//! What `apply` finds odd (a user that is gone meanwhile, a pattern after `~*`) it takes as "nothing to do"; an error
//! here would be a fork in history. A change that changes nothing leaves every revision as it was, because cluster
//! clients send one `ACL SETUSER` to every node.
//!
//! An import owns the users it made: those it no longer names are deleted, users made at runtime stay. `default` is
//! never deleted; where a whole list of users does not name it, it is switched off.
//! This file refuses to know where users come from and how sessions end.

use crate::catalog::Catalog;
use crate::password::{self, PasswordHash};
use crate::printable;
use crate::rule::{Rule, RuleError, merge_selectors};
use crate::user::{Origin, User, UserName};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The most users. Each costs a few hundred bytes, in memory and in every snapshot; `ACL LIST` prints all of them.
pub const USERS_MAX: usize = 100_000;

/// A change of users, as the log carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// Applies rules to a user, who is made if need be.
    Set {
        /// The user.
        name: UserName,
        /// In order.
        rules: Vec<Rule>,
    },
    /// Deletes users; those who do not exist are passed over. With `default` among them nobody is deleted.
    Delete {
        /// The users.
        names: Vec<UserName>,
    },
    /// These users and no others. Earlier versions proposed it for `ACL LOAD`.
    ReplaceAll {
        /// Every user with the rules that make it from nothing.
        users: Vec<(UserName, Vec<Rule>)>,
    },
    /// What a watched file says: users of an earlier import from `source` that are gone are deleted, all others stay.
    Import {
        /// Which file.
        source: String,
        /// Its users with the rules that make them from nothing.
        users: Vec<(UserName, Vec<Rule>)>,
    },
}

/// What became of a change: a value, never an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserOutcome {
    /// Of [`UserChange::Set`].
    Set {
        /// The user is new.
        created: bool,
        /// Something is different now.
        changed: bool,
    },
    /// Of [`UserChange::Delete`].
    Deleted {
        /// How many users are gone.
        count: u64,
    },
    /// Of [`UserChange::ReplaceAll`] and [`UserChange::Import`].
    Replaced {
        /// How many users are new.
        created: u64,
        /// How many others mean something else now.
        changed: u64,
        /// How many are gone.
        deleted: u64,
    },
}

impl UserOutcome {
    /// Whether anything is different now.
    pub fn changed(self) -> bool {
        match self {
            UserOutcome::Set { changed, .. } => changed,
            UserOutcome::Deleted { count } => count > 0,
            UserOutcome::Replaced { created, changed, deleted } => created + changed + deleted > 0,
        }
    }
}

/// A user as written down: text, so that every version reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// The name.
    pub name: Vec<u8>,
    /// The words of `ACL LIST`.
    pub rules: Vec<Vec<u8>>,
    /// See [`User::created`].
    pub created: u64,
    /// See [`User::revision`].
    pub revision: u64,
    /// See [`User::credentials_revision`].
    pub credentials_revision: u64,
    /// See [`User::withdrawn_revision`].
    pub withdrawn_revision: u64,
    /// The source of the import that made it.
    pub imported_from: Option<String>,
}

impl From<&User> for UserRecord {
    fn from(user: &User) -> UserRecord {
        UserRecord {
            name: user.name.as_bytes().to_vec(),
            rules: user.words(),
            created: user.created,
            revision: user.revision,
            credentials_revision: user.credentials_revision,
            withdrawn_revision: user.withdrawn_revision,
            imported_from: match &user.origin {
                Origin::Runtime => None,
                Origin::Import(source) => Some(source.to_string()),
            },
        }
    }
}

impl TryFrom<&UserRecord> for User {
    type Error = RuleError;

    fn try_from(record: &UserRecord) -> Result<User, RuleError> {
        let mut user = User::new(UserName::new(&record.name)?, record.created);
        for word in &record.rules {
            Rule::parse(word)?.iter().for_each(|rule| user.apply(rule));
        }
        user.revision = record.revision;
        user.credentials_revision = record.credentials_revision;
        user.withdrawn_revision = record.withdrawn_revision;
        user.origin = record.imported_from.as_deref().map_or(Origin::Runtime, |source| Origin::Import(source.into()));
        Ok(user)
    }
}

/// A record this version cannot read: it must not be guessed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreError {
    /// Whose record.
    pub name: Vec<u8>,
    /// What is wrong with it.
    pub error: RuleError,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user '{}': {}", printable::as_typed(&self.name, 128), self.error)
    }
}

impl std::error::Error for RestoreError {}

/// Why a login failed: for the log. The client is told nothing but [`AuthFailure`]'s `Display`, the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// There is no such user.
    UnknownUser,
    /// It is switched off.
    Disabled,
    /// The password is none of its passwords.
    WrongPassword,
    /// Its tenant is retired: nobody of it gets in.
    TenantRetired,
}

impl AuthFailure {
    /// For logs and metrics.
    pub const fn cause(self) -> &'static str {
        match self {
            AuthFailure::UnknownUser => "unknown user",
            AuthFailure::Disabled => "user is off",
            AuthFailure::WrongPassword => "wrong password",
            AuthFailure::TenantRetired => "tenant is retired",
        }
    }
}

impl fmt::Display for AuthFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WRONGPASS invalid username-password pair or user is disabled.")
    }
}

impl std::error::Error for AuthFailure {}

/// All users. A clone shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    users: Arc<BTreeMap<UserName, Arc<User>>>,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory::new()
    }
}

impl Directory {
    /// As a server starts that nobody configured: `default` may do everything without a password.
    pub fn new() -> Directory {
        Directory::with(User::open_default())
    }

    fn with(default: User) -> Directory {
        Directory { users: Arc::new(BTreeMap::from([(default.name.clone(), Arc::new(default))])) }
    }

    /// The user of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All users, sorted bytewise by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// How many users there are; at least one.
    #[allow(clippy::len_without_is_empty, reason = "never empty: `default` is always there")]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// The lines of `ACL LIST`, which are those of `ACL SAVE`.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        self.iter().map(|user| user.list_line()).collect()
    }

    /// SHA-256 over all lines, each ended by a line feed: equal on two nodes that agree on every rule.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for user in self.iter() {
            hash.update(user.list_line());
            hash.update(b"\n");
        }
        hash.finalize().into()
    }

    /// Every user as written down.
    pub fn to_records(&self) -> Vec<UserRecord> {
        self.iter().map(|user| UserRecord::from(&**user)).collect()
    }

    /// Exactly the directory the records were made of. Without a record of `default`, it is off.
    pub fn from_records(records: &[UserRecord]) -> Result<Directory, RestoreError> {
        let mut directory = Directory::with(User::new(UserName::default_user(), 0));
        for record in records {
            let user = User::try_from(record).map_err(|error| RestoreError { name: record.name.clone(), error })?;
            directory.put(user);
        }
        Ok(directory)
    }

    /// Whether this name and password log in. Compares as many hashes however that ends, see [`password::is_one_of`].
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Result<Arc<User>, AuthFailure> {
        let candidate = PasswordHash::of(password);
        let Some(user) = self.get(name) else {
            std::hint::black_box(password::is_one_of(&candidate, &[]));
            return Err(AuthFailure::UnknownUser);
        };
        let accepted = user.accepts_password(&candidate);
        if !user.enabled {
            return Err(AuthFailure::Disabled);
        }
        if accepted { Ok(Arc::clone(user)) } else { Err(AuthFailure::WrongPassword) }
    }

    /// `ACL SETUSER name tokens…`: reads the rules one by one, each against what the ones before made of the user, so
    /// the error is the one Redis gives. Nothing is changed.
    pub fn prepare_set<T: AsRef<[u8]>>(
        &self,
        name: &[u8],
        tokens: &[T],
        catalog: &dyn Catalog,
    ) -> Result<UserChange, RuleError> {
        let name = UserName::new(name)?;
        let mut user = self.draft(&name);
        let mut all = Vec::with_capacity(tokens.len());
        for token in merge_selectors(tokens)? {
            let rules = Rule::parse(&token)?;
            for rule in &rules {
                user.apply_checked(rule, catalog).map_err(|reason| RuleError::modifier(&token, reason))?;
            }
            all.extend(rules);
        }
        user.check_bounds()?;
        self.check_user_count(usize::from(self.get(name.as_bytes()).is_none()))?;
        Ok(UserChange::Set { name, rules: all })
    }

    /// `ACL DELUSER names…`. A name no user can have is passed over, like one nobody has.
    pub fn prepare_delete<T: AsRef<[u8]>>(&self, names: &[T]) -> Result<UserChange, RuleError> {
        let names = names.iter().filter_map(|name| UserName::new(name.as_ref()).ok()).collect();
        let change = UserChange::Delete { names };
        refuse_deleting_default(&change)?;
        Ok(change)
    }

    /// Whether a change may be proposed: names exist, every rule has an effect, bounds are kept. [`Directory::apply`]
    /// does not depend on it.
    pub fn validate(&self, change: &UserChange, catalog: &dyn Catalog) -> Result<(), RuleError> {
        match change {
            UserChange::Set { name, rules } => {
                check_rules(self.draft(name), rules, catalog)?;
                self.check_user_count(usize::from(self.get(name.as_bytes()).is_none()))
            }
            UserChange::Delete { .. } => refuse_deleting_default(change),
            UserChange::ReplaceAll { users } => check_users(users, catalog),
            UserChange::Import { users, .. } => {
                check_users(users, catalog)?;
                let new = users.iter().filter(|(name, _)| self.get(name.as_bytes()).is_none());
                self.check_user_count(new.count())
            }
        }
    }

    /// Applies a change that was agreed on. `index` is its place in the log.
    pub fn apply(&mut self, index: u64, change: &UserChange) -> UserOutcome {
        match change {
            UserChange::Set { name, rules } => {
                let mut user =
                    self.get(name.as_bytes()).map_or_else(|| User::new(name.clone(), index), |user| (**user).clone());
                rules.iter().for_each(|rule| user.apply(rule));
                let (created, changed) = self.settle(index, user);
                UserOutcome::Set { created, changed }
            }
            UserChange::Delete { names } => {
                if names.iter().any(UserName::is_default) {
                    return UserOutcome::Deleted { count: 0 };
                }
                UserOutcome::Deleted { count: names.iter().map(|name| u64::from(self.remove(name))).sum() }
            }
            UserChange::ReplaceAll { users } => self.replace(index, users, None),
            UserChange::Import { source, users } => self.replace(index, users, Some(source)),
        }
    }

    /// The users a list names become what it says; who it should name and does not goes.
    fn replace(&mut self, index: u64, users: &[(UserName, Vec<Rule>)], source: Option<&str>) -> UserOutcome {
        let listed: BTreeMap<&UserName, &Vec<Rule>> = users.iter().map(|(name, rules)| (name, rules)).collect();
        let import = source.map(|source| Origin::Import(source.into()));
        let gone = |user: &&Arc<User>| {
            let owned = import.as_ref().is_none_or(|import| user.origin == *import);
            owned && !listed.contains_key(&user.name)
        };
        let gone: Vec<UserName> = self.iter().filter(gone).map(|user| user.name.clone()).collect();
        let (mut created, mut changed, mut deleted) = (0, 0, 0);
        for name in gone {
            if name.is_default() {
                changed += u64::from(self.settle(index, User::new(name, index)).1);
            } else {
                deleted += u64::from(self.remove(&name));
            }
        }
        for (name, rules) in listed {
            let mut user = User::new(name.clone(), index);
            rules.iter().for_each(|rule| user.apply(rule));
            let before = self.get(name.as_bytes()).map(|before| before.origin.clone());
            user.origin = import.clone().or(before).unwrap_or_default();
            let (new, different) = self.settle(index, user);
            created += u64::from(new);
            changed += u64::from(different && !new);
        }
        UserOutcome::Replaced { created, changed, deleted }
    }

    /// Puts a user into its place with the right revisions. Answers whether it is new and whether it differs.
    fn settle(&mut self, index: u64, mut user: User) -> (bool, bool) {
        let Some(before) = self.get(user.name.as_bytes()).cloned() else {
            self.put(user);
            return (true, true);
        };
        user.created = before.created;
        user.revision = before.revision;
        user.credentials_revision = before.credentials_revision;
        user.withdrawn_revision = before.withdrawn_revision;
        if *before == user {
            return (false, false);
        }
        let changed = !before.same_rules(&user);
        if changed {
            user.revision = index;
        }
        if !before.same_credentials(&user) {
            user.credentials_revision = index;
        }
        if !user.keeps_logins_of(&before) {
            user.withdrawn_revision = index;
        }
        self.put(user);
        (false, changed)
    }

    fn put(&mut self, user: User) {
        Arc::make_mut(&mut self.users).insert(user.name.clone(), Arc::new(user));
    }

    fn remove(&mut self, name: &UserName) -> bool {
        self.users.contains_key(name) && Arc::make_mut(&mut self.users).remove(name).is_some()
    }

    /// The user as it is, to try rules on.
    fn draft(&self, name: &UserName) -> User {
        self.get(name.as_bytes()).map_or_else(|| User::new(name.clone(), 0), |user| (**user).clone())
    }

    fn check_user_count(&self, new: usize) -> Result<(), RuleError> {
        let fits = self.len() + new <= USERS_MAX || new == 0;
        if fits { Ok(()) } else { Err(RuleError::Bound { what: "users", max: USERS_MAX }) }
    }
}

fn refuse_deleting_default(change: &UserChange) -> Result<(), RuleError> {
    match change {
        UserChange::Delete { names } if names.iter().any(UserName::is_default) => Err(RuleError::DefaultUser),
        _ => Ok(()),
    }
}

fn check_users(users: &[(UserName, Vec<Rule>)], catalog: &dyn Catalog) -> Result<(), RuleError> {
    if users.len() > USERS_MAX {
        return Err(RuleError::Bound { what: "users", max: USERS_MAX });
    }
    let mut seen = BTreeMap::new();
    for (name, rules) in users {
        if seen.insert(name, ()).is_some() {
            return Err(RuleError::DuplicateUser { name: name.to_string() });
        }
        check_rules(User::new(name.clone(), 0), rules, catalog)?;
    }
    Ok(())
}

fn check_rules(mut user: User, rules: &[Rule], catalog: &dyn Catalog) -> Result<(), RuleError> {
    for rule in rules {
        user.apply_checked(rule, catalog).map_err(|reason| RuleError::modifier(&rule.to_text(), reason))?;
    }
    user.check_bounds()
}

#[cfg(test)]
mod tests;
