//! Keys move, and nothing is lost, counted twice or seen twice.

use crate::effects::Effects;
use crate::eviction::Usage;
use crate::keyspace::{CallContext, Expiry, Keys, Layout, Place, Shard, SpaceId, TenantId};
use crate::scope::Reach;
use crate::snapshot::Taken;
use crate::tenancy::{Gauges, Owners};
use crate::types::{Hash, Limits, Value};
use std::sync::Arc;

const LAYOUT: Layout = Layout { seed: 7, shard_count: 1 };
const GW: TenantId = TenantId::with_prefixes(1);
const AI: TenantId = TenantId::with_prefixes(2);
const NS: TenantId = TenantId::with_namespace(3);

struct Rig {
    shard: Shard,
    gauges: Arc<Gauges>,
    limits: Limits,
}

impl Rig {
    fn new() -> Rig {
        let gauges = Arc::new(Gauges::default());
        Rig { shard: Shard::with_gauges(LAYOUT.seed, &gauges), gauges, limits: Limits::default() }
    }

    fn with<R>(&mut self, tenant: TenantId, key: &str, call: impl FnOnce(&mut Keys<'_>) -> R) -> R {
        let space = SpaceId { tenant, database: 0 };
        let Place { hash, .. } = LAYOUT.place(key.as_bytes());
        if self.shard.is_unsettled() {
            self.shard.settle_key(space, hash, key.as_bytes());
        }
        let context = CallContext {
            layout: LAYOUT,
            space,
            now: 1000,
            limits: &self.limits,
            value_bytes_max: u64::MAX,
            room_bytes: u64::MAX,
            databases: 2,
            random: 1,
            no_touch: false,
            usage: Usage::default(),
            keeps_expired: false,
            patience: None,
        };
        let mut effects = Effects::new();
        let result = call(&mut Keys::one(0, &mut self.shard, context, &mut effects).within(&Reach::Everything));
        let segment = self.shard.segment_of(space, key.as_bytes());
        self.shard.account(segment);
        result
    }

    fn set(&mut self, tenant: TenantId, key: &str, value: &str) {
        self.with(tenant, key, |keys| keys.put_string(key.as_bytes(), value.as_bytes(), Expiry::Never));
    }

    fn get(&mut self, tenant: TenantId, key: &str) -> Option<String> {
        self.with(tenant, key, |keys| {
            keys.string(key.as_bytes()).unwrap().map(|value| String::from_utf8_lossy(&value).into_owned())
        })
    }

    fn owners(&mut self, prefixes: &[(&str, TenantId)]) {
        let owners = Owners::new(prefixes.iter().map(|(prefix, id)| (prefix.as_bytes(), *id)));
        self.shard.set_owners((!prefixes.is_empty()).then(|| Arc::new(owners)).as_ref());
    }

    fn len(&mut self, tenant: TenantId) -> usize {
        self.shard.settle_all();
        self.with(tenant, "", |keys| keys.key_count())
    }

    /// What is told of each tenant equals a count of everything.
    fn assert_accounts(&self) {
        for tenant in [GW, AI, NS] {
            let counted: usize =
                self.shard.spaces().filter(|(id, _)| id.tenant == tenant).map(|(_, keys)| keys.memory_bytes()).sum();
            assert_eq!(self.gauges.of(tenant).bytes(), counted as u64, "{tenant:?}");
            let keys: usize =
                self.shard.spaces().filter(|(id, _)| id.tenant == tenant).map(|(_, keys)| keys.len()).sum();
            assert_eq!(self.gauges.of(tenant).keys(), keys as u64, "{tenant:?}");
        }
        assert_eq!(self.shard.accounted_bytes(), self.shard.memory_bytes());
    }
}

#[test]
fn a_new_tenant_takes_its_keys_over_and_gives_them_back() {
    let mut rig = Rig::new();
    for number in 0..2000 {
        rig.set(TenantId::SHARED, &format!("gw:{number}"), "v");
        rig.set(TenantId::SHARED, &format!("other:{number}"), "v");
    }
    rig.owners(&[("gw:", GW)]);
    assert!(rig.shard.is_unsettled());
    assert_eq!(rig.get(TenantId::SHARED, "gw:7").as_deref(), Some("v"), "asked for before it was moved");
    assert_eq!(rig.get(GW, "gw:8").as_deref(), Some("v"));
    rig.set(GW, "{gw:x}:1", "v");
    let mut slices = 0;
    while !rig.shard.settle_slice(&mut || false) {
        slices += 1;
    }
    assert!(slices > 10, "{slices} slices");
    assert_eq!((rig.len(GW), rig.len(TenantId::SHARED)), (2001, 4001));
    rig.assert_accounts();
    rig.owners(&[]);
    assert_eq!(rig.len(TenantId::SHARED), 4001);
    assert_eq!(rig.get(TenantId::SHARED, "gw:9").as_deref(), Some("v"));
    assert_eq!(rig.gauges.of(GW).bytes(), 0);
    rig.assert_accounts();
}

#[test]
fn a_prefix_that_changes_hands_twice_before_keys_move_loses_none() {
    let mut rig = Rig::new();
    for number in 0..300 {
        rig.set(TenantId::SHARED, &format!("x:{number}"), "old");
    }
    rig.owners(&[("x:", GW)]);
    rig.set(TenantId::SHARED, "x:1", "by gw");
    rig.owners(&[("x:", AI)]);
    rig.set(TenantId::SHARED, "x:2", "by ai");
    rig.owners(&[("x:", GW)]);
    assert_eq!(rig.get(GW, "x:1").as_deref(), Some("by gw"));
    assert_eq!(rig.get(GW, "x:2").as_deref(), Some("by ai"));
    assert_eq!(rig.get(GW, "x:3").as_deref(), Some("old"));
    assert_eq!((rig.len(GW), rig.len(AI), rig.len(TenantId::SHARED)), (300, 0, 300));
    rig.assert_accounts();
}

#[test]
fn names_of_a_namespace_are_its_own() {
    let mut rig = Rig::new();
    rig.owners(&[("gw:", GW)]);
    rig.set(NS, "gw:1", "mine");
    rig.set(NS, "plain", "mine");
    assert_eq!(rig.get(TenantId::SHARED, "gw:1"), None);
    assert_eq!(rig.get(TenantId::SHARED, "plain"), None);
    assert_eq!((rig.len(NS), rig.len(TenantId::SHARED)), (2, 0));
    drop(rig.shard.drop_namespaces(|id| id == NS));
    assert_eq!(rig.len(NS), 0);
    rig.assert_accounts();
}

#[test]
fn what_a_tenant_uses_equals_a_count_of_everything_whatever_is_done() {
    let mut rig = Rig::new();
    let mut seed = 1_u64;
    let mut dice = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    for step in 0..20_000 {
        let prefix = ["gw:", "ai:", "free:", "{gw:a}"][dice(4) as usize];
        let key = format!("{prefix}{}", dice(200));
        let tenant = [TenantId::SHARED, NS][usize::from(dice(8) == 0)];
        match dice(7) {
            0 | 1 => rig.set(tenant, &key, &"v".repeat(dice(300) as usize)),
            2 => {
                let hash = || {
                    let mut hash = Hash::new();
                    (0..40)
                        .for_each(|field| _ = hash.set(format!("f{field}").as_bytes(), b"value", &Limits::default()));
                    hash
                };
                rig.with(tenant, &key, |keys| keys.put(key.as_bytes(), Value::from(hash()), None));
            }
            3 => _ = rig.with(tenant, &key, |keys| keys.remove(key.as_bytes())),
            4 => _ = rig.with(tenant, &key, |keys| keys.touch(key.as_bytes())),
            5 => _ = rig.shard.settle_slice(&mut || false),
            _ if dice(40) == 0 => match dice(4) {
                0 => rig.owners(&[]),
                1 => rig.owners(&[("gw:", GW)]),
                2 => rig.owners(&[("gw:", GW), ("ai:", AI)]),
                _ => rig.owners(&[("gw:", AI)]),
            },
            _ => {}
        }
        if step % 500 == 0 {
            rig.assert_accounts();
        }
    }
    let all = rig.len(TenantId::SHARED);
    let by_owner: usize = {
        let segments = [TenantId::SHARED, GW, AI];
        segments
            .iter()
            .filter_map(|tenant| rig.shard.space(SpaceId { tenant: *tenant, database: 0 }))
            .map(|keys| keys.len())
            .sum()
    };
    assert_eq!(all, by_owner);
    rig.assert_accounts();
}

#[test]
fn a_snapshot_sees_a_key_that_moves_once_as_it_was() {
    let mut rig = Rig::new();
    for number in 0..1000 {
        rig.set(TenantId::SHARED, &format!("gw:{number}"), "before");
    }
    rig.shard.begin_snapshot(1000, None);
    let (mut out, mut taken) = (Vec::new(), Taken::default());
    rig.shard.snapshot_slice(&mut out, &mut taken, &mut || false);
    rig.owners(&[("gw:", GW)]);
    rig.set(GW, "gw:1", "after");
    rig.shard.settle_all();
    while !rig.shard.snapshot_slice(&mut out, &mut taken, &mut || true) {}
    rig.shard.snapshot_kept(&mut out, &mut taken);
    assert_eq!(taken.keys, 1000);
    assert_eq!(out.windows(5).filter(|bytes| bytes == b"after").count(), 0);
    assert_eq!(out.windows(6).filter(|bytes| bytes == b"before").count(), 1000);
}
