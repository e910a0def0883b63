//! The generated code in `src/gen` is what the `.proto` files say.
//!
//! Building the crate needs neither `protoc` nor a build script: generated code is committed. This test
//! generates it anew and compares. After changing a `.proto` file:
//!
//! ```text
//! KEYWARD_BLESS=1 cargo test -p keyward-proto --test bootstrap
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every `.proto` file of the project, in this crate's folder.
const PROTO_FILES: [&str; 4] = ["admin.proto", "control.proto", "forward.proto", "replication.proto"];

#[test]
fn generated_code_matches_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed_dir = root.join("src/gen");
    let expected = generate(root);

    if std::env::var_os("KEYWARD_BLESS").is_some() {
        for (name, content) in &expected {
            fs::write(committed_dir.join(name), content).expect("src/gen is writable");
        }
        return;
    }
    for (name, content) in &expected {
        let committed = fs::read(committed_dir.join(name)).unwrap_or_default();
        assert!(
            committed == *content,
            "src/gen/{name} is out of date: run KEYWARD_BLESS=1 cargo test -p keyward-proto --test bootstrap"
        );
    }
    for entry in fs::read_dir(&committed_dir).expect("src/gen exists") {
        let name = entry.expect("src/gen is readable").file_name();
        let name = name.to_str().expect("our file names are text");
        assert!(expected.contains_key(name), "src/gen/{name} is generated from nothing");
    }
}

/// File names and contents as they ought to be.
fn generate(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut compiler = protox::Compiler::new([root]).expect("the crate's folder exists");
    compiler.include_imports(true);
    let present = PROTO_FILES.iter().filter(|name| root.join(name).exists());
    compiler.open_files(present).unwrap_or_else(|error| panic!("{error}"));
    // For reflection; comments would double its size and no caller reads them.
    let descriptor = compiler.include_source_info(false).encode_file_descriptor_set();
    // For code; here the comments become documentation.
    let files = compiler.include_source_info(true).file_descriptor_set();

    let out_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gen");
    let _ = fs::remove_dir_all(&out_dir);
    fs::create_dir_all(&out_dir).expect("the target folder is writable");
    tonic_prost_build::configure()
        .out_dir(&out_dir)
        // Transport is the business of whoever connects; here it would be a dependency.
        .build_transport(false)
        // Payloads are cut out of the received frame, not copied.
        .bytes(".keyward.forward.v1")
        .bytes(".keyward.replication.v1")
        // The JSON that scripts read from keywardctl is these messages, field by field.
        .message_attribute(".keyward.admin.v1", r#"#[cfg_attr(feature = "serde", derive(serde::Serialize))]"#)
        .enum_attribute("NodeQuestion.question", r#"#[cfg_attr(feature = "serde", derive(serde::Serialize))]"#)
        .enum_attribute("NodeAnswer.answer", r#"#[cfg_attr(feature = "serde", derive(serde::Serialize))]"#)
        .field_attribute(
            "keyward.admin.v1.Node.role",
            r#"#[cfg_attr(feature = "serde", serde(serialize_with = "crate::role_name"))]"#,
        )
        .field_attribute("request_id", r#"#[cfg_attr(feature = "serde", serde(skip))]"#)
        .compile_fds(files)
        .expect("the compiled files make code");

    let mut generated = BTreeMap::from([("descriptor.bin".to_owned(), descriptor)]);
    for entry in fs::read_dir(&out_dir).expect("the generator made its folder") {
        let path = entry.expect("the folder is readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("our names are text");
        generated.insert(name.to_owned(), fs::read(&path).expect("it was just written"));
    }
    generated
}
