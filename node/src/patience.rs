//! How long one command may go on that goes over much, many times: `ZUNION 1000 s s s …`, `SORT`, `LCS`.
//!
//! ```text
//!   a request begins ─► runs step by step ([`keyward_engine::types::Steps`]) ─► changes what it stores ─► answers
//!                         └ its client left, or `command-ms` are over: an error, and nothing was changed
//! ```
//! Each confined user has such a limit if nothing is said; others only if a rule says so. A transaction counts as one. What
//! can go over its keys only once ends by itself and is not asked. This file knows what time it is, not what is done in it.

use keyward_engine::session::{Login, Session};
use keyward_engine::tenancy::COMMAND_MS;
use keyward_engine::types::{Ended, Patience};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Whether a client has left that waits for an answer.
#[derive(Clone, Default)]
pub struct Left(Arc<AtomicBool>);

impl Left {
    fn has_left(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It has left as soon as this is dropped.
    pub fn watch(&self) -> Waiting {
        Waiting(self.clone())
    }
}

/// A client that waits for an answer, or has just got it.
pub struct Waiting(Left);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// For a request of this user that begins now on the thread that read it. `None`: it may take as long as it likes.
pub fn of_request(session: &Session, lane: usize) -> Option<Rc<Patience>> {
    let login = session.login.as_ref()?;
    command_limit(login)?;
    bounded(login.clone(), lane, || Ok(()))
}

/// The same on a thread for slow work, where its client may be known to have left.
pub fn of_request_apart(session: &Session, lane: usize, left: Left) -> Option<Rc<Patience>> {
    let gone = move || {
        // Nobody hears it.
        if left.has_left() { Err(Ended("ERR the client of this command has left".into())) } else { Ok(()) }
    };
    bounded(session.login.clone()?, lane, gone)
}

/// For a command of a script, which may end for reasons of its own: `ended` says so.
pub fn within_script(
    session: &Session,
    lane: usize,
    ended: impl Fn() -> Result<(), Ended> + 'static,
) -> Option<Rc<Patience>> {
    bounded(session.login.clone()?, lane, ended)
}

fn bounded(login: Login, lane: usize, ended: impl Fn() -> Result<(), Ended> + 'static) -> Option<Rc<Patience>> {
    let (began, limit) = (Instant::now(), command_limit(&login));
    Some(Rc::new(Patience::new(move || {
        ended()?;
        match limit.filter(|limit| began.elapsed() > *limit) {
            Some(limit) => Err(over(&login, limit, lane)),
            None => Ok(()),
        }
    })))
}

fn command_limit(login: &Login) -> Option<Duration> {
    let said = login.limit(|limits| limits.command_ms);
    // Of a tenant it is known what holds if nothing is said.
    let limit = if said == 0 && login.tenant.is_none() && login.policy.is_confined() { COMMAND_MS } else { said };
    (limit > 0).then(|| Duration::from_millis(limit))
}

#[cold]
fn over(login: &Login, limit: Duration, lane: usize) -> Ended {
    login.accounts().for_each(|(_, account)| account.lane(lane).limits_reached.add(1));
    let (whose, ms) = (login.whose(|limits| limits.command_ms), limit.as_millis());
    Ended(format!("ERR the command was ended at the command-ms of {whose}, {ms}, and changed nothing").into())
}
