//! What is the matter with a user who does not get in, or is denied: the questions one would ask, in that order, with what
//! was found in plain sentences and the command that mends it.
//!
//! ```text
//!   does it exist? on? a password? ─► failed logins ─► tenant ─► commands, keys, channels ─► denials ─► the nodes agree?
//! ```
//! Pure: state, standings of the nodes and denials in, findings out. It refuses to change anything.

use keyward_acl::{KeyAccess, Mode, Policy, Treatment, User};
use keyward_engine::table::Table;
use keyward_engine::tenancy::Tenant;
use keyward_proto::admin as pb;

/// Denied objects that are told one by one.
const DENIALS_TOLD: usize = 8;
/// How many letters two names may differ in to be called similar.
const SIMILAR: usize = 2;
/// Names longer than this are not compared letter by letter.
const COMPARED_BYTES_MAX: usize = 64;

/// What there is to look at.
pub struct Case<'a> {
    /// The name that was asked about.
    pub name: &'a str,
    /// The user, if there is one.
    pub user: Option<&'a User>,
    /// Its rules, compiled; none while its tenant is retired.
    pub policy: Option<&'a Policy>,
    /// Its tenant.
    pub tenant: Option<&'a Tenant>,
    /// Everybody's names.
    pub names: Vec<String>,
    /// The index of the last change that this node applied.
    pub index: u64,
    /// How the nodes see it, with their names.
    pub standings: Vec<(String, pb::UserStanding)>,
    /// What was denied it, and failed logins under its name, newest first.
    pub denials: Vec<pb::Denial>,
    /// Failed logins as `default`, newest first: clients that send a password and no name.
    pub nameless: Vec<pb::Denial>,
    /// Every command.
    pub table: &'a Table,
}

/// Everything that was looked at.
pub fn diagnose(case: &Case<'_>) -> Vec<pb::Finding> {
    let Some(user) = case.user else {
        let mut findings = vec![missing(case)];
        findings.extend(logins(case));
        return findings;
    };
    let mut findings = vec![good("exists", format!("the user '{}' exists", case.name))];
    findings.push(enabled(case, user));
    findings.push(password(case, user));
    findings.extend(logins(case));
    findings.extend(tenant(case, user));
    findings.push(commands(case, user));
    findings.push(keys(case, user));
    findings.push(channels(case, user));
    findings.extend(mode(case, user));
    findings.extend(denials(case));
    findings.extend(connections(case));
    findings.extend(nodes(case, user));
    findings
}

fn good(about: &str, text: String) -> pb::Finding {
    pb::Finding { good: true, about: about.to_owned(), text, remedy: String::new() }
}

fn bad(about: &str, text: String, remedy: String) -> pb::Finding {
    pb::Finding { good: false, about: about.to_owned(), text, remedy }
}

fn set(name: &str, rules: &str) -> String {
    format!("keywardctl user set {name} {rules}")
}

fn missing(case: &Case<'_>) -> pb::Finding {
    let similar: Vec<&str> = case
        .names
        .iter()
        .map(String::as_str)
        .filter(|other| is_similar(case.name.as_bytes(), other.as_bytes()))
        .collect();
    let hint = match similar.as_slice() {
        [] => String::new(),
        names => format!("; there is {}", names.join(", ")),
    };
    let text = format!("no user is called '{}'{hint}", case.name);
    bad("exists", text, set(case.name, &format!("on '>PASSWORD' '~{}:*' +@all", case.name)))
}

fn enabled(case: &Case<'_>, user: &User) -> pb::Finding {
    if user.enabled {
        return good("enabled", "it is on".to_owned());
    }
    bad("enabled", "it is off: every login is answered WRONGPASS".to_owned(), set(case.name, "on"))
}

fn password(case: &Case<'_>, user: &User) -> pb::Finding {
    match (user.nopass, user.passwords.len()) {
        (true, _) => {
            let text = "it needs no password: whoever knows its name gets in".to_owned();
            bad("password", text, set(case.name, "resetpass '>PASSWORD'"))
        }
        (false, 0) => {
            bad("password", "it has no password: nobody can log in".to_owned(), set(case.name, "'>PASSWORD'"))
        }
        (false, 1) => good("password", "it has one password".to_owned()),
        (false, count) => good("password", format!("it has {count} passwords; each of them works")),
    }
}

