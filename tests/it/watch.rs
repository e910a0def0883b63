//! An ACL file on a mounted Secret is watched: what Kubernetes swaps in is in force on all nodes without a restart.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use keyward_tests::{Client, Cluster, wait_until};
use tempfile::TempDir;

const ADMIN: &str = "user default on >admin ~* &* +@all\n";

/// A folder laid out as the kubelet lays out a Secret: `users.acl -> ..data/users.acl`, `..data -> ..<version>`.
struct Secret {
    folder: TempDir,
    version: u32,
}

impl Secret {
    fn holding(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut secret = Self { folder, version: 0 };
        secret.swap(text);
        symlink("..data/users.acl", secret.file()).expect("a link can be made");
        secret
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("users.acl")
    }

    /// What the kubelet does on an update: a new folder, then one rename of the `..data` link.
    fn swap(&mut self, text: &str) {
        self.version += 1;
        let name = format!("..2026_01_14_{}", self.version);
        let folder = self.folder.path().join(&name);
        fs::create_dir(&folder).expect("a folder can be made");
        fs::write(folder.join("users.acl"), text).expect("a file can be written");
        let (link, next) = (self.folder.path().join("..data"), self.folder.path().join("..data_tmp"));
        let old = fs::read_link(&link).ok();
        symlink(&name, &next).expect("a link can be made");
        fs::rename(&next, &link).expect("a link can be renamed");
        if let Some(old) = old {
            fs::remove_dir_all(self.folder.path().join(old)).expect("the old folder can be removed");
        }
    }
}

#[test]
fn a_swapped_secret_is_in_force_on_every_node_without_a_restart() {
    let mut secret = Secret::holding(&format!("{ADMIN}user app on >one ~app:* +@all\nuser gone on >x ~* +@all\n"));
    let cluster = Cluster::of(3).acl_file(&secret.file()).start();
    let mut admin = cluster.node(1).client_as("default", "admin");
    admin.ok(&["ACL", "SETUSER", "runtime", "on", ">secret", "~*", "+@all"]);
    let mut gone = cluster.node(3).client_as("gone", "x");

    secret.swap(&format!("{ADMIN}user app on >two ~new:* +@all\n"));
    for node in cluster.nodes() {
        let mut app = wait_until("the new password works", || Client::login(node.address(), "app", "two").ok());
        app.ok(&["SET", "new:1", "x"]);
        assert!(app.ask(&["GET", "app:1"]).is_error("NOPERM"));
        assert!(Client::login(node.address(), "app", "one").is_err(), "the old password is gone");
        assert!(Client::login(node.address(), "gone", "x").is_err(), "a user that left the file is deleted");
        node.client_as("runtime", "secret");
    }
    wait_until("the deleted user's connection is closed", || gone.is_closed().then_some(()));
}

#[test]
fn a_broken_file_changes_nothing_and_is_logged_with_its_line() {
    let mut secret = Secret::holding(&format!("{ADMIN}user app on >one ~app:* +@all\n"));
    let cluster = Cluster::of(3).acl_file(&secret.file()).start();
    let before = list(&cluster);
    secret.swap(&format!("{ADMIN}user app on >two ~new:* +@all\nuser bad on +nosuchcommand\n"));
    wait_until("some node logs the broken line", || {
        cluster.nodes().iter().any(|node| node.log().contains("users.acl:3")).then_some(())
    });
    assert_eq!(list(&cluster), before);
    cluster.node(2).client_as("app", "one");

    secret.swap(&format!("{ADMIN}user app on >three ~new:* +@all\n"));
    wait_until("the mended file is in force", || Client::login(cluster.node(3).address(), "app", "three").ok());
}

#[test]
fn an_emptied_or_vanished_file_opens_nothing() {
    let mut secret = Secret::holding(&format!("{ADMIN}user app on >one ~app:* +@all\n"));
    let cluster = Cluster::of(1).acl_file(&secret.file()).start();
    secret.swap("");
    // What must not happen cannot be waited for: a later valid change proves that the empty one was looked at.
    secret.swap(&format!("{ADMIN}user app on >two ~app:* +@all\n"));
    wait_until("the later file is in force", || Client::login(cluster.node(1).address(), "app", "two").ok());
    assert!(cluster.node(1).client().ask(&["PING"]).is_error("NOAUTH"));
    remove(&secret.file());
    assert!(cluster.node(1).client().ask(&["PING"]).is_error("NOAUTH"));
    cluster.node(1).client_as("app", "two");
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("the link can be removed");
}

fn list(cluster: &Cluster) -> Vec<String> {
    cluster.node(1).client_as("default", "admin").ask(&["ACL", "LIST"]).texts()
}
