//! A page's claim about the length of its snippets.

/// The mailer of a web application takes no more lines than with lettre, imports and all.
#[test]
fn a_web_application_takes_as_many_lines_as_with_lettre() {
    let page = include_str!("../../../docs/from-lettre.md");
    let section = page.split("## A web application").nth(1).unwrap();
    let mut snippets = section.split("```rust,no_run\n").skip(1);
    let mut lines = || {
        let snippet = snippets.next().unwrap();
        let snippet = snippet.split("```").next().unwrap();
        snippet.lines().filter(|line| !line.is_empty()).count()
    };
    let (with_lettre, here) = (lines(), lines());
    assert!(
        here <= with_lettre,
        "{here} lines, and {with_lettre} with lettre"
    );
}
