//! The event store that scales out: ClickHouse, through its HTTP interface.
//!
//! Writing an event again changes nothing that can be read: of the rows with one id, every query takes the first that was stored.
//! Merges leave one row per id and time. A report on a message without a time of its own has the time of its receipt and one id
//! all day, so that its id may stay in several rows; all of them are of one UTC day, which is why queries look for the first row
//! from the beginning of the day on. Only two things do not go by it: the sending time of a message is the earliest of the rows,
//! and the list of people may name somebody whose only event of the time is such a repetition.
//!
//! A batch is written in one insert. If that fails, some of it may be stored; it is reported as a failure, and writing the whole
//! batch again is always right.

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
use event::{
    Event, EventType, Timestamp, UniversalId,
    grid::DAY_MS,
    profile::{LASTING, Profile, SIGNAL_TIMES},
};
use tokio::time::timeout;
use twox_hash::XxHash64;

pub use self::config::{ClickHouseConfig, InvalidClickHouseConfig, RawClickHouseConfig};
use self::{
    error::Failure,
    rows::{EventRow, ExplanationRow, ForecastRow, LatencyRow, OccurrenceRow, TouchRow, TrialRow},
};
use super::{
    Events, Holdings, LatencySample, LeftOut, ProfileDoubt, Sample, StoredEvent, StoredExplanation,
    StoredForecast, StoredTrial, Touch, TouchKind, WriteReport,
    shares::{PeopleShare, Shares},
};
use crate::StoreError;

/// The engine's name in errors.
const ENGINE: &str = "clickhouse";

/// How long it may take to find out what the server is and has: an operator waits 10 s at most for a mistake to show.
const OPEN_WITHIN: Duration = Duration::from_secs(9);

/// How long the schema steps that are due may take in all. One reads the people of all stored events, which takes seconds for 100
/// million; a step that is given up starts again from the beginning at every start.
const STEPS_WITHIN: Duration = Duration::from_secs(15 * 60);

/// Messages looked up in one query: at 20 digits each they take half of the 256 KiB that the server accepts as a query.
const MESSAGES_PER_QUERY: usize = 5_000;

/// People looked up in one query: at 38 characters each they take three quarters of the 256 KiB that the server accepts as a
/// query.
const PEOPLE_PER_QUERY: usize = 5_000;

/// People whose profiles are built by one query: their rows are stored together, and a query costs a few milliseconds before it
/// reads the first one. The number is low enough that a query stays far below the request timeout: half a second with a hundred
/// million events.
const PROFILES_PER_QUERY: usize = 250;

/// Number of people up to which a history is read by one thread. A person takes a few granules per month: starting threads for
/// them takes longer than reading them.
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
    /// [`StoreError::Misconfigured`], naming the settings to check, when the server cannot be reached, refuses the user, or
    /// does not grant it the required permissions.
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
        // The server would otherwise end a step after the time of a request.
        let patient = client
            .clone()
            .with_setting("max_execution_time", STEPS_WITHIN.as_secs().to_string());
        let steps = timeout(STEPS_WITHIN, schema::run(&patient, &due)).await;
        steps.map_err(|_| Failure::StepsTimedOut(STEPS_WITHIN))??;
        Ok(client
            // The writer already batches, and when it reports a batch as stored, the batch must be stored.
            .with_setting("async_insert", "0")
            // Replicated tables drop a block that they have recently seen; other tables only if a window is configured for it.
            // With the block they drop what the table's views would derive from it. A batch is written again because its
            // outcome is unknown: its rows may be stored and the sending times not. Storing rows again changes nothing;
            // skipping them may lose those times for good. Servers since 26 use `deduplicate_insert` instead, and pass a
            // dropped block on to the views all the same. Inserts that the server batches are not compared by default.
            .with_setting("insert_deduplicate", "0")
            // By default the server merges the rows of an insert with each other before writing them, which is a fourth of the
            // cost of a write. No batch of the consumer contains an event twice, and readers select the first-written version
            // of an event in any case.
            .with_setting("optimize_on_insert", "0")
            // A batch that catches up may span any number of months.
            .with_setting("max_partitions_per_insert_block", "0"))
    }

    /// Makes the server drop rows at the age set by `clickhouse.ttl_days`, explanations after 90 days at the latest. Only one
    /// process of a system does so, the consumer: opening the store to read it must not change what it keeps.
    ///
    /// # Errors
    /// [`StoreError`] when the server does not respond, or does not let this user change its tables.
    pub async fn retain(&self) -> Result<(), StoreError> {
        self.answer(schema::set_ttl(&self.client, self.ttl_days)).await
    }

    /// Returns about `wanted` of the explanations decided in a time span that have a value in `column`, newest first.
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
        // Rows that were written again are counted again until the server merges them: then the share is smaller, and still
        // fair.
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

    /// Returns the events that `query` finds, in its order.
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

    /// Adds the events that a query about so many people returns to their profiles.
    async fn build(
        &self,
        mut query: Query,
        people: usize,
        built: &mut HashMap<&str, Built>,
        left_out: &mut LeftOut,
    ) -> Result<(), StoreError> {
        if people <= PEOPLE_PER_THREAD {
            query = query.with_setting("max_threads", "1");
        }
        let mut cursor = query.fetch::<OccurrenceRow<'_>>().map_err(Failure::from)?;
        self.answer(async {
            while let Some(row) = cursor.next().await? {
                let Some(built) = built.get_mut(row.universal_id) else {
                    continue;
                };
                built.events += 1;
                match row.read() {
                    Ok(occurrence) => built.profile.take(occurrence),
                    Err(error) => left_out.note(error),
                }
            }
            Ok(())
        })
        .await
    }

    async fn note_doubt(&self, consumer: &str, doubts: bool) -> Result<(), StoreError> {
        let query = self
            .client
            .query("INSERT INTO profile_doubts (consumer, doubts) VALUES (?, ?)");
        self.answer(query.bind(consumer).bind(doubts).execute()).await
    }

    /// Waits for a response, but not longer than the request timeout.
    async fn answer<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        Ok(within(self.request_timeout, work).await?)
    }
}

