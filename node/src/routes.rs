//! Which shard group a request is for, where there are several.
//!
//! ```text
//!   a client's request ─► names keys of one group   ─► that group's node, here or elsewhere (`lead.rs`)
//!                      ├► names none               ─► anywhere, or the first group's node: channels, the server itself
//!                      ├► can be divided           ─► each group does its part, the answers are put together (`gather.rs`)
//!                      └► cannot                   ─► CROSSSLOT
//! ```
//! A key's group is that of its slot; all keys of a namespace may be placed on one group (`TENANT CREATE … GROUP n`), and then
//! all that its users ask is carried out there. It knows requests by what their declarations say, and no connection.

use keyward_acl::KeyUse;
use keyward_cluster::{GroupId, Move, MovePhase, Moved, State, Tenant, TenantMode};
use keyward_engine::command::{Group, Home, Run};
use keyward_engine::keyspace::TenantId;
use keyward_engine::scope::Reach;
use keyward_engine::slot;
use keyward_engine::table::{Row, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a request gets that cannot be carried out by one group.
pub const ACROSS: &str = "CROSSSLOT Keys in request don't hash to the same slot: they belong to different shard groups";

/// Which group every slot belongs to.
pub struct Routes {
    of_slot: Box<[u8]>,
    count: u32,
    /// Namespaces that one group holds as a whole.
    homes: BTreeMap<TenantId, GroupId>,
    moving: Option<Arc<Moving>>,
    changed_at: u64,
}

/// Keys on their way from one group to another.
pub struct Moving {
    /// The entry that began it.
    pub index: u64,
    /// The group that had them.
    pub from: GroupId,
    /// The group that is to have them.
    pub to: GroupId,
    /// How far it is.
    pub phase: MovePhase,
    what: Moved,
    /// The group that has keys which it does not serve.
    hidden_in: GroupId,
    /// Namespaces that slots say nothing about.
    homes: BTreeSet<TenantId>,
}

impl Moving {
    fn of(known: &Move, homes: &BTreeMap<TenantId, GroupId>) -> Moving {
        let hidden_in = if let MovePhase::Dropping(group) = known.phase { group } else { known.to };
        let homes = homes.keys().copied().collect();
        let (what, phase) = (known.what.clone(), known.phase);
        Moving { index: known.index, from: known.from, to: known.to, phase, what, hidden_in, homes }
    }

    /// Whether this key moves. `world`: whose keyspace it is in.
    #[inline]
    pub fn concerns(&self, world: TenantId, key: &[u8]) -> bool {
        match &self.what {
            Moved::Slots((first, last)) => {
                (*first..=*last).contains(&slot::of_key(key)) && !self.homes.contains(&world)
            }
            Moved::Namespace(number) => world == TenantId::with_namespace(number.0),
        }
    }
}

/// Keys belong to different groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Across;

/// Where a request is carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// Where the client is.
    Here,
    /// By the node that serves this group; `true`: because of a key.
    Group(GroupId, bool),
    /// By each group as a whole.
    Every(Gather),
    /// Each group does what concerns its keys.
    Parts(Gather),
    /// By no group.
    Across,
}

/// How the answers of several groups become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// They are added up.
    Sum,
    /// The least of them.
    Least,
    /// One list of all elements.
    List,
    /// One of them that is something.
    Any,
    /// The same from each, or an error.
    Same,
    /// Element by element the least.
    LeastEach,
    /// Each key's answer at its place.
    ByKey,
    /// One group after the other; the cursor says which.
    Cursor,
}

impl Routes {
    /// Of this state; `None` while one group has every slot.
    pub fn of(state: &State) -> Option<Routes> {
        let groups = state.groups();
        if groups.len() < 2 {
            return None;
        }
        let mut of_slot = vec![0; usize::from(slot::SLOTS)].into_boxed_slice();
        for group in groups.values() {
            for (first, last) in &group.slots {
                of_slot[usize::from(*first)..=usize::from(*last)].fill(group.id.0 as u8);
            }
        }
        let home = |tenant: &Arc<Tenant>| {
            let group = tenant.group().filter(|group| groups.contains_key(group))?;
            (tenant.mode == TenantMode::Namespace).then_some((TenantId::with_namespace(tenant.number.0), group))
        };
        let homes = state.tenants().iter().filter_map(home).collect();
        let moving = state.current_move().map(|known| Moving::of(known, &homes)).map(Arc::new);
        Some(Routes { of_slot, count: groups.len() as u32, homes, moving, changed_at: state.routes_changed_at() })
    }

