//! Admission: every check a request passes before it may run, in one function and one order.
//!
//! ```text
//!   logged in? ─► command, keys, channels, database allowed? ─► data served here? ─► memory left? ─► Admitted
//!                                                                └─ served elsewhere: Refusal::Elsewhere, or Moved
//! ```
//! An [`Admitted`] can be made nowhere else, and nothing runs without one. The name and the number of arguments were
//! settled before by the command table. This file refuses; it runs nothing.

use keyward_acl::{ChannelUse, CommandId, DatabaseUse, Denial, ErrorDetail, KeyAccess, KeyUse, Request};
use keyward_engine::command::{ChannelRule, Flags, Home, KeyRule, Run};
use keyward_engine::keyspace::TenantId;
use keyward_engine::reply::Protocol;
use keyward_engine::session::{Login, Session};
use keyward_engine::slot;
use keyward_engine::table::{Row, Table};
use keyward_engine::tenancy::Tenancy;
use std::fmt;

/// What the gate must know about the node; read once per batch.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// This node serves the data.
    pub primary: bool,
    /// It does not, and has a copy with every acknowledged write.
    pub reads_copy: bool,
    /// Clients are told where the data is, instead of having their commands forwarded.
    pub redirects: bool,
    /// The data is still being loaded.
    pub loading: bool,
    /// Whether there is memory left for whoever asks.
    pub memory: Memory,
    /// A slow script has the node to itself.
    pub busy: bool,
    /// Fewer nodes are in sync than a confirmed write needs.
    pub few_in_sync: bool,
    /// Fewer replicas are at hand than `min-replicas-to-write` asks for.
    pub few_replicas: bool,
    /// Whether this node may serve at all.
    pub lease: LeaseState,
    /// How much a denial tells.
    pub detail: ErrorDetail,
    /// What a confined user may name in one request.
    pub names_max: usize,
}

impl Conditions {
    /// Nothing is in the way.
    pub fn fair(detail: ErrorDetail) -> Conditions {
        Conditions {
            primary: true,
            reads_copy: false,
            redirects: false,
            loading: false,
            memory: Memory::Enough,
            busy: false,
            few_in_sync: false,
            few_replicas: false,
            lease: LeaseState::InForce,
            detail,
            names_max: usize::MAX,
        }
    }

    /// Whether too few other nodes would have this client's writes.
    pub fn too_few(&self, session: &Session) -> bool {
        self.few_replicas || self.few_in_sync && session.wants_quorum()
    }
}

/// Whether there is memory for a command that needs some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// There is.
    Enough,
    /// `maxmemory` is reached.
    Full,
    /// What this owner may use is used up.
    OfTenant(TenantId),
}

/// What the lease lets this node do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Serve.
    InForce,
    /// The rules may be out of date: read at most.
    ReadsOnly,
    /// The rules may be out of date: tell who asks what is the matter.
    Over,
}

/// A request that may run now, with the keys that were checked.
pub struct Admitted<'a, 'b> {
    row: &'static Row,
    argv: &'a [&'a [u8]],
    keys: &'b [KeyUse<'a>],
    reported: Option<Box<Denial>>,
}

impl<'a, 'b> Admitted<'a, 'b> {
    /// Why it would not run, if the user were not only watched (`mode=report`).
    pub fn reported(&self) -> Option<&Denial> {
        self.reported.as_deref()
    }

    /// The command.
    #[inline]
    pub fn row(&self) -> &'static Row {
        self.row
    }

    /// The request, name first.
    #[inline]
    pub fn argv(&self) -> &'a [&'a [u8]] {
        self.argv
    }

    /// The keys it names: those that were checked.
    #[inline]
    pub fn keys(&self) -> &'b [KeyUse<'a>] {
        self.keys
    }
}

