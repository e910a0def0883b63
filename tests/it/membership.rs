//! A cluster grows and shrinks under load, and no client notices. How a node joins is its own business; who is a member, and
//! who is no longer, is told by `keywardctl`.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keyward_tests::{Client, Cluster, Value, binary, run, wait_until};

/// Counts up a key of its own, one request at a time, and takes no error for an answer.
struct Writer {
    key: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<Option<String>>,
}

impl Writer {
    fn start(address: SocketAddr) -> Writer {
        let key = format!("count:{}", address.port());
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut client = Client::connect(address).expect("the node is ready");
        client.set_patience(Duration::from_secs(10));
        let thread = {
            let (key, stop, acknowledged) = (key.clone(), Arc::clone(&stop), Arc::clone(&acknowledged));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let done = acknowledged.load(Ordering::SeqCst);
                    match client.call(&["INCR", &key]) {
                        Ok(reply) if reply.to_string() == format!("(integer) {}", done + 1) => {}
                        Ok(reply) => return Some(format!("{key}: request {} was answered with {reply}", done + 1)),
                        Err(error) => return Some(format!("{key}: request {}: {error}", done + 1)),
                    }
                    acknowledged.store(done + 1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(1));
                }
                None
            })
        };
        Writer { key, stop, acknowledged, thread }
    }

    /// Its key and how far it counted.
    fn finish(self) -> (String, u64) {
        self.stop.store(true, Ordering::SeqCst);
        let wrong = self.thread.join().expect("a writer does not panic");
        assert_eq!(wrong, None, "a client noticed");
        (self.key, self.acknowledged.load(Ordering::SeqCst))
    }
}

fn ctl(cluster: &Cluster, through: usize, arguments: &[&str]) -> String {
    let admin = cluster.node(through).admin_address().to_string();
    let ran = run(&binary("keywardctl"), &[&["--addr", &admin, "--timeout", "30"], arguments].concat(), "");
    assert!(ran.success, "keywardctl {arguments:?}: {}{}", ran.stdout, ran.stderr);
    ran.stdout + &ran.stderr
}

/// Waits until a node says that so many members are in sync.
fn in_sync(cluster: &Cluster, through: usize, count: usize) {
    wait_until(&format!("{count} nodes are in sync"), || {
        let info = cluster.node(through).client().text(&["INFO", "replication"]);
        let replicas = info.lines().filter(|line| line.starts_with("slave") && line.contains("in_sync=1")).count();
        (replicas + 1 == count).then_some(())
    });
}

#[test]
fn from_one_to_three_to_five_and_back_without_an_error() {
    let mut cluster = Cluster::of(5).founders(1).flag("ack", "quorum").flag("enable-debug-command", "yes").lay_out();
    cluster.restart(1);
    let mut writers = vec![Writer::start(cluster.node(1).address())];

    for number in [2, 3] {
        cluster.restart(number);
        writers.push(Writer::start(cluster.node(number).address()));
    }
    in_sync(&cluster, cluster.primary(), 3);

    for number in [4, 5] {
        cluster.node_mut(number).set_join(None);
        cluster.spawn(number);
        let (peer, name) = (cluster.node(number).peer_address().to_string(), format!("node-{number}"));
        wait_until("the invited node listens", || TcpStream::connect(&peer).ok().map(drop));
        ctl(&cluster, 2, &["node", "add", &peer, "--name", &name]);
        cluster.wait_ready(number);
        writers.push(Writer::start(cluster.node(number).address()));
    }
    in_sync(&cluster, cluster.primary(), 5);

    // A node loses its disk: it comes back as a new one, and the old id is retired.
    let (through, lost) = (cluster.primary(), if cluster.primary() == 3 { 2 } else { 3 });
    let at = writers.iter().position(|writer| writer.key.ends_with(&cluster.node(lost).address().port().to_string()));
    let mut counted = vec![writers.remove(at.expect("every node has one")).finish()];
    let old = cluster.node(lost).id().expect("it was ready").to_string();
    cluster.kill(lost);
    cluster.node_mut(lost).lose_disk();
    let peer = cluster.node(through).peer_address();
    cluster.node_mut(lost).set_join(Some(peer));
    ctl(&cluster, through, &["node", "remove", &old]);
    cluster.restart(lost);
    assert_ne!(cluster.node(lost).id().expect("it is ready").to_string(), old);
    in_sync(&cluster, cluster.primary(), 5);

    // Two leave, the one that serves the data among them.
    let leaving = [cluster.primary(), (1..=5).rfind(|number| *number != cluster.primary()).expect("there are five")];
    for number in leaving {
        let through = (1..=5).find(|number| !leaving.contains(number)).expect("three stay");
        let port = cluster.node(number).address().port().to_string();
        if let Some(at) = writers.iter().position(|writer| writer.key.ends_with(&port)) {
            counted.push(writers.remove(at).finish());
        }
        let id = cluster.node(number).id().expect("it was ready").to_string();
        ctl(&cluster, through, &["node", "remove", &id]);
        cluster.stop(number);
    }
    let stays = (1..=5).find(|number| !leaving.contains(number)).expect("three stay");
    wait_until("one of those that stay serves the data", || {
        (1..=5).filter(|number| !leaving.contains(number)).find(|number| {
            let info = cluster.node(*number).client().text(&["INFO", "replication"]);
            info.contains("role:master") && info.matches("in_sync=1").count() == 2
        })
    });
    counted.extend(writers.into_iter().map(Writer::finish));
    for (key, count) in counted {
        assert_eq!(cluster.node(stays).client().text(&["GET", &key]), count.to_string(), "{key}");
        assert!(count > 50, "{key} only counted to {count}");
    }
    cluster.copies_agree("the cluster grew and shrank");
}

