//! How far a command reaches beyond the keys, channels and databases that its arguments name.
//!
//! A user without `~*` is *confined*: what a command does beyond its arguments happens as if there were only what this
//! user may touch. So every declaration says its [`Scope`]; there is no default, and a command without one does not
//! compile. What stays within its arguments is checked there and then; what reaches further is lent a [`Reach`] and finds
//! nothing that lies beyond it; what cannot be kept within walls is above the ceiling, and no rule lifts that.
//!
//! A golden table (`table/scopes.txt`) lists every command with its scope. This file refuses to know commands.

use crate::keyspace::TenantId;
use keyward_acl::{CommandId, KeyAccess, Policy, Treatment};
use std::sync::Arc;

/// How far a command reaches. What it names is checked in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// As far as its arguments.
    Named,
    /// As far as its arguments; and since it answers with what lies at its keys, they must be readable too, although their
    /// declaration, which is Redis', calls it a mere write: XCLAIM.
    NamedAndRead,
    /// No further than the connection itself.
    Own,
    /// To nothing anybody owns: it says what is the same for everybody.
    Public,
    /// The same, and so little that whoever is confined needs no rule for it: PING.
    Everybody,
    /// The connection itself, and whoever is confined needs no rule for this first argument: SELECT 0.
    OwnOrFree(&'static str),
    /// Further, to what others may own: it is lent a [`Reach`].
    Filtered(Of),
    /// To every key of its database or databases as a whole: whoever is confined must hold all of its tenant's. It is lent a
    /// [`Reach`].
    WholeTenant,
    /// Above the ceiling: it concerns the server or everybody on it, and cannot be kept within walls.
    Ceiling,
    /// It has no behavior; its subcommands have.
    Subcommands,
}

/// What a command that reaches further finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// Keys.
    Keys,
    /// Channels, and who listens.
    Channels,
    /// Other connections.
    Clients,
    /// Scripts and functions.
    Scripts,
    /// Users and what they were denied.
    Users,
    /// What was done: slow commands, times.
    Records,
    /// What the server tells about itself: INFO, CONFIG GET.
    Server,
}

impl Scope {
    /// What the walls do to such a command.
    pub const fn treatment(self) -> Treatment {
        match self {
            Scope::NamedAndRead => Treatment::ReadsItsKeys,
            Scope::Everybody => Treatment::Always,
            Scope::OwnOrFree(argument) => Treatment::AlwaysWith(argument),
            Scope::WholeTenant => Treatment::OfWholeTenant,
            Scope::Ceiling => Treatment::Never,
            Scope::Filtered(Of::Clients) => Treatment::Tame,
            Scope::Named | Scope::Own | Scope::Public | Scope::Filtered(_) | Scope::Subcommands => Treatment::ByRule,
        }
    }
}

/// What a request may find beyond its arguments. Whoever is asked for keys, channels, clients or scripts asks for this first.
#[derive(Clone)]
pub enum Reach {
    /// Everything: the user holds every key.
    Everything,
    /// What these rules let its user touch; and whose that is, if its user belongs to a tenant.
    Within(Arc<Policy>, TenantId),
    /// Nothing: the command is not declared to reach further, or nobody is logged in.
    Nothing,
    /// No key that this says yes to: it is served elsewhere, and what lies here is a copy that is not complete or not needed
    /// any more.
    Outside(Hidden, Box<Reach>),
}

/// Says which keys are hidden.
pub type Hidden = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Whose scripts, libraries and records something belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Owner {
    /// Everybody who is not confined, together.
    #[default]
    Platform,
    /// This confined user.
    User(Box<[u8]>),
    /// The users of this tenant, together.
    Tenant(u32),
}

impl Reach {
    /// The reach of a request: `command` as a user of this tenant with these rules runs it.
    pub fn of(policy: Option<&Arc<Policy>>, tenant: TenantId, command: CommandId, scope: Scope) -> Reach {
        match policy {
            Some(policy) if policy.is_unrestricted() || !policy.is_confined_for(command) => Reach::Everything,
            Some(policy) if matches!(scope, Scope::Filtered(_) | Scope::WholeTenant) => {
                Reach::Within(Arc::clone(policy), tenant)
            }
            _ => Reach::Nothing,
        }
    }

    /// The reach of a user as such, whatever it runs: for what lasts longer than a command.
    pub fn of_user(policy: &Arc<Policy>, tenant: TenantId) -> Reach {
        if policy.is_confined() { Reach::Within(Arc::clone(policy), tenant) } else { Reach::Everything }
    }

