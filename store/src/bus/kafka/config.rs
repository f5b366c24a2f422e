//! `[kafka]`: addresses and settings of the brokers.

use std::{ops::RangeInclusive, time::Duration};

use event::settings::{self, OutOfRange, Secret};
use serde::Deserialize;

use crate::server::{self, NotPem};

const MIB: u64 = 1024 * 1024;

/// Kafka itself allows more, but each partition costs the cluster memory and file handles.
const PARTITIONS: RangeInclusive<u64> = 1..=1_000;

/// More replicas than this slow down every append without any benefit.
const REPLICATION_FACTOR: RangeInclusive<u64> = 1..=9;

/// From a broker in the same rack to callers who wait a minute. Timeouts are checked once a second, so that less than one
/// second would promise too much.
const DELIVERY_TIMEOUT_MS: RangeInclusive<u64> = 1_000..=60_000;

/// The heartbeats of the group protocol, three per session, must arrive in time; brokers accept 6 s to 30 min unless configured
/// otherwise.
const SESSION_TIMEOUT_MS: RangeInclusive<u64> = 6_000..=300_000;

/// From what every broker accepts to what fits into one response.
const MAX_RECORD_BYTES: RangeInclusive<u64> = MIB..=64 * MIB;

/// From a few deliveries to a considerable part of a machine's memory.
const QUEUE_BYTES: RangeInclusive<u64> = MIB..=1024 * MIB;

/// From a few batches to a considerable part of a machine's memory.
const FETCH_BYTES: RangeInclusive<u64> = MIB..=1024 * MIB;

/// Dead letters are kept for at least a minute, as by the embedded bus, and for at most ten years.
const RETENTION_SECONDS: RangeInclusive<u64> = 60..=315_360_000;

