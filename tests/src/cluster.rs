//! A cluster of real `keyward serve` processes on loopback, each with its folder, its ports and its log.
//!
//! Every flag of the node is spelled in `Node::command` and nowhere else. Nodes are counted from 1, as the demo does.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::net::Net;
use crate::process::write_file;
use crate::{Client, Process, binary, free_ports, http_get, wait_until};

/// How many of the log's last lines a failing test prints per node.
const LOG_LINES: usize = 80;

/// What a cluster is made of.
#[derive(Debug)]
pub struct Builder {
    nodes: usize,
    founders: usize,
    flags: Vec<(String, String)>,
    acl_file: Option<PathBuf>,
    acl_text: Option<String>,
    net: Option<Net>,
}

impl Builder {
    /// One more flag for every node: `.flag("maxclients", "10")` becomes `--maxclients 10`.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Every node watches this ACL file.
    #[must_use]
    pub fn acl_file(mut self, path: &Path) -> Self {
        self.acl_file = Some(path.to_owned());
        self
    }

    /// Every node watches an ACL file with this content, kept in the cluster's folder.
    #[must_use]
    pub fn acl_text(mut self, text: &str) -> Self {
        self.acl_text = Some(text.to_owned());
        self
    }

    /// Only the first `founders` nodes form the cluster; the others join it when they are started.
    #[must_use]
    pub fn founders(mut self, founders: usize) -> Self {
        self.founders = founders;
        self
    }

    /// Every node lives in its own namespace of `net`, laid for as many nodes.
    #[must_use]
    pub fn apart(mut self, net: Net) -> Self {
        self.net = Some(net);
        self
    }

    /// Starts every node and waits until each says it is ready.
    pub fn start(self) -> Cluster {
        let mut cluster = self.lay_out();
        for number in 1..=cluster.nodes.len() {
            cluster.spawn(number);
        }
        for number in 1..=cluster.nodes.len() {
            cluster.wait_ready(number);
        }
        cluster
    }

    /// Folders, ports and flags, with nothing started.
    pub fn lay_out(self) -> Cluster {
        let folder =
            tempfile::Builder::new().prefix("keyward-test-").tempdir().expect("a temporary folder can be made");
        let secret = folder.path().join("cluster-secret");
        write_file(&secret, "an-example-secret-for-tests-only-0123456789\n");
        let acl_file = match (&self.acl_text, &self.acl_file) {
            (Some(text), _) => {
                let path = folder.path().join("acl").join("users.acl");
                write_file(&path, text);
                Some(path)
            }
            (None, path) => path.clone(),
        };
        let ports = match self.net {
            // A namespace has all ports to itself.
            Some(_) => [6379, 7379, 8379, 9379].repeat(self.nodes),
            None => free_ports(self.nodes * 4),
        };
        let host = |i: usize| self.net.as_ref().map_or(Ipv4Addr::LOCALHOST, |net| net.host(i + 1));
        let members: Vec<String> =
            (0..self.founders).map(|i| format!("node-{}={}:{}", i + 1, host(i), ports[i * 4 + 3])).collect();
        let nodes = (0..self.nodes)
            .map(|i| Node {
                number: i + 1,
                host: host(i),
                namespace: self.net.as_ref().map(|net| net.namespace(i + 1)),
                ports: [ports[i * 4], ports[i * 4 + 1], ports[i * 4 + 2], ports[i * 4 + 3]],
                folder: folder.path().join(format!("node-{}", i + 1)),
                formation: if i < self.founders {
                    [String::from("--members"), members.join(",")]
                } else {
                    [String::from("--join"), format!("{}:{}", host(0), ports[3])]
                },
                secret: secret.clone(),
                acl_file: acl_file.clone(),
                flags: self.flags.clone(),
                variables: Vec::new(),
                process: None,
                id: OnceLock::new(),
            })
            .collect();
        Cluster { nodes, net: self.net, folder }
    }
}

/// Real nodes that live as long as this value.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    net: Option<Net>,
    folder: TempDir,
}

impl Cluster {
    /// `nodes` ready nodes with no policy source: `default` is open on loopback.
    pub fn start(nodes: usize) -> Self {
        Self::of(nodes).start()
    }

    /// A cluster of `nodes` nodes still to be described.
    pub fn of(nodes: usize) -> Builder {
        Builder { nodes, founders: nodes, flags: Vec::new(), acl_file: None, acl_text: None, net: None }
    }

    /// How many nodes it was made of, running or not.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// A node by its number, from 1.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// A node by its number, from 1, to be changed before it is spawned again.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// The number of the node with this id.
    pub fn number_of(&self, id: u64) -> Option<usize> {
        self.nodes.iter().find(|node| node.id() == Some(id)).map(|node| node.number)
    }

