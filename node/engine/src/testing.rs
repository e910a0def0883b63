//! A whole engine in a test: shards, tenants by prefix, a clock that stands still until it is moved. Requests go in as words,
//! answers come out as RESP, and everything that would be written to the journal is kept.
//!
//! It refuses to know connections and permissions; commands of a session are tested where sessions are.

use crate::args::Args;
use crate::command::Run;
use crate::dict::ValueRef;
use crate::effects::{Effect, Effects, Wait, WaitedInVain};
use crate::events::EventClass;
use crate::eviction::Usage;
use crate::keyspace::{CallContext, EveryKey, Keys, Layout, Shard, SpaceId, TenantId, UnixMillis};
use crate::reply::{Protocol, Reply};
use crate::scope::Reach;
use crate::table::table;
use crate::tenancy::{Gauges, Owners};
use crate::types::{Kind, Limits, Patience, Stream, StreamId, Value};
use std::sync::Arc;

// Errors as `Engine::words` shows them.

pub(crate) const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\n";
pub(crate) const NOT_POSITIVE: &str = "-ERR value is out of range, must be positive\n";
pub(crate) const NOT_INTEGER: &str = "-ERR value is not an integer or out of range\n";
pub(crate) const NOT_FLOAT: &str = "-ERR value is not a valid float\n";
pub(crate) const SYNTAX: &str = "-ERR syntax error\n";

/// One engine under test.
pub(crate) struct Engine {
    /// When values change their encoding.
    pub(crate) limits: Limits,
    /// The clock.
    pub(crate) now: UnixMillis,
    /// The protocol of the answers.
    pub(crate) protocol: Protocol,
    /// The selected database.
    pub(crate) database: u32,
    /// Whose keys a request about all of them means.
    pub(crate) tenant: TenantId,
    /// Which keys that nobody named there are for whoever asks.
    pub(crate) reach: Reach,
    /// How the use of keys is remembered.
    pub(crate) usage: Usage,
    /// How long an answer may be, in bytes.
    pub(crate) answer_bytes_max: usize,
    /// The last answer was longer than that, and is not whole.
    pub(crate) is_too_long: bool,
    /// Who is asked whether long work may go on.
    pub(crate) patience: Option<Patience>,
    /// The effects so far, each with its database; a key that was removed as expired reads as a DEL.
    pub(crate) journal: Vec<(u32, Vec<Vec<u8>>)>,
    /// How many changes the last request counted.
    pub(crate) changes: u64,
    /// What the last request waits for, if it does; its answer is the one it gets in vain.
    pub(crate) waits: Option<Wait>,
    /// The keyspace events of the last request: `name key`.
    pub(crate) events: Vec<String>,
    /// The keys the last request touched.
    pub(crate) touched: Vec<String>,
    layout: Layout,
    shards: Vec<Shard>,
    gauges: Arc<Gauges>,
    effects: Effects,
    random: u64,
}

impl Engine {
    /// Four shards, after these requests; what they left in the journal is forgotten.
    pub(crate) fn after(requests: &[&str]) -> Engine {
        let mut engine = Engine::new(4);
        requests.iter().for_each(|request| _ = engine.words(request));
        engine.journal.clear();
        engine
    }

    /// An empty engine with this many shards, a power of two.
    pub(crate) fn new(shard_count: u32) -> Engine {
        let (layout, gauges) = (Layout { seed: 7, shard_count }, Arc::new(Gauges::default()));
        Engine {
            limits: Limits::default(),
            now: 1_700_000_000_000,
            protocol: Protocol::Resp2,
            database: 0,
            tenant: TenantId::SHARED,
            reach: Reach::Everything,
            usage: Usage::default(),
            answer_bytes_max: usize::MAX,
            is_too_long: false,
            patience: None,
            journal: Vec::new(),
            changes: 0,
            waits: None,
            events: Vec::new(),
            touched: Vec::new(),
            shards: (0..shard_count).map(|_| Shard::with_gauges(layout.seed, &gauges)).collect(),
            gauges,
            layout,
            effects: Effects::new(),
            random: 1,
        }
    }

    /// From now on keys that begin so belong to these tenants.
    pub(crate) fn own(&mut self, prefixes: &[(&str, TenantId)]) {
        let owners = Owners::new(prefixes.iter().map(|(prefix, id)| (prefix.as_bytes(), *id)));
        self.shards.iter_mut().for_each(|shard| shard.set_owners(Some(&Arc::new(owners.clone()))));
    }

