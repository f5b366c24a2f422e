//! A host without a listener: real plugins, guests that return what they are sent, and a bus that checks what it gets.

use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use axum::{Router, body::Body, http::Request};
use host::{Dependencies, HostConfig, RawAccounts, RawHostConfig, Server};
use store::{
    StoreError,
    bus::{Bus, EVENTS_TOPIC, Lag, NewRecord, Subscription},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use crate::{guest::guest, outcomes::ANSWER_AT};

/// An address that occurs throughout the seeds and must not appear in any output.
pub(crate) const CANARY: &str = "canary.person@example.org";

/// Time must not matter: the machine may be busy with other fuzzers.
const SETTINGS: &str = "
allow_unsigned_by_default = true
request_timeout_ms = 120000
body_timeout_ms = 120000
[plugins.limits]
cpu_time_ms = 10000
wall_clock_ms = 100000
queue_wait_ms = 60000
[plugins.quarantine]
failures = 4294967295
";

/// The secrets of the plugins' own cases, so that the signatures in the seeds hold.
const ACCOUNTS: &str = r#"
[mandrill.default]
allow_unsigned = true
[sendgrid.default]
allow_unsigned = true
[mailgun.default]
allow_unsigned = true
[mandrill.signed]
webhook_key = "pUbLiC-webhook-key"
webhook_url = "https://example.com/webhooks/mandrill?tenant=1"
[sendgrid.signed]
public_key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEE474IMudemo37SLRKOzuydemrl9dmx6gsKVrJ8saQXSclpZylxzjgIa/7HR+W6E4WVGHGi8HzzHhkMncplvxbA=="
[mailgun.signed]
signing_key = "key-public-7f3c2b1a9d8e"
"#;

/// Builds a guest that copies the body to where its pointers point, and returns it.
fn mirror(slug: &str, contract: &'static str, call: &str) -> Vec<u8> {
    let answer = format!(
        "(memory.copy (i32.const {ANSWER_AT}) (local.get $body) (local.get $body_length)) i32.const {ANSWER_AT}"
    );
    let mut mirror = guest(slug).memory("80");
    mirror.contract = contract;
    match call {
        "authenticate" => mirror.authenticate(&answer).build(),
        _ => mirror.normalize(&answer).build(),
    }
}

struct Service {
    router: Router,
    runtime: Runtime,
    _data: TempDir,
}

static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = TempDir::new().expect("there is room");
    let folder = data.path().join("plugins");
    fs::create_dir(&folder).expect("there is room");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    for file in ["1.1.0/mandrill.wasm", "1.0.0/sendgrid.wasm", "1.0.0/mailgun.wasm"] {
        let (_, name) = file.split_once('/').expect("it lies in a folder");
        fs::copy(golden.join(file), folder.join(name)).expect("the golden plugins are there");
    }
    for (slug, contract, call) in [
        ("lift-old", "1.0.0", "normalize"),
        ("lift-new", "1.1.0", "normalize"),
        ("claim-old", "1.0.0", "authenticate"),
        ("claim-new", "1.1.0", "authenticate"),
    ] {
        fs::write(folder.join(format!("{slug}.wasm")), mirror(slug, contract, call)).expect("there is room");
    }
    let mut raw: RawHostConfig = toml::from_str(SETTINGS).expect("the settings are right");
    raw.plugins.folder = Some(folder);
    let accounts: RawAccounts = toml::from_str(ACCOUNTS).expect("the accounts are right");
    let config = HostConfig::try_new(raw, accounts, data.path()).expect("the settings are right");
    let runtime = Runtime::new().expect("threads can be started");
    let dependencies = Dependencies {
        bus: Arc::new(LookingBus),
        accounts: None,
        hasher: event::Hasher::new(),
        registry: Arc::default(),
    };
    // Nothing asks it to stop.
    let shutdown = Default::default();
    let server = runtime
        .block_on(Server::start(config, dependencies, shutdown))
        .expect("the host starts");
    Service {
        router: server.router(),
        runtime,
        _data: data,
    }
});

/// Accepts every record, after checking that it is as it should be.
struct LookingBus;

#[async_trait]
impl Bus for LookingBus {
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        for record in records {
            let holds = |bytes: &[u8]| {
                bytes
                    .windows(CANARY.len())
                    .any(|window| window == CANARY.as_bytes())
            };
            assert!(!holds(record.key.as_bytes()), "{record:?}");
            assert!(
                record.headers.values().all(|value| !holds(value.as_bytes())),
                "{record:?}"
            );
            if record.topic == EVENTS_TOPIC {
                let event = event::Event::from_json(&record.value).expect("what is published can be read");
                assert_eq!(event.universal_id.as_str(), record.key);
                let mut texts: serde_json::Value = serde_json::from_slice(&record.value).expect("it is JSON");
                let fields = texts.as_object_mut().expect("it is an object");
                // Ids may have the form of an address, as long as it is not the recipient's.
                for id in ["message_id", "campaign_id", "provider_event_id", "identifiers"] {
                    fields.remove(id);
                }
                assert!(!holds(texts.to_string().as_bytes()), "{texts}");
            } else {
                assert!(!holds(&record.value), "{record:?}");
            }
        }
        Ok(())
    }

    async fn subscribe(&self, _group: &str, _topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError> {
        Err(nobody_reads())
    }

    async fn lag(&self, _group: &str, _topics: &[&str]) -> Result<Vec<Lag>, StoreError> {
        Err(nobody_reads())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn nobody_reads() -> StoreError {
    StoreError::Unavailable {
        engine: "fuzz",
        cause: "nobody reads it".into(),
    }
}

/// The response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) text: String,
}

/// Returns the host's response to a request. A panic in the host would be a 500.
pub(crate) fn send(request: Request<Body>) -> Answer {
    let Service { router, runtime, .. } = &*SERVICE;
    runtime.block_on(async {
        let response = router
            .clone()
            .oneshot(request)
            .await
            .expect("the router never fails");
        let (head, body) = response.into_parts();
        // No response is larger than what a plugin may reply.
        let body = axum::body::Body::new(body);
        #[allow(clippy::disallowed_methods, reason = "capped here")]
        let body = axum::body::to_bytes(body, 1 << 20)
            .await
            .expect("answers are in memory");
        Answer {
            status: head.status.as_u16(),
            headers: format!("{:?}", head.headers),
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    })
}

/// Returns the response to a delivery.
pub(crate) fn post(path: &str, body: &[u8]) -> Answer {
    let request = Request::post(path).body(Body::from(body.to_vec()));
    send(request.expect("path and method are well formed"))
}

/// Creates a delivery with nothing but a body.
pub(crate) fn request(body: &[u8]) -> host::plugin::types::Request {
    host::plugin::types::Request {
        method: "POST".to_owned(),
        path: "/webhooks/fuzz".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body: body.to_vec(),
        received_at_ms: 1_700_000_000_000,
        settings: Vec::new(),
        secrets: Vec::new(),
    }
}
