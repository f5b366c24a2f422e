//! What is known of people: their ids, and the merged profile of these ids.
//!
//! Profiles are read from their store, and rebuilt from the event store if it has none. Rebuilt profiles are cached for
//! a second or two and never stored: only the consumer writes profiles (see `docs/adr`).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use event::{
    Timestamp, UniversalId,
    profile::{Profile, Signal},
};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::{StoreError, events::Events, identity::Person, profiles::Profiles};
use tokio::sync::OnceCell;
use utoipa::ToSchema;

use crate::{Dependencies, InferenceConfig, decision::unsubscribed, error::ApiError, metrics::Metrics};

/// Number of ids whose person is cached. About 200 bytes each: 13 MB when full, which also bounds a burst of unknown
/// ids. All ids of one person share it, however many there are.
const PEOPLE_REMEMBERED: usize = 65_536;

/// Number of rebuilt profiles that are cached: at most 4 kB each, 16 MB when full.
const REBUILT_REMEMBERED: usize = 4_096;

/// Where a profile came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProfileSource {
    /// The profile store.
    Stored,
    /// The person's events, because the profile store had no profile for one of the ids.
    History,
    /// The person's events, because the profile store does not answer.
    HistoryProfilesUnreachable,
    /// The person's events, because a consumer could not update the profile store.
    HistoryProfilesDoubted,
}

/// Where the ids of a person came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IdentitySource {
    /// The identity graph.
    Graph,
    /// The request alone: the graph does not answer, and the person may have other ids.
    RequestGraphUnreachable,
    /// The cached result from the identity graph, which does not answer now: ids linked since then may be missing.
    RememberedGraphUnreachable,
}

/// Names that people are read by at once: those of a batch's window, if each line has one or two, with a few profiles of 4 kB for
/// each. A line may have 35.
const NAMES_AT_ONCE: usize = 2_048;

/// A person to be read for a decision at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The ids by which they are named, at least one. Who names a person by several knows that they are one: if they belong to
    /// different people of the graph, all that is known of any of these counts. The person is addressed under the first.
    pub(crate) ids: Vec<UniversalId>,
    /// The moment that counts as now.
    pub(crate) now: Timestamp,
    /// Whether the request set `now`.
    pub(crate) now_was_told: bool,
}

impl Wanted {
    /// Returns the person with these ids as of the server's clock.
    pub(crate) fn now(ids: Vec<UniversalId>, clock: Timestamp) -> Self {
        Self {
            ids,
            now: clock,
            now_was_told: false,
        }
    }
}

/// A person and what is known of them.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) person: Arc<Person>,
    pub(crate) identity_source: IdentitySource,
    pub(crate) profile: Profile,
    pub(crate) profile_source: ProfileSource,
    /// Digest of the profile's stored form.
    pub(crate) digest: ProfileDigest,
}

/// The first 128 bits of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProfileDigest(u128);

impl ProfileDigest {
    pub(crate) fn of(profile: &Profile) -> Self {
        let hash = Sha256::digest(profile.to_bytes());
        Self(u128::from_be_bytes(
            hash[..16].try_into().expect("a SHA-256 has 32 bytes"),
        ))
    }

    pub(crate) fn to_hex(self) -> String {
        format!("{:032x}", self.0)
    }
}

/// Tracks whether a store answers; logs only when that changes, not for every decision in between.
struct Reach {
    store: &'static str,
    instead: &'static str,
    is_lost: AtomicBool,
}

impl Reach {
    fn new(store: &'static str, instead: &'static str) -> Self {
        Self {
            store,
            instead,
            is_lost: AtomicBool::new(false),
        }
    }

    fn answered(&self) {
        // Loaded first: nearly always there is nothing to write, and all decisions share this value.
        if self.is_lost.load(Ordering::Relaxed) && self.is_lost.swap(false, Ordering::Relaxed) {
            tracing::info!(store = self.store, "{} answers again", self.store);
        }
    }

    fn failed(&self, error: &StoreError) {
        if !self.is_lost.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                store = self.store,
                error = %error,
                "{} cannot be read, {}: {error}", self.store, self.instead
            );
        }
    }
}

/// Reads people.
pub(crate) struct People {
    dependencies: Dependencies,
    history: Duration,
    history_events: usize,
    person_ttl: Duration,
    rebuilt_ttl: Duration,
    persons: Cache<UniversalId, (Instant, Arc<Person>)>,
    rebuilt: Cache<UniversalId, Rebuilt>,
    identities_reach: Reach,
    profiles_reach: Reach,
    /// Whether a consumer said that stored profiles lack events.
    are_profiles_doubted: AtomicBool,
    first_look: OnceCell<()>,
    metrics: Metrics,
}