/// `[kafka]` as written in the configuration. All keys are optional; without `bootstrap_servers` the embedded bus is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawKafkaConfig {
    /// Some of the brokers, as `host:port` separated by commas; the client learns about the others from them.
    pub bootstrap_servers: Option<String>,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`. Default `plaintext`.
    pub security_protocol: String,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; required by the two `sasl_` protocols.
    pub sasl_mechanism: Option<String>,
    /// The user; required by the two `sasl_` protocols.
    pub sasl_username: Option<String>,
    /// The user's password.
    pub sasl_password: Secret,
    /// CA certificates, PEM, that the brokers are verified against instead of the system's. Default: the system's.
    pub ca: Option<String>,
    /// Certificate, PEM, with which this client authenticates itself to the brokers. Requires `client_key`. Default: none.
    pub client_certificate: Option<String>,
    /// The private key of `client_certificate`, PEM, not encrypted.
    pub client_key: Secret,
    /// `lz4`, `zstd` or `none`. Default `lz4`, which reduces JSON to a third of its size for hardly any processor time; `zstd`
    /// saves another third and costs about four times as much.
    pub compression: String,
    /// Number of partitions of a topic that has to be created, 1 to 1,000. Default 3. That many consumers can share the work;
    /// an existing topic is left as it is.
    pub partitions: u64,
    /// Number of replicas of a topic that has to be created, 1 to 9. Default: the brokers' configured default.
    pub replication_factor: Option<u64>,
    /// Longest wait for the brokers' acknowledgement. 1,000 to 60,000, default 4,000: the least patient providers hang up after
    /// 5 s, and a provider that is told to retry is better off than one that gets no response. Less than
    /// `host.request_timeout_ms`.
    pub delivery_timeout_ms: u64,
    /// Maximum number of bytes that may wait for acknowledgement; an append beyond that is refused at once. 1 MiB to 1 GiB,
    /// default 64 MiB: several seconds of traffic at 10,000 events per second.
    pub queue_bytes: u64,
    /// Maximum number of bytes that a reader fetches ahead. 1 MiB to 1 GiB, default 8 MiB: two batches of typical events. More
    /// was not faster and takes memory.
    pub fetch_bytes: u64,
    /// Maximum length of a record, also set on topics that have to be created. 1 MiB to 64 MiB, default 8 MiB: enough for a
    /// sealed dead letter of the largest delivery, 5 MiB, and commonly allowed by managed clusters. Raise it with
    /// `host.max_body_bytes`.
    pub max_record_bytes: u64,
    /// How long a reader that stops without leaving keeps its partitions. 6,000 to 300,000, default 10,000: three lost
    /// heartbeats. The brokers may restrict or extend that range.
    pub session_timeout_ms: u64,
    /// How long a dead-letter topic that has to be created keeps its records. 60 to 315,360,000, default 2,592,000 (30 days): a
    /// plugin has to be fixed before dead letters can be read again. Other topics keep records as long as the brokers are
    /// configured to.
    pub dead_letter_retention_seconds: u64,
}

impl Default for RawKafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: None,
            security_protocol: "plaintext".to_owned(),
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: Secret::default(),
            ca: None,
            client_certificate: None,
            client_key: Secret::default(),
            compression: "lz4".to_owned(),
            partitions: 3,
            replication_factor: None,
            delivery_timeout_ms: 4_000,
            queue_bytes: 64 * MIB,
            fetch_bytes: 8 * MIB,
            max_record_bytes: 8 * MIB,
            session_timeout_ms: 10_000,
            dead_letter_retention_seconds: 30 * 24 * 60 * 60,
        }
    }
}

/// Validated configuration of the Kafka bus.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    pub(super) bootstrap_servers: String,
    pub(super) sasl: Option<Sasl>,
    pub(super) tls: Option<Tls>,
    pub(super) compression: &'static str,
    pub(super) partitions: i32,
    /// -1 leaves the choice to the brokers.
    pub(super) replication_factor: i32,
    pub(super) delivery_timeout: Duration,
    pub(super) queue_bytes: usize,
    pub(super) fetch_bytes: usize,
    pub(super) max_record_bytes: usize,
    pub(super) session_timeout: Duration,
    pub(super) dead_letter_retention: Duration,
}

impl KafkaConfig {
    /// Returns the brokers that are contacted first, for messages.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }
}

/// How the client authenticates itself.
#[derive(Debug, Clone)]
pub(super) struct Sasl {
    pub(super) mechanism: &'static str,
    pub(super) username: String,
    pub(super) password: Secret,
}

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub(super) ca: Option<String>,
    pub(super) client: Option<ClientCertificate>,
}

/// The certificate and key with which the client authenticates itself.
#[derive(Debug, Clone)]
pub(super) struct ClientCertificate {
    pub(super) certificate: String,
    pub(super) key: Secret,
}

/// A key of `[kafka]` has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKafkaConfig {
    /// No brokers are set.
    #[error("`kafka.bootstrap_servers` is not set")]
    NoServers,
    /// The entry at this position, from 1, is not a broker. It is not repeated: somebody may have put a password there.
    #[error(
        "entry {0} of `kafka.bootstrap_servers` is not `host:port`: write several separated by commas, without a scheme, user \
         or password"
    )]
    Server(usize),
    /// A value is not one of the allowed words.
    #[error("`kafka.{key}` is `{value}`, it must be one of {allowed}")]
    Word {
        /// The key.
        key: &'static str,
        /// The configured value.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// A key is not set although another key requires it.
    #[error("`kafka.{missing}` is not set, but `kafka.{because}` requires it")]
    Missing {
        /// The key that is not set.
        missing: &'static str,
        /// The key that requires it.
        because: &'static str,
    },
    /// A key is set although it would have no effect.
    #[error("`kafka.{key}` is set, but `kafka.security_protocol` is `{protocol}`, so it would not be used")]
    Unused {
        /// The key.
        key: &'static str,
        /// The protocol.
        protocol: String,
    },
    /// A certificate or key is not PEM text.
    #[error(transparent)]
    NotPem(#[from] NotPem),
    /// A number is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

impl TryFrom<RawKafkaConfig> for KafkaConfig {
    type Error = InvalidKafkaConfig;

    fn try_from(raw: RawKafkaConfig) -> Result<Self, InvalidKafkaConfig> {
        let bootstrap_servers = raw
            .bootstrap_servers
            .clone()
            .ok_or(InvalidKafkaConfig::NoServers)?;
        if let Some(index) = bootstrap_servers.split(',').position(|server| !is_broker(server)) {
            return Err(InvalidKafkaConfig::Server(index + 1));
        }
        let (has_tls, has_sasl) = match raw.security_protocol.as_str() {
            "plaintext" => (false, false),
            "ssl" => (true, false),
            "sasl_plaintext" => (false, true),
            "sasl_ssl" => (true, true),
            _ => {
                return Err(InvalidKafkaConfig::Word {
                    key: "security_protocol",
                    value: raw.security_protocol,
                    allowed: "`plaintext`, `ssl`, `sasl_plaintext`, `sasl_ssl`",
                });
            }
        };
        let sasl = sasl(&raw, has_sasl)?;
        let tls = tls(&raw, has_tls)?;
        let compression = match raw.compression.as_str() {
            "lz4" => "lz4",
            "zstd" => "zstd",
            "none" => "none",
            _ => {
                return Err(InvalidKafkaConfig::Word {
                    key: "compression",
                    value: raw.compression,
                    allowed: "`lz4`, `zstd`, `none`",
                });
            }
        };
        let replication_factor = match raw.replication_factor {
            Some(replicas) => number("replication_factor", replicas, REPLICATION_FACTOR)?,
            None => -1,
        };
        let max_record_bytes = number("max_record_bytes", raw.max_record_bytes, MAX_RECORD_BYTES)?;
        Ok(Self {
            bootstrap_servers,
            sasl,
            tls,
            compression,
            partitions: number("partitions", raw.partitions, PARTITIONS)?,
            replication_factor,
            delivery_timeout: Duration::from_millis(number(
                "delivery_timeout_ms",
                raw.delivery_timeout_ms,
                DELIVERY_TIMEOUT_MS,
            )?),
            queue_bytes: number("queue_bytes", raw.queue_bytes, QUEUE_BYTES)?,
            fetch_bytes: number("fetch_bytes", raw.fetch_bytes, FETCH_BYTES)?,
            max_record_bytes,
            session_timeout: Duration::from_millis(number(
                "session_timeout_ms",
                raw.session_timeout_ms,
                SESSION_TIMEOUT_MS,
            )?),
            dead_letter_retention: Duration::from_secs(number(
                "dead_letter_retention_seconds",
                raw.dead_letter_retention_seconds,
                RETENTION_SECONDS,
            )?),
        })
    }
}

/// Returns whether `text` is `host:port`. Surrounding spaces are allowed.
fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.trim().rsplit_once(':') else {
        return false;
    };
    let host_is_clean = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']'));
    !host.is_empty() && host_is_clean && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn sasl(raw: &RawKafkaConfig, wanted: bool) -> Result<Option<Sasl>, InvalidKafkaConfig> {
    if !wanted {
        return match (&raw.sasl_mechanism, &raw.sasl_username) {
            (Some(_), _) => Err(unused("sasl_mechanism", raw)),
            (None, Some(_)) => Err(unused("sasl_username", raw)),
            (None, None) => Ok(None),
        };
    }
    let missing = |missing| InvalidKafkaConfig::Missing {
        missing,
        because: "security_protocol",
    };
    let mechanism = match raw.sasl_mechanism.as_deref() {
        Some("PLAIN") => "PLAIN",
        Some("SCRAM-SHA-256") => "SCRAM-SHA-256",
        Some("SCRAM-SHA-512") => "SCRAM-SHA-512",
        None => return Err(missing("sasl_mechanism")),
        Some(other) => {
            return Err(InvalidKafkaConfig::Word {
                key: "sasl_mechanism",
                value: other.to_owned(),
                allowed: "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`",
            });
        }
    };
    let username = raw.sasl_username.clone().unwrap_or_default();
    if username.is_empty() {
        return Err(missing("sasl_username"));
    }
    if raw.sasl_password.expose().is_empty() {
        return Err(missing("sasl_password"));
    }
    Ok(Some(Sasl {
        mechanism,
        username,
        password: raw.sasl_password.clone(),
    }))
}

