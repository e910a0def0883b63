//! Carries out what commands ask of the node that it can do at once, without waiting: between the commands of a
//! transaction as well as between any two of a batch.
//!
//! One arm per wish ([`Now`]). What may wait is an [`keyward_engine::asks::Ask`] and belongs to [`crate::asks`].

use crate::batch::{Batch, Flow};
use crate::connection::Lane;
use crate::holding::NAME_BYTES;
use crate::mailbox::Mailbox;
use crate::moving;
use crate::pubsub::{self, PubSub, Subscriptions};
use crate::tracking::{Target, Tracker};
use crate::transaction::not_in_transaction;
use crate::worker::Scratch;
use keyward_engine::asks::{ChannelKind, Now, TrackingMode, TrackingOptions};
use keyward_engine::error::CommandError;
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::session::{Session, Transaction};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::Instant;

impl<'a> Batch<'_, 'a> {
    /// Does what a command asks of the node at once. `keys` are those that the gate checked; nothing beyond `reach` is found.
    pub(crate) fn at_once(
        &mut self,
        now: Now,
        reach: &Reach,
        session: &mut Session,
        lane: &Lane,
        keys: &[Vec<u8>],
        scratch: &mut Scratch,
    ) -> Flow {
        let names = !matches!(now, Now::Publish { .. } | Now::RunScript(_) | Now::Scripts(_));
        let flow = self.carry_out(now, reach, session, lane, keys, scratch);
        if let Some(connection) = self.connection.filter(|_| names) {
            connection.count_names(session);
        }
        flow
    }

    fn carry_out(
        &mut self,
        now: Now,
        reach: &Reach,
        session: &mut Session,
        lane: &Lane,
        keys: &[Vec<u8>],
        scratch: &mut Scratch,
    ) -> Flow {
        let world = session.tenant.world();
        match now {
            Now::Begin | Now::Watch if session.transaction.is_some() => {
                session.transaction.iter_mut().for_each(|transaction| transaction.broken = true);
                scratch.reply.error(&not_in_transaction(session.last_command));
            }
            Now::Begin => {
                session.transaction = Some(Transaction::default());
                scratch.reply.ok();
            }
            Now::Execute => return self.execute(session, lane, scratch),
            Now::Discard if session.transaction.is_none() => scratch.reply.error("ERR DISCARD without MULTI"),
            Now::Discard => {
                session.transaction = None;
                self.forget_watch();
                scratch.reply.ok();
            }
            Now::Watch => match self.watch(session, keys) {
                Ok(()) => scratch.reply.ok(),
                Err(text) => scratch.reply.error(&text),
            },
            Now::Unwatch => {
                self.forget_watch();
                scratch.reply.ok();
            }
            Now::Publish { channel, .. } if self.is_too_long(session, &channel, &mut scratch.reply) => {}
            Now::Publish { channel, message, .. } if !reach.may_say(&channel, &message) => {
                let (user, channel) = (session.user_name().escape_ascii(), channel.escape_ascii());
                let text = format!("NOPERM User {user} has no permissions to speak for the server on '{channel}'");
                scratch.reply.error(&text);
            }
            Now::Publish { shard, channel, message } => {
                scratch.reply.count(self.worker.node.pubsub.publish(world, shard, &channel, &message));
            }
            Now::Subscribe(kind, names) if !self.may_listen(session, kind, &names, &mut scratch.reply) => {}
            Now::Subscribe(kind, names) => self.subscribe(session, scratch, |listens, pubsub, mailbox, reply| {
                listens.subscribe(pubsub, world, kind, &names, mailbox, reply);
            }),
            Now::Unsubscribe(kind, names) => self.subscribe(session, scratch, |listens, pubsub, mailbox, reply| {
                // What came before must not arrive after the confirmation.
                mailbox.collect(&mut reply.bytes);
                listens.unsubscribe(pubsub, kind, &names, mailbox, reply);
            }),
            Now::ShowChannels { shard, pattern } => {
                let names = self.worker.node.pubsub.channels(world, shard, pattern.as_deref(), reach);
                scratch.reply.array(names.len());
                names.iter().for_each(|name| scratch.reply.bulk(name));
            }
            Now::ShowListeners { shard, channels } => {
                scratch.reply.array(2 * channels.len());
                for channel in &channels {
                    scratch.reply.bulk(channel);
                    scratch.reply.count(self.worker.node.pubsub.listeners(world, shard, channel, reach));
                }
            }
            Now::CountPatterns => scratch.reply.count(self.worker.node.pubsub.pattern_count(world, reach)),
            Now::Track(options) => {
                if let Err(error) = self.track(session, options, reach) {
                    scratch.reply.command_error(&error);
                } else {
                    scratch.reply.ok();
                }
            }
            Now::Caching(yes) => self.set_caching(yes, &mut scratch.reply),
            Now::ShowTracking => self.show_tracking(&mut scratch.reply),
            Now::ShowRedirect => {
                let tracker = self.connection.and_then(|connection| connection.tracking.borrow().clone());
                scratch.reply.integer(tracker.map_or(-1, |tracker| tracker.options.redirect.unwrap_or(0) as i64));
            }
            Now::Monitor => {
                if let Some(connection) = self.connection {
                    self.worker.node.monitors.add(session.id, &connection.mailbox, session.login.as_ref());
                    scratch.reply.ok();
                }
            }
            Now::RunScript(call) => return self.script(call, reach, session, lane, scratch),
            Now::Scripts(care) if !self.care_for_scripts(&care, reach, session, &mut scratch.reply) => {
                return Flow::Closed;
            }
            Now::Scripts(_) => {}
            Now::Unblock { client, error } => {
                let woken = self.reaches_client(reach, client) && self.worker.node.blocked.unblock(client, error);
                scratch.reply.flag(woken);
            }
        }
        Flow::Continue
    }

    /// Whether the client exists for a user of this reach.
    fn reaches_client(&self, reach: &Reach, client: u64) -> bool {
        let mailbox = self.worker.node.mailboxes.lock().get(&client).and_then(Weak::upgrade);
        !reach.is_confined() || mailbox.is_some_and(|mailbox| mailbox.standing.may(|of| reach.sees_clients_of(of)))
    }

    fn subscribe(
        &self,
        session: &mut Session,
        scratch: &mut Scratch,
        change: impl FnOnce(&mut Subscriptions, &PubSub, &Arc<Mailbox>, &mut Reply),
    ) {
        let Some(connection) = self.connection else { return };
        let mut listens = connection.subscriptions.borrow_mut();
        connection.mailbox.set_protocol(session.protocol);
        change(&mut listens, &self.worker.node.pubsub, &connection.mailbox, &mut scratch.reply);
        session.subscribed = !listens.is_empty();
        connection.mailbox.set_listens(session.subscribed);
        let (channels, patterns, shard_channels) = listens.counts();
        connection.listening.borrow_mut().note(session, channels + patterns + shard_channels);
    }

    /// Whether a confined user may not use a channel, for the length of its name; the reply says so.
    fn is_too_long(&self, session: &Session, channel: &[u8], reply: &mut Reply) -> bool {
        let most = self.worker.hot().channel_bytes_max;
        let too_long = channel.len() > most && crate::large::concerns(session);
        if too_long {
            let len = channel.len();
            reply.error(&format!("ERR the name of a channel of {len} bytes is longer than channel-bytes-max ({most})"));
        }
        too_long
    }

    /// Whether its user and tenant may listen to so much more; if not, the reply says so.
    fn may_listen(&self, session: &Session, kind: ChannelKind, names: &[Vec<u8>], reply: &mut Reply) -> bool {
        if kind != ChannelKind::Pattern && names.iter().any(|name| self.is_too_long(session, name, reply)) {
            return false;
        }
        let too_many = || crate::pace::too_much_heard(session.login.as_ref()?, names.len());
        let bytes = || names.iter().map(|name| pubsub::bytes_of(kind, name)).sum();
        let too_long = || self.connection?.lacks_room(session, bytes());
        let Some(text) = too_many().or_else(too_long) else { return true };
        crate::pace::note_limit(self.worker, session);
        reply.error(&text);
        false
    }

    fn track(
        &self,
        session: &mut Session,
        options: Option<TrackingOptions>,
        reach: &Reach,
    ) -> Result<(), CommandError> {
        let Some(connection) = self.connection else { return Ok(()) };
        let tracking = &self.worker.node.shards.tracking;
        let Some(mut options) = options else {
            session.signs = false;
            if connection.tracking.borrow_mut().take().is_some() {
                tracking.remove(session.id);
            }
            return Ok(());
        };
        if let Some(foreign) = options.prefixes.iter().find(|prefix| !reach.sees_prefix(prefix)) {
            let (user, prefix) = (session.user_name().escape_ascii(), foreign.escape_ascii());
            let text = format!("NOPERM User {user} has no permissions to access every key that begins with '{prefix}'");
            return Err(CommandError::Text(text.into()));
        }
        let mut held = connection.tracking.borrow_mut();
        if let Some(before) = held.as_ref() {
            let (was, is) = (before.options.mode, options.mode);
            if (was == TrackingMode::Broadcast) != (is == TrackingMode::Broadcast) {
                return Err(CommandError::err(
                    "You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
                ));
            }
            if matches!(
                (was, is),
                (TrackingMode::OptIn, TrackingMode::OptOut) | (TrackingMode::OptOut, TrackingMode::OptIn)
            ) {
                return Err(CommandError::err(
                    "You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
                ));
            }
            let existing: BTreeSet<&[u8]> = before.options.shown_prefixes().into_iter().collect();
            if let Some((new, prefix)) = overlapping(&existing, &options.prefixes) {
                return Err(CommandError::overlapping_prefixes(new, "an existing", prefix));
            }
            // Whoever asks for no prefix is told of every key from now on: earlier ones add nothing.
            if !options.prefixes.is_empty() {
                let named: BTreeSet<&Vec<u8>> = options.prefixes.iter().collect();
                let kept = before.options.prefixes.iter().filter(|prefix| !named.contains(prefix));
                let kept: Vec<Vec<u8>> = kept.cloned().collect();
                options.prefixes.extend(kept);
            }
        }
        let redirect = match options.redirect.filter(|client| *client != 0) {
            None => None,
            Some(client) => {
                let target = self.worker.node.mailboxes.lock().get(&client).and_then(Weak::upgrade);
                Some(match target {
                    Some(target) if !target.is_away() && self.reaches_client(reach, client) => Target::here(&target),
                    // It comes here once it listens.
                    None if self.worker.node.is_client_of_another(client) => {
                        Target::Awaited(Instant::now() + moving::waits_for_others(self.worker))
                    }
                    _ => return Err(CommandError::err("The client ID you want redirect to does not exist")),
                })
            }
        };
        let prefix_bytes = options.prefixes.iter().map(|prefix| prefix.len() as u64 + NAME_BYTES).sum();
        if let Some(text) = connection.lacks_room(session, prefix_bytes) {
            return Err(CommandError::Text(text.into()));
        }
        // Where all of its keys are served, nobody needs to be told whose a change is.
        session.signs = options.no_loop && self.worker.node.groups().len() > 1;
        connection.mailbox.set_protocol(session.protocol);
        let tracker =
            Tracker::new(session.id, options, session.tenant.world(), Arc::clone(&connection.mailbox), redirect);
        tracking.add(&tracker);
        if let Some(client) = tracker.awaits() {
            // It may have come before it could find this one.
            let target = self.worker.node.mailboxes.lock().get(&client).and_then(Weak::upgrade);
            target.iter().for_each(|target| tracker.meet(target));
        }
        *held = Some(tracker);
        Ok(())
    }

    fn set_caching(&self, yes: Option<bool>, reply: &mut Reply) {
        let tracker = self.connection.and_then(|connection| connection.tracking.borrow().clone());
        let mode = tracker.map(|tracker| tracker.options.mode);
        match (mode, yes) {
            (None, _) => reply.error("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"),
            (Some(_), None) => reply.command_error(&CommandError::Syntax),
            (Some(TrackingMode::OptIn), Some(true)) | (Some(TrackingMode::OptOut), Some(false)) => {
                self.connection.iter().for_each(|connection| connection.caching.set(yes));
                reply.ok();
            }
            (_, Some(true)) => reply.error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."),
            (_, Some(false)) => reply.error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."),
        }
    }

    fn show_tracking(&self, reply: &mut Reply) {
        let connection = self.connection;
        let tracker = connection.and_then(|connection| connection.tracking.borrow().clone());
        let caching = connection.and_then(|connection| connection.caching.get());
        let mut flags: Vec<&[u8]> = Vec::new();
        if let Some(tracker) = &tracker {
            flags.push(b"on");
            match tracker.options.mode {
                TrackingMode::Every => {}
                TrackingMode::Broadcast => flags.push(b"bcast"),
                TrackingMode::OptIn => flags.push(b"optin"),
                TrackingMode::OptOut => flags.push(b"optout"),
            }
            match caching {
                Some(true) => flags.push(b"caching-yes"),
                Some(false) => flags.push(b"caching-no"),
                None => {}
            }
            if tracker.options.no_loop {
                flags.push(b"noloop");
            }
            if tracker.is_broken() {
                flags.push(b"broken_redirect");
            }
        } else {
            flags.push(b"off");
        }
        reply.map(3);
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.iter().for_each(|flag| reply.bulk(flag));
        reply.bulk(b"redirect");
        reply.integer(tracker.as_ref().map_or(-1, |tracker| tracker.options.redirect.unwrap_or(0) as i64));
        reply.bulk(b"prefixes");
        let prefixes = tracker.as_ref().map(|tracker| tracker.options.shown_prefixes()).unwrap_or_default();
        reply.array(prefixes.len());
        prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    }
}

