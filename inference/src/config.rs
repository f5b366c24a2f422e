//! The service's settings: parsed as [`RawInferenceConfig`], checked when converted to [`InferenceConfig`].

mod experiment;
mod latency;
mod policy;

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use event::settings::{OutOfRange, Secret, number};
use listener::{Access, InvalidAccess, InvalidTls, Limits, RawTlsConfig, RawTokens, TlsConfig};
use serde::Deserialize;

use self::policy::MAX_BREAKER_SECONDS;
pub use self::{
    experiment::{ExperimentConfig, RawExperimentConfig},
    latency::{LatencyConfig, RawLatencyConfig},
    policy::{HotPath, PolicyConfig, RawBreakersConfig, RawHotPath, RawHotPathsConfig},
};

/// The section `[inference]` as written in the configuration. Unknown keys are errors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawInferenceConfig {
    /// Address to listen on. Default `127.0.0.1:8001`.
    pub listen: Option<SocketAddr>,
    /// Token that every route except `/`, `/health`, `/ready` and the API's description requires as `Authorization: Bearer …`;
    /// 16 or more characters. Of several, separated by white space, each is accepted. Default: none, which is accepted on
    /// loopback only.
    pub token: Option<Secret>,
    /// Another token, which `/metrics` alone accepts besides; needs `token`. Default: none.
    pub metrics_token: Option<Secret>,
    /// Whether those routes may be open to everybody who can reach the address. Default `false`.
    pub allow_anonymous: bool,
    /// `[inference.tls]`: certificate and key to serve HTTPS with. Default: HTTP.
    pub tls: RawTlsConfig,
    /// Folder that keeps fitted population tables across restarts. Default: `model` in the data folder.
    pub model_folder: Option<PathBuf>,
    /// Seconds between two fits of the population tables. 1 to 31,536,000, default 86,400.
    pub refit_interval_seconds: Option<u64>,
    /// Maximum number of people that a fit learns from. 1 to 1,000,000, default 5,000.
    pub training_people: Option<usize>,
    /// How many seconds of a person's history count, at least as long as every breaker: a rebuilt profile contains nothing
    /// older. 86,400 to 315,360,000. Default 31,536,000 (a year).
    pub history_seconds: Option<u64>,
    /// Newest events that are read when a profile has to be rebuilt. 1 to 100,000, default 2,000.
    pub history_events: Option<usize>,
    /// Seconds for which a person's ids are cached. 0 to 3,600, default 5.
    pub person_cache_seconds: Option<u64>,
    /// Milliseconds for which a rebuilt profile is cached. 0 to 60,000, default 1,500.
    pub rebuilt_profile_cache_ms: Option<u64>,
    /// Curves kept in memory. 1 to 100,000, default 512.
    pub curve_cache_entries: Option<usize>,
    /// Largest request body in bytes, batches excepted. 1,024 to 67,108,864, default 1,048,576.
    pub max_body_bytes: Option<usize>,
    /// Milliseconds after which a request times out. 100 to 600,000, default 10,000.
    pub request_timeout_ms: Option<u64>,
    /// Milliseconds after the signal to stop in which questions are still answered while `/ready` answers 503, so that a load
    /// balancer sends the next ones elsewhere. 0 to 5,000. Default 0: the listener is closed at once.
    pub stop_delay_ms: Option<u64>,
    /// Explanations that may wait to be stored before decisions have to wait. 1 to 1,000,000, default 4,096.
    pub explanation_queue: Option<usize>,
    /// `[inference.capacity_per_minute]`: how many mails a provider takes per minute, by its slug (`sendgrid = 6000`), 1 to
    /// 10,000,000; a batch is spread over the minutes accordingly. Default: no limit.
    pub capacity_per_minute: BTreeMap<String, u32>,
    /// `[inference.latency]`.
    pub latency: RawLatencyConfig,
    /// `[inference.hot_paths]`.
    pub hot_paths: RawHotPathsConfig,
    /// `[inference.breakers]`.
    pub breakers: RawBreakersConfig,
    /// `[inference.experiment]`.
    pub experiment: RawExperimentConfig,
}

