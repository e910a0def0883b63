//! A small command table for the rules' sake.

use keyward_acl::{Catalog, Category, CategorySet, CommandId, Treatment};

/// Name and categories; a container stands before its subcommands.
const ROWS: [(&str, &[Category]); 12] = [
    ("get", &[Category::Read, Category::String, Category::Fast]),
    ("set", &[Category::Write, Category::String, Category::Slow]),
    ("del", &[Category::Keyspace, Category::Write, Category::Slow]),
    ("exists", &[Category::Keyspace, Category::Read, Category::Fast]),
    ("publish", &[Category::Pubsub, Category::Fast]),
    ("select", &[Category::Connection, Category::Fast]),
    ("auth", &[Category::Connection, Category::Fast]),
    ("config", &[Category::Slow]),
    ("config|get", &[Category::Admin, Category::Slow, Category::Dangerous]),
    ("config|set", &[Category::Admin, Category::Slow, Category::Dangerous]),
    ("client", &[Category::Slow]),
    ("client|kill", &[Category::Admin, Category::Slow, Category::Dangerous, Category::Connection]),
];

pub(super) struct SmallCatalog;

impl Catalog for SmallCatalog {
    fn count(&self) -> usize {
        ROWS.len()
    }

    fn find(&self, full_name_lower: &str) -> Option<CommandId> {
        let row = ROWS.iter().position(|(name, _)| *name == full_name_lower)?;
        CommandId::try_from(row).ok()
    }

    fn full_name(&self, id: CommandId) -> &str {
        ROWS[usize::from(id)].0
    }

    fn parent(&self, id: CommandId) -> Option<CommandId> {
        self.find(self.full_name(id).split_once('|')?.0)
    }

    fn subcommands(&self, id: CommandId) -> &[CommandId] {
        match self.full_name(id) {
            "config" => &[8, 9],
            "client" => &[11],
            _ => &[],
        }
    }

    fn categories(&self, id: CommandId) -> CategorySet {
        CategorySet::of(ROWS[usize::from(id)].1)
    }

    fn is_no_auth(&self, id: CommandId) -> bool {
        self.full_name(id) == "auth"
    }

    fn treatment(&self, id: CommandId) -> Treatment {
        if self.full_name(id) == "config|set" { Treatment::Never } else { Treatment::ByRule }
    }
}