fn logins(case: &Case<'_>) -> Vec<pb::Finding> {
    let mut findings = Vec::new();
    let by_client = |denial: &&pb::Denial| denial.reason == "auth" && !is_of_admin_port(denial);
    let failed: Vec<&pb::Denial> = case.denials.iter().filter(by_client).collect();
    if let Some(last) = failed.first() {
        let count: u64 = failed.iter().map(|denial| denial.count).sum();
        let text = format!(
            "{count} logins as '{}' failed lately, the last at {} from {} on {}: the password the application has is another",
            case.name,
            super::calendar::time(last.updated_unix_ms),
            address(&last.client_info),
            last.node_name
        );
        let remedy = format!("{} (or give the application the right password)", set(case.name, "'>PASSWORD'"));
        findings.push(bad("password", text, remedy));
    }
    let nameless = case.nameless.iter().find(|denial| !is_of_admin_port(denial));
    if let Some(last) = nameless.filter(|_| case.name != "default") {
        let text = format!(
            "logins as 'default' fail, the last at {} from {}: a connection string without a user name logs in as 'default'",
            super::calendar::time(last.updated_unix_ms),
            address(&last.client_info)
        );
        let remedy = format!("use redis://{}:PASSWORD@HOST:PORT, not redis://:PASSWORD@HOST:PORT", case.name);
        findings.push(bad("password", text, remedy));
    }
    findings
}

/// Whether somebody was refused who used `keywardctl`: that says nothing about the application.
fn is_of_admin_port(denial: &pb::Denial) -> bool {
    denial.client_info.split(' ').any(|field| field == "id=0")
}

fn tenant(case: &Case<'_>, user: &User) -> Option<pb::Finding> {
    let tenant = case.tenant?;
    if tenant.retired {
        let text = format!("its tenant '{}' is retired: nobody of it gets in", tenant.name);
        return Some(bad("tenant", text, format!("keywardctl tenant set {} state active", tenant.name)));
    }
    if tenant.is_namespace() {
        let text = format!("it belongs to the namespace '{}': the names of its keys are its own", tenant.name);
        return Some(good("tenant", text));
    }
    let lent = || tenant.imports.iter().map(|import| literal(&import.pattern));
    let within = || tenant.prefixes.iter().map(Vec::as_slice).chain(lent());
    let foreign = |pattern: &keyward_acl::KeyPattern| !within().any(|beginning| reaches(&pattern.pattern, beginning));
    let sets = std::iter::once(&user.root).chain(&user.selectors);
    let lost: Vec<String> =
        sets.flat_map(|set| &set.keys).filter(|key| foreign(key)).map(|key| super::shown(&key.word())).collect();
    let prefixes: Vec<String> = tenant.prefixes.iter().map(|prefix| super::shown(prefix)).collect();
    let of = format!("it belongs to the tenant '{}', whose keys begin with {}", tenant.name, prefixes.join(" or "));
    if lost.is_empty() {
        let imports: Vec<String> = tenant.imports.iter().map(|import| super::shown(&import.pattern)).collect();
        let lent = match imports.as_slice() {
            [] => String::new(),
            some => format!(
                "; of what it imports ({}) its users reach what their rules name, and all of it if they hold every key of the tenant",
                some.join(" ")
            ),
        };
        return Some(good("tenant", format!("{of}{lent}")));
    }
    let text = format!("{of}: its patterns {} hold none of those", lost.join(" "));
    let first = prefixes.first().cloned().unwrap_or_default();
    Some(bad("tenant", text, set(case.name, &format!("resetkeys '~{first}*'"))))
}

/// Whether some key that begins with `prefix` may match `pattern`.
fn reaches(pattern: &[u8], prefix: &[u8]) -> bool {
    let literal = literal(pattern);
    let shared = literal.len().min(prefix.len());
    literal[..shared] == prefix[..shared]
}

/// What comes before the first special byte.
fn literal(pattern: &[u8]) -> &[u8] {
    &pattern[..pattern.iter().take_while(|byte| !b"*?[\\".contains(byte)).count()]
}

