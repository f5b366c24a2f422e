//! Certificates that deliveries name, fetched and cached.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use event::Timestamp;
use listener::LogRate;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use x509_parser::{pem::parse_x509_pem, time::ASN1Time};

use super::{Refusal, public_key::PublicKey};
use crate::fetch::{FetchAddress, Fetcher};

/// Number of cached certificates. A provider signs with a handful at a time, one per region.
const REMEMBERED: usize = 256;

/// How long a certificate is used before it is fetched again, so that a withdrawn one is not used for ever.
const FRESH_FOR: Duration = Duration::from_secs(24 * 3600);

/// How much longer it is used while it cannot be fetched again: a day, in which an operator notices that the host cannot reach the
/// provider. Without it, an outage that begins before [`FRESH_FOR`] ends would cost deliveries at once, and SNS gives up after
/// three attempts.
const STALE_FOR: Duration = Duration::from_secs(24 * 3600);

/// How long a failure is cached: long enough that a burst of deliveries causes one fetch, but no longer than providers
/// pause before their next attempt.
const FAILED_FOR: Duration = Duration::from_secs(20);

/// Maximum number of concurrent fetches. Anybody can send a delivery that names another URL on an allowed host; this
/// bounds the cost for both this host and that one.
const FETCHES_AT_ONCE: usize = 4;

/// How long a delivery waits to be among these: a fetch takes a small part of it, and together with one it stays within the time
/// that providers wait for an answer.
const WAIT: Duration = Duration::from_secs(2);

/// Lines about failed fetches: anybody can cause one with each made-up URL, and one says as much as the thousands of an outage.
const FAILURES_PER_SECOND: u32 = 1;

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
    failures: LogRate,
}

#[derive(Clone)]
struct Known {
    certificate: Arc<Certificate>,
    since: Instant,
    /// When it was last fetched, or was to be fetched, again.
    tried: Instant,
}

impl Known {
    fn new(certificate: Certificate, now: Instant) -> Self {
        Self {
            certificate: Arc::new(certificate),
            since: now,
            tried: now,
        }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.age(now) < FRESH_FOR
    }

    /// Returns whether it may still be used, if only while another cannot be had. A fresh one that has expired is what its provider
    /// serves: fetching it again would not help.
    fn may_be_used(&self, now: Instant) -> bool {
        let is_valid = || {
            let now = Timestamp::from(SystemTime::now()).as_millis();
            self.certificate.key_at(now).is_ok()
        };
        self.is_fresh(now) || self.age(now) < FRESH_FOR + STALE_FOR && is_valid()
    }
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
            failures: LogRate::per_second(FAILURES_PER_SECOND),
        }
    }

    /// Returns the certificate at this URL as of `now`: the known one while it is fresh, else what `fetch` gives. When that fails, the
    /// known one is used for [`STALE_FOR`] more, if it is still valid.
    async fn current(
        &self,
        url: &str,
        now: Instant,
        fetch: impl Future<Output = Result<Certificate, Refusal>>,
    ) -> Result<Arc<Certificate>, Refusal> {
        // One that is of no use any more is like one that is not known: all wait for the same fetch.
        self.known.remove_if(url, |known| !known.may_be_used(now));
        let Some(known) = self.known.get(url) else {
            let fetched = async { fetch.await.map(|certificate| Known::new(certificate, now)) };
            return Ok(self.known.get_or_insert_async(url, fetched).await?.certificate);
        };
        let was_tried = now.saturating_duration_since(known.tried) < FAILED_FOR;
        if known.is_fresh(now) || was_tried {
            return Ok(known.certificate);
        }
        // The other deliveries use the old one meanwhile.
        let tried = Known {
            tried: now,
            ..known.clone()
        };
        self.known.insert(url.to_owned(), tried);
        match fetch.await {
            Ok(certificate) => {
                let known = Known::new(certificate, now);
                self.known.insert(url.to_owned(), known.clone());
                Ok(known.certificate)
            }
            Err(_) => Ok(known.certificate),
        }
    }

    async fn fetch(&self, address: &FetchAddress) -> Result<Certificate, Refusal> {
        if let Some((refusal, since)) = self.failed.get(address.as_str())
            && since.elapsed() < FAILED_FOR
        {
            return Err(refusal);
        }
        // Somebody who makes up URLs keeps the others waiting, but does not keep them out.
        let Ok(Ok(_permit)) = tokio::time::timeout(WAIT, self.permits.acquire()).await else {
            // Not cached: it says nothing about this URL.
            return Err(Refusal::CertificateUnavailable(
                "too many are being fetched".to_owned(),
            ));
        };
        let fetched = match self.fetcher.get(address).await {
            Ok(body) => Certificate::from_pem(&body),
            Err(error) => Err(Refusal::CertificateUnavailable(error.to_string())),
        };
        if let Err(refusal) = &fetched {
            self.failed(address, refusal);
        }
        fetched
    }

    /// Remembers a failure, and logs it unless there are too many.
    fn failed(&self, address: &FetchAddress, refusal: &Refusal) {
        self.failed
            .insert(address.as_str().to_owned(), (refusal.clone(), Instant::now()));
        if let Some(left_out) = self.failures.admit() {
            tracing::warn!(
                certificate.host = address.host(),
                code = refusal.code(),
                "cannot get a certificate from `{}`: {refusal}{left_out}",
                address.host()
            );
        }
    }
}

