//! Dead letters as the consumer writes them.

use std::collections::BTreeMap;

use event::{Event, EventType, Identifier, IdentifierKind, Timestamp, UniversalId};
use store::bus::{DEAD_LETTERS_TOPIC, NewRecord};

/// Creates an open by somebody who is known by this name alone.
pub fn open_of(name: &str, esp: &str) -> Event {
    let identifier = Identifier {
        kind: IdentifierKind::ExternalId,
        value: name.to_owned(),
    };
    let at = Timestamp::from_millis_clamped(1_767_636_000_000);
    let mut event = Event::bare(EventType::Opened, at, UniversalId::from_identifier(&identifier));
    event.event_id = format!("open-of-{name}");
    event.esp = esp.to_owned();
    event.identifiers = vec![identifier];
    event
}

/// Creates the dead letter that the consumer writes for an event whose schema is too new for it.
pub fn too_new(event: &Event) -> NewRecord {
    let headers = [
        ("dead-letter-stage", "consumer"),
        ("dead-letter-cause", "schema_too_new"),
        ("dead-letter-source", "email-events/0/7"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    NewRecord {
        topic: DEAD_LETTERS_TOPIC.to_owned(),
        key: "email-events/0/7".to_owned(),
        value: event.to_json(),
        headers: BTreeMap::from(headers),
    }
}
