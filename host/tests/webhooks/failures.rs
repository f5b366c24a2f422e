//! What is answered when something goes wrong, and what is on the bus then.

use std::time::SystemTime;

use event::{Timestamp, grid::DAY_MS};
use reqwest::Method;
use sendflowr_host::{
    RawDelivery, SealContext, Sealer,
    cases::{Case, normalize_one},
};
use serde_json::json;
use store::bus::{DEAD_LETTERS_TOPIC, NewRecord, Position, Record, header};

use crate::{Answer, HANDSHAKE, Host, MALFORMED, Mood, REPLY, guest::guest, lines, send};

/// Returns a dead letter as the bus would return it.
fn read_back(letter: &NewRecord) -> Record {
    Record {
        position: Position {
            topic: letter.topic.as_str().into(),
            partition: 0,
            offset: 0,
        },
        key: letter.key.clone(),
        value: letter.value.clone(),
        headers: letter.headers.clone(),
        appended_at: "2026-01-10T12:00:00.000Z".parse().unwrap(),
    }
}

fn opened(host: &Host, letter: &NewRecord) -> sendflowr_host::RawDelivery {
    let sealer = Sealer::from_file(&host._data.path().join("seal.key")).unwrap();
    let context = SealContext {
        provider: &letter.headers[header::PROVIDER],
        account: &letter.headers[header::ACCOUNT],
        plugin: &letter.headers[header::PLUGIN],
    };
    sealer.open(&letter.value, &context).unwrap()
}

/// The guest's only event identifies nobody, so it is an element that cannot be used.
#[tokio::test]
async fn elements_that_cannot_be_used_are_sealed_and_can_be_replayed() {
    let host = Host::open(guest("acme")).await;
    let answer = host.post("/webhooks/acme?a=1", "for ann@example.com").await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, r#"{"accepted":0,"skipped":0,"rejected":1}"#)
    );
    let appends = host.bus.appends();
    assert_eq!(appends.len(), 1, "everything of a delivery goes in one append");
    let [letter] = appends[0].as_slice() else {
        panic!("{appends:?}")
    };
    assert_eq!(
        (letter.topic.as_str(), letter.key.as_str()),
        (DEAD_LETTERS_TOPIC, "acme/default")
    );
    assert_eq!(letter.headers[header::CAUSE], "rejected_elements");
    assert_eq!(letter.headers[header::INDEXES], "0");
    assert_eq!(letter.headers[header::PLUGIN], "acme@1.0.0");
    assert_eq!(letter.headers[header::REQUEST_ID], answer.headers["x-request-id"]);
    let raw = opened(&host, letter);
    assert_eq!(
        (raw.method.as_str(), raw.path.as_str(), raw.query.as_str()),
        ("POST", "/webhooks/acme", "a=1")
    );
    assert_eq!(raw.body, b"for ann@example.com");
    assert!(raw.is_proven);
    assert!(
        raw.rejected.is_empty(),
        "nothing of it is stored: it will be read as a whole"
    );

    let replayed = host.intake.replay(&read_back(letter)).await.unwrap();
    assert_eq!((replayed.records.len(), replayed.rejected.len()), (0, 1));
    assert_eq!(host.bus.appends().len(), 1, "a replay dead-letters nothing again");
    let mut moved = read_back(letter);
    moved
        .headers
        .insert(header::ACCOUNT.to_owned(), "other".to_owned());
    assert!(
        host.intake.replay(&moved).await.is_err(),
        "a dead letter opens only for its own account"
    );
}

#[tokio::test]
async fn a_replay_asks_for_the_proofs_first_as_the_host_does() {
    // Reads the delivery for its proofs, and uses that afterwards.
    let keeps = guest("acme")
        .authenticate("(i32.store (i32.const 4000) (i32.const 1)) i32.const 512")
        .normalize("(if (i32.eqz (i32.load (i32.const 4000))) (then unreachable)) i32.const 768");
    let host = Host::open(keeps).await;
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
    let letter = &host.bus.appends()[0][0];
    assert!(opened(&host, letter).is_proven);
    let replayed = host.intake.replay(&read_back(letter)).await.unwrap();
    assert_eq!(replayed.rejected.len(), 1);
}