    /// Whether there is anything it keeps from the user.
    #[inline]
    pub fn is_confined(&self) -> bool {
        match self {
            Reach::Outside(_, reach) => reach.is_confined(),
            Reach::Everything => false,
            Reach::Within(..) | Reach::Nothing => true,
        }
    }

    /// Whether keys must be looked at one by one: not where the user holds all of its tenant, since then it is shown
    /// nothing else.
    #[inline]
    pub fn filters_keys(&self) -> bool {
        match self {
            Reach::Everything => false,
            Reach::Within(policy, _) => !policy.holds_tenant(),
            Reach::Nothing | Reach::Outside(..) => true,
        }
    }

    /// Whether all keys of a tenant are the user's to change, or all there are: what is done to a segment as a whole is done
    /// to nothing else.
    pub fn holds_segment(&self) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, tenant) => *tenant != TenantId::SHARED && policy.may_change_tenant(),
            Reach::Nothing => false,
            Reach::Outside(_, reach) => reach.holds_segment(),
        }
    }

    /// The patterns of keys of other tenants that exist for the user, too.
    pub fn borrowed(&self) -> &[Box<[u8]>] {
        match self {
            Reach::Within(policy, _) => policy.borrowed(),
            Reach::Outside(_, reach) => reach.borrowed(),
            Reach::Everything | Reach::Nothing => &[],
        }
    }

    /// Whether the key exists for the user: some rule lets it read or write it.
    #[inline]
    pub fn sees_key(&self, key: &[u8]) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, _) => policy.may_touch_key(key),
            Reach::Nothing => false,
            Reach::Outside(hidden, reach) => !hidden(key) && reach.sees_key(key),
        }
    }

    /// Whether the user may delete the key.
    pub fn may_delete_key(&self, key: &[u8]) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, _) => policy.may_access_key(key, KeyAccess::WRITE),
            Reach::Nothing => false,
            Reach::Outside(hidden, reach) => !hidden(key) && reach.may_delete_key(key),
        }
    }

    /// Whether every key that begins like this exists for the user.
    pub fn sees_prefix(&self, prefix: &[u8]) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, _) => {
                policy.key_prefixes().is_none_or(|own| own.iter().any(|own| prefix.starts_with(own)))
            }
            Reach::Nothing => false,
            Reach::Outside(_, reach) => reach.sees_prefix(prefix),
        }
    }

    /// Whether some key that begins like this may exist for the user.
    pub fn may_see_within(&self, prefix: &[u8]) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, _) => policy
                .key_prefixes()
                .is_none_or(|own| own.iter().any(|own| own.starts_with(prefix) || prefix.starts_with(own))),
            Reach::Nothing => false,
            Reach::Outside(_, reach) => reach.may_see_within(prefix),
        }
    }

    /// Whether the channel, or the pattern of channels, exists for the user. A channel of keyspace events speaks of a key.
    pub fn sees_channel(&self, channel: &[u8], pattern: bool) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, _) => {
                policy.may_use_channel(channel, pattern)
                    && (pattern || event_key(channel).is_none_or(|key| policy.may_touch_key(key)))
            }
            Reach::Nothing => false,
            Reach::Outside(_, reach) => reach.sees_channel(channel, pattern),
        }
    }

    /// Whether this user, and what it does, exists for the user.
    pub fn sees_user(&self, name: &[u8]) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, _) => policy.user().as_bytes() == name || policy.administers(name),
            Reach::Nothing => false,
            Reach::Outside(_, reach) => reach.sees_user(name),
        }
    }

    /// Whether the user may know this user's password hashes.
    pub fn sees_passwords_of(&self, name: &[u8]) -> bool {
        match self {
            Reach::Everything => true,
            Reach::Within(policy, _) => policy.user().as_bytes() == name,
            Reach::Nothing => false,
            Reach::Outside(_, reach) => reach.sees_passwords_of(name),
        }
    }

    /// Whether the connections of a user with this reach exist for the user.
    pub fn sees_clients_of(&self, other: &Reach) -> bool {
        match (self, other) {
            (Reach::Everything, _) => true,
            (Reach::Within(own, tenant), Reach::Within(other, of)) => {
                own.user() == other.user() || tenant == of && *tenant != TenantId::SHARED
            }
            _ => false,
        }
    }

    /// Whether the user may say this on this channel, whose rule allows it. On the server's own channels it must be about
    /// a key that the user could have changed.
    pub fn may_say(&self, channel: &[u8], message: &[u8]) -> bool {
        if !self.is_confined() || !is_servers_channel(channel) {
            return true;
        }
        let key = event_key(channel).or_else(|| channel.starts_with(b"__keyevent@").then_some(message));
        key.is_some_and(|key| self.may_delete_key(key))
    }

    /// Whose scripts and libraries are meant.
    pub fn owner(&self) -> Owner {
        match self {
            Reach::Everything => Owner::Platform,
            Reach::Within(policy, TenantId::SHARED) => Owner::User(policy.user().as_bytes().into()),
            Reach::Within(_, tenant) => Owner::Tenant(tenant.0),
            Reach::Outside(_, reach) => reach.owner(),
            // No user has this name.
            Reach::Nothing => Owner::User(Box::default()),
        }
    }
}

