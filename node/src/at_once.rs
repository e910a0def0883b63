//! Carries out what commands ask of the node that it can do at once, without waiting: between the commands of a
//! transaction as well as between any two of a batch.
//!
//! One arm per wish ([`Now`]). What may wait is an [`keyward_engine::asks::Ask`] and belongs to [`crate::asks`].

use crate::batch::{Batch, Flow};
use crate::connection::Lane;
use crate::mailbox::Mailbox;
use crate::pubsub::{PubSub, Subscriptions};
use crate::worker::Scratch;
use keyward_engine::asks::Now;
use keyward_engine::reply::Reply;
use keyward_engine::session::{Session, Transaction};
use std::sync::Arc;

impl<'a> Batch<'_, 'a> {
    /// Does what a command asks of the node at once. `keys` are those that the gate checked.
    pub(crate) fn at_once(
        &mut self,
        now: Now,
        session: &mut Session,
        lane: &Lane,
        keys: &[Vec<u8>],
        scratch: &mut Scratch,
    ) -> Flow {
        match now {
            Now::Begin | Now::Watch if session.transaction.is_some() => {
                session.transaction.iter_mut().for_each(|transaction| transaction.broken = true);
                scratch.reply.error("ERR Command not allowed inside a transaction");
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
            Now::Watch => {
                self.watch(session, keys);
                scratch.reply.ok();
            }
            Now::Unwatch => {
                self.forget_watch();
                scratch.reply.ok();
            }
            Now::Publish { shard, channel, message } => {
                scratch.reply.count(self.worker.node.pubsub.publish(shard, &channel, &message));
            }
            Now::Subscribe(kind, names) => self.subscribe(session, scratch, |listens, pubsub, mailbox, reply| {
                listens.subscribe(pubsub, kind, &names, mailbox, reply);
            }),
            Now::Unsubscribe(kind, names) => self.subscribe(session, scratch, |listens, pubsub, mailbox, reply| {
                // What came before must not arrive after the confirmation.
                mailbox.collect(&mut reply.bytes);
                listens.unsubscribe(pubsub, kind, &names, mailbox, reply);
            }),
            Now::ShowChannels { shard, pattern } => {
                let names = self.worker.node.pubsub.channels(shard, pattern.as_deref());
                scratch.reply.array(names.len());
                names.iter().for_each(|name| scratch.reply.bulk(name));
            }
            Now::ShowListeners { shard, channels } => {
                scratch.reply.array(2 * channels.len());
                for channel in &channels {
                    scratch.reply.bulk(channel);
                    scratch.reply.count(self.worker.node.pubsub.listeners(shard, channel));
                }
            }
            Now::CountPatterns => scratch.reply.count(self.worker.node.pubsub.pattern_count()),
            Now::Unblock { client, error } => {
                let woken = self.worker.node.blocked.unblock(client, error);
                scratch.reply.flag(woken);
            }
        }
        Flow::Continue
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
    }
}
