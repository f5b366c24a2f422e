//! Certificates that deliveries name, fetched and remembered.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use x509_parser::{pem::parse_x509_pem, time::ASN1Time};

use super::{Refusal, public_key::PublicKey};
use crate::fetch::{FetchAddress, Fetcher};

/// Certificates remembered. A provider signs with a handful at a time, one a region.
const REMEMBERED: usize = 256;

/// How long a certificate is used before it is fetched again, so that one that was withdrawn is not used for good.
const FRESH_FOR: Duration = Duration::from_secs(24 * 3600);

/// How long a failure is remembered: long enough that a burst of deliveries asks once, no longer than providers pause
/// before their next attempt.
const FAILED_FOR: Duration = Duration::from_secs(20);

/// Fetches under way at once. Anybody can send a delivery that names another address on an allowed host; this bounds
/// what that costs us and the host asked.
const FETCHES_AT_ONCE: usize = 4;

/// How a certificate in PEM form begins. The reader of PEM would look for it anywhere in a text.
const PEM_BEGINS: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A certificate's public key and the time in which it may be used.
#[derive(Debug)]
pub struct Certificate {
    key: PublicKey,
    not_before: ASN1Time,
    not_after: ASN1Time,
}

impl Certificate {
    /// Reads the first certificate of a PEM text, with which the text has to begin: an answer that only contains one may quote whoever
    /// asked.
    ///
    /// # Errors
    /// [`Refusal::CertificateInvalid`] when there is none that can be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Refusal> {
        let no_pem = Refusal::CertificateInvalid("it is not in PEM form");
        if !pem.trim_ascii_start().starts_with(PEM_BEGINS) {
            return Err(no_pem);
        }
        let (_, block) = parse_x509_pem(pem).map_err(|_| no_pem)?;
        let certificate = block
            .parse_x509()
            .map_err(|_| Refusal::CertificateInvalid("it is no X.509 certificate"))?;
        let key = PublicKey::from_info(certificate.public_key())
            .map_err(|_| Refusal::CertificateInvalid("its key is of an unknown kind"))?;
        let validity = certificate.validity();
        Ok(Self {
            key,
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }

    /// The key, when the certificate is valid at this time.
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
    /// The certificate at this address.
    ///
    /// # Errors
    /// [`Refusal::CertificateUnavailable`] when it cannot be had now, [`Refusal::CertificateInvalid`] when it is none.
    async fn certificate(&self, address: &FetchAddress) -> Result<Arc<Certificate>, Refusal>;
}

/// Certificates given beforehand, by address: for case files, which must not depend on the network.
#[derive(Debug, Default)]
pub struct GivenCertificates(BTreeMap<String, String>);

impl GivenCertificates {
    /// Takes a map from addresses to PEM texts.
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
                "it is not among those given".to_owned(),
            )),
        }
    }
}

/// Certificates fetched over https and remembered. Concurrent deliveries that name the same one wait for one fetch.
pub struct FetchedCertificates {
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

impl fmt::Debug for FetchedCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedCertificates").finish_non_exhaustive()
    }
}

impl FetchedCertificates {
    /// Fetches with `fetcher`.
    pub fn new(fetcher: Arc<Fetcher>) -> Self {
        // Failures have a memory of their own: made-up addresses must not push real certificates out.
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
            // Not remembered: it says nothing about this address.
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
                    "a certificate from `{}` is not there: {refusal}",
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
