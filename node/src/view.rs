//! What this node currently believes: users with their compiled rules, nodes, who serves the data.
//!
//! A [`View`] is immutable and shared; a new one is published for every change that was applied. A connection keeps
//! the one it last saw and compares a single number per request to notice a newer one.

use crate::config::{Ack, Config};
use crate::corridor::SCRIPT_THREADS;
use crate::live::MIN_IN_SYNC;
use crate::routes::Routes;
use crate::tenants;
use keyward_acl::{Acknowledge, Fence, Policy, Role, User, UserName, Walls};
use keyward_cluster::{Epoch, GroupId, Incarnation, Member, NodeId, ShardGroup, State};
use keyward_engine::account::{Account, Allowance};
use keyward_engine::holdings::{Held, Holdings};
use keyward_engine::session::{Login, Payer, Topology, TopologyNode, TopologyShard};
use keyward_engine::table::Table;
use keyward_engine::tenancy::{Gauges, Limits, Tenancy, Tenant};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What this process was told at its start about users and tenants.
#[derive(Clone, Copy)]
pub struct Terms {
    /// Answers wait for the nodes in sync where the user's rules say nothing.
    pub quorum: bool,
    /// Whether users who do not hold every key are confined.
    pub walls: Walls,
    /// Threads that run commands.
    pub threads: usize,
}

impl Terms {
    /// As configured.
    pub fn of(config: &Config) -> Terms {
        Terms {
            quorum: config.ack == Ack::Quorum,
            walls: config.walls(),
            threads: config.threads + SCRIPT_THREADS * config.groups as usize,
        }
    }
}

/// One moment of the agreed state, ready to use.
pub struct View {
    /// The agreed state.
    pub state: Arc<State>,
    /// The index of the last change in it.
    pub index: u64,
    /// Which node this is.
    pub me: NodeId,
    /// Which process of its node this is, once that is registered.
    pub my_incarnation: Option<Incarnation>,
    /// Which group this view is about: whom it calls primary serves that.
    pub of: GroupId,
    /// Which group each key belongs to; `None` while there is one group.
    pub routes: Option<Arc<Routes>>,
    /// Who serves the data; `None` while nobody does.
    pub primary: Option<NodeId>,
    /// The group that holds the data.
    pub group: Option<ShardGroup>,
    /// Fewer of its members are in sync than a confirmed write needs.
    pub few_in_sync: bool,
    /// Clients of this node are told this.
    pub topology: Topology,
    /// Every tenant, compiled.
    pub tenancy: Arc<Tenancy>,
    logins: Arc<HashMap<UserName, Login>>,
}

impl View {
    /// Compiles `state`, as the first group sees it; rules that did not change since `before` are taken from there, and what
    /// tenants did stays with them. `me` is this node, and which of its processes, once that is registered. What tenants use
    /// is read off `gauges`.
    pub fn build(
        state: Arc<State>,
        me: (NodeId, Option<Incarnation>),
        table: &Table,
        terms: Terms,
        gauges: &Gauges,
        before: Option<&View>,
    ) -> View {
        let (me, my_incarnation) = me;
        let unchanged = before.filter(|view| Arc::ptr_eq(view.state.tenants(), state.tenants()));
        let tenancy = unchanged.map_or_else(
            || Arc::new(tenants::compile(&state, gauges, terms.threads, before.map(|view| &*view.tenancy))),
            |view| Arc::clone(&view.tenancy),
        );
        let logins = state.directory().iter().map(|user| {
            let name = &user.name;
            let earlier = before.and_then(|view| view.logins.get(name));
            let known = earlier.filter(|login| Arc::ptr_eq(&login.user, user));
            // Grants depend on other tenants too, so any change to tenants has the rules of their users compiled anew.
            let tenant = tenancy.of_user(name.as_bytes());
            // So do those of whom no more is reported than what is no tenant's.
            let free =
                |login: &Login| login.tenant.is_none() && tenant.is_none() && login.policy.only_reports().is_none();
            let known = known.filter(|login| unchanged.is_some() || free(login));
            let within = tenant.map(|tenant| (tenant, tenancy.fence(tenant)));
            (name.clone(), known.cloned().unwrap_or_else(|| compile(user, within, &tenancy, (table, terms), earlier)))
        });
        let logins = Arc::new(logins.collect());
        let routes = Routes::of(&state).map(Arc::new);
        View::assemble(GroupId(0), state, (me, my_incarnation), tenancy, logins, routes)
    }

    /// The same moment as another group sees it.
    pub fn of_group(&self, group: GroupId) -> View {
        let me = (self.me, self.my_incarnation);
        let (tenancy, logins) = (Arc::clone(&self.tenancy), Arc::clone(&self.logins));
        View::assemble(group, Arc::clone(&self.state), me, tenancy, logins, self.routes.clone())
    }

