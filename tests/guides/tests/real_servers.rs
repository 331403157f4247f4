//! The table of real servers names a test in each cell, and each of them is there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn each_cell_names_a_test_of_its_server() {
    let page = read("docs/real-servers.md");
    let suite = read("tests/src/servers/real/suite.rs");
    let (every, smtp) = suite
        .split_once("macro_rules! tests_of_every_smtp_server")
        .unwrap();
    let servers = ["postfix", "exim", "dovecot", "aiosmtpd"];
    let tests = servers.map(|server| {
        let mut tests = read(&format!("tests/tests/{server}.rs"));
        for (name, of) in [
            ("tests_of_every_server!", every),
            ("tests_of_every_smtp_server!", smtp),
        ] {
            if tests.contains(name) {
                tests += of;
            }
        }
        tests
    });
    let head = page
        .find("| | Postfix | Exim | Dovecot | aiosmtpd |")
        .expect("the head of the table");
    let rows = page[head..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut cells = 0;
    for row in rows {
        let columns: Vec<_> = row.trim_matches('|').split('|').skip(1).collect();
        assert_eq!(columns.len(), servers.len(), "{row}");
        for ((cell, tests), server) in columns.iter().zip(&tests).zip(servers) {
            let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "{server}: no test in {cell}");
            for name in names {
                assert!(
                    tests.contains(&format!("fn {name}()")),
                    "{server}: no test {name}"
                );
                cells += 1;
            }
        }
    }
    assert!(cells >= 9 * servers.len(), "{cells} tests are named");
}
