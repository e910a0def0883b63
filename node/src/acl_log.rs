//! `ACL LOG`, spelled: the ten fields Redis 7.2 shows for an entry; and whose doing an entry is.

use keyward_acl::{AclLog, LogOwner};
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;
use keyward_engine::session::Session;

/// Whose doing it is: all users of a tenant share what is kept of it.
pub fn owner(session: &Session) -> LogOwner {
    match session.login.as_ref().map(|login| login.tenant.as_ref()) {
        Some(Some(tenant)) => LogOwner::Tenant(tenant.name.as_bytes().into()),
        Some(None) => LogOwner::User(session.user_name().into()),
        None => LogOwner::Strangers,
    }
}

/// The newest `count` entries of those within reach.
pub fn show(log: &AclLog, count: usize, now_ms: i64, reach: &Reach, reply: &mut Reply) {
    let entries: Vec<_> = log.entries().filter(|entry| reach.sees_user(&entry.username)).take(count).collect();
    reply.array(entries.len());
    for entry in entries {
        reply.map(10);
        reply.bulk(b"count");
        reply.integer(entry.count as i64);
        for (name, value) in [
            ("reason", entry.reason.name().as_bytes()),
            ("context", entry.context.name().as_bytes()),
            ("object", &entry.object),
            ("username", &entry.username),
        ] {
            reply.bulk(name.as_bytes());
            reply.bulk(value);
        }
        reply.bulk(b"age-seconds");
        let age_s = entry.age_seconds(now_ms as u64);
        match reply.protocol {
            Protocol::Resp2 => reply.bulk(format!("{age_s:.3}").as_bytes()),
            Protocol::Resp3 => reply.double(age_s),
        }
        reply.bulk(b"client-info");
        reply.bulk(&entry.client_info);
        for (name, value) in [
            ("entry-id", entry.entry_id),
            ("timestamp-created", entry.created_ms),
            ("timestamp-last-updated", entry.updated_ms),
        ] {
            reply.bulk(name.as_bytes());
            reply.integer(value as i64);
        }
    }
}
