//! The event store that scales out: ClickHouse, by its HTTP interface.
//!
//! An event that is written again changes nothing that can be read: the table keeps one row an id, and until its parts
//! are merged the queries do. A batch goes in one insert. When that fails, some of it may be stored; it is told as a
//! failure, and writing the whole batch again is always right.

mod config;
mod connection;
mod erasure;
mod error;
mod rows;
mod schema;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use clickhouse::{Client, RowOwned, RowRead, error::Error, query::Query};
use event::{Event, Timestamp, UniversalId, profile::Profile};
use tokio::time::timeout;
use twox_hash::XxHash64;

pub use self::config::{ClickHouseConfig, InvalidClickHouseConfig, RawClickHouseConfig};
use self::{
    error::Failure,
    rows::{EventRow, ExplanationRow, ForecastRow, LatencyRow, OccurrenceRow, TouchRow, TrialRow},
};
use super::{
    EventCount, Events, Holdings, LatencySample, Sample, StoredEvent, StoredExplanation, StoredForecast,
    StoredTrial, Touch, TouchKind, WriteReport,
    shares::{PeopleShare, Shares},
};
use crate::StoreError;

/// The engine's name in errors.
const ENGINE: &str = "clickhouse";

/// How long it may take to find out what the server is and has: an operator waits 10 s at most for a mistake to show.
const OPEN_WITHIN: Duration = Duration::from_secs(9);

/// How long the schema steps that are due may take in all. One reads the people of all stored events, which takes seconds for 100
/// million; a step that was given up would start again from the beginning at every start.
const STEPS_WITHIN: Duration = Duration::from_secs(15 * 60);

/// Messages asked for in one query: 20 digits each make half of the 256 KiB that the server takes as a query.
const MESSAGES_PER_QUERY: usize = 5_000;

/// People asked for in one query: 38 letters each make three quarters of the 256 KiB that the server takes as a query.
const PEOPLE_PER_QUERY: usize = 5_000;

/// People whose profiles are made by one query: their rows lie together, and a query costs some milliseconds before it reads the
/// first. So few that it stays far below a request's time: half a second with a hundred million events.
const PROFILES_PER_QUERY: usize = 250;

/// People up to which a history is read by one thread. A person is a few granules a month: starting threads for them
/// takes longer than reading them.
const PEOPLE_PER_THREAD: usize = 4;

/// The event store in a ClickHouse database.
#[derive(Debug, Clone)]
pub struct ClickHouseEvents {
    client: Client,
    request_timeout: Duration,
    ttl_days: Option<u64>,
}

impl ClickHouseEvents {
    /// Connects, creates the database if it is missing, and brings its tables up to date. Fails within 10 s if the server cannot be
    /// used; schema steps may take longer, since some read everything that is stored.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`], naming the settings to look at, when the server cannot be reached, refuses the user,
    /// or does not let it do what is needed.
    pub async fn connect(config: ClickHouseConfig) -> Result<Self, StoreError> {
        let server = connection::client(&config)?;
        let client = Self::open(server, &config).await;
        let client = client.map_err(|failure| failure.at_start(&config))?;
        Ok(Self {
            client,
            request_timeout: config.request_timeout,
            ttl_days: config.ttl_days,
        })
    }

