//! Randomness from the operating system, for seeds and passwords.

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
