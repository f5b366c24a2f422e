//! Decodes a record's bytes into an event, by schema version.

use event::{Event, UnsupportedSchema};
use store::bus::Record;

use crate::dead_letter::{Cause, DeadLetter};

/// Returns the event in `record`, or a dead letter that says why it cannot be read.
pub(crate) fn decode(record: &Record) -> Result<Event, DeadLetter> {
    Event::from_json(&record.value).map_err(|error| {
        let (cause, message) = match error {
            UnsupportedSchema::TooNew { .. } => (Cause::SchemaTooNew, error.to_string()),
            UnsupportedSchema::NoId => (Cause::Undecodable, error.to_string()),
            // The parser's own message quotes the input, which may contain personal data.
            UnsupportedSchema::Malformed(error) => {
                let what = match error.classify() {
                    serde_json::error::Category::Io => "cannot be read",
                    serde_json::error::Category::Syntax => "is not json",
                    serde_json::error::Category::Data => "is not a valid event",
                    serde_json::error::Category::Eof => "ends too early",
                };
                let place = format!("line {} column {}", error.line(), error.column());
                (Cause::Undecodable, format!("the record {what} at {place}"))
            }
        };
        DeadLetter::new(record, cause, message)
    })
}

#[cfg(test)]
mod tests {
    use store::bus::{EVENTS_TOPIC, Position};

    use super::*;

    fn letter(value: &str) -> DeadLetter {
        let record = Record {
            position: Position {
                topic: EVENTS_TOPIC.into(),
                partition: 1,
                offset: 7,
            },
            key: "k".into(),
            value: value.into(),
            headers: Default::default(),
            appended_at: Default::default(),
        };
        decode(&record).unwrap_err()
    }

    #[test]
    fn an_event_without_an_id_is_set_aside() {
        let event = Event {
            event_id: "e1".to_owned(),
            ..Event::bare(
                event::EventType::Opened,
                Default::default(),
                event::UniversalId::parse(&format!("sf_{:032}", 1)).unwrap(),
            )
        };
        let json = String::from_utf8(event.to_json()).unwrap();
        assert_eq!(Event::from_json(json.as_bytes()).unwrap(), event);
        let letter = letter(&json.replace(r#""event_id":"e1""#, r#""event_id":"""#));
        assert_eq!(
            (letter.cause, letter.message.as_str()),
            (Cause::Undecodable, "event has no `event_id`")
        );
    }

    #[test]
    fn says_what_is_wrong_and_quotes_nothing() {
        let newer = letter(r#"{"schema_version": 9, "who": "ann@example.com"}"#);
        assert_eq!(newer.cause, Cause::SchemaTooNew);
        assert_eq!(
            newer.message,
            "event has schema version 9, this build reads up to 1: upgrade the reader"
        );
        for (value, message) in [
            ("ann@example.com", "the record is not json at line 1 column 1"),
            (
                r#"{"schema_version": "ann@example.com"}"#,
                "the record is not a valid event at line 1 column 36",
            ),
            (
                r#"{"schema_version": 1"#,
                "the record ends too early at line 1 column 20",
            ),
        ] {
            let letter = letter(value);
            assert_eq!(
                (letter.cause, letter.message.as_str()),
                (Cause::Undecodable, message)
            );
        }
    }
}
