//! What operators and providers see of a plugin that keeps failing, over HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Answer, HANDSHAKE, Host, guest::guest};

/// Traps when the delivery has a body.
const MOODY: &str = "(if (local.get $body_length) (then unreachable)) i32.const 768";

const SETTINGS: &str = "allow_unsigned_by_default = true
[plugins.quarantine]
failures = 3
first_rest_seconds = 1";

impl Host {
    async fn shown(&self, slug: &str) -> Value {
        let plugins = self.get("/plugins").await.json();
        let plugins = plugins["plugins"].as_array().unwrap();
        plugins
            .iter()
            .find(|plugin| plugin["slug"] == slug)
            .unwrap()
            .clone()
    }

    /// Delivers until the plugin does not rest any more.
    async fn behind_the_rest(&self, body: &'static str) -> Answer {
        let began = Instant::now();
        loop {
            let answer = self.post("/webhooks/moody", body).await;
            if !answer.text.contains("quarantined") {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_plugin_that_keeps_failing_rests_is_shown_so_and_comes_back_by_itself() {
    let host = Host::start(&[guest("moody").normalize(MOODY), guest("acme")], SETTINGS, "").await;
    assert_eq!(host.post("/webhooks/moody", "").await.status, 200);
    for _ in 0..3 {
        let answer = host.post("/webhooks/moody", "x").await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "plugin_trapped"));
        assert_eq!(answer.json()["error"]["limit"], "trap");
    }
    let answer = host.post("/webhooks/moody", "").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "plugin_unavailable")
    );
    assert_eq!(answer.json()["error"]["limit"], "quarantined");
    assert_eq!(answer.headers["retry-after"], "1");

    let shown = host.shown("moody").await;
    assert_eq!(shown["state"], "quarantined");
    assert_eq!(
        shown["reason"],
        "failed repeatedly, the latest by its limit `trap`"
    );
    assert!(shown["retry_after_seconds"].as_u64().unwrap() <= 1);
    assert_eq!(shown["traps"], json!({ "trap": 3 }));
    assert_eq!((&shown["deliveries"], &shown["events"]), (&json!(4), &json!(1)));
    assert!(shown["p50_us"].as_u64().unwrap() <= shown["p99_us"].as_u64().unwrap());
    assert_eq!(shown["memory_peak_bytes"], 131_072);
    let metrics = host.get("/metrics").await.text;
    for series in [
        "sendflowr_plugin_quarantined{plugin=\"moody\"} 1",
        "sendflowr_plugin_quarantined{plugin=\"acme\"} 0",
        "sendflowr_plugin_deliveries_total{plugin=\"moody\"} 4",
        "sendflowr_plugin_events_total{plugin=\"moody\"} 1",
        "sendflowr_plugin_rejects_total{plugin=\"moody\"} 0",
        "sendflowr_plugin_traps_total{plugin=\"moody\",limit=\"trap\"} 3",
        "sendflowr_plugin_traps_total{plugin=\"moody\",limit=\"cpu_time\"} 0",
        "sendflowr_plugin_call_duration_seconds_count{plugin=\"moody\"} 4",
        "sendflowr_plugin_queue_wait_seconds_count{plugin=\"moody\"} 4",
        "sendflowr_plugin_memory_peak_bytes{plugin=\"moody\"} 131072",
    ] {
        assert!(
            metrics.contains(&format!("{series}\n")),
            "no `{series}` in\n{metrics}"
        );
    }

    // Another provider's deliveries are taken all the while.
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
    assert_eq!(host.shown("acme").await["state"], "serving");

    // The first delivery behind the rest fails, the next finds it well.
    assert_eq!(host.behind_the_rest("x").await.code(), "plugin_trapped");
    assert_eq!(host.shown("moody").await["state"], "quarantined");
    assert_eq!(host.behind_the_rest("").await.status, 200);
    let shown = host.shown("moody").await;
    assert_eq!(shown["state"], "serving");
    assert_eq!(shown.get("reason"), None);
    assert_eq!(shown["traps"], json!({ "trap": 4 }));
    let metrics = host.get("/metrics").await.text;
    assert!(metrics.contains("sendflowr_plugin_quarantined{plugin=\"moody\"} 0\n"));
}

