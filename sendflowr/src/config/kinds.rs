//! Decides which type of value a text stands for.
//!
//! The configuration file distinguishes strings from numbers and lists by quotes and brackets. Variables, and files that
//! contain a single value, have neither: there the type of the key decides, which its parser knows.

use serde::Deserialize;
use toml::{Table, Value};

use super::{RawConfig, environment, secrets};

/// Returns the value of a variable that sets the key with this path. Lists are separated by commas.
pub(super) fn of_variable(path: &str, text: &str) -> Value {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let list = Value::Array(items.map(Value::from).collect());
    taken(path, text, [unquoted(text), Value::from(text), list])
}

/// Returns the value of a file that contains that of the key with this path. For a list it is one item, which may contain
/// commas.
pub(super) fn of_file(path: &str, text: &str) -> Value {
    let list = Value::Array(vec![Value::from(text)]);
    taken(path, text, [unquoted(text), Value::from(text), list])
}

/// Returns the first of these values that the key accepts. If it accepts none, returns the first, for the error message.
fn taken(path: &str, text: &str, meanings: [Value; 3]) -> Value {
    // `0123` must not become a number, and what a plugin calls a secret accepts any type.
    if secrets::is_secret(path) || path.ends_with("_file") || is_scope(path) {
        return Value::from(text);
    }
    let first = meanings[0].clone();
    meanings
        .into_iter()
        .find(|meaning| is_taken(path, meaning))
        .unwrap_or(first)
}

/// Returns whether the key is the scope of an account's ids. Like all keys of accounts it can be parsed as any type, and it must be
/// a text: `1001` is a name.
fn is_scope(path: &str) -> bool {
    path.starts_with("accounts.") && path.ends_with(".external_id_scope")
}

/// Returns whether a configuration with only this key can be parsed.
fn is_taken(path: &str, value: &Value) -> bool {
    let mut table = Table::new();
    environment::insert(&mut table, path, value.clone(), "").is_ok()
        && RawConfig::deserialize(Value::Table(table)).is_ok()
}

/// Parses the text as the configuration file would without quotes.
fn unquoted(text: &str) -> Value {
    if let Ok(flag) = text.parse::<bool>() {
        return Value::Boolean(flag);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Integer(number);
    }
    if let Ok(number) = text.parse::<f64>() {
        return Value::Float(number);
    }
    Value::from(text)
}
