//! Finding and erasing all that is stored about a person.
//!
//! Rows are erased by the server's lightweight `DELETE`: when it has ended no query sees them any more, and it writes no more than a
//! mask beside each part that held some. To rewrite the parts themselves (`ALTER TABLE … DELETE`) would take a person's mails of a year
//! the whole table, hundreds of gigabytes where much is sent. The rows leave the disk when their part is merged, or all at once by
//! `ALTER TABLE … APPLY DELETED MASK`, for any number of people together; `docs/deployment.md` tells of it.

use std::{collections::BTreeSet, time::Duration};

use clickhouse::{Client, query::Query};
use event::UniversalId;

use super::{MESSAGES_PER_QUERY, PEOPLE_PER_QUERY, person_key, within};
use crate::{StoreError, events::Holdings};

/// How long one of these statements may take. Explanations are not in the order of people, so that a column of all of them is read:
/// a minute for a hundred million. A deletion also waits for merges of the parts in question, and those of large parts take long.
const STATEMENT_WITHIN: Duration = Duration::from_secs(3_600);

/// Times of sending are found by the events that tell them, so the events go later; who has events at all is asked last.
/// Whatever a failure leaves, the same ids find it again.
pub(super) async fn erase(client: &Client, ids: &[UniversalId]) -> Result<Holdings, StoreError> {
    let held = holdings(client, ids).await?;
    for keys in sent_messages(client, ids).await?.chunks(MESSAGES_PER_QUERY) {
        let delete = statement(client, "DELETE FROM message_sent_times WHERE message_key IN ?");
        within(STATEMENT_WITHIN, delete.bind(keys).execute()).await?;
    }
    for some in ids.chunks(PEOPLE_PER_QUERY) {
        for sql in [
            "DELETE FROM timing_explanations WHERE universal_id IN ?",
            "DELETE FROM email_events WHERE universal_id IN ?",
        ] {
            within(
                STATEMENT_WITHIN,
                statement(client, sql).bind(texts(some)).execute(),
            )
            .await?;
        }
        let keys: Vec<u64> = some.iter().map(person_key).collect();
        let delete = statement(client, "DELETE FROM known_people WHERE person_key IN ?");
        within(STATEMENT_WITHIN, delete.bind(keys).execute()).await?;
    }
    Ok(held)
}

pub(super) async fn holdings(client: &Client, ids: &[UniversalId]) -> Result<Holdings, StoreError> {
    let mut held = Holdings::default();
    for some in ids.chunks(PEOPLE_PER_QUERY) {
        let count = statement(
            client,
            "SELECT uniqExact(event_id) FROM email_events WHERE universal_id IN ?",
        );
        let events: u64 = within(STATEMENT_WITHIN, count.bind(texts(some)).fetch_one()).await?;
        let count = statement(
            client,
            "SELECT uniqExact(reference) FROM timing_explanations WHERE universal_id IN ?",
        );
        let explanations: u64 = within(STATEMENT_WITHIN, count.bind(texts(some)).fetch_one()).await?;
        held.events += events;
        held.explanations += explanations;
    }
    Ok(held)
}

pub(super) async fn explanations_about(
    client: &Client,
    ids: &[UniversalId],
) -> Result<Vec<String>, StoreError> {
    let mut references = BTreeSet::new();
    for some in ids.chunks(PEOPLE_PER_QUERY) {
        let query = statement(
            client,
            "SELECT DISTINCT reference FROM timing_explanations WHERE universal_id IN ?",
        );
        let found: Vec<String> = within(STATEMENT_WITHIN, query.bind(texts(some)).fetch_all()).await?;
        references.extend(found);
    }
    Ok(references.into_iter().collect())
}

/// Keys in `message_sent_times` of all messages to these people, as the table's view computes them.
async fn sent_messages(client: &Client, ids: &[UniversalId]) -> Result<Vec<u64>, StoreError> {
    let mut keys = Vec::new();
    for some in ids.chunks(PEOPLE_PER_QUERY) {
        let query = statement(
            client,
            "SELECT DISTINCT xxHash64(concat(universal_id, assumeNotNull(message_id))) FROM email_events \
             WHERE universal_id IN ? AND event_type = 'sent' AND message_id IS NOT NULL",
        );
        let found: Vec<u64> = within(STATEMENT_WITHIN, query.bind(texts(some)).fetch_all()).await?;
        keys.extend(found);
    }
    Ok(keys)
}

/// A statement that may take long. A deletion has happened on all replicas when it ends.
fn statement(client: &Client, sql: &str) -> Query {
    client
        .query(sql)
        .with_setting("max_execution_time", STATEMENT_WITHIN.as_secs().to_string())
        .with_setting("lightweight_deletes_sync", "2")
}

fn texts(ids: &[UniversalId]) -> Vec<&str> {
    ids.iter().map(UniversalId::as_str).collect()
}