impl RawInferenceConfig {
    /// Returns how many seconds back decisions read events, and the key that says so. Where events are removed earlier, the same
    /// question gets another answer as soon as a profile has to be rebuilt.
    pub fn reads_back(&self) -> (&'static str, u64) {
        let history = self.history_seconds.unwrap_or(HISTORY_SECONDS);
        let window = self.latency.window_seconds.unwrap_or(latency::WINDOW_SECONDS);
        if window > history {
            ("inference.latency.window_seconds", window)
        } else {
            ("inference.history_seconds", history)
        }
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct InferenceConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Who may call the API.
    pub access: Access,
    /// HTTPS, if configured.
    pub tls: Option<TlsConfig>,
    /// Limits of connections and of shutdown.
    pub limits: Limits,
    /// Folder of fitted population tables; `None` keeps them in memory only.
    pub model_folder: Option<PathBuf>,
    /// Time between two fits of the population tables.
    pub refit_interval: Duration,
    /// Maximum number of people that a fit learns from.
    pub training_people: usize,
    /// How far back a person's history is read.
    pub history: Duration,
    /// Newest events read to rebuild a profile.
    pub history_events: usize,
    /// How long a person's ids are cached.
    pub person_cache: Duration,
    /// How long a rebuilt profile is cached.
    pub rebuilt_profile_cache: Duration,
    /// Curves kept in memory.
    pub curve_cache_entries: usize,
    /// Largest request body in bytes, batches excepted.
    pub max_body_bytes: usize,
    /// Time limit of a request.
    pub request_timeout: Duration,
    /// Explanations that may wait to be stored.
    pub explanation_queue: usize,
    /// How many mails each provider takes per minute, by its slug.
    pub capacity_per_minute: BTreeMap<String, u32>,
    /// The delay between trigger and delivery.
    pub latency: LatencyConfig,
    /// How decisions use signals.
    pub policy: PolicyConfig,
    /// Control group and exploration; `None` if they are switched off.
    pub experiment: Option<ExperimentConfig>,
}

/// A setting of `[inference]` is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// A number outside its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// An address beyond loopback without a token, or an invalid token.
    #[error(transparent)]
    Access(#[from] InvalidAccess),
    /// A certificate that cannot be used.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
    /// A breaker that reaches further back than a rebuilt profile.
    #[error(
        "`inference.history_seconds` must be at least {seconds}, the value of `inference.breakers.{breaker}`: a person's profile \
         that is rebuilt from the event store would lack the signal; raise `inference.history_seconds`"
    )]
    HistoryTooShort {
        /// The breaker's key.
        breaker: &'static str,
        /// Its duration.
        seconds: u64,
    },
}

/// A year has each season and each holiday once.
const HISTORY_SECONDS: u64 = 365 * 86_400;

/// Longest history: that of the longest breaker.
const MAX_HISTORY_SECONDS: u64 = MAX_BREAKER_SECONDS;

/// Highest capacity in mails per minute: no provider takes as many, so a higher number is probably a typing error.
pub(crate) const MAX_CAPACITY: u32 = 10_000_000;

/// Ranges of the remaining settings. The minimums are the smallest values that work; the maximums prevent a typing error from
/// using up the machine's memory and are far beyond any useful value.
const REFIT_SECONDS: RangeInclusive<u64> = 1..=365 * 86_400;
/// Each person takes 4 kB or more while tables are fitted.
const TRAINING_PEOPLE: RangeInclusive<usize> = 1..=1_000_000;
/// Each event takes some hundred bytes while a profile is rebuilt.
const HISTORY_EVENTS: RangeInclusive<usize> = 1..=100_000;
/// At the maximum, it takes up to an hour until two people who were linked are treated as one.
const PERSON_CACHE_SECONDS: RangeInclusive<u64> = 0..=3_600;
/// At the maximum, it takes up to a minute until new events of a person count.
const REBUILT_PROFILE_CACHE_MS: RangeInclusive<u64> = 0..=60_000;
const CURVE_CACHE_ENTRIES: RangeInclusive<usize> = 1..=100_000;
/// The minimum is enough for an ordinary request without long lists.
const BODY_BYTES: RangeInclusive<usize> = 1_024..=64 * 1024 * 1024;
/// From the time of a few round trips to longer than any caller waits.
const REQUEST_TIMEOUT_MS: RangeInclusive<u64> = 100..=600_000;
/// What the time of open requests leaves of `Limits::LONGEST_STOP`.
const STOP_DELAY_MS: RangeInclusive<u64> = 0..=5_000;
const EXPLANATION_QUEUE: RangeInclusive<usize> = 1..=1_000_000;
/// Checks a count of `[inference]`.
fn count(
    key: &str,
    value: Option<usize>,
    default: usize,
    range: RangeInclusive<usize>,
) -> Result<usize, OutOfRange> {
    number("inference", key, value.unwrap_or(default), range)
}

