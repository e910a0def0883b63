//! The clients of this node that wait for keys, by their id: for `CLIENT UNBLOCK` and for counting them.

use crate::observers::Waiter;
use crate::transaction;
use keyward_engine::reply::Reply;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Everybody who waits.
#[derive(Default)]
pub struct Blocked {
    waiters: Mutex<HashMap<u64, Arc<Waiter>>>,
}

impl Blocked {
    /// A client begins to wait; it is off the list when the answer is dropped.
    pub fn enter(&self, client: u64, waiter: &Arc<Waiter>) -> Registered<'_> {
        self.waiters.lock().insert(client, Arc::clone(waiter));
        Registered { blocked: self, client }
    }

    /// Ends a client's wait, as if its time were over or with an error; whether it waited.
    pub fn unblock(&self, client: u64, error: bool) -> bool {
        let waiter = self.waiters.lock().get(&client).cloned();
        let answer = |waiter: &Waiter| {
            if !error {
                return transaction::in_vain(waiter);
            }
            let mut reply = Reply::new(waiter.session.lock().protocol);
            reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
            reply.bytes
        };
        waiter.is_some_and(|waiter| waiter.try_serve(|| Some(answer(&waiter))))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiters.lock().len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this client waits.
    pub fn has(&self, client: u64) -> bool {
        self.waiters.lock().contains_key(&client)
    }

    /// Keys somebody waits for, each once; `for_their_end`: those whose end somebody waits for as well.
    pub fn keys(&self, for_their_end: bool) -> usize {
        let waiters = self.waiters.lock();
        let meant = |waiter: &&Arc<Waiter>| {
            // A consumer group goes with its stream.
            !for_their_end || waiter.argv.first().is_some_and(|name| name.eq_ignore_ascii_case(b"xreadgroup"))
        };
        let of =
            |waiter: &'_ Arc<Waiter>| waiter.keys.iter().map(|key| (waiter.space, key.clone())).collect::<Vec<_>>();
        waiters.values().filter(meant).flat_map(of).collect::<std::collections::HashSet<_>>().len()
    }
}

/// A place on the list.
pub struct Registered<'a> {
    blocked: &'a Blocked,
    client: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.blocked.waiters.lock().remove(&self.client);
    }
}
