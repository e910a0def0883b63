//! `keyward demo`: a cluster on this machine, made of the same `keyward serve` processes that run anywhere else. Knows
//! which ports and folders its nodes have and watches that they live; of what a node does it knows only `/readyz`.
//! A node that dies stays dead, since seeing what the others do then is what a demo is for.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

const NODES_DEFAULT: u16 = 3;
const PORT_DEFAULT: u16 = 6379;

/// What a node is given to stop by itself; then it gets a little longer before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const KILL_AFTER: Duration = Duration::from_secs(20);

/// Between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A cluster that is not ready by then is reported, and again after as long.
const REPORT_UNREADY_EVERY: Duration = Duration::from_secs(30);

const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of the environment that would make a node something else than a part of this demo.
const NOT_INHERITED: [&str; 8] = [
    "KEYWARD_CONFIG",
    "KEYWARD_JOIN",
    "KEYWARD_CLUSTER_SECRET",
    "KEYWARD_ADVERTISE_HOST",
    "KEYWARD_ADVERTISE_CLIENT_PORT",
    "KEYWARD_ADVERTISE_ADMIN_PORT",
    "KEYWARD_ADVERTISE_PEER_PORT",
    "KEYWARD_ACL_FILE",
];

/// A cluster of real nodes on this machine.
#[derive(Clone, Debug, clap::Args)]
pub struct Demo {
    /// How many nodes [default: 3, or what the folder holds]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,
    /// Client port of node 1; node I has PORT+I-1, and admin, http and peer ports 1000, 2000, 3000 above [default: 6379, or
    /// what the folder holds]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=62_000))]
    port: Option<u16>,
    /// Where data, logs and the cluster secret are kept; started again on the same folder, the demo resumes
    #[arg(long, default_value = "./keyward-demo")]
    dir: PathBuf,
    /// ACL file for all nodes, watched
    #[arg(long)]
    acl_file: Option<PathBuf>,
}

/// Why a demo did not start, or ended by itself: one sentence.
#[derive(Debug)]
pub struct DemoError(String);

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DemoError {}

/// Runs the demo until Ctrl-C, SIGTERM, or the end of its last node.
pub fn run(demo: &Demo) -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| DemoError(format!("the demo cannot start: {error}")))?;
    runtime.block_on(async {
        // First of all, so that a Ctrl-C while starting stops what was started.
        let mut stop =
            StopSignals::listen().map_err(|error| DemoError(format!("signals cannot be handled: {error}")))?;
        let folder = Folder::open(demo)?;
        let mut nodes = folder.start()?;
        say(&table(&nodes));
        let ended = watch(&mut nodes, &folder, &mut stop).await;
        stop_all(&mut nodes, &mut stop).await;
        ended
    })
}

/// Asks for SIGTERM once standard input ends, which it does when the parent holding the other end is gone, however it
/// went. For `serve --exit-with-parent`.
pub fn exit_with_parent() {
    let watch = || {
        let mut ignored = [0; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(1..)) {}
        let _alive_as_we_are = kill_process(rustix::process::getpid(), Signal::TERM);
    };
    // A thread of its own, as nothing else can wait for standard input without blocking others.
    let started = std::thread::Builder::new().name("parent".to_owned()).spawn(watch);
    if let Err(error) = started {
        tracing::warn!(%error, "the end of the parent will not be noticed");
    }
}

/// The demo's folder, locked, with what it holds.
struct Folder {
    path: PathBuf,
    nodes: u16,
    port: u16,
    acl_file: Option<PathBuf>,
    /// Held as long as the demo runs; the system lets go of it however the demo ends.
    _lock: File,
}

