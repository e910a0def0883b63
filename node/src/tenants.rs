//! Tenants between the agreed state and those who use them: compiled for requests, and changed on request.
//!
//! What a tenant means to keys is the engine's business, what may happen to one the cluster's; here the one is made from
//! the other, and `TENANT` is carried out.

mod purge;

pub use purge::purge_here;

use crate::insight::stats;
use crate::node::Node;
use keyward_cluster::{Change, Outcome, Refusal, State, TenantChange, TenantGrant, TenantMode, TenantRefusal};
use keyward_engine::account::Account;
use keyward_engine::asks::{TenantAsk, TenantEdit};
use keyward_engine::keyspace::TenantId;
use keyward_engine::reply::Reply;
use keyward_engine::tenancy::{self, Gauges, Grant, Limits, Tenancy, Tenant};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Compiles the tenants of a state; unchanged ones are cheap to compile again. What each uses is read off `gauges`, what
/// those of `before` did stays with them; `threads` is how many there are to do something.
pub fn compile(state: &State, gauges: &Gauges, threads: usize, before: Option<&Tenancy>) -> Tenancy {
    let account = |id| before.and_then(|before| before.get(id)).map(|known| Arc::clone(&known.account));
    let account = |id| account(id).unwrap_or_else(|| Arc::new(Account::new(threads)));
    let known = |tenant: &keyward_cluster::Tenant| {
        let known = before?.named(tenant.name.as_bytes()).filter(|known| is_current(known, tenant))?;
        Some(Arc::clone(known))
    };
    let made = |tenant| Arc::new(compiled(tenant, gauges, account));
    let tenants = state.tenants().iter().map(|tenant| known(tenant).unwrap_or_else(|| made(tenant)));
    Tenancy::new(tenants, state.tenants().last_number())
}

/// Whether nothing about it changed. Grants follow the names of others, which is no change of its own.
fn is_current(known: &Tenant, tenant: &keyward_cluster::Tenant) -> bool {
    let same = |known: &[Grant], grants: &std::collections::BTreeSet<TenantGrant>| {
        let is = |(known, grant): (&Grant, &TenantGrant)| {
            known.tenant == grant.tenant && known.pattern == grant.pattern && known.write == grant.write
        };
        known.len() == grants.len() && known.iter().zip(grants).all(is)
    };
    (known.id.number(), known.revision) == (tenant.number.0, tenant.revision)
        && same(&known.exports, &tenant.exports)
        && same(&known.imports, &tenant.imports)
}

fn compiled(tenant: &keyward_cluster::Tenant, gauges: &Gauges, account: impl Fn(TenantId) -> Arc<Account>) -> Tenant {
    let number = tenant.number.0;
    let id = match tenant.mode {
        TenantMode::Namespace => TenantId::with_namespace(number),
        TenantMode::Prefixes(_) => TenantId::with_prefixes(number),
    };
    let grants = |grants: &std::collections::BTreeSet<TenantGrant>| grants.iter().map(grant).collect();
    Tenant {
        id,
        gauge: gauges.of(id),
        account: account(id),
        name: tenant.name.clone(),
        prefixes: tenant.prefixes().map(<[u8]>::to_vec).collect(),
        users: tenant.users.iter().cloned().collect(),
        settings: Arc::clone(tenant.settings.shared()),
        limits: Limits::of(tenant.settings.iter()),
        exports: grants(&tenant.exports),
        imports: grants(&tenant.imports),
        retired: tenant.retired,
        created: tenant.created,
        revision: tenant.revision,
    }
}

/// A grant, as requests are checked by it.
pub fn grant(grant: &TenantGrant) -> Grant {
    Grant { tenant: grant.tenant.clone(), pattern: grant.pattern.clone(), write: grant.write }
}

/// What is to be proposed; `None` for what only looks.
pub fn change_of(ask: TenantAsk) -> Option<TenantChange> {
    Some(match ask {
        TenantAsk::Create { name, namespace: true, edits } => TenantChange::Create {
            name,
            mode: TenantMode::Namespace,
            edits: edits.into_iter().filter_map(edit).collect(),
        },
        TenantAsk::Create { name, namespace: false, edits } => TenantChange::Create {
            name,
            mode: TenantMode::Prefixes(Default::default()),
            edits: edits.into_iter().filter_map(edit).collect(),
        },
        TenantAsk::Set { name, mut edits } => {
            if let [TenantEdit::Name(to)] = &mut edits[..] {
                return Some(TenantChange::Rename { name, to: std::mem::take(to) });
            }
            TenantChange::Set { name, edits: edits.into_iter().filter_map(edit).collect() }
        }
        TenantAsk::Delete { name, purge } => TenantChange::Delete { name, purged: purge },
        TenantAsk::Stats { .. } => return None,
    })
}

