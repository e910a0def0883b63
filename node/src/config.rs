//! Everything a node can be told, in one table: each entry below is a TOML key `like-this`, a flag `--like-this` and an
//! environment variable `KEYWARD_LIKE_THIS`, and the same entry writes the help, the default file and `config show`.
//! A flag wins over the environment, that over the file, that over the default. Opens no socket and starts nothing.
//!
//! To add a setting, add one entry to the table; if it depends on another setting, a check to `config/check.rs`.
//!
//! Unknown keys of the file and unknown flags are errors. Unknown `KEYWARD_…` variables are to `config check`, and a warning
//! to a node: they may be somebody else's. For a service called `keyward` Kubernetes puts `KEYWARD_PORT=tcp://…`,
//! `KEYWARD_SERVICE_HOST`, `KEYWARD_PORT_6379_TCP` and more into the environment of every pod, which is worth no word. For
//! the same reason no setting may ever be named `port`, `port-…` or `service-…`.

mod check;
mod machine;
mod source;
mod value;

use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

pub use check::{Formation, PolicySource};
pub use machine::{Machine, raise_open_files};
pub use source::Flags;
use source::Given;
use value::Shape;
pub(crate) use value::Value;

pub use crate::insight::audit::AuditEvent;
pub use value::{
    Ack, AclErrorDetail, AclLeasePolicy, AclPubsubDefault, Address, AdvertiseRole, DebugCommand, LogFormat, LogLevel,
    MaxmemoryPolicy, Member, Memory, Routing, SaveRule, SaveRules, Secret, Size,
};

/// One entry of the table.
pub(crate) struct Setting {
    /// Heading it stands under.
    section: &'static str,
    /// As in the file and, with two dashes, on the command line.
    key: String,
    /// As in the environment.
    variable: String,
    /// Text of the default.
    default: &'static str,
    /// Smallest and largest value.
    bounds: Option<(&'static str, &'static str)>,
    /// What it means, a sentence or more.
    help: String,
    /// How it is written in the file.
    shape: Shape,
}

macro_rules! settings {
    ($( $section:literal { $(
        $(#[doc = $doc:literal])+
        $field:ident: $kind:ty = $default:literal $(in $low:literal ..= $high:literal)?;
    )+ } )+) => {
        /// The effective configuration. Every field is checked against its bounds and against the others.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($( $(#[doc = $doc])+ pub $field: $kind, )+)+
            /// What is odd but usable; to be logged once at start.
            pub warnings: Vec<String>,
            /// What explains itself; for whoever logs everything.
            pub remarks: Vec<String>,
        }

        pub(crate) static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| vec![$($(
            Setting::new($section, stringify!($field), $default, &[$(($low, $high))?], &[$($doc),+], <$kind as Value>::SHAPE),
        )+)+]);

        impl Config {
            fn read(given: &mut Given) -> Self {
                Self { $($( $field: given.read(stringify!($field), $default, &[$(($low, $high))?]), )+)+ warnings: Vec::new(), remarks: Vec::new() }
            }

            /// The canonical text of every setting, in the order of the table.
            fn texts(&self) -> Vec<String> {
                vec![$($( self.$field.text(), )+)+]
            }
        }
    };
}

