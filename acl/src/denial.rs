//! A refused request: what was missing, and how that is said on each occasion.
//!
//! Texts go to clients that match on them. It refuses to know how the decision was made (see policy.rs).

use crate::log::LogReason;
use crate::printable;
use crate::user::UserName;
use std::fmt;

/// How much of a key or channel a message shows; both are chosen by whoever sent the request.
pub const SHOWN_BYTES_MAX: usize = 128;
/// How many databases a message names.
const SHOWN_DATABASES_MAX: usize = 16;
/// How much of a key or channel a denial keeps, for the log.
pub const OBJECT_BYTES_MAX: usize = 1024;

/// How much a denial tells the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorDetail {
    /// Who was refused what.
    #[default]
    Full,
    /// Redis' words.
    Redis,
}

/// Which permission is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Denied {
    /// To run the command.
    Command,
    /// To use the database.
    Database,
    /// To touch the key.
    Key,
    /// To use the channel.
    Channel,
}

/// What helps whoever reads a denial to find the rule that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// No rule can allow the command to a user without `~*`.
    Ceiling,
    /// The command concerns every key there is, and these rules do not hold all keys of a tenant.
    NotWholeTenant,
    /// The user has no key pattern.
    NoPattern,
    /// None of the user's key patterns matches; this one comes closest.
    Nearest(Box<[u8]>),
    /// This pattern of the user's matches the key, but does not grant all that is needed.
    TooLittle(Box<[u8]>),
    /// The user has no channel pattern.
    NoChannel,
    /// The databases its rules name.
    Databases(Box<[u32]>),
}

impl Hint {
    fn text(&self) -> String {
        let shown = |pattern: &[u8]| printable::escaped(pattern, SHOWN_BYTES_MAX);
        match self {
            Hint::None => String::new(),
            Hint::Ceiling => " (tenant ceiling: only for users with ~*, whatever the rules say)".to_owned(),
            Hint::NotWholeTenant => {
                " (it concerns every key: only for users with ~*, and for those of a tenant whose rules \
                let them read and write all of its keys, as ~* does)"
                    .to_owned()
            }
            Hint::NoPattern => " (no key pattern was given to this user)".to_owned(),
            Hint::Nearest(pattern) => format!(" (nearest pattern: '{}')", shown(pattern)),
            Hint::NoChannel => " (no channel pattern was given to this user)".to_owned(),
            Hint::Databases(numbers) if numbers.is_empty() => " (no database was given to this user)".to_owned(),
            Hint::Databases(numbers) => {
                let mut numbers: Vec<String> =
                    numbers.iter().take(SHOWN_DATABASES_MAX + 1).map(u32::to_string).collect();
                if numbers.len() > SHOWN_DATABASES_MAX {
                    numbers[SHOWN_DATABASES_MAX] = "...".to_owned();
                }
                format!(" (allowed: {})", numbers.join(", "))
            }
            Hint::TooLittle(pattern) => format!(" (pattern '{}' matches, but does not allow this)", shown(pattern)),
        }
    }
}

/// A refused request. `Display` is the full text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who was refused.
    pub user: UserName,
    /// Which permission is missing.
    pub denied: Denied,
    /// The command's full name, the database, the key or the channel; cut after [`OBJECT_BYTES_MAX`].
    pub object: Box<[u8]>,
    /// Where the object stands in the request; 0 for a command or database.
    pub argument: u32,
    /// What helps to find the missing rule.
    pub hint: Hint,
}

impl Denial {
    pub(crate) fn new(user: &UserName, denied: Denied, object: &[u8], argument: u32) -> Denial {
        let object = object[..object.len().min(OBJECT_BYTES_MAX)].into();
        Denial { user: user.clone(), denied, object, argument, hint: Hint::None }
    }

    pub(crate) fn with(self, hint: Hint) -> Denial {
        Denial { hint, ..self }
    }

    /// The reply, without the leading `-`.
    pub fn to_text(&self, detail: ErrorDetail) -> String {
        format!("NOPERM {}", self.sentence(detail))
    }

    /// The reply to a script's command, without `ERR`.
    pub fn to_script_text(&self, detail: ErrorDetail) -> String {
        format!("ACL failure in script: {}", self.sentence(detail))
    }

