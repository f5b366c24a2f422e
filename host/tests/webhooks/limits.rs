//! Limits of sizes, times and numbers, and stopping.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use store::testing::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Host, Mood, guest::guest, send};

const OPEN: &str = "allow_unsigned_by_default = true";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn bodies_are_bounded_as_sent_and_unpacked() {
    let host = Host::start(&[guest("acme")], &format!("{OPEN}\nmax_body_bytes = 2000"), "").await;
    assert_eq!(host.post("/webhooks/acme", vec![0; 2000]).await.status, 200);
    let answer = host.post("/webhooks/acme", vec![0; 2001]).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    assert_eq!(answer.json()["error"]["limit_bytes"], 2000);

    let encoded = |encoding: &str, body| {
        let request = host
            .request(Method::POST, "/webhooks/acme")
            .header("content-encoding", encoding);
        send(request.body::<Vec<u8>>(body))
    };
    assert_eq!(encoded("gzip", gzip(&[0; 2000])).await.status, 200);
    assert_eq!(encoded("gzip", gzip(&[0; 2001])).await.status, 413);
    assert_eq!(
        encoded("gzip", b"plain".to_vec()).await.code(),
        "encoding_invalid"
    );
    let twice = encoded("gzip, gzip", gzip(&gzip(b"hello"))).await;
    assert_eq!(
        (twice.status, twice.code().as_str()),
        (415, "encoding_unsupported")
    );
    let unknown = encoded("br", b"x".to_vec()).await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (415, "encoding_unsupported")
    );
}

#[tokio::test]
async fn a_body_that_unpacks_to_much_more_than_was_sent_is_refused() {
    let host = Host::start(&[guest("acme")], OPEN, "").await;
    let unpacks_to = |length| {
        let request = host
            .request(Method::POST, "/webhooks/acme")
            .header("content-encoding", "gzip");
        send(request.body(gzip(&vec![0; length])))
    };
    assert_eq!(unpacks_to(65_536).await.status, 200);
    let answer = unpacks_to(5_000_000).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
}

/// Returns the status line of the response to these raw bytes.
async fn raw(host: &Host, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(host.address.trim_start_matches("http://"))
        .await
        .unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer.to_vec()).unwrap()
}

