//! What is told about an import: how far it is, how far behind, what went wrong. Of each shard group by itself, and put together
//! from all of them. Plain values.

use keyward_cluster::{Import, ImportOutcome, NodeId};
use keyward_proto::admin as pb;
use keyward_proto::replication::ImportTally;
use prost::Message as _;
use std::fmt;

/// Problems that are kept as text; more are only counted.
const PROBLEM_TEXTS_MAX: usize = 20;

/// Remarks that are kept.
const NOTES_MAX: usize = 20;

/// Where an import stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Speaking to the source.
    Connecting,
    /// Taking the whole copy.
    Copying,
    /// Following the source's writes.
    Following,
    /// Passing over all keys of the source, again and again.
    Scanning,
    /// Out of contact; trying again.
    Waiting,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connecting => "connecting",
            Phase::Copying => "copying",
            Phase::Following => "following",
            Phase::Scanning => "scanning",
            Phase::Waiting => WAITING,
        })
    }
}

/// How the source's keys come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Copy and stream of its replication.
    Stream,
    /// Passes of SCAN, DUMP and PTTL.
    Scan,
}

/// What is told of an import that waits.
const WAITING: &str = "waiting for the source";

/// What is told while every group has what the source had.
pub(super) const FOLLOWING: &str = "following";
pub(super) const SCANNING: &str = "scanning";

/// What is told of one shard group.
#[derive(Clone, Debug)]
pub(super) struct Status {
    /// Where it stands.
    pub(super) phase: Phase,
    /// How keys come here; may change when the source refuses a stream.
    pub(super) method: Method,
    /// Keys written by the copy or pass under way.
    pub(super) keys: u64,
    /// Keys the source counted when the copy or pass began.
    pub(super) keys_expected: u64,
    /// Bytes of the copy or pass under way that were read.
    pub(super) bytes: u64,
    /// Bytes the copy has, if the source said so.
    pub(super) bytes_expected: Option<u64>,
    /// Commands of the stream that were applied.
    pub(super) commands: u64,
    /// Bytes of the stream that were applied.
    pub(super) stream_bytes: u64,
    /// The offset up to which everything was applied.
    pub(super) offset: u64,
    /// Bytes of the stream that are still to come, as far as known.
    pub(super) lag_bytes: Option<u64>,
    /// Milliseconds since we had everything there was.
    pub(super) lag_ms: Option<u64>,
    /// Whole copies begun.
    pub(super) copies: u32,
    /// Passes of SCAN that were completed.
    pub(super) passes: u32,
    /// How long the last pass took, in milliseconds.
    pub(super) pass_ms: u64,
    /// Keys the last pass found new, changed or gone.
    pub(super) pass_changes: u64,
    /// Times the connection was lost.
    pub(super) reconnects: u32,
    /// Keys removed here because a new copy or pass no longer had them.
    pub(super) removed: u64,
    /// What could not be carried out.
    pub(super) problems: u64,
    /// The first of them.
    pub(super) problem_texts: Vec<String>,
    /// What is good to know.
    pub(super) notes: Vec<String>,
    /// Why it waits.
    pub(super) error: String,
}

impl Status {
    /// Of an import that begins.
    pub(super) fn new(scan: bool) -> Status {
        Status {
            phase: Phase::Connecting,
            method: if scan { Method::Scan } else { Method::Stream },
            keys: 0,
            keys_expected: 0,
            bytes: 0,
            bytes_expected: None,
            commands: 0,
            stream_bytes: 0,
            offset: 0,
            lag_bytes: None,
            lag_ms: None,
            copies: 0,
            passes: 0,
            pass_ms: 0,
            pass_changes: 0,
            reconnects: 0,
            removed: 0,
            problems: 0,
            problem_texts: Vec::new(),
            notes: Vec::new(),
            error: String::new(),
        }
    }

