//! Seeded dice (SplitMix64): every random test prints its seed and can be replayed.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

/// A small deterministic generator; not for secrets.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice that roll the same for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The seed from `variable`, or else a fresh one from the clock; printed, so that a failure can be replayed.
    pub fn from_env(variable: &str) -> Self {
        let seed = env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or_else(fresh_seed);
        println!("{variable}={seed}   # set this to replay");
        Self::seeded(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "there is no number below zero");
        usize::try_from(self.roll() % bound as u64).expect("the remainder is below a usize")
    }

    /// True once in `n` rolls.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs() ^ u64::from(d.subsec_nanos()) << 20)
}