fn commands(case: &Case<'_>, user: &User) -> pb::Finding {
    let held = |policy: &Policy| case.table.rows().iter().filter(|row| policy.holds_command(row.id)).count();
    let count = case.policy.map_or(0, held);
    let grants =
        |selector: &keyward_acl::Selector| selector.all_commands || selector.commands.iter().any(|rule| rule.allow);
    if !grants(&user.root) && !user.selectors.iter().any(grants) {
        let text = "its rules allow no command".to_owned();
        return bad("commands", text, set(case.name, "+@read +@write +@connection +@transaction"));
    }
    let rules = user.root.commands_text();
    let confined = case.policy.is_some_and(Policy::is_confined);
    let walls = if confined { ", without those that concern the server (it is confined)" } else { "" };
    good("commands", format!("its rules {rules} allow {count} commands{walls}"))
}

fn keys(case: &Case<'_>, user: &User) -> pb::Finding {
    let sets = || std::iter::once(&user.root).chain(&user.selectors);
    if sets().any(|set| set.all_keys) {
        let tenant = if case.tenant.is_some() { " of its tenant" } else { "" };
        return good("keys", format!("its rules hold every key{tenant}"));
    }
    let patterns: Vec<String> = sets().flat_map(|set| &set.keys).map(|key| super::shown(&key.word())).collect();
    if patterns.is_empty() {
        let text = "its rules hold no key: every command on data is denied".to_owned();
        return bad("keys", text, set(case.name, &format!("'~{}:*'", case.name)));
    }
    good("keys", format!("its key patterns are {}", patterns.join(" ")))
}

fn channels(case: &Case<'_>, user: &User) -> pb::Finding {
    let sets = || std::iter::once(&user.root).chain(&user.selectors);
    if sets().any(|set| set.all_channels) {
        return good("channels", "its rules hold every channel".to_owned());
    }
    let patterns: Vec<String> =
        sets().flat_map(|set| &set.channels).map(|channel| format!("&{}", super::shown(channel))).collect();
    if !patterns.is_empty() {
        return good("channels", format!("its channel patterns are {}", patterns.join(" ")));
    }
    // Most applications use none; it is only wrong if it tried.
    if case.denials.iter().any(|denial| denial.reason == "channel") {
        let text = "its rules hold no channel, and it tried some: PUBLISH and SUBSCRIBE are denied".to_owned();
        return bad("channels", text, set(case.name, &format!("'&{}:*'", case.name)));
    }
    good("channels", "its rules hold no channel: it cannot publish or subscribe".to_owned())
}

fn mode(case: &Case<'_>, user: &User) -> Option<pb::Finding> {
    (user.mode == Mode::Report).then(|| {
        let text =
            "it is only watched (mode=report): what its rules forbid is noted and happens nevertheless".to_owned();
        let remedy =
            format!("keywardctl advise {0}, and when its rules fit: {1}", case.name, set(case.name, "mode=enforce"));
        bad("mode", text, remedy)
    })
}

fn denials(case: &Case<'_>) -> Vec<pb::Finding> {
    let denied = case.denials.iter().filter(|denial| denial.reason != "auth");
    let (mended, open): (Vec<&pb::Denial>, Vec<&pb::Denial>) = denied.partition(|denial| is_mended(case, denial));
    let mut findings: Vec<pb::Finding> =
        open.into_iter().take(DENIALS_TOLD).map(|denial| denied_finding(case, denial)).collect();
    if !mended.is_empty() {
        let count: u64 = mended.iter().map(|denial| denial.count).sum();
        findings.push(good("denials", format!("{count} denials of before concern what its rules hold by now")));
    } else if findings.is_empty() {
        findings.push(good("denials", "nothing was denied it lately".to_owned()));
    }
    findings
}

/// Whether its rules hold by now what was denied it. Of a key it is not known for what: both must be allowed.
fn is_mended(case: &Case<'_>, denial: &pb::Denial) -> bool {
    let (Some(policy), object) = (case.policy, denial.object.as_bytes()) else { return false };
    match denial.reason.as_str() {
        "key" => policy.may_access_key(object, KeyAccess { read: true, write: true }),
        "channel" => policy.may_use_channel(object, false),
        "command" => case.table.find(object).is_some_and(|row| policy.holds_command(row.id)),
        _ => false,
    }
}

