//! The first group: enriches events, stores them, keeps profiles current.
//!
//! Four stages, each a task that owns what it works with, pass batches on in order: while one batch is written, the one
//! after it is enriched, the next is read, and the one before it is felt in profiles.
//!
//! ```text
//! read, decode ──▶ look up, enrich ──▶ write ──▶ update profiles
//!   ▲  commit                                          │
//!   └──────────── what is stored and felt ◀────────────┘
//! ```
//!
//! - **Order.** A stage takes one batch after the other, so that the findings on a batch follow from those before it, and
//!   an event is stored before any profile knows it.
//! - **Memory.** A batch takes one of [`IN_FLIGHT`] places before it is read and gives it back when it is through. While a
//!   store is out of reach its stage holds its batch, and soon nothing more is read.
//! - **Commits.** Offsets are committed by position: those of batches that are through, never of what was read ahead. The
//!   last stage tells the first how far that is.
//! - **End.** At shutdown the first stage stops reading, the others finish what they have and end one after the other, and
//!   what came through is committed. A stage that cannot finish ends the others; what they have in hand is read again.

mod prepare;
mod profile_store;
mod profiles;
mod read;
mod write;

use std::{
    collections::HashSet,
    sync::Arc,
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

/// Batches between being read and being felt in profiles: one for each stage, so that none waits for another's.
const IN_FLIGHT: usize = 4;

/// How often the last stage looks after profiles while no batch comes, and how long the first waits for records while none
/// is in flight: soon for an operator who waits for a shutdown, seldom enough to cost nothing.
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
    };
    // No channel is ever full: there are no more batches than that.
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

/// What every stage has at hand.
#[derive(Clone)]
struct Context {
    config: Arc<ConsumerConfig>,
    dependencies: Dependencies,
    stop: CancellationToken,
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

/// What goes with a batch from the first stage to the last.
struct Ticket {
    progress: Progress,
    span: Span,
    read_at: Instant,
    records: usize,
    /// When the oldest of its records was appended.
    oldest: Option<Timestamp>,
    /// Given back with the ticket.
    _place: OwnedSemaphorePermit,
}

/// A batch that was read: events, each with its record, and what is none.
struct Decoded {
    ticket: Ticket,
    records: Vec<Record>,
    events: Vec<Event>,
    letters: Vec<DeadLetter>,
}

/// A batch with the findings on its events, each still with its record.
struct Prepared {
    ticket: Ticket,
    records: Vec<Record>,
    rows: Vec<StoredEvent>,
    letters: Vec<DeadLetter>,
    /// People of whom this batch has all events that there are.
    strangers: HashSet<UniversalId>,
}

/// A batch that is stored, but for the events that the store will never take.
struct Written {
    ticket: Ticket,
    rows: Vec<StoredEvent>,
    strangers: HashSet<UniversalId>,
    /// Whether some of it was stored earlier.
    has_repeats: bool,
    /// Ids of events that were set aside.
    refused: Vec<u128>,
}

/// What is stored and felt in profiles, since the last of these.
struct Settled {
    progress: Progress,
    span: Span,
    /// Ids of events that were set aside.
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

/// The event's id as a number: 16 bytes to remember instead of 32 and a heap block. Ids that are no number of 128 bits
/// are not remembered; the event store knows them.
fn numeric_id(event: &Event) -> Option<u128> {
    let id = &event.event_id;
    if id.len() == 32 {
        u128::from_str_radix(id, 16).ok()
    } else {
        None
    }
}