    /// What is on its way to another group.
    pub fn moving(&self) -> Option<&Arc<Moving>> {
        self.moving.as_ref()
    }

    /// What a request to all keys of `group` finds there: nothing that only lies there because it moves.
    pub fn reach(&self, group: GroupId, tenant: TenantId, reach: Reach) -> Reach {
        match &self.moving {
            Some(moving) if moving.hidden_in == group && !moving.homes.contains(&tenant) => match moving.what {
                Moved::Slots(slots) => Reach::Outside(slots, Box::new(reach)),
                // Whoever sees it asks the group that has it.
                Moved::Namespace(_) => reach,
            },
            _ => reach,
        }
    }

    /// The change since which keys belong to these groups.
    pub fn changed_at(&self) -> u64 {
        self.changed_at
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.count).map(GroupId)
    }

    /// The group of a slot.
    #[inline]
    pub fn of_slot(&self, slot: u16) -> GroupId {
        GroupId(u32::from(self.of_slot[usize::from(slot)]))
    }

    /// The group that holds all keys of a client's keyspace, if there is one.
    #[inline]
    pub fn home(&self, tenant: TenantId) -> Option<GroupId> {
        if self.homes.is_empty() || !tenant.is_namespace() { None } else { self.homes.get(&tenant).copied() }
    }

    /// The group of a key, as a client of this tenant names it.
    #[inline]
    pub fn of_key(&self, tenant: TenantId, key: &[u8]) -> GroupId {
        self.home(tenant).unwrap_or_else(|| self.of_slot(slot::of_key(key)))
    }

    /// The group of these keys: none if there are no keys, an error if there is no such group.
    pub fn of_keys(&self, tenant: TenantId, keys: &[KeyUse<'_>]) -> Result<Option<GroupId>, Across> {
        let Some((first, others)) = keys.split_first() else { return Ok(None) };
        let group = self.of_key(tenant, first.key);
        if others.iter().all(|other| self.of_key(tenant, other.key) == group) { Ok(Some(group)) } else { Err(Across) }
    }

    /// Where a request belongs that is not part of a transaction.
    pub fn target(&self, table: &Table, tenant: TenantId, row: &Row, argv: &[&[u8]]) -> Target {
        let home = row.command.home(argv);
        if let Some(group) = self.home(tenant).filter(|_| home != Home::Anywhere && is_about_keys(row)) {
            return Target::Group(group, true);
        }
        if let Some(gather) = whole(row) {
            return Target::Every(gather);
        }
        // A script that keeps a node busy is ended at that node.
        if home == Home::Anywhere || matches!(row.full_name, "script|kill" | "function|kill") {
            return Target::Here;
        }
        if let Some(key) = row.single_key.and_then(|(index, _)| argv.get(usize::from(index)))
            && !matches!(row.full_name, "sort" | "sort_ro")
        {
            return Target::Group(self.of_key(tenant, key), true);
        }
        let mut keys = Vec::new();
        table.keys_of(row, argv, &mut keys);
        match self.of_keys(tenant, &keys) {
            Ok(Some(_)) if reads_others(row, argv) => Target::Across,
            Ok(Some(group)) => Target::Group(group, true),
            Ok(None) => Target::Group(self.without_key(row, argv), false),
            Err(Across) => parts(row).map_or(Target::Across, Target::Parts),
        }
    }

    /// The group for a request without keys. Channels, and what is asked about the server, are the first group's.
    fn without_key(&self, row: &Row, argv: &[&[u8]]) -> GroupId {
        if row.command.group == Group::Cluster && matches!(row.run, Run::OnEveryKey(_)) {
            let named = argv.get(2).and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
            return named.filter(|slot| *slot < slot::SLOTS).map_or(GroupId(0), |slot| self.of_slot(slot));
        }
        GroupId(0)
    }
}

/// How the answers are put together of what names no key and concerns every group.
pub fn whole(row: &Row) -> Option<Gather> {
    Some(match row.full_name {
        "dbsize" | "client|unblock" => Gather::Sum,
        "keys" => Gather::List,
        "scan" | "clusterscan" => Gather::Cursor,
        "randomkey" => Gather::Any,
        "wait" => Gather::Least,
        "waitaof" | "script|exists" => Gather::LeastEach,
        "flushall" | "flushdb" | "swapdb" | "save" | "bgsave" | "script|load" | "script|flush" | "function|load"
        | "function|delete" | "function|flush" | "function|restore" => Gather::Same,
        _ => return None,
    })
}

