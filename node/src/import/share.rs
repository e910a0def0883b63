//! Which part of a source's commands is one shard group's. Each group's primary follows the source by itself, and leaves out what is
//! another group's.
//!
//! ```text
//!   keys of this group alone ─► as it is           FLUSHALL, SWAPDB, functions ─► each group, with its own
//!   MSET, DEL … over several ─► with these keys    PUBLISH, and what names no key ─► the first group
//!   RENAME, LMOVE, SUNIONSTORE … over several ─► no group can: what they leave in this group's keys is fetched from the source
//! ```
//! It knows requests by what their declarations say, and no connection.

use crate::routes::{Asker, Routes, Target};
use keyward_acl::KeyUse;
use keyward_cluster::GroupId;
use keyward_engine::keyspace::TenantId;
use keyward_engine::table::{Row, Table};

/// A group and where keys belong.
pub(super) struct Share<'r> {
    /// `None`: everything is one group's.
    pub(super) routes: Option<&'r Routes>,
    /// Whose share it is.
    pub(super) group: GroupId,
}

/// What a group does with a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Nothing.
    Nothing,
    /// All of it.
    All,
    /// This, which is its part of it.
    Part(Vec<Vec<u8>>),
    /// It cannot do it, and needs what it leaves in these keys: places in the command.
    Fetch(Vec<usize>),
}

/// What every client without a namespace sees.
const ASKER: Asker = Asker { world: TenantId::SHARED, tenant: TenantId::SHARED };

impl Share<'_> {
    /// Whether a key, under the name it has here, is this group's.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.routes.is_none_or(|routes| routes.of_key(TenantId::SHARED, key) == self.group)
    }

    /// What this group does with a command, whose keys have the names they have here.
    pub(super) fn of(&self, table: &'static Table, row: &'static Row, argv: &[&[u8]]) -> Does {
        let Some(routes) = self.routes else { return Does::All };
        let mine = |group| if group == self.group { Does::All } else { Does::Nothing };
        match routes.target(table, ASKER, row, argv) {
            Target::Here => mine(GroupId(0)),
            Target::Group(group, _) => mine(group),
            Target::Every(_) => Does::All,
            Target::Parts(_) => self.part(argv, if row.full_name == "mset" { 2 } else { 1 }),
            // It was done there, so every key of it was set.
            Target::Across if row.full_name == "msetnx" => self.part(&[&[b"MSET".as_slice()], &argv[1..]].concat(), 2),
            Target::Across => Does::Fetch(self.written(table, row, argv)),
        }
    }

    fn part(&self, argv: &[&[u8]], stride: usize) -> Does {
        let mut part = vec![argv[0].to_vec()];
        let mine = argv[1..].chunks(stride).filter(|words| self.has(words[0]));
        mine.for_each(|words| part.extend(words.iter().map(|word| word.to_vec())));
        if part.len() == 1 { Does::Nothing } else { Does::Part(part) }
    }

    /// Where a command names keys of this group that it may change.
    pub(super) fn written(&self, table: &'static Table, row: &'static Row, argv: &[&[u8]]) -> Vec<usize> {
        let mut keys: Vec<KeyUse<'_>> = Vec::new();
        table.keys_of(row, argv, &mut keys);
        let mine = keys.iter().filter(|named| (named.access.write || !named.access.read) && self.has(named.key));
        mine.map(|named| named.argument as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_cluster::{Addresses, Change, ClusterId, Founder, Stamped, State, UnixMillis};
    use keyward_engine::table::table;

    fn routes() -> Routes {
        let mut state = State::new();
        let founder = Founder { name: "one".to_owned(), addresses: Addresses::default() };
        let change = Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 3, nodes: 1 };
        let (actor, source) = ("test".to_owned(), "test".to_owned());
        state.apply(1, &Stamped { at: UnixMillis(1), actor, source, request: None, change });
        Routes::of(&state).expect("several groups")
    }

    #[test]
    fn each_group_does_what_is_its_own_and_nothing_is_done_twice() {
        let routes = routes();
        let does = |group: u32, request: &str| {
            let argv: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            let row = table().resolve(&argv).expect("a request").row;
            Share { routes: Some(&routes), group: GroupId(group) }.of(table(), row, &argv)
        };
        let part = |request: &str| Does::Part(request.split(' ').map(|word| word.as_bytes().to_vec()).collect());
        // Groups 2, 0 and 0; group 1 has none of them.
        assert_eq!([0, 1, 2].map(|group| does(group, "SET foo 1")), [Does::Nothing, Does::Nothing, Does::All]);
        assert_eq!(does(0, "MSET foo 1 bar 2 hello 3"), part("MSET bar 2 hello 3"));
        assert_eq!(does(2, "MSETNX foo 1 bar 2"), part("MSET foo 1"));
        assert_eq!(does(1, "DEL foo bar"), Does::Nothing);
        assert_eq!(does(2, "DEL foo bar"), part("DEL foo"));
        assert_eq!([0, 1, 2].map(|group| does(group, "FLUSHALL")), [Does::All, Does::All, Does::All]);
        assert_eq!([0, 1, 2].map(|group| does(group, "PUBLISH foo 1")), [Does::All, Does::Nothing, Does::Nothing]);
        assert_eq!(does(0, "RENAME bar foo"), Does::Fetch(vec![1]));
        assert_eq!(does(2, "RENAME bar foo"), Does::Fetch(vec![2]));
        assert_eq!(does(1, "RENAME bar foo"), Does::Fetch(vec![]));
        assert_eq!(does(0, "SUNIONSTORE foo bar hello"), Does::Fetch(vec![]));
        assert_eq!(does(2, "SUNIONSTORE foo bar hello"), Does::Fetch(vec![1]));
        assert_eq!(does(0, "RENAME bar hello"), Does::All);
        assert_eq!([0, 2].map(|group| does(group, "COPY bar foo")), [Does::Fetch(vec![]), Does::Fetch(vec![2])]);
    }
}
