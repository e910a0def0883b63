//! Which shard group a request is for, where there are several.
//!
//! ```text
//!   a client's request ─► names keys of one group   ─► that group's node, here or elsewhere (`lead.rs`)
//!                      ├► names none               ─► anywhere, or the first group's node: channels, the server itself
//!                      ├► can be divided           ─► each group does its part, the answers are put together (`gather.rs`)
//!                      └► cannot                   ─► CROSSSLOT
//! ```
//! A key's group is that of its slot, unless its tenant is placed on one group (`TENANT SET … GROUP n`): by what the key begins with,
//! or because of who asks. Whatever the users of a namespace ask is then carried out there. It knows requests by what their
//! declarations say, and no connection.

use keyward_acl::KeyUse;
use keyward_cluster::{GroupId, Holders, Move, MovePhase, Moved, State, Tenant, TenantMode, TenantNumber};
use keyward_engine::command::{Group, Home, Run};
use keyward_engine::keyspace::TenantId;
use keyward_engine::scope::Reach;
use keyward_engine::session::Session;
use keyward_engine::slot;
use keyward_engine::table::{Row, Table};
use keyward_engine::tenancy::Owners;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a request gets that cannot be carried out by one group.
pub const ACROSS: &str = "CROSSSLOT Keys in request don't hash to the same slot: they belong to different shard groups";

/// Which group every key belongs to.
pub struct Routes {
    of_slot: Arc<[u8]>,
    count: u32,
    homes: Arc<Homes>,
    moving: Option<Arc<Moving>>,
    changed_at: u64,
    hand_overs: u64,
}

/// Tenants whose keys do not lie where their slots say.
#[derive(Default)]
struct Homes {
    of: BTreeMap<TenantId, Holders>,
    /// What the keys of those begin with that have no namespace.
    owners: Owners,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Whose keyspace it sees.
    pub world: TenantId,
    /// The tenant it belongs to.
    pub tenant: TenantId,
}

impl Asker {
    /// Whoever has this session.
    pub fn of(session: &Session) -> Asker {
        Asker { world: session.tenant, tenant: session.owner() }
    }
}

fn id_of(tenant: &Tenant) -> TenantId {
    match tenant.mode {
        TenantMode::Namespace => TenantId::with_namespace(tenant.number.0),
        TenantMode::Prefixes(_) => TenantId::with_prefixes(tenant.number.0),
    }
}

fn owners_of<'a>(tenants: impl Iterator<Item = &'a Tenant>) -> Owners {
    Owners::new(tenants.flat_map(|tenant| tenant.prefixes().map(|prefix| (prefix, id_of(tenant)))))
}

impl Homes {
    fn of(state: &State) -> Homes {
        let is_placed = |tenant: &&Tenant| tenant.holders() != Holders::Slots;
        let placed: Vec<&Tenant> = state.tenants().iter().map(|tenant| &**tenant).filter(is_placed).collect();
        let of = placed.iter().map(|tenant| (id_of(tenant), tenant.holders())).collect();
        Homes { of, owners: owners_of(placed.into_iter()) }
    }

    /// Who has this key, if its slot does not say it.
    #[inline]
    fn find(&self, world: TenantId, key: &[u8]) -> Option<&Holders> {
        if self.of.is_empty() {
            return None;
        }
        self.of.get(&if world.is_namespace() { world } else { self.owners.of(key) })
    }
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
    /// How often it was tried.
    pub tries: u32,
    what: Moved,
    /// The group that has keys which it does not serve.
    hidden_in: GroupId,
    /// Tenants that slots say nothing about.
    homes: Arc<Homes>,
    of_slot: Arc<[u8]>,
    /// The tenant whose keys they are.
    tenant: Option<MovingTenant>,
}

struct MovingTenant {
    id: TenantId,
    owners: Owners,
    held: Holders,
    wanted: Holders,
}

impl MovingTenant {
    fn of(state: &State, number: TenantNumber) -> Option<MovingTenant> {
        let tenant = state.tenants().numbered(number)?;
        let owners = owners_of(std::iter::once(&**tenant));
        Some(MovingTenant { id: id_of(tenant), owners, held: tenant.holders(), wanted: tenant.wanted() })
    }

    fn owns(&self, world: TenantId, key: &[u8]) -> bool {
        if world.is_namespace() { world == self.id } else { self.owners.of(key) == self.id }
    }
}

