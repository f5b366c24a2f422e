//! One error for all ports, classified by what the caller should do.

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Out of reach or busy: try again later.
    #[error("{engine} is unavailable: {cause}")]
    Unavailable {
        /// The engine, `sqlite` for example.
        engine: &'static str,
        /// What it said. The message has it, so it is no `source`: clients' errors repeat theirs, and a log of the message alone
        /// must not lose it.
        cause: Unavailable,
    },
    /// The engine refused this input and always will.
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
        /// What is wrong and which setting to look at.
        message: String,
    },
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
