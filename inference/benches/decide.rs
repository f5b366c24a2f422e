//! Decisions through the router, with stored profiles: decisions per second, and the 99th percentile of their duration.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark fails loudly and prints what it found"
)]

#[allow(
    dead_code,
    reason = "the fakes serve the integration tests, which use all of them"
)]
#[path = "../tests/it/fakes.rs"]
mod fakes;

use std::time::{Duration, Instant, SystemTime};

use ::event::{EventType, Timestamp};
use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::StreamExt;
use sendflowr_inference::{InferenceConfig, Server};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use fakes::{Stores, evening_clicks, event};

/// Number of people, with 40 mails and clicks each: fewer than the curve cache holds, so that both kinds of decision
/// can be measured.
const PEOPLE: usize = 256;

/// Lines of a batch: several windows, so that they are processed side by side.
const BATCH: usize = 8 * 1_024;

/// Number of decisions whose 99th percentile is reported.
const SAMPLES: usize = 5_000;

/// The target: 99 of 100 decisions take no longer.
const TARGET_P99: Duration = Duration::from_millis(5);

/// Returns how many curves have been computed so far.
async fn curves_computed(router: &Router) -> u64 {
    let response = router
        .clone()
        .oneshot(Request::get("/metrics").body(Body::empty()).unwrap())
        .await
        .unwrap();
    let mut text = Vec::new();
    let mut chunks = response.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    let name = "sendflowr_inference_cache_lookups_total{cache=\"curve\",result=\"miss\"} ";
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map_or(0, |count| count.parse().unwrap())
}

async fn answer(router: &Router, path: &str, body: String) -> StatusCode {
    let response = router
        .clone()
        .oneshot(Request::post(path).body(Body::from(body)).unwrap())
        .await
        .unwrap();
    let status = response.status();
    let mut chunks = response.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        std::hint::black_box(chunk.unwrap());
    }
    status
}

fn request(person: usize, window_hours: usize) -> Value {
    json!({
        "email": format!("p{person}@example.com"), "window_hours": window_hours, "time_zone": "Europe/Berlin",
        "quiet_hours": {"start": "22:00", "end": "07:00"}, "esp": "sendgrid",
    })
}

fn benchmark(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let stores = Stores::default();
    for person in 0..PEOPLE {
        let (address, now) = (
            format!("p{person}@example.com"),
            Timestamp::from(SystemTime::now()),
        );
        evening_clicks(&stores, &address, 40, now);
        // Each person has a click of their own; otherwise all would share one profile and therefore one curve.
        let own_ms = (person as i64 + 120) * 60_000;
        stores.consume(event(&address, EventType::Clicked, now.plus_millis(-own_ms)));
    }
    let server = {
        let _inside = runtime.enter();
        Server::start(
            &InferenceConfig::default(),
            stores.dependencies(),
            CancellationToken::new(),
        )
    };
    // A separate server with a cache of one curve: each decision computes its own.
    let uncached = {
        let _inside = runtime.enter();
        let config = InferenceConfig {
            curve_cache_entries: 1,
            ..InferenceConfig::default()
        };
        Server::start(&config, stores.dependencies(), CancellationToken::new())
    };

    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(1));
    for (name, server) in [("cached curve", &server), ("new curve", &uncached)] {
        let router = server.router();
        let mut took = Vec::with_capacity(SAMPLES);
        for sample in 0..SAMPLES {
            let body = request(sample % PEOPLE, 24).to_string();
            let started = Instant::now();
            assert_eq!(
                runtime.block_on(answer(&router, "/timing/decide", body)),
                StatusCode::OK
            );
            took.push(started.elapsed());
        }
        let computed = runtime.block_on(curves_computed(&router));
        took.sort_unstable();
        let (p50, p99) = (took[SAMPLES / 2], took[SAMPLES * 99 / 100]);
        println!(
            "decide, {name}: {computed} curves for {SAMPLES} decisions, p50 {p50:?}, p99 {p99:?}, {:.2} of the target of \
             {TARGET_P99:?}",
            p99.as_secs_f64() / TARGET_P99.as_secs_f64()
        );
        let mut person = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                person = (person + 1) % PEOPLE;
                runtime.block_on(answer(&router, "/timing/decide", request(person, 24).to_string()))
            });
        });
    }
    let router = server.router();
    let lines: Vec<String> = (0..BATCH)
        .map(|line| request(line % PEOPLE, 168).to_string())
        .collect();
    let batch = lines.join("\n");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, path) in [
        ("batch, window of a week", "/timing/decide/batch"),
        (
            "batch, window of a week, 10 mails a minute",
            "/timing/decide/batch?capacity_per_minute=10",
        ),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(answer(&router, path, batch.clone())));
        });
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