impl Moving {
    fn of(state: &State, homes: &Arc<Homes>, of_slot: &Arc<[u8]>) -> Option<Moving> {
        let known: &Move = state.current_move()?;
        let hidden_in = if let MovePhase::Dropping(group) = known.phase { group } else { known.to };
        let what = known.what.clone();
        let tenant = if let Moved::Tenant(number) = what { MovingTenant::of(state, number) } else { None };
        let Move { index, from, to, phase, tries, .. } = *known;
        let (homes, of_slot) = (Arc::clone(homes), Arc::clone(of_slot));
        Some(Moving { index, from, to, phase, tries, what, hidden_in, homes, of_slot, tenant })
    }

    /// Whether this key moves. `world`: whose keyspace it is in.
    #[inline]
    pub fn concerns(&self, world: TenantId, key: &[u8]) -> bool {
        match (&self.what, &self.tenant) {
            (Moved::Slots((first, last)), _) => {
                (*first..=*last).contains(&slot::of_key(key)) && self.homes.find(world, key).is_none()
            }
            (Moved::Tenant(_), Some(tenant)) if tenant.owns(world, key) => {
                let slots = GroupId(u32::from(self.of_slot[usize::from(slot::of_key(key))]));
                match self.phase {
                    MovePhase::Copying => tenant.held.of(slots) == self.from && tenant.wanted.of(slots) == self.to,
                    MovePhase::Dropping(group) => tenant.held.of(slots) != group,
                    MovePhase::Done => false,
                }
            }
            (Moved::Tenant(_), _) => false,
        }
    }

    /// Whether this key must not lie in the group that has keys which it does not serve, and lies there because of the move.
    pub fn leaves(&self, world: TenantId, key: &[u8]) -> bool {
        let Moved::Slots((first, last)) = self.what else { return self.concerns(world, key) };
        let slot = slot::of_key(key);
        let is_elsewhere = |holders: &Holders| {
            // A tenant that was placed meanwhile: what was copied of it before that was known here.
            holders.of(GroupId(u32::from(self.of_slot[usize::from(slot)]))) != self.hidden_in
        };
        (first..=last).contains(&slot) && self.homes.find(world, key).is_none_or(is_elsewhere)
    }