fn denied_finding(case: &Case<'_>, denial: &pb::Denial) -> pb::Finding {
    let pb::Denial { reason, object, count, node_name, updated_unix_ms, .. } = denial;
    let time = super::calendar::time(*updated_unix_ms);
    let verb = if denial.context == "report" { "would have been denied" } else { "was denied" };
    let text = format!("the {reason} '{object}' {verb} {count} times on {node_name}, the last at {time}");
    let remedy = match reason.as_str() {
        "key" => {
            let typo = case.user.and_then(|user| near_pattern(user, object.as_bytes()));
            if let Some(pattern) = typo {
                let text = format!("{text}; its pattern {pattern} differs by a letter or two: a typo?");
                return bad("denials", text, set(case.name, &format!("'~{}*'", beginning(object))));
            }
            let pattern = format!("'{}*'", beginning(object));
            let imported = case.tenant.and_then(|own| {
                own.imports.iter().find(|import| keyward_acl::glob::matches(&import.pattern, object.as_bytes()))
            });
            let rule = match (imported, case.tenant) {
                // Its tenant may use it, its own rules do not name it.
                (Some(import), _) => {
                    let flags = if import.write { "~" } else { "%R~" };
                    set(case.name, &format!("'{flags}{}'", super::shown(&import.pattern)))
                }
                // Its tenant's own: its rules hold less than that.
                (None, Some(own)) if owns(own, object.as_bytes()) => {
                    set(case.name, &format!("'~{}*'", beginning(object)))
                }
                // Its rules hold within its tenant, whatever they say.
                (None, Some(own)) => format!(
                    "keywardctl tenant set OWNER export {pattern} to {0}, and keywardctl tenant set {0} import {pattern} from OWNER",
                    own.name
                ),
                (None, None) => set(case.name, &format!("'~{}*'", beginning(object))),
            };
            format!("have the application prefix its keys; or, if it may use them: {rule}")
        }
        "channel" => set(case.name, &format!("'&{object}'")),
        "command" => {
            let treatment = case.table.find(object.as_bytes()).map(|row| row.command.scope.treatment());
            let confined = case.policy.is_some_and(Policy::is_confined);
            match treatment.filter(|_| confined) {
                Some(Treatment::OfWholeTenant) if case.tenant.is_some() => set(case.name, &format!("'(~* +{object})'")),
                Some(Treatment::Never | Treatment::OfWholeTenant) => {
                    "no rule allows it to a user without ~*: it concerns the whole server".to_owned()
                }
                _ => set(case.name, &format!("'+{object}'")),
            }
        }
        "database" => "have the application SELECT 0; or allow the database with db=".to_owned(),
        _ => String::new(),
    };
    bad("denials", text, remedy)
}

/// Whether a key is the tenant's own.
fn owns(tenant: &Tenant, key: &[u8]) -> bool {
    let bare = key.strip_prefix(b"{").unwrap_or(key);
    tenant.is_namespace() || tenant.prefixes.iter().any(|prefix| key.starts_with(prefix) || bare.starts_with(prefix))
}

/// A pattern of the user's whose beginning is almost that of the key.
fn near_pattern(user: &User, key: &[u8]) -> Option<String> {
    let sets = std::iter::once(&user.root).chain(&user.selectors);
    let patterns = sets.flat_map(|set| &set.keys);
    let almost = |pattern: &&keyward_acl::KeyPattern| {
        let literal = pattern.pattern.iter().take_while(|byte| !b"*?[\\".contains(byte)).count();
        let wanted = &pattern.pattern[..literal];
        let got = &key[..key.iter().position(|byte| *byte == b':').map_or(key.len(), |at| at + 1)];
        literal > SIMILAR + 1 && wanted != got && is_similar(wanted, got)
    };
    patterns.clone().find(almost).map(|pattern| super::shown(&pattern.word()))
}