/// A new name is a change of its own.
fn edit(edit: TenantEdit) -> Option<keyward_cluster::TenantEdit> {
    use keyward_cluster::TenantEdit as Agreed;
    let grant = |grant: Grant| TenantGrant { tenant: grant.tenant, pattern: grant.pattern, write: grant.write };
    Some(match edit {
        TenantEdit::AddPrefix(prefix) => Agreed::AddPrefix(prefix),
        TenantEdit::RemovePrefix(prefix) => Agreed::RemovePrefix(prefix),
        TenantEdit::AddUser(user) => Agreed::AddUser(user),
        TenantEdit::RemoveUser(user) => Agreed::RemoveUser(user),
        TenantEdit::Setting(name, value) => Agreed::Setting(name, value),
        TenantEdit::Export(given, on) => Agreed::Export(grant(given), on),
        TenantEdit::Import(given, on) => Agreed::Import(grant(given), on),
        TenantEdit::Retired(retired) => Agreed::Retired(retired),
        TenantEdit::Name(_) => return None,
    })
}

/// Does what `TENANT` asked, as `actor` who came through `source`, and answers.
pub async fn carry_out(node: &Arc<Node>, ask: TenantAsk, actor: String, source: String, reply: &mut Reply) {
    match ask {
        TenantAsk::Stats { name } => show(node, &name, reply),
        ask => match change(node, ask, actor, source).await {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(&error.to_string()),
        },
    }
}

/// Why a tenant was not changed. `Display` is the reply without the leading `-`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeError {
    /// The state of things forbids it.
    Refused(TenantRefusal),
    /// It cannot be done now; the text begins with a code.
    Unavailable(String),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Refused(refusal) => write!(f, "ERR {refusal}"),
            ChangeError::Unavailable(text) => f.write_str(text),
        }
    }
}

/// Proposes what was asked; returns when it is in force everywhere.
pub async fn change(node: &Arc<Node>, ask: TenantAsk, actor: String, source: String) -> Result<(), ChangeError> {
    if let Some(text) =
        is_too_much(node, &ask).or_else(|| is_not_theirs(node, &ask)).or_else(|| frees_somebody(node, &ask))
    {
        return Err(ChangeError::Refused(TenantRefusal::Invalid(text)));
    }
    if let TenantAsk::Delete { name, purge: true } = &ask
        && let Some(tenant) = node.views.load().1.tenancy.named(name.as_bytes()).filter(|tenant| tenant.retired)
    {
        let change = TenantChange::Delete { name: name.clone(), purged: true };
        if let Some(text) = node.views.load().1.state.move_forbids(&change) {
            // Before its keys go: it would be refused after that.
            return Err(ChangeError::Refused(TenantRefusal::Invalid(text)));
        }
        let unavailable = |text| ChangeError::Unavailable(format!("ERR the keys of tenant '{name}' stay: {text}"));
        purge::purge(node, tenant).await.map_err(unavailable)?;
    }
    let Some(change) = change_of(ask) else { return Ok(()) };
    match node.propose(Change::Tenant(change), actor, source).await {
        Ok(Outcome::Refused(Refusal::Tenant(refusal))) => Err(ChangeError::Refused(refusal)),
        Ok(Outcome::Refused(refusal)) => Err(ChangeError::Unavailable(format!("ERR {refusal}"))),
        Ok(_) => Ok(()),
        Err(text) => Err(ChangeError::Unavailable(text)),
    }
}

/// Why no tenant can be promised so much memory, as a sentence: all reserves together must fit.
fn is_too_much(node: &Node, ask: &TenantAsk) -> Option<String> {
    let (TenantAsk::Create { name, edits, .. } | TenantAsk::Set { name, edits }) = ask else { return None };
    let asked = edits.iter().rev().find_map(|edit| match edit {
        TenantEdit::Setting(setting, value) if setting == "reserve" => Some(value.clone()),
        _ => None,
    })?;
    let total = node.live.hot().memory_bytes_max;
    let asked = Limits::of(asked.iter().map(|value| ("reserve", value.as_str()))).reserve;
    let (_, view) = node.views.load();
    let others = view.tenancy.iter().filter(|tenant| tenant.name != *name);
    let others: u64 = others.fold(0, |sum, tenant| tenant.limits.reserve.saturating_add(sum));
    (total > 0 && asked.saturating_add(others) > total)
        .then(|| format!("a reserve of {asked} bytes is too much: the others have {others}, and maxmemory is {total}"))
}

