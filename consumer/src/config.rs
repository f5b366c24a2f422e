//! The `[consumer]` section: batches, retries, time-outs and memory.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use event::settings::{OutOfRange, Secret, number};
use ipnet::IpNet;
use listener::{Access, InvalidAccess, InvalidTls, RawTlsConfig, RawTokens, TlsConfig};
use serde::Deserialize;

use crate::events::IN_FLIGHT;

/// The `[consumer]` section as written in the configuration. Every key may be left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConsumerConfig {
    /// Address of `/health`, `/ready` and `/metrics`. Default `127.0.0.1:8002`; if all roles share a process, they are
    /// only served if this is set, because the other roles report the same.
    pub listen: Option<SocketAddr>,
    /// Token that `/metrics` requires as `Authorization: Bearer …`; 16 or more characters. Of several, separated by white space,
    /// each is accepted. Default: none, which is only accepted on loopback or with `allow_anonymous`.
    pub token: Option<Secret>,
    /// Another token, which `/metrics` accepts besides, as that of the other roles; needs `token`. Default: none.
    pub metrics_token: Option<Secret>,
    /// Whether `/metrics` may be open to everybody who can reach the address. Default `false`.
    pub allow_anonymous: bool,
    /// `[consumer.tls]`: certificate and key to serve HTTPS with. Default: HTTP.
    pub tls: RawTlsConfig,
    /// Maximum number of events in one write. 1 to 50,000, default 5,000: a backlog is processed twice as fast as with 1,000,
    /// and the four batches in flight take some 20 MB each.
    pub batch_events: usize,
    /// Longest time that an event waits for others to share its write. 1 to 10,000, default 700: ClickHouse prefers one insert
    /// a second to five, and with 200 a host on the same machine accepted a quarter fewer deliveries. A lone event does not
    /// wait this long: a batch is written when nothing more has come for a fifth of a second.
    pub batch_wait_ms: u64,
    /// First pause after a failed attempt. 1 to 60,000, default 100.
    pub retry_initial_ms: u64,
    /// Longest pause between attempts. At least `retry_initial_ms`, at most 600,000, default 30,000.
    pub retry_max_ms: u64,
    /// Longest wait for the profile store. 1 to 60,000, default 2,000: it is a cache and must not hold up events.
    pub profile_timeout_ms: u64,
    /// Number of entries kept in each of the memories of recent deliveries, visits, addresses and events. 1,000 to
    /// 10,000,000, default 100,000, which takes 60 to 120 MB when all are full. At least eight times `batch_events` are kept in
    /// any case: a batch is judged by what is in it and in the three before it, which may not be stored yet.
    pub memory_entries: usize,
    /// Networks from which mailboxes prefetch images, in CIDR form. Default: Apple's own network. Apple publishes
    /// its relay's other ranges at `https://mask-api.icloud.com/egress-ip-ranges.csv`.
    pub relay_ranges: Vec<String>,
}

impl Default for RawConsumerConfig {
    fn default() -> Self {
        Self {
            listen: None,
            token: None,
            metrics_token: None,
            allow_anonymous: false,
            tls: RawTlsConfig::default(),
            batch_events: 5_000,
            batch_wait_ms: 700,
            retry_initial_ms: 100,
            retry_max_ms: 30_000,
            profile_timeout_ms: 2_000,
            memory_entries: 100_000,
            relay_ranges: vec!["17.0.0.0/8".to_owned()],
        }
    }
}

/// Where the consumer's status is served by default: next to the inference service's 8001, on this machine only.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8002);

/// Validated configuration of the consumer.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// How its status is served.
    pub status: StatusConfig,
    /// Maximum number of events in one write.
    pub batch_events: usize,
    /// Longest time that an event waits for others.
    pub batch_wait: Duration,
    /// First pause after a failed attempt.
    pub retry_initial: Duration,
    /// Longest pause between attempts.
    pub retry_max: Duration,
    /// Longest wait for the profile store.
    pub profile_timeout: Duration,
    /// Number of entries kept in each memory.
    pub memory_entries: usize,
    /// Networks from which mailboxes prefetch images.
    pub relay_ranges: Vec<IpNet>,
}

/// How the consumer's status is served.
#[derive(Debug, Clone)]
pub struct StatusConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Who may read the metrics.
    pub access: Access,
    /// HTTPS, if it is configured.
    pub tls: Option<TlsConfig>,
}

