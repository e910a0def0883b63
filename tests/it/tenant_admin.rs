//! A user with `role=tenant-admin` sees the users of its own tenant, what their rules are and what they were denied: no hash, no
//! user of anybody else, and it changes nothing.

use keyward_tests::{Client, Cluster, Node, Value, show, wait_until};

/// `boss`, `app` and `reader` are users of `gw`, `other` is of `ai`, `alone` of nobody.
fn scene(nodes: usize) -> (Cluster, Client) {
    let cluster = Cluster::start(nodes);
    let mut admin = cluster.node(1).client();
    for (user, more) in [
        ("boss", &["~*", "+@all", "role=tenant-admin"][..]),
        ("app", &[">another", "~*", "+@all", "limit:connections=50"]),
        ("reader", &["%R~*", "+@read"]),
        ("other", &["~*", "+@all"]),
        ("alone", &["~alone:*", "+@all", "role=tenant-admin"]),
    ] {
        admin.ok(&[&["ACL", "SETUSER", user, "on", ">secret", "&*"], more].concat());
    }
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "boss", "USER", "app", "USER", "reader"]);
    admin.ok(&["TENANT", "CREATE", "ai", "NAMESPACE", "USER", "other"]);
    (cluster, admin)
}

fn as_user(node: &Node, name: &str) -> Client {
    node.client_as(name, "secret")
}

/// The field of `ACL GETUSER`.
fn field(client: &mut Client, user: &str, name: &str) -> Vec<String> {
    let told = client.ask(&["ACL", "GETUSER", user]);
    let items = told.items().unwrap_or_else(|| panic!("{user}: {told}"));
    let at = items.iter().position(|item| item.text().as_deref() == Some(name)).expect("the field is there");
    items[at + 1].texts()
}

/// The answer with the name taken out.
fn without(client: &mut Client, request: &[&str], name: &str) -> String {
    show(&client.ask(request)).replace(name, "NAME")
}

#[test]
fn a_tenant_admin_sees_the_users_of_its_tenant_without_their_hashes_on_every_node() {
    let (cluster, mut admin) = scene(3);
    let hidden = "*".repeat(64);
    for node in cluster.nodes() {
        let mut boss = as_user(node, "boss");
        assert_eq!(boss.ask(&["ACL", "USERS"]).texts(), ["app", "boss", "reader"]);
        let lines = boss.ask(&["ACL", "LIST"]).texts();
        let [app, own, reader] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(*app, format!("user app on limit:connections=50 #{hidden} #{hidden} ~* &* +@all"));
        assert!(reader.starts_with("user reader on #*") && reader.ends_with(" %R~* &* -@all +@read"), "{reader}");
        // What is its own it may know, as every user.
        assert!(
            own.starts_with("user boss on role=tenant-admin #") && !own.contains('*'.to_string().repeat(2).as_str()),
            "{own}"
        );
        assert_eq!(field(&mut boss, "app", "passwords"), [hidden.clone(), hidden.clone()]);
        assert_eq!(field(&mut boss, "app", "flags"), ["on", "limit:connections=50"]);
        assert!(field(&mut boss, "boss", "flags").contains(&"role=tenant-admin".to_owned()));
        assert!(!field(&mut boss, "boss", "passwords").contains(&hidden));
        boss.ok(&["ACL", "DRYRUN", "reader", "GET", "gw:1"]);
        let denied = boss.text(&["ACL", "DRYRUN", "reader", "SET", "gw:1", "v"]);
        assert!(denied.starts_with("User reader has no permissions"), "{denied}");
        assert!(
            boss.text(&["ACL", "DRYRUN", "app", "GET", "ai:1"]).contains("no permissions"),
            "rules hold within the tenant"
        );
        // Who is of another tenant, or of none, does not exist for it: the answers are those for names nobody bears.
        for name in ["other", "alone", "default", "nobody"] {
            assert_eq!(boss.ask(&["ACL", "GETUSER", name]), Value::Nil, "{name}");
            for request in [
                &["ACL", "DRYRUN", name, "GET", "gw:1"][..],
                &["ACL", "DRYRUN", name, "no-such-command"],
                &["CLIENT", "KILL", "USER", name],
            ] {
                let nobodys = request.iter().map(|word| if *word == name { "nobody" } else { word });
                let nobodys: Vec<&str> = nobodys.collect();
                assert_eq!(without(&mut boss, request, name), without(&mut boss, &nobodys, "nobody"), "{request:?}");
            }
        }
        // It changes nobody, itself least of all.
        for request in [
            &["ACL", "SETUSER", "app", "off"][..],
            &["ACL", "SETUSER", "reader", "role=tenant-admin"],
            &["ACL", "SETUSER", "boss", "role=default"],
            &["ACL", "SETUSER", "new", "on"],
            &["ACL", "DELUSER", "reader"],
            &["ACL", "LOAD"],
            &["ACL", "SAVE"],
            &["TENANT", "GET", "gw"],
        ] {
            assert!(boss.ask(request).is_error("NOPERM"), "{request:?}");
        }
        // Nobody else sees more than itself: a user without the role, and one without a tenant.
        for name in ["app", "other", "alone"] {
            let mut plain = as_user(node, name);
            assert_eq!(plain.ask(&["ACL", "USERS"]).texts(), [name]);
            assert_eq!(plain.ask(&["ACL", "GETUSER", "boss"]), Value::Nil, "{name}");
            assert!(plain.ask(&["ACL", "DRYRUN", "reader", "PING"]).is_error("ERR User 'reader' not found"), "{name}");
        }
        assert!(node.client().ask(&["ACL", "LIST"]).texts().iter().all(|line| !line.contains("#*")), "the platform's");
    }
    // Who comes and goes is seen at once, and so is that the role is gone.
    let mut boss = as_user(cluster.node(2), "boss");
    admin.ok(&["TENANT", "SET", "gw", "NOUSER", "reader"]);
    assert_eq!(boss.ask(&["ACL", "USERS"]).texts(), ["app", "boss"]);
    admin.ok(&["ACL", "SETUSER", "later", "on", ">secret", "~*", "+@all"]);
    assert_eq!(boss.ask(&["ACL", "USERS"]).texts(), ["app", "boss"]);
    admin.ok(&["TENANT", "SET", "gw", "USER", "later"]);
    assert_eq!(boss.ask(&["ACL", "USERS"]).texts(), ["app", "boss", "later"]);
    admin.ok(&["ACL", "SETUSER", "boss", "role=default"]);
    assert_eq!(boss.ask(&["ACL", "USERS"]).texts(), ["boss"]);
}