/// Why keys cannot be lent, as a sentence: they are not the tenant's. Its prefixes are those it will have.
fn is_not_theirs(node: &Node, ask: &TenantAsk) -> Option<String> {
    let (TenantAsk::Create { name, edits, .. } | TenantAsk::Set { name, edits }) = ask else { return None };
    let (_, view) = node.views.load();
    let known = view.tenancy.named(name.as_bytes());
    if known.is_some_and(|tenant| tenant.is_namespace()) || matches!(ask, TenantAsk::Create { namespace: true, .. }) {
        // It lends none at all, and is told so.
        return None;
    }
    let removed =
        |prefix: &[u8]| edits.iter().any(|edit| matches!(edit, TenantEdit::RemovePrefix(gone) if gone == prefix));
    let before = known.into_iter().flat_map(|tenant| &tenant.prefixes).map(Vec::as_slice).filter(|own| !removed(own));
    let added = edits.iter().filter_map(|edit| match edit {
        TenantEdit::AddPrefix(prefix) => Some(prefix.as_slice()),
        _ => None,
    });
    let prefixes: Vec<&[u8]> = before.chain(added).collect();
    let foreign = edits.iter().find_map(|edit| match edit {
        TenantEdit::Export(grant, true) if !tenancy::is_within(&grant.pattern, prefixes.iter().copied()) => Some(grant),
        _ => None,
    })?;
    let own: Vec<String> = prefixes.iter().map(|prefix| prefix.escape_ascii().to_string()).collect();
    Some(format!(
        "tenant '{name}' cannot export '{}': its own keys begin with {}",
        foreign.pattern.escape_ascii(),
        own.join(" or ")
    ))
}

/// Why a user cannot leave its tenant, as a sentence: what kept it to the tenant's keys was the tenant.
fn frees_somebody(node: &Node, ask: &TenantAsk) -> Option<String> {
    let TenantAsk::Set { name, edits } = ask else { return None };
    let (_, view) = node.views.load();
    let tenant = view.tenancy.named(name.as_bytes())?;
    edits.iter().find_map(|edit| {
        let TenantEdit::RemoveUser(user) = edit else { return None };
        let known = tenant.users.contains(user).then(|| view.state.directory().get(user)).flatten()?;
        let has_all_keys = known.root.all_keys || known.selectors.iter().any(|selector| selector.all_keys);
        (known.enabled && has_all_keys).then(|| {
            let user = user.escape_ascii();
            format!(
                "the rules of user '{user}' let it touch every key, and only tenant '{name}' keeps it to its own: give it \
                 other rules first (ACL SETUSER {user} resetkeys ~…), switch it off (ACL SETUSER {user} off), or delete it"
            )
        })
    })
}

/// A shard is locked no longer than this at a stretch, while keys move to whose they are.
const SETTLE_SLICE: Duration = Duration::from_micros(50);

/// Moves keys to the segments of their owners after tenants changed, slice by slice, until the node stops.
pub async fn settle(node: Arc<Node>) {
    let mut settled: Option<Arc<Tenancy>> = None;
    loop {
        let (generation, view) = node.views.load();
        let tenancy = Arc::clone(&view.tenancy);
        drop(view);
        if settled.as_ref().is_some_and(|settled| Arc::ptr_eq(settled, &tenancy)) {
            node.views.newer_than(generation).await;
            continue;
        }
        for index in 0..node.shards.count() {
            while !node.shards.settle(index, &tenancy, SETTLE_SLICE) {
                tokio::task::yield_now().await;
            }
        }
        node.gauges.retain(|id| tenancy.get(id).is_some());
        settled = Some(tenancy);
    }
}

fn show(node: &Node, name: &str, reply: &mut Reply) {
    let (_, view) = node.views.load();
    let Some(tenant) = view.tenancy.named(name.as_bytes()) else {
        return reply.error(&format!("ERR there is no tenant '{name}'"));
    };
    let figures = stats::figures(node, tenant);
    reply.map(figures.len() + 1);
    for (name, count) in figures {
        reply.bulk(name.as_bytes());
        reply.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }
    reply.bulk(b"eviction");
    reply.bulk(view.tenancy.policy_of(tenant.id, node.live.hot().eviction.policy).name().as_bytes());
}
