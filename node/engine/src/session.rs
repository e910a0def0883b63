//! What a connection remembers, and what it may look at freely.
//!
//! Both are plain data: a session has never heard of a socket, and the [`Surroundings`] are a snapshot the node lends
//! for one call.

use crate::account::{Account, Allowance};
use crate::holdings::Holdings;
use crate::keyspace::{SpaceId, TenantId, UnixMillis};
use crate::reply::Protocol;
use crate::scope::Reach;
use crate::table::{Row, Table};
use crate::tenancy::{Limits, Tenancy, Tenant};
use keyward_acl::{Directory, Policy, User, Walls};
use std::sync::Arc;

/// Who a connection is logged in as.
#[derive(Clone)]
pub struct Login {
    /// The user as of the policy version the session last saw.
    pub user: Arc<User>,
    /// Its rules, compiled for this process; within its tenant, if it has one.
    pub policy: Arc<Policy>,
    /// Its answers wait until every node in sync has what they tell of.
    pub quorum: bool,
    /// The tenant it belongs to.
    pub tenant: Option<Arc<Tenant>>,
    /// Limits of its own, within those of its tenant.
    pub own: Option<Arc<Allowance>>,
    /// Who answers for what its clients hold besides keys: its tenant, or itself if it is confined; and itself again if it has
    /// a limit within its tenant's. Nobody answers for others.
    pub payers: Arc<[Payer]>,
    strictest: Strictest,
}

/// Who answers for what clients hold.
#[derive(Clone, Debug)]
pub struct Payer {
    /// What all of them hold.
    pub holdings: Arc<Holdings>,
    /// What they may hold, in bytes; 0: as much as they like; `None`: as the node says.
    pub most: Option<u64>,
}

/// Those limits of a login that every batch of requests asks for: the stricter ones of its user and its tenant.
#[derive(Clone, Copy, Default)]
pub struct Strictest {
    /// Somebody's account is charged.
    pub counts: bool,
    /// Some rate is limited.
    pub has_rates: bool,
    /// Bytes of one argument of a write; 0: no bound.
    pub value: u64,
    /// How long an answer may be.
    pub answer: AnswerBound,
}

/// What bounds an answer, in bytes; 0: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AnswerBound {
    /// Said of answers: `output-bytes`.
    pub said: u64,
    /// What all clients that share with it may hold, as was said: `client-bytes`.
    pub held: u64,
    /// They may hold what the node says.
    pub held_by_default: bool,
}

impl Login {
    /// Of a user with these rules, its tenant and limits.
    pub fn new(
        user: Arc<User>,
        policy: Arc<Policy>,
        quorum: bool,
        tenant: Option<Arc<Tenant>>,
        own: Option<Arc<Allowance>>,
    ) -> Login {
        let (payers, strictest) = (Arc::default(), Strictest::default());
        let login = Login { user, policy, quorum, tenant, own, payers, strictest };
        let strictest = Strictest {
            counts: login.tenant.is_some() || login.own.is_some(),
            has_rates: login.accounts().any(|(limits, _)| limits.has_rates()),
            value: login.limit(|limits| limits.value),
            answer: AnswerBound { said: login.limit(|limits| limits.output), ..AnswerBound::default() },
        };
        Login { strictest, ..login }
    }

    /// The same, where these answer for what its clients hold.
    #[must_use]
    pub fn paid_by(self, payers: Arc<[Payer]>) -> Login {
        let answer = AnswerBound {
            held: payers.iter().filter_map(|payer| payer.most).filter(|most| *most > 0).min().unwrap_or(0),
            held_by_default: payers.iter().any(|payer| payer.most.is_none()),
            ..self.strictest.answer
        };
        Login { payers, strictest: Strictest { answer, ..self.strictest }, ..self }
    }

    /// What is asked of it most often.
    #[inline]
    pub fn strictest(&self) -> &Strictest {
        &self.strictest
    }

    /// Everybody whose limits it is held against: its tenant, itself.
    pub fn accounts(&self) -> impl Iterator<Item = (&Limits, &Arc<Account>)> {
        let tenant = self.tenant.as_deref().map(|tenant| (&tenant.limits, &tenant.account));
        tenant.into_iter().chain(self.own.as_deref().map(|own| (&own.limits, &own.account)))
    }

