//! Compares the result of a delivery with the expected one.

use event::Timestamp;
use serde_json::{Map, Value};

use super::{Expected, Reading};

/// Returns the differences; empty when the case passes.
pub(super) fn differences(expected: &Expected, reading: &Reading) -> Vec<String> {
    let mut differences = Vec::new();
    let (outcome, detail) = match reading {
        Reading::Accepted { .. } => ("accepted", String::new()),
        Reading::Unauthorized { code, message } => ("unauthorized", format!(" ({code}: {message})")),
        Reading::BadRequest { message } => ("bad_request", format!(" ({message})")),
    };
    if let Some(wanted) = expected.outcome.as_deref()
        && wanted != outcome
    {
        // What follows from a different outcome would only obscure it.
        return vec![format!("outcome: expected `{wanted}`, got `{outcome}`{detail}")];
    }
    let Reading::Accepted {
        events,
        skipped,
        rejected,
        ..
    } = reading
    else {
        return differences;
    };
    let unused = skipped.len() + rejected.len();
    if let Some(wanted) = expected.skipped
        && wanted != unused
    {
        let reasons: Vec<String> = skipped.iter().chain(rejected).map(Value::to_string).collect();
        differences.push(format!(
            "skipped: expected {wanted}, got {unused} [{}]",
            reasons.join(", ")
        ));
    }
    let Some(wanted) = &expected.events else {
        return differences;
    };
    if wanted.len() != events.len() {
        differences.push(format!("events: expected {}, got {}", wanted.len(), events.len()));
    }
    for (position, (wanted, event)) in wanted.iter().zip(events).enumerate() {
        for (field, wanted) in wanted {
            let got = event.get(field);
            if !fits(field, wanted, got) {
                let got = got.map_or("no such field".to_owned(), Value::to_string);
                differences.push(format!(
                    "events[{position}].{field}: expected {wanted}, got {got}"
                ));
            }
        }
    }
    differences
}

/// Checks whether an event's field, if it exists, is what a case expects. `plugins/testing` compares in the same way:
/// both are tested against the same table.
fn fits(field: &str, wanted: &Value, got: Option<&Value>) -> bool {
    let Some(got) = got else {
        return false;
    };
    if wanted.is_null() {
        return got.is_null()
            || got.as_array().is_some_and(Vec::is_empty)
            || got.as_object().is_some_and(Map::is_empty);
    }
    match (field, wanted, got) {
        ("timestamp" | "sent_at", Value::String(wanted), Value::String(got)) => {
            let wanted = wanted.parse::<Timestamp>();
            wanted.is_ok() && wanted == got.parse()
        }
        // The order of a person's identifiers has no meaning.
        ("identifiers", Value::Array(wanted), Value::Array(got)) => {
            let sorted = |values: &[Value]| {
                let mut texts: Vec<String> = values.iter().map(Value::to_string).collect();
                texts.sort();
                texts
            };
            sorted(wanted) == sorted(got)
        }
        _ => wanted == got,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading() -> Reading {
        Reading::Accepted {
            events: vec![json!({
                "event_type": "clicked",
                "timestamp": "2026-01-10T12:00:00.000Z",
                "subject": null,
                "identifiers": [{"kind": "klaviyo_id", "value": "1"}, {"kind": "external_id", "value": "2"}],
                "tags": [],
                "metadata": {"a": "1"},
            })],
            skipped: vec![],
            rejected: vec![json!({ "index": 1, "reason": "no time" })],
            handshake: None,
        }
    }

    fn differences_from(expected: Value) -> Vec<String> {
        differences(&serde_json::from_value(expected).unwrap(), &reading())
    }

    #[test]
    fn fields_fit_as_they_do_natively() {
        let table = include_str!("../../../plugins/testing/src/comparisons.jsonl");
        for row in table.lines() {
            let row: Value = serde_json::from_str(row).unwrap();
            let fits = fits(row["field"].as_str().unwrap(), &row["wanted"], row.get("got"));
            assert_eq!(row["fits"], fits, "{row}");
        }
    }

    #[test]
    fn compares_what_is_there_only() {
        let expected = json!({
            "outcome": "accepted",
            "skipped": 1,
            "events": [{
                "event_type": "clicked",
                "timestamp": "2026-01-10T13:00:00+01:00",
                "subject": null,
                "tags": null,
                "identifiers": [{"value": "2", "kind": "external_id"}, {"kind": "klaviyo_id", "value": "1"}],
            }],
        });
        assert_eq!(differences_from(expected), [""; 0]);
        assert_eq!(differences_from(json!({})), [""; 0]);
    }

    #[test]
    fn names_every_difference() {
        let expected = json!({
            "outcome": "accepted",
            "skipped": 0,
            "events": [{"event_type": "opened", "metadata": {"a": "1", "b": "2"}, "tags": ["x"], "nothing": "y"}, {}],
        });
        assert_eq!(
            differences_from(expected),
            [
                r#"skipped: expected 0, got 1 [{"index":1,"reason":"no time"}]"#,
                "events: expected 2, got 1",
                r#"events[0].event_type: expected "opened", got "clicked""#,
                r#"events[0].metadata: expected {"a":"1","b":"2"}, got {"a":"1"}"#,
                r#"events[0].nothing: expected "y", got no such field"#,
                r#"events[0].tags: expected ["x"], got []"#,
            ]
        );
        assert_eq!(
            differences_from(json!({ "outcome": "unauthorized" })),
            ["outcome: expected `unauthorized`, got `accepted`"]
        );
    }
}
