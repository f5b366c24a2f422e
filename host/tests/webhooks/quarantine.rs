//! What operators and providers see over HTTP when a plugin keeps failing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value, json};
use store::testing::eventually;
use tokio::task::JoinSet;

use crate::{
    Answer, HANDSHAKE, Host,
    guest::{Guest, guest},
};

/// Traps when the delivery has a body.
const MOODY: &str = "(if (local.get $body_length) (then unreachable)) i32.const 768";

const SETTINGS: &str = "allow_unsigned_by_default = true
[plugins.quarantine]
failures = 3
first_seconds = 1";

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

    /// Delivers until a delivery is let through as a probe.
    async fn once_let_through(&self, body: &'static str) -> Answer {
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
async fn a_plugin_that_keeps_failing_is_shown_as_quarantined_and_comes_back_by_itself() {
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
        "failed repeatedly on deliveries of the account `default` by hitting its limit `trap`"
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

    // Another provider's deliveries are accepted throughout.
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
    assert_eq!(host.shown("acme").await["state"], "serving");

    // The first probe fails, the next one succeeds.
    assert_eq!(host.once_let_through("x").await.code(), "plugin_trapped");
    assert_eq!(host.shown("moody").await["state"], "quarantined");
    assert_eq!(host.once_let_through("").await.status, 200);
    let shown = host.shown("moody").await;
    assert_eq!(shown["state"], "serving");
    assert_eq!(shown.get("reason"), None);
    assert_eq!(shown["traps"], json!({ "trap": 4 }));
    let metrics = host.get("/metrics").await.text;
    assert!(metrics.contains("sendflowr_plugin_quarantined{plugin=\"moody\"} 0\n"));
}

/// A plugin that wants the secret `token` in the query, and traps when the delivery has a body.
fn guarded() -> Guest {
    let mut guest = guest("moody")
        .normalize(MOODY)
        .items("(data (i32.const 3000) \"token\")");
    guest.secret = Some("token");
    // One proof at 3584 (`shared-secret`): the secret's name, and the presented value at 3700.
    guest.authenticate(
        "(i32.store8 (i32.const 560) (i32.const 0))
         (i32.store (i32.const 564) (i32.const 3584))
         (i32.store (i32.const 568) (i32.const 1))
         (i32.store8 (i32.const 3584) (i32.const 2))
         (i32.store (i32.const 3600) (i32.const 3000))
         (i32.store (i32.const 3604) (i32.const 5))
         (i32.store (i32.const 3608) (i32.const 3700))
         (i32.store (i32.const 3612) (i32.const 1))
         (i32.store (i32.const 3700) (local.get $query))
         (i32.store (i32.const 3704) (local.get $query_length))
         (i32.const 560)",
    )
}

const TWO_ACCOUNTS: &str = "[moody.rogue]\ntoken = 'theirs'\n[moody.default]\ntoken = 'ours'";
const ROGUE: &str = "/webhooks/moody/rogue?theirs";
const OURS: &str = "/webhooks/moody?ours";

#[tokio::test]
async fn whoever_has_the_secret_of_one_account_silences_no_other() {
    let host = Host::start(&[guarded()], SETTINGS, TWO_ACCOUNTS).await;
    assert_eq!(host.post("/webhooks/moody/rogue?ours", "x").await.status, 401);
    for _ in 0..3 {
        assert_eq!(host.post(ROGUE, "x").await.code(), "plugin_trapped");
    }
    let answer = host.post(ROGUE, "").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "plugin_unavailable")
    );
    assert_eq!(answer.json()["error"]["limit"], "quarantined");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(host.post(OURS, "").await.status, 200);
    let shown = host.shown("moody").await;
    assert_eq!(shown["state"], "quarantined");
    let accounts = shown["quarantined_accounts"].as_array().unwrap();
    assert_eq!(
        (accounts.len(), &accounts[0]["account"], &accounts[0]["limit"]),
        (1, &json!("rogue"), &json!("trap"))
    );
    assert!(accounts[0]["retry_after_seconds"].as_u64().unwrap() <= 1);
    let metrics = host.get("/metrics").await.text;
    assert!(metrics.contains("sendflowr_plugin_quarantined{plugin=\"moody\"} 1\n"));
    // It stays so, however long the failures continue.
    let (began, mut good) = (Instant::now(), 1);
    while host.shown("moody").await["traps"]["trap"] != 5 {
        assert!(began.elapsed() < Duration::from_secs(20));
        host.post(ROGUE, "x").await;
        let answer = host.post(OURS, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        good += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The other account is judged by its own deliveries.
    for _ in 0..good {
        host.post(OURS, "x").await;
    }
    let shown = host.shown("moody").await;
    let accounts = shown["quarantined_accounts"].as_array().unwrap();
    let names: Vec<&Value> = accounts.iter().map(|account| &account["account"]).collect();
    assert_eq!(names, ["default", "rogue"]);
    assert_eq!(host.post(OURS, "").await.json()["error"]["limit"], "quarantined");
}

#[tokio::test]
async fn deliveries_to_an_account_that_is_tried_again_keep_no_other_waiting() {
    let settings = format!("{SETTINGS}\n[plugins.limits]\nconcurrency = 2");
    let host = Host::start(&[guarded()], &settings, TWO_ACCOUNTS).await;
    for _ in 0..3 {
        host.post(ROGUE, "x").await;
    }
    eventually("it is let through", async || {
        host.shown("moody").await["retry_after_seconds"] == 0
    })
    .await;
    let plugin = host.intake.plugins().get("moody").unwrap();
    let tried = plugin.instantiate("rogue").await.unwrap();
    // More than may wait for slots of the plugin.
    let waiting = join_all((0..4 * 64).map(|_| plugin.instantiate("rogue")));
    let (waiting, ours) = tokio::join!(waiting, host.post(OURS, ""));
    for refused in waiting {
        assert_eq!(refused.unwrap_err().limit(), Some("concurrency"));
    }
    assert_eq!(ours.status, 200, "{ours:?}");
    drop(tried);
    assert_eq!(host.post(ROGUE, "").await.status, 200);
    assert_eq!(host.shown("moody").await["state"], "serving");
}

#[tokio::test]
async fn an_account_that_takes_whatever_comes_puts_no_other_in_quarantine() {
    let settings = "[plugins.quarantine]\nfailures = 3\nfirst_seconds = 60";
    let accounts = "[moody.trial]\nallow_unsigned = true\n[moody.default]\ntoken = 'x'";
    let host = Host::start(&[guest("moody").normalize(MOODY)], settings, accounts).await;
    for _ in 0..3 {
        let answer = host.post("/webhooks/moody/trial", "x").await;
        assert_eq!(answer.code(), "plugin_trapped");
    }
    let answer = host.post("/webhooks/moody/trial", "").await;
    assert_eq!(answer.json()["error"]["limit"], "quarantined");
    // The other account's delivery is let through to the check of its proofs, which it lacks.
    let answer = host.post("/webhooks/moody", "").await;
    assert_eq!(answer.status, 401, "{answer:?}");
}

#[tokio::test]
async fn a_plugin_that_fails_for_several_accounts_is_asked_one_delivery_at_a_time_until_one_goes_well() {
    let accounts = "[moody.a]\n[moody.b]\n[moody.c]";
    let host = Host::start(&[guest("moody").normalize(MOODY)], SETTINGS, accounts).await;
    for account in ["a", "b", "c"] {
        let answer = host.post(&format!("/webhooks/moody/{account}"), "x").await;
        assert_eq!(answer.code(), "plugin_trapped");
    }
    let shown = host.shown("moody").await;
    assert_eq!(shown["state"], "in_doubt");
    let reason = shown["reason"].as_str().unwrap();
    assert!(
        reason.ends_with("its deliveries go through one at a time"),
        "{reason}"
    );
    let plugin = host.intake.plugins().get("moody").unwrap();
    let alone = plugin.instantiate("a").await.unwrap();
    assert_eq!(
        plugin.instantiate("b").await.unwrap_err().limit(),
        Some("concurrency")
    );
    drop(alone);
    assert_eq!(host.post("/webhooks/moody/c", "").await.status, 200);
    assert_eq!(host.shown("moody").await["state"], "serving");
}

/// Traps before any proof when the delivery has a body of nine bytes.
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
    // The first genuine delivery is sent once the strangers' deliveries have put the plugin in doubt.
    eventually("it is in doubt", async || {
        host.shown("acme").await["state"] == "in_doubt"
    })
    .await;
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
async fn strangers_do_not_prolong_a_quarantine() {
    let broken = guest("moody").authenticate(TOUCHY).normalize(MOODY);
    let host = Host::start(&[broken], SETTINGS, "").await;
    for _ in 0..3 {
        host.post("/webhooks/moody", "x").await;
    }
    assert_eq!(host.shown("moody").await["state"], "quarantined");
    for _ in 0..20 {
        let answer = host.once_let_through("stranger!").await;
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
    assert_eq!(host.shown("moody").await["state"], "in_doubt");
}
