//! Precedence, errors and the promise that every source speaks the same grammar.

use std::ffi::OsString;
use std::fs;

use clap::{Args as _, FromArgMatches as _};

use super::*;

fn machine() -> Machine {
    Machine { hostname: "node-a".to_owned(), cores: 4, memory_bytes: 8 << 30, open_files: 1 << 20 }
}

fn load(flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, Problems> {
    load_on(&machine(), flags, environment)
}

fn load_on(machine: &Machine, flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let command = Flags::augment_args(clap::Command::new("serve").no_binary_name(true));
    let flags = Flags::from_arg_matches(&command.try_get_matches_from(flags).unwrap()).unwrap();
    let environment: Vec<(OsString, OsString)> =
        environment.iter().map(|(key, value)| (key.into(), value.into())).collect();
    Config::from_sources(&flags, &environment, machine)
}

fn load_file(text: &str, flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyward.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let flags: Vec<&str> = ["--config", path].iter().chain(flags).copied().collect();
    load(&flags, environment)
        .map_err(|problems| Problems(problems.iter().map(|line| line.replace(path, "keyward.toml")).collect()))
}

fn problem(result: Result<Config, Problems>) -> String {
    result.expect_err("this configuration has a problem").to_string()
}

#[test]
fn every_default_and_bound_can_be_read_and_the_defaults_start() {
    let config = load(&[], &[]).unwrap();
    assert_eq!(config.name, "node-a");
    assert_eq!(config.threads, 4);
    assert_eq!(config.maxmemory.bytes(), (8 << 30) / 100 * 75);
    assert_eq!(config.advertised_client().to_string(), "127.0.0.1:6379");
    assert_eq!(config.advertised_peer().to_string(), "127.0.0.1:9379");
    assert_eq!(config.formation(), Formation::Alone);
    assert_eq!(config.policy_source(), PolicySource::Open);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    for setting in SETTINGS.iter() {
        for text in setting.bounds.map_or(vec![], |(low, high)| vec![low, high]) {
            let read = load(&[&format!("--{}", setting.key), text], &[]);
            let complains = read.err().is_some_and(|problems| problems.iter().any(|line| line.contains(") is ")));
            assert!(!complains, "{} {text}", setting.key);
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default() {
    let file = "databases = 2\nmaxclients = 20\nacllog-max-len = 200\n";
    let environment = [("KEYWARD_DATABASES", "3"), ("KEYWARD_MAXCLIENTS", "30")];
    let config = load_file(file, &["--databases", "4"], &environment).unwrap();
    assert_eq!((config.databases, config.maxclients, config.acllog_max_len), (4, 30, 200));
    assert_eq!(config.shards, 256);
}

#[test]
fn unknown_keys_and_all_other_problems_are_named_with_their_place() {
    let text = "databases = 16\nmax_clients = 3\n\n[data]\nx = 1\n";
    assert_eq!(
        problem(load_file(text, &["--shards", "8"], &[("KEYWARD_TIMEOUT", "soon")])),
        "keyward.toml:4: unknown key `data`; the nearest one is `data-dir`\n\
         keyward.toml:2: unknown key `max_clients`; the nearest one is `maxclients`\n\
         `timeout` (KEYWARD_TIMEOUT) is \"soon\", which is not a time such as 200ms, 5s, 2m, 1h or 7d\n\
         `shards` (--shards) is 8, but must be from 16 to 4096"
    );
    assert!(problem(load_file("databases = \n", &[], &[])).starts_with("keyward.toml:1: "));
    assert!(problem(load(&["--config", "/does/not/exist"], &[])).contains("/does/not/exist cannot be read"));
}

#[test]
fn unknown_flags_are_errors_that_name_the_nearest() {
    let command = Flags::augment_args(clap::Command::new("serve").no_binary_name(true));
    let error = command.try_get_matches_from(["--max-memory", "1gb"]).unwrap_err().to_string();
    assert!(error.contains("--maxmemory"), "{error}");
}

#[test]
fn what_kubernetes_injects_for_a_service_called_keyward_does_no_harm() {
    let injected = [
        ("KEYWARD_PORT", "tcp://10.0.0.1:6379"),
        ("KEYWARD_SERVICE_HOST", "10.0.0.1"),
        ("KEYWARD_SERVICE_PORT_ADMIN", "7379"),
        ("KEYWARD_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("KEYWARD_PEERS_PORT", "tcp://10.0.0.2:9379"),
        ("KEYWARD_PEERS_SERVICE_HOST", "10.0.0.2"),
        ("KEYWARD_PASSWORD", "of-keywardctl"),
    ];
    let mut loaded = load(&[], &injected).unwrap();
    assert_eq!(std::mem::take(&mut loaded.remarks).len(), injected.len() - 1);
    assert_eq!(loaded, load(&[], &[]).unwrap());
    for setting in SETTINGS.iter() {
        let injected = setting.key == "port" || setting.key.starts_with("port-") || setting.key.starts_with("service-");
        assert!(!injected, "{} collides with what Kubernetes injects", setting.key);
    }
}

#[test]
fn a_misspelt_variable_is_named_with_the_nearest_setting_and_without_its_value() {
    for (misspelt, meant) in [
        ("KEYWARD_MAXMEMRY", "KEYWARD_MAXMEMORY"),
        ("KEYWARD_TCP_KEEPALVE", "KEYWARD_TCP_KEEPALIVE"),
        ("KEYWARD_ADVERTISE_CLIENTPORT", "KEYWARD_ADVERTISE_CLIENT_PORT"),
        ("KEYWARD_CLUSTER_SECRET_FLIE", "KEYWARD_CLUSTER_SECRET_FILE"),
        ("KEYWARD_ACL-FILE", "KEYWARD_ACL_FILE"),
    ] {
        let warnings = load(&[], &[(misspelt, "hush")]).unwrap().warnings;
        let expected = format!("{misspelt} is no setting; the nearest one is {meant}");
        assert!(warnings.contains(&expected), "{warnings:?}");
        assert!(!warnings.concat().contains("hush"), "{warnings:?}");
    }
    let warnings = load(&[], &[("KEYWARD_PORT", "6379")]).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("KEYWARD_PORT is no setting")), "{warnings:?}");
}

#[test]
fn a_list_is_an_array_in_a_file_and_commas_elsewhere() {
    let secret = "0123456789abcdef";
    let file = format!(
        "name = 'a'\nmembers = [\"a=h1:1\", \"b=[::1]:2\"]\nsave = [\"60 1\", \"5 7\"]\ncluster-secret = '{secret}'\n"
    );
    let config = load_file(&file, &[], &[]).unwrap();
    assert_eq!(config.members[1].address, Address::new("::1", 2));
    assert_eq!(config.save.text(), "60 1 5 7");
    let config = load(&["--members", "a=h1:1, b=h2:2", "--cluster-secret", secret, "--save", ""], &[]).unwrap();
    assert_eq!(config.save, SaveRules(vec![]));
    let joins = ["h1:1", "h2:2"].map(|address| Address::parse(address).unwrap());
    assert_eq!(config.formation(), Formation::Joiner(joins.to_vec()), "node-a is not among the members");
    assert_eq!(config.policy_source(), PolicySource::Cluster);
}

#[test]
fn a_node_that_waits_to_be_invited_takes_its_users_from_the_cluster() {
    let file = "await-invitation = true\ncluster-secret = '0123456789abcdef'\nbind = '0.0.0.0:6379'\n";
    let config = load_file(file, &[], &[]).unwrap();
    assert_eq!(config.formation(), Formation::Invited);
    assert_eq!(config.policy_source(), PolicySource::Cluster);
    assert_eq!(load_file(file, &["--await-invitation", "false", "--join", "h:1"], &[]).unwrap().formation(), {
        Formation::Joiner(vec![Address::new("h", 1)])
    });
}

#[test]
fn sizes_and_times_read_as_redis_users_write_them() {
    let config = load_file("maxmemory = '1gib'\ntimeout = 300\n", &[], &[]).unwrap();
    assert_eq!(config.maxmemory.bytes(), 1 << 30);
    assert_eq!(config.timeout, Duration::from_secs(300));
    let config = load(&["--maxmemory", "50%", "--timeout", "5m"], &[]).unwrap();
    assert_eq!(config.maxmemory.bytes(), (8 << 30) / 100 * 50);
    assert_eq!(config.timeout.text(), "5m");
    for (key, value) in
        [("--maxmemory", "99%"), ("--maxmemory", "18446744073709551615kb"), ("--timeout", "-1"), ("--bind", "6379")]
    {
        assert!(problem(load(&[key, value], &[])).contains(value), "{key} {value}");
    }
    assert!(problem(load(&["--maxmemory-policy", "allkeys-fifo"], &[])).contains("must be noeviction"));
}

#[test]
fn the_network_is_served_only_with_a_policy_and_peers_only_with_a_secret() {
    let open = problem(load(&["--bind", "0.0.0.0:6379"], &[]));
    assert!(open.contains("`acl-file`") && open.contains("`requirepass-file`"), "{open}");
    let config = load(&["--bind", "0.0.0.0:6379", "--requirepass", "x"], &[]).unwrap();
    assert_eq!(config.advertise_host, "node-a", "0.0.0.0 is no address to tell others");
    assert!(problem(load(&["--peer-bind", "0.0.0.0:9379"], &[])).contains("`cluster-secret-file`"));
    assert!(problem(load(&["--join", "h:1"], &[])).contains("`join` is set, so a cluster secret"));
    assert!(problem(load(&["--cluster-secret", "short"], &[])).contains("at least 16"));
    assert!(problem(load(&["--advertise-host", "0.0.0.0"], &[])).contains("nobody can connect to"));
}

#[test]
fn secrets_come_from_files_and_are_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    fs::write(&path, "se cret-zz\r\n").unwrap();
    let path = path.to_str().unwrap();
    let config = load(&["--requirepass-file", path, "--cluster-secret", "zz-0123456789abcdef"], &[]).unwrap();
    assert_eq!(config.requirepass.as_ref().unwrap().expose(), "se cret-zz");
    for shown in [format!("{config:?}"), config.to_toml()] {
        assert!(!shown.contains("cret-zz") && !shown.contains("zz-012"), "{shown}");
    }
    assert!(problem(load(&["--requirepass-file", path, "--requirepass", "x"], &[])).contains("both set"));
    fs::write(path, "\n").unwrap();
    assert!(problem(load(&["--requirepass-file", path], &[])).contains("is empty"));
    assert_eq!(load(&[], &[("KEYWARD_REQUIREPASS", "")]).unwrap().policy_source(), PolicySource::Open);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (flags, expected) in [
        (vec!["--shards", "100"], "power of two"),
        (vec!["--raft-heartbeat", "500ms"], "three times"),
        (vec!["--raft-election-max", "450ms"], "more than `raft-election-min`"),
        (vec!["--http-bind", "0.0.0.0:6379"], "both listen on port 6379"),
        (vec!["--dbfilename", "../x"], "plain file name"),
        (vec!["--name", "a b"], "letters, digits"),
        (vec!["--members", "node-a=h:1,b=h:1", "--cluster-secret", "0123456789abcdef"], "not its own"),
        (vec!["--members", "node-a=h:1", "--join", "h:2", "--cluster-secret", "0123456789abcdef"], "keep one"),
        (vec!["--await-invitation", "true", "--join", "h:2", "--cluster-secret", "0123456789abcdef"], "`join` says"),
        (vec!["--await-invitation", "true", "--members", "b=h:2"], "`members` says"),
        (vec!["--await-invitation", "yes"], "true or false"),
        (vec!["--await-invitation", "true"], "`await-invitation` is set, so a cluster secret"),
    ] {
        let text = problem(load(&flags, &[]));
        assert!(text.contains(expected), "{flags:?}: {text}");
    }
}

#[test]
fn maxclients_never_exceeds_the_files_the_process_may_open() {
    let small = Machine { open_files: 1024, ..machine() };
    let config = load_on(&small, &[], &[]).unwrap();
    assert_eq!(config.maxclients, 768);
    assert!(config.warnings.iter().any(|warning| warning.contains("maxclients is lowered")));
}

#[test]
fn the_shown_configuration_loads_again_as_the_same() {
    let config = load(&["--save", "60 1", "--bind", "[::1]:7000", "--dbfilename", "a \"b\".rdb"], &[]).unwrap();
    assert_eq!(load_file(&config.to_toml(), &[], &[]).unwrap(), config);
}

#[test]
fn the_default_file_explains_every_setting_and_changes_nothing() {
    let text = Config::default_toml();
    assert_eq!(load_file(&text, &[], &[]), load(&[], &[]));
    let uncommented: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ") && !line.ends_with('.')))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(uncommented.lines().count(), SETTINGS.len());
    assert_eq!(load_file(&uncommented, &[], &[]), load(&[], &[]));
}
