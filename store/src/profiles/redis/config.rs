//! `[redis]`: address and settings of the server.

use std::{ops::RangeInclusive, time::Duration};

use event::settings::{OutOfRange, Secret, number};
use serde::Deserialize;

use crate::server::{self, InvalidHost, NotPem};

/// The server's own default port, with and without TLS.
const PORT: u16 = 6379;

/// Databases that a server may have: Redis itself has no limit other than the range of the number.
const DATABASES: RangeInclusive<u64> = 0..=i32::MAX as u64;

/// Below an hour most decisions would have to read events; ten years is as good as forever.
const TTL_SECONDS: RangeInclusive<u64> = 3_600..=315_360_000;

/// From a server on the same machine to one that is far away.
const RESPONSE_TIMEOUT_MS: RangeInclusive<u64> = 5..=10_000;

/// `[redis]` as written in the configuration. All keys are optional; without `host` profiles are kept in memory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRedisConfig {
    /// Name or address of the server, without scheme and port.
    pub host: Option<String>,
    /// Its port. Default 6379.
    pub port: u16,
    /// The user, if the server has several. Default: the server's default user.
    pub user: Option<String>,
    /// The password. Default: none.
    pub password: Secret,
    /// Number of the database. Default 0.
    pub database: u64,
    /// Whether to use TLS. Default `false`.
    pub secure: bool,
    /// CA certificates, PEM, that the server is verified against instead of the system's. Requires `secure`. Default: the
    /// system's.
    pub ca: Option<String>,
    /// Prefix of the keys: letters, digits and `:._-`. Default `sendflowr:profile:`.
    pub key_prefix: String,
    /// Seconds after its last change at which a profile is dropped. 3,600 to 315,360,000, default 3,024,000 (35 days): long
    /// enough to outlive the month between two newsletters; the profile of a person who got no mail for longer is rebuilt from
    /// few events.
    pub ttl_seconds: u64,
    /// Longest wait for a response. 5 to 10,000, default 100: a response takes well below a millisecond, a full round trip on a
    /// slow network about ten, and the alternative, reading the events, no longer than this.
    pub response_timeout_ms: u64,
}

impl Default for RawRedisConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: PORT,
            user: None,
            password: Secret::default(),
            database: 0,
            secure: false,
            ca: None,
            key_prefix: "sendflowr:profile:".to_owned(),
            ttl_seconds: 35 * 24 * 60 * 60,
            response_timeout_ms: 100,
        }
    }
}

/// Validated configuration of the Redis profile store.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: Option<String>,
    pub(super) password: Secret,
    pub(super) database: i64,
    pub(super) secure: bool,
    pub(super) ca: Option<String>,
    pub(super) key_prefix: String,
    pub(super) ttl: Duration,
    pub(super) response_timeout: Duration,
}

impl RedisConfig {
    /// Returns host and port, for messages.
    pub fn address(&self) -> String {
        server::address(&self.host, self.port)
    }
}

/// A key of `[redis]` has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRedisConfig {
    /// No host is set, or it is more than a name or address.
    #[error(transparent)]
    Host(#[from] InvalidHost),
    /// A user without a password cannot authenticate.
    #[error("`redis.user` is set, but `redis.password` is not")]
    UserWithoutPassword,
    /// CA certificates are set without TLS.
    #[error("`redis.ca` is set, but `redis.secure` is not, so nothing would be checked")]
    CaWithoutTls,
    /// The prefix is empty, too long, or contains characters that a key search would interpret.
    #[error("`redis.key_prefix` is `{0}`, it must be 1 to 64 letters, digits and `:._-`")]
    KeyPrefix(String),
    /// The CA certificates are not PEM text.
    #[error(transparent)]
    NotPem(#[from] NotPem),
    /// A number is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

impl TryFrom<RawRedisConfig> for RedisConfig {
    type Error = InvalidRedisConfig;

    fn try_from(raw: RawRedisConfig) -> Result<Self, InvalidRedisConfig> {
        let host = server::host("redis", raw.host)?;
        if raw.user.is_some() && raw.password.is_empty() {
            return Err(InvalidRedisConfig::UserWithoutPassword);
        }
        if raw.ca.is_some() && !raw.secure {
            return Err(InvalidRedisConfig::CaWithoutTls);
        }
        server::pem("redis", "ca", server::CERTIFICATE, raw.ca.as_deref())?;
        let is_plain = (1..=64).contains(&raw.key_prefix.len())
            && raw
                .key_prefix
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b":._-".contains(&byte));
        if !is_plain {
            return Err(InvalidRedisConfig::KeyPrefix(raw.key_prefix));
        }
        let database = number("redis", "database", raw.database, DATABASES)?;
        let ttl_seconds = number("redis", "ttl_seconds", raw.ttl_seconds, TTL_SECONDS)?;
        let response_ms = number(
            "redis",
            "response_timeout_ms",
            raw.response_timeout_ms,
            RESPONSE_TIMEOUT_MS,
        )?;
        Ok(Self {
            host,
            port: raw.port,
            user: raw.user,
            password: raw.password,
            database,
            secure: raw.secure,
            ca: raw.ca,
            key_prefix: raw.key_prefix,
            ttl: Duration::from_secs(ttl_seconds),
            response_timeout: Duration::from_millis(response_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> RawRedisConfig {
        RawRedisConfig {
            host: Some(host.to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn names_the_key_that_cannot_work() {
        let error = |raw: RawRedisConfig| RedisConfig::try_from(raw).unwrap_err().to_string();
        assert_eq!(error(RawRedisConfig::default()), "`redis.host` is not set");
        for host in ["", "redis://db", "db:6379", "a b"] {
            assert_eq!(
                error(with_host(host)),
                "`redis.host` must be a name or an address alone: the port goes into `redis.port`, user and password into keys \
                 of their own"
            );
        }
        for prefix in ["", "a*", "a b", "[a]", &"x".repeat(65)] {
            let raw = RawRedisConfig {
                key_prefix: prefix.to_owned(),
                ..with_host("db")
            };
            assert!(error(raw).starts_with("`redis.key_prefix` is"));
        }
        let raw = RawRedisConfig {
            response_timeout_ms: 1,
            ..with_host("db")
        };
        assert_eq!(
            error(raw),
            "`redis.response_timeout_ms` is 1, it must be between 5 and 10000"
        );
        let raw = RawRedisConfig {
            user: Some("app".to_owned()),
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`redis.user` is set"));
        let raw = RawRedisConfig {
            ca: Some(String::new()),
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`redis.ca` is set"));
        let raw = RawRedisConfig {
            secure: true,
            ca: Some("/etc/ssl/redis.pem".to_owned()),
            ..with_host("db")
        };
        assert!(error(raw).starts_with("`redis.ca` has no `-----BEGIN CERTIFICATE-----`"));
    }

    #[test]
    fn refuses_unknown_keys_and_hides_the_password() {
        let error = serde_json::from_str::<RawRedisConfig>(r#"{"hots": "db"}"#).unwrap_err();
        assert!(error.to_string().contains("`hots`"));
        let raw: RawRedisConfig = serde_json::from_str(r#"{"host": "db", "password": "hunter2"}"#).unwrap();
        let config = RedisConfig::try_from(raw.clone()).unwrap();
        for shown in [format!("{raw:?}"), format!("{config:?}")] {
            assert!(!shown.contains("hunter2"));
        }
    }
}
