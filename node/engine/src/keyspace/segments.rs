//! Segments: which of a shard's keyspaces a key lies in, what each uses, and how keys move when tenants change.
//!
//! ```text
//!   a tenant changes ─► every shard gets the new table of owners, at once
//!                       keys still lie where the old table had them: the shard is unsettled
//!   a request        ─► a key it names is brought to its new segment first
//!   every key        ─► all keys are, before anybody looks at the whole segment
//!   upkeep           ─► a slice of them now and then, until the shard is settled
//! ```
//! Where a key lies is nobody's business but its node's: journals and files speak of names, so nodes may settle at their
//! own pace. A snapshot that is being taken sees a key that moves once, as it was.

use super::{Entry, Garbage, Keyspace, OwnedEntry, Owners, Shard, SpaceId, TenantId, Value, ValueRef, discard_later};
use crate::dict::NewValue;
use crate::eviction::Usage;
use crate::tenancy::{OwnerHint, Policies, segment_of, segment_of_next};
use std::sync::Arc;

/// Tables that may be waiting to be settled; with more, the shard settles at once.
const EARLIER_MAX: usize = 8;

/// Keys between two questions whether to go on.
const KEYS_PER_QUESTION: usize = 64;

/// What is left to do after tenants changed.
pub(super) struct Unsettled {
    /// Tables by which keys may still lie; `None`: nobody owned anything.
    earlier: Vec<Option<Arc<Owners>>>,
    /// Segments that were looked through: all below this one.
    done_below: Option<SpaceId>,
    /// How far the next one was looked through.
    cursor: u64,
}

/// A key that was taken out of its segment.
pub(super) struct Apart {
    tenant: TenantId,
    hash: u64,
    key: Vec<u8>,
    entry: OwnedEntry<Value>,
}

impl Keyspace {
    fn take(&mut self, hash: u64, key: &[u8]) -> Option<OwnedEntry<Value>> {
        // A snapshot that has not seen it keeps it first.
        self.preserve(hash, key);
        let entry = self.dict.remove(hash, key)?;
        self.forget(&entry);
        Some(entry)
    }

    /// Puts an entry where there is none of this name.
    fn put(&mut self, hash: u64, key: &[u8], entry: OwnedEntry<Value>) {
        let (expires_at, access) = (entry.expires_at(), entry.access());
        if let ValueRef::Object(object) = entry.value() {
            self.objects_bytes += object.memory_bytes();
            self.field_expiries.moved(key, None, object.next_field_expiry());
        }
        let value: NewValue<'_, Value> = entry.into_value();
        self.dict.insert(hash, key, value, expires_at).set_access(access);
    }

    /// Tells what it uses now; answers how much more that is than it was.
    #[inline]
    fn account(&mut self) -> isize {
        let now = self.memory_bytes();
        let more = now as isize - self.accounted as isize;
        self.accounted = now;
        if let Some(gauge) = &self.gauge {
            let keys = self.dict.len();
            if more != 0 {
                gauge.add(more as i64);
            }
            if keys != self.accounted_keys {
                gauge.add_keys(keys as i64 - self.accounted_keys as i64);
                self.accounted_keys = keys;
            }
        }
        more
    }

    /// One of its keys was evicted.
    pub(crate) fn note_evicted(&self) {
        if let Some(gauge) = &self.gauge {
            gauge.note_evicted();
        }
    }

    /// It is not part of its shard any more; answers what it was said to use.
    pub(super) fn unaccount(&mut self) -> usize {
        let (used, keys) = (std::mem::take(&mut self.accounted), std::mem::take(&mut self.accounted_keys));
        if let Some(gauge) = self.gauge.take() {
            gauge.add(-(used as i64));
            gauge.add_keys(-(keys as i64));
        }
        used
    }
}

impl Shard {
    /// Where a key lies that is asked for in `space`: in a namespace there, else with its owner.
    #[inline]
    pub fn segment_of(&self, space: SpaceId, key: &[u8]) -> SpaceId {
        segment_of(self.owners.as_deref(), space, key)
    }

    /// The same for keys that come one after the other, with one hint for all shards that are locked.
    #[inline]
    pub fn segment_of_next(&self, space: SpaceId, key: &[u8], hint: &mut OwnerHint) -> SpaceId {
        segment_of_next(self.owners.as_deref(), space, key, hint)
    }

