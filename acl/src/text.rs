//! Users as text: the line of `ACL LIST`, the words that rebuild a user, the fields of `ACL GETUSER`.
//!
//! The words after the name, given to `ACL SETUSER name reset …`, make the same user again, byte for byte; so a file, a
//! snapshot and another server all take them. It refuses to know RESP: the engine prints the fields.

use crate::limit;
use crate::rule::{Acknowledge, Mode, Role, sign};
use crate::user::{Databases, KeyPattern, Selector, User};
use std::borrow::Cow;

/// What `ACL GETUSER` tells, in its order; the engine spells it for RESP2 and RESP3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFields {
    /// `on` or `off`, `nopass`, and what else is true of it as a whole: `ack=quorum`, `limit:connections=20`.
    pub flags: Vec<Cow<'static, str>>,
    /// Bare hex hashes.
    pub passwords: Vec<String>,
    /// `+@all -@admin`.
    pub commands: String,
    /// Patterns with their sigils.
    pub keys: Vec<u8>,
    /// Patterns with their sigils, without `resetchannels`.
    pub channels: Vec<u8>,
    /// `alldbs`, `db=0,1`, or nothing.
    pub databases: String,
    /// The further sets of permissions.
    pub selectors: Vec<SelectorFields>,
}

/// What stands in the place of a password's hash: as long, and none.
pub const MASKED: &str = "****************************************************************";

/// One selector of `ACL GETUSER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorFields {
    /// `-@all +get`.
    pub commands: String,
    /// Patterns with their sigils.
    pub keys: Vec<u8>,
    /// Patterns with their sigils, without `resetchannels`.
    pub channels: Vec<u8>,
    /// `alldbs`, `db=0,1`, or nothing.
    pub databases: String,
}

impl User {
    /// The line of `ACL LIST`: `user name` and the words.
    pub fn list_line(&self) -> Vec<u8> {
        let mut line = [b"user ", self.name.as_bytes()].concat();
        for word in self.words() {
            line.push(b' ');
            line.extend_from_slice(&word);
        }
        line
    }

    /// The same for whoever may know the rules and not the passwords: each is [`MASKED`], which no file and no rule takes for one.
    pub fn masked_line(&self) -> Vec<u8> {
        let masked = format!("#{MASKED}").into_bytes();
        let shown = |word: Vec<u8>| if word.first() == Some(&b'#') { masked.clone() } else { word };
        let words = self.words().into_iter().map(shown);
        std::iter::once([b"user ", self.name.as_bytes()].concat()).chain(words).collect::<Vec<_>>().join(&b' ')
    }

    /// The rules that make this user, canonical and in the order of `ACL LIST`; a selector is one word.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let flags = self.flags().into_iter().map(|flag| flag.into_owned().into_bytes());
        let passwords = self.passwords.iter().map(|hash| format!("#{}", hash.to_hex()).into_bytes());
        let selectors = self.selectors.iter().map(|selector| [b"(", &*selector.words().join(&b' '), b")"].concat());
        flags.chain(passwords).chain(self.root.words()).chain(selectors).collect()
    }

    /// The fields of `ACL GETUSER`.
    pub fn fields(&self) -> UserFields {
        let SelectorFields { commands, keys, channels, databases } = self.root.fields();
        UserFields {
            flags: self.flags(),
            passwords: self.passwords.iter().map(|hash| hash.to_hex()).collect(),
            commands,
            keys,
            channels,
            databases,
            selectors: self.selectors.iter().map(Selector::fields).collect(),
        }
    }

    fn flags(&self) -> Vec<Cow<'static, str>> {
        let mut flags = vec![Cow::Borrowed(if self.enabled { "on" } else { "off" })];
        flags.extend(self.nopass.then_some(Cow::Borrowed("nopass")));
        flags.extend(self.acknowledge.map(|how| Cow::Borrowed(Acknowledge::rule(how))));
        flags.extend((self.mode != Mode::Enforce).then_some(Cow::Borrowed(self.mode.rule())));
        flags.extend((self.role != Role::User).then_some(Cow::Borrowed(self.role.rule())));
        flags.extend(self.limits.iter().map(|(name, value)| Cow::Owned(limit::rule(*name, Some(*value)))));
        flags
    }
}