/// Why a request does not run.
pub enum Refusal {
    /// Nobody is logged in.
    NotAuthenticated,
    /// `HELLO` without a login says more.
    HelloNotAuthenticated,
    /// The rules forbid it.
    Denied(Box<Denial>),
    /// This option reads keys whose names nobody knows beforehand, and the user may not read every key.
    ReadsEveryKey(&'static str, &'static Row),
    /// The node has not heard from the leader for too long.
    LeaseOver,
    /// Whoever set its tenant up wants its keys kept; the command's name.
    KeepsData(&'static str),
    /// Another node serves the data.
    Elsewhere,
    /// Another node serves this slot, and the client is to go there.
    Moved(u16),
    /// The data is still being loaded.
    Loading,
    /// There is no memory left and the command may need some.
    MemoryFull(Memory),
    /// A slow script has the node to itself.
    Busy,
    /// Too few nodes would have the write.
    FewReplicas,
    /// It names so many keys, or so much else, and may name so many.
    ManyNames(usize, usize),
    /// In RESP2 nobody could tell replies from messages; the command's name.
    Subscribed(&'static str),
}

impl Refusal {
    /// The reply, without the leading `-`.
    pub fn text(&self, detail: ErrorDetail) -> String {
        match self {
            Refusal::NotAuthenticated => "NOAUTH Authentication required.".to_owned(),
            Refusal::HelloNotAuthenticated => HELLO_NOAUTH.to_owned(),
            Refusal::Denied(denial) => denial.to_text(detail),
            Refusal::ReadsEveryKey(option, row) => {
                let command = row.command.name.trim_end_matches("_RO");
                format!("ERR {option} option of {command} denied due to insufficient ACL permissions.")
            }
            Refusal::KeepsData(name) => {
                format!("NOPERM {name} is refused to users of this tenant: its setting flush says deny")
            }
            Refusal::LeaseOver => LEASE_OVER.to_owned(),
            Refusal::Elsewhere | Refusal::Moved(_) => "CLUSTERDOWN the data is served by another node".to_owned(),
            Refusal::Loading => "LOADING Keyward is loading the dataset in memory".to_owned(),
            Refusal::Busy => BUSY.to_owned(),
            Refusal::ManyNames(count, most) => {
                format!("ERR {count} names in one request are more than request-names-max ({most})")
            }
            Refusal::FewReplicas => "NOREPLICAS Not enough good replicas to write.".to_owned(),
            Refusal::Subscribed(name) => format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
            ),
            Refusal::MemoryFull(_) => MEMORY_FULL.to_owned(),
        }
    }
}

impl Refusal {
    /// The same, with the name of the tenant whose memory is used up.
    pub fn explained(&self, detail: ErrorDetail, tenancy: &Tenancy) -> String {
        match self {
            Refusal::MemoryFull(Memory::OfTenant(owner)) if detail == ErrorDetail::Full => {
                let tenant = tenancy.get(*owner);
                let name = tenant.map_or("default", |tenant| &tenant.name);
                match tenant.filter(|tenant| tenant.has_too_many_keys()) {
                    Some(of) => format!("OOM command not allowed when keys > {} (tenant {name})", of.limits.keys),
                    None => format!("{} (tenant {name})", MEMORY_FULL.trim_end_matches('.')),
                }
            }
            _ => self.text(detail),
        }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(ErrorDetail::Redis))
    }
}

const BUSY: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";

const MEMORY_FULL: &str = "OOM command not allowed when used memory > 'maxmemory'.";

const LEASE_OVER: &str = "CLUSTERDOWN this node is not in contact with the control plane, so what users may do may have \
    changed: it serves nobody until it is";

const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
    <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
    the same time";

/// Reusable memory for the keys of one request.
#[derive(Default)]
pub struct KeyBuffer<'a> {
    keys: Vec<KeyUse<'a>>,
}

impl<'a> KeyBuffer<'a> {
    /// Empty.
    pub fn new() -> KeyBuffer<'a> {
        KeyBuffer { keys: Vec::with_capacity(4) }
    }

    /// The keys a request may make or let grow.
    pub fn written(
        &mut self,
        table: &'static Table,
        row: &'static Row,
        argv: &'a [&'a [u8]],
    ) -> impl Iterator<Item = &'a [u8]> {
        self.keys.clear();
        table.keys_of(row, argv, &mut self.keys);
        self.keys.iter().filter(|named| named.access.write).map(|named| named.key)
    }
}

