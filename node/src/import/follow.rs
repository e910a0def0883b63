//! Follows the source's command stream: decodes it, counts it, applies it, acknowledges it. A transaction is gathered until its
//! end and applied as one step; what lies before an unfinished one counts, what lies in it does not, so that a new
//! connection begins at a place between two steps. Each request says up to where it brings the stream, and that is written down
//! with what it does; what does nothing is counted now and then.

use super::carried::Ahead;
use super::fetch::{Fetched, Fetcher};
use super::hand::{Hand, Together, error};
use super::keys::KeySet;
use super::load::shown;
use super::run::{remove_all_brought, too_few_databases};
use super::share::{Does, Share};
use super::translate::{Owned, Translation};
use super::wire::{Link, text};
use super::{Failure, Job};
use crate::replication::record::Origin;
use keyward_acl::KeyUse;
use keyward_cluster::GroupId;
use keyward_engine::table::{Row, Table};
use keyward_proto::resp::{ArgRange, Decoder, Limits};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between two acknowledgements.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_secs(1);

/// Between two notes of how far the stream is, for whoever becomes primary: what did nothing here is not written down otherwise.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Commands applied before anything else is looked at.
const COMMANDS_AT_ONCE: usize = 512;

/// Keys that are fetched by one question: the source answers nobody else meanwhile.
const KEYS_FETCHED_AT_ONCE: usize = 64;

/// A transaction that is longer than this, in bytes, is applied in parts: nothing here is without bound.
const TRANSACTION_BYTES_MAX: usize = 256 << 20;

/// The longest command, in bytes: what Redis and Valkey let a client send.
const COMMAND_BYTES_MAX: usize = 1 << 30;

/// One stream and how far it was applied.
pub(super) struct Stream<'a> {
    job: &'a Job,
    hand: &'a mut Hand,
    translation: &'a Translation,
    /// What was here before and is not the source's to remove.
    existing: Option<&'a KeySet>,
    decoder: Decoder,
    /// Everything up to there was applied.
    offset: u64,
    /// Everything up to there was read.
    read: u64,
    database: u32,
    /// The database of what follows `offset`.
    database_applied: u32,
    /// A part of the step under way was applied, so there is no place to go on from.
    torn: bool,
    /// Whose stream it is.
    id: String,
    noted: Instant,
    /// So many problems were written down.
    problems_noted: u64,
    /// Keys, as the source names them, that were fetched by themselves, and up to where the stream is in them.
    ahead: Ahead,
    fetcher: Fetcher,
    /// Requests since MULTI.
    gathered: Option<Vec<Owned>>,
    gathered_bytes: usize,
    /// Requests that are not part of a transaction, to be applied.
    loose: Vec<Owned>,
    acknowledged: Instant,
    /// The source wants to know now.
    wanted: bool,
}