    /// What is carried along with the data, for whoever goes on.
    pub(super) fn tally(&self) -> ImportTally {
        ImportTally {
            scans: self.method == Method::Scan,
            keys: self.keys,
            keys_expected: self.keys_expected,
            bytes: self.bytes,
            bytes_expected: self.bytes_expected,
            commands: self.commands,
            stream_bytes: self.stream_bytes,
            copies: self.copies,
            passes: self.passes,
            pass_ms: self.pass_ms,
            pass_changes: self.pass_changes,
            reconnects: self.reconnects,
            removed: self.removed,
            problems: self.problems,
            problem_texts: self.problem_texts.clone(),
            notes: self.notes.clone(),
        }
    }

    /// Goes on counting where somebody else stopped.
    pub(super) fn restore(&mut self, tally: &ImportTally) {
        let tally = tally.clone();
        self.method = if tally.scans { Method::Scan } else { self.method };
        (self.keys, self.keys_expected) = (tally.keys, tally.keys_expected);
        (self.bytes, self.bytes_expected) = (tally.bytes, tally.bytes_expected);
        (self.commands, self.stream_bytes) = (tally.commands, tally.stream_bytes);
        (self.copies, self.reconnects, self.removed) = (tally.copies, tally.reconnects, tally.removed);
        (self.passes, self.pass_ms, self.pass_changes) = (tally.passes, tally.pass_ms, tally.pass_changes);
        (self.problems, self.problem_texts) = (tally.problems, tally.problem_texts);
        tally.notes.into_iter().for_each(|note| self.note(note));
    }

