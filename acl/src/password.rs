//! Passwords as Redis keeps them: SHA-256, unsalted, because `#hash` and `!hash` are part of the rule language.
//!
//! A plaintext password is hashed where it is parsed and never kept. Comparison takes the same time whatever differs.
//! It refuses to know whose password it is.

use sha2::{Digest, Sha256};
use std::fmt;
use subtle::{Choice, ConstantTimeEq};

use crate::user::PASSWORDS_PER_USER_MAX;

/// The hash of a password. Neither `Debug` nor any other formatting shows it; [`PasswordHash::to_hex`] must be asked.
#[derive(Clone)]
pub struct PasswordHash([u8; 32]);

impl PasswordHash {
    /// How many hex digits a hash has.
    pub const HEX_DIGITS: usize = 64;

    /// Hashes a password.
    pub fn of(plaintext: &[u8]) -> PasswordHash {
        PasswordHash(Sha256::digest(plaintext).into())
    }

    /// Reads 64 lower-case hex digits, and nothing else.
    pub fn from_hex(hex: &[u8]) -> Option<PasswordHash> {
        if hex.len() != PasswordHash::HEX_DIGITS {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = hex_digit(digits[0])? << 4 | hex_digit(digits[1])?;
        }
        Some(PasswordHash(bytes))
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        crate::printable::hex(&self.0)
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &PasswordHash) -> Choice {
        #[cfg(test)]
        tests::COMPARED.with(|compared| compared.set(compared.get() + 1));
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for PasswordHash {
    fn eq(&self, other: &PasswordHash) -> bool {
        self.matches(other).into()
    }
}

impl Eq for PasswordHash {}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// Whether `candidate` is one of `passwords`, in a time that depends neither on how many there are nor on which matches: it is
/// compared with as many hashes as any user can have. So an unknown user costs what a known one does, with any number of them.
pub(crate) fn is_one_of(candidate: &PasswordHash, passwords: &[PasswordHash]) -> bool {
    let stand_in = PasswordHash([0; 32]);
    let mut found = Choice::from(0);
    for number in 0..PASSWORDS_PER_USER_MAX.max(passwords.len()) {
        let password = passwords.get(number);
        let is_there = Choice::from(u8::from(password.is_some()));
        found |= password.unwrap_or(&stand_in).matches(candidate) & is_there;
    }
    found.into()
}

const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    thread_local! {
        /// How many hashes were compared, for tests: what a login costs must not tell how it failed.
        pub(crate) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    #[test]
    fn the_hash_is_that_of_redis() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(PasswordHash::of(b"").to_hex(), empty);
        assert_eq!(PasswordHash::from_hex(empty.as_bytes()), Some(PasswordHash::of(b"")));
    }

    #[test]
    fn only_64_lower_case_hex_digits_are_a_hash() {
        assert!(PasswordHash::from_hex(&[b'a'; 64]).is_some());
        for wrong in [&[b'a'; 63][..], &[b'a'; 65], &[b'A'; 64], &[b'g'; 64], b""] {
            assert_eq!(PasswordHash::from_hex(wrong), None);
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", PasswordHash::of(b"secret")), "PasswordHash(..)");
    }

    #[test]
    fn one_of_several_is_found_and_nothing_matches_nobody() {
        let passwords = [PasswordHash::of(b"a"), PasswordHash::of(b"b")];
        assert!(is_one_of(&PasswordHash::of(b"b"), &passwords));
        assert!(!is_one_of(&PasswordHash::of(b"c"), &passwords));
        assert!(!is_one_of(&PasswordHash([0; 32]), &[]));
    }
}
