//! When a node must not start, it says why in a sentence and exits; it never starts open or on damaged state.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keyward_tests::{Cluster, Process, Value, binary, poll, wait_until};

use crate::acl::list;

#[test]
fn a_loopback_node_without_a_policy_is_open_and_warns() {
    let cluster = Cluster::start(1);
    assert_eq!(cluster.node(1).client().text(&["ACL", "WHOAMI"]), "default");
    let log = cluster.node(1).log().to_lowercase();
    assert!(log.contains("warn"), "{log}");
}

#[test]
fn a_reachable_node_without_a_policy_refuses_to_start_and_says_how_to_set_one() {
    let mut cluster = Cluster::of(1).lay_out();
    let port = cluster.node(1).address().port();
    let said = refusal(&mut cluster, &["--bind", &format!("0.0.0.0:{port}"), "--advertise-host", "127.0.0.1"]);
    assert!(said.contains("acl-file") && said.contains("requirepass"), "{said}");
}

#[test]
fn a_bad_acl_file_stops_the_start_and_names_the_line() {
    let text = "# comment\nuser default on >admin ~* +@all\nuser app on >x ~a +nosuchcommand\n";
    let mut cluster = Cluster::of(1).acl_text(text).lay_out();
    let said = refusal(&mut cluster, &[]);
    assert!(said.contains("users.acl:3"), "{said}");
    // Whoever asks before is told the same.
    let file = cluster.folder().join("acl").join("users.acl").to_string_lossy().into_owned();
    let check = || keyward_tests::run(&binary("keyward"), &["config", "check", "--acl-file", &file], "");
    assert!(!check().success && check().stderr.contains("users.acl:3"), "{:?}", check());
    fs::write(&file, "user default on >admin ~* +@all\n").expect("a file can be written");
    assert!(check().success, "{:?}", check());
}

#[test]
fn a_missing_acl_file_stops_the_start() {
    let mut cluster = Cluster::of(1).acl_file(Path::new("/nonexistent/users.acl")).lay_out();
    let said = refusal(&mut cluster, &[]);
    assert!(said.contains("/nonexistent/users.acl"), "{said}");
}

#[test]
fn an_unknown_setting_stops_the_start() {
    let mut cluster = Cluster::of(1).lay_out();
    assert!(refusal(&mut cluster, &["--no-such-setting", "1"]).contains("no-such-setting"));
    let file = cluster.folder().join("keyward.toml");
    fs::write(&file, "maxclient = 10\n").expect("a file can be written");
    let file = file.to_string_lossy().into_owned();
    assert!(refusal(&mut cluster, &["--config", &file]).contains("maxclient"));
    let checked = keyward_tests::run(&binary("keyward"), &["config", "check", "--config", &file], "");
    assert!(!checked.success && checked.stderr.contains("maxclient"), "{checked:?}");
    fs::write(&file, "maxclients = 10\n").expect("a file can be written");
    let checked = keyward_tests::run(&binary("keyward"), &["config", "check", "--config", &file], "");
    assert!(checked.success, "{checked:?}");
}

#[test]
fn settings_come_from_the_file_the_environment_and_the_flags_in_that_order() {
    let mut cluster = Cluster::of(1).lay_out();
    let file = cluster.folder().join("keyward.toml");
    fs::write(&file, "maxclients = 11\nacllog-max-len = 12\n").expect("a file can be written");
    cluster.node_mut(1).set_flag("config", &file.to_string_lossy());
    cluster.node_mut(1).set_flag("acllog-max-len", "13");
    cluster.restart(1);
    let mut client = cluster.node(1).client();
    assert_eq!(client.ask(&["CONFIG", "GET", "maxclients"]).texts(), ["maxclients", "11"]);
    assert_eq!(client.ask(&["CONFIG", "GET", "acllog-max-len"]).texts(), ["acllog-max-len", "13"]);
}

