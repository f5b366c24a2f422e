//! The Redis engine when there is no Redis server.

use std::time::{Duration, Instant};

use sendflowr_store::{
    StoreError,
    profiles::{Profiles, RawRedisConfig, RedisConfig, RedisProfiles},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn config(port: u16, secure: bool) -> RedisConfig {
    let raw = RawRedisConfig {
        host: Some("127.0.0.1".to_owned()),
        port,
        secure,
        ..RawRedisConfig::default()
    };
    RedisConfig::try_from(raw).unwrap()
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for_by_those_who_can_go_on() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let started = Instant::now();
    let (strict, lenient) = tokio::join!(
        RedisProfiles::connect(config(port, false)),
        RedisProfiles::connect_or_go_on(config(port, false))
    );
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "an operator waits for it"
    );
    let error = strict.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    let profiles = lenient.unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        let error = profiles.ping().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waits");
    // Something listens there now, and the store connects without being called.
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
    asked.expect("it is tried again").unwrap();
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"-ERR unknown command\r\n").await.unwrap();
            // Reads until the client hangs up, as a server does.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    let error = RedisProfiles::connect_or_go_on(config(port, true))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains("`redis.secure`"), "{error}");
}