impl Folder {
    fn open(demo: &Demo) -> Result<Self, DemoError> {
        let path = demo.dir.clone();
        let failed = |what: &str, error: io::Error| DemoError(format!("{}: {what}: {error}", demo.dir.display()));
        fs::create_dir_all(&path).map_err(|error| failed("cannot be created", error))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(|error| failed("cannot be locked", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DemoError(format!(
                    "another demo runs in {}; stop it, or give another --dir",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed("cannot be locked", error)),
        }
        let (nodes, port) = shape(demo, &path)?;
        check_ports(nodes, port)?;
        // Only now, so that a mistyped port is not remembered.
        fs::write(path.join("shape"), format!("{nodes} {port}\n"))
            .map_err(|error| failed("cannot be written", error))?;
        make_secret(&path.join("cluster-secret")).map_err(|error| failed("cluster-secret cannot be made", error))?;
        Ok(Self { path, nodes, port, acl_file: demo.acl_file.clone(), _lock: lock })
    }

    fn node_folder(&self, number: u16) -> PathBuf {
        self.path.join(format!("node-{number}"))
    }

    fn start(&self) -> Result<Vec<Node>, DemoError> {
        let mut nodes = Vec::new();
        for number in 1..=self.nodes {
            // Dropping the nodes that already run ends them: the other end of their standard input closes.
            let node = self.start_node(number);
            nodes.push(node.map_err(|error| DemoError(format!("node {number} cannot be started: {error}")))?);
        }
        Ok(nodes)
    }

    fn start_node(&self, number: u16) -> io::Result<Node> {
        let folder = self.node_folder(number);
        fs::create_dir_all(&folder)?;
        let log = OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
        let ports = Ports::of(self.port, number);
        let members: Vec<String> = (1..=self.nodes)
            .map(|number| format!("node-{number}=127.0.0.1:{}", Ports::of(self.port, number).peers))
            .collect();
        // Otherwise each node would take three quarters of this machine for itself.
        let share = 75 / self.nodes;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--exit-with-parent");
        command.arg("--name").arg(format!("node-{number}")).arg("--data-dir").arg(folder.join("data"));
        for (flag, port) in [
            ("--bind", ports.clients),
            ("--admin-bind", ports.admin),
            ("--http-bind", ports.http),
            ("--peer-bind", ports.peers),
        ] {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        command
            .arg("--members")
            .arg(members.join(","))
            .arg("--cluster-secret-file")
            .arg(self.path.join("cluster-secret"));
        command.arg("--shutdown-timeout").arg(format!("{}s", STOP_TIMEOUT.as_secs()));
        if std::env::var_os("KEYWARD_MAXMEMORY").is_none() {
            command.arg("--maxmemory").arg(format!("{share}%"));
        }
        for variable in NOT_INHERITED {
            command.env_remove(variable);
        }
        if let Some(file) = &self.acl_file {
            command.arg("--acl-file").arg(file);
        }
        // A group of its own: Ctrl-C in the terminal reaches the demo alone, which then stops its nodes in good order.
        command.process_group(0).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        Ok(Node { number, ports, child, ended: false })
    }
}

/// How many nodes at which port: as asked, but never other than what the folder was made with, since the cluster in it
/// knows its members and their addresses.
fn shape(demo: &Demo, path: &Path) -> Result<(u16, u16), DemoError> {
    let kept = fs::read_to_string(path.join("shape")).ok();
    let kept =
        kept.and_then(|text| text.trim().split_once(' ').map(|(nodes, port)| (nodes.parse().ok(), port.parse().ok())));
    match kept {
        Some((Some(nodes), Some(port))) => {
            if demo.nodes.is_some_and(|asked| asked != nodes) || demo.port.is_some_and(|asked| asked != port) {
                return Err(DemoError(format!(
                    "{} holds a demo of {nodes} nodes at port {port}; resume it without --nodes and --port, or give another --dir",
                    path.display()
                )));
            }
            Ok((nodes, port))
        }
        Some(_) => Err(DemoError(format!("{} is damaged; give another --dir", path.join("shape").display()))),
        None => Ok((demo.nodes.unwrap_or(NODES_DEFAULT), demo.port.unwrap_or(PORT_DEFAULT))),
    }
}

fn check_ports(nodes: u16, port: u16) -> Result<(), DemoError> {
    for number in 1..=nodes {
        let ports = Ports::of(port, number);
        for (port, whose) in
            [(ports.clients, "clients"), (ports.admin, "admin"), (ports.http, "http"), (ports.peers, "peers")]
        {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                return Err(DemoError(format!(
                    "port {port} ({whose} of node {number}) cannot be used: {error}; nothing was started, --port chooses others"
                )));
            }
        }
    }
    Ok(())
}

/// 32 random bytes as text, made once and for the owner alone.
fn make_secret(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        opened => opened?,
    };
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{text}")?;
    file.sync_all()
}

/// The four ports of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    clients: u16,
    admin: u16,
    http: u16,
    peers: u16,
}

