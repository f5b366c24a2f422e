use std::net::SocketAddr;

use axum::{Router, routing::get};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{Limits, serve};

/// Returns a self-signed certificate for `localhost` as PEM: certificate and key.
fn certificate() -> (String, String) {
    certificate_until(2090)
}

/// Like [`certificate`], valid until the beginning of this year.
fn certificate_until(year: i32) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn write(folder: &TempDir, (certificate, key): &(String, String)) {
    fs::write(folder.path().join("key.pem"), key).unwrap();
    fs::write(folder.path().join("cert.pem"), certificate).unwrap();
}

fn raw(folder: &TempDir) -> RawTlsConfig {
    RawTlsConfig {
        certificate: Some(folder.path().join("cert.pem")),
        key: Some(folder.path().join("key.pem")),
        reload_seconds: Some(1),
    }
}

fn problem(raw: RawTlsConfig) -> String {
    let checked = TlsConfig::try_new("host", raw).and_then(|tls| tls.unwrap().check_files());
    checked.unwrap_err().to_string()
}

/// Returns a client that only trusts this certificate and opens a connection for every request.
fn client((certificate, _): &(String, String), address: SocketAddr) -> reqwest::Client {
    // Only fails if another test of this process has installed it.
    let _ = ring::default_provider().install_default();
    let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    reqwest::Client::builder()
        .tls_certs_only([root])
        .resolve("localhost", address)
        .pool_max_idle_per_host(0)
        .build()
        .unwrap()
}

/// Serves `GET /` over TLS with the certificate in `folder`. Also returns when the served one expires.
async fn served(folder: &TempDir, stop: &CancellationToken) -> (SocketAddr, Gauge) {
    let mut tls = TlsConfig::try_new("host", raw(folder)).unwrap();
    let expiry = Gauge::default();
    tls.as_mut().unwrap().tell_expiry(expiry.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", get(|| async { "hello" }));
    tokio::spawn(serve(listener, router, tls, Limits::default(), stop.clone()));
    (address, expiry)
}

#[tokio::test]
async fn https_is_served_and_plain_http_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pair = certificate();
    write(&folder, &pair);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let (address, _) = served(&folder, &stop).await;
    let url = format!("https://localhost:{}/", address.port());
    let answer = client(&pair, address).get(&url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");

    let stranger = client(&certificate(), address).get(&url).send().await;
    assert!(stranger.is_err(), "an untrusted certificate was accepted");

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end of the stream.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "plain HTTP was answered");
}

#[tokio::test]
async fn a_new_certificate_is_served_and_open_connections_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let old = certificate();
    write(&folder, &old);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let (address, expiry) = served(&folder, &stop).await;
    let url = format!("https://localhost:{}/", address.port());
    let root = reqwest::Certificate::from_pem(old.0.as_bytes());
    let _ = ring::default_provider().install_default();
    let open = reqwest::Client::builder()
        .tls_certs_only([root.unwrap()])
        .resolve("localhost", address)
        .build()
        .unwrap();
    assert_eq!(
        open.get(&url).send().await.unwrap().text().await.unwrap(),
        "hello"
    );

    // A certificate without its key changes nothing; with its key, it is served.
    let new = certificate_until(2080);
    assert_eq!(expiry.get(), 3_786_912_000, "2090-01-01");
    fs::write(folder.path().join("cert.pem"), &new.0).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(client(&old, address).get(&url).send().await.is_ok());
    assert_eq!(expiry.get(), 3_786_912_000, "that of the served one");
    fs::write(folder.path().join("key.pem"), &new.1).unwrap();
    let started = std::time::Instant::now();
    while client(&new, address).get(&url).send().await.is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "the new certificate is not served"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(client(&old, address).get(&url).send().await.is_err());
    assert_eq!(expiry.get(), 3_471_292_800, "2080-01-01");
    assert_eq!(
        open.get(&url).send().await.unwrap().text().await.unwrap(),
        "hello"
    );
}

#[test]
fn errors_name_the_setting_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        TlsConfig::try_new("host", RawTlsConfig::default())
            .unwrap()
            .is_none()
    );
    let half = RawTlsConfig {
        key: None,
        ..raw(&folder)
    };
    assert_eq!(
        problem(half),
        "`host.tls` needs both `certificate` and `key`, it has only `certificate`"
    );
    let never = RawTlsConfig {
        reload_seconds: Some(0),
        ..RawTlsConfig::default()
    };
    assert_eq!(
        problem(never),
        "`host.tls.reload_seconds` is 0, it must be between 1 and 86400"
    );
    assert!(problem(raw(&folder)).starts_with("`host.tls.certificate`: the file `"));

    let (mine, other) = (certificate(), certificate());
    write(&folder, &(mine.0.clone(), other.1));
    let mismatch = problem(raw(&folder));
    assert!(mismatch.starts_with("`host.tls.key`: the file `"), "{mismatch}");
    assert!(mismatch.contains("does not fit the certificate"), "{mismatch}");
    write(&folder, &(mine.0, "no key at all".to_owned()));
    assert!(problem(raw(&folder)).ends_with("holds no PEM private key"));
    write(&folder, &(String::new(), mine.1));
    assert!(problem(raw(&folder)).ends_with("holds no PEM certificate"));
}
