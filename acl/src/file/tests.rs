//! Files of users: what is read, and what is refused and why.

use super::*;
use crate::testing::FakeCatalog;
use proptest::prelude::*;

const END: &str = "WARNING: ACL errors detected, no change to the previously active ACL rules was performed";

fn parse(content: &str) -> Result<PolicyFile, FileError> {
    parse_policy("users.acl", FileKind::AclFile, content.as_bytes(), &FakeCatalog::new())
}

fn parse_conf(content: &str) -> Result<PolicyFile, FileError> {
    parse_policy("redis.conf", FileKind::RedisConf, content.as_bytes(), &FakeCatalog::new())
}

/// The users as `name rules`, passwords as hashes.
fn users(file: &PolicyFile) -> Vec<String> {
    let line = |(name, rules): &(UserName, Vec<Rule>)| {
        let words: Vec<Vec<u8>> = rules.iter().map(Rule::to_text).collect();
        format!("{name} {}", String::from_utf8_lossy(&words.join(&b' ')))
    };
    file.users.iter().map(line).collect()
}

fn error(content: &str) -> String {
    parse(content).unwrap_err().to_string()
}

#[test]
fn comments_blank_lines_indentation_and_windows_are_fine() {
    let file = parse("\u{feff}# users\r\n\r\n  user  a\ton  ~a:*\r\nUSER b off\n   # more\nUser default off").unwrap();
    assert_eq!(users(&file), ["a on ~a:*", "b off", "default off"]);
    assert!(file.names_default);
}

/// A vertical tab ended a word and was then no white space to step over: the reader of a redis.conf went round for ever,
/// taking memory as it went. Found by fuzzing.
#[test]
fn every_white_space_that_ends_a_word_is_stepped_over() {
    let file = parse_conf("user a on\x0b~a:* \x0c +get\nuser default off").unwrap();
    assert_eq!(users(&file), ["a on ~a:* +get", "default off"]);
}

#[test]
fn a_file_that_does_not_name_default_switches_it_off() {
    let file = parse("user a on").unwrap();
    assert_eq!(users(&file), ["a on", "default off"]);
    assert!(!file.names_default);
}

#[test]
fn a_selector_may_be_spread_over_words() {
    assert_eq!(users(&parse("user a on ( +get ~x ) (~y)").unwrap())[0], "a on (+get ~x) (~y)");
}

#[test]
fn every_error_is_told_and_nothing_is_taken() {
    let content = "user a on +foo ~* ~b +bar %\nusr b\nuser\nuser a on\nuser c on +get";
    let expected = format!(
        "users.acl:1: Error in applying operation '+foo': Unknown command or category name in ACL. \
         users.acl:1: Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any \
         effect. Try 'resetkeys' to start with an empty list of patterns. \
         users.acl:1: Error in applying operation '+bar': Unknown command or category name in ACL. \
         users.acl:2 should start with user keyword followed by the username. \
         users.acl:3 should start with user keyword followed by the username. \
         WARNING: Duplicate user 'a' found on line 4. {END}"
    );
    assert_eq!(error(content), expected);
}

// valkey #4214: this line ends Redis 7.0, 8.2 and Valkey 8.1, 9.1.
#[test]
fn a_selector_that_is_never_closed_is_an_error_and_no_crash() {
    assert_eq!(error("user a on (+get"), format!("users.acl:1: Unmatched parenthesis in selector definition.{END}"));
    for content in ["user a (", "user a on ( (", "user a ) (", "user a on (+get (", "user ("] {
        let _ = parse(content);
    }
}

