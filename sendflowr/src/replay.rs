//! `sendflowr replay`: reprocesses dead letters. The host's go through the currently installed plugins, the consumer's go back
//! to the events topic.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, bail};
use event::Event;
use host::{Intake, ReplayError, plugin::QuarantineConfig};
use prometheus_client::registry::Registry;
use store::bus::{
    Bus, DEAD_LETTERS_TOPIC, EVENTS_TOPIC, NewRecord, Position, Progress, Record, Subscription, header,
};

use crate::{
    config::RawConfig,
    engines::{Engines, LateAccounts},
    output, roles,
};

/// Consumer group of replays: what one replay has stored, the next does not read again.
const GROUP: &str = "sendflowr-replay";

/// Dead letters read at once.
const BATCH: usize = 100;

/// Longest silence while dead letters are still to come. A new group, on brokers that give its members three seconds to join,
/// needs some five seconds; one whose last member ended without leaving needs the ten seconds of its session in addition.
const SILENCE: Duration = Duration::from_secs(30);

/// What to replay, and with what.
struct Replay<'a> {
    intake: Intake,
    bus: Arc<dyn Bus>,
    /// If set, only the dead letters of this provider are replayed.
    provider: Option<&'a str>,
    dry_run: bool,
    /// Whether unproven dead letters are discarded when they are refused again.
    discard_unproven: bool,
}

/// The outcome of replaying a dead letter.
enum Fate {
    /// Done; this many of its events are on the bus.
    Replayed(usize),
    /// Not fully processed. The events that it did give are on the bus.
    Failed { events: usize, why: String },
    /// Discarded.
    Discarded { why: String },
    /// Of another provider than the requested one.
    LeftAlone,
    /// Not a dead letter that SendFlowr wrote.
    Foreign,
}

/// Counts the outcomes of all dead letters.
#[derive(Debug, Default)]
struct Tally {
    replayed: usize,
    events: usize,
    failed: usize,
    others: usize,
    discarded: usize,
}

/// Replays all dead letters, of one provider or of all. Events that were stored already are not stored twice. With `dry_run` it
/// only reports what there is. Dead letters that still cannot be read in full stay for the next replay, as do those of other
/// providers, and so do those behind them; the exit code is then 1 if any failed. With `discard_unproven`, unproven ones are
/// discarded instead when they are refused again.
///
/// # Errors
/// Fails if the bus or the plugins cannot be opened, or existing dead letters do not arrive.
pub(crate) async fn run(
    config: RawConfig,
    provider: Option<&str>,
    dry_run: bool,
    discard_unproven: bool,
) -> anyhow::Result<ExitCode> {
    roles::require_hosts_seal_key(&config)?;
    let engines = Arc::new(Engines::of(&config)?);
    let bus = engines.bus().await?;
    let hasher = roles::hasher(&config.identity);
    let mut host_config = roles::host_config(&config)?;
    // A kind of dead letter on which a plugin fails would put it in quarantine in every run, before those behind are reached.
    host_config.plugins.quarantine = QuarantineConfig::never();
    let dependencies = host::Dependencies {
        bus: bus.clone(),
        accounts: Some(Arc::new(LateAccounts(Arc::clone(&engines)))),
        hasher,
        registry: Arc::new(Mutex::new(Registry::default())),
    };
    let replay = Replay {
        intake: host::open_intake(&host_config, dependencies).await?,
        bus,
        provider,
        dry_run,
        discard_unproven,
    };
    let tally = replay.all().await?;
    drop(replay);
    engines.close().await;
    let Tally {
        replayed,
        events,
        failed,
        others,
        discarded,
    } = tally;
    let verb = if dry_run { "would be replayed" } else { "replayed" };
    let mut told =
        format!("{replayed} letters {verb}, {events} events, {failed} letters failed, {others} left alone");
    if discard_unproven {
        told += &format!(", {discarded} discarded");
    }
    output::line(&told);
    Ok(ExitCode::from(u8::from(failed > 0)))
}

