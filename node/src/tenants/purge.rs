//! `TENANT DEL … PURGE`: the keys of a retired tenant go before it does.
//!
//! ```text
//!   any node ─► the node that serves each shard group ─► FLUSHALL of what the tenant owns, journaled like any other
//!            ─► the tenant is deleted
//! ```
//! So nothing of it comes back with a copy or a snapshot, and a purge that failed half way leaves a retired tenant behind that
//! can be purged again. What others write under its prefix afterwards is theirs.

use crate::node::{Node, now_ms};
use crate::shards::{Call, CallSpace, Wanted};
use keyward_cluster::GroupId;
use keyward_engine::command::Run;
use keyward_engine::keyspace::{CallContext, SpaceId, TenantId};
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;
use keyward_engine::tenancy::Tenant;
use std::sync::Arc;

/// Removes every key of the tenant, wherever it is served. If not, why not, as a sentence.
pub(super) async fn purge(node: &Arc<Node>, tenant: &Tenant) -> Result<(), String> {
    for of in node.groups() {
        let (_, view) = of.views.load();
        match view.primary {
            Some(primary) if primary == view.me => purge_here(Arc::clone(of), tenant.id).await?,
            Some(primary) => node.control.purge_tenant(primary, of.group, tenant.id.0).await?,
            None => return Err("nobody serves the data now".to_owned()),
        }
    }
    Ok(())
}

/// The same for what one group of this node serves.
pub async fn purge_here(of: Arc<Node>, id: TenantId) -> Result<(), String> {
    let GroupId(group) = of.group;
    let purged = crate::world::aside(move || flush(&of, id)).await;
    purged.map_err(|_| format!("the keys of shard group {group} were not removed"))?
}

/// On a thread that may wait for the corridor.
fn flush(of: &Node, id: TenantId) -> Result<(), String> {
    let _alone = of.corridor.close();
    let (_, view) = of.views.load();
    if !view.is_primary() {
        return Err("the data is served by another node now".to_owned());
    }
    let tenant = view.tenancy.get(id).filter(|tenant| tenant.retired).ok_or("the tenant is not retired any more")?;
    let prefixes = tenant.prefixes.iter().map(Vec::as_slice);
    let words: Vec<&[u8]> = if id.is_namespace() {
        vec![b"FLUSHALL"]
    } else {
        [&b"FLUSHALL"[..], b"PREFIX"].into_iter().chain(prefixes).collect()
    };
    let row = of.table.find(b"flushall");
    let Some(Run::OnEveryKey(handler)) = row.map(|row| row.run) else { return Err("FLUSHALL is missing".to_owned()) };
    let hot = of.live.hot();
    let context = CallContext {
        layout: of.shards.layout(),
        space: SpaceId { tenant: id.world(), database: 0 },
        now: now_ms(),
        limits: &hot.limits,
        value_bytes_max: hot.value_bytes_max,
        room_bytes: u64::MAX,
        databases: of.config.databases,
        random: crate::random::u64(),
        no_touch: false,
        usage: hot.eviction.usage,
        keeps_expired: false,
        patience: None,
    };
    let call = Call {
        argv: &words,
        words: 1,
        keys: &[],
        place: None,
        owner: None,
        reads: false,
        context,
        events: Wanted::of_all(hot.events),
        client: 0,
        signer: None,
        reach: &Reach::Everything,
        reader: None,
        park: None,
    };
    let mut reply = Reply::new(Protocol::Resp3);
    let flushed =
        of.shards.run_on_every_key(handler, &call, &mut CallSpace::default(), (&of.journal, false), &mut reply);
    of.shards.tracking.deliver();
    flushed.map_err(|error| error.to_string())
}
