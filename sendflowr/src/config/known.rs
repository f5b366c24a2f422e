//! All keys that the configuration knows, for suggestions and for the test of the page that lists them.

use toml::{Table, Value};

/// A name that no key has.
const UNKNOWN: &str = "?";

/// Returns the paths of all keys and sections. `accounts`, below which operators choose the names, counts as a key.
pub(super) fn paths() -> Vec<String> {
    let mut found = Vec::new();
    add(&[], &mut found);
    found
}

fn add(path: &[&str], found: &mut Vec<String>) {
    if !path.is_empty() {
        found.push(path.join("."));
    }
    for key in keys_of(path).unwrap_or_default() {
        add(&[path, &[key.as_str()]].concat(), found);
    }
}

/// Returns the keys of a section, as listed by the error for an unknown key; `None` if the path is not a section with fixed
/// names.
pub(super) fn keys_of(path: &[&str]) -> Option<Vec<String>> {
    let mut value = Value::Table(Table::from_iter([(UNKNOWN.to_owned(), Value::from(1))]));
    for key in path.iter().rev() {
        value = Value::Table(Table::from_iter([((*key).to_owned(), value)]));
    }
    let Value::Table(table) = value else { return None };
    let error = super::parse(table).err()?.to_string();
    let (_, expected) = error.split_once(&format!("unknown field `{UNKNOWN}`, expected "))?;
    let names = expected.split('`').skip(1).step_by(2);
    Some(names.map(str::to_owned).collect())
}
