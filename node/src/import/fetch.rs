//! Some keys of the source by themselves, and up to where the source's stream is in them: for what no shard group can carry out alone.
//!
//! The source answers both at one moment (`MULTI`), so whoever keeps the values knows which of the stream's commands are in them
//! already. Until the stream is there the keys are ahead of all others; when it is, everything fits.

use super::source::{self, Facts};
use super::wire::{Link, text};
use super::{Failure, Job};

use keyward_proto::resp::{Value, encode_command};

/// A key as it was at one moment.
pub(super) struct Fetched {
    /// What `DUMP` says; `None`: there is no such key.
    pub(super) value: Option<Vec<u8>>,
    /// When it expires, in milliseconds since 1970; 0: never.
    pub(super) expires_at: i64,
    /// What comes up to there in the stream is in it.
    pub(super) offset: u64,
}

/// Asks the source for keys.
#[derive(Default)]
pub(super) struct Fetcher {
    link: Option<Link>,
    database: u32,
    /// The source tells the moment of expiry itself.
    exact: bool,
}

impl Fetcher {
    /// The keys as they are now: of each its value, or why the source does not give it, in a sentence.
    pub(super) fn fetch(
        &mut self,
        job: &Job,
        keys: &[(u32, Vec<u8>)],
    ) -> Result<Vec<Result<Fetched, String>>, Failure> {
        let fetched = self.ask(job, keys);
        if fetched.is_err() {
            self.link = None;
        }
        fetched
    }

    fn ask(&mut self, job: &Job, keys: &[(u32, Vec<u8>)]) -> Result<Vec<Result<Fetched, String>>, Failure> {
        let refuses = |said: &str| format!("the source does not give it: {said}");
        let all_refused = |said: &str| Ok(keys.iter().map(|_| Err(refuses(said))).collect());
        if self.link.is_none() {
            let mut link = match source::connect(&job.options.source, &job.stop) {
                Err(Failure::Final(why)) => return all_refused(&why),
                connected => connected?,
            };
            self.exact = !matches!(link.call(&[b"PEXPIRETIME", b"keyward"])?, Value::Error(_));
            (self.link, self.database) = (Some(link), 0);
        }
        let Some(link) = self.link.as_mut() else { return Err(Failure::Lost("there is no connection".to_owned())) };
        let expiry: &[u8] = if self.exact { b"PEXPIRETIME" } else { b"PTTL" };
        let (mut bytes, mut asked, mut database) = (Vec::new(), 0, self.database);
        let mut ask = |question: &[&[u8]]| {
            encode_command(&mut bytes, question);
            asked += 1;
        };
        ask(&[b"MULTI"]);
        // In the answer of EXEC, where the two answers about each key are.
        let (mut places, mut selects, mut answers) = (Vec::with_capacity(keys.len()), Vec::new(), 0);
        for (of, key) in keys {
            if *of != database {
                ask(&[b"SELECT", of.to_string().as_bytes()]);
                selects.push(answers);
                (database, answers) = (*of, answers + 1);
            }
            ask(&[b"DUMP", key]);
            ask(&[expiry, key]);
            places.push(answers);
            answers += 2;
        }
        ask(&[b"TIME"]);
        ask(&[b"INFO", b"replication"]);
        ask(&[b"EXEC"]);
        link.send_bytes(&bytes)?;
        let mut refused = None;
        for _ in 1..asked {
            if let answer @ Value::Error(_) = link.reply()? {
                refused.get_or_insert_with(|| text(&answer));
            }
        }
        let answer = link.reply()?;
        self.database = database;
        if let Some(said) = refused {
            // Which database is selected nobody knows.
            self.link = None;
            return all_refused(&said);
        }
        let mut parts = match answer {
            Value::Array(parts) if parts.len() == answers + 2 => parts,
            Value::Array(_) => return all_refused("nothing"),
            answer => return all_refused(&text(&answer)),
        };
        // What comes after it was read from another database.
        if let Some(answer @ Value::Error(_)) = selects.iter().map(|at| &parts[*at]).find(|answer| is_error(answer)) {
            self.link = None;
            return all_refused(&text(answer));
        }
        let offset = parts.pop().map_or(0, |info| Facts::read(&text(&info)).offset());
        let now_ms = parts.pop().map_or(0, |time| source::clock_of(&time));
        let mut take = |at: usize| std::mem::replace(&mut parts[at], Value::Nil);
        let one = |place: usize| {
            let value = match take(place) {
                Value::Bulk(payload) => Some(payload),
                answer @ Value::Error(_) => return Err(refuses(&text(&answer))),
                _ => None,
            };
            let expires_at = match take(place + 1) {
                Value::Integer(at) if at >= 0 && self.exact => at,
                Value::Integer(left) if left >= 0 => now_ms.saturating_add(left),
                _ => 0,
            };
            Ok(Fetched { value, expires_at, offset })
        };
        Ok(places.into_iter().map(one).collect())
    }
}

fn is_error(answer: &Value) -> bool {
    matches!(answer, Value::Error(_))
}