impl<'a> Stream<'a> {
    /// A stream that begins at `from`.
    pub(super) fn new(
        job: &'a Job,
        hand: &'a mut Hand,
        translation: &'a Translation,
        existing: Option<&'a KeySet>,
        from: Origin,
    ) -> Stream<'a> {
        let limits =
            Limits { bulk_bytes_max: COMMAND_BYTES_MAX, request_bytes_max: COMMAND_BYTES_MAX, ..Limits::default() };
        let mut decoder = Decoder::new(limits);
        decoder.set_authenticated(true);
        let carried = hand.node().import.carried();
        let (id, ahead) = (carried.place.map(|(id, _)| id).unwrap_or_default(), carried.ahead);
        Stream {
            job,
            hand,
            translation,
            existing,
            decoder,
            offset: from.offset,
            read: from.offset,
            database: from.database,
            database_applied: from.database,
            torn: false,
            id,
            ahead,
            fetcher: Fetcher::default(),
            noted: Instant::now(),
            problems_noted: job.tell(|status| status.problems),
            gathered: None,
            gathered_bytes: 0,
            loose: Vec::new(),
            acknowledged: Instant::now(),
            wanted: true,
        }
    }

    /// Waits a moment for more of the stream, applies what came whole, acknowledges it.
    pub(super) fn step(&mut self, link: &mut Link) -> Result<(), Failure> {
        let came = self.decode(link)?;
        // Before what comes after them: else nobody would know of them.
        if self.job.tell(|status| status.problems) != self.problems_noted {
            self.note()?;
        }
        self.apply_loose()?;
        if self.gathered.is_none() {
            self.count_applied();
        }
        if self.noted.elapsed() >= NOTE_EVERY {
            self.note()?;
        }
        if self.wanted || self.acknowledged.elapsed() >= ACKNOWLEDGE_EVERY {
            self.acknowledge(link)?;
        }
        if !came {
            link.read()?;
        }
        Ok(())
    }

    fn count_applied(&mut self) {
        let bytes = self.read - self.offset;
        (self.offset, self.database_applied) = (self.read, self.database);
        if bytes > 0 {
            if !self.ahead.is_empty() {
                self.ahead.reached(self.offset);
            }
            self.job.followed.applied(self.offset);
            self.job.tell(|status| {
                status.stream_bytes += bytes;
                status.offset = self.offset;
            });
        }
    }

    /// Has everybody who has a copy of the data know how far the stream is.
    fn note(&mut self) -> Result<(), Failure> {
        let (tally, floor_ms) = (self.job.tell(|status| status.tally()), self.job.followed.floor_ms());
        let at = Origin { offset: self.offset, database: self.database_applied };
        let place = (!self.torn).then(|| (self.id.clone(), at));
        self.problems_noted = tally.problems;
        self.noted = Instant::now();
        self.hand.stand(|carried| {
            carried.tally = tally.clone();
            carried.floor_ms = floor_ms;
            carried.place.clone_from(&place);
        })
    }

    /// From here on a part of a step is applied: whoever becomes primary meanwhile cannot go on with this stream.
    fn tear(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.torn, true) { Ok(()) } else { self.note() }
    }

    /// Tells the source how far we are.
    pub(super) fn acknowledge(&mut self, link: &mut Link) -> Result<(), Failure> {
        let offset = self.offset.to_string();
        link.send(&[b"REPLCONF", b"ACK", offset.as_bytes()])?;
        (self.acknowledged, self.wanted) = (Instant::now(), false);
        Ok(())
    }

    /// Takes in whole commands; whether there were any.
    fn decode(&mut self, link: &mut Link) -> Result<bool, Failure> {
        let mut came = false;
        let mut ranges: Vec<ArgRange> = Vec::new();
        while self.loose.len() < COMMANDS_AT_ONCE {
            ranges.clear();
            let decoded = self.decoder.next(link.unread_mut(), &mut ranges);
            let decoded =
                decoded.map_err(|error| Failure::Final(format!("the source's stream is no RESP: {error}")))?;
            let Some(bytes) = decoded else { break };
            came = true;
            let argv: Vec<&[u8]> = ranges.iter().map(|range| range.of(link.unread())).collect();
            let begins_step = argv.first().is_some_and(|name| name.eq_ignore_ascii_case(b"multi"));
            if begins_step && !self.loose.is_empty() {
                // What came before it is applied and counted first: it will be looked at again.
                break;
            }
            if begins_step {
                self.count_applied();
            }
            let ends_step = argv.first().is_some_and(|name| name.eq_ignore_ascii_case(b"exec"));
            self.take_in(&argv, bytes)?;
            link.consume(bytes);
            self.read += bytes as u64;
            if ends_step {
                self.apply_gathered()?;
                self.gathered = None;
                self.count_applied();
                if std::mem::take(&mut self.torn) {
                    // Without a place nobody else knew what was ahead of it.
                    self.ahead.marks().iter().try_for_each(|what| self.hand.add(what))?;
                    self.note()?;
                }
            }
        }
        Ok(came)
    }

    fn take_in(&mut self, argv: &[&[u8]], bytes: usize) -> Result<(), Failure> {
        let Some(name) = argv.first() else { return Ok(()) };
        match name.to_ascii_lowercase().as_slice() {
            b"select" => {
                let database = argv.get(1).and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
                let database: u32 =
                    database.ok_or_else(|| Failure::Final("the source selected no database".to_owned()))?;
                if self.translation.wants(database) && database >= self.hand.node().config.databases {
                    return Err(Failure::Final(too_few_databases(database)));
                }
                self.database = database;
            }
            b"ping" | b"exec" => {}
            b"replconf" => self.wanted |= argv.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"getack")),
            b"multi" => self.gathered = Some(Vec::new()),
            _ => return self.gather(argv, bytes),
        }
        Ok(())
    }

    fn gather(&mut self, argv: &[&[u8]], bytes: usize) -> Result<(), Failure> {
        let end = self.read + bytes as u64;
        let at = Some(Origin { offset: end, database: self.database });
        let mut requests = self.here(argv, end)?;
        let Some(gathered) = &mut self.gathered else {
            if requests.len() < 2 {
                self.loose.extend(requests.into_iter().map(|request| Owned { at, ..request }));
                return Ok(());
            }
            // What is brought in for one command is one step: done by half, SWAPDB would be done once more by the next primary.
            requests.last_mut().into_iter().for_each(|last| last.at = at);
            self.apply_loose()?;
            return self.run(requests, Together::AsOne);
        };
        self.gathered_bytes += requests.iter().flat_map(|request| &request.argv).map(Vec::len).sum::<usize>();
        gathered.append(&mut requests);
        if self.gathered_bytes > TRANSACTION_BYTES_MAX {
            let text = "a transaction of the source was too long for one step and was applied in parts";
            self.job.tell(|status| status.note(text.to_owned()));
            self.tear()?;
            self.apply_gathered()?;
        }
        Ok(())
    }

    /// What a command means here, to this group. `end`: where it ends in the stream.
    fn here(&mut self, argv: &[&[u8]], end: u64) -> Result<Vec<Owned>, Failure> {
        let table = self.hand.node().table;
        let first = self.hand.node().group == GroupId(0);
        let row = match self.hand.may_run(argv) {
            Ok(row) => row,
            Err(why) => {
                let key = argv.get(1).map_or(String::new(), |key| format!(" (of '{}')", shown(key)));
                // Every group sees it; one tells.
                if first {
                    self.job.problem(format!("{why}{key}"));
                }
                return Ok(Vec::new());
            }
        };
        // What was fetched later than this is what it was then.
        let databases = match row.full_name {
            "flushall" => Some(None),
            "flushdb" => Some(Some(vec![self.database])),
            "swapdb" => Some(Some(databases_named(&argv[1..]))),
            _ => None,
        };
        let newer: BTreeSet<(u32, Vec<u8>)> = match &databases {
            None => BTreeSet::new(),
            Some(None) => self.ahead.beyond(end, |_| true).into_iter().collect(),
            Some(Some(databases)) => {
                let newer = self.ahead.beyond(end, |database| databases.contains(&database));
                let everywhere =
                    |(_, key): (u32, Vec<u8>)| databases.iter().map(move |database| (*database, key.clone()));
                newer.into_iter().flat_map(everywhere).collect()
            }
        };
        let mut requests = self.meant(table, row, argv, end)?;
        let wanted: Vec<_> = newer.into_iter().filter(|(database, _)| self.translation.wants(*database)).collect();
        requests.extend(self.fetched(&wanted)?);
        Ok(requests)
    }

    fn meant(
        &mut self,
        table: &'static Table,
        row: &'static Row,
        argv: &[&[u8]],
        end: u64,
    ) -> Result<Vec<Owned>, Failure> {
        if row.full_name == "flushall" && (self.translation.only().is_some() || self.existing.is_some()) {
            self.remove_brought(self.translation.only())?;
            return Ok(Vec::new());
        }
        if !self.translation.wants(self.database) {
            return Ok(Vec::new());
        }
        if row.full_name == "flushdb" && self.existing.is_some() {
            self.remove_brought(Some(self.database))?;
            return Ok(Vec::new());
        }
        let copies = row.full_name == "copy" && argv.iter().any(|word| word.eq_ignore_ascii_case(b"db"));
        let leaves = matches!(row.full_name, "move" | "swapdb") || copies;
        if leaves && self.translation.only().is_some() {
            if self.hand.node().group == GroupId(0) {
                self.job.problem(format!("{} to another database", row.full_name.to_uppercase()));
            }
            return Ok(Vec::new());
        }
        let whole = self.translation.request(table, self.database, argv);
        let words: Vec<&[u8]> = whole.argv.iter().map(Vec::as_slice).collect();
        let (_, view) = self.hand.node().views.load();
        let share = Share { routes: view.routes.as_deref(), group: self.hand.node().group };
        let does = share.of(table, row, &words);
        if does == Does::Nothing {
            return Ok(Vec::new());
        }
        let fetch = match &does {
            Does::Fetch(places) => Some(places.clone()),
            _ if self.is_ahead(table, row, argv, end) => Some(share.written(table, row, &words)),
            _ => None,
        };
        if let Some(places) = fetch {
            let databases = self.concerned(row, argv, self.database);
            let named = places.iter().flat_map(|place| databases.iter().map(|database| (*database, argv[*place])));
            let lacking = named.filter(|(database, key)| !self.ahead.has(*database, key, end));
            let lacking: BTreeSet<_> = lacking.map(|(database, key)| (database, key.to_vec())).collect();
            return self.fetched(&lacking.into_iter().collect::<Vec<_>>());
        }
        Ok(match does {
            Does::Part(argv) => vec![Owned { argv, ..whole }],
            _ => vec![whole],
        })
    }

    /// The databases in which a command for `database` changes something.
    fn concerned(&self, row: &Row, argv: &[&[u8]], database: u32) -> Vec<u32> {
        let mut all = vec![database];
        match row.full_name {
            "move" => all.extend(databases_named(argv.get(2..).unwrap_or_default())),
            "copy" => {
                let at = argv.iter().position(|word| word.eq_ignore_ascii_case(b"db"));
                all.extend(
                    at.and_then(|at| argv.get(at + 1..)).and_then(|words| databases_named(words).first().copied()),
                );
            }
            _ => {}
        }
        all.sort_unstable();
        all.dedup();
        all.retain(|database| self.translation.wants(*database));
        all
    }

    /// Whether a command is about a key that is newer than the stream is at `end`.
    fn is_ahead(&self, table: &'static Table, row: &'static Row, argv: &[&[u8]], end: u64) -> bool {
        if self.ahead.is_empty() {
            return false;
        }
        let databases = self.concerned(row, argv, self.database);
        let mut keys: Vec<KeyUse<'_>> = Vec::new();
        table.keys_of(row, argv, &mut keys);
        keys.iter().any(|named| databases.iter().any(|database| self.ahead.has(*database, named.key, end)))
    }

    /// Keys as they are at the source now, instead of what the stream says of them up to there.
    fn fetched(&mut self, keys: &[(u32, Vec<u8>)]) -> Result<Vec<Owned>, Failure> {
        let mut requests = Vec::with_capacity(keys.len());
        for some in keys.chunks(KEYS_FETCHED_AT_ONCE) {
            let answers = self.fetcher.fetch(self.job, some)?;
            for ((database, key), fetched) in some.iter().zip(answers) {
                let Fetched { value, expires_at, offset } = match fetched {
                    Ok(fetched) => fetched,
                    Err(why) => {
                        let text = "its command names keys of several shard groups";
                        self.job.problem(format!("key '{}': {text}, and {why}", shown(key)));
                        continue;
                    }
                };
                let here = self.translation.key(key);
                let argv = match value.filter(|payload| !is_of_nothing(payload)) {
                    None => vec![b"UNLINK".to_vec(), here],
                    Some(value) => {
                        let at = expires_at.to_string().into_bytes();
                        vec![b"RESTORE".to_vec(), here, at, value, b"REPLACE".to_vec(), b"ABSTTL".to_vec()]
                    }
                };
                let ahead = Some((*database, key.clone(), offset));
                self.ahead.insert(*database, key, offset);
                requests.push(Owned { database: *database, argv, at: None, ahead });
            }
        }
        if self.ahead.is_too_much() {
            let text = "too many keys of commands that name several shard groups were ahead of the source's stream";
            self.job.tell(|status| status.note(format!("{text}: everything is copied anew")));
            self.hand.stand(|carried| carried.place = None)?;
            return Err(Failure::Lost(text.to_owned()));
        }
        Ok(requests)
    }

    fn apply_loose(&mut self) -> Result<(), Failure> {
        let loose = std::mem::take(&mut self.loose);
        self.run(loose, Together::Loosely)
    }

    fn apply_gathered(&mut self) -> Result<(), Failure> {
        let mut gathered = self.gathered.as_mut().map(std::mem::take).unwrap_or_default();
        self.gathered_bytes = 0;
        if let Some(last) = gathered.last_mut().filter(|_| !self.torn) {
            last.at = Some(Origin { offset: self.read, database: self.database });
        }
        self.run(gathered, Together::AsOne)
    }

    /// Removes what the source brought, after everything that came before.
    fn remove_brought(&mut self, database: Option<u32>) -> Result<(), Failure> {
        self.apply_loose()?;
        if self.gathered.as_ref().is_some_and(|gathered| !gathered.is_empty()) {
            self.tear()?;
        }
        self.apply_gathered()?;
        remove_all_brought(self.hand, database, self.existing)
    }

    fn run(&mut self, requests: Vec<Owned>, together: Together) -> Result<(), Failure> {
        if requests.is_empty() {
            return Ok(());
        }
        let borrowed: Vec<_> = requests.iter().map(Owned::request).collect();
        let now_ms = self.job.followed.floor_ms();
        let mut refused: Vec<(usize, String)> = Vec::new();
        self.hand.run(&borrowed, now_ms, together, &mut |index, reply| {
            if let Some(text) = error(reply) {
                refused.push((index, text));
            }
        })?;
        let count = borrowed.len() as u64;
        drop(borrowed);
        for (index, why) in refused {
            self.note_refused(&requests[index], &why)?;
        }
        self.job.tell(|status| status.commands += count);
        Ok(())
    }

    fn note_refused(&mut self, request: &Owned, why: &str) -> Result<(), Failure> {
        let name = request.argv.first().map_or(String::new(), |name| shown(name));
        let Some(key) = request.argv.get(1) else {
            self.job.problem(format!("{name}: {why}"));
            return Ok(());
        };
        let kind = text(&self.hand.ask(request.database, &[b"TYPE", key])?);
        self.job.problem(format!("{name} of key '{}' (here of type {kind}): {why}", shown(key)));
        Ok(())
    }
}

/// The databases that these words name.
fn databases_named(words: &[&[u8]]) -> Vec<u32> {
    words.iter().filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok()).collect()
}

/// Whether a payload is of something that has no elements: a hash whose fields have all expired (Valkey 9) is left of nothing else.
fn is_of_nothing(payload: &[u8]) -> bool {
    /// Version and checksum.
    const END_BYTES: usize = 10;
    const STRING: u8 = 0;
    matches!(payload, [kind, 0, end @ ..] if *kind != STRING && end.len() == END_BYTES)
}