    /// The shards, for what nodes do besides commands.
    pub(crate) fn shards(&mut self) -> &mut [Shard] {
        &mut self.shards
    }

    /// Bytes a tenant is told to use.
    pub(crate) fn told(&self, tenant: TenantId) -> u64 {
        self.gauges.of(tenant).bytes()
    }

    /// Runs a request of words without spaces; `''` is the empty word. Returns the answer as text.
    pub(crate) fn words(&mut self, request: &str) -> String {
        let argv: Vec<&[u8]> =
            request.split(' ').map(|word| if word == "''" { &b""[..] } else { word.as_bytes() }).collect();
        String::from_utf8_lossy(&self.run(&argv)).into_owned()
    }

    /// Runs a request and returns the answer.
    pub(crate) fn run(&mut self, argv: &[&[u8]]) -> Vec<u8> {
        let mut reply = Reply::new(self.protocol);
        reply.bytes_max = self.answer_bytes_max;
        self.random += 1;
        self.effects.clear();
        self.effects.observe(true, EventClass::parse(b"KEAmn").unwrap_or_default());
        let resolved = match table().resolve(argv) {
            Ok(resolved) => resolved,
            Err(error) => {
                reply.command_error(&error);
                return reply.bytes;
            }
        };
        let args = Args::new(argv, resolved.words);
        let mark = reply.mark();
        let result = match resolved.row.command.run {
            Run::OnKeys(handler) => {
                let mut uses = Vec::new();
                table().keys_of(resolved.row, argv, &mut uses);
                let named: Vec<&[u8]> = uses.iter().map(|used| used.key).collect();
                self.settle(&named);
                let result = self.with_keys(&named, |keys| handler(keys, args, &mut reply));
                self.account(&named);
                result
            }
            Run::OnEveryKey(handler) => {
                self.shards.iter_mut().for_each(Shard::settle_all);
                let result = handler(self, args, &mut reply);
                self.shards.iter_mut().for_each(Shard::account_all);
                result
            }
            Run::Refused(text) => {
                reply.error(&format!("ERR {text}"));
                Ok(())
            }
            Run::OnSession(_) | Run::AtOnce(_) | Run::Ask(_) | Run::AskOwner(_) | Run::Container(_) => {
                panic!("not a command of data: {argv:?}")
            }
        };
        if let Err(error) = result {
            reply.rewind(mark);
            reply.command_error(&error);
        }
        self.is_too_long = reply.is_too_long();
        self.waits = self.effects.take_wait();
        match self.waits.as_ref().map(|wait| wait.in_vain) {
            Some(WaitedInVain::Null) => reply.null(),
            Some(WaitedInVain::NullArray | WaitedInVain::NullArrayOrNull) => reply.null_array(),
            None => {}
        }
        let told = |event: &crate::events::Event| format!("{} {}", event.name, event.key.escape_ascii());
        self.events = self.effects.events().iter().map(told).collect();
        self.touched = self.effects.touched_keys().iter().map(|(_, key)| key.escape_ascii().to_string()).collect();
        self.note(argv);
        reply.bytes
    }

    /// Runs requests one after the other and expects these answers, line ends written as `\n`.
    pub(crate) fn converse(&mut self, conversation: &[(&str, &str)]) {
        for (request, answer) in conversation {
            assert_eq!(self.words(request), answer.replace('\n', "\r\n"), "{request}");
        }
    }

