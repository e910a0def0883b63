//! One key of the source by itself, and up to where the source's stream is in it: for what no shard group can carry out alone.
//!
//! The source answers both at one moment (`MULTI`), so whoever keeps the value knows which of the stream's commands are in it
//! already. Until the stream is there the key is ahead of all others; when it is, everything fits.

use super::source;
use super::wire::{Link, text};
use super::{Failure, Job, source::Facts};
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
    /// The key as it is now.
    pub(super) fn fetch(&mut self, job: &Job, database: u32, key: &[u8]) -> Result<Fetched, Failure> {
        let fetched = self.ask(job, database, key);
        if fetched.is_err() {
            self.link = None;
        }
        fetched
    }

    fn ask(&mut self, job: &Job, database: u32, key: &[u8]) -> Result<Fetched, Failure> {
        if self.link.is_none() {
            let mut link = source::connect(&job.options.source, &job.stop)?;
            self.exact = !matches!(link.call(&[b"PEXPIRETIME", b"keyward"])?, Value::Error(_));
            (self.link, self.database) = (Some(link), 0);
        }
        let Some(link) = self.link.as_mut() else { return Err(Failure::Lost("there is no connection".to_owned())) };
        let select = (self.database != database).then(|| database.to_string());
        let mut bytes = Vec::new();
        select.iter().for_each(|database| encode_command(&mut bytes, &[b"SELECT", database.as_bytes()]));
        let expiry: &[u8] = if self.exact { b"PEXPIRETIME" } else { b"PTTL" };
        let questions: [&[&[u8]]; 6] =
            [&[b"MULTI"], &[b"DUMP", key], &[expiry, key], &[b"TIME"], &[b"INFO", b"replication"], &[b"EXEC"]];
        questions.iter().for_each(|question| encode_command(&mut bytes, question));
        link.send_bytes(&bytes)?;
        let before = usize::from(select.is_some()) + questions.len() - 1;
        let mut refused = None;
        for _ in 0..before {
            if let answer @ Value::Error(_) = link.reply()? {
                refused.get_or_insert_with(|| text(&answer));
            }
        }
        let answer = link.reply()?;
        self.database = database;
        let refuses = |said: String| Failure::Final(format!("the source does not give it: {said}"));
        if let Some(said) = refused {
            return Err(refuses(said));
        }
        let parts = match answer {
            Value::Array(parts) => <[Value; 4]>::try_from(parts).map_err(|_| refuses("nothing".to_owned()))?,
            answer => return Err(refuses(text(&answer))),
        };
        let [value, expiry, time, info] = parts;
        let offset = Facts::read(&text(&info)).offset();
        let value = match value {
            Value::Bulk(payload) => Some(payload),
            answer @ Value::Error(_) => return Err(refuses(text(&answer))),
            _ => None,
        };
        let expires_at = match expiry {
            Value::Integer(at) if at >= 0 && self.exact => at,
            Value::Integer(left) if left >= 0 => source::clock_of(&time).saturating_add(left),
            _ => 0,
        };
        Ok(Fetched { value, expires_at, offset })
    }
}
