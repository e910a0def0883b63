//! What the http port and the admin port are told about the node.
//!
//! Metrics are named once, here, in [`groups`] and in [`crate::insight::tenants`]. None of them carries a key, a value or a password.

mod groups;

use crate::admin::{self, NodeBackend};
use crate::config::DebugCommand;
use crate::control::Control;
use crate::http::{HttpFacts, MetricsText};
use crate::info;
use crate::node::{Node, StartError};
use keyward_acl::LogReason;
use keyward_engine::digest::Digest;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// The node, to the http port.
pub struct Facts(pub Arc<Node>);

impl HttpFacts for Facts {
    /// A node that cannot go on ends by itself, so one that answers is alive.
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        let control = self.0.control.view();
        if self.0.is_loading() {
            return Err("the data is being loaded".to_owned());
        }
        if control.removed {
            return Err("the cluster has removed this node".to_owned());
        }
        if !control.ready || control.leader.is_none() {
            return Err("the control plane has no leader yet".to_owned());
        }
        if node_lease_is_over(&self.0) {
            return Err("this node is not in contact with the control plane".to_owned());
        }
        for of in self.0.groups() {
            let (_, view) = of.views.load();
            if view.primary.is_none() {
                return Err(format!("no node serves the data yet{}", named(&self.0, of)));
            }
            // A rolling update goes on to the next node when this one is ready: then it must have a copy.
            let in_sync =
                view.group.as_ref().is_some_and(|group| view.member().is_some_and(|me| group.in_sync.contains(&me)));
            if !in_sync {
                return Err(format!("the copy of the data here is not in sync yet{}", named(&self.0, of)));
            }
        }
        Ok(())
    }

    fn digest(&self) -> Option<String> {
        let node = &*self.0;
        if node.config.enable_debug_command == DebugCommand::No {
            return None;
        }
        let groups = node.groups();
        let stands = groups.iter().map(|of| {
            // Nothing is half done while the corridor is closed; of one group at a time, as whoever is in one may wait for another.
            let _closed = of.corridor.close();
            let stand = of.replication.stand();
            [stand.epoch.to_string(), stand.position.to_string(), digest_of_data(of).to_string()]
        });
        let stands: Vec<_> = stands.collect();
        let each = |at: usize| stands.iter().map(|stand| stand[at].as_str()).collect::<Vec<_>>().join(",");
        let (epochs, positions, digests) = (each(0), each(1), each(2));
        let data = groups.iter().all(|of| of.replication.has_data());
        Some(format!("{epochs} {positions} {digests} {data}\n"))
    }

    fn metrics(&self) -> String {
        let node = &*self.0;
        let (_, view) = node.views.load();
        let mut text = MetricsText::default();
        let sum = |of: fn(&crate::counters::ThreadCounters) -> u64| -> u64 {
            node.counters.iter().map(|counters| of(counters)).sum()
        };
        let tally = node.tally();
        groups::metrics(node, &mut text);
        text.gauge("keyward_clients", "Connected clients.", node.client_count() as f64);
        text.counter("keyward_connections_total", "Clients accepted.", sum(|counters| counters.accepted.get()));
        text.counter(
            "keyward_connections_rejected_total",
            "Clients turned away for maxclients.",
            sum(|counters| counters.rejected.get()),
        );
        text.counter("keyward_commands_total", "Commands let through.", sum(|counters| counters.commands.get()));
        text.counter(
            "keyward_commands_forwarded_total",
            "Commands another node ran.",
            sum(|counters| counters.forwarded.get()),
        );
        text.counter("keyward_error_replies_total", "Error replies.", sum(|counters| counters.errors.get()));
        text.counter(
            "keyward_input_bytes_total",
            "Bytes read from clients.",
            sum(|counters| counters.input_bytes.get()),
        );
        text.counter(
            "keyward_output_bytes_total",
            "Bytes sent to clients.",
            sum(|counters| counters.output_bytes.get()),
        );
        text.counter("keyward_keyspace_hits_total", "Reads that found their key.", tally.hits);
        text.counter("keyward_keyspace_misses_total", "Reads that found no key.", tally.misses);
        text.counter("keyward_expired_keys_total", "Keys removed because they expired.", tally.expired);
        text.counter("keyward_changes_total", "Changes to data.", tally.changes);
        text.gauge("keyward_memory_data_bytes", "Bytes the data uses.", node.memory_bytes() as f64);
        text.gauge("keyward_memory_max_bytes", "maxmemory; 0 is no limit.", node.live.hot().memory_bytes_max as f64);
        text.gauge("keyward_memory_resident_bytes", "Bytes of the process in memory.", info::resident_bytes() as f64);
        text.gauge("keyward_users", "Users of the cluster.", view.state.directory().len() as f64);
        text.gauge(
            "keyward_acl_file_usable",
            "1: the content of the watched ACL file is in force, or there is no such file; 0: it was refused, and users are as before.",
            f64::from(u8::from(node.acl_file_usable.load(Ordering::Relaxed))),
        );
        text.gauge("keyward_policy_index", "Index of the last change in force here.", view.index as f64);
        text.gauge("keyward_nodes", "Registered nodes.", view.state.nodes().len() as f64);
        let leader = node.control.view().leader.map_or(0, |id| id.0);
        text.gauge("keyward_leader_node", "Who leads the control plane; 0 is nobody.", leader as f64);
        text.gauge(
            "keyward_lease_remaining_seconds",
            "How long this node may serve without hearing from the leader.",
            node.lease.left().as_secs_f64(),
        );
        text.gauge(
            "keyward_last_save_seconds",
            "When the last data snapshot was written, Unix time.",
            node.snapshots.last_save_ms() as f64 / 1000.0,
        );
        crate::insight::tenants::metrics(node, &mut text);
        let (written, lost) = node.audit.counts();
        text.counter("keyward_audit_lines_total", "Lines of the audit stream.", written);
        text.counter("keyward_audit_lost_total", "Audit lines dropped for want of room or of a disk.", lost);
        text.counter(
            "keyward_audit_repeated_total",
            "Audit lines told as a number, since whoever made them made too many.",
            node.audit.withheld(),
        );
        let log = node.acl_log.lock();
        for (name, help, reason) in [
            ("keyward_denied_logins_total", "Failed logins.", LogReason::Auth),
            ("keyward_denied_commands_total", "Commands denied.", LogReason::Command),
            ("keyward_denied_keys_total", "Keys denied.", LogReason::Key),
            ("keyward_denied_channels_total", "Channels denied.", LogReason::Channel),
        ] {
            text.counter(name, help, log.counter(reason));
        }
        text.into_text()
    }
}

