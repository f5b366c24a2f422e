//! The second group: records in the identity graph which identifiers occur together.
//!
//! It is a separate group because ingestion must never wait for the graph: when the graph is down, only this group
//! stops. For the same reason a misconfigured graph does not end the consumer; the operation is retried.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use event::Identified;
use store::identity::{Identities, Sighting};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::{
    ConsumerConfig, ConsumerError, Dependencies, IDENTITY_GROUP, error::Interrupted, poll::Reader,
    recent::Recent, retry::Attempts,
};

/// Longest wait for the first record of a batch: limits how long an idle consumer takes to notice a shutdown.
const IDLE_WAIT: Duration = Duration::from_millis(500);

/// Number of times in a row that the graph may fail before it gets half of what it failed at. A server that restarts fails that
/// often within a second, and takes the whole then.
const TIMES_WHOLE: u32 = 3;

/// Runs the group until `shutdown`.
pub(crate) async fn run(
    config: Arc<ConsumerConfig>,
    dependencies: Dependencies,
    shutdown: CancellationToken,
) -> Result<(), ConsumerError> {
    let Err(interrupted) = consume(&config, &dependencies, &shutdown).await;
    Interrupted::outcome(Err(interrupted))
}

async fn consume(
    config: &ConsumerConfig,
    dependencies: &Dependencies,
    shutdown: &CancellationToken,
) -> Result<std::convert::Infallible, Interrupted> {
    let Dependencies {
        bus,
        identities,
        metrics,
        ..
    } = dependencies;
    let mut reader = Reader::join(bus.as_ref(), IDENTITY_GROUP, config, metrics, shutdown).await?;
    let mut known = Known {
        seen: Recent::new(config.memory_entries),
        fingerprints: RandomState::new(),
    };
    loop {
        let Some(batch) = reader.next_batch(IDLE_WAIT).await? else {
            reader.commit(&Span::none()).await;
            continue;
        };
        let news = known.news(batch.records.iter().map(|record| &*record.value));
        let attempts = Attempts::new(config, metrics, shutdown, IDENTITY_GROUP, "record");
        if !news.sightings.is_empty() {
            let span = tracing::debug_span!(parent: &batch.span, "write", sightings = news.sightings.len());
            record(identities.as_ref(), &news.sightings, attempts)
                .instrument(span)
                .await?;
        }
        known.remember(&news.fingerprints);
        metrics.sightings(news.sightings.len(), news.skipped);
        reader.dealt_with(&batch.progress);
        reader.commit(&batch.span).await;
    }
}

/// Records the sightings in order. Waits for outages to end. If the graph rejects some, they are split in halves until the
/// rejected sighting is alone, and that one is skipped. What fails otherwise is split too after a few attempts, because it may
/// take longer than the graph's time limit; in an outage this costs some ten more writes once it is over.
async fn record(
    identities: &dyn Identities,
    sightings: &[Sighting],
    mut attempts: Attempts<'_>,
) -> Result<(), Interrupted> {
    let mut pending = vec![sightings];
    let mut failures = 0;
    while let Some(part) = pending.pop() {
        let Err(error) = identities.record(part).await else {
            attempts.succeeded();
            failures = 0;
            continue;
        };
        let is_refused = attempts.is_refused(&error).await?;
        failures += u32::from(!is_refused);
        match part {
            [refused] if is_refused => {
                // The event itself is stored by the other group: only an edge is lost with the sighting.
                tracing::error!(
                    identity.source = refused.source,
                    %error,
                    "the identity graph rejected the sighting of `{}`", refused.source
                );
            }
            [_, _, ..] if is_refused || failures >= TIMES_WHOLE => {
                let (first, second) = part.split_at(part.len() / 2);
                // The part pushed last is recorded next: the order is kept.
                pending.extend([second, first]);
            }
            _ => pending.push(part),
        }
    }
    Ok(())
}

/// Fingerprints of the sets of identifiers that were recorded recently, so that a person's hundredth click costs the graph
/// nothing, and is not even parsed.
struct Known {
    seen: Recent<u64, ()>,
    fingerprints: RandomState,
}

/// The part of a batch that the graph may not know yet.
#[derive(Default)]
struct News {
    /// Each set of identifiers once.
    sightings: Vec<Sighting>,
    /// The sets' fingerprints.
    fingerprints: HashSet<u64>,
    /// Number of events without anything new.
    skipped: usize,
}

impl Known {
    /// Returns what is new in these events. An event that cannot be read is skipped: the events group dead-letters it.
    fn news<'a>(&self, events: impl Iterator<Item = &'a [u8]>) -> News {
        let mut news = News::default();
        for json in events {
            let fingerprint = Identified::identifiers_text(json).map(|text| self.fingerprints.hash_one(text));
            let is_known = |fingerprint: &u64| {
                self.seen.get(fingerprint).is_some() || news.fingerprints.contains(fingerprint)
            };
            if fingerprint.as_ref().is_some_and(is_known) {
                news.skipped += 1;
                continue;
            }
            let Ok(event) = Identified::from_json(json) else {
                continue;
            };
            if event.identifiers.is_empty() {
                news.skipped += 1;
                continue;
            }
            news.fingerprints.extend(fingerprint);
            news.sightings.push(Sighting {
                identifiers: event.identifiers,
                source: format!("event:{}", event.event_id),
                seen_at: event.ingested_at,
            });
        }
        news
    }

    /// Remembers sets of identifiers. Only those that were passed to the graph may be remembered.
    fn remember(&mut self, fingerprints: &HashSet<u64>) {
        for fingerprint in fingerprints {
            self.seen.insert(*fingerprint, ());
        }
    }
}