impl Selector {
    /// The command rules, beginning with `+@all` or `-@all`.
    pub fn commands_text(&self) -> String {
        let mut text = format!("{}@all", sign(self.all_commands));
        for rule in &self.commands {
            text.push(' ');
            text.push(sign(rule.allow));
            text.push_str(&rule.target);
        }
        text
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let mut words = self.key_words();
        // Whatever a server grants new users by default, the line says it all.
        words.extend((!self.all_channels).then(|| b"resetchannels".to_vec()));
        words.extend(self.channel_words());
        words.extend(match &self.databases {
            Databases::All => None,
            Databases::Only(numbers) if numbers.is_empty() => Some(b"resetdbs".to_vec()),
            Databases::Only(numbers) => Some(databases_text(numbers).into_bytes()),
        });
        words.extend(self.commands_text().split(' ').map(|word| word.as_bytes().to_vec()));
        words
    }

    fn fields(&self) -> SelectorFields {
        SelectorFields {
            commands: self.commands_text(),
            keys: self.key_words().join(&b' '),
            channels: self.channel_words().join(&b' '),
            databases: match &self.databases {
                Databases::All => "alldbs".to_owned(),
                Databases::Only(numbers) if numbers.is_empty() => String::new(),
                Databases::Only(numbers) => databases_text(numbers),
            },
        }
    }

    fn key_words(&self) -> Vec<Vec<u8>> {
        match self.all_keys {
            true => vec![b"~*".to_vec()],
            false => self.keys.iter().map(KeyPattern::word).collect(),
        }
    }

    fn channel_words(&self) -> Vec<Vec<u8>> {
        match self.all_channels {
            true => vec![b"&*".to_vec()],
            false => self.channels.iter().map(|channel| [b"&", &**channel].concat()).collect(),
        }
    }
}

fn databases_text(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    format!("db={}", numbers.join(","))
}

#[cfg(test)]
mod tests {
    use crate::testing::user;

    fn line(rules: &str) -> String {
        String::from_utf8(user("u", rules).list_line()).unwrap()
    }

    #[test]
    fn a_masked_line_has_the_rules_and_as_many_passwords_and_cannot_be_loaded() {
        let hidden = super::MASKED;
        let user = user("u", "on >one >two ~a:* +get (~#b +set)");
        let line = String::from_utf8(user.masked_line()).unwrap();
        assert_eq!(
            line,
            format!("user u on #{hidden} #{hidden} ~a:* resetchannels -@all +get (~#b resetchannels -@all +set)")
        );
        assert!(crate::rule::Rule::parse(format!("#{hidden}").as_bytes()).is_err());
    }