/// Which of several shard groups it is about; nothing where there is one.
fn named(node: &Node, of: &Node) -> String {
    if node.groups().len() > 1 { format!(" (shard group {})", of.group.0) } else { String::new() }
}

fn node_lease_is_over(node: &Node) -> bool {
    node.lease_state() == crate::gate::LeaseState::Over
}

/// A node that waits to be invited, to the http port. A connection that outlives the wait is told about the node.
pub struct Waiting {
    /// Knows whether it still waits.
    pub control: Control,
    /// Filled once clients are served.
    pub node: Arc<OnceLock<Arc<Node>>>,
}

impl HttpFacts for Waiting {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        match self.node.get() {
            Some(node) => Facts(Arc::clone(node)).ready(),
            None if self.control.awaits_invitation() => Err("waiting to be invited".to_owned()),
            None => Err("joining the cluster".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        self.node.get().map(|node| Facts(Arc::clone(node)).metrics()).unwrap_or_default()
    }
}

/// A number for all keys with their values and expiries: equal on two nodes exactly if (up to chance) their data is.
fn digest_of_data(node: &Node) -> Digest {
    let mut sum = Digest::default();
    for index in 0..node.shards.count() {
        node.shards.with(index, |shard| {
            for (id, space) in shard.spaces() {
                space.for_each(&mut |entry| {
                    let expires_at = entry.expires_at().unwrap_or(0).to_le_bytes();
                    let name = [entry.key(), &expires_at, &id.tenant.0.to_le_bytes()].concat();
                    sum = sum.with(Digest::of_entry(id.database, &name, &entry.value(), entry.expires_at()));
                });
            }
        });
    }
    sum
}

/// Opens the admin port.
pub fn serve_admin(node: &Arc<Node>, listener: TcpListener) -> Result<(), StartError> {
    let failed = |error| StartError::Listen(node.config.admin_bind.to_string(), error);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let tls = admin::for_node::tls(&node.config).map_err(StartError::Config)?;
    let backend = Arc::new(NodeBackend::new(Arc::clone(node)));
    tokio::spawn(async move {
        if let Err(error) = admin::serve(listener, backend, tls, std::future::pending()).await {
            tracing::error!(%error, "the admin port has closed");
        }
    });
    Ok(())
}
