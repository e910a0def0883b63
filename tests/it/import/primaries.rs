//! An import goes on while the nodes that serve the data change: killed, frozen, handed over, started again. Every write of the
//! source is counted: counters and lists would differ by the one that was missed or done twice.

use super::*;
use std::time::Instant;

/// Says of every running node what it tells about the import.
pub(super) fn told_everywhere(cluster: &Cluster, word: &str) {
    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        wait_until(&format!("node {} says {word}", node.number()), || {
            ctl_at(cluster, node.number(), &["import", "status"]).stdout.contains(word).then_some(())
        });
    }
}

/// Hands the data over to another node.
fn hand_over(cluster: &Cluster) {
    let before = cluster.primary();
    let mut client = cluster.node(before).client();
    wait_until("the data is handed over", || {
        (client.ask(&["FAILOVER"]) == Value::Simple("OK".to_owned())).then_some(())
    });
    wait_until("another node serves", || {
        let said = cluster.node(before).client().call(&["ROLE"]).ok()?.to_string();
        said.contains("slave").then_some(())
    });
}

/// Kills whoever serves the data, and starts it again once another one does.
fn replace_primary(cluster: &mut Cluster) {
    let before = cluster.primary();
    cluster.kill(before);
    assert_ne!(cluster.primary(), before);
    told_everywhere(cluster, "following");
    cluster.restart(before);
}

/// Some node that does not serve the data, and runs.
fn other(cluster: &Cluster) -> usize {
    let primary = cluster.primary();
    let running = cluster.nodes().iter().filter(|node| node.is_running());
    running.map(|node| node.number()).find(|node| *node != primary).expect("another node")
}

pub(super) fn cut_over(cluster: &Cluster, writers: Writers, source: &Source) {
    let began = Instant::now();
    let wait = ["import", "cut-over", "--pause-source", "200000", "--wait", "200"];
    let over = ctl_at(cluster, other(cluster), &wait);
    eprintln!("cut over in {:?}", began.elapsed());
    writers.stop(source);
    assert!(over.success && over.stdout.contains("finished"), "{over:?}");
    told_everywhere(cluster, "finished");
}

#[test]
fn an_import_goes_on_where_it_was_when_another_node_serves_the_data() {
    for (program, fields_expire) in [(redis_binary(), false), (valkey_binary(), true)] {
        let Some(program) = program else { continue };
        let source = Source::start(&program, &[]);
        prepare(&source);
        let mut cluster = Cluster::start(3);
        let writers = Writers::start(source.address, 3, fields_expire);
        let begun = ctl_at(&cluster, other(&cluster), &["import", &source.url()]);
        assert!(begun.success && begun.stdout.contains("following"), "{begun:?}");
        let began = Instant::now();
        for _ in 0..2 {
            writers.go_on(1000);
            replace_primary(&mut cluster);
            writers.go_on(1000);
            hand_over(&cluster);
            told_everywhere(&cluster, "following");
        }
        eprintln!("four moves in {:?}", began.elapsed());
        assert_eq!(figure(&cluster, "copies"), Some(1), "another primary cost a whole copy");
        assert_eq!(figure(&cluster, "problems"), Some(0));
        cut_over(&cluster, writers, &source);
        assert_same(&source, &cluster, fields_expire);
        let other = cluster.node(other(&cluster));
        other.client().ok(&["SET", "old:7", "new"]);
    }
}

#[test]
fn a_cut_over_in_the_middle_of_a_failover_waits_for_the_next_primary() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    prepare(&source);
    let mut cluster = Cluster::start(3);
    let writers = Writers::start(source.address, 3, false);
    let begun = ctl(&cluster, &["import", &source.url()]);
    assert!(begun.success, "{begun:?}");
    writers.go_on(1000);
    let primary = cluster.primary();
    cluster.kill(primary);
    cut_over(&cluster, writers, &source);
    assert_same(&source, &cluster, false);
}

#[test]
fn a_frozen_primary_that_comes_back_adds_nothing() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    prepare(&source);
    let cluster = Cluster::start(3);
    let writers = Writers::start(source.address, 2, false);
    let begun = ctl(&cluster, &["import", &source.url()]);
    assert!(begun.success, "{begun:?}");
    writers.go_on(1000);
    let frozen = cluster.primary();
    cluster.pause(frozen);
    let awake: Vec<usize> = (1..=3).filter(|node| *node != frozen).collect();
    let serves = |node: &usize| cluster.node(*node).client().ask(&["ROLE"]).to_string().contains("master");
    wait_until("another node serves", || awake.iter().any(serves).then_some(()));
    wait_until("it is followed again", || {
        ctl_at(&cluster, awake[0], &["import", "status"]).stdout.contains("following").then_some(())
    });
    writers.go_on(1000);
    cluster.resume(frozen);
    told_everywhere(&cluster, "following");
    writers.go_on(500);
    cut_over(&cluster, writers, &source);
    assert_same(&source, &cluster, false);
}

