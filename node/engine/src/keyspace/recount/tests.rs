//! Random requests over all types, by tenants that come and go; then everything is counted anew.

use crate::effects::Effects;
use crate::eviction::{Policy, Pool, Round, Usage};
use crate::keyspace::{Shard, TenantId};
use crate::testing::Engine;

const GW: TenantId = TenantId::with_prefixes(1);
const AI: TenantId = TenantId::with_prefixes(2);

/// `K`: some key, `V`: some value, `N`: some number, `F`: some field, `T`: some time to live, `L`: where a list ends.
const REQUESTS: &[&str] = &[
    "SET K V",
    "SET K N",
    "SET K V EX T",
    "SET K V KEEPTTL",
    "SETNX K V",
    "GETSET K V",
    "GETDEL K",
    "GETEX K EX T",
    "APPEND K V",
    "SETRANGE K N V",
    "INCR K",
    "INCRBYFLOAT K N",
    "MSET K V K V K V",
    "MSETNX K V K V",
    "GET K",
    "SETBIT K N 1",
    "BITFIELD K SET u8 N N",
    "BITOP OR K K K",
    "BITOP NOT K K",
    "PFADD K V V",
    "PFMERGE K K K",
    "PFCOUNT K",
    "LPUSH K V V V",
    "RPUSH K V N V",
    "LPUSHX K V",
    "LPOP K",
    "RPOP K N",
    "LMOVE K K L L",
    "RPOPLPUSH K K",
    "LSET K N V",
    "LINSERT K BEFORE V V",
    "LREM K N V",
    "LTRIM K N N",
    "LMPOP 2 K K L COUNT N",
    "HSET K F V",
    "HSET K F V F V F V",
    "HSETNX K F V",
    "HDEL K F",
    "HDEL K F F",
    "HINCRBY K F N",
    "HINCRBYFLOAT K F N",
    "HEXPIRE K T FIELDS 1 F",
    "HPEXPIRE K T FIELDS 2 F F",
    "HPERSIST K FIELDS 1 F",
    "HGETDEL K FIELDS 1 F",
    "HGETEX K EX T FIELDS 1 F",
    "HSETEX K EX T FIELDS 1 F V",
    "HGETALL K",
    "SADD K V V",
    "SADD K N N N",
    "SREM K V",
    "SREM K N",
    "SPOP K",
    "SPOP K N",
    "SMOVE K K V",
    "SINTERSTORE K K K",
    "SUNIONSTORE K K K",
    "SDIFFSTORE K K K",
    "ZADD K N V N V",
    "ZADD K GT CH N V",
    "ZINCRBY K N V",
    "ZREM K V",
    "ZPOPMIN K",
    "ZPOPMAX K N",
    "ZRANGESTORE K K 0 N",
    "ZUNIONSTORE K 2 K K",
    "ZINTERSTORE K 2 K K",
    "ZDIFFSTORE K 2 K K",
    "ZREMRANGEBYRANK K 0 N",
    "ZREMRANGEBYSCORE K 0 N",
    "ZMPOP 2 K K MIN COUNT N",
    "GEOADD K 1.5 2.5 V",
    "GEOSEARCHSTORE K K FROMLONLAT 1 2 BYRADIUS 900 km",
    "XADD K * F V",
    "XADD K MAXLEN 3 * F V F V",
    "XADD K NOMKSTREAM MINID ~ 5 * F V",
    "XTRIM K MAXLEN N",
    "XDEL K 5-1",
    "XGROUP CREATE K g 0 MKSTREAM",
    "XGROUP CREATE K g2 $",
    "XGROUP DESTROY K g2",
    "XGROUP CREATECONSUMER K g c2",
    "XGROUP DELCONSUMER K g c",
    "XGROUP SETID K g 0",
    "XREADGROUP GROUP g c COUNT N STREAMS K >",
    "XREADGROUP GROUP g c2 NOACK STREAMS K >",
    "XAUTOCLAIM K g c2 0 0 COUNT N",
    "XSETID K 99999999999999-1",
    "EXPIRE K T",
    "PEXPIRE K T",
    "EXPIRE K -1",
    "PERSIST K",
    "DEL K",
    "DEL K K K",
    "UNLINK K",
    "TOUCH K K",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K",
    "COPY K K REPLACE",
    "COPY K K DB 1 REPLACE",
    "MOVE K 1",
    "SORT K ALPHA STORE K",
    "SORT K BY nosort STORE K",
];

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) as usize) % bound
    }

    fn word(&mut self, word: &str) -> Vec<u8> {
        let text = match word {
            "K" => {
                let owner = ["gw:", "ai:", "other:", "{gw:tag}:", "{ai:t}"][self.below(5)];
                format!("{owner}{}", self.below(12))
            }
            "V" => match self.below(8) {
                0 => "x".repeat(self.below(300)),
                1 => "y".repeat(self.below(9000)),
                _ => format!("value{}", self.below(40)),
            },
            "N" => (self.below(60) as i64 - 3).to_string(),
            "F" => format!("field{}", self.below(30)),
            "T" => (1 + self.below(200)).to_string(),
            "L" => ["LEFT", "RIGHT"][self.below(2)].to_owned(),
            other => other.to_owned(),
        };
        text.into_bytes()
    }
}

