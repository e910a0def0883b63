//! The new group's primary copies keys out of its own node's copy of the old group, and again whatever is written meanwhile.
//!
//! A key is copied as a whole value, or its absence is: so it does not matter what was copied before, nor in which order it
//! was changed. What changed is read off the old group's stream, whose every record names its keys; a record about all keys
//! (`FLUSHALL`) has everything copied anew. It decides nothing: when it is complete, the caller knows.

use super::clear::{self, Walk};
use super::in_lane;
use crate::node::Node;
use crate::replication::log::{Log, Purpose};
use crate::replication::record::{self, Record};
use crate::routes::Moving;
use crate::shards::CallSpace;
use keyward_acl::KeyUse;
use keyward_engine::command::Run;
use keyward_engine::dict::Entry;
use keyward_engine::dump;
use keyward_engine::eviction::Usage;
use keyward_engine::keyspace::{CallContext, SpaceId, TenantId};
use keyward_engine::types::Value;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A piece of the stream that is looked at, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Values written in one go, in bytes, and keys.
const BYTES_AT_ONCE: usize = 256 << 10;
const KEYS_AT_ONCE: usize = 64;

/// How far a member in sync of the new group may be behind before the copying waits for it, in bytes: it must not leave the set
/// because of a move.
const AHEAD_BYTES: u64 = 8 << 20;

/// How long it is waited for.
const AHEAD_WAIT: Duration = Duration::from_secs(10);

/// So often everything is copied anew because somebody flushed; then a move makes no sense.
const AGAIN_MAX: u32 = 64;

const GONE: &str = "the stream of the old group was lost";
const NOT_STILL: &str = "it was decided meanwhile";

/// A key as it is in the old group.
struct Found {
    space: SpaceId,
    key: Vec<u8>,
    /// Its value and its expiry; none if it is not there.
    value: Option<(Vec<u8>, i64)>,
}

/// Copies for one move.
pub(super) struct Copier<'a> {
    from: &'a Arc<Node>,
    to: &'a Arc<Node>,
    moving: &'a Arc<Moving>,
    /// Everything of the old group's stream before this was looked at.
    position: u64,
    pin: Pinned<'a>,
    copies_begun: u64,
    /// Bytes of a record that is not complete.
    rest: Vec<u8>,
    changed: HashSet<(TenantId, Vec<u8>)>,
    everything_changed: bool,
    again: u32,
    copied: u64,
    memory: CallSpace,
}

/// What is pinned is let go of however the copying ends.
struct Pinned<'a>(&'a Log, u64);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.unpin(self.1);
    }
}