#[tokio::test]
async fn a_body_without_an_announced_length_is_bounded_too() {
    let host = Host::start(&[guest("acme")], &format!("{OPEN}\nmax_body_bytes = 2000"), "").await;
    let mut request =
        b"POST /webhooks/acme HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..3 {
        request.extend_from_slice(b"3e8\r\n");
        request.extend_from_slice(&[b'x'; 1000]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(raw(&host, &request).await, "HTTP/1.1 413");
}

/// More than the system's buffers take: a connection that is closed early breaks while the client still writes.
#[tokio::test]
async fn who_writes_a_body_that_is_too_large_before_reading_sees_the_refusal() {
    let host = Host::start(&[guest("acme")], OPEN, "").await;
    let mut request = b"POST /webhooks/acme HTTP/1.1\r\nhost: x\r\ncontent-length: 16000000\r\n\r\n".to_vec();
    request.resize(request.len() + 16_000_000, b'x');
    assert_eq!(raw(&host, &request).await, "HTTP/1.1 413");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let mut acme = guest("acme");
    acme.unavailable_status = 429;
    let plugins = [acme, guest("other")];
    let host = Host::start(&plugins, &format!("{OPEN}\nbody_timeout_ms = 100"), "").await;
    for (slug, answer) in [("acme", "HTTP/1.1 429"), ("other", "HTTP/1.1 503")] {
        let request = format!("POST /webhooks/{slug} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nxx");
        assert_eq!(raw(&host, request.as_bytes()).await, answer);
    }
    assert!(host.bus.appends().is_empty());
}

/// Opens a connection on which a delivery's body is being sent: `sent` of `announced` bytes have been written.
async fn slow(host: &Host, slug: &str, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(host.address.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!("POST /webhooks/{slug} HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; sent]).await.unwrap();
    stream
}

impl Host {
    /// Asserts how many deliveries of a provider have had this outcome.
    async fn has_counted(&self, provider: &str, outcome: &str, count: usize) {
        let line = format!(
            "sendflowr_host_deliveries_total{{provider=\"{provider}\",outcome=\"{outcome}\"}} {count}\n"
        );
        let metrics = self.get("/metrics").await.text;
        assert!(metrics.contains(&line), "no `{line}` in {metrics}");
    }

    /// Waits until this many deliveries are in progress.
    async fn under_way(&self, count: usize) {
        let line = format!("sendflowr_host_deliveries_in_flight {count}\n");
        eventually(&line, async || self.get("/metrics").await.text.contains(&line)).await;
    }
}

#[tokio::test]
async fn slow_bodies_hold_up_nobody() {
    let host = Host::start(
        &[guest("acme")],
        &format!("{OPEN}\nmax_concurrent_deliveries = 1"),
        "",
    )
    .await;
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(slow(&host, "acme", 10, 1).await);
    }
    host.under_way(50).await;
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
}

#[tokio::test]
async fn bodies_under_way_are_bounded_together_and_a_provider_leaves_room_to_others() {
    let plugins = [guest("acme").events(0), guest("other").events(0)];
    let host = Host::start(&plugins, &format!("{OPEN}\nmax_body_bytes = 100000"), "").await;
    // A provider has room for 16 whole bodies; the first bytes of each are free, so that 19 fit, and most of a twentieth.
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(slow(&host, "acme", 100_000, 99_000).await);
    }
    host.under_way(19).await;
    let mut refused = slow(&host, "acme", 100_000, 99_999).await;
    let mut answer = [0; 12];
    refused.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    host.has_counted("acme", "overloaded", 2).await;
    assert_eq!(host.post("/webhooks/acme", vec![b'x'; 10_000]).await.status, 200);
    assert_eq!(
        host.post("/webhooks/other", vec![b'x'; 100_000]).await.status,
        200
    );
    drop(open);
    host.under_way(0).await;
    assert_eq!(host.post("/webhooks/acme", vec![b'x'; 100_000]).await.status, 200);
}

#[tokio::test]
async fn unpacked_bodies_are_bounded_together_until_they_are_answered() {
    let plugins = [guest("acme"), guest("other")];
    let host = Host::start(&plugins, &format!("{OPEN}\nmax_body_bytes = 100000"), "").await;
    let mut body = vec![0; 100_000];
    // Some that do not compress, or the body would be refused.
    for (at, byte) in body[98_000..].iter_mut().enumerate() {
        *byte = (at * at / 7 % 251) as u8;
    }
    let packed = gzip(&body);
    assert!(packed.len() < 10_000, "{}", packed.len());
    let deliver = |path: &str| {
        let request = host
            .request(Method::POST, path)
            .header("content-encoding", "gzip");
        send(request.body(packed.clone()))
    };
    host.bus.set(Mood::Waits);
    let all: Vec<_> = (0..40).map(|_| tokio::spawn(deliver("/webhooks/acme"))).collect();
    // A provider has room for 16 whole bodies; the first bytes of each are free, so that 19 fit.
    host.bus.waiting.acquire_many(19).await.unwrap().forget();
    host.under_way(19).await;
    host.has_counted("acme", "overloaded", 21).await;
    host.bus.set(Mood::Takes);
    assert_eq!(deliver("/webhooks/other").await.status, 200);
    host.bus.gate.add_permits(19);
    let mut stored = 0;
    for answer in all {
        let answer = answer.await.unwrap();
        match answer.status {
            200 => stored += 1,
            _ => assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded")),
        }
    }
    assert_eq!(stored, 19);
    assert_eq!(deliver("/webhooks/acme").await.status, 200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let host = Host::start(&[guest("acme")], &format!("{OPEN}\nrequest_timeout_ms = 300"), "").await;
    host.bus.set(Mood::Waits);
    let answer = host.post("/webhooks/acme", "x").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "timed_out"));
    assert!(answer.headers.contains_key("retry-after"));
    host.has_counted("acme", "timed_out", 1).await;
}

