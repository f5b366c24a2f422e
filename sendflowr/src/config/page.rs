//! Tests that docs/settings.md has every key of the configuration and no other.

use std::collections::BTreeSet;

use super::known;

const PAGE: &str = include_str!("../../../docs/settings.md");

/// Sections whose keys are in docs/limits.md, which has a test of its own.
const OF_THE_LIMITS: [&str; 2] = ["host.plugins.limits", "host.plugins.quarantine"];

/// Returns the keys on the page: rows below a heading, which names the sections that have them.
fn documented() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut sections: Vec<String> = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let names = heading.split('`').skip(1).step_by(2);
            let names = names.map(|name| name.trim_matches(['[', ']']).to_owned() + ".");
            sections = names.collect();
            if sections.is_empty() {
                sections.push(String::new());
            }
        }
        if let Some((key, _)) = line.strip_prefix("| `").and_then(|row| row.split_once('`')) {
            for section in &sections {
                assert!(
                    keys.insert(format!("{section}{key}")),
                    "`{section}{key}` has two rows"
                );
            }
        }
    }
    keys
}

#[test]
fn every_key_is_on_the_page_and_no_other() {
    let is_of_the_limits = |path: &str| OF_THE_LIMITS.iter().any(|section| path.starts_with(section));
    let is_key = |path: &str| known::keys_of(&path.split('.').collect::<Vec<_>>()).is_none();
    let mut known: BTreeSet<String> = known::paths()
        .into_iter()
        .filter(|path| !is_of_the_limits(path) && is_key(path))
        .collect();
    // Its keys are names that the operator chooses.
    assert!(known.remove("accounts") && known.len() > 100, "{known:?}");
    let page = documented();
    let missing: Vec<&String> = known.difference(&page).collect();
    assert!(missing.is_empty(), "docs/settings.md lacks {missing:?}");
    let unknown: Vec<&String> = page.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "docs/settings.md lists keys that do not exist: {unknown:?}"
    );
}