#[test]
fn an_empty_disk_never_takes_up_the_old_identity() {
    let mut cluster = Cluster::start(3);
    cluster.node(1).client().ok(&["ACL", "SETUSER", "alice", "on"]);
    let old = raft_id(&cluster);
    cluster.stop(3);
    fs::remove_dir_all(cluster.node(3).folder()).expect("the folder can be removed");
    cluster.spawn(3);
    let ended = poll(Duration::from_secs(30), || {
        if cluster.node(3).is_ready() { Some(None) } else { cluster.node_mut(3).process().exited().map(Some) }
    });
    match ended.expect("it neither refuses nor joins") {
        // It came back as a new node: with everything it must know, and under an id nobody had before.
        None => {
            assert_ne!(raft_id(&cluster), old, "an empty disk voted under an old id");
            assert_eq!(list(&cluster, 3), list(&cluster, 1));
        }
        Some(status) => assert!(!status.success() && cluster.node(3).log().contains("node-3")),
    }
}

/// The id that node 3 last said it had.
fn raft_id(cluster: &Cluster) -> String {
    let log = cluster.node(3).log();
    let ready = log.lines().rfind(|line| line.contains(" ready ")).expect("a node says when it is ready");
    ready.split_whitespace().find(|word| word.starts_with("node=")).expect("it says its id").to_owned()
}

#[test]
fn a_damaged_raft_store_refuses_to_start_and_says_so() {
    let mut cluster = Cluster::start(3);
    for number in 0..50 {
        cluster.node(1).client().ok(&["ACL", "SETUSER", &format!("user-{number}"), "on", ">secret", "~*"]);
    }
    cluster.stop(3);
    let store = largest_file_named(cluster.node(3).folder(), "db").expect("the Raft store is a file called db");
    let mut file = OpenOptions::new().write(true).open(&store).expect("the store can be written");
    let length = file.metadata().expect("the store has a size").len();
    file.seek(SeekFrom::Start(length / 4)).expect("within the file");
    let garbage = vec![0xA5; usize::try_from(length / 2).expect("the store is small")];
    file.write_all(&garbage).expect("the store can be written");
    drop(file);
    let said = refusal(&mut cluster, &[]);
    println!("the node says: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(cluster.node(1).client().text(&["PING"]), "PONG");
}

#[test]
fn two_nodes_cannot_share_a_folder_or_a_port() {
    let mut cluster = Cluster::start(1);
    let said = refusal(&mut cluster, &[]);
    assert!(!said.is_empty());
    assert_eq!(cluster.node(1).client().text(&["PING"]), "PONG", "the first one goes on");
}

#[test]
fn a_node_with_another_secret_is_not_let_in() {
    let mut cluster = Cluster::start(3);
    cluster.stop(3);
    let other = cluster.folder().join("other-secret");
    fs::write(&other, "quite-another-secret-0123456789abcdef\n").expect("a file can be written");
    let mut command = cluster.node(3).command();
    replace_argument(&mut command, "--cluster-secret-file", &other.to_string_lossy());
    let log = cluster.folder().join("stranger.log");
    let mut stranger = Process::spawn(command, &log);
    cluster.node(1).client().ok(&["ACL", "SETUSER", "alice", "on"]);
    wait_until("somebody says that the secret is wrong", || {
        let complained = stranger.log().contains("secret is missing or wrong")
            || cluster.node(1).log().contains("secret is missing or wrong");
        (stranger.exited().is_some() || complained).then_some(())
    });
    assert!(!cluster.node(3).is_ready());
}

/// Starts the last node with more flags, which must end it with a message and no success.
fn refusal(cluster: &mut Cluster, flags: &[&str]) -> String {
    let number = cluster.size();
    fs::create_dir_all(cluster.node(number).folder()).expect("a node's folder can be made");
    let mut command = cluster.node(number).command();
    for pair in flags.chunks(2) {
        replace_argument(&mut command, pair[0], pair[1]);
    }
    let log = cluster.folder().join("refusal.log");
    let _ = fs::remove_file(&log);
    let mut process = Process::spawn(command, &log);
    let status = poll(Duration::from_secs(30), || process.exited());
    let status = status.unwrap_or_else(|| panic!("it goes on:\n{}", process.log()));
    assert!(!status.success(), "it ended with success:\n{}", process.log());
    process.log()
}

/// Flags may be given once: a changed one replaces the harness' own.
fn replace_argument(command: &mut Command, flag: &str, value: &str) {
    let mut arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    match arguments.iter().position(|argument| argument == flag) {
        Some(at) => arguments[at + 1] = value.into(),
        None => arguments.extend([flag.into(), value.into()]),
    }
    let mut changed = Command::new(command.get_program());
    changed.args(arguments);
    *command = changed;
}

fn largest_file_named(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a node's folder can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|file| file == name) {
                found.push((entry.metadata().map_or(0, |meta| meta.len()), path));
            }
        }
    }
    found.into_iter().max().map(|(_, path)| path)
}

