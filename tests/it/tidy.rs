//! The rules of the house that a machine can check: who may use whom, what lies where, what every file says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The arrows of the house: a crate and the crates of ours it may use.
const EDGES: [(&str, &str, &[&str]); 9] = [
    ("acl", "keyward-acl", &[]),
    ("proto", "keyward-proto", &[]),
    ("node/engine", "keyward-engine", &["keyward-acl"]),
    ("node/cluster", "keyward-cluster", &["keyward-acl"]),
    ("node/script", "keyward-script", &[]),
    ("node", "keyward", &["keyward-acl", "keyward-engine", "keyward-cluster", "keyward-script", "keyward-proto"]),
    ("client", "keyward-client", &["keyward-proto"]),
    (
        "tests",
        "keyward-tests",
        &[
            "keyward-acl",
            "keyward-engine",
            "keyward-cluster",
            "keyward-script",
            "keyward-proto",
            "keyward",
            "keyward-client",
        ],
    ),
    // The node once more, in a simulated world.
    (
        "tests/sim",
        "keyward-sim",
        &["keyward-acl", "keyward-engine", "keyward-cluster", "keyward-script", "keyward-proto"],
    ),
];

/// Crates that think: these words in their manifest would let the world in.
const THINKING: [&str; 4] = ["acl", "node/engine", "node/cluster", "node/script"];
const WORLDLY: [&str; 10] =
    ["tokio", "tonic", "hyper", "sled", "openraft", "rand", "getrandom", "reqwest", "socket2", "mio"];

/// Everything that may be seen at the top of the checkout.
const TOP: [&str; 10] =
    ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "acl", "client", "deploy", "node", "proto", "tests"];

/// A file longer than this says in its first lines why.
const LONG: usize = 800;

#[test]
fn crates_use_only_whom_they_may() {
    for (folder, name, allowed) in EDGES {
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{folder}/Cargo.toml is not {name}");
        // What only a crate's own tests use is no edge of the house.
        let lasting = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        let used: BTreeSet<&str> =
            dependencies(lasting).filter(|dependency| dependency.starts_with("keyward")).collect();
        for dependency in used {
            assert!(allowed.contains(&dependency), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn crates_that_think_know_nothing_of_the_world() {
    for folder in THINKING {
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        // What only their tests use may be worldly.
        let lasting = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for dependency in dependencies(lasting) {
            assert!(!WORLDLY.contains(&dependency), "{folder} must not use {dependency}");
        }
        assert!(root().join(folder).join(".clippy.toml").is_file(), "{folder} has no purity bans");
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_house() {
    for (folder, name, _) in EDGES {
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} makes its own lints");
    }
}

#[test]
fn the_visible_top_level_is_exactly_the_fixed_names() {
    let listed = tracked();
    let seen: BTreeSet<&str> =
        listed.iter().filter_map(|path| path.split('/').next()).filter(|name| !name.starts_with('.')).collect();
    let expected: BTreeSet<&str> = TOP.into();
    assert_eq!(seen, expected);
}

#[test]
fn every_source_file_says_first_what_it_is_for() {
    for (path, text) in sources() {
        let generated = is_generated(&path) && text.starts_with("// ");
        assert!(generated || text.starts_with("//!"), "{path} does not begin with `//!`");
    }
}

#[test]
fn long_files_say_why() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
        let excused = is_generated(&path) || header.join(" ").contains("is long because");
        assert!(lines <= LONG || excused, "{path} has {lines} lines and its header does not say why it is long");
    }
}

#[test]
fn no_source_file_is_an_orphan() {
    let files: BTreeMap<String, String> = sources().into_iter().collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<String> = files.keys().filter(|path| is_root(path)).cloned().collect();
    while let Some(path) = open.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        let text = files.get(&path).map(String::as_str).unwrap_or_default();
        open.extend(modules(&path, text).into_iter().filter(|module| files.contains_key(module)));
    }
    let orphans: Vec<&String> = files.keys().filter(|path| !reached.contains(*path)).collect();
    assert!(orphans.is_empty(), "no `mod` leads to {orphans:?}");
}

#[test]
fn banned_words_are_absent() {
    // Put together here, so that this file does not hold them itself.
    let banned =
        [format!("FIX{}", "ME"), format!("dbg{}", "!("), format!("todo{}", "!("), format!("unimplemented{}", "!(")];
    for (path, text) in sources() {
        for word in &banned {
            assert!(!text.contains(word.as_str()), "{path} holds {word}");
        }
    }
}

#[test]
fn unsafe_stays_where_entries_and_words_are_made() {
    for (path, text) in sources() {
        // The last answers in the C library's place, for simulated threads.
        let allowed = ["node/engine/src/types/word.rs", "tests/sim/chance.rs"].contains(&path.as_str());
        if allowed || path.starts_with("node/engine/src/dict") || path.contains("/gen/") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let uses = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| code.contains(word));
            let quoted = code.contains('"');
            assert!(!uses || quoted, "{path}:{} is unsafe outside the dict and the word", number + 1);
        }
    }
}

