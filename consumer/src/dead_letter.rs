//! Dead-lettering records that cannot be stored, so that they never hold up the records after them.
//!
//! A dead letter is the unchanged record: same bytes, same headers, keyed by its position in the source topic, plus the
//! headers of [`header`]. The bytes are not sealed again: the host has hashed and redacted everything on the events
//! topic. Appending a dead letter's value to the events topic is all it takes to retry it. A record that is read twice
//! may be dead-lettered twice; both dead letters have the same key.

use std::collections::BTreeMap;

use store::{
    StoreError,
    bus::{Bus, DEAD_LETTERS_TOPIC, NewRecord, Position, Record, header},
};

use crate::{Metrics, error::Interrupted, retry::Attempts};

/// Why a record was dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is not an event of any version.
    Undecodable,
    /// It was written by a newer build; put it back after the upgrade.
    SchemaTooNew,
    /// The event store will never accept it.
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

/// A record to dead-letter.
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

/// Appends dead letters to the bus; waits for outages of the bus to end. If the bus itself rejects a dead letter (its
/// headers can make it too large), the record stays where it is on the events topic, and the log names its position.
pub(crate) async fn set_aside(
    bus: &dyn Bus,
    letters: Vec<DeadLetter>,
    metrics: &Metrics,
    mut attempts: Attempts<'_>,
) -> Result<(), Interrupted> {
    for letter in letters {
        let refusal: Option<StoreError> = loop {
            match bus.append(vec![letter.to_record()]).await {
                Ok(()) => break None,
                Err(error) => {
                    if let Some(refusal) = attempts.failed(error).await? {
                        break Some(refusal);
                    }
                }
            }
        };
        attempts.succeeded();
        let (source, cause, message) = (&letter.source, letter.cause.as_str(), &letter.message);
        match refusal {
            None => {
                metrics.dead_lettered(letter.cause);
                tracing::warn!(
                    dead_letter.source = source,
                    dead_letter.cause = cause,
                    "record `{source}` was dead-lettered: {message}"
                );
            }
            Some(error) => {
                metrics.left_behind();
                tracing::error!(
                    dead_letter.source = source,
                    dead_letter.cause = cause,
                    %error,
                    "record `{source}` can be neither stored ({message}) nor dead-lettered; it stays on its topic only"
                );
            }
        }
    }
    Ok(())
}