/// Checks a request of `session`. The buffer receives the keys it names. Always inlined: what it answers is several words,
/// which a call would write and read again at once.
#[inline(always)]
pub fn admit<'a, 'b>(
    table: &'static Table,
    row: &'static Row,
    argv: &'a [&'a [u8]],
    session: &Session,
    conditions: &Conditions,
    buffer: &'b mut KeyBuffer<'a>,
) -> Result<Admitted<'a, 'b>, Refusal> {
    buffer.keys.clear();
    if !conditions.primary && travels(row, argv, session, conditions) {
        return Err(Refusal::Elsewhere);
    }
    table.keys_of(row, argv, &mut buffer.keys);
    let mut reported = None;
    match &session.login {
        Some(login) if login.policy.is_unrestricted() => {}
        Some(login) => {
            if argv.len() > conditions.names_max {
                names_few(row, argv, login, &buffer.keys, conditions.names_max)?;
            }
            if !holds_simple(row, login, &buffer.keys) {
                reported = permitted(table, row, argv, session, login, &buffer.keys)?;
            }
            if let Some(looks_further) = row.command.extra.looks_further
                && let Some(option) = looks_further(argv)
            {
                reads_every_key(row, argv, login, &buffer.keys, option)?;
            }
        }
        None if row.command.flags.has(Flags::NO_AUTH) => {}
        None => return Err(Refusal::NotAuthenticated),
    }
    let flags = row.command.flags;
    if conditions.lease != LeaseState::InForce && !may_run_without_lease(row, flags, conditions.lease) {
        return Err(Refusal::LeaseOver);
    }
    if session.subscribed && session.protocol == Protocol::Resp2 && !is_allowed_while_subscribed(row) {
        return Err(Refusal::Subscribed(row.full_name));
    }
    if conditions.busy && !flags.has(Flags::ALLOW_BUSY) {
        return Err(Refusal::Busy);
    }
    if !conditions.primary && !may_read_copy(row, argv, session, conditions) {
        match row.command.home(argv) {
            Home::Anywhere => {}
            // What names no key is about no slot: it is never redirected. See `lead` for what cluster clients ask every primary.
            Home::Data | Home::DataForGood if !conditions.redirects || buffer.keys.is_empty() => {
                return Err(Refusal::Elsewhere);
            }
            Home::Data | Home::DataForGood => return Err(Refusal::Moved(slot::of_key(buffer.keys[0].key))),
        }
    }
    if conditions.loading && matches!(row.run, Run::OnKeys(_) | Run::OnEveryKey(_) | Run::AskOwner(_)) {
        return Err(Refusal::Loading);
    }
    if conditions.memory != Memory::Enough && flags.has(Flags::DENYOOM) {
        return Err(Refusal::MemoryFull(conditions.memory));
    }
    if conditions.too_few(session)
        && flags.has(Flags::WRITE)
        && matches!(row.run, Run::OnKeys(_) | Run::OnEveryKey(_) | Run::AskOwner(_))
    {
        return Err(Refusal::FewReplicas);
    }
    Ok(Admitted { row, argv, keys: &buffer.keys, reported })
}

/// Whether nothing here speaks against a command of another node's data: then it is checked there, and only there.
#[inline]
fn travels(row: &'static Row, argv: &[&[u8]], session: &Session, conditions: &Conditions) -> bool {
    // What is only noted is noted there, once.
    let passes = |login: &Login| login.policy.is_unrestricted() || login.policy.only_reports().is_some();
    let unrestricted = session.login.as_ref().is_some_and(passes);
    let plain = !session.subscribed && !session.readonly && !conditions.busy && !conditions.redirects;
    let plain = plain && conditions.lease == LeaseState::InForce;
    unrestricted && plain && conditions.lease == LeaseState::InForce && row.command.home(argv) != Home::Anywhere
}

