//! The sweep: for every command a server knows, whoever has no permission is refused by name, wrong arity is refused,
//! an unknown subcommand is refused, and whoever has the permission gets past that. One loop instead of a test per row.

use std::net::SocketAddr;

use keyward_tests::{Client, Cluster, Peer, Value};

/// A row of `COMMAND`.
#[derive(Debug)]
struct Row {
    /// `get`, `config|get`
    name: String,
    arity: i64,
    no_auth: bool,
    container: bool,
}

#[test]
fn every_command_is_refused_without_permission_and_with_a_wrong_arity() {
    let cluster = Cluster::start(1);
    let rows = sweep(cluster.node(1).address());
    assert!(rows > 150, "only {rows} commands: is COMMAND complete?");
    println!("{rows} commands swept");
}

#[test]
fn the_sweep_holds_on_valkey() {
    if let Some(valkey) = Peer::valkey(&[]) {
        sweep(valkey.address());
    }
}

fn sweep(address: SocketAddr) -> usize {
    let mut admin = Client::connect(address).expect("the server accepts");
    let rows = rows(&mut admin);
    admin.ok(&["ACL", "SETUSER", "nobody", "on", "nopass", "~*", "&*", "-@all"]);
    admin.ok(&["ACL", "SETUSER", "probe", "on", "nopass"]);
    let mut problems = Vec::new();
    for row in &rows {
        check_refused(address, row, &mut problems);
        check_arity(&mut admin, row, &mut problems);
        check_allowed(&mut admin, row, &mut problems);
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    rows.len()
}

fn check_refused(address: SocketAddr, row: &Row, problems: &mut Vec<String>) {
    if row.no_auth {
        return;
    }
    let mut nobody = Client::login(address, "nobody", "x").expect("nobody can log in");
    let reply = nobody.ask(&call(row, row.arity.unsigned_abs()));
    // A container alone has no subcommand to refuse; its arity is wrong before that.
    let expected = format!("NOPERM User nobody has no permissions to run the '{}' command", row.name);
    // Some commands are closed by the configuration before anybody is asked who they are.
    let closed = reply.text().is_some_and(|text| text.contains("command not allowed"));
    let refused = reply.text().is_some_and(|text| text.contains(&expected));
    if !row.container && !closed && !refused {
        problems.push(format!("{}: without permission it answered {reply}", row.name));
    }
}

fn check_arity(admin: &mut Client, row: &Row, problems: &mut Vec<String>) {
    let words = row.name.split('|').count() as u64;
    let least = row.arity.unsigned_abs();
    // EXEC wraps the reason in its own error.
    let expected = format!("wrong number of arguments for '{}' command", row.name);
    let mut wrong = Vec::new();
    if least > words {
        wrong.push(least - 1);
    }
    if row.arity > 0 {
        wrong.push(least + 1);
    }
    for count in wrong {
        let reply = admin.ask(&call(row, count));
        let refused = matches!(&reply, Value::Error(text) if text.contains(&expected));
        if !refused {
            problems.push(format!("{}: with {count} words it answered {reply}", row.name));
        }
    }
    if row.container {
        let reply = admin.ask(&[row.name.as_str(), "no-such-subcommand"]);
        if !reply.is_error("ERR unknown subcommand 'no-such-subcommand'") {
            problems.push(format!("{}: an unknown subcommand was answered with {reply}", row.name));
        }
    }
}

fn check_allowed(admin: &mut Client, row: &Row, problems: &mut Vec<String>) {
    let rule = format!("+{}", row.name);
    let set = admin.ask(&["ACL", "SETUSER", "probe", "reset", "on", "nopass", "~*", "&*", &rule]);
    if !set.is_ok() {
        problems.push(format!("{}: the rule {rule} was refused: {set}", row.name));
        return;
    }
    if row.container {
        return;
    }
    let mut dry = vec!["ACL".to_owned(), "DRYRUN".to_owned(), "probe".to_owned()];
    dry.extend(call(row, row.arity.unsigned_abs()));
    let reply = admin.ask(&dry);
    if reply.text().is_some_and(|text| text.contains("no permissions to run")) {
        problems.push(format!("{}: refused although {rule} was given: {reply}", row.name));
    }
}

/// The command with `words` words, made up where needed.
fn call(row: &Row, words: u64) -> Vec<String> {
    let mut call: Vec<String> = row.name.split('|').map(ToOwned::to_owned).collect();
    while (call.len() as u64) < words {
        call.push("1".to_owned());
    }
    call.truncate(usize::try_from(words).expect("an arity is small"));
    call
}

fn rows(admin: &mut Client) -> Vec<Row> {
    let mut found = Vec::new();
    collect(admin.ask(&["COMMAND"]).items().expect("COMMAND answers an array"), &mut found);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn collect(entries: &[Value], found: &mut Vec<Row>) {
    for entry in entries {
        let fields = entry.items().expect("a row is an array");
        let name = fields[0].text().expect("a row begins with a name").to_lowercase();
        let Value::Integer(arity) = fields[1] else { panic!("{name} has no arity") };
        let no_auth = fields[2].texts().iter().any(|flag| flag == "no_auth");
        let subcommands = fields.get(9).and_then(Value::items).unwrap_or_default();
        found.push(Row { name, arity, no_auth, container: !subcommands.is_empty() });
        collect(subcommands, found);
    }
}