settings! {
    "Identity and places" {
        /// Name of this node, unique in the cluster and the same after every restart. Letters, digits, `.`, `_`, `-`.
        /// Empty: the host name.
        name: String = "";
        /// Folder of everything the node keeps: Raft log, snapshots, its identity. One node, one folder.
        data_dir: PathBuf = "./keyward-data";
        /// Where Redis clients connect.
        bind: Address = "127.0.0.1:6379";
        /// Where `keywardctl` and other admin clients connect (gRPC).
        admin_bind: Address = "127.0.0.1:7379";
        /// Where `/livez`, `/readyz` and `/metrics` are served.
        http_bind: Address = "127.0.0.1:8379";
        /// Where the other nodes connect. Never open: each connection proves that it knows the cluster secret.
        peer_bind: Address = "127.0.0.1:9379";
        /// Host under which clients and other nodes reach this node. Empty: the host of `bind`, or the host name if
        /// that is 0.0.0.0 or [::]. In Kubernetes the pod's DNS name, never its IP address.
        advertise_host: String = "";
        /// Port told to cluster clients, if it is not the one of `bind`. 0: that one.
        advertise_client_port: u16 = "0";
        /// Port told to admin clients, if it is not the one of `admin-bind`. 0: that one.
        advertise_admin_port: u16 = "0";
        /// Port told to other nodes, if it is not the one of `peer-bind`. 0: that one.
        advertise_peer_port: u16 = "0";
    }
    "Cluster" {
        /// The members the cluster is formed of, once: a list of `name=host:peerport`, the same on each of them. Empty: a
        /// single node forms a cluster by itself. A node whose `name` is not listed joins through those that are, so
        /// that all pods of a growing StatefulSet can share one list.
        members: Vec<Member> = "";
        /// How many shard groups the cluster is formed with: the slots are divided among so many primaries. Counts once, when
        /// the cluster is formed; afterwards the cluster knows. 1: one node serves all data, and every command on several
        /// keys works as in Redis.
        groups: u32 = "1" in "1" ..= "16";
        /// Peer addresses of a running cluster that this node is to join: a list of `host:peerport`.
        join: Vec<Address> = "";
        /// Wait until `keywardctl node add` on a running cluster invites this node, then join that cluster: `true` or
        /// `false`. Instead of `members` and `join`; a node that belongs to a cluster already does not wait.
        await_invitation: bool = "false";
        /// Secret that nodes of one cluster share, at least 16 bytes. Needed with `members`, `join` or
        /// `await-invitation`, or if `peer-bind` is not a loopback address. Better kept in a file: flags are visible to
        /// other users.
        cluster_secret: Option<Secret> = "";
        /// File that holds the cluster secret; line ends around it do not count.
        cluster_secret_file: Option<PathBuf> = "";
        /// Time between two heartbeats of the Raft leader. Short, because a crash that takes the leader costs an election
        /// before anything else can be decided.
        raft_heartbeat: Duration = "150ms" in "20ms" ..= "10s";
        /// After a leader was heard from, nobody votes against it for `raft-election-max`; after that, a follower that still
        /// hears nothing calls an election, this much later at the earliest. At least three heartbeats, so that neither a
        /// lost one nor a slow sync of the disk looks like a dead leader. Raise it on slow disks.
        raft_election_min: Duration = "450ms" in "100ms" ..= "60s";
        /// This much later at the latest; more than at the earliest, so that two followers seldom call at once. A leader that
        /// stands still is followed by another within twice this time.
        raft_election_max: Duration = "800ms" in "150ms" ..= "120s";
    }
    "Routing" {
        /// What a node does with a command about data that another node serves: `proxy` has that node run it, so that any
        /// client may talk to any node; `redirect` answers `MOVED`, for clients that know Redis Cluster.
        routing: Routing = "proxy";
        /// What `INFO` and `ROLE` say this node is: `actual`, the truth; `primary`, a primary on every node that forwards
        /// (`routing proxy`), for clients that look for one by role and refuse to write elsewhere.
        advertise_role: AdvertiseRole = "actual";
        /// How long a command waits for a node that serves the data, during a failover, before it fails. One that may have
        /// been carried out already does not wait, unless it only reads.
        failover_wait: Duration = "5s" in "0s" ..= "60s";
    }
    "Admin port" {
        /// TLS certificate of the admin port (PEM). Together with its key, or not at all.
        admin_tls_cert: Option<PathBuf> = "";
        /// Key of that certificate (PEM).
        admin_tls_key: Option<PathBuf> = "";
        /// Admin clients must show a certificate that one of these authorities signed (PEM).
        admin_tls_client_ca: Option<PathBuf> = "";
    }
    "Users" {
        /// File of `user …` lines, watched: a valid change takes effect on every node without a restart, an invalid one
        /// changes nothing and is logged. Users that were made at run time stay, those an earlier content brought and this
        /// one does not go; a `default` it does not mention is off. `ACL LOAD` removes all users it does not mention but
        /// those of tenants.
        acl_file: Option<PathBuf> = "";
        /// Password of the user `default`, who may then do everything. Not together with an ACL file that declares
        /// `default`. Better kept in a file: flags are visible to other users.
        requirepass: Option<Secret> = "";
        /// File that holds that password; line ends around it do not count.
        requirepass_file: Option<PathBuf> = "";
        /// Channels that a new user may use: `resetchannels` (none) or `allchannels`.
        acl_pubsub_default: AclPubsubDefault = "resetchannels";
        /// What a denial says: `full` names the command, key or channel; `redis` is Redis' own text.
        acl_error_detail: AclErrorDetail = "full";
        /// Whether rules alone decide, as in Redis: users without `~*` are no longer kept within walls. Then `+@all` lets them list,
        /// watch and wipe what is not theirs, and change users. For tests of compatibility; unsafe where applications
        /// share the cache.
        strict_redis_acl: bool = "false";
        /// How long a node serves without hearing from the leader. `ACL SETUSER` and its like are answered once every node
        /// has the change, or has stopped serving because this time is over. The same on every node of a cluster.
        acl_lease_ttl: Duration = "5s" in "2s" ..= "60s";
        /// What a node does that has not heard from the leader for so long: `deny` serves nobody, `deny-writes` serves
        /// reads, `extend` serves on; with the last two, a user who lost a right may still use it there.
        acl_lease_policy: AclLeasePolicy = "deny";
        /// Whether nodes remember which commands every user runs, and beginnings of keys: what `keywardctl advise` reads. A user
        /// whose rule is `mode=report` is watched in any case.
        record_traffic: bool = "false";
        /// Entries that `ACL LOG` keeps; the oldest go first. 0: none.
        acllog_max_len: usize = "128" in "0" ..= "100000";
    }
    "Testing" {
        /// Whether `DEBUG` works: `no`, `yes`, or `local` (from this machine only). It can stop the node from doing its work.
        enable_debug_command: DebugCommand = "no";
    }
    "Clients" {
        /// Connections at a time; more are refused. Also bounded by the files the process may open.
        maxclients: u32 = "10000" in "1" ..= "1000000";
        /// A connection that was silent for so long is closed. 0: never.
        timeout: Duration = "0s" in "0s" ..= "365d";
        /// TCP asks a silent peer for a sign of life this often. 0: never.
        tcp_keepalive: Duration = "300s" in "0s" ..= "1d";
        /// Connections that wait to be accepted; the kernel has a bound of its own (net.core.somaxconn).
        tcp_backlog: u32 = "511" in "1" ..= "65535";
        /// Longest argument of a request.
        proto_max_bulk_len: Size = "512mb" in "1mb" ..= "512mb";
        /// Longest pattern that `KEYS`, `SCAN`, `PSUBSCRIBE`, `CONFIG GET` and their like compare names with: each name costs a look
        /// at it.
        pattern_bytes_max: Size = "4kb" in "1kb" ..= "512mb";
        /// Bytes a request may take before it is complete.
        client_query_buffer_limit: Size = "1gb" in "1mb" ..= "2gb";
        /// Bytes of answers that may wait for a slow reader; one more closes its connection.
        client_output_buffer_limit: Size = "256mb" in "1mb" ..= "16gb";
        /// Longest name of a channel that a confined user publishes to or listens on: it is compared with everybody's patterns.
        channel_bytes_max: Size = "64kb" in "1kb" ..= "512mb";
        /// Keys that a request of a confined user may name, or words that it gives to a command without keys: each holds up others
        /// for about a microsecond.
        request_names_max: u32 = "100000" in "100" ..= "1000000000";
        /// Names of keys that one `KEYS` of a confined user may find, unless its tenant's `keys-names` or a rule of its own says
        /// otherwise: beyond, it is an error.
        keys_names_max: u32 = "100000" in "1" ..= "1000000000";
        /// Lines a second that `MONITOR` shows the clients of a tenant, or of a confined user without one, together: further ones are
        /// left out, and they are told once a second how many. A tenant's setting or a rule of a user of that name says otherwise. A
        /// line counts once more for each 1024 bytes of its command. 0: no bound.
        monitor_per_second: u32 = "1000" in "0" ..= "1000000000";
        /// A connection must authenticate within this time. 0: no such bound.
        unauthenticated_timeout: Duration = "60s" in "0s" ..= "1h";
        /// Connections of one address (of one /64, with IPv6) that have yet to authenticate. Where there are as many, the oldest
        /// of them ends when another comes. 0: no such bound.
        unauthenticated_clients_per_address: u32 = "5000" in "0" ..= "10000000";
        /// Wrong passwords that clients of one address (of one /64, with IPv6) may send in a second. Beyond that every login from
        /// there waits, five seconds at most, before its password is looked at; other addresses do not. 0: no such bound.
        failed_logins_per_second: u32 = "20" in "0" ..= "1000000";
        /// Arguments of a request before authentication.
        unauthenticated_max_arguments: u32 = "10" in "3" ..= "1024";
        /// Longest argument before authentication.
        unauthenticated_max_bulk_len: Size = "16kb" in "1kb" ..= "1mb";
    }
    "Data" {
        /// Threads that serve clients. 0: one for each core.
        threads: usize = "0" in "0" ..= "1024";
        /// Parts the keys are divided into, each behind its own lock; a power of two, many times the threads.
        shards: u32 = "256" in "16" ..= "4096";
        /// Databases a client can `SELECT`.
        databases: u32 = "16" in "1" ..= "1024";
        /// Memory for data: a size, or a percentage of what the cgroup or the machine grants. 0: no limit.
        maxmemory: Memory = "75%";
        /// What happens at `maxmemory`: `noeviction` refuses writes that need memory; the others let keys go, as in Redis.
        maxmemory_policy: MaxmemoryPolicy = "noeviction";
        /// When to save by itself: pairs of `seconds changes`. Empty: only on request and at shutdown.
        save: SaveRules = "3600 1 300 100 60 10000";
        /// Name of the data snapshot, in `data-dir`.
        dbfilename: String = "dump.rdb";
        /// Data snapshots to keep, the newest included.
        snapshot_keep: u32 = "2" in "1" ..= "100";
        /// A damaged snapshot is loaded up to the damage; otherwise it stops the start.
        load_damaged_snapshot: bool = "false";
        /// Longest time that a stopping node spends on finishing: hand-over, last snapshot, connections.
        shutdown_timeout: Duration = "30s" in "1s" ..= "1h";
    }
    "Copies" {
        /// When a write is answered: `async`, as soon as it is made; `quorum`, when every node in sync has it. A user's rule
        /// `ack=quorum` or `ack=async` says otherwise for that user. The same on every node.
        ack: Ack = "async";
        /// A write that is not confirmed within this time ends its connection with an error: its outcome is unknown.
        ack_timeout: Duration = "5s" in "10ms" ..= "60s";
        /// Effects of writes kept in memory, so that a replica that was away for a while can go on where it stood.
        repl_backlog_size: Size = "64mb" in "1mb" ..= "64gb";
        /// The same while a full copy is on its way: what is written meanwhile must fit, or the copy begins anew.
        repl_copy_backlog_size: Size = "1gb" in "1mb" ..= "256gb";
        /// Effects that one script may have, which are sent as one step: nodes hold it whole. One that writes more gets an error;
        /// what it wrote until then stays.
        script_write_bytes: Size = "128mb" in "1mb" ..= "512mb";
        /// Whether effects are compressed on their way (LZ4).
        repl_compression: bool = "true";
    }
    "Telling" {
        /// How much is logged: `error`, `warn`, `info`, `debug` or `trace`.
        log_level: LogLevel = "info";
        /// How: `text` for people or `json` for collectors.
        log_format: LogFormat = "text";
        /// Tenants that metrics name; what the others do counts as `_other`.
        metrics_tenants_max: u32 = "1000" in "0" ..= "100000";
        /// For so many days a node keeps what each tenant used, in `usage` of `data-dir`: what `keywardctl usage` reads.
        usage_days: u32 = "400" in "1" ..= "3700";
        /// File of the audit stream, one JSON object a line, readable by its owner alone: who logged in or failed to, what was
        /// denied, changed, administered and flushed. Never a value, never a password. Empty: none.
        audit_file: Option<PathBuf> = "";
        /// At this size the audit file is put aside as `….1` and begun anew.
        audit_file_max: Size = "64mb" in "64kb" ..= "64gb";
        /// So many of those put aside are kept; the oldest goes.
        audit_files_kept: u32 = "4" in "0" ..= "1000";
        /// Whether the audit stream also goes to the log, with the target `audit`.
        audit_log: bool = "false";
        /// What is recorded: a list of `auth`, `denial`, `policy`, `admin` and `flush`.
        audit_events: Vec<AuditEvent> = "auth,denial,policy,admin,flush";
        /// One of so many commands on data is recorded too. 0: none, 1: all.
        audit_data_sample: u32 = "0";
        /// Lines of one kind that one user, tenant or address of strangers writes into the audit stream in a minute at most;
        /// further ones are told as a number, within a minute. Policy changes, and what is done by users who hold every
        /// key, have no limit. 0: none has.
        audit_lines_per_minute: u32 = "60";
        /// Whether the audit stream names keys and channels.
        audit_keys: bool = "false";
    }
}

