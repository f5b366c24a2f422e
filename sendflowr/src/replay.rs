//! `sendflowr replay`: reprocesses dead letters. The host's go through the currently installed plugins, the consumer's go back
//! to the events topic.

mod done;

use std::{
    collections::{HashMap, hash_map::Entry},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use event::{Event, UnsupportedSchema};
use host::{Intake, RejectedElement, ReplayError, Replayed, plugin::QuarantineConfig};
use prometheus_client::registry::Registry;
use store::{
    StoreError,
    bus::{
        Bus, DEAD_LETTERS_TOPIC, EVENTS_TOPIC, NewRecord, Position, Progress, Record, Subscription, header,
    },
};

use self::done::Done;
use crate::{
    config::{self, RawConfig},
    engines::{Engines, LateAccounts},
    keys::{self, REPLAY_GROUP},
    output,
};

/// Dead letters read at once.
const BATCH: usize = 100;

/// Longest silence while dead letters are still to come. A new group, on brokers that give its members three seconds to join,
/// needs some five seconds; one whose last member ended without leaving needs the ten seconds of its session in addition.
const SILENCE: Duration = Duration::from_secs(30);

/// Elements of one dead letter that are printed with their reasons. Mostly all of them have the same few.
const MOST_SHOWN: usize = 20;

/// What to replay, and what to do with the rest.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Replay only the dead letters of this provider.
    #[arg(long)]
    provider: Option<String>,
    /// Do everything except storing events and removing dead letters, and say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Discard unproven dead letters that are refused again. Strangers leave such dead letters; a genuine one may be among
    /// them as long as its plugin does not read it.
    #[arg(long)]
    discard_unproven: bool,
    /// Discard what the installed plugins, or this version, still cannot read, proven or not, and print what it was. No later
    /// version of a plugin will see it. Dead letters on which a plugin fails, and events of a newer version, stay.
    #[arg(long)]
    discard_unreadable: bool,
}

/// What to replay, and with what.
struct Replay<'a> {
    intake: Intake,
    bus: Arc<dyn Bus>,
    args: &'a ReplayArgs,
}

