//! The addresses of the servers, and the means to stop and start them.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use event::settings::Secret;
use reqwest::Url;
use store::{
    bus::{KafkaBus, KafkaConfig, RawKafkaConfig},
    events::{ClickHouseConfig, ClickHouseEvents, RawClickHouseConfig},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, MutexGuard},
};

/// Held by one system at a time: all of them share the topics and consumer groups of one Kafka, so they run
/// one after the other.
static TURN: Mutex<()> = Mutex::const_new(());

/// The servers, held for as long as it is this test's turn.
pub struct Servers {
    kafka: String,
    clickhouse: Url,
    postgres: Url,
    redis: Url,
    /// Part of this test's names and people, so that no other test has the same.
    pub mark: String,
    _turn: MutexGuard<'static, ()>,
}

impl Servers {
    /// Waits for this test's turn.
    pub async fn take() -> Self {
        let turn = TURN.lock().await;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            kafka: variable("SENDFLOWR_TEST_KAFKA"),
            clickhouse: address("SENDFLOWR_TEST_CLICKHOUSE"),
            postgres: address("SENDFLOWR_TEST_POSTGRES"),
            redis: address("SENDFLOWR_TEST_REDIS"),
            mark: format!("{:x}", since_1970.unwrap().as_micros()),
            _turn: turn,
        }
    }

    fn database(&self) -> String {
        format!("end_to_end_{}", self.mark)
    }

    /// Returns the sections that select these servers. The graph is shared: each test's people have names of
    /// their own. `kafka` is added to Kafka's section.
    pub fn configuration(&self, kafka: &str) -> String {
        let server = |section: &str, url: &Url, more: &str| {
            let user = match url.username() {
                "" => String::new(),
                user => format!("user = '{user}'\n"),
            };
            let password = url.password().unwrap_or_default();
            format!(
                "[{section}]\nhost = '{}'\nport = {}\npassword = '{password}'\n{user}{more}\n",
                url.host_str().unwrap(),
                url.port().unwrap(),
            )
        };
        // The shortest session that brokers accept by default, so that a killed consumer is soon missed.
        let mut configuration = format!(
            "[kafka]\nbootstrap_servers = '{}'\nsession_timeout_ms = 6000\n{kafka}\n",
            self.kafka
        );
        let database = format!("database = '{}'", self.database());
        configuration += &server("clickhouse", &self.clickhouse, &database);
        let graph = self.postgres.path().trim_start_matches('/');
        configuration += &server("postgres", &self.postgres, &format!("database = '{graph}'"));
        let prefix = format!("key_prefix = 'end-to-end:{}:'", self.mark);
        configuration += &server("redis", &self.redis, &prefix);
        configuration += &format!("[host]\nseal_key = '{}'\n", "07".repeat(32));
        configuration
    }

    /// Connects to the topics in Kafka.
    pub async fn bus(&self) -> KafkaBus {
        let raw = RawKafkaConfig {
            bootstrap_servers: Some(self.kafka.clone()),
            ..RawKafkaConfig::default()
        };
        let config = KafkaConfig::try_from(raw).unwrap();
        KafkaBus::connect(config).await.unwrap()
    }

    /// Opens the events in ClickHouse.
    pub async fn events(&self) -> ClickHouseEvents {
        let raw = RawClickHouseConfig {
            host: self.clickhouse.host_str().map(str::to_owned),
            port: self.clickhouse.port(),
            database: self.database(),
            user: self.clickhouse.username().to_owned(),
            password: Secret::new(self.clickhouse.password().unwrap_or_default()),
            ..RawClickHouseConfig::default()
        };
        let config = ClickHouseConfig::try_from(raw).unwrap();
        ClickHouseEvents::connect(config).await.unwrap()
    }

    /// Creates a client of ClickHouse without our own layer, in this test's database.
    pub fn clickhouse(&self) -> clickhouse::Client {
        let (host, port) = (
            self.clickhouse.host_str().unwrap(),
            self.clickhouse.port().unwrap(),
        );
        clickhouse::Client::default()
            .with_url(format!("http://{host}:{port}/"))
            .with_user(self.clickhouse.username())
            .with_password(self.clickhouse.password().unwrap_or_default())
            .with_database(self.database())
            // Otherwise the server would wait for more rows before it answers.
            .with_setting("async_insert", "0")
    }

    /// Removes what this test has created, unless it is shared.
    pub async fn clean(&self) {
        let database = self.database();
        let drop = format!("DROP DATABASE {database}");
        self.clickhouse()
            .with_database("default")
            .query(&drop)
            .execute()
            .await
            .unwrap();
    }

    /// Returns the name and process id of each server that is a process of this machine.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let status = control(&["status"]);
        let servers = status.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [name, "up", _, "pid", process] => Some(((*name).to_owned(), process.parse().unwrap())),
                _ => None,
            }
        });
        servers.collect()
    }

    /// Returns the processor time, in seconds, that each of these servers has used.
    pub fn cpu_seconds(&self) -> Vec<(String, f64)> {
        let servers = self.processes().into_iter();
        servers
            .map(|(name, process)| (name, crate::cpu_seconds(process)))
            .collect()
    }

    /// Memory, in kB, that each of these takes.
    pub fn memory_kb(&self) -> Vec<(String, u64)> {
        let servers = self.processes().into_iter();
        servers
            .map(|(name, process)| (name, crate::shared_memory_kb(process)))
            .collect()
    }

    /// Has Redis answer nobody for a while. Commands that come meanwhile are answered afterwards.
    pub async fn pause_redis(&self, length: Duration) {
        self.redis(&format!("CLIENT PAUSE {} ALL", length.as_millis()))
            .await;
    }

    /// Has Redis run a command that is answered with `OK`.
    pub async fn redis(&self, command: &str) {
        let address = (self.redis.host_str().unwrap(), self.redis.port().unwrap());
        let mut redis = TcpStream::connect(address).await.unwrap();
        let password = self.redis.password().unwrap();
        let commands = format!("AUTH {password}\r\n{command}\r\n");
        redis.write_all(commands.as_bytes()).await.unwrap();
        let mut answers = [0; "+OK\r\n+OK\r\n".len()];
        redis.read_exact(&mut answers).await.unwrap();
        assert_eq!(answers, *b"+OK\r\n+OK\r\n", "{command}");
    }

    /// Stops a server; it may finish what it does.
    pub fn stop(&self, name: &str) {
        control(&["stop", name]);
    }

    /// Starts a stopped server.
    pub fn start(&self, name: &str) {
        control(&["start", name]);
    }
}

/// Runs the program that controls the servers and returns its output.
fn control(arguments: &[&str]) -> String {
    let output = Command::new(variable("SENDFLOWR_TEST_SERVICES"))
        .arg("services")
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "services {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn address(name: &str) -> Url {
    variable(name).parse().unwrap()
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("`{name}` is not set: `cargo xtask test` starts the servers and sets it"))
}
