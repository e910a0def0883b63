//! How a node that waits is taken into a cluster: what the waiting node does with an invitation, and what the node that
//! invites does until the other is a full member.
//!
//! ```text
//! a node of the cluster                              the waiting node
//!   Invite{cluster, seeds} ────────────────────────►   keeps the seeds, asks them to admit it
//!     ◄──────────────────────────────── joining ────
//!   Invite … the same again, until ◄──── member(id)
//!   waits until id is registered and votes
//! ```
//!
//! An invitation is kept in memory only: a node that restarts before it is admitted waits for another one.
//! Like every call between nodes, this one carries the cluster secret, and to whatever address the operator names:
//! whoever may run `CLUSTER MEET` is trusted with the secret.

use std::time::{Duration, Instant};

use keyward_cluster::{ClusterId, NodeId, State};
use keyward_proto::control as wire;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::codec;
use super::config::Bootstrap;
use super::core::Core;

/// Between two looks at how far the other has come. A join takes a few hundred milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the whole may take: a join, a snapshot and a change of membership. Less than the ten seconds after which
/// `keywardctl` gives up by default, so that its user learns how far the node has come.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a waiting node has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    pub(crate) cluster_id: ClusterId,
    pub(crate) seeds: Vec<String>,
}

/// The invitation of this node, empty until it comes.
pub(crate) type Invited = watch::Sender<Option<Invitation>>;

/// Why the node at an address was not added, in a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InviteError {
    /// It will not join, for this reason; nothing has happened.
    Refused(String),
    /// It was told to join and may yet become a member.
    Late(String),
    /// This node cannot invite anybody now.
    Unavailable(String),
}

impl Core {
    /// Whether this node waits and nobody has invited it yet.
    pub(crate) fn awaits_invitation(&self) -> bool {
        self.config.bootstrap == Bootstrap::AwaitInvitation
            && self.peers.identity().is_none()
            && self.invited.borrow().is_none()
    }

    /// Takes or refuses an invitation.
    pub(crate) fn be_invited(&self, request: wire::InviteRequest) -> wire::invite_response::Result {
        use wire::invite_response::Result as Wire;
        let name = &self.config.node_name;
        let Ok(cluster_id) = codec::cluster_id_from(&request.cluster_id) else {
            return Wire::Refused(String::from("the invitation names no cluster"));
        };
        if !request.node_name.is_empty() && request.node_name != *name {
            return Wire::Refused(format!("the node there is called {name}"));
        }
        if let Some((own, node)) = self.peers.identity() {
            return if own != cluster_id {
                Wire::Refused(format!("the node there, {name}, belongs to another cluster"))
            } else if self.views.current().removed {
                Wire::Refused(format!(
                    "the node there, {name}, was removed from this cluster; empty its data folder first"
                ))
            } else {
                Wire::Member(node.0)
            };
        }
        if self.config.bootstrap != Bootstrap::AwaitInvitation {
            return Wire::Refused(format!(
                "the node there, {name}, does not wait to be invited: its configuration says by itself what it joins"
            ));
        }
        if request.seeds.is_empty() || request.seeds.len() > State::NODES_MAX {
            return Wire::Refused(String::from("the invitation names nobody to join, or too many"));
        }
        let invitation = Invitation { cluster_id, seeds: request.seeds };
        let taken = self.invited.send_if_modified(|known| {
            let ours = known.as_ref().is_none_or(|known| known.cluster_id == cluster_id);
            let news = ours && known.as_ref() != Some(&invitation);
            if news {
                *known = Some(invitation);
            }
            news
        });
        if taken {
            tracing::info!(%cluster_id, "invited to a cluster");
        }
        let ours = self.invited.borrow().as_ref().is_some_and(|known| known.cluster_id == cluster_id);
        if ours {
            Wire::Joining(wire::Blank {})
        } else {
            Wire::Refused(format!("the node there, {name}, is about to join another cluster that invited it first"))
        }
    }

    /// Takes the node that waits at `address` into this cluster; answers its id once it is a full member.
    pub(crate) async fn invite(&self, address: &str, name: Option<&str>) -> Result<NodeId, InviteError> {
        let deadline = Instant::now() + PATIENCE;
        let node = self.invite_until_joined(address, name, deadline).await?;
        while !(self.views.current().state.nodes().contains_key(&node) && self.is_settled(node)) {
            if Instant::now() >= deadline {
                let text = format!("the node has joined as {node}, but has not caught up with the cluster in time");
                return Err(InviteError::Late(text));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(node)
    }

    async fn invite_until_joined(
        &self,
        address: &str,
        name: Option<&str>,
        deadline: Instant,
    ) -> Result<NodeId, InviteError> {
        let mut told = false;
        loop {
            use wire::invite_response::Result as Wire;
            match self.invite_once(address, name).await? {
                Ok(Wire::Member(node)) => return Ok(NodeId(node)),
                Ok(Wire::Refused(reason)) => return Err(InviteError::Refused(reason)),
                Ok(Wire::Joining(_)) => told = true,
                // Once it was told, an answer that is lost changes nothing.
                Err(reason) if !told => {
                    return self.registered_at(address, name).ok_or(InviteError::Refused(reason));
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let text = "the node was told to join, but was not admitted in time; its log says why";
                return Err(InviteError::Late(String::from(text)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One call. The inner error is what the other side, or the way there, has to say.
    async fn invite_once(
        &self,
        address: &str,
        name: Option<&str>,
    ) -> Result<Result<wire::invite_response::Result, String>, InviteError> {
        let view = self.views.current();
        let Some(cluster_id) = view.cluster_id() else {
            return Err(InviteError::Unavailable(String::from("this node has not joined its cluster yet")));
        };
        let request = wire::InviteRequest {
            cluster_id: codec::cluster_id_to(cluster_id),
            seeds: view.state.nodes().values().map(|node| node.addresses.peer.clone()).collect(),
            node_name: name.unwrap_or_default().to_owned(),
        };
        let mut client = match self.peers.client(address) {
            Ok(client) => client,
            Err(status) => return Ok(Err(status.message().to_owned())),
        };
        Ok(match tokio::time::timeout(CALL_TIMEOUT, client.invite(request)).await {
            Ok(Ok(answer)) => answer.into_inner().result.ok_or_else(|| String::from("the node there answers nothing")),
            Ok(Err(status)) => Err(why_not(&status, address)),
            Err(_) => Err(format!("nobody answers at {address} in time")),
        })
    }

    /// A node that is down for now is still a member.
    fn registered_at(&self, address: &str, name: Option<&str>) -> Option<NodeId> {
        let view = self.views.current();
        let found = view.state.nodes().values().find(|node| node.addresses.peer == address)?;
        name.is_none_or(|name| name == found.name).then_some(found.id)
    }
}

fn why_not(status: &Status, address: &str) -> String {
    match status.code() {
        Code::Unauthenticated => format!("the node at {address} knows another cluster secret"),
        Code::Unavailable => format!(
            "no node can be reached at {address}: start it with the cluster's secret and await-invitation = true, and \
             give its peer address"
        ),
        Code::Unimplemented => format!("the node at {address} knows no invitations; it runs an older release"),
        _ => format!("the node at {address} answers: {}", status.message()),
    }
}
