//! The host from outside: real HTTP, hand-made plugins, and a bus whose behaviour the tests control.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod certificates;
mod failures;
#[path = "../plugin_runtime/guest.rs"]
#[allow(
    dead_code,
    reason = "shared with the plugin runtime's tests, which use more of it"
)]
mod guest;
mod limits;
#[path = "../plugin_runtime/lines.rs"]
mod lines;
mod quarantine;
mod service;
mod swap;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use guest::Guest;
use reqwest::{Client, Method, RequestBuilder};
use sendflowr_host::{Dependencies, HostConfig, HostError, Intake, RawAccounts, RawHostConfig, Server};
use serde_json::Value;
use store::{
    StoreError,
    bus::{Bus, Lag, NewRecord, Subscription},
    identity::StoredAccounts,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How the bus handles an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    IsDown,
    /// Answers, and refuses what it is given.
    Refuses,
    Panics,
    /// Waits for a permit of [`FakeBus::gate`].
    Waits,
}

/// An in-memory bus.
struct FakeBus {
    mood: Mutex<Mood>,
    gate: Semaphore,
    waiting: Semaphore,
    appends: Mutex<Vec<Vec<NewRecord>>>,
    pings: AtomicUsize,
}

impl FakeBus {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Returns what was appended, one list per call.
    fn appends(&self) -> Vec<Vec<NewRecord>> {
        self.appends.lock().unwrap().clone()
    }

    fn down() -> StoreError {
        StoreError::Unavailable {
            engine: "fake",
            cause: "it was told to be down".into(),
        }
    }
}

#[async_trait]
impl Bus for FakeBus {
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Takes => {}
            Mood::IsDown => return Err(Self::down()),
            Mood::Refuses => {
                return Err(StoreError::Misconfigured {
                    engine: "fake",
                    message: "it was told to refuse: grant Write".to_owned(),
                });
            }
            Mood::Panics => panic!("the bus was told to panic"),
            Mood::Waits => {
                self.waiting.add_permits(1);
                self.gate.acquire().await.unwrap().forget();
            }
        }
        self.appends.lock().unwrap().push(records);
        Ok(())
    }

    async fn subscribe(&self, _group: &str, _topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError> {
        Err(Self::down())
    }

    async fn lag(&self, _group: &str, _topics: &[&str]) -> Result<Vec<Lag>, StoreError> {
        Err(Self::down())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.pings.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::IsDown => Err(Self::down()),
            Mood::Waits => std::future::pending().await,
            Mood::Takes | Mood::Refuses | Mood::Panics => Ok(()),
        }
    }
}

/// A listening host.
struct Host {
    address: String,
    bus: Arc<FakeBus>,
    intake: Arc<Intake>,
    client: Client,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), HostError>>,
    _data: TempDir,
}

/// A response.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {self:?}"))
            .to_owned()
    }
}

impl Host {
    /// Starts a host with these plugins, and `[host]` and `[accounts]` as TOML.
    async fn start(plugins: &[Guest], host: &str, accounts: &str) -> Self {
        Self::start_with(plugins, host, accounts, None).await
    }

    /// The same with a store of accounts.
    async fn start_with(
        plugins: &[Guest],
        host: &str,
        configured: &str,
        accounts: Option<Arc<dyn StoredAccounts>>,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let data = TempDir::new().unwrap();
        let folder = data.path().join("plugins");
        std::fs::create_dir(&folder).unwrap();
        for plugin in plugins {
            std::fs::write(folder.join(format!("{}.wasm", plugin.slug)), plugin.build()).unwrap();
        }
        let mut raw: RawHostConfig = toml::from_str(host).unwrap();
        raw.plugins.folder = Some(folder);
        let configured: RawAccounts = toml::from_str(configured).unwrap();
        let config = HostConfig::try_new(raw, configured, data.path()).unwrap();
        let bus = Arc::new(FakeBus {
            mood: Mutex::new(Mood::Takes),
            gate: Semaphore::new(0),
            waiting: Semaphore::new(0),
            appends: Mutex::default(),
            pings: AtomicUsize::default(),
        });
        let dependencies = Dependencies {
            bus: Arc::<FakeBus>::clone(&bus),
            accounts,
            hasher: event::Hasher::new(),
            registry: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let server = Server::start(config, dependencies, shutdown.clone())
            .await
            .unwrap();
        let intake = Arc::clone(server.intake());
        let served = tokio::spawn(server.serve(listener));
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self {
            address,
            bus,
            intake,
            client,
            shutdown,
            served,
            _data: data,
        }
    }

    /// Starts a host with this plugin that accepts unsigned deliveries.
    async fn open(plugin: Guest) -> Self {
        Self::start(&[plugin], "allow_unsigned_by_default = true", "").await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.address))
    }

    async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// Returns the response of `/ready` once it has this status: the host reuses a result for a second.
    async fn ready(&self, status: u16) -> Answer {
        let began = Instant::now();
        loop {
            let answer = self.get("/ready").await;
            if answer.status == status {
                return answer;
            }
            assert!(began.elapsed() < store::testing::PATIENCE, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::POST, path).body(body)).await
    }
}

async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    Answer {
        status: response.status().as_u16(),
        headers,
        text: response.text().await.unwrap(),
    }
}

/// `authenticate` that demands nothing but declares a handshake.
const HANDSHAKE: &str = "
    (i32.store8 (i32.const 560) (i32.const 0))
    (i32.store (i32.const 564) (i32.const 3584))
    (i32.store (i32.const 568) (i32.const 1))
    (i32.store8 (i32.const 3584) (i32.const 5))
    (i32.const 560)";

/// `normalize` that replies 202 with the body `hi`.
const REPLY: &str = "
    (i32.store8 (i32.const 600) (i32.const 0))
    (i32.store8 (i32.const 604) (i32.const 1))
    (i32.store16 (i32.const 608) (i32.const 202))
    (i32.store (i32.const 620) (i32.const 640))
    (i32.store (i32.const 624) (i32.const 2))
    (i32.store16 (i32.const 640) (i32.const 0x6968))
    (i32.const 600)";

/// `normalize` or `authenticate` that calls the delivery malformed with the reason `a@b.co`.
const MALFORMED: &str = "
    (i32.store8 (i32.const 600) (i32.const 1))
    (i32.store8 (i32.const 604) (i32.const 2))
    (i32.store (i32.const 608) (i32.const 640))
    (i32.store (i32.const 612) (i32.const 6))
    (i32.store (i32.const 640) (i32.const 0x2e624061))
    (i32.store16 (i32.const 644) (i32.const 0x6f63))
    (i32.const 600)";
