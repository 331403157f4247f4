//! Tells the linker about the memory of the board.

use std::env::var;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=memory.x");
    if var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "none") {
        let folder = var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo:rustc-link-search={}", Path::new(&folder).display());
        println!("cargo:rustc-link-arg-bins=-Tlink.x");
    }
}