fn tls(raw: &RawKafkaConfig, wanted: bool) -> Result<Option<Tls>, InvalidKafkaConfig> {
    if !wanted {
        return match (&raw.ca, &raw.client_certificate) {
            (Some(_), _) => Err(unused("ca", raw)),
            (None, Some(_)) => Err(unused("client_certificate", raw)),
            (None, None) => Ok(None),
        };
    }
    let has_key = !raw.client_key.expose().is_empty();
    let key = has_key.then(|| raw.client_key.expose());
    for (name, marker, text) in [
        ("ca", server::CERTIFICATE, raw.ca.as_deref()),
        (
            "client_certificate",
            server::CERTIFICATE,
            raw.client_certificate.as_deref(),
        ),
        ("client_key", server::PRIVATE_KEY, key),
    ] {
        server::pem("kafka", name, marker, text)?;
    }
    let client = match (&raw.client_certificate, has_key) {
        (Some(certificate), true) => Some(ClientCertificate {
            certificate: certificate.clone(),
            key: raw.client_key.clone(),
        }),
        (None, false) => None,
        (Some(_), false) => {
            return Err(InvalidKafkaConfig::Missing {
                missing: "client_key",
                because: "client_certificate",
            });
        }
        (None, true) => {
            return Err(InvalidKafkaConfig::Missing {
                missing: "client_certificate",
                because: "client_key",
            });
        }
    };
    Ok(Some(Tls {
        ca: raw.ca.clone(),
        client,
    }))
}