    /// The journal as text, a command a line.
    pub(crate) fn journal_lines(&self) -> Vec<String> {
        let words = |command: &[Vec<u8>]| -> Vec<String> {
            command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        self.journal.iter().map(|(_database, command)| words(command).join(" ")).collect()
    }

    /// Makes a key this value, leaving nothing in the journal.
    pub(crate) fn put(&mut self, key: &[u8], value: Value) {
        self.with_keys(&[key], |keys| keys.put(key, value, None));
        self.effects.clear();
    }

    /// Every live key with its type, value and expiry, sorted; two engines with the same text hold the same data.
    pub(crate) fn contents(&mut self) -> Vec<String> {
        let now = self.now;
        let mut lines = Vec::new();
        for shard in &self.shards {
            for (space, keys) in shard.spaces() {
                keys.for_each(&mut |entry| {
                    if entry.expires_at().is_none_or(|at| at > now) {
                        let value = spelled(entry.value());
                        let key = entry.key().escape_ascii().to_string();
                        lines.push(format!("{} {key} {:?} {value}", space.database, entry.expires_at()));
                    }
                });
            }
        }
        lines.sort();
        lines
    }

    /// Applies what another engine did, as a replica would: on a clock by which nothing ever expires.
    pub(crate) fn apply(&mut self, journal: &[(u32, Vec<Vec<u8>>)]) {
        let (now, database) = (self.now, self.database);
        self.now = 0;
        for (into, command) in journal {
            self.database = *into;
            let argv: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            let answer = self.run(&argv);
            assert!(!answer.starts_with(b"-"), "{command:?}: {}", answer.escape_ascii());
        }
        (self.now, self.database) = (now, database);
    }

    /// Removes up to about `max` expired fields of hashes in each keyspace, as the sweep does; how many.
    pub(crate) fn sweep_fields(&mut self, max: usize) -> usize {
        let Engine { shards, journal, now, .. } = self;
        let mut removed = 0;
        for shard in shards {
            for space in shard.spaces_of_expiring_fields() {
                removed += shard.space_mut(space).remove_expired_fields(*now, max, |expired| {
                    journal.push((space.database, expired.effect()));
                });
            }
        }
        removed
    }

    fn note(&mut self, argv: &[&[u8]]) {
        let Engine { effects, journal, database, .. } = self;
        effects.for_each(argv, |effect| {
            let command = match effect {
                Effect::Request(argv) => argv.iter().map(|argument| argument.to_vec()).collect(),
                Effect::Command(command) => command.clone(),
                Effect::Removed(key) => vec![b"DEL".to_vec(), key.to_vec()],
            };
            journal.push((*database, command));
        });
        effects.for_each_elsewhere(|database, effect| {
            if let Effect::Command(command) = effect {
                journal.push((database, command.clone()));
            }
        });
        self.changes = self.effects.changes();
    }

    /// As a node does it before a request …
    fn settle(&mut self, named: &[&[u8]]) {
        let space = SpaceId { tenant: TenantId::SHARED, database: self.database };
        for key in named {
            let place = self.layout.place(key);
            self.shards[place.shard as usize].settle_key(space, place.hash, key);
        }
    }

    /// … and afterwards.
    fn account(&mut self, named: &[&[u8]]) {
        if self.effects.has_strayed() {
            return self.shards.iter_mut().for_each(Shard::account_all);
        }
        let space = SpaceId { tenant: TenantId::SHARED, database: self.database };
        for key in named {
            let shard = &mut self.shards[self.layout.place(key).shard as usize];
            shard.account(shard.segment_of(space, key));
        }
    }

    /// What [`Shard::len_of`] says of a key.
    pub(crate) fn len_of(&self, key: &str, unit: usize) -> usize {
        let (place, space) = (self.layout.place(key.as_bytes()), SpaceId { tenant: TenantId::SHARED, database: 0 });
        self.shards[place.shard as usize].len_of(space, place.hash, key.as_bytes(), unit)
    }

    fn with_keys<R>(&mut self, named: &[&[u8]], call: impl FnOnce(&mut Keys<'_>) -> R) -> R {
        let mut wanted: Vec<u32> = named.iter().map(|key| self.layout.place(key).shard).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let Engine { shards, effects, limits, layout, random, now, database, usage, reach, patience, .. } = self;
        let context = context(*layout, limits, *now, *database, (*random, patience.as_ref()), *usage);
        let mut locked: Vec<(u32, &mut Shard)> =
            (0..).zip(shards.iter_mut()).filter(|(index, _)| wanted.contains(index)).collect();
        if locked.len() == 1 {
            let (index, shard) = locked.remove(0);
            return call(&mut Keys::one(index, shard, context, effects).within(reach));
        }
        call(&mut Keys::many(locked, context, effects).within(reach))
    }
}

const DATABASES: u32 = 16;

fn context<'a>(
    layout: Layout,
    limits: &'a Limits,
    now: UnixMillis,
    database: u32,
    (random, patience): (u64, Option<&'a Patience>),
    usage: Usage,
) -> CallContext<'a> {
    CallContext {
        layout,
        space: SpaceId { tenant: TenantId::SHARED, database },
        now,
        limits,
        value_bytes_max: 512 << 20,
        room_bytes: u64::MAX,
        databases: DATABASES,
        random,
        no_touch: false,
        usage,
        keeps_expired: false,
        patience,
    }
}

impl EveryKey for Engine {
    fn reach(&self) -> &Reach {
        &self.reach
    }