    async fn open(server: Client, config: &ClickHouseConfig) -> Result<Client, Failure> {
        let reach = async {
            schema::make_database(&server, config).await?;
            let client = server.with_database(&config.database);
            let due = schema::due_steps(&client).await?;
            Ok::<_, Failure>((client, due))
        };
        let (client, due) = within(OPEN_WITHIN, reach).await?;
        within(STEPS_WITHIN, schema::run(&client, &due)).await?;
        Ok(client
            // Batches are made by the writer, and its word that a batch is stored must mean that.
            .with_setting("async_insert", "0")
            // Replicated tables drop a block that they have seen lately; others only with a window that is set for it. With the
            // block goes what the table's views would make of it. A batch is written again because its outcome is not
            // known: its rows may be stored and the times of sending not. To store rows again changes nothing, to skip
            // them may lose those times for good. Servers since 26 look at `deduplicate_insert` instead, and hand a block
            // that they drop on to the views all the same. Inserts that the server gathers are not compared by default.
            .with_setting("insert_deduplicate", "0")
            // By default the server merges with itself what it is about to write, which is a fourth of what a write costs. No
            // batch of the consumer's holds an event twice, and readers look for an event's first form in any case.
            .with_setting("optimize_on_insert", "0")
            // A batch that catches up may span any number of months.
            .with_setting("max_partitions_per_insert_block", "0"))
    }

    /// Has the server drop rows when they are as old as `clickhouse.ttl_days` says, explanations after 90 days at the latest. One
    /// process of a system does so, the consumer: opening the store to look at it must not change what it keeps.
    ///
    /// # Errors
    /// [`StoreError`] when the server does not answer, or does not let this user change its tables.
    pub async fn retain(&self) -> Result<(), StoreError> {
        self.answer(schema::set_ttl(&self.client, self.ttl_days)).await
    }

    /// About `wanted` of the explanations decided in a span that have a value in `column`, newest first.
    async fn sample<R: RowOwned + RowRead, T>(
        &self,
        column: &str,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
        read: impl Fn(R) -> Result<T, StoreError>,
    ) -> Result<Sample<T>, StoreError> {
        let of_the_span = format!(
            "FROM timing_explanations WHERE {column} IS NOT NULL \
             AND decided_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
             AND decided_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')"
        );
        // What was written again counts again until the server merges: then the share is smaller, and still fair.
        let count = self
            .client
            .query(&format!("SELECT count() {of_the_span}"))
            .bind(since.as_millis())
            .bind(until.as_millis());
        let count: u64 = self.answer(count.fetch_one()).await?;
        let share = PeopleShare::new(count, wanted);
        let query = self
            .client
            .query(&format!(
                "SELECT ?fields {of_the_span} AND universal_id < ? \
                 ORDER BY decided_at DESC, reference DESC, version DESC LIMIT 1 BY reference LIMIT ?"
            ))
            .bind(since.as_millis())
            .bind(until.as_millis())
            .bind(share.bound())
            .bind(share.limit());
        let rows: Vec<R> = self.answer(query.fetch_all()).await?;
        let rows: Result<Vec<T>, StoreError> = rows.into_iter().map(read).collect();
        Ok(share.sample(rows?))
    }

    /// The events that a query about them finds, in its order.
    async fn events(&self, query: Query) -> Result<Vec<StoredEvent>, StoreError> {
        let mut cursor = query.fetch::<EventRow<'_>>().map_err(Failure::from)?;
        let mut events = Vec::new();
        self.answer(async {
            while let Some(row) = cursor.next().await? {
                events.push(row.read());
            }
            Ok(())
        })
        .await?;
        events.into_iter().collect()
    }

    /// Waits for an answer, not for ever.
    async fn answer<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        Ok(within(self.request_timeout, work).await?)
    }
}

/// Returns the result of `work` if it comes in time.
async fn within<T, E: Into<Failure>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match timeout(limit, work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Failure::TimedOut(limit)),
    }
}

#[async_trait]
impl Events for ClickHouseEvents {
    async fn write(&self, batch: &[StoredEvent]) -> Result<WriteReport, StoreError> {
        if batch.is_empty() {
            return Ok(WriteReport::default());
        }
        self.answer(async {
            let mut insert = self.client.insert::<EventRow<'_>>("email_events").await?;
            for stored in batch {
                insert.write(&EventRow::from(stored)).await?;
            }
            insert.end().await
        })
        .await?;
        // Which of them were there already shows only when the server merges.
        Ok(WriteReport {
            inserted: batch.len(),
            duplicates: 0,
        })
    }

