//! What a client's user may be told, by the newest rules there are.
//!
//! A message goes from the thread that has it to the mailbox of whoever listens; the session that knows the listener's rules
//! belongs to another thread, which looks at new rules when it gets to it. Whoever was told `OK` by `ACL SETUSER` relies on
//! them at once. So the rules kept here carry the number of the view they are of: of an older view, the user is looked up
//! in the newest one for every message, until its thread has caught up. This file sends nothing.

use crate::view::{View, ViewCell};
use keyward_acl::Policy;
use keyward_engine::scope::Reach;
use keyward_engine::session::Login;
use parking_lot::RwLock;
use std::sync::Arc;

/// What the user of one client may be told.
pub struct Standing {
    /// Where the newest rules are; `None`: what is known does not age, as in tests of one part of the node.
    views: Option<Arc<ViewCell>>,
    known: RwLock<Known>,
}

struct Known {
    /// The number of the view this is of.
    generation: u64,
    login: Option<Login>,
    reach: Reach,
}

impl Standing {
    /// Nobody's: may be told nothing.
    pub fn new(views: Option<Arc<ViewCell>>) -> Standing {
        Standing { views, known: RwLock::new(Known { generation: 0, login: None, reach: Reach::Nothing }) }
    }

    /// What the client listens to and watches was judged by this login, as of the view of this number.
    pub fn judged(&self, login: Option<&Login>, generation: u64) {
        let reach = login.map_or(Reach::Nothing, Login::reach);
        *self.known.write() = Known { generation, login: login.cloned(), reach };
    }

    /// The client is this user now, and listens to nothing that the user may not.
    pub fn set(&self, login: Option<&Login>) {
        let Some(views) = &self.views else { return };
        let (generation, view) = views.load();
        let newest = login.and_then(|held| renewed(held, &view));
        let reach = newest.as_ref().map_or(Reach::Nothing, Login::reach);
        *self.known.write() = Known { generation, login: login.cloned(), reach };
    }

    /// For tests of one part of the node: its user reaches so far.
    #[cfg(test)]
    pub fn set_reach(&self, reach: Reach) {
        self.known.write().reach = reach;
    }

    /// Answers a question about what the user may be told.
    pub fn may<R>(&self, ask: impl FnOnce(&Reach) -> R) -> R {
        self.ask(|rules| match rules {
            Rules::Seen(reach) => ask(reach),
            Rules::Newer(login) => ask(&login.reach()),
            Rules::Gone => ask(&Reach::Nothing),
        })
    }

    /// Whether it may be sent what is said on a channel it listens to, by that name or pattern; `key`: what is said is about
    /// that key.
    pub fn may_hear(&self, name: &[u8], pattern: bool, key: Option<&[u8]>) -> bool {
        let sees = |reach: &Reach| key.is_none_or(|key| reach.sees_key(key));
        self.ask(|rules| match rules {
            Rules::Seen(reach) => sees(reach),
            Rules::Newer(login) => may_use_channel(&login.policy, name, pattern) && sees(&login.reach()),
            Rules::Gone => false,
        })
    }

    /// Whether it may be shown the commands of users of this reach, if its rules let it watch at all.
    pub fn may_watch(&self, may: impl FnOnce(&Policy) -> bool, whose: &Reach) -> bool {
        self.ask(|rules| match rules {
            Rules::Seen(reach) => reach.sees_clients_of(whose),
            Rules::Newer(login) => may(&login.policy) && login.reach().sees_clients_of(whose),
            Rules::Gone => false,
        })
    }