#[async_trait]
impl CertificateSource for FetchedCertificates {
    async fn certificate(&self, address: &FetchAddress) -> Result<Arc<Certificate>, Refusal> {
        self.current(address.as_str(), Instant::now(), self.fetch(address))
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::FutureExt;

    use super::*;

    const URL: &str = "https://keys.acme.test/signing.pem";

    fn source() -> FetchedCertificates {
        FetchedCertificates::new(Arc::new(Fetcher::new()))
    }

    /// A certificate that is valid until then, in seconds since 1970.
    fn valid_until(seconds: i64) -> Certificate {
        Certificate {
            not_after: ASN1Time::from_timestamp(seconds).unwrap(),
            ..Certificate::from_pem(include_bytes!("../../tests/data/certificate.pem")).unwrap()
        }
    }

    fn unavailable() -> Refusal {
        Refusal::CertificateUnavailable("no answer".to_owned())
    }

    /// 9999-12-31T23:59:59Z, the last time that a certificate can name.
    const FOREVER: i64 = 253_402_300_799;

    #[tokio::test]
    async fn a_certificate_is_used_until_another_is_there_for_a_day_more_at_most() {
        let (source, now) = (source(), Instant::now());
        let failing = || ready(Err(unavailable()));
        let first = source
            .current(URL, now, ready(Ok(valid_until(FOREVER))))
            .await
            .unwrap();
        let is_first = |found: Result<Arc<Certificate>, Refusal>| Arc::ptr_eq(&found.unwrap(), &first);
        let fresh = now + FRESH_FOR - Duration::from_secs(1);
        assert!(is_first(source.current(URL, fresh, pending()).await));

        let stale = now + FRESH_FOR;
        assert!(is_first(source.current(URL, stale, failing()).await));
        // Not everybody waits for the provider again.
        assert!(is_first(source.current(URL, stale, pending()).await));
        let again = stale + FAILED_FOR;
        let waits = source.current(URL, again, pending());
        assert!(waits.now_or_never().is_none(), "it is fetched again");

        let too_old = now + FRESH_FOR + STALE_FOR;
        let refused = source.current(URL, too_old, failing()).await;
        assert_eq!(refused.unwrap_err().code(), "certificate_unavailable");
        let other = source
            .current(URL, too_old, ready(Ok(valid_until(FOREVER))))
            .await
            .unwrap();
        assert!(!Arc::ptr_eq(&other, &first));
        let found = source.current(URL, too_old, pending()).await.unwrap();
        assert!(Arc::ptr_eq(&found, &other));
    }

    #[tokio::test]
    async fn all_wait_for_one_fetch_when_a_certificate_is_too_old() {
        let (source, now) = (source(), Instant::now());
        let given = source.current(URL, now, ready(Ok(valid_until(FOREVER)))).await;
        assert!(given.is_ok());
        let fetches = AtomicUsize::new(0);
        let fetch = || async {
            fetches.fetch_add(1, Ordering::Relaxed);
            // The others come meanwhile.
            tokio::task::yield_now().await;
            Ok(valid_until(FOREVER))
        };
        let too_old = now + FRESH_FOR + STALE_FOR;
        let all = (0..2 * FETCHES_AT_ONCE).map(|_| source.current(URL, too_old, fetch()));
        assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
        assert_eq!(fetches.into_inner(), 1);
    }

    #[tokio::test]
    async fn one_that_has_expired_is_not_used_instead() {
        let (source, now) = (source(), Instant::now());
        let given = source.current(URL, now, ready(Ok(valid_until(0)))).await;
        assert!(given.is_ok());
        let stale = now + FRESH_FOR;
        let refused = source.current(URL, stale, ready(Err(unavailable()))).await;
        assert!(refused.unwrap_err().is_temporary());
    }

    #[test]
    fn made_up_addresses_do_not_fill_the_log() {
        let source = source();
        let hosts = ["keys.acme.test".to_owned()];
        for made_up in 0..100 {
            let url = format!("https://keys.acme.test/{made_up}.pem");
            source.failed(&FetchAddress::parse_file(&url, &hosts).unwrap(), &unavailable());
        }
        // Those of the burst have been written, the others are counted.
        assert!(source.failures.admit().is_none_or(|left_out| left_out.0 > 0));
    }
}
