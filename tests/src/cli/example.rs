//! The `send` example of an adapter, built for tests.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// The path of a `send` example, which is built here. The tests of one package do not build another's examples, and
/// the two share a name.
pub fn example(package: &'static str) -> PathBuf {
    static BUILT: Mutex<Vec<(&str, PathBuf)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, path)) = built.iter().find(|(name, _)| *name == package) {
        return path.clone();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [
        "build",
        "--quiet",
        "--package",
        package,
        "--example",
        "send",
        "--message-format=json",
    ];
    let mut cargo = Command::new(cargo);
    // The variables that cargo sets for a test would make build scripts run again, and rebuild everything above them,
    // now and in the next run.
    for (name, _) in std::env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if of_package
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            cargo.env_remove(name);
        }
    }
    let output = cargo.args(arguments).output().expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executable =
        executable.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    let executable = executable.next_back().expect("cargo names what it built");
    // The other example's build replaces this file, so make a copy.
    let path = executable.with_file_name(format!("send-of-{package}-{}", std::process::id()));
    std::fs::copy(&executable, &path).expect("the example can be copied");
    built.push((package, path.clone()));
    path
}
