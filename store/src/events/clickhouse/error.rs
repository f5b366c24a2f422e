//! Maps the server's errors to what they mean to the caller.
//!
//! The server identifies an error by a number. Its message may quote the data, so that only the number and its name are passed
//! on.

use std::time::Duration;

use clickhouse::error::Error;

use super::{ENGINE, config::ClickHouseConfig};
use crate::StoreError;

/// Message for a refused user, with the settings to check.
const WRONG_USER: &str = "the server refuses the user: look at `clickhouse.user` and `clickhouse.password`";

/// Message for a permission that the user lacks.
const MISSING_RIGHT: &str = "the user may not do what is needed: grant `clickhouse.user` SELECT, INSERT, CREATE TABLE, \
                             CREATE VIEW, DROP VIEW and ALTER on the database of `clickhouse.database`, and CREATE DATABASE \
                             if it is missing";

/// Message for tables that are not as the migrations create them.
const WRONG_SCHEMA: &str = "the server lacks the tables of this build or rejects its statements: look at \
                            `clickhouse.database` and at the server's version, which must be 25.3 or newer";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The connection could not be established, or broke.
    #[error("{0}")]
    Network(String),
    /// No response arrived in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The schema steps that were due took too long.
    #[error("the schema steps did not finish within {0:?}")]
    StepsTimedOut(Duration),
    /// Something other than the server responded, for example a proxy without a server behind it.
    #[error("the response is not from ClickHouse")]
    Foreign,
    /// The server refused the request.
    #[error("server error {code} ({name})")]
    Server { code: u32, name: String },
    /// The response does not have the expected form.
    #[error("an answer cannot be read: {0}")]
    Unreadable(String),
}

/// What to do about a server's error.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The data can never be stored.
    Data,
    /// The user or the password is wrong.
    User,
    /// The user lacks a permission.
    Right,
    /// Tables, columns or statements are not as they should be.
    Schema,
    /// It may pass: the server is busy, full or still starting. Includes every code that is not listed here: a retry loses
    /// nothing and shows in the retry counter.
    Passing,
}

impl Meaning {
    /// The numbers are those of the server's `src/Common/ErrorCodes.cpp`, which never change.
    fn of(code: u32) -> Self {
        match code {
            // CANNOT_PARSE_TEXT, CANNOT_PARSE_INPUT_ASSERTION_FAILED, CANNOT_READ_ALL_DATA, CANNOT_PARSE_DATE,
            // CANNOT_PARSE_DATETIME
            6 | 27 | 33 | 38 | 41 => Self::Data,
            // TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE, CANNOT_PARSE_NUMBER, INCORRECT_DATA,
            // TOO_LARGE_ARRAY_SIZE, TOO_LARGE_STRING_SIZE
            53 | 69 | 70 | 72 | 117 | 128 | 131 => Self::Data,
            // SIZES_OF_ARRAYS_DONT_MATCH, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN,
            // DECIMAL_OVERFLOW, VIOLATED_CONSTRAINT
            190 | 321 | 349 | 407 | 469 => Self::Data,
            // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, IP_ADDRESS_NOT_ALLOWED, AUTHENTICATION_FAILED
            192..=195 | 516 => Self::User,
            // READONLY, DATABASE_ACCESS_DENIED, QUERY_IS_PROHIBITED, ACCESS_DENIED
            164 | 291 | 392 | 497 => Self::Right,
            // THERE_IS_NO_COLUMN, NOT_FOUND_COLUMN_IN_BLOCK, NO_SUCH_COLUMN_IN_TABLE, NUMBER_OF_COLUMNS_DOESNT_MATCH,
            // BAD_ARGUMENTS
            8 | 10 | 16 | 20 | 36 => Self::Schema,
            // UNKNOWN_FUNCTION, UNKNOWN_IDENTIFIER, NOT_IMPLEMENTED, UNKNOWN_TYPE, UNKNOWN_STORAGE, UNKNOWN_TABLE,
            // SYNTAX_ERROR, UNKNOWN_DATABASE
            46 | 47 | 48 | 50 | 56 | 60 | 62 | 81 => Self::Schema,
            // UNKNOWN_SETTING, SUPPORT_IS_DISABLED, SETTING_CONSTRAINT_VIOLATION
            115 | 344 | 452 => Self::Schema,
            _ => Self::Passing,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::BadResponse(text) => Self::of_answer(&text),
            Error::TimedOut => Self::Network("the connection stalled".to_owned()),
            Error::Network(source) => {
                // The outermost error only says that something failed; the cause is the innermost.
                let mut text = source.to_string();
                let mut cause = source.source();
                while let Some(error) = cause {
                    text = format!("{text}: {error}");
                    cause = error.source();
                }
                Self::Network(text)
            }
            other => Self::Unreadable(other.to_string()),
        }
    }
}

impl Failure {
    /// Reads `Code: 60. DB::Exception: … (UNKNOWN_TABLE) (version …)`.
    fn of_answer(text: &str) -> Self {
        let Some(rest) = text.trim_start().strip_prefix("Code: ") else {
            return Self::Foreign;
        };
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let Ok(code) = rest[..digits].parse() else {
            return Self::Foreign;
        };
        let is_name = |word: &&str| {
            word.bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
                && !word.is_empty()
        };
        // The last one: text before it may be data.
        let name = rest
            .rsplit('(')
            .filter_map(|part| part.split_once(')').map(|(word, _)| word))
            .find(is_name)
            .unwrap_or("without a name");
        Self::Server {
            code,
            name: name.to_owned(),
        }
    }