fn raw(received_at: Timestamp) -> RawDelivery {
    RawDelivery {
        provider: "acme".to_owned(),
        account: "default".to_owned(),
        method: "POST".to_owned(),
        path: "/webhooks/acme".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body: b"x".to_vec(),
        received_at,
        is_proven: true,
        rejected: Vec::new(),
    }
}

/// Makes the guest's event one of a person, this many days after its receipt.
fn after_its_receipt(days: i64) -> String {
    format!(
        "(i64.store (i32.const 65544) (i64.add (local.get $received) (i64.const {})))
         (i32.store (i32.const 65576) (i32.const 3584))
         (i32.store (i32.const 65580) (i32.const 1))
         (i32.store8 (i32.const 3584) (i32.const 1))
         (i32.store (i32.const 3588) (i32.const 1024))
         (i32.store (i32.const 3592) (i32.const 4))
         i32.const 768",
        days * DAY_MS
    )
}

#[tokio::test]
async fn a_letter_from_while_the_clock_was_behind_is_replayed_by_the_clock_of_now() {
    let host = Host::open(guest("acme").normalize(&after_its_receipt(3))).await;
    let answer = host.post("/webhooks/acme", "x").await;
    assert_eq!(answer.text, r#"{"accepted":0,"skipped":0,"rejected":1}"#);
    let letter = &host.bus.appends()[0][0];
    let replayed = host.intake.replay(&read_back(letter)).await.unwrap();
    assert_eq!(
        replayed.rejected.len(),
        1,
        "what is ahead of every clock stays so"
    );

    let behind = Timestamp::from(SystemTime::now()).plus_millis(-5 * DAY_MS);
    let sealer = Sealer::from_file(&host._data.path().join("seal.key")).unwrap();
    let mut letter = read_back(letter);
    letter.value = sealer.seal(&raw(behind), "acme@1.0.0");
    let replayed = host.intake.replay(&letter).await.unwrap();
    assert_eq!((replayed.records.len(), replayed.rejected.len()), (1, 0));
}

#[tokio::test]
async fn events_may_be_later_than_the_time_of_their_case() {
    let host = Host::open(guest("acme").normalize(&after_its_receipt(3))).await;
    let plugin = host.intake.plugins().get("acme").unwrap();
    let case = br#"{"provider": "acme", "now": "2026-01-10T12:00:00Z", "request": {"body": ""}}"#;
    let case = Case::from_json(case).unwrap();
    for (now, events) in [("2026-01-10T12:00:00Z", 0), ("2026-01-14T12:00:00Z", 1)] {
        let reading = normalize_one(&plugin, &case, now.parse().unwrap()).await.unwrap();
        let reading = serde_json::to_value(reading).unwrap();
        assert_eq!(reading["events"].as_array().unwrap().len(), events, "{reading}");
    }
}

#[tokio::test]
async fn nothing_is_stored_when_the_bus_is_down() {
    let host = Host::start(
        &[guest("acme"), guest("odd").normalize(MALFORMED)],
        "allow_unsigned_by_default = true",
        "",
    )
    .await;
    host.bus.set(Mood::IsDown);
    // A malformed delivery is only answered as such once it is kept.
    for path in ["/webhooks/acme", "/webhooks/odd"] {
        let answer = host.post(path, "x").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "bus_unavailable"),
            "{path}"
        );
        assert_eq!(answer.headers["retry-after"], "10");
    }
    assert!(host.bus.appends().is_empty());
    host.ready(503).await;
    assert_eq!(host.get("/health").await.status, 200);
    host.bus.set(Mood::Takes);
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
    host.ready(200).await;
}

#[tokio::test]
async fn what_the_plugin_cannot_read_is_kept() {
    let host = Host::open(guest("acme").normalize(MALFORMED)).await;
    let answer = host.post("/webhooks/acme", "ann@example.com").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "malformed"));
    assert_eq!(
        answer.json()["error"]["message"],
        "[address]",
        "the plugin's words are redacted"
    );
    let appends = host.bus.appends();
    let letter = &appends[0][0];
    assert_eq!(letter.headers[header::CAUSE], "malformed");
    assert_eq!(letter.headers[header::MESSAGE], "[address]");
    assert!(opened(&host, letter).is_proven);
    assert!(!letter.value.windows(3).any(|bytes| bytes == b"ann"));
}