/// The outcome of replaying a dead letter.
enum Fate {
    /// Done; this many of its events are on the bus.
    Replayed(usize),
    /// Not fully processed. The events that it did give are on the bus.
    Failed { events: usize, why: String },
    /// Discarded. The events that it did give are on the bus.
    Discarded { events: usize, why: String },
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

/// The first dead letter of a partition that stays.
struct Held {
    letter: Record,
    /// Whether something behind it is done that no earlier replay has recorded.
    has_news: bool,
}

/// Replays all dead letters, of one provider or of all. Events that were stored already are not stored twice. Dead letters that
/// still cannot be read in full stay for the next replay, as do those of other providers; those behind them are done once they
/// are replayed. The exit code is 1 if any failed. A dry run does all of it except storing, recording and committing.
///
/// # Errors
/// Fails if the bus or the plugins cannot be opened, or existing dead letters do not arrive.
pub(crate) async fn run(config: RawConfig, args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    keys::require_hosts_seal_key(&config)?;
    keys::check_pepper(&config)?;
    Engines::existing(&config)?
        .closed_after(async |engines| Box::pin(replay(config, args, engines)).await)
        .await
}

async fn replay(config: RawConfig, args: &ReplayArgs, engines: &Arc<Engines>) -> anyhow::Result<ExitCode> {
    keys::check_pepper_of_server(&config, engines).await?;
    let hasher = keys::hasher(&config.identity);
    let mut host_config = config::host_config(&config)?;
    // A kind of dead letter on which a plugin fails would put it in quarantine in every run, before those behind are reached.
    host_config.plugins.quarantine = QuarantineConfig::never();
    keys::refuse_new_seal_key(&host_config, engines).await?;
    let bus = engines.bus().await?;
    let dependencies = host::Dependencies {
        bus: bus.clone(),
        // A store that is not there has none.
        accounts: match engines.is_new("identities") {
            true => None,
            false => Some(Arc::new(LateAccounts(Arc::clone(engines)))),
        },
        hasher,
        registry: Arc::new(Mutex::new(Registry::default())),
    };
    let replay = Replay {
        intake: host::open_intake(&host_config, dependencies).await?,
        bus,
        args,
    };
    let tally = replay.all().await?;
    let plugins = replay.intake.plugins();
    let unknown = args
        .provider
        .as_deref()
        .filter(|name| plugins.get(name).is_none());
    drop(replay);
    let Tally {
        replayed,
        events,
        failed,
        others,
        discarded,
    } = tally;
    let would = args.would();
    let mut told = format!(
        "{} {would}replayed, {}, {} failed, {others} left alone",
        output::counted(replayed, "dead letter"),
        output::counted(events, "event"),
        output::counted(failed, "dead letter"),
    );
    if args.discard_unproven || args.discard_unreadable {
        told += &format!(", {discarded} {would}discarded");
    }
    output::line(&told);
    if let Some(name) = unknown
        && replayed + failed + discarded == 0
    {
        output::note(&format!(
            "no dead letter of `{name}` waits, and no plugin has that name: `sendflowr plugin list` shows those that are \
             there"
        ));
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

impl ReplayArgs {
    /// Returns what precedes the verb of something that a dry run does not do.
    fn would(&self) -> &'static str {
        match self.dry_run {
            true => "would be ",
            false => "",
        }
    }
}

impl Replay<'_> {
    /// Replays the dead letters that exist when it begins, and those that arrive meanwhile.
    async fn all(&self) -> anyhow::Result<Tally> {
        let mut waiting: HashMap<u32, u64> = HashMap::new();
        for lag in self.bus.lag(REPLAY_GROUP, &[DEAD_LETTERS_TOPIC]).await? {
            waiting.insert(lag.partition, lag.records);
        }
        waiting.retain(|_, letters| *letters > 0);
        let mut tally = Tally::default();
        if waiting.is_empty() {
            return Ok(tally);
        }
        let mut done = self.done(waiting.clone()).await?;
        let mut letters = self.subscribe().await?;
        let mut settled = Progress::default();
        let mut held: HashMap<u32, Held> = HashMap::new();
        while !waiting.is_empty() {
            let read = next(&mut *letters, &waiting).await?;
            let losses = letters.losses();
            for letter in read {
                let is_known = done.has(&letter.position);
                let stays = !is_known && self.one(&letter, &mut tally).await;
                count_down(&mut waiting, &letter);
                done.note(&letter, !stays);
                match held.entry(letter.position.partition) {
                    Entry::Occupied(mut held) => held.get_mut().has_news |= !stays && !is_known,
                    Entry::Vacant(_) if !stays => settled.note(&letter.position, losses),
                    Entry::Vacant(none) => {
                        none.insert(Held {
                            letter,
                            has_news: false,
                        });
                    }
                }
            }
            if !self.args.dry_run {
                letters.commit_through(&settled).await?;
            }
        }
        let with_news = held.values().filter(|held| held.has_news);
        let records = with_news.map(|held| done.record_behind(&held.letter)).collect();
        self.append(records).await.context(
            "cannot record what is done behind dead letters that stay: the next replay reads it again",
        )?;
        Ok(tally)
    }

    /// Reads all waiting records once, to learn which of them earlier replays have done.
    async fn done(&self, mut waiting: HashMap<u32, u64>) -> anyhow::Result<Done> {
        let mut done = Done::default();
        let mut letters = self.subscribe().await?;
        while !waiting.is_empty() {
            for letter in next(&mut *letters, &waiting).await? {
                done.read(&letter);
                count_down(&mut waiting, &letter);
            }
        }
        Ok(done)
    }

    async fn subscribe(&self) -> anyhow::Result<Box<dyn Subscription>> {
        let letters = self.bus.subscribe(REPLAY_GROUP, &[DEAD_LETTERS_TOPIC]).await;
        letters.context("cannot read the dead letters")
    }

    /// Appends records, except in a dry run.
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        match self.args.dry_run {
            true => Ok(()),
            false => self.bus.append(records).await,
        }
    }

