//! How a node becomes part of a cluster, exactly once.
//!
//! ```text
//! identity on disk? ── yes ─► resume under it
//!        │ no
//!        ├─ form: first of the list, and all others answer "I belong to no cluster" ─► found one
//!        ├─ wait to be invited ─► ask those to join who the invitation names, until admitted
//!        └─ otherwise ─► ask to join, until admitted
//! ```
//!
//! The first of the list waits for an answer of *every* other member before it founds: if its disk was lost, the others
//! know the cluster, and it joins them instead of founding a second one.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use keyward_cluster::{Change, ClusterId, Founder, JoinToken, NodeId};
use keyward_proto::control as wire;
use openraft::async_runtime::watch::WatchReceiver;

use super::codec;
use super::config::Bootstrap;
use super::core::{HereError, SharedCore};
use super::network::Network;
use super::propose::{hint_from, random};
use super::raft_types::Raft;

/// Between two rounds of asking. Pods of one StatefulSet start within seconds of each other.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// How long one node may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(6);

/// How often somebody who waits says in the log what it waits for: every this many rounds.
const SAY_EVERY: u32 = 40;

/// The identity record's format.
const FORMAT: u32 = 1;

/// What the initial members say about themselves.
enum Census {
    /// At least one belongs to a cluster.
    Formed,
    /// All of them answered, and belong to none.
    AllFresh,
    /// Somebody has not answered yet.
    Waiting(String),
    /// Somebody was started with another list.
    Disagree(String),
}

/// Brings this node into its cluster and Raft to life. Returns when Raft runs, or with the reason why it must not.
pub(crate) async fn establish(core: &SharedCore) -> Result<(), String> {
    let identity = match core.log.identity() {
        Some(identity) => identity,
        None => obtain_identity(core).await?,
    };
    let cluster_id = codec::cluster_id_from(&identity.cluster_id).map_err(|error| error.to_string())?;
    let node = NodeId(identity.node);
    core.machine.set_owner(cluster_id, node);
    core.peers.set_identity(cluster_id, node);
    core.views.publish(|view| view.node = Some(node));
    let raft = start_raft(core, node).await?;
    if identity.founder {
        found(core, &raft, cluster_id).await?;
    }
    Ok(())
}

async fn start_raft(core: &SharedCore, node: NodeId) -> Result<Raft, String> {
    let config = core.config.raft().map_err(|error| error.to_string())?;
    let network = Network { peers: core.peers.clone() };
    let started = Raft::new(node, config.into(), network, core.log.clone(), core.machine.clone()).await;
    let raft = started.map_err(|error| error.to_string())?;
    Ok(core.raft.get_or_init(|| raft).clone())
}

async fn obtain_identity(core: &SharedCore) -> Result<wire::Identity, String> {
    let seeds = match &core.config.bootstrap {
        Bootstrap::AwaitInvitation => return join_as_invited(core).await,
        Bootstrap::Join { seeds } => seeds.clone(),
        Bootstrap::Form { members } => {
            let me = &core.config.node_name;
            let others: Vec<String> =
                members.iter().filter(|(name, _)| name != me).map(|(_, address)| address.clone()).collect();
            let first = members.first().is_none_or(|(name, _)| name == me);
            if first && wait_for_all(core, &others).await {
                let cluster_id = ClusterId(random().to_be_bytes());
                return save_identity(core, cluster_id, NodeId::FOUNDER, true).await;
            }
            others
        }
    };
    if seeds.is_empty() {
        return Err(String::from("there is nobody to join: give the peer address of at least one node as a seed"));
    }
    let (cluster_id, node) = join(core, || seeds.clone()).await?;
    save_identity(core, cluster_id, node, false).await
}

/// Waits to be invited, as long as it takes, and joins. A later invitation to the same cluster brings newer seeds.
async fn join_as_invited(core: &SharedCore) -> Result<wire::Identity, String> {
    let mut invitations = core.invited.subscribe();
    tracing::info!(address = core.config.addresses.peer, "waiting to be invited: `keywardctl node add` does that");
    let invited = invitations.wait_for(Option::is_some).await.map_err(|error| error.to_string())?.clone();
    let wanted = invited.map(|invitation| invitation.cluster_id);
    let seeds = || core.invited.borrow().as_ref().map(|invitation| invitation.seeds.clone()).unwrap_or_default();
    let (cluster_id, node) = join(core, seeds).await?;
    if wanted != Some(cluster_id) {
        return Err(format!("invited to one cluster, this node was admitted to another, {cluster_id}, as {node}"));
    }
    save_identity(core, cluster_id, node, false).await
}

async fn save_identity(
    core: &SharedCore,
    cluster_id: ClusterId,
    node: NodeId,
    founder: bool,
) -> Result<wire::Identity, String> {
    let identity = wire::Identity {
        format: FORMAT,
        cluster_id: codec::cluster_id_to(cluster_id),
        node: node.0,
        node_name: core.config.node_name.clone(),
        founder,
    };
    core.log.save_identity(identity.clone()).await.map_err(|error| error.to_string())?;
    super::marker::write(&core.config.data_dir, cluster_id, node).map_err(|error| error.to_string())?;
    Ok(identity)
}

