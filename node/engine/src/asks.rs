//! Everything a client can make the node do to the world, in one readable list.
//!
//! A handler decides and returns an [`Ask`]; the node carries it out and writes the answer. Nothing here has been
//! done yet when it is returned, and no plaintext password stays in it longer than the login it belongs to.

use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::reply::{Protocol, Reply};
use crate::session::CopyHolds;
use crate::tenancy::Grant;
use keyward_acl::UserChange;
use std::time::Duration;

/// A login attempt. `Debug` hides the password.
pub struct LoginAttempt {
    /// The name as sent.
    pub user: Vec<u8>,
    /// The password as sent.
    pub password: Vec<u8>,
    /// The word the client used: `AUTH` or `HELLO`, for ACL LOG.
    pub word: Vec<u8>,
    /// `AUTH password` without a name: refused with its own text when `default` needs none.
    pub without_name: bool,
}

/// Which connections `CLIENT LIST` and `CLIENT KILL` mean. Every field that is set must match.
#[derive(Clone, Debug, Default)]
pub struct ClientFilter {
    /// Any of these ids.
    pub ids: Option<Vec<u64>>,
    /// The client's address.
    pub address: Option<Vec<u8>>,
    /// Our own end.
    pub local_address: Option<Vec<u8>>,
    /// Logged in as this user.
    pub user: Option<Vec<u8>>,
    /// `normal`, `replica`, `pubsub`, `primary`.
    pub kind: Option<String>,
    /// At least this many seconds old.
    pub age_min_s: Option<i64>,
    /// Not the connection that asks.
    pub skip_me: bool,
}

/// How `CLIENT KILL` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KillReply {
    /// The old form, `CLIENT KILL addr:port`: OK, or an error when there is none.
    OkOrError,
    /// The filter form: how many.
    Count,
}

/// What a subscription names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelKind {
    /// A channel.
    Channel,
    /// Channels that match a pattern.
    Pattern,
    /// A shard channel.
    Shard,
}

/// Which keys a caching client is told about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrackingMode {
    /// Those it reads.
    Every,
    /// Those it reads right after `CLIENT CACHING YES`.
    OptIn,
    /// Those it reads, but not right after `CLIENT CACHING NO`.
    OptOut,
    /// All that begin with one of its prefixes.
    Broadcast,
}

/// `CLIENT TRACKING ON`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackingOptions {
    /// Which keys.
    pub mode: TrackingMode,
    /// Not about changes it made itself.
    pub no_loop: bool,
    /// Tell this client instead.
    pub redirect: Option<u64>,
    /// In broadcast mode; none means every key.
    pub prefixes: Vec<Vec<u8>>,
}

impl TrackingOptions {
    /// Its prefixes as they are shown and counted: the empty one stands for every key.
    pub fn shown_prefixes(&self) -> Vec<&[u8]> {
        if self.mode == TrackingMode::Broadcast && self.prefixes.is_empty() {
            return vec![&[]];
        }
        self.prefixes.iter().map(Vec::as_slice).collect()
    }
}

/// How a replica takes over from its primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeOver {
    /// The primary hands over.
    Agreed,
    /// `FORCE`: as soon as a failover may proceed, the primary is gone as well.
    Forced,
    /// `TAKEOVER`: also if acknowledged writes may be lost, unless the primary is there.
    WithLoss,
}

/// `TENANT`: what is to become of a tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TenantAsk {
    /// `TENANT CREATE`.
    Create {
        /// Its name.
        name: String,
        /// It has a keyspace of its own.
        namespace: bool,
        /// Everything else.
        edits: Vec<TenantEdit>,
    },
    /// `TENANT SET`.
    Set {
        /// Which.
        name: String,
        /// All of them or none.
        edits: Vec<TenantEdit>,
    },
    /// `TENANT DEL`.
    Delete {
        /// Which.
        name: String,
        /// Its keys go too.
        purge: bool,
    },
    /// `TENANT STATS`.
    Stats {
        /// Which.
        name: String,
    },
}