#[tokio::test]
async fn strangers_leave_a_few_letters_only() {
    let host = Host::open(guest("acme").authenticate(MALFORMED)).await;
    let mut kept = 0;
    for _ in 0..30 {
        let answer = host.post("/webhooks/acme", "x").await;
        match (answer.status, answer.code().as_str()) {
            (400, "malformed") => kept += 1,
            // A genuine one would be sent again.
            (503, "malformed_not_kept") => assert_eq!(answer.headers["retry-after"], "60"),
            other => panic!("{other:?}"),
        }
    }
    let letters = host.bus.appends().len();
    assert_eq!(letters, kept, "what is answered as final is kept");
    // Ten a minute, which begins with the first.
    assert_eq!(letters, 10);
    let metrics = host.get("/metrics").await.text;
    for series in [
        format!("sendflowr_host_dead_letters_total{{provider=\"acme\",cause=\"malformed\"}} {letters}\n"),
        format!(
            "sendflowr_host_dead_letters_refused_total{{provider=\"acme\",reason=\"budget_spent\"}} {}\n",
            30 - letters
        ),
    ] {
        assert!(metrics.contains(&series), "{series}{metrics}");
    }
    assert!(!opened(&host, &host.bus.appends()[0][0]).is_proven);
}

#[tokio::test]
async fn a_stranger_s_long_headers_count() {
    let host = Host::open(guest("acme").authenticate(MALFORMED)).await;
    let with_header_of = |bytes| {
        let request = host.request(Method::POST, "/webhooks/acme");
        send(
            request
                .header("x-long", "x".repeat(bytes))
                .body(vec![b'x'; 40_000]),
        )
    };
    assert_eq!(with_header_of(20_000).await.code(), "malformed");
    assert_eq!(with_header_of(30_000).await.code(), "malformed_not_kept");
    let refused = r#"sendflowr_host_dead_letters_refused_total{provider="acme",reason="too_large"} 1"#;
    assert!(host.get("/metrics").await.text.contains(refused));
}

#[tokio::test]
async fn what_an_outage_keeps_from_being_kept_uses_up_no_room() {
    // One cannot read anything, the other reads everything but one element.
    let plugins = [guest("unread").normalize(MALFORMED), guest("part")];
    let host = Host::start(&plugins, "allow_unsigned_by_default = true", "").await;
    for (slug, status) in [("unread", 400), ("part", 200)] {
        let path = format!("/webhooks/{slug}");
        let post = || host.post(&path, vec![0; 5_000_000]);
        host.bus.set(Mood::IsDown);
        // Four would fit into a minute.
        for _ in 0..5 {
            assert_eq!(post().await.code(), "bus_unavailable");
        }
        host.bus.set(Mood::Takes);
        assert_eq!(post().await.status, status, "{slug}");
    }
}

#[tokio::test]
async fn what_anybody_can_send_is_not_kept_as_proven() {
    let host = Host::open(guest("acme").authenticate(HANDSHAKE).normalize(MALFORMED)).await;
    assert_eq!(host.post("/webhooks/acme", "x").await.code(), "malformed");
    assert!(!opened(&host, &host.bus.appends()[0][0]).is_proven);
}

#[tokio::test]
async fn a_captured_proof_does_not_fill_the_disk() {
    // One cannot read anything, the other reads everything but one element.
    let plugins = [guest("unread").normalize(MALFORMED), guest("part")];
    let host = Host::start(&plugins, "allow_unsigned_by_default = true", "").await;
    for slug in ["unread", "part"] {
        let letters = host.bus.appends().len();
        let mut kept = 0;
        for _ in 0..12 {
            let answer = host.post(&format!("/webhooks/{slug}"), vec![0; 5_000_000]).await;
            match answer.status {
                // The provider does not send the rest of the batch again: nothing of it is stored.
                503 => assert_eq!(answer.code(), "malformed_not_kept"),
                _ => kept += 1,
            }
        }
        assert_eq!(host.bus.appends().len() - letters, kept, "{slug}");
        // Four a minute, which begins with the first.
        assert_eq!(kept, 4, "{slug}");
    }
}

