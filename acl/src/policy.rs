//! A user's rules compiled for the commands of this process, and the one check of a request against them.
//!
//! ```text
//!   words                      compiled
//!   +@all -@admin +config|get  a bit per command, and the few first arguments
//!   ~app:* %R~shared:*         per kind of access: exact keys, prefixes (both sorted), other patterns
//! ```
//! Immutable and shared. A word this process does not know grants nothing; a category it does not know, taken away,
//! takes everything away, for guessing wrong there would grant what somebody forbade.
//!
//! Walls. A set of permissions that does not hold every key (`~*`) is *confined*: commands above the ceiling
//! ([`Treatment::Never`]) are not among its bits, whatever its rules say, nor those that concern every key
//! ([`Treatment::OfWholeTenant`]) unless it holds all of a tenant; what is allowed beyond keys is told by
//! [`Policy::is_confined_for`]. Since it is compiled in, it costs a request nothing.
//!
//! The gate asks in this order, cheapest first: [`Policy::is_unrestricted`], [`Policy::allows_simple`],
//! [`Policy::check`]; the first two only ever say yes to what the last one allows.
//! This file refuses to know how keys are found in a request, and what happens to a refused one.

mod patterns;

use crate::catalog::{Catalog, CommandId, Treatment};
use crate::category::Category;
use crate::denial::{Denial, Denied, Hint};
use crate::fence::Fence;
use crate::rule::{KeyAccess, Mode};
use crate::user::{CommandRule, Databases, KeyPattern, Selector, User, UserName};
use patterns::{ChannelMatcher, KeyMatcher};

/// A request with everything it touches, as the command's own parser found it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The command, or the subcommand.
    pub command: CommandId,
    /// The request, name first.
    pub argv: &'a [&'a [u8]],
    /// Every key it touches.
    pub keys: &'a [KeyUse<'a>],
    /// Every channel it names.
    pub channels: &'a [ChannelUse<'a>],
    /// Every database it touches; empty for commands that touch none (PING, INFO, ACL).
    pub databases: &'a [DatabaseUse],
}

/// A key in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is done to it.
    pub access: KeyAccess,
    /// Its place in the request.
    pub argument: u32,
}

/// A channel in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelUse<'a> {
    /// The channel, or the pattern.
    pub channel: &'a [u8],
    /// Whether it is a pattern (PSUBSCRIBE): then it must be allowed literally.
    pub pattern: bool,
    /// Its place in the request.
    pub argument: u32,
}

/// A database in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseUse {
    /// This one.
    Index(u32),
    /// All of them (FLUSHALL).
    Every,
}

/// Whether users who do not hold every key are kept within walls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Walls {
    /// They are.
    #[default]
    Up,
    /// They are, and so is this user even with `~*`: it belongs to a tenant.
    Closed,
    /// As Redis has it: rules alone decide (`strict-redis-acl yes`).
    Down,
}

/// Compiled rules. See the head of this file.
#[derive(Clone, Debug)]
pub struct Policy {
    user: UserName,
    unrestricted: bool,
    /// The root set does not hold every key, or the user belongs to a tenant.
    confined: bool,
    walls: Walls,
    /// The user of a tenant holds every key of it, by one set of permissions.
    whole_tenant: bool,
    /// Patterns of keys that its tenant borrows.
    borrowed: Box<[Box<[u8]>]>,
    /// Other users that exist for this one, by name, sorted.
    administered: Box<[Box<[u8]>]>,
    root: CompiledSelector,
    selectors: Box<[CompiledSelector]>,
    /// Which commands have a name of two words; needed only to say what was refused.
    subcommands: CommandBits,
    /// Which commands are above the ceiling, likewise.
    ceiling: CommandBits,
    /// Which commands concern every key there is, likewise.
    of_whole_tenants: CommandBits,
    /// What the widest rules would allow the user, if what its own forbid is only noted.
    widest: Option<Box<Policy>>,
    /// Every key pattern, likewise.
    patterns: Box<[KeyPattern]>,
    /// Every channel pattern, likewise.
    channels: Box<[Box<[u8]>]>,
}

