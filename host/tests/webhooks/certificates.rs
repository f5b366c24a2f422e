//! Deliveries that wait for a certificate.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sendflowr_host::{
    Account, Delivery, DeliveryError, FetchAddress, Unverified,
    plugin::{
        Plugin, PluginError,
        types::{Outcome, Request},
    },
    proof::{Certificate, CertificateSource, Refusal},
};
use tokio::sync::Semaphore;

use crate::{
    Host,
    guest::{Guest, guest},
};

const PEM: &str = include_str!("../data/certificate.pem");
const SIGNATURE: &str = include_str!("../data/rsa-sha256.sig");
const URL: &str = "https://keys.acme.test/signing.pem";

/// Computes for some milliseconds, so that the call leaves the ordinary threads.
const COMPUTE: &str = "(loop $again
    (i32.store (i32.const 4000) (i32.add (i32.load (i32.const 4000)) (i32.const 1)))
    (br_if $again (i32.lt_u (i32.load (i32.const 4000)) (i32.const 15000000))))";

/// Returns a plugin that requires the body to be signed by the certificate at [`URL`], and runs `before` first.
fn signed_by_certificate(before: &str) -> Guest {
    let mut guest = guest("acme").items(&format!(
        "(data (i32.const 3000) \"{URL}\") (data (i32.const 2048) \"{SIGNATURE}\")"
    ));
    guest.hosts = vec!["keys.acme.test".to_owned()];
    let (url, signature) = (URL.len(), SIGNATURE.len());
    // One proof at 3584 (`public-key`, RSA with SHA-256), its message at 3700 (the body), its signature at 3800.
    guest.authenticate(&format!(
        "{before}
         (i32.store8 (i32.const 560) (i32.const 0))
         (i32.store (i32.const 564) (i32.const 3584))
         (i32.store (i32.const 568) (i32.const 1))
         (i32.store8 (i32.const 3584) (i32.const 1))
         (i32.store8 (i32.const 3600) (i32.const 2))
         (i32.store8 (i32.const 3604) (i32.const 1))
         (i32.store (i32.const 3608) (i32.const 3000))
         (i32.store (i32.const 3612) (i32.const {url}))
         (i32.store (i32.const 3616) (i32.const 3700))
         (i32.store (i32.const 3620) (i32.const 1))
         (i32.store (i32.const 3624) (i32.const 3800))
         (i32.store (i32.const 3628) (i32.const 1))
         (i32.store (i32.const 3700) (i32.const 3720))
         (i32.store (i32.const 3704) (i32.const 1))
         (i32.store8 (i32.const 3720) (i32.const 1))
         (i32.store (i32.const 3800) (i32.const 2048))
         (i32.store (i32.const 3804) (i32.const {signature}))
         (i32.store8 (i32.const 3808) (i32.const 2))
         (i32.const 560)"
    ))
}

/// Returns its certificate once `given` has a permit, and adds a permit to `asked` before.
struct Slow {
    asked: Semaphore,
    given: Semaphore,
}

#[async_trait]
impl CertificateSource for Slow {
    async fn certificate(&self, address: &FetchAddress) -> Result<Arc<Certificate>, Refusal> {
        assert_eq!(address.as_str(), URL);
        self.asked.add_permits(1);
        self.given.acquire().await.unwrap().forget();
        Certificate::from_pem(PEM.as_bytes()).map(Arc::new)
    }
}

/// Returns its certificate after a while, timed by the runtime of the caller.
struct Later;

#[async_trait]
impl CertificateSource for Later {
    async fn certificate(&self, _: &FetchAddress) -> Result<Arc<Certificate>, Refusal> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Certificate::from_pem(PEM.as_bytes()).map(Arc::new)
    }
}

/// Has a bug.
struct Broken;

#[async_trait]
impl CertificateSource for Broken {
    async fn certificate(&self, _: &FetchAddress) -> Result<Arc<Certificate>, Refusal> {
        panic!("as a test");
    }
}

fn account() -> Arc<Account> {
    Arc::new(Account::new("acme", "default", [], false))
}

async fn delivery(plugin: &Arc<Plugin>, account: &Arc<Account>) -> Delivery<Unverified> {
    let request = Request {
        method: "POST".to_owned(),
        path: "/webhooks/acme".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body: b"signed text".to_vec(),
        received_at_ms: 1_768_046_400_000,
        settings: Vec::new(),
        secrets: Vec::new(),
    };
    Delivery::new(plugin, account, Arc::new(request)).await.unwrap()
}

#[tokio::test]
async fn others_take_their_turn_while_a_certificate_is_fetched() {
    let limits = "[plugins.limits]\nconcurrency = 1";
    let host = Host::start(&[signed_by_certificate("")], limits, "").await;
    let plugin = host.intake.plugins().get("acme").unwrap();
    let slow = Arc::new(Slow {
        asked: Semaphore::new(0),
        given: Semaphore::new(0),
    });
    let (account, certificates): (_, Arc<dyn CertificateSource>) = (account(), slow.clone());
    let read = delivery(&plugin, &account).await.read(&plugin, &certificates);
    let meanwhile = async {
        slow.asked.acquire().await.unwrap().forget();
        // There is only one slot, and the waiting delivery has released it.
        plugin.instantiate(account.name()).await.unwrap();
        slow.given.add_permits(1);
    };
    let (outcome, ()) = tokio::join!(read, meanwhile);
    assert!(matches!(outcome.unwrap(), Outcome::Events(batch) if batch.events.len() == 1));
}

#[tokio::test]
async fn a_call_that_has_computed_long_can_wait_for_a_certificate_too() {
    let host = Host::start(&[signed_by_certificate(COMPUTE)], "", "").await;
    let plugin = host.intake.plugins().get("acme").unwrap();
    let (account, certificates): (_, Arc<dyn CertificateSource>) = (account(), Arc::new(Later));
    let read = delivery(&plugin, &account).await.read(&plugin, &certificates);
    let outcome = tokio::time::timeout(Duration::from_secs(10), read).await;
    let outcome = outcome.expect("the certificate comes").unwrap();
    assert!(matches!(outcome, Outcome::Events(batch) if batch.events.len() == 1));
}

#[tokio::test]
async fn a_panic_on_the_thread_of_a_plugin_is_not_taken_for_a_busy_plugin() {
    let host = Host::start(&[signed_by_certificate("")], "", "").await;
    let plugin = host.intake.plugins().get("acme").unwrap();
    let (account, certificates): (_, Arc<dyn CertificateSource>) = (account(), Arc::new(Broken));
    let read = delivery(&plugin, &account).await.read(&plugin, &certificates);
    let error = read.await.unwrap_err();
    assert!(
        matches!(error, DeliveryError::Plugin(PluginError::Panicked { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_delivery_that_comes_back_with_its_certificate_is_counted_once() {
    let host = Host::start(&[signed_by_certificate("")], "", "").await;
    let plugin = host.intake.plugins().get("acme").unwrap();
    let (account, certificates): (_, Arc<dyn CertificateSource>) = (account(), Arc::new(Later));
    let read = delivery(&plugin, &account).await.read(&plugin, &certificates);
    read.await.unwrap();
    let metrics = host.get("/metrics").await.text;
    let counted = "sendflowr_plugin_deliveries_total{plugin=\"acme\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
}
