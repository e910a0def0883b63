//! What changes make of the users.

use super::*;
use crate::password::tests::COMPARED;
use crate::rule::parse_rules;
use crate::testing::FakeCatalog;
use crate::user::PASSWORDS_PER_USER_MAX;
use proptest::prelude::*;

fn name(name: &str) -> UserName {
    UserName::new(name.as_bytes()).unwrap()
}

fn rules(text: &str) -> Vec<Rule> {
    parse_rules(&text.split_whitespace().collect::<Vec<_>>()).unwrap()
}

fn set(user: &str, text: &str) -> UserChange {
    UserChange::Set { name: name(user), rules: rules(text) }
}

fn delete(users: &[&str]) -> UserChange {
    UserChange::Delete { names: users.iter().map(|user| name(user)).collect() }
}

fn listed(users: &[(&str, &str)]) -> Vec<(UserName, Vec<Rule>)> {
    users.iter().map(|(user, text)| (name(user), rules(text))).collect()
}

fn import(source: &str, users: &[(&str, &str)]) -> UserChange {
    UserChange::Import { source: source.to_owned(), users: listed(users) }
}

fn lines(directory: &Directory) -> Vec<String> {
    directory.lines().into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
}

fn names(directory: &Directory) -> Vec<String> {
    directory.iter().map(|user| user.name.to_string()).collect()
}

fn revisions(directory: &Directory, user: &str) -> (u64, u64, u64, u64) {
    let user = directory.get(user.as_bytes()).unwrap();
    (user.created, user.revision, user.credentials_revision, user.withdrawn_revision)
}

#[test]
fn a_server_nobody_configured_is_open() {
    assert_eq!(lines(&Directory::new()), ["user default on nopass ~* &* +@all"]);
}

#[test]
fn users_are_listed_bytewise_by_name() {
    let mut directory = Directory::new();
    for user in ["zoe", "Zoe", "alice", "default2"] {
        directory.apply(1, &set(user, ""));
    }
    assert_eq!(names(&directory), ["Zoe", "alice", "default", "default2", "zoe"]);
}

#[test]
fn a_change_tells_what_became_of_it() {
    let mut directory = Directory::new();
    let created = UserOutcome::Set { created: true, changed: true };
    assert_eq!(directory.apply(5, &set("a", "on >p ~a:* +@read (+set)")), created);
    let unchanged = UserOutcome::Set { created: false, changed: false };
    assert_eq!(directory.apply(6, &set("a", "on >p ~a:* +@read (+set)")), unchanged);
    assert_eq!(revisions(&directory, "a"), (5, 5, 5, 5));
    let changed = UserOutcome::Set { created: false, changed: true };
    assert_eq!(directory.apply(7, &set("a", "~b:*")), changed);
    assert_eq!(revisions(&directory, "a"), (5, 7, 5, 5));
    assert!(changed.changed() && !unchanged.changed());
}

#[test]
fn adding_a_password_takes_no_login_away() {
    let mut directory = Directory::new();
    directory.apply(1, &set("a", "on >old"));
    directory.apply(2, &set("a", ">new"));
    assert_eq!(revisions(&directory, "a"), (1, 2, 2, 1));
    directory.apply(3, &set("a", "<old"));
    assert_eq!(revisions(&directory, "a"), (1, 3, 3, 3));
    directory.apply(4, &set("a", "off"));
    assert_eq!(revisions(&directory, "a"), (1, 4, 4, 4));
}

#[test]
fn a_user_made_again_is_another_user() {
    let mut directory = Directory::new();
    directory.apply(1, &set("a", "on >p"));
    assert_eq!(directory.apply(2, &delete(&["a", "nobody"])), UserOutcome::Deleted { count: 1 });
    directory.apply(3, &set("a", "on >p"));
    assert_eq!(revisions(&directory, "a"), (3, 3, 3, 3));
}

#[test]
fn default_is_never_deleted() {
    let mut directory = Directory::new();
    directory.apply(1, &set("a", ""));
    let refused = directory.prepare_delete(&["a", "default"]).unwrap_err();
    assert_eq!(refused.to_string(), "The 'default' user cannot be removed");
    assert_eq!(directory.apply(2, &delete(&["a", "default"])), UserOutcome::Deleted { count: 0 });
    assert_eq!(names(&directory), ["a", "default"]);
    assert!(directory.prepare_delete(&["a", "no such user"]).is_ok());
}