impl Setting {
    fn new(
        section: &'static str,
        field: &'static str,
        default: &'static str,
        bounds: &[(&'static str, &'static str)],
        docs: &[&'static str],
        shape: Shape,
    ) -> Self {
        let key = field.replace('_', "-");
        let variable = format!("KEYWARD_{}", field.to_ascii_uppercase());
        let help = docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        Self { section, key, variable, default, bounds: bounds.first().copied(), help, shape }
    }

    /// One line of a TOML file.
    fn line(&self, text: &str) -> String {
        let value = match self.shape {
            Shape::Bare => text.to_owned(),
            Shape::Quoted => quoted(text),
            Shape::List => {
                let items: Vec<String> = text.split(',').filter(|item| !item.is_empty()).map(quoted).collect();
                format!("[{}]", items.join(", "))
            }
        };
        format!("{} = {value}", self.key)
    }
}

impl Config {
    /// Reads the flags, the environment, the file and the secret files, and checks everything.
    pub fn load(flags: &Flags) -> Result<Self, Problems> {
        let environment: Vec<_> = std::env::vars_os().collect();
        Self::from_sources(flags, &environment, &Machine::look())
    }

    /// The same for whoever wants to know everything that is wrong: variables that mean nothing are problems.
    pub fn check(flags: &Flags) -> Result<Self, Problems> {
        let environment: Vec<_> = std::env::vars_os().collect();
        let unknown = source::unknown_variables(&environment);
        match Self::from_sources(flags, &environment, &Machine::look()) {
            Ok(config) if unknown.is_empty() => Ok(config),
            Ok(_) => Err(Problems(unknown)),
            Err(Problems(problems)) => Err(Problems(problems.into_iter().chain(unknown).collect())),
        }
    }

