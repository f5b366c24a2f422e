//! What the bus answers and yet refuses to take, for lack of a right, for example: `/ready` reports it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use store::{
    StoreError,
    bus::{DEAD_LETTERS_TOPIC, NewRecord},
};

/// How long a refusal counts. A load balancer sends nothing to a host that is not ready, so that only a new attempt can show that
/// the right is back. Twice as long as an orchestrator takes, with the usual three probes at intervals of 10 s, to act on it.
const COUNTS_FOR: Duration = Duration::from_secs(60);

/// The last refusals, for events and for dead letters.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    pub(crate) events: Denial,
    pub(crate) letters: Denial,
}

impl Denials {
    /// Returns the ones that an append of these records concerns. If a delivery's events go together with a dead letter, a refusal
    /// is put down to the letter: were it the events', others would be refused without one.
    pub(crate) fn of(&self, records: &[NewRecord]) -> &Denial {
        if records.iter().any(|record| record.topic == DEAD_LETTERS_TOPIC) {
            &self.letters
        } else {
            &self.events
        }
    }
}

/// When and why the bus last refused something, unless it has taken something since.
#[derive(Debug, Default)]
pub(crate) struct Denial(Mutex<Option<(Instant, String)>>);

impl Denial {
    /// Notes how an append ended. An outage changes nothing.
    pub(crate) fn note(&self, appended: &Result<(), StoreError>) {
        let denial = match appended {
            Ok(()) => None,
            Err(error @ StoreError::Misconfigured { .. }) => Some((Instant::now(), error.to_string())),
            Err(_) => return,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = denial;
    }

    /// Returns why the bus refuses what it is given.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason_at(Instant::now())
    }

    fn reason_at(&self, now: Instant) -> Option<String> {
        let denial = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, reason) = denial.as_ref()?;
        (now.duration_since(*at) < COUNTS_FOR).then(|| reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_for_a_minute_or_until_something_is_taken() {
        let denial = Denial::default();
        let refused = || {
            Err(StoreError::Misconfigured {
                engine: "fake",
                message: "grant it Write".to_owned(),
            })
        };
        denial.note(&refused());
        let now = Instant::now();
        assert!(denial.reason().unwrap().contains("grant it Write"));
        // Then a host that a load balancer has taken out is tried again.
        assert_eq!(denial.reason_at(now + COUNTS_FOR), None);
        denial.note(&Err(StoreError::Unavailable {
            engine: "fake",
            cause: "down".into(),
        }));
        assert!(denial.reason().is_some());
        denial.note(&Ok(()));
        assert_eq!(denial.reason(), None);
    }
}
