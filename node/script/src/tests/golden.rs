//! Scripts and what Valkey 9.1 answers to them.
//!
//! `golden/valkey-9.1.txt` holds a script behind `> ` and the reply's bytes behind `< `. Each was sent as
//! `EVAL script 2 k1 k2 a1 a2` to a server without data.

use crate::testing::{World, evaluated, machine};
use crate::{Machine, Resp};

const GOLDEN: &str = include_str!("../golden/valkey-9.1.txt");

/// Scripts whose answer differs on purpose.
const DIFFERENT: [(&str, &str); 9] = [
    ("return {redis.REDIS_VERSION,redis.REDIS_VERSION_NUM}", "the version that INFO names"),
    ("return {math.random(1000000),math.random(1000000),math.random(1000000)}", "a number by chance"),
    ("return tostring(math.random())", "a number by chance"),
    ("return {pcall(string.rep)}", "the function knows its name"),
    ("return {pcall(string.find,\"a\")}", "the function knows its name"),
    ("return {pcall(loadstring)}", "the function knows its name"),
    ("return unpack()", "a tail call has no place to name"),
    ("return collectgarbage(\"foo\")", "a tail call has no place to name"),
    ("return {unpack({},1,1e100)}", "not cut to 32 bits"),
];

#[test]
fn scripts_are_answered_as_valkey_answers_them() {
    let mut machine: Machine = machine();
    let mut lines = GOLDEN.lines();
    let mut wrong = Vec::new();
    let mut count = 0;
    while let (Some(script), Some(reply)) = (lines.next(), lines.next()) {
        let script = unescaped(script.strip_prefix("> ").expect("a script"));
        let expected = unescaped(reply.strip_prefix("< ").expect("a reply"));
        let got = evaluated(&mut machine, &mut World::default(), &script, Resp::Two);
        count += 1;
        let differs = DIFFERENT.iter().any(|(known, _)| known.as_bytes() == script);
        if (said_as_valkey(&got) == expected) == differs {
            wrong.push(format!("{}\n  valkey {}\n  here   {}", text(&script), text(&expected), text(&got)));
        }
    }
    assert!(count > 400, "{count} scripts");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Our words in theirs: they leave the script's hash out and call the library `server`.
fn said_as_valkey(reply: &[u8]) -> Vec<u8> {
    let mut said = text(reply);
    if !reply.starts_with(b"-") {
        return reply.to_vec();
    }
    if let Some(at) = said.find(" script: ").map(|at| at + 9)
        && said.get(at + 40..at + 42) == Some(", ")
    {
        said.replace_range(at..at + 42, "");
    }
    unescaped(&said.replace("redis.", "server."))
}

fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\\' => "\\\\".to_owned(),
            32..=126 => char::from(*byte).to_string(),
            other => format!("\\x{other:02x}"),
        })
        .collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b'x') => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                u8::from_str_radix(str::from_utf8(&digits).expect("digits"), 16).expect("digits")
            }
            _ => b'\\',
        });
    }
    bytes
}