/// A profile, and the number of events that it was built from.
#[derive(Default)]
struct Built {
    profile: Profile,
    events: usize,
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
        let insert = async {
            let mut insert = self.client.insert::<EventRow<'_>>("email_events").await?;
            for stored in batch {
                insert.write(&EventRow::from(stored)).await?;
            }
            insert.end().await
        };
        within(self.request_timeout, insert)
            .await
            .map_err(Failure::of_write)?;
        // Which of them were already stored only shows when the server merges.
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
        let mut ids: Vec<&str> = ids.iter().map(UniversalId::as_str).collect();
        // So that no event is read in two queries.
        ids.sort_unstable();
        ids.dedup();
        let mut history = Vec::new();
        for some in ids.chunks(PEOPLE_PER_QUERY) {
            let mut query = self.client.query(
                "SELECT ?fields FROM (SELECT ?fields FROM email_events \
                 PREWHERE universal_id IN ? WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 ORDER BY event_id, version DESC, timestamp LIMIT 1 BY event_id) \
                 WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 ORDER BY timestamp DESC, event_id DESC LIMIT ?",
            );
            if some.len() <= PEOPLE_PER_THREAD {
                query = query.with_setting("max_threads", "1");
            }
            let query = query
                .bind(some)
                .bind(day_of(since))
                .bind(since.as_millis())
                .bind(limit as u64);
            history.append(&mut self.events(query).await?);
        }
        history.sort_by(|a, b| {
            (a.event.timestamp, &a.event.event_id).cmp(&(b.event.timestamp, &b.event.event_id))
        });
        Ok(history.split_off(history.len().saturating_sub(limit)))
    }

    async fn profiles(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<Profile>, StoreError> {
        let keys: Vec<&str> = ids.iter().map(UniversalId::as_str).collect();
        let mut built: HashMap<&str, Built> = keys.iter().map(|id| (*id, Built::default())).collect();
        let mut left_out = LeftOut::default();
        for some in keys.chunks(PROFILES_PER_QUERY) {
            let query = self.client.query(
                "SELECT ?fields FROM (SELECT ?fields, event_id FROM email_events \
                 PREWHERE universal_id IN ? WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 ORDER BY event_id, version DESC, timestamp LIMIT 1 BY event_id) \
                 WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 ORDER BY universal_id, timestamp DESC, event_id DESC LIMIT ? BY universal_id",
            );
            let query = query
                .bind(some)
                .bind(day_of(since))
                .bind(since.as_millis())
                .bind(limit as u64);
            self.build(query, some.len(), &mut built, &mut left_out).await?;
        }
        // Hardly anybody has more events than that.
        let mut cut: Vec<&str> = Vec::new();
        cut.extend(
            built
                .iter()
                .filter(|(_, built)| built.events >= limit)
                .map(|(id, _)| *id),
        );
        for some in cut.chunks(PROFILES_PER_QUERY) {
            let query = self.client.query(
                "SELECT ?fields FROM (SELECT ?fields, event_id FROM email_events \
                 PREWHERE universal_id IN ? WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 AND event_type IN ? AND (event_type <> 'bounced' OR bounce_type = 'hard') \
                 ORDER BY event_id, version DESC, timestamp LIMIT 1 BY event_id) \
                 WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                 ORDER BY universal_id, event_type, timestamp DESC, event_id DESC LIMIT ? BY universal_id, event_type",
            );
            let query = query
                .bind(some)
                .bind(day_of(since))
                .bind(LASTING.map(EventType::as_str).as_slice())
                .bind(since.as_millis())
                .bind(SIGNAL_TIMES as u64);
            self.build(query, some.len(), &mut built, &mut left_out).await?;
        }
        left_out.tell();
        Ok(keys.iter().map(|id| built[id].profile.clone()).collect())
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
        // The empty string sorts before every id.
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
        // Events that were written again are counted again until the server merges them: then the share is smaller, and still
        // fair.
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
                // The first-written version of an event decides its delay, or that it has none, so this is checked after the
                // version is chosen. Versions are chosen day by day, nearly in the order of the table, which takes less time
                // than sorting by id alone. Only delivered events have a delay.
                "SELECT ?fields FROM (SELECT event_id, universal_id, esp, campaign_id, \
                 metadata['campaign_type'] AS campaign_type, metadata['payload_bytes'] AS payload_bytes, mailbox_provider, \
                 timestamp AS delivered_at, delivery_latency_ms, assumeNotNull(delivery_latency_ms) AS latency_ms \
                 FROM email_events WHERE event_type = 'delivered' \
                 AND timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') AND ({}) \
                 ORDER BY universal_id, toDate32(timestamp), event_id, version DESC, timestamp \
                 LIMIT 1 BY universal_id, toDate32(timestamp), event_id) \
                 WHERE delivery_latency_ms IS NOT NULL \
                 AND delivered_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') ORDER BY delivered_at DESC, event_id DESC LIMIT ?",
                of_each.join(" OR ")
            ))
            .bind(day_of(since));
        for (esp, bound) in shares.each() {
            query = query.bind(esp);
            if let Some(bound) = bound {
                query = query.bind(bound);
            }
        }
        let query = query
            .bind(since.as_millis())
            .bind(shares.limit(per_provider) as u64);
        let rows: Vec<LatencyRow> = self.answer(query.fetch_all()).await?;
        let samples = rows.into_iter().map(|row| {
            let stands_for = shares.stands_for(&row.esp);
            row.read(stands_for)
        });
        samples.collect()
    }

    async fn save_explanations(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError> {
        self.answer(async {
            let insert = self
                .client
                .insert::<ExplanationRow>("timing_explanations")
                .await?;
            // Explanations arrive a few at a time: the server collects those of a few milliseconds from all inference services,
            // and responds when they are stored.
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
                    // The first-written version of an event decides whether a machine made it, so this is checked after the
                    // version is chosen.
                    "SELECT ?fields FROM (SELECT ?fields, machine FROM email_events WHERE universal_id IN ? \
                     AND timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                     AND timestamp < fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                     AND event_type IN ? ORDER BY event_id, version DESC, timestamp LIMIT 1 BY event_id) \
                     WHERE NOT machine AND timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') \
                     AND timestamp < fromUnixTimestamp64Milli(toInt64(?), 'UTC')",
                )
                .bind(some)
                .bind(day_of(since))
                .bind(day_of(until.plus_millis(DAY_MS)))
                .bind(&types[..])
                .bind(since.as_millis())
                .bind(until.as_millis());
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
        // The empty string sorts before every id, and no event is from before 1970.
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
                 AND (event_id, timestamp) IN (SELECT event_id, argMin(timestamp, (bitNot(version), timestamp)) \
                 FROM email_events PREWHERE universal_id = ? \
                 WHERE timestamp >= fromUnixTimestamp64Milli(toInt64(?), 'UTC') GROUP BY event_id) \
                 ORDER BY timestamp, event_id, version DESC LIMIT 1 BY timestamp, event_id LIMIT ?",
            )
            .bind(id.as_str())
            .bind(since.as_millis())
            .bind(since.as_millis())
            .bind(event_id)
            .bind(id.as_str())
            .bind(day_of(since))
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

    async fn doubt_profiles(&self, consumer: &str) -> Result<(), StoreError> {
        self.note_doubt(consumer, true).await
    }

    async fn trust_profiles(&self, consumer: &str) -> Result<(), StoreError> {
        self.note_doubt(consumer, false).await
    }

    async fn profile_doubts(&self) -> Result<Vec<ProfileDoubt>, StoreError> {
        // All times are the server's.
        let query = self.client.query(
            "SELECT consumer, dateDiff('millisecond', max(at), now64(6)) FROM profile_doubts \
             GROUP BY consumer HAVING argMax(doubts, at)",
        );
        let doubts: Vec<(String, i64)> = self.answer(query.fetch_all()).await?;
        let doubts = doubts
            .into_iter()
            .map(|(consumer, ms)| ProfileDoubt::told_before(consumer, ms));
        Ok(doubts.collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Reads what a history reads, and writes to a table that stores nothing.
        let query = self
            .client
            .query("INSERT INTO ping SELECT max(timestamp) FROM email_events WHERE universal_id = ''");
        self.answer(query.execute()).await
    }
}

/// Returns when the UTC day of `at` begins, in milliseconds since 1970: all rows with one event id are of one day.
fn day_of(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(DAY_MS) * DAY_MS
}

/// Returns the key of a message in `message_sent_times`, as the table's view computes it. All ids have the same length, so the
/// concatenation is unambiguous. With a billion messages, the probability that a given one shares its key with another is one
/// in 18 billion.
fn message_key(person: &UniversalId, message: &str) -> u64 {
    XxHash64::oneshot(0, format!("{person}{message}").as_bytes())
}

/// Returns the key of a person in `known_people`, as the table's view computes it. A person who shares the key of another
/// counts as having events; this happens for one in 18 thousand million million pairs.
fn person_key(person: &UniversalId) -> u64 {
    XxHash64::oneshot(0, person.as_str().as_bytes())
}
