//! What a handler may do to all keys its user sees: count, list, scan, pick one, remove them. A reach decides what is seen;
//! this file decides how little must be looked at for it.

use super::{Garbage, Keys, Keyspace, Locked, ScanPosition, Shard, SpaceId, TenantId, type_name};
use crate::dict::Entry;
use crate::effects::EveryKeyOf;
use crate::scope::Reach;
use crate::tenancy::begins;
use crate::types::Value;
use keyward_acl::Glob;
use std::collections::BTreeSet;

/// How many names one answer may tell, and who says so: beyond it is an error, never a part of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamesBound {
    /// So many.
    pub most: usize,
    /// The setting, and whose it is.
    pub said_by: String,
}

impl NamesBound {
    /// What is answered when there are more.
    pub fn error(&self) -> String {
        format!(
            "ERR KEYS finds more than {} names, the most that {} allows: SCAN tells them part by part",
            self.most, self.said_by
        )
    }
}

/// Where every-key commands get their shards from: one after the other, or all at once.
pub trait EveryKey {
    /// Which keys there are for whoever asks: the others are not shown.
    fn reach(&self) -> &Reach;
    /// The longest pattern, in bytes.
    fn pattern_bytes_max(&self) -> usize;
    /// How many names one answer may tell; `None`: as many as there are.
    fn names_bound(&self) -> Option<&NamesBound> {
        None
    }
    /// How many databases there are.
    fn databases(&self) -> u32;
    /// How many shards there are.
    fn shard_count(&self) -> u32;
    /// Nobody else touches any of these keys meanwhile: one shard after the other is one moment as well.
    fn is_alone(&self) -> bool {
        false
    }
    /// How many keys there are in each shard, in their order, where that is known without asking each for more than that:
    /// nothing is hidden from whoever asks.
    fn counts(&mut self) -> Option<Vec<u64>> {
        None
    }
    /// Calls `with` with one shard locked.
    fn with_shard(&mut self, index: u32, with: &mut dyn FnMut(&mut Keys<'_>));
    /// Calls `with` with every shard locked: one moment of the whole node.
    fn with_all(&mut self, with: &mut dyn FnMut(&mut Keys<'_>));
    /// Calls `with` with the shards of these keys locked, at least.
    fn with_keys(&mut self, _named: &[&[u8]], with: &mut dyn FnMut(&mut Keys<'_>)) {
        self.with_all(with);
    }
}

impl<'a> Keys<'a> {
    fn each_locked(&self) -> impl Iterator<Item = &Shard> {
        let (one, many) = match &self.shards {
            Locked::One(_, shard) => (Some(&**shard), None),
            Locked::Many(shards) => (None, Some(shards.iter().map(|(_, shard)| &**shard))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// What is whoever asks's: a tenant's own segment, or all that share its names.
    fn own_spaces(&self) -> impl Iterator<Item = &Keyspace> {
        let space = self.context.space;
        self.each_locked().flat_map(move |shard| shard.view(space).map(|(_, keys)| keys))
    }

    /// What whoever asks sees: the same, and the segments in which keys lie that its tenant borrows.
    fn locked_spaces(&self) -> impl Iterator<Item = &Keyspace> {
        let (space, lenders) = (self.context.space, self.lenders());
        let lent = self.each_locked().flat_map(move |shard| {
            let of = lenders.iter().filter_map(|tenant| shard.space(SpaceId { tenant: *tenant, ..space }));
            of.collect::<Vec<&Keyspace>>()
        });
        self.own_spaces().chain(lent)
    }

    /// The tenants of which whoever asks borrows keys.
    fn lenders(&self) -> Vec<TenantId> {
        let Some(shard) = self.each_locked().next().filter(|_| self.borrows()) else { return Vec::new() };
        let owner = |pattern: &[u8]| {
            let glob = Glob::compile(pattern);
            shard.segment_of(SpaceId::default(), glob.beginning().unwrap_or_default()).tenant
        };
        let owners = self.reach.borrowed().iter().map(|pattern| owner(pattern));
        let others: BTreeSet<TenantId> =
            owners.filter(|of| *of != TenantId::SHARED && *of != self.context.space.tenant).collect();
        others.into_iter().collect()
    }

    #[inline]
    fn borrows(&self) -> bool {
        !self.reach.borrowed().is_empty()
    }

    /// Whether keys must be looked at one by one.
    #[inline]
    fn is_filtered(&self) -> bool {
        self.reach.filters_keys() || self.borrows()
    }

    /// The first segment from this tenant's on that whoever asks sees, in the one locked shard.
    fn next_seen(&self, lenders: &[TenantId], from: TenantId) -> Option<(TenantId, &Keyspace)> {
        let (shard, view) = (self.each_locked().next()?, self.context.space);
        if lenders.is_empty() {
            return shard.next_in_view(view, from);
        }
        let all: BTreeSet<TenantId> = lenders.iter().copied().chain([view.tenant]).collect();
        all.range(from..).find_map(|tenant| Some((*tenant, shard.space(SpaceId { tenant: *tenant, ..view })?)))
    }

    /// Whether the key exists for whoever asks.
    #[inline]
    fn sees(&self, key: &[u8]) -> bool {
        !self.is_filtered() || self.reach.sees_key(key)
    }

    /// How many keys the locked shards hold. Within a limited reach each key must be looked at, unless that is all of a
    /// tenant.
    pub fn key_count(&self) -> usize {
        if !self.is_filtered() {
            return self.locked_spaces().map(Keyspace::len).sum();
        }
        let mut count = 0;
        self.for_each(&mut |_| count += 1);
        count
    }

    /// How many keys the locked shards hold, whoever they belong to: how much there is to look through.
    pub fn len_of_all(&self) -> usize {
        self.locked_spaces().map(Keyspace::len).sum()
    }

    /// Visits every live entry of the locked shards.
    pub fn for_each(&self, visit: &mut dyn FnMut(&Entry<Value>)) {
        let now = self.context.now;
        for space in self.locked_spaces() {
            space.for_each(&mut |entry| {
                if entry.expires_at().is_none_or(|at| at > now) && self.sees(entry.key()) {
                    visit(entry);
                }
            });
        }
    }

    /// Visits the live entries of the next bucket of the one locked shard, and removes the expired ones of a type, if one is
    /// asked for; returns where to go on, `None` at the end.
    pub fn scan(
        &mut self,
        at: ScanPosition,
        of_type: Option<&str>,
        visit: &mut dyn FnMut(&Entry<Value>),
    ) -> Option<ScanPosition> {
        let (now, view) = (self.context.now, self.context.space);
        let mut expired = Vec::new();
        let lenders = self.lenders();
        let (tenant, space) = self.next_seen(&lenders, at.segment)?;
        // The segment it stood in may be gone by now. Whoever sees one segment only need not be told which.
        let single = view.tenant != TenantId::SHARED && lenders.is_empty();
        let cursor = if tenant == at.segment || single { at.position } else { 0 };
        let position = space.scan(cursor, &mut |entry| {
            let expired_by_now = entry.expires_at().is_some_and(|at| at <= now);
            if !expired_by_now && self.sees(entry.key()) {
                visit(entry);
            } else if expired_by_now && of_type.is_none_or(|name| type_name(&entry.value()) == name) {
                expired.push(entry.key().to_vec());
            }
        });
        if !self.context.keeps_expired {
            expired.iter().for_each(|key| self.settle(key));
        }
        if position != 0 {
            return Some(ScanPosition { segment: if single { TenantId::SHARED } else { tenant }, position });
        }
        let from = TenantId(tenant.0.checked_add(1)?);
        let (segment, _) = self.next_seen(&lenders, from)?;
        Some(ScanPosition { segment, position: 0 })
    }

    /// One of the locked segments, the more likely the more keys it has.
    fn lucky_space(&self, random: u64) -> Option<&Keyspace> {
        let total: u64 = self.locked_spaces().map(|space| space.len() as u64).sum();
        let mut target = ((u128::from(random.rotate_left(17)) * u128::from(total)) >> 64) as u64;
        self.locked_spaces().find(|space| {
            let here = target < space.len() as u64;
            target = target.wrapping_sub(space.len() as u64);
            here
        })
    }

    /// Some live key of the locked shards. Expired ones that are met are removed; the search ends after some tries.
    pub fn random_key(&mut self) -> Option<Vec<u8>> {
        const TRIES: usize = 100;
        if self.is_filtered() {
            return self.random_visible_key();
        }
        for _ in 0..TRIES {
            let random = self.random();
            let now = self.context.now;
            let entry = self.lucky_space(random)?.dict.random(random)?;
            let key = entry.key().to_vec();
            if entry.expires_at().is_none_or(|at| at > now) {
                return Some(key);
            }
            self.settle(&key);
        }
        None
    }

    /// Some entry of the locked shards, if it is live and within reach: every key is as likely as every other.
    pub fn lucky_key(&mut self) -> Option<Vec<u8>> {
        let (random, now) = (self.random(), self.context.now);
        let entry = self.lucky_space(random)?.dict.random(random)?;
        let found = entry.expires_at().is_none_or(|at| at > now) && self.sees(entry.key());
        found.then(|| entry.key().to_vec())
    }

    /// Every key within reach is looked at; the one that was drawn last is kept (Vitter 1985, algorithm R for one).
    fn random_visible_key(&mut self) -> Option<Vec<u8>> {
        let mut dice = self.dice();
        let (mut seen, mut drawn) = (0, None);
        self.for_each(&mut |entry| {
            seen += 1;
            if dice().is_multiple_of(seen) {
                drawn = Some(entry.key().to_vec());
            }
        });
        drawn
    }

    /// Removes the keys of this database that `wanted` says, one by one.
    fn clear_some(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for space in self.own_spaces() {
            space.for_each(&mut |entry| {
                if wanted(entry.key()) {
                    keys.push(entry.key().to_vec());
                }
            });
        }
        for key in &keys {
            self.discard(key);
            self.touched(key);
        }
        keys
    }

    /// Removes the keys of this database that lie within reach and may be deleted, one by one.
    fn clear_within_reach(&mut self) -> usize {
        /// Keys one effect names.
        const KEYS_AT_ONCE: usize = 128;
        let reach = self.reach;
        let keys = self.clear_some(|key| reach.may_delete_key(key));
        for named in keys.chunks(KEYS_AT_ONCE) {
            let command = std::iter::once(&b"DEL"[..]).chain(named.iter().map(Vec::as_slice));
            self.effects.replace_in(self.context.space.database, command);
        }
        keys.len()
    }

    /// Removes every key of this database in the locked shards; how many. Within a limited reach: those that may be
    /// deleted.
    pub fn clear(&mut self) -> usize {
        if self.reach.filters_keys() {
            return self.clear_within_reach();
        }
        let space = self.context.space;
        let mut ids: Vec<TenantId> = self.each_locked().flat_map(|shard| shard.view(space)).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids.dedup();
        let removed = ids.into_iter().map(|tenant| self.clear_segment(SpaceId { tenant, ..space })).sum();
        self.touched_whole(&[space.database], self.prefixes_of_tenant());
        removed
    }

    /// These databases changed as a whole, or what begins with these prefixes did in them.
    fn touched_whole(&mut self, databases: &[u32], prefixes: Vec<Vec<u8>>) {
        self.effects.touched_every_key(EveryKeyOf { databases: databases.to_vec(), prefixes });
    }

    fn clear_segment(&mut self, segment: SpaceId) -> usize {
        let (mut removed, mut garbage) = (0, Vec::new());
        for shard in self.locked_shards() {
            let taken = shard.take_space(segment);
            removed += taken.len();
            if taken.walk.is_some() {
                // The snapshot has yet to see the rest of it.
                shard.detached.push(taken);
            } else if !taken.is_empty() {
                garbage.push(Garbage::Keyspace(Box::new(taken)));
            }
        }
        self.garbage.append(&mut garbage);
        removed
    }

    /// Removes the keys of this database that begin with one of these, or `{` and one of these, in the locked shards; how
    /// many. Costs their number where they are all of a tenant.
    pub fn clear_prefixes(&mut self, prefixes: &[&[u8]]) -> usize {
        let (owners, rest) = self.owners_of(prefixes);
        let database = self.context.space.database;
        let mut removed = owners.into_iter().map(|tenant| self.clear_segment(SpaceId { tenant, database })).sum();
        if !rest.is_empty() {
            removed += self.clear_some(|key| begins(key, &rest)).len();
        }
        self.touched_whole(&[database], prefixes.iter().map(|prefix| prefix.to_vec()).collect());
        removed
    }

    /// Whose segments hold exactly the keys that begin so; and the prefixes that are no segment's.
    fn owners_of<'p>(&self, prefixes: &[&'p [u8]]) -> (BTreeSet<TenantId>, Vec<&'p [u8]>) {
        let owner = |prefix: &[u8]| self.each_locked().next().and_then(|shard| shard.whole_owner(prefixes, prefix));
        let rest = prefixes.iter().filter(|prefix| owner(prefix).is_none()).copied().collect();
        (prefixes.iter().filter_map(|prefix| owner(prefix)).collect(), rest)
    }

    /// What the keys of the tenant begin with whose segment is asked for: whoever repeats elsewhere what was done to all of
    /// it must not depend on whose they are there. Empty for a namespace, and for everybody.
    pub fn prefixes_of_tenant(&self) -> Vec<Vec<u8>> {
        let tenant = self.context.space.tenant;
        if tenant == TenantId::SHARED || tenant.is_namespace() {
            return Vec::new();
        }
        self.each_locked().next().map(|shard| shard.prefixes_of(tenant)).unwrap_or_default()
    }

    /// Exchanges two databases in the locked shards: of whoever asks, or of all who share its names. Only within a reach that
    /// holds all of that ([`Reach::holds_segment`]).
    pub fn swap_databases(&mut self, first: u32, second: u32) {
        self.touched_whole(&[first, second], self.prefixes_of_tenant());
        if first == second {
            return;
        }
        let [a, b] = [first, second].map(|database| SpaceId { database, ..self.context.space });
        for shard in self.locked_shards() {
            let tenants: BTreeSet<TenantId> =
                [a, b].into_iter().flat_map(|space| shard.view(space)).map(|(tenant, _)| tenant).collect();
            tenants.into_iter().for_each(|tenant| shard.swap_spaces(tenant, [first, second]));
        }
    }

    /// The same of the keys that begin with one of these, or `{` and one of these. Costs little where they are all of a tenant.
    pub fn swap_prefixes(&mut self, first: u32, second: u32, prefixes: &[&[u8]]) {
        self.touched_whole(&[first, second], prefixes.iter().map(|prefix| prefix.to_vec()).collect());
        if first == second {
            return;
        }
        let (owners, rest) = self.owners_of(prefixes);
        let [a, b] = [first, second].map(|database| SpaceId { database, ..self.context.space });
        for shard in self.locked_shards() {
            owners.iter().for_each(|tenant| shard.swap_spaces(*tenant, [first, second]));
            if !rest.is_empty() {
                let [of_a, of_b] = [a, b].map(|space| shard.take_some(space, &|key| begins(key, &rest)));
                shard.put_back(of_a, second);
                shard.put_back(of_b, first);
            }
        }
    }

    fn locked_shards(&mut self) -> impl Iterator<Item = &mut Shard> {
        let (one, many) = match &mut self.shards {
            Locked::One(_, shard) => (Some(&mut **shard), None),
            Locked::Many(shards) => (None, Some(shards.iter_mut().map(|(_, shard)| &mut **shard))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}
