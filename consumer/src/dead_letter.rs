//! Setting aside what cannot be stored, so that it never holds up what comes after it.
//!
//! A dead letter is the record as it was: same bytes, same headers, keyed by its place in the source topic, with the
//! headers of [`header`] on top. The bytes are not sealed again: what stands on the events topic was hashed and
//! redacted by the host. Putting a letter's value back onto the events topic is all it takes to try it again.
//! A record read twice may be set aside twice; the key tells.

use std::collections::BTreeMap;

use store::bus::{DEAD_LETTERS_TOPIC, NewRecord, Position, Record, header};

/// Why a record was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No event of any version.
    Undecodable,
    /// Written by a newer build; put it back after the upgrade.
    SchemaTooNew,
    /// The event store will never take it.
    StoreRejected,
}

impl Cause {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::SchemaTooNew => "schema_too_new",
            Self::StoreRejected => "store_rejected",
        }
    }
}

/// A record to set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) source: String,
    pub(crate) cause: Cause,
    pub(crate) message: String,
    value: Vec<u8>,
    headers: BTreeMap<String, String>,
}

impl DeadLetter {
    pub(crate) fn new(record: &Record, cause: Cause, message: String) -> Self {
        let Position {
            topic,
            partition,
            offset,
        } = &record.position;
        Self {
            source: format!("{topic}/{partition}/{offset}"),
            cause,
            message,
            value: record.value.clone(),
            headers: record.headers.clone(),
        }
    }

    pub(crate) fn to_record(&self) -> NewRecord {
        let mut headers = self.headers.clone();
        headers.insert(header::STAGE.to_owned(), "consumer".to_owned());
        headers.insert(header::CAUSE.to_owned(), self.cause.as_str().to_owned());
        headers.insert(header::MESSAGE.to_owned(), self.message.clone());
        headers.insert(header::SOURCE.to_owned(), self.source.clone());
        NewRecord {
            topic: DEAD_LETTERS_TOPIC.to_owned(),
            key: self.source.clone(),
            value: self.value.clone(),
            headers,
        }
    }
}