impl Replay<'_> {
    /// Replays the dead letters that exist when it begins, and those that arrive meanwhile.
    async fn all(&self) -> anyhow::Result<Tally> {
        let mut waiting: HashMap<u32, u64> = HashMap::new();
        for lag in self.bus.lag(GROUP, &[DEAD_LETTERS_TOPIC]).await? {
            waiting.insert(lag.partition, lag.records);
        }
        waiting.retain(|_, letters| *letters > 0);
        let mut tally = Tally::default();
        if waiting.is_empty() {
            return Ok(tally);
        }
        let mut letters = self
            .bus
            .subscribe(GROUP, &[DEAD_LETTERS_TOPIC])
            .await
            .context("cannot read the dead letters")?;
        let mut settled = Progress::default();
        // Partitions with a dead letter that stays.
        let mut held: HashSet<u32> = HashSet::new();
        while !waiting.is_empty() {
            for letter in next(&mut *letters, &waiting).await? {
                let partition = letter.position.partition;
                let stays = self.one(&letter, &mut tally).await;
                if stays {
                    held.insert(partition);
                }
                if !held.contains(&partition) {
                    settled.note(&letter.position);
                }
                if let Some(left) = waiting.get_mut(&partition) {
                    *left -= 1;
                    if *left == 0 {
                        waiting.remove(&partition);
                    }
                }
            }
            if !self.dry_run {
                letters.commit_through(&settled).await?;
            }
        }
        Ok(tally)
    }

    /// Processes one dead letter, counts it, and returns whether it must stay.
    async fn one(&self, letter: &Record, tally: &mut Tally) -> bool {
        match self.fate(letter).await {
            Fate::Replayed(events) => {
                tally.replayed += 1;
                tally.events += events;
                if self.dry_run {
                    output::line(&describe(letter));
                }
                false
            }
            Fate::Failed { events, why } => {
                tally.failed += 1;
                tally.events += events;
                output::line(&format!("{}: {why}", describe(letter)));
                true
            }
            Fate::Discarded { why } => {
                tally.discarded += 1;
                output::line(&format!("{}: discarded: {why}", describe(letter)));
                false
            }
            Fate::LeftAlone => {
                tally.others += 1;
                true
            }
            Fate::Foreign => {
                tally.others += 1;
                false
            }
        }
    }

    async fn fate(&self, letter: &Record) -> Fate {
        if let Some(of) = letter.headers.get(header::PROVIDER) {
            if self.provider.is_some_and(|wanted| wanted != of) {
                return Fate::LeftAlone;
            }
            return self.once_more(letter).await;
        }
        if letter
            .headers
            .get(header::STAGE)
            .is_none_or(|stage| stage != "consumer")
        {
            return Fate::Foreign;
        }
        self.put_back(letter).await
    }

    /// Processes a delivery that the host dead-lettered.
    async fn once_more(&self, letter: &Record) -> Fate {
        if self.dry_run {
            return Fate::Replayed(0);
        }
        match self.intake.replay(letter).await {
            Ok(counts) if counts.rejected == 0 => Fate::Replayed(counts.accepted),
            Ok(counts) => Fate::Failed {
                events: counts.accepted,
                why: format!("{} of its elements are still rejected", counts.rejected),
            },
            Err(error @ ReplayError::Unproven(_)) if self.discard_unproven => Fate::Discarded {
                why: event::chain(&error),
            },
            Err(error) => Fate::Failed {
                events: 0,
                why: event::chain(&error),
            },
        }
    }

    /// Puts an event that the consumer dead-lettered back on the events topic.
    async fn put_back(&self, letter: &Record) -> Fate {
        let event = match Event::from_json(&letter.value) {
            Ok(event) => event,
            // Its provider is unknown, too.
            Err(_) if self.provider.is_some() => return Fate::LeftAlone,
            Err(_) => {
                return Fate::Failed {
                    events: 0,
                    why: "this build cannot read the event; a newer one may".to_owned(),
                };
            }
        };
        if self.provider.is_some_and(|wanted| wanted != event.esp) {
            return Fate::LeftAlone;
        }
        if self.dry_run {
            return Fate::Replayed(0);
        }
        let mut headers = letter.headers.clone();
        headers.retain(|name, _| !name.starts_with(header::PREFIX));
        let record = NewRecord {
            topic: EVENTS_TOPIC.to_owned(),
            key: event.universal_id.as_str().to_owned(),
            value: letter.value.clone(),
            headers,
        };
        match self.bus.append(vec![record]).await {
            Ok(()) => Fate::Replayed(1),
            Err(error) => Fate::Failed {
                events: 0,
                why: error.to_string(),
            },
        }
    }
}

/// Returns the next dead letters. Those of the `waiting` partitions are known to exist.
async fn next(letters: &mut dyn Subscription, waiting: &HashMap<u32, u64>) -> anyhow::Result<Vec<Record>> {
    let batch = letters.poll(BATCH, SILENCE).await?;
    if batch.is_empty() {
        bail!(
            "there are {} dead letters, but none arrived within {} s: another replay may be reading them; run this one again \
             when it has ended",
            waiting.values().sum::<u64>(),
            SILENCE.as_secs()
        );
    }
    Ok(batch)
}

/// Describes a dead letter: its source, its position and why it was dead-lettered.
fn describe(letter: &Record) -> String {
    let header = |name: &str| letter.headers.get(name).map_or("?", String::as_str);
    let Position {
        partition, offset, ..
    } = &letter.position;
    format!(
        "{} at offset {offset} of partition {partition}: {}",
        header(header::SOURCE),
        header(header::CAUSE)
    )
}
