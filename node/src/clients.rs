//! How clients are told about clients: `CLIENT LIST`, `CLIENT INFO`, and the `client-info` of ACL LOG.

use crate::connection::Connection;
use crate::holding::Part;
use keyward_engine::keyspace::UnixMillis;
use keyward_engine::reply::Protocol;
use keyward_engine::session::{ReplyMode, Session};

/// One line of `CLIENT LIST`, without the line break.
pub fn line(session: &Session, connection: &Connection, now: UnixMillis) -> String {
    let lasting = Lasting {
        subscriptions: connection.subscriptions.borrow().counts(),
        watched: connection.watch.borrow().as_ref().map_or(0, |watch| watch.key_count()),
        tracks: connection.tracking.borrow().is_some(),
        traffic: connection.traffic.get(),
        queued: connection.mailbox.holding.part(Part::Queue),
        apart: connection.mailbox.holding.part(Part::Apart),
        held: connection.mailbox.holding.bytes(),
        unread: connection.output_bytes.get() as u64 + connection.mailbox.holding.part(Part::Mail),
    };
    describe(session, now, connection.input_bytes.get(), &lasting)
}

/// A client described where its buffers are not at hand.
pub fn info(session: &Session, now: UnixMillis) -> String {
    describe(session, now, 0, &Lasting::default())
}

/// What a connection has besides its session.
#[derive(Default)]
struct Lasting {
    /// Channels, patterns, shard channels.
    subscriptions: (usize, usize, usize),
    watched: usize,
    tracks: bool,
    /// Bytes received and sent.
    traffic: (u64, u64),
    /// Bytes of its transaction.
    queued: u64,
    /// Bytes of requests that are carried out elsewhere.
    apart: u64,
    /// Bytes of everything it holds.
    held: u64,
    /// Bytes of answers and messages that it did not read.
    unread: u64,
}

fn describe(session: &Session, now: UnixMillis, input_bytes: usize, lasting: &Lasting) -> String {
    let seconds = |since: UnixMillis| (now - since).max(0) / 1000;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let command = if session.last_command.is_empty() { "NULL" } else { session.last_command };
    let protocol = if session.protocol == Protocol::Resp3 { 3 } else { 2 };
    let (channels, patterns, shard_channels) = lasting.subscriptions;
    let (watched, (received, sent)) = (lasting.watched, lasting.traffic);
    let queued = session.transaction.as_ref().map_or(-1, |transaction| transaction.requests.len() as i64);
    let Lasting { queued: queued_bytes, apart, unread, .. } = *lasting;
    let memory = (size_of::<Session>() + size_of::<Connection>()) as u64 + lasting.held;
    format!(
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} capa= db={} sub={channels} psub={patterns} \
         ssub={shard_channels} multi={queued} watch={watched} \
         qbuf={input_bytes} qbuf-free=0 argv-mem={apart} multi-mem={queued_bytes} rbs=0 rbp=0 obl=0 oll=0 omem={unread} \
         tot-mem={memory} events=r cmd={command} user={} redir=-1 resp={protocol} lib-name={} lib-ver={} \
         tot-net-in={received} tot-net-out={sent} tot-cmds={}",
        session.id,
        session.address,
        session.local_address,
        text(&session.name),
        seconds(session.created_at),
        seconds(session.active_at),
        flags(session, lasting),
        session.database,
        text(session.user_name()),
        text(&session.library_name),
        text(&session.library_version),
        session.commands,
    )
}

fn flags(session: &Session, lasting: &Lasting) -> String {
    let mut flags = String::new();
    if session.subscribed {
        flags.push('P');
    }
    if session.transaction.is_some() {
        flags.push('x');
    }
    if lasting.tracks {
        flags.push('t');
    }
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