    // Each pair was read off a Valkey 9.1.2.
    #[test]
    fn the_line_of_acl_list_is_that_of_valkey() {
        for (rules, expected) in [
            ("", "off resetchannels -@all"),
            ("ON NOPASS", "on nopass resetchannels -@all"),
            ("ack=QUORUM on", "on ack=quorum resetchannels -@all"),
            ("ack=quorum ack=async", "off ack=async resetchannels -@all"),
            ("ack=quorum ack=default", "off resetchannels -@all"),
            ("MODE=report on", "on mode=report resetchannels -@all"),
            ("mode=report mode=enforce", "off resetchannels -@all"),
            ("mode=report reset", "off resetchannels -@all"),
            ("ROLE=tenant-admin on", "on role=tenant-admin resetchannels -@all"),
            ("role=tenant-admin role=default", "off resetchannels -@all"),
            ("role=tenant-admin reset", "off resetchannels -@all"),
            (
                "LIMIT:value-bytes=1KB limit:connections=5",
                "off limit:connections=5 limit:value-bytes=1024 resetchannels -@all",
            ),
            ("limit:connections=5 limit:connections=6", "off limit:connections=6 resetchannels -@all"),
            ("limit:connections=5 limit:connections=default", "off resetchannels -@all"),
            ("limit:connections=5 reset", "off resetchannels -@all"),
            ("allcommands", "off resetchannels +@all"),
            ("+@all -get +get", "off resetchannels +@all +get"),
            ("-@all -get", "off resetchannels -@all -get"),
            ("+@ALL -@Admin +Config|Get", "off resetchannels +@all -@admin +config|get"),
            ("+@all -@admin -@dangerous +config|get", "off resetchannels +@all -@admin -@dangerous +config|get"),
            ("+config|get +config|set -config", "off resetchannels -@all -config"),
            ("+client|list +client|kill", "off resetchannels -@all +client|list +client|kill"),
            ("%R~x %W~x", "off ~x resetchannels -@all"),
            ("%R~a %W~b &x &y", "off %R~a %W~b resetchannels &x &y -@all"),
            ("%R~* %W~*", "off ~* resetchannels -@all"),
            ("%RW", "off ~ resetchannels -@all"),
            ("&* ~*", "off ~* &* -@all"),
            ("DB=3,1,1", "off resetchannels db=1,3 -@all"),
            ("resetdbs", "off resetchannels resetdbs -@all"),
            ("db=1 db=2", "off resetchannels db=2 -@all"),
            ("db=01", "off resetchannels db=1 -@all"),
            ("db=1 alldbs", "off resetchannels -@all"),
            ("()", "off resetchannels -@all (resetchannels -@all)"),
            ("(~a +get &c db=1)", "off resetchannels -@all (~a resetchannels &c db=1 -@all +get)"),
            ("(%R~a %W~a +@READ -get +GET)", "off resetchannels -@all (~a resetchannels -@all +@read +get)"),
            ("(+get) clearselectors", "off resetchannels -@all"),
            ("on nopass ~* &* +@all db=1 (+get) reset", "off resetchannels -@all"),
            ("sanitize-payload skip-sanitize-payload", "off resetchannels -@all"),
            ("~{a,b}:*", "off ~a:* ~b:* resetchannels -@all"),
        ] {
            assert_eq!(line(rules), format!("user u {expected}"), "{rules}");
        }
    }

    #[test]
    fn passwords_are_shown_in_order_and_once() {
        let (a, b) = (crate::PasswordHash::of(b"a").to_hex(), crate::PasswordHash::of(b"b").to_hex());
        assert_eq!(line(">b >a >b"), format!("user u off #{b} #{a} resetchannels -@all"));
        assert_eq!(line(">b nopass"), "user u off nopass resetchannels -@all");
        assert_eq!(line("nopass >b"), format!("user u off #{b} resetchannels -@all"));
        assert_eq!(line(">a >b <a"), format!("user u off #{b} resetchannels -@all"));
    }

    #[test]
    fn the_fields_of_getuser_leave_resetchannels_out() {
        let fields = user("u", "on nopass ~a %R~b +get db=0 (~c +set &x resetdbs)").fields();
        assert_eq!(fields.flags, ["on", "nopass"]);
        assert_eq!((&*fields.commands, &*fields.keys, &*fields.channels), ("-@all +get", &b"~a %R~b"[..], &b""[..]));
        assert_eq!(fields.databases, "db=0");
        let selector = &fields.selectors[0];
        assert_eq!((&*selector.commands, &*selector.keys), ("-@all +set", &b"~c"[..]));
        assert_eq!((&*selector.channels, &*selector.databases), (&b"&x"[..], ""));
        assert_eq!(user("u", "").fields().databases, "alldbs");
    }
}
