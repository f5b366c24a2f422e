//! Tests that docs/settings.md has every key of the configuration and no other.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::environment;

const PAGE: &str = include_str!("../../../docs/settings.md");

/// Sections whose keys are in docs/limits.md, which has a test of its own.
const OF_THE_LIMITS: [&str; 2] = ["host.plugins.limits", "host.plugins.quarantine"];

/// A name that no key has.
const UNKNOWN: &str = "?";

/// Returns the keys of a section, as listed by the error for an unknown key; `None` if the path is not a section with fixed
/// names.
fn keys_of(path: &[&str]) -> Option<Vec<String>> {
    let mut value = Value::Table(Table::from_iter([(UNKNOWN.to_owned(), Value::from(1))]));
    for key in path.iter().rev() {
        value = Value::Table(Table::from_iter([((*key).to_owned(), value)]));
    }
    let Value::Table(table) = value else { return None };
    let error = super::parse(table).err()?.to_string();
    let (_, expected) = error.split_once(&format!("unknown field `{UNKNOWN}`, expected "))?;
    Some(
        expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
    )
}

/// Adds the full path of every key below this section.
fn add_known(path: &[&str], known: &mut BTreeSet<String>) {
    if OF_THE_LIMITS.contains(&path.join(".").as_str()) {
        return;
    }
    match keys_of(path) {
        Some(keys) => {
            for key in keys {
                add_known(&[path, &[key.as_str()]].concat(), known);
            }
        }
        None => {
            known.insert(path.join("."));
        }
    }
}

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
    let mut known = BTreeSet::new();
    add_known(&[], &mut known);
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

/// Adds the full path of every section below this one.
fn add_sections(path: &[&str], sections: &mut BTreeSet<String>) {
    let Some(keys) = keys_of(path) else { return };
    if !path.is_empty() {
        sections.insert(path.join("."));
    }
    for key in keys {
        add_sections(&[path, &[key.as_str()]].concat(), sections);
    }
}

#[test]
fn a_single_underscore_is_noticed_behind_every_section() {
    let mut sections = BTreeSet::new();
    add_sections(&[], &mut sections);
    // Its keys are names that the operator chooses.
    sections.insert("accounts".to_owned());
    let noticed: BTreeSet<String> = environment::SECTIONS.iter().map(|&s| s.to_owned()).collect();
    assert_eq!(noticed, sections);
}
