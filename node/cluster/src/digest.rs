//! FNV-1a over a fixed walk of the state: enough to notice that two nodes diverged, not a defence against anybody.
//!
//! Two versions of the program that run side by side compare digests, so the walk is part of the format: a new field is
//! added at the end of its struct's walk, and only counts when it is set.

use keyward_acl::UserRecord;

use crate::record::{AppliedRequest, StateRecord};
use crate::tenant::{Tenant, TenantGrant, TenantMode};
use crate::{ChangeRecord, Import, ImportOutcome, Member, Move, MovePhase, Moved, NodeInfo, ShardGroup};

/// The digest of a state, through its written form: what is not written down cannot differ after a restart.
pub(crate) fn of(record: &StateRecord) -> u64 {
    let mut walk = Walk(0xcbf2_9ce4_8422_2325);
    walk.bytes(record.cluster_id.as_ref().map_or(&[], |id| &id.0));
    walk.number(record.applied_index);
    walk.each(&record.users, Walk::user);
    walk.each(&record.nodes, Walk::node);
    walk.each(&record.groups, Walk::group);
    walk.each(&record.settings, |walk, (name, value)| {
        walk.text(name);
        walk.text(value);
    });
    walk.each(&record.history, Walk::change);
    walk.each(&record.requests, Walk::request);
    if record.last_tenant > 0 {
        walk.number(u64::from(record.last_tenant));
        walk.each(&record.tenants, Walk::tenant);
    }
    if let Some(moving) = &record.last_move {
        walk.moving(moving);
        walk.number(record.routes_changed);
        walk.number(record.hand_overs);
    }
    if let Some(import) = &record.last_import {
        walk.import(import);
    }
    walk.0
}

struct Walk(u64);

impl Walk {
    fn raw(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    /// With its length, so that no two walks spell the same bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn each<T>(&mut self, items: &[T], mut walk: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        for item in items {
            walk(self, item);
        }
    }

    fn user(&mut self, user: &UserRecord) {
        self.bytes(&user.name);
        self.each(&user.rules, |walk, rule| walk.bytes(rule));
        self.number(user.created);
        self.number(user.revision);
        self.number(user.credentials_revision);
        self.number(user.withdrawn_revision);
        self.text(user.imported_from.as_deref().unwrap_or_default());
    }

    fn node(&mut self, node: &NodeInfo) {
        self.number(node.id.0);
        self.text(&node.name);
        self.text(&node.addresses.client);
        self.text(&node.addresses.admin);
        self.text(&node.addresses.http);
        self.text(&node.addresses.peer);
        self.number(node.joined_index);
        self.raw(&node.token.0.to_le_bytes());
        self.number(node.incarnation.0);
        self.number(node.start_token);
    }

    fn group(&mut self, group: &ShardGroup) {
        self.number(u64::from(group.id.0));
        // As many as a group was founded with are walked as they always were.
        let (first, last) = group.slots.first().copied().unwrap_or((u16::MAX, 0));
        self.number(u64::from(first));
        self.number(u64::from(last));
        self.number(group.epoch.0);
        self.member(group.primary);
        self.number(group.in_sync.len() as u64);
        group.in_sync.iter().for_each(|member| self.member(Some(*member)));
        self.number(group.in_sync_version);
        self.number(group.copies.len() as u64);
        group.copies.iter().for_each(|node| self.number(node.0));
        self.number(u64::from(group.formed_with));
        if let Some(failover) = &group.last_failover {
            self.number(failover.index);
            self.number(failover.at.0);
            self.member(failover.from);
            self.member(Some(failover.to));
            self.number(failover.reason as u64);
        }
        for (first, last) in group.slots.iter().skip(1) {
            self.number(u64::from(*first));
            self.number(u64::from(*last));
        }
    }

    fn moving(&mut self, moving: &Move) {
        self.number(moving.index);
        self.number(moving.at.0);
        match &moving.what {
            Moved::Slots((first, last)) => {
                self.number(u64::from(*first));
                self.number(u64::from(*last));
            }
            Moved::Tenant(number) => {
                self.number(u64::MAX);
                self.number(u64::from(number.0));
            }
        }
        self.number(u64::from(moving.from.0));
        self.number(u64::from(moving.to.0));
        self.number(match moving.phase {
            MovePhase::Copying => 0,
            MovePhase::Done => 1,
            MovePhase::Dropping(group) => 2 + u64::from(group.0),
        });
        self.number(u64::from(moving.tries));
        self.text(moving.failed.as_deref().unwrap_or_default());
    }

    fn import(&mut self, import: &Import) {
        self.number(import.index);
        self.number(import.at.0);
        let plan = &import.plan;
        self.text(&plan.host);
        self.number(u64::from(plan.port));
        self.text(&plan.user);
        self.text(&plan.server);
        self.number(plan.database.map_or(u64::MAX, u64::from));
        let flags = [plan.has_credentials, plan.tls, plan.merge, plan.scan];
        flags.into_iter().for_each(|flag| self.number(u64::from(flag)));
        self.each(&plan.prefixes, |walk, (from, to)| {
            walk.bytes(from);
            walk.bytes(to);
        });
        if let Some(end) = &import.ended {
            self.number(end.at.0);
            self.text(match &end.how {
                ImportOutcome::Finished => "finished",
                ImportOutcome::Cancelled => "cancelled",
                ImportOutcome::Failed(why) => why,
            });
            self.bytes(&end.told);
        }
    }

    fn member(&mut self, member: Option<Member>) {
        self.number(member.map_or(0, |member| member.node.0));
        self.number(member.map_or(0, |member| member.incarnation.0));
    }

    fn change(&mut self, change: &ChangeRecord) {
        self.number(change.index);
        self.number(change.at.0);
        self.text(&change.actor);
        self.text(&change.source);
        self.text(&change.summary);
    }

    /// Its outcome follows from the state and the entry; which request it was is enough.
    fn request(&mut self, request: &AppliedRequest) {
        self.raw(&request.id.0.to_le_bytes());
        self.number(request.index);
    }

    fn tenant(&mut self, tenant: &Tenant) {
        self.number(u64::from(tenant.number.0));
        self.text(&tenant.name);
        match &tenant.mode {
            TenantMode::Prefixes(prefixes) => {
                self.number(prefixes.len() as u64);
                prefixes.iter().for_each(|prefix| self.bytes(prefix));
            }
            TenantMode::Namespace => self.number(u64::MAX),
        }
        self.number(tenant.users.len() as u64);
        tenant.users.iter().for_each(|user| self.bytes(user));
        self.number(tenant.settings.len() as u64);
        for (name, value) in tenant.settings.iter() {
            self.text(name);
            self.text(value);
        }
        for grants in [&tenant.exports, &tenant.imports] {
            self.number(grants.len() as u64);
            grants.iter().for_each(|grant| self.grant(grant));
        }
        self.number(u64::from(tenant.retired));
        self.number(tenant.created);
        self.number(tenant.revision);
    }

    fn grant(&mut self, grant: &TenantGrant) {
        self.text(&grant.tenant);
        self.bytes(&grant.pattern);
        self.number(u64::from(grant.write));
    }
}