#[tokio::test]
async fn a_plugin_that_traps_costs_its_own_provider_only() {
    let broken = guest("broken").normalize("unreachable");
    let mut peculiar = guest("peculiar").authenticate("unreachable");
    peculiar.unavailable_status = 429;
    let plugins = [broken, peculiar, guest("acme")];
    let host = Host::start(&plugins, "allow_unsigned_by_default = true", "").await;
    for (path, status) in [("/webhooks/broken", 503), ("/webhooks/peculiar", 429)] {
        let answer = host.post(path, "x").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, "plugin_trapped")
        );
        assert_eq!(answer.json()["error"]["limit"], "trap");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
}

/// The guest's event has a recipient of a megabyte and a subject of two, both of one repeated letter: a naive search
/// for one in the other would take hours.
#[tokio::test]
async fn texts_that_repeat_themselves_hold_up_nobody() {
    let repeats = guest("repeats").memory("70").normalize(
        "(memory.fill (i32.const 262144) (i32.const 97) (i32.const 4194304))
         (i64.store (i32.const 65544) (local.get $received))
         (i32.store8 (i32.const 65564) (i32.const 1))
         (i32.store (i32.const 65568) (i32.const 262144))
         (i32.store (i32.const 65572) (i32.const 1000002))
         (i32.store16 (i32.const 1262144) (i32.const 0x7840))
         (i32.store (i32.const 65576) (i32.const 3584))
         (i32.store (i32.const 65580) (i32.const 1))
         (i32.store8 (i32.const 3584) (i32.const 1))
         (i32.store (i32.const 3588) (i32.const 1024))
         (i32.store (i32.const 3592) (i32.const 7))
         (i32.store8 (i32.const 65620) (i32.const 1))
         (i32.store (i32.const 65624) (i32.const 2000000))
         (i32.store (i32.const 65628) (i32.const 2000000))
         (i32.store8 (i32.const 2000000) (i32.const 0x40))
         i32.const 768",
    );
    let plugins = [repeats, guest("acme")];
    let host = Host::start(&plugins, "allow_unsigned_by_default = true", "").await;
    let (repeats, acme) = tokio::join!(
        host.post("/webhooks/repeats", "x"),
        host.post("/webhooks/acme", "x")
    );
    assert_eq!(repeats.text, r#"{"accepted":1,"skipped":0,"rejected":0}"#);
    assert_eq!(acme.status, 200);
}

#[tokio::test]
async fn the_log_has_what_a_plugin_failed_at_and_is_not_flooded() {
    lines::keep();
    let plugin = guest("unlogged").normalize("unreachable").version("3.2.1");
    let settings = "allow_unsigned_by_default = true\n[plugins.quarantine]\nfailures = 1000";
    let host = Host::start(&[plugin], settings, "").await;
    for _ in 0..50 {
        let answer = host.post("/webhooks/unlogged", "ann@example.com").await;
        assert_eq!(answer.code(), "plugin_trapped");
    }
    let lines = lines::of("unlogged@3.2.1");
    // Ten at once, then one per second.
    assert!((10..40).contains(&lines.len()), "{lines:?}");
    assert!(lines[0].ends_with("instruction executed"), "{lines:?}");
    for line in &lines {
        assert!(
            line.starts_with("plugin `unlogged@3.2.1` gave no answer to request `"),
            "{line}"
        );
        let why = "its limit `trap` in `normalize`: wasm trap: wasm `unreachable` instruction executed";
        assert!(line.contains(why), "{line}");
        assert!(!line.contains("ann@"), "{line}");
    }
}

#[tokio::test]
async fn the_log_has_each_reason_for_which_something_is_rejected_once() {
    lines::keep();
    let elements = guest("nameless").version("4.0.0");
    let whole = guest("unread").version("4.0.0").normalize(MALFORMED);
    let strange = guest("strange").version("4.0.0").authenticate(MALFORMED);
    let host = Host::start(
        &[elements, whole, strange],
        "allow_unsigned_by_default = true",
        "",
    )
    .await;
    for slug in ["nameless", "unread", "strange"] {
        for _ in 0..3 {
            host.post(&format!("/webhooks/{slug}"), "ann@example.com").await;
        }
    }
    let [line] = lines::of("nameless@4.0.0").try_into().unwrap();
    assert!(
        line.contains("rejects for this reason, element 0 of request `"),
        "{line}"
    );
    assert!(line.ends_with("`: its time is before the year 2000"), "{line}");
    let [line] = lines::of("unread@4.0.0").try_into().unwrap();
    assert!(
        line.starts_with("first delivery that `unread@4.0.0` cannot read"),
        "{line}"
    );
    assert!(!line.contains("a@b.co"), "{line}");
    assert_eq!(lines::of("strange@4.0.0"), [""; 0], "strangers write no lines");
}

#[tokio::test]
async fn handshakes_answer_and_store_nothing() {
    let answering = guest("acme").authenticate(HANDSHAKE).normalize(REPLY);
    let lying = guest("liar").authenticate(HANDSHAKE);
    let host = Host::start(&[answering, lying], "", "[acme.default]\nunknown = 'x'").await;
    let answer = host.get("/webhooks/acme").await;
    assert_eq!((answer.status, answer.text.as_str()), (202, "hi"));
    let answer = host.post("/webhooks/liar", "x").await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "plugin_fault"));
    assert!(host.bus.appends().is_empty());
}