/// A snapshot that takes a while to load: a million keys, as another server would have written it.
fn large_snapshot(path: &Path) {
    let mut file = b"REDIS0009\xfe\x00".to_vec();
    for number in 0..1_000_000 {
        let key = format!("key:{number:07}");
        let value = [b'v'; 60];
        file.push(0);
        for text in [key.as_bytes(), &value] {
            file.push(text.len() as u8);
            file.extend_from_slice(text);
        }
    }
    // The end, and that there is no checksum.
    file.extend_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder can be made");
    fs::write(path, file).expect("a snapshot can be written");
}

#[test]
fn a_node_that_is_loading_ends_at_once_when_told_to_and_its_data_stays() {
    let mut cluster = Cluster::of(1).lay_out();
    let snapshot = cluster.node(1).folder().join("dump.rdb");
    large_snapshot(&snapshot);
    let bytes = fs::metadata(&snapshot).expect("the snapshot is there").len();
    cluster.spawn(1);
    wait_until("the node is loading", || cluster.node(1).log().contains("loading data").then_some(()));
    let process = cluster.node_mut(1).process();
    process.signal(rustix::process::Signal::TERM);
    let ended = poll(Duration::from_secs(20), || process.exited()).expect("the signal was swallowed");
    assert!(ended.success(), "{ended}");
    let log = cluster.node(1).log();
    assert!(!log.contains(" ready "), "it was to be told while it was loading: {log}");
    assert_eq!(fs::metadata(&snapshot).expect("the snapshot is there").len(), bytes);
}

#[test]
fn a_node_that_has_just_begun_to_start_ends_at_once_when_told_to() {
    for delay_ms in [30, 100, 200, 400] {
        let mut cluster = Cluster::of(1).lay_out();
        cluster.spawn(1);
        // At which step the signal finds it is left to chance: at none may it be lost.
        std::thread::sleep(Duration::from_millis(delay_ms));
        let process = cluster.node_mut(1).process();
        process.signal(rustix::process::Signal::TERM);
        let ended = poll(Duration::from_secs(20), || process.exited());
        assert!(ended.is_some(), "after {delay_ms} ms: {}", cluster.node(1).log());
    }
}

#[test]
fn a_script_without_an_end_keeps_no_node_from_stopping() {
    for (program, saved) in [
        ("while true do end", true),
        ("redis.call('SET', 'half', '1') while true do end", false),
        // Known to be quick, it is run where requests are read.
        ("if ARGV[1] == 'long' then while true do end end", true),
        ("if ARGV[1] == 'long' then redis.call('SET', 'half', '1') while true do end end", false),
    ] {
        let mut cluster = Cluster::of(1).flag("shutdown-timeout", "3s").start();
        let mut client = cluster.node(1).client();
        client.ok(&["CONFIG", "SET", "busy-reply-threshold", "100"]);
        client.ok(&["SET", "k", "v"]);
        if program.starts_with("if") {
            (0..20).for_each(|_| drop(client.ask(&["EVAL", program, "0", "short"])));
        }
        client.send(&["EVAL", program, "0", "long"]).expect("it reads");
        wait_until("the script keeps others waiting", || {
            cluster.node(1).log().contains("keeps others waiting").then_some(())
        });
        assert!(cluster.stop(1).success());
        assert_eq!(cluster.node(1).log().contains("the data was not saved"), !saved, "{}", cluster.node(1).log());
        cluster.spawn(1);
        cluster.wait_ready(1);
        let mut client = cluster.node(1).client();
        assert_eq!(client.ask(&["EXISTS", "half"]), Value::Integer(0), "a script is done as a whole or not at all");
        assert_eq!(client.ask(&["EXISTS", "k"]), Value::Integer(i64::from(saved)));
    }
}

