//! `keywardctl slots`, `keywardctl tenant move`: keys go from one shard group to another.

use std::process::ExitCode;
use std::time::Duration;

use keyward_client::messages as pb;
use keyward_client::{AdminClient, ClientError};
use serde_json::json;

use crate::args::SlotsCommand;
use crate::output::{Table, printable, time};
use crate::run::Screen;

/// Between two looks at a move that is waited for.
const LOOK: Duration = Duration::from_millis(200);

pub async fn run(client: &AdminClient, screen: &Screen, command: &SlotsCommand) -> Result<ExitCode, ClientError> {
    match command {
        SlotsCommand::List => {
            let status = client.status().await?;
            screen.show(&json!({ "groups": status.groups, "last_move": status.last_move }), || {
                let mut groups = Table::new(&["group", "slots", "primary"]);
                for group in &status.groups {
                    let primary =
                        if group.primary_node == 0 { "none".to_owned() } else { group.primary_node.to_string() };
                    groups.row(&[group.id.to_string(), ranges(group), primary]);
                }
                let moved = status.last_move.as_ref().map_or_else(|| "nothing was moved yet".to_owned(), line);
                format!("{}\n{moved}\n", groups.render())
            })
        }
        SlotsCommand::Move { slots, to, no_wait } => {
            let begun = client.move_slots(*slots, *to).await?;
            show(client, screen, begun, None, *no_wait).await
        }
        SlotsCommand::Abort => {
            let ended = client.abort_move().await?;
            screen.show(&ended, || ended.as_ref().map_or_else(String::new, |known| line(known) + "\n"))
        }
    }
}

/// Waits until a move is decided, and says how it ended. A tenant may take several, one after the other.
pub async fn show(
    client: &AdminClient,
    screen: &Screen,
    begun: Option<pb::Move>,
    tenant: Option<&str>,
    no_wait: bool,
) -> Result<ExitCode, ClientError> {
    let Some(mut known) = begun else {
        return screen.show(&json!({ "moved": false }), || "everything is there already\n".to_owned());
    };
    while !no_wait && (known.phase == "copying" || known.failed.is_empty() && is_on_its_way(client, tenant).await?) {
        tokio::time::sleep(LOOK).await;
        let last = client.status().await?.last_move;
        // It has another number when it began anew.
        known = last.filter(|last| last.what == known.what && last.to_group == known.to_group).unwrap_or(known);
    }
    screen.show(&known, || line(&known) + "\n")?;
    Ok(if known.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn is_on_its_way(client: &AdminClient, tenant: Option<&str>) -> Result<bool, ClientError> {
    match tenant {
        Some(name) => Ok(client.get_tenant(name).await?.settings.contains_key("held-by")),
        None => Ok(false),
    }
}

/// The slots of a group.
pub fn ranges(group: &pb::ShardGroup) -> String {
    let range = |range: &pb::SlotRange| match range.first == range.last {
        true => range.first.to_string(),
        false => format!("{}-{}", range.first, range.last),
    };
    let all: Vec<String> = group.slots.iter().map(range).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}

/// One line about a move.
pub fn line(known: &pb::Move) -> String {
    let why = if known.failed.is_empty() { String::new() } else { format!(", {}", printable(&known.failed)) };
    let (from, to, phase) = (known.from_group, known.to_group, &known.phase);
    format!(
        "{} from group {from} to {to}: {phase}{why} (change {}, {})",
        known.what,
        known.index,
        time(known.at_unix_ms)
    )
}
