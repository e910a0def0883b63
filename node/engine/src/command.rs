//! A command, declared once: the vocabulary every family file uses.
//!
//! A [`Command`] is data that lies next to its handler. Dispatch, `COMMAND INFO/DOCS/GETKEYS`, `ACL CAT`,
//! key extraction for permissions, routing and tracking are all derived from it ([`crate::table`],
//! [`crate::introspect`]); nothing about a command is written in a second place.
//!
//! The one interesting field is [`Run`]: it says what the handler may touch, and its type keeps the handler to it.
//! This file knows no command by name.

use crate::{args::Args, error::CommandError, keyspace::EveryKey, keyspace::Keys, reply::Reply, session::Surroundings};
use crate::{asks::Ask, asks::Now, scope::Scope, session::Session};
use keyward_acl::{Category, CategorySet, KeyAccess, KeyUse};

/// How many arguments a request has, the name included (for a subcommand: both words).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arity {
    /// Exactly this many.
    Exactly(u16),
    /// This many or more.
    AtLeast(u16),
}

impl Arity {
    /// Whether a request of `count` arguments fits.
    #[inline]
    pub const fn accepts(self, count: usize) -> bool {
        match self {
            Arity::Exactly(n) => count == n as usize,
            Arity::AtLeast(n) => count >= n as usize,
        }
    }

    /// The number `COMMAND INFO` shows: negative for "at least".
    pub const fn as_redis(self) -> i64 {
        match self {
            Arity::Exactly(n) => n as i64,
            Arity::AtLeast(n) => -(n as i64),
        }
    }
}

/// A set of command flags, as `COMMAND INFO` names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Flags = Flags(1 << $bit);)*
            /// Every flag with its name on the wire, in the order `COMMAND INFO` lists them.
            pub const ALL: &'static [(Flags, &'static str)] = &[$((Flags::$name, $text)),*];
        }
    };
}

flags! {
    /// May change data; refused where writes are.
    WRITE = 0, "write";
    /// Only reads data.
    READONLY = 1, "readonly";
    /// Refused when memory is full.
    DENYOOM = 2, "denyoom";
    /// Administers the server.
    ADMIN = 3, "admin";
    /// Belongs to publish and subscribe.
    PUBSUB = 4, "pubsub";
    /// Not allowed in scripts.
    NOSCRIPT = 5, "noscript";
    /// May wait for other clients.
    BLOCKING = 6, "blocking";
    /// Allowed while data is being loaded.
    LOADING = 7, "loading";
    /// Allowed on a replica that lost its primary.
    STALE = 8, "stale";
    /// Not shown by MONITOR.
    SKIP_MONITOR = 9, "skip_monitor";
    /// Not kept by the slow log.
    SKIP_SLOWLOG = 10, "skip_commandlog";
    /// Allowed in a slot that is being imported.
    ASKING = 11, "asking";
    /// Cheap at any size of data.
    FAST = 12, "fast";
    /// Allowed before a login.
    NO_AUTH = 13, "no_auth";
    /// A script with it may write.
    MAY_REPLICATE = 14, "may_replicate";
    /// May be called without any key.
    NO_MANDATORY_KEYS = 15, "no_mandatory_keys";
    /// Refused while a full synchronization loads in the background.
    NO_ASYNC_LOADING = 16, "no_async_loading";
    /// Not allowed in a transaction.
    NO_MULTI = 17, "no_multi";
    /// Allowed while a slow script blocks the node.
    ALLOW_BUSY = 18, "allow_busy";
}

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);

    /// Both sets.
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether every flag of `other` is in this set.
    #[inline]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The group a command is documented under; data groups imply an ACL category.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Group {
    Generic,
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Bitmap,
    HyperLogLog,
    Geo,
    Stream,
    PubSub,
    Transactions,
    Scripting,
    Connection,
    Server,
    Cluster,
}

impl Group {
    /// The name `COMMAND DOCS` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sorted-set",
            Group::Hash => "hash",
            Group::Bitmap => "bitmap",
            Group::HyperLogLog => "hyperloglog",
            Group::Geo => "geo",
            Group::Stream => "stream",
            Group::PubSub => "pubsub",
            Group::Transactions => "transactions",
            Group::Scripting => "scripting",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
        }
    }
}

/// What a command does with a key, as the key-spec flags of `COMMAND INFO` say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyFlags(u16);