    /// Does something with each of them, in the same order.
    #[inline(always)]
    pub fn for_accounts(&self, mut with: impl FnMut(&Limits, &Account)) {
        if let Some(tenant) = &self.tenant {
            with(&tenant.limits, &tenant.account);
        }
        if let Some(own) = &self.own {
            with(&own.limits, &own.account);
        }
    }

    /// How far the user reaches, whatever the command.
    pub fn reach(&self) -> Reach {
        Reach::of_user(&self.policy, self.tenant.as_ref().map_or(TenantId::SHARED, |tenant| tenant.id))
    }

    /// The stricter of its limits of one kind; 0: there is none.
    pub fn limit(&self, of: impl Fn(&Limits) -> u64) -> u64 {
        self.accounts().map(|(limits, _)| of(limits)).filter(|limit| *limit > 0).min().unwrap_or(0)
    }

    /// Whose limit that is, for people.
    pub fn whose(&self, of: impl Fn(&Limits) -> u64) -> String {
        let limit = self.limit(&of);
        match &self.tenant {
            Some(tenant) if of(&tenant.limits) == limit => format!("tenant {}", tenant.name),
            _ => format!("user {}", self.user.name.as_bytes().escape_ascii()),
        }
    }

    fn payer_named(&self, payer: usize) -> String {
        match &self.tenant {
            Some(tenant) if payer == 0 => format!("tenant {}", tenant.name),
            _ => format!("user {}", self.user.name.as_bytes().escape_ascii()),
        }
    }

    /// Whose `client-bytes` bound its answers, for people: the fewest that were said, or else those that hold by default.
    pub fn whose_holdings(&self) -> String {
        let said = |(at, payer): (usize, &Payer)| Some((payer.most.filter(|most| *most > 0)?, at));
        self.payer_named(self.payers.iter().enumerate().filter_map(said).min().map_or(0, |(_, at)| at))
    }

    /// What a request is told that would make its clients hold more than this one of its payers answers for.
    pub fn holds_too_much(&self, payer: usize) -> String {
        let most = self.payers.get(payer).map_or(0, |payer| payer.holdings.held().most);
        let whose = self.payer_named(payer);
        format!("OOM command not allowed when clients hold more than client-bytes: {whose} has {most} on this node")
    }
}

/// What a copy of the data holds (`REPLCONF rdb-filter-only`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CopyHolds {
    /// Keys and functions.
    #[default]
    Everything,
    /// Functions alone.
    Functions,
    /// Neither.
    Nothing,
}

/// Whether answers are sent (`CLIENT REPLY`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplyMode {
    /// Every answer is sent.
    #[default]
    On,
    /// No answer is sent.
    Off,
    /// The answer to the next command is not sent.
    SkipNext,
}

/// The commands between MULTI and EXEC.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// In order, each as it came.
    pub requests: Vec<Vec<Vec<u8>>>,
    /// Bytes of all arguments.
    pub bytes: usize,
    /// A command was refused while it was queued: EXEC will run none.
    pub broken: bool,
}

