//! `keywardctl import`: another server's data moves in. The URL of the source is read here; the node, whichever it is, gets its
//! parts.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use keyward_client::{AdminClient, ClientError};
use keyward_proto::admin as pb;

use crate::output::{Table, print, printable, size, time};
use crate::run::Screen;

/// Between two looks at an import.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a cut-over call may take beyond the time it waits.
const CALL_EXTRA: Duration = Duration::from_secs(15);

/// Move a live Redis, Valkey or Dragonfly in.
///
///   keywardctl import redis://user@old-host:6379      copy, then follow its writes
///   keywardctl import status                          how far, how far behind
///   keywardctl import cut-over --pause-source 3000    everything is here: point the applications at Keyward
///
/// Any node will do. The import goes on when another node comes to serve the data.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ImportArguments {
    #[command(subcommand)]
    pub command: Option<ImportCommand>,

    #[command(flatten)]
    pub start: Start,
}

#[derive(Debug, Args)]
pub struct Start {
    /// The source: redis://[user[:password]@]host[:port][/database], rediss:// for TLS. Without a database, all of them. What stands
    /// here can be read by everybody on this machine: better give the password by file or environment.
    #[arg(required = true)]
    url: Option<String>,

    /// Read the source's password from this file. Without it from the environment variable
    /// KEYWARD_SOURCE_PASSWORD, if that is set.
    #[arg(long, value_name = "FILE")]
    source_password_file: Option<PathBuf>,

    /// With rediss://: the authorities that may have signed the source's certificate, PEM. Without it those that the
    /// node's machine trusts.
    #[arg(long, value_name = "FILE")]
    source_ca: Option<PathBuf>,

    /// Keep the keys that are here already; those that the source has too are overwritten.
    #[arg(long)]
    merge: bool,

    /// Read all keys again and again (SCAN, DUMP) even if the source can be followed.
    #[arg(long)]
    scan: bool,

    /// Keys that begin with OLD begin with NEW here. May be repeated.
    #[arg(long, value_name = "OLD=NEW")]
    prefix_map: Vec<String>,

    /// Return as soon as it has begun, instead of when the copy is complete.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// How far the import is.
    Status {
        /// Go on printing until it ends.
        #[arg(long, short)]
        follow: bool,
    },
    /// Wait until everything is here, and end the import. The source can be left then.
    CutOver {
        /// Keep the writers of the source waiting for so many milliseconds, from now on.
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=600_000))]
        pause_source: Option<u32>,
        /// Wait so many seconds at most; then the import goes on.
        #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
        wait: u32,
        /// End it even if some commands of the source could not be carried out here.
        #[arg(long)]
        despite_problems: bool,
    },
    /// End the import where it is. What it brought stays.
    Cancel,
}

impl ImportArguments {
    /// How long its call may take, if that is longer than others may.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.command {
            Some(ImportCommand::CutOver { wait, .. }) => Some(Duration::from_secs(u64::from(*wait)) + CALL_EXTRA),
            _ => None,
        }
    }
}

pub async fn run(client: &AdminClient, screen: &Screen, arguments: &ImportArguments) -> Result<ExitCode, ClientError> {
    // Options first: what is wrong with them needs no cluster.
    let request = match &arguments.command {
        None => Some(request(&arguments.start)?),
        Some(_) => None,
    };
    match &arguments.command {
        None => {
            let begun = client.start_import(request.unwrap_or_default()).await?;
            if arguments.start.detach {
                return screen.show(&begun, || text(&begun));
            }
            watch(client, screen, |import| {
                matches!(import.phase.as_str(), "following" | "scanning") && import.copies + import.passes > 0
            })
            .await
        }
        Some(ImportCommand::Status { follow: false }) => {
            let import = client.import().await?;
            screen.show(&import, || text(&import))
        }
        Some(ImportCommand::Status { follow: true }) => watch(client, screen, |_| false).await,
        Some(ImportCommand::CutOver { pause_source, wait, despite_problems }) => {
            let pause_ms = pause_source.unwrap_or(0);
            let ended = client.finish_import(wait * 1000, pause_ms, *despite_problems).await?;
            screen.show(&ended, || text(&ended))
        }
        Some(ImportCommand::Cancel) => {
            let ended = client.cancel_import().await?;
            screen.show(&ended, || text(&ended))
        }
    }
}