/// A profile that was built from events.
#[derive(Clone)]
struct Rebuilt {
    profile: Arc<Profile>,
    /// Older events are not in it.
    since: Timestamp,
    read_at: Instant,
}

impl People {
    pub(crate) fn new(config: &InferenceConfig, dependencies: Dependencies, metrics: Metrics) -> Self {
        Self {
            dependencies,
            history: config.history,
            history_events: config.history_events,
            person_ttl: config.person_cache,
            rebuilt_ttl: config.rebuilt_profile_cache,
            persons: Cache::new(PEOPLE_REMEMBERED),
            rebuilt: Cache::new(REBUILT_REMEMBERED),
            identities_reach: Reach::new(
                "the identity graph",
                "using cached people, or the ids in the request",
            ),
            profiles_reach: Reach::new("the profile store", "profiles are rebuilt from events"),
            are_profiles_doubted: AtomicBool::new(false),
            first_look: OnceCell::new(),
            metrics,
        }
    }

    /// Looks whether a consumer doubts profiles. If the event store does not answer, they stay as believable as they were: what
    /// cannot be read cannot be read instead of them either.
    pub(crate) async fn look_for_doubts(&self) {
        let doubts = match self.dependencies.events.profile_doubts().await {
            Ok(doubts) => doubts,
            Err(error) => {
                tracing::debug!(%error, "cannot read whether profiles lack events");
                return;
            }
        };
        let are_doubted = !doubts.is_empty();
        self.metrics.profiles_doubted(are_doubted);
        match (
            self.are_profiles_doubted.swap(are_doubted, Ordering::Relaxed),
            are_doubted,
        ) {
            (false, true) => tracing::warn!(
                profiles.doubts = doubts.len(),
                "a consumer could not update profiles: they are rebuilt from events"
            ),
            (true, false) => tracing::info!("profiles have all events again"),
            _ => {}
        }
    }

    /// Returns what is known of these people, in their order, with one query to each store for every [`NAMES_AT_ONCE`] names.
    pub(crate) async fn read(&self, wanted: &[Wanted]) -> Vec<Result<Known, ApiError>> {
        let mut known = Vec::with_capacity(wanted.len());
        let mut rest = wanted;
        while !rest.is_empty() {
            let (part, others) = rest.split_at(first_part(rest));
            known.extend(self.read_part(part).await);
            rest = others;
        }
        known
    }

    async fn read_part(&self, wanted: &[Wanted]) -> Vec<Result<Known, ApiError>> {
        // Histories are read for all of them at once, so back to the earliest event that counts for any.
        let since = wanted.iter().map(|wanted| self.since(wanted.now));
        let since = since.min().unwrap_or_default();
        let ids: Vec<UniversalId> = wanted
            .iter()
            .flat_map(|wanted| wanted.ids.iter().cloned())
            .collect();
        let persons = self.persons(&ids).await;
        let mut all_ids: Vec<&UniversalId> = persons.iter().flat_map(|(person, _)| &person.ids).collect();
        all_ids.sort_unstable();
        all_ids.dedup();
        let all_ids: Vec<UniversalId> = all_ids.into_iter().cloned().collect();
        let with_events = with_events(persons.iter().map(|(person, _)| &**person));
        let profiles = self.profiles(&all_ids, &with_events, since).await;
        let mut persons = persons.into_iter();
        let known = wanted.iter().map(|wanted| {
            let named = persons.by_ref().take(wanted.ids.len()).collect();
            self.known(wanted, named, &profiles)
        });
        known.collect()
    }

    /// Returns what the event store alone says about a person.
    pub(crate) async fn recompute(&self, wanted: &Wanted) -> Result<Known, ApiError> {
        let named = self.persons(&wanted.ids).await;
        let mut ids: Vec<UniversalId> = named
            .iter()
            .flat_map(|(person, _)| person.ids.iter().cloned())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let events = &self.dependencies.events;
        let profiles = events
            .profiles(&ids, self.since(wanted.now), self.history_events)
            .await
            .map_err(|error| ApiError::unavailable("the event store", error))?;
        let of_history = |profile| Ok((Arc::new(profile), ProfileSource::History));
        let profiles = ids
            .into_iter()
            .zip(profiles.into_iter().map(of_history))
            .collect();
        self.known(wanted, named, &profiles)
    }

