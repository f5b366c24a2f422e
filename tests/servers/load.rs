//! Deliveries that can be counted afterwards: each is one click in a message of its own.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use event::{Hasher, Timestamp, UniversalId};
use integration_tests::{
    Answer, eventually,
    scaled::{Servers, System},
};
use store::events::Events;
use synth::delivery::{Account, Action, Kind};
use tokio::task::JoinSet;

/// The number of people who click.
pub(crate) const PEOPLE: usize = 20;

/// Deliveries in flight at once.
const SENDERS: usize = 16;

/// How long a sender pauses after a delivery that was not accepted: shorter than the host asks for, so that many are tried.
const PAUSE: Duration = Duration::from_millis(200);

/// The provider that reports the clicks: one event per delivery.
pub(crate) fn account() -> Account {
    Account::generate("postmark", "").unwrap()
}

/// The clicks of this test's people, by number.
#[derive(Clone)]
pub(crate) struct Clicks {
    account: Arc<Account>,
    mark: String,
}

impl Clicks {
    pub(crate) fn new(account: Account, servers: &Servers) -> Self {
        Self {
            account: Arc::new(account),
            mark: servers.mark.clone(),
        }
    }

    pub(crate) fn email(&self, person: usize) -> String {
        format!("person{person}-{}@example.com", self.mark)
    }

    fn message(&self, number: usize) -> String {
        format!("{}-{number}", self.mark)
    }

    /// Reports a click over HTTP.
    pub(crate) async fn send(&self, system: &System, number: usize) -> Answer {
        // An hour apart, so that each of a person's clicks is a visit of its own.
        let ago_ms = 3_600_000 * (number / PEOPLE % 200) as i64;
        self.send_of(system, &self.email(number % PEOPLE), number, ago_ms)
            .await
    }

    /// Reports a click of somebody who has not clicked before; returns their address.
    pub(crate) async fn send_newcomer(&self, system: &System) -> (String, Answer) {
        let email = self.email(PEOPLE);
        let answer = self.send_of(system, &email, usize::MAX, 0).await;
        (email, answer)
    }

    async fn send_of(&self, system: &System, email: &str, number: usize, ago_ms: i64) -> Answer {
        let now = Timestamp::from(SystemTime::now());
        let click = Action {
            kind: Kind::Clicked,
            at: now.plus_millis(-ago_ms),
            email: email.to_owned(),
            message: self.message(number),
        };
        let deliveries = self.account.deliver(&[click], now);
        system.deliver(self.account.provider(), &deliveries[0]).await
    }

    /// Returns the message ids of all stored events of the people and the newcomer: twice if a click became two events.
    async fn stored(&self, servers: &Servers) -> Vec<String> {
        let events = servers.events().await;
        let mut messages = Vec::new();
        for person in 0..=PEOPLE {
            let identifier = Hasher::new().email_identifier(&self.email(person)).unwrap();
            let id = UniversalId::from_identifier(&identifier);
            let history = events
                .history(&[id], Timestamp::default(), 100_000)
                .await
                .unwrap();
            messages.extend(history.into_iter().filter_map(|stored| stored.event.message_id));
        }
        messages
    }

    /// Waits until all of these clicks are stored, and checks that these and all others are stored only once.
    pub(crate) async fn until_stored(&self, servers: &Servers, acknowledged: &BTreeSet<usize>) {
        eventually("every acknowledged click is stored", async || {
            let stored: BTreeSet<String> = self.stored(servers).await.into_iter().collect();
            acknowledged
                .iter()
                .all(|number| stored.contains(&self.message(*number)))
        })
        .await;
        let stored = self.stored(servers).await;
        let distinct: BTreeSet<&String> = stored.iter().collect();
        assert_eq!(distinct.len(), stored.len(), "a click is stored twice");
        // A history shows each event once, however many rows it has. The rows of one event must be such that the table merges
        // them into one, and there may be no other rows.
        let query = "SELECT count(), uniqExact(event_id) FROM email_events FINAL";
        let (rows, events): (u64, u64) = servers.clickhouse().query(query).fetch_one().await.unwrap();
        assert_eq!((rows, events), (stored.len() as u64, stored.len() as u64));
    }
}

/// The results of the deliveries of a [`Load`].
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Numbers of the deliveries that were answered with success.
    pub(crate) acknowledged: BTreeSet<usize>,
    /// All other answers.
    pub(crate) refused: Vec<Answer>,
}

/// Sends clicks, one after the other from each of several senders, until it is ended.
pub(crate) struct Load {
    senders: JoinSet<Outcome>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Load {
    pub(crate) fn start(system: &Arc<System>, clicks: &Clicks, first: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let next = Arc::new(AtomicUsize::new(first));
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            let (system, clicks) = (Arc::clone(system), clicks.clone());
            let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
            let acknowledged = Arc::clone(&acknowledged);
            senders.spawn(async move {
                let mut outcome = Outcome::default();
                while !stop.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let answer = clicks.send(&system, number).await;
                    // Says nothing about servers, but that this machine is busy.
                    if answer.body["error"]["limit"] == "concurrency" {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    if answer.status == 200 {
                        outcome.acknowledged.insert(number);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    } else {
                        outcome.refused.push(answer);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                outcome
            });
        }
        Self {
            senders,
            stop,
            acknowledged,
        }
    }

    /// Waits until this many more clicks are acknowledged.
    pub(crate) async fn until_more(&self, clicks: usize) {
        let enough = self.acknowledged.load(Ordering::SeqCst) + clicks;
        eventually("more clicks are acknowledged", async || {
            self.acknowledged.load(Ordering::SeqCst) >= enough
        })
        .await;
    }

    pub(crate) async fn end(mut self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Outcome::default();
        while let Some(outcome) = self.senders.join_next().await {
            let Outcome {
                acknowledged,
                refused,
            } = outcome.unwrap();
            all.acknowledged.extend(acknowledged);
            all.refused.extend(refused);
        }
        all
    }
}
