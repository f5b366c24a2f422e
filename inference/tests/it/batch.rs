//! Batches: order, capacity, herds, and the cost of a slow caller.

use event::grid::MINUTE_MS;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::event::{EventType, Timestamp};
use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use futures::{StreamExt, stream};
use proptest::prelude::*;
use sendflowr_inference::{InferenceConfig, RawInferenceConfig};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::mpsc};
use tower::ServiceExt;

use crate::{
    NOW, TestApp,
    fakes::{Stores, evening_clicks, event},
    now,
};

/// Sends a request and returns the response's body while it is being sent.
async fn begin(app: &TestApp, path: &str, body: Body) -> BodyDataStream {
    let request = Request::post(path).body(body).unwrap();
    let response = app.server.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/x-ndjson");
    response.into_body().into_data_stream()
}

/// Returns all lines of the response, and whether it was complete.
async fn finish(mut answer: BodyDataStream) -> (Vec<Value>, bool) {
    let (mut text, mut is_whole) = (Vec::new(), true);
    while let Some(piece) = answer.next().await {
        match piece {
            Ok(piece) => text.extend_from_slice(&piece),
            Err(_) => is_whole = false,
        }
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), is_whole)
}

async fn answers(app: &TestApp, path: &str, lines: &[String]) -> Vec<Value> {
    let (answers, is_whole) = finish(begin(app, path, Body::from(lines.join("\n"))).await).await;
    assert!(is_whole);
    answers
}