/// What a connection remembers.
pub struct Session {
    /// Unique in the cluster, growing on a node (`CLIENT ID`).
    pub id: u64,
    /// The client's address, `host:port`.
    pub address: String,
    /// Our own end, `host:port`.
    pub local_address: String,
    /// When it connected.
    pub created_at: UnixMillis,
    /// When its last command began.
    pub active_at: UnixMillis,
    /// The full name of its last command, empty before the first.
    pub last_command: &'static str,
    /// How many commands it sent.
    pub commands: u64,
    /// `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub library_name: Vec<u8>,
    /// `CLIENT SETINFO LIB-VER`.
    pub library_version: Vec<u8>,
    /// RESP2 or RESP3.
    pub protocol: Protocol,
    /// The tenant whose keys it sees.
    pub tenant: TenantId,
    /// `SELECT`.
    pub database: u32,
    /// Who it is; `None` before a login.
    pub login: Option<Login>,
    /// `CLIENT REPLY`.
    pub replies: ReplyMode,
    /// `CLIENT NO-EVICT`.
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH`: commands do not make keys look used.
    pub no_touch: bool,
    /// It is told elsewhere what others change: what it changes itself is signed, so that this can be left out there.
    pub signs: bool,
    /// `READONLY`: replicas may answer what only reads.
    pub readonly: bool,
    /// `REPLCONF rdb-only 1`: `SYNC` may send it a copy of the data.
    pub wants_copy: bool,
    /// `REPLCONF rdb-filter-only …`: what such a copy holds.
    pub copy_holds: CopyHolds,
    /// Begun by MULTI.
    pub transaction: Option<Transaction>,
    /// It listens to a channel.
    pub subscribed: bool,
    /// The connection ends once everything answered so far is sent.
    pub closing: bool,
    /// Since when it is not read from, because its user is ahead of a rate; in nanoseconds since any fixed moment.
    pub held_since: Option<i64>,
    /// Bytes of requests that were refused for a rate since it was held last.
    pub refused_bytes: usize,
}

impl Session {
    /// A fresh connection.
    pub fn new(id: u64, address: String, local_address: String, now: UnixMillis, login: Option<Login>) -> Session {
        let mut session = Session {
            id,
            address,
            local_address,
            created_at: now,
            active_at: now,
            last_command: "",
            commands: 0,
            name: Vec::new(),
            library_name: Vec::new(),
            library_version: Vec::new(),
            protocol: Protocol::Resp2,
            tenant: TenantId::SHARED,
            database: 0,
            login: None,
            replies: ReplyMode::On,
            no_evict: false,
            no_touch: false,
            signs: false,
            readonly: false,
            wants_copy: false,
            copy_holds: CopyHolds::Everything,
            transaction: None,
            subscribed: false,
            closing: false,
            held_since: None,
            refused_bytes: 0,
        };
        session.log_in(login);
        session
    }

    /// From now on it is this user, in the keyspace of its tenant; or nobody.
    pub fn log_in(&mut self, login: Option<Login>) {
        let tenant = login.as_ref().and_then(|login| login.tenant.as_ref());
        self.tenant = tenant.map_or(TenantId::SHARED, |tenant| tenant.id);
        self.login = login;
    }

    /// The tenant its user belongs to.
    pub fn owner(&self) -> TenantId {
        let tenant = self.login.as_ref().and_then(|login| login.tenant.as_ref());
        tenant.map_or(TenantId::SHARED, |tenant| tenant.id)
    }

    /// How far a request reaches beyond its arguments.
    #[inline]
    pub fn reach(&self, row: &Row) -> Reach {
        Reach::of(self.login.as_ref().map(|login| &login.policy), self.owner(), row.id, row.command.scope)
    }

    /// How far its user reaches, whatever the command: for what lasts.
    pub fn lasting_reach(&self) -> Reach {
        self.login.as_ref().map_or(Reach::Nothing, Login::reach)
    }

    /// The user's name, `default` before a login (as `CLIENT LIST` shows it).
    pub fn user_name(&self) -> &[u8] {
        self.login.as_ref().map_or(b"default", |login| login.user.name.as_bytes())
    }

    /// Whether its answers wait until every node in sync has what they tell of.
    #[inline]
    pub fn wants_quorum(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.quorum)
    }

    /// Whose keys it sees, in which database.
    #[inline]
    pub fn space(&self) -> SpaceId {
        SpaceId { tenant: self.tenant, database: self.database }
    }

    /// A copy of what matters to a request that is run later, elsewhere, for this client.
    pub fn for_later(&self) -> Session {
        let mut copy = Session::new(
            self.id,
            self.address.clone(),
            self.local_address.clone(),
            self.created_at,
            self.login.clone(),
        );
        copy.name.clone_from(&self.name);
        copy.library_name.clone_from(&self.library_name);
        copy.library_version.clone_from(&self.library_version);
        copy.last_command = self.last_command;
        copy.protocol = self.protocol;
        copy.tenant = self.tenant;
        copy.database = self.database;
        copy.no_touch = self.no_touch;
        copy.signs = self.signs;
        copy
    }

    /// Forgets what `RESET` forgets: everything but who connected when. The login is set by the caller.
    pub fn reset(&mut self) {
        self.name.clear();
        self.protocol = Protocol::Resp2;
        self.database = 0;
        self.replies = ReplyMode::On;
        self.no_evict = false;
        self.no_touch = false;
        self.signs = false;
        self.readonly = false;
        self.wants_copy = false;
        self.copy_holds = CopyHolds::Everything;
        self.transaction = None;
    }
}

/// What a handler may look at while it decides: a snapshot, lent for one call.
pub struct Surroundings<'a> {
    /// Every command.
    pub table: &'a Table,
    /// What of that the request may find; `users` asks it.
    pub reach: Reach,
    /// Whether confined users are kept within walls.
    pub walls: Walls,
    /// Every user.
    pub directory: &'a Directory,
    /// The index of the last change applied here.
    pub policy_version: u64,
    /// The wall clock, in microseconds since 1970.
    pub now_us: i64,
    /// Gives fresh random bytes; costs a call to the operating system.
    pub random: fn() -> [u8; 64],
    /// Every tenant.
    pub tenancy: &'a Tenancy,
    /// How many databases there are.
    pub databases: u32,
    /// The longest string value, in bytes (`proto-max-bulk-len`).
    pub value_bytes_max: u64,
    /// The longest pattern, in bytes (`pattern-bytes-max`).
    pub pattern_bytes_max: usize,
    /// New users may use every channel (`acl-pubsub-default allchannels`).
    pub new_users_get_channels: bool,
    /// The cluster as this node sees it, for `CLUSTER` and `ROLE`.
    pub topology: &'a Topology,
    /// This node may serve: it is in contact with the control plane, or serves without.
    pub serves: bool,
    /// Where the stream of effects stands here.
    pub position: u64,
}

impl<'a> Surroundings<'a> {
    /// The users that exist for whoever asks, by name.
    pub fn users(&self) -> impl Iterator<Item = &'a Arc<User>> + '_ {
        self.directory.iter().filter(|user| self.reach.sees_user(user.name.as_bytes()))
    }

    /// The user of this name, if it exists for whoever asks.
    pub fn user(&self, name: &[u8]) -> Option<&'a Arc<User>> {
        self.directory.get(name).filter(|_| self.reach.sees_user(name))
    }
}

/// A node of the cluster, as clients are told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyNode {
    /// 40 hex digits, stable for the node's life.
    pub id: String,
    /// Where clients reach it.
    pub host: String,
    /// Where clients reach it.
    pub port: u16,
    /// Where other nodes reach it.
    pub bus_port: u16,
    /// Serves data of this cluster.
    pub primary: bool,
    /// Has a copy of all data with every acknowledged write.
    pub in_sync: bool,
    /// Is the node that answers.
    pub myself: bool,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// Every registered node.
    pub nodes: Vec<TopologyNode>,
    /// Every shard group, in the order of its slots.
    pub shards: Vec<TopologyShard>,
}

/// A shard group, as clients are told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyShard {
    /// 40 hex digits that name it for ever.
    pub id: String,
    /// Its slots, in order: first and last of each range, both included.
    pub slots: Vec<(u16, u16)>,
    /// Its epoch.
    pub epoch: u64,
    /// Who serves it: a place among the nodes.
    pub primary: Option<usize>,
}

impl Topology {
    /// The node that serves a slot.
    pub fn primary_of(&self, slot: u16) -> Option<&TopologyNode> {
        let holds = |shard: &&TopologyShard| shard.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
        let shard = self.shards.iter().find(holds)?;
        self.primary_of_shard(shard)
    }

    /// The node that serves a shard group.
    pub fn primary_of_shard(&self, shard: &TopologyShard) -> Option<&TopologyNode> {
        self.nodes.get(shard.primary?)
    }

    /// The shard groups that a node serves.
    pub fn served_by<'t>(&'t self, node: &'t TopologyNode) -> impl Iterator<Item = &'t TopologyShard> {
        self.shards.iter().filter(move |shard| self.primary_of_shard(shard) == Some(node))
    }

    /// The newest epoch of any shard group.
    pub fn epoch(&self) -> u64 {
        self.shards.iter().map(|shard| shard.epoch).max().unwrap_or(0)
    }
}