impl Ports {
    fn of(port: u16, number: u16) -> Self {
        let clients = port + number - 1;
        Self { clients, admin: clients + 1000, http: clients + 2000, peers: clients + 3000 }
    }
}

/// One running process.
struct Node {
    number: u16,
    ports: Ports,
    /// Its standard input stays open as long as the demo lives.
    child: Child,
    ended: bool,
}

impl Node {
    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| !self.ended) {
            // It may have ended by itself a moment ago; until `wait` its id belongs to nobody else.
            let _gone = kill_process(pid, Signal::TERM);
        }
    }

    /// The end of the process, once.
    fn end(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten().filter(|_| !self.ended)?;
        self.ended = true;
        Some(status)
    }

    /// `Ok` if the node is ready, otherwise why not.
    async fn ready(&self) -> Result<(), String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports.http)).await?;
            stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
            let mut answer = Vec::new();
            stream.take(64 * 1024).read_to_end(&mut answer).await?;
            io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        match tokio::time::timeout(PROBE_TIMEOUT, ask).await {
            Err(_) => Err("no answer".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(answer)) if answer.split(' ').nth(1) == Some("200") => Ok(()),
            Ok(Ok(answer)) => Err(answer.lines().last().unwrap_or_default().to_owned()),
        }
    }
}

fn table(nodes: &[Node]) -> String {
    let mut out = row("node", ["clients", "admin (gRPC)", "http"], "pid");
    for node in nodes {
        let places = [node.ports.clients, node.ports.admin, node.ports.http].map(|port| format!("127.0.0.1:{port}"));
        out += &row(&node.number.to_string(), places.each_ref().map(String::as_str), &node.child.id().to_string());
    }
    out
}

fn row(node: &str, [clients, admin, http]: [&str; 3], pid: &str) -> String {
    format!("  {node:<4}  {clients:<15}  {admin:<15}  {http:<15}  {pid}\n")
}

/// To standard output. Nobody reading it is no reason to end the cluster.
fn say(text: &str) {
    let _nobody_reads = io::stdout().write_all(text.as_bytes());
}

/// Tells when the cluster is ready and which nodes end, until it is to stop or nothing is left.
async fn watch(nodes: &mut [Node], folder: &Folder, stop: &mut StopSignals) -> Result<(), DemoError> {
    let mut ready = false;
    let mut report_at = Instant::now() + REPORT_UNREADY_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.received() => return Ok(()),
        }
        for node in nodes.iter_mut() {
            if let Some(status) = node.end() {
                let log = folder.node_folder(node.number).join("log");
                say(&format!("  node {} ended ({status}); its log is {}\n", node.number, log.display()));
            }
        }
        if nodes.iter().all(|node| node.ended) {
            return Err(DemoError("every node has ended".to_owned()));
        }
        if ready || nodes.iter().any(|node| node.ended) {
            continue;
        }
        match first_unready(nodes).await {
            None => {
                ready = true;
                let port = folder.port;
                say(&format!(
                    "  ready: try  redis-cli -p {port} ACL SETUSER litellm on '>secret' '~litellm:*' +@all\n"
                ));
            }
            Some((number, why)) if Instant::now() >= report_at => {
                report_at += REPORT_UNREADY_EVERY;
                say(&format!("  not ready yet: node {number}: {why}\n"));
            }
            Some(_) => {}
        }
    }
}

