//! The host's settings: parsed by [`RawHostConfig`], checked by [`HostConfig`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use event::settings::{OutOfRange, Secret, number};
use listener::{Access, InvalidAccess, InvalidTls, Limits, RawTlsConfig, RawTokens, TlsConfig};
use serde::Deserialize;

use crate::{
    accounts::{Accounts, InvalidAccount, RawAccounts},
    plugin::{
        DEFAULT_MAX_CONCURRENT_DELIVERIES, PluginsConfig, PluginsConfigError, RawPluginsConfig, waiting_of,
    },
    seal::{SealKeyError, Sealer},
};

/// The default listen address: the one in the providers' documentation, on the loopback interface only.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5215);

/// Default limit of a body's size. Providers send at most 3 MiB; SendGrid's batches stay below 800 KiB.
const DEFAULT_MAX_BODY_BYTES: usize = 5 * 1024 * 1024;

/// Range of the configurable body limit. The lower end holds any single event. A body is in memory up to three times,
/// once within the plugin's 64 MiB, which bounds the upper end.
const BODY_BYTES: RangeInclusive<usize> = 1024..=16 * 1024 * 1024;

/// `[host]` as written in the configuration. Every key may be left out; unknown keys are errors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHostConfig {
    /// Address to listen on. Default `127.0.0.1:5215`.
    pub listen: Option<SocketAddr>,
    /// Largest body in bytes, both as sent and after decompression. 1,024 to 16,777,216, default 5,242,880.
    pub max_body_bytes: Option<usize>,
    /// Milliseconds for a whole request. 100 to 120,000, default 15,000: providers give up after 5 to 30 s.
    pub request_timeout_ms: Option<u64>,
    /// Milliseconds within which a body must have arrived. 100 to 120,000, default 10,000.
    pub body_timeout_ms: Option<u64>,
    /// Milliseconds after the signal to stop in which deliveries are still taken while `/ready` answers 503, so that a load balancer
    /// sends the next ones elsewhere. 0 to 25,000, together with `drain_timeout_ms`. Default 0: the listener is closed at once.
    pub stop_delay_ms: Option<u64>,
    /// Milliseconds that open requests have to finish after that. 0 to 25,000, default 20,000: the process ends 30 s after the
    /// signal, whatever is still open.
    pub drain_timeout_ms: Option<u64>,
    /// Deliveries that may be in progress at once; further ones get a 503. 1 to 100,000, default 1,024, of which only a
    /// few are being processed at any time and the rest wait for the same flush.
    pub max_concurrent_deliveries: Option<usize>,
    /// Connections that may be open at once; further ones wait to be accepted. 1 to 100,000, default 4,096.
    pub max_connections: Option<usize>,
    /// Whether accounts that do not set it themselves, and providers without an account, accept unsigned deliveries as
    /// long as no secret is configured. Default `false`. For trying things out.
    pub allow_unsigned_by_default: bool,
    /// Whether `POST /api/mock/events/generate` generates events. Default: only when listening on loopback, because
    /// anybody who can reach the port can use it.
    pub allow_mock_events: Option<bool>,
    /// Key that seals dead letters, recordings and stored accounts: 32 bytes, as 64 hexadecimal digits or base64. Default:
    /// generated once and kept in `seal.key` in the data folder. Several hosts that share a bus or stored accounts need the same
    /// key. Former keys may follow it, separated by white space; they still open what they have sealed.
    pub seal_key: Option<Secret>,
    /// Token that `/plugins`, `/metrics` and `/api/mock/…` require as `Authorization: Bearer …`; 16 or more characters. Of
    /// several, separated by white space, each is accepted. Webhooks are open, their proofs protect them. Default: none, which is
    /// only accepted on loopback.
    pub admin_token: Option<Secret>,
    /// Another token, which `/metrics` alone accepts besides; needs `admin_token`. Default: none.
    pub metrics_token: Option<Secret>,
    /// Whether those routes may be open to everybody who can reach the address. Default `false`.
    pub allow_anonymous: bool,
    /// `[host.tls]`: certificate and key for serving HTTPS. Default: plain HTTP.
    pub tls: RawTlsConfig,
    /// `[host.plugins]`.
    pub plugins: RawPluginsConfig,
}

