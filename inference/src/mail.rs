//! Which mail a decision led to: used by the comparison with the control group and by the audit of arrivals.

use std::{cmp::Reverse, collections::HashMap, ops::Range};

use event::{Timestamp, UniversalId};
use store::{
    StoreError,
    events::{Events, StoredForecast, StoredTrial, Touch, TouchKind},
    identity::Identities,
};
use tokio::task::JoinError;

/// Number of people whose mail is read in one query.
const PEOPLE_AT_ONCE: usize = 1_000;

/// A lift, or an audit of arrivals, could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The event store cannot be read.
    #[error("the event store cannot be read")]
    Events(#[source] StoreError),
    /// The identity graph cannot be read.
    #[error("the identity graph cannot be read")]
    Identities(#[source] StoreError),
}

/// A stored decision about a person.
pub(crate) trait Decided {
    /// Returns the person, under the id in the decision.
    fn person(&self) -> &UniversalId;
    /// Returns when the decision was made.
    fn decided_at(&self) -> Timestamp;
    /// Returns the campaign that the decision was for, if known.
    fn campaign_id(&self) -> Option<&str>;
}

impl Decided for StoredTrial {
    fn person(&self) -> &UniversalId {
        &self.universal_id
    }

    fn decided_at(&self) -> Timestamp {
        self.decided_at
    }

    fn campaign_id(&self) -> Option<&str> {
        self.trial.campaign_id.as_deref()
    }
}

impl Decided for StoredForecast {
    fn person(&self) -> &UniversalId {
        &self.universal_id
    }

    fn decided_at(&self) -> Timestamp {
        self.decided_at
    }

    fn campaign_id(&self) -> Option<&str> {
        self.forecast.campaign_id.as_deref()
    }
}

/// A person and the decisions about them.
struct Person<T> {
    /// See [`store::identity::Person::with_events`].
    with_events: Vec<UniversalId>,
    decisions: Vec<T>,
}

/// Passes the decisions about each person to `take`, along with the person's mails and answers in the time that `span`
/// returns for the decisions, and possibly more. Returns what `take` made of all people together, in their order.
///
/// # Errors
/// [`MailError`] when a store cannot be read.
pub(crate) async fn with_touches<T: Decided + Send + 'static, S: Default + Send + 'static>(
    events: &dyn Events,
    identities: &dyn Identities,
    decisions: Vec<T>,
    span: impl Fn(&T) -> Range<Timestamp>,
    take: fn(&mut S, &[T], Vec<&Touch>),
) -> Result<S, MailError> {
    let people = people_of(identities, decisions)
        .await
        .map_err(MailError::Identities)?;
    let mut people = people.into_iter();
    let mut taken = S::default();
    loop {
        let some: Vec<Person<T>> = people.by_ref().take(PEOPLE_AT_ONCE).collect();
        let decisions = some.iter().flat_map(|person| &person.decisions);
        let hull = decisions
            .map(&span)
            .reduce(|hull, of_one| hull.start.min(of_one.start)..hull.end.max(of_one.end));
        let Some(hull) = hull else { return Ok(taken) };
        // Mails may be stored under any of these ids.
        let ids: Vec<UniversalId> = some
            .iter()
            .flat_map(|person| person.with_events.clone())
            .collect();
        let touches = events
            .touches(&ids, hull.start, hull.end)
            .await
            .map_err(MailError::Events)?;
        // Every decision about a person is compared with every mail to them: for one of whom thousands were asked, that takes too
        // long for a thread that serves requests.
        let taking = tokio::task::spawn_blocking(move || {
            take_each(&some, &touches, &mut taken, take);
            taken
        });
        taken = match taking.await.map_err(JoinError::try_into_panic) {
            Ok(taken) => taken,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The process ends, and with it whoever waits here.
            Err(Err(_)) => std::future::pending().await,
        };
    }
}

/// Passes the decisions about each of these people to `take`, along with those of the touches that are the person's.
fn take_each<T, S>(
    people: &[Person<T>],
    touches: &[Touch],
    taken: &mut S,
    take: fn(&mut S, &[T], Vec<&Touch>),
) {
    let mut owner: HashMap<&UniversalId, usize> = HashMap::new();
    for (index, person) in people.iter().enumerate() {
        owner.extend(person.with_events.iter().map(|id| (id, index)));
    }
    let mut of_person: Vec<Vec<&Touch>> = vec![Vec::new(); people.len()];
    for touch in touches {
        if let Some(index) = owner.get(&touch.universal_id) {
            of_person[*index].push(touch);
        }
    }
    for (person, touches) in people.iter().zip(of_person) {
        take(taken, &person.decisions, touches);
    }
}

/// Groups the decisions by person, as the identity graph knows people now: two people at the time of a decision may be
/// one by now.
async fn people_of<T: Decided>(
    identities: &dyn Identities,
    decisions: Vec<T>,
) -> Result<Vec<Person<T>>, StoreError> {
    let mut ids: Vec<UniversalId> = decisions
        .iter()
        .map(|decision| decision.person().clone())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let mut people: Vec<Person<T>> = Vec::new();
    let mut owner: HashMap<UniversalId, usize> = HashMap::with_capacity(ids.len());
    for some in ids.chunks(PEOPLE_AT_ONCE) {
        let found = identities.people(some).await?;
        for (id, person) in some.iter().zip(found) {
            let known = person.ids.iter().find_map(|id| owner.get(id).copied());
            let index = known.unwrap_or(people.len());
            if index == people.len() {
                owner.extend(person.ids.iter().map(|id| (id.clone(), index)));
                people.push(Person {
                    with_events: person.with_events.clone(),
                    decisions: Vec::new(),
                });
            }
            owner.insert(id.clone(), index);
        }
    }
    for decision in decisions {
        people[owner[decision.person()]].decisions.push(decision);
    }
    Ok(people)
}

/// Returns the mail of each decision about one person: each mail counts for at most one decision, and each decision has
/// at most one mail, the first of `touches` (in chronological order) that may belong to it. If a mail could belong to
/// several decisions, it belongs to the latest one of its campaign, or else to the latest one.
///
/// Mails that name a campaign come first: the others, and the decisions without a campaign, take what is left. Otherwise a
/// decision could lose its mail to one for which any mail will do, and a sound experiment would seem to lose mails. Mail of
/// another campaign belongs to no decision, however near it is.
pub(crate) fn assign<'a, T: Decided>(
    decisions: &[&T],
    touches: &[&'a Touch],
    is_near: impl Fn(&Touch, &T) -> bool,
) -> Vec<Option<&'a Touch>> {
    let may_belong = |mail: &Touch, decision: &T| is_near(mail, decision) && is_of_campaign(mail, decision);
    let mut mails: Vec<Option<&'a Touch>> = vec![None; decisions.len()];
    let of_kind = |is_named: bool| {
        touches.iter().copied().filter(move |touch| {
            touch.kind == TouchKind::Delivered && touch.campaign_id.is_some() == is_named
        })
    };
    for mail in of_kind(true).chain(of_kind(false)) {
        let rank = |index: &usize| {
            let decision = decisions[*index];
            let is_equal = decision.campaign_id() == mail.campaign_id.as_deref();
            // Of decisions made at the same moment, the first.
            (is_equal, decision.decided_at(), Reverse(*index))
        };
        let belongs_to = (0..decisions.len())
            .filter(|index| mails[*index].is_none() && may_belong(mail, decisions[*index]))
            .max_by_key(rank);
        if let Some(index) = belongs_to {
            mails[index] = Some(mail);
        }
    }
    mails
}