#[tokio::test]
async fn a_delivery_whose_sender_hangs_up_is_counted() {
    let host = Host::start(&[guest("acme")], OPEN, "").await;
    host.bus.set(Mood::Waits);
    let sender = slow(&host, "acme", 1, 1).await;
    host.bus.waiting.acquire().await.unwrap().forget();
    drop(sender);
    host.under_way(0).await;
    host.has_counted("acme", "given_up", 1).await;
}

#[tokio::test]
async fn more_deliveries_than_there_is_room_for_are_sent_back() {
    let host = Host::start(
        &[guest("acme")],
        &format!("{OPEN}\nmax_concurrent_deliveries = 1"),
        "",
    )
    .await;
    host.bus.set(Mood::Waits);
    let first = host.post("/webhooks/acme", "x");
    let second = async {
        host.bus.waiting.acquire().await.unwrap().forget();
        let answer = host.post("/webhooks/acme", "x").await;
        host.bus.gate.add_permits(1);
        answer
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.status, 200);
    assert_eq!((second.status, second.code().as_str()), (503, "overloaded"));
    assert_eq!(host.bus.appends().len(), 1);
}

#[tokio::test]
async fn more_connections_than_there_is_room_for_wait() {
    let host = Host::start(&[guest("acme")], &format!("{OPEN}\nmax_connections = 2"), "").await;
    let mut open = vec![slow(&host, "acme", 10, 1).await, slow(&host, "acme", 10, 1).await];
    // The system completes the connection, but the host does not accept it.
    let mut third = slow(&host, "acme", 1, 1).await;
    let mut answer = [0; 12];
    let early = tokio::time::timeout(Duration::from_millis(300), third.read_exact(&mut answer)).await;
    assert!(early.is_err(), "{answer:?}");
    drop(open.pop());
    third.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let host = Host::start(&[guest("acme").events(0)], OPEN, "").await;
    let long = |length| {
        let request = host.request(Method::POST, "/webhooks/acme");
        send(request.header("x-long", "x".repeat(length)).body("x"))
    };
    assert_eq!(long(60_000).await.status, 200);
    let request = host
        .request(Method::POST, "/webhooks/acme")
        .header("x-long", "x".repeat(200_000));
    let status = request.send().await.map(|response| response.status().as_u16());
    // The connection may be closed before the client has written everything.
    assert!(matches!(status, Ok(431) | Err(_)), "{status:?}");
    let many = |count| {
        let request = host.request(Method::POST, "/webhooks/acme").body("x");
        // With `host`, `accept` and `content-length`.
        let request = (3..count).fold(request, |request, at| request.header(format!("x-{at}"), "x"));
        async { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!((many(100).await, many(101).await), (200, 431));
}

#[tokio::test]
async fn a_stop_lets_open_requests_end() {
    let host = Host::start(&[guest("acme")], OPEN, "").await;
    host.bus.set(Mood::Waits);
    let delivery = tokio::spawn(send(host.request(Method::POST, "/webhooks/acme").body("x")));
    host.bus.waiting.acquire().await.unwrap().forget();
    host.shutdown.cancel();
    // The listener is closed at once, the open request is not.
    eventually("nobody listens", async || {
        let address = host.address.trim_start_matches("http://");
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(!host.served.is_finished());
    host.bus.gate.add_permits(1);
    assert_eq!(delivery.await.unwrap().status, 200);
    host.served.await.unwrap().unwrap();
    assert_eq!(host.bus.appends().len(), 1);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_good() {
    let host = Host::start(&[guest("acme")], &format!("{OPEN}\ndrain_timeout_ms = 100"), "").await;
    host.bus.set(Mood::Waits);
    let delivery = tokio::spawn(host.request(Method::POST, "/webhooks/acme").body("x").send());
    host.bus.waiting.acquire().await.unwrap().forget();
    host.shutdown.cancel();
    host.served.await.unwrap().unwrap();
    assert!(delivery.await.unwrap().is_err());
    assert!(host.bus.appends().is_empty());
}
