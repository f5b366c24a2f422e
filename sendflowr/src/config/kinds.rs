//! What kind of value a text is meant as.
//!
//! The file tells texts from numbers and lists by quotes and brackets. Variables, and files that hold a single value, have
//! none: there the key decides, whose kind is known to what parses it.

use serde::Deserialize;
use toml::{Table, Value};

use super::{RawConfig, environment, secrets};

/// The value of a variable that sets the key with this path. Lists are separated by commas.
pub(super) fn of_variable(path: &str, text: &str) -> Value {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let list = Value::Array(items.map(Value::from).collect());
    taken(path, text, [unquoted(text), Value::from(text), list])
}

/// The value of a file that holds that of the key with this path. Of a list it is one item, which may have commas in it.
pub(super) fn of_file(path: &str, text: &str) -> Value {
    let list = Value::Array(vec![Value::from(text)]);
    taken(path, text, [unquoted(text), Value::from(text), list])
}

/// The first of these that the key takes. Where it takes none, the first is what the error is about.
fn taken(path: &str, text: &str, meanings: [Value; 3]) -> Value {
    // `0123` must not become a number, and what a plugin calls a secret takes any kind.
    if secrets::is_secret(path) || path.ends_with("_file") {
        return Value::from(text);
    }
    let first = meanings[0].clone();
    meanings
        .into_iter()
        .find(|meaning| is_taken(path, meaning))
        .unwrap_or(first)
}

/// Whether a configuration of this key alone can be read.
fn is_taken(path: &str, value: &Value) -> bool {
    let mut table = Table::new();
    environment::insert(&mut table, path, value.clone(), "").is_ok()
        && RawConfig::deserialize(Value::Table(table)).is_ok()
}

/// The text as the configuration file would have it without quotes.
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