impl Policy {
    /// Compiles the rules of `user`. Takes some microseconds; done once per user and change.
    pub fn compile(user: &User, catalog: &dyn Catalog, walls: Walls) -> Policy {
        Policy::compile_within(user, catalog, walls, None)
    }

    /// The same for the user of a tenant: whatever the rules say holds within the fence, and the walls are up.
    pub fn compile_within(user: &User, catalog: &dyn Catalog, walls: Walls, fence: Option<&Fence>) -> Policy {
        let walls = if fence.is_some() { Walls::Closed } else { walls };
        let root = CompiledSelector::compile(&user.root, catalog, walls, fence);
        let confined = confines(walls, &root.keys);
        let compiled = |selector| CompiledSelector::compile(selector, catalog, walls, fence);
        let bits = |holds: &dyn Fn(CommandId) -> bool| {
            let mut bits = CommandBits::new(catalog.count(), false);
            command_ids(catalog).filter(|id| holds(*id)).for_each(|id| bits.set(id, true));
            bits
        };
        let mut patterns = user.selectors.iter().fold(user.root.keys.to_vec(), |mut all, selector| {
            all.extend(selector.keys.iter().cloned());
            all
        });
        // Every key is every key within the fence.
        if let Some(fence) = fence.filter(|_| user.root.all_keys || user.selectors.iter().any(|of| of.all_keys)) {
            patterns.extend(fence.patterns());
        }
        let sets = || std::iter::once(&user.root).chain(&user.selectors);
        let selectors: Box<[CompiledSelector]> = user.selectors.iter().map(compiled).collect();
        let treated = |as_: Treatment| bits(&|id| walls != Walls::Down && catalog.treatment(id) == as_);
        let named = sets().flat_map(|set| set.channels.clone());
        // Every channel is every channel within the fence.
        let fenced = fence.filter(|_| sets().any(|set| set.all_channels)).and_then(Fence::channel_prefixes);
        let plain = fenced.into_iter().flatten().filter(|prefix| !prefix.starts_with(b"{"));
        let every = plain.map(|prefix| [&**prefix, b"*"].concat().into());
        Policy {
            user: user.name.clone(),
            unrestricted: walls != Walls::Closed && root.is_unrestricted(catalog),
            confined,
            walls,
            whole_tenant: std::iter::once(&root).chain(&selectors).any(|set| holds_whole(&set.keys, fence)),
            borrowed: fence.into_iter().flat_map(Fence::granted).map(|granted| granted.pattern.clone()).collect(),
            administered: Box::default(),
            root,
            selectors,
            subcommands: bits(&|id| catalog.parent(id).is_some()),
            ceiling: treated(Treatment::Never),
            of_whole_tenants: treated(Treatment::OfWholeTenant),
            widest: (user.mode == Mode::Report)
                .then(|| Box::new(Policy::widest_for(user, catalog, (walls, confined), fence))),
            patterns: patterns.into(),
            channels: named.chain(every).collect(),
        }
    }

    /// What no rule of this user could exceed: every command, key, channel and database, within the walls that are around
    /// it now.
    fn widest_for(
        user: &User,
        catalog: &dyn Catalog,
        (walls, confined): (Walls, bool),
        fence: Option<&Fence>,
    ) -> Policy {
        let mut widest = User::new(user.name.clone(), user.created);
        widest.root.all_keys = true;
        widest.root.all_channels = true;
        widest.root.all_commands = true;
        // With every key a user would be confined no more: whoever is only watched stays where it is.
        let walls = if confined { Walls::Closed } else { walls };
        Policy::compile_within(&widest, catalog, walls, fence)
    }

