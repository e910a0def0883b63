//! Chance and time for a simulated thread: what the C library would ask the kernel for. Everything that draws by chance (hash
//! maps, elections, the choice among ready branches) draws from the seed, and everything that reads a clock reads the simulated
//! one, so that a seed repeats its run exactly. Other threads get the real ones.
//!
//! The tests' own code is safe but for this file, which has to answer in the C library's place.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io::Read;

use keyward_simulated::world;
use rustix::time::{ClockId, clock_gettime as kernel_time};

thread_local! {
    /// None: this thread is real.
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on this thread is simulated. It stays so.
pub fn begin(seed: u64) {
    STATE.set(Some(seed));
}

fn roll(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fill(bytes: &mut [u8]) -> bool {
    let Some(mut state) = STATE.get() else {
        return File::open("/dev/urandom").and_then(|mut chance| chance.read_exact(bytes)).is_ok();
    };
    for chunk in bytes.chunks_mut(8) {
        let rolled = roll(&mut state).to_le_bytes();
        chunk.copy_from_slice(&rolled[..chunk.len()]);
    }
    STATE.set(Some(state));
    true
}

/// In the place of the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // Safety: as its contract says, the caller owns `length` bytes there.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    if fill(bytes) { length as isize } else { -1 }
}

/// As the C library has it.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// The wall clock's number among the clocks; every other one only runs.
const REALTIME: [i32; 2] = [0, 5];

/// Simulated clocks do not begin at zero: nobody may subtract too much.
const RUNNING_SINCE_S: u64 = 100_000;

/// In the place of the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    let is_wall = REALTIME.contains(&clock);
    let now = if STATE.get().is_some() {
        let (ns, since) = (world::now_ns(), if is_wall { 1_700_000_000 } else { RUNNING_SINCE_S });
        Timespec { seconds: (since + ns / 1_000_000_000) as i64, nanoseconds: (ns % 1_000_000_000) as i64 }
    } else {
        let now = kernel_time(if is_wall { ClockId::Realtime } else { ClockId::Monotonic });
        Timespec { seconds: now.tv_sec, nanoseconds: now.tv_nsec }
    };
    // Safety: as its contract says, the caller owns the place.
    unsafe { time.write(now) };
    0
}
