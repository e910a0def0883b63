//! What is told about an import: how far it is, how far behind, what went wrong. Plain values.

use super::Options;
use super::source::Facts;
use std::fmt;

/// Problems that are kept as text; more are only counted.
const PROBLEM_TEXTS_MAX: usize = 20;

/// Remarks that are kept.
const NOTES_MAX: usize = 20;

/// Where an import stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
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
    /// About to end well.
    CuttingOver,
    /// Ended by a cut-over.
    Finished,
    /// Ended by somebody's wish.
    Cancelled,
    /// Ended by an error.
    Failed,
}

impl Phase {
    /// Whether nothing will happen any more.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Finished | Phase::Cancelled | Phase::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connecting => "connecting",
            Phase::Copying => "copying",
            Phase::Following => "following",
            Phase::Scanning => "scanning",
            Phase::Waiting => "waiting for the source",
            Phase::CuttingOver => "cutting over",
            Phase::Finished => "finished",
            Phase::Cancelled => "cancelled",
            Phase::Failed => "failed",
        })
    }
}

/// How the source's keys come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Copy and stream of its replication.
    Stream,
    /// Passes of SCAN, DUMP and PTTL.
    Scan,
}

/// What a cut-over found at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The offset up to which everything was applied; 0 after passes of SCAN.
    pub offset: u64,
    /// The offset the source told at the end; 0 after passes of SCAN.
    pub source_offset: u64,
    /// Keys the source counts, those past their expiry included.
    pub source_keys: u64,
    /// Keys counted here.
    pub keys: u64,
    /// Writers of the source were kept waiting during the end.
    pub source_paused: bool,
    /// The last pass found nothing changed. Always true after a stream.
    pub quiet: bool,
    /// How long the end took, in milliseconds.
    pub took_ms: u64,
}

/// Everything that is told.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// How keys come here; may change when the source refuses a stream.
    pub method: Method,
    /// Where from, without user and password.
    pub source: String,
    /// The server there, such as `redis 7.0.15`.
    pub server: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// When it ended; 0 before.
    pub ended_ms: i64,
    /// When this was told.
    pub now_ms: i64,
    /// Keys written by the copy or pass under way.
    pub keys: u64,
    /// Keys the source counted when the copy or pass began.
    pub keys_expected: u64,
    /// Bytes of the copy or pass under way that were read.
    pub bytes: u64,
    /// Bytes the copy has, if the source said so.
    pub bytes_expected: Option<u64>,
    /// Commands of the stream that were applied.
    pub commands: u64,
    /// Bytes of the stream that were applied.
    pub stream_bytes: u64,
    /// The offset up to which everything was applied.
    pub offset: u64,
    /// Bytes of the stream that are still to come, as far as known.
    pub lag_bytes: Option<u64>,
    /// Milliseconds since we had everything there was.
    pub lag_ms: Option<u64>,
    /// Whole copies begun.
    pub copies: u32,
    /// Passes of SCAN that were completed.
    pub passes: u32,
    /// How long the last pass took, in milliseconds.
    pub pass_ms: u64,
    /// Keys the last pass found new, changed or gone.
    pub pass_changes: u64,
    /// Times the connection was lost.
    pub reconnects: u32,
    /// Keys removed here because a new copy or pass no longer had them.
    pub removed: u64,
    /// What could not be carried out.
    pub problems: u64,
    /// The first of them.
    pub problem_texts: Vec<String>,
    /// What is good to know.
    pub notes: Vec<String>,
    /// Why it ended, or why it waits.
    pub error: String,
    /// Why the last cut-over was given up.
    pub cut_over_refused: String,
    /// What a cut-over found.
    pub report: Option<Report>,
}

impl Status {
    /// Of an import that begins.
    pub(super) fn new(options: &Options, facts: &Facts, now_ms: i64) -> Status {
        let mut status = Status {
            phase: Phase::Connecting,
            method: if options.scan { Method::Scan } else { Method::Stream },
            source: options.source.to_string(),
            server: facts.server.clone(),
            started_ms: now_ms,
            ended_ms: 0,
            now_ms,
            keys: 0,
            keys_expected: facts.keys,
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
            cut_over_refused: String::new(),
            report: None,
        };
        facts.remarks(options).into_iter().for_each(|note| status.note(note));
        status
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
}
