//! The proofs in the table of SECURITY.md exist.

use std::fs;
use std::path::Path;

/// The last column has `test` in `file`, and links to transcripts. Several tests may share a file.
#[test]
fn each_proof_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let cells: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| failure class"))
        .filter_map(|row| row.trim_end_matches([' ', '|']).rsplit_once(" | "))
        .map(|(_, cell)| cell)
        .collect();
    assert!(cells.len() > 15, "only {} rows", cells.len());
    for cell in cells {
        let mut proofs = 0;
        for link in cell.split("](").skip(1) {
            let path = link.split(')').next().unwrap();
            assert!(root.join(path).is_file(), "{path} is not there: {cell}");
            proofs += 1;
        }
        // Every second piece is code.
        let mut names = Vec::new();
        for code in cell.split('`').skip(1).step_by(2) {
            if !code.contains('/') {
                names.push(code);
                continue;
            }
            let source = fs::read_to_string(root.join(code))
                .unwrap_or_else(|error| panic!("{code}: {error}: {cell}"));
            for name in names.drain(..) {
                assert!(has_test(&source, name), "{code} has no test {name}");
            }
            proofs += 1;
        }
        assert!(names.is_empty(), "in no file: {names:?}");
        assert!(proofs > 0, "without a proof: {cell}");
    }
}

/// Whether the file has a test function of this name, with its attribute on the line before.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    lines
        .windows(2)
        .any(|pair| pair[0].starts_with("#[test]") && pair[1].starts_with(&format!("fn {name}(")))
}
