//! The three roles as processes of their own, on Kafka, ClickHouse, PostgreSQL and Redis.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod servers;

use std::fs;

use serde_json::Value;
use synth::delivery::{Account, Delivery};
use tempfile::TempDir;

pub use self::servers::Servers;
use crate::{Answer, Role, client, eventually, run, told};

/// Host and inference service, a folder for their files, and the servers behind them. Tests start consumers themselves.
pub struct System {
    /// The servers.
    pub servers: Servers,
    /// The host.
    pub host: Role,
    /// The inference service.
    pub inference: Role,
    /// The client for requests.
    pub http: reqwest::Client,
    folder: TempDir,
}

impl System {
    /// Starts host and inference service with these accounts.
    pub async fn start(accounts: &[Account]) -> Self {
        Self::start_with(accounts, "").await
    }

    /// Like [`System::start`], with more settings of Kafka.
    pub async fn start_with(accounts: &[Account], kafka: &str) -> Self {
        Self::start_on(Servers::take().await, accounts, kafka).await
    }

    /// Like [`System::start_with`], on servers that have been taken already.
    pub async fn start_on(servers: Servers, accounts: &[Account], kafka: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut configuration = servers.configuration(kafka);
        for account in accounts {
            configuration += &format!("[accounts.{}.default]\n", account.provider());
            for (name, value) in account.config() {
                configuration += &format!("{name} = {}\n", Value::from(value.clone()));
            }
        }
        fs::write(folder.path().join("sendflowr.toml"), configuration).unwrap();
        let (host, inference) = tokio::join!(
            Role::launch(folder.path(), "host"),
            Role::launch(folder.path(), "inference")
        );
        Self {
            servers,
            host,
            inference,
            http: client(),
            folder,
        }
    }

    /// Starts one more consumer.
    pub async fn consumer(&self) -> Role {
        Role::launch(self.folder.path(), "consumer").await
    }

    /// Starts one more consumer, which is another user of Redis than the other roles.
    pub async fn consumer_as(&self, user: &str, password: &str) -> Role {
        let variables = [
            ("SENDFLOWR_REDIS__USER", user),
            ("SENDFLOWR_REDIS__PASSWORD", password),
        ];
        Role::launch_with(self.folder.path(), "consumer", &variables).await
    }

    /// Ends the host and the inference service. Consumers can still be started.
    pub fn end_services(&mut self) {
        self.host.end();
        self.inference.end();
    }

    /// Runs a command of the binary beside the roles, with their configuration, waits for its end, and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = run(self.folder.path(), &[&["--data", "data"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends a delivery as its provider does.
    pub async fn deliver(&self, provider: &str, delivery: &Delivery) -> Answer {
        let mut url = format!("{}/webhooks/{provider}", self.host.url);
        if !delivery.query.is_empty() {
            url = format!("{url}?{}", delivery.query);
        }
        let mut request = self.http.post(url).body(delivery.body.clone());
        for (name, value) in &delivery.headers {
            request = request.header(name, value);
        }
        Answer::of(request).await
    }

    /// Sends a GET request to a role.
    pub async fn get(&self, role: &Role, path: &str) -> Answer {
        Answer::of(self.http.get(format!("{}{path}", role.url))).await
    }

    /// Posts JSON to the inference service.
    pub async fn ask(&self, path: &str, question: &Value) -> Answer {
        Answer::of(
            self.http
                .post(format!("{}{path}", self.inference.url))
                .json(question),
        )
        .await
    }

    /// Waits until the role reports this status: that it is ready, or that it is not.
    pub async fn until_ready(&self, role: &Role, status: &str) {
        eventually(&format!("the {} is {status}", role.name), async || {
            self.get(role, "/ready").await.body["status"] == status
        })
        .await;
    }

    /// Returns the value of the role's metric with this name and these labels.
    pub async fn metric(&self, role: &Role, series: &str) -> Option<f64> {
        let metrics = self.get(role, "/metrics").await;
        let line = metrics.text.lines().find_map(|line| line.strip_prefix(series))?;
        line.trim().parse().ok()
    }

    /// Waits until both groups have committed everything that is on the bus: otherwise the next consumer, in another test, would
    /// read what this one has not committed.
    pub async fn until_committed(&self, consumer: &Role) {
        for group in ["sendflowr-events", "sendflowr-identity"] {
            let lag = format!("sendflowr_consumer_lag_records{{group=\"{group}\"}}");
            eventually("all is committed", async || {
                self.metric(consumer, &lag).await == Some(0.0)
            })
            .await;
        }
    }

    /// Removes what the test has created.
    pub async fn clean(self) {
        self.servers.clean().await;
    }
}