#[test]
fn a_copy_that_its_primary_does_not_live_to_end_is_made_anew_and_nothing_of_the_first_stays() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    prepare(&source);
    source.client().ok(&["DEBUG", "POPULATE", "150000", "many", "300"]);
    let mut cluster = Cluster::start(3);
    let address = cluster.node(other(&cluster)).admin_address().to_string();
    let url = source.url();
    let begun = std::thread::spawn(move || run(&binary("keywardctl"), &["--addr", &address, "import", &url], ""));
    wait_until("some of the copy is here", || figure(&cluster, "keys").is_some_and(|keys| keys > 1000).then_some(()));
    assert!(ctl(&cluster, &["import", "status"]).stdout.contains("copying"));
    let primary = cluster.primary();
    cluster.kill(primary);
    // What the first copy brought is gone at the source by the time of the second.
    let mut there = source.client();
    let gone: Vec<String> = (0..100_000).map(|number| format!("many:{number}")).collect();
    gone.chunks(1000).for_each(|keys| {
        let argv: Vec<&str> = std::iter::once("UNLINK").chain(keys.iter().map(String::as_str)).collect();
        there.ask(&argv);
    });
    let _ = begun.join();
    told_everywhere(&cluster, "following");
    cluster.restart(primary);
    assert_eq!(figure(&cluster, "copies"), Some(2));
    let over = ctl_at(&cluster, other(&cluster), &["import", "cut-over"]);
    assert!(over.success && over.stdout.contains("finished"), "{over:?}");
    assert_same(&source, &cluster, false);
}

#[test]
fn passes_go_on_at_the_next_primary_and_the_password_is_written_nowhere() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    prepare(&source);
    let rules = ["ACL", "SETUSER", "mover", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all", "-psync"];
    source.client().ok(&rules);
    let mut cluster = Cluster::start(3);
    let password = cluster.folder().join("password");
    fs::write(&password, format!("{PASSWORD}\n")).expect("a file can be written");
    let url = format!("redis://mover@{}", source.address);
    let from = ["import", &url, "--source-password-file", &password.to_string_lossy()];
    let begun = ctl_at(&cluster, other(&cluster), &from);
    assert!(begun.success && begun.stdout.contains("scanning"), "{begun:?}");
    fs::remove_file(&password).expect("it was there");
    let writers = Writers::start(source.address, 1, false);
    writers.go_on(300);
    let primary = cluster.primary();
    cluster.kill(primary);
    // The next primary does not remember that it brought this.
    source.client().ask(&["DEL", "old:1"]);
    told_everywhere(&cluster, "scanning");
    cluster.restart(primary);
    cut_over(&cluster, writers, &source);
    assert_same(&source, &cluster, false);
    let holds = |path: &Path| {
        let found = run(Path::new("grep"), &["-rla", PASSWORD, &path.to_string_lossy()], "");
        found.stdout
    };
    assert_eq!(holds(cluster.folder()), "", "the password was written down");
}

#[test]
fn keys_that_were_here_stay_though_another_node_serves_them_when_the_source_is_emptied() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    source.client().ok(&["MSET", "theirs", "1", "both", "theirs"]);
    let mut cluster = Cluster::start(3);
    let mut here = cluster.node(other(&cluster)).client();
    here.ok(&["MSET", "mine", "1", "both", "mine"]);
    assert_eq!(here.ask(&["WAIT", "2", "5000"]), Value::Integer(2));
    let refused = ctl_at(&cluster, other(&cluster), &["import", &source.url()]);
    assert!(!refused.success && refused.stderr.contains("there are 2 keys here already"), "{refused:?}");
    let begun = ctl(&cluster, &["import", &source.url(), "--merge"]);
    assert!(begun.success, "{begun:?}");
    replace_primary(&mut cluster);
    hand_over(&cluster);
    told_everywhere(&cluster, "following");
    source.client().ok(&["FLUSHALL"]);
    let mut here = cluster.node(cluster.primary()).client();
    wait_until("what came is gone", || (here.ask(&["EXISTS", "theirs"]) == Value::Integer(0)).then_some(()));
    assert_eq!(here.ask(&["EXISTS", "mine", "both"]), Value::Integer(2));
    let ended = ctl_at(&cluster, other(&cluster), &["import", "cancel"]);
    assert!(ended.success && ended.stdout.contains("cancelled"), "{ended:?}");
    told_everywhere(&cluster, "cancelled");
}

#[test]
fn a_restart_of_all_nodes_costs_a_copy_and_the_password() {
    let Some(program) = redis_binary() else { return };
    for password in [None, Some(PASSWORD)] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("password");
        fs::write(&file, PASSWORD).expect("a file can be written");
        let mut source = Source::start(&program, &[]);
        prepare(&source);
        if password.is_some() {
            source.client().ok(&["CONFIG", "SET", "requirepass", PASSWORD]);
        }
        let mut cluster = Cluster::start(1);
        let (url, file) = (source.url(), file.to_string_lossy().into_owned());
        let mut from = vec!["import", &url];
        if password.is_some() {
            from.extend(["--source-password-file", &file]);
        }
        let begun = ctl(&cluster, &from);
        assert!(begun.success && begun.stdout.contains("following"), "{begun:?}");
        assert!(cluster.stop(1).success());
        cluster.restart(1);
        if password.is_some() {
            told_everywhere(&cluster, "none knows the password of the source any more");
            told_everywhere(&cluster, "failed");
        } else {
            wait_until("it was copied anew", || (figure(&cluster, "copies")? == 2).then_some(()));
            told_everywhere(&cluster, "following");
            source.client().ok(&["SET", "written since", "1"]);
            let over = ctl(&cluster, &["import", "cut-over"]);
            assert!(over.success, "{over:?}");
            assert_same(&source, &cluster, false);
        }
        source.kill();
    }
}