#[test]
fn the_kernels_clock_is_asked_in_one_place() {
    // Asked elsewhere, it is the real one even in the simulation, whose seeds then do not repeat themselves.
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("node/src/")) {
        assert!(
            path == "node/src/world.rs" || !text.contains("rustix::time"),
            "{path} asks the kernel what time it is"
        );
    }
}

#[test]
fn no_bug_can_be_planted_into_what_is_shipped() {
    // `tests/sim/inside/planted.rs` says it in every binary that could have one; here it is put together.
    let mark = ["keyward: bugs may be", "planted in this binary"].join(" ");
    let bytes = fs::read(keyward_tests::binary("keyward")).expect("the binary can be read");
    assert!(!bytes.windows(mark.len()).any(|bytes| bytes == mark.as_bytes()), "it was compiled for the simulation");
    for manifest in ["node/Cargo.toml", "Cargo.toml"] {
        assert!(!read(&root().join(manifest)).contains("turmoil"), "{manifest} brings the simulation in");
    }
    assert!(!root().join("node/build.rs").exists(), "the node's crate could switch the simulation on");
}

#[test]
fn unwrap_is_for_tests() {
    for (path, text) in sources() {
        let is_test = path.starts_with("tests/")
            || path.contains("/tests")
            || path.contains("/gen/")
            || path.contains("/benches/");
        if is_test || path.ends_with("/testing.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            assert!(!line.contains(&format!(".unwrap{}", "()")), "{path}:{} unwraps outside a test", number + 1);
        }
    }
}

#[test]
fn every_text_has_one_title() {
    for path in tracked().iter().filter(|path| path.ends_with(".md")) {
        let text = read(&root().join(path));
        let mut fenced = false;
        let mut titles = 0;
        for line in text.lines() {
            fenced ^= line.trim_start().starts_with("```");
            titles += usize::from(!fenced && line.starts_with("# "));
        }
        assert_eq!(titles, 1, "{path} has {titles} titles");
    }
}

#[test]
fn lock_files_name_no_registry_host() {
    for path in tracked().iter().filter(|path| path.ends_with("package-lock.json")) {
        let text = read(&root().join(path));
        assert!(!text.contains("\"resolved\""), "{path} names hosts: write it with omit-lockfile-registry-resolved");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of the checkout, those about to be added included, those ignored not.
fn tracked() -> Vec<String> {
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let paths = match listed {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(ToOwned::to_owned).collect()
        }
        _ => walked(),
    };
    paths.into_iter().filter(|path: &String| root().join(path).exists()).collect()
}

/// Without git (an unpacked archive): every file but those that builds and installs leave behind.
fn walked() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the checkout can be read").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            let left_behind = name.starts_with('.')
                || ["target", "node_modules", "keyward-demo", "__pycache__"].contains(&name.as_str());
            if path.is_dir() && !left_behind {
                folders.push(path);
            } else if path.is_file() {
                let relative = path.strip_prefix(root()).expect("it lies in the checkout");
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found
}

fn sources() -> Vec<(String, String)> {
    let paths = tracked().into_iter().filter(|path| path.ends_with(".rs"));
    paths.map(|path| (path.clone(), read(&root().join(&path)))).collect()
}

/// The names under `[dependencies]`, `[dev-dependencies]` and their like.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
            return None;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default().trim();
        (inside && !name.is_empty() && !name.starts_with('#')).then_some(name)
    })
}

fn is_generated(path: &str) -> bool {
    path.contains("/gen/")
}

fn is_root(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let in_place = path.contains("/src/bin/") || path.contains("/benches/") || path.contains("/examples/");
    let own_test = path.contains("/tests/") && !path.starts_with("tests/");
    name == "lib.rs" || name == "main.rs" || name == "build.rs" || in_place || own_test
}

/// The files that the `mod` lines of a file may lead to.
fn modules(path: &str, text: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    let own = if ["lib", "main", "mod", "build"].contains(&stem) || is_root(path) {
        folder.to_owned()
    } else {
        format!("{folder}/{stem}")
    };
    let mut found = Vec::new();
    let mut given_path = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            given_path = rest.split('"').next().map(ToOwned::to_owned);
        }
        if let Some(rest) = line.split("include!(\"").nth(1) {
            found.push(joined(folder, rest.split('"').next().unwrap_or_default()));
        }
        let declared = line.split("mod ").nth(1).filter(|_| line.ends_with(';')).map(|rest| rest.trim_end_matches(';'));
        if let Some(module) = declared {
            match given_path.take() {
                Some(given) => found.push(joined(folder, &given)),
                None => found.extend([format!("{own}/{module}.rs"), format!("{own}/{module}/mod.rs")]),
            }
        }
    }
    found
}

fn joined(folder: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in relative.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            other => parts.push(other),
        }
    }
    parts.join("/")
}