    async fn history(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = ids.iter().map(UniversalId::as_str).collect();
        let mut query = self.client.query(
            "SELECT ?fields FROM email_events \
             PREWHERE universal_id IN ? WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
             ORDER BY timestamp DESC, event_id DESC, version DESC LIMIT 1 BY event_id LIMIT ?",
        );
        if ids.len() <= PEOPLE_PER_THREAD {
            query = query.with_setting("max_threads", "1");
        }
        let query = query.bind(ids).bind(since.as_millis()).bind(limit as u64);
        let mut history = self.events(query).await?;
        // Newest first came the newest; told are the oldest first.
        history.reverse();
        Ok(history)
    }

    async fn profiles(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<Profile>, StoreError> {
        let keys: Vec<&str> = ids.iter().map(UniversalId::as_str).collect();
        let mut profiles: HashMap<&str, Profile> = keys.iter().map(|id| (*id, Profile::default())).collect();
        for some in keys.chunks(PROFILES_PER_QUERY) {
            let mut query = self.client.query(
                "SELECT ?fields FROM (SELECT ?fields, event_id FROM email_events \
                 PREWHERE universal_id IN ? WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 ORDER BY event_id, version DESC LIMIT 1 BY event_id) \
                 ORDER BY universal_id, timestamp DESC, event_id DESC LIMIT ? BY universal_id",
            );
            if some.len() <= PEOPLE_PER_THREAD {
                query = query.with_setting("max_threads", "1");
            }
            let mut cursor = query
                .bind(some)
                .bind(since.as_millis())
                .bind(limit as u64)
                .fetch::<OccurrenceRow<'_>>()
                .map_err(Failure::from)?;
            let taken: Result<(), StoreError> = self
                .answer(async {
                    while let Some(row) = cursor.next().await? {
                        let occurrence = match row.read() {
                            Ok(occurrence) => occurrence,
                            Err(error) => return Ok(Err(error)),
                        };
                        if let Some(profile) = profiles.get_mut(row.universal_id) {
                            profile.take(occurrence);
                        }
                    }
                    Ok(Ok(()))
                })
                .await?;
            taken?;
        }
        Ok(keys.iter().map(|id| profiles[id].clone()).collect())
    }

    async fn known(&self, ids: &[UniversalId]) -> Result<Vec<bool>, StoreError> {
        let keys: Vec<u64> = ids.iter().map(person_key).collect();
        let mut found: HashSet<u64> = HashSet::new();
        for some in keys.chunks(PEOPLE_PER_QUERY) {
            let query = self
                .client
                .query("SELECT DISTINCT person_key FROM known_people WHERE person_key IN ?")
                .with_setting("max_threads", "1");
            let people: Vec<u64> = self.answer(query.bind(some).fetch_all()).await?;
            found.extend(people);
        }
        Ok(keys.iter().map(|key| found.contains(key)).collect())
    }

    async fn sent_times(
        &self,
        messages: &[(UniversalId, String)],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let keys: Vec<u64> = messages
            .iter()
            .map(|(person, message)| message_key(person, message))
            .collect();
        let mut sent = HashMap::with_capacity(keys.len());
        for some in keys.chunks(MESSAGES_PER_QUERY) {
            let query = self.client.query(
                "SELECT message_key, min(sent_at) FROM message_sent_times WHERE message_key IN ? GROUP BY message_key",
            );
            let found: Vec<(u64, i64)> = self.answer(query.bind(some).fetch_all()).await?;
            sent.extend(found);
        }
        let mut times = Vec::with_capacity(keys.len());
        for key in keys {
            times.push(match sent.get(&key) {
                Some(&ms) => Some(rows::timestamp(ms, "message_sent_times", "sent_at")?),
                None => None,
            });
        }
        Ok(times)
    }

    async fn people(
        &self,
        since: Timestamp,
        after: Option<&UniversalId>,
        limit: usize,
    ) -> Result<Vec<UniversalId>, StoreError> {
        // The empty text sorts before every id.
        let query = self
            .client
            .query(
                "SELECT DISTINCT universal_id FROM email_events \
                 WHERE universal_id > ? AND timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 ORDER BY universal_id LIMIT ?",
            )
            .bind(after.map_or("", UniversalId::as_str))
            .bind(since.as_millis())
            .bind(limit as u64);
        let ids: Vec<String> = self.answer(query.fetch_all()).await?;
        ids.iter()
            .map(|id| rows::universal_id(id, "email_events"))
            .collect()
    }

    async fn latency_samples(
        &self,
        since: Timestamp,
        per_provider: usize,
    ) -> Result<Vec<LatencySample>, StoreError> {
        // Events that were written again count again until the server merges: then the share is smaller, and still fair.
        let counts = self
            .client
            .query(
                "SELECT esp, count() FROM latency_training \
                 WHERE delivered_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') GROUP BY esp",
            )
            .bind(since.as_millis());
        let counts: Vec<(String, u64)> = self.answer(counts.fetch_all()).await?;
        let shares = Shares::new(counts, per_provider);
        if shares.is_empty() {
            return Ok(Vec::new());
        }
        let of_each: Vec<&str> = shares
            .each()
            .map(|(_, bound)| match bound {
                Some(_) => "esp = ? AND universal_id < ?",
                None => "esp = ?",
            })
            .collect();
        let mut query = self
            .client
            .query(&format!(
                // The delay of an event's first form counts, or that it has none, so that this is looked at when the form is chosen.
                // Forms are chosen in the order of the table, which takes less than to sort by the ids alone. Only delivered events
                // have a delay.
                "SELECT ?fields FROM (SELECT event_id, universal_id, esp, campaign_id, \
                 metadata['campaign_type'] AS campaign_type, metadata['payload_bytes'] AS payload_bytes, mailbox_provider, \
                 timestamp AS delivered_at, delivery_latency_ms, assumeNotNull(delivery_latency_ms) AS latency_ms \
                 FROM email_events WHERE event_type = 'delivered' \
                 AND timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') AND ({}) \
                 ORDER BY universal_id, timestamp, event_id, version DESC \
                 LIMIT 1 BY universal_id, timestamp, event_id) \
                 WHERE delivery_latency_ms IS NOT NULL ORDER BY delivered_at DESC, event_id DESC LIMIT ?",
                of_each.join(" OR ")
            ))
            .bind(since.as_millis());
        for (esp, bound) in shares.each() {
            query = query.bind(esp);
            if let Some(bound) = bound {
                query = query.bind(bound);
            }
        }
        let query = query.bind(shares.limit(per_provider) as u64);
        let rows: Vec<LatencyRow> = self.answer(query.fetch_all()).await?;
        let samples = rows.into_iter().map(|row| {
            let stands_for = shares.stands_for(&row.esp);
            row.read(stands_for)
        });
        samples.collect()
    }

    async fn counts(&self) -> Result<Vec<EventCount>, StoreError> {
        let query = self.client.query(
            "SELECT esp, event_type, count() FROM email_events FINAL GROUP BY esp, event_type ORDER BY esp, event_type",
        );
        let counts: Vec<(String, String, u64)> = self.answer(query.fetch_all()).await?;
        let counts = counts.into_iter().map(|(esp, event_type, events)| EventCount {
            esp,
            event_type,
            events,
        });
        Ok(counts.collect())
    }

    async fn save_explanations(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError> {
        self.answer(async {
            let insert = self
                .client
                .insert::<ExplanationRow>("timing_explanations")
                .await?;
            // They come a few at a time: the server gathers those of some milliseconds, of all who decide, and answers when
            // they are stored.
            let mut insert = insert
                .with_setting("async_insert", "1")
                .with_setting("wait_for_async_insert", "1");
            for explanation in explanations {
                insert.write(&ExplanationRow::from(*explanation)).await?;
            }
            insert.end().await
        })
        .await
    }

    async fn explanation(&self, reference: &str) -> Result<Option<StoredExplanation>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT ?fields FROM timing_explanations WHERE reference = ? ORDER BY version DESC LIMIT 1",
            )
            .bind(reference);
        let row: Option<ExplanationRow> = self.answer(query.fetch_optional()).await?;
        row.map(ExplanationRow::read).transpose()
    }

