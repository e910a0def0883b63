//! Carries out `DEBUG`, where `enable-debug-command` allows it: means of testing, none of them for daily use.
//!
//! What the words mean is said in the engine; here is what needs shards, disks and timers.

use crate::connection::{Connection, Lane};
use crate::gate::{self, KeyBuffer};
use crate::node::Node;
use crate::shards::{Call, CallSpace, Wanted};
use crate::worker::Worker;
use keyward_acl::{KeyAccess, KeyUse};
use keyward_engine::args::Args;
use keyward_engine::asks::{Ask, DebugAsk};
use keyward_engine::command::Run;
use keyward_engine::digest::Digest;
use keyward_engine::events::EventClass;
use keyward_engine::keyspace::{SpaceId, TenantId};
use keyward_engine::reply::Reply;
use keyward_engine::session::Session;
use keyward_engine::table::Resolved;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NOT_ALLOWED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run \
    it from a local connection, otherwise you need to set this option in the configuration file, and then restart the \
    server.";

/// A script that sleeps for longer keeps the node from everybody: tests of what a script sees meanwhile need no more.
const SCRIPT_SLEEP_MS_MAX: u64 = 1000;

/// Keys made before other requests get a turn.
const POPULATED_AT_ONCE: u64 = 256;

/// Does what was asked and answers.
pub async fn carry_out(worker: &Worker, connection: &Connection, ask: DebugAsk, reply: &mut Reply) {
    let node = &worker.node;
    if !is_allowed(node, connection) {
        return reply.error(NOT_ALLOWED);
    }
    match ask {
        DebugAsk::Answer(bytes) => reply.raw(&bytes),
        DebugAsk::Sleep { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            reply.ok();
        }
        DebugAsk::Keys(look, names) => on_keys(worker, connection, look, &names, reply),
        DebugAsk::Reload { save, flush, merge } => reload(node, save, flush, merge, reply).await,
        DebugAsk::InScripts(allowed) => {
            node.debug_in_scripts.store(allowed, Ordering::Relaxed);
            reply.ok();
        }
        DebugAsk::ActiveExpiry(on) => {
            node.expiry.set_active(on);
            reply.ok();
        }
        DebugAsk::Digest => reply.simple(&digest(node).to_string()),
        DebugAsk::Recount => match recount(node) {
            found if found.is_empty() => reply.ok(),
            found => reply.error(&format!("ERR {found}")),
        },
        DebugAsk::Populate { count, prefix, bytes } => {
            populate(worker, connection, (count, &prefix, bytes)).await;
            reply.ok();
        }
        DebugAsk::Tables { database } => reply.verbatim(tables(node, database).as_bytes()),
        DebugAsk::Log(line) => {
            tracing::info!(line = %line.escape_ascii(), "DEBUG LOG");
            reply.ok();
        }
        DebugAsk::ChangeReplicationId => reply.ok(),
    }
}

fn is_allowed(node: &Node, connection: &Connection) -> bool {
    match node.config.enable_debug_command {
        crate::config::DebugCommand::No => false,
        crate::config::DebugCommand::Yes => true,
        crate::config::DebugCommand::Local => {
            let address = connection.session.borrow().address.parse::<std::net::SocketAddr>();
            address.is_ok_and(|address| address.ip().to_canonical().is_loopback())
        }
    }
}

/// What `DEBUG` answers a script, where that is switched on (`SET-DISABLE-DENY-SCRIPTS`): what needs nothing but words, and
/// sleep.
pub(crate) fn in_script(
    worker: &Worker,
    session: &Session,
    lane: &Lane,
    resolved: &Resolved<'static>,
    argv: &[&[u8]],
) -> Option<Vec<u8>> {
    let Run::Ask(handler) = resolved.row.run else { return None };
    if resolved.row.full_name != "debug" || !worker.node.debug_in_scripts.load(Ordering::Relaxed) {
        return None;
    }
    let hot = worker.hot();
    let (conditions, mut keys) = (worker.conditions(&lane.view, &hot), KeyBuffer::new());
    gate::admit(worker.node.table, resolved.row, argv, session, &conditions, &mut keys).ok()?;
    match handler(
        session,
        &worker.surroundings(&lane.view, &hot, session.reach(resolved.row)),
        Args::new(argv, resolved.words),
    ) {
        Ok(Ask::Debug(DebugAsk::Answer(bytes))) => Some(bytes),
        Ok(Ask::Debug(DebugAsk::Sleep { ms })) => {
            std::thread::sleep(Duration::from_millis(ms.min(SCRIPT_SLEEP_MS_MAX)));
            Some(b"+OK\r\n".to_vec())
        }
        _ => None,
    }
}

