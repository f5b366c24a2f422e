//! The last stage: keeps profiles current without ever holding up events.
//!
//! The profile store is a cache. Eight rules keep its content correct:
//! 1. **Only consumers write.** A reader that misses a profile rebuilds it from history for its own use and does not write
//!    it: between reading the history and writing the profile, the consumer may have written a newer one, which would be
//!    lost. Two consumers may handle one person for a moment while partitions are reassigned; an engine that several
//!    processes share must detect concurrent writes, as Redis's does.
//! 2. **Events first.** A profile is written after its events are stored, so that the history is never behind a profile.
//! 3. **A missing profile is rebuilt from history**, including this batch, before it is written: a profile that only
//!    contains the events since a restart would look complete and be wrong.
//! 4. **A profile that could not be updated is remembered as stale** and rebuilt once the store answers again.
//! 5. **Events of stale profiles are not committed.** If this process dies before it has rebuilt the profiles, the process
//!    that takes over reads the events again and updates the profiles then.
//! 6. **If too many profiles are stale, or have been stale for too long, all profiles are cleared** as soon as the store
//!    answers again, and commits continue meanwhile: reading hours of events again would hold up new ones.
//! 7. **What only this process sees is forgotten when others take over partitions**, and again after each batch that was read
//!    before: they update the same people's profiles where this process does not see it.
//! 8. **While profiles are stale, readers believe none.** They may reach the store when this process does not, so they are told
//!    through the event store. If this process dies before it takes that back, another one clears all profiles.
//!
//! An event that is processed a second time may get another verdict on whether a machine caused it; the stored verdict is
//! the first one. So if a batch contained events that were already stored, its profiles are rebuilt from history too. Not
//! every event store reports such duplicates (ClickHouse does not). The events that a predecessor may have stored and not
//! committed before it died are the first that its successor reads: if the successor judges such opens and clicks to be a
//! person's, it does not rely on that verdict but looks up the history. One case is covered neither by the engine's report
//! nor by memory: with such a store, opens and clicks that a provider sends again after this process has forgotten them or
//! started, and those of partitions that it takes over while it runs. If such an event was judged a machine's at first and
//! a person's now, the profile contains it until the profile is next rebuilt from events.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use event::{EventType, Timestamp, UniversalId, profile::Profile};
use store::{
    StoreError,
    events::{Events, StoredEvent},
    profiles::Update,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tracing::Instrument;

use super::{Context, IDLE_WAIT, IN_FLIGHT, Settled, Written, doubts::Doubts, profile_store::ProfileStore};
use crate::{ConsumerError, Dependencies, Metrics};

/// People whose profiles are rebuilt and written before checking again whether the profile store can still be called: as many as
/// the event store reads in one query.
const REBUILT_AT_ONCE: usize = 250;

/// Maximum number of one person's events that a profile is built from. More than a full profile holds: fewer than 1,000
/// deliveries, opens and clicks, and for each of them there may be sent events and machine opens that leave no trace.
const EVENTS_PER_PERSON: usize = 10_000;

/// Maximum number of people with stale profiles that are remembered: some 5 MB. Rebuilding that many takes some ten minutes;
/// beyond that it is better to rebuild the profiles that are requested.
const MAX_STALE: usize = 100_000;

/// How long commits wait for profiles. A consumer that takes over reads that much again: the events of ten minutes at the
/// highest planned rate are read in less than three minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Number of full batches' worth of records after the start that may have been stored before: as many as a predecessor had in
/// flight, and as many again that had passed all stages and whose commit was still pending. What a predecessor had not
/// committed because profiles were stale may be more, for up to [`PATIENCE`]: the doubt that it leaves behind has all profiles
/// cleared.
const MAYBE_STORED_BATCHES: usize = 2 * IN_FLIGHT;

/// Number of stale profiles rebuilt between two batches, so that repair does not hold up events.
const REPAIRS_AT_ONCE: usize = 200;

pub(super) async fn run(
    context: Context,
    mut batches: mpsc::Receiver<Written>,
    settled: mpsc::Sender<Settled>,
) -> Result<(), ConsumerError> {
    let mut keeper = ProfileKeeper::new(&context);
    let mut due = Settled::default();
    loop {
        match timeout(IDLE_WAIT, batches.recv()).await {
            Ok(Some(batch)) => keeper.take(batch, &mut due).await,
            Ok(None) => return Ok(()),
            Err(_) => {}
        }
        keeper.forget_unshared();
        keeper.repair().await;
        keeper.tell_readers().await;
        // What is committed is stored and applied to profiles; a successor need not process it again. That refused events may
        // come again is told at once: an operator does not wait for profiles to put their dead letters back.
        let report = if keeper.are_settled() {
            std::mem::take(&mut due)
        } else {
            Settled {
                refused: std::mem::take(&mut due.refused),
                ..Settled::default()
            }
        };
        let has_news = !report.progress.is_empty() || !report.refused.is_empty();
        if has_news && settled.send(report).await.is_err() {
            return Ok(());
        }
    }
}

/// Returns the people whose profiles would get a machine's open or click as the person's own if these events had been stored
/// before with the other verdict. People who were `met_as_strangers` had no stored events.
fn maybe_misjudged<'a>(
    batch: &'a [StoredEvent],
    met_as_strangers: &HashSet<UniversalId>,
) -> HashSet<&'a UniversalId> {
    let judged_human = batch.iter().filter(|stored| {
        matches!(stored.event.event_type, EventType::Opened | EventType::Clicked)
            && !stored.enrichment.machine
    });
    judged_human
        .map(|stored| &stored.event.universal_id)
        .filter(|id| !met_as_strangers.contains(*id))
        .collect()
}