    fn ask<R>(&self, ask: impl FnOnce(Rules<'_>) -> R) -> R {
        let known = self.known.read();
        let Some(views) = self.views.as_ref().filter(|views| views.generation() != known.generation) else {
            return ask(Rules::Seen(&known.reach));
        };
        let held = known.login.clone();
        drop(known);
        let (_, view) = views.load();
        match held.and_then(|held| renewed(&held, &view)) {
            Some(login) => ask(Rules::Newer(&login)),
            None => ask(Rules::Gone),
        }
    }
}

/// The rules of a client's user.
enum Rules<'r> {
    /// Its thread has looked at them: what it listens to and watches, it may.
    Seen(&'r Reach),
    /// Its thread has not.
    Newer(&'r Login),
    /// The user is gone, or must log in anew.
    Gone,
}

/// The login as of the view; `None`: the session must end.
fn renewed(held: &Login, view: &View) -> Option<Login> {
    let place = |login: &Login| login.tenant.as_ref().map(|tenant| tenant.id);
    view.renew(&held.user).filter(|login| place(login) == place(held))
}

/// Whether a user may go on to listen to what it once subscribed to.
pub fn may_use_channel(policy: &Policy, name: &[u8], pattern: bool) -> bool {
    policy.may_use_channel(name, pattern)
        || policy.only_reports().is_some_and(|widest| widest.may_use_channel(name, pattern))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Terms;
    use keyward_acl::{UserChange, Walls};
    use keyward_cluster::{Addresses, Change, ClusterId, Founder, NodeId, Stamped, State, UnixMillis};
    use keyward_engine::table::table;
    use keyward_engine::tenancy::Gauges;

    fn apply(state: &mut State, index: u64, change: Change) {
        let (actor, source) = ("alice".to_owned(), "test".to_owned());
        state.apply(index, &Stamped { at: UnixMillis(1), actor, source, request: None, change });
    }

    /// The view of the state after one more change of users.
    fn changed(state: &mut State, index: u64, change: UserChange) -> View {
        apply(state, index, Change::User(change));
        let terms = Terms { quorum: false, walls: Walls::Up, threads: 1 };
        View::build(Arc::new(state.clone()), (NodeId(1), None), table(), terms, &Gauges::default(), None)
    }

    fn set(state: &mut State, index: u64, rules: &[&str]) -> View {
        let change = state.directory().prepare_set(b"u", rules, table()).expect("the rules are right");
        changed(state, index, change)
    }

    // Of the kind of redis#15371: `OK` means that no message comes any more, whatever the listener's thread does.
    #[test]
    fn new_rules_hold_before_the_session_has_seen_them() {
        let mut state = State::new();
        let founder = Founder { name: "one".to_owned(), addresses: Addresses::default() };
        apply(&mut state, 1, Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 1, nodes: 1 });
        let views = Arc::new(ViewCell::new(set(&mut state, 2, &["on", "nopass", "+@all", "~a:*", "~b:*", "&news"])));
        let standing = Standing::new(Some(Arc::clone(&views)));
        let login = views.load().1.login(b"u").cloned();
        let hears = |name: &[u8], key: Option<&[u8]>| standing.may_hear(name, false, key);
        assert!(!standing.may(|reach| reach.sees_key(b"b:1")), "nobody is logged in");
        standing.set(login.as_ref());
        assert!(hears(b"news", None) && hears(b"__keyspace@0__:b:1", Some(b"b:1")));

        views.publish(Arc::new(set(&mut state, 3, &["resetkeys", "~a:*"])));
        assert!(hears(b"news", None) && !hears(b"__keyspace@0__:b:1", Some(b"b:1")));
        assert!(standing.may(|reach| reach.sees_key(b"a:1") && !reach.sees_key(b"b:1")));
        let own = views.load().1.login(b"u").expect("it is there").reach();
        assert!(standing.may_watch(|_| true, &own) && !standing.may_watch(|_| false, &own));

        views.publish(Arc::new(set(&mut state, 4, &["resetchannels", "&other"])));
        assert!(!hears(b"news", None) && hears(b"other", None));
        standing.set(login.as_ref());
        assert!(standing.may(|reach| !reach.sees_key(b"b:1")), "an older login is looked up anew");

        let newest = views.load().1.login(b"u").cloned();
        standing.judged(newest.as_ref(), views.generation());
        assert!(hears(b"news", None), "whoever looked at its subscriptions has seen to that");
        views.publish(Arc::new(set(&mut state, 5, &["resetchannels"])));
        standing.judged(newest.as_ref(), views.generation() - 1);
        assert!(!hears(b"other", None), "an earlier look says nothing of newer rules");

        let gone =
            changed(&mut state, 6, UserChange::Delete { names: vec![login.expect("it is there").user.name.clone()] });
        views.publish(Arc::new(gone));
        assert!(!hears(b"other", None) && !standing.may(|reach| reach.sees_key(b"a:1")));
    }
}