    /// The reply to a queued command that is no longer allowed when EXEC comes.
    pub fn to_exec_text(&self) -> String {
        let reason = match self.denied {
            Denied::Command => "no permission to execute the command or subcommand",
            Denied::Database => "no permission to access the database",
            Denied::Key => "no permission to touch the specified keys",
            Denied::Channel => "no permission to access one of the channels used as arguments",
        };
        format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This \
             command is no longer allowed for the following reason: {reason}"
        )
    }

    /// The reply of `ACL DRYRUN`: a string, not an error, so the key may be in it as it is.
    pub fn to_dryrun_text(&self) -> Vec<u8> {
        let user = self.user.as_bytes();
        let quoted = |before: &[u8], after: &[u8]| [before, b"'", &self.object, b"'", after].concat();
        let what = match self.denied {
            Denied::Command => quoted(b"run the ", b" command"),
            Denied::Key => quoted(b"access the ", b" key"),
            Denied::Channel => quoted(b"access the ", b" channel"),
            Denied::Database => [b"access database ", &*self.object].concat(),
        };
        [b"User ", user, b" has no permissions to ", &what].concat()
    }

    /// Under which reason it goes into the ACL LOG.
    pub fn log_reason(&self) -> LogReason {
        match self.denied {
            Denied::Command => LogReason::Command,
            Denied::Database => LogReason::Database,
            Denied::Key => LogReason::Key,
            Denied::Channel => LogReason::Channel,
        }
    }

    fn sentence(&self, detail: ErrorDetail) -> String {
        let (user, object) = (&self.user, printable::escaped(&self.object, SHOWN_BYTES_MAX));
        match (self.denied, detail) {
            (Denied::Command, ErrorDetail::Redis) => {
                format!("User {user} has no permissions to run the '{object}' command")
            }
            (Denied::Command, ErrorDetail::Full) => {
                format!("User {user} has no permissions to run the '{object}' command{}", self.hint.text())
            }
            (Denied::Key, ErrorDetail::Full) => {
                format!("User {user} has no permissions to access key '{object}'{}", self.hint.text())
            }
            (Denied::Channel, ErrorDetail::Full) => {
                format!("User {user} has no permissions to access channel '{object}'{}", self.hint.text())
            }
            (Denied::Database, ErrorDetail::Full) if !self.object.iter().all(u8::is_ascii_digit) => {
                let hint = self.hint.text();
                format!("User {user} has no permissions to access every database, as '{object}' does{hint}")
            }
            (Denied::Database, ErrorDetail::Full) => {
                format!("User {user} has no permissions to access database {object}{}", self.hint.text())
            }
            (Denied::Key, ErrorDetail::Redis) => "No permissions to access a key".to_owned(),
            (Denied::Channel, ErrorDetail::Redis) => "No permissions to access a channel".to_owned(),
            (Denied::Database, ErrorDetail::Redis) => "No permissions to access database".to_owned(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(ErrorDetail::Full))
    }
}

impl std::error::Error for Denial {}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(denied: Denied, object: &[u8]) -> Denial {
        Denial::new(&UserName::new(b"litellm").unwrap(), denied, object, 1)
    }

    #[test]
    fn the_full_text_says_what_was_denied() {
        for (denied, object, expected) in [
            (Denied::Command, "config|set", "NOPERM User litellm has no permissions to run the 'config|set' command"),
            (
                Denied::Key,
                "langfuse:test:key",
                "NOPERM User litellm has no permissions to access key 'langfuse:test:key'",
            ),
            (Denied::Channel, "x", "NOPERM User litellm has no permissions to access channel 'x'"),
            (Denied::Database, "1", "NOPERM User litellm has no permissions to access database 1"),
        ] {
            assert_eq!(denial(denied, object.as_bytes()).to_text(ErrorDetail::Full), expected);
        }
    }

    #[test]
    fn redis_texts_can_be_had() {
        for (denied, expected) in [
            (Denied::Command, "NOPERM User litellm has no permissions to run the 'x' command"),
            (Denied::Key, "NOPERM No permissions to access a key"),
            (Denied::Channel, "NOPERM No permissions to access a channel"),
            (Denied::Database, "NOPERM No permissions to access database"),
        ] {
            assert_eq!(denial(denied, b"x").to_text(ErrorDetail::Redis), expected);
        }
        let script = denial(Denied::Key, b"k").to_script_text(ErrorDetail::Redis);
        assert_eq!(script, "ACL failure in script: No permissions to access a key");
        assert!(
            denial(Denied::Key, b"k").to_exec_text().ends_with("reason: no permission to touch the specified keys")
        );
    }

    #[test]
    fn dryrun_says_it_in_its_own_words() {
        for (denied, expected) in [
            (Denied::Command, "User litellm has no permissions to run the 'x' command"),
            (Denied::Key, "User litellm has no permissions to access the 'x' key"),
            (Denied::Channel, "User litellm has no permissions to access the 'x' channel"),
            (Denied::Database, "User litellm has no permissions to access database x"),
        ] {
            assert_eq!(denial(denied, b"x").to_dryrun_text(), expected.as_bytes());
        }
    }

    #[test]
    fn a_key_cannot_forge_a_second_reply_nor_flood_the_first() {
        let text = denial(Denied::Key, b"a\r\n+OK").to_text(ErrorDetail::Full);
        assert_eq!(text, "NOPERM User litellm has no permissions to access key 'a\\x0d\\x0a+OK'");
        let text = denial(Denied::Key, &[b'k'; 5000]).to_text(ErrorDetail::Full);
        assert!(text.ends_with(&format!("'{}...'", "k".repeat(SHOWN_BYTES_MAX))));
    }
}