impl KeyFlags {
    /// Reads the key, changes nothing.
    pub const RO: KeyFlags = KeyFlags(1 << 0);
    /// Reads and changes the key.
    pub const RW: KeyFlags = KeyFlags(1 << 1);
    /// Overwrites the key.
    pub const OW: KeyFlags = KeyFlags(1 << 2);
    /// Removes the key.
    pub const RM: KeyFlags = KeyFlags(1 << 3);
    /// Gives the caller data of the value (needs the read right).
    pub const ACCESS: KeyFlags = KeyFlags(1 << 4);
    /// Changes data of the value (needs the write right).
    pub const UPDATE: KeyFlags = KeyFlags(1 << 5);
    /// Adds data to the value (needs the write right).
    pub const INSERT: KeyFlags = KeyFlags(1 << 6);
    /// Removes data of the value (needs the write right).
    pub const DELETE: KeyFlags = KeyFlags(1 << 7);
    /// Looks like a key for routing but is none.
    pub const NOT_KEY: KeyFlags = KeyFlags(1 << 8);
    /// The declared positions miss some keys.
    pub const INCOMPLETE: KeyFlags = KeyFlags(1 << 9);
    /// What is done depends on other arguments.
    pub const VARIABLE_FLAGS: KeyFlags = KeyFlags(1 << 10);

    /// Every flag with its name on the wire.
    pub const ALL: &'static [(KeyFlags, &'static str)] = &[
        (KeyFlags::RO, "RO"),
        (KeyFlags::RW, "RW"),
        (KeyFlags::OW, "OW"),
        (KeyFlags::RM, "RM"),
        (KeyFlags::ACCESS, "access"),
        (KeyFlags::UPDATE, "update"),
        (KeyFlags::INSERT, "insert"),
        (KeyFlags::DELETE, "delete"),
        (KeyFlags::NOT_KEY, "not_key"),
        (KeyFlags::INCOMPLETE, "incomplete"),
        (KeyFlags::VARIABLE_FLAGS, "variable_flags"),
    ];

    /// Both sets.
    pub const fn and(self, other: KeyFlags) -> KeyFlags {
        KeyFlags(self.0 | other.0)
    }

    /// Whether every flag of `other` is in this set.
    pub const fn has(self, other: KeyFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights a user needs on the key.
    #[inline]
    pub const fn access(self) -> KeyAccess {
        let writes = KeyFlags::UPDATE.0 | KeyFlags::INSERT.0 | KeyFlags::DELETE.0;
        KeyAccess { read: self.0 & KeyFlags::ACCESS.0 != 0, write: self.0 & writes != 0 }
    }
}

/// Where the search for keys begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    Index(u16),
    /// After a keyword.
    Keyword {
        /// The keyword.
        word: &'static str,
        /// Looked for from this argument on; negative: backwards from the end.
        from: i16,
    },
    /// Only the command's parser knows.
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// From the first argument up to another.
    Range {
        /// Relative to the first; negative: counted from the end.
        last: i16,
        /// Every how manieth argument is a key.
        step: u16,
        /// n ≥ 2 stops after 1/n of the remaining arguments.
        limit: u16,
    },
    /// As many as a number among the arguments says.
    KeyNum {
        /// Where the number lies, relative to where the search begins.
        count: u16,
        /// Where the first key lies, likewise.
        first: u16,
        /// Every how manieth argument is a key.
        step: u16,
    },
    /// Only the command's parser knows.
    Unknown,
}

/// Where some keys of a command lie, and what it does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// What is done with these keys.
    pub flags: KeyFlags,
    /// Where the search begins.
    pub begin: Begin,
    /// Which arguments are keys.
    pub find: Find,
}

impl KeySpec {
    /// One key at argument `index`.
    pub const fn at(index: u16, flags: KeyFlags) -> KeySpec {
        KeySpec::range(index, 0, 1, flags)
    }

    /// Keys from `index` on; `last` and `step` as in [`Find::Range`].
    pub const fn range(index: u16, last: i16, step: u16, flags: KeyFlags) -> KeySpec {
        KeySpec { flags, begin: Begin::Index(index), find: Find::Range { last, step, limit: 0 } }
    }

    /// `numkeys key [key …]` with the count at argument `index`.
    pub const fn numkeys(index: u16, flags: KeyFlags) -> KeySpec {
        KeySpec { flags, begin: Begin::Index(index), find: Find::KeyNum { count: 0, first: 1, step: 1 } }
    }

    /// A spec that only the command's parser can resolve.
    pub const fn unknown(flags: KeyFlags) -> KeySpec {
        KeySpec { flags, begin: Begin::Unknown, find: Find::Unknown }
    }
}

/// Collects the keys a request names, in argument order.
pub struct KeyList<'a, 'b> {
    /// The request, the command's name first.
    pub argv: &'a [&'a [u8]],
    /// What was found so far.
    pub keys: &'b mut Vec<KeyUse<'a>>,
}

impl KeyList<'_, '_> {
    /// Notes that argument `index` is a key. Indexes past the end are ignored: the handler will refuse the request.
    pub fn push(&mut self, index: usize, flags: KeyFlags) {
        if let Some(key) = self.argv.get(index) {
            self.keys.push(KeyUse { key, access: flags.access(), argument: index as u32 });
        }
    }
}