    /// Whether keys of this keyspace may be among them.
    fn touches(&self, world: TenantId) -> bool {
        match (&self.what, &self.tenant) {
            (Moved::Slots(_), _) => !self.homes.of.contains_key(&world),
            (Moved::Tenant(_), Some(tenant)) => tenant.id.world() == world.world(),
            (Moved::Tenant(_), None) => false,
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
        let mut of_slot: Arc<[u8]> = vec![0; usize::from(slot::SLOTS)].into();
        if let Some(of_slot) = Arc::get_mut(&mut of_slot) {
            for group in groups.values() {
                for (first, last) in &group.slots {
                    of_slot[usize::from(*first)..=usize::from(*last)].fill(group.id.0 as u8);
                }
            }
        }
        let homes = Arc::new(Homes::of(state));
        let moving = Moving::of(state, &homes, &of_slot).map(Arc::new);
        let (count, changed_at, hand_overs) = (groups.len() as u32, state.routes_changed_at(), state.hand_overs());
        Some(Routes { of_slot, count, homes, moving, changed_at, hand_overs })
    }

    /// What is on its way to another group.
    pub fn moving(&self) -> Option<&Arc<Moving>> {
        self.moving.as_ref()
    }

    /// What a request to all keys of `group` finds there: nothing that only lies there because it moves.
    pub fn reach(&self, group: GroupId, tenant: TenantId, reach: Reach) -> Reach {
        match &self.moving {
            Some(moving) if moving.hidden_in == group && moving.touches(tenant) => {
                let moving = Arc::clone(moving);
                Reach::Outside(Arc::new(move |key| moving.concerns(tenant, key)), Box::new(reach))
            }
            _ => reach,
        }
    }

    /// The change since which keys belong to these groups.
    pub fn changed_at(&self) -> u64 {
        self.changed_at
    }

    /// Whether a request about all keys of a group finds others now than under `before`: keys belong elsewhere, or began to be copied.
    pub fn finds_others(&self, before: &Routes) -> bool {
        let hides = |routes: &Routes| routes.moving.as_ref().map(|moving| (moving.index, moving.hidden_in));
        self.changed_at != before.changed_at || hides(self) != hides(before)
    }

    /// How often keys were handed over to another group.
    pub fn hand_overs(&self) -> u64 {
        self.hand_overs
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
    pub fn home(&self, world: TenantId) -> Option<GroupId> {
        if self.homes.of.is_empty() || !world.is_namespace() { None } else { self.whole(world) }
    }

    /// The group that holds all keys of a tenant for its sake.
    fn whole(&self, tenant: TenantId) -> Option<GroupId> {
        if let Some(Holders::One(group)) = self.homes.of.get(&tenant) { Some(*group) } else { None }
    }

    /// The group of a key, as a client of this tenant names it.
    #[inline]
    pub fn of_key(&self, tenant: TenantId, key: &[u8]) -> GroupId {
        let slots = self.of_slot(slot::of_key(key));
        self.homes.find(tenant, key).map_or(slots, |holders| holders.of(slots))
    }

    /// The group of these keys: none if there are no keys, an error if there is no such group.
    pub fn of_keys(&self, tenant: TenantId, keys: &[KeyUse<'_>]) -> Result<Option<GroupId>, Across> {
        let Some((first, others)) = keys.split_first() else { return Ok(None) };
        let group = self.of_key(tenant, first.key);
        if others.iter().all(|other| self.of_key(tenant, other.key) == group) { Ok(Some(group)) } else { Err(Across) }
    }

    /// Where a request belongs that is not part of a transaction.
    pub fn target(&self, table: &Table, asker: Asker, row: &Row, argv: &[&[u8]]) -> Target {
        let (home, tenant) = (row.command.home(argv), asker.world);
        if let Some(group) = self.home(tenant).filter(|_| home != Home::Anywhere && is_about_keys(row)) {
            return Target::Group(group, true);
        }
        if let Some(gather) = whole(row).or_else(|| if self.homes.of.is_empty() { None } else { of_slot(row) }) {
            return Target::Every(gather);
        }
        // Each node has a copy of every group and tells of its changes. Who is told in another's place listens, and those who
        // listen are where the first group is served.
        let caches = matches!(row.full_name, "client|tracking" | "client|caching");
        if caches && !argv.iter().any(|word| word.eq_ignore_ascii_case(b"REDIRECT")) {
            return Target::Here;
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
            Ok(Some(group)) if self.reads_others(tenant, group, row, argv) => Target::Across,
            Ok(Some(group)) => Target::Group(group, true),
            Ok(None) => Target::Group(self.without_key(asker, row, argv), false),
            Err(Across) => parts(row).map_or(Target::Across, Target::Parts),
        }
    }

    /// Patterns of `SORT` name keys that may lie anywhere, unless they begin as those of a tenant that this group holds.
    fn reads_others(&self, world: TenantId, group: GroupId, row: &Row, argv: &[&[u8]]) -> bool {
        let elsewhere = |pattern: &[u8]| {
            let beginning = pattern.split(|byte| *byte == b'*').next().unwrap_or_default();
            !matches!(self.homes.find(world, beginning), Some(Holders::One(of)) if *of == group)
        };
        let by_pattern = |words: &[&[u8]]| {
            (words[0].eq_ignore_ascii_case(b"BY") || words[0].eq_ignore_ascii_case(b"GET"))
                && words[1].contains(&b'*')
                && elsewhere(words[1])
        };
        matches!(row.full_name, "sort" | "sort_ro") && argv.windows(2).any(by_pattern)
    }

    /// The group for a request without keys. Channels, and what is asked about the server, are the first group's; a script
    /// that names none runs where its tenant's are.
    fn without_key(&self, asker: Asker, row: &Row, argv: &[&[u8]]) -> GroupId {
        if row.command.group == Group::Scripting {
            return self.whole(asker.tenant).unwrap_or_default();
        }
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
        "flushall" | "flushdb" | "swapdb" | "tenant|swapdb" | "save" | "bgsave" | "script|load" | "script|flush"
        | "function|load" | "function|delete" | "function|flush" | "function|restore" => Gather::Same,
        _ => return None,
    })
}

/// Whether a cluster client asks each primary for its part of it, and puts the answers together itself: what it would count
/// several times, or cannot do twice. What can be done twice concerns every group wherever it is asked for.
pub fn is_asked_of_each_primary(row: &Row) -> bool {
    let functions = ["function|load", "function|delete", "function|flush", "function|restore"];
    matches!(row.full_name, "dbsize" | "keys" | "scan" | "randomkey") || functions.contains(&row.full_name)
}

/// Whether it exchanges databases.
pub fn swaps(row: &Row) -> bool {
    matches!(row.full_name, "swapdb" | "tenant|swapdb")
}

/// Whether it concerns the keys of the client's keyspace, and nothing besides.
fn is_about_keys(row: &Row) -> bool {
    let asks_once = matches!(row.full_name, "wait" | "waitaof" | "save" | "bgsave" | "client|unblock") || swaps(row);
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

/// How the answers are put together of what asks about one slot, whose keys may be with several groups.
fn of_slot(row: &Row) -> Option<Gather> {
    match row.full_name {
        "cluster|countkeysinslot" => Some(Gather::Sum),
        "cluster|getkeysinslot" => Some(Gather::List),
        _ => None,
    }
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
        let asker = Asker { world: TenantId::SHARED, tenant: TenantId::SHARED };
        routes.target(table(), asker, row, &argv)
    }

    #[test]
    fn a_look_at_every_key_finds_others_once_a_move_begins_and_once_it_is_decided() {
        use keyward_cluster::MoveChange;
        let mut state = State::new();
        let mut index = 0;
        let mut apply = |change| {
            index += 1;
            let (actor, source) = ("test".to_owned(), "test".to_owned());
            state.apply(index, &Stamped { at: UnixMillis(1), actor, source, request: None, change });
            Routes::of(&state).expect("several groups")
        };
        let founder = Founder { name: "one".to_owned(), addresses: Addresses::default() };
        let founded = apply(Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 2, nodes: 1 });
        let begin = || Change::Move(MoveChange::Begin { what: Moved::Slots((0, 5000)), to: GroupId(1) });
        let copying = apply(begin());
        assert!(copying.finds_others(&founded), "copies may lie in group 1");
        assert_eq!(copying.changed_at(), founded.changed_at(), "whose keys they are nobody has changed");
        let refused = apply(begin());
        assert!(!refused.finds_others(&copying), "nothing has changed");
        let move_index = copying.moving().expect("it has begun").index;
        let switched = apply(Change::Move(MoveChange::Switch { index: move_index }));
        assert!(switched.finds_others(&copying) && switched.changed_at() > copying.changed_at());
        let ended = apply(Change::Move(MoveChange::End { index: move_index }));
        assert!(ended.finds_others(&switched) && ended.moving().is_none());
    }

    #[test]
    fn keys_of_a_tenant_placed_during_a_move_of_slots_are_left_where_they_are_only() {
        use keyward_cluster::{MoveChange, TenantChange, TenantEdit};
        let mut state = State::new();
        let mut index = 0;
        let mut apply = |change| {
            index += 1;
            let (actor, source) = ("test".to_owned(), "test".to_owned());
            state.apply(index, &Stamped { at: UnixMillis(1), actor, source, request: None, change });
            Routes::of(&state).and_then(|routes| routes.moving().cloned())
        };
        let founder = Founder { name: "one".to_owned(), addresses: Addresses::default() };
        apply(Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 2, nodes: 1 });
        let (what, to) = (Moved::Slots((5000, 5100)), GroupId(1));
        let before = apply(Change::Move(MoveChange::Begin { what, to })).unwrap();
        let edits = vec![TenantEdit::Setting("group".to_owned(), Some("0".to_owned()))];
        let (name, mode) = ("placed".to_owned(), TenantMode::Namespace);
        let moving = apply(Change::Tenant(TenantChange::Create { name, mode, edits })).unwrap();
        let (shared, placed, bar) = (TenantId::SHARED, TenantId::with_namespace(1), b"bar");
        assert!(before.concerns(placed, bar) && before.index != moving.index, "begun anew");
        assert!(moving.concerns(shared, bar) && !moving.concerns(placed, bar));
        assert!(moving.leaves(shared, bar) && moving.leaves(placed, bar), "group 1 has none of these");
        let moving = apply(Change::Move(MoveChange::Switch { index: moving.index })).unwrap();
        assert!(moving.leaves(shared, bar) && !moving.leaves(placed, bar), "group 0 keeps the tenant's");
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
