//! Takes the whole copy as it streams in: record after record, never the file. In memory is one value and a few small ones;
//! what has not been taken waits at the source.

use super::Failure;
use super::Job;
use super::hand::{Hand, Request, Together, error};
use super::keys::KeySet;
use super::run::too_few_databases;
use super::share::Share;
use super::translate::Translation;
use super::wire::Link;
use crate::node::Node;
use keyward_engine::dump::{FileError, FileReader, NotRead, Problem, Record, Source};
use keyward_engine::keyspace::TenantId;
use std::cell::RefCell;
use std::rc::Rc;

/// A key as the source dumps it: its database, its name, its value, its expiry.
type Dumped = (u32, Vec<u8>, Vec<u8>, Vec<u8>);

/// Keys written at once.
const KEYS_AT_ONCE: usize = 128;

/// Their values weigh no more than this, in bytes, one large value aside.
const BYTES_AT_ONCE: usize = 1 << 20;

/// A copy whose length is not told is believed to have no more than this in any part of it, in bytes: it bounds what a broken
/// or hostile source can make us ask the system for.
const UNTOLD_BYTES: u64 = 4 << 30;

/// The mark at the end of a copy whose length was not told.
const MARK_BYTES: usize = 40;

/// How the source sends its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// So many bytes.
    Told(u64),
    /// Until this mark.
    Marked(Vec<u8>),
}

/// The copy as the engine wants to read it. A failure of the connection is kept for whoever asked for the copy.
struct Copy<'l> {
    link: Rc<RefCell<&'l mut Link>>,
    left: Option<u64>,
    failure: Rc<RefCell<Option<Failure>>>,
    job: &'l Job,
}

impl Source for Copy<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NotRead> {
        if self.left.is_some_and(|left| left < buffer.len() as u64) {
            return Err(NotRead::End);
        }
        let mut link = self.link.borrow_mut();
        let mut filled = 0;
        while filled < buffer.len() {
            let unread = link.unread();
            if unread.is_empty() {
                match link.read() {
                    Ok(bytes) => self.job.tell(|status| status.bytes += bytes as u64),
                    Err(failure) => {
                        let text = failure.to_string();
                        *self.failure.borrow_mut() = Some(failure);
                        return Err(NotRead::Failed(text));
                    }
                }
                continue;
            }
            let count = unread.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&unread[..count]);
            link.consume(count);
            filled += count;
        }
        if let Some(left) = &mut self.left {
            *left -= buffer.len() as u64;
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        self.left.unwrap_or(UNTOLD_BYTES)
    }
}

/// What a copy is written with.
pub(super) struct Loading<'a> {
    /// Of which import.
    pub(super) job: &'a Job,
    /// Writes it.
    pub(super) hand: &'a mut Hand,
    /// Under which names.
    pub(super) translation: &'a Translation,
    /// The source's clock when the copy was begun.
    pub(super) now_ms: i64,
    /// Gets every key of the copy, if somebody wants to know.
    pub(super) met: Option<&'a mut KeySet>,
}