    /// What is only noted of a confined user of no tenant (`mode=report`) leaves out the keys that begin with these, or `{` and
    /// one of them: they are tenants', and no rule is tried out on them. What its own patterns allow stays allowed.
    pub fn report_outside<'p>(&mut self, owned: impl Iterator<Item = &'p [u8]>) {
        let mut owned = owned.map(Box::from).peekable();
        let every_key = self.root.keys.allows_all(KeyAccess::READ_WRITE);
        if !every_key
            && owned.peek().is_some()
            && let Some(widest) = &mut self.widest
        {
            widest.unrestricted = false;
            widest.root.keys = KeyMatcher::outside(owned, &self.patterns);
            widest.root.glance = Glance::NOTHING;
        }
    }

    /// What the widest rules would allow, for a user whose rules forbid nothing yet (`mode=report`): a request that is refused
    /// here and allowed there is noted and runs.
    #[inline]
    pub fn only_reports(&self) -> Option<&Policy> {
        self.widest.as_deref()
    }

    /// Whose rules these are.
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// Every command, key, channel and database: nothing to check.
    #[inline]
    pub fn is_unrestricted(&self) -> bool {
        self.unrestricted
    }

    /// Whether the user's own permissions do not hold every key (`~*`): the user of a tenant. For one command,
    /// [`Policy::is_confined_for`] knows better.
    #[inline]
    pub fn is_confined(&self) -> bool {
        self.confined
    }

    /// Whether the user belongs to a tenant and holds every key of it: nothing of the tenant's need be hidden.
    #[inline]
    pub fn holds_tenant(&self) -> bool {
        self.whole_tenant
    }

    /// The same of whoever runs what concerns all of them: rules that only note what they forbid let it happen.
    pub fn may_change_tenant(&self) -> bool {
        self.only_reports().unwrap_or(self).whole_tenant
    }

    /// From now on these users exist for this one, too: they are of its tenant, whose users it may look after.
    pub fn administer<'n>(&mut self, users: impl Iterator<Item = &'n [u8]>) {
        let mut users: Vec<Box<[u8]>> = users.map(Into::into).collect();
        users.sort_unstable();
        self.administered = users.into();
    }

    /// Whether this other user exists for it.
    pub fn administers(&self, user: &[u8]) -> bool {
        self.administered.binary_search_by(|known| (**known).cmp(user)).is_ok()
    }

    /// The patterns of keys that its tenant borrows from others. Whether the user may touch one is asked for each.
    #[inline]
    pub fn borrowed(&self) -> &[Box<[u8]>] {
        &self.borrowed
    }

    /// Whether no set of permissions allows this command and holds every key: then a command without keys must stay
    /// within what the user may touch.
    pub fn is_confined_for(&self, command: CommandId) -> bool {
        !self.sets().any(|set| set.commands.get(command) && !confines(self.walls, &set.keys))
            && self.walls != Walls::Down
    }

    /// Whether the user's own permissions hold this command, first arguments aside. No is not final.
    #[inline]
    pub fn allows_command(&self, command: CommandId) -> bool {
        self.root.commands.get(command)
    }

    /// Whether some set of permissions holds this command, whatever its arguments.
    pub fn holds_command(&self, command: CommandId) -> bool {
        self.sets().any(|set| set.commands.get(command))
    }

    /// Whether the user's own permissions hold this key. No is not final.
    #[inline]
    pub fn allows_key(&self, key: &[u8], access: KeyAccess) -> bool {
        self.root.keys.allows(key, access)
    }

    /// Whether the user's own permissions hold a command that touches one key and no channel. No is not final:
    /// [`Policy::check`] decides.
    #[inline]
    pub fn allows_simple(&self, command: CommandId, key: &[u8], access: KeyAccess) -> bool {
        self.root.simple.get(command) && self.root.allows_key_anywhere(key, access)
    }

    /// The same for one that touches several keys.
    #[inline]
    pub fn allows_simple_keys(&self, command: CommandId, keys: &[KeyUse<'_>]) -> bool {
        let holds = |named: &KeyUse<'_>| self.root.allows_key_anywhere(named.key, named.access);
        self.root.simple.get(command) && keys.iter().all(holds)
    }

    /// Whether the user may run this request: one set of permissions must allow all of it, the user's own first.
    /// Execution and `ACL DRYRUN` both ask here.
    #[inline]
    pub fn check(&self, request: &Request<'_>) -> Result<(), Denial> {
        if self.unrestricted {
            return Ok(());
        }
        match self.root.check(request) {
            Ok(()) => Ok(()),
            Err(miss) => self.check_selectors(request, miss),
        }
    }

    fn check_selectors(&self, request: &Request<'_>, root: Miss) -> Result<(), Denial> {
        let mut worst = root;
        for selector in &self.selectors {
            match selector.check(request) {
                Ok(()) => return Ok(()),
                Err(miss) if (miss.denied, miss.argument) > (worst.denied, worst.argument) => worst = miss,
                Err(_) => {}
            }
        }
        Err(self.denial(request, worst))
    }

    /// Whether one set of permissions allows the request and holds `access` to every key whatever its name: what SORT
    /// needs for BY and GET.
    pub fn allows_with_every_key(&self, request: &Request<'_>, access: KeyAccess) -> bool {
        self.sets().any(|set| set.keys.allows_all(access) && set.check(request).is_ok())
    }

    /// Whether some set of permissions holds any right to this key, whatever the command: what SCAN may show.
    #[inline]
    pub fn may_touch_key(&self, key: &[u8]) -> bool {
        self.unrestricted || self.sets().any(|set| set.keys.allows(key, KeyAccess::EITHER))
    }

    /// Whether some set of permissions holds this right to this key, whatever the command: what tracking and keyspace
    /// events may tell.
    #[inline]
    pub fn may_access_key(&self, key: &[u8], access: KeyAccess) -> bool {
        self.unrestricted || self.sets().any(|set| set.keys.allows(key, access))
    }

    /// Whether some set of permissions holds this channel, or this pattern literally: whether a subscription may stay.
    pub fn may_use_channel(&self, channel: &[u8], pattern: bool) -> bool {
        self.unrestricted || self.sets().any(|set| set.channels.allows(channel, pattern))
    }

    /// Whether some set of permissions holds this database.
    pub fn may_use_database(&self, database: u32) -> bool {
        self.sets().any(|set| set.any_database || set.databases.allow(database))
    }

    /// What every key the user may touch begins with, one of these; `None` if a key may begin with anything. Sorted,
    /// and none begins with another.
    pub fn key_prefixes(&self) -> Option<Vec<&[u8]>> {
        let mut prefixes = Vec::new();
        for set in self.sets() {
            prefixes.extend(set.keys.prefixes()?);
        }
        prefixes.sort_unstable();
        prefixes.dedup_by(|longer, shorter| longer.starts_with(shorter));
        Some(prefixes)
    }

    fn sets(&self) -> impl Iterator<Item = &CompiledSelector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    #[cold]
    fn denial(&self, request: &Request<'_>, miss: Miss) -> Denial {
        let object = match miss.denied {
            Denied::Command => self.command_name(request),
            Denied::Database => match request.databases.get(miss.position) {
                Some(DatabaseUse::Index(number)) => number.to_string().into_bytes(),
                _ => self.command_name(request),
            },
            Denied::Key => request.keys.get(miss.position).map_or_else(Vec::new, |key| key.key.to_vec()),
            Denied::Channel => request.channels.get(miss.position).map_or_else(Vec::new, |use_| use_.channel.to_vec()),
        };
        let hint = match miss.denied {
            Denied::Command if self.ceiling.get(request.command) => Hint::Ceiling,
            Denied::Command if self.of_whole_tenants.get(request.command) && !self.whole_tenant => Hint::NotWholeTenant,
            Denied::Key => request.keys.get(miss.position).map_or(Hint::None, |key| self.nearest(key.key)),
            Denied::Channel => {
                request.channels.get(miss.position).map_or(Hint::None, |use_| self.nearest_channel(use_))
            }
            Denied::Database => match &self.root.databases {
                Databases::Only(numbers) if self.selectors.is_empty() => Hint::Databases(numbers.clone()),
                _ => Hint::None,
            },
            Denied::Command => Hint::None,
        };
        Denial::new(&self.user, miss.denied, &object, miss.argument).with(hint)
    }

    /// The pattern that a refused key comes closest to: one that matches it but grants too little, else the one whose
    /// beginning it shares for longest.
    fn nearest(&self, key: &[u8]) -> Hint {
        let shared = |pattern: &KeyPattern| pattern.pattern.iter().zip(key).take_while(|(a, b)| a == b).count();
        let matching = self.patterns.iter().find(|pattern| crate::glob::matches(&pattern.pattern, key));
        match matching {
            Some(pattern) => Hint::TooLittle(pattern.word().into()),
            // The first of those that are equally near: the order of the rules means something to whoever wrote them.
            None => match self.patterns.iter().rev().max_by_key(|pattern| shared(pattern)) {
                Some(pattern) => Hint::Nearest(pattern.word().into()),
                None => Hint::NoPattern,
            },
        }
    }

    /// The same for a channel. A pattern that would be subscribed to must be a user's own, literally.
    fn nearest_channel(&self, wanted: &ChannelUse<'_>) -> Hint {
        let shared = |pattern: &[u8]| pattern.iter().zip(wanted.channel).take_while(|(a, b)| a == b).count();
        let nearest = self.channels.iter().rev().max_by_key(|pattern| shared(pattern));
        nearest.map_or(Hint::NoChannel, |pattern| Hint::Nearest([b"&", &**pattern].concat().into()))
    }

    /// `get`, `config|set`: read off the request, whose first words named the command.
    fn command_name(&self, request: &Request<'_>) -> Vec<u8> {
        let words = if self.subcommands.get(request.command) { 2 } else { 1 };
        request.argv.iter().take(words).map(|word| word.to_ascii_lowercase()).collect::<Vec<_>>().join(&b'|')
    }
}

