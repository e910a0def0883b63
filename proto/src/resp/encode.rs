//! Writes commands the way clients send them: an array of bulk strings.

use super::number::{decimal_digits, push_decimal};

/// Appends the command `args` to `out`.
pub fn encode_command<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    out.push(b'*');
    push_decimal(out, args.len());
    out.extend_from_slice(b"\r\n");
    for arg in args {
        let arg = arg.as_ref();
        out.push(b'$');
        push_decimal(out, arg.len());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// How many bytes [`encode_command`] appends for `args`, for those who reserve first.
pub fn encoded_command_bytes<A: AsRef<[u8]>>(args: &[A]) -> usize {
    let bulk_bytes = |arg: &A| {
        let length = arg.as_ref().len();
        1 + decimal_digits(length) + 2 + length + 2
    };
    1 + decimal_digits(args.len()) + 2 + args.iter().map(bulk_bytes).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulks() {
        let mut out = Vec::new();
        encode_command(&mut out, &[&b"SET"[..], b"k", b""]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
        assert_eq!(out.len(), encoded_command_bytes(&[&b"SET"[..], b"k", b""]));
    }
}