/// Whom the entries of `ACL LOG` are about.
fn denied(client: &mut Client) -> Vec<String> {
    let log = client.ask(&["ACL", "LOG", "100"]);
    let name = |entry: &Value| {
        let items = entry.items().expect("an entry has fields");
        let at = items.iter().position(|item| item.text().as_deref() == Some("username")).expect("a name");
        items[at + 1].text().expect("a name is text")
    };
    let mut names: Vec<String> = log.items().expect("a list").iter().map(name).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_tenant_admin_sees_what_its_tenants_users_were_denied_and_forgets_only_its_own() {
    let (cluster, mut admin) = scene(3);
    for node in cluster.nodes() {
        for name in ["boss", "app", "other", "alone"] {
            assert!(as_user(node, name).ask(&["SHUTDOWN"]).is_error("NOPERM"), "{name}");
        }
        for name in ["reader", "other", "nobody"] {
            assert!(node.client().ask(&["AUTH", name, "a guess"]).is_error("WRONGPASS"), "{name}");
        }
        let mut boss = as_user(node, "boss");
        assert_eq!(denied(&mut boss), ["app", "boss", "reader"]);
        assert_eq!(denied(&mut as_user(node, "app")), ["app"]);
        boss.ok(&["ACL", "LOG", "RESET"]);
        assert_eq!(denied(&mut boss), ["app", "reader"], "nobody wipes away another's traces");
        assert_eq!(denied(&mut node.client()), ["alone", "app", "nobody", "other", "reader"]);
    }
    admin.ok(&["ACL", "SETUSER", "boss", "role=default"]);
    assert_eq!(denied(&mut as_user(cluster.node(2), "boss")), [""; 0]);
}

#[test]
fn the_role_of_a_tenant_admin_comes_from_files_is_shown_and_survives_a_restart() {
    let file = "user default on nopass ~* &* +@all\nuser boss on >secret ~* &* +@all role=tenant-admin\nuser app on >secret ~*\n";
    let mut cluster = Cluster::of(1).acl_text(file).start();
    let mut admin = cluster.node(1).client();
    assert_eq!(field(&mut admin, "boss", "flags"), ["on", "role=tenant-admin"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "boss", "USER", "app"]);
    assert!(admin.ask(&["ACL", "SETUSER", "app", "role=everything"]).is_error("ERR Error in ACL SETUSER modifier"));
    // What is printed can be said again.
    let line =
        admin.ask(&["ACL", "LIST"]).texts().into_iter().find(|line| line.starts_with("user boss")).expect("its line");
    let words: Vec<&str> = line.split(' ').skip(2).collect();
    admin.ok(&[&["ACL", "SETUSER", "twin", "reset"], &words[..]].concat());
    assert_eq!(field(&mut admin, "twin", "flags"), ["on", "role=tenant-admin"]);
    admin.ok(&["ACL", "SETUSER", "twin", "reset"]);
    assert_eq!(field(&mut admin, "twin", "flags"), ["off"]);
    cluster.kill(1);
    cluster.restart(1);
    let mut boss = wait_until("it serves again", || Client::login(cluster.node(1).address(), "boss", "secret").ok());
    assert_eq!(boss.ask(&["ACL", "USERS"]).texts(), ["app", "boss"]);
}