/// The first thing a set of permissions lacks for a request.
#[derive(Clone, Copy, Debug)]
struct Miss {
    denied: Denied,
    argument: u32,
    position: usize,
}

/// Whether a set of permissions with these keys is kept within walls.
fn confines(walls: Walls, keys: &KeyMatcher) -> bool {
    match walls {
        Walls::Up => !keys.allows_all(KeyAccess::READ_WRITE),
        Walls::Closed => true,
        Walls::Down => false,
    }
}

/// Whether a set of permissions with these keys holds every key of the tenant whose fence this is.
fn holds_whole(keys: &KeyMatcher, fence: Option<&Fence>) -> bool {
    fence.is_some_and(|fence| keys.allows_whole(fence))
}

/// One set of permissions.
#[derive(Clone, Debug)]
struct CompiledSelector {
    commands: CommandBits,
    /// Those of them that need what their keys' flags say, and no more.
    simple: CommandBits,
    /// Commands that are allowed with this first argument only.
    first_arguments: Box<[(CommandId, Box<[u8]>)]>,
    any_database: bool,
    databases: Databases,
    keys: KeyMatcher,
    /// What can be told about keys at a glance.
    glance: Glance,
    channels: ChannelMatcher,
}

/// Keys with one beginning of at most sixteen bytes, all of which are allowed in every database: what nearly every user of a
/// shared cache holds. Two words are compared, where the patterns themselves cost a call. No is not final.
#[derive(Clone, Copy, Debug)]
struct Glance {
    /// Which bits count, and what they must be: those of the first eight bytes, and of the next.
    first: (u64, u64),
    second: (u64, u64),
}

