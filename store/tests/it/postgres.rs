//! The PostgreSQL engine behind a pooler of connections.

use sendflowr_store::{
    StoreError,
    identity::{PostgresConfig, PostgresIdentities, PostgresTls, RawPostgresConfig},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Connects to a server that answers with this error. Returns what comes of it.
async fn refused(code: &'static str, message: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut startup = vec![0; stream.read_u32().await.unwrap() as usize - 4];
            stream.read_exact(&mut startup).await.unwrap();
            let unsupported = "extra_float_digits";
            assert!(!String::from_utf8_lossy(&startup).contains(unsupported));
            let fields = format!("SERROR\0VERROR\0C{code}\0M{message}\0\0");
            stream.write_u8(b'E').await.unwrap();
            stream.write_u32(fields.len() as u32 + 4).await.unwrap();
            stream.write_all(fields.as_bytes()).await.unwrap();
        }
    });
    let raw = RawPostgresConfig {
        host: Some("127.0.0.1".to_owned()),
        port,
        tls: PostgresTls::Disable,
        ..RawPostgresConfig::default()
    };
    let config = PostgresConfig::try_from(raw).unwrap();
    let error = PostgresIdentities::connect(config).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_pooler_that_cannot_be_used_is_told_from_a_wrong_server() {
    let behind = "`postgres.host` and `postgres.port` to the server behind it";
    let answers = [
        ("42P05", "prepared statement \"sqlx_s_1\" already exists", behind),
        ("26000", "prepared statement \"sqlx_s_1\" does not exist", behind),
        ("08P01", "password authentication failed", "`postgres.password`"),
    ];
    for (code, message, advice) in answers {
        let error = refused(code, message).await;
        for told in [message, "pooler", advice] {
            assert!(error.contains(told), "{error}");
        }
    }
}
