//! What the rules of a tenant's user are cut down to.
//!
//! A tenant owns the keys that begin with its prefixes (or `{` and one of them), or a keyspace of its own. Whatever the rules
//! of its users say, they hold within that: the cut is made when rules are compiled, so requests pay nothing for it.
//! Beyond it lie only the keys that other tenants lend to this one (it imports what they export). A set of rules reaches those
//! as far as its own patterns hold them; one that holds every key of the tenant, to read or to write them, holds what is lent
//! to the tenant so as well, without naming it. Nobody reaches more of it than it is lent for.
//! Every channel (`&*`) is those that begin as its keys do, unless the tenant shares channels with everybody. It refuses to know
//! tenants by name.

use crate::rule::KeyRights;
use crate::user::KeyPattern;

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Fence {
    prefixes: Option<Vec<Box<[u8]>>>,
    granted: Vec<KeyPattern>,
    shares_channels: bool,
}

impl Fence {
    /// Around the keys that begin with these.
    pub fn of_prefixes<'a>(prefixes: impl Iterator<Item = &'a [u8]>) -> Fence {
        let with_brace = |prefix: &'a [u8]| [prefix.into(), [b"{", prefix].concat().into()];
        Fence { prefixes: Some(prefixes.flat_map(with_brace).collect()), granted: Vec::new(), shares_channels: false }
    }

    /// Every channel is every channel there is.
    pub fn share_channels(&mut self) {
        self.shares_channels = true;
    }

    /// What every channel begins with, but for the server's own, which tell of keys within.
    pub(crate) fn channel_prefixes(&self) -> Option<&[Box<[u8]>]> {
        self.prefixes().filter(|_| !self.shares_channels)
    }

    /// Around a keyspace of its own: every key is within.
    pub fn of_namespace() -> Fence {
        Fence::default()
    }

    /// Keys outside that are lent, for reading, or also for writing.
    pub fn let_in(&mut self, pattern: &[u8], write: bool) {
        let rights = if write { KeyRights::ReadWrite } else { KeyRights::Read };
        self.granted.push(KeyPattern { pattern: pattern.into(), rights });
    }

    pub(crate) fn prefixes(&self) -> Option<&[Box<[u8]>]> {
        self.prefixes.as_deref()
    }

    /// What is within, as patterns: to tell people what would have been nearest.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = KeyPattern> {
        let plain = self.prefixes.iter().flatten().filter(|prefix| !prefix.starts_with(b"{"));
        let whole =
            plain.map(|prefix| KeyPattern { pattern: [&**prefix, b"*"].concat().into(), rights: KeyRights::ReadWrite });
        whole.chain(self.granted.iter().cloned())
    }

    pub(crate) fn granted(&self) -> &[KeyPattern] {
        &self.granted
    }

    /// Whether there is no key outside.
    pub(crate) fn encloses_everything(&self) -> bool {
        self.prefixes.is_none()
    }
}
