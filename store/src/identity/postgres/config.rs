//! `[postgres]`: address and settings of the server.

use std::{ops::RangeInclusive, time::Duration};

use event::settings::{OutOfRange, Secret, number};
use serde::Deserialize;

use crate::server::{self, InvalidHost, NotPem};

/// The server's own default port.
const PORT: u16 = 5432;

/// With a single connection a slow write would hold up every decision; a hundred are all that a server has by default.
const CONNECTIONS: RangeInclusive<u64> = 2..=100;

/// From a server on the same machine to one that is far away and busy.
const READ_TIMEOUT_MS: RangeInclusive<u64> = 10..=10_000;

/// If it were shorter than the wait for a lock, a batch that was about to be written would fail.
const WRITE_TIMEOUT_SECONDS: RangeInclusive<u64> = 5..=600;

/// `[postgres]` as written in the configuration. All keys are optional; without `host` the embedded graph is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPostgresConfig {
    /// Name or address of the server, without scheme and port.
    pub host: Option<String>,
    /// Its port. Default 5432.
    pub port: u16,
    /// The database, which must exist. Default `sendflowr`.
    pub database: String,
    /// The user, who must be allowed to create tables there. Default `sendflowr`.
    pub user: String,
    /// The user's password. Default: none.
    pub password: Secret,
    /// How the connection is protected. Default `prefer`.
    pub tls: PostgresTls,
    /// CA certificates, PEM, that the server is verified against in addition to the system's. Requires `tls` to be `verify-ca`
    /// or `verify-full`. Default: only the system's.
    pub ca: Option<String>,
    /// Maximum number of connections that this process opens. 2 to 100, default 10: reads take a millisecond, so that a few
    /// connections serve thousands of them per second, and several processes stay below the hundred that a server has by
    /// default. Writes use at most half of them.
    pub max_connections: u64,
    /// Longest wait for the result of a read. 10 to 10,000, default 500: a read takes a few milliseconds, and a decision that
    /// waits for it can do without.
    pub read_timeout_ms: u64,
    /// Longest wait for a write. 5 to 600, default 15: a large batch takes a second, and waiting for others a few more.
    pub write_timeout_seconds: u64,
}

impl Default for RawPostgresConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: PORT,
            database: "sendflowr".to_owned(),
            user: "sendflowr".to_owned(),
            password: Secret::default(),
            tls: PostgresTls::default(),
            ca: None,
            max_connections: 10,
            read_timeout_ms: 500,
            write_timeout_seconds: 15,
        }
    }
}

/// How the connection to PostgreSQL is protected; the names are those of PostgreSQL's own clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostgresTls {
    /// Not protected.
    Disable,
    /// TLS if the server offers it; an attacker in between can prevent that.
    #[default]
    Prefer,
    /// TLS with any server, without verification.
    Require,
    /// TLS with a server whose certificate is trusted, whatever name it has.
    VerifyCa,
    /// TLS with a server whose certificate is trusted and has the name of `host`.
    VerifyFull,
}

/// Validated configuration of the PostgreSQL identity graph.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) tls: PostgresTls,
    pub(super) ca: Option<String>,
    pub(super) max_connections: u32,
    pub(super) read_timeout: Duration,
    pub(super) write_timeout: Duration,
}

impl PostgresConfig {
    /// Returns host and port, for messages.
    pub fn address(&self) -> String {
        server::address(&self.host, self.port)
    }
}

/// A key of `[postgres]` has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPostgresConfig {
    /// No host is set, or it is more than a name or address.
    #[error(transparent)]
    Host(#[from] InvalidHost),
    /// A name is empty.
    #[error("`postgres.{0}` is empty")]
    Empty(&'static str),
    /// CA certificates are set although nothing would be verified.
    #[error(
        "`postgres.ca` is set, but `postgres.tls` is neither `verify-ca` nor `verify-full`, so nothing would be checked"
    )]
    CaWithoutCheck,
    /// The CA certificates are not PEM text.
    #[error(transparent)]
    NotPem(#[from] NotPem),
    /// A number is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

impl TryFrom<RawPostgresConfig> for PostgresConfig {
    type Error = InvalidPostgresConfig;

    fn try_from(raw: RawPostgresConfig) -> Result<Self, InvalidPostgresConfig> {
        let host = server::host("postgres", raw.host)?;
        for (key, value) in [("database", &raw.database), ("user", &raw.user)] {
            if value.is_empty() {
                return Err(InvalidPostgresConfig::Empty(key));
            }
        }
        if raw.ca.is_some() && !matches!(raw.tls, PostgresTls::VerifyCa | PostgresTls::VerifyFull) {
            return Err(InvalidPostgresConfig::CaWithoutCheck);
        }
        server::pem("postgres", "ca", server::CERTIFICATE, raw.ca.as_deref())?;
        let max_connections = number("postgres", "max_connections", raw.max_connections, CONNECTIONS)?;
        let read_ms = number(
            "postgres",
            "read_timeout_ms",
            raw.read_timeout_ms,
            READ_TIMEOUT_MS,
        )?;
        let write_seconds = number(
            "postgres",
            "write_timeout_seconds",
            raw.write_timeout_seconds,
            WRITE_TIMEOUT_SECONDS,
        )?;
        Ok(Self {
            host,
            port: raw.port,
            database: raw.database,
            user: raw.user,
            password: raw.password,
            tls: raw.tls,
            ca: raw.ca,
            max_connections,
            read_timeout: Duration::from_millis(read_ms),
            write_timeout: Duration::from_secs(write_seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> RawPostgresConfig {
        RawPostgresConfig {
            host: Some(host.to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn names_the_key_that_cannot_work() {
        let error = |raw: RawPostgresConfig| PostgresConfig::try_from(raw).unwrap_err().to_string();
        assert_eq!(error(RawPostgresConfig::default()), "`postgres.host` is not set");
        for host in ["", "postgres://db", "db:5432", "db/x", "a b", "me:s3cret@db"] {
            assert_eq!(
                error(with_host(host)),
                "`postgres.host` must be a name or an address alone: the port goes into `postgres.port`, user and password into keys \
                 of their own"
            );
        }
        let raw = RawPostgresConfig {
            user: String::new(),
            ..with_host("db")
        };
        assert_eq!(error(raw), "`postgres.user` is empty");
        let raw = RawPostgresConfig {
            max_connections: 1,
            ..with_host("db")
        };
        assert_eq!(
            error(raw),
            "`postgres.max_connections` is 1, it must be between 2 and 100"
        );
        let raw = RawPostgresConfig {
            tls: PostgresTls::Require,
            ca: Some(String::new()),
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`postgres.ca` is set"));
        let raw = RawPostgresConfig {
            tls: PostgresTls::VerifyFull,
            ca: Some("/etc/ssl/postgres.pem".to_owned()),
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`postgres.ca` has no `-----BEGIN CERTIFICATE-----`"));
    }

    #[test]
    fn reads_what_is_written_and_hides_the_password() {
        let error = serde_json::from_str::<RawPostgresConfig>(r#"{"hots": "db"}"#).unwrap_err();
        assert!(error.to_string().contains("`hots`"));
        let raw: RawPostgresConfig =
            serde_json::from_str(r#"{"host": "::1", "password": "hunter2", "tls": "verify-full"}"#).unwrap();
        let config = PostgresConfig::try_from(raw.clone()).unwrap();
        assert_eq!(config.tls, PostgresTls::VerifyFull);
        for shown in [format!("{raw:?}"), format!("{config:?}")] {
            assert!(!shown.contains("hunter2"));
        }
    }
}
