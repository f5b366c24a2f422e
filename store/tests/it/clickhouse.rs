//! How the ClickHouse engine handles responses that are hard to get from a real server.

use std::{io::Result, sync::Arc, time::Duration};

use event::{Timestamp, settings::Secret};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use sendflowr_store::{
    StoreError,
    events::{ClickHouseConfig, ClickHouseEvents, Events, RawClickHouseConfig},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// The responses of a server to requests whose text contains certain words: words, status, error code, body. The first match is
/// used.
type Script = &'static [(&'static str, u16, Option<u32>, &'static [u8])];

/// The responses of a database that is up to date.
const UP_TO_DATE: Script = &[
    ("EXISTS DATABASE", 200, None, b"\x01"),
    (
        "schema_migrations FINAL",
        200,
        None,
        b"\x01\0\0\0\x06events\x02\0\0\0\x0cexplanations",
    ),
    ("engine_full", 200, None, b"\x09MergeTree"),
];

/// A database whose table of people is missing, on a server that takes longer to fill it than opening may take.
const BEHIND: Script = &[
    UP_TO_DATE[0],
    UP_TO_DATE[1],
    ("INSERT INTO known_people", LATE, None, b""),
];

/// The status of a successful response that is sent after [`STEP`].
const LATE: u16 = 1;

/// Longer than the 9 s that opening may take apart from schema steps.
const STEP: Duration = Duration::from_secs(10);

/// A database that is up to date, but the server never responds to a count, which the status 0 stands for.
const HANGING: Script = &[
    UP_TO_DATE[0],
    UP_TO_DATE[1],
    UP_TO_DATE[2],
    ("count()", 0, None, b""),
];

/// A server that follows a script and sends an empty response to everything else.
struct Server {
    port: u16,
    certificate: String,
}

async fn serve(script: Script, secure: bool) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate disconnects, as it should.
                if secure {
                    answer(acceptor.accept(stream).await?, script).await
                } else {
                    answer(stream, script).await
                }
            });
        }
    });
    Server {
        port,
        certificate: made.cert.pem(),
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Script) -> Result<()> {
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if !is_whole(&text) {
            continue;
        }
        assert!(text.contains("x-clickhouse-user: ann"), "{text}");
        assert!(text.contains("x-clickhouse-key: secret"), "{text}");
        let (_, mut status, code, body) = script
            .iter()
            .find(|(words, ..)| text.contains(words))
            .copied()
            .unwrap_or(("", 200, None, b""));
        if status == 0 {
            std::future::pending::<()>().await;
        }
        if status == LATE {
            assert!(
                text.contains("max_execution_time=900"),
                "the server may take as long: {text}"
            );
            tokio::time::sleep(STEP).await;
            status = 200;
        }
        let code = code.map_or(String::new(), |code| {
            format!("X-ClickHouse-Exception-Code: {code}\r\n")
        });
        let head = format!(
            "HTTP/1.1 {status} Told\r\n{code}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.flush().await?;
        request.clear();
    }
}

/// Returns whether a request, with a body of either form, is complete.
fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => body.len() >= length.parse().unwrap(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

impl Server {
    fn settings(&self) -> RawClickHouseConfig {
        RawClickHouseConfig {
            host: Some("127.0.0.1".into()),
            port: Some(self.port),
            user: "ann".into(),
            password: Secret::new("secret"),
            request_timeout_seconds: 1,
            ..Default::default()
        }
    }
}

async fn connect(raw: RawClickHouseConfig) -> std::result::Result<ClickHouseEvents, StoreError> {
    ClickHouseEvents::connect(ClickHouseConfig::try_from(raw).unwrap()).await
}

#[tokio::test]
async fn a_missing_right_is_named_with_the_grant() {
    const DENIED: &[u8] = b"Code: 497. DB::Exception: ann: Not enough privileges. To execute this query, it's necessary \
                            to have the grant CREATE DATABASE ON sendflowr.*. (ACCESS_DENIED) (version 25.8.1.1)";
    let server = serve(
        &[
            ("EXISTS DATABASE", 200, None, b"\0"),
            ("CREATE DATABASE", 403, Some(497), DENIED),
        ],
        false,
    )
    .await;
    let error = connect(server.settings()).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    let told = error.to_string();
    assert!(
        told.contains("grant `clickhouse.user`") && told.contains("ACCESS_DENIED"),
        "{told}"
    );
}

#[tokio::test]
async fn a_database_that_is_up_to_date_needs_no_right_to_make_one() {
    let server = serve(UP_TO_DATE, false).await;
    connect(server.settings()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_clickhouse_is_named() {
    let server = serve(
        &[("EXISTS", 400, None, b"Port 9000 is for clickhouse-client program")],
        false,
    )
    .await;
    let error = connect(server.settings()).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains("`clickhouse.port`"), "{error}");
}

#[tokio::test]
async fn https_is_spoken_with_a_server_that_the_configured_certificate_vouches_for() {
    let server = serve(UP_TO_DATE, true).await;
    let secure = RawClickHouseConfig {
        secure: true,
        ca: Some(server.certificate.clone()),
        ..server.settings()
    };
    connect(secure.clone()).await.unwrap().ping().await.unwrap();

    let stranger = serve(UP_TO_DATE, true).await;
    let untrusted = RawClickHouseConfig {
        port: Some(stranger.port),
        ..secure.clone()
    };
    let error = connect(untrusted).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains("`clickhouse.ca`"), "{error}");

    let unreadable = RawClickHouseConfig {
        ca: Some("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----".into()),
        ..secure
    };
    let error = connect(unreadable).await.unwrap_err();
    assert!(error.to_string().contains("`clickhouse.ca`"), "{error}");
}

#[tokio::test]
async fn a_server_that_stops_answering_is_an_outage() {
    let server = serve(HANGING, false).await;
    let store = connect(server.settings()).await.unwrap();
    let asked = tokio::time::timeout(
        Duration::from_secs(10),
        store.latency_samples(Timestamp::default(), 1),
    )
    .await;
    let error = asked.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("no answer within 1s"), "{error}");
}

#[tokio::test]
async fn a_schema_step_may_take_longer_than_opening() {
    let server = serve(BEHIND, false).await;
    connect(server.settings()).await.unwrap().ping().await.unwrap();
}