    fn from_sources(
        flags: &Flags,
        environment: &[(std::ffi::OsString, std::ffi::OsString)],
        machine: &Machine,
    ) -> Result<Self, Problems> {
        let mut given = Given::collect(flags, environment);
        let mut config = Self::read(&mut given);
        let mut problems = std::mem::take(&mut given.problems);
        config.warnings = source::unknown_variables(environment);
        config.remarks = source::service_links(environment);
        // Without the file, half of the settings would be blamed for standing at their defaults.
        if given.complete {
            check::settle(&mut config, machine, &mut problems);
        }
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// The effective configuration as a TOML file, secrets masked.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for (setting, text) in SETTINGS.iter().zip(self.texts()) {
            // A masked secret must not read like one.
            let comment = if text == "********" { "# " } else { "" };
            out.push_str(&format!("{comment}{}\n", setting.line(&text)));
        }
        out
    }

    /// The file of all defaults, each commented out and explained.
    pub fn default_toml() -> String {
        let mut out =
            String::from("# Keyward: every setting with its default. Also --like-this and KEYWARD_LIKE_THIS.\n");
        let mut section = "";
        for setting in SETTINGS.iter() {
            if setting.section != section {
                section = setting.section;
                out.push_str(&format!("\n# ---- {section} ----\n"));
            }
            out.push('\n');
            for line in wrap(&setting.help, 110) {
                out.push_str(&format!("# {line}\n"));
            }
            if let Some((low, high)) = setting.bounds {
                out.push_str(&format!("# From {low} to {high}.\n"));
            }
            out.push_str(&format!("# {}\n", setting.line(setting.default)));
        }
        out
    }
}

/// Everything wrong with a configuration; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// One sentence each.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            let space = if lines[last].is_empty() { "" } else { " " };
            lines[last].push_str(&format!("{space}{word}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