    /// Puts together what is known of the people that a request names, one for each id.
    fn known(
        &self,
        wanted: &Wanted,
        named: Vec<(Arc<Person>, IdentitySource)>,
        profiles: &HashMap<UniversalId, ProfileOrError>,
    ) -> Result<Known, ApiError> {
        let (mut people, mut identity_source): (Vec<Arc<Person>>, _) = (Vec::new(), IdentitySource::Graph);
        for (person, source) in named {
            if source != IdentitySource::Graph {
                identity_source = source;
            }
            include(&mut people, person);
        }
        // A profile may hold more than the history that counts: it forgets nothing for its age alone.
        let since = self.since(wanted.now);
        let (mut whole, mut profile_source) = (None, ProfileSource::Stored);
        let mut is_unsubscribed = false;
        for person in &people {
            let mut of_person: Option<Profile> = None;
            for id in &person.ids {
                let Some(profile) = profiles.get(id) else { continue };
                let (profile, source) = profile.clone()?;
                add(&mut of_person, Arc::unwrap_or_clone(profile));
                if source != ProfileSource::Stored {
                    profile_source = source;
                }
            }
            let Some(mut profile) = of_person else { continue };
            profile.forget_before(since);
            if people.len() > 1 {
                // Whoever subscribed again took back their own unsubscription, and nobody else's.
                match unsubscribed(&profile, &[], wanted.now, wanted.now_was_told) {
                    Some(_) => is_unsubscribed = true,
                    None => profile.forget_signal(Signal::Unsubscribed),
                }
            }
            add(&mut whole, profile);
        }
        let mut profile = whole.unwrap_or_default();
        if is_unsubscribed {
            profile.forget_signal(Signal::Resubscribed);
        }
        let digest = ProfileDigest::of(&profile);
        Ok(Known {
            person: joined(people),
            identity_source,
            profile,
            profile_source,
            digest,
        })
    }

    /// Drops what was cached for a person's ids, because the graph has changed.
    pub(crate) fn forget(&self, person: &Person) {
        for id in &person.ids {
            self.persons.remove(id);
        }
    }

    /// Returns the time of the oldest events that count at a moment.
    fn since(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(-i64::try_from(self.history.as_millis()).unwrap_or(i64::MAX))
    }

