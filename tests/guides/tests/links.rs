//! The links of the pages lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let in_folder = |folder: PathBuf| {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let all = in_folder(root.clone()).chain(in_folder(root.join("docs")));
    all.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// Links to files of this repository. A link with a scheme leads elsewhere.
#[test]
fn each_link_leads_to_a_file() {
    let pages = pages();
    assert!(pages.len() > 10, "{pages:?}");
    let mut links = 0;
    let mut lost = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for (index, line) in text.lines().enumerate() {
            for rest in line.split("](").skip(1) {
                let link = rest.split([')', '#']).next().unwrap();
                if link.is_empty() || link.contains("://") {
                    continue;
                }
                links += 1;
                if !page.parent().unwrap().join(link).exists() {
                    lost.push(format!("{}:{}: {link}", page.display(), index + 1));
                }
            }
        }
    }
    assert!(links > 100, "only {links} links");
    assert!(lost.is_empty(), "these lead nowhere:\n{}", lost.join("\n"));
}
