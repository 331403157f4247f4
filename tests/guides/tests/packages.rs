//! Rules for all packages.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folders of all packages: those of the workspace, and the fuzzer's.
fn packages() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = manifest.split("\nmembers = [").nth(1).unwrap();
    let members = list.split(']').next().unwrap().split('"');
    let mut packages: Vec<_> = members.skip(1).step_by(2).map(String::from).collect();
    packages.push("fuzz".into());
    packages
}

/// The names belong to others on the registry. README tells what to do instead.
#[test]
fn no_package_is_published() {
    let packages = packages();
    assert!(packages.len() > 10, "{packages:?}");
    for package in packages {
        let manifest = fs::read_to_string(root().join(&package).join("Cargo.toml")).unwrap();
        assert!(
            manifest.lines().any(|line| line == "publish = false"),
            "{package} can be published"
        );
    }
}

/// A package that others depend on may be used outside of this repository.
#[test]
fn each_package_for_others_has_the_licences() {
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let text = fs::read(root().join(name)).unwrap();
        for package in [
            "smtp-proto",
            "smtp-proto/adapter",
            "smtp-blocking",
            "smtp-tokio",
            "tests",
        ] {
            let path = root().join(package).join(name);
            let copy = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert!(copy == text, "{path:?} is another text than {name}");
        }
    }
}
