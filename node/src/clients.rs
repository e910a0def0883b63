//! How clients are told about clients: `CLIENT LIST`, `CLIENT INFO`, and the `client-info` of ACL LOG.

use crate::connection::Connection;
use keyward_engine::keyspace::UnixMillis;
use keyward_engine::reply::Protocol;
use keyward_engine::session::{ReplyMode, Session};

/// One line of `CLIENT LIST`, without the line break.
pub fn line(session: &Session, connection: &Connection, now: UnixMillis) -> String {
    describe(session, now, connection.input_bytes.get(), connection.output_bytes.get())
}

/// A client described where its buffers are not at hand.
pub fn info(session: &Session, now: UnixMillis) -> String {
    describe(session, now, 0, 0)
}

fn describe(session: &Session, now: UnixMillis, input_bytes: usize, output_bytes: usize) -> String {
    let seconds = |since: UnixMillis| (now - since).max(0) / 1000;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let command = if session.last_command.is_empty() { "NULL" } else { session.last_command };
    let protocol = if session.protocol == Protocol::Resp3 { 3 } else { 2 };
    let memory = std::mem::size_of::<Session>() + input_bytes + output_bytes;
    format!(
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} capa= db={} sub=0 psub=0 ssub=0 multi=-1 watch=0 \
         qbuf={input_bytes} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem={output_bytes} \
         tot-mem={memory} events=r cmd={command} user={} redir=-1 resp={protocol} lib-name={} lib-ver={} \
         tot-net-in=0 tot-net-out=0 tot-cmds={}",
        session.id,
        session.address,
        session.local_address,
        text(&session.name),
        seconds(session.created_at),
        seconds(session.active_at),
        flags(session),
        session.database,
        text(session.user_name()),
        text(&session.library_name),
        text(&session.library_version),
        session.commands,
    )
}

fn flags(session: &Session) -> String {
    let mut flags = String::new();
    if session.closing {
        flags.push('c');
    }
    if session.no_evict {
        flags.push('e');
    }
    if session.no_touch {
        flags.push('T');
    }
    if session.replies == ReplyMode::Off {
        flags.push('O');
    }
    if flags.is_empty() {
        flags.push('N');
    }
    flags
}
