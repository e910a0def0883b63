//! `keyward demo`: the README's first command, as a new user meets it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use keyward_tests::{Client, Process, binary, free_block, http_get, redis_cli, run, wait_until};
use rustix::process::Signal;

#[test]
fn the_session_of_the_readme_behaves_as_written() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let first = free_block(3);
    let mut demo = start(folder.path(), first);
    let table = demo.log();
    for word in ["node", "clients", "admin", "http", "pid", "ready"] {
        assert!(table.contains(word), "{word} is missing in:\n{table}");
    }
    for port in [first, first + 1, first + 2, first + 1000, first + 2002] {
        assert!(table.contains(&format!("127.0.0.1:{port}")), "{port} is missing in:\n{table}");
    }
    let cli = |node: u16, arguments: &[&str]| redis_cli(client(first, node), arguments, "").stdout.trim().to_owned();
    assert_eq!(cli(1, &["ACL", "SETUSER", "litellm", "on", ">secret", "~litellm:*", "+@all"]), "OK");
    let litellm = ["--user", "litellm", "--pass", "secret", "--no-auth-warning"];
    let as_litellm = |node: u16, arguments: &[&str]| cli(node, &[&litellm[..], arguments].concat());
    assert_eq!(as_litellm(3, &["SET", "litellm:test:key", "value"]), "OK");
    assert_eq!(as_litellm(1, &["GET", "litellm:test:key"]), "value");
    assert_eq!(
        as_litellm(2, &["GET", "langfuse:test:key"]),
        "NOPERM User litellm has no permissions to access key 'langfuse:test:key' (nearest pattern: '~litellm:*')"
    );
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, first + 1001)).to_string();
    let listed = run(&binary("keywardctl"), &["--addr", &address, "user", "list"], "");
    assert!(listed.success && listed.stdout.contains("litellm"), "{listed:?}");

    demo.signal(Signal::INT);
    assert!(demo.wait_exit().success(), "Ctrl-C ends the demo:\n{}", demo.log());
    for node in 1..=3 {
        wait_until("every node has stopped", || Client::connect(client(first, node)).is_err().then_some(()));
    }

    let demo = start(folder.path(), first);
    assert_eq!(as_litellm(2, &["GET", "litellm:test:key"]), "value", "a second start resumes:\n{}", demo.log());
}

#[test]
fn a_demo_node_that_dies_stays_dead_and_the_others_go_on() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let first = free_block(3);
    let demo = start(folder.path(), first);
    let mut ok = Client::connect(client(first, 1)).expect("node 1 answers");
    ok.ok(&["ACL", "SETUSER", "alice", "on"]);
    let pids = child_pids(demo.pid());
    assert_eq!(pids.len(), 3, "three real node processes: {pids:?}");
    let victim = pids.iter().find(|pid| command_line(**pid).contains(&format!("{}", first + 2))).or(pids.last());
    let victim = victim.expect("there are three");
    let killed = Command::new("kill").args(["-9", &victim.to_string()]).status().expect("kill can be run");
    assert!(killed.success());
    wait_until("two of three are left", || (child_pids(demo.pid()).len() == 2).then_some(()));
    // Its sockets may outlive its first thread by a moment.
    wait_until("two of three answer", || {
        let alive = (1..=3).filter(|node| Client::connect(client(first, *node)).is_ok()).count();
        (alive == 2).then_some(())
    });
    wait_until("two of three commit changes", || {
        (1..=3).find(|node| {
            let reply =
                Client::connect(client(first, *node)).and_then(|mut c| c.call(&["ACL", "SETUSER", "bob", "on"]));
            reply.is_ok_and(|reply| reply.is_ok())
        })
    });
}

fn start(folder: &Path, first: u16) -> Process {
    let mut command = Command::new(binary("keyward"));
    command.args(["demo", "--nodes", "3", "--port", &first.to_string()]).arg("--dir").arg(folder.join("data"));
    let mut demo = Process::spawn(command, &folder.join("demo.log"));
    wait_until("the demo is ready", || {
        if let Some(status) = demo.exited() {
            panic!("the demo ended with {status}:\n{}", demo.log());
        }
        let ready = (0..3).all(|node| {
            let http = SocketAddr::from((Ipv4Addr::LOCALHOST, first + 2000 + node));
            http_get(http, "/readyz").is_some_and(|(status, _)| status == 200)
        });
        (ready && demo.log().contains("ready")).then_some(())
    });
    demo
}

fn client(first: u16, node: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, first + node - 1))
}

fn child_pids(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // pid (name) state parent …; a zombie no longer counts.
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        let mut fields = rest.split(' ');
        let alive = fields.next().is_some_and(|state| state != "Z");
        alive && fields.next().and_then(|text| text.parse().ok()) == Some(parent)
    })
    .collect()
}

fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}