    /// Remembers a remark, once.
    pub(super) fn note(&mut self, text: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    pub(super) fn problem(&mut self, text: String) {
        self.problems += 1;
        if self.problem_texts.len() < PROBLEM_TEXTS_MAX {
            self.problem_texts.push(text);
        }
    }

    /// As it is told, by `node`.
    pub(super) fn message(self, node: NodeId) -> pb::Import {
        pb::Import {
            node_id: node.0,
            phase: self.phase.to_string(),
            method: if self.method == Method::Scan { "scan" } else { "stream" }.to_owned(),
            error: self.error,
            keys: self.keys,
            keys_expected: self.keys_expected,
            bytes: self.bytes,
            bytes_expected: self.bytes_expected,
            commands: self.commands,
            stream_bytes: self.stream_bytes,
            offset: self.offset,
            lag_bytes: self.lag_bytes,
            lag_ms: self.lag_ms,
            copies: self.copies,
            passes: self.passes,
            pass_ms: self.pass_ms,
            pass_changes: self.pass_changes,
            reconnects: self.reconnects,
            removed: self.removed,
            problems: self.problems,
            problem_texts: self.problem_texts,
            notes: self.notes,
            ..pb::Import::default()
        }
    }
}

/// What is told of an import, from what the primary of each shard group says; `silent`: groups of which nobody says anything.
pub(super) fn whole(import: &Import, parts: &[pb::ImportPartAnswer], silent: &[u32]) -> pb::Import {
    let mut all = pb::Import {
        source: address(&import.plan.host, import.plan.port),
        server: import.plan.server.clone(),
        started_unix_ms: i64::try_from(import.at.0).unwrap_or(0),
        method: if import.plan.scan { "scan" } else { "stream" }.to_owned(),
        phase: FOLLOWING.to_owned(),
        ..pb::Import::default()
    };
    if let Some(end) = &import.ended {
        if let Ok(told) = pb::Import::decode(&*end.told) {
            all = pb::Import { source: all.source, server: all.server, started_unix_ms: all.started_unix_ms, ..told };
        }
        all.ended_unix_ms = i64::try_from(end.at.0).unwrap_or(0);
        (all.phase, all.error) = match &end.how {
            ImportOutcome::Finished => ("finished".to_owned(), String::new()),
            ImportOutcome::Cancelled => ("cancelled".to_owned(), String::new()),
            ImportOutcome::Failed(why) => ("failed".to_owned(), why.clone()),
        };
        return all;
    }
    let told: Vec<(u32, &pb::Import)> =
        parts.iter().filter_map(|part| Some((part.group, part.import.as_ref()?))).collect();
    put_together(&mut all, &told);
    if let Some(group) = silent.first() {
        all.phase = WAITING.to_owned();
        all.error = format!("no node that serves shard group {group} says how far it is");
    }
    if told.len() > 1 {
        all.parts = told.iter().map(|(group, told)| part(*group, told)).collect();
    }
    all
}

fn put_together(all: &mut pb::Import, told: &[(u32, &pb::Import)]) {
    // The one that has the longest way to go says where the whole is.
    let order = ["connecting", WAITING, "copying", SCANNING, FOLLOWING];
    let rank = |phase: &str| order.iter().position(|known| *known == phase).unwrap_or(0);
    for (at, (_, one)) in told.iter().enumerate() {
        let first = at == 0;
        if first {
            (all.node_id, all.bytes, all.bytes_expected) = (one.node_id, one.bytes, one.bytes_expected);
            (all.offset, all.passes, all.phase) = (one.offset, one.passes, one.phase.clone());
        }
        if rank(&one.phase) < rank(&all.phase) {
            all.phase.clone_from(&one.phase);
        }
        if all.error.is_empty() {
            all.error.clone_from(&one.error);
        }
        if one.method == "scan" {
            all.method.clone_from(&one.method);
        }
        (all.bytes, all.offset) = (all.bytes.min(one.bytes), all.offset.min(one.offset));
        (all.lag_bytes, all.lag_ms) = (all.lag_bytes.max(one.lag_bytes), all.lag_ms.max(one.lag_ms));
        all.keys_expected = all.keys_expected.max(one.keys_expected);
        all.stream_bytes = all.stream_bytes.max(one.stream_bytes);
        (all.copies, all.passes) = (all.copies.max(one.copies), all.passes.min(one.passes));
        all.pass_ms = all.pass_ms.max(one.pass_ms);
        all.pass_changes += one.pass_changes;
        all.keys += one.keys;
        all.commands += one.commands;
        all.reconnects += one.reconnects;
        all.removed += one.removed;
        all.problems += one.problems;
        let texts = one.problem_texts.iter().take(PROBLEM_TEXTS_MAX - all.problem_texts.len().min(PROBLEM_TEXTS_MAX));
        all.problem_texts.extend(texts.cloned());
        for note in &one.notes {
            if all.notes.len() < NOTES_MAX && !all.notes.contains(note) {
                all.notes.push(note.clone());
            }
        }
    }
}

fn part(group: u32, told: &pb::Import) -> pb::ImportPart {
    pb::ImportPart {
        group,
        node_id: told.node_id,
        phase: told.phase.clone(),
        error: told.error.clone(),
        offset: told.offset,
        lag_bytes: told.lag_bytes,
        keys: told.keys,
        commands: told.commands,
        copies: told.copies,
    }
}

/// Host and port, as one word.
pub(super) fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_group_says_where_an_import_is_and_what_is_counted_adds_up() {
        let part = |group, phase: &str, offset, keys| {
            let import =
                pb::Import { phase: phase.to_owned(), offset, keys, keys_expected: 9, ..pb::Import::default() };
            pb::ImportPartAnswer { group, import: Some(import), ..pb::ImportPartAnswer::default() }
        };
        let plan = keyward_cluster::ImportPlan { host: "::1".to_owned(), port: 7, ..Default::default() };
        let import = Import { index: 1, at: keyward_cluster::UnixMillis(5), plan, ended: None };
        let told = whole(&import, &[part(0, "following", 50, 4), part(1, "copying", 20, 3)], &[]);
        assert_eq!((told.source.as_str(), told.phase.as_str(), told.offset), ("[::1]:7", "copying", 20));
        assert_eq!((told.keys, told.keys_expected, told.parts.len()), (7, 9, 2));
        let told = whole(&import, &[part(0, "following", 50, 4)], &[1]);
        assert_eq!(told.phase, WAITING);
        assert!(told.error.contains("shard group 1"), "{}", told.error);
    }
}
