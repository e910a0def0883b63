//! Unpacks LZF, which Redis packs long strings with. Knows nothing of what the bytes mean.
//!
//! ```text
//! 000nnnnn               n + 1 bytes follow as they are
//! lllooooo [L] oooooooo  l + 2 bytes (l = 7: L + 9) are copied from o + 1 bytes back
//! ```

/// The bytes that `packed` stands for, if those are exactly `len`. What it takes grows with what is really unpacked, not
/// with what is claimed: no input makes more than about a hundred times its own size.
pub(super) fn unpack(packed: &[u8], len: u64) -> Option<Vec<u8>> {
    let len = usize::try_from(len).ok()?;
    let mut out: Vec<u8> = Vec::with_capacity(len.min(packed.len().saturating_mul(4)));
    let mut rest = packed;
    while let Some((&control, behind)) = rest.split_first() {
        let high = usize::from(control >> 5);
        if high == 0 {
            let (plain, behind) = behind.split_at_checked(usize::from(control) + 1)?;
            out.extend_from_slice(plain);
            rest = behind;
        } else {
            let (length, behind) = match (high, behind) {
                (7, [more, behind @ ..]) => (usize::from(*more) + 9, behind),
                (7, []) => return None,
                (short, behind) => (short + 2, behind),
            };
            let (&low, behind) = behind.split_first()?;
            let distance = ((usize::from(control) & 0x1f) << 8 | usize::from(low)) + 1;
            copy_back(&mut out, distance, length)?;
            rest = behind;
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

/// Repeats `length` bytes from `distance` back; the two may overlap, which repeats a pattern.
fn copy_back(out: &mut Vec<u8>, distance: usize, length: usize) -> Option<()> {
    let from = out.len().checked_sub(distance)?;
    if distance >= length {
        out.extend_from_within(from..from + length);
    } else {
        for index in from..from + length {
            out.push(out[index]);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_and_repetitions() {
        assert_eq!(unpack(b"\x02abc", 3), Some(b"abc".to_vec()));
        assert_eq!(unpack(b"\x00a\xe0\x01\x00", 11), Some(vec![b'a'; 11]));
        assert_eq!(unpack(b"\x02abc\x20\x02", 6), Some(b"abcabc".to_vec()));
    }

    #[test]
    fn what_is_cut_short_or_points_nowhere_is_refused() {
        for packed in [&b"\x02ab"[..], b"\xe0", b"\xe0\x01", b"\x20", b"\x20\x05", b"\x00a\x20\x01"] {
            assert_eq!(unpack(packed, 3), None, "{packed:?}");
        }
        assert_eq!(unpack(b"\x02abc", u64::MAX), None);
        assert_eq!(unpack(b"\x02abc", 2), None);
    }
}