    /// Returns whether a table or database does not exist.
    pub(super) fn is_missing_table(&self) -> bool {
        matches!(self, Self::Server { code: 60 | 81, .. })
    }

    /// Returns the error of a write of several rows. Without the memory for them the server may take fewer.
    pub(super) fn of_write(self) -> StoreError {
        match self {
            Self::Server { code: 241, .. } => StoreError::TooMuch {
                engine: ENGINE,
                message: format!(
                    "{self}: raise the server's or the user's `max_memory_usage`, or lower `consumer.batch_events`"
                ),
            },
            other => other.into(),
        }
    }

    /// Returns the error to report while the store opens: a server that cannot be reached is treated as misconfigured.
    pub(super) fn at_start(self, config: &ClickHouseConfig) -> StoreError {
        let address = config.address();
        match self {
            Self::Network(cause) => misconfigured(format!(
                "`{address}` cannot be reached ({cause}): look at `clickhouse.host`, `clickhouse.port`, \
                 `clickhouse.secure` and `clickhouse.ca`"
            )),
            Self::TimedOut(waited) => misconfigured(format!(
                "`{address}` does not answer within {waited:?}: look at `clickhouse.host` and `clickhouse.port`"
            )),
            Self::Foreign => misconfigured(format!(
                "what answers at `{address}` is not ClickHouse's HTTP interface: look at `clickhouse.host` and \
                 `clickhouse.port`"
            )),
            Self::Server { .. } | Self::StepsTimedOut(_) | Self::Unreadable(_) => self.into(),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Server { code, .. } => match Meaning::of(*code) {
                Meaning::Data => Self::rejected(ENGINE, failure.to_string()),
                Meaning::User => misconfigured(format!("{WRONG_USER}; {failure}")),
                Meaning::Right => misconfigured(format!("{MISSING_RIGHT}; {failure}")),
                Meaning::Schema => misconfigured(format!("{WRONG_SCHEMA}; {failure}")),
                Meaning::Passing => Self::unavailable(ENGINE, failure),
            },
            Failure::Unreadable(_) => misconfigured(format!("{WRONG_SCHEMA}; {failure}")),
            Failure::Network(_) | Failure::TimedOut(_) | Failure::StepsTimedOut(_) | Failure::Foreign => {
                Self::unavailable(ENGINE, failure)
            }
        }
    }
}

pub(super) fn misconfigured(message: String) -> StoreError {
    StoreError::misconfigured(ENGINE, message)
}

pub(super) fn malformed(table: &str, column: &str) -> StoreError {
    StoreError::malformed(ENGINE, table, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(answer: &str) -> StoreError {
        Failure::from(Error::BadResponse(answer.to_owned())).into()
    }

    #[test]
    fn tells_by_the_code_who_must_act() {
        let error =
            told("Code: 252. DB::Exception: Too many parts (3001). (TOO_MANY_PARTS) (version 25.8.1.1)");
        assert!(matches!(error, StoreError::Unavailable { .. }));
        assert_eq!(
            error.to_string(),
            "clickhouse is unavailable: server error 252 (TOO_MANY_PARTS)"
        );
        let error = told("Code: 516. DB::Exception: default: Authentication failed (AUTHENTICATION_FAILED)");
        assert!(matches!(error, StoreError::Misconfigured { .. }));
        assert!(error.to_string().contains("`clickhouse.password`"));
        let error = told("Code: 497. DB::Exception: x: Not enough privileges. (ACCESS_DENIED)");
        assert!(matches!(error, StoreError::Misconfigured { .. }));
        assert!(error.to_string().contains("grant `clickhouse.user`"));
        let error = told("Code: 81. DB::Exception: Database x does not exist. (UNKNOWN_DATABASE)");
        assert!(matches!(error, StoreError::Misconfigured { .. }));
        // Without a message, only the code.
        assert!(matches!(told("Code: 159"), StoreError::Unavailable { .. }));
    }

    #[test]
    fn a_write_that_needs_too_much_memory_may_be_smaller() {
        let failure = Failure::from(Error::BadResponse(
            "Code: 241. DB::Exception: (for user x) memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)"
                .to_owned(),
        ));
        let error = failure.of_write();
        assert!(matches!(error, StoreError::TooMuch { .. }), "{error}");
        assert!(error.to_string().contains("`consumer.batch_events`"), "{error}");
        let read = told("Code: 241. DB::Exception: memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)");
        assert!(matches!(read, StoreError::Unavailable { .. }), "{read}");
    }

    #[test]
    fn never_repeats_the_data() {
        let error = told(
            "Code: 469. DB::Exception: Constraint `c` is violated at row 1. Column values: subject = '(SECRET)x'. \
             (VIOLATED_CONSTRAINT) (version 25.8.1.1 (official build))",
        );
        assert!(matches!(error, StoreError::Rejected { .. }));
        assert_eq!(
            error.to_string(),
            "clickhouse refused the data: server error 469 (VIOLATED_CONSTRAINT)"
        );
    }

    #[test]
    fn a_proxys_answer_is_an_outage() {
        for answer in [
            "<html>502 Bad Gateway</html>",
            "503 Service Unavailable",
            "Code: x",
        ] {
            assert!(matches!(told(answer), StoreError::Unavailable { .. }), "{answer}");
        }
    }
}