impl Glance {
    /// No key shows this.
    const NOTHING: Glance = Glance { first: (0, 1), second: (0, 0) };

    fn of(beginning: Option<&[u8]>) -> Glance {
        let Some(beginning) = beginning.filter(|beginning| beginning.len() <= 16) else { return Glance::NOTHING };
        let (mut counts, mut bytes) = ([0; 16], [0; 16]);
        counts[..beginning.len()].fill(0xff);
        bytes[..beginning.len()].copy_from_slice(beginning);
        let (counts, bytes) = (halves(&counts), halves(&bytes));
        Glance { first: (counts.0, bytes.0), second: (counts.1, bytes.1) }
    }

    #[inline]
    fn shows(&self, key: &[u8]) -> bool {
        let Some(first) = key.first_chunk::<8>() else { return false };
        if u64::from_ne_bytes(*first) & self.first.0 != self.first.1 {
            return false;
        }
        self.second.0 == 0 || key.first_chunk::<16>().is_some_and(|all| halves(all).1 & self.second.0 == self.second.1)
    }
}

#[inline]
fn halves(bytes: &[u8; 16]) -> (u64, u64) {
    let all = u128::from_le_bytes(*bytes);
    ((all as u64).to_le(), ((all >> 64) as u64).to_le())
}

impl CompiledSelector {
    fn compile(selector: &Selector, catalog: &dyn Catalog, walls: Walls, fence: Option<&Fence>) -> CompiledSelector {
        let keys = KeyMatcher::fenced(selector.all_keys, &selector.keys, fence);
        let confined = confines(walls, &keys);
        let mut compiler = CommandCompiler {
            catalog,
            confined,
            holds_tenant: holds_whole(&keys, fence),
            bits: CommandBits::new(catalog.count(), selector.all_commands),
            first_arguments: Vec::new(),
        };
        selector.commands.iter().for_each(|rule| compiler.apply(rule));
        for id in command_ids(catalog).filter(|id| catalog.is_no_auth(*id)) {
            compiler.bits.set(id, true);
        }
        let simple = compiler.wall_in();
        CompiledSelector {
            commands: compiler.bits,
            simple,
            first_arguments: compiler.first_arguments.into(),
            any_database: selector.databases == Databases::All,
            glance: if selector.databases == Databases::All {
                Glance::of(keys.only_beginning())
            } else {
                Glance::NOTHING
            },
            databases: selector.databases.clone(),
            keys,
            channels: ChannelMatcher::new(
                selector.all_channels,
                &selector.channels,
                fence.and_then(Fence::channel_prefixes),
            ),
        }
    }

