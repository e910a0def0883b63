//! The rule language: what is read, what is refused and in which words.

use super::*;
use crate::Directory;
use crate::testing::FakeCatalog;
use proptest::prelude::*;

fn text_of(token: &str) -> String {
    let words: Vec<Vec<u8>> = Rule::parse(token.as_bytes()).unwrap().iter().map(Rule::to_text).collect();
    String::from_utf8(words.join(&b' ')).unwrap()
}

/// What `ACL SETUSER u …` answers.
fn answer(tokens: &[&str]) -> String {
    match Directory::new().prepare_set(b"u", tokens, &FakeCatalog::new()) {
        Ok(_) => "OK".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn words_are_read_in_any_case_and_printed_in_one() {
    for (token, text) in [
        ("ON", "on"),
        ("NoPass", "nopass"),
        ("AllKeys", "~*"),
        ("~*", "~*"),
        ("%rw~*", "~*"),
        ("%WR~a", "~a"),
        ("%r~a", "%R~a"),
        ("%RW", "~"),
        ("%W", "%W~"),
        ("&*", "&*"),
        ("ALLCHANNELS", "&*"),
        ("allcommands", "+@all"),
        ("-@ALL", "-@all"),
        ("nocommands", "-@all"),
        ("+GET", "+get"),
        ("+Config|GET", "+config|get"),
        ("-@Dangerous", "-@dangerous"),
        ("DB=3,1,1", "db=1,3"),
        ("db=01", "db=1"),
        ("(+GET  ~a)", "(+get ~a)"),
        ("()", "()"),
        ("( )", "()"),
        ("", ""),
        ("~", "~"),
        ("~{a,b}:*", "~a:* ~b:*"),
        ("%R~{a,b}", "%R~a %R~b"),
        ("&{a,b}", "&a &b"),
    ] {
        assert_eq!(text_of(token), text);
    }
}

// Each answer was read off a Valkey 9.1.2.
#[test]
fn a_rule_that_makes_no_sense_is_answered_as_redis_does() {
    let modifier = |token: &str, reason: &str| format!("Error in ACL SETUSER modifier '{token}': {reason}");
    let (syntax, unknown) = ("Syntax error", "Unknown command or category name in ACL");
    let hash = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters";
    let range = "The provided database ID is out of range";
    let limit = Reason::Limit.to_string();
    for (token, reason) in [
        ("foo", syntax),
        (")", syntax),
        ("%", syntax),
        ("%~", syntax),
        ("%X~a", syntax),
        ("%RR~a", syntax),
        ("~a b", syntax),
        ("db=", syntax),
        ("db=0,,1", syntax),
        ("db=1,", syntax),
        ("db=abc", syntax),
        ("db=1 ", syntax),
        ("db=-1", range),
        ("limit:speed=1", limit.as_str()),
        ("limit:connections=0", &limit),
        ("(limit:connections=5)", syntax),
        ("db=2147483648", range),
        ("+", unknown),
        ("-", unknown),
        ("+@", unknown),
        ("+|", unknown),
        ("+foo", unknown),
        ("+FOO", unknown),
        ("-foo", unknown),
        ("+@foo", unknown),
        ("+foo|x", unknown),
        ("-get|a", unknown),
        ("-select|0", unknown),
        ("+config|foo", unknown),
        ("+get|", syntax),
        ("+config|get|x", "Allowing first-arg of a subcommand is not supported"),
        ("(+foo)", unknown),
        ("(on)", syntax),
        ("(>p)", syntax),
        ("(+get (+set )", syntax),
        ("(~a) x)", syntax),
        ("(+get)(+set)", unknown),
        ("#ABC", hash),
        ("!abc", hash),
        ("~{a,}", "Empty alternative in braces. Write \\{ for a literal brace"),
    ] {
        assert_eq!(answer(&[token]), modifier(token, reason), "{token}");
    }
    assert_eq!(answer(&["db=2147483647", "+get|a", "+select|0", "()", "", "~", "&", "%RW", ">"]), "OK");
}

#[test]
fn parentheses_may_be_spread_over_words() {
    assert_eq!(answer(&["(", "+get", "~x", ")"]), "OK");
    assert_eq!(answer(&["(+get", "(+set", ")"]), "Error in ACL SETUSER modifier '(+get (+set )': Syntax error");
    assert_eq!(answer(&["on", "(+get"]), "Unmatched parenthesis in acl selector starting at '(+get'.");
    assert_eq!(answer(&["("]), "Unmatched parenthesis in acl selector starting at '('.");
    // The parenthesis is missed before any rule is looked at.
    assert_eq!(answer(&["foo", "(+get"]), "Unmatched parenthesis in acl selector starting at '(+get'.");
    let rules = parse_rules(&["(", "+get", "~x", ")", "on"]).unwrap();
    assert_eq!(rules[0].to_text(), b"(+get ~x)");
    assert_eq!(rules[1], Rule::On);
}

#[test]
fn a_rule_is_judged_by_what_the_ones_before_made_of_the_user() {
    let keys = "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. \
        Try 'resetkeys' to start with an empty list of patterns";
    let channels = "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any \
        effect. Try 'resetchannels' to start with an empty list of channels";
    let gone = "The password you are trying to remove from the user does not exist";
    let modifier = |token: &str, reason: &str| format!("Error in ACL SETUSER modifier '{token}': {reason}");
    assert_eq!(answer(&["~*", "~a"]), modifier("~a", keys));
    assert_eq!(answer(&["allkeys", "%R~a"]), modifier("%R~a", keys));
    assert_eq!(answer(&["&*", "&a"]), modifier("&a", channels));
    assert_eq!(answer(&["(~* ~a)"]), modifier("(~* ~a)", keys));
    assert_eq!(answer(&["~*", "~*", "&*", "&*", "resetkeys", "~a", "(~a)"]), "OK");
    let absent = format!("!{}", "a".repeat(64));
    assert_eq!(answer(&[&absent]), modifier(&absent, gone));
    assert_eq!(answer(&[">p", "<p"]), "OK");
}

#[test]
fn an_error_repeats_no_password() {
    assert_eq!(
        answer(&["<secret"]).replace("***", "?"),
        "Error in ACL SETUSER modifier '<?': The password you are trying to remove from the user does not exist"
    );
    let mistaken = Rule::parse(b"#secret").unwrap_err();
    assert!(!format!("{mistaken:?}").contains("secret"));
    let open = Rule::parse(b"(>secret").unwrap_err();
    assert!(!format!("{open:?}").contains("secret"));
    let rule = Rule::parse(b">secret").unwrap();
    assert!(!format!("{rule:?}").contains("secret"));
    assert!(!format!("{rule:?}").contains(&PasswordHash::of(b"secret").to_hex()));
}

#[test]
fn an_error_is_one_printable_line() {
    let error = Rule::parse(b"x\r\n+OK\xff").unwrap_err().to_string();
    assert_eq!(error, "Error in ACL SETUSER modifier 'x\\x0d\\x0a+OK\\xff': Syntax error");
    let error = Rule::parse(&b"x".repeat(RULE_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::TooLong));
    assert!(error.to_string().len() < 1000);
}

#[test]
fn validation_asks_only_for_names() {
    let catalog = FakeCatalog::new();
    let rules = parse_rules(&["+get", "-config|set", "+select|0", "+@read", "(+set)"]).unwrap();
    assert_eq!(validate(&rules, &catalog), Ok(()));
    for (token, text) in [("+nope", "+nope"), ("(+@nope)", "(+@nope)"), ("+NOPE", "+nope")] {
        let error = validate(&Rule::parse(token.as_bytes()).unwrap(), &catalog).unwrap_err();
        let expected = format!("Error in ACL SETUSER modifier '{text}': Unknown command or category name in ACL");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn rights_and_accesses() {
    let (read, write, either, both) = (KeyAccess::READ, KeyAccess::WRITE, KeyAccess::EITHER, KeyAccess::READ_WRITE);
    assert_eq!([read, write, either, both].map(|access| KeyRights::Read.allows(access)), [true, false, true, false]);
    assert_eq!([read, write, either, both].map(|access| KeyRights::Write.allows(access)), [false, true, true, false]);
    assert_eq!([read, write, either, both].map(|access| KeyRights::ReadWrite.allows(access)), [true; 4]);
}

/// Words that are often rules.
fn token() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::sample::select(vec![
        "on",
        "off",
        "nopass",
        "resetpass",
        "reset",
        "allkeys",
        "resetkeys",
        "~",
        "~*",
        "%R~",
        "%W~",
        "%RW~",
        "&",
        "&*",
        "alldbs",
        "resetdbs",
        "db=",
        "1",
        ",",
        "allcommands",
        "nocommands",
        "+",
        "-",
        "@",
        "all",
        "read",
        "get",
        "config",
        "|",
        "select",
        "0",
        "(",
        ")",
        " ",
        ">",
        "<",
        "#",
        "!",
        "{",
        "}",
        "[",
        "\\",
        "a",
        "clearselectors",
        "resetchannels",
        "\0",
        "%",
    ]);
    proptest::collection::vec(words, 0..8).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_bytes_are_a_rule_or_an_error(token in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = Rule::parse(&token).map_err(|error| error.to_string());
    }

    #[test]
    fn printing_and_reading_again_changes_nothing(token in token()) {
        if let Ok(rules) = Rule::parse(&token) {
            for rule in rules {
                let text = rule.to_text();
                prop_assert_eq!(Rule::parse(&text), Ok(vec![rule]), "{}", String::from_utf8_lossy(&text));
            }
        }
    }

    #[test]
    fn any_words_are_rules_or_an_error(tokens in proptest::collection::vec(token(), 0..8)) {
        let _ = parse_rules(&tokens);
        let _ = Directory::new().prepare_set(b"u", &tokens, &FakeCatalog::new());
    }
}
