//! Drives a target for a while: starts from known inputs, mutates them, and shows the input that broke a promise.

use std::env;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::Dice;

/// No interesting input is longer; longer ones only cost time.
const INPUT_BYTES_MAX: usize = 4096;

/// Calls `target` with mutations of `corpus` for `budget`; answers how many inputs it saw.
pub fn drive(dice: &mut Dice, budget: Duration, corpus: &[&[u8]], dictionary: &[&[u8]], target: impl Fn(&[u8])) -> u64 {
    let deadline = Instant::now() + budget;
    let mut pool: Vec<Vec<u8>> = corpus.iter().map(|input| input.to_vec()).collect();
    let mut seen = 0;
    for input in &pool {
        call(input, &target);
    }
    while Instant::now() < deadline {
        let mut input = dice.pick(&pool).clone();
        for _ in 0..=dice.below(6) {
            mutate(&mut input, dice, &pool, dictionary);
        }
        input.truncate(INPUT_BYTES_MAX);
        call(&input, &target);
        seen += 1;
        // Without coverage to guide it the pool drifts at random, so that later inputs are further from the corpus.
        if dice.one_in(50) {
            let place = corpus.len() + dice.below(64);
            if place < pool.len() { pool[place] = input } else { pool.push(input) }
        }
    }
    seen
}

fn call(input: &[u8], target: &impl Fn(&[u8])) {
    // For an input that hangs or exhausts memory, where no panic can show it.
    if let Some(path) = env::var_os("KEYWARD_FUZZ_LAST") {
        fs::write(path, input).expect("the file of the last input can be written");
    }
    let shown = Shown(input);
    target(shown.0);
}

/// Prints the input when the target panics.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("input: b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn mutate(input: &mut Vec<u8>, dice: &mut Dice, pool: &[Vec<u8>], dictionary: &[&[u8]]) {
    let at = dice.below(input.len() + 1);
    match dice.below(9) {
        0 if at < input.len() => input[at] ^= 1 << dice.below(8),
        1 if at < input.len() => input[at] = (dice.roll() & 0xFF) as u8,
        2 if at < input.len() => {
            let end = (at + 1 + dice.below(8)).min(input.len());
            input.drain(at..end);
        }
        3 | 4 => splice(input, at, dictionary[dice.below(dictionary.len())]),
        5 => {
            let end = (at + dice.below(32)).min(input.len());
            let copy = input[at..end].to_vec();
            splice(input, at, &copy);
        }
        6 => {
            let other = dice.pick(pool);
            let from = dice.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        7 => input.truncate(at),
        _ => splice(input, at, &[*dice.pick(b" \r\n\0*$+-~&%()|@#!<>={},\\\"'0129azAZ\x7f\xff")]),
    }
}

fn splice(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}
