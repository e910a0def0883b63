//! Any bytes as an ACL file: never a panic; all or nothing; errors name a line and no password; what was loaded can be
//! written and loaded again.

use keyward_acl::{Directory, FileKind, UserChange, parse_policy};

use super::catalog::SmallCatalog;

/// The target.
pub fn acl_file(data: &[u8]) {
    let _ = FileKind::detect(data);
    for kind in [FileKind::AclFile, FileKind::RedisConf] {
        match parse_policy("users.acl", kind, data, &SmallCatalog) {
            Ok(file) => {
                let mut directory = Directory::new();
                let change = UserChange::ReplaceAll { users: file.users };
                assert_eq!(directory.validate(&change, &SmallCatalog), Ok(()), "what a file says is not valid");
                directory.apply(1, &change);
                assert!(directory.get(b"default").is_some(), "`default` is gone");
                survives_being_written(&directory);
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("users.acl") || text.contains("WARNING"), "it does not name the file: {text}");
                assert!(!text.contains('\0'), "it repeats what it should not");
            }
        }
    }
}

fn survives_being_written(directory: &Directory) {
    let written = directory.lines().join(&b'\n');
    // A name that a file cannot hold (a comment sign, an empty one) cannot come from a file either.
    let again = parse_policy("users.acl", FileKind::AclFile, &written, &SmallCatalog);
    let again = again.unwrap_or_else(|error| panic!("'{}' is refused: {error}", written.escape_ascii()));
    let mut copy = Directory::new();
    copy.apply(1, &UserChange::ReplaceAll { users: again.users });
    assert_eq!(copy.digest(), directory.digest(), "'{}' loads differently", written.escape_ascii());
}
