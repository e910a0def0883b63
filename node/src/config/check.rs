//! What no setting can say alone: values that depend on each other, on the machine, or on a secret file. Knows what the
//! settings mean; changes only what was left open (an empty name, a share of memory).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyward_acl::Walls;

use super::machine::Machine;
use super::source::read_text;
use super::value::Value;
use super::{Address, Config, Member, Memory, Secret};

/// Files that are not client connections: log, snapshots, listeners, peer links, admin clients.
const OPEN_FILES_RESERVED: u64 = 256;

/// A password or secret is a line, not a document.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

const CLUSTER_SECRET_BYTES_MIN: usize = 16;

/// How the node becomes part of a cluster the first time it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formation {
    /// It forms a cluster of its own.
    Alone,
    /// It is one of the members that form the cluster together; itself included.
    Founder(Vec<Member>),
    /// It asks one of these peer addresses of a running cluster.
    Joiner(Vec<Address>),
    /// It waits until a cluster invites it.
    Invited,
}

/// What says who may do what when the cluster has no users yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// The users of a file; with a password for `default` if the file does not declare it and one is configured.
    AclFile(PathBuf, Option<Secret>),
    /// The user `default` with this password may do everything.
    Password(Secret),
    /// The cluster that is joined; until then nobody may do anything.
    Cluster,
    /// Nothing: `default` may do everything without a password. Only ever with a loopback address.
    Open,
}

impl Config {
    /// How the node becomes part of a cluster the first time it starts.
    pub fn formation(&self) -> Formation {
        if self.await_invitation {
            Formation::Invited
        } else if !self.join.is_empty() {
            Formation::Joiner(self.join.clone())
        } else if self.members.is_empty() {
            Formation::Alone
        } else if self.members.iter().any(|member| member.name == self.name) {
            Formation::Founder(self.members.clone())
        } else {
            Formation::Joiner(self.members.iter().map(|member| member.address.clone()).collect())
        }
    }

    /// Whether users who do not hold every key are kept within walls.
    pub fn walls(&self) -> Walls {
        if self.strict_redis_acl { Walls::Down } else { Walls::Up }
    }

    /// What says who may do what when the cluster has no users yet.
    pub fn policy_source(&self) -> PolicySource {
        match (&self.acl_file, &self.requirepass) {
            (Some(file), password) => PolicySource::AclFile(file.clone(), password.clone()),
            (None, Some(password)) => PolicySource::Password(password.clone()),
            (None, None) => match self.formation() {
                Formation::Joiner(_) | Formation::Invited => PolicySource::Cluster,
                Formation::Alone | Formation::Founder(_) => PolicySource::Open,
            },
        }
    }

    /// How many files the process opens with every client connected, and each of them handed over or as many guests.
    pub fn open_files(&self) -> u64 {
        2 * u64::from(self.maxclients) + OPEN_FILES_RESERVED
    }

    /// Where cluster clients are told to connect. The port is 0 if the system chose the one of `bind`.
    pub fn advertised_client(&self) -> Address {
        Address::new(&self.advertise_host, self.advertise_client_port)
    }

    /// Where admin clients are told to connect.
    pub fn advertised_admin(&self) -> Address {
        Address::new(&self.advertise_host, self.advertise_admin_port)
    }

    /// Where other nodes are told to connect.
    pub fn advertised_peer(&self) -> Address {
        Address::new(&self.advertise_host, self.advertise_peer_port)
    }
}

/// Fills in what was left open and notes every problem.
pub(super) fn settle(config: &mut Config, machine: &Machine, problems: &mut Vec<String>) {
    fill_in(config, machine);
    read_secret(&mut config.cluster_secret, &config.cluster_secret_file, "cluster-secret", problems);
    read_secret(&mut config.requirepass, &config.requirepass_file, "requirepass", problems);
    check_places(config, problems);
    check_cluster(config, problems);
    check_tls(config, problems);
    check_numbers(config, machine, problems);
    check_openness(config, problems);
}

