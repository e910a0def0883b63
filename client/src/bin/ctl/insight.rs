//! What goes on in the cluster: denials, usage, advice, diagnoses. Prints, and knows no rules.

use std::process::ExitCode;

use keyward_client::messages as pb;
use keyward_client::{AdminClient, ClientError};

use std::collections::BTreeMap;

use crate::output::{Table, print, printable, size, time};
use crate::run::Screen;

/// What was denied, on every node.
pub async fn denials(client: &AdminClient, screen: &Screen, user: &str, limit: u32) -> Result<ExitCode, ClientError> {
    let response = client.list_denials(user, limit).await?;
    screen.show(&response, || {
        let headings = ["last", "node", "times", "user", "reason", "object", "context", "from"];
        let mut table = Table::new(&headings);
        for denial in &response.denials {
            table.row(&[
                time(denial.updated_unix_ms),
                named(denial.node, &denial.node_name),
                denial.count.to_string(),
                denial.username.clone(),
                denial.reason.clone(),
                denial.object.clone(),
                denial.context.clone(),
                address(&denial.client_info).to_owned(),
            ]);
        }
        format!("{}{}", table.render(), missing(&response.silent))
    })
}

/// Those of the figures that tell tenants apart; the others are shown of one tenant at a time.
const CHIEF: [&str; 9] =
    ["keys", "memory", "operations", "cpu-us", "connections", "evicted-keys", "throttled", "limits-reached", "denied"];

/// What tenants use: of one everything by node, of all the chief figures.
pub async fn tenant_stats(client: &AdminClient, screen: &Screen, name: Option<&str>) -> Result<ExitCode, ClientError> {
    let told = client.tenant_stats(name.unwrap_or_default()).await?;
    let named = |of: &pb::TenantStats| -> serde_json::Value {
        let pairs = told.names.iter().cloned().zip(of.figures.iter().map(|figure| (*figure).into()));
        let mut fields: serde_json::Map<String, serde_json::Value> = pairs.collect();
        fields.insert("tenant".to_owned(), of.tenant.as_str().into());
        fields.insert("eviction".to_owned(), of.eviction.as_str().into());
        if of.node > 0 {
            fields.insert("node".to_owned(), of.node.into());
            fields.insert("node_name".to_owned(), of.node_name.as_str().into());
            fields.insert("served_keys".to_owned(), of.served_keys.into());
            fields.insert("served_bytes".to_owned(), of.served_bytes.into());
        }
        fields.into()
    };
    let all = |of: &[pb::TenantStats]| of.iter().map(named).collect::<Vec<_>>();
    let json = serde_json::json!({ "cluster": all(&told.cluster), "nodes": all(&told.nodes), "silent": told.silent });
    screen.show(&json, || {
        let table = if name.is_some() { figures_by_node(&told) } else { chief_figures(&told) };
        format!("{}{}", table.render(), missing(&told.silent))
    })
}

fn figures_by_node(told: &pb::GetTenantStatsResponse) -> Table {
    let columns: Vec<&pb::TenantStats> = told.nodes.iter().chain(&told.cluster).collect();
    let heading = |of: &&pb::TenantStats| if of.node == 0 { "all".to_owned() } else { named(of.node, &of.node_name) };
    let headings: Vec<String> = std::iter::once("figure".to_owned()).chain(columns.iter().map(heading)).collect();
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for (at, figure) in told.names.iter().enumerate() {
        let cells = columns.iter().map(|of| of.figures.get(at).copied().unwrap_or(0).to_string());
        table.row(&std::iter::once(figure.clone()).chain(cells).collect::<Vec<_>>());
    }
    table.row(&std::iter::once("eviction").chain(columns.iter().map(|of| &*of.eviction)).collect::<Vec<_>>());
    table
}

fn chief_figures(told: &pb::GetTenantStatsResponse) -> Table {
    let mut table = Table::new(&[&["tenant"], &CHIEF[..]].concat());
    for of in &told.cluster {
        let figure = |wanted: &&str| {
            let at = told.names.iter().position(|name| name == wanted);
            at.and_then(|at| of.figures.get(at)).map_or_else(|| "-".to_owned(), u64::to_string)
        };
        table.row(&std::iter::once(of.tenant.clone()).chain(CHIEF.iter().map(figure)).collect::<Vec<_>>());
    }
    table
}

/// The columns of the export.
const COLUMNS: &str = "day,tenant,node,node_name,operations,keyspace_hits,keyspace_misses,input_bytes,output_bytes,\
    cpu_microseconds,evicted_keys,throttled,denied,connections,memory_mib_seconds";