/// Prints a line now and then until `enough`, or until it ends.
async fn watch(
    client: &AdminClient,
    screen: &Screen,
    enough: impl Fn(&pb::Import) -> bool,
) -> Result<ExitCode, ClientError> {
    loop {
        let import = client.import().await?;
        let ended = import.ended_unix_ms > 0;
        if ended || enough(&import) {
            screen.show(&import, || text(&import))?;
            return Ok(if import.phase == "failed" { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        if screen.is_table() && !print(&line(&import))? {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn request(start: &Start) -> Result<pb::StartImportRequest, ClientError> {
    let url = start.url.as_deref().unwrap_or_default();
    let source = Source::parse(url).map_err(ClientError::Options)?;
    let password = match (&start.source_password_file, std::env::var("KEYWARD_SOURCE_PASSWORD")) {
        (Some(path), _) => {
            let text = fs::read_to_string(path)
                .map_err(|error| ClientError::Options(format!("{}: {error}", path.display())))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, Ok(password)) if source.password.is_empty() => password,
        _ => source.password,
    };
    let tls_authorities = match &start.source_ca {
        Some(path) => fs::read(path).map_err(|error| ClientError::Options(format!("{}: {error}", path.display())))?,
        None => Vec::new(),
    };
    let prefixes = start.prefix_map.iter().map(|change| match change.split_once('=') {
        Some((from, to)) if !from.is_empty() => Ok(pb::PrefixChange { from: from.into(), to: to.into() }),
        _ => Err(ClientError::Options(format!("--prefix-map {change}: it looks like OLD=NEW"))),
    });
    Ok(pb::StartImportRequest {
        host: source.host,
        port: source.port.into(),
        username: source.user,
        password,
        database: source.database,
        merge: start.merge,
        scan: start.scan,
        prefixes: prefixes.collect::<Result<_, _>>()?,
        tls: source.tls,
        tls_authorities,
    })
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    host: String,
    port: u16,
    user: String,
    password: String,
    database: Option<u32>,
    tls: bool,
}

impl Source {
    /// Reads `redis://[user[:password]@]host[:port][/database]`, or `rediss://…`. The error is a sentence without the password.
    fn parse(url: &str) -> Result<Source, String> {
        let looks = "the source looks like redis://[user[:password]@]host[:port][/database]";
        let (scheme, rest) = url.split_once("://").ok_or(looks)?;
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(looks.to_owned()),
        };
        let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (address, database) = place.split_once('/').unwrap_or((place, ""));
        let database = match database {
            "" => None,
            number => Some(number.parse().map_err(|_| format!("'{number}' is no number of a database; {looks}"))?),
        };
        let bracketed = address.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => 6379,
            Some(port) => port.parse().map_err(|_| format!("'{port}' is no port; {looks}"))?,
        };
        if host.is_empty() {
            return Err(looks.to_owned());
        }
        let plain = |text: &str| decoded(text).ok_or("user and password of the source: %XX stands for a byte of UTF-8");
        Ok(Source { host: host.to_owned(), port, user: plain(user)?, password: plain(password)?, database, tls })
    }
}

/// `%41` is `A`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn line(import: &pb::Import) -> String {
    let mut words = vec![import.phase.clone()];
    words.push(format!("{} of {} keys", import.keys, import.keys_expected));
    words.push(match import.bytes_expected {
        Some(whole) => format!("{} of {}", size(import.bytes), size(whole)),
        None => size(import.bytes),
    });
    if let (Some(bytes), Some(ms)) = (import.lag_bytes, import.lag_ms) {
        words.push(format!("{} behind ({ms} ms)", size(bytes)));
    }
    if !import.error.is_empty() {
        words.push(import.error.clone());
    }
    format!("{}\n", printable(&words.join("   ")))
}

fn text(import: &pb::Import) -> String {
    let mut table = Table::of_pairs();
    table.row(&["import", &format!("from {} ({})", import.source, import.server)]);
    table.row(&["state", &import.phase]);
    if !import.error.is_empty() {
        table.row(&["because", &import.error]);
    }
    table.row(&["begun", &time(import.started_unix_ms)]);
    if import.ended_unix_ms > 0 {
        table.row(&["ended", &time(import.ended_unix_ms)]);
    }
    let copied = match import.bytes_expected {
        Some(whole) => format!("{} of {}", size(import.bytes), size(whole)),
        None => size(import.bytes),
    };
    let what = if import.method == "scan" { "pass" } else { "copy" };
    table.row(&[what, &format!("{} keys of {}, {copied}", import.keys, import.keys_expected)]);
    if import.method == "scan" {
        let passes =
            format!("{}, the last took {} ms and found {} changes", import.passes, import.pass_ms, import.pass_changes);
        table.row(&["passes", &passes]);
    } else {
        let stream = format!("{} commands, {}, offset {}", import.commands, size(import.stream_bytes), import.offset);
        table.row(&["stream", &stream]);
    }
    if let (Some(bytes), Some(ms)) = (import.lag_bytes, import.lag_ms) {
        table.row(&["behind", &format!("{bytes} bytes, {ms} ms")]);
    }
    if import.reconnects + import.copies > 1 {
        let lost = format!(
            "{} losses of contact, {} copies, {} keys removed",
            import.reconnects, import.copies, import.removed
        );
        table.row(&["contact", &lost]);
    }
    if let Some(report) = &import.report {
        let paused = if report.source_paused { ", its writers waiting" } else { "" };
        let offsets = format!("offset {} of {}", report.offset, report.source_offset);
        let reached = if import.method == "scan" { "by a last pass".to_owned() } else { offsets };
        table.row(&["cut over", &format!("{reached}{paused}, in {} ms", report.took_ms)]);
        table.row(&["keys", &format!("{} at the source, {} here", report.source_keys, report.keys)]);
    }
    for part in &import.parts {
        let behind = part.lag_bytes.map(|bytes| format!(", {} behind", size(bytes))).unwrap_or_default();
        let told =
            format!("node {}: {}, {} keys, {} commands{behind}", part.node_id, part.phase, part.keys, part.commands);
        table.row(&[&format!("group {}", part.group), &told]);
    }
    for problem in &import.problem_texts {
        table.row(&["problem", problem]);
    }
    if import.problems > import.problem_texts.len() as u64 {
        table.row(&["problems", &format!("{} in all", import.problems)]);
    }
    for note in &import.notes {
        table.row(&["note", note]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_clients_read_them() {
        let source = |host: &str, port, user: &str, password: &str, database| Source {
            host: host.to_owned(),
            port,
            user: user.to_owned(),
            password: password.to_owned(),
            database,
            tls: false,
        };
        let with_tls = Source { tls: true, ..source("old", 6380, "", "", None) };
        assert_eq!(Source::parse("rediss://old:6380"), Ok(with_tls));
        assert_eq!(Source::parse("redis://old"), Ok(source("old", 6379, "", "", None)));
        assert_eq!(
            Source::parse("redis://:se%20cret@10.0.0.1:7000/3"),
            Ok(source("10.0.0.1", 7000, "", "se cret", Some(3)))
        );
        assert_eq!(Source::parse("valkey://me:a@b@[::1]:1"), Ok(source("::1", 1, "me", "a@b", None)));
        for wrong in
            ["old:6379", "http://old", "redis://", "redis://old:x", "redis://old/x", "rediss:old", "redis://%zz@old"]
        {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }
}