async fn first_unready(nodes: &[Node]) -> Option<(u16, String)> {
    for node in nodes {
        if let Err(why) = node.ready().await {
            return Some((node.number, why));
        }
    }
    None
}

/// Asks all nodes to stop and waits; a second Ctrl-C, or too long a wait, kills them.
async fn stop_all(nodes: &mut [Node], stop: &mut StopSignals) {
    nodes.iter().for_each(Node::terminate);
    let all_ended = async {
        while nodes.iter_mut().any(|node| node.end().is_none() && !node.ended) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = all_ended => return,
        () = tokio::time::sleep(KILL_AFTER) => {}
        () = stop.received() => {}
    }
    for node in nodes.iter_mut().filter(|node| !node.ended) {
        say(&format!("  node {} did not stop and is killed\n", node.number));
        let _gone = node.child.kill();
        let _reaped = node.child.wait();
    }
}

/// The signals that mean "stop".
struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn demo(dir: &Path, nodes: Option<u16>, port: Option<u16>) -> Demo {
        Demo { nodes, port, dir: dir.to_owned(), acl_file: None }
    }

    /// A block of ports that nobody uses at the moment.
    fn free_port() -> u16 {
        (0..50).map(|try_number| 20_000 + try_number * 17).find(|port| check_ports(2, *port).is_ok()).unwrap()
    }

    #[test]
    fn the_table_is_aligned_as_people_know_it() {
        let row_of = |port: u16| {
            let ports = Ports::of(port, 2);
            let places = [ports.clients, ports.admin, ports.http].map(|port| format!("127.0.0.1:{port}"));
            row("2", places.each_ref().map(String::as_str), "4711")
        };
        assert_eq!(
            row("node", ["clients", "admin (gRPC)", "http"], "pid"),
            "  node  clients          admin (gRPC)     http             pid\n"
        );
        assert_eq!(row_of(6379), "  2     127.0.0.1:6380   127.0.0.1:7380   127.0.0.1:8380   4711\n");
        assert_eq!(row_of(16379), "  2     127.0.0.1:16380  127.0.0.1:17380  127.0.0.1:18380  4711\n");
    }

    #[test]
    fn a_folder_serves_one_demo_at_a_time_and_remembers_its_shape() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("demo");
        let port = free_port();
        let first = Folder::open(&demo(&path, Some(2), Some(port))).unwrap();
        let second = Folder::open(&demo(&path, None, None)).err().unwrap().to_string();
        assert!(second.starts_with("another demo runs in "), "{second}");
        let secret = fs::read_to_string(path.join("cluster-secret")).unwrap();
        assert_eq!(secret.trim().len(), 64);
        assert_eq!(fs::metadata(path.join("cluster-secret")).unwrap().permissions().mode() & 0o777, 0o600);
        drop(first);
        let resumed = Folder::open(&demo(&path, None, None)).unwrap();
        assert_eq!((resumed.nodes, resumed.port), (2, port));
        assert_eq!(fs::read_to_string(path.join("cluster-secret")).unwrap(), secret);
        drop(resumed);
        let other = Folder::open(&demo(&path, Some(3), None)).err().unwrap().to_string();
        assert!(other.contains(&format!("holds a demo of 2 nodes at port {port}")), "{other}");
    }

    #[test]
    fn a_port_in_use_is_named_before_anything_starts() {
        let temporary = tempfile::tempdir().unwrap();
        let port = free_port();
        let _taken = TcpListener::bind(("127.0.0.1", port + 2001)).unwrap();
        let error = Folder::open(&demo(temporary.path(), Some(2), Some(port))).err().unwrap().to_string();
        assert!(error.starts_with(&format!("port {} (http of node 2) cannot be used", port + 2001)), "{error}");
        assert!(!temporary.path().join("shape").exists() && !temporary.path().join("node-1").exists());
    }
}
