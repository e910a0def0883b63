//! Replays transcripts against a server by hand, or writes down what it answers.
//!
//! `cargo run -p keyward-tests --bin transcript -- [--valkey] [--record] HOST:PORT [FILE…]`
//!
//! With `--valkey` the server is taken to be a Valkey. With `--record` the replies in the files become the server's:
//! read the difference before believing it.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use keyward_tests::transcript::{self, Server, Transcript};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let before = arguments.len();
        arguments.retain(|argument| argument != name);
        arguments.len() < before
    };
    let server = if flag("--valkey") { Server::Valkey } else { Server::Keyward };
    let record = flag("--record");
    let Some(address) = arguments.first().and_then(|text| text.parse::<SocketAddr>().ok()) else {
        eprintln!("usage: transcript [--valkey] [--record] HOST:PORT [FILE…]");
        return ExitCode::from(2);
    };
    let files: Vec<PathBuf> = arguments[1..].iter().map(PathBuf::from).collect();
    let files = if files.is_empty() { transcript::all() } else { files };
    let mut failed = false;
    for file in &files {
        let script = Transcript::read(file);
        if record {
            let text = script.record(server, address).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            continue;
        }
        match script.play(server, address) {
            Ok(asked) => println!("ok   {} ({asked})", file.display()),
            Err(differences) => {
                println!("FAIL {}\n{differences}", file.display());
                failed = true;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}
