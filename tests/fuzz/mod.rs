//! Fuzz targets: one function per target that takes any bytes and panics when a promise is broken.
//!
//! `it/fuzzing.rs` drives them briefly with seeded mutations on the stable toolchain; a coverage-guided fuzzer can call
//! the very same functions: `fuzz_target!(|data: &[u8]| keyward_tests::fuzz::resp_request(data))`.

mod acl_file;
mod acl_rules;
mod catalog;
mod drive;
mod resp_request;

pub use acl_file::acl_file;
pub use acl_rules::acl_rules;
pub use drive::drive;
pub use resp_request::resp_request;
