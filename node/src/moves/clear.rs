//! Removes the keys of a move from a group that does not hold them: the old one's after it, the new one's when it came to
//! nothing. As any write: journaled, so that the copies lose them too. Nobody is told, for to clients nothing happened.

use super::in_lane;
use crate::node::{Node, now_ms};
use crate::routes::Moving;
use crate::shards::{Call, CallSpace, Wanted};
use keyward_acl::{KeyAccess, KeyUse};
use keyward_engine::command::Run;
use keyward_engine::events::EventClass;
use keyward_engine::keyspace::{CallContext, SpaceId, TenantId};
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;
use std::time::{Duration, Instant};

/// A shard is locked no longer than this at a stretch.
const SLICE: Duration = Duration::from_micros(100);

/// After each slice: others wait for the shard, too.
const PAUSE: Duration = Duration::from_micros(50);

/// Keys one step removes.
const KEYS_AT_ONCE: usize = 64;

/// Runs a command on named keys as the system, and has the copies do the same.
pub(super) fn run(
    of: &Node,
    space: SpaceId,
    argv: &[&[u8]],
    keys: &[&[u8]],
    memory: &mut CallSpace,
) -> Result<(), String> {
    let hot = of.live.hot();
    let access = KeyAccess { read: true, write: true };
    let keys: Vec<KeyUse<'_>> = keys.iter().map(|key| KeyUse { key, access, argument: 1 }).collect();
    let context = CallContext {
        layout: of.shards.layout(),
        space: space.world(),
        now: now_ms(),
        limits: &hot.limits,
        value_bytes_max: u64::MAX,
        room_bytes: u64::MAX,
        databases: of.config.databases,
        random: 0,
        no_touch: false,
        usage: hot.eviction.usage,
        keeps_expired: false,
        patience: None,
    };
    let call = Call {
        argv,
        words: 1,
        keys: &keys,
        place: None,
        owner: None,
        reads: false,
        context,
        events: Wanted::of_all(EventClass::default()),
        client: 0,
        signer: None,
        reach: &Reach::Everything,
        reader: None,
        park: None,
    };
    let row = of.table.resolve(argv).map_err(|error| format!("{error:?}"))?.row;
    let Run::OnKeys(handler) = row.run else { return Err(format!("{} is about no keys", row.full_name)) };
    let mut reply = Reply::new(Protocol::Resp2);
    let result = of.shards.run(handler, &call, memory, &of.journal, &mut reply);
    memory.ready.clear();
    memory.parked = None;
    result.map_err(|error| format!("{} cannot be done: {error:?}", row.full_name))
}

/// Visits entries of all shards, a slice at a time; where to go on.
pub(super) struct Walk {
    index: u32,
    spaces: Option<Vec<SpaceId>>,
    cursor: u64,
}

impl Walk {
    /// Of all shards.
    pub(super) fn new() -> Walk {
        Walk { index: 0, spaces: None, cursor: 0 }
    }

    /// The next slice, those that are meant. False: that was all.
    pub(super) fn slice(
        &mut self,
        of: &Node,
        concerns: &dyn Fn(TenantId, &[u8]) -> bool,
        visit: &mut dyn FnMut(SpaceId, &keyward_engine::dict::Entry<keyward_engine::types::Value>),
    ) -> bool {
        if self.index >= of.shards.count() {
            return false;
        }
        let began = Instant::now();
        let done = of.shards.with(self.index, |shard| {
            if shard.is_unsettled() {
                // Keys change their places: what was seen of this shard is not what there is.
                shard.settle_all();
                (self.spaces, self.cursor) = (None, 0);
            }
            let spaces = self.spaces.get_or_insert_with(|| shard.spaces().map(|(id, _)| id).collect());
            while let Some(id) = spaces.last().copied() {
                let Some(space) = shard.space(id) else {
                    spaces.pop();
                    self.cursor = 0;
                    continue;
                };
                self.cursor = space.scan(self.cursor, &mut |entry| {
                    if concerns(id.tenant, entry.key()) {
                        visit(id, entry);
                    }
                });
                if self.cursor == 0 {
                    spaces.pop();
                }
                if began.elapsed() > SLICE {
                    return spaces.is_empty();
                }
            }
            true
        });
        if done {
            (self.spaces, self.cursor) = (None, 0);
            self.index += 1;
        }
        std::thread::sleep(PAUSE);
        self.index < of.shards.count()
    }
}

/// Removes every key of the move from `of`, while `still` says so.
pub(super) fn clear(of: &Node, moving: &Moving, still: &dyn Fn() -> bool) {
    let mut memory = CallSpace::default();
    let mut walk = Walk::new();
    let mut removed = 0_u64;
    loop {
        let mut found: Vec<(SpaceId, Vec<u8>)> = Vec::new();
        let more = walk.slice(of, &|world, key| moving.leaves(world, key), &mut |space, entry| {
            found.push((space, entry.key().to_vec()))
        });
        for some in found.chunks(KEYS_AT_ONCE) {
            let gone = in_lane(of, || {
                if !still() {
                    return false;
                }
                for (space, key) in some {
                    // A key that cannot be removed is not there.
                    let _ = run(of, *space, &[b"DEL", key], &[key], &mut memory);
                }
                true
            });
            if !gone {
                return;
            }
            removed += some.len() as u64;
            of.replication.log.tell();
        }
        if !more {
            break;
        }
    }
    if removed > 0 {
        tracing::info!(group = of.group.0, keys = removed, "keys of another shard group were removed");
    }
}
