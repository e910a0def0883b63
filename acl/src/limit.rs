//! Limits of single users: which there are, and how a rule says them: `limit:connections=20`, `limit:value-bytes=1mb`.
//!
//! They bear the names of the settings of tenants that bound the same; a user of a tenant has to keep within both. This file
//! refuses to know what a limit does to a request.

/// What a user may have a limit of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitName {
    /// Operations a second on each node, weighted by work.
    Operations,
    /// Bytes a second on each node, in and out together.
    Bytes,
    /// Milliseconds of processor time a second on each node.
    CpuMilliseconds,
    /// Connections to each node.
    Connections,
    /// Logins a second at each node.
    ConnectionsPerSecond,
    /// Clients that wait for keys, on each node.
    BlockedClients,
    /// Channels and patterns of all its clients, on each node.
    Subscriptions,
    /// Bytes of an answer, or of messages a client has yet to read.
    OutputBytes,
    /// Milliseconds one script may run.
    ScriptMilliseconds,
    /// Milliseconds one command may go on that goes over its keys many times.
    CommandMilliseconds,
    /// Names that one KEYS tells.
    KeysNames,
    /// Lines a second that `MONITOR` shows, on each node.
    MonitorPerSecond,
    /// Bytes of one argument of a write.
    ValueBytes,
    /// Bytes that all its clients hold besides keys, on each node.
    ClientBytes,
}

impl LimitName {
    /// All of them, in the order in which they are shown.
    pub const ALL: [LimitName; 14] = [
        LimitName::Operations,
        LimitName::Bytes,
        LimitName::CpuMilliseconds,
        LimitName::Connections,
        LimitName::ConnectionsPerSecond,
        LimitName::BlockedClients,
        LimitName::Subscriptions,
        LimitName::OutputBytes,
        LimitName::ScriptMilliseconds,
        LimitName::CommandMilliseconds,
        LimitName::KeysNames,
        LimitName::MonitorPerSecond,
        LimitName::ValueBytes,
        LimitName::ClientBytes,
    ];

    /// The name in rules.
    pub const fn text(self) -> &'static str {
        match self {
            LimitName::Operations => "ops-per-second",
            LimitName::Bytes => "bytes-per-second",
            LimitName::CpuMilliseconds => "cpu-ms-per-second",
            LimitName::Connections => "connections",
            LimitName::ConnectionsPerSecond => "connections-per-second",
            LimitName::BlockedClients => "blocked-clients",
            LimitName::Subscriptions => "subscriptions",
            LimitName::OutputBytes => "output-bytes",
            LimitName::ScriptMilliseconds => "script-ms",
            LimitName::CommandMilliseconds => "command-ms",
            LimitName::KeysNames => "keys-names",
            LimitName::MonitorPerSecond => "monitor-per-second",
            LimitName::ValueBytes => "value-bytes",
            LimitName::ClientBytes => "client-bytes",
        }
    }

    /// Whether units such as `mb` make sense.
    const fn is_bytes(self) -> bool {
        matches!(self, LimitName::Bytes | LimitName::OutputBytes | LimitName::ValueBytes | LimitName::ClientBytes)
    }

    fn named(name: &[u8]) -> Option<LimitName> {
        LimitName::ALL.into_iter().find(|limit| limit.text().as_bytes() == name)
    }
}

/// Reads what follows `limit:`, in lower case: `connections=20`, or `connections=default` for none. None is no limit of zero:
/// nobody is locked out by what elsewhere means "no limit".
pub(crate) fn parse(text: &[u8]) -> Option<(LimitName, Option<u64>)> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (LimitName::named(&text[..at])?, std::str::from_utf8(&text[at + 1..]).ok()?);
    if value == "default" {
        return Some((name, None));
    }
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let count = if name.is_bytes() { bytes(value) } else { value.parse().ok().filter(|_| digits) };
    count.filter(|count| *count > 0).map(|count| (name, Some(count)))
}

/// The rule that sets it.
pub(crate) fn rule(name: LimitName, value: Option<u64>) -> String {
    let value = value.map_or_else(|| "default".to_owned(), |value| value.to_string());
    format!("limit:{}={value}", name.text())
}

/// `100`, `64kb`, `1gb` as bytes: with a `b` powers of 1024, without (`k`, `m`, `g`) powers of 1000, as in redis.conf.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text.len() - text.trim_start_matches(|byte: char| byte.is_ascii_digit()).len();
    let unit = match &text[digits..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        for name in LimitName::ALL {
            for value in [Some(1), Some(u64::MAX), None] {
                let text = rule(name, value);
                assert_eq!(parse(text.strip_prefix("limit:").unwrap().as_bytes()), Some((name, value)), "{text}");
            }
        }
        assert_eq!(parse(b"value-bytes=2kb"), Some((LimitName::ValueBytes, Some(2048))));
    }

    #[test]
    fn what_makes_no_sense_is_no_limit() {
        for text in [
            "",
            "=",
            "connections",
            "connections=",
            "connections=0",
            "connections=-1",
            "connections=+1",
            "connections=1kb",
            "connections=99999999999999999999",
            "value-bytes=99999999999gb",
            "value-bytes=mb",
            "speed=1",
            "limit=1gb",
            "connections=1=2",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
