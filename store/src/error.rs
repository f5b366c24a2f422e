//! The error type of all ports, classified by what the caller should do.

/// Why an engine could not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The engine is unreachable or busy: try again later.
    #[error("{engine} is unavailable: {cause}")]
    Unavailable {
        /// The engine, for example `sqlite`.
        engine: &'static str,
        /// The engine's own error. It is part of the message and therefore not a `source`: errors of client libraries repeat
        /// the message of their source, and a log of the message alone must not lose the cause.
        cause: Unavailable,
    },
    /// The engine has no memory for so much at once: try again later, with less at once if there is more than one.
    #[error("{engine} cannot take so much at once: {message}")]
    TooMuch {
        /// The engine.
        engine: &'static str,
        /// What it ran out of, and which settings to check.
        message: String,
    },
    /// The engine rejected this input and always will.
    #[error("{engine} refused the data: {message}")]
    Rejected {
        /// The engine.
        engine: &'static str,
        /// Why, without the data itself.
        message: String,
    },
    /// Wrong address, password, schema or file: an operator must act.
    #[error("{engine} is not usable: {message}")]
    Misconfigured {
        /// The engine.
        engine: &'static str,
        /// What is wrong and which setting to check.
        message: String,
    },
}

impl StoreError {
    pub(crate) fn unavailable(engine: &'static str, cause: impl Into<Unavailable>) -> Self {
        let cause = cause.into();
        Self::Unavailable { engine, cause }
    }

    pub(crate) fn rejected(engine: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Rejected { engine, message }
    }

    pub(crate) fn misconfigured(engine: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Misconfigured { engine, message }
    }

    /// Creates the error for a stored row that does not have the form this build writes. Names the table and column, never the
    /// content.
    pub(crate) fn malformed(engine: &'static str, table: &str, column: &str) -> Self {
        Self::misconfigured(
            engine,
            format!("`{table}` holds a row whose `{column}` this build cannot read"),
        )
    }
}

/// The cause of an outage, kept for the log.
pub type Unavailable = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_an_outage_is_told_once() {
        let error = StoreError::Unavailable {
            engine: "clickhouse",
            cause: "no answer".into(),
        };
        assert_eq!(error.to_string(), "clickhouse is unavailable: no answer");
        assert_eq!(event::chain(&error), error.to_string());
    }
}