/// Checks a duration of `[inference]` in seconds.
fn seconds(
    key: &str,
    value: Option<u64>,
    default: u64,
    range: RangeInclusive<u64>,
) -> Result<Duration, OutOfRange> {
    number("inference", key, value.unwrap_or(default), range).map(Duration::from_secs)
}

/// Checks a duration of `[inference]` in milliseconds.
fn millis(
    key: &str,
    value: Option<u64>,
    default: u64,
    range: RangeInclusive<u64>,
) -> Result<Duration, OutOfRange> {
    number("inference", key, value.unwrap_or(default), range).map(Duration::from_millis)
}

impl TryFrom<RawInferenceConfig> for InferenceConfig {
    type Error = InvalidConfig;

    fn try_from(raw: RawInferenceConfig) -> Result<Self, InvalidConfig> {
        let listen = raw.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8001)));
        let history = seconds(
            "history_seconds",
            raw.history_seconds,
            HISTORY_SECONDS,
            86_400..=MAX_HISTORY_SECONDS,
        )?;
        let policy = PolicyConfig::try_new(raw.hot_paths, &raw.breakers)?;
        let (breaker, longest) = policy.longest_breaker();
        if longest > history {
            return Err(InvalidConfig::HistoryTooShort {
                breaker,
                seconds: longest.as_secs(),
            });
        }
        Ok(Self {
            listen,
            access: Access::try_new(
                "inference",
                "token",
                listen,
                RawTokens {
                    token: raw.token,
                    metrics_token: raw.metrics_token,
                },
                raw.allow_anonymous,
            )?,
            tls: TlsConfig::try_new("inference", raw.tls)?,
            limits: Limits {
                stop_delay: millis("stop_delay_ms", raw.stop_delay_ms, 0, STOP_DELAY_MS)?,
                ..Limits::default()
            },
            model_folder: raw.model_folder,
            refit_interval: seconds(
                "refit_interval_seconds",
                raw.refit_interval_seconds,
                86_400,
                REFIT_SECONDS,
            )?,
            training_people: count("training_people", raw.training_people, 5_000, TRAINING_PEOPLE)?,
            history,
            history_events: count("history_events", raw.history_events, 2_000, HISTORY_EVENTS)?,
            person_cache: seconds(
                "person_cache_seconds",
                raw.person_cache_seconds,
                5,
                PERSON_CACHE_SECONDS,
            )?,
            rebuilt_profile_cache: millis(
                "rebuilt_profile_cache_ms",
                raw.rebuilt_profile_cache_ms,
                1_500,
                REBUILT_PROFILE_CACHE_MS,
            )?,
            curve_cache_entries: count(
                "curve_cache_entries",
                raw.curve_cache_entries,
                512,
                CURVE_CACHE_ENTRIES,
            )?,
            max_body_bytes: count("max_body_bytes", raw.max_body_bytes, 1024 * 1024, BODY_BYTES)?,
            request_timeout: millis(
                "request_timeout_ms",
                raw.request_timeout_ms,
                10_000,
                REQUEST_TIMEOUT_MS,
            )?,
            explanation_queue: count(
                "explanation_queue",
                raw.explanation_queue,
                4_096,
                EXPLANATION_QUEUE,
            )?,
            capacity_per_minute: capacities(raw.capacity_per_minute)?,
            latency: raw.latency.check()?,
            experiment: raw.experiment.check()?,
            policy,
        })
    }
}

fn capacities(raw: BTreeMap<String, u32>) -> Result<BTreeMap<String, u32>, OutOfRange> {
    let mut capacities = BTreeMap::new();
    for (esp, per_minute) in raw {
        let key = format!("capacity_per_minute.{esp}");
        let per_minute = number("inference", &key, per_minute, 1..=MAX_CAPACITY)?;
        // Provider names in requests are case-insensitive.
        capacities.insert(esp.to_ascii_lowercase(), per_minute);
    }
    Ok(capacities)
}