fn assert_counts(engine: &mut Engine, after: &str) {
    let found: String = engine.shards().iter_mut().map(Shard::recount).collect();
    assert_eq!(found, "", "after {after}");
    for tenant in [GW, AI] {
        let spaces = |shard: &Shard| shard.segments_of(tenant).map(|(_, keys)| keys.memory_bytes()).sum::<usize>();
        let counted: usize = engine.shards().iter().map(spaces).sum();
        assert_eq!(engine.told(tenant), counted as u64, "{tenant:?} after {after}");
    }
}

/// What a node does besides requests: sweeping, evicting, moving keys when tenants change.
fn upkeep(engine: &mut Engine, dice: &mut Dice) -> &'static str {
    match dice.below(6) {
        0 => {
            engine.own(&[("gw:", GW), ("ai:", AI)]);
            "both tenants are there"
        }
        1 => {
            engine.own(&[("gw:", [GW, AI][dice.below(2)])]);
            "prefixes changed hands"
        }
        2 => {
            engine.shards().iter_mut().for_each(|shard| _ = shard.settle_slice(&mut || false));
            "a slice of keys moved"
        }
        3 => {
            engine.now += dice.below(100_000) as i64;
            engine.sweep_fields(5);
            engine.shards().iter_mut().for_each(Shard::account_all);
            "fields were swept"
        }
        4 => {
            let now = engine.now;
            for shard in engine.shards() {
                for id in shard.expiring_spaces() {
                    let mut effects = Effects::new();
                    shard.space_mut(id).remove_expired(id.database, now, &mut effects, &mut Vec::new(), &mut || true);
                    shard.account(id);
                }
            }
            "keys were swept"
        }
        _ => {
            let round = Round { policy: Policy::AllKeysLru, usage: Usage::default(), samples: 5, now: engine.now };
            for (index, shard) in (0..).zip(engine.shards()) {
                let ids: Vec<_> = shard.segments_of([GW, AI][dice.below(2)]).map(|(id, _)| id).collect();
                let mut pool = Pool::default();
                pool.judge_by(round.policy);
                for id in ids {
                    shard.look_for_candidates(index, id, &round, &mut pool);
                }
                if let Some(best) = pool.take_best() {
                    shard.evict(&best, &round, &mut Effects::new());
                    shard.account(best.space);
                }
            }
            "keys were evicted"
        }
    }
}

#[test]
fn what_tenants_use_equals_a_count_of_everything_whatever_was_done() {
    for seed in 0..6 {
        let (mut engine, mut dice) = (Engine::new(4), Dice(seed));
        engine.own(&[("gw:", GW), ("ai:", AI)]);
        let mut answered = 0;
        for step in 0..4000 {
            engine.now += dice.below(20) as i64;
            engine.database = dice.below(2) as u32;
            let after = if dice.below(40) == 0 {
                upkeep(&mut engine, &mut dice).to_owned()
            } else if dice.below(400) == 0 {
                let request = [
                    "FLUSHDB",
                    "FLUSHALL",
                    "FLUSHDB PREFIX gw:",
                    "SWAPDB 0 1",
                    "TENANT SWAPDB 0 1 gw:",
                    "TENANT SWAPDB 1 0 ai: o",
                    "TENANT SWAPDB 0 1 gw:1",
                ][dice.below(7)];
                engine.words(request);
                request.to_owned()
            } else {
                let request = REQUESTS[dice.below(REQUESTS.len())];
                let words: Vec<Vec<u8>> = request.split(' ').map(|word| dice.word(word)).collect();
                let argv: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                answered += usize::from(!engine.run(&argv).starts_with(b"-"));
                let named: Vec<String> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
                named.join(" ")
            };
            // Counting anew moves what has yet to move: now and then it must stay where it is.
            if step % 3 == 0 || after.len() > 2000 {
                assert_counts(&mut engine, &after.chars().take(300).collect::<String>());
            }
        }
        assert!(answered > 1800, "{answered} requests were carried out");
    }
}