/// One edit of a tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TenantEdit {
    /// It owns keys that begin so.
    AddPrefix(Vec<u8>),
    /// It no longer does.
    RemovePrefix(Vec<u8>),
    /// This user belongs to it.
    AddUser(Vec<u8>),
    /// It no longer does.
    RemoveUser(Vec<u8>),
    /// A setting, or its default again.
    Setting(String, Option<String>),
    /// Another tenant may use these keys, or no longer.
    Export(Grant, bool),
    /// It uses keys of another tenant, or no longer.
    Import(Grant, bool),
    /// Its users are locked out, or let in again.
    Retired(bool),
    /// Its name from now on.
    Name(String),
}

/// Which program a script command runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Program {
    /// This text.
    Text(Vec<u8>),
    /// The cached script with this hash, as sent.
    Hash(Vec<u8>),
    /// This function of a library.
    Function(Vec<u8>),
}

impl Program {
    /// The text, hash or name.
    pub fn text(&self) -> &Vec<u8> {
        let (Program::Text(text) | Program::Hash(text) | Program::Function(text)) = self;
        text
    }
}

/// `EVAL`, `EVALSHA`, `FCALL` and their `_RO` forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScriptCall {
    /// What is run.
    pub program: Program,
    /// `KEYS`.
    pub keys: Vec<Vec<u8>>,
    /// `ARGV`.
    pub args: Vec<Vec<u8>>,
    /// The `_RO` form: nothing may be written.
    pub read_only: bool,
}

/// What `FUNCTION RESTORE` does with the libraries there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestorePolicy {
    /// They stay; the same name twice is an error.
    Append,
    /// They go.
    Flush,
    /// They give way to those of the same name.
    Replace,
}

/// `SCRIPT` and `FUNCTION`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScriptCare {
    /// `SCRIPT LOAD`.
    Load(Vec<u8>),
    /// `SCRIPT EXISTS`.
    Exists(Vec<Vec<u8>>),
    /// `SCRIPT FLUSH`.
    Flush,
    /// `SCRIPT SHOW`.
    Show(Vec<u8>),
    /// `SCRIPT KILL`, `FUNCTION KILL`.
    Kill {
        /// A function is meant.
        function: bool,
    },
    /// `FUNCTION LOAD`.
    LoadLibrary {
        /// Instead of the one of the same name.
        replace: bool,
        /// Its text.
        code: Vec<u8>,
    },
    /// `FUNCTION DELETE`.
    DeleteLibrary(Vec<u8>),
    /// `FUNCTION LIST`.
    ListLibraries {
        /// Only those whose names match.
        pattern: Option<Vec<u8>>,
        /// With their texts.
        with_code: bool,
    },
    /// `FUNCTION DUMP`.
    Dump,
    /// `FUNCTION RESTORE`.
    Restore(Vec<u8>, RestorePolicy),
    /// `FUNCTION FLUSH`.
    FlushLibraries,
    /// `FUNCTION STATS`.
    ShowStats,
}