/// The key a channel of keyspace events speaks of: `__keyspace@0__:key`.
pub fn event_key(channel: &[u8]) -> Option<&[u8]> {
    let rest = channel.strip_prefix(b"__keyspace@")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest[digits..].strip_prefix(b"__:")
}

/// Whether the channel belongs to the server: events of keys, invalidations. What it says there must be true.
pub fn is_servers_channel(channel: &[u8]) -> bool {
    [&b"__keyspace@"[..], b"__keyevent@", b"__redis__:"].iter().any(|beginning| channel.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_acl::{User, UserName, Walls, parse_rules};

    fn policy(rules: &str) -> Arc<Policy> {
        let mut user = User::new(UserName::new(b"app").unwrap(), 1);
        let words: Vec<&str> = rules.split(' ').collect();
        parse_rules(&words).unwrap().iter().for_each(|rule| user.apply(rule));
        Arc::new(Policy::compile(&user, crate::table::table(), Walls::Up))
    }

    #[test]
    fn a_command_that_is_not_declared_to_reach_further_finds_nothing() {
        let id = crate::table::table().find(b"keys").unwrap().id;
        let reach = |rules: &str, scope| Reach::of(Some(&policy(rules)), TenantId::SHARED, id, scope);
        assert!(matches!(reach("+@all ~app:*", Scope::Named), Reach::Nothing));
        assert!(matches!(reach("+@all ~app:*", Scope::Filtered(Of::Keys)), Reach::Within(..)));
        assert!(matches!(reach("+@all ~*", Scope::Named), Reach::Everything));
        assert!(matches!(reach("+@all ~app:* (~* +keys)", Scope::Filtered(Of::Keys)), Reach::Everything));
        assert!(matches!(Reach::of(None, TenantId::SHARED, id, Scope::Filtered(Of::Keys)), Reach::Nothing));
    }

    #[test]
    fn only_what_the_user_may_touch_exists() {
        let reach = Reach::of_user(&policy("+@all ~app:* %R~shared:* &news &__keyspace@0__:*"), TenantId::SHARED);
        assert!(reach.sees_key(b"app:1") && reach.sees_key(b"shared:1") && !reach.sees_key(b"other"));
        assert!(reach.may_delete_key(b"app:1") && !reach.may_delete_key(b"shared:1"));
        assert!(reach.sees_prefix(b"app:") && reach.sees_prefix(b"app:x") && !reach.sees_prefix(b"app"));
        assert!(reach.sees_channel(b"news", false) && !reach.sees_channel(b"olds", false));
        assert!(reach.sees_channel(b"__keyspace@0__:app:1", false));
        assert!(!reach.sees_channel(b"__keyspace@0__:other", false));
        assert!(reach.sees_user(b"app") && !reach.sees_user(b"default"));
        assert_ne!(reach.owner(), Owner::Platform);
    }

    #[test]
    fn a_pattern_without_a_beginning_covers_no_prefix_of_its_own() {
        // `key_prefixes` says that keys may begin with anything; then what is told is looked at key by key.
        assert!(Reach::of_user(&policy("+@all ~*:app"), TenantId::SHARED).sees_prefix(b"x"));
    }

    #[test]
    fn the_channels_of_the_server_are_known() {
        assert_eq!(event_key(b"__keyspace@12__:a:b"), Some(&b"a:b"[..]));
        assert_eq!(event_key(b"__keyevent@0__:set"), None);
        assert!(is_servers_channel(b"__keyevent@0__:set") && is_servers_channel(b"__redis__:invalidate"));
        assert!(!is_servers_channel(b"__key"));
    }
}
