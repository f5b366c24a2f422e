//! The first group: enriches events, stores them, keeps profiles current.
//!
//! Four stages, each a task that owns its data, pass batches on in order: while one batch is written, the one after it is
//! enriched, the next is read, and the one before it is applied to profiles.
//!
//! ```text
//! read, decode ──▶ look up, enrich ──▶ write ──▶ update profiles
//!   ▲  commit                                          │
//!   └────────── what is stored and applied ◀───────────┘
//! ```
//!
//! - **Order.** A stage handles one batch after the other, so that the findings on a batch can build on those before it, and
//!   an event is stored before it is applied to any profile.
//! - **Memory.** A batch occupies one of [`IN_FLIGHT`] slots from before it is read until it has passed all stages. While a
//!   store is unavailable, its stage holds its batch, and soon nothing more is read.
//! - **Commits.** Offsets are committed by position: only those of batches that have passed all stages, never those read
//!   ahead. The last stage reports to the first how far that is.
//! - **End.** At shutdown the first stage stops reading, the others finish their batches and end one after the other, and
//!   the finished batches are committed. A stage that cannot finish ends the others; their batches are read again.

mod doubts;
mod prepare;
mod profile_store;
mod profiles;
mod read;
mod write;

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use event::{Event, Timestamp, UniversalId};
use store::{
    bus::{Progress, Record},
    events::StoredEvent,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::{
    ConsumerConfig, ConsumerError, Dependencies, EVENTS_GROUP, dead_letter::DeadLetter, retry::Attempts,
};

/// Number of batches between being read and being applied to profiles: one for each stage, so that no stage waits for another's.
pub(crate) const IN_FLIGHT: usize = 4;

/// How often the last stage checks for profiles to repair while no batch comes, and how long the first waits for records
/// while no batch is in flight: short for an operator who waits for a shutdown, but long enough to cost nothing.
const IDLE_WAIT: Duration = Duration::from_millis(500);

/// Runs the group until `shutdown`.
pub(crate) async fn run(
    config: Arc<ConsumerConfig>,
    dependencies: Dependencies,
    shutdown: CancellationToken,
) -> Result<(), ConsumerError> {
    let stop = shutdown.child_token();
    let context = Context {
        config,
        dependencies,
        stop: stop.clone(),
        losses: Arc::default(),
    };
    // No channel is ever full: there are never more batches than this.
    let (to_prepare, decoded) = mpsc::channel(IN_FLIGHT);
    let (to_write, prepared) = mpsc::channel(IN_FLIGHT);
    let (to_profiles, written) = mpsc::channel(IN_FLIGHT);
    let (to_commit, settled) = mpsc::channel(IN_FLIGHT);
    // Dropping the set aborts its tasks.
    let mut stages = JoinSet::new();
    stages.spawn(read::run(context.clone(), to_prepare, settled));
    stages.spawn(prepare::run(context.clone(), decoded, to_write));
    stages.spawn(write::run(context.clone(), prepared, to_profiles));
    stages.spawn(profiles::run(context, written, to_commit));
    crate::join(stages, &stop).await
}

/// What every stage needs.
#[derive(Clone)]
struct Context {
    config: Arc<ConsumerConfig>,
    dependencies: Dependencies,
    stop: CancellationToken,
    /// How often this process has lost partitions to others.
    losses: Arc<AtomicU64>,
}

impl Context {
    fn attempts(&self, operation: &'static str) -> Attempts<'_> {
        Attempts::new(
            &self.config,
            &self.dependencies.metrics,
            &self.stop,
            EVENTS_GROUP,
            operation,
        )
    }
}

/// Data that stays with a batch from the first stage to the last.
struct Ticket {
    progress: Progress,
    span: Span,
    read_at: Instant,
    records: usize,
    /// How often this process had lost partitions when it began to read the batch.
    losses: u64,
    /// When the oldest of its records was appended.
    oldest: Option<Timestamp>,
    /// Released when the ticket is dropped.
    _place: OwnedSemaphorePermit,
}

/// A batch that was read: events, each with its record, and dead letters for the records that are not events.
struct Decoded {
    ticket: Ticket,
    records: Vec<Record>,
    events: Vec<Event>,
    letters: Vec<DeadLetter>,
}

/// A batch with the enriched events, each still with its record.
struct Prepared {
    ticket: Ticket,
    records: Vec<Record>,
    rows: Vec<StoredEvent>,
    letters: Vec<DeadLetter>,
    /// People all of whose events are in this batch.
    strangers: HashSet<UniversalId>,
}

/// A batch that is stored, except for the events that the store will never accept.
struct Written {
    ticket: Ticket,
    rows: Vec<StoredEvent>,
    strangers: HashSet<UniversalId>,
    /// Whether some of its events had been stored before.
    has_repeats: bool,
    /// Ids of events that were dead-lettered.
    refused: Vec<u128>,
}

/// What was found out since the previous message of this type.
struct Settled {
    /// What was stored and applied to profiles.
    progress: Progress,
    span: Span,
    /// Ids of events that were dead-lettered.
    refused: Vec<u128>,
}

impl Default for Settled {
    fn default() -> Self {
        Self {
            progress: Progress::default(),
            span: Span::none(),
            refused: Vec::new(),
        }
    }
}

/// Returns the event's id as a number: 16 bytes to remember instead of 32 and a heap allocation. Ids that are not 128-bit
/// numbers are not remembered; the event store deduplicates them.
fn numeric_id(event: &Event) -> Option<u128> {
    let id = &event.event_id;
    if id.len() == 32 {
        u128::from_str_radix(id, 16).ok()
    } else {
        None
    }
}
