//! A request whose command and place are known, before it is anybody's turn.

use crate::connection::Decoded;
use crate::shards::Needed;
use crate::worker::Worker;
use keyward_engine::command::Group;
use keyward_engine::error::CommandError;
use keyward_engine::keyspace::{Place, SpaceId, TenantId};
use keyward_engine::table::{Resolved, Row};
use keyward_engine::tenancy::{OwnerHint, Tenancy};
use keyward_proto::resp::ArgRange;

/// The name of the last request's command, and the command.
pub(crate) type Before<'a> = Option<(&'a [u8], &'static Row)>;

/// A request whose command and place are known.
pub(crate) struct Prepared<'a> {
    pub(crate) argv: &'a [&'a [u8]],
    pub(crate) resolved: Result<Resolved<'static>, CommandError>,
    /// Where its first key lies, if that can be told without looking at its options.
    pub(super) place: Option<(&'a [u8], Place)>,
    /// Whose that key is, by the view of its batch, if that was asked.
    pub(super) owner: Option<TenantId>,
    /// As the client sent it, if that is an array of bulk strings.
    pub(super) encoded: Option<&'a [u8]>,
    pub(super) end: usize,
}

impl<'a> Prepared<'a> {
    /// A request that did not come in a batch.
    pub(crate) fn of(worker: &Worker, argv: &'a [&'a [u8]]) -> Prepared<'a> {
        Prepared { argv, resolved: worker.node.table.resolve(argv), place: None, owner: None, encoded: None, end: 0 }
    }

    /// The same, where its first key is looked up here.
    pub(super) fn placed(worker: &Worker, argv: &'a [&'a [u8]]) -> Prepared<'a> {
        let mut request = Prepared::of(worker, argv);
        request.place = request.place_of_first_key(worker);
        request
    }

    /// Where it ends in what its client sent.
    #[inline]
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    #[inline]
    fn place_of_first_key(&self, worker: &Worker) -> Option<(&'a [u8], Place)> {
        first_key(self).map(|key| (key, worker.node.shards.layout().place(key)))
    }

    /// A request of a batch with these arguments, decoded from `input`. `placed`: its first key is looked up here.
    /// `before`: the command of the last one.
    #[inline]
    pub(crate) fn decoded(
        worker: &Worker,
        arguments: &'a [&'a [u8]],
        input: &'a [u8],
        request: &Decoded,
        placed: bool,
        before: &mut Before<'a>,
    ) -> Prepared<'a> {
        let argv = &arguments[request.first as usize..(request.first + request.count) as usize];
        let resolved = worker.node.table.resolve_next(before, argv);
        let encoded = Some(&input[request.start..request.end]).filter(|encoded| encoded.first() == Some(&b'*'));
        let mut prepared = Prepared { argv, resolved, place: None, owner: None, encoded, end: request.end };
        if placed {
            prepared.place = prepared.place_of_first_key(worker);
        }
        prepared
    }

    /// Its first key, which it will need. `hint`: for all requests of one client.
    #[inline]
    pub(crate) fn needed(&mut self, space: SpaceId, tenancy: &Tenancy, hint: &mut OwnerHint) -> Option<Needed> {
        let (key, place) = self.place?;
        let space = tenancy.segment_of_next(space, key, hint);
        self.owner = Some(space.tenant);
        let group = self.resolved.as_ref().ok()?.row.command.group;
        let object = matches!(group, Group::List | Group::Hash | Group::Set | Group::SortedSet | Group::Stream);
        Some(Needed { space, place, object })
    }
}

/// The first key of a request, if that can be told without looking at its options.
#[inline]
pub(super) fn first_key<'a>(request: &Prepared<'a>) -> Option<&'a [u8]> {
    let index = request.resolved.as_ref().ok()?.row.first_key?;
    request.argv.get(usize::from(index)).copied()
}

/// The requests of one batch, as they were decoded.
#[derive(Clone, Copy)]
pub(crate) struct Received<'i> {
    /// What the client sent.
    pub(crate) input: &'i [u8],
    /// Every argument of every request.
    pub(crate) ranges: &'i [ArgRange],
    /// Which of them belong together.
    pub(crate) requests: &'i [Decoded],
}