fn at(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// Without an experiment, every decision is the model's.
fn config() -> InferenceConfig {
    InferenceConfig {
        experiment: None,
        ..InferenceConfig::default()
    }
}

/// Without a profile store everybody is read from the events: many people per query, and each gets their own.
#[tokio::test]
async fn a_batch_without_profiles_takes_few_queries() {
    let stores = Stores::default();
    evening_clicks(&stores, "person77@example.com", 20, now());
    let app = TestApp::start_with(stores, &config());
    app.profiles.down.store(true, Ordering::SeqCst);
    let lines: Vec<String> = (0..600)
        .map(|number| json!({"email": format!("person{number}@example.com"), "now": NOW}).to_string())
        .collect();
    let answers = answers(&app, "/timing/decide/batch", &lines).await;
    for (number, answer) in answers.iter().enumerate() {
        let evidence = &answer["decision"]["evidence"];
        assert_eq!(
            evidence["profile_source"], "history_profiles_unreachable",
            "{answer}"
        );
        assert_eq!(evidence["source"] == "person", number == 77, "{answer}");
    }
    let queries = app.events.profile_queries.load(Ordering::SeqCst);
    assert!((1..=12).contains(&queries), "{queries} queries");
}

#[tokio::test]
async fn each_line_has_one_answer_in_its_place() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let spam = event(
        "bob@example.com",
        EventType::MarkedSpam,
        now().plus_millis(-1_000),
    );
    stores.consume(spam);
    let app = TestApp::start_with(stores, &config());
    let ann = json!({"email": "ann@example.com", "now": NOW}).to_string();
    let lines = [
        ann.clone(),
        json!({"email": "bob@example.com", "now": NOW}).to_string(),
        json!({"email": "x"}).to_string(),
        json!({"email": "c@example.com", "nwo": NOW}).to_string(),
        "7".to_owned(),
        String::new(),
        format!("{ann} {ann}"),
        "{\"email\": \"d@example.com".to_owned(),
        format!("{{\"email\":\"{}\"}}", "e".repeat(70_000)),
        json!({"email": "nobody@example.com", "now": NOW}).to_string(),
    ];
    let answers = answers(&app, "/timing/decide/batch", &lines).await;
    let told: Vec<String> = answers
        .iter()
        .map(|answer| {
            format!(
                "{} {} {} {}",
                answer["index"], answer["status"], answer["error"]["code"], answer["error"]["field"]
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "0 200 null null",
            "1 409 \"suppressed\" null",
            "2 422 \"invalid_field\" \"email\"",
            "3 422 \"invalid_field\" \"nwo\"",
            "4 422 \"invalid_field\" \"body\"",
            "5 400 \"malformed_json\" null",
            "6 400 \"malformed_json\" null",
            "7 400 \"malformed_json\" null",
            "8 413 \"line_too_long\" null",
            "9 200 null null",
        ]
    );
    // Each decision is the one that the person would have got alone.
    for index in [0, 9] {
        let (_, alone) = app.post_text("/timing/decide", lines[index].clone()).await;
        assert_eq!(answers[index]["decision"], alone);
    }
}

#[tokio::test]
async fn settings_of_a_batch_are_checked() {
    let app = TestApp::start(Stores::default());
    for (query, field) in [
        ("capacity_per_minute=0", "capacity_per_minute"),
        ("capacity_per_minute=-1", "capacity_per_minute"),
        ("capacity_per_minute=99999999", "capacity_per_minute"),
        ("capacity=5", "capacity"),
    ] {
        let (status, answer) = app
            .post_text(&format!("/timing/decide/batch?{query}"), String::new())
            .await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        assert_eq!(answer["error"]["field"], field, "{query}");
    }
    assert!(answers(&app, "/timing/decide/batch", &[]).await.is_empty());
}

/// One line of a generated batch.
#[derive(Debug, Clone)]
struct Asked {
    person: usize,
    esp: Option<&'static str>,
    start_minutes: i64,
    length_minutes: i64,
    quiet: Option<(i64, i64)>,
    deadline: Option<i64>,
    latency_seconds: i64,
    is_malformed: bool,
}

impl Asked {
    fn line(&self) -> String {
        let minutes = |count: i64| now().plus_millis(count * MINUTE_MS).to_string();
        let time = |minute: i64| format!("{:02}:{:02}", minute / 60, minute % 60);
        let (start, length) = (self.start_minutes, self.length_minutes);
        let mut request = json!({
            "email": format!("p{}@example.com", self.person), "now": NOW, "latency_seconds": self.latency_seconds,
            "window": {"start": minutes(start), "end": minutes(start + length)},
        });
        if let Some((start, end)) = self.quiet {
            request["quiet_hours"] = json!({"start": time(start), "end": time(end)});
        }
        if let Some(deadline) = self.deadline {
            request["deadline"] = minutes(start + deadline).into();
        }
        if let Some(esp) = self.esp {
            request["esp"] = esp.into();
        }
        let text = request.to_string();
        if self.is_malformed {
            text[..text.len() - 1].to_owned()
        } else {
            text
        }
    }

    /// Returns whether the rules of the line allow arrival at a minute.
    fn allows(&self, minute: Timestamp) -> bool {
        let since_now = minute.millis_since(now());
        let of_day = minute.as_millis() / MINUTE_MS % 1_440;
        let quiet = self.quiet.is_some_and(|(start, end)| {
            if start < end {
                (start..end).contains(&of_day)
            } else {
                of_day >= start || of_day < end
            }
        });
        let end = self.start_minutes + self.length_minutes;
        let in_time = self
            .deadline
            .is_none_or(|deadline| since_now <= (self.start_minutes + deadline) * MINUTE_MS);
        (self.start_minutes * MINUTE_MS..end * MINUTE_MS).contains(&since_now)
            && since_now >= self.latency_seconds * 1_000
            && in_time
            && !quiet
    }

    /// Returns the minute since 1970 in which the mail is handed over.
    fn trigger_minute(&self, arrival: Timestamp) -> i64 {
        (arrival.as_millis() - self.latency_seconds * 1_000).div_euclid(MINUTE_MS)
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        0..40_usize,
        prop::sample::select(vec![None, Some("alpha"), Some("beta")]),
        0..300_i64,
        1..400_i64,
        prop::option::of((0..1_440_i64, 1..1_440_i64)),
        prop::option::of(0..300_i64),
        0..300_i64,
        prop::bool::weighted(0.05),
    )
        .prop_map(
            |(person, esp, start_minutes, length_minutes, quiet, deadline, latency_seconds, is_malformed)| {
                Asked {
                    person,
                    esp,
                    start_minutes,
                    length_minutes,
                    quiet: quiet.filter(|(start, end)| start != end),
                    deadline,
                    latency_seconds,
                    is_malformed,
                }
            },
        )
}

fn known_people() -> Stores {
    let stores = Stores::default();
    for person in 0..20 {
        let address = format!("p{person}@example.com");
        evening_clicks(&stores, &address, 2 * person + 1, now());
        let click = now().plus_millis(-(person + 1) * 3_600_000);
        stores.consume(event(&address, EventType::Clicked, click));
    }
    stores
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// For any lines there are as many answers, in their order; none breaks a rule of its line, no minute of a provider
    /// exceeds its capacity, and a line without a minute could not have got one.
    #[test]
    fn capacity_and_guards_hold_and_order_is_kept(
        asked in prop::collection::vec(asked(), 1..400),
        capacity in 1..4_usize,
    ) {
        let runtime = Runtime::new().unwrap();
        let lines: Vec<String> = asked.iter().map(Asked::line).collect();
        let path = format!("/timing/decide/batch?capacity_per_minute={capacity}");
        let (answers, again) = runtime.block_on(async {
            let app = TestApp::start_with(known_people(), &config());
            (answers(&app, &path, &lines).await, answers(&app, &path, &lines).await)
        });
        prop_assert_eq!(&answers, &again, "the same lines get other answers");
        prop_assert_eq!(answers.len(), asked.len());
        let mut taken: BTreeMap<(Option<&str>, i64), usize> = BTreeMap::new();
        for (index, (answer, asked)) in answers.iter().zip(&asked).enumerate() {
            prop_assert_eq!(answer["index"].as_u64(), Some(index as u64));
            let decision = &answer["decision"];
            if decision.is_null() {
                continue;
            }
            let arrival = at(&decision["arrive_at"]);
            prop_assert!(asked.allows(arrival), "{asked:?} got {arrival}");
            let trigger = at(&decision["trigger_at"]);
            prop_assert_eq!(trigger.as_millis().div_euclid(MINUTE_MS), asked.trigger_minute(arrival));
            *taken.entry((asked.esp, asked.trigger_minute(arrival))).or_default() += 1;
            if !decision["moved"].is_null() {
                let from = at(&decision["moved"]["from"]);
                prop_assert!(asked.allows(from) && from != arrival);
            }
        }
        prop_assert!(taken.values().all(|count| *count <= capacity), "{taken:?}");
        for (answer, asked) in answers.iter().zip(&asked) {
            let code = answer["error"]["code"].as_str();
            if asked.is_malformed {
                prop_assert_eq!(code, Some("malformed_json"));
                continue;
            }
            let begin = now().plus_millis(asked.start_minutes * MINUTE_MS);
            let allowed: Vec<Timestamp> = (0..asked.length_minutes)
                .map(|minute| begin.plus_millis(minute * MINUTE_MS))
                .filter(|minute| asked.allows(*minute))
                .collect();
            let is_full = |minute: &Timestamp| {
                taken.get(&(asked.esp, asked.trigger_minute(*minute))) == Some(&capacity)
            };
            match code {
                None => {}
                Some("over_capacity") => {
                    prop_assert!(!allowed.is_empty() && allowed.iter().all(is_full), "{asked:?}");
                }
                Some("suppressed") => prop_assert!(allowed.is_empty(), "{asked:?}"),
                code => prop_assert!(false, "{code:?} for {asked:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_configuration_limits_a_provider_and_the_request_all() {
    let config = InferenceConfig {
        experiment: None,
        ..toml_like(&json!({"capacity_per_minute": {"Alpha": 2}}))
    };
    let app = TestApp::start_with(known_people(), &config);
    // One minute long, so that everybody wants the same one.
    let line = |esp: &str| {
        json!({
            "email": "p3@example.com", "now": NOW, "esp": esp, "latency_seconds": 0,
            "window": {"start": "2026-01-07T12:00:00Z", "end": "2026-01-07T12:01:00Z"},
        })
        .to_string()
    };
    let mut lines: Vec<String> = Vec::new();
    for esp in ["ALPHA", "beta"] {
        lines.extend((0..5).map(|_| line(esp)));
    }
    let statuses = |answers: &[Value]| -> Vec<u64> {
        answers
            .iter()
            .map(|answer| answer["status"].as_u64().unwrap())
            .collect()
    };
    let configured = answers(&app, "/timing/decide/batch", &lines).await;
    assert_eq!(
        statuses(&configured),
        [200, 200, 409, 409, 409, 200, 200, 200, 200, 200]
    );
    assert_eq!(configured[2]["error"]["code"], "over_capacity");
    let asked = answers(&app, "/timing/decide/batch?capacity_per_minute=3", &lines).await;
    assert_eq!(
        statuses(&asked),
        [200, 200, 200, 409, 409, 200, 200, 200, 409, 409]
    );
}

fn toml_like(raw: &Value) -> InferenceConfig {
    let raw: RawInferenceConfig = serde_json::from_value(raw.clone()).unwrap();
    InferenceConfig::try_from(raw).unwrap()
}

#[tokio::test]
async fn a_move_is_told_and_explained() {
    let app = TestApp::start_with(known_people(), &config());
    let line = json!({"email": "p9@example.com", "now": NOW, "explain": true}).to_string();
    let lines = [line.clone(), line];
    let answers = answers(&app, "/timing/decide/batch?capacity_per_minute=1", &lines).await;
    let (first, second) = (&answers[0]["decision"], &answers[1]["decision"]);
    assert!(first["moved"].is_null());
    assert_eq!(second["moved"]["from"], first["arrive_at"]);
    assert_eq!(second["moved"]["capacity_per_minute"], 1);
    let lost = second["moved"]["value_lost"].as_f64().unwrap();
    let (before, after) = (&first["response_value"], &second["response_value"]);
    assert_eq!(before.as_f64().unwrap() - after.as_f64().unwrap(), lost);
    // The next minute is nearly as good.
    assert!((0.0..0.01).contains(&lost), "{lost}");
    assert_eq!(second["explanation"]["moved"], second["moved"]);
    let why = second["why"].to_string();
    assert!(why.contains("takes 1 mail a minute"), "{why}");
    let stored = app
        .get(&format!(
            "/explanations/{}",
            second["explanation_ref"].as_str().unwrap()
        ))
        .await;
    assert_eq!(stored.1["moved"], second["moved"]);
}

/// A batch of people of whom nothing is known, with windows of a day on four weekdays.
fn strangers(count: usize) -> Vec<String> {
    (0..count)
        .map(|person| json!({"email": format!("stranger{person}@example.com"), "now": NOW}).to_string())
        .collect()
}

#[tokio::test]
async fn strangers_do_not_herd() {
    const PEOPLE: usize = 3_000;
    let app = TestApp::start_with(Stores::default(), &config());
    let lines = strangers(PEOPLE);
    let answers = answers(&app, "/timing/decide/batch", &lines).await;
    let mut by_minute: BTreeMap<Timestamp, usize> = BTreeMap::new();
    let mut on_the_hour = 0;
    let (mut best, mut worst) = (0.0_f64, f64::MAX);
    for answer in &answers {
        let arrival = at(&answer["decision"]["arrive_at"]);
        *by_minute.entry(arrival).or_default() += 1;
        on_the_hour += usize::from(arrival.as_millis() % 3_600_000 == 0);
        let value = answer["decision"]["response_value"].as_f64().unwrap();
        (best, worst) = (best.max(value), worst.min(value));
    }
    // Spread evenly, a minute would get this many, and the full hours three of the 155 minutes' worth. The fullest of
    // so many minutes is two or three standard deviations above.
    let even = PEOPLE as f64 / by_minute.len() as f64;
    let fullest = *by_minute.values().max().unwrap() as f64;
    println!(
        "{} minutes, {:.2} % in the fullest, {:.2} % spread evenly, {:.1} % on the hour",
        by_minute.len(),
        100.0 * fullest / PEOPLE as f64,
        100.0 * even / PEOPLE as f64,
        100.0 * on_the_hour as f64 / PEOPLE as f64
    );
    assert!(by_minute.len() >= 30, "{} minutes", by_minute.len());
    assert!(fullest <= even + 4.0 * even.sqrt(), "{fullest} of {even}");
    assert!(
        on_the_hour as f64 <= 3.0 * even + 4.0 * (3.0 * even).sqrt(),
        "{on_the_hour} on the hour"
    );
    // This costs next to nothing.
    assert!(worst >= 0.99 * best - 1e-9, "{worst} of {best}");
    // A person always gets the same minute.
    let (_, alone) = app.post_text("/timing/decide", lines[17].clone()).await;
    assert_eq!(answers[17]["decision"], alone);
}

#[tokio::test]
async fn groups_make_room_alike_and_all_of_them_count() {
    const PEOPLE: usize = 600;
    let experiment = toml_like(&json!({"experiment": {"control_share": 0.5, "exploration_share": 0.0}}));
    let app = TestApp::start_with(Stores::default(), &experiment);
    let lines: Vec<String> = (0..PEOPLE)
        .map(|person| {
            json!({"email": format!("stranger{person}@example.com"), "window_hours": 4, "esp": "alpha", "explain": true})
                .to_string()
        })
        .collect();
    let free = answers(&app, "/timing/decide/batch", &lines).await;
    // Some 480 lines find a minute.
    let crowded = answers(&app, "/timing/decide/batch?capacity_per_minute=2", &lines).await;
    assert!(free.iter().all(|answer| answer["decision"]["moved"].is_null()));
    let control: Vec<bool> = free
        .iter()
        .map(|answer| answer["decision"]["group"] == "control")
        .collect();
    let refused = |of_control: bool| {
        let of_group = crowded
            .iter()
            .zip(&control)
            .filter(|(_, control)| **control == of_control);
        let statuses: Vec<bool> = of_group.map(|(answer, _)| answer["status"] == 409).collect();
        statuses.iter().filter(|refused| **refused).count() as f64 / statuses.len() as f64
    };
    // The shares refused in two groups of 300 people, of whom a fifth is refused, differ by about 0.033.
    assert!((0.1..0.3).contains(&refused(true)), "{}", refused(true));
    assert!(
        (refused(true) - refused(false)).abs() < 0.11,
        "{} {}",
        refused(true),
        refused(false)
    );
    let mut moved_far = 0;
    for decision in crowded
        .iter()
        .map(|answer| &answer["decision"])
        .filter(|decision| !decision.is_null())
    {
        let experiment = &decision["explanation"]["experiment"];
        assert_eq!(experiment["counted"], true);
        let propensity = experiment["propensity"].as_f64().unwrap();
        if decision["group"] == "treated" {
            // Half of the people are treated, and certainly go to the best free minute.
            assert!((0.5..=1.0).contains(&propensity), "{propensity}");
            assert_eq!(experiment["model_choice"]["at"], decision["arrive_at"]);
        } else {
            assert!(propensity > 0.0);
        }
        let from = decision["moved"]["from"]
            .as_str()
            .map(|_| at(&decision["moved"]["from"]));
        moved_far += usize::from(
            from.is_some_and(|from| from.millis_since(at(&decision["arrive_at"])).abs() > 900_000),
        );
    }
    assert!(
        moved_far > PEOPLE / 4,
        "{moved_far} are decisions of another quarter hour"
    );
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    const LINES: usize = 40_000;
    // Two windows ahead, one being answered, one answered but not yet read, one being received, and the chunk that it comes from.
    const AT_MOST: usize = 6 * 1_024;
    for path in [
        "/timing/decide/batch",
        "/timing/decide/batch?capacity_per_minute=1000",
    ] {
        let app = TestApp::start_with(Stores::default(), &config());
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let line = Bytes::from(json!({"email": "ann@example.com", "now": NOW}).to_string() + "\n");
        let lines = stream::iter(0..LINES).map(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            io::Result::Ok(line.clone())
        });
        let mut answer = begin(&app, path, Body::from_stream(lines)).await;
        // Nobody reads: wait until nothing more is accepted for a while.
        let mut before = usize::MAX;
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        assert!((1..=AT_MOST).contains(&before), "{path}: {before}");
        // Once a little is read, a little more is accepted.
        let first = answer.next().await.unwrap().unwrap();
        let read = first.iter().filter(|byte| **byte == b'\n').count();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let then = sent.load(Ordering::SeqCst);
        assert!(then <= read + AT_MOST, "{path}: {then}");
        let (rest, is_whole) = finish(answer).await;
        assert!(is_whole);
        assert_eq!(read + rest.len(), LINES, "{path}");
        assert_eq!(rest.last().unwrap()["index"], LINES - 1, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_gets_every_answer_and_who_stops_sees_that_some_are_missing() {
    const LINES: usize = 3_000;
    let app = TestApp::start_with(Stores::default(), &config());
    let request = || Body::from(strangers(LINES).join("\n"));
    let mut answer = begin(&app, "/timing/decide/batch", request()).await;
    let (mut read, mut largest) = (0, 0);
    while let Some(piece) = answer.next().await {
        let piece = piece.unwrap();
        assert!(piece.ends_with(b"\n"));
        largest = largest.max(piece.len());
        read += piece.iter().filter(|byte| **byte == b'\n').count();
        tokio::time::sleep(Duration::from_secs(55)).await;
    }
    assert_eq!(read, LINES);
    // The less is handed over at once, the slower a caller may read.
    assert!(largest < 16_000, "{largest} bytes at once");

    let mut answer = begin(&app, "/timing/decide/batch", request()).await;
    let first = answer.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(150)).await;
    let (rest, is_whole) = finish(answer).await;
    let read = first.iter().filter(|byte| **byte == b'\n').count() + rest.len();
    assert!(!is_whole && read < LINES, "{read}");
}

#[tokio::test]
async fn lines_are_answered_as_they_come() {
    let app = TestApp::start_with(Stores::default(), &config());
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    let body = stream::unfold(receiver, |mut receiver| async {
        let next = receiver.recv().await?;
        Some((next, receiver))
    });
    let mut answer = begin(&app, "/timing/decide/batch", Body::from_stream(body)).await;
    for index in 0..3 {
        let line = json!({"email": "ann@example.com", "now": NOW}).to_string() + "\n";
        sender.send(Ok(line.into())).await.unwrap();
        let told = tokio::time::timeout(Duration::from_secs(20), answer.next()).await;
        let told: Value = serde_json::from_slice(&told.unwrap().unwrap().unwrap()).unwrap();
        assert_eq!((&told["index"], &told["status"]), (&json!(index), &json!(200)));
    }
    // If a request breaks off, so does its response, after the answers to the previous lines.
    let line = json!({"email": "ann@example.com", "now": NOW}).to_string() + "\nhalf";
    sender.send(Ok(line.into())).await.unwrap();
    sender
        .send(Err(io::ErrorKind::ConnectionReset.into()))
        .await
        .unwrap();
    let (rest, is_whole) = finish(answer).await;
    assert_eq!((rest.len(), is_whole), (1, false));
}

#[tokio::test]
async fn many_batches_wait_for_each_other() {
    let config = InferenceConfig {
        request_timeout: Duration::from_millis(300),
        ..config()
    };
    let app = TestApp::start_with(Stores::default(), &config);
    let endless = || Body::from_stream(stream::pending::<io::Result<Bytes>>());
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(begin(&app, "/timing/decide/batch", endless()).await);
    }
    let (status, answer) = app.post_text("/timing/decide/batch", String::new()).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("timed_out"))
    );
    // A caller who disconnects makes room.
    drop(open);
    let mut statuses = BTreeSet::new();
    for _ in 0..100 {
        let (status, _) = app.post_text("/timing/decide/batch", String::new()).await;
        statuses.insert(status);
        if status == StatusCode::OK {
            break;
        }
    }
    assert!(statuses.contains(&StatusCode::OK), "{statuses:?}");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_explanations_wait_for_the_event_store_makes_room() {
    let config = InferenceConfig {
        explanation_queue: 1,
        ..config()
    };
    let app = TestApp::start_with(Stores::default(), &config);
    app.events.down.store(true, Ordering::SeqCst);
    let mut open = Vec::new();
    for _ in 0..4 {
        let lines = Body::from(strangers(100).join("\n"));
        open.push(begin(&app, "/timing/decide/batch", lines).await);
    }
    // Time passes once there is nothing left to do: all of them wait.
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(open);
    let (status, _) = app.post_text("/timing/decide/batch", String::new()).await;
    assert_eq!(status, StatusCode::OK);
}

/// Counts warnings about stores, and about what could not be answered.
#[derive(Clone, Default)]
pub(crate) struct Warnings(pub(crate) Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if event
            .fields()
            .any(|field| matches!(field.name(), "store.what" | "code"))
        {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_store_that_fails_a_batch_is_logged_once() {
    let warnings = Warnings::default();
    // This test runs on one thread.
    let _logging = tracing::subscriber::set_default(warnings.clone());
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let app = TestApp::start_with(stores, &config());
    app.profiles.down.store(true, Ordering::SeqCst);
    app.events.down.store(true, Ordering::SeqCst);
    let line = json!({"email": "ann@example.com", "now": NOW}).to_string();
    // More than one window's worth of lines.
    let answers = answers(&app, "/timing/decide/batch", &vec![line; 3_000]).await;
    assert_eq!(answers.len(), 3_000);
    for answer in answers {
        assert_eq!(
            (&answer["status"], &answer["error"]["code"]),
            (&json!(503), &json!("unavailable"))
        );
    }
    assert_eq!(warnings.0.load(Ordering::SeqCst), 1);
}
