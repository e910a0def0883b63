//! What a command of the source means here: which database it is for, under which names its keys are kept. Knows the command
//! table, and no socket.

use super::Options;
use super::hand::Request;
use crate::replication::record::Origin;
use keyward_acl::KeyUse;
use keyward_engine::table::Table;

/// Renames keys and leaves out what is not wanted.
pub(super) struct Translation {
    database: Option<u32>,
    prefixes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A request with keys of our own spelling.
pub(super) struct Owned {
    /// Which database.
    pub(super) database: u32,
    /// Name first.
    pub(super) argv: Vec<Vec<u8>>,
    /// Up to where the source's stream is carried out with it.
    pub(super) at: Option<Origin>,
    /// The key at the source that is newer than that, by what it was fetched with, and up to where the stream is in it.
    pub(super) ahead: Option<(u32, Vec<u8>, u64)>,
}

impl Owned {
    /// The request in it.
    pub(super) fn request(&self) -> Request<'_> {
        Request {
            database: self.database,
            argv: self.argv.iter().map(Vec::as_slice).collect(),
            at: self.at,
            ahead: self.ahead.clone(),
        }
    }
}

impl Translation {
    /// As the options want it.
    pub(super) fn new(options: &Options) -> Translation {
        Translation { database: options.database, prefixes: options.prefixes.clone() }
    }

    /// Whether a database is wanted.
    pub(super) fn wants(&self, database: u32) -> bool {
        self.database.is_none_or(|only| only == database)
    }

    /// Whether only some of the source is wanted.
    pub(super) fn only(&self) -> Option<u32> {
        self.database
    }

    /// The name under which a key is kept.
    pub(super) fn key(&self, key: &[u8]) -> Vec<u8> {
        let renamed = self.prefixes.iter().find_map(|(old, new)| {
            let rest = key.strip_prefix(old.as_slice())?;
            Some([new, rest].concat())
        });
        renamed.unwrap_or_else(|| key.to_vec())
    }

    /// A request with its keys renamed.
    pub(super) fn request(&self, table: &'static Table, database: u32, argv: &[&[u8]]) -> Owned {
        let mut argv_here: Vec<Vec<u8>> = argv.iter().map(|word| word.to_vec()).collect();
        if !self.prefixes.is_empty()
            && let Ok(resolved) = table.resolve(argv)
        {
            let mut keys: Vec<KeyUse<'_>> = Vec::new();
            table.keys_of(resolved.row, argv, &mut keys);
            for named in keys {
                // The table lends the argument itself.
                if let Some(at) = argv.iter().position(|word| std::ptr::eq(*word, named.key)) {
                    argv_here[at] = self.key(named.key);
                }
            }
        }
        Owned { database, argv: argv_here, at: None, ahead: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_engine::table::table;

    fn translation(prefixes: &[(&str, &str)]) -> Translation {
        let prefixes = prefixes.iter().map(|(old, new)| (old.as_bytes().to_vec(), new.as_bytes().to_vec())).collect();
        Translation { database: None, prefixes }
    }

    #[test]
    fn keys_are_renamed_wherever_a_command_names_them() {
        let renaming = translation(&[("app:", "shop:")]);
        let cases: [(&[&str], &[&str]); 4] = [
            (&["SET", "app:a", "app:b"], &["SET", "shop:a", "app:b"]),
            (&["ZUNIONSTORE", "app:d", "2", "app:a", "x"], &["ZUNIONSTORE", "shop:d", "2", "shop:a", "x"]),
            (&["MSET", "app:a", "1", "b", "app:c"], &["MSET", "shop:a", "1", "b", "app:c"]),
            (&["PUBLISH", "app:x", "app:y"], &["PUBLISH", "app:x", "app:y"]),
        ];
        for (given, wanted) in cases {
            let argv: Vec<&[u8]> = given.iter().map(|word| word.as_bytes()).collect();
            let here: Vec<String> = renaming
                .request(table(), 0, &argv)
                .argv
                .iter()
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            assert_eq!(here, wanted);
        }
    }
}
