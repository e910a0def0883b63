//! Each fuzz target for a short while: `KEYWARD_FUZZ_SECONDS` for longer, `KEYWARD_FUZZ_SEED` to roll the same dice,
//! `KEYWARD_FUZZ_LAST=file` to keep the input at work (for one that hangs), `KEYWARD_FUZZ_REPLAY=file` to try it again.

use std::env;
use std::time::Duration;

use keyward_tests::{Client, Cluster, Dice, fuzz, wait_until};

use crate::documents::{PATTERN, SERVICES};

const REQUESTS: [&[u8]; 9] = [
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n",
    b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*1\r\n$4\r\nPING\r\n",
    b"PING\r\nSET a \"b c\\x41\"\r\nGET 'a'\r\n",
    b"\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\n",
    b"*1\r\n$-1\r\n",
    b"*11\r\n$1\r\n",
    b"*2\r\n$3\r\nGET\r\n$20000\r\n",
    b"*1048577\r\n$1\r\na",
    b"$3\r\nabc\r\n",
];
const REQUEST_WORDS: [&[u8]; 14] = [
    b"\r\n",
    b"*1\r\n",
    b"*3\r\n",
    b"$3\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*9999999999\r\n",
    b"$536870913\r\n",
    b"\\x",
    b"\"",
    b"'",
    b"PING",
    b"\n",
];

const RULES: [&[u8]; 8] = [
    b"alice\non\n>secret\n~cache:*\n+@read\n-@dangerous\n+config|get",
    b"u\n%R~a:*\n%W~b:*\n%RW~c\n&x\nresetkeys\nallchannels",
    b"u\n(+get ~a)\n(\n+set\n~b )\nclearselectors",
    b"u\n~{a,b}:*\n~{tag}:x\n~\\{a,b\\}",
    b"u\ndb=0,2\nresetdbs\nalldbs",
    b"default\nnopass\n~*\n&*\n+@all\n-select\n+select|0",
    b"u\n#9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n!9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    b"u\nreset\nsanitize-payload\nskip-sanitize-payload\noff",
];
const RULE_WORDS: [&[u8]; 30] = [
    b"\n",
    b"on",
    b"off",
    b"nopass",
    b"reset",
    b"resetpass",
    b"~*",
    b"~",
    b"%R~",
    b"%W~",
    b"%RW~",
    b"&",
    b"&*",
    b"+@all",
    b"-@all",
    b"+@read",
    b"-@write",
    b"+get",
    b"-config|get",
    b"+config",
    b"(",
    b")",
    b"(+get ~a)",
    b"{a,b}",
    b"{",
    b"}",
    b",",
    b"db=",
    b">p",
    b"#",
];

const FILE_WORDS: [&[u8]; 12] = [
    b"\n",
    b"\r\n",
    b"user ",
    b"USER\t",
    b"# ",
    b"  ",
    b"default ",
    b"on ",
    b">p ",
    b"\"a b\" ",
    b"#{ password }#",
    b"sops:\n",
];

#[test]
fn any_bytes_are_read_as_requests_without_harm() {
    brief("resp", &REQUESTS, &REQUEST_WORDS, fuzz::resp_request);
}

#[test]
fn any_words_are_read_as_rules_without_harm() {
    brief("rules", &RULES, &RULE_WORDS, fuzz::acl_rules);
}

#[test]
fn any_bytes_are_read_as_an_acl_file_without_harm() {
    let words: Vec<&[u8]> = FILE_WORDS.iter().chain(&RULE_WORDS).copied().collect();
    let corpus = [PATTERN.as_bytes(), SERVICES.as_bytes(), b"port 6379\nuser \"a\" on \">p q\" ~*\nsave 60 1\n"];
    brief("file", &corpus, &words, fuzz::acl_file);
}

/// `KEYWARD_FUZZ_REPLAY=file cargo test … fuzzing::an_input_of_old`: one input through every target.
#[test]
fn an_input_of_old_does_no_harm_any_more() {
    let Some(path) = env::var_os("KEYWARD_FUZZ_REPLAY") else { return };
    let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for target in [fuzz::resp_request, fuzz::acl_rules, fuzz::acl_file] {
        target(&input);
    }
}

#[test]
fn a_running_node_survives_strangers_who_talk_nonsense() {
    let mut cluster = Cluster::start(1);
    let address = cluster.node(1).address();
    let mut dice = Dice::from_env("KEYWARD_FUZZ_SEED");
    let inputs = fuzz::drive(&mut dice, seconds(), &REQUESTS, &REQUEST_WORDS, |data| {
        let mut client = wait_until("the node accepts", || Client::connect(address).ok());
        // It may close while we still write.
        let _ = client.send_raw(data);
    });
    assert!(cluster.node_mut(1).process().exited().is_none(), "the node has ended");
    assert_eq!(cluster.node(1).client().text(&["PING"]), "PONG");
    let log = cluster.node(1).log();
    assert!(!log.contains("panicked"), "{log}");
    println!("{inputs} connections");
}

fn brief(name: &str, corpus: &[&[u8]], dictionary: &[&[u8]], target: impl Fn(&[u8])) {
    let mut dice = Dice::from_env("KEYWARD_FUZZ_SEED");
    let inputs = fuzz::drive(&mut dice, seconds(), corpus, dictionary, target);
    println!("{name}: {inputs} inputs");
    assert!(inputs > 100, "only {inputs} inputs: is a target slow?");
}

fn seconds() -> Duration {
    let seconds = env::var("KEYWARD_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}
