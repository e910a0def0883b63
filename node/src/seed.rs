//! Brings the configured users into the cluster: before any door opens, and whenever the ACL file changes.
//!
//! A source is imported once. The cluster remembers a digest of what it imported, so that a restart does not undo what
//! was changed at runtime since; only a source that says something new is proposed again.

use crate::acl_file;
use crate::config::{Config, PolicySource};
use crate::node::{Node, StartError};
use keyward_acl::UserChange;
use keyward_cluster::{Change, Outcome};
use keyward_engine::table::Table;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

/// The setting that remembers what was imported last.
const IMPORTED_SETTING: &str = "users-imported";

/// Between two tries while the control plane has no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Between two looks at a cluster without users.
const POLICY_PAUSE: Duration = Duration::from_millis(100);

/// What the configuration wants changed before anybody is served.
pub struct Seed {
    change: Option<UserChange>,
    /// Of the file's bytes, for whoever watches it.
    pub file: Option<acl_file::Digest>,
}

/// Reads the policy source. A bad one is an error before anything else has happened.
pub fn read(config: &Config, table: &'static Table) -> Result<Seed, StartError> {
    match config.policy_source() {
        PolicySource::AclFile(path, password) => {
            let (change, digest) = acl_file::import(&path, table, password.as_ref()).map_err(StartError::AclFile)?;
            Ok(Seed { change: Some(change), file: Some(digest) })
        }
        PolicySource::Password(password) => {
            Ok(Seed { change: Some(acl_file::default_with_password(&password)), file: None })
        }
        PolicySource::Cluster | PolicySource::Open => Ok(Seed { change: None, file: None }),
    }
}

/// Brings in what was read. Nobody is served under a policy that is not theirs.
pub async fn plant(node: &Arc<Node>, seed: &Seed) -> Result<(), StartError> {
    let Some(change) = &seed.change else {
        wait_for_policy(node).await;
        return Ok(());
    };
    let digest = digest(change);
    if node.views.load().1.state.setting(IMPORTED_SETTING) == Some(&digest) {
        return Ok(());
    }
    import(node, change, "start").await.map_err(StartError::Config)
}

/// Proposes a change until it is decided, and remembers it. The error says why it was refused.
async fn import(node: &Node, change: &UserChange, source: &str) -> Result<(), String> {
    let actor = format!("node:{}", node.config.name);
    loop {
        match node.propose(Change::User(change.clone()), actor.clone(), source.to_owned()).await {
            Ok(Outcome::Refused(refusal)) => return Err(refusal.to_string()),
            Ok(_) => break,
            Err(error) => tracing::warn!(%error, "the configured users are not in force yet"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    let remember = Change::SetSetting { name: IMPORTED_SETTING.to_owned(), value: Some(digest(change)) };
    // If it fails, the next start imports the same users once more.
    if let Err(error) = node.propose(remember, actor, source.to_owned()).await {
        tracing::warn!(%error, "the import of the configured users was not recorded");
    }
    Ok(())
}

/// A node that takes its users from the cluster opens no door to the network while the cluster has none: whoever formed
/// it may not have brought its users in yet, or listens on loopback only and needs none.
async fn wait_for_policy(node: &Node) {
    if node.config.policy_source() != PolicySource::Cluster || node.config.bind.is_loopback() {
        return;
    }
    let mut told = false;
    while node.views.load().1.is_unconfigured() {
        if !told {
            tracing::warn!(
                "the cluster has no users yet and everybody could do everything: not open to clients until it has"
            );
            told = true;
        }
        tokio::time::sleep(POLICY_PAUSE).await;
    }
}

/// Proposes each valid new content of the ACL file.
pub async fn follow(node: Arc<Node>, mut changes: mpsc::Receiver<UserChange>) {
    while let Some(change) = changes.recv().await {
        match import(&node, &change, acl_file::SOURCE).await {
            Ok(()) => tracing::info!("the new content of the ACL file is in force"),
            Err(refusal) => {
                node.acl_file_usable.store(false, Ordering::Relaxed);
                tracing::error!(%refusal, "the new content of the ACL file was refused");
            }
        }
    }
}

/// What tells one source's content from another's: SHA-256 over names and rules, passwords hashed as rules have them.
fn digest(change: &UserChange) -> String {
    let users: Vec<_> = match change {
        UserChange::Set { name, rules } => vec![(name, rules)],
        UserChange::ReplaceAll { users } | UserChange::Import { users, .. } => {
            users.iter().map(|(name, rules)| (name, rules)).collect()
        }
        UserChange::Delete { .. } => Vec::new(),
    };
    let mut hash = Sha256::new();
    for (name, rules) in users {
        hash.update(name.as_bytes());
        for rule in rules {
            hash.update(b" ");
            hash.update(rule.to_text());
        }
        hash.update(b"\n");
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
