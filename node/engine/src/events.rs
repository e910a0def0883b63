//! Keyspace notifications: which events there are and which a node publishes (`notify-keyspace-events`).
//!
//! A handler names its event with [`crate::keyspace::Keys::event`]; the node publishes what was collected. This file knows
//! no channel's subscribers. <https://redis.io/docs/latest/develop/use/keyspace-notifications/>

use std::fmt;

/// A set of event classes, and the two kinds of channels they are published on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventClass(u32);

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $letter:literal;)*) => {
        impl EventClass {
            $($(#[$doc])* pub const $name: EventClass = EventClass(1 << $bit);)*
            const LETTERS: &'static [(EventClass, char)] = &[$((EventClass::$name, $letter)),*];
        }
    };
}

classes! {
    /// DEL, EXPIRE, RENAME and what else works on any type.
    GENERIC = 0, 'g';
    /// Strings.
    STRING = 1, '$';
    /// Lists.
    LIST = 2, 'l';
    /// Sets.
    SET = 3, 's';
    /// Hashes.
    HASH = 4, 'h';
    /// Sorted sets.
    SORTED_SET = 5, 'z';
    /// A key was found expired.
    EXPIRED = 6, 'x';
    /// A key was evicted for memory.
    EVICTED = 7, 'e';
    /// Streams.
    STREAM = 8, 't';
    /// Modules; there are none.
    MODULE = 9, 'd';
    /// A read found no key. Not in `A`.
    KEY_MISS = 10, 'm';
    /// A key was made. Not in `A`.
    NEW = 11, 'n';
    /// Publish on `__keyspace@<db>__:<key>`.
    KEYSPACE = 12, 'K';
    /// Publish on `__keyevent@<db>__:<event>`.
    KEYEVENT = 13, 'E';
}

impl EventClass {
    /// What `A` stands for: all but misses and new keys.
    const ALL: EventClass = EventClass(0b11_1111_1111);

    /// None.
    pub const NONE: EventClass = EventClass(0);

    /// Whether any class of `other` is in this set.
    #[inline]
    pub const fn has(self, other: EventClass) -> bool {
        self.0 & other.0 != 0
    }

    /// The classes of both.
    pub const fn and(self, other: EventClass) -> EventClass {
        EventClass(self.0 | other.0)
    }

    /// Whether every class of `other` is in this set.
    pub const fn includes(self, other: EventClass) -> bool {
        self.0 & other.0 == other.0
    }

    /// Reads the letters of `notify-keyspace-events`; `None` if one is unknown.
    pub fn parse(text: &[u8]) -> Option<EventClass> {
        let mut set = EventClass::NONE;
        for letter in text {
            let class = match char::from(*letter) {
                'A' => EventClass::ALL,
                letter => EventClass::LETTERS.iter().find(|(_, known)| *known == letter)?.0,
            };
            set.0 |= class.0;
        }
        Some(set)
    }

    /// Nothing is published unless a kind of channel is chosen too: then there is nothing to collect.
    pub const fn effective(self) -> EventClass {
        if self.has(EventClass::KEYSPACE) || self.has(EventClass::KEYEVENT) { self } else { EventClass::NONE }
    }
}

impl fmt::Display for EventClass {
    /// As `CONFIG GET` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0 & EventClass::ALL.0 == EventClass::ALL.0;
        if all {
            f.write_str("A")?;
        }
        // Misses come last, as Redis has it.
        let (misses, others): (Vec<_>, Vec<_>) =
            EventClass::LETTERS.iter().partition(|(class, _)| *class == EventClass::KEY_MISS);
        for (class, letter) in others.into_iter().chain(misses) {
            let told = all && EventClass::ALL.has(class);
            if self.has(class) && !told {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Something that happened to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its class.
    pub class: EventClass,
    /// Its name on the wire.
    pub name: &'static str,
    /// The database of the key.
    pub database: u32,
    /// The key.
    pub key: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_and_shown_in_redis_order() {
        let shown = |text: &str| EventClass::parse(text.as_bytes()).map(|set| set.to_string());
        assert_eq!(shown("KEA").as_deref(), Some("AKE"));
        assert_eq!(shown("Elg").as_deref(), Some("glE"));
        assert_eq!(shown("KEAmn").as_deref(), Some("AnKEm"));
        assert_eq!(shown(""), Some(String::new()));
        assert_eq!(shown("KEq"), None);
    }

    #[test]
    fn without_a_kind_of_channel_nothing_is_collected() {
        assert_eq!(EventClass::parse(b"A").map(EventClass::effective), Some(EventClass::NONE));
        assert!(EventClass::parse(b"K$").is_some_and(|set| set.effective().has(EventClass::STRING)));
    }
}
