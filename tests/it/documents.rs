//! The rule files of the two documents Keyward was made for load as they are written.

use keyward_tests::{Client, Cluster, Value, wait_until};

/// The pattern document's `users.acl`, rendered: comments, indentation and blank lines as they come out of a template.
pub(crate) const PATTERN: &str = "\
# Default admin user
user default on >admin-password ~* +@all

    # LiteLLM cache user
    user litellm on >litellm-password ~litellm:* +@all

    # Langfuse cache user
    user langfuse on >langfuse-password ~langfuse:* +@all

";

/// The decision record's lines of a redis.conf.
pub(crate) const SERVICES: &str = "\
# Create per-service users
user gw-user on >gw-password ~gw:* &* +@all -@admin
user sub-user on >sub-password ~sub:* &* +@all -@admin
user prob-user on >prob-password ~prob:* &* +@all -@admin
user ghw-user on >ghw-password ~ghw:* &* +@all -@admin
user ai-user on >ai-password ~ai:* &* +@all -@admin
# Disable default user
user default off
";

#[test]
fn the_pattern_documents_file_loads_as_written() {
    let cluster = Cluster::of(3).acl_text(PATTERN).start();
    let mut admin = cluster.node(1).client_as("default", "admin-password");
    assert_eq!(admin.text(&["PING"]), "PONG");
    assert!(cluster.node(1).client().ask(&["PING"]).is_error("NOAUTH Authentication required."));
    let mut litellm = cluster.node(2).client_as("litellm", "litellm-password");
    litellm.ok(&["SET", "litellm:test:key", "value"]);
    assert_eq!(litellm.text(&["GET", "litellm:test:key"]), "value");
    let denied = litellm.ask(&["GET", "langfuse:test:key"]);
    let text =
        "NOPERM User litellm has no permissions to access key 'langfuse:test:key' (nearest pattern: '~litellm:*')";
    assert_eq!(denied, Value::Error(text.to_owned()));
    let mut langfuse = cluster.node(3).client_as("langfuse", "langfuse-password");
    assert!(langfuse.ask(&["GET", "litellm:test:key"]).is_error("NOPERM User langfuse"));
    let lines = admin.ask(&["ACL", "LIST"]).texts();
    for (user, key) in [("default", "~*"), ("langfuse", "~langfuse:*"), ("litellm", "~litellm:*")] {
        let line =
            lines.iter().find(|line| line.starts_with(&format!("user {user} on #"))).expect("the user is listed");
        let tokens: Vec<&str> = line.split(' ').collect();
        assert!(tokens.contains(&key) && tokens.contains(&"+@all"), "{line}");
    }
}

#[test]
fn the_decision_records_lines_load_as_written() {
    let cluster = Cluster::of(3).acl_text(SERVICES).start();
    for service in ["gw", "sub", "prob", "ghw", "ai"] {
        let (user, password) = (format!("{service}-user"), format!("{service}-password"));
        for node in cluster.nodes() {
            let mut client = node.client_as(&user, &password);
            client.ok(&["SET", &format!("{service}:k"), "v"]);
            let foreign = if service == "gw" { "sub:k" } else { "gw:k" };
            assert!(client.ask(&["GET", foreign]).is_error("NOPERM User"), "{user} reads {foreign}");
            assert!(client.ask(&["CONFIG", "GET", "*"]).is_error("NOPERM User"), "{user} reads the configuration");
        }
    }
    assert!(cluster.node(1).client().ask(&["PING"]).is_error("NOAUTH"));
    assert!(Client::login(cluster.node(1).address(), "default", "").is_err());
}

#[test]
fn a_policy_that_does_not_mention_default_closes_it() {
    let cluster = Cluster::of(1).acl_text("user alice on >secret ~* &* +@all\n").start();
    assert!(cluster.node(1).client().ask(&["PING"]).is_error("NOAUTH"));
    let lines = cluster.node(1).client_as("alice", "secret").ask(&["ACL", "LIST"]).texts();
    assert!(lines.iter().any(|line| line.starts_with("user default off ")), "{lines:?}");
}

#[test]
fn windows_line_ends_and_tabs_are_fine() {
    let cluster = Cluster::of(1).acl_text("# a\r\n\r\n\tuser alice on >secret ~* +@all\r\nUSER bob off\r\n").start();
    let mut alice = wait_until("alice can log in", || Client::login(cluster.node(1).address(), "alice", "secret").ok());
    assert_eq!(alice.ask(&["ACL", "USERS"]).texts(), ["alice", "bob", "default"]);
}
