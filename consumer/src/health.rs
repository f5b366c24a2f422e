//! What works and what fails at present: whether an error is a mistake in the configuration or an outage depends on whether the same
//! has worked before, and `/ready` reports what has failed for long.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long something may fail before `/ready` reports it, although the server answers: longer than a server needs to restart or to
/// merge what it has received too fast.
const PATIENCE: Duration = Duration::from_secs(30);

/// A consumer group and what it does.
type Operation = (&'static str, &'static str);

#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<HashMap<Operation, State>>);

#[derive(Debug, Default)]
struct State {
    has_worked: bool,
    /// Since when it fails, and the latest error.
    trouble: Option<(Instant, String)>,
}

impl Health {
    /// Notes a failure. Returns whether it is news: the first one since the last success, or one with another text.
    pub(crate) fn failed(&self, of: Operation, error: &str) -> bool {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = &mut states.entry(of).or_default().trouble;
        match trouble {
            Some((_, told)) if told == error => false,
            Some((_, told)) => {
                error.clone_into(told);
                true
            }
            None => {
                *trouble = Some((Instant::now(), error.to_owned()));
                true
            }
        }
    }

    /// Notes a success.
    pub(crate) fn succeeded(&self, of: Operation) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.entry(of).or_default();
        (state.has_worked, state.trouble) = (true, None);
    }

    /// Returns whether the store that this operation uses has worked for its group.
    pub(crate) fn has_worked(&self, of: Operation) -> bool {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same_store = |(group, operation): &Operation| *group == of.0 && store(operation) == store(of.1);
        states
            .iter()
            .any(|(operation, state)| state.has_worked && same_store(operation))
    }

    /// Returns the error of what has failed for long for `group` on the store of this name.
    pub(crate) fn lasting_trouble(&self, group: &str, name: &str) -> Option<String> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().find_map(|((of, operation), state)| {
            let (since, error) = state.trouble.as_ref()?;
            let is_asked_for = *of == group && store(operation) == name;
            (is_asked_for && since.elapsed() >= PATIENCE).then(|| error.clone())
        })
    }
}

/// Returns the store that an operation uses. Joining a group proves nothing about reading, and counts as one of its own.
fn store(operation: &str) -> &str {
    match operation {
        "sent_times" | "write" => "events",
        "poll" | "commit" | "set_aside" => "bus",
        other => other,
    }
}
