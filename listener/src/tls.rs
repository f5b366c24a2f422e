//! TLS with a certificate that can be replaced while it is in use.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::metrics::gauge::Gauge;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::Deserialize;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Default number of seconds between two checks of the files. Certificates are renewed days before they expire.
const DEFAULT_RELOAD_SECONDS: u64 = 30;

/// Longest time between two checks: a day, so that a renewed certificate is in use before the old one expires.
const MAX_RELOAD_SECONDS: u64 = 86_400;

/// A `[….tls]` section as written in the configuration. Both files, or neither.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTlsConfig {
    /// PEM file with the certificate and the chain from it to a root.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
    /// Seconds between two checks whether the files have changed. 1 to 86,400, default 30.
    pub reload_seconds: Option<u64>,
}

/// Validated TLS settings of one listener.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The section, for messages.
    section: &'static str,
    certificate: PathBuf,
    key: PathBuf,
    reload: Duration,
    /// When the served certificate expires, in seconds since 1970.
    expiry: Gauge,
}

/// TLS cannot be served with these settings.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTls {
    /// Only one of the two files is set.
    #[error("`{section}.tls` needs both `certificate` and `key`, it has only `{given}`")]
    Half {
        /// The listener's section.
        section: &'static str,
        /// The key that is set.
        given: &'static str,
    },
    /// `reload_seconds` is outside its range.
    #[error("`{section}.tls.reload_seconds` is {value}, it must be between 1 and {MAX_RELOAD_SECONDS}")]
    Reload {
        /// The listener's section.
        section: &'static str,
        /// What it is set to.
        value: u64,
    },
    /// A file that cannot be used.
    #[error("`{section}.tls.{key}`: the file `{path}` {problem}")]
    File {
        /// The listener's section.
        section: &'static str,
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl TlsConfig {
    /// Checks the settings of the listener of `section`; `None` if TLS is not configured. The files are not read: a command that
    /// listens nowhere may run as a user who must not read the key.
    ///
    /// # Errors
    /// [`InvalidTls`] naming the key.
    pub fn try_new(section: &'static str, raw: RawTlsConfig) -> Result<Option<Self>, InvalidTls> {
        let value = raw.reload_seconds.unwrap_or(DEFAULT_RELOAD_SECONDS);
        if !(1..=MAX_RELOAD_SECONDS).contains(&value) {
            return Err(InvalidTls::Reload { section, value });
        }
        let (certificate, key) = match (raw.certificate, raw.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return Ok(None),
            (Some(_), None) => {
                let given = "certificate";
                return Err(InvalidTls::Half { section, given });
            }
            (None, Some(_)) => {
                let given = "key";
                return Err(InvalidTls::Half { section, given });
            }
        };
        Ok(Some(Self {
            section,
            certificate,
            key,
            reload: Duration::from_secs(value),
            expiry: Gauge::default(),
        }))
    }

    /// Checks that the files can be served.
    ///
    /// # Errors
    /// [`InvalidTls`] naming the key and the file.
    pub fn check_files(&self) -> Result<(), InvalidTls> {
        self.read()?.certified_key(self).map(drop)
    }

    /// Has the listener keep `expiry` at the time, in seconds since 1970, when the certificate that it serves expires.
    pub fn tell_expiry(&mut self, expiry: Gauge) {
        self.expiry = expiry;
    }

    fn read(&self) -> Result<Pair, InvalidTls> {
        let read = |key, path: &Path| {
            fs::read(path).map_err(|error| self.file_error(key, format!("cannot be read: {error}")))
        };
        Ok(Pair {
            certificate: read("certificate", &self.certificate)?,
            key: read("key", &self.key)?,
        })
    }

    fn file_error(&self, key: &'static str, problem: impl Into<String>) -> InvalidTls {
        let path = if key == "key" {
            &self.key
        } else {
            &self.certificate
        };
        InvalidTls::File {
            section: self.section,
            key,
            path: path.clone(),
            problem: problem.into(),
        }
    }
}

/// The contents of both files.
#[derive(PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    fn certified_key(&self, config: &TlsConfig) -> Result<CertifiedKey, InvalidTls> {
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain
            .map_err(|error| config.file_error("certificate", format!("is no PEM certificate: {error}")))?;
        if chain.is_empty() {
            return Err(config.file_error("certificate", "holds no PEM certificate"));
        }
        // The parser's message may repeat its input, and this is a private key.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| config.file_error("key", "holds no PEM private key"))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| config.file_error("key", format!("does not fit the certificate: {error}")))
    }
}

/// Returns when the certificate expires, in seconds since 1970; 0 if that cannot be read.
fn expiry(certified: &CertifiedKey) -> i64 {
    let parsed = certified
        .cert
        .first()
        .map(|first| x509_parser::parse_x509_certificate(first));
    parsed
        .and_then(Result::ok)
        .map_or(0, |(_, certificate)| certificate.validity().not_after.timestamp())
}

/// The certificate in use.
pub(crate) struct Certificates {
    config: TlsConfig,
    served: Arc<Served>,
    /// The contents of the files at the last check, good or bad, so that a bad pair is reported once.
    seen: Pair,
}

/// The source of the certificate for handshakes.
#[derive(Debug)]
struct Served(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificates {
    pub(crate) fn open(config: TlsConfig) -> Result<Self, InvalidTls> {
        let seen = config.read()?;
        let certified = seen.certified_key(&config)?;
        config.expiry.set(expiry(&certified));
        let served = Arc::new(Served(ArcSwap::from_pointee(certified)));
        Ok(Self { config, served, seen })
    }

    /// Returns the settings for handshakes, which always use the newest certificate.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring offers the default protocol versions")
            .with_no_client_auth()
            .with_cert_resolver(self.served.clone());
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(server)
    }

    /// Checks the files until `stop` and starts using a new pair. A pair that cannot be used, such as a certificate whose
    /// key has not been written yet, is reported once, as are files that cannot be read, and the old one stays in use.
    pub(crate) async fn watch(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.config.reload);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_unreadable = false;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            // Reading two small files is quicker than passing the work to another thread.
            let read = self.config.read();
            let was_unreadable = std::mem::replace(&mut is_unreadable, read.is_err());
            let renewed = match read {
                Ok(pair) if pair == self.seen => continue,
                Ok(pair) => {
                    self.seen = pair;
                    self.seen.certified_key(&self.config)
                }
                Err(error) => {
                    if !was_unreadable {
                        tracing::warn!(error = %error, "keeping the current certificate: {error}");
                    }
                    continue;
                }
            };
            match renewed {
                Ok(certified) => {
                    self.config.expiry.set(expiry(&certified));
                    self.served.0.store(Arc::new(certified));
                    let path = self.config.certificate.display();
                    tracing::info!(tls.certificate = %path, "serving the new certificate of `{path}`");
                }
                Err(error) => {
                    tracing::warn!(error = %error, "keeping the current certificate: {error}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
