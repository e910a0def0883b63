//! Carries out one command: asks the cluster, prints the answer.

use std::io::Read as _;
use std::process::ExitCode;

use clap::CommandFactory as _;
use keyward_client::messages as pb;
use keyward_client::{AdminClient, ClientError};
use serde_json::json;

use crate::args::{
    AclCommand, Arguments, Command, HandoverCommand, NodeCommand, Output, Shell, SnapshotCommand, TenantCommand,
    UserCommand,
};
use crate::output::{Table, print, size, time};

pub async fn run(arguments: &Arguments) -> Result<ExitCode, ClientError> {
    if let Command::Completions { shell } = arguments.command {
        return completions(shell);
    }
    let client = AdminClient::new(arguments.options()?)?;
    let screen = Screen { output: arguments.output };
    match &arguments.command {
        Command::User(command) => user(&client, &screen, command).await,
        Command::Acl(AclCommand::Log { of, limit }) => crate::insight::denials(&client, &screen, of, *limit).await,
        Command::Advise { name } => crate::insight::advise(&client, &screen, name).await,
        Command::Doctor { name } => crate::insight::doctor(&client, &screen, name).await,
        Command::Usage { month, csv } => crate::insight::usage(&client, &screen, month, *csv).await,
        Command::Tenant(command) => tenant(&client, &screen, command).await,
        Command::Node(command) => node(&client, &screen, command).await,
        Command::Status => status(&client, &screen).await,
        Command::History { since, limit, follow } => history(&client, &screen, *since, *limit, *follow).await,
        Command::Failover { to, accept_loss, group } => {
            failover(&client, &screen, to.as_deref(), *accept_loss, *group).await
        }
        Command::Slots(command) => crate::slots::run(&client, &screen, command).await,
        Command::Rebalance => rebalance(&client, &screen).await,
        Command::Handover(command) => handover(&client, &screen, command).await,
        Command::Snapshot(command) => snapshot(&client, &screen, command).await,
        Command::Import(arguments) => crate::import::run(&client, &screen, arguments).await,
        Command::Completions { .. } => unreachable!("answered before connecting"),
    }
}

/// Prints each result in the one form that was asked for.
pub struct Screen {
    output: Output,
}

impl Screen {
    /// Whether people read it.
    pub fn is_table(&self) -> bool {
        matches!(self.output, Output::Table)
    }