#[test]
fn load_leaves_the_listed_users_and_default() {
    let mut directory = Directory::new();
    directory.apply(1, &set("kept", "on >p"));
    directory.apply(1, &set("gone", "on"));
    let load = UserChange::ReplaceAll { users: listed(&[("kept", "on >p"), ("new", "on nopass")]) };
    assert_eq!(directory.apply(2, &load), UserOutcome::Replaced { created: 1, changed: 1, deleted: 1 });
    assert_eq!(names(&directory), ["default", "kept", "new"]);
    assert_eq!(revisions(&directory, "kept"), (1, 1, 1, 1));
    assert_eq!(lines(&directory)[0], "user default off resetchannels -@all");
    assert_eq!(directory.apply(3, &load), UserOutcome::Replaced { created: 0, changed: 0, deleted: 0 });
}

#[test]
fn an_import_removes_only_what_it_brought() {
    let mut directory = Directory::new();
    directory.apply(1, &set("runtime", "on"));
    directory.apply(2, &import("f", &[("a", "on"), ("b", "on"), ("default", "off")]));
    directory.apply(3, &import("g", &[("c", "on")]));
    directory.apply(4, &set("a", "+get"));
    let outcome = directory.apply(5, &import("f", &[("b", "on nopass")]));
    // `default` came with the file and is gone from it: it stays, as closed as it was.
    assert_eq!(outcome, UserOutcome::Replaced { created: 0, changed: 1, deleted: 1 });
    assert_eq!(names(&directory), ["b", "c", "default", "runtime"]);
    assert!(!directory.get(b"default").unwrap().enabled);
}

#[test]
fn an_import_puts_right_what_was_changed_since() {
    let mut directory = Directory::new();
    let file = import("f", &[("a", "on ~a:* +get")]);
    directory.apply(1, &file);
    directory.apply(2, &set("a", "~* +@all"));
    assert_eq!(directory.apply(3, &file), UserOutcome::Replaced { created: 0, changed: 1, deleted: 0 });
    assert_eq!(lines(&directory)[0], "user a on ~a:* resetchannels -@all +get");
}

#[test]
fn a_user_the_file_names_belongs_to_the_file() {
    let mut directory = Directory::new();
    directory.apply(1, &set("a", "on"));
    let adopted = directory.apply(2, &import("f", &[("a", "on")]));
    assert_eq!(adopted, UserOutcome::Replaced { created: 0, changed: 0, deleted: 0 });
    assert_eq!(revisions(&directory, "a"), (1, 1, 1, 1));
    directory.apply(3, &import("f", &[]));
    assert_eq!(names(&directory), ["default"]);
}

#[test]
fn a_failed_login_says_the_same_whatever_failed() {
    let mut directory = Directory::new();
    directory.apply(1, &set("a", "on >p >q"));
    directory.apply(2, &set("off", "off nopass"));
    assert_eq!(directory.authenticate(b"a", b"q").unwrap().name, name("a"));
    for (user, password, cause) in [
        ("a", "wrong", AuthFailure::WrongPassword),
        ("off", "", AuthFailure::Disabled),
        ("nobody", "p", AuthFailure::UnknownUser),
    ] {
        let failure = directory.authenticate(user.as_bytes(), password.as_bytes()).unwrap_err();
        assert_eq!(failure, cause);
        assert_eq!(failure.to_string(), "WRONGPASS invalid username-password pair or user is disabled.");
    }
    assert!(directory.authenticate(b"default", b"anything").is_ok());
}

#[test]
fn a_login_compares_as_many_hashes_however_it_ends() {
    let mut directory = Directory::new();
    directory.apply(1, &set("one", "on >p"));
    directory.apply(2, &set("three", "on >p >q >r"));
    directory.apply(3, &set("none", "on"));
    directory.apply(4, &set("off", "off >p"));
    directory.apply(5, &set("open", "on nopass"));
    let compared = |user: &str, password: &str| {
        COMPARED.set(0);
        let _ = directory.authenticate(user.as_bytes(), password.as_bytes());
        COMPARED.get()
    };
    for user in ["one", "three", "none", "off", "open", "nobody"] {
        for password in ["p", "q", "r", "wrong", ""] {
            assert_eq!(compared(user, password), PASSWORDS_PER_USER_MAX, "{user} {password}");
        }
    }
}