/// What a command asks of the node that it does at once, without waiting: also between the commands of a transaction and
/// of a script.
pub enum Now {
    /// `MULTI`.
    Begin,
    /// `EXEC`.
    Execute,
    /// `DISCARD`.
    Discard,
    /// `WATCH`: the keys are those the request names.
    Watch,
    /// `UNWATCH`.
    Unwatch,
    /// `PUBLISH`, `SPUBLISH`; answers how many got it.
    Publish {
        /// On a shard channel.
        shard: bool,
        /// The channel.
        channel: Vec<u8>,
        /// The message.
        message: Vec<u8>,
    },
    /// `SUBSCRIBE` and its kin.
    Subscribe(ChannelKind, Vec<Vec<u8>>),
    /// `UNSUBSCRIBE` and its kin; no names mean all.
    Unsubscribe(ChannelKind, Vec<Vec<u8>>),
    /// `PUBSUB CHANNELS`, `PUBSUB SHARDCHANNELS`.
    ShowChannels {
        /// Shard channels.
        shard: bool,
        /// Only those that match.
        pattern: Option<Vec<u8>>,
    },
    /// `PUBSUB NUMSUB`, `PUBSUB SHARDNUMSUB`.
    ShowListeners {
        /// Shard channels.
        shard: bool,
        /// Of these channels.
        channels: Vec<Vec<u8>>,
    },
    /// `PUBSUB NUMPAT`.
    CountPatterns,
    /// `CLIENT TRACKING`; `None` is `OFF`.
    Track(Option<TrackingOptions>),
    /// `CLIENT CACHING`.
    Caching(Option<bool>),
    /// `CLIENT TRACKINGINFO`.
    ShowTracking,
    /// `CLIENT GETREDIR`.
    ShowRedirect,
    /// `MONITOR`.
    Monitor,
    /// A script is to be run.
    RunScript(ScriptCall),
    /// Something about scripts and libraries.
    Scripts(ScriptCare),
    /// `CLIENT UNBLOCK`.
    Unblock {
        /// Whom.
        client: u64,
        /// With an error instead of the answer of one who waited in vain.
        error: bool,
    },
}

/// What a command asks of the outside world.
pub enum Ask {
    /// `TENANT`.
    Tenant(TenantAsk),
    /// Run a script that may take long, on a thread of its own.
    RunScript(ScriptCall),
    /// Log in; answers OK.
    Login(LoginAttempt),
    /// `HELLO`: perhaps log in, perhaps change protocol and name, then tell who we are.
    Hello {
        /// The protocol to speak from now on; `None` keeps it.
        protocol: Option<Protocol>,
        /// A login, carried out first.
        login: Option<LoginAttempt>,
        /// A new connection name.
        name: Option<Vec<u8>>,
    },
    /// `RESET`: forget the connection's state and log in as `default` if that needs no password.
    Reset,
    /// Answer OK, then close.
    Quit,
    /// Change users, everywhere. `count` answers how many were deleted instead of OK.
    ChangeUsers {
        /// The change.
        change: UserChange,
        /// Answer with the number of users deleted.
        count: bool,
    },
    /// Replace all users by those of the configured ACL file.
    LoadUsers,
    /// Write all users to the configured ACL file.
    SaveUsers,
    /// `ACL LOG [count]`.
    ShowAclLog {
        /// At most this many entries, newest first.
        count: usize,
    },
    /// `ACL LOG RESET`.
    ResetAclLog,
    /// `WAIT`, `WAITAOF`.
    WaitForReplicas {
        /// So many replicas are to have everything written so far.
        replicas: i64,
        /// Waits no longer than this; 0: as long as it takes.
        timeout_ms: u64,
        /// They are to have it in their append-only files, which none has.
        files: bool,
    },
    /// `ROLE`.
    ShowRole,
    /// `FAILOVER`.
    Failover {
        /// The node whose clients' address this is; whoever is most up to date, if none is named.
        to: Option<(String, u16)>,
        /// How long somebody may take to come in sync, if that was said.
        patience: Option<Duration>,
    },
    /// `CLUSTER FAILOVER`.
    TakeOver(TakeOver),
    /// `CLUSTER LINKS`.
    ShowLinks,
    /// `CLIENT LIST`.
    ListClients(ClientFilter),
    /// `CLIENT INFO`.
    ShowClient,
    /// `CLIENT KILL`.
    KillClients(ClientFilter, KillReply),
    /// `CONFIG GET` with these patterns.
    ShowConfig(Vec<Vec<u8>>),
    /// `CONFIG SET` of these pairs, all or none.
    SetConfig(Vec<(Vec<u8>, Vec<u8>)>),
    /// `CONFIG RESETSTAT`.
    ResetStatistics,
    /// `INFO` with these sections (lower case); empty means the default ones.
    ShowInfo(Vec<String>),
    /// Write a data snapshot now and answer when it is on disk.
    Save,
    /// Write a data snapshot in the background.
    SaveInBackground,
    /// Send a data snapshot to the client, then close the connection.
    SendCopy(CopyHolds),
    /// When the last data snapshot was written.
    ShowLastSave,
    /// Stop this node; `save` as given, or by configuration.
    Shutdown {
        /// Write a snapshot first (`SAVE`), or not (`NOSAVE`).
        save: Option<bool>,
    },
    /// `MEMORY`, but for the size of one key.
    Memory(MemoryAsk),
    /// `MEMORY PURGE`: give free memory back.
    PurgeMemory,
    /// `SLOWLOG` and `COMMANDLOG`.
    CommandLog(CommandLogKind, CommandLogAsk),
    /// `LATENCY`.
    Latency(LatencyAsk),
    /// `CLIENT PAUSE`: clients wait.
    Pause {
        /// For how long, in milliseconds.
        ms: u64,
        /// Only those that want to write.
        writes_only: bool,
    },
    /// `CLIENT UNPAUSE`.
    Unpause,
    /// `DEBUG`.
    Debug(DebugAsk),
}