    async fn persons(&self, ids: &[UniversalId]) -> Vec<(Arc<Person>, IdentitySource)> {
        let mut found: Vec<Option<(Arc<Person>, IdentitySource)>> = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let remembered = self.persons.get(id);
            let is_fresh = remembered
                .as_ref()
                .is_some_and(|(read_at, _)| read_at.elapsed() < self.person_ttl);
            self.metrics.cache("person", is_fresh);
            let source = if is_fresh {
                IdentitySource::Graph
            } else {
                missing.push(index);
                // Used if the graph does not answer: an opt-out under another of the person's ids still holds then.
                IdentitySource::RememberedGraphUnreachable
            };
            found.push(remembered.map(|(_, person)| (person, source)));
        }
        if !missing.is_empty() {
            let asked: Vec<UniversalId> = missing.iter().map(|index| ids[*index].clone()).collect();
            match self.dependencies.identities.people(&asked).await {
                Ok(people) => {
                    self.identities_reach.answered();
                    for (index, person) in missing.into_iter().zip(people) {
                        let person = self.shared(person);
                        self.persons
                            .insert(ids[index].clone(), (Instant::now(), Arc::clone(&person)));
                        found[index] = Some((person, IdentitySource::Graph));
                    }
                }
                Err(error) => self.identities_reach.failed(&error),
            }
        }
        let people = found.into_iter().zip(ids).map(|(person, id)| {
            person.unwrap_or_else(|| {
                let unknown = Arc::new(Person::unknown(id.clone()));
                (unknown, IdentitySource::RequestGraphUnreachable)
            })
        });
        people.collect()
    }

    /// Returns the person cached under the canonical id if it is equal, so that the two share it.
    fn shared(&self, person: Arc<Person>) -> Arc<Person> {
        match self.persons.get(&person.canonical) {
            Some((_, remembered)) if remembered == person => remembered,
            _ => {
                self.persons
                    .insert(person.canonical.clone(), (Instant::now(), Arc::clone(&person)));
                person
            }
        }
    }

    /// Returns the stored profile of each id that has one; for ids with events but no stored profile, the one rebuilt
    /// from the event store with at least the events since then.
    async fn profiles(
        &self,
        ids: &[UniversalId],
        with_events: &HashSet<&UniversalId>,
        since: Timestamp,
    ) -> HashMap<UniversalId, ProfileOrError> {
        self.first_look.get_or_init(|| self.look_for_doubts()).await;
        let (stored, on_miss) = if self.are_profiles_doubted.load(Ordering::Relaxed) {
            (vec![None; ids.len()], ProfileSource::HistoryProfilesDoubted)
        } else {
            match self.dependencies.profiles.get(ids).await {
                Ok(stored) => {
                    self.profiles_reach.answered();
                    (stored, ProfileSource::History)
                }
                Err(error) => {
                    self.profiles_reach.failed(&error);
                    (vec![None; ids.len()], ProfileSource::HistoryProfilesUnreachable)
                }
            }
        };
        let mut profiles: HashMap<UniversalId, ProfileOrError> = HashMap::with_capacity(ids.len());
        let mut missing = Vec::new();
        for (id, stored) in ids.iter().zip(stored) {
            match stored {
                Some(profile) => {
                    self.metrics.cache("profile", true);
                    profiles.insert(id.clone(), Ok((Arc::new(profile), ProfileSource::Stored)));
                }
                None if with_events.contains(id) => {
                    self.metrics.cache("profile", false);
                    missing.push(id.clone());
                }
                None => {}
            }
        }
        for (id, profile) in self.rebuilt(missing, since).await {
            profiles.insert(id, profile.map(|profile| (profile, on_miss)));
        }
        profiles
    }

    /// Profiles rebuilt from events, including cached ones that go back far enough.
    async fn rebuilt(
        &self,
        ids: Vec<UniversalId>,
        since: Timestamp,
    ) -> Vec<(UniversalId, Result<Arc<Profile>, ApiError>)> {
        let mut profiles = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            match self.rebuilt.get(&id) {
                Some(rebuilt) if rebuilt.read_at.elapsed() < self.rebuilt_ttl && rebuilt.since <= since => {
                    profiles.push((id, Ok(rebuilt.profile)));
                }
                _ => missing.push(id),
            }
        }
        if missing.is_empty() {
            return profiles;
        }
        let read_at = Instant::now();
        let events = &self.dependencies.events;
        match events.profiles(&missing, since, self.history_events).await {
            Ok(made) => {
                for (id, profile) in missing.into_iter().zip(made) {
                    let profile = Arc::new(profile);
                    let rebuilt = Rebuilt {
                        profile: Arc::clone(&profile),
                        since,
                        read_at,
                    };
                    self.rebuilt.insert(id.clone(), rebuilt);
                    profiles.push((id, Ok(profile)));
                }
            }
            Err(error) => {
                let error = ApiError::unavailable("the event store", error);
                profiles.extend(missing.into_iter().map(|id| (id, Err(error.clone()))));
            }
        }
        profiles
    }
}

type ProfileOrError = Result<(Arc<Profile>, ProfileSource), ApiError>;

fn add(whole: &mut Option<Profile>, profile: Profile) {
    match whole {
        Some(whole) => whole.merge(&profile),
        None => *whole = Some(profile),
    }
}

/// Returns how many of these people, at least one, are read at once.
fn first_part(wanted: &[Wanted]) -> usize {
    let mut names = 0;
    let fitting = wanted.iter().take_while(|wanted| {
        names += wanted.ids.len();
        names <= NAMES_AT_ONCE
    });
    fitting.count().max(1)
}

/// Adds a person to people, unless it is one of them. Cached copies of one person may be of different ages, so that one has ids
/// that another lacks: whatever has an id in common is one person, with the ids of all copies.
fn include(people: &mut Vec<Arc<Person>>, person: Arc<Person>) {
    let is_same = |other: &Person| other.ids.iter().any(|id| person.ids.contains(id));
    let Some(place) = people.iter().position(|other| is_same(other)) else {
        people.push(person);
        return;
    };
    while let Some(other) = people[place + 1..].iter().position(|other| is_same(other)) {
        let other = people.remove(place + 1 + other);
        absorb(&mut people[place], &other);
    }
    absorb(&mut people[place], &person);
}

/// Adds what a person lacks of another.
fn absorb(whole: &mut Arc<Person>, other: &Person) {
    if other.ids.iter().all(|id| whole.ids.contains(id)) {
        return;
    }
    let whole = Arc::make_mut(whole);
    add_missing(&mut whole.ids, &other.ids);
    add_missing(&mut whole.with_events, &other.with_events);
    add_missing(&mut whole.identifiers, &other.identifiers);
}