    /// Whether a key is this owner's for who works in `space`, if it is so by `table`: these are the owners the shard knows,
    /// and `space` is no namespace.
    #[inline]
    pub fn goes_by(&self, space: SpaceId, owner: TenantId, table: Option<&Arc<Owners>>) -> bool {
        let same = match (&self.owners, table) {
            (Some(own), Some(table)) => Arc::ptr_eq(own, table),
            (None, None) => true,
            _ => false,
        };
        same && !space.tenant.is_namespace() && !owner.is_namespace()
    }

    /// Every segment of one owner, a database each.
    pub fn segments_of(&self, owner: TenantId) -> impl Iterator<Item = (SpaceId, &Keyspace)> {
        let all = SpaceId { tenant: owner, database: 0 }..=SpaceId { tenant: owner, database: u32::MAX };
        let shared = (owner == TenantId::SHARED).then_some((SpaceId::default(), &self.shared));
        shared.into_iter().chain(self.others.range(all))
    }

    /// What everything in it used when that was told last.
    #[inline]
    pub fn accounted_bytes(&self) -> usize {
        self.accounted
    }

    /// Tells what a segment uses now.
    #[inline]
    pub fn account(&mut self, segment: SpaceId) {
        if let Some(space) = self.existing_mut(segment) {
            let more = space.account();
            self.accounted = self.accounted.wrapping_add_signed(more);
        }
    }

    /// Tells what every segment uses now.
    pub fn account_all(&mut self) {
        let more: isize = self.spaces_mut().map(|(_, space)| space.account()).sum();
        self.accounted = self.accounted.wrapping_add_signed(more);
    }

    /// Who owns which keys from now on. Keys move later, or when they are asked for.
    pub fn set_owners(&mut self, owners: Option<&Arc<Owners>>) {
        if self.owners.as_ref() == owners {
            return;
        }
        let before = std::mem::replace(&mut self.owners, owners.cloned());
        let mut earlier = self.unsettled.take().map(|unsettled| unsettled.earlier).unwrap_or_default();
        earlier.push(before);
        let many = earlier.len() > EARLIER_MAX;
        self.unsettled = Some(Box::new(Unsettled { earlier, done_below: None, cursor: 0 }));
        if many {
            self.settle_all();
        }
    }

    /// Whose keys go by a policy of their own, from now on.
    pub fn set_policies(&mut self, policies: Option<&Arc<Policies>>) {
        self.policies = policies.cloned();
    }

    /// How the use of this owner's keys is remembered, if that of others is so.
    #[inline]
    pub fn usage_of(&self, owner: TenantId, usage: Usage) -> Usage {
        self.own_usage_of(owner, usage).unwrap_or(usage)
    }

    /// The same, if it is not the one everybody else's keys are remembered by.
    #[inline]
    pub fn own_usage_of(&self, owner: TenantId, usage: Usage) -> Option<Usage> {
        let policies = self.policies.as_ref()?;
        policies.get(&owner).map(|policy| usage.counting(*policy))
    }

