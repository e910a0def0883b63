//! Who has how much of a node's memory, and who gives some back first.
//!
//! ```text
//!   an owner      a tenant, or everybody else together ([`TenantId::SHARED`], who is promised nothing)
//!   its reserve   promised: nobody else's need takes it away
//!   beyond that   borrowed: idle memory is lent to whoever wants it, and taken back from whoever borrowed most
//! ```
//! What is lent must come back when it is needed. An owner whose keys may all go gives it back key by key. One that keeps
//! some or all of them (`noeviction`, `volatile-*`) cannot be made to, so it borrows only what nobody was promised:
//! [`is_beyond_what_is_free`]. That is what makes a reserve good: whoever is within it finds somebody who can give.
//!
//! It refuses to know keys, locks, and how an eviction is done.

use crate::eviction::Policy;
use crate::keyspace::TenantId;

/// What one owner has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Who.
    pub owner: TenantId,
    /// Bytes in use.
    pub used: u64,
    /// Bytes nobody else takes away.
    pub reserve: u64,
    /// What goes when its memory runs out.
    pub policy: Policy,
}

impl Share {
    /// Bytes beyond its reserve.
    pub fn borrowed(&self) -> u64 {
        self.used.saturating_sub(self.reserve)
    }

    /// What is not to be had from it however much others need it.
    fn kept(&self) -> u64 {
        if self.policy.takes_any_key() { self.reserve } else { self.used.max(self.reserve) }
    }
}

/// Who gives back first: who borrowed most, of those that let keys go at all and are not known to have none to give.
pub fn gives_first(shares: impl Iterator<Item = Share>, has_none: impl Fn(TenantId) -> bool) -> Option<TenantId> {
    shares
        .filter(|share| share.policy != Policy::NoEviction && share.borrowed() > 0 && !has_none(share.owner))
        .max_by_key(Share::borrowed)
        .map(|share| share.owner)
}

/// Whether this owner keeps what others were promised, of `total` bytes: it may not grow.
pub fn is_beyond_what_is_free(shares: impl Iterator<Item = Share>, owner: TenantId, total: u64) -> bool {
    let (mut kept, mut keeps_borrowed) = (0_u64, false);
    for share in shares {
        kept = kept.saturating_add(share.kept());
        keeps_borrowed |= share.owner == owner && !share.policy.takes_any_key() && share.borrowed() > 0;
    }
    keeps_borrowed && kept > total - total / MARGIN_ONE_IN
}

/// So small a part of the memory nobody borrows for good: commands are let in before it is known what they will need.
const MARGIN_ONE_IN: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId::with_prefixes(1);
    const B: TenantId = TenantId::with_namespace(2);

    fn share(owner: TenantId, used: u64, reserve: u64, policy: Policy) -> Share {
        Share { owner, used, reserve, policy }
    }

    #[test]
    fn who_borrowed_most_gives_first_and_who_borrowed_nothing_never() {
        let lru = Policy::AllKeysLru;
        let shares =
            [share(A, 100, 90, lru), share(B, 100, 100, lru), share(TenantId::SHARED, 9, 0, Policy::VolatileTtl)];
        let first = |has_none: &[TenantId]| gives_first(shares.into_iter(), |owner| has_none.contains(&owner));
        assert_eq!(first(&[]), Some(A));
        assert_eq!(first(&[A]), Some(TenantId::SHARED));
        assert_eq!(first(&[A, TenantId::SHARED]), None);
        let keeps = [share(A, 500, 0, Policy::NoEviction), share(B, 1, 0, lru)];
        assert_eq!(gives_first(keeps.into_iter(), |_| false), Some(B));
    }

    #[test]
    fn who_keeps_its_keys_borrows_only_what_nobody_was_promised() {
        for keeps in [Policy::NoEviction, Policy::VolatileLru] {
            let at = |used| {
                let shares = [share(A, used, 10, keeps), share(B, 0, 60, Policy::AllKeysLru)];
                is_beyond_what_is_free(shares.into_iter(), A, 128)
            };
            assert!(!at(67) && at(68), "{keeps:?}");
        }
        let lent = [share(A, 90, 10, Policy::AllKeysLru), share(B, 0, 60, Policy::NoEviction)];
        assert!(!is_beyond_what_is_free(lent.into_iter(), A, 100), "what can be taken back is lent");
        let within = [share(A, 90, 0, Policy::NoEviction), share(B, 60, 60, Policy::NoEviction)];
        assert!(!is_beyond_what_is_free(within.into_iter(), B, 100), "within its reserve it may always grow");
    }
}