#[tokio::test]
async fn the_reading_of_a_handshake_has_the_headers_of_its_reply() {
    // One header, `a: b`.
    let reply = format!(
        "(i32.store (i32.const 612) (i32.const 652))
         (i32.store (i32.const 616) (i32.const 1))
         (i32.store (i32.const 652) (i32.const 672))
         (i32.store (i32.const 656) (i32.const 1))
         (i32.store (i32.const 660) (i32.const 673))
         (i32.store (i32.const 664) (i32.const 1))
         (i32.store16 (i32.const 672) (i32.const 0x6261))
         {REPLY}"
    );
    let host = Host::open(guest("acme").authenticate(HANDSHAKE).normalize(&reply)).await;
    assert_eq!(host.get("/webhooks/acme").await.headers["a"], "b");
    let plugin = host.intake.plugins().get("acme").unwrap();
    let case = br#"{"provider": "acme", "name": "handshake", "request": {"body": ""}, "expect": {}}"#;
    let case = Case::from_json(case).unwrap();
    let reading = normalize_one(&plugin, &case, Timestamp::default()).await.unwrap();
    assert_eq!(
        serde_json::to_value(reading).unwrap()["handshake"]["reply"],
        json!({"status": 202, "headers": [{"name": "a", "value": "b"}], "body": "hi"})
    );
}

#[tokio::test]
async fn what_nothing_proves_is_refused() {
    let mut plugin = guest("acme");
    plugin.unproven_status = 406;
    let host = Host::start(&[plugin], "", "").await;
    let answer = host.post("/webhooks/acme", "x").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (406, "no_proof_configured")
    );
    assert!(host.bus.appends().is_empty());
}

#[tokio::test]
async fn a_panic_is_one_answer_and_no_more() {
    let host = Host::open(guest("acme")).await;
    host.bus.set(Mood::Panics);
    let answer = host.post("/webhooks/acme", "x").await;
    assert_eq!((answer.status, answer.code().as_str()), (500, "internal_error"));
    assert!(answer.headers.contains_key("x-request-id"));
    host.bus.set(Mood::Takes);
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
    let metrics = host.get("/metrics").await.text;
    assert!(metrics.contains("sendflowr_host_panics_total 1\n"), "{metrics}");
    assert!(
        metrics.contains("sendflowr_host_deliveries_in_flight 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn readiness_tells_what_the_bus_answers_and_refuses() {
    let statuses = |answer: &Answer| {
        let ready = answer.json();
        let of = |name: &str| ready["dependencies"][name]["status"].as_str().unwrap().to_owned();
        (of("bus"), of("dead_letters"))
    };
    let told = |bus: &str, letters: &str| (bus.to_owned(), letters.to_owned());
    let host = Host::open(guest("acme").normalize(&after_its_receipt(0))).await;
    host.bus.set(Mood::Refuses);
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 503);
    assert_eq!(statuses(&host.ready(503).await), told("unusable", "ok"));
    host.bus.set(Mood::Takes);
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 200);
    assert_eq!(statuses(&host.ready(200).await), told("ok", "ok"));

    // What can be read is still taken.
    let host = Host::open(guest("acme")).await;
    host.bus.set(Mood::Refuses);
    assert_eq!(host.post("/webhooks/acme", "x").await.status, 503);
    let answer = host.ready(200).await;
    assert_eq!(answer.json()["status"], "degraded");
    assert_eq!(statuses(&answer), told("ok", "unusable"));
}