fn connections(case: &Case<'_>) -> Option<pb::Finding> {
    let all: u64 = case.standings.iter().map(|(_, standing)| standing.connections).sum();
    let older: u64 = case.standings.iter().map(|(_, standing)| standing.connections_before_change).sum();
    if older == 0 {
        return Some(good(
            "connections",
            format!("it has {all} connections, all from after its credentials last changed"),
        ));
    }
    let text = format!("{older} of its {all} connections are from before its credentials last changed");
    Some(bad("connections", text, format!("CLIENT KILL USER {}, or remove the old password with '<OLD'", case.name)))
}

fn nodes(case: &Case<'_>, user: &User) -> Vec<pb::Finding> {
    let mut findings = Vec::new();
    for (name, standing) in &case.standings {
        if standing.lease_remaining_ms == 0 {
            let text = format!("{name} has no contact with the leader and serves nobody");
            findings.push(bad("nodes", text, "keywardctl status".to_owned()));
        } else if standing.user_revision != user.revision {
            let text = format!(
                "{name} knows the user as of change {}, not {}: it has applied {}",
                standing.user_revision, user.revision, standing.applied_index
            );
            findings.push(bad("nodes", text, "keywardctl status; ask again in a moment".to_owned()));
        }
    }
    if findings.is_empty() {
        let count = case.standings.len();
        findings.push(good(
            "nodes",
            format!("all {count} nodes that answered have its last change ({}) in force, and a lease", user.revision),
        ));
    }
    findings
}

/// What a key begins with, up to its first delimiter.
fn beginning(key: &str) -> String {
    let end = key.find([':', '/', '.', '|']).map_or(key.len(), |at| at + 1);
    key[..end].to_owned()
}

fn address(client_info: &str) -> &str {
    client_info.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap_or("an unknown address")
}