#[tokio::test]
async fn an_account_that_takes_whatever_comes_sends_no_plugin_to_rest_for_one_that_does_not() {
    let settings = "[plugins.quarantine]\nfailures = 3\nfirst_rest_seconds = 60";
    let accounts = "[moody.trial]\nallow_unsigned = true\n[moody.default]\ntoken = 'x'";
    let host = Host::start(&[guest("moody").normalize(MOODY)], settings, accounts).await;
    for _ in 0..5 {
        let answer = host.post("/webhooks/moody/trial", "x").await;
        assert_eq!(answer.code(), "plugin_trapped");
    }
    // It is looked at: nothing proves it.
    let answer = host.post("/webhooks/moody", "").await;
    assert_eq!(answer.status, 401, "{answer:?}");
    // Alone, such an account is all that there is to go by.
    let alone = "[moody.trial]\nallow_unsigned = true";
    let host = Host::start(&[guest("moody").normalize(MOODY)], settings, alone).await;
    for _ in 0..3 {
        host.post("/webhooks/moody/trial", "x").await;
    }
    let answer = host.post("/webhooks/moody/trial", "").await;
    assert_eq!(answer.json()["error"]["limit"], "quarantined");
}

/// Traps before any proof when the delivery has these nine bytes.
const TOUCHY: &str = "(if (i32.eq (local.get $body_length) (i32.const 9)) (then unreachable)) i32.const 512";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_get_genuine_deliveries_refused() {
    let host = Host::start(&[guest("acme").authenticate(TOUCHY)], SETTINGS, "").await;
    let host = Arc::new(host);
    let stop = Arc::new(AtomicBool::new(false));
    let mut strangers = JoinSet::new();
    for _ in 0..4 {
        let (host, stop) = (Arc::clone(&host), Arc::clone(&stop));
        strangers.spawn(async move {
            let mut failed = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = host.post("/webhooks/acme", "stranger!").await;
                assert_eq!(answer.json()["error"]["limit"], "trap", "{answer:?}");
                failed += 1;
            }
            failed
        });
    }
    // The first genuine delivery comes when they have brought the plugin into doubt.
    let began = Instant::now();
    while host.shown("acme").await["state"] != "quarantined" {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let metrics = host.get("/metrics").await.text;
    assert!(metrics.contains("sendflowr_plugin_quarantined{plugin=\"acme\"} 1\n"));
    for _ in 0..50 {
        let answer = host.post("/webhooks/acme", "genuine").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(host.shown("acme").await["state"], "serving");
    stop.store(true, Ordering::Relaxed);
    let failed: usize = strangers.join_all().await.into_iter().sum();
    assert!(failed > 5, "{failed}");
}

#[tokio::test]
async fn strangers_do_not_lengthen_a_rest() {
    let broken = guest("moody").authenticate(TOUCHY).normalize(MOODY);
    let host = Host::start(&[broken], SETTINGS, "").await;
    for _ in 0..3 {
        host.post("/webhooks/moody", "x").await;
    }
    assert_eq!(host.shown("moody").await["state"], "quarantined");
    for _ in 0..20 {
        let answer = host.behind_the_rest("stranger!").await;
        assert_eq!(answer.code(), "plugin_trapped");
    }
    assert_eq!(host.post("/webhooks/moody", "").await.status, 200);
}

#[tokio::test]
async fn handshakes_which_anybody_can_send_count_for_nothing() {
    let greeted = guest("moody").authenticate(HANDSHAKE).normalize("unreachable");
    let host = Host::start(&[greeted], SETTINGS, "").await;
    for _ in 0..10 {
        assert_eq!(host.post("/webhooks/moody", "x").await.code(), "plugin_trapped");
    }
    assert_eq!(host.shown("moody").await["retry_after_seconds"], 0);
}
