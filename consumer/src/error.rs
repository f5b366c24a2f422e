//! The errors that end the consumer, and how to handle a port's failure.

use store::StoreError;

/// Why the consumer cannot continue until an operator acts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// A port reported that it is not usable as configured, or rejected what it must not reject.
    #[error("the consumer group `{group}` stopped at {operation}")]
    Port {
        /// The consumer group.
        group: &'static str,
        /// What it was doing.
        operation: &'static str,
        /// The port's error.
        source: StoreError,
    },
}

/// How to handle a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Try again later; the data is not the cause.
    Retry,
    /// The data will never be accepted: dead-letter it and continue.
    DeadLetter,
    /// An operator must act: fatal, unless the same has worked before.
    Fatal,
}

impl Disposition {
    pub(crate) fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::TooMuch { .. } => Self::Retry,
            StoreError::Rejected { .. } => Self::DeadLetter,
            StoreError::Misconfigured { .. } => Self::Fatal,
            // The enum may get new variants. A retry loses nothing and shows in the retry counter.
            _ => Self::Retry,
        }
    }
}

/// Why processing a batch ended early. The batch is then not committed.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// A shutdown was requested while waiting for records or for an outage to end.
    Shutdown,
    /// The consumer cannot continue.
    Fatal(ConsumerError),
}

impl Interrupted {
    /// Converts the result of an interrupted task: a shutdown is not a failure.
    pub(crate) fn outcome(ended: Result<(), Self>) -> Result<(), ConsumerError> {
        match ended {
            Ok(()) | Err(Self::Shutdown) => Ok(()),
            Err(Self::Fatal(error)) => Err(error),
        }
    }
}
