//! Has the node's sources compiled for the simulated world. Only this package does.

fn main() {
    println!("cargo::rustc-cfg=simulated");
    println!("cargo::rerun-if-changed=build.rs");
}
