//! The kinds of value a setting can have: how each is written, read back and measured. Every source (flag, environment,
//! file) hands over text, so one grammar serves all three. Knows no setting by name and reads no file.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a value is written in a TOML file. Reading accepts any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `key = "text"`
    Quoted,
    /// `key = 7`
    Bare,
    /// `key = ["text", "text"]`
    List,
}

/// A kind of value. `parse(text())` gives the value back, except for secrets, which are never printed.
pub trait Value: Sized {
    /// How it is written in a TOML file.
    const SHAPE: Shape = Shape::Quoted;

    /// Reads one value. The error continues the sentence "`key` (from where) …".
    fn parse(text: &str) -> Result<Self, String>;

    /// The canonical text.
    fn text(&self) -> String;

    /// What the bounds of a setting are compared with; `None` for kinds without a size.
    fn magnitude(&self) -> Option<u64> {
        None
    }
}

macro_rules! whole_numbers {
    ($($kind:ty),+) => {$(
        impl Value for $kind {
            const SHAPE: Shape = Shape::Bare;

            fn parse(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("is {text:?}, which is not a whole number up to {}", Self::MAX))
            }

            fn text(&self) -> String {
                self.to_string()
            }

            fn magnitude(&self) -> Option<u64> {
                Some(*self as u64)
            }
        }
    )+};
}
whole_numbers!(u16, u32, usize);

impl Value for bool {
    const SHAPE: Shape = Shape::Bare;

    fn parse(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("is {text:?}, but must be true or false"))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for crate::insight::audit::AuditEvent {
    fn parse(text: &str) -> Result<Self, String> {
        // What is sampled has a setting of its own.
        let known = Self::ALL.into_iter().filter(|event| *event != Self::Data);
        let found = known.clone().find(|event| event.name() == text.trim());
        let names: Vec<&str> = known.map(Self::name).collect();
        found.ok_or_else(|| format!("names {text:?}, but there are {}", names.join(", ")))
    }

    fn text(&self) -> String {
        self.name().to_owned()
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is empty, but must name a path".to_owned()) } else { Ok(text.into()) }
    }

    fn text(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

/// An empty text means "not set", so that `KEYWARD_ACL_FILE=` in a manifest does no harm.
impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }

    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }

    fn magnitude(&self) -> Option<u64> {
        self.as_ref().and_then(T::magnitude)
    }
}

/// Items separated by commas; in a file also an array.
impl<T: Value> Value for Vec<T> {
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::parse).collect()
    }

    fn text(&self) -> String {
        self.iter().map(T::text).collect::<Vec<_>>().join(",")
    }
}

/// A time span: `200ms`, `5s`, `2m`, `1h`, `7d`; a bare number counts seconds, as in Redis' settings.
impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("is {text:?}, which is not a time such as 200ms, 5s, 2m, 1h or 7d");
        let (number, unit) = split_unit(text.trim()).ok_or_else(wrong)?;
        let micros_each: u64 = match unit.as_str() {
            "us" => 1,
            "ms" => 1_000,
            "" | "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(micros_each).map(Self::from_micros).ok_or_else(wrong)
    }

    fn text(&self) -> String {
        let micros = self.as_micros();
        let units = [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
        match units.iter().find(|(each, _)| micros > 0 && micros.is_multiple_of(*each)) {
            Some((each, unit)) => format!("{}{unit}", micros / each),
            None if micros == 0 => "0s".to_owned(),
            None => format!("{micros}us"),
        }
    }

    fn magnitude(&self) -> Option<u64> {
        u64::try_from(self.as_micros()).ok()
    }
}