fn fill_in(config: &mut Config, machine: &Machine) {
    if config.name.is_empty() {
        config.name.clone_from(&machine.hostname);
    }
    if config.advertise_host.is_empty() {
        let host = if config.bind.is_unspecified() { &machine.hostname } else { config.bind.host() };
        config.advertise_host = host.to_owned();
    }
    for (advertised, bound) in [
        (&mut config.advertise_client_port, &config.bind),
        (&mut config.advertise_admin_port, &config.admin_bind),
        (&mut config.advertise_peer_port, &config.peer_bind),
    ] {
        if *advertised == 0 {
            *advertised = bound.port();
        }
    }
    if config.threads == 0 {
        config.threads = machine.cores;
    }
    config.maxmemory = Memory::Size(config.maxmemory.of(machine.memory_bytes));
}

fn read_secret(secret: &mut Option<Secret>, file: &Option<PathBuf>, key: &str, problems: &mut Vec<String>) {
    let Some(file) = file else { return };
    if secret.is_some() {
        return problems.push(format!("`{key}` and `{key}-file` are both set; keep one"));
    }
    match read_text(file, SECRET_FILE_BYTES_MAX) {
        Ok(text) if text.trim_matches(['\r', '\n']).is_empty() => {
            problems.push(format!("`{key}-file` {} is empty", file.display()));
        }
        Ok(text) => *secret = Some(Secret::of(text.trim_matches(['\r', '\n']))),
        Err(problem) => problems.push(format!("`{key}-file` {problem}")),
    }
}