/// Updates profiles after events are stored.
struct ProfileKeeper {
    store: ProfileStore,
    events: Arc<dyn Events>,
    metrics: Metrics,
    /// Number of records still to come that a predecessor may have stored.
    maybe_stored: usize,
    /// People without stored events when their first event came: this process has stored all their events. Only kept while
    /// `maybe_stored` is not 0.
    met_as_strangers: HashSet<UniversalId>,
    stale: BTreeSet<UniversalId>,
    stale_since: Option<Instant>,
    /// Whether profiles lack events and it is not known which. The store is then neither read nor written until it is
    /// cleared.
    lost_track: bool,
    /// How often this process has lost partitions to others, and how often it had when it read what its profiles are made of.
    losses: Arc<AtomicU64>,
    losses_when_read: u64,
    doubts: Doubts,
    /// Consumers whose doubts end when the store is cleared.
    gone: Vec<String>,
    /// The task that clears the store. It goes through the whole store, so events do not wait for it.
    forgetting: Option<JoinHandle<Result<(), StoreError>>>,
}

impl ProfileKeeper {
    fn new(context: &Context) -> Self {
        let Dependencies { events, metrics, .. } = &context.dependencies;
        Self {
            store: ProfileStore::new(&context.config, &context.dependencies),
            events: events.clone(),
            metrics: metrics.clone(),
            maybe_stored: MAYBE_STORED_BATCHES * context.config.batch_events,
            met_as_strangers: HashSet::new(),
            stale: BTreeSet::new(),
            stale_since: None,
            lost_track: false,
            losses: context.losses.clone(),
            losses_when_read: 0,
            doubts: Doubts::new(events.clone()),
            gone: Vec::new(),
            forgetting: None,
        }
    }

    /// Applies a batch to the profiles of its people, and adds it to `due`, which is to be committed.
    async fn take(&mut self, batch: Written, due: &mut Settled) {
        let Written {
            ticket,
            rows,
            strangers,
            has_repeats,
            refused,
        } = batch;
        let span = tracing::debug_span!(parent: &ticket.span, "profiles");
        let doubtful = if has_repeats {
            rows.iter().map(|stored| &stored.event.universal_id).collect()
        } else if self.maybe_stored > 0 {
            self.met_as_strangers.extend(strangers.iter().cloned());
            maybe_misjudged(&rows, &self.met_as_strangers)
        } else {
            self.met_as_strangers = HashSet::new();
            HashSet::new()
        };
        self.maybe_stored = self.maybe_stored.saturating_sub(ticket.records);
        self.apply(&rows, &strangers, &doubtful).instrument(span).await;
        self.losses_when_read = self.losses_when_read.min(ticket.losses);
        self.metrics.batch(ticket.records, ticket.read_at.elapsed());
        if let Some(oldest) = ticket.oldest {
            let now = Timestamp::from(SystemTime::now());
            self.metrics.visible_after(now.millis_since(oldest));
        }
        due.progress.merge(&ticket.progress);
        due.span = ticket.span.clone();
        due.refused.extend(refused);
    }

