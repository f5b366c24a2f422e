//! Two servers that replace each other: the test starts its own, since the shared one has no replica.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use event::UniversalId;
use redis::{Client, FromRedisValue, RedisResult};
use sendflowr_store::profiles::{Profiles, RawRedisConfig, RedisProfiles};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{clicks, connect, get, put, world::id};

/// How long to wait for what takes the servers a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server without a password. It stops when this is dropped.
struct Server {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Reserved until it is released, just before the server takes it.
        let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = reserved.local_addr().unwrap().port();
        drop(reserved);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.arg("--dir").arg(folder.path());
        // A replica gets the data at once, and not after the usual 5 s in which others may come.
        command.args(["--save", "", "--repl-diskless-sync-delay", "0"]);
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        let server = Self {
            process,
            port,
            _folder: folder,
        };
        server.wait_until("PING", |answer| answer.contains("PONG")).await;
        server
    }

    async fn try_say<T: FromRedisValue>(&self, words: &str) -> RedisResult<T> {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command.query_async(&mut connection).await
    }

    async fn say(&self, words: &str) -> String {
        self.try_say(words).await.unwrap()
    }

    async fn wait_until(&self, words: &str, is_done: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.try_say::<String>(words).await.unwrap_or_default();
            if is_done(&answer) {
                return;
            }
            assert!(Instant::now() < deadline, "{words}: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn follow(&self, primary: &Self) {
        self.say(&format!("REPLICAOF 127.0.0.1 {}", primary.port)).await;
        self.wait_until("INFO replication", |told| told.contains("master_link_status:up"))
            .await;
    }

    async fn lead(&self) {
        self.say("REPLICAOF NO ONE").await;
    }

    async fn open(&self) -> RedisProfiles {
        connect(RawRedisConfig {
            host: Some("127.0.0.1".to_owned()),
            port: self.port,
            response_timeout_ms: 5_000,
            ..Default::default()
        })
        .await
        .unwrap()
    }
}

/// Returns a primary and what was its replica until this became one too, the store of the former, and a person whose two clicks
/// both have.
async fn parted() -> (Server, Server, RedisProfiles, UniversalId) {
    let (one, two) = (Server::start().await, Server::start().await);
    two.follow(&one).await;
    let store = one.open().await;
    let ann = id(1);
    put(&store, &ann, &clicks(0..2)).await;
    one.say("WAIT 1 5000").await;
    two.lead().await;
    (one, two, store, ann)
}

/// What a primary knew and its replica did not is missing when both have changed places twice, although the primary's process
/// has run all the time.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn what_was_lost_in_a_failover_is_missing_after_the_way_back() {
    let (one, two, store, ann) = parted().await;
    put(&store, &ann, &clicks(0..3)).await;

    one.follow(&two).await;
    store.get(std::slice::from_ref(&ann)).await.unwrap_err();
    one.lead().await;
    // The server has the value that it had at first.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(&store, &ann).await, None);
    assert_eq!(get(&one.open().await, &ann).await, None);
    put(&store, &ann, &clicks(0..4)).await;
    assert_eq!(get(&store, &ann).await, Some(clicks(0..4)));
}

/// As above, for a process that asked for nothing while its server was a replica.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_idle_connection_notices_a_failover() {
    let (one, two, store, ann) = parted().await;
    one.follow(&two).await;
    one.lead().await;
    let deadline = Instant::now() + PATIENCE;
    // It fails while it reconnects.
    while store.get(std::slice::from_ref(&ann)).await.ok() != Some(vec![None]) {
        assert!(Instant::now() < deadline, "the old value still counts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_replica_is_not_used() {
    let (one, two) = (Server::start().await, Server::start().await);
    two.follow(&one).await;
    let refused = connect(RawRedisConfig {
        host: Some("127.0.0.1".to_owned()),
        port: two.port,
        ..Default::default()
    });
    let told = refused.await.unwrap_err().to_string();
    assert!(
        told.contains("replica") && told.contains("`redis.host`"),
        "{told}"
    );
}

/// A full server answers, and takes writes that need no memory.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_full_server_counts_as_failing() {
    let server = Server::start().await;
    let store = server.open().await;
    put(&store, &id(1), &clicks(0..2)).await;
    server.say("CONFIG SET maxmemory 1").await;
    let told = store.ping().await.unwrap_err().to_string();
    assert!(told.contains("memory"), "{told}");
    server.say("CONFIG SET maxmemory 0").await;
    store.ping().await.unwrap();
}