    pub fn show(&self, result: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<ExitCode, ClientError> {
        match self.output {
            Output::Table => print(&text())?,
            Output::Json => print(&format!("{:#}\n", json!(result)))?,
        };
        Ok(ExitCode::SUCCESS)
    }
}

async fn user(client: &AdminClient, screen: &Screen, command: &UserCommand) -> Result<ExitCode, ClientError> {
    match command {
        UserCommand::List => {
            let response = client.list_users().await?;
            screen.show(&response, || users_table(&response.users))
        }
        UserCommand::Get { name } => {
            let user = client.get_user(name).await?;
            screen.show(&user, || user_table(&user))
        }
        UserCommand::Set { reset, rules_stdin, name, rules } => {
            let rules = with_rules_from_stdin(rules, *rules_stdin)?;
            let response = client.set_user(name, &rules, *reset).await?;
            screen.show(&response, || {
                let verb = match (response.created, response.changed) {
                    (true, _) => "created",
                    (_, true) => "changed",
                    (_, false) => "unchanged",
                };
                format!("user {name} {verb}\n")
            })
        }
        UserCommand::Delete { names } => {
            let deleted = client.delete_users(names).await?;
            let named = names.iter().collect::<std::collections::BTreeSet<_>>().len() as u64;
            screen.show(&json!({ "deleted": deleted }), || match named.saturating_sub(deleted) {
                0 => format!("{deleted} deleted\n"),
                missing => format!("{deleted} deleted, {missing} not found\n"),
            })?;
            Ok(if deleted < named { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        UserCommand::DryRun { name, command } => {
            let response = client.dry_run(name, command).await?;
            screen.show(&response, || {
                let answer = if response.allowed { "allowed" } else { &response.reason };
                format!("{}\n", crate::output::printable(answer))
            })?;
            Ok(if response.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

async fn tenant(client: &AdminClient, screen: &Screen, command: &TenantCommand) -> Result<ExitCode, ClientError> {
    let done = |name: &str, verb: &str| screen.show(&json!({ verb: name }), || format!("tenant {name} {verb}\n"));
    match command {
        TenantCommand::List => {
            let tenants = client.list_tenants().await?;
            screen.show(&tenants, || tenants_table(&tenants))
        }
        TenantCommand::Get { name } => {
            let tenant = client.get_tenant(name).await?;
            screen.show(&tenant, || tenant_table(&tenant))
        }
        TenantCommand::Stats { name } => crate::insight::tenant_stats(client, screen, name.as_deref()).await,
        TenantCommand::Create { name, arguments } => {
            client.create_tenant(name, arguments).await?;
            done(name, "created")
        }
        TenantCommand::Set { name, arguments } => {
            client.set_tenant(name, arguments).await?;
            done(name, "changed")
        }
        TenantCommand::Move { name, to, no_wait } => {
            let begun = client.move_tenant(name, *to).await?;
            crate::slots::show(client, screen, begun, Some(name), *no_wait).await
        }
        TenantCommand::Delete { name, purge } => {
            client.delete_tenant(name, *purge).await?;
            done(name, "deleted")
        }
    }
}

async fn node(client: &AdminClient, screen: &Screen, command: &NodeCommand) -> Result<ExitCode, ClientError> {
    match command {
        NodeCommand::List => {
            let response = client.list_nodes().await?;
            screen.show(&response, || nodes_table(&response.nodes))
        }
        NodeCommand::Add { peer_address, name } => {
            let response = client.add_node(peer_address, name).await?;
            screen.show(&response, || match &response.node {
                Some(node) => format!("node {} added as {}\n", node.name, node.id),
                None => "node added\n".to_owned(),
            })
        }
        NodeCommand::Remove { node } => {
            let nodes = client.list_nodes().await?.nodes;
            let known = find_node(&nodes, node)?;
            let (node_id, name) = (known.id, &known.name);
            let usage = crate::insight::usage_of(client, node_id).await;
            client.remove_node(node_id).await?;
            // Whoever bills by it learns now what the next bill will lack, while the data folder is still there.
            eprintln!(
                "what tenants used on {name}{usage} is no longer in `keywardctl usage`; it stays in `usage` of the data folder of {name}"
            );
            screen.show(&json!({ "removed": node_id }), || format!("node {node_id} removed\n"))
        }
    }
}

async fn status(client: &AdminClient, screen: &Screen) -> Result<ExitCode, ClientError> {
    let status = client.status().await?;
    screen.show(&status, || {
        let mut facts = Table::of_pairs();
        let formed = !status.cluster_id.is_empty();
        facts.row(&["cluster", if formed { &status.cluster_id } else { "not formed" }]);
        facts.row(&["answering", &format!("node {} (version {})", status.node_id, status.version)]);
        let leader = match status.leader_id {
            0 => "none known".to_owned(),
            id => format!("node {id}"),
        };
        facts.row(&["leader", &format!("{leader} (term {})", status.term)]);
        facts.row(&["ready", if status.ready { "yes" } else { &status.not_ready_reason }]);
        facts.row(&["applied", &status.applied_index.to_string()]);
        facts.row(&["users", &status.users.to_string()]);
        let mut groups = Table::new(&["group", "slots", "epoch", "primary", "in sync", "last failover"]);
        for group in &status.groups {
            let in_sync: Vec<String> = group.in_sync_nodes.iter().map(u64::to_string).collect();
            groups.row(&[
                group.id.to_string(),
                crate::slots::ranges(group),
                group.epoch.to_string(),
                if group.primary_node == 0 { "none".to_owned() } else { group.primary_node.to_string() },
                in_sync.join(","),
                last_failover(group),
            ]);
        }
        let copies = copies_table(&status.groups);
        if let Some(known) = &status.last_move {
            facts.row(&["last move", &crate::slots::line(known)]);
        }
        format!("{}\n{}\n{}\n{copies}", facts.render(), nodes_table(&status.nodes), groups.render())
    })
}

/// When somebody was last named primary, and why.
fn last_failover(group: &pb::ShardGroup) -> String {
    let Some(failover) = &group.last_failover else { return "-".to_owned() };
    let from = if failover.from_node == 0 { "none".to_owned() } else { failover.from_node.to_string() };
    let time = crate::output::time(failover.at_unix_ms);
    format!("{}: {from} to {}, {time} (change {})", failover.reason, failover.to_node, failover.index)
}

/// Where each node stands with the data.
fn copies_table(groups: &[pb::ShardGroup]) -> String {
    let headings = ["group", "node", "copy", "epoch", "position", "behind", "lag", "heard", "lease left", "snapshot"];
    let mut table = Table::new(&headings);
    for (group, copy) in groups.iter().flat_map(|group| group.copies.iter().map(move |copy| (group, copy))) {
        let kind = match copy {
            _ if copy.node == group.primary_node => "primary",
            _ if copy.in_sync => "in sync",
            _ if copy.has_data => "behind",
            _ => "none",
        };
        let snapshot = match copy.snapshot_epoch {
            0 => "-".to_owned(),
            epoch => format!("{epoch}/{}", copy.snapshot_position),
        };
        table.row(&[
            group.id.to_string(),
            format!("{}@{}", copy.node, copy.incarnation),
            kind.to_owned(),
            copy.epoch.to_string(),
            copy.position.to_string(),
            size(copy.behind),
            copy.lag_ms.map_or("-".to_owned(), |ms| format!("{ms} ms")),
            format!("{} ms ago", copy.silent_ms),
            format!("{} ms", copy.lease_remaining_ms),
            snapshot,
        ]);
    }
    table.render()
}

async fn history(
    client: &AdminClient,
    screen: &Screen,
    since: u64,
    limit: u32,
    follow: bool,
) -> Result<ExitCode, ClientError> {
    let response = client.list_changes(since, limit).await?;
    if !follow {
        return screen.show(&response, || changes_table(&response.changes));
    }
    let mut last_index = response.applied_index;
    for change in &response.changes {
        last_index = last_index.max(change.index);
        if !print(&change_line(screen.output, change))? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut watch = client.watch_changes(last_index);
    loop {
        let change = watch.next().await?;
        if !print(&change_line(screen.output, &change))? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

async fn failover(
    client: &AdminClient,
    screen: &Screen,
    to: Option<&str>,
    accept_loss: bool,
    group: u32,
) -> Result<ExitCode, ClientError> {
    let to_node = chosen_node(client, to).await?;
    let response = client.move_primary(group, to_node, accept_loss).await?;
    screen.show(&response, || match &response.group {
        Some(group) => {
            format!("node {} is primary of group {} since epoch {}\n", group.primary_node, group.id, group.epoch)
        }
        None => "handed over\n".to_owned(),
    })
}

/// Moves a group from a node that serves the most to one in sync that serves the fewest, as long as that makes a difference.
async fn rebalance(client: &AdminClient, screen: &Screen) -> Result<ExitCode, ClientError> {
    let mut moved = Vec::new();
    loop {
        let status = client.status().await?;
        let load = |node: u64| status.groups.iter().filter(|group| group.primary_node == node).count();
        let moves = status.groups.iter().filter(|group| group.primary_node != 0).filter_map(|group| {
            let target = *group.in_sync_nodes.iter().min_by_key(|node| (load(**node), **node))?;
            let gain = load(group.primary_node).checked_sub(load(target) + 1)?;
            (gain > 0).then_some((gain, group.id, target))
        });
        // No more moves than groups: others may be moving them, too.
        let next = moves.max().filter(|_| moved.len() < status.groups.len());
        let Some((_, group, target)) = next else { break };
        client.move_primary(group, target, false).await?;
        moved.push(json!({ "group": group, "to_node": target }));
    }
    screen.show(&json!({ "moved": moved }), || match moved.len() {
        0 => "the shard groups are spread evenly already\n".to_owned(),
        count => format!("{count} shard groups were moved\n"),
    })
}

async fn handover(client: &AdminClient, screen: &Screen, command: &HandoverCommand) -> Result<ExitCode, ClientError> {
    match command {
        HandoverCommand::Primary { to, group } => failover(client, screen, to.as_deref(), false, *group).await,
        HandoverCommand::Leader { to } => {
            let to_node = chosen_node(client, to.as_deref()).await?;
            let leader_id = client.transfer_leadership(to_node).await?;
            screen.show(&json!({ "leader_id": leader_id }), || format!("node {leader_id} is leader\n"))
        }
    }
}

async fn snapshot(client: &AdminClient, screen: &Screen, command: &SnapshotCommand) -> Result<ExitCode, ClientError> {
    match command {
        SnapshotCommand::Save { wait, node } => {
            let response = data_node(client, node.as_deref()).await?.save(*wait).await?;
            screen.show(&response, || match &response.snapshot {
                Some(snapshot) => {
                    format!("node {} saved {} ({})\n", response.node_id, snapshot.name, size(snapshot.bytes))
                }
                None => format!("node {} is saving\n", response.node_id),
            })
        }
        SnapshotCommand::List { node } => {
            let response = data_node(client, node.as_deref()).await?.list_snapshots().await?;
            screen.show(&response, || snapshots_text(&response))
        }
    }
}

fn completions(shell: Shell) -> Result<ExitCode, ClientError> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keywardctl", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// The node that was named, or 0: the cluster chooses.
async fn chosen_node(client: &AdminClient, node: Option<&str>) -> Result<u64, ClientError> {
    match node {
        None => Ok(0),
        Some(node) => node_id(client, node).await,
    }
}

/// The id of a node given by id or name.
async fn node_id(client: &AdminClient, node: &str) -> Result<u64, ClientError> {
    match node.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(find_node(&client.list_nodes().await?.nodes, node)?.id),
    }
}

fn find_node<'a>(nodes: &'a [pb::Node], wanted: &str) -> Result<&'a pb::Node, ClientError> {
    let id: Option<u64> = wanted.parse().ok();
    nodes
        .iter()
        .find(|node| node.name == wanted || Some(node.id) == id)
        .ok_or_else(|| ClientError::NotFound(format!("no node is called '{wanted}'")))
}

/// A client of the node that was named, or of the one that holds the data.
pub async fn data_node(client: &AdminClient, node: Option<&str>) -> Result<AdminClient, ClientError> {
    let status = client.status().await?;
    let node = match (node, status.groups.first()) {
        (Some(wanted), _) => find_node(&status.nodes, wanted)?,
        (None, Some(group)) => find_node(&status.nodes, &group.primary_node.to_string())?,
        (None, None) => {
            return Err(ClientError::Refused("the cluster is not formed yet".to_owned()));
        }
    };
    if node.answering { Ok(client.clone()) } else { client.of_node(node) }
}

fn with_rules_from_stdin(rules: &[String], read: bool) -> Result<Vec<String>, ClientError> {
    let mut rules = rules.to_vec();
    if read {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| ClientError::Options(format!("standard input: {error}")))?;
        rules.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    }
    Ok(rules)
}

fn users_table(users: &[pb::User]) -> String {
    let mut table = Table::new(&["name", "state", "passwords", "keys", "channels", "commands", "more"]);
    for user in users {
        let permissions = user.permissions.clone().unwrap_or_default();
        let passwords = user.password_hashes.len();
        table.row(&[
            user.name.clone(),
            if user.enabled { "on" } else { "off" }.to_owned(),
            if user.nopass { "nopass".to_owned() } else { passwords.to_string() },
            or_dash(&permissions.keys),
            or_dash(&permissions.channels),
            permissions.commands,
            match user.selectors.len() {
                0 => String::new(),
                1 => "1 selector".to_owned(),
                count => format!("{count} selectors"),
            },
        ]);
    }
    table.render()
}

fn user_table(user: &pb::User) -> String {
    let mut table = Table::of_pairs();
    table.row(&["name", &user.name]);
    table.row(&["state", if user.enabled { "on" } else { "off" }]);
    table.row(&["passwords", &if user.nopass { "nopass".to_owned() } else { user.password_hashes.join(" ") }]);
    let alternatives = user.permissions.iter().chain(&user.selectors);
    for (number, set) in alternatives.enumerate() {
        // Indented under "or", so that it is plain what belongs together.
        let indent = if number == 0 { "" } else { "   " };
        table.row(&[format!("{}commands", if number == 0 { "" } else { "or " }), set.commands.clone()]);
        table.row(&[format!("{indent}keys"), or_dash(&set.keys)]);
        table.row(&[format!("{indent}channels"), or_dash(&set.channels)]);
        table.row(&[format!("{indent}databases"), or_dash(&set.databases)]);
    }
    table.row(&["revision", &user.revision.to_string()]);
    table.row(&["created", &user.created.to_string()]);
    table.row(&["line", &user.line]);
    table.render()
}

fn tenants_table(tenants: &[pb::Tenant]) -> String {
    let mut table = Table::new(&["name", "keys", "users", "state", "memory", "settings"]);
    for tenant in tenants {
        table.row(&[
            tenant.name.clone(),
            keys_of_tenant(tenant),
            or_dash(&tenant.users.join(" ")),
            if tenant.retired { "retired" } else { "active" }.to_owned(),
            tenant.memory.as_ref().map_or_else(|| or_dash(""), |memory| memory.used_bytes.to_string()),
            or_dash(&settings_of_tenant(tenant).join(" ")),
        ]);
    }
    table.render()
}

fn tenant_table(tenant: &pb::Tenant) -> String {
    let mut table = Table::of_pairs();
    table.row(&["name", &tenant.name]);
    table.row(&["keys", &keys_of_tenant(tenant)]);
    table.row(&["users", &or_dash(&tenant.users.join(" "))]);
    table.row(&["state", if tenant.retired { "retired" } else { "active" }]);
    settings_of_tenant(tenant).iter().for_each(|setting| table.row(&["setting", setting]));
    if let Some(memory) = &tenant.memory {
        table.row(&["memory", &format!("{} bytes", memory.used_bytes)]);
        table.row(&["eviction", &memory.eviction]);
        table.row(&["evicted keys", &memory.evicted_keys.to_string()]);
        table.row(&["refused for memory", &memory.refused_commands.to_string()]);
    }
    tenant.exports.iter().for_each(|grant| table.row(&["exports", grant]));
    tenant.imports.iter().for_each(|grant| table.row(&["imports", grant]));
    table.row(&["number", &tenant.number.to_string()]);
    table.row(&["revision", &tenant.revision.to_string()]);
    table.render()
}

fn keys_of_tenant(tenant: &pb::Tenant) -> String {
    if tenant.namespace { "namespace".to_owned() } else { tenant.prefixes.join(" ") }
}

fn settings_of_tenant(tenant: &pb::Tenant) -> Vec<String> {
    let mut settings: Vec<String> = tenant.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    settings.sort_unstable();
    settings
}

fn nodes_table(nodes: &[pb::Node]) -> String {
    let mut table = Table::new(&["id", "name", "control", "data", "contact", "clients", "admin", "http", "peers"]);
    for node in nodes {
        let addresses = node.addresses.clone().unwrap_or_default();
        table.row(&[
            format!("{}{}", node.id, if node.answering { "*" } else { "" }),
            node.name.clone(),
            role_text(node.role()).to_owned(),
            if node.primary { "primary" } else { "-" }.to_owned(),
            match node.reachable {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            }
            .to_owned(),
            addresses.client,
            addresses.admin,
            addresses.http,
            addresses.peer,
        ]);
    }
    table.render()
}

fn role_text(role: pb::ControlRole) -> &'static str {
    match role {
        pb::ControlRole::Unspecified => "?",
        pb::ControlRole::Learner => "learner",
        pb::ControlRole::Follower => "follower",
        pb::ControlRole::Leader => "leader",
    }
}

fn changes_table(changes: &[pb::Change]) -> String {
    let mut table = Table::new(&["index", "time", "actor", "source", "change"]);
    for change in changes {
        table.row(&change_cells(change));
    }
    table.render()
}

fn change_cells(change: &pb::Change) -> [String; 5] {
    [
        change.index.to_string(),
        time(change.at_unix_ms),
        change.actor.clone(),
        change.source.clone(),
        change.summary.clone(),
    ]
}

fn change_line(output: Output, change: &pb::Change) -> String {
    match output {
        Output::Json => format!("{}\n", json!(change)),
        Output::Table => {
            let mut table = Table::of_pairs();
            table.row(&change_cells(change));
            table.render()
        }
    }
}

fn snapshots_text(response: &pb::ListSnapshotsResponse) -> String {
    let mut table = Table::new(&["snapshot", "size", "saved"]);
    for snapshot in &response.snapshots {
        table.row(&[snapshot.name.clone(), size(snapshot.bytes), time(snapshot.saved_unix_ms)]);
    }
    let mut text = table.render();
    if response.saving {
        text.push_str("a save is running\n");
    }
    if !response.last_error.is_empty() {
        text.push_str(&format!("the last save failed: {}\n", crate::output::printable(&response.last_error)));
    }
    text
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