#[test]
fn an_error_repeats_no_password() {
    let text = error("user a on >secret #secret !secret <secret (>secret) secret");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_name_with_nul_is_refused() {
    assert_eq!(error("user a\0 on"), format!("users.acl:1: username 'a\\x00' contains invalid characters. {END}"));
}

#[test]
fn an_empty_file_opens_nothing_and_removes_nobody() {
    for content in ["", "\n\n", "# user a on\n"] {
        assert!(matches!(parse(content), Err(FileError::Empty { .. })));
    }
    assert!(matches!(parse_conf("port 6379\nrequirepass x\n"), Err(FileError::Empty { .. })));
}

#[test]
fn of_a_redis_conf_only_users_count() {
    let conf = "# redis\nbind 127.0.0.1\nport 6379\nsave \"\nuser default off\nuser gw-user on >gw-password ~gw:* &* +@all -@admin\n";
    let file = parse_conf(conf).unwrap();
    let hash = crate::PasswordHash::of(b"gw-password").to_hex();
    assert_eq!(users(&file), ["default off".to_owned(), format!("gw-user on #{hash} ~gw:* &* +@all -@admin")]);
    assert_eq!(FileKind::detect(conf.as_bytes()), FileKind::RedisConf);
    assert_eq!(FileKind::detect(b"usr a on\n# port 1\n"), FileKind::AclFile);
}

#[test]
fn a_redis_conf_may_quote() {
    let file = parse_conf("user \"a\" on \">p \\\"q\\x41\" '>it\\'s' \"(+get ~x)\"").unwrap();
    let hash = |password: &[u8]| crate::PasswordHash::of(password).to_hex();
    assert_eq!(users(&file)[0], format!("a on #{} #{} (+get ~x)", hash(b"p \"qA"), hash(b"it's")));
    for unbalanced in ["user a \"on", "user a \"on\"x", "user a 'on", "user a \"on\\"] {
        let text = parse_conf(unbalanced).unwrap_err().to_string();
        assert_eq!(text, format!("redis.conf:1: Unbalanced quotes in configuration line. {END}"));
    }
}

#[test]
fn what_was_never_decrypted_is_refused() {
    for content in [
        "user a on >ENC[AES256_GCM,data:abc,iv:x,tag:y,type:str]",
        "users: |\n  user a on\nsops:\n  kms: []\n",
        "{\"data\": \"x\", \"sops\": {}}",
        "user a on\nsops_version=3.8.1\n",
    ] {
        assert!(matches!(parse(content), Err(FileError::Encrypted { .. })), "{content}");
    }
    assert_eq!(error("ENC[AES256_GCM,"), "users.acl: it is encrypted by SOPS; decrypt it first");
}

#[test]
fn what_was_never_rendered_is_refused() {
    for content in [
        "\nuser a on >#{ password }# ~a:*",
        "\n#% if a %#",
        "\n  #{ users }#",
        "\nuser a on >{{ .Values.password }}",
        "\nuser a on >{{.Values.password}}",
        "\nuser a on {% if x %}",
        "\nuser a on >${PASSWORD}",
        "\nuser a on >$(PASSWORD)",
    ] {
        let expected = "users.acl:2: it is a template that was not rendered; render it first";
        assert_eq!(error(content), expected, "{content}");
    }
    for content in
        ["user a ~{{a,b},c}", "user a >${", "user a >a}#b", "# write #{ x }# here\nuser a on", "user a ~${x}"]
    {
        assert!(parse(content).is_ok(), "{content}");
    }
}

#[test]
fn a_file_is_bounded_and_so_are_its_errors() {
    let large = vec![b'\n'; FILE_BYTES_MAX + 1];
    let error = parse_policy("f", FileKind::AclFile, &large, &FakeCatalog::new()).unwrap_err();
    assert_eq!(error.to_string(), "f: it is longer than 16 MB");
    let Err(FileError::Lines(errors)) = parse(&"wrong\n".repeat(5000)) else { panic!("wrong lines are accepted") };
    assert_eq!(errors.len(), ERRORS_TOLD_MAX);
}

#[test]
fn what_is_listed_can_be_loaded() {
    let mut directory = crate::Directory::new();
    let file =
        parse("user a on >p %R~a ~b:* &c db=1 +@read -get (+set ~x) (resetdbs)\nuser default on nopass ~* &* +@all")
            .unwrap();
    directory.apply(1, &crate::UserChange::ReplaceAll { users: file.users });
    let saved = directory.lines().join(&b'\n');
    let again = parse(std::str::from_utf8(&saved).unwrap()).unwrap();
    let before = directory.digest();
    let outcome = directory.apply(2, &crate::UserChange::ReplaceAll { users: again.users });
    assert!(!outcome.changed());
    assert_eq!(directory.digest(), before);
}

proptest! {
    #[test]
    fn any_bytes_are_a_file_or_an_error(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        for kind in [FileKind::AclFile, FileKind::RedisConf] {
            let _ = parse_policy("f", kind, &content, &FakeCatalog::new()).map_err(|error| error.to_string());
        }
        let _ = FileKind::detect(&content);
    }

    #[test]
    fn nearly_right_lines_are_users_or_an_error(words in proptest::collection::vec(proptest::sample::select(vec![
        "user", "a", "on", " ", " ", "\n", "\"", "'", "\\x4", "\\", "(", ")", "+get", "~x", ">", "#", "}#", "{", "default", "\r",
    ]), 0..30)) {
        for kind in [FileKind::AclFile, FileKind::RedisConf] {
            let _ = parse_policy("f", kind, words.concat().as_bytes(), &FakeCatalog::new());
        }
    }
}