/// Whether it concerns the keys of the client's keyspace, and nothing besides.
fn is_about_keys(row: &Row) -> bool {
    let asks_once = matches!(row.full_name, "wait" | "waitaof" | "save" | "bgsave" | "swapdb" | "client|unblock");
    let of_keys = matches!(row.run, Run::OnKeys(_) | Run::OnEveryKey(_));
    !asks_once && (of_keys || matches!(row.command.group, Group::Transactions | Group::Scripting))
}

/// How the answers are put together of what can be done key by key.
fn parts(row: &Row) -> Option<Gather> {
    Some(match row.full_name {
        "mget" => Gather::ByKey,
        "mset" => Gather::Same,
        "del" | "unlink" | "exists" | "touch" => Gather::Sum,
        _ => return None,
    })
}

/// Patterns of `SORT` name keys that may lie anywhere.
fn reads_others(row: &Row, argv: &[&[u8]]) -> bool {
    let by_pattern = |words: &[&[u8]]| {
        (words[0].eq_ignore_ascii_case(b"BY") || words[0].eq_ignore_ascii_case(b"GET")) && words[1].contains(&b'*')
    };
    matches!(row.full_name, "sort" | "sort_ro") && argv.windows(2).any(by_pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_cluster::{Addresses, Change, ClusterId, Founder, Stamped, UnixMillis};
    use keyward_engine::table::table;

    fn routes(groups: u32) -> Option<Routes> {
        let mut state = State::new();
        let founder = Founder { name: "one".to_owned(), addresses: Addresses::default() };
        let change = Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups, nodes: 1 };
        let (actor, source) = ("test".to_owned(), "test".to_owned());
        state.apply(1, &Stamped { at: UnixMillis(1), actor, source, request: None, change });
        Routes::of(&state)
    }

    fn target(routes: &Routes, request: &str) -> Target {
        let argv: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let row = table().resolve(&argv).expect("a request").row;
        routes.target(table(), TenantId::SHARED, row, &argv)
    }

    #[test]
    fn every_slot_has_one_group_and_groups_are_of_a_size() {
        assert!(routes(1).is_none());
        for count in 2..=16 {
            let routes = routes(count).unwrap();
            let mut sizes = vec![0; count as usize];
            (0..slot::SLOTS).for_each(|slot| sizes[routes.of_slot(slot).0 as usize] += 1);
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn a_request_goes_where_its_keys_are() {
        let routes = routes(3).unwrap();
        // Slots 12182, 5061 and 866.
        let (foo, bar, hello) = (GroupId(2), GroupId(0), GroupId(0));
        assert_eq!(target(&routes, "GET foo"), Target::Group(foo, true));
        assert_eq!(target(&routes, "MGET bar hello"), Target::Group(hello, true));
        assert_eq!(target(&routes, "MGET bar foo"), Target::Parts(Gather::ByKey));
        assert_eq!(target(&routes, "DEL bar foo"), Target::Parts(Gather::Sum));
        assert_eq!(target(&routes, "RENAME bar foo"), Target::Across);
        assert_eq!(target(&routes, "MSETNX bar 1 foo 2"), Target::Across);
        assert_eq!(target(&routes, "EVAL x 2 bar foo"), Target::Across);
        assert_eq!(target(&routes, "SORT foo BY w_*"), Target::Across);
        assert_eq!(target(&routes, "SORT foo GET #"), Target::Group(foo, true));
        assert_eq!(target(&routes, "DBSIZE"), Target::Every(Gather::Sum));
        assert_eq!(target(&routes, "CLUSTERSCAN 0"), Target::Every(Gather::Cursor));
        assert_eq!(target(&routes, "PING"), Target::Here);
        assert_eq!(target(&routes, "PUBLISH foo x"), Target::Group(GroupId(0), false));
        assert_eq!(target(&routes, "CLUSTER COUNTKEYSINSLOT 12182"), Target::Group(foo, false));
        assert_eq!(target(&routes, "BLPOP bar hello 0"), Target::Group(bar, true));
    }
}
