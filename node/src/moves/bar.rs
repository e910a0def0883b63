//! Keys that a primary answers nothing about: they are about to be another group's.
//!
//! A request that names one of them waits, and is led anew when it is decided whose they are. With nothing held, a request
//! pays one load, and only where there are several groups. It knows no command: the caller says which keys.

use crate::routes::Moving;
use keyward_acl::KeyUse;
use keyward_engine::keyspace::TenantId;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Whoever waits looks again after so long, whatever it was told.
const PATIENCE: Duration = Duration::from_millis(5);

/// What one group's primary holds.
#[derive(Default)]
pub struct Bar {
    active: AtomicBool,
    held: RwLock<Held>,
    /// How often keys were let go of.
    releases: AtomicU64,
    changed: Notify,
}

#[derive(Default)]
struct Held {
    now: Option<(Arc<Moving>, Instant)>,
    /// What was held last.
    last: Option<Arc<Moving>>,
}

impl Bar {
    /// Holds the keys of a move. The caller sees to it that nothing is half way.
    pub fn hold(&self, moving: &Arc<Moving>) {
        let mut held = self.held.write();
        let since = held.now.as_ref().filter(|(known, _)| known.index == moving.index).map(|(_, since)| *since);
        held.now = Some((Arc::clone(moving), since.unwrap_or_else(Instant::now)));
        self.active.store(true, Ordering::SeqCst);
    }

    /// Whether the keys of this move are held.
    pub fn holds(&self, index: u64) -> bool {
        self.held.read().now.as_ref().is_some_and(|(known, _)| known.index == index)
    }

    /// The move whose keys are held, and since when.
    pub fn held(&self) -> Option<(u64, Instant)> {
        self.held.read().now.as_ref().map(|(known, since)| (known.index, *since))
    }

    /// Lets go of the keys of this move.
    pub fn release(&self, index: u64) {
        let mut held = self.held.write();
        if held.now.as_ref().is_some_and(|(known, _)| known.index == index) {
            held.last = held.now.take().map(|(known, _)| known);
            self.active.store(false, Ordering::SeqCst);
            self.releases.fetch_add(1, Ordering::Release);
            drop(held);
            self.changed.notify_waiters();
        }
    }

    /// Whether one of these keys is held.
    #[inline]
    pub fn bars(&self, world: TenantId, keys: &[KeyUse<'_>]) -> bool {
        self.is_active() && self.bars_one(world, keys.iter().map(|named| named.key))
    }

    /// Whether anything is held.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// The same for keys without their use.
    #[cold]
    pub fn bars_one<'k>(&self, world: TenantId, mut keys: impl Iterator<Item = &'k [u8]>) -> bool {
        let held = self.held.read();
        held.now.as_ref().is_some_and(|(moving, _)| keys.any(|key| moving.concerns(world, key)))
    }

    /// How often keys were let go of.
    pub fn releases(&self) -> u64 {
        self.releases.load(Ordering::Acquire)
    }

    /// Whether one of these keys was among those that were let go of last.
    pub fn released(&self, world: TenantId, keys: &[Vec<u8>]) -> bool {
        let held = self.held.read();
        held.last.as_ref().is_some_and(|moving| keys.iter().any(|key| moving.concerns(world, key)))
    }

    /// Waits until something is let go of, for a moment at most.
    pub async fn opened(&self) {
        let _ = tokio::time::timeout(PATIENCE, self.changed.notified()).await;
    }
}
