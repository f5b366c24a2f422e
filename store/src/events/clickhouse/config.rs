//! `[clickhouse]`: address and settings of the server.

use std::{ops::RangeInclusive, time::Duration};

use event::settings::{OutOfRange, Secret, number};
use serde::Deserialize;

use crate::server::{self, InvalidHost, NotPem};

/// Ports of the server's HTTP interface, without and with TLS: the server's own defaults.
const PORT: u16 = 8123;
const SECURE_PORT: u16 = 8443;

/// Twenty years: more amounts to no limit. The server computes expiry times in seconds of 32 bits, which end in 2106: it takes
/// a day beyond that for one long past, and drops everything.
const TTL_DAYS: RangeInclusive<u64> = 1..=7_300;

/// From a fast response within a rack to a slow one around the world.
const CONNECT_TIMEOUT_MS: RangeInclusive<u64> = 10..=8_000;

/// Long enough for one query about a person, short enough to notice a server that hangs.
const REQUEST_TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=600;

/// `[clickhouse]` as written in the configuration. All keys are optional; without `host` the embedded store is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawClickHouseConfig {
    /// Name or address of the server, without scheme and port.
    pub host: Option<String>,
    /// Port of its HTTP interface. Default 8123, with `secure` 8443.
    pub port: Option<u16>,
    /// The database, created if it is missing. Default `sendflowr`.
    pub database: String,
    /// The user. Default `default`.
    pub user: String,
    /// The user's password. Default: none.
    pub password: Secret,
    /// Whether to use HTTPS. Default `false`.
    pub secure: bool,
    /// CA certificates, PEM, that the server is verified against instead of the system's. Requires `secure`. Default: the
    /// system's.
    pub ca: Option<String>,
    /// Whether bodies are compressed with LZ4. Default `true`: it costs less than sending ten times as much.
    pub compression: bool,
    /// Days after which events and sending times are dropped, as set up by the consumer. 1 to 7,300. Default: never.
    /// Explanations are dropped after 90 days, or after this number of days if it is lower.
    pub ttl_days: Option<u64>,
    /// Longest wait for a connection. 10 to 8,000, default 3,000: two lost packets are retransmitted within it.
    pub connect_timeout_ms: u64,
    /// Longest wait for a response. 1 to 600, default 30: a write takes milliseconds, counting everything takes seconds.
    pub request_timeout_seconds: u64,
}

impl Default for RawClickHouseConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: None,
            database: "sendflowr".to_owned(),
            user: "default".to_owned(),
            password: Secret::default(),
            secure: false,
            ca: None,
            compression: true,
            ttl_days: None,
            connect_timeout_ms: 3_000,
            request_timeout_seconds: 30,
        }
    }
}

/// Validated configuration of the ClickHouse event store.
#[derive(Debug, Clone)]
pub struct ClickHouseConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) secure: bool,
    pub(super) ca: Option<String>,
    pub(super) compression: bool,
    pub(super) ttl_days: Option<u64>,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
}

impl ClickHouseConfig {
    /// Returns the address of the HTTP interface.
    pub(super) fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}/", self.address())
    }

    /// Returns host and port, for messages.
    pub fn address(&self) -> String {
        server::address(&self.host, self.port)
    }
}