/// What `MEMORY` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryAsk {
    /// `MEMORY STATS`.
    Statistics,
    /// `MEMORY DOCTOR`.
    Advice,
    /// `MEMORY MALLOC-STATS`.
    Allocator,
}

/// Which log of commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandLogKind {
    /// Those that took long.
    Slow,
    /// Those that were long.
    LargeRequest,
    /// Those whose answer was long.
    LargeReply,
}

/// What to do with a log of commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandLogAsk {
    /// The newest entries, at most so many.
    Show(Option<usize>),
    /// How many there are.
    Count,
    /// Empty it.
    Reset,
}

/// What `LATENCY` is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LatencyAsk {
    /// The newest and the worst of each event.
    Latest,
    /// Every kept moment of one event.
    History(Vec<u8>),
    /// The same, drawn.
    Graph(Vec<u8>),
    /// Forget these events; none named: all.
    Reset(Vec<Vec<u8>>),
    /// Advice in words.
    Doctor,
    /// How long these commands took; none named: all that were called.
    Histogram(Vec<Vec<u8>>),
}

/// Looks at named keys, for `DEBUG`.
pub type DebugKeys = fn(&mut Keys<'_>, &[&[u8]], &mut Reply) -> Result<(), CommandError>;

/// What `DEBUG` is asked for. Only where `enable-debug-command` allows it.
pub enum DebugAsk {
    /// Answer this, spelled already.
    Answer(Vec<u8>),
    /// This connection alone waits.
    Sleep {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// Look at these keys.
    Keys(DebugKeys, Vec<Vec<u8>>),
    /// Write a snapshot and load it again.
    Reload {
        /// Write one first.
        save: bool,
        /// Forget what is in memory before loading.
        flush: bool,
        /// What is there already may stay.
        merge: bool,
    },
    /// Whether scripts may use the words of `DEBUG` that only answer.
    InScripts(bool),
    /// Whether expired keys are looked for.
    ActiveExpiry(bool),
    /// A number that tells two states of all databases apart.
    Digest,
    /// Count all memory and keys anew, and say what is not as it was counted on the way.
    Recount,
    /// Make keys `prefix:0` and so on.
    Populate {
        /// How many.
        count: u64,
        /// Before the colon.
        prefix: Vec<u8>,
        /// Bytes of each value; `None`: `value:N`.
        bytes: Option<u64>,
    },
    /// What the tables of one database look like.
    Tables {
        /// Which database.
        database: u32,
    },
    /// Write a line to the log.
    Log(Vec<u8>),
    /// A new replication id.
    ChangeReplicationId,
}