    /// Processes one dead letter, counts it, and returns whether it must stay.
    async fn one(&self, letter: &Record, tally: &mut Tally) -> bool {
        match self.fate(letter).await {
            Fate::Replayed(events) => {
                tally.replayed += 1;
                tally.events += events;
                if self.args.dry_run {
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
            Fate::Discarded { events, why } => {
                tally.discarded += 1;
                tally.events += events;
                let would = self.args.would();
                output::line(&format!("{}: {would}discarded: {why}", describe(letter)));
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
            if self.is_left_alone(of) {
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
        let Replayed { records, rejected } = match self.intake.replay(letter).await {
            Ok(replayed) => replayed,
            Err(error) => {
                let is_discarded = self.args.discard_unproven && matches!(error, ReplayError::Unproven(_))
                    || self.args.discard_unreadable && error.is_unreadable();
                let (events, why) = (0, event::chain(&error));
                return match is_discarded {
                    true => Fate::Discarded { events, why },
                    false => Fate::Failed { events, why },
                };
            }
        };
        let events = records.len();
        if let Err(error) = self.append(records).await {
            return Fate::Failed {
                events: 0,
                why: error.to_string(),
            };
        }
        match (rejected.is_empty(), self.args.discard_unreadable) {
            (true, _) => Fate::Replayed(events),
            (false, true) => Fate::Discarded {
                events,
                why: still_rejected(&rejected),
            },
            (false, false) => Fate::Failed {
                events,
                why: still_rejected(&rejected),
            },
        }
    }

    /// Puts an event that the consumer dead-lettered back on the events topic.
    async fn put_back(&self, letter: &Record) -> Fate {
        let event = match Event::from_json(&letter.value) {
            Ok(event) => event,
            // Its provider is unknown, too.
            Err(_) if self.args.provider.is_some() => return Fate::LeftAlone,
            Err(error) => {
                let (events, why) = (0, error.to_string());
                return match error {
                    UnsupportedSchema::Malformed(_) | UnsupportedSchema::NoId
                        if self.args.discard_unreadable =>
                    {
                        Fate::Discarded { events, why }
                    }
                    _ => Fate::Failed { events, why },
                };
            }
        };
        if self.is_left_alone(&event.esp) {
            return Fate::LeftAlone;
        }
        let mut headers = letter.headers.clone();
        headers.retain(|name, _| !name.starts_with(header::PREFIX));
        let record = NewRecord {
            topic: EVENTS_TOPIC.to_owned(),
            key: event.universal_id.as_str().to_owned(),
            value: letter.value.clone(),
            headers,
        };
        match self.append(vec![record]).await {
            Ok(()) => Fate::Replayed(1),
            Err(error) => Fate::Failed {
                events: 0,
                why: error.to_string(),
            },
        }
    }

    fn is_left_alone(&self, provider: &str) -> bool {
        let wanted = self.args.provider.as_deref();
        wanted.is_some_and(|wanted| wanted != provider)
    }
}

/// Says which elements are still rejected, and why.
fn still_rejected(rejected: &[RejectedElement]) -> String {
    let mut told = format!("{} of its elements are still rejected", rejected.len());
    for RejectedElement { index, reason } in rejected.iter().take(MOST_SHOWN) {
        told += &format!("\n  element {index}: {reason}");
    }
    if let Some(more @ 1..) = rejected.len().checked_sub(MOST_SHOWN) {
        told += &format!("\n  and {more} more");
    }
    told
}

/// Notes that a waiting record has arrived.
fn count_down(waiting: &mut HashMap<u32, u64>, letter: &Record) {
    if let Some(left) = waiting.get_mut(&letter.position.partition) {
        *left -= 1;
        if *left == 0 {
            waiting.remove(&letter.position.partition);
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