#[test]
fn a_primary_hands_over_whatever_script_runs_without_an_end() {
    let mut cluster = Cluster::of(3).flag("shutdown-timeout", "3s").flag("enable-debug-command", "yes").start();
    let primary = cluster.primary();
    let mut client = cluster.node(primary).client();
    client.ok(&["CONFIG", "SET", "busy-reply-threshold", "100"]);
    client.ok(&["SET", "k", "v"]);
    client.send(&["EVAL", "while true do end", "0"]).expect("it reads");
    wait_until("the script keeps others waiting", || {
        cluster.node(primary).log().contains("keeps others waiting").then_some(())
    });
    assert!(cluster.stop(primary).success());
    let log = cluster.node(primary).log();
    assert!(log.contains("the data is served elsewhere now"), "{log}");
    assert_eq!(cluster.node(primary % 3 + 1).client().text(&["GET", "k"]), "v");

    // One that has written is waited for, and then lost as a whole.
    cluster.restart(primary);
    cluster.copies_agree("a restart");
    let primary = cluster.primary();
    let mut client = cluster.node(primary).client();
    client.ok(&["CONFIG", "SET", "busy-reply-threshold", "100"]);
    client.send(&["EVAL", "redis.call('SET', 'half', '1') while true do end", "0"]).expect("it reads");
    wait_until("the script keeps others waiting", || {
        cluster.node(primary).log().contains("keeps others waiting").then_some(())
    });
    assert!(cluster.stop(primary).success());
    let other = cluster.node(primary % 3 + 1);
    wait_until("another node serves", || other.client().ask(&["GET", "k"]).text().filter(|text| text == "v"));
    assert_eq!(other.client().ask(&["EXISTS", "half"]), Value::Integer(0));
}

#[test]
fn a_misspelt_variable_is_said_by_a_check_and_warned_of_by_a_node() {
    let misspelt = [("KEYWARD_MAXMEMRY", "1gb-of-a-secret")];
    let checked = check_with(&misspelt);
    assert!(!checked.status.success());
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(said, "keyward: KEYWARD_MAXMEMRY is no setting; the nearest one is KEYWARD_MAXMEMORY\n");
    let checked = check_with(&[("KEYWARD_PORT", "tcp://10.0.0.1:6379"), ("KEYWARD_SERVICE_HOST", "10.0.0.1")]);
    assert!(checked.status.success(), "{checked:?}");

    let mut cluster = Cluster::of(1).lay_out();
    cluster.node_mut(1).set_variable("KEYWARD_MAXMEMRY", "1gb-of-a-secret");
    cluster.node_mut(1).set_variable("KEYWARD_SERVICE_HOST", "10.0.0.1");
    cluster.spawn(1);
    cluster.wait_ready(1);
    let log = cluster.node(1).log();
    assert!(log.contains("KEYWARD_MAXMEMRY is no setting; the nearest one is KEYWARD_MAXMEMORY"), "{log}");
    assert!(!log.contains("1gb-of-a-secret") && !log.contains("KEYWARD_SERVICE_HOST"), "{log}");
}

/// `keyward config check` with these variables and no others of ours.
fn check_with(variables: &[(&str, &str)]) -> std::process::Output {
    let mut command = Command::new(binary("keyward"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KEYWARD_")) {
        command.env_remove(name);
    }
    command.args(["config", "check"]).envs(variables.iter().copied()).output().expect("the node can be run")
}
