//! What nobody finds out: passwords in whatever a node writes, and by a login that fails, whether the name or the password
//! was right.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyward_tests::{Cluster, Value, show, wait_until};

/// A password nobody would write by chance, for each way in which one comes.
fn secret(way: &str) -> String {
    format!("s3cr3t-{way}-0815")
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// Hashes of passwords are no secret of the one who has them, but nobody else's either: without salt they can be guessed at.
#[test]
fn nobody_else_on_the_machine_reads_what_a_node_writes() {
    let mut cluster = Cluster::of(1).start();
    let open_to_others = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o077 != 0;
    let data = cluster.node(1).folder().to_owned();
    // As a node of an earlier version left them.
    fs::set_permissions(data.join("log"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    cluster.node(1).client().ok(&["SET", "k", "v"]);
    cluster.restart(1);
    cluster.stop(1);
    let mut written = Vec::new();
    files(&data, &mut written);
    assert!(written.iter().any(|path| path.ends_with("log/db")), "{written:?}");
    let within = |path: &Path| path.ancestors().take_while(|folder| *folder != data).all(open_to_others);
    let open: Vec<_> = written.iter().filter(|path| within(path)).collect();
    // Who this node is.
    let told = |path: &Path| path.ends_with("identity") || path.ends_with("log.mark");
    assert!(open.iter().all(|path| told(path)), "{open:?}");
}

/// Kvrocks#3193 and what Kvrocks logs: tokens in the clear. Here even with everything logged that there is. What a script and its
/// arguments say is the script's own matter, as in Redis: SLOWLOG and MONITOR show them.
#[test]
fn no_file_of_a_node_holds_a_password() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let audit = folder.path().join("audit.jsonl");
    let mut cluster = Cluster::of(1)
        .flag("log-level", "trace")
        .flag("audit-file", &audit.to_string_lossy())
        .flag("audit-data-sample", "1")
        .start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    admin.ok(&["ACL", "SETUSER", "watcher", "on", ">pw", "~*", "&*", "+@all"]);
    let mut watcher = cluster.node(1).client_as("watcher", "pw");
    watcher.ok(&["MONITOR"]);
    let (set, more, refused) = (secret("setuser"), secret("more"), secret("refused"));
    admin.ok(&["ACL", "SETUSER", "u", "on", &format!(">{set}"), &format!(">{more}"), "~u:*", "+@all"]);
    admin.ok(&["ACL", "SETUSER", "u", &format!("<{more}")]);
    assert!(admin.ask(&["ACL", "SETUSER", "u", &format!(">{refused}"), "+no-such-command"]).is_error("ERR"));
    assert!(admin.ask(&["ACL", "SETUSER", "u", &format!("<{refused}")]).is_error("ERR"));
    admin.ok(&["ACL", "SETUSER", "own", "on", &format!(">{}", secret("tenant"))]);
    admin.ok(&["TENANT", "CREATE", "t", "PREFIX", "t:", "USER", "own"]);
    let mut user = cluster.node(1).client();
    user.ok(&["AUTH", "u", &set]);
    for request in [
        &["AUTH", "u", &secret("wrong")][..],
        &["AUTH", "nobody", &secret("nobody")],
        &["AUTH", &secret("alone")],
        &["AUTH", "u", &secret("too-many"), "words"],
        &["HELLO", "3", "AUTH", "u", &secret("hello")],
        &["HELLO", "3", "AUTH", "u", &secret("setname"), "SETNAME", "bad name"],
        &["MIGRATE", "127.0.0.1", "1", "u:1", "0", "1", "AUTH", &secret("migrate")],
        &["MIGRATE", "127.0.0.1", "1", "u:1", "0", "1", "AUTH2", "u", &secret("migrate2")],
        &["CONFIG", "SET", "requirepass", &secret("denied")],
        &["CONFIG", "SET", "masterauth", &secret("masterauth")],
        &["ACL", "SETUSER", "u", &format!(">{}", secret("denied-too"))],
    ] {
        let reply = user.ask(request);
        assert!(matches!(reply, Value::Error(_)), "{request:?}: {}", show(&reply));
    }
    let hello = user.ask(&["HELLO", "3", "AUTH", "u", &set]);
    assert!(!matches!(hello, Value::Error(_)), "{}", show(&hello));
    admin.ok(&["MULTI"]);
    admin.text(&["ACL", "SETUSER", "queued", &format!(">{}", secret("queued"))]);
    admin.ask(&["EXEC"]);
    admin.ok(&["CONFIG", "SET", "requirepass", &secret("requirepass")]);
    let mut default = cluster.node(1).client();
    wait_until("the password of everybody holds", || {
        default.ask(&["AUTH", &secret("requirepass")]).is_ok().then_some(())
    });
    default.ok(&["SET", "u:1", "v"]);
    default.ok(&["SAVE"]);
    wait_until("the audit file has the last login", || {
        fs::read_to_string(&audit).unwrap_or_default().contains("\"user\":\"default\"").then_some(())
    });
    let mut shown = Vec::new();
    for request in [&["SLOWLOG", "GET", "-1"][..], &["ACL", "LOG", "1000"], &["ACL", "LIST"], &["CLIENT", "LIST"]] {
        shown.push((format!("{request:?}"), show(&default.ask(request)).into_bytes()));
    }
    // The last thing it is told.
    default.ok(&["SET", "u:last", "v"]);
    let mut monitored = String::new();
    while !monitored.contains("u:last") {
        monitored.push_str(&show(&watcher.read().expect("it watches")));
    }
    shown.push(("MONITOR".to_owned(), monitored.into_bytes()));
    assert!(cluster.stop(1).success());

    let mut found = vec![audit];
    files(cluster.folder(), &mut found);
    assert!(found.len() > 4, "{found:?}");
    let read = |path: &PathBuf| (path.display().to_string(), fs::read(path).expect("it can be read"));
    shown.extend(found.iter().map(read));
    for (place, bytes) in &shown {
        let text = String::from_utf8_lossy(bytes);
        if let Some(at) = text.find("s3cr3t-") {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            panic!("{place}: {}", text[line..].lines().next().unwrap_or_default());
        }
    }
    let logged = shown.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains("login failed"));
    assert!(logged, "the log was read");
}

/// Whoever guesses learns neither that there is such a user nor that the password was right.
#[test]
fn a_login_that_fails_is_told_the_same_whatever_was_wrong() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    for name in ["on", "off", "of-retired"] {
        admin.ok(&["ACL", "SETUSER", name, "on", ">right", "~t:*", "+@all"]);
    }
    admin.ok(&["ACL", "SETUSER", "off", "off"]);
    admin.ok(&["TENANT", "CREATE", "t", "PREFIX", "t:", "USER", "of-retired"]);
    assert!(cluster.node(1).client().ask(&["AUTH", "of-retired", "right"]).is_ok());
    admin.ok(&["TENANT", "SET", "t", "STATE", "retired"]);
    for (name, password) in [
        ("nobody", "right"),
        ("on", "wrong"),
        ("off", "right"),
        ("off", "wrong"),
        ("of-retired", "right"),
        ("of-retired", "wrong"),
    ] {
        for request in [&["AUTH", name, password][..], &["HELLO", "3", "AUTH", name, password]] {
            let reply = cluster.node(1).client().ask(request);
            let expected = "WRONGPASS invalid username-password pair or user is disabled.";
            assert_eq!(reply, Value::Error(expected.to_owned()), "{request:?}");
        }
    }
    // Operators are told.
    assert!(cluster.node(1).log().contains("tenant is retired"));
}
