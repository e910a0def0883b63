//! Gives back memory that mass deletes leave in pieces: a page with one key left is a page in use. When the process holds far
//! more than the data needs, a thread of its own moves keys and small values to fresh memory, side by side, a few buckets
//! at a time under their shard's lock; what they leave is freed by the dropper's thread. The allocator returns empty pages by
//! itself some seconds later. Knows neither keys nor values.
//!
//! A walk that found nothing to give back is not repeated before a quarter of the data is gone again, or somebody asks
//! (`MEMORY PURGE`).

use crate::info::resident_bytes;
use crate::node::Node;
use keyward_engine::keyspace::{Garbage, Left};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Below this nobody minds, in bytes.
const WASTE_BYTES_MIN: u64 = 64 << 20;

/// The allocator takes five seconds to give free pages back: only what it does not is looked at.
const LOOKS: u64 = 8;

/// Steps of some sixteen buckets between two rests.
const STEPS_PER_PAUSE: u32 = 16;

/// After each stretch of work it rests so many times as long: a few percent of a core.
const REST: u32 = 9;

/// Whether keys are being moved, and the most data there was since they last were.
#[derive(Default)]
pub struct Repacking {
    running: AtomicBool,
    used_most: AtomicU64,
    /// How many looks in a row found it worth a walk.
    looks: AtomicU64,
}

/// Starts a walk if it is worth one. To be called every second or so.
pub fn look(node: &Arc<Node>) {
    let used = node.memory_bytes();
    let most = node.repacking.used_most.load(Ordering::Relaxed);
    if used > most {
        node.repacking.used_most.store(used, Ordering::Relaxed);
        return;
    }
    // It fell by a quarter from the most there was, and the allocator does not give the rest back by itself.
    if used >= most / 4 * 3 || resident_bytes() < used / 2 * 3 + WASTE_BYTES_MIN {
        node.repacking.looks.store(0, Ordering::Relaxed);
    } else if node.repacking.looks.fetch_add(1, Ordering::Relaxed) >= LOOKS {
        node.repacking.looks.store(0, Ordering::Relaxed);
        start(node);
    }
}

/// Starts a walk, unless one goes on.
pub fn start(node: &Arc<Node>) {
    if node.repacking.running.swap(true, Ordering::Relaxed) {
        return;
    }
    let of = Arc::clone(node);
    let work = move || {
        let began = Instant::now();
        let before = resident_bytes();
        match of.groups() {
            [] => repack(&of),
            groups => groups.iter().for_each(repack),
        }
        of.repacking.used_most.store(of.memory_bytes(), Ordering::Relaxed);
        of.repacking.running.store(false, Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f32();
        tracing::info!(resident_before = before, seconds, "keys were moved together to give memory back");
    };
    if let Err(error) = std::thread::Builder::new().name("keyward-repack".to_owned()).spawn(work) {
        node.repacking.running.store(false, Ordering::Relaxed);
        tracing::warn!(%error, "no thread for giving memory back");
    }
}

fn repack(node: &Arc<Node>) {
    let mut steps = 0;
    let mut began = Instant::now();
    for index in 0..node.shards.count() {
        let spaces: Vec<_> = node.shards.with(index, |shard| shard.spaces().map(|(space, _)| space).collect());
        for space in spaces {
            let mut cursor = 0;
            loop {
                let mut left = Left::default();
                cursor = node.shards.with(index, |shard| shard.repack(space, cursor, &mut left));
                node.shards.dropper.send(Garbage::Left(left));
                steps += 1;
                if steps % STEPS_PER_PAUSE == 0 {
                    std::thread::sleep(began.elapsed() * REST);
                    began = Instant::now();
                }
                if cursor == 0 {
                    break;
                }
            }
        }
    }
}