impl Loading<'_> {
    /// Takes the copy that comes next.
    pub(super) fn load(mut self, link: &mut Link) -> Result<(), Failure> {
        let form = form(link)?;
        let left = match &form {
            Form::Told(bytes) => Some(*bytes),
            Form::Marked(_) => None,
        };
        let already = link.unread().len() as u64;
        self.job.tell(|status| {
            (status.keys, status.bytes, status.bytes_expected) = (0, already, left);
        });
        let (shared, failure) = (Rc::new(RefCell::new(link)), Rc::default());
        let copy = Copy { link: Rc::clone(&shared), left, failure: Rc::clone(&failure), job: self.job };
        let limits = self.hand.node().live.hot().limits.clone();
        let read = FileReader::open(copy, &limits).map_err(sentence).and_then(|mut reader| self.take(&mut reader));
        if let Some(failure) = failure.borrow_mut().take() {
            return Err(failure);
        }
        read?;
        if let Form::Marked(mark) = form {
            let mut link = shared.borrow_mut();
            while link.unread().len() < MARK_BYTES {
                link.read()?;
            }
            if link.unread()[..MARK_BYTES] != mark[..] {
                return Err(Failure::Lost("the copy of the source does not end with its mark".to_owned()));
            }
            link.consume(MARK_BYTES);
        }
        Ok(())
    }

    fn take(&mut self, reader: &mut FileReader<'_, Copy<'_>>) -> Result<(), Failure> {
        let mut records: Vec<Dumped> = Vec::new();
        let mut bytes = 0;
        while let Some(record) = reader.next().map_err(sentence)? {
            self.load_libraries(reader.take_libraries())?;
            // Of no use here, and there may be many.
            reader.take_import_notes();
            let Some(record) = self.wanted(record)? else { continue };
            let key = self.translation.key(&record.key);
            if !is_ours(self.hand.node(), &key) {
                continue;
            }
            if let Some(met) = &mut self.met {
                met.add(record.space.database, &key);
            }
            let expires_at = record.expires_at.unwrap_or(0).to_string().into_bytes();
            let payload = record.payload();
            bytes += payload.len() + key.len();
            records.push((record.space.database, key, expires_at, payload));
            if records.len() >= KEYS_AT_ONCE || bytes >= BYTES_AT_ONCE {
                self.write(&records)?;
                records.clear();
                bytes = 0;
            }
        }
        self.load_libraries(reader.take_libraries())?;
        self.write(&records)?;
        let skipped = reader.skipped();
        if skipped.module_notes > 0 {
            self.job.tell(|status| status.note("notes that modules left at the source were not kept".to_owned()));
        }
        Ok(())
    }

    /// The record, unless it is not to be imported.
    fn wanted(&self, record: Record) -> Result<Option<Record>, Failure> {
        let database = record.space.database;
        if !self.translation.wants(database) {
            return Ok(None);
        }
        if record.space.tenant != TenantId::SHARED {
            let text = "keys of tenants are not imported: load the snapshot instead";
            self.job.tell(|status| status.note(text.to_owned()));
            return Ok(None);
        }
        if database >= self.hand.node().config.databases {
            return Err(Failure::Final(too_few_databases(database)));
        }
        // A moment of zero or before would read as none.
        Ok(Some(record).filter(|record| record.expires_at.is_none_or(|at| at > 0)))
    }

    fn write(&mut self, records: &[Dumped]) -> Result<(), Failure> {
        let requests: Vec<Request<'_>> = records
            .iter()
            .map(|(database, key, expires_at, payload)| {
                Request::new(*database, vec![b"RESTORE", key, expires_at, payload, b"REPLACE", b"ABSTTL"])
            })
            .collect();
        let mut refused = None;
        self.hand.run(&requests, self.now_ms, Together::Loosely, &mut |index, reply| {
            if let Some(text) = error(reply) {
                refused.get_or_insert((index, text));
            }
        })?;
        if let Some((index, text)) = refused {
            let (key, kind) = (&records[index].1, records[index].3.first().copied().unwrap_or_default());
            return Err(Failure::Final(format!(
                "key '{}' (type {kind} of RDB) cannot be kept here: {text}",
                shown(key)
            )));
        }
        self.job.tell(|status| status.keys += records.len() as u64);
        Ok(())
    }

    fn load_libraries(&mut self, codes: Vec<Vec<u8>>) -> Result<(), Failure> {
        for code in codes {
            let request = Request::new(0, vec![b"FUNCTION", b"LOAD", b"REPLACE", &code]);
            let mut refused = None;
            self.hand.run(&[request], self.now_ms, Together::Loosely, &mut |_, reply| refused = error(reply))?;
            if let Some(text) = refused {
                self.job.problem(format!("a library of functions cannot be loaded: {text}"));
            }
        }
        Ok(())
    }
}

/// Whether a key is of the shard group that is brought in.
pub(super) fn is_ours(node: &Node, key: &[u8]) -> bool {
    let (_, view) = node.views.load();
    Share { routes: view.routes.as_deref(), group: node.group }.has(key)
}

/// As much of a key as belongs into a sentence.
pub(super) fn shown(key: &[u8]) -> String {
    const KEY_BYTES_SHOWN: usize = 128;
    key[..key.len().min(KEY_BYTES_SHOWN)].escape_ascii().to_string()
}

fn form(link: &mut Link) -> Result<Form, Failure> {
    let line = loop {
        let line = link.line()?;
        // Line feeds say that the source is still making its copy.
        if !line.is_empty() {
            break line;
        }
    };
    if let Some(mark) = line.strip_prefix(b"$EOF:") {
        return Ok(Form::Marked(mark.to_vec())).and_then(|form| match &form {
            Form::Marked(mark) if mark.len() == MARK_BYTES => Ok(form),
            _ => Err(Failure::Final("the mark of the source's copy is malformed".to_owned())),
        });
    }
    let told = line.strip_prefix(b"$").and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    told.map(Form::Told).ok_or_else(|| {
        // It may have failed to save.
        Failure::Lost(format!("the source announced no copy but said: {}", shown(&line)))
    })
}

fn sentence(error: FileError) -> Failure {
    if matches!(error.problem, Problem::Version(_)) {
        return Failure::Final(format!("the source is newer than what is known here: its {}", error.problem));
    }
    let text = format!("the copy of the source cannot be read {error}");
    // A copy cut off in the middle is worth another try.
    if error.problem == Problem::Truncated { Failure::Lost(text) } else { Failure::Final(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_source_and_a_foreign_value_are_told_in_a_sentence() {
        let told = |problem| sentence(FileError { offset: 7, key: Some(b"k\n".to_vec()), problem }).to_string();
        assert_eq!(
            told(Problem::Version(99)),
            "the source is newer than what is known here: its RDB version 99 is not known here; 6 to 12 and those of Valkey are"
        );
        assert_eq!(
            told(Problem::Unsupported("values of modules")),
            "the copy of the source cannot be read at byte 7, key 'k\\n': values of modules are not kept by this version"
        );
    }
}