impl Default for InferenceConfig {
    fn default() -> Self {
        Self::try_from(RawInferenceConfig::default()).expect("the defaults are within their ranges")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_key() {
        let error = |raw: RawInferenceConfig| InferenceConfig::try_from(raw).unwrap_err().to_string();
        let latency = RawLatencyConfig {
            quantile: Some(1.0),
            ..RawLatencyConfig::default()
        };
        assert_eq!(
            error(RawInferenceConfig {
                latency,
                ..RawInferenceConfig::default()
            }),
            "`inference.latency.quantile` is 1, it must be between 0.01 and 0.99"
        );
        let hot_paths = RawHotPathsConfig {
            sms_click: Some(RawHotPath {
                weight: f64::NAN,
                half_life_seconds: 1,
            }),
            ..RawHotPathsConfig::default()
        };
        assert_eq!(
            error(RawInferenceConfig {
                hot_paths,
                ..RawInferenceConfig::default()
            }),
            "`inference.hot_paths.sms_click.weight` is NaN, it must be between 0 and 10"
        );
        let experiment = RawExperimentConfig {
            control_share: Some(0.51),
            ..RawExperimentConfig::default()
        };
        assert_eq!(
            error(RawInferenceConfig {
                experiment,
                ..RawInferenceConfig::default()
            }),
            "`inference.experiment.control_share` is 0.51, it must be between 0 and 0.5"
        );
        assert_eq!(
            error(RawInferenceConfig {
                capacity_per_minute: BTreeMap::from([("sendgrid".to_owned(), 0)]),
                ..RawInferenceConfig::default()
            }),
            "`inference.capacity_per_minute.sendgrid` is 0, it must be between 1 and 10000000"
        );
        assert_eq!(
            error(RawInferenceConfig {
                training_people: Some(0),
                ..RawInferenceConfig::default()
            }),
            "`inference.training_people` is 0, it must be between 1 and 1000000"
        );
    }

    #[test]
    fn every_number_has_bounds() {
        fn refusal(change: impl FnOnce(&mut RawInferenceConfig)) -> String {
            let mut raw = RawInferenceConfig::default();
            change(&mut raw);
            InferenceConfig::try_from(raw).unwrap_err().to_string()
        }
        let path = |half_life_seconds| {
            Some(RawHotPath {
                weight: 1.0,
                half_life_seconds,
            })
        };
        for (key, error) in [
            (
                "refit_interval_seconds",
                refusal(|raw| raw.refit_interval_seconds = Some(0)),
            ),
            (
                "training_people",
                refusal(|raw| raw.training_people = Some(usize::MAX)),
            ),
            (
                "history_events",
                refusal(|raw| raw.history_events = Some(usize::MAX)),
            ),
            (
                "person_cache_seconds",
                refusal(|raw| raw.person_cache_seconds = Some(u64::MAX)),
            ),
            (
                "rebuilt_profile_cache_ms",
                refusal(|raw| raw.rebuilt_profile_cache_ms = Some(60_001)),
            ),
            (
                "curve_cache_entries",
                refusal(|raw| raw.curve_cache_entries = Some(usize::MAX)),
            ),
            (
                "max_body_bytes",
                refusal(|raw| raw.max_body_bytes = Some(usize::MAX)),
            ),
            (
                "request_timeout_ms",
                refusal(|raw| raw.request_timeout_ms = Some(0)),
            ),
            (
                "explanation_queue",
                refusal(|raw| raw.explanation_queue = Some(usize::MAX)),
            ),
            (
                "latency.refresh_seconds",
                refusal(|raw| raw.latency.refresh_seconds = Some(0)),
            ),
            (
                "hot_paths.site_visit.half_life_seconds",
                refusal(|raw| raw.hot_paths.site_visit = path(u64::MAX)),
            ),
        ] {
            assert!(
                error.starts_with(&format!("`inference.{key}` is "))
                    && error.contains(", it must be between "),
                "{key}: {error}"
            );
        }
    }

    #[test]
    fn no_breaker_outlasts_what_a_profile_is_made_again_from() {
        let raw = |history_seconds, hard_bounce_seconds| RawInferenceConfig {
            history_seconds,
            breakers: RawBreakersConfig {
                hard_bounce_seconds: Some(hard_bounce_seconds),
                ..RawBreakersConfig::default()
            },
            ..RawInferenceConfig::default()
        };
        const YEAR: u64 = 365 * 86_400;
        let error = InferenceConfig::try_from(raw(None, 2 * YEAR))
            .unwrap_err()
            .to_string();
        for part in [
            "`inference.history_seconds` must be at least 63072000",
            "`inference.breakers.hard_bounce_seconds`",
            "raise `inference.history_seconds`",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(InferenceConfig::try_from(raw(None, YEAR)).is_ok());
        assert!(InferenceConfig::try_from(raw(Some(MAX_HISTORY_SECONDS), MAX_BREAKER_SECONDS)).is_ok());
        // The default breakers count too.
        let error = InferenceConfig::try_from(raw(Some(86_400), 0))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`inference.breakers.unsubscribed_seconds`"),
            "{error}"
        );
    }
}
