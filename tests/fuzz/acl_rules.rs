//! Any words as ACL rules: never a panic, what is accepted reads back as written, and a user survives its own listing.

use keyward_acl::{
    Catalog, DatabaseUse, Directory, KeyAccess, KeyUse, Policy, Request, Rule, UserChange, UserName, Walls,
};

use super::catalog::SmallCatalog;

/// The target: the input is a user's name and rules, one a line.
pub fn acl_rules(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let name = lines.next().unwrap_or_default();
    let words: Vec<&[u8]> = lines.collect();
    for word in &words {
        rules_read_back_as_written(word);
    }
    let mut directory = Directory::new();
    let Ok(change) = directory.prepare_set(name, &words, &SmallCatalog) else { return };
    assert_eq!(directory.validate(&change, &SmallCatalog), Ok(()), "what was prepared is not valid");
    directory.apply(1, &change);
    let before = directory.clone();
    directory
        .apply(2, &UserChange::Set { name: UserName::new(name).expect("it was accepted above"), rules: Vec::new() });
    assert_eq!(directory.digest(), before.digest(), "no rules changed a user");
    survives_its_own_listing(&before, name);
    decides_without_panic(&before, name);
}

fn rules_read_back_as_written(word: &[u8]) {
    let Ok(rules) = Rule::parse(word) else { return };
    for rule in rules {
        let text = rule.to_text();
        assert_eq!(Rule::parse(&text), Ok(vec![rule]), "'{}' reads back differently", text.escape_ascii());
    }
}

fn survives_its_own_listing(directory: &Directory, name: &[u8]) {
    let user = directory.get(name).expect("it was just made");
    let mut words = vec![b"reset".to_vec()];
    words.extend(user.words());
    let mut copy = Directory::new();
    let change = copy.prepare_set(name, &words, &SmallCatalog);
    let change = change.unwrap_or_else(|error| panic!("'{}' is refused: {error}", user.list_line().escape_ascii()));
    copy.apply(1, &change);
    let copied = copy.get(name).expect("it was just made");
    assert_eq!(copied.list_line().escape_ascii().to_string(), user.list_line().escape_ascii().to_string());
}

fn decides_without_panic(directory: &Directory, name: &[u8]) {
    let policy = Policy::compile(directory.get(name).expect("it was just made"), &SmallCatalog, Walls::Up);
    let keys: [&[u8]; 5] = [b"", b"a:1", b"{tag}:1", b"\xff\0\r\n", &[b'a'; 300]];
    for command in 0..SmallCatalog.count() {
        let command = u16::try_from(command).expect("the catalog is small");
        for key in keys {
            let access = KeyAccess { read: key.len() % 2 == 0, write: key.len() % 3 == 0 };
            let request = Request {
                command,
                argv: &[b"get", key],
                keys: &[KeyUse { key, access, argument: 1 }],
                channels: &[],
                databases: &[DatabaseUse::Index(0)],
            };
            let allowed = policy.check(&request).is_ok();
            let keyless = Request { keys: &[], databases: &[], ..request };
            assert!(!allowed || policy.check(&keyless).is_ok(), "a key more is a right more");
        }
    }
}