fn check_places(config: &Config, problems: &mut Vec<String>) {
    let name_is_plain = config.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if config.name.is_empty() || config.name.len() > 253 || !name_is_plain {
        problems.push(format!("`name` is {:?}, but must be 1 to 253 letters, digits, `.`, `_` or `-`", config.name));
    }
    if Address::parse(&format!("{}:1", bracketed(&config.advertise_host))).is_err() {
        problems.push(format!("`advertise-host` is {:?}, which is not a host (without a port)", config.advertise_host));
    }
    if config.advertised_peer().is_unspecified() {
        problems.push(format!("`advertise-host` is {}, which nobody can connect to", config.advertise_host));
    }
    if config.dbfilename.is_empty() || config.dbfilename.starts_with('.') || config.dbfilename.contains(['/', '\0']) {
        problems.push(format!("`dbfilename` is {:?}, but must be a plain file name", config.dbfilename));
    }
    let places = [
        ("bind", &config.bind),
        ("admin-bind", &config.admin_bind),
        ("http-bind", &config.http_bind),
        ("peer-bind", &config.peer_bind),
    ];
    for (at, (key, place)) in places.iter().enumerate() {
        for (other_key, other) in &places[..at] {
            let same_host = place.host() == other.host() || place.is_unspecified() || other.is_unspecified();
            if place.port() != 0 && place.port() == other.port() && same_host {
                problems.push(format!("`{other_key}` and `{key}` both listen on port {}", place.port()));
            }
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn check_cluster(config: &Config, problems: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for member in &config.members {
        if member.name.is_empty() || !names.insert(&member.name) || !addresses.insert(&member.address) {
            problems.push(format!(
                "`members` has `{}` with a name or an address that is empty or not its own",
                member.text()
            ));
        }
        if member.address.port() == 0 || member.address.is_unspecified() {
            problems.push(format!("`members` has `{}`, which nobody can connect to", member.text()));
        }
    }
    if names.contains(&config.name) && !config.join.is_empty() {
        problems.push(format!(
            "`join` is set, but `members` names this node (`{}`) as one that forms the cluster; keep one of them",
            config.name
        ));
    }
    for (key, given) in [("members", !config.members.is_empty()), ("join", !config.join.is_empty())] {
        if given && config.await_invitation {
            problems.push(format!(
                "`await-invitation` is set, but `{key}` says which cluster this node belongs to; keep one of them"
            ));
        }
    }
    let wanted_for = if config.await_invitation {
        "`await-invitation` is set"
    } else if !config.members.is_empty() {
        "`members` is set"
    } else if !config.join.is_empty() {
        "`join` is set"
    } else if !config.peer_bind.is_loopback() {
        "`peer-bind` is not a loopback address"
    } else {
        "" // A secret that nobody needs is still checked.
    };
    match &config.cluster_secret {
        Some(secret) if secret.byte_length() < CLUSTER_SECRET_BYTES_MIN => problems.push(format!(
            "the cluster secret has {} bytes, but needs at least {CLUSTER_SECRET_BYTES_MIN}; `openssl rand -hex 32` makes one",
            secret.byte_length()
        )),
        None if !wanted_for.is_empty() => {
            problems.push(format!("{wanted_for}, so a cluster secret is needed: set `cluster-secret-file`"));
        }
        _ => {}
    }
    if config.raft_election_min < config.raft_heartbeat * 3 {
        problems.push("`raft-election-min` must be at least three times `raft-heartbeat`".to_owned());
    }
    if config.raft_election_max <= config.raft_election_min {
        problems.push("`raft-election-max` must be more than `raft-election-min`".to_owned());
    }
}

fn check_tls(config: &mut Config, problems: &mut Vec<String>) {
    if config.admin_tls_cert.is_some() != config.admin_tls_key.is_some() {
        problems.push("`admin-tls-cert` and `admin-tls-key` are needed together, or neither of them".to_owned());
    }
    if config.admin_tls_client_ca.is_some() && config.admin_tls_cert.is_none() {
        problems.push("`admin-tls-client-ca` needs `admin-tls-cert` and `admin-tls-key`".to_owned());
    }
    let files = [
        ("admin-tls-cert", &config.admin_tls_cert),
        ("admin-tls-key", &config.admin_tls_key),
        ("admin-tls-client-ca", &config.admin_tls_client_ca),
    ];
    for (key, file) in files {
        if let Some(file) = file.as_deref().filter(|file: &&Path| !file.is_file()) {
            problems.push(format!("`{key}` {} is not a file that can be read", file.display()));
        }
    }
    if !config.admin_bind.is_loopback() && config.admin_tls_cert.is_none() {
        config
            .warnings
            .push("the admin port is open to the network without TLS: passwords cross it readable".to_owned());
    }
}

fn check_numbers(config: &mut Config, machine: &Machine, problems: &mut Vec<String>) {
    if !config.shards.is_power_of_two() {
        problems.push(format!("`shards` is {}, but must be a power of two", config.shards));
    }
    if config.proto_max_bulk_len > config.client_query_buffer_limit {
        problems.push("`proto-max-bulk-len` must not exceed `client-query-buffer-limit`".to_owned());
    }
    let files_for_clients = machine.open_files.saturating_sub(OPEN_FILES_RESERVED).max(1);
    if u64::from(config.maxclients) > files_for_clients {
        config.warnings.push(format!(
            "maxclients is lowered from {} to {files_for_clients}: the process may open {} files and keeps \
             {OPEN_FILES_RESERVED} for itself",
            config.maxclients, machine.open_files
        ));
        config.maxclients = u32::try_from(files_for_clients).unwrap_or(config.maxclients);
    }
    let available = machine.memory_bytes;
    if config.maxmemory.bytes() == 0 {
        config.warnings.push("maxmemory is 0: the data may grow until the system ends the process".to_owned());
    } else if available > 0 && config.maxmemory.bytes() > available {
        config.warnings.push(format!("maxmemory is more than the {available} bytes this process may use"));
    }
}

fn check_openness(config: &mut Config, problems: &mut Vec<String>) {
    if config.policy_source() != PolicySource::Open {
        return;
    }
    if config.bind.is_loopback() {
        config.warnings.push(
            "nothing says who may do what: any program on this machine may do everything, without a password; set \
             acl-file or requirepass-file"
                .to_owned(),
        );
    } else {
        problems.push(format!(
            "`bind` is {}, which is open to the network, and nothing says who may do what: set `acl-file` to a file of users \
             or `requirepass-file` to a file with the password of `default`, or bind a loopback address",
            config.bind
        ));
    }
}