    fn pattern_bytes_max(&self) -> usize {
        self.limits.pattern_bytes_max
    }

    fn databases(&self) -> u32 {
        DATABASES
    }

    fn shard_count(&self) -> u32 {
        self.layout.shard_count
    }

    fn with_shard(&mut self, index: u32, with: &mut dyn FnMut(&mut Keys<'_>)) {
        let Engine { shards, effects, limits, layout, random, now, database, tenant, usage, reach, patience, .. } =
            self;
        let context = context(*layout, limits, *now, *database, (*random, patience.as_ref()), *usage);
        let context = CallContext { space: SpaceId { tenant: *tenant, ..context.space }, ..context };
        with(&mut Keys::one(index, &mut shards[index as usize], context, effects).within(reach));
    }

    fn with_keys(&mut self, named: &[&[u8]], with: &mut dyn FnMut(&mut Keys<'_>)) {
        Engine::with_keys(self, named, with);
    }

    fn with_all(&mut self, with: &mut dyn FnMut(&mut Keys<'_>)) {
        let Engine { shards, effects, limits, layout, random, now, database, tenant, usage, reach, patience, .. } =
            self;
        let context = context(*layout, limits, *now, *database, (*random, patience.as_ref()), *usage);
        let context = CallContext { space: SpaceId { tenant: *tenant, ..context.space }, ..context };
        with(&mut Keys::many((0..).zip(shards.iter_mut()).collect(), context, effects).within(reach));
    }
}

fn spelled(value: ValueRef<'_, Value>) -> String {
    let mut parts: Vec<String> = match value {
        ValueRef::Int(number) => return format!("string {number}"),
        ValueRef::Str(bytes) => return format!("string {}", bytes.escape_ascii()),
        ValueRef::Object(object) => match object.kind() {
            Kind::List(list) => {
                let elements: Vec<String> = list.iter().map(|element| element.escape_ascii().to_string()).collect();
                return format!("list {elements:?}");
            }
            Kind::Hash(hash) => {
                let field = |field: crate::types::HashField<'_>| {
                    let [name, value] = [&field.field, &field.value].map(|text| text.escape_ascii().to_string());
                    format!("{name}={value}@{:?}", hash.expiry(&field.field))
                };
                hash.iter().map(field).collect()
            }
            Kind::Set(set) => set.iter().map(|member| member.escape_ascii().to_string()).collect(),
            Kind::SortedSet(set) => {
                set.iter().map(|(member, score)| format!("{}={score}", member.escape_ascii())).collect()
            }
            Kind::Stream(stream) => return stream_text(stream),
        },
    };
    parts.sort();
    format!("collection {parts:?}")
}

/// A stream as text: all but when consumers were last heard of, which is for every node to know by itself.
pub(crate) fn stream_text(stream: &Stream) -> String {
    use std::fmt::Write;
    let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut text = format!(
        "stream last {} deleted {} added {}",
        stream.last_id(),
        stream.max_deleted_id(),
        stream.entries_added()
    );
    for entry in stream.range(StreamId::MIN, StreamId::MAX) {
        let pairs: Vec<String> =
            entry.pairs().map(|(field, value)| format!("{}={}", show(&field), show(&value))).collect();
        let _ = write!(text, " {} {pairs:?}", entry.id);
    }
    for group in stream.groups() {
        let _ = write!(text, " group {} {} {:?}", show(group.name()), group.last_id, group.entries_read);
        for (id, pending) in group.pending_from(StreamId::MIN) {
            let owner = show(group.owner(&pending).name());
            let _ = write!(text, " {id} {owner} {} {}", pending.delivered_at, pending.deliveries);
        }
        for consumer in group.consumers() {
            let ids: Vec<StreamId> = consumer.pending_from(StreamId::MIN).collect();
            let _ = write!(text, " consumer {} {ids:?}", show(consumer.name()));
        }
    }
    text
}