    /// Every node.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The network that can be cut, if it has one.
    pub fn net(&self) -> Option<&Net> {
        self.net.as_ref()
    }

    /// The cluster's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a node's process and returns at once.
    pub fn spawn(&mut self, number: usize) {
        let node = self.node_mut(number);
        fs::create_dir_all(&node.folder).expect("a node's folder can be made");
        let process = Process::spawn(node.command(), &node.log_path());
        node.process = Some(process);
    }

    /// Starts a node and waits until it says it is ready.
    pub fn restart(&mut self, number: usize) {
        self.spawn(number);
        self.wait_ready(number);
    }

    /// Waits until a node says it is ready; panics at once when it has ended instead.
    pub fn wait_ready(&mut self, number: usize) {
        let node = self.node_mut(number);
        wait_until(&format!("node {number} is ready"), || {
            let ended = node.process.as_mut().and_then(Process::exited);
            if let Some(status) = ended {
                panic!("node {number} ended with {status} instead of becoming ready:\n{}", node.log_tail());
            }
            node.is_ready().then_some(())
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.node_mut(number).process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self, number: usize) -> ExitStatus {
        let mut process = self.node_mut(number).process.take().expect("only a running node is stopped");
        process.terminate()
    }

    /// Freezes a node's process: it keeps its sockets and answers nothing.
    pub fn pause(&self, number: usize) {
        let node = self.node(number);
        node.signal(Signal::STOP);
        // A thread that runs on another core stops a moment later.
        let tasks = format!("/proc/{}/task", node.pid());
        let is_stopped = |task: &Path| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        let all = || fs::read_dir(&tasks).into_iter().flatten().flatten().all(|task| is_stopped(&task.path()));
        wait_until("every thread is stopped", || all().then_some(()));
    }

    /// Thaws a paused node.
    pub fn resume(&self, number: usize) {
        self.node(number).signal(Signal::CONT);
    }

    /// The number of the node that serves the data, of several shard groups the first, as the nodes' `INFO replication` says.
    pub fn primary(&self) -> usize {
        wait_until("a node says that it is the primary", || {
            self.nodes.iter().find(|node| node.is_primary()).map(|node| node.number)
        })
    }

    /// The number of the node that serves a shard group, if one of the running ones says so.
    pub fn primary_of(&self, group: usize) -> Option<usize> {
        let field = format!("shard_group{group}:");
        self.nodes.iter().find_map(|node| {
            let text = Client::connect(node.address()).ok()?.call(&["INFO", "replication"]).ok()?.text()?;
            let line = text.lines().find(|line| line.starts_with(&field))?;
            line.contains("role=master").then_some(node.number)
        })
    }

    /// Waits until each of so many shard groups has a node of its own, as they have soon after the founding: whatever a
    /// hand-over interrupts is interrupted until then.
    pub fn spread(&self, groups: usize) {
        wait_until("each group has a node of its own", || {
            let serving: BTreeSet<usize> = (0..groups).filter_map(|group| self.primary_of(group)).collect();
            (serving.len() == groups).then_some(())
        });
    }

    /// Waits until all running nodes hold the same data at the same position, and panics if they never do. The nodes must
    /// allow `DEBUG`.
    pub fn copies_agree(&self, after: &str) {
        if let Some(difference) = self.difference_of_copies() {
            panic!("after {after} the copies differ: {difference}");
        }
    }

    /// The same, but says how they differ.
    pub fn difference_of_copies(&self) -> Option<String> {
        let digests = || -> Vec<String> { self.nodes.iter().filter_map(Node::digest).collect() };
        let (deadline, settled) = (Instant::now() + COPIES_PATIENCE, Instant::now() + Duration::from_secs(1));
        loop {
            let seen = digests();
            if !seen.is_empty() && seen.iter().all(|digest| *digest == seen[0] && digest.ends_with("true")) {
                return None;
            }
            let positions: BTreeSet<&str> = seen
                .iter()
                .filter_map(|digest| digest.rsplit_once(' ')?.0.rsplit_once(' '))
                .map(|(stand, _)| stand)
                .collect();
            // At one position nothing changes any more.
            if Instant::now() > deadline || positions.len() == 1 && Instant::now() > settled {
                return Some(format!("epoch, position, digest: {seen:#?}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Copies are the same within this time.
const COPIES_PATIENCE: Duration = Duration::from_secs(15);

impl Drop for Cluster {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for node in &self.nodes {
            eprintln!("---- log of node {} ----\n{}", node.number, node.log_tail());
        }
    }
}

/// One node: its addresses, its folder and, while it runs, its process.
#[derive(Debug)]
pub struct Node {
    number: usize,
    host: Ipv4Addr,
    namespace: Option<String>,
    /// Clients, admin, http, peers.
    ports: [u16; 4],
    folder: PathBuf,
    /// How it comes to its cluster.
    formation: [String; 2],
    secret: PathBuf,
    acl_file: Option<PathBuf>,
    flags: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    process: Option<Process>,
    id: OnceLock<u64>,
}

impl Node {
    /// The id the cluster gave it, once it was ready.
    pub fn id(&self) -> Option<u64> {
        if let Some(id) = self.id.get() {
            return Some(*id);
        }
        let log = self.log();
        let (_, after) = log.split_once("ready node=")?;
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        Some(*self.id.get_or_init(|| digits.parse().expect("an id is a number")))
    }

    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.ports[0]))
    }

    /// Where `keywardctl` connects.
    pub fn admin_address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.ports[1]))
    }

    /// `/livez`, `/readyz`, `/metrics`.
    pub fn http_address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.ports[2]))
    }

    /// Where other nodes connect.
    pub fn peer_address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.ports[3]))
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The ACL file it watches.
    pub fn acl_file(&self) -> Option<&Path> {
        self.acl_file.as_deref()
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node runs")
    }

    /// The running process' id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node runs").pid()
    }

    /// A variable of its environment when it is spawned next.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Gives a flag another value from the next start on.
    pub fn set_flag(&mut self, name: &str, value: &str) {
        self.flags.retain(|(known, _)| known != name);
        self.flags.push((name.to_owned(), value.to_owned()));
    }

    /// From the next start on it joins through this peer address, or waits to be invited.
    pub fn set_join(&mut self, through: Option<SocketAddr>) {
        self.formation = match through {
            Some(address) => [String::from("--join"), address.to_string()],
            None => [String::from("--await-invitation"), String::from("true")],
        };
    }

    /// What it has on disk is lost, and so is the id it had.
    pub fn lose_disk(&mut self) {
        fs::remove_dir_all(&self.folder).expect("the folder of a stopped node can be removed");
        let _ = fs::remove_file(self.log_path());
        self.id = OnceLock::new();
    }

    /// A connection as `default`.
    pub fn client(&self) -> Client {
        Client::connect(self.address()).unwrap_or_else(|error| panic!("node {} refuses: {error}", self.number))
    }

    /// A connection logged in as `user`.
    pub fn client_as(&self, user: &str, password: &str) -> Client {
        Client::login(self.address(), user, password)
            .unwrap_or_else(|error| panic!("node {} refuses {user}: {error}", self.number))
    }

    /// Whether its process was started and not stopped or killed since.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it says it is ready.
    pub fn is_ready(&self) -> bool {
        http_get(self.http_address(), "/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// Epoch, position and digest of its data, and whether that is whole; `None` while it does not answer.
    pub fn digest(&self) -> Option<String> {
        self.process.as_ref()?;
        let (status, body) = http_get(self.http_address(), "/debug/digest")?;
        (status == 200).then(|| body.trim().to_owned())
    }

    /// A sample of its metrics, by its name and labels; `None` if it has no such one, or while it does not answer.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let (_, metrics) = http_get(self.http_address(), "/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
    }

    /// Everything it has logged, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The command that starts this node.
    pub fn command(&self) -> Command {
        let mut command = match &self.namespace {
            // It becomes the node: signals reach it under the same process id.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary("keyward"));
                command
            }
            None => Command::new(binary("keyward")),
        };
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .arg("serve")
            .args(["--name", &format!("node-{}", self.number)])
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["--bind", &self.address().to_string()])
            .args(["--admin-bind", &self.admin_address().to_string()])
            .args(["--http-bind", &self.http_address().to_string()])
            .args(["--peer-bind", &self.peer_address().to_string()])
            .args(["--advertise-host", &self.host.to_string()])
            .args(&self.formation)
            .arg("--cluster-secret-file")
            .arg(&self.secret);
        if let Some(path) = &self.acl_file {
            command.arg("--acl-file").arg(path);
        }
        for (name, value) in &self.flags {
            command.arg(format!("--{name}")).arg(value);
        }
        command
    }

    fn log_path(&self) -> PathBuf {
        self.folder.with_extension("log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("the node runs").signal(signal);
    }

    fn is_primary(&self) -> bool {
        let Ok(mut client) = Client::connect(self.address()) else { return false };
        let info = client.call(&["INFO", "replication"]).ok().and_then(|reply| reply.text());
        // With several groups the one that serves the first.
        info.is_some_and(|info| match info.lines().find(|line| line.starts_with("shard_group0:")) {
            Some(first) => first.contains("role=master"),
            None => info.lines().any(|line| line.trim() == "role:master"),
        })
    }
}
