//! A source moves into a cluster of several shard groups, some of whose primaries do not live to see the end. Much of what is written there
//! names keys of several groups.

use super::primaries::{cut_over, told_everywhere};
use super::*;

fn grouped(groups: usize) -> Cluster {
    let cluster = Cluster::of(3).flag("groups", &groups.to_string()).start();
    // A group that is handed over while the source is copied costs another copy.
    cluster.spread(groups);
    cluster
}

#[test]
fn a_source_moves_into_two_groups_while_their_primaries_change() {
    for (program, fields_expire) in [(redis_binary(), false), (valkey_binary(), true)] {
        let Some(program) = program else { continue };
        let source = Source::start(&program, &[]);
        prepare(&source);
        let mut cluster = grouped(2);
        let writers = Writers::start(source.address, 2, fields_expire);
        let begun = ctl(&cluster, &["import", &source.url()]);
        assert!(begun.success && begun.stdout.contains("following"), "{begun:?}");
        // A primary that is lost before anybody else knows that the copy is whole costs another one.
        let mut client = cluster.node(1).client();
        for of_each_group in ["foo", "bar"] {
            client.ok(&["SET", of_each_group, "1"]);
        }
        assert_eq!(client.ask(&["WAIT", "2", "15000"]), Value::Integer(2));
        assert_eq!(client.ask(&["DEL", "foo", "bar"]), Value::Integer(2));
        for node in 1..=3 {
            writers.go_on(300);
            cluster.kill(node);
            // Whatever it served is served elsewhere by now, or it served nothing.
            told_everywhere(&cluster, "following");
            cluster.restart(node);
            writers.go_on(200);
        }
        for node in 1..=2 {
            assert!(cluster.stop(node).success());
            writers.go_on(300);
            cluster.restart(node);
            told_everywhere(&cluster, "following");
        }
        assert_eq!(figure(&cluster, "copies"), Some(1), "another primary cost a whole copy");
        let status = ctl(&cluster, &["import", "status"]);
        assert!(status.stdout.contains("group 1"), "{status:?}");
        assert_eq!(figure(&cluster, "problems"), Some(0), "{status:?}");
        cut_over(&cluster, writers, &source);
        assert_same(&source, &cluster, fields_expire);
        // A node that starts from its disk lacks what is past its expiry, of which the source may yet speak: it takes a copy.
        for node in cluster.nodes() {
            assert!(!node.log().contains("cannot be carried out here"), "a copy of node {} lacked keys", node.number());
        }
    }
}

#[test]
fn a_source_that_may_not_be_followed_is_read_into_three_groups_in_passes() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    prepare(&source);
    let cluster = grouped(3);
    let writers = Writers::start(source.address, 1, false);
    let begun = ctl(&cluster, &["import", &source.url(), "--scan"]);
    assert!(begun.success && begun.stdout.contains("scanning"), "{begun:?}");
    writers.go_on(500);
    source.client().ask(&["DEL", "old:1"]);
    cut_over(&cluster, writers, &source);
    assert_same(&source, &cluster, false);
}

#[test]
fn an_import_that_runs_keeps_slots_where_they_are() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    let cluster = grouped(2);
    let begun = ctl(&cluster, &["import", &source.url()]);
    assert!(begun.success, "{begun:?}");
    let refused = ctl(&cluster, &["slots", "move", "0-5", "--to", "1"]);
    assert!(!refused.success && refused.stderr.contains("an import is running"), "{refused:?}");
    let mut there = source.client();
    there.ok(&["MULTI"]);
    for key in ["a", "b", "c", "d", "e"] {
        there.ask(&["SET", key, "1"]);
    }
    there.ask(&["EXEC"]);
    there.ok(&["RENAME", "a", "f"]);
    there.ask(&["LMOVE", "none", "other", "LEFT", "LEFT"]);
    let mut here = cluster.node(2).client();
    let all = ["EXISTS", "b", "c", "d", "e", "f"];
    wait_until("it is here", || (here.ask(&all) == Value::Integer(5)).then_some(()));
    there.ok(&["FLUSHALL"]);
    wait_until("it is gone", || (here.ask(&["DBSIZE"]) == Value::Integer(0)).then_some(()));
    let ended = ctl(&cluster, &["import", "cancel"]);
    assert!(ended.success && ended.stdout.contains("cancelled"), "{ended:?}");
    let moved = ctl(&cluster, &["slots", "move", "0-5", "--to", "1"]);
    assert!(moved.success, "{moved:?}");
}
