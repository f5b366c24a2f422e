//! Finds and erases everything that is stored about a person.
//!
//! Rows are erased by the server's lightweight `DELETE`: when it has completed, no query sees them any more, and it writes only
//! a mask next to each part that held some. Rewriting the parts themselves (`ALTER TABLE … DELETE`) would, for the mails that
//! one person got in a year, rewrite the whole table, hundreds of gigabytes with high volumes. The rows leave the disk when
//! their part is merged, or all at once by `ALTER TABLE … APPLY DELETED MASK`, for any number of people together; see
//! `docs/deployment.md`.

use std::{collections::BTreeSet, time::Duration};

use clickhouse::{Client, query::Query};
use event::UniversalId;

use super::{MESSAGES_PER_QUERY, PEOPLE_PER_QUERY, person_key, within};
use crate::{StoreError, events::Holdings};

/// Time limit for one of these statements. Explanations are not ordered by person, so that a whole column of them is read: a
/// minute for a hundred million. A deletion also waits for merges of the parts involved, and those of large parts take long.
const STATEMENT_WITHIN: Duration = Duration::from_secs(3_600);

/// Sending times are found through the events that record them, so the events are erased later; the keys that tell who has
/// events at all are erased last. Whatever a failure leaves, erasing the same ids again finds it.
///
/// Events that are stored between the deletions stay, and only the deletion of the keys is after them: without their keys the next
/// event of their person would look like the first, and the profile would be made of that one alone. So the keys of all events that
/// are there then are written again.
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
        let restore = statement(
            client,
            "INSERT INTO known_people SELECT DISTINCT xxHash64(universal_id) FROM email_events WHERE universal_id IN ?",
        );
        within(STATEMENT_WITHIN, restore.bind(texts(some)).execute()).await?;
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

/// Returns the keys in `message_sent_times` of all messages to these people, as the table's view computes them.
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

/// Builds a statement that may take long. When a deletion completes, it has happened on all replicas.
fn statement(client: &Client, sql: &str) -> Query {
    client
        .query(sql)
        .with_setting("max_execution_time", STATEMENT_WITHIN.as_secs().to_string())
        .with_setting("lightweight_deletes_sync", "2")
}

fn texts(ids: &[UniversalId]) -> Vec<&str> {
    ids.iter().map(UniversalId::as_str).collect()
}
