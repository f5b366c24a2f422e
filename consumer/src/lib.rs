#![doc = include_str!("../README.md")]

mod config;
mod dead_letter;
mod decode;
mod enrich;
mod error;
mod events;
mod health;
mod identity;
mod metrics;
mod poll;
mod recent;
mod retry;
mod status;

use std::sync::Arc;

use store::{bus::Bus, events::Events, identity::Identities, profiles::Profiles};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::{ConsumerConfig, InvalidConfig, RawConsumerConfig, StatusConfig};
pub use enrich::MachineFilter;
pub use error::ConsumerError;
pub use metrics::Metrics;
pub use status::serve_status;

/// Group that stores events and keeps profiles current.
pub const EVENTS_GROUP: &str = "sendflowr-events";

/// Group that feeds the identity graph.
pub const IDENTITY_GROUP: &str = "sendflowr-identity";

/// The ports that the consumer uses.
#[derive(Clone)]
pub struct Dependencies {
    /// Source of events, and destination of dead letters.
    pub bus: Arc<dyn Bus>,
    /// The event store.
    pub events: Arc<dyn Events>,
    /// The profile store. Only consumers write to it, see the crate's documentation.
    pub profiles: Arc<dyn Profiles>,
    /// The identity graph.
    pub identities: Arc<dyn Identities>,
    /// The consumer's metrics.
    pub metrics: Metrics,
}

/// Consumes until `shutdown` is cancelled, then finishes the batches in flight, commits and returns.
///
/// Waits for outages to end: meanwhile the batches in flight are held, nothing more is read, and nothing is committed
/// before it is stored. If `shutdown` is cancelled during an outage, the batches stay uncommitted and are read again at
/// the next start. For the same reason it is safe to drop the future at any point.
///
/// # Errors
/// [`ConsumerError`] if an operator must act because the bus or the event store is misconfigured. What has worked once and is
/// refused later is waited for, like an outage.
pub async fn run(
    config: ConsumerConfig,
    dependencies: Dependencies,
    shutdown: CancellationToken,
) -> Result<(), ConsumerError> {
    let config = Arc::new(config);
    // A child token, so that one task's failure stops the others but not the caller.
    let stop = shutdown.child_token();
    // Dropping the set aborts its tasks.
    let mut tasks = JoinSet::new();
    tasks.spawn(events::run(config.clone(), dependencies.clone(), stop.clone()));
    tasks.spawn(identity::run(config.clone(), dependencies.clone(), stop.clone()));
    tasks.spawn(metrics::watch_lag(
        dependencies.bus,
        dependencies.metrics,
        stop.clone(),
    ));
    join(tasks, &stop).await
}

/// Waits for all tasks; the first one to end stops the others. Returns the first failure: it is the cause, and later ones
/// may be its consequences.
async fn join(
    mut tasks: JoinSet<Result<(), ConsumerError>>,
    stop: &CancellationToken,
) -> Result<(), ConsumerError> {
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = match ended {
            Ok(ended) => ended,
            Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
            Err(failure) => unreachable!("no task is aborted while the set is read: {failure}"),
        };
        stop.cancel();
        result = result.and(ended);
    }
    result
}