    fn is_unrestricted(&self, catalog: &dyn Catalog) -> bool {
        let every_command = || command_ids(catalog).all(|id| self.commands.get(id));
        self.keys.allows_all(KeyAccess::READ_WRITE)
            && self.channels.allows_all()
            && self.any_database
            && every_command()
    }

    /// Whether this may be done to the key in every database.
    #[inline]
    fn allows_key_anywhere(&self, key: &[u8], access: KeyAccess) -> bool {
        self.glance.shows(key) || self.any_database && self.keys.allows(key, access)
    }

    #[inline]
    fn check(&self, request: &Request<'_>) -> Result<(), Miss> {
        if !self.commands.get(request.command) && !self.allows_first_argument(request) {
            return Err(Miss { denied: Denied::Command, argument: 0, position: 0 });
        }
        if !self.any_database
            && let Some(position) = request.databases.iter().position(|database| !self.allows_database(*database))
        {
            return Err(Miss { denied: Denied::Database, argument: 0, position });
        }
        let reads_too = self.commands.get(request.command) && !self.simple.get(request.command);
        for (position, key) in request.keys.iter().enumerate() {
            let access = KeyAccess { read: key.access.read || reads_too, ..key.access };
            if !self.keys.allows(key.key, access) {
                return Err(Miss { denied: Denied::Key, argument: key.argument, position });
            }
        }
        for (position, channel) in request.channels.iter().enumerate() {
            if !self.channels.allows(channel.channel, channel.pattern) {
                return Err(Miss { denied: Denied::Channel, argument: channel.argument, position });
            }
        }
        Ok(())
    }

    fn allows_first_argument(&self, request: &Request<'_>) -> bool {
        let Some(argument) = request.argv.get(1) else { return false };
        let mut allowed = self.first_arguments.iter().filter(|(command, _)| *command == request.command);
        allowed.any(|(_, allowed)| allowed.eq_ignore_ascii_case(argument))
    }

    fn allows_database(&self, database: DatabaseUse) -> bool {
        match database {
            DatabaseUse::Index(number) => self.databases.allow(number),
            DatabaseUse::Every => false,
        }
    }
}

