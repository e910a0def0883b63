//! Publish and subscribe: messages to whoever listens at the moment.
//!
//! It refuses to know who listens, and on which node. Declarations on top, one entry per command; parsers and
//! handlers below.

use crate::args::Args;
use crate::asks::{ChannelKind, Now};
use crate::command::{Arity, ChannelRule, Command, Docs, Extra, Flags, Group, KeyFlags, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::introspect;
use crate::scope::{Of, Scope};
use crate::session::{Session, Surroundings};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "SUBSCRIBE",
        arity: Arity::AtLeast(2),
        flags: Flags::PUBSUB.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Named,
        run: Run::AtOnce(subscribe),
        docs: Docs {
            summary: "Listens for messages on channels.",
            since: "2.0.0",
            complexity: "O(N) where N is the number of channels to subscribe to",
        },
        extra: Extra::channels(ChannelRule::From(1)),
    },
    Command {
        name: "UNSUBSCRIBE",
        arity: Arity::AtLeast(1),
        flags: Flags::PUBSUB.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(unsubscribe),
        docs: Docs { summary: "Stops listening on channels.", since: "2.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "PSUBSCRIBE",
        arity: Arity::AtLeast(2),
        flags: Flags::PUBSUB.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Named,
        run: Run::AtOnce(psubscribe),
        docs: Docs {
            summary: "Listens for messages on channels that match patterns.",
            since: "2.0.0",
            complexity: "O(N) where N is the number of patterns to subscribe to",
        },
        extra: Extra::channels(ChannelRule::PatternsFrom(1)),
    },
    Command {
        name: "PUNSUBSCRIBE",
        arity: Arity::AtLeast(1),
        flags: Flags::PUBSUB.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(punsubscribe),
        docs: Docs {
            summary: "Stops listening on channels that match patterns.",
            since: "2.0.0",
            complexity: "O(N) where N is the number of patterns to unsubscribe",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "PUBLISH",
        arity: Arity::Exactly(3),
        flags: Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE).and(Flags::FAST),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Channels),
        run: Run::AtOnce(publish),
        docs: Docs { summary: "Sends a message to a channel.", since: "2.0.0", complexity: "O(N+M)" },
        extra: Extra::channels(ChannelRule::At(1)),
    },
    Command {
        name: "SSUBSCRIBE",
        arity: Arity::AtLeast(2),
        flags: Flags::PUBSUB.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, KeyFlags::NOT_KEY)]),
        scope: Scope::Named,
        run: Run::AtOnce(ssubscribe),
        docs: Docs {
            summary: "Listens for messages on shard channels.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of shard channels to subscribe to",
        },
        extra: Extra::channels(ChannelRule::From(1)),
    },
    Command {
        name: "SUNSUBSCRIBE",
        arity: Arity::AtLeast(1),
        flags: Flags::PUBSUB.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, KeyFlags::NOT_KEY)]),
        scope: Scope::Own,
        run: Run::AtOnce(sunsubscribe),
        docs: Docs {
            summary: "Stops listening on shard channels.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of shard channels to unsubscribe",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SPUBLISH",
        arity: Arity::Exactly(3),
        flags: Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE).and(Flags::FAST),
        group: Group::PubSub,
        keys: KeyRule::At(&[KeySpec::at(1, KeyFlags::NOT_KEY)]),
        scope: Scope::Filtered(Of::Channels),
        run: Run::AtOnce(spublish),
        docs: Docs { summary: "Sends a message to a shard channel.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra::channels(ChannelRule::At(1)),
    },
    Command {
        name: "PUBSUB",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(PUBSUB),
        docs: Docs { summary: "Looks at who listens to what.", since: "2.8.0", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
];

const PUBSUB: &[Command] = &[
    Command {
        name: "CHANNELS",
        arity: Arity::AtLeast(2),
        flags: Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Channels),
        run: Run::AtOnce(channels),
        docs: Docs { summary: "Lists the channels somebody listens to.", since: "2.8.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "NUMPAT",
        arity: Arity::Exactly(2),
        flags: Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Channels),
        run: Run::AtOnce(numpat),
        docs: Docs { summary: "Counts the patterns somebody listens to.", since: "2.8.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "NUMSUB",
        arity: Arity::AtLeast(2),
        flags: Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Channels),
        run: Run::AtOnce(numsub),
        docs: Docs { summary: "Counts the listeners of channels.", since: "2.8.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SHARDCHANNELS",
        arity: Arity::AtLeast(2),
        flags: Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Channels),
        run: Run::AtOnce(shardchannels),
        docs: Docs { summary: "Lists the shard channels somebody listens to.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SHARDNUMSUB",
        arity: Arity::AtLeast(2),
        flags: Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Channels),
        run: Run::AtOnce(shardnumsub),
        docs: Docs { summary: "Counts the listeners of shard channels.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::PubSub,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of PUBSUB.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

/// What `AtOnce` handlers get and give.
type Decided = Result<Now, CommandError>;

fn names(mut args: Args<'_>) -> Vec<Vec<u8>> {
    args.rest().iter().map(|name| name.to_vec()).collect()
}

fn subscribe(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::Subscribe(ChannelKind::Channel, names(args)))
}

fn psubscribe(_: &Session, at: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::Subscribe(ChannelKind::Pattern, args.patterns(at.pattern_bytes_max)?))
}

fn ssubscribe(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::Subscribe(ChannelKind::Shard, names(args)))
}

fn unsubscribe(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::Unsubscribe(ChannelKind::Channel, names(args)))
}

fn punsubscribe(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::Unsubscribe(ChannelKind::Pattern, names(args)))
}

fn sunsubscribe(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::Unsubscribe(ChannelKind::Shard, names(args)))
}

fn publish(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    message(false, args)
}

fn spublish(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    message(true, args)
}

fn message(shard: bool, mut args: Args<'_>) -> Decided {
    Ok(Now::Publish { shard, channel: args.take()?.to_vec(), message: args.take()?.to_vec() })
}

fn channels(_: &Session, at: &Surroundings<'_>, args: Args<'_>) -> Decided {
    listed(false, at.pattern_bytes_max, args)
}

fn shardchannels(_: &Session, at: &Surroundings<'_>, args: Args<'_>) -> Decided {
    listed(true, at.pattern_bytes_max, args)
}

fn listed(shard: bool, pattern_bytes_max: usize, mut args: Args<'_>) -> Decided {
    let pattern = if args.is_empty() { None } else { Some(args.pattern(pattern_bytes_max)?.to_vec()) };
    if !args.is_empty() {
        let name = if shard { "SHARDCHANNELS" } else { "CHANNELS" };
        return Err(CommandError::err(format!(
            "unknown subcommand or wrong number of arguments for '{name}'. Try PUBSUB HELP."
        )));
    }
    Ok(Now::ShowChannels { shard, pattern })
}

fn numsub(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::ShowListeners { shard: false, channels: names(args) })
}

fn shardnumsub(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    Ok(Now::ShowListeners { shard: true, channels: names(args) })
}

fn numpat(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Decided {
    Ok(Now::CountPatterns)
}