/// A client that counts up a key of its own, goes to the next address when its connection is closed or refused, and takes no
/// error for an answer.
struct Wanderer {
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<Option<String>>,
}

impl Wanderer {
    fn start(addresses: [SocketAddr; 2], key: String, stop: &Arc<AtomicBool>) -> Wanderer {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (stop, counted) = (Arc::clone(stop), Arc::clone(&acknowledged));
        let thread = thread::spawn(move || {
            for address in addresses.into_iter().cycle() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(mut client) = Client::connect(address) else { continue };
                client.set_patience(Duration::from_secs(10));
                while !stop.load(Ordering::SeqCst) {
                    match client.call(&["INCR", &key]) {
                        Ok(Value::Integer(_)) => counted.fetch_add(1, Ordering::SeqCst),
                        Ok(reply) => return Some(format!("{key}: {reply}")),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(format!("{key}: {error}")),
                        Err(_) => break,
                    };
                }
            }
            None
        });
        Wanderer { acknowledged, thread }
    }

    /// Whether it counted that far, or never will.
    fn is_at(&self, count: u64) -> bool {
        self.acknowledged.load(Ordering::SeqCst) >= count || self.thread.is_finished()
    }
}

/// 467 requests were answered with CLUSTERDOWN over five seconds: the node had given up its lease, and kept its clients.
#[test]
fn clients_of_a_node_that_is_removed_are_sent_away_and_told_no_error() {
    let mut cluster = Cluster::start(4);
    let primary = cluster.primary();
    // One that only forwards, then the one that serves the data.
    let other = primary % 4 + 1;
    let stays = (1..=4).find(|number| ![primary, other].contains(number)).expect("two stay");
    for leaving in [other, primary] {
        let id = cluster.node(leaving).id().expect("it was ready").to_string();
        let addresses = [cluster.node(leaving).address(), cluster.node(stays).address()];
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<Wanderer> =
            (0..8).map(|number| Wanderer::start(addresses, format!("used:{leaving}:{number}"), &stop)).collect();
        wait_until("every client is served", || clients.iter().all(|client| client.is_at(10)).then_some(()));
        let told = ctl(&cluster, stays, &["node", "remove", &id]);
        let name = format!("what tenants used on node-{leaving}");
        assert!(told.contains(&name) && told.contains("operations this month"), "{told}");
        let then: Vec<u64> = clients.iter().map(|client| client.acknowledged.load(Ordering::SeqCst) + 10).collect();
        wait_until("every client goes on", || {
            clients.iter().zip(&then).all(|(client, then)| client.is_at(*then)).then_some(())
        });
        wait_until("the node takes no clients", || TcpStream::connect(addresses[0]).is_err().then_some(()));
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            let wrong = client.thread.join().expect("a client does not panic");
            assert_eq!(wrong, None, "a client of node {leaving} noticed");
        }
        cluster.stop(leaving);
    }
}
