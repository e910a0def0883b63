//! `ACL LOG`, spelled: the ten fields Redis 7.2 shows for an entry.

use keyward_acl::AclLog;
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;

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