fn on_keys(
    worker: &Worker,
    connection: &Connection,
    look: keyward_engine::asks::DebugKeys,
    names: &[Vec<u8>],
    reply: &mut Reply,
) {
    let (node, hot) = (&worker.node, worker.hot());
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let context = crate::batch::call_context(worker, &hot, &connection.session.borrow(), worker.now_ms());
    let mut shards: Vec<u32> = names.iter().map(|name| node.shards.layout().place(name).shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let looked = node.shards.look(&shards, context, |keys| look(keys, &names, reply));
    if let Err(error) = looked {
        reply.command_error(&error);
    }
}

async fn reload(node: &Arc<Node>, save: bool, flush: bool, merge: bool, reply: &mut Reply) {
    if save && let Err(error) = crate::snapshot::save(node).await {
        return reply.error(&format!("ERR {error}"));
    }
    let has_keys = || (0..node.shards.count()).any(|index| node.shards.with(index, |shard| shard.memory_bytes() > 0));
    if !flush && !merge && (!node.scripts.library_codes().is_empty() || has_keys()) {
        return reply.error("ERR Error trying to load the RDB dump, check server logs: what it holds is there already");
    }
    node.set_loading(true);
    if flush {
        (0..node.shards.count()).for_each(|index| node.shards.with(index, |shard| shard.clear()));
    }
    let loaded = crate::snapshot::load(node).await;
    node.set_loading(false);
    match loaded {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(&format!("ERR {error}")),
    }
}

fn digest(node: &Node) -> Digest {
    let now = crate::node::now_ms();
    let mut sum = Digest::default();
    for index in 0..node.shards.count() {
        node.shards.with(index, |shard| {
            for (SpaceId { database, .. }, space) in shard.spaces() {
                space.for_each(&mut |entry| {
                    if entry.expires_at().is_none_or(|at| at > now) {
                        sum = sum.with(Digest::of_entry(database, entry.key(), &entry.value(), entry.expires_at()));
                    }
                });
            }
        });
    }
    sum
}

/// What is not as it was counted on the way, as sentences. What tenants use is compared as if nobody wrote meanwhile.
fn recount(node: &Node) -> String {
    let (mut found, mut bytes) = (String::new(), BTreeMap::<TenantId, u64>::new());
    for of in node.groups() {
        for index in 0..of.shards.count() {
            of.shards.with(index, |shard| {
                found.push_str(&shard.recount());
                for (id, space) in shard.spaces() {
                    *bytes.entry(id.tenant).or_default() += space.memory_bytes() as u64;
                }
            });
        }
    }
    for tenant in node.views.load().1.tenancy.iter() {
        let (told, counted) = (tenant.gauge.bytes(), bytes.get(&tenant.id).copied().unwrap_or(0));
        if told != counted {
            found.push_str(&format!("tenant {}: {told} bytes were told, it has {counted}; ", tenant.name));
        }
    }
    found
}

async fn populate(worker: &Worker, connection: &Connection, (count, prefix, bytes): (u64, &[u8], Option<u64>)) {
    let mut memory = CallSpace::default();
    let mut unheard = Reply::new(keyward_engine::reply::Protocol::Resp2);
    for number in 0..count {
        let key = [prefix, b":", number.to_string().as_bytes()].concat();
        let mut value = format!("value:{number}").into_bytes();
        if let Some(bytes) = bytes {
            value.resize(bytes as usize, 0);
        }
        let argv: [&[u8]; 4] = [b"SET", &key, &value, b"NX"];
        let Ok(resolved) = worker.node.table.resolve(&argv) else { return };
        let Run::OnKeys(handler) = resolved.row.run else { return };
        {
            let hot = worker.hot();
            let context = crate::batch::call_context(worker, &hot, &connection.session.borrow(), worker.now_ms());
            let named = [KeyUse { key: &key, access: KeyAccess { read: false, write: true }, argument: 1 }];
            let (events, client) = (Wanted::of_all(EventClass::NONE), connection.session.borrow().id);
            let call = Call {
                argv: &argv,
                words: 1,
                keys: &named,
                place: None,
                owner: None,
                reads: false,
                context,
                events,
                client,
                signer: None,
                reach: &keyward_engine::scope::Reach::Nothing,
                reader: None,
                park: None,
            };
            let node = &worker.node;
            // SET NX fails only for lack of memory, and then for all that follow.
            if node.shards.run(handler, &call, &mut memory, &node.journal, &mut unheard).is_err() {
                return;
            }
        }
        unheard.bytes.clear();
        if number % POPULATED_AT_ONCE == POPULATED_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
}

fn tables(node: &Node, wanted: u32) -> String {
    let (mut keys, mut expiring) = (0, 0);
    for index in 0..node.shards.count() {
        node.shards.with(index, |shard| {
            for (_, space) in shard.spaces().filter(|(space, _)| space.database == wanted) {
                keys += space.len();
                expiring += space.expiring_len();
            }
        });
    }
    let part = |title: &str, len: usize| {
        format!(
            "[{title} HT]\nHash table 0 stats (main hash table):\n table size: {}\n number of elements: {len}\n",
            len.next_power_of_two().max(4)
        )
    };
    part("Dictionary", keys) + &part("Expires", expiring)
}
