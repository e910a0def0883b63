//! Another server's data on its way in, as far as the cluster agrees on it: from where, how, and whether that is over.
//!
//! ```text
//!   Begin ─► running: whoever is primary of a group brings in what is that group's ── End ──► finished, cancelled or failed
//! ```
//! One import at a time. While it runs, no keys change their shard group: what the source says of a key would be missed by the
//! one group or done by both. How far each group is travels with its data, not here; nor does what nobody may read, the
//! password of the source.

use std::fmt;
use std::sync::Arc;

use crate::{Outcome, Refusal, State, UnixMillis};

/// What is told of an import at its end is kept up to so many bytes.
pub const TOLD_BYTES_MAX: usize = 16 << 10;

/// From where and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportPlan {
    /// Host of the source, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Logs in as; empty: nobody in particular.
    pub user: String,
    /// There is more that nodes tell each other and write down nowhere: a password, or authorities for TLS.
    pub has_credentials: bool,
    /// TLS is spoken there.
    pub tls: bool,
    /// What the source said it is.
    pub server: String,
    /// Only this database.
    pub database: Option<u32>,
    /// Keys that begin with the one are kept under the other.
    pub prefixes: Vec<(Vec<u8>, Vec<u8>)>,
    /// There may be keys here already, which stay.
    pub merge: bool,
    /// Passes of SCAN even if the source would let itself be followed.
    pub scan: bool,
}

/// How an import ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// Everything is here.
    Finished,
    /// Somebody did not want it any more.
    Cancelled,
    /// It could not go on: a sentence.
    Failed(String),
}

/// The end of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportEnd {
    /// The proposer's clock.
    pub at: UnixMillis,
    /// How.
    pub how: ImportOutcome,
    /// How it was then, as whoever ended it wrote it down.
    pub told: Vec<u8>,
}

/// An import, or the last one there was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The entry that began it.
    pub index: u64,
    /// The proposer's clock then.
    pub at: UnixMillis,
    /// From where and how.
    pub plan: ImportPlan,
    /// `None` while it runs.
    pub ended: Option<ImportEnd>,
}

/// A step of an import.
#[derive(Clone, Debug, PartialEq)]
pub enum ImportChange {
    /// An operator wants it.
    Begin(ImportPlan),
    /// It is over.
    End {
        /// Which.
        index: u64,
        /// How.
        how: ImportOutcome,
        /// How it was then.
        told: Vec<u8>,
    },
}

impl fmt::Display for ImportOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

impl ImportChange {
    /// One line for the history.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Begin(plan) => format!("import from {}:{}", plan.host, plan.port),
            Self::End { index, how, .. } => format!("import {index} {how}"),
        }
    }
}

fn refused(why: &str) -> Outcome {
    Outcome::Refused(Refusal::Import(why.to_owned()))
}

impl State {
    /// The import that runs, or the last one.
    pub fn last_import(&self) -> Option<&Arc<Import>> {
        self.last_import.as_ref()
    }

    /// The import that runs.
    pub fn current_import(&self) -> Option<&Arc<Import>> {
        self.last_import().filter(|known| known.ended.is_none())
    }

    pub(crate) fn change_import(&mut self, index: u64, at: UnixMillis, change: &ImportChange) -> Outcome {
        match change {
            ImportChange::Begin(_) if self.current_import().is_some() => {
                refused("an import is running already; cut it over or cancel it first")
            }
            ImportChange::Begin(_) if self.current_move().is_some() => {
                refused("keys are being moved between shard groups: import when that is over")
            }
            ImportChange::Begin(plan) => {
                self.last_import = Some(Arc::new(Import { index, at, plan: plan.clone(), ended: None }));
                Outcome::Done
            }
            ImportChange::End { index, how, told } => {
                let Some(known) = self.current_import().filter(|known| known.index == *index) else {
                    return refused("that import is over");
                };
                let told = if told.len() > TOLD_BYTES_MAX { Vec::new() } else { told.clone() };
                let ended = Some(ImportEnd { at, how: how.clone(), told });
                self.last_import = Some(Arc::new(Import { ended, ..Import::clone(known) }));
                // Tenants whose keys were to be moved meanwhile.
                self.pursue(at);
                Outcome::Done
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addresses, Change, ClusterId, Founder, GroupId, MoveChange, Moved, Stamped, StateRecord};
    use crate::{TenantChange, TenantEdit, TenantMode};

    struct Play {
        state: State,
        index: u64,
    }

    impl Play {
        fn new() -> Play {
            let mut play = Play { state: State::new(), index: 0 };
            let founder = Founder { name: String::from("one"), addresses: Addresses::default() };
            play.apply(Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 2, nodes: 1 });
            play
        }

        fn apply(&mut self, change: Change) -> Outcome {
            self.index += 1;
            let (actor, source) = (String::from("test"), String::from("test"));
            let stamped = Stamped { at: UnixMillis(self.index), actor, source, request: None, change };
            self.state.apply(self.index, &stamped)
        }

        fn begin(&mut self) -> Outcome {
            let plan = ImportPlan { host: String::from("old"), port: 6379, ..ImportPlan::default() };
            self.apply(Change::Import(ImportChange::Begin(plan)))
        }

        fn end(&mut self, index: u64) -> Outcome {
            let (how, told) = (ImportOutcome::Finished, vec![1]);
            self.apply(Change::Import(ImportChange::End { index, how, told }))
        }
    }

    #[test]
    fn there_is_one_import_at_a_time_and_it_ends_once() {
        let mut play = Play::new();
        assert_eq!(play.begin(), Outcome::Done);
        let index = play.index;
        assert!(matches!(play.begin(), Outcome::Refused(Refusal::Import(_))));
        assert!(matches!(play.end(index + 1), Outcome::Refused(Refusal::Import(_))));
        assert_eq!(play.end(index), Outcome::Done);
        assert!(play.state.current_import().is_none());
        assert!(matches!(play.end(index), Outcome::Refused(Refusal::Import(_))));
        let ended = play.state.last_import().and_then(|known| known.ended.clone()).map(|end| (end.how, end.told));
        assert_eq!(ended, Some((ImportOutcome::Finished, vec![1])));
        assert_eq!(play.begin(), Outcome::Done);
        let restored = State::try_from(StateRecord::from(&play.state)).expect("what was written can be read");
        assert_eq!((&restored, restored.digest()), (&play.state, play.state.digest()));
    }

    #[test]
    fn no_keys_change_their_group_while_an_import_runs() {
        let mut play = Play::new();
        let (name, mode) = (String::from("gw"), TenantMode::Namespace);
        assert_eq!(play.apply(Change::Tenant(TenantChange::Create { name, mode, edits: Vec::new() })), Outcome::Done);
        let moving = || Change::Move(MoveChange::Begin { what: Moved::Slots((0, 5)), to: GroupId(1) });
        assert_eq!(play.begin(), Outcome::Done);
        let index = play.index;
        assert!(matches!(play.apply(moving()), Outcome::Refused(Refusal::Move(_))));
        let edits = vec![TenantEdit::Setting(String::from("group"), Some(String::from("1")))];
        let name = String::from("gw");
        assert_eq!(play.apply(Change::Tenant(TenantChange::Set { name, edits })), Outcome::Done);
        assert!(play.state.current_move().is_none(), "the tenant's keys move during the import");
        assert_eq!(play.end(index), Outcome::Done);
        assert!(play.state.current_move().is_some(), "the tenant's keys do not move after the import");
        assert!(matches!(play.begin(), Outcome::Refused(Refusal::Import(_))));
    }
}
