//! The embedded event store: SQLite.
//!
//! It uses two files. `events.db` is written by the consumer; a batch is flushed to disk before its write returns, because the
//! bus does not deliver again what the consumer has committed. `explanations.db` is written by decisions, which therefore never
//! wait for a batch of events or for the disk: an explanation survives a crash of the process at once, and a power failure
//! after a few seconds.

mod forecasts;
mod retention;
mod rows;
mod trials;

use std::{collections::HashSet, path::Path, time::Duration};

use async_trait::async_trait;
use event::{
    Event, EventType, Timestamp, UniversalId,
    profile::{LASTING, Profile, SIGNAL_TIMES},
};
use futures::{Stream, StreamExt, TryStreamExt};
use sqlx::{QueryBuilder, Row, sqlite::SqliteRow};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    EXPLANATION_DAYS, Events, Holdings, LatencySample, LeftOut, ProfileDoubt, Sample, StoredEvent,
    StoredExplanation, StoredForecast, StoredTrial, Touch, WriteReport, campaign_type, payload_bytes,
    shares::{PeopleShare, Shares},
};
use crate::{
    StoreError,
    sqlite::{Database, Durability, ROWS, Step, classify, now},
};

const EVENT_STEPS: &[Step] = &[
    Step {
        version: 1,
        name: "events",
        sql: include_str!("../../migrations/events/0001_events.sql"),
    },
    Step {
        version: 2,
        name: "trace id",
        sql: include_str!("../../migrations/events/0002_trace_id.sql"),
    },
    Step {
        version: 3,
        name: "latency by provider",
        sql: include_str!("../../migrations/events/0003_latency_by_provider.sql"),
    },
    Step {
        version: 4,
        name: "profile doubts",
        sql: include_str!("../../migrations/events/0004_profile_doubts.sql"),
    },
];

const EXPLANATION_STEPS: &[Step] = &[
    Step {
        version: 1,
        name: "explanations",
        sql: include_str!("../../migrations/explanations/0001_explanations.sql"),
    },
    Step {
        version: 2,
        name: "age",
        sql: include_str!("../../migrations/explanations/0002_age.sql"),
    },
    Step {
        version: 3,
        name: "trials",
        sql: include_str!("../../migrations/explanations/0003_trials.sql"),
    },
    Step {
        version: 4,
        name: "forecasts",
        sql: include_str!("../../migrations/explanations/0004_forecasts.sql"),
    },
];

/// Rows per statement. From a hundred on, the cost of a statement hardly matters compared with that of its rows.
const ROWS_AT_ONCE: usize = 128;

/// How long data is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteEventsConfig {
    /// How long explanations are kept. Default 90 days.
    pub explanation_retention: Duration,
    /// How long after they happened events are kept. Default: for ever.
    pub event_retention: Option<Duration>,
}

impl Default for SqliteEventsConfig {
    fn default() -> Self {
        Self {
            explanation_retention: Duration::from_secs(EXPLANATION_DAYS * 24 * 60 * 60),
            event_retention: None,
        }
    }
}

/// The event store as two SQLite files in one folder.
#[derive(Debug)]
pub struct SqliteEvents {
    events: Database,
    explanations: Database,
    config: SqliteEventsConfig,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl SqliteEvents {
    /// Name of the file that is there once a store has been opened in its folder.
    pub const FILE: &str = "events.db";

    /// Opens the event store in `folder`, which must exist, and starts removing events and explanations that have exceeded
    /// their retention.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when the files cannot be opened or were written by a newer build.
    pub async fn open(folder: &Path, config: SqliteEventsConfig) -> Result<Self, StoreError> {
        let events = Database::open(&folder.join(Self::FILE), EVENT_STEPS, Durability::PowerLoss).await?;
        let explanations = Database::open(
            &folder.join("explanations.db"),
            EXPLANATION_STEPS,
            Durability::ProcessCrash,
        )
        .await?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let retention = config.explanation_retention;
        tasks.spawn(retention::run(explanations.clone(), retention, stop.clone()));
        if let Some(retention) = config.event_retention {
            tasks.spawn(retention::run_over_events(
                events.clone(),
                retention,
                stop.clone(),
            ));
        }
        let _stop_when_dropped = stop.clone().drop_guard();
        Ok(Self {
            events,
            explanations,
            config,
            tasks,
            stop,
            _stop_when_dropped,
        })
    }

    /// Removes the explanations and events that are too old at `now`, as background tasks do every minute and every hour. Returns
    /// their number.
    ///
    /// # Errors
    /// [`StoreError`] when a file cannot be written.
    pub async fn expire(&self, now: Timestamp) -> Result<u64, StoreError> {
        let before = retention::oldest_kept(self.config.explanation_retention, now);
        let explanations = retention::expire(&self.explanations, before).await?;
        let Some(retention) = self.config.event_retention else {
            return Ok(explanations);
        };
        let before = Timestamp::from_millis_clamped(retention::oldest_kept(retention, now));
        Ok(explanations + retention::expire_events(&self.events, before).await?)
    }

    /// Waits for running operations and closes the files. Later calls fail.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.events.close().await;
        self.explanations.close().await;
    }