/// Turns command rules into bits, in order, as Redis does.
struct CommandCompiler<'c> {
    catalog: &'c dyn Catalog,
    confined: bool,
    holds_tenant: bool,
    bits: CommandBits,
    first_arguments: Vec<(CommandId, Box<[u8]>)>,
}

impl CommandCompiler<'_> {
    fn apply(&mut self, rule: &CommandRule) {
        match rule.target.strip_prefix('@') {
            Some(category) => self.apply_category(rule.allow, category),
            None => self.apply_command(rule.allow, &rule.target),
        }
    }

    fn apply_category(&mut self, allow: bool, name: &str) {
        match Category::find(name.as_bytes()) {
            Some(category) => {
                let spared = !allow && self.confined && matches!(category, Category::Admin | Category::Dangerous);
                let tame = |id| spared && self.catalog.treatment(id) == Treatment::Tame;
                let of_category = |id: &CommandId| self.catalog.categories(*id).contains(category) && !tame(*id);
                for id in command_ids(self.catalog).filter(of_category) {
                    self.set(id, allow);
                }
            }
            None if allow => {}
            // What it was meant to take away is unknown here, so nothing is left.
            None => command_ids(self.catalog).for_each(|id| self.set(id, false)),
        }
    }

    fn apply_command(&mut self, allow: bool, target: &str) {
        if let Some(id) = self.catalog.find(target) {
            return self.set(id, allow);
        }
        let Some((command, argument)) = target.split_once('|') else { return };
        let Some(id) = self.catalog.find(command) else { return };
        match (allow, self.catalog.subcommands(id).is_empty()) {
            (true, true) => self.first_arguments.push((id, argument.as_bytes().into())),
            // Elsewhere this is a subcommand; here it is an argument, and without the word "only" for the rest.
            (false, true) => self.set(id, false),
            // A subcommand this process does not have cannot run.
            (_, false) => {}
        }
    }

    /// What the walls give and take, whatever the rules said. Returns the commands that need what their keys' flags say.
    fn wall_in(&mut self) -> CommandBits {
        let mut exceptions = Vec::new();
        let confined = self.confined;
        for id in command_ids(self.catalog).filter(|_| confined) {
            match self.catalog.treatment(id) {
                Treatment::ByRule | Treatment::Tame => {}
                Treatment::OfWholeTenant if self.holds_tenant => {}
                Treatment::Always => self.set(id, true),
                Treatment::AlwaysWith(_) if self.bits.get(id) => {}
                Treatment::AlwaysWith(argument) => self.first_arguments.push((id, argument.as_bytes().into())),
                Treatment::Never | Treatment::OfWholeTenant => self.set(id, false),
                Treatment::ReadsItsKeys => exceptions.push(id),
            }
        }
        let mut simple = self.bits.clone();
        exceptions.into_iter().for_each(|id| simple.set(id, false));
        simple
    }

    /// A command with its subcommands; first arguments it had are void.
    fn set(&mut self, id: CommandId, allow: bool) {
        self.bits.set(id, allow);
        self.first_arguments.retain(|(command, _)| *command != id);
        for subcommand in self.catalog.subcommands(id) {
            self.bits.set(*subcommand, allow);
        }
    }
}

fn command_ids(catalog: &dyn Catalog) -> impl Iterator<Item = CommandId> + use<> {
    (0..catalog.count()).map_while(|id| CommandId::try_from(id).ok())
}

/// A bit per command; commands beyond the table have none.
#[derive(Clone, Debug)]
struct CommandBits(Box<[u64]>);

impl CommandBits {
    fn new(count: usize, value: bool) -> CommandBits {
        CommandBits(vec![if value { u64::MAX } else { 0 }; count.div_ceil(64)].into())
    }

    #[inline]
    fn get(&self, id: CommandId) -> bool {
        self.0.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    fn set(&mut self, id: CommandId, value: bool) {
        let Some(word) = self.0.get_mut(usize::from(id / 64)) else { return };
        let bit = 1 << (id % 64);
        *word = if value { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests;