impl<'a> Copier<'a> {
    /// Of nothing yet.
    pub(super) fn new(from: &'a Arc<Node>, to: &'a Arc<Node>, moving: &'a Arc<Moving>) -> Copier<'a> {
        let log = &from.replication.log;
        let position = log.position();
        Copier {
            from,
            to,
            moving,
            position,
            pin: Pinned(log, log.pin(position, Purpose::Copy)),
            copies_begun: from.replication.copies_begun(),
            rest: Vec::new(),
            changed: HashSet::new(),
            everything_changed: false,
            again: 0,
            copied: 0,
            memory: CallSpace::default(),
        }
    }

    /// How far the stream of the old group was looked at, and everything of it is here.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// How much of the stream was not looked at, in bytes.
    pub(super) fn behind(&self) -> u64 {
        self.from.replication.log.position().saturating_sub(self.position)
    }

    /// How many values were written.
    pub(super) fn copied(&self) -> u64 {
        self.copied
    }

    /// How often everything was copied anew.
    pub(super) fn again(&self) -> u32 {
        self.again
    }

    /// Copies every key that is there. Whatever lies here from before goes first.
    pub(super) fn copy_all(&mut self, still: &dyn Fn() -> bool) -> Result<(), String> {
        self.everything_changed = false;
        clear::clear(self.to, self.moving, still);
        let mut walk = Walk::new();
        loop {
            let (mut found, mut bytes) = (Vec::new(), 0);
            let moving = self.moving;
            let more = walk.slice(self.from, &|world, key| moving.concerns(world, key), &mut |space, entry| {
                let value = dumped(entry);
                bytes += value.0.len();
                found.push(Found { space, key: entry.key().to_vec(), value: Some(value) });
            });
            self.write(found, still)?;
            if bytes > 0 {
                self.wait_for_copies(still)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Looks at the stream as far as it goes, and copies what changed.
    pub(super) fn follow(&mut self, still: &dyn Fn() -> bool) -> Result<(), String> {
        loop {
            let end = self.from.replication.log.position();
            let mut piece = std::mem::take(&mut self.rest);
            let known = piece.len() as u64;
            let copied = self.from.replication.log.copy(self.position + known, PIECE_BYTES, &mut piece);
            copied.map_err(|_| GONE.to_owned())?;
            let whole = self.note(&piece)?;
            piece.drain(..whole);
            let looked_at = self.position + whole as u64;
            let complete = looked_at + piece.len() as u64 >= end;
            self.rest = piece;
            if self.everything_changed {
                self.again += 1;
                if self.again > AGAIN_MAX {
                    return Err("its keys are flushed all the time".to_owned());
                }
                self.changed.clear();
                self.copy_all(still)?;
            } else {
                let changed = std::mem::take(&mut self.changed);
                self.copy_again(&changed, still)?;
            }
            if !self.from.replication.has_data() || self.from.replication.copies_begun() != self.copies_begun {
                return Err("this node's copy of the old group was replaced meanwhile".to_owned());
            }
            // What was pinned for a move's sake is needed no longer than that.
            self.position = looked_at;
            self.from.replication.log.move_pin(self.pin.1, self.position, Purpose::Copy);
            if complete {
                return Ok(());
            }
        }
    }

    /// Notes which keys the whole records at the front are about; how long these are.
    fn note(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let mut at = 0;
        while let Some((record, length)) = record::read(&bytes[at..]).map_err(|_| GONE.to_owned())? {
            match record {
                Record::Begin | Record::End | Record::Signed(_) | Record::Reached(_) | Record::Noted(_) => {}
                Record::Removed(space, key) => self.note_key(space, key),
                Record::Imported(_, true, space, argv) => argv.iter().for_each(|key| self.note_key(space, key)),
                Record::Command(space, argv) | Record::Imported(_, false, space, argv) => {
                    self.note_command(space, &argv)?;
                }
            }
            at += length;
        }
        Ok(at)
    }

    fn note_command(&mut self, space: SpaceId, argv: &[&[u8]]) -> Result<(), String> {
        let table = self.from.table;
        let row = table.resolve(argv).map_err(|_| "the stream speaks of an unknown command".to_owned())?.row;
        match row.run {
            Run::OnKeys(_) => {
                let mut keys: Vec<KeyUse<'_>> = Vec::new();
                table.keys_of(row, argv, &mut keys);
                keys.iter().for_each(|named| self.note_key(space, named.key));
            }
            Run::OnEveryKey(_) => self.everything_changed = true,
            // Functions are every group's.
            _ => {}
        }
        Ok(())
    }

    fn note_key(&mut self, space: SpaceId, key: &[u8]) {
        let world = space.tenant.world();
        if self.moving.concerns(world, key) {
            self.changed.insert((world, key.to_vec()));
        }
    }

    /// Copies these as they are now, in every database: `MOVE` and `COPY` reach over.
    fn copy_again(&mut self, keys: &HashSet<(TenantId, Vec<u8>)>, still: &dyn Fn() -> bool) -> Result<(), String> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (world, key) in keys {
            for database in 0..self.from.config.databases {
                let space = SpaceId { tenant: *world, database };
                let value = self.look(space, key);
                if value.is_none() && !self.is_here(space, key) {
                    continue;
                }
                bytes += value.as_ref().map_or(0, |(value, _)| value.len());
                found.push(Found { space, key: key.clone(), value });
                if bytes > BYTES_AT_ONCE {
                    self.write(std::mem::take(&mut found), still)?;
                    bytes = 0;
                }
            }
        }
        self.write(found, still)
    }

    /// The key as it is in the old group now.
    fn look(&self, space: SpaceId, key: &[u8]) -> Option<(Vec<u8>, i64)> {
        let (shards, hot) = (&self.from.shards, self.from.live.hot());
        let context = CallContext {
            layout: shards.layout(),
            space,
            now: 0,
            limits: &hot.limits,
            value_bytes_max: u64::MAX,
            room_bytes: u64::MAX,
            databases: self.from.config.databases,
            random: 0,
            no_touch: true,
            usage: Usage::default(),
            keeps_expired: true,
            patience: None,
        };
        let place = shards.layout().place(key);
        shards.look(&[place.shard], context, |keys| keys.peek(key).map(dumped))
    }

    fn is_here(&self, space: SpaceId, key: &[u8]) -> bool {
        let place = self.to.shards.layout().place(key);
        self.to.shards.with(place.shard, |shard| shard.holds(space, place.hash, key))
    }

    /// Writes keys here, as they were found there.
    fn write(&mut self, found: Vec<Found>, still: &dyn Fn() -> bool) -> Result<(), String> {
        for some in found.chunks(KEYS_AT_ONCE) {
            let (to, memory) = (self.to, &mut self.memory);
            in_lane(to, || {
                if !still() {
                    return Err(NOT_STILL.to_owned());
                }
                some.iter().try_for_each(|Found { space, key, value }| match value {
                    Some((payload, expires_at)) => {
                        let at = expires_at.to_string();
                        let argv: [&[u8]; 6] = [b"RESTORE", key, at.as_bytes(), payload, b"REPLACE", b"ABSTTL"];
                        clear::run(to, *space, &argv, &[key], memory)
                    }
                    None => clear::run(to, *space, &[b"DEL", key], &[key], memory),
                })
            })?;
            self.copied += some.len() as u64;
            to.replication.log.tell();
        }
        if found.is_empty() && !still() {
            return Err(NOT_STILL.to_owned());
        }
        Ok(())
    }

    /// Waits until the members in sync have nearly everything.
    fn wait_for_copies(&self, still: &dyn Fn() -> bool) -> Result<(), String> {
        let began = Instant::now();
        let log = &self.to.replication.log;
        let is_far = || {
            let replicas = self.to.replication.replicas();
            replicas
                .iter()
                .any(|replica| replica.in_sync && log.position() - replica.position.min(log.position()) > AHEAD_BYTES)
        };
        while is_far() && began.elapsed() < AHEAD_WAIT {
            if !still() {
                return Err(NOT_STILL.to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// A value as `DUMP` says it, and when it expires; 0: never.
fn dumped(entry: &Entry<Value>) -> (Vec<u8>, i64) {
    (dump::payload(&entry.value()), entry.expires_at().unwrap_or(0))
}