/// A number of bytes. `kb`, `mb`, `gb`, `tb` and their `kib` forms count in 1024, `k`, `m`, `g`, `t` in 1000, as in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// This many bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// As a length in memory.
    pub fn length(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// A size of so many bytes.
    pub fn of_bytes(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl Value for Size {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("is {text:?}, which is not a size such as 512, 16kb, 64mb or 1gib");
        let (number, unit) = split_unit(text.trim()).ok_or_else(wrong)?;
        let bytes_each: u64 = match unit.as_str() {
            "" | "b" => 1,
            "k" => 1_000,
            "kb" | "kib" => 1 << 10,
            "m" => 1_000_000,
            "mb" | "mib" => 1 << 20,
            "g" => 1_000_000_000,
            "gb" | "gib" => 1 << 30,
            "t" => 1_000_000_000_000,
            "tb" | "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        number.checked_mul(bytes_each).map(Self).ok_or_else(wrong)
    }

    fn text(&self) -> String {
        let units = [(1_u64 << 40, "tb"), (1 << 30, "gb"), (1 << 20, "mb"), (1 << 10, "kb")];
        match units.iter().find(|(each, _)| self.0 > 0 && self.0.is_multiple_of(*each)) {
            Some((each, unit)) => format!("{}{unit}", self.0 / each),
            None => self.0.to_string(),
        }
    }

    fn magnitude(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// How much memory the data may take: a size, or a share of what this process may use. A loaded configuration always
/// holds a size; zero is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// So many bytes; zero is no limit.
    Size(Size),
    /// Percent of the cgroup's limit, or of the machine's memory.
    Percent(u64),
}

impl Memory {
    /// The share of `available_bytes` as a number of bytes.
    pub fn of(self, available_bytes: u64) -> Size {
        match self {
            Self::Size(size) => size,
            Self::Percent(percent) => Size(available_bytes / 100 * percent),
        }
    }

    /// Bytes, zero for no limit. A share that was never resolved counts as no memory known: no limit.
    pub fn bytes(self) -> u64 {
        self.of(0).bytes()
    }
}

impl Value for Memory {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(percent) = text.trim().strip_suffix('%') else {
            return Size::parse(text).map(Self::Size);
        };
        match percent.trim().parse() {
            Ok(percent @ 1..=95) => Ok(Self::Percent(percent)),
            _ => Err(format!("is {text:?}, but a share of the memory is from 1% to 95%")),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Size(size) => size.text(),
            Self::Percent(percent) => format!("{percent}%"),
        }
    }
}

/// Number and lower-case unit of `64mb`; `None` when it does not start with a number that fits.
fn split_unit(text: &str) -> Option<(u64, String)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim().to_ascii_lowercase()))
}

/// `host:port`. The host is a name or an IP address; IPv6 stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host without brackets.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    /// Name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Only programs on this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Every address of this machine (`0.0.0.0`, `::`): good to listen on, useless to tell others.
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Value for Address {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("is {text:?}, which is not host:port (an IPv6 host stands in brackets)");
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let odd = host.is_empty() || host.len() > 253 || host.contains(|c: char| c.is_whitespace() || c.is_control());
        if odd || (bracketed.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// An initial member: its name and where its peers reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The `name` in that node's own configuration.
    pub name: String,
    /// Its peer address.
    pub address: Address,
}

impl Value for Member {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, address) =
            text.split_once('=').ok_or_else(|| format!("has {text:?}, which is not name=host:port"))?;
        Ok(Self { name: name.trim().to_owned(), address: Address::parse(address)? })
    }

    fn text(&self) -> String {
        format!("{}={}", self.name, self.address)
    }
}

/// A password or key. Neither `Debug` nor `text` shows it, so that it can reach no log and no `config show`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text that is to stay secret.
    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself; for the one place that uses it, never to be printed.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its length; no secret.
    pub fn byte_length(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl Value for Secret {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::of(text))
    }

    fn text(&self) -> String {
        "********".to_owned()
    }
}

/// When to save by itself: after so many seconds if at least so many keys changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveRule {
    /// Seconds since the last save.
    pub seconds: u64,
    /// Changes since the last save.
    pub changes: u64,
}

/// All rules, in Redis' form `3600 1 300 100`; empty is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveRules(pub Vec<SaveRule>);

