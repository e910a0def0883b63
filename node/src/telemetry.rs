//! Where log lines go and how they look: standard error, as text or JSON. Knows levels and formats, nothing of what is
//! logged. Messages are lower case with fields; no line ever carries a value of a key or a password.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, LogLevel};

/// Libraries that tell at `info`, and several times a second at `warn`, what only their authors want to read: openraft
/// repeats that a node is unreachable for as long as it is. What operators need to know of it, our own rooms say once.
const CHATTY: [&str; 6] = ["openraft", "sled", "h2", "hyper", "tonic", "tower"];

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(level: LogLevel, format: LogFormat) {
    let lines = match format {
        LogFormat::Text => fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    let started = tracing_subscriber::registry().with(lines.with_filter(filter(level))).try_init();
    if started.is_ok() {
        log_panics();
    }
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let others = if level <= LevelFilter::INFO { level.min(LevelFilter::ERROR) } else { level };
    Targets::new().with_default(level).with_targets(CHATTY.map(|target| (target, others)))
}

/// A broken invariant becomes a log line like any other, so that collectors of JSON can read it.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%place, thread, message, %backtrace, "invariant broken");
    }));
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_quiet_until_somebody_debugs() {
        let info = filter(LogLevel::Info);
        assert!(
            info.would_enable("keyward::node", &Level::INFO) && !info.would_enable("openraft::engine", &Level::INFO)
        );
        assert!(
            info.would_enable("keyward::node", &Level::WARN) && !info.would_enable("openraft::engine", &Level::WARN)
        );
        assert!(info.would_enable("openraft::engine", &Level::ERROR));
        assert!(filter(LogLevel::Debug).would_enable("openraft::engine", &Level::DEBUG));
        assert!(!filter(LogLevel::Error).would_enable("openraft::engine", &Level::WARN));
    }
}