/// Which keys a request names. There is one answer, and permission check, routing and tracking all take it.
#[derive(Clone, Copy)]
pub enum KeyRule {
    /// None.
    None,
    /// Exactly where these specs say.
    At(&'static [KeySpec]),
    /// Where this function says: the one the handler parses its arguments with. The specs are shown to clients.
    /// A request it cannot make sense of names the keys found so far; the handler refuses it with the same parser.
    Parsed(&'static [KeySpec], fn(&mut KeyList<'_, '_>)),
}

impl KeyRule {
    /// The specs `COMMAND INFO` shows.
    pub const fn specs(&self) -> &'static [KeySpec] {
        match self {
            KeyRule::None => &[],
            KeyRule::At(specs) | KeyRule::Parsed(specs, _) => specs,
        }
    }
}

/// Which arguments are channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelRule {
    /// None.
    None,
    /// The one at this argument.
    At(u16),
    /// All from this argument on.
    From(u16),
    /// All from this argument on, as patterns that must literally be among the user's.
    PatternsFrom(u16),
}

/// Which databases a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseRule {
    /// The connection's own, if the command works on keys (it reads, writes or is in `@keyspace`); else none.
    Own,
    /// The one at this argument (SELECT).
    At(u16),
    /// The two at these arguments (SWAPDB).
    Both(u16, u16),
    /// The connection's own, and the one at this argument (MOVE).
    OwnAndAt(u16),
    /// The connection's own, and the one behind this option (COPY … DB n).
    OwnAndAfter(&'static str),
    /// Every one (FLUSHALL).
    Every,
}