/// Asks the other initial members until it is clear whether a cluster exists. True: none does, and all agree to form.
async fn wait_for_all(core: &SharedCore, others: &[String]) -> bool {
    for round in 0_u32.. {
        match census(core, others).await {
            Census::AllFresh => return true,
            Census::Formed => return false,
            Census::Waiting(address) if round % SAY_EVERY == 0 => {
                tracing::info!(address, "waiting for every initial member before forming the cluster");
            }
            Census::Disagree(address) if round % SAY_EVERY == 0 => {
                tracing::warn!(address, "started with another list of initial members; give all of them the same");
            }
            Census::Waiting(_) | Census::Disagree(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    false
}

async fn census(core: &SharedCore, others: &[String]) -> Census {
    let members_hash = core.config.bootstrap.members_hash();
    let asked = others.iter().map(|address| async move {
        let mut client = core.peers.client(address).ok()?;
        let call = client.probe(wire::ProbeRequest { members_hash });
        tokio::time::timeout(ASK_TIMEOUT, call).await.ok()?.ok().map(|response| response.into_inner())
    });
    let answers = join_all(asked).await;
    if answers.iter().flatten().any(|answer| !answer.cluster_id.is_empty()) {
        return Census::Formed;
    }
    for (address, answer) in others.iter().zip(&answers) {
        match answer {
            None => return Census::Waiting(address.clone()),
            Some(answer) if answer.members_hash != members_hash => {
                return Census::Disagree(address.clone());
            }
            Some(_) => {}
        }
    }
    Census::AllFresh
}

/// Asks to be admitted until somebody does. Waits for ever: the cluster may be formed later.
/// `seeds` names somebody whenever it is asked.
async fn join(core: &SharedCore, seeds: impl Fn() -> Vec<String>) -> Result<(ClusterId, NodeId), String> {
    let request = wire::JoinRequest {
        node_name: core.config.node_name.clone(),
        addresses: Some(codec::addresses_to(&core.config.addresses)),
        token: codec::token_to(JoinToken(random())),
    };
    let mut hint = None;
    for round in 0_usize.. {
        let address = hint.take().unwrap_or_else(|| {
            let mut seeds = seeds();
            seeds.swap_remove(round % seeds.len())
        });
        let say = round % (SAY_EVERY as usize) == 0;
        match ask_to_join(core, &address, &request).await {
            Ok(Joined::Admitted(cluster_id, node)) => return Ok((cluster_id, node)),
            Ok(Joined::Elsewhere(leader)) => hint = leader.filter(|leader| *leader != address),
            Ok(Joined::Refused(reason)) if say => {
                tracing::warn!(address, reason, "not admitted to the cluster yet")
            }
            Err(error) if say => {
                tracing::info!(address, error, "waiting for the cluster to admit this node")
            }
            Ok(Joined::Refused(_)) | Err(_) => {}
        }
        if hint.is_none() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
    Err(String::from("never admitted"))
}

enum Joined {
    Admitted(ClusterId, NodeId),
    Elsewhere(Option<String>),
    Refused(String),
}

async fn ask_to_join(core: &SharedCore, address: &str, request: &wire::JoinRequest) -> Result<Joined, String> {
    let mut client = core.peers.client(address).map_err(|status| status.message().to_owned())?;
    let call = client.join(request.clone());
    let answer = tokio::time::timeout(ASK_TIMEOUT, call).await.map_err(|_| String::from("no answer in time"))?;
    let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
    use wire::join_response::Result as Wire;
    Ok(match answer.result.ok_or_else(|| String::from("an empty answer"))? {
        Wire::Admitted(admitted) => {
            let cluster_id = codec::cluster_id_from(&admitted.cluster_id).map_err(|error| error.to_string())?;
            Joined::Admitted(cluster_id, NodeId(admitted.node))
        }
        Wire::NotLeader(not_leader) => Joined::Elsewhere(hint_from(not_leader).map(|(_, address)| address)),
        Wire::Refused(reason) => Joined::Refused(reason),
    })
}

/// Initializes Raft with this node alone and commits the founding entry. After a crash in between, goes on from there.
async fn found(core: &SharedCore, raft: &Raft, cluster_id: ClusterId) -> Result<(), String> {
    let initialized = raft.is_initialized().await.map_err(|error| error.to_string())?;
    if !initialized {
        let me = openraft::BasicNode::new(core.config.addresses.peer.clone());
        let alone = BTreeMap::from([(NodeId::FOUNDER, me)]);
        raft.initialize(alone).await.map_err(|error| error.to_string())?;
    }
    // A founder that resumes long after founding finds its founding entry in the state, or is told it by the others.
    let metrics = raft.metrics().borrow_watched().clone();
    let alone = !initialized || metrics.membership_config.voter_ids().eq([NodeId::FOUNDER]);
    while alone && core.views.current().cluster_id().is_none() {
        let founder = Founder { name: core.config.node_name.clone(), addresses: core.config.addresses.clone() };
        let nodes = match &core.config.bootstrap {
            Bootstrap::Form { members } => members.len() as u32,
            Bootstrap::Join { .. } | Bootstrap::AwaitInvitation => 1,
        };
        let form = Change::FormCluster { cluster_id, founder, groups: core.config.groups, nodes };
        let change = core.own_change(form);
        match core.write(change).await {
            Ok(_) => break,
            Err(HereError::Stopped) => return Err(String::from("raft stopped")),
            // Not leader yet: alone, it takes one election timeout.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(())
}