    /// Returns about `wanted` of the explanations selected by these queries that were decided in a time span, newest first.
    async fn sample<T>(
        &self,
        (count, newest): (&'static str, &'static str),
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
        read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Sample<T>, StoreError> {
        let count: i64 = sqlx::query_scalar(count)
            .bind(since.to_string())
            .bind(until.to_string())
            .fetch_one(self.explanations.readers())
            .await
            .map_err(classify)?;
        let share = PeopleShare::new(count.unsigned_abs(), wanted);
        let query = sqlx::query(newest)
            .bind(since.to_string())
            .bind(until.to_string())
            .bind(share.bound())
            .bind(i64::try_from(share.limit()).unwrap_or(i64::MAX));
        let rows = read_all(query.fetch(self.explanations.readers()), read).await?;
        Ok(share.sample(rows))
    }

    /// Returns the newest `limit` events of one id, newest first.
    async fn history_of(
        &self,
        id: &UniversalId,
        since: Timestamp,
        limit: i64,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let query = sqlx::query(rows::HISTORY)
            .bind(id.as_str())
            .bind(since.to_string())
            .bind(limit);
        read_all(query.fetch(self.events.readers()), rows::read).await
    }
}

/// Reads row by row: a row as provided by the driver takes several times the memory of what is read from it.
async fn read_all<T>(
    rows: impl Stream<Item = sqlx::Result<SqliteRow>>,
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    rows.map(|row| read(&row.map_err(classify)?)).try_collect().await
}

#[async_trait]
impl Events for SqliteEvents {
    async fn write(&self, batch: &[StoredEvent]) -> Result<WriteReport, StoreError> {
        if batch.is_empty() {
            return Ok(WriteReport::default());
        }
        let mut transaction = self.events.begin().await?;
        let mut inserted = 0;
        for batch in batch.chunks(ROWS) {
            let mut insert = rows::insert(batch);
            let done = insert.build().execute(&mut *transaction).await;
            inserted += done.map_err(classify)?.rows_affected();
        }
        transaction.commit().await.map_err(classify)?;
        let inserted = usize::try_from(inserted).unwrap_or(batch.len());
        Ok(WriteReport {
            inserted,
            duplicates: batch.len() - inserted,
        })
    }

    async fn history(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let per_id = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut history = Vec::new();
        // One id at a time: each is read in the order of the index, and people have few ids.
        let mut seen = HashSet::new();
        for id in ids {
            if seen.insert(id) {
                history.append(&mut self.history_of(id, since, per_id).await?);
            }
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
        let lasting = rows::json(&LASTING.map(EventType::as_str));
        let mut profiles = Vec::with_capacity(ids.len());
        let mut left_out = LeftOut::default();
        for id in ids {
            let (mut profile, mut count) = (Profile::default(), 0);
            let newest = sqlx::query(rows::OCCURRENCES)
                .bind(id.as_str())
                .bind(since.to_string())
                .bind(i64::try_from(limit).unwrap_or(i64::MAX));
            let mut rows = newest.fetch(self.events.readers());
            while let Some(row) = rows.try_next().await.map_err(classify)? {
                match rows::occurrence(&row) {
                    Ok(occurrence) => profile.take(occurrence),
                    Err(error) => left_out.note(error),
                }
                count += 1;
            }
            if count >= limit {
                let lasting = sqlx::query(rows::LASTING)
                    .bind(id.as_str())
                    .bind(since.to_string())
                    .bind(&lasting)
                    .bind(SIGNAL_TIMES as i64);
                let mut rows = lasting.fetch(self.events.readers());
                while let Some(row) = rows.try_next().await.map_err(classify)? {
                    match rows::occurrence(&row) {
                        Ok(occurrence) => profile.take(occurrence),
                        Err(error) => left_out.note(error),
                    }
                }
            }
            profiles.push(profile);
        }
        left_out.tell();
        Ok(profiles)
    }

    async fn known(&self, ids: &[UniversalId]) -> Result<Vec<bool>, StoreError> {
        let people: Vec<&str> = ids.iter().map(UniversalId::as_str).collect();
        let people = serde_json::to_string(&people).expect("texts are always valid JSON");
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM email_events WHERE universal_id = person.value) \
             FROM json_each(?1) AS person ORDER BY person.key",
        )
        .bind(people)
        .fetch_all(self.events.readers())
        .await
        .map_err(classify)
    }