/// Whether two names differ by a letter or two.
fn is_similar(a: &[u8], b: &[u8]) -> bool {
    if a.len().max(b.len()) > COMPARED_BYTES_MAX || a.len().abs_diff(b.len()) > SIMILAR {
        return false;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!left.eq_ignore_ascii_case(right));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()] <= SIMILAR
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_acl::{UserName, Walls, parse_rules};

    fn user(rules: &str) -> User {
        let mut user = User::new(UserName::new(b"litellm").unwrap(), 7);
        let words: Vec<&str> = rules.split(' ').collect();
        parse_rules(&words).unwrap().iter().for_each(|rule| user.apply(rule));
        user
    }

    fn found(user: Option<&User>, denials: &[(&str, &str)], standings: &[(u64, u64, u64)]) -> Vec<pb::Finding> {
        let policy = user.map(|user| Policy::compile(user, keyward_engine::table::table(), Walls::Up));
        let denial = |(reason, object): &(&str, &str)| pb::Denial {
            reason: (*reason).to_owned(),
            object: (*object).to_owned(),
            count: 3,
            node_name: "node-2".to_owned(),
            client_info: "addr=10.0.0.9:5 user=x".to_owned(),
            ..pb::Denial::default()
        };
        let standing = |(revision, lease, older): &(u64, u64, u64)| {
            let standing = pb::UserStanding {
                applied_index: 9,
                lease_remaining_ms: *lease,
                user_revision: *revision,
                connections: 5,
                connections_before_change: *older,
            };
            ("node-3".to_owned(), standing)
        };
        diagnose(&Case {
            name: "litellm",
            user,
            policy: policy.as_ref(),
            tenant: None,
            names: vec!["litelm".to_owned(), "langfuse".to_owned()],
            index: 9,
            standings: standings.iter().map(standing).collect(),
            denials: denials.iter().map(denial).collect(),
            nameless: Vec::new(),
            table: keyward_engine::table::table(),
        })
    }

    fn wrong(findings: &[pb::Finding]) -> Vec<(&str, &str, &str)> {
        let wrong = findings.iter().filter(|finding| !finding.good);
        wrong.map(|finding| (finding.about.as_str(), finding.text.as_str(), finding.remedy.as_str())).collect()
    }

    #[test]
    fn a_healthy_user_has_no_finding_that_is_bad() {
        let findings = found(Some(&user("on >p ~litellm:* +@all")), &[], &[(7, 4000, 0)]);
        assert_eq!(wrong(&findings), []);
        assert!(findings.len() >= 8, "each step is told: {findings:?}");
    }

    #[test]
    fn a_missing_user_is_compared_with_those_there_are() {
        let findings = found(None, &[("auth", "AUTH")], &[]);
        let wrong = wrong(&findings);
        assert_eq!(wrong[0].0, "exists");
        assert!(wrong[0].1.contains("there is litelm") && wrong[0].2.starts_with("keywardctl user set litellm on"));
        assert!(wrong[1].1.starts_with("3 logins as 'litellm' failed lately") && wrong[1].1.contains("10.0.0.9:5"));
    }

    #[test]
    fn each_defect_is_named_with_what_mends_it() {
        for (rules, about, remedy) in [
            (">p ~litellm:* +@all", "enabled", "keywardctl user set litellm on"),
            ("on ~litellm:* +@all", "password", "keywardctl user set litellm '>PASSWORD'"),
            ("on nopass ~litellm:* +@all", "password", "keywardctl user set litellm resetpass '>PASSWORD'"),
            ("on >p ~litellm:*", "commands", "keywardctl user set litellm +@read +@write +@connection +@transaction"),
            ("on >p +@all", "keys", "keywardctl user set litellm '~litellm:*'"),
        ] {
            let findings = found(Some(&user(rules)), &[], &[(7, 4000, 0)]);
            let wrong = wrong(&findings);
            assert!(wrong.iter().any(|found| (found.0, found.2) == (about, remedy)), "{rules}: {wrong:?}");
        }
        let findings = found(Some(&user("on >p ~litellm:* +@all mode=report")), &[], &[(6, 4000, 2)]);
        let abouts: Vec<&str> = wrong(&findings).iter().map(|found| found.0).collect();
        assert_eq!(abouts, ["mode", "connections", "nodes"]);
        let findings = found(Some(&user("on >p ~litellm:* +@all")), &[], &[(7, 0, 0)]);
        assert!(wrong(&findings)[0].1.contains("serves nobody"));
    }

    #[test]
    fn denials_are_explained_and_typos_found() {
        let denials = [("key", "litellm:cache:1"), ("key", "other"), ("command", "acl|setuser"), ("channel", "c")];
        let findings = found(Some(&user("on >p ~litelm:* +@all")), &denials, &[(7, 4000, 0)]);
        let wrong = wrong(&findings);
        let about =
            |object: &str| *wrong.iter().find(|found| found.0 == "denials" && found.1.contains(object)).unwrap();
        assert!(about("litellm:cache:1").1.contains("a typo?") && about("litellm:cache:1").2.contains("'~litellm:*'"));
        assert!(about("'other'").2.starts_with("have the application prefix its keys"));
        assert!(about("acl|setuser").2.starts_with("no rule allows it"));
        assert_eq!(about("channel").2, "keywardctl user set litellm '&c'");
    }

    #[test]
    fn what_was_mended_since_and_logins_of_keywardctl_are_no_findings() {
        let denials = [("key", "litellm:1"), ("command", "get"), ("channel", "litellm"), ("key", "other:1")];
        let findings = found(Some(&user("on >p ~litellm:* &litellm +@all")), &denials, &[(7, 4000, 0)]);
        let wrong = wrong(&findings);
        assert!(wrong.len() == 1 && wrong[0].1.contains("'other:1'"), "{wrong:?}");
        let mended = "9 denials of before concern what its rules hold by now";
        assert!(findings.iter().any(|finding| finding.good && finding.text == mended), "{findings:?}");
        let by = |client_info: &str| pb::Denial { client_info: client_info.to_owned(), ..pb::Denial::default() };
        assert!(is_of_admin_port(&by("id=0 addr=10.0.0.9:5")) && !is_of_admin_port(&by("id=10 addr=10.0.0.9:5")));
    }

    #[test]
    fn similar_names_differ_by_two_letters() {
        assert!(is_similar(b"litellm", b"litelm") && is_similar(b"Litellm", b"litellm"));
        assert!(!is_similar(b"litellm", b"langfuse") && !is_similar(b"a", b"abcd"));
    }
}