/// Validated configuration of the host.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Largest body, both as sent and after decompression.
    pub max_body_bytes: usize,
    /// Time for a whole request.
    pub request_timeout: Duration,
    /// Time within which a body must have arrived.
    pub body_timeout: Duration,
    /// Deliveries that may be in progress at once.
    pub max_concurrent_deliveries: usize,
    /// Limits of connections and of their shutdown.
    pub limits: Limits,
    /// Who may use the routes that are not meant for providers.
    pub access: Access,
    /// HTTPS settings, if configured.
    pub tls: Option<TlsConfig>,
    /// Whether mock events can be generated.
    pub allow_mock_events: bool,
    /// The sealing key and former keys behind it, if configured.
    pub seal_key: Option<Secret>,
    /// File that holds the keys otherwise.
    pub seal_key_path: PathBuf,
    /// Folder of the recorded deliveries.
    pub recordings_folder: PathBuf,
    /// The providers' accounts.
    pub accounts: Accounts,
    /// The plugins.
    pub plugins: PluginsConfig,
}

/// A configuration key has a value that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// A number outside its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// An address other than loopback without a token, or an invalid token.
    #[error(transparent)]
    Access(#[from] InvalidAccess),
    /// A certificate that cannot be served.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
    /// An invalid account.
    #[error(transparent)]
    Account(#[from] InvalidAccount),
    /// Invalid settings of the plugins.
    #[error(transparent)]
    Plugins(#[from] PluginsConfigError),
}

impl HostConfig {
    /// Checks `[host]` and `[accounts]`; paths that are not configured are in the data folder.
    ///
    /// # Errors
    /// [`InvalidConfig`] naming the offending key.
    pub fn try_new(
        raw: RawHostConfig,
        accounts: RawAccounts,
        data_folder: &Path,
    ) -> Result<Self, InvalidConfig> {
        let count = |key: &str, value: Option<usize>, default, range| {
            number("host", key, value.unwrap_or(default), range)
        };
        let millis = |key: &str, value: Option<u64>, default, range| {
            number("host", key, value.unwrap_or(default), range).map(Duration::from_millis)
        };
        let listen = raw.listen.unwrap_or(DEFAULT_LISTEN);
        let max_concurrent_deliveries = count(
            "max_concurrent_deliveries",
            raw.max_concurrent_deliveries,
            DEFAULT_MAX_CONCURRENT_DELIVERIES,
            1..=100_000,
        )?;
        let drain_timeout = millis("drain_timeout_ms", raw.drain_timeout_ms, 20_000, STOP_MS)?;
        let left_of_stop = Limits::LONGEST_STOP - drain_timeout;
        let delays = 0..=u64::try_from(left_of_stop.as_millis()).unwrap_or(u64::MAX);
        let mut plugins = PluginsConfig::try_new(raw.plugins, data_folder)?;
        plugins.limits.waiting = waiting_of(max_concurrent_deliveries);
        Ok(Self {
            listen,
            max_body_bytes: count(
                "max_body_bytes",
                raw.max_body_bytes,
                DEFAULT_MAX_BODY_BYTES,
                BODY_BYTES,
            )?,
            request_timeout: millis("request_timeout_ms", raw.request_timeout_ms, 15_000, PATIENCE_MS)?,
            body_timeout: millis("body_timeout_ms", raw.body_timeout_ms, 10_000, PATIENCE_MS)?,
            max_concurrent_deliveries,
            limits: Limits {
                max_connections: count("max_connections", raw.max_connections, 4096, 1..=100_000)?,
                stop_delay: millis("stop_delay_ms", raw.stop_delay_ms, 0, delays)?,
                drain_timeout,
            },
            access: Access::try_new(
                "host",
                "admin_token",
                listen,
                RawTokens {
                    token: raw.admin_token,
                    metrics_token: raw.metrics_token,
                },
                raw.allow_anonymous,
            )?,
            tls: TlsConfig::try_new("host", raw.tls)?,
            allow_mock_events: raw.allow_mock_events.unwrap_or(listen.ip().is_loopback()),
            seal_key: raw.seal_key,
            seal_key_path: data_folder.join("seal.key"),
            recordings_folder: data_folder.join("recordings"),
            accounts: Accounts::try_new(accounts, raw.allow_unsigned_by_default)?,
            plugins,
        })
    }

    /// Returns the sealer of dead letters, recordings and stored accounts. Creates the key file if there is none.
    ///
    /// # Errors
    /// [`SealKeyError`] when the key is not usable.
    pub fn sealer(&self) -> Result<Sealer, SealKeyError> {
        match &self.seal_key {
            Some(key) => Sealer::from_text(key.expose(), "`host.seal_key`"),
            None => Sealer::from_file(&self.seal_key_path),
        }
    }
}

/// From a few round trips to two minutes, which is longer than any provider waits.
const PATIENCE_MS: RangeInclusive<u64> = 100..=120_000;

/// Up to [`Limits::LONGEST_STOP`].
const STOP_MS: RangeInclusive<u64> = 0..=25_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin;

    fn config(toml: &str) -> Result<HostConfig, InvalidConfig> {
        HostConfig::try_new(
            toml::from_str(toml).unwrap(),
            RawAccounts::default(),
            Path::new("data"),
        )
    }

    #[test]
    fn everything_has_a_default() {
        let config = config("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:5215");
        assert_eq!(config.max_body_bytes, 5 * 1024 * 1024);
        assert!(config.allow_mock_events);
        assert_eq!(config.seal_key_path, Path::new("data/seal.key"));
    }

    #[test]
    fn a_quarter_of_the_deliveries_may_wait_for_one_plugin() {
        assert_eq!(config("").unwrap().plugins.limits, plugin::Limits::default());
        for (all, waiting) in [(1, 1), (10, 3), (100_000, 25_000)] {
            let config = config(&format!("max_concurrent_deliveries = {all}")).unwrap();
            assert_eq!(config.plugins.limits.waiting, waiting);
        }
    }

    #[test]
    fn mock_events_are_for_this_machine() {
        let everywhere = "listen = '0.0.0.0:5215'\nallow_anonymous = true\n";
        assert!(!config(everywhere).unwrap().allow_mock_events);
        assert!(
            config(&format!("{everywhere}allow_mock_events = true"))
                .unwrap()
                .allow_mock_events
        );
    }

    #[test]
    fn errors_name_the_key() {
        let error = |toml| config(toml).unwrap_err().to_string();
        assert_eq!(
            error("max_body_bytes = 1"),
            "`host.max_body_bytes` is 1, it must be between 1024 and 16777216"
        );
        assert_eq!(
            error("request_timeout_ms = 5"),
            "`host.request_timeout_ms` is 5, it must be between 100 and 120000"
        );
        assert_eq!(
            error("drain_timeout_ms = 30000"),
            "`host.drain_timeout_ms` is 30000, it must be between 0 and 25000"
        );
        assert_eq!(
            error("stop_delay_ms = 6000"),
            "`host.stop_delay_ms` is 6000, it must be between 0 and 5000"
        );
        assert!(config("stop_delay_ms = 15000\ndrain_timeout_ms = 10000").is_ok());
        assert!(toml::from_str::<RawHostConfig>("listne = 'x'").is_err());
    }

    #[test]
    fn beyond_this_machine_a_token_is_needed() {
        let error = config("listen = '0.0.0.0:5215'").unwrap_err().to_string();
        assert!(error.contains("set `host.admin_token`"), "{error}");
        assert!(config("listen = '0.0.0.0:5215'\nadmin_token = '0123456789abcdef'").is_ok());
    }

    #[test]
    fn debug_hides_secrets() {
        let config = config("seal_key = 'abcdef'\nadmin_token = 'abcdef0123456789'").unwrap();
        assert!(!format!("{config:?}").contains("abcdef"));
    }
}