/// How a command runs, and therefore what it is able to touch.
#[derive(Clone, Copy)]
pub enum Run {
    /// On the keys it names, locked for one call. Cannot wait, cannot see another tenant.
    OnKeys(fn(&mut Keys<'_>, Args<'_>, &mut Reply) -> Result<(), CommandError>),
    /// On every key of the connection's tenant that its user may touch, shard by shard or all at once: DBSIZE, KEYS, SCAN,
    /// FLUSHALL.
    OnEveryKey(fn(&mut dyn EveryKey, Args<'_>, &mut Reply) -> Result<(), CommandError>),
    /// On the connection's own state and what a node may read freely: CLIENT SETNAME, SELECT, COMMAND, ACL LIST.
    OnSession(fn(&mut Session, &Surroundings<'_>, Args<'_>, &mut Reply) -> Result<(), CommandError>),
    /// Asks for something the node does at once: MULTI, WATCH, PUBLISH, SUBSCRIBE.
    AtOnce(fn(&Session, &Surroundings<'_>, Args<'_>) -> Result<Now, CommandError>),
    /// Asks for something only the outside world can do: ACL SETUSER, CLIENT KILL, BGSAVE.
    Ask(fn(&Session, &Surroundings<'_>, Args<'_>) -> Result<Ask, CommandError>),
    /// As `Ask`, but about the data: it is carried out by the node that holds it. SAVE, BGSAVE, LASTSAVE.
    AskOwner(fn(&Session, &Surroundings<'_>, Args<'_>) -> Result<Ask, CommandError>),
    /// Has no behaviour of its own; one of its subcommands runs.
    Container(&'static [Command]),
    /// Known by name, so that rules and clients may mention it, but not carried out; the text says what to do instead.
    Refused(&'static str),
}

/// Which node can carry out a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// The one the client is connected to, whichever that is.
    Anywhere,
    /// The one that holds the data. Another one forwards the command there.
    Data,
    /// The one that holds the data, and the connection needs something lasting there: a queue of commands, watched keys,
    /// subscriptions, scripts, a place among those who wait. Another one hands the whole connection over.
    DataForGood,
}

/// What `COMMAND DOCS` tells.
#[derive(Clone, Copy, Debug)]
pub struct Docs {
    /// One sentence.
    pub summary: &'static str,
    /// The Redis version that brought the command.
    pub since: &'static str,
    /// Cost, in big-O words.
    pub complexity: &'static str,
}

/// Tells which option of a request, if any, makes it read keys that it does not name.
pub type LooksFurther = fn(&[&[u8]]) -> Option<&'static str>;

/// What few commands need.
#[derive(Clone, Copy)]
pub struct Extra {
    /// Categories beyond those implied by flags and group.
    pub categories: &'static [Category],
    /// Channels among the arguments.
    pub channels: ChannelRule,
    /// Databases it touches.
    pub databases: DatabaseRule,
    /// Hints for cluster clients.
    pub tips: &'static [&'static str],
    /// Some options read keys that the request does not name: only for users who may read every key.
    pub looks_further: Option<LooksFurther>,
    /// Where it belongs, if group, flags and way to run do not say so.
    pub home: Option<Home>,
}

impl Extra {
    /// Nothing special.
    pub const NONE: Extra = Extra {
        categories: &[],
        channels: ChannelRule::None,
        databases: DatabaseRule::Own,
        tips: &[],
        looks_further: None,
        home: None,
    };

    /// Only where it belongs.
    pub const fn home(home: Home) -> Extra {
        Extra { home: Some(home), ..Extra::NONE }
    }

    /// Only more categories.
    pub const fn categories(categories: &'static [Category]) -> Extra {
        Extra { categories, ..Extra::NONE }
    }

    /// Only channels.
    pub const fn channels(channels: ChannelRule) -> Extra {
        Extra { channels, ..Extra::NONE }
    }
}

/// One command or subcommand. No field has a default: a forgotten key rule or scope would be a security hole.
pub struct Command {
    /// Upper case; for a subcommand only its own word.
    pub name: &'static str,
    /// How many arguments.
    pub arity: Arity,
    /// Its flags.
    pub flags: Flags,
    /// Its group.
    pub group: Group,
    /// Which arguments are keys.
    pub keys: KeyRule,
    /// How far it reaches beyond its arguments.
    pub scope: Scope,
    /// What it does.
    pub run: Run,
    /// What it is for.
    pub docs: Docs,
    /// What few commands need.
    pub extra: Extra,
}

impl Command {
    /// Its ACL categories: those declared, and those implied by flags and by the group of a data type.
    /// `WRITE` implies `@write`, `READONLY` implies `@read` (unless the group is scripting), `ADMIN` implies
    /// `@admin` and `@dangerous`, `FAST` implies `@fast` and its absence `@slow`.
    pub fn categories(&self) -> CategorySet {
        let mut set = CategorySet::EMPTY;
        for category in self.extra.categories {
            set.insert(*category);
        }
        let implied = [
            (Flags::WRITE, Category::Write),
            (Flags::READONLY, Category::Read),
            (Flags::ADMIN, Category::Admin),
            (Flags::ADMIN, Category::Dangerous),
            (Flags::PUBSUB, Category::Pubsub),
            (Flags::FAST, Category::Fast),
            (Flags::BLOCKING, Category::Blocking),
        ];
        for (flag, category) in implied {
            let scripts = category == Category::Read && self.group == Group::Scripting;
            if self.flags.has(flag) && !scripts {
                set.insert(category);
            }
        }
        if !self.flags.has(Flags::FAST) {
            set.insert(Category::Slow);
        }
        if let Some(category) = self.group_category() {
            set.insert(category);
        }
        set
    }

    /// Which node can carry it out.
    pub fn home(&self, argv: &[&[u8]]) -> Home {
        if let Some(home) = self.extra.home {
            return home;
        }
        let lasts = match self.group {
            Group::Transactions | Group::Scripting => true,
            // What subscribes is closed to scripts. PUBLISH and PUBSUB ask once, like any command.
            Group::PubSub => self.flags.has(Flags::NOSCRIPT),
            // Reading a stream waits only if told to. The word as a group's or consumer's name costs a needless move.
            Group::Stream => {
                self.flags.has(Flags::BLOCKING) && argv.iter().any(|word| word.eq_ignore_ascii_case(b"BLOCK"))
            }
            // WAIT names no key: it asks about copies, not about data.
            _ => self.flags.has(Flags::BLOCKING) && !matches!(self.keys, KeyRule::None),
        };
        match self.run {
            Run::Refused(_) => Home::Anywhere,
            _ if lasts => Home::DataForGood,
            Run::OnKeys(_) | Run::OnEveryKey(_) | Run::AskOwner(_) => Home::Data,
            // Of what is done at once, only what is about the connection itself is done where that is.
            Run::AtOnce(_) if self.group != Group::Connection => Home::Data,
            _ => Home::Anywhere,
        }
    }

    /// A container has no data type: only its subcommands touch values.
    fn group_category(&self) -> Option<Category> {
        if matches!(self.run, Run::Container(_)) {
            return None;
        }
        Some(match self.group {
            Group::String => Category::String,
            Group::List => Category::List,
            Group::Set => Category::Set,
            Group::SortedSet => Category::Sortedset,
            Group::Hash => Category::Hash,
            Group::Bitmap => Category::Bitmap,
            Group::HyperLogLog => Category::Hyperloglog,
            Group::Geo => Category::Geo,
            Group::Stream => Category::Stream,
            Group::Transactions => Category::Transaction,
            Group::Scripting => Category::Scripting,
            Group::Connection => Category::Connection,
            // PUBSUB is implied by its flag: PUBSUB HELP is in no category of its own.
            Group::Generic | Group::PubSub | Group::Server | Group::Cluster => return None,
        })
    }
}