/// Whether the client accepts what a copy says, and there is one here. A walk over all keys goes on where it began.
#[inline]
fn may_read_copy(row: &Row, argv: &[&[u8]], session: &Session, conditions: &Conditions) -> bool {
    session.readonly
        && conditions.reads_copy
        && matches!(row.run, Run::OnKeys(_))
        && row.command.flags.has(Flags::READONLY)
        && row.command.home(argv) == Home::Data
}

/// What tells clients and operators how things are, and shows no key.
#[cold]
fn may_run_without_lease(row: &Row, flags: Flags, lease: LeaseState) -> bool {
    let tells =
        matches!(row.full_name, "ping" | "hello" | "auth" | "quit" | "info") || row.full_name.starts_with("cluster");
    tells || lease == LeaseState::ReadsOnly && flags.has(Flags::READONLY)
}

fn is_allowed_while_subscribed(row: &Row) -> bool {
    let listens = row.command.flags.has(Flags::PUBSUB) && row.full_name.ends_with("subscribe");
    listens || matches!(row.full_name, "ping" | "quit" | "reset")
}

/// Whoever is confined holds others up by no more than so many names: keys, or all there is where a command has none.
#[cold]
fn names_few(row: &Row, argv: &[&[u8]], login: &Login, keys: &[KeyUse<'_>], most: usize) -> Result<(), Refusal> {
    let names = if matches!(row.command.keys, KeyRule::None) { argv.len() - 1 } else { keys.len() };
    if names > most && login.policy.is_confined() { Err(Refusal::ManyNames(names, most)) } else { Ok(()) }
}

/// The everyday case: keys, no channel, no rule about databases. No is not final: [`permitted`] decides.
#[inline(always)]
fn holds_simple(row: &'static Row, login: &Login, keys: &[KeyUse<'_>]) -> bool {
    match keys {
        [] => false,
        [only] => login.policy.allows_simple(row.id, only.key, only.access),
        several => {
            matches!(row.command.extra.channels, ChannelRule::None) && login.policy.allows_simple_keys(row.id, several)
        }
    }
}

/// Whether the rules of the session's user allow it; or would not, and are only to say so.
fn permitted(
    table: &'static Table,
    row: &'static Row,
    argv: &[&[u8]],
    session: &Session,
    login: &Login,
    keys: &[KeyUse<'_>],
) -> Result<Option<Box<Denial>>, Refusal> {
    let mut channels: Vec<ChannelUse<'_>> = Vec::new();
    table.channels_of(row, argv, &mut channels);
    let mut databases: Vec<DatabaseUse> = Vec::new();
    table.databases_of(row, argv, session.database, &mut databases);
    let request = Request { command: row.id as CommandId, argv, keys, channels: &channels, databases: &databases };
    match login.policy.check(&request) {
        Ok(()) if keeps_data(row, login) => Err(Refusal::KeepsData(row.command.name)),
        Ok(()) => Ok(None),
        Err(denial) if login.policy.only_reports().is_some_and(|widest| widest.check(&request).is_ok()) => {
            if keeps_data(row, login) {
                return Err(Refusal::KeepsData(row.command.name));
            }
            Ok(Some(Box::new(denial)))
        }
        Err(denial) => Err(Refusal::Denied(Box::new(denial))),
    }
}

/// Whether it would throw away what its tenant is to keep. No user of a tenant is unrestricted, so each comes by here.
fn keeps_data(row: &Row, login: &Login) -> bool {
    matches!(row.full_name, "flushall" | "flushdb")
        && login.tenant.as_ref().is_some_and(|tenant| tenant.limits.keeps_data)
}

/// Whether one set of the user's permissions allows the request and the reading of every key.
#[cold]
fn reads_every_key(
    row: &'static Row,
    argv: &[&[u8]],
    login: &Login,
    keys: &[KeyUse<'_>],
    option: &'static str,
) -> Result<(), Refusal> {
    let request = Request { command: row.id as CommandId, argv, keys, channels: &[], databases: &[] };
    let policy = login.policy.only_reports().unwrap_or(&login.policy);
    let allowed = policy.allows_with_every_key(&request, KeyAccess { read: true, write: false });
    if allowed { Ok(()) } else { Err(Refusal::ReadsEveryKey(option, row)) }
}
