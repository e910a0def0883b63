//! Conversations with bitmaps, as a Redis client would have them.

use crate::testing::Engine;

#[test]
fn bits_are_set_and_read() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("SETBIT a 7 1", ":0\n"),
        ("SETBIT a 7 1", ":1\n"),
        ("GETBIT a 7", ":1\n"),
        ("GETBIT a 700", ":0\n"),
        ("SETBIT a 9 1", ":0\n"),
        ("SETBIT a 31 0", ":0\n"),
        ("STRLEN a", ":4\n"),
        ("GET a", "$4\n\u{1}@\0\0\n"),
        ("SETBIT a 4294967296 1", "-ERR bit offset is not an integer or out of range\n"),
        ("SETBIT a 1 2", "-ERR bit is not an integer or out of range\n"),
    ]);
    assert_eq!(engine.journal.len(), 3, "what changed nothing is not written down");
}

#[test]
fn a_bit_is_found_far_away_and_not_beyond_the_part() {
    let mut engine = Engine::new(1);
    for bit in [0, 7, 63, 511, 512, 513, 1023, 5000, 79_999] {
        engine.converse(&[
            ("DEL a", if bit == 0 { ":0\n" } else { ":1\n" }),
            (&format!("SETBIT a {bit} 1"), ":0\n"),
            ("BITPOS a 1", &format!(":{bit}\n")),
            (&format!("BITPOS a 1 0 {bit} BIT"), &format!(":{bit}\n")),
            (&format!("BITPOS a 1 {bit} -1 BIT"), &format!(":{bit}\n")),
            (&format!("BITPOS a 1 {} -1 BIT", bit + 1), ":-1\n"),
        ]);
        if bit > 0 {
            engine.converse(&[(&format!("BITPOS a 1 0 {} BIT", bit - 1), ":-1\n")]);
        }
    }
}

#[test]
fn bits_are_counted_and_found() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("BITCOUNT nope", ":0\n"),
        ("SET a foobar", "+OK\n"),
        ("BITCOUNT a", ":26\n"),
        ("BITCOUNT a 0 0", ":4\n"),
        ("BITCOUNT a 1", ":22\n"),
        ("BITCOUNT a 5 30 BIT", ":17\n"),
        ("BITCOUNT a -1 -5", ":0\n"),
        ("BITCOUNT a 0 0 BOGUS", "-ERR syntax error\n"),
        ("BITPOS nope 0", ":0\n"),
        ("BITPOS nope 1", ":-1\n"),
        ("BITPOS a 1", ":1\n"),
        ("BITPOS a 1 2", ":17\n"),
        ("BITPOS a 0 4 7 BIT", ":4\n"),
        ("BITPOS a 2", "-ERR The bit argument must be 1 or 0.\n"),
        ("BITFIELD f SET u16 0 65535", "*1\n:0\n"),
        ("BITPOS f 0", ":16\n"),
        ("BITPOS f 0 0 -1", ":-1\n"),
    ]);
}

#[test]
fn strings_are_combined() {
    let mut engine = Engine::new(8);
    engine.converse(&[
        ("MSET a abc b b", "+OK\n"),
        ("BITOP AND d a b", ":3\n"),
        ("GET d", "$3\n`\0\0\n"),
        ("BITOP OR d a b", ":3\n"),
        ("GET d", "$3\ncbc\n"),
        ("BITOP XOR d a a", ":3\n"),
        ("GET d", "$3\n\0\0\0\n"),
        ("BITOP AND d nope", ":0\n"),
        ("EXISTS d", ":0\n"),
        ("BITOP NOT d a b", "-ERR BITOP NOT must be called with a single source key.\n"),
        ("BITOP BOGUS d a", "-ERR syntax error\n"),
    ]);
}

#[test]
fn fields_overflow_as_told() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("BITFIELD a SET u8 0 300", "*1\n:0\n"),
        ("BITFIELD a OVERFLOW FAIL INCRBY u8 0 300", "*1\n$-1\n"),
        ("BITFIELD a OVERFLOW SAT INCRBY u8 0 300 INCRBY i8 8 -300", "*2\n:255\n:-128\n"),
        ("BITFIELD a INCRBY u8 0 300 INCRBY i8 #1 -300", "*2\n:43\n:84\n"),
        (
            "BITFIELD a SET i64 0 -9223372036854775808 INCRBY i64 0 -1",
            "*2\n:3122120441674596352\n:9223372036854775807\n",
        ),
        ("BITFIELD a OVERFLOW SAT SET u8 0 -1 GET u8 0", "*2\n:127\n:255\n"),
        ("BITFIELD_RO a GET u4 4 GET i4 4", "*2\n:15\n:-1\n"),
        ("BITFIELD_RO a SET u8 0 1", "-ERR BITFIELD_RO only supports the GET subcommand\n"),
        (
            "BITFIELD a GET u64 0",
            "-ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.\n",
        ),
        ("BITFIELD a OVERFLOW BOGUS GET u8 0", "-ERR Invalid OVERFLOW type specified\n"),
        ("BITFIELD nope GET u8 0", "*1\n:0\n"),
        ("EXISTS nope", ":0\n"),
    ]);
}
