//! What rules need to know about commands: their names, numbers and categories.
//!
//! It refuses to know the commands themselves; the engine's command table implements [`Catalog`].

use crate::category::CategorySet;

/// A row in the command table of this process. Never stored and never sent: another version numbers differently.
pub type CommandId = u16;

/// What the walls around a user who does not hold every key (`~*`) do to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Nothing: the rules decide.
    ByRule,
    /// Allowed whatever the rules say, for it touches nothing: PING.
    Always,
    /// Allowed with this first argument, whatever the rules say: SELECT 0.
    AlwaysWith(&'static str),
    /// Refused whatever the rules say, for nothing of it can be kept within walls: the ceiling.
    Never,
    /// Refused unless the rules that allow it hold every key of the user's tenant, for it concerns all of them: SWAPDB.
    OfWholeTenant,
    /// Its keys must be readable too, for it answers with what lies there although it is declared as a mere write.
    ReadsItsKeys,
    /// So harmless within walls that taking away `@admin` or `@dangerous` does not take it away.
    Tame,
}

/// The commands of this process, subcommands included, numbered without gaps.
pub trait Catalog {
    /// How many rows there are; numbers are `0..count`.
    fn count(&self) -> usize;
    /// The row of a full name in lower case: `get`, `config|get`.
    fn find(&self, full_name_lower: &str) -> Option<CommandId>;
    /// The full name in lower case.
    fn full_name(&self, id: CommandId) -> &str;
    /// The container of a subcommand.
    fn parent(&self, id: CommandId) -> Option<CommandId>;
    /// The subcommands of a container; empty for every other row.
    fn subcommands(&self, id: CommandId) -> &[CommandId];
    /// Its categories.
    fn categories(&self, id: CommandId) -> CategorySet;
    /// Whether it runs before a login and whatever the rules say: AUTH, HELLO, RESET, QUIT.
    fn is_no_auth(&self, id: CommandId) -> bool;
    /// What the walls do to it.
    fn treatment(&self, id: CommandId) -> Treatment;
}