/// A new prefix, and an existing one that is another and of which one begins like the other. No two of the existing do: then what
/// begins like the new one follows it at once, and what it begins like comes right before it.
fn overlapping<'a>(existing: &BTreeSet<&'a [u8]>, new: &'a [Vec<u8>]) -> Option<(&'a [u8], &'a [u8])> {
    new.iter().map(Vec::as_slice).find_map(|new| {
        let before = existing.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(new))).next_back();
        let behind = existing.range::<[u8], _>((Bound::Excluded(new), Bound::Unbounded)).next();
        let before = before.filter(|prefix| new.starts_with(prefix));
        before.or(behind.filter(|prefix| prefix.starts_with(new))).map(|prefix| (new, *prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_prefixes_overlap_existing_ones_as_comparing_each_with_each_finds() {
        // Every word of up to three of two letters; the existing are those of one length, so none begins like another.
        let words = |length: u32| {
            (0..2_u32.pow(length))
                .map(move |bits| (0..length).map(|at| b'a' + (bits >> at & 1) as u8).collect::<Vec<u8>>())
        };
        for length in 0..4 {
            for left_out in 0..=2_usize.pow(length) {
                let existing: Vec<Vec<u8>> =
                    words(length).enumerate().filter(|(at, _)| *at != left_out).map(|(_, word)| word).collect();
                let set: BTreeSet<&[u8]> = existing.iter().map(Vec::as_slice).collect();
                for new in (0..4).flat_map(words) {
                    let expected = existing
                        .iter()
                        .any(|known| *known != new && (known.starts_with(&new) || new.starts_with(known)));
                    let new = [new];
                    let found = overlapping(&set, &new);
                    assert_eq!(found.is_some(), expected, "{existing:?} {new:?}");
                    assert!(
                        found.is_none_or(
                            |(new, known)| known != new && (known.starts_with(new) || new.starts_with(known))
                        )
                    );
                }
            }
        }
    }
}