    async fn trials(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredTrial>, StoreError> {
        self.sample("trial_group", since, until, wanted, TrialRow::read)
            .await
    }

    async fn forecasts(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredForecast>, StoreError> {
        self.sample("forecast_trigger_at", since, until, wanted, ForecastRow::read)
            .await
    }

    async fn touches(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Touch>, StoreError> {
        let types = TouchKind::EVENT_TYPES.map(|event_type| event_type.as_str());
        let mut touches = Vec::new();
        for some in ids.chunks(PEOPLE_PER_QUERY) {
            let some: Vec<&str> = some.iter().map(UniversalId::as_str).collect();
            let query = self
                .client
                .query(
                    // The verdict of an event's first form counts, so that it is looked at when the form is chosen.
                    "SELECT ?fields FROM (SELECT ?fields, machine FROM email_events WHERE universal_id IN ? \
                     AND timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                     AND timestamp < fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                     AND event_type IN ? ORDER BY event_id, version DESC LIMIT 1 BY event_id) WHERE NOT machine",
                )
                .bind(some)
                .bind(since.as_millis())
                .bind(until.as_millis())
                .bind(&types[..]);
            let rows: Vec<TouchRow> = self.answer(query.fetch_all()).await?;
            for row in rows {
                touches.push(row.read()?);
            }
        }
        Ok(touches)
    }

    async fn events_of(
        &self,
        id: &UniversalId,
        after: Option<&Event>,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        // The empty text sorts before every id, and no event is from before 1970.
        let (since, event_id) = match after {
            Some(event) => (event.timestamp, event.event_id.as_str()),
            None => (Timestamp::default(), ""),
        };
        let query = self
            .client
            .query(
                "SELECT ?fields FROM email_events \
                 PREWHERE universal_id = ? WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 AND (timestamp, event_id) > (fromUnixTimestamp64Milli(toInt64(?), 'UTC'), ?) \
                 ORDER BY timestamp, event_id, version DESC LIMIT 1 BY timestamp, event_id LIMIT ?",
            )
            .bind(id.as_str())
            .bind(since.as_millis())
            .bind(since.as_millis())
            .bind(event_id)
            .bind(limit as u64);
        self.events(query).await
    }

    async fn explanations_about(&self, ids: &[UniversalId]) -> Result<Vec<String>, StoreError> {
        erasure::explanations_about(&self.client, ids).await
    }

    async fn holdings(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError> {
        erasure::holdings(&self.client, ids).await
    }

    async fn erase(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError> {
        erasure::erase(&self.client, ids).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Reads what a history reads, and writes where nothing is kept.
        let query = self
            .client
            .query("INSERT INTO ping SELECT max(timestamp) FROM email_events WHERE universal_id = ''");
        self.answer(query.execute()).await
    }
}

/// The key of a message in `message_sent_times`, as the table's view computes it. An id has always the same length, so that
/// the two together are unambiguous. Of a billion messages, a given one shares its key with another once in 18 billion.
fn message_key(person: &UniversalId, message: &str) -> u64 {
    XxHash64::oneshot(0, format!("{person}{message}").as_bytes())
}

/// The key of a person in `known_people`, as the table's view computes it. Somebody who shares another's is taken to have
/// events, once in 18 thousand million million pairs.
fn person_key(person: &UniversalId) -> u64 {
    XxHash64::oneshot(0, person.as_str().as_bytes())
}
