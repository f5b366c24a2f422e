//! Compares the SDK's JSON reader with `serde_json`: both accept the same texts, and read the same from them.

use std::collections::BTreeMap;

use sendflowr_plugin_sdk::{Document, Value, json::for_each_element};

/// Parses the bytes as JSON with both.
pub fn run(bytes: &[u8]) {
    let ours = Document::parse(bytes);
    // Only checked for a panic and compared below: that it ends without a panic is guaranteed too.
    let mut elements = 0;
    let each = for_each_element(bytes, |_, value| {
        elements += 1;
        value.to_metadata();
    });
    // A byte-order mark is skipped, because some providers send one.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match (&ours, serde_json::from_slice::<serde_json::Value>(bytes)) {
        (Ok(document), Ok(theirs)) => {
            same(document.root(), &theirs);
            if let serde_json::Value::Array(list) = &theirs {
                assert!(each.is_ok());
                assert_eq!(elements, list.len());
            } else {
                assert!(each.is_err());
            }
        }
        (Err(_), Err(_)) => assert!(each.is_err(), "an array element by element, and not as a whole"),
        (Ok(_), Err(error)) => assert!(is_stricter(&error), "taken, though {error}"),
        (Err(error), Ok(_)) => panic!("refused, though it is JSON: {error:?}"),
    }
}

/// Checks whether this is one of the texts that the SDK accepts and `serde_json` does not: numbers beyond a float's range,
/// because the SDK keeps them as text; half of a surrogate pair, because providers cut texts; and the deepest level, which both
/// count from different ends.
fn is_stricter(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    [
        "number out of range",
        "lone leading surrogate",
        "unexpected end of hex escape",
        "lone surrogate",
        "recursion limit exceeded",
        "invalid unicode code point",
    ]
    .iter()
    .any(|known| text.starts_with(known))
}

fn same(ours: Value<'_>, theirs: &serde_json::Value) {
    match theirs {
        serde_json::Value::Null => assert!(ours.is_null()),
        serde_json::Value::Bool(flag) => assert_eq!(ours.as_bool(), Some(*flag)),
        serde_json::Value::Number(number) => {
            let text = ours.as_text().expect("a number has a text");
            assert_eq!(
                serde_json::from_str::<serde_json::Number>(&text).ok().as_ref(),
                Some(number)
            );
        }
        serde_json::Value::String(text) => assert_eq!(ours.string().as_deref(), Some(text.as_str())),
        serde_json::Value::Array(list) => {
            assert!(ours.is_array());
            assert_eq!(ours.elements().count(), list.len());
            for (ours, theirs) in ours.elements().zip(list) {
                same(ours, theirs);
            }
        }
        serde_json::Value::Object(fields) => {
            assert!(ours.is_object());
            // If a name is repeated, the last one counts, for both.
            let entries: BTreeMap<_, _> = ours.entries().collect();
            assert_eq!(entries.len(), fields.len());
            for (name, theirs) in fields {
                same(ours.get(name), theirs);
                same(entries[name.as_str()], theirs);
            }
        }
    }
}
