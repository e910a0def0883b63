//! `math.random` as Redis has it: after `math.randomseed` the same numbers on every machine. Each script starts anew.
//!
//! The generator is the 48-bit linear congruential one of `lrand48`.

/// The generator.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

const MULTIPLIER: u64 = 0x5_DEEC_E66D;
const INCREMENT: u64 = 0xB;
const MASK: u64 = (1 << 48) - 1;
/// What a number is divided by.
const SPAN: u32 = i32::MAX as u32;

impl Random {
    /// The generator after `randomseed(seed)`.
    pub(crate) fn new(seed: i32) -> Random {
        Random { state: (u64::from(seed as u32) << 16) | 0x330E }
    }

    /// The next number, from 0 up to but not including 1.
    pub(crate) fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT) & MASK;
        let drawn = (self.state >> 17) as u32;
        f64::from(drawn % SPAN) / f64::from(SPAN)
    }
}