/// A key of `[clickhouse]` has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidClickHouseConfig {
    /// No host is set, or it is more than a name or address.
    #[error(transparent)]
    Host(#[from] InvalidHost),
    /// The name of the database would have to be quoted.
    #[error("`clickhouse.database` is `{0}`, it must be 1 to 64 letters, digits and `_`, not a digit first")]
    Database(String),
    /// The user is empty.
    #[error("`clickhouse.user` is empty")]
    User,
    /// CA certificates are set without TLS.
    #[error("`clickhouse.ca` is set, but `clickhouse.secure` is not, so nothing would be checked")]
    CaWithoutTls,
    /// The CA certificates are not PEM text.
    #[error(transparent)]
    NotPem(#[from] NotPem),
    /// A number is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

impl TryFrom<RawClickHouseConfig> for ClickHouseConfig {
    type Error = InvalidClickHouseConfig;

    fn try_from(raw: RawClickHouseConfig) -> Result<Self, InvalidClickHouseConfig> {
        let host = server::host("clickhouse", raw.host)?;
        let database = raw.database;
        let is_identifier = database.len() <= 64
            && database.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && database
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_identifier {
            return Err(InvalidClickHouseConfig::Database(database));
        }
        if raw.user.is_empty() {
            return Err(InvalidClickHouseConfig::User);
        }
        if raw.ca.is_some() && !raw.secure {
            return Err(InvalidClickHouseConfig::CaWithoutTls);
        }
        server::pem("clickhouse", "ca", server::CERTIFICATE, raw.ca.as_deref())?;
        if let Some(days) = raw.ttl_days {
            number::<u64, u64>("clickhouse", "ttl_days", days, TTL_DAYS)?;
        }
        let connect_ms = number(
            "clickhouse",
            "connect_timeout_ms",
            raw.connect_timeout_ms,
            CONNECT_TIMEOUT_MS,
        )?;
        let request_seconds = number(
            "clickhouse",
            "request_timeout_seconds",
            raw.request_timeout_seconds,
            REQUEST_TIMEOUT_SECONDS,
        )?;
        Ok(Self {
            host,
            port: raw.port.unwrap_or(if raw.secure { SECURE_PORT } else { PORT }),
            database,
            user: raw.user,
            password: raw.password,
            secure: raw.secure,
            ca: raw.ca,
            compression: raw.compression,
            ttl_days: raw.ttl_days,
            connect_timeout: Duration::from_millis(connect_ms),
            request_timeout: Duration::from_secs(request_seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> RawClickHouseConfig {
        RawClickHouseConfig {
            host: Some(host.to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn the_port_follows_from_tls() {
        let config = ClickHouseConfig::try_from(with_host("db.example")).unwrap();
        assert_eq!(config.url(), "http://db.example:8123/");
        let secure = RawClickHouseConfig {
            secure: true,
            ..with_host("::1")
        };
        let config = ClickHouseConfig::try_from(secure).unwrap();
        assert_eq!(config.url(), "https://[::1]:8443/");
    }

    #[test]
    fn names_the_key_that_cannot_work() {
        let error = |raw: RawClickHouseConfig| ClickHouseConfig::try_from(raw).unwrap_err().to_string();
        assert_eq!(
            error(RawClickHouseConfig::default()),
            "`clickhouse.host` is not set"
        );
        for host in ["", "http://db", "db:8123", "db/x", "a b"] {
            assert_eq!(
                error(with_host(host)),
                "`clickhouse.host` must be a name or an address alone: the port goes into `clickhouse.port`, user and password into keys \
                 of their own"
            );
        }
        for database in ["", "1db", "a-b", "a`b", &"x".repeat(65)] {
            let raw = RawClickHouseConfig {
                database: database.to_owned(),
                ..with_host("db")
            };
            assert!(error(raw).starts_with("`clickhouse.database` is"));
        }
        let raw = RawClickHouseConfig {
            ttl_days: Some(0),
            ..with_host("db")
        };
        assert_eq!(
            error(raw),
            "`clickhouse.ttl_days` is 0, it must be between 1 and 7300"
        );
        let raw = RawClickHouseConfig {
            connect_timeout_ms: 9_000,
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`clickhouse.connect_timeout_ms` is 9000"));
        let raw = RawClickHouseConfig {
            ca: Some(String::new()),
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`clickhouse.ca` is set"));
        let raw = RawClickHouseConfig {
            secure: true,
            ca: Some("/etc/ssl/clickhouse.pem".to_owned()),
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`clickhouse.ca` has no `-----BEGIN CERTIFICATE-----`"));
    }

    #[test]
    fn refuses_unknown_keys_and_hides_the_password() {
        let error = serde_json::from_str::<RawClickHouseConfig>(r#"{"hots": "db"}"#).unwrap_err();
        assert!(error.to_string().contains("`hots`"));
        let raw: RawClickHouseConfig =
            serde_json::from_str(r#"{"host": "db", "password": "hunter2"}"#).unwrap();
        let config = ClickHouseConfig::try_from(raw.clone()).unwrap();
        assert_eq!(config.password.expose(), "hunter2");
        for shown in [format!("{raw:?}"), format!("{config:?}")] {
            assert!(!shown.contains("hunter2"));
        }
    }
}