    async fn sent_times(
        &self,
        messages: &[(UniversalId, String)],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let pairs = serde_json::to_string(messages).expect("pairs of texts are always valid JSON");
        let times: Vec<Option<String>> = sqlx::query_scalar(
            "SELECT (SELECT MIN(timestamp) FROM email_events WHERE event_type = 'sent' \
             AND universal_id = pair.value ->> 0 AND message_id = pair.value ->> 1) \
             FROM json_each(?1) AS pair ORDER BY pair.key",
        )
        .bind(pairs)
        .fetch_all(self.events.readers())
        .await
        .map_err(classify)?;
        times
            .iter()
            .map(|time| {
                time.as_deref()
                    .map(|text| rows::timestamp(text, "timestamp"))
                    .transpose()
            })
            .collect()
    }

    async fn people(
        &self,
        since: Timestamp,
        after: Option<&UniversalId>,
        limit: usize,
    ) -> Result<Vec<UniversalId>, StoreError> {
        // The empty string sorts before every id. The query reads in the order of the index on person and time.
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT universal_id FROM email_events WHERE universal_id > ?1 AND timestamp >= ?2 \
             ORDER BY universal_id LIMIT ?3",
        )
        .bind(after.map_or("", UniversalId::as_str))
        .bind(since.to_string())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.events.readers())
        .await
        .map_err(classify)?;
        ids.iter().map(|id| rows::universal_id(id)).collect()
    }

    async fn latency_samples(
        &self,
        since: Timestamp,
        per_provider: usize,
    ) -> Result<Vec<LatencySample>, StoreError> {
        // Uses only the index.
        let counts: Vec<(String, i64)> = sqlx::query_as(
            "SELECT esp, COUNT(*) FROM email_events WHERE delivery_latency_ms IS NOT NULL AND timestamp >= ?1 GROUP BY esp",
        )
        .bind(since.to_string())
        .fetch_all(self.events.readers())
        .await
        .map_err(classify)?;
        let counts = counts.into_iter().map(|(esp, count)| (esp, count.unsigned_abs()));
        let shares = Shares::new(counts, per_provider);
        if shares.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = QueryBuilder::new(
            "SELECT universal_id, esp, campaign_id, mailbox_provider, timestamp, delivery_latency_ms, \
             metadata ->> 'campaign_type', metadata ->> 'payload_bytes' FROM email_events \
             WHERE delivery_latency_ms IS NOT NULL AND timestamp >= ",
        );
        query.push_bind(since.to_string()).push(" AND (FALSE");
        for (esp, bound) in shares.each() {
            query.push(" OR esp = ").push_bind(esp);
            if let Some(bound) = bound {
                query.push(" AND universal_id < ").push_bind(bound);
            }
        }
        query
            .push(") ORDER BY timestamp DESC, event_id DESC LIMIT ")
            .push_bind(i64::try_from(shares.limit(per_provider)).unwrap_or(i64::MAX));
        read_all(query.build().fetch(self.events.readers()), |row| {
            let esp: String = row.try_get(1).map_err(classify)?;
            Ok(LatencySample {
                universal_id: rows::universal_id(row.try_get(0).map_err(classify)?)?,
                stands_for: shares.stands_for(&esp),
                esp,
                campaign_id: row.try_get(2).map_err(classify)?,
                campaign_type: campaign_type(row.try_get(6).map_err(classify)?),
                payload_bytes: payload_bytes(row.try_get(7).map_err(classify)?),
                mailbox_provider: rows::mailbox_provider(row.try_get(3).map_err(classify)?)?,
                delivered_at: rows::timestamp(row.try_get(4).map_err(classify)?, "timestamp")?,
                latency_ms: row.try_get(5).map_err(classify)?,
            })
        })
        .await
    }

    async fn save_explanations(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError> {
        let now = now();
        let mut transaction = self.explanations.begin().await?;
        for some in explanations.chunks(ROWS_AT_ONCE) {
            let new = trials::insert_explanations(&mut transaction, some, now).await?;
            trials::insert(&mut transaction, &new).await?;
            forecasts::insert(&mut transaction, &new).await?;
        }
        transaction.commit().await.map_err(classify)
    }

    async fn explanation(&self, reference: &str) -> Result<Option<StoredExplanation>, StoreError> {
        let row = sqlx::query(trials::EXPLANATION)
            .bind(reference)
            .bind(retention::oldest_kept(self.config.explanation_retention, now()))
            .fetch_optional(self.explanations.readers())
            .await
            .map_err(classify)?;
        let Some(row) = row else { return Ok(None) };
        let body = row.try_get("body").map_err(classify)?;
        let trial = match row.try_get("trial_group").map_err(classify)? {
            Some(group) => Some(trials::trial(&row, group)?),
            None => None,
        };
        let forecast = match row.try_get::<Option<&str>, _>("trigger_at").map_err(classify)? {
            Some(_) => Some(forecasts::forecast(&row, trials::timestamp(&row, "trigger_at")?)?),
            None => None,
        };
        Ok(Some(StoredExplanation {
            reference: reference.to_owned(),
            universal_id: trials::universal_id(&row)?,
            decided_at: trials::timestamp(&row, "decided_at")?,
            body,
            trial,
            forecast,
        }))
    }

    async fn trials(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredTrial>, StoreError> {
        let queries = (trials::COUNT, trials::NEWEST);
        self.sample(queries, since, until, wanted, trials::read).await
    }

    async fn forecasts(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredForecast>, StoreError> {
        let queries = (forecasts::COUNT, forecasts::NEWEST);
        self.sample(queries, since, until, wanted, forecasts::read).await
    }

    async fn touches(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Touch>, StoreError> {
        let ids = serde_json::to_string(ids).expect("texts are always valid JSON");
        let query = sqlx::query(trials::TOUCHES)
            .bind(ids)
            .bind(since.to_string())
            .bind(until.to_string());
        read_all(query.fetch(self.events.readers()), trials::touch).await
    }

    async fn events_of(
        &self,
        id: &UniversalId,
        after: Option<&Event>,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        // The empty string sorts before every time and every id.
        let (since, event_id) = match after {
            Some(event) => (event.timestamp.to_string(), event.event_id.as_str()),
            None => (String::new(), ""),
        };
        let query = sqlx::query(rows::PAGE)
            .bind(id.as_str())
            .bind(since)
            .bind(event_id)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        read_all(query.fetch(self.events.readers()), rows::read).await
    }

    async fn explanations_about(&self, ids: &[UniversalId]) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar(
            "SELECT reference FROM timing_explanations WHERE universal_id IN (SELECT value FROM json_each(?1)) \
             ORDER BY reference",
        )
        .bind(rows::json(&ids))
        .fetch_all(self.explanations.readers())
        .await
        .map_err(classify)
    }

    async fn holdings(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError> {
        let events: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM email_events WHERE universal_id IN (SELECT value FROM json_each(?1))",
        )
        .bind(rows::json(&ids))
        .fetch_one(self.events.readers())
        .await
        .map_err(classify)?;
        Ok(Holdings {
            events: events.unsigned_abs(),
            explanations: self.explanations_about(ids).await?.len() as u64,
        })
    }

    async fn erase(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError> {
        // Looked up before the file is locked: the lookup scans all explanations, and decisions write to that file.
        let references = self.explanations_about(ids).await?;
        let mut explanations = 0;
        for some in references.chunks(ROWS_AT_ONCE) {
            let mut transaction = self.explanations.begin_erasing().await?;
            explanations += trials::erase_explanations(&mut transaction, some).await?;
            transaction.commit().await.map_err(classify)?;
        }
        let mut transaction = self.events.begin_erasing().await?;
        let events =
            sqlx::query("DELETE FROM email_events WHERE universal_id IN (SELECT value FROM json_each(?1))")
                .bind(rows::json(&ids))
                .execute(&mut *transaction)
                .await
                .map_err(classify)?
                .rows_affected();
        transaction.commit().await.map_err(classify)?;
        self.explanations.fold_log().await?;
        self.events.fold_log().await?;
        Ok(Holdings { events, explanations })
    }

    async fn doubt_profiles(&self, consumer: &str) -> Result<(), StoreError> {
        let mut transaction = self.events.begin().await?;
        sqlx::query("INSERT OR REPLACE INTO profile_doubts (consumer, at_ms) VALUES (?1, ?2)")
            .bind(consumer)
            .bind(now().as_millis())
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        transaction.commit().await.map_err(classify)
    }

    async fn trust_profiles(&self, consumer: &str) -> Result<(), StoreError> {
        let mut transaction = self.events.begin().await?;
        sqlx::query("DELETE FROM profile_doubts WHERE consumer = ?1")
            .bind(consumer)
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        transaction.commit().await.map_err(classify)
    }

    async fn profile_doubts(&self) -> Result<Vec<ProfileDoubt>, StoreError> {
        let doubts: Vec<(String, i64)> = sqlx::query_as("SELECT consumer, at_ms FROM profile_doubts")
            .fetch_all(self.events.readers())
            .await
            .map_err(classify)?;
        let now = now().as_millis();
        let doubts = doubts
            .into_iter()
            .map(|(consumer, at)| ProfileDoubt::told_before(consumer, now.saturating_sub(at)));
        Ok(doubts.collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.events.ping().await?;
        self.explanations.ping().await
    }
}
