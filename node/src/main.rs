//! The command line: what the words mean and which exit code they end in. Everything else lives in the library.
//! Exit codes: 0 done, 1 refused or failed with a sentence saying why, 2 the command line makes no sense.

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use keyward::config::{Config, Flags, raise_open_files};
use keyward::demo::{self, Demo};
use keyward::{memory, node, telemetry};

// Measured: of the allocators at hand it keeps millions of small entries in the fewest bytes, and gives memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A Redis-compatible cache cluster whose users are in force on every node at once.
#[derive(Parser)]
#[command(name = "keyward", version, disable_help_subcommand = true)]
enum Keyward {
    /// Run a node until SIGTERM or Ctrl-C
    Serve(Serve),
    /// Run a whole cluster on this machine
    Demo(Demo),
    /// Look at configurations
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version
    Version,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    flags: Flags,
    /// Stop when standard input ends, so that a node never outlives the demo that started it
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print OK, or everything that is wrong with the configuration
    Check(Flags),
    /// Print the effective configuration, secrets masked
    Show(Flags),
    /// Print a configuration file with every setting, its meaning and its default
    Default,
}

fn main() -> ExitCode {
    match Keyward::parse() {
        Keyward::Serve(serve) => done(run_node(&serve)),
        Keyward::Demo(demo) => done(demo::run(&demo)),
        Keyward::Config(ConfigCommand::Check(flags)) => print(check(&flags).map(|()| "OK\n".to_owned())),
        Keyward::Config(ConfigCommand::Show(flags)) => print(Config::load(&flags).map(|config| config.to_toml())),
        Keyward::Config(ConfigCommand::Default) => print(Ok::<_, String>(Config::default_toml())),
        Keyward::Version => print(Ok::<_, String>(format!("keyward {}\n", env!("CARGO_PKG_VERSION")))),
    }
}

fn check(flags: &Flags) -> Result<(), String> {
    let config = Config::check(flags).map_err(|problems| problems.to_string())?;
    node::check(&config).map_err(|error| error.to_string())
}

fn run_node(serve: &Serve) -> Result<(), String> {
    let config = Config::load(&serve.flags).map_err(|problems| problems.to_string())?;
    telemetry::start(config.log_level, config.log_format);
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    for remark in &config.remarks {
        tracing::debug!(%remark, "configuration");
    }
    raise_open_files(config.open_files());
    memory::save_pages();
    if serve.exit_with_parent {
        demo::exit_with_parent();
    }
    node::run(config).map_err(|error| error.to_string())
}

fn print(text: Result<String, impl Display>) -> ExitCode {
    use std::io::Write;
    // Whoever reads only the first lines (`| head`) has what they wanted.
    done(text.map(|text| drop(std::io::stdout().write_all(text.as_bytes()))))
}

fn done(result: Result<(), impl Display>) -> ExitCode {
    if let Err(error) = &result {
        eprintln!("keyward: {error}");
    }
    ExitCode::from(u8::from(result.is_err()))
}
