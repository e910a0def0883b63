//! Writes the keys of all shards into a file while they are in use. It knows neither schedule nor names of files.
//!
//! Shard by shard: locked, turned into records in memory, unlocked, written out. So each shard is in the file as it was at
//! one moment, commands wait for no disk, and memory grows by the records of one shard.

use super::files::Files;
use crate::shards::Shards;
use keyward_engine::dump::{self, Checksum};
use keyward_engine::keyspace::{Shard, TenantId, UnixMillis};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    /// Keys in the file.
    pub(super) keys: u64,
    /// Its size.
    pub(super) bytes: u64,
    /// The longest time a shard was locked.
    pub(super) longest_pause: Duration,
}

/// Writes a snapshot and makes it the newest; on any error the newest stays what it was. Keys past their expiry are
/// left out. The error is a sentence.
pub(super) fn write(shards: &Shards, files: &Files, now_ms: UnixMillis) -> Result<Written, String> {
    // Only a file that says so at its beginning may hold fields that expire.
    let expected = (0..shards.count()).any(|index| shards.with(index, |shard| shard.has_expiring_fields()));
    let mut written = write_file(shards, files, now_ms, expected);
    if matches!(&written, Err(error) if is_surprise(error)) {
        files.discard();
        written = write_file(shards, files, now_ms, true);
    }
    if written.is_err() {
        files.discard();
    }
    written.map_err(|error| format!("{} cannot be written: {error}", files.path_of_newest().display()))
}

/// A field got its first expiry while the file was being written.
#[derive(Debug)]
struct Surprise;

impl std::fmt::Display for Surprise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("fields of hashes began to expire meanwhile")
    }
}

impl std::error::Error for Surprise {}

fn is_surprise(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Surprise>())
}

fn write_file(shards: &Shards, files: &Files, now_ms: UnixMillis, fields_expire: bool) -> io::Result<Written> {
    let mut output = Output { file: files.create()?, checksum: Checksum::new(), written: Written::default() };
    let mut buffer = Vec::new();
    begin(&mut buffer, shards, now_ms, fields_expire);
    let mut records = Vec::new();
    for index in 0..shards.count() {
        let locked_since = Instant::now();
        let (keys, surprised) = shards.with(index, |shard| {
            (collect(shard, now_ms, &mut records, &mut buffer), shard.has_expiring_fields() && !fields_expire)
        });
        if surprised {
            return Err(io::Error::other(Surprise));
        }
        output.written.keys += keys;
        output.written.longest_pause = output.written.longest_pause.max(locked_since.elapsed());
        output.flush(&mut buffer)?;
    }
    let mut so_far = output.checksum;
    so_far.update(&buffer);
    dump::end(&mut buffer, so_far);
    output.flush(&mut buffer)?;
    files.publish(&output.file)?;
    Ok(output.written)
}

struct Output {
    file: File,
    checksum: Checksum,
    written: Written,
}

impl Output {
    fn flush(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.checksum.update(buffer);
        self.file.write_all(buffer)?;
        self.written.bytes += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }
}

fn begin(out: &mut Vec<u8>, shards: &Shards, now_ms: UnixMillis, fields_expire: bool) {
    let seconds = (now_ms / 1000).to_string();
    let notes = [("keyward-ver", env!("CARGO_PKG_VERSION")), ("redis-bits", "64"), ("ctime", &seconds)];
    dump::begin(out, fields_expire, &notes);
    let mut sizes: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for index in 0..shards.count() {
        shards.with(index, |shard| {
            for (id, space) in shard.spaces().filter(|(id, space)| id.tenant == TenantId::SHARED && !space.is_empty()) {
                let (keys, expiring) = sizes.entry(id.database).or_default();
                *keys += space.len() as u64;
                *expiring += space.expiring_len() as u64;
            }
        });
    }
    for (database, (keys, expiring)) in sizes {
        dump::sizes(out, database, keys, expiring);
    }
}

/// Turns a shard's keys into records; how many.
fn collect(shard: &Shard, now_ms: UnixMillis, records: &mut Vec<u8>, out: &mut Vec<u8>) -> u64 {
    let mut keys = 0;
    for (id, space) in shard.spaces() {
        records.clear();
        space.for_each(&mut |entry| {
            if entry.expires_at().is_none_or(|at| at > now_ms) {
                dump::record(records, entry.key(), &entry.value(), entry.expires_at());
                keys += 1;
            }
        });
        dump::part(out, id, records);
    }
    keys
}
