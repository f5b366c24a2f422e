//! Everything except deliveries.

use std::sync::atomic::Ordering;

use event::Event;
use reqwest::Method;
use serde_json::json;
use store::bus::EVENTS_TOPIC;

use crate::{Host, Mood, guest::guest, send};

#[tokio::test]
async fn says_what_there_is_under_other_paths() {
    let host = Host::start(&[guest("acme"), guest("beta")], "", "[acme.eu]\ntoken = 'x'").await;
    let unknown = host.post("/webhooks/nobody", "x").await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (404, "unknown_provider")
    );
    assert_eq!(
        unknown.json()["error"]["known_providers"],
        json!(["acme", "beta"])
    );
    for path in ["/webhooks/acme", "/webhooks/acme/us", "/api/webhook/acme/us/"] {
        let unknown = host.post(path, "x").await;
        assert_eq!(
            (unknown.status, unknown.code().as_str()),
            (404, "unknown_account"),
            "{path}"
        );
        assert_eq!(unknown.json()["error"]["known_accounts"], json!(["eu"]));
        assert_eq!(
            unknown.json()["error"]["known_providers"],
            json!(["acme", "beta"])
        );
    }
    assert!(
        !host
            .post("/webhooks/ann@example.com", "x")
            .await
            .text
            .contains("ann@")
    );
    assert_eq!(host.get("/nothing").await.code(), "not_found");
    let put = send(host.request(Method::PUT, "/webhooks/acme/eu")).await;
    assert_eq!((put.status, put.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(host.get("/").await.json()["providers"], json!(["acme", "beta"]));
}

#[tokio::test]
async fn accounts_are_named_to_nobody_who_may_not_see_the_plugins() {
    let token = "0123456789abcdef";
    let config = format!("admin_token = '{token}'");
    let host = Host::start(&[guest("acme")], &config, "[acme.bakery]\ntoken = 'x'").await;
    let stranger = host.post("/webhooks/acme/us", "x").await;
    assert_eq!(
        (stranger.status, stranger.code().as_str()),
        (404, "unknown_account")
    );
    assert_eq!(stranger.json()["error"]["known_providers"], json!(["acme"]));
    assert!(
        !stranger.text.contains("bakery") && stranger.text.contains("`GET /plugins`"),
        "{}",
        stranger.text
    );
    let operator = host.request(Method::POST, "/webhooks/acme/us").bearer_auth(token);
    assert_eq!(
        send(operator).await.json()["error"]["known_accounts"],
        json!(["bakery"])
    );
}

#[tokio::test]
async fn a_path_that_is_not_utf8_is_answered_like_others_that_nobody_has() {
    let host = Host::open(guest("acme")).await;
    for path in ["/webhooks/%ff%fe", "/webhooks/acme/%ff", "/api/webhook/%ff/eu/"] {
        let answer = host.post(path, "x").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "not_found"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn of_several_authorizations_none_counts() {
    let token = "0123456789abcdef";
    let config = format!("admin_token = '{token}'\nallow_unsigned_by_default = true");
    let host = Host::start(&[guest("acme")], &config, "").await;
    let twice = |method, path: &str| {
        let request = host.request(method, path).bearer_auth(token);
        request.header("authorization", "Basic eDp5")
    };
    let answer = send(twice(Method::POST, "/webhooks/acme")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "ambiguous_authorization")
    );
    assert_eq!(send(twice(Method::GET, "/plugins")).await.status, 401);
}

#[tokio::test]
async fn both_prefixes_and_all_methods_reach_the_plugin() {
    let host = Host::open(guest("acme")).await;
    for path in [
        "/webhooks/acme",
        "/webhooks/acme/",
        "/webhooks/acme/default",
        "/api/webhook/acme",
    ] {
        for method in [Method::POST, Method::GET, Method::HEAD] {
            assert_eq!(
                send(host.request(method.clone(), path)).await.status,
                200,
                "{method} {path}"
            );
        }
    }
    assert_eq!(host.bus.appends().len(), 12);
}

#[tokio::test]
async fn every_answer_has_the_request_id() {
    let host = Host::start(&[], "", "").await;
    let with = |id: &'static str| send(host.request(Method::GET, "/nothing").header("x-request-id", id));
    assert_eq!(with("trace-1").await.headers["x-request-id"], "trace-1");
    let made = host.get("/health").await.headers["x-request-id"].clone();
    assert_eq!(made.len(), 36);
    for unusable in ["", "a b", "a@b.co", "a%40b.co"] {
        let request = host
            .request(Method::GET, "/health")
            .header("x-request-id", unusable);
        assert_eq!(
            send(request).await.headers["x-request-id"].len(),
            36,
            "{unusable:?}"
        );
    }
}

#[tokio::test]
async fn shows_how_accounts_fit_their_plugins() {
    let host = Host::start(&[guest("acme")], "", "[acme.eu]\ntoken = 's3cret'").await;
    host.post("/webhooks/acme/eu", "x").await;
    let shown = host.get("/plugins").await;
    assert!(!shown.text.contains("s3cret"));
    let plugin = &shown.json()["plugins"][0];
    assert_eq!(
        (plugin["slug"].as_str(), plugin["state"].as_str()),
        (Some("acme"), Some("serving"))
    );
    assert_eq!(
        plugin["accounts"],
        json!([{ "provider": "acme", "account": "eu", "missing": [], "unproven_without": [], "unknown": ["token"], "stored": false, "takes_unsigned": false }])
    );
    let metrics = host.get("/metrics").await;
    assert!(metrics.headers["content-type"].starts_with("application/openmetrics-text"));
    let series = "sendflowr_host_deliveries_total{provider=\"acme\",outcome=\"no_proof_configured\"} 1\n";
    assert!(metrics.text.contains(series), "{}", metrics.text);
}

#[tokio::test]
async fn makes_mock_events_where_that_is_allowed() {
    let host = Host::start(&[], "", "").await;
    let path = "/api/mock/events/generate";
    let answer = host.post(&format!("{path}?count=7&seed=1"), "").await;
    assert_eq!((answer.status, &answer.json()["generated"]), (200, &json!(7)));
    assert_eq!(host.post(path, "").await.json()["generated"], 5);
    let appends = host.bus.appends();
    assert_eq!((appends[0].len(), appends[1].len()), (7, 5));
    for record in &appends[0] {
        assert_eq!(record.topic, EVENTS_TOPIC);
        assert_eq!(
            Event::from_json(&record.value).unwrap().universal_id.as_str(),
            record.key
        );
    }
    for query in ["count=0", "count=10001", "count=x", "cuont=5"] {
        let answer = host.post(&format!("{path}?{query}"), "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (422, "invalid_query"),
            "{query}"
        );
    }
    let closed = Host::start(&[], "allow_mock_events = false", "").await;
    assert_eq!(closed.post(path, "").await.code(), "mock_events_off");
    assert!(closed.bus.appends().is_empty());
}

#[tokio::test]
async fn a_token_is_replaced_while_both_count_and_that_of_the_metrics_opens_them_alone() {
    let (new, old, metrics) = ("fedcba9876543210", "0123456789abcdef", "metrics-0123456789");
    let config = format!("admin_token = \"\"\"\n{new}\n{old}\n\"\"\"\nmetrics_token = '{metrics}'");
    let host = Host::start(&[guest("acme")], &config, "[acme.bakery]\ntoken = 'x'").await;
    for (method, path) in [
        (Method::GET, "/plugins"),
        (Method::GET, "/metrics"),
        (Method::POST, "/api/mock/events/generate?count=1"),
    ] {
        let with = |token: &str| send(host.request(method.clone(), path).bearer_auth(token));
        for token in [new, old] {
            assert_eq!(with(token).await.status, 200, "{path}");
        }
        let status = if path == "/metrics" { 200 } else { 401 };
        assert_eq!(with(metrics).await.status, status, "{path}");
    }
    let refused = host.get("/metrics").await;
    assert!(
        refused
            .text
            .contains("the token of `host.admin_token` or `host.metrics_token`"),
        "{}",
        refused.text
    );
    let webhook = host
        .request(Method::POST, "/webhooks/acme/us")
        .bearer_auth(metrics);
    assert!(
        !send(webhook).await.text.contains("bakery"),
        "accounts are no metrics"
    );
}

#[tokio::test]
async fn what_is_not_for_providers_asks_for_the_token() {
    let token = "0123456789abcdef";
    let host = Host::start(
        &[guest("acme")],
        &format!("admin_token = '{token}'\nallow_unsigned_by_default = true"),
        "",
    )
    .await;
    for (method, path) in [
        (Method::GET, "/plugins"),
        (Method::GET, "/metrics"),
        (Method::POST, "/api/mock/events/generate?count=1"),
    ] {
        let refused = send(host.request(method.clone(), path)).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (401, "unauthorized"),
            "{path}"
        );
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        assert!(refused.text.contains("`host.admin_token`"), "{}", refused.text);
        let wrong = send(host.request(method.clone(), path).bearer_auth("0123456789abcdeg")).await;
        assert_eq!(wrong.status, 401, "{path}");
        let taken = send(host.request(method, path).bearer_auth(token)).await;
        assert_eq!(taken.status, 200, "{path}: {}", taken.text);
    }
    for path in ["/", "/health", "/ready"] {
        assert_eq!(host.get(path).await.status, 200, "{path}");
    }
    assert_ne!(host.post("/webhooks/acme", "x").await.status, 401);
}

#[tokio::test]
async fn without_a_token_pages_of_others_may_only_deliver() {
    let host = Host::start(&[guest("acme")], "allow_unsigned_by_default = true", "").await;
    let from = async |method: Method, path: &str, origin: &str| {
        send(host.request(method, path).header("origin", origin)).await
    };
    let foreign = "https://evil.example";
    let own = &host.address;
    for (method, path) in [
        (Method::GET, "/plugins"),
        (Method::GET, "/metrics"),
        (Method::POST, "/api/mock/events/generate?count=1"),
    ] {
        let refused = from(method.clone(), path, foreign).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (403, "foreign_origin"),
            "{path}"
        );
        assert!(host.bus.appends().is_empty(), "{path}");
        assert_eq!(from(method, path, own).await.status, 200, "{path}");
    }
    let delivered = host.post("/webhooks/acme", "x").await;
    let from_page = send(
        host.request(Method::POST, "/webhooks/acme")
            .header("origin", foreign)
            .body("x"),
    )
    .await;
    assert_eq!(
        (from_page.status, from_page.text),
        (delivered.status, delivered.text)
    );
}

#[tokio::test]
async fn readiness_tells_how_fast_the_bus_answers() {
    let host = Host::start(&[], "", "").await;
    let ready = host.get("/ready").await.json();
    assert_eq!(ready["status"], "ready");
    let bus = &ready["dependencies"]["bus"];
    assert_eq!((&bus["status"], &bus["needed"]), (&json!("ok"), &json!(true)));
    assert!(bus["latency_ms"].is_f64());
    host.bus.set(Mood::IsDown);
    let answer = host.ready(503).await;
    assert_eq!(answer.code(), "bus_unavailable");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.json()["dependencies"]["bus"]["status"], "unreachable");
}

#[tokio::test]
async fn readiness_is_found_out_once_for_all_who_ask() {
    let host = Host::start(&[], "", "").await;
    let asking = (0..150).map(|_| host.get("/ready"));
    for answer in futures::future::join_all(asking).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // More than one if the machine took more than a second for all of them.
    let pings = host.bus.pings.load(Ordering::SeqCst);
    assert!((1..=5).contains(&pings), "{pings}");
}