    fn assemble(
        of: GroupId,
        state: Arc<State>,
        (me, my_incarnation): (NodeId, Option<Incarnation>),
        tenancy: Arc<Tenancy>,
        logins: Arc<HashMap<UserName, Login>>,
        routes: Option<Arc<Routes>>,
    ) -> View {
        let group = state.groups().get(&of).cloned();
        let current = group.as_ref().and_then(|group| group.primary).filter(|primary| state.is_current(*primary));
        let primary = current.map(|primary| primary.node);
        let topology = topology(&state, me);
        let few_in_sync = group.as_ref().is_some_and(|group| group.in_sync.len() < min_in_sync(&state, group));
        View {
            index: state.applied_index(),
            me,
            my_incarnation,
            of,
            routes,
            primary,
            group,
            few_in_sync,
            topology,
            tenancy,
            logins,
            state,
        }
    }

    /// This process, as the groups know it.
    pub fn member(&self) -> Option<Member> {
        Some(Member { node: self.me, incarnation: self.my_incarnation? })
    }

    /// Whether this process serves the data.
    pub fn is_primary(&self) -> bool {
        let primary = self.group.as_ref().and_then(|group| group.primary);
        primary.is_some() && primary == self.member()
    }

    /// Whether this process has a copy with every acknowledged write.
    pub fn is_in_sync(&self) -> bool {
        let member = self.member();
        member.is_some_and(|member| self.group.as_ref().is_some_and(|group| group.in_sync.contains(&member)))
    }

    /// The reign in which this process serves the data, if it does.
    pub fn reign(&self) -> Option<Epoch> {
        self.group.as_ref().filter(|_| self.is_primary()).map(|group| group.epoch)
    }

    /// What answers wait for that are given as of this view; nothing if this process does not serve the data.
    pub fn surety(&self) -> Option<Surety> {
        self.reign().map(|reign| Surety { reign, few: self.few_in_sync })
    }

    /// The user with its compiled rules; `None` also while its tenant is retired.
    pub fn login(&self, name: &[u8]) -> Option<&Login> {
        let user = self.state.directory().get(name)?;
        self.logins.get(&user.name).filter(|login| login.tenant.as_ref().is_none_or(|tenant| !tenant.retired))
    }

    /// What clients hold of those of whom nothing is said.
    pub fn set_clients_hold_max(&self, bytes: u64) {
        let unsaid = self.logins.values().flat_map(|login| login.payers.iter()).filter(|payer| payer.most.is_none());
        unsaid.for_each(|payer| payer.holdings.set_most(bytes));
    }

    /// What clients hold for whom somebody answers.
    pub fn held_by_clients(&self) -> Held {
        let payers = self.logins.values().filter_map(|login| login.payers.first());
        let distinct: HashMap<*const Holdings, &Payer> =
            payers.map(|payer| (Arc::as_ptr(&payer.holdings), payer)).collect();
        distinct.values().map(|payer| payer.holdings.held()).fold(Held::default(), Held::plus)
    }

    /// Whether nobody ever said who may do what, so that `default` is as open as it was made.
    pub fn is_unconfigured(&self) -> bool {
        let directory = self.state.directory();
        directory.len() == 1 && directory.get(b"default").is_some_and(|user| user.nopass && user.revision == 0)
    }

    /// The login a new connection begins with: `default`, if it is on and needs no password.
    pub fn anonymous(&self) -> Option<Login> {
        let login = self.login(b"default")?;
        (login.user.enabled && login.user.nopass).then(|| login.clone())
    }

    /// The login of a session, as of this view: `None` if the user is gone, was made anew, is off, or a way to log in
    /// was withdrawn since, so that the session must end. A second password beside the first withdraws nothing.
    pub fn renew(&self, held: &User) -> Option<Login> {
        let login = self.login(held.name.as_bytes())?;
        let same = login.user.created == held.created && login.user.withdrawn_revision == held.withdrawn_revision;
        (same && login.user.enabled).then(|| login.clone())
    }
}

/// What an answer waits for whose user wants it confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Surety {
    /// The reign in which it was given: what was written in it.
    pub reign: Epoch,
    /// Too few were in sync for anything to be written: it tells of what others wrote, which those in sync must have, however
    /// few they are.
    pub few: bool,
}

impl Surety {
    /// Of a write.
    pub fn of_write(reign: Epoch) -> Surety {
        Surety { reign, few: false }
    }
}

/// How many members must be in sync for a write to be confirmed: as set, or else more than half of those that have copies.
fn min_in_sync(state: &State, group: &ShardGroup) -> usize {
    let set = state.setting(MIN_IN_SYNC).and_then(|value| value.parse().ok()).filter(|value| *value > 0);
    set.unwrap_or_else(|| group.majority())
}

