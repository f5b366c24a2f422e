//! What ends the consumer, and what to do about a port's failure.

use store::StoreError;

/// Why the consumer cannot go on until an operator acts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// A port answered that it is not usable as configured, or refused what it must not refuse.
    #[error("the consumer group `{group}` stopped at {operation}")]
    Port {
        /// The consumer group.
        group: &'static str,
        /// What it was doing.
        operation: &'static str,
        /// What the port answered.
        source: StoreError,
    },
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Try again later; it is not the data's fault.
    Retry,
    /// The data will never be taken: set it aside and go on.
    DeadLetter,
    /// An operator must act.
    Fatal,
}

impl Disposition {
    pub(crate) fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => Self::Retry,
            StoreError::Rejected { .. } => Self::DeadLetter,
            StoreError::Misconfigured { .. } => Self::Fatal,
            // The enum may grow. Trying again loses nothing and shows in the retry counter.
            _ => Self::Retry,
        }
    }
}

/// Why work on a batch ended early. The batch is then not committed.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// Shutdown came while waiting for an outage to end.
    Shutdown,
    /// The consumer cannot go on.
    Fatal(ConsumerError),
}

impl Interrupted {
    /// How a task ends that was interrupted: a shutdown is no failure.
    pub(crate) fn outcome(ended: Result<(), Self>) -> Result<(), ConsumerError> {
        match ended {
            Ok(()) | Err(Self::Shutdown) => Ok(()),
            Err(Self::Fatal(error)) => Err(error),
        }
    }
}