/// Returns for each decision about one person whether it has no mail, but near it the person got mail of another campaign, and
/// no other: a caller who gives an id of their own as `campaign_id` has hardly any other decisions. `mails` is what [`assign`]
/// returned.
pub(crate) fn under_another_campaign<T: Decided>(
    decisions: &[&T],
    mails: &[Option<&Touch>],
    touches: &[&Touch],
    is_near: impl Fn(&Touch, &T) -> bool,
) -> Vec<bool> {
    let is_taken = |touch: &Touch| mails.iter().flatten().any(|mail| std::ptr::eq(*mail, touch));
    let is_under_another = |(decision, mail): (&&T, &Option<&Touch>)| {
        let mut near = touches
            .iter()
            .filter(|touch| touch.kind == TouchKind::Delivered && is_near(touch, decision))
            .peekable();
        mail.is_none()
            && near.peek().is_some()
            && near.all(|touch| !is_of_campaign(touch, *decision) && !is_taken(touch))
    };
    decisions.iter().zip(mails).map(is_under_another).collect()
}

/// Returns whether a mail may be of a decision's campaign.
pub(crate) fn is_of_campaign<T: Decided>(mail: &Touch, decision: &T) -> bool {
    may_equal(mail.campaign_id.as_deref(), decision.campaign_id())
}

/// Returns whether two names are equal or at least one is not known.
pub(crate) fn may_equal(a: Option<&str>, b: Option<&str>) -> bool {
    a.is_none() || b.is_none() || a == b
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Embedded stores that contain decisions.

    use event::{Event, EventType, Hasher};
    use store::{
        events::{Enrichment, SqliteEvents, SqliteEventsConfig, StoredEvent, StoredExplanation},
        identity::SqliteIdentities,
    };
    use tempfile::TempDir;

    use super::*;

    pub(crate) struct Stores {
        pub(crate) events: SqliteEvents,
        pub(crate) identities: SqliteIdentities,
        _folder: TempDir,
    }

    impl Stores {
        /// Opens stores that contain these decisions and mails.
        pub(crate) async fn with(decisions: &[StoredExplanation], mails: &[StoredEvent]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = SqliteEventsConfig::default();
            let events = SqliteEvents::open(folder.path(), config).await.unwrap();
            let decisions: Vec<&StoredExplanation> = decisions.iter().collect();
            events.save_explanations(&decisions).await.unwrap();
            events.write(mails).await.unwrap();
            let identities = SqliteIdentities::open(folder.path()).await.unwrap();
            Self {
                events,
                identities,
                _folder: folder,
            }
        }
    }

    pub(crate) fn person(number: usize) -> UniversalId {
        let identifier = Hasher::new().email_identifier(&format!("person{number}@example.com"));
        UniversalId::from_identifier(&identifier.unwrap())
    }

    /// Returns a mail with this delivery latency.
    pub(crate) fn mail(person: &UniversalId, at: Timestamp, delivery_latency_ms: i64) -> StoredEvent {
        StoredEvent {
            event: Event {
                event_id: format!("{person}-{at}"),
                esp: "sendgrid".into(),
                ..Event::bare(EventType::Delivered, at, person.clone())
            },
            enrichment: Enrichment {
                delivery_latency_ms: Some(delivery_latency_ms),
                ..Enrichment::default()
            },
        }
    }
}