    /// Applies stored events to the profiles of their people. All events of the `strangers` are in this batch; the profiles of
    /// the `doubtful` are rebuilt from history, because some of their events may be stored with other verdicts.
    async fn apply(
        &mut self,
        batch: &[StoredEvent],
        strangers: &HashSet<UniversalId>,
        doubtful: &HashSet<&UniversalId>,
    ) {
        if self.lost_track || batch.is_empty() {
            return;
        }
        let people: HashSet<&UniversalId> = batch.iter().map(|stored| &stored.event.universal_id).collect();
        if self.store.is_closed() {
            self.remember_stale(people.into_iter().cloned());
            return;
        }
        let believed = people
            .iter()
            .filter(|id| !doubtful.contains(*id) && !self.stale.contains(**id))
            .map(|id| (*id).clone());
        // Strangers had no profile when they were looked up. If another consumer has written one since, the store notices.
        let (new, asked): (Vec<_>, Vec<_>) = believed.partition(|id| strangers.contains(id));
        let Some(looks) = self.store.look(&asked).await else {
            self.remember_stale(people.into_iter().cloned());
            return;
        };
        let looks = asked.into_iter().zip(looks);
        let mut updates: Vec<Update> = looks
            .filter_map(|(id, look)| {
                let (profile, seen) = look?;
                Some(Update { id, profile, seen })
            })
            .collect();
        let mut made: Vec<(UniversalId, Profile)> =
            new.into_iter().map(|id| (id, Profile::default())).collect();
        let known = updates
            .iter_mut()
            .map(|update| (&update.id, &mut update.profile))
            .chain(made.iter_mut().map(|(id, profile)| (&*id, profile)));
        let mut known: HashMap<&UniversalId, &mut Profile> = known.collect();
        for stored in batch {
            if let Some(profile) = known.get_mut(&stored.event.universal_id) {
                profile.apply(&stored.event, stored.enrichment.machine);
            }
        }
        let lost: Vec<UniversalId> = people
            .into_iter()
            .filter(|id| !known.contains_key(*id))
            .cloned()
            .collect();
        self.update(updates).await;
        self.put(made).await;
        self.rebuild(lost).await;
    }

    /// Checks whether everything processed so far is in the profiles, or is never going to be, as readers know.
    fn are_settled(&self) -> bool {
        self.stale.is_empty() && (!self.lost_track || self.doubts.are_told())
    }

    /// Lets readers know whether profiles can be believed.
    async fn tell_readers(&mut self) {
        self.doubts.tell(self.lost_track || !self.stale.is_empty()).await;
    }

    /// Has the store forget profiles that others may have updated since, if it is only this process's.
    fn forget_unshared(&mut self) {
        let losses = self.losses.load(Ordering::Acquire);
        if losses > self.losses_when_read {
            self.store.inner().forget_unshared();
            self.losses_when_read = losses;
        }
    }

    /// Rebuilds some of the profiles known to be stale, if there are any and the store can be called; or has the store
    /// cleared.
    async fn repair(&mut self) {
        if self.lost_track {
            self.forget_all().await;
            return;
        }
        if self.stale_since.is_some_and(|since| since.elapsed() > PATIENCE) {
            self.lose_track();
        } else if !self.stale.is_empty() && !self.store.is_closed() {
            // Histories cost the event store too much to be read in vain, several times a minute.
            if !self.store.answers().await {
                return;
            }
            let some: Vec<UniversalId> = self.stale.iter().take(REPAIRS_AT_ONCE).cloned().collect();
            self.rebuild(some).await;
        } else if self.stale.is_empty() && !self.store.is_closed() {
            self.gone = self.doubts.gone().await;
            if !self.gone.is_empty() {
                tracing::warn!("a consumer that is gone left profiles that lack events; all will be cleared");
                self.forget_which();
            }
        }
    }

