//! How rules add up.

use super::*;
use crate::rule::parse_rules;
use crate::testing::user;
use proptest::prelude::*;

fn commands(rules: &str) -> String {
    user("u", rules).root.commands_text()
}

#[test]
fn command_rules_are_kept_in_order_and_by_target() {
    for (rules, expected) in [
        ("+get -get", "-@all -get"),
        ("+get +set +get", "-@all +set +get"),
        ("+config|get +config", "-@all +config"),
        ("-config +config|get", "-@all -config +config|get"),
        ("+select|0 +select|1", "-@all +select|0 +select|1"),
        ("+select|0 -select", "-@all -select"),
        ("+configure +config|get -config", "-@all +configure -config"),
        ("+@read -@read +@all", "+@all"),
        ("+@all -@read -@read +get", "+@all -@read +get"),
        ("+@all -get -@all +get", "-@all +get"),
    ] {
        assert_eq!(commands(rules), expected, "{rules}");
    }
}

#[test]
fn the_same_selector_again_changes_nothing() {
    let once = user("u", "(+get ~a)");
    assert_eq!(user("u", "(+get ~a) (+get ~a)"), once);
    assert_eq!(user("u", "(+get ~a) ( %R~a %W~a +GET )"), once);
    assert_eq!(user("u", "(+get ~a) (+get ~b)").selectors.len(), 2);
}

#[test]
fn what_redis_refuses_changes_nothing_when_applied() {
    let everything = user("u", "~* &* >p");
    assert_eq!(user("u", "~* &* >p ~a &a <absent"), everything);
}

#[test]
fn passwords_and_nopass_exclude_each_other() {
    let open = user("u", ">p nopass");
    assert!(open.nopass && open.passwords.is_empty());
    assert!(open.accepts_password(&PasswordHash::of(b"whatever")));
    let closed = user("u", "nopass >p");
    assert!(!closed.nopass && closed.accepts_password(&PasswordHash::of(b"p")));
    assert!(!closed.accepts_password(&PasswordHash::of(b"q")));
    assert!(!user("u", ">p resetpass").accepts_password(&PasswordHash::of(b"p")));
}

#[test]
fn names_hold_no_space_and_no_nul() {
    for name in [&b""[..], b"a b", b"a\tb", b"a\nb", b"a\0", b" "] {
        assert_eq!(UserName::new(name).unwrap_err().to_string(), "Usernames can't contain spaces or null characters");
    }
    assert!(UserName::new(&[b'a'; USER_NAME_BYTES_MAX]).is_ok());
    assert!(UserName::new(&[b'a'; USER_NAME_BYTES_MAX + 1]).is_err());
    assert_eq!(UserName::new("zoë".as_bytes()).unwrap().to_string(), "zoë");
    assert_eq!(UserName::new(b"a\x1b[0m").unwrap().to_string(), "a\\x1b[0m");
}

#[test]
fn a_user_has_bounds() {
    let rule = |count: usize, word: &dyn Fn(usize) -> String| (0..count).map(word).collect::<Vec<_>>().join(" ");
    let too_many = [
        rule(PATTERNS_PER_USER_MAX + 1, &|n| format!("~{n}")),
        rule(PASSWORDS_PER_USER_MAX + 1, &|n| format!(">{n}")),
        rule(SELECTORS_PER_USER_MAX + 1, &|n| format!("(~{n})")),
        rule(COMMAND_RULES_PER_USER_MAX + 1, &|n| format!("+select|{n}")),
    ];
    for rules in too_many {
        let error = user("u", &rules).check_bounds().unwrap_err().to_string();
        assert!(error.starts_with("Too many ") && error.contains(" of one user: there may be at most "), "{error}");
    }
    assert_eq!(user("u", &rule(PATTERNS_PER_USER_MAX, &|n| format!("~{n}"))).check_bounds(), Ok(()));
}

#[test]
fn a_login_is_kept_if_every_password_stays() {
    let before = user("u", "on >a");
    assert!(user("u", "on >a >b").keeps_logins_of(&before));
    assert!(user("u", "on nopass").keeps_logins_of(&before));
    assert!(!user("u", "on >b").keeps_logins_of(&before));
    assert!(!user("u", "off >a").keeps_logins_of(&before));
    assert!(!user("u", "on >a").keeps_logins_of(&user("u", "on nopass")));
    assert!(user("u", "off").keeps_logins_of(&user("u", "off >a")));
}

fn word() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "on",
        "off",
        "nopass",
        "resetpass",
        "reset",
        ">a",
        ">b",
        "<a",
        "allkeys",
        "resetkeys",
        "~a",
        "~b*",
        "%R~a",
        "%W~a",
        "%R~*",
        "%W~*",
        "~{x,y}:*",
        "~",
        "&*",
        "&a",
        "&b?",
        "resetchannels",
        "alldbs",
        "resetdbs",
        "db=1,0",
        "+@all",
        "-@all",
        "+@read",
        "-@read",
        "+get",
        "-get",
        "+config",
        "-config",
        "+config|get",
        "-config|get",
        "+select|0",
        "()",
        "(+get ~a)",
        "(~* &* +@all -get db=2)",
        "(%R~a %W~b resetdbs)",
        "clearselectors",
    ])
}

proptest! {
    #[test]
    fn the_words_of_the_list_make_the_same_user(words in proptest::collection::vec(word(), 0..16)) {
        let mut first = User::new(UserName::new(b"u").unwrap(), 1);
        parse_rules(&words).unwrap().iter().for_each(|rule| first.apply(rule));
        // As a file or a client would send it: every space separates words, selectors included.
        let line = first.list_line();
        let tokens: Vec<&[u8]> = line.split(|byte| *byte == b' ').skip(2).collect();
        let mut second = first.clone();
        second.apply(&Rule::Grant(Grant::AllCommands));
        second.apply(&Rule::Reset);
        parse_rules(&tokens).unwrap().iter().for_each(|rule| second.apply(rule));
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(line, second.list_line());
    }
}
