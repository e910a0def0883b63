//! For this crate's tests: a small command table, and short ways to a user and a policy.

use crate::catalog::{Catalog, CommandId, Treatment};
use crate::category::{Category, CategorySet};
use crate::policy::{ChannelUse, KeyUse, Policy, Request, Walls};
use crate::rule::parse_rules;
use crate::user::{User, UserName};
use crate::{DatabaseUse, Denial, KeyAccess};

struct Row {
    name: &'static str,
    parent: Option<CommandId>,
    subcommands: Vec<CommandId>,
    categories: CategorySet,
    no_auth: bool,
}

pub(crate) struct FakeCatalog {
    rows: Vec<Row>,
}

impl FakeCatalog {
    pub(crate) fn new() -> FakeCatalog {
        use Category::{Admin, Connection, Dangerous, Fast, Keyspace, Pubsub, Read, Slow, String as Strings, Write};
        let mut catalog = FakeCatalog { rows: Vec::new() };
        let mut add = |name: &'static str, categories: &[Category]| {
            let parent = name.split_once('|').and_then(|(parent, _)| catalog.find(parent));
            let id = catalog.rows.len() as CommandId;
            if let Some(parent) = parent {
                catalog.rows[usize::from(parent)].subcommands.push(id);
            }
            let no_auth = matches!(name, "auth" | "hello" | "reset" | "quit");
            let categories = CategorySet::of(categories);
            catalog.rows.push(Row { name, parent, subcommands: Vec::new(), categories, no_auth });
        };
        add("get", &[Read, Strings, Fast]);
        add("set", &[Write, Strings, Slow]);
        add("mset", &[Write, Strings, Slow]);
        add("copy", &[Keyspace, Write, Slow]);
        add("exists", &[Keyspace, Read, Fast]);
        add("keys", &[Keyspace, Read, Slow, Dangerous]);
        add("flushall", &[Keyspace, Write, Slow, Dangerous]);
        add("select", &[Connection, Fast]);
        add("auth", &[Connection, Fast]);
        add("publish", &[Pubsub, Fast]);
        add("subscribe", &[Pubsub, Slow]);
        add("psubscribe", &[Pubsub, Slow]);
        add("config", &[Slow]);
        add("config|get", &[Admin, Slow, Dangerous]);
        add("config|set", &[Admin, Slow, Dangerous]);
        add("client", &[Slow]);
        add("client|id", &[Slow, Connection]);
        add("client|list", &[Admin, Slow, Dangerous, Connection]);
        add("client|kill", &[Admin, Slow, Dangerous, Connection]);
        add("swapdb", &[Keyspace, Write, Fast, Dangerous]);
        catalog
    }

    pub(crate) fn id(&self, name: &str) -> CommandId {
        self.find(name).unwrap_or_else(|| panic!("the test's catalog has no {name}"))
    }
}

impl Catalog for FakeCatalog {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn find(&self, full_name_lower: &str) -> Option<CommandId> {
        self.rows.iter().position(|row| row.name == full_name_lower).map(|id| id as CommandId)
    }

    fn full_name(&self, id: CommandId) -> &str {
        self.rows[usize::from(id)].name
    }

    fn parent(&self, id: CommandId) -> Option<CommandId> {
        self.rows[usize::from(id)].parent
    }

    fn subcommands(&self, id: CommandId) -> &[CommandId] {
        &self.rows[usize::from(id)].subcommands
    }

    fn categories(&self, id: CommandId) -> CategorySet {
        self.rows[usize::from(id)].categories
    }

    fn is_no_auth(&self, id: CommandId) -> bool {
        self.rows[usize::from(id)].no_auth
    }

    fn treatment(&self, id: CommandId) -> Treatment {
        match self.full_name(id) {
            "config|set" => Treatment::Never,
            "swapdb" => Treatment::OfWholeTenant,
            "select" => Treatment::AlwaysWith("0"),
            "client|id" => Treatment::Always,
            "client|list" => Treatment::Tame,
            "mset" => Treatment::ReadsItsKeys,
            _ => Treatment::ByRule,
        }
    }
}

/// The user these words make.
pub(crate) fn user(name: &str, rules: &str) -> User {
    let tokens: Vec<&str> = rules.split_whitespace().collect();
    let mut user = User::new(UserName::new(name.as_bytes()).unwrap(), 1);
    parse_rules(&tokens).unwrap().iter().for_each(|rule| user.apply(rule));
    user
}

/// What user `t` with these rules may do.
pub(crate) fn policy(rules: &str) -> Policy {
    Policy::compile(&user("t", rules), &FakeCatalog::new(), Walls::Up)
}

/// A request as a test says it.
pub(crate) struct Try<'a> {
    pub(crate) command: &'a str,
    pub(crate) keys: &'a [(&'a str, KeyAccess)],
    pub(crate) channels: &'a [(&'a str, bool)],
    pub(crate) databases: &'a [DatabaseUse],
    pub(crate) argument: Option<&'a str>,
}

impl Try<'_> {
    pub(crate) fn command(command: &str) -> Try<'_> {
        Try { command, keys: &[], channels: &[], databases: &[], argument: None }
    }

    pub(crate) fn run(&self, policy: &Policy) -> Result<(), Denial> {
        let catalog = FakeCatalog::new();
        let mut argv: Vec<&[u8]> = self.command.split('|').map(str::as_bytes).collect();
        argv.extend(self.argument.map(str::as_bytes));
        let first = argv.len() as u32;
        let places = first..;
        let keys: Vec<KeyUse<'_>> = self
            .keys
            .iter()
            .zip(places.clone())
            .map(|((key, access), argument)| KeyUse { key: key.as_bytes(), access: *access, argument })
            .collect();
        let channels: Vec<ChannelUse<'_>> = self
            .channels
            .iter()
            .zip(places)
            .map(|((channel, pattern), argument)| ChannelUse {
                channel: channel.as_bytes(),
                pattern: *pattern,
                argument,
            })
            .collect();
        argv.extend(keys.iter().map(|key| key.key));
        argv.extend(channels.iter().map(|channel| channel.channel));
        policy.check(&Request {
            command: catalog.id(self.command),
            argv: &argv,
            keys: &keys,
            channels: &channels,
            databases: self.databases,
        })
    }
}
