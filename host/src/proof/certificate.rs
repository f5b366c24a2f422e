//! Certificates that deliveries name, fetched and cached.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use x509_parser::{pem::parse_x509_pem, time::ASN1Time};

use super::{Refusal, public_key::PublicKey};
use crate::fetch::{FetchAddress, Fetcher};

/// Number of cached certificates. A provider signs with a handful at a time, one per region.
const REMEMBERED: usize = 256;

/// How long a certificate is used before it is fetched again, so that a withdrawn one is not used for ever.
const FRESH_FOR: Duration = Duration::from_secs(24 * 3600);

/// How long a failure is cached: long enough that a burst of deliveries causes one fetch, but no longer than providers
/// pause before their next attempt.
const FAILED_FOR: Duration = Duration::from_secs(20);

/// Maximum number of concurrent fetches. Anybody can send a delivery that names another URL on an allowed host; this
/// bounds the cost for both this host and that one.
const FETCHES_AT_ONCE: usize = 4;

/// How a certificate in PEM form begins. The PEM parser itself would accept one anywhere in a text.
const PEM_BEGINS: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A certificate's public key and validity period.
#[derive(Debug)]
pub struct Certificate {
    key: PublicKey,
    not_before: ASN1Time,
    not_after: ASN1Time,
}

impl Certificate {
    /// Parses the first certificate of a PEM text. The text must begin with it: a response that merely contains a
    /// certificate may just quote the sender of the request.
    ///
    /// # Errors
    /// [`Refusal::CertificateInvalid`] when there is no usable certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Refusal> {
        let no_pem = Refusal::CertificateInvalid("it is not in PEM form");
        if !pem.trim_ascii_start().starts_with(PEM_BEGINS) {
            return Err(no_pem);
        }
        let (_, block) = parse_x509_pem(pem).map_err(|_| no_pem)?;
        let certificate = block
            .parse_x509()
            .map_err(|_| Refusal::CertificateInvalid("it is not an X.509 certificate"))?;
        let key = PublicKey::from_info(certificate.public_key())
            .map_err(|_| Refusal::CertificateInvalid("its key is of an unknown kind"))?;
        let validity = certificate.validity();
        Ok(Self {
            key,
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }

    /// Returns the key if the certificate is valid at this time.
    pub(super) fn key_at(&self, at_ms: i64) -> Result<&PublicKey, Refusal> {
        let at = at_ms.div_euclid(1000);
        if at < self.not_before.timestamp() {
            return Err(Refusal::CertificateInvalid("it is not valid yet"));
        }
        if at > self.not_after.timestamp() {
            return Err(Refusal::CertificateInvalid("it has expired"));
        }
        Ok(&self.key)
    }
}

/// Where certificates come from.
#[async_trait]
pub trait CertificateSource: Send + Sync {
    /// Returns the certificate at this URL.
    ///
    /// # Errors
    /// [`Refusal::CertificateUnavailable`] when it cannot be obtained now, [`Refusal::CertificateInvalid`] when it is not usable.
    async fn certificate(&self, address: &FetchAddress) -> Result<Arc<Certificate>, Refusal>;
}

/// Certificates given in advance, by URL: for case files, which must not depend on the network.
#[derive(Debug, Default)]
pub struct GivenCertificates(BTreeMap<String, String>);

impl GivenCertificates {
    /// Creates the source from a map of URLs to PEM texts.
    pub fn new(pem_by_url: BTreeMap<String, String>) -> Self {
        Self(pem_by_url)
    }
}

#[async_trait]
impl CertificateSource for GivenCertificates {
    async fn certificate(&self, address: &FetchAddress) -> Result<Arc<Certificate>, Refusal> {
        match self.0.get(address.as_str()) {
            Some(pem) => Certificate::from_pem(pem.as_bytes()).map(Arc::new),
            None => Err(Refusal::CertificateUnavailable(
                "it is not among the given ones".to_owned(),
            )),
        }
    }
}

/// Certificates fetched over https and cached. Concurrent deliveries that name the same one wait for a single fetch.
pub(crate) struct FetchedCertificates {
    fetcher: Arc<Fetcher>,
    known: Cache<String, Known>,
    failed: Cache<String, (Refusal, Instant)>,
    permits: Semaphore,
}

#[derive(Clone)]
struct Known {
    certificate: Arc<Certificate>,
    since: Instant,
}

impl FetchedCertificates {
    /// Creates a source that fetches with `fetcher`.
    pub(crate) fn new(fetcher: Arc<Fetcher>) -> Self {
        // Failures have a cache of their own: made-up URLs must not evict real certificates.
        let (known, failed) = (Cache::new(REMEMBERED), Cache::new(REMEMBERED));
        Self {
            fetcher,
            known,
            failed,
            permits: Semaphore::new(FETCHES_AT_ONCE),
        }
    }

    async fn fetch(&self, address: &FetchAddress) -> Result<Known, Refusal> {
        if let Some((refusal, since)) = self.failed.get(address.as_str())
            && since.elapsed() < FAILED_FOR
        {
            return Err(refusal);
        }
        let Ok(_permit) = self.permits.try_acquire() else {
            // Not cached: it says nothing about this URL.
            return Err(Refusal::CertificateUnavailable(
                "too many are being fetched".to_owned(),
            ));
        };
        let fetched = match self.fetcher.get(address).await {
            Ok(body) => Certificate::from_pem(&body),
            Err(error) => Err(Refusal::CertificateUnavailable(error.to_string())),
        };
        match fetched {
            Ok(certificate) => Ok(Known {
                certificate: Arc::new(certificate),
                since: Instant::now(),
            }),
            Err(refusal) => {
                tracing::warn!(
                    certificate.host = address.host(),
                    code = refusal.code(),
                    "cannot get a certificate from `{}`: {refusal}",
                    address.host()
                );
                self.failed
                    .insert(address.as_str().to_owned(), (refusal.clone(), Instant::now()));
                Err(refusal)
            }
        }
    }
}

#[async_trait]
impl CertificateSource for FetchedCertificates {
    async fn certificate(&self, address: &FetchAddress) -> Result<Arc<Certificate>, Refusal> {
        if let Some(known) = self.known.get(address.as_str()) {
            if known.since.elapsed() < FRESH_FOR {
                return Ok(known.certificate);
            }
            self.known
                .remove_if(address.as_str(), |known| known.since.elapsed() >= FRESH_FOR);
        }
        let known = self
            .known
            .get_or_insert_async(address.as_str(), self.fetch(address))
            .await?;
        Ok(known.certificate)
    }
}