/// What tenants used in a month.
pub async fn usage(client: &AdminClient, screen: &Screen, month: &str, csv: bool) -> Result<ExitCode, ClientError> {
    let response = client.usage(month).await?;
    if csv && screen.is_table() {
        let lines: String = response.usage.iter().map(csv_line).collect();
        print(&format!("{COLUMNS}\n{lines}"))?;
        // A bill that lacks a node must not look whole.
        eprint!("{}", missing(&response.silent));
        return Ok(if response.silent.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    screen.show(&response, || {
        let headings = [
            "tenant",
            "operations",
            "hits",
            "misses",
            "in",
            "out",
            "cpu s",
            "GiB-hours",
            "evicted",
            "throttled",
            "denied",
            "logins",
        ];
        let mut table = Table::new(&headings);
        for (tenant, sum) in sums(&response.usage) {
            table.row(&[
                tenant,
                sum.operations.to_string(),
                sum.keyspace_hits.to_string(),
                sum.keyspace_misses.to_string(),
                size(sum.input_bytes),
                size(sum.output_bytes),
                format!("{:.1}", sum.cpu_microseconds as f64 / 1e6),
                format!("{:.3}", sum.memory_mib_seconds as f64 / (1024.0 * 3600.0)),
                sum.evicted_keys.to_string(),
                sum.throttled.to_string(),
                sum.denied.to_string(),
                sum.connections.to_string(),
            ]);
        }
        format!("{}{}", table.render(), missing(&response.silent))
    })
}

/// What tenants used on one node this month, in brackets; nothing if that cannot be told.
pub async fn usage_of(client: &AdminClient, node: u64) -> String {
    let Ok(response) = client.usage("").await else { return String::new() };
    let rows: Vec<_> = response.usage.into_iter().filter(|row| row.node == node).collect();
    let operations: u64 = rows.iter().map(|row| row.operations).sum();
    if rows.is_empty() { String::new() } else { format!(" ({operations} operations this month)") }
}

fn csv_line(row: &pb::Usage) -> String {
    let pb::Usage { day, tenant, node, node_name, operations, keyspace_hits, keyspace_misses, input_bytes, .. } = row;
    let pb::Usage { output_bytes, cpu_microseconds, evicted_keys, throttled, denied, connections, .. } = row;
    format!(
        "{day},{tenant},{node},{node_name},{operations},{keyspace_hits},{keyspace_misses},{input_bytes},{output_bytes},\
         {cpu_microseconds},{evicted_keys},{throttled},{denied},{connections},{}\n",
        row.memory_mib_seconds
    )
}

/// All days and nodes together.
fn sums(rows: &[pb::Usage]) -> BTreeMap<String, pb::Usage> {
    let mut sums: BTreeMap<String, pb::Usage> = BTreeMap::new();
    for row in rows {
        let sum = sums.entry(row.tenant.clone()).or_default();
        sum.operations += row.operations;
        sum.keyspace_hits += row.keyspace_hits;
        sum.keyspace_misses += row.keyspace_misses;
        sum.input_bytes += row.input_bytes;
        sum.output_bytes += row.output_bytes;
        sum.cpu_microseconds += row.cpu_microseconds;
        sum.evicted_keys += row.evicted_keys;
        sum.throttled += row.throttled;
        sum.denied += row.denied;
        sum.connections += row.connections;
        sum.memory_mib_seconds += row.memory_mib_seconds;
    }
    sums
}

/// Commands that are listed one by one; of more only their number is told.
const COMMANDS_LISTED: usize = 40;

/// The same with names of keys and channels as text, not as lists of numbers; bytes that are none become U+FFFD.
fn with_names(mut value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    let is_name = |field: &str| matches!(field, "prefix" | "name");
    match &mut value {
        Value::Object(fields) => {
            for (field, of) in fields.iter_mut() {
                let bytes: Option<Vec<u8>> = match of {
                    Value::Array(numbers) if is_name(field) => {
                        numbers.iter().map(|number| u8::try_from(number.as_u64()?).ok()).collect()
                    }
                    _ => None,
                };
                *of = match bytes {
                    Some(bytes) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
                    None => with_names(of.take()),
                };
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| *element = with_names(element.take())),
        _ => {}
    }
    value
}

/// What a user's rules should be.
pub async fn advise(client: &AdminClient, screen: &Screen, user: &str) -> Result<ExitCode, ClientError> {
    let advice = client.advise(user).await?;
    screen.show(&with_names(serde_json::json!(advice)), || {
        let traffic = advice.traffic.clone().unwrap_or_default();
        let mut text = String::new();
        if !advice.watched {
            text.push_str(&format!(
                "{user} is not watched now: keywardctl user set {user} mode=report, or record-traffic = true\n"
            ));
        }
        if traffic.commands.is_empty() {
            text.push_str("nothing was seen yet\n");
            return text + &missing(&advice.silent);
        }
        let ran: u64 = traffic.commands.iter().map(|command| command.count).sum();
        let denied: u64 = traffic.commands.iter().map(|command| command.denied).sum();
        text.push_str(&format!(
            "seen since {}: {ran} commands, {denied} of them against the rules\n",
            time(advice.since_unix_ms)
        ));
        text.push_str(&format!("it has     {}\n", printable(&advice.current.join(" "))));
        text.push_str(&format!("it needs   {}\n\n", printable(&advice.rules.join(" "))));
        let quoted: Vec<String> = advice.rules.iter().map(|rule| quoted(rule)).collect();
        text.push_str(&format!("  keywardctl user set {user} {}\n\n", quoted.join(" ")));
        let mut keys = Table::new(&["keys", "read", "written", "times", "denied"]);
        let mark = |yes: bool| if yes { "yes" } else { "-" }.to_owned();
        for key in &traffic.keys {
            let star = if key.whole { "" } else { "*" };
            let name = format!("{}{star}", key.prefix.escape_ascii());
            keys.row(&[name, mark(key.read), mark(key.written), key.count.to_string(), key.denied.to_string()]);
        }
        text.push_str(&keys.render());
        for key in &advice.outside {
            let star = if key.whole { "" } else { "*" };
            text.push_str(&format!("outside its rules: {}{star}, {} times\n", key.prefix.escape_ascii(), key.count));
        }
        if !advice.unused_patterns.is_empty() {
            text.push_str(&format!("never used patterns: {}\n", printable(&advice.unused_patterns.join(" "))));
        }
        text.push_str(&unused(&advice.unused_commands));
        advice.notes.iter().for_each(|note| text.push_str(&format!("note: {}\n", printable(note))));
        text + &missing(&advice.silent)
    })
}

fn unused(commands: &[String]) -> String {
    match commands.len() {
        0 => String::new(),
        count if count > COMMANDS_LISTED => {
            let first = commands[..COMMANDS_LISTED].join(" ");
            format!("never used commands: {count}, among them {first} (all of them: --output json)\n")
        }
        _ => format!("never used commands: {}\n", commands.join(" ")),
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = word.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-@=_,:".contains(letter));
    if plain { word.to_owned() } else { format!("'{}'", printable(word).replace('\'', "'\\''")) }
}

/// What is the matter with a user. Fails if something is.
pub async fn doctor(client: &AdminClient, screen: &Screen, user: &str) -> Result<ExitCode, ClientError> {
    let response = client.diagnose(user).await?;
    screen.show(&response, || {
        let mut text = String::new();
        for finding in &response.findings {
            let mark = if finding.good { "ok " } else { "!! " };
            text.push_str(&format!("{mark}{}\n", printable(&finding.text)));
            if !finding.remedy.is_empty() {
                text.push_str(&format!("     {}\n", printable(&finding.remedy)));
            }
        }
        text + &missing(&response.silent)
    })?;
    let healthy = response.findings.iter().all(|finding| finding.good) && response.silent.is_empty();
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A node, as people call it.
fn named(node: u64, name: &str) -> String {
    if name.is_empty() { node.to_string() } else { name.to_owned() }
}

/// The client's address, out of its line of CLIENT LIST.
fn address(client_info: &str) -> &str {
    client_info.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap_or("-")
}

/// A line for each node that did not answer.
fn missing(silent: &[pb::Silence]) -> String {
    let line = |silence: &pb::Silence| {
        format!("{} did not answer: {}\n", named(silence.node, &silence.node_name), printable(&silence.reason))
    };
    silent.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("+client|list"), "'+client|list'");
        assert_eq!(quoted("~app:*"), "'~app:*'");
        assert_eq!(quoted("-@all"), "-@all");
    }

    #[test]
    fn the_address_is_found_in_a_line_of_client_list() {
        assert_eq!(address("id=3 addr=10.0.0.1:5 laddr=10.0.0.2:6379"), "10.0.0.1:5");
        assert_eq!(address(""), "-");
    }
}
