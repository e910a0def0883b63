//! Randomness from the operating system, for seeds and passwords; and some that is quick, where nobody minds who guesses it.

use std::cell::Cell;

/// Fresh random bytes. The operating system not having any is nothing a server can run without.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A fresh random number.
pub fn u64() -> u64 {
    u64::from_le_bytes(bytes())
}

thread_local! {
    static QUICK: Cell<u64> = Cell::new(u64());
}

/// Evenly distributed, other for each thread and each time, and no secret (Steele, Lea and Flood 2014, SplitMix).
pub fn quick() -> u64 {
    let state = QUICK.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    QUICK.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn quick_numbers_differ_each_time_and_on_each_thread() {
        let some = || (0..1000).map(|_| quick()).collect::<Vec<_>>();
        let other = std::thread::scope(|scope| scope.spawn(some).join().expect("it only counts"));
        let all: HashSet<u64> = some().into_iter().chain(other).collect();
        assert_eq!(all.len(), 2000);
    }
}