impl ConsumerConfig {
    /// Returns the capacity of a memory that must not forget anything of the batches in flight, however small the configured
    /// memory is: what they bring cannot be looked up in a store yet. A memory is only sure to keep half of its capacity.
    pub(crate) fn entries(&self) -> usize {
        self.memory_entries.max(2 * IN_FLIGHT * self.batch_events)
    }
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self::try_from(RawConsumerConfig::default()).expect("the defaults are in range")
    }
}

/// A key of `[consumer]` has an invalid value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// An address beyond this machine without a token, or an unusable token.
    #[error(transparent)]
    Access(#[from] InvalidAccess),
    /// A certificate that cannot be used.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
    /// A number outside its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Text that is not a network.
    #[error(
        "`consumer.relay_ranges` contains `{0}`, which is not a network like `17.0.0.0/8` or `2001:db8::/32`"
    )]
    BadRange(String),
}

impl TryFrom<RawConsumerConfig> for ConsumerConfig {
    type Error = InvalidConfig;

    fn try_from(raw: RawConsumerConfig) -> Result<Self, InvalidConfig> {
        let count = |key: &str, value: usize, range| number("consumer", key, value, range);
        let millis =
            |key: &str, value: u64, range| number("consumer", key, value, range).map(Duration::from_millis);
        let mut relay_ranges = Vec::with_capacity(raw.relay_ranges.len());
        for range in raw.relay_ranges {
            relay_ranges.push(network(&range).ok_or(InvalidConfig::BadRange(range))?);
        }
        let listen = raw.listen.unwrap_or(DEFAULT_LISTEN);
        let tokens = RawTokens {
            token: raw.token,
            metrics_token: raw.metrics_token,
        };
        Ok(Self {
            status: StatusConfig {
                listen,
                access: Access::try_new("consumer", "token", listen, tokens, raw.allow_anonymous)?,
                tls: TlsConfig::try_new("consumer", raw.tls)?,
            },
            batch_events: count("batch_events", raw.batch_events, 1..=50_000)?,
            batch_wait: millis("batch_wait_ms", raw.batch_wait_ms, 1..=10_000)?,
            retry_initial: millis("retry_initial_ms", raw.retry_initial_ms, 1..=60_000)?,
            retry_max: millis("retry_max_ms", raw.retry_max_ms, raw.retry_initial_ms..=600_000)?,
            profile_timeout: millis("profile_timeout_ms", raw.profile_timeout_ms, 1..=60_000)?,
            memory_entries: count("memory_entries", raw.memory_entries, 1_000..=10_000_000)?,
            relay_ranges,
        })
    }
}

/// Parses `17.0.0.0/8` or `2001:db8::/32`; an address without a prefix length is a network of one address.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_key_that_cannot_work() {
        let error = |raw: RawConsumerConfig| ConsumerConfig::try_from(raw).unwrap_err().to_string();
        let raw = RawConsumerConfig {
            batch_events: 0,
            ..Default::default()
        };
        assert_eq!(
            error(raw),
            "`consumer.batch_events` is 0, it must be between 1 and 50000"
        );
        let raw = RawConsumerConfig {
            retry_initial_ms: 500,
            retry_max_ms: 100,
            ..Default::default()
        };
        assert_eq!(
            error(raw),
            "`consumer.retry_max_ms` is 100, it must be between 500 and 600000"
        );
        let raw = RawConsumerConfig {
            relay_ranges: vec!["17.0.0.0/33".into()],
            ..Default::default()
        };
        assert!(error(raw).contains("`17.0.0.0/33`"));
    }

    #[test]
    fn refuses_unknown_keys() {
        let error = serde_json::from_str::<RawConsumerConfig>(r#"{"batch_event": 5}"#).unwrap_err();
        assert!(error.to_string().contains("`batch_event`"));
    }

    #[test]
    fn networks_contain_what_shares_their_prefix() {
        let holds = |text: &str, address: &str| {
            let address: IpAddr = address.parse().unwrap();
            network(text).unwrap().contains(&address)
        };
        assert!(holds("17.0.0.0/8", "17.58.97.4"));
        assert!(holds("17.9.9.9/8", "17.58.97.4"));
        assert!(!holds("17.0.0.0/8", "18.0.0.1"));
        assert!(!holds("17.0.0.0/8", "1100::1"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("0.0.0.0/0", "255.1.2.3"));
        assert!(holds("192.0.2.1", "192.0.2.1"));
        assert!(!holds("192.0.2.1", "192.0.2.2"));
        for text in ["", "/", "x/8", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.4/8/8"] {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
