//! A lane for deliveries that compute long.
//!
//! Most deliveries are over within microseconds. One that computes for milliseconds is a very large batch, or a runaway; many
//! of them at once would keep every core busy, and each short delivery would wait for the scheduler. So a call that has used
//! [`BRIEF`] goes on in one of a few places, and half of the cores stay with the brief ones. This is no fence: who has waited
//! for half of its time goes on without a place, so that a machine with too much to do does not turn large batches away.

use std::{
    num::NonZero,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// CPU time of a call that needs no place. The in-tree plugins read some 5,000 events in it, more than any provider sends at
/// once.
pub(crate) const BRIEF: Duration = Duration::from_millis(5);

/// The places.
pub(crate) struct Lane {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Lane {
    /// A lane with a place for every second core, at least one.
    pub(crate) fn of_this_machine() -> Arc<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::new((cores / 2).max(1))
    }

    fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::new(places),
            freed: Condvar::new(),
        })
    }

    /// Waits for a place; `None` when there is none for half of the time until `deadline`. Blocks.
    pub(crate) fn enter(self: &Arc<Self>, deadline: Instant) -> Option<Place> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = deadline.saturating_duration_since(Instant::now()) / 2;
        let (mut free, _) = self
            .freed
            .wait_timeout_while(free, wait, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        drop(free);
        Some(Place(Arc::clone(self)))
    }
}

/// A place, until it is dropped.
pub(crate) struct Place(Arc<Lane>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let lane = Lane::new(1);
        let later = Instant::now() + Duration::from_secs(60);
        let place = lane.enter(later).expect("a free place");
        assert!(lane.enter(Instant::now()).is_none());
        let waits = Arc::clone(&lane);
        let waiting = thread::spawn(move || waits.enter(later).is_some());
        drop(place);
        assert!(waiting.join().expect("no panic"));
        assert!(lane.enter(Instant::now()).is_some());
    }
}