fn add_missing<T: Clone + PartialEq>(all: &mut Vec<T>, others: &[T]) {
    for other in others {
        if !all.contains(other) {
            all.push(other.clone());
        }
    }
}

/// Returns people as one, under the first one's id.
fn joined(people: Vec<Arc<Person>>) -> Arc<Person> {
    let mut people = people.into_iter();
    let mut whole = people.next().expect("a person is named by at least one id");
    for other in people {
        absorb(&mut whole, &other);
    }
    whole
}

/// Returns the ids for which the event store has to be queried. The others are looked up in the profile store only,
/// which costs next to nothing and knows of an id's first event before the graph does.
fn with_events<'a>(people: impl Iterator<Item = &'a Person>) -> HashSet<&'a UniversalId> {
    people.flat_map(|person| &person.with_events).collect()
}

/// Returns the whole profiles of these people for training: from the profile store, and rebuilt from events if it has
/// none or does not answer.
pub(crate) async fn whole_profiles(
    events: &dyn Events,
    profiles: &dyn Profiles,
    people: &[&Person],
    since: Timestamp,
    limit: usize,
) -> Result<Vec<Profile>, StoreError> {
    let ids: Vec<UniversalId> = people
        .iter()
        .flat_map(|person| person.ids.iter().cloned())
        .collect();
    let with_events = with_events(people.iter().copied());
    let stored = profiles.get(&ids).await;
    let stored = stored.unwrap_or_else(|_| vec![None; ids.len()]);
    let mut found: HashMap<&UniversalId, Profile> = HashMap::with_capacity(ids.len());
    let mut missing: Vec<UniversalId> = Vec::new();
    for (id, stored) in ids.iter().zip(stored) {
        match stored {
            Some(profile) => drop(found.insert(id, profile)),
            None if with_events.contains(id) => missing.push(id.clone()),
            None => {}
        }
    }
    let rebuilt = events.profiles(&missing, since, limit).await?;
    found.extend(missing.iter().zip(rebuilt));
    let whole = people.iter().map(|person| {
        let mut whole = Profile::default();
        for profile in person.ids.iter().filter_map(|id| found.get(id)) {
            whole.merge(profile);
        }
        whole.forget_before(since);
        whole
    });
    Ok(whole.collect())
}

#[cfg(test)]
mod tests {
    use event::Hasher;

    use super::*;

    fn id(name: &str) -> UniversalId {
        let address = format!("{name}@example.com");
        UniversalId::from_identifier(&Hasher::new().email_identifier(&address).unwrap())
    }

    fn person(ids: &[&str]) -> Arc<Person> {
        let ids: Vec<UniversalId> = ids.iter().map(|name| id(name)).collect();
        Arc::new(Person {
            canonical: ids[0].clone(),
            with_events: ids.clone(),
            ids,
            identifiers: Vec::new(),
        })
    }

    #[test]
    fn copies_of_one_person_of_different_ages_are_one_with_all_ids() {
        let mut people = Vec::new();
        for copy in [
            person(&["phone"]),
            person(&["other"]),
            person(&["email", "old"]),
            person(&["email", "phone", "new"]),
            person(&["email", "old"]),
        ] {
            include(&mut people, copy);
        }
        let ids: Vec<Vec<UniversalId>> = people.iter().map(|person| person.ids.clone()).collect();
        let whole = ["phone", "email", "old", "new"].map(id).to_vec();
        assert_eq!(ids, [whole.clone(), vec![id("other")]]);
        let all = joined(people);
        assert_eq!(all.canonical, id("phone"));
        assert_eq!(all.ids, [whole, vec![id("other")]].concat());
        assert_eq!(all.with_events, all.ids);
    }

    #[test]
    fn people_are_read_in_parts_of_so_many_names() {
        let wanted = |names: usize| Wanted::now(vec![id("a"); names], Timestamp::default());
        let window: Vec<Wanted> = (0..1_024).map(|_| wanted(1)).collect();
        assert_eq!(first_part(&window), 1_024);
        let window: Vec<Wanted> = (0..1_024).map(|_| wanted(35)).collect();
        assert_eq!(first_part(&window), NAMES_AT_ONCE / 35);
        assert_eq!(first_part(&[wanted(NAMES_AT_ONCE + 1)]), 1);
    }
}