#[test]
fn a_change_is_checked_before_it_is_proposed() {
    let catalog = FakeCatalog::new();
    let mut directory = Directory::new();
    directory.apply(1, &set("a", "~*"));
    let error = |change: &UserChange| directory.validate(change, &catalog).unwrap_err().to_string();
    assert!(error(&set("a", "~b")).starts_with("Error in ACL SETUSER modifier '~b': Adding a pattern after"));
    assert!(error(&set("a", "+nope")).ends_with("Unknown command or category name in ACL"));
    assert_eq!(error(&delete(&["default"])), "The 'default' user cannot be removed");
    let twice = UserChange::ReplaceAll { users: listed(&[("a", ""), ("a", "")]) };
    assert_eq!(error(&twice), "Duplicate user 'a'");
    assert!(error(&import("f", &[("a", "-@nope")])).contains("'-@nope'"));
    assert_eq!(directory.validate(&set("b", "~b"), &catalog), Ok(()));
    assert_eq!(directory.validate(&import("f", &[("a", "~b +get")]), &catalog), Ok(()));
    let named = directory.prepare_set(b"a b", &["on"], &catalog).unwrap_err();
    assert_eq!(named.to_string(), "Usernames can't contain spaces or null characters");
    assert_eq!(directory.prepare_set(b"b", &["on", "~b"], &catalog), Ok(set("b", "on ~b")));
}

#[test]
fn a_record_without_default_opens_nothing() {
    let directory = Directory::from_records(&[]).unwrap();
    assert_eq!(lines(&directory), ["user default off resetchannels -@all"]);
    let broken = UserRecord { rules: vec![b"what?".to_vec()], ..Directory::new().to_records().remove(0) };
    let error = Directory::from_records(&[broken]).unwrap_err().to_string();
    assert_eq!(error, "user 'default': Error in ACL SETUSER modifier 'what?': Syntax error");
}

#[test]
fn a_clone_shares_and_does_not_follow() {
    let mut directory = Directory::new();
    let before = directory.clone();
    directory.apply(1, &set("a", ""));
    assert_eq!((before.len(), directory.len()), (1, 2));
    assert_ne!(before.digest(), directory.digest());
}

fn change() -> impl Strategy<Value = UserChange> {
    let user = proptest::sample::select(vec!["default", "a", "b", "c"]);
    let text = proptest::sample::select(vec![
        "",
        "on",
        "off",
        ">p",
        "<p",
        "nopass",
        "~a",
        "~*",
        "&a db=1",
        "+@all -get",
        "(+get)",
        "reset",
        "clearselectors",
        "+unknown -@unknown",
    ]);
    let users = proptest::collection::vec((user.clone(), text.clone()), 0..4);
    prop_oneof![
        4 => (user.clone(), text).prop_map(|(user, text)| set(user, text)),
        1 => proptest::collection::vec(user, 0..3).prop_map(|users| delete(&users)),
        1 => users.clone().prop_map(|users| UserChange::ReplaceAll { users: listed(&users) }),
        2 => (proptest::sample::select(vec!["f", "g"]), users).prop_map(|(source, users)| import(source, &users)),
    ]
}

proptest! {
    #[test]
    fn every_history_has_one_result_which_its_records_hold(changes in proptest::collection::vec(change(), 0..12)) {
        let (mut first, mut second) = (Directory::new(), Directory::new());
        for (index, change) in changes.iter().enumerate() {
            let before = first.clone();
            let outcome = first.apply(index as u64 + 1, change);
            prop_assert_eq!(outcome, second.apply(index as u64 + 1, change));
            // A repetition is never a change of what the rules say.
            prop_assert!(outcome.changed() || before.lines() == first.lines());
            // From here on one of them lives from its records.
            second = Directory::from_records(&second.to_records()).unwrap();
        }
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(first.digest(), second.digest());
        prop_assert!(first.get(b"default").is_some());
    }
}
