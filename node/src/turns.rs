//! Whose turn it is on a data thread, when somebody has more to do than fits between two looks at the others.
//!
//! ```text
//!   a batch ran for longer than SLICE ─► its client queues here ─► one client at a time gets a slice, owners in turn,
//!                                                                  and between two slices everybody else is served
//! ```
//! So a client that sends a megabyte of slow commands, or a thousand clients of one tenant that each send one, keep a
//! neighbor on the same thread waiting for a slice or two, not until they are done. Nobody who is quick ever comes here.
//! This file knows neither sockets nor commands.

use keyward_engine::session::Session;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long a client may keep its thread before others get their turn. A single command is never divided.
pub const SLICE: Duration = Duration::from_millis(1);

/// How long clients that are read together may keep it.
pub const SLICE_OF_ALL: Duration = Duration::from_millis(2);

/// Who shares turns: the clients of a tenant, or of a user that belongs to none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Sharer(usize);

impl Sharer {
    /// Whose client it is.
    pub fn of(session: &Session) -> Sharer {
        let Some(login) = &session.login else { return Sharer(0) };
        let tenant = login.tenant.as_ref().map(|tenant| Arc::as_ptr(&tenant.account) as usize);
        // An address tells users apart as long as they exist, which is long enough.
        Sharer(tenant.unwrap_or(Arc::as_ptr(&login.user) as usize))
    }
}

/// Those who wait for a turn, by sharer; the first sharer is next.
#[derive(Default)]
struct Queue {
    sharers: VecDeque<(Sharer, VecDeque<oneshot::Sender<Turn>>)>,
}

impl Queue {
    fn push(&mut self, sharer: Sharer, waiting: oneshot::Sender<Turn>) {
        match self.sharers.iter_mut().find(|(known, _)| *known == sharer) {
            Some((_, queue)) => queue.push_back(waiting),
            None => self.sharers.push_back((sharer, VecDeque::from([waiting]))),
        }
    }

    /// The next one in turn.
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (sharer, mut queue) = self.sharers.pop_front()?;
        let next = queue.pop_front();
        if !queue.is_empty() {
            self.sharers.push_back((sharer, queue));
        }
        next
    }
}

/// The turns of one data thread.
#[derive(Clone, Default)]
pub struct Turns(Rc<Shared>);

#[derive(Default)]
struct Shared {
    queue: RefCell<Queue>,
    /// Somebody has a turn.
    taken: Cell<bool>,
    news: Notify,
}

/// The right to run for a slice; given back when dropped.
pub struct Turn(Rc<Shared>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.news.notify_one();
    }
}

impl Turns {
    /// Waits for a turn.
    pub async fn next(&self, sharer: Sharer) -> Option<Turn> {
        let (waiting, turn) = oneshot::channel();
        self.0.queue.borrow_mut().push(sharer, waiting);
        self.0.news.notify_one();
        turn.await.ok()
    }

    /// Gives turns away, one at a time, until the thread ends.
    pub async fn give(self) {
        loop {
            // Whatever is ready by now comes first: other clients, messages, the kernel's news.
            tokio::task::yield_now().await;
            let next = if self.0.taken.get() { None } else { self.0.queue.borrow_mut().pop() };
            match next {
                Some(next) => {
                    self.0.taken.set(true);
                    // Whoever left meanwhile gives its turn back by that.
                    drop(next.send(Turn(Rc::clone(&self.0))));
                }
                None => self.0.news.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharers_take_turns_however_many_clients_each_has() {
        let mut queue = Queue::default();
        let mut waiting = Vec::new();
        for client in 0..5 {
            let (sender, receiver) = oneshot::channel();
            queue.push(Sharer(if client == 4 { 2 } else { 1 }), sender);
            waiting.push(receiver);
        }
        let shared = Rc::new(Shared::default());
        let mut order = Vec::new();
        while let Some(next) = queue.pop() {
            assert!(next.send(Turn(Rc::clone(&shared))).is_ok());
            let served = waiting.iter_mut().position(|receiver| receiver.try_recv().is_ok());
            order.push(served.expect("one of them"));
        }
        assert_eq!(order, [0, 4, 1, 2, 3]);
    }
}