    /// Starts to clear the store, or checks whether that is done.
    async fn forget_all(&mut self) {
        match self.forgetting.take() {
            Some(work) if !work.is_finished() => self.forgetting = Some(work),
            Some(work) => match work
                .await
                .expect("it is never aborted, and engines report what fails")
            {
                Ok(()) => {
                    tracing::info!("all profiles were cleared; each is rebuilt from events");
                    self.lost_track = false;
                    self.doubts.withdraw(std::mem::take(&mut self.gone)).await;
                    self.store.succeeded();
                    self.metrics.profiles_all_stale(false);
                }
                Err(error) => self.store.failed(&error.into()),
            },
            None if self.store.is_closed() => {}
            None => {
                let store = self.store.inner();
                self.forgetting = Some(tokio::spawn(async move { store.clear().await }));
            }
        }
    }

    /// Rebuilds the profiles of these people from their history and writes them. Those that cannot be rebuilt or written
    /// become stale.
    async fn rebuild(&mut self, people: Vec<UniversalId>) {
        for some in people.chunks(REBUILT_AT_ONCE) {
            if self.lost_track {
                return;
            }
            if self.store.is_closed() {
                self.remember_stale(some.iter().cloned());
                continue;
            }
            let beginning = Timestamp::default();
            match self.events.profiles(some, beginning, EVENTS_PER_PERSON).await {
                Ok(rebuilt) => {
                    let count = rebuilt.len();
                    if self.put(some.iter().cloned().zip(rebuilt).collect()).await {
                        self.metrics.profiles_rebuilt(count);
                    }
                }
                Err(error) => {
                    self.store.failed(&error.into());
                    self.remember_stale(some.iter().cloned());
                }
            }
        }
    }

    async fn update(&mut self, updates: Vec<Update>) {
        if updates.is_empty() || self.lost_track {
            return;
        }
        let done = self.store.update(&updates).await.is_some();
        self.note_put(updates.into_iter().map(|update| update.id), done);
    }

    /// Returns whether the profiles were written.
    async fn put(&mut self, profiles: Vec<(UniversalId, Profile)>) -> bool {
        if profiles.is_empty() || self.lost_track {
            return false;
        }
        let done = self.store.put(&profiles).await.is_some();
        self.note_put(profiles.into_iter().map(|(id, _)| id), done);
        done
    }

    /// Notes whose profiles are current or, if they may not have been written, stale.
    fn note_put(&mut self, people: impl Iterator<Item = UniversalId>, done: bool) {
        if done {
            for id in people {
                self.stale.remove(&id);
            }
            if self.stale.is_empty() {
                self.stale_since = None;
            }
            self.metrics.profiles_stale(self.stale.len());
        } else {
            self.remember_stale(people);
        }
    }

    fn remember_stale(&mut self, people: impl Iterator<Item = UniversalId>) {
        if self.lost_track {
            return;
        }
        self.stale.extend(people);
        if self.stale.is_empty() {
            return;
        }
        self.stale_since.get_or_insert_with(Instant::now);
        if self.stale.len() > MAX_STALE {
            self.lose_track();
        } else {
            self.metrics.profiles_stale(self.stale.len());
        }
    }

    fn lose_track(&mut self) {
        tracing::warn!(
            profiles.stale = self.stale.len(),
            "too many profiles lack events, or have lacked them for too long; all will be cleared when the profile store \
             works again"
        );
        self.forget_which();
    }

    /// Has all profiles cleared.
    fn forget_which(&mut self) {
        self.stale.clear();
        (self.lost_track, self.stale_since) = (true, None);
        self.metrics.profiles_stale(0);
        self.metrics.profiles_all_stale(true);
    }
}