fn unused(key: &'static str, raw: &RawKafkaConfig) -> InvalidKafkaConfig {
    InvalidKafkaConfig::Unused {
        key,
        protocol: raw.security_protocol.clone(),
    }
}

/// Converts and range-checks a number of this section.
fn number<T: TryFrom<u64>>(
    key: &'static str,
    value: u64,
    range: RangeInclusive<u64>,
) -> Result<T, OutOfRange> {
    settings::number("kafka", key, value, range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_servers(servers: &str) -> RawKafkaConfig {
        RawKafkaConfig {
            bootstrap_servers: Some(servers.to_owned()),
            ..Default::default()
        }
    }

    fn error(raw: RawKafkaConfig) -> String {
        KafkaConfig::try_from(raw).unwrap_err().to_string()
    }

    #[test]
    fn brokers_are_named_with_their_ports() {
        for servers in [
            "kafka:9092",
            "a-1.example:1, b_2:65535",
            "[::1]:9092",
            "10.0.0.1:9092",
        ] {
            KafkaConfig::try_from(with_servers(servers)).unwrap();
        }
        assert_eq!(
            error(RawKafkaConfig::default()),
            "`kafka.bootstrap_servers` is not set"
        );
        for (servers, entry) in [
            ("", 1),
            ("kafka", 1),
            ("kafka:", 1),
            (":9092", 1),
            ("kafka:0", 1),
            ("kafka:99999", 1),
            ("a:1,", 2),
            ("PLAINTEXT://a:1", 1),
            ("a:1,sasl_ssl://alice:s3cret@b:9093,c:1", 2),
        ] {
            assert_eq!(
                error(with_servers(servers)),
                format!(
                    "entry {entry} of `kafka.bootstrap_servers` is not `host:port`: write several separated by commas, \
                     without a scheme, user or password"
                ),
                "{servers}"
            );
        }
    }

    #[test]
    fn names_the_key_that_cannot_work() {
        let with = |change: fn(&mut RawKafkaConfig)| {
            let mut raw = with_servers("kafka:9092");
            change(&mut raw);
            error(raw)
        };
        assert_eq!(
            with(|raw| raw.compression = "gzip".into()),
            "`kafka.compression` is `gzip`, it must be one of `lz4`, `zstd`, `none`"
        );
        assert!(
            with(|raw| raw.security_protocol = "tls".into())
                .starts_with("`kafka.security_protocol` is `tls`")
        );
        assert_eq!(
            with(|raw| raw.partitions = 0),
            "`kafka.partitions` is 0, it must be between 1 and 1000"
        );
        assert!(with(|raw| raw.replication_factor = Some(0)).starts_with("`kafka.replication_factor` is 0"));
        assert!(with(|raw| raw.delivery_timeout_ms = 10).starts_with("`kafka.delivery_timeout_ms` is 10"));
        assert!(with(|raw| raw.queue_bytes = u64::MAX).starts_with("`kafka.queue_bytes` is"));
        assert!(with(|raw| raw.fetch_bytes = 1).starts_with("`kafka.fetch_bytes` is 1"));
        assert!(with(|raw| raw.max_record_bytes = 1).starts_with("`kafka.max_record_bytes` is 1"));
        assert!(with(|raw| raw.session_timeout_ms = 1).starts_with("`kafka.session_timeout_ms` is 1"));
        assert!(
            with(|raw| raw.dead_letter_retention_seconds = 1)
                .starts_with("`kafka.dead_letter_retention_seconds` is 1")
        );
    }

    #[test]
    fn half_a_login_is_refused() {
        let login = RawKafkaConfig {
            security_protocol: "sasl_ssl".to_owned(),
            sasl_mechanism: Some("SCRAM-SHA-512".to_owned()),
            sasl_username: Some("sendflowr".to_owned()),
            sasl_password: Secret::new("hunter2"),
            ..with_servers("kafka:9093")
        };
        let config = KafkaConfig::try_from(login.clone()).unwrap();
        assert!(config.tls.is_some());
        assert_eq!(config.sasl.unwrap().mechanism, "SCRAM-SHA-512");
        let with = |change: fn(&mut RawKafkaConfig)| {
            let mut raw = login.clone();
            change(&mut raw);
            error(raw)
        };
        assert_eq!(
            with(|raw| raw.sasl_password = Secret::default()),
            "`kafka.sasl_password` is not set, but `kafka.security_protocol` requires it"
        );
        assert!(with(|raw| raw.sasl_username = None).starts_with("`kafka.sasl_username` is not set"));
        assert!(with(|raw| raw.sasl_mechanism = None).starts_with("`kafka.sasl_mechanism` is not set"));
        assert!(
            with(|raw| raw.sasl_mechanism = Some("GSSAPI".into()))
                .starts_with("`kafka.sasl_mechanism` is `GSSAPI`")
        );
        assert_eq!(
            with(|raw| raw.security_protocol = "plaintext".into()),
            "`kafka.sasl_mechanism` is set, but `kafka.security_protocol` is `plaintext`, so it would not be used"
        );
        assert!(
            with(|raw| raw.client_certificate = Some(server::CERTIFICATE.into()))
                .starts_with("`kafka.client_key` is not set")
        );
        assert_eq!(
            with(|raw| raw.ca = Some("/etc/ssl/kafka.pem".into())),
            "`kafka.ca` has no `-----BEGIN CERTIFICATE-----`: set it to PEM text, or `kafka.ca_file` to the name of a PEM \
             file"
        );
        let told = with(|raw| {
            raw.client_certificate = Some(server::CERTIFICATE.into());
            raw.client_key = Secret::new("hunter2");
        });
        assert!(told.starts_with("`kafka.client_key` has no `PRIVATE KEY-----`"));
        assert!(!told.contains("hunter2"), "{told}");
        assert!(
            with(|raw| {
                raw.security_protocol = "sasl_plaintext".into();
                raw.ca = Some("PEM".into());
            })
            .starts_with("`kafka.ca` is set")
        );
    }

    #[test]
    fn refuses_unknown_keys_and_hides_secrets() {
        let error = serde_json::from_str::<RawKafkaConfig>(r#"{"servers": "kafka:9092"}"#).unwrap_err();
        assert!(error.to_string().contains("`servers`"));
        let raw: RawKafkaConfig = serde_json::from_str(
            r#"{"bootstrap_servers": "kafka:9092", "security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN",
                "sasl_username": "u", "sasl_password": "hunter2", "client_certificate": "-----BEGIN CERTIFICATE-----",
                "client_key": "-----BEGIN PRIVATE KEY-----hunter2"}"#,
        )
        .unwrap();
        let config = KafkaConfig::try_from(raw.clone()).unwrap();
        for shown in [format!("{raw:?}"), format!("{config:?}")] {
            assert!(!shown.contains("hunter2"));
        }
    }
}