    /// Whether keys may lie where an earlier table had them.
    #[inline]
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }

    /// Brings a key to where it belongs, in every database.
    #[cold]
    pub fn settle_key(&mut self, space: SpaceId, hash: u64, key: &[u8]) {
        if space.tenant.is_namespace() {
            return;
        }
        for from in self.earlier_places(key) {
            let to = self.segment_of(from, key);
            if self.space(from).is_some_and(|space| space.dict.find(hash, key).is_some()) {
                self.move_key(from, to, hash, key, &mut Vec::new());
            }
        }
    }

    /// Segments an earlier table had the key in.
    fn earlier_places(&self, key: &[u8]) -> Vec<SpaceId> {
        let Some(unsettled) = &self.unsettled else { return Vec::new() };
        let now = self.segment_of(SpaceId::default(), key).tenant;
        let mut owners: Vec<TenantId> = unsettled
            .earlier
            .iter()
            .map(|table| table.as_ref().map_or(TenantId::SHARED, |table| table.of(key)))
            .filter(|owner| *owner != now)
            .collect();
        owners.sort_unstable();
        owners.dedup();
        let all = |tenant| SpaceId { tenant, database: 0 }..=SpaceId { tenant, database: u32::MAX };
        let mut places: Vec<SpaceId> = Vec::new();
        for tenant in owners {
            places.extend((tenant == TenantId::SHARED).then(SpaceId::default));
            places.extend(self.others.range(all(tenant)).map(|(id, _)| id));
        }
        places
    }

    /// A key's entry where an earlier table had it.
    #[cold]
    pub(super) fn find_unsettled(&self, space: SpaceId, hash: u64, key: &[u8]) -> Option<&Entry<Value>> {
        if space.tenant.is_namespace() {
            return None;
        }
        let places = self.earlier_places(key).into_iter().filter(|place| place.database == space.database);
        places.filter_map(|place| self.space(place)?.dict.find(hash, key)).next()
    }

    fn move_key(&mut self, from: SpaceId, to: SpaceId, hash: u64, key: &[u8], garbage: &mut Vec<Garbage>) {
        let Some(source) = self.existing_mut(from) else { return };
        let Some(entry) = source.take(hash, key) else { return };
        let target = self.space_mut(to);
        if target.dict.find(hash, key).is_some() {
            // Written anew where it belongs: that is the newer one.
            discard_later(garbage, entry);
        } else {
            target.put(hash, key, entry);
        }
        self.account(from);
        self.account(to);
    }

    /// Exchanges two databases of one owner.
    pub(super) fn swap_spaces(&mut self, tenant: TenantId, databases: [u32; 2]) {
        let [a, b] = databases.map(|database| SpaceId { tenant, database });
        let (of_a, of_b) = (self.take_space(a), self.take_space(b));
        self.give_space(a, of_b);
        self.give_space(b, of_a);
    }

    /// Takes the keys that `wanted` says out of what `view` shows.
    pub(super) fn take_some(&mut self, view: SpaceId, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<Apart> {
        let mut found = Vec::new();
        for (tenant, space) in self.view(view) {
            space.for_each(&mut |entry| {
                if wanted(entry.key()) {
                    found.push((tenant, space.dict.hash(entry.key()), entry.key().to_vec()));
                }
            });
        }
        let mut taken = Vec::with_capacity(found.len());
        for (tenant, hash, key) in found {
            let source = self.existing_mut(SpaceId { tenant, ..view });
            if let Some(entry) = source.and_then(|source| source.take(hash, &key)) {
                taken.push(Apart { tenant, hash, key, entry });
            }
        }
        taken
    }

    /// Puts them into this database of their owners, where there are none of these names.
    pub(super) fn put_back(&mut self, taken: Vec<Apart>, database: u32) {
        for Apart { tenant, hash, key, entry } in taken {
            self.space_mut(SpaceId { tenant, database }).put(hash, &key, entry);
        }
    }

    /// Brings every key to where it belongs.
    pub fn settle_all(&mut self) {
        if self.is_unsettled() {
            self.settle_slice(&mut || true);
        }
    }

    /// Brings keys to where they belong, as long as `go_on` says so. True: all are.
    pub fn settle_slice(&mut self, go_on: &mut dyn FnMut() -> bool) -> bool {
        while let Some(mut unsettled) = self.unsettled.take() {
            let left = |id: &SpaceId| !id.tenant.is_namespace() && unsettled.done_below.is_none_or(|done| *id >= done);
            let Some(id) = self.spaces().map(|(id, _)| id).find(left) else {
                self.drop_empty();
                return true;
            };
            let over = self.settle_segment(id, &mut unsettled.cursor, go_on);
            if over {
                unsettled.cursor = 0;
                unsettled.done_below = Some(after(id));
            }
            self.unsettled = Some(unsettled);
            if !over || !go_on() {
                return false;
            }
        }
        true
    }

    /// Looks through one segment from `cursor` on. True: to its end.
    fn settle_segment(&mut self, id: SpaceId, cursor: &mut u64, go_on: &mut dyn FnMut() -> bool) -> bool {
        let mut stray: Vec<(u64, Vec<u8>, SpaceId)> = Vec::new();
        loop {
            let mut seen = 0;
            loop {
                let Some(space) = self.space(id) else { return true };
                *cursor = space.scan(*cursor, &mut |entry| {
                    seen += 1;
                    let to = self.segment_of(id, entry.key());
                    if to != id {
                        stray.push((space.dict.hash(entry.key()), entry.key().to_vec(), to));
                    }
                });
                if *cursor == 0 || seen >= KEYS_PER_QUESTION {
                    break;
                }
            }
            // Big values change hands, they are not copied: there is no garbage but doublets.
            let mut garbage = Vec::new();
            for (hash, key, to) in stray.drain(..) {
                self.move_key(id, to, hash, &key, &mut garbage);
            }
            if *cursor == 0 {
                return true;
            }
            if !go_on() {
                return false;
            }
        }
    }

    /// Segments that nothing is left in go, unless a snapshot walks through them.
    pub fn drop_empty(&mut self) {
        let empty: Vec<SpaceId> = self
            .others
            .iter()
            .filter(|(_, space)| space.is_empty() && space.walk.is_none())
            .map(|(id, _)| id)
            .collect();
        for id in empty {
            self.take_space(id);
        }
    }

    /// Takes the keyspaces of namespaces that `is_gone` says are nobody's any more; their keys go.
    pub fn drop_namespaces(&mut self, is_gone: impl Fn(TenantId) -> bool) -> Vec<Garbage> {
        let gone = |id: &SpaceId| id.tenant.is_namespace() && is_gone(id.tenant);
        let ids: Vec<SpaceId> = self.others.iter().map(|(id, _)| id).filter(gone).collect();
        let mut garbage = Vec::new();
        for id in ids {
            let taken = self.take_space(id);
            if taken.walk.is_some() {
                self.detached.push(taken);
            } else {
                garbage.push(Garbage::Keyspace(Box::new(taken)));
            }
        }
        garbage
    }

    /// The first segment, from `from` on, of what `space` shows: all that share its names, or a tenant's own.
    pub(super) fn next_in_view(&self, space: SpaceId, from: TenantId) -> Option<(TenantId, &Keyspace)> {
        let database = space.database;
        if space.tenant != TenantId::SHARED {
            return (from <= space.tenant).then(|| self.space(space).map(|keys| (space.tenant, keys))).flatten();
        }
        if from == TenantId::SHARED && database == 0 {
            return Some((TenantId::SHARED, &self.shared));
        }
        let mut at = SpaceId { tenant: from, database };
        loop {
            let (id, keys) = self.others.from(at).next()?;
            if id.tenant.is_namespace() {
                return None;
            }
            if id.database == database {
                return Some((id.tenant, keys));
            }
            // Databases of one tenant lie side by side: on to this one, or to the next tenant's.
            let tenant = if id.database < database { id.tenant } else { TenantId(id.tenant.0 + 1) };
            at = SpaceId { tenant, database };
        }
    }

    /// Every segment of what `space` shows.
    pub(super) fn view(&self, space: SpaceId) -> impl Iterator<Item = (TenantId, &Keyspace)> {
        let mut from = Some(TenantId::SHARED);
        std::iter::from_fn(move || {
            let found = self.next_in_view(space, from?)?;
            from = found.0.0.checked_add(1).map(TenantId);
            Some(found)
        })
    }

    /// How many keys are there for whoever uses this keyspace and sees all of it.
    pub fn count_in_view(&self, space: SpaceId) -> usize {
        self.view(space).map(|(_, keys)| keys.len()).sum()
    }

    /// What the keys of a tenant begin with.
    pub(super) fn prefixes_of(&self, tenant: TenantId) -> Vec<Vec<u8>> {
        self.owners.as_ref().map(|owners| owners.prefixes_of(tenant).map(<[u8]>::to_vec).collect()).unwrap_or_default()
    }

    /// Whose segment holds exactly the keys that begin so; `None`: nobody's.
    pub(super) fn whole_owner(&self, prefixes: &[&[u8]], prefix: &[u8]) -> Option<TenantId> {
        let owners = self.owners.as_ref()?;
        let owner = owners.owner_of_prefix(prefix)?;
        owners.prefixes_of(owner).all(|own| prefixes.contains(&own)).then_some(owner)
    }
}

fn after(id: SpaceId) -> SpaceId {
    match id.database.checked_add(1) {
        Some(database) => SpaceId { database, ..id },
        None => SpaceId { tenant: TenantId(id.tenant.0 + 1), database: 0 },
    }
}

#[cfg(test)]
mod tests;