/// `earlier`: what it was before, for what it did stays with it.
fn compile(
    user: &Arc<User>,
    tenant: Option<(&Arc<Tenant>, Fence)>,
    tenancy: &Tenancy,
    (table, terms): (&Table, Terms),
    earlier: Option<&Login>,
) -> Login {
    let (tenant, fence) = tenant.unzip();
    let mut policy = Policy::compile_within(user, table, terms.walls, fence.as_ref());
    if fence.is_none() {
        policy.report_outside(tenancy.iter().flat_map(|tenant| tenant.prefixes.iter().map(Vec::as_slice)));
    }
    if let Some(tenant) = tenant.filter(|_| user.role == Role::TenantAdmin) {
        policy.administer(tenant.users.iter().map(Vec::as_slice));
    }
    let policy = Arc::new(policy);
    let quorum = user.acknowledge.map_or(terms.quorum, |how| how == Acknowledge::Quorum);
    // Who is confined is told what is counted of it, with limits and without.
    let counted = policy.is_confined() && tenant.is_none();
    let own = (counted || !user.limits.is_empty()).then(|| {
        let same = earlier.filter(|login| login.user.created == user.created).and_then(|login| login.own.as_ref());
        let account = same.map_or_else(|| Arc::new(Account::new(terms.threads)), |own| Arc::clone(&own.account));
        Arc::new(Allowance { limits: Limits::of_user(&user.limits), account })
    });
    let tenant = tenant.cloned();
    let payers = payers(tenant.as_deref(), own.as_deref(), policy.is_confined());
    Login::new(Arc::clone(user), policy, quorum, tenant, own).paid_by(payers)
}

/// Who answers for what clients of a user hold: its tenant, and itself if it is confined without one, or has that limit.
fn payers(tenant: Option<&Tenant>, own: Option<&Allowance>, confined: bool) -> Arc<[Payer]> {
    let own_most = own.and_then(|own| own.limits.clients_hold);
    let of_own = |own: &Allowance| Payer { holdings: Arc::clone(&own.account.holdings), most: own_most };
    if let Some(tenant) = tenant {
        let first = Payer { holdings: Arc::clone(&tenant.account.holdings), most: tenant.limits.clients_hold };
        return [first].into_iter().chain(own.filter(|_| own_most.is_some()).map(of_own)).collect();
    }
    own.filter(|_| confined || own_most.is_some()).map(of_own).into_iter().collect()
}

/// 40 hex digits for a node, as Redis Cluster clients expect an id.
pub fn node_id_hex(state: &State, id: NodeId) -> String {
    let cluster = state.cluster_id().map_or([0; 16], |cluster| cluster.0);
    let cluster: String = cluster.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{cluster}{:016x}", id.0)
}

fn topology(state: &State, me: NodeId) -> Topology {
    let serves = |id: NodeId, group: &ShardGroup| group.primary.is_some_and(|primary| primary.node == id);
    let has_copy = |id: NodeId, group: &ShardGroup| group.in_sync.iter().any(|member| member.node == id);
    let nodes = state.nodes().values().map(|node| {
        let (host, port) = node.addresses.client.rsplit_once(':').unwrap_or((node.addresses.client.as_str(), "0"));
        TopologyNode {
            id: node_id_hex(state, node.id),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().unwrap_or(0),
            bus_port: node.addresses.peer.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0),
            primary: state.groups().values().any(|group| is_served(state, group) && serves(node.id, group)),
            in_sync: !state.groups().is_empty() && state.groups().values().all(|group| has_copy(node.id, group)),
            myself: node.id == me,
        }
    });
    let shards = state.groups().values().map(|group| TopologyShard {
        // No node has such an id: the first one is numbered 1, and there will never be that many.
        id: node_id_hex(state, NodeId(if group.id == GroupId(0) { 0 } else { u64::MAX - u64::from(group.id.0) })),
        slots: group.slots.clone(),
        epoch: group.epoch.0,
        primary: state.nodes().keys().position(|id| is_served(state, group) && serves(*id, group)),
    });
    Topology { nodes: nodes.collect(), shards: shards.collect() }
}

/// Whether the process that is to serve the group is one that is.
fn is_served(state: &State, group: &ShardGroup) -> bool {
    group.primary.is_some_and(|primary| state.is_current(primary))
}

/// The place the current view is published in.
pub struct ViewCell {
    generation: AtomicU64,
    current: Mutex<Arc<View>>,
    published: Notify,
}

impl ViewCell {
    /// Begins with `view`.
    pub fn new(view: View) -> ViewCell {
        ViewCell { generation: AtomicU64::new(1), current: Mutex::new(Arc::new(view)), published: Notify::new() }
    }

    /// A number that changes whenever the view does.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The current view and its number. The number may be older than the view, never newer: at worst a session looks
    /// twice.
    pub fn load(&self) -> (u64, Arc<View>) {
        let generation = self.generation();
        (generation, Arc::clone(&self.current.lock()))
    }

    /// Publishes a newer view.
    pub fn publish(&self, view: Arc<View>) {
        *self.current.lock() = view;
        self.generation.fetch_add(1, Ordering::Release);
        self.published.notify_waiters();
    }

    /// Returns when a view was published after the one of this number.
    pub async fn newer_than(&self, generation: u64) {
        loop {
            let mut published = std::pin::pin!(self.published.notified());
            published.as_mut().enable();
            if self.generation() != generation {
                return;
            }
            published.await;
        }
    }
}