impl fmt::Display for SaveRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Value for SaveRules {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("is {text:?}, which is not pairs of `seconds changes`, at most 16, each at least 1");
        let numbers: Vec<u64> = text
            .split([' ', ',', '\t'])
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().ok().filter(|number| (1..=u64::from(u32::MAX)).contains(number)))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        if !numbers.len().is_multiple_of(2) || numbers.len() > 32 {
            return Err(wrong());
        }
        Ok(Self(numbers.chunks_exact(2).map(|pair| SaveRule { seconds: pair[0], changes: pair[1] }).collect()))
    }

    fn text(&self) -> String {
        self.0.iter().map(|rule| format!("{} {}", rule.seconds, rule.changes)).collect::<Vec<_>>().join(" ")
    }
}

macro_rules! choices {
    ($(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $choice_doc:literal])+ $choice:ident = $text:literal ),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $choice_doc])+ $choice ),+ }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text())
            }
        }

        impl Value for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text.trim().to_ascii_lowercase().as_str() {
                    $( $text => Ok(Self::$choice), )+
                    _ => Err(format!("is {text:?}, but must be {}", [$($text),+].join(" or "))),
                }
            }

            fn text(&self) -> String {
                match self { $( Self::$choice => $text, )+ }.to_owned()
            }
        }
    };
}

choices! {
    /// What `INFO` and `ROLE` say a node is.
    AdvertiseRole {
        /// The truth.
        Actual = "actual",
        /// A primary, since it takes every command.
        Primary = "primary",
    }
}

choices! {
    /// What to do when the data reaches `maxmemory`.
    MaxmemoryPolicy {
        /// Refuse writes that need memory.
        Noeviction = "noeviction",
        /// Let go what was not used for long.
        AllKeysLru = "allkeys-lru",
        /// Let go what is used seldom.
        AllKeysLfu = "allkeys-lfu",
        /// Let go anything.
        AllKeysRandom = "allkeys-random",
        /// Of the keys with an expiry, let go what was not used for long.
        VolatileLru = "volatile-lru",
        /// Of the keys with an expiry, let go what is used seldom.
        VolatileLfu = "volatile-lfu",
        /// Of the keys with an expiry, let go anything.
        VolatileRandom = "volatile-random",
        /// Let go what expires soonest.
        VolatileTtl = "volatile-ttl",
    }
}

choices! {
    /// How much a denial says.
    AclErrorDetail {
        /// What was denied: command, key or channel.
        Full = "full",
        /// Redis' own text.
        Redis = "redis",
    }
}

choices! {
    /// What a node does with a command about data that another node serves.
    Routing {
        /// It has that node run it, and the client notices nothing.
        Proxy = "proxy",
        /// It tells the client where to go, as Redis Cluster does.
        Redirect = "redirect",
    }
}

choices! {
    /// Who may use `DEBUG`.
    DebugCommand {
        /// Nobody.
        No = "no",
        /// Whoever has every right.
        Yes = "yes",
        /// The same, from this machine only.
        Local = "local",
    }
}

choices! {
    /// When a write is answered.
    Ack {
        /// As soon as it is made.
        Async = "async",
        /// When every node in sync has it.
        Quorum = "quorum",
    }
}

choices! {
    /// What a node does whose lease is over.
    AclLeasePolicy {
        /// It serves nobody.
        Deny = "deny",
        /// It serves reads.
        DenyWrites = "deny-writes",
        /// It serves on.
        Extend = "extend",
    }
}

choices! {
    /// Which channels a new user may use.
    AclPubsubDefault {
        /// None, Redis' default since 7.0.
        ResetChannels = "resetchannels",
        /// All.
        AllChannels = "allchannels",
    }
}

choices! {
    /// How much is logged.
    LogLevel {
        /// Only what needs somebody.
        Error = "error",
        /// And what may need somebody.
        Warn = "warn",
        /// And what changed.
        Info = "info",
        /// And why.
        Debug = "debug",
        /// And every step.
        Trace = "trace",
    }
}

choices! {
    /// How a log line is written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line, for collectors.
        Json = "json",
    }
}
