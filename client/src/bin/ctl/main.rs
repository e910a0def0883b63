//! `keywardctl`: a Keyward cluster from the command line. Tables for people, JSON for scripts.
//!
//! ```text
//! exit code 0  done                               3  wrong password, or not permitted
//!           1  refused, not found, or denied      4  no node reachable, or the answer was lost
//!           2  wrong usage
//! ```

mod args;
mod import;
mod insight;
mod output;
mod run;
mod slots;

use std::process::ExitCode;

use clap::Parser as _;
use keyward_client::ClientError;

use args::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One call after the other: one thread is enough.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("keywardctl: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::run(&arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keywardctl: {}", output::printable(&error.to_string()));
            exit_code(&error)
        }
    }
}

fn exit_code(error: &ClientError) -> ExitCode {
    ExitCode::from(match error {
        ClientError::Options(_) => 2,
        ClientError::NotAuthenticated(_) | ClientError::NotPermitted(_) => 3,
        ClientError::Unreachable(_) | ClientError::Unknown(_) => 4,
        ClientError::NotFound(_) | ClientError::Invalid(_) | ClientError::Refused(_) | ClientError::HistoryGone(_) => 1,
    })
}
