//! `cargo xtask load`: how many durable deliveries a second, and how long each takes.
//!
//! One-event SendGrid deliveries, each signed, over loopback connections that stay open, into a real `sendflowr up`. Printed
//! beside a baseline measured in the same run, the bare bus appending records of the same size, because machines are noisy
//! and only the ratio travels.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use event::Timestamp;
use integration_tests::{System, eventually};
use store::bus::{EVENTS_TOPIC, NewRecord};
use synth::delivery::{Account, Action, Delivery, Kind};

/// Connections that send at once: enough for deliveries to share flushes, as providers' many senders do.
const CONNECTIONS: usize = 48;

/// Deliveries of the warm-up, so that caches, pools and the plugin's code are in place.
const WARM_UP: usize = 500;

/// Deliveries measured.
const MEASURED: usize = 12_000;

/// Decisions measured.
const DECISIONS: usize = 4_000;

#[expect(clippy::print_stdout, reason = "the figures are the result")]
fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let account = Account::generate("sendgrid", "").expect("SendGrid is known");
        let mut configuration = "[accounts.sendgrid.default]\n".to_owned();
        for (name, value) in account.config() {
            configuration.push_str(&format!("{name} = '{value}'\n"));
        }
        let mut system = System::start_logging(&configuration, &[], &[], "warn").await;
        let deliveries = Arc::new(deliveries(&account, WARM_UP + MEASURED));
        let idle = system.resident_kb();
        send(&system, &deliveries, 0..WARM_UP).await;
        let start = Instant::now();
        let mut times = send(&system, &deliveries, WARM_UP..WARM_UP + MEASURED).await;
        let rate = MEASURED as f64 / start.elapsed().as_secs_f64();
        println!(
            "deliveries, one event each, durable  {rate:>8.0} /s   {}",
            percentiles(&mut times)
        );
        let all = (WARM_UP + MEASURED) as u64;
        eventually("all events are stored", || async {
            system.stored_events().await == all
        })
        .await;
        println!(
            "  all in the event store             {:>8.1} s after the first was sent",
            start.elapsed().as_secs_f64()
        );

        let baseline = bare_bus().await;
        println!(
            "the bare bus, records of that size   {baseline:>8.0} /s   ratio {:.2}",
            rate / baseline
        );

        let mut times = decide(&system).await;
        let total: Duration = times.iter().sum();
        println!(
            "decisions, one caller                {:>8.0} /s   {}",
            times.len() as f64 / total.as_secs_f64(),
            percentiles(&mut times)
        );
        println!(
            "memory: {} MB idle with all plugins, {} MB now",
            idle / 1024,
            system.resident_kb() / 1024
        );

        system.stop().await;
        let start = Instant::now();
        system.launch().await;
        println!(
            "second start to ready                {:>8.2} s",
            start.elapsed().as_secs_f64()
        );
    });
}

/// Clicks of two thousand people, signed now.
fn deliveries(account: &Account, count: usize) -> Vec<Delivery> {
    let now = Timestamp::from(SystemTime::now());
    (0..count)
        .flat_map(|number| {
            let action = Action {
                kind: Kind::Clicked,
                at: now.plus_millis(-(number as i64) * 1_000),
                email: format!("person{}@example.com", number % 2_000),
                message: format!("message-{number}"),
            };
            account.deliver(&[action], now)
        })
        .collect()
}

async fn send(
    system: &System,
    deliveries: &Arc<Vec<Delivery>>,
    range: std::ops::Range<usize>,
) -> Vec<Duration> {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(range.start));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (http, url) = (
            system.http.clone(),
            format!("http://{}/webhooks/sendgrid", system.host),
        );
        let (deliveries, next, end) = (deliveries.clone(), next.clone(), range.end);
        senders.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= end {
                    return times;
                }
                let delivery = &deliveries[number];
                let mut request = http.post(&url).body(delivery.body.clone());
                for (name, value) in &delivery.headers {
                    request = request.header(name, value);
                }
                let start = Instant::now();
                let response = request.send().await.expect("the host answers");
                assert!(response.status().is_success(), "{}", response.status());
                response.bytes().await.expect("the answer is readable");
                times.push(start.elapsed());
            }
        });
    }
    let mut times = Vec::new();
    while let Some(done) = senders.join_next().await {
        times.extend(done.expect("a sender does not panic"));
    }
    times
}

/// Appends by as many writers as there are connections, to a bus of its own on the same disk.
async fn bare_bus() -> f64 {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let stores = store::embedded::open(folder.path()).await.expect("the bus opens");
    let each = MEASURED / CONNECTIONS;
    let start = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..CONNECTIONS {
        let bus = stores.bus.clone();
        writers.spawn(async move {
            for _ in 0..each {
                // 900 bytes is what one of the events measured comes to.
                let record = NewRecord {
                    topic: EVENTS_TOPIC.to_owned(),
                    key: writer.to_string(),
                    value: vec![b'x'; 900],
                    headers: Default::default(),
                };
                bus.append(vec![record]).await.expect("the bus takes records");
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer does not panic");
    }
    (each * CONNECTIONS) as f64 / start.elapsed().as_secs_f64()
}

async fn decide(system: &System) -> Vec<Duration> {
    let mut times = Vec::with_capacity(DECISIONS);
    for number in 0..DECISIONS {
        let question = serde_json::json!({ "email": format!("person{}@example.com", number % 2_000), "window_hours": 24 });
        let start = Instant::now();
        let answer = system.ask("/timing/decide", &question).await;
        times.push(start.elapsed());
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    times
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
    format!("p50 {:.2} ms  p99 {:.2} ms", at(0.5), at(0.99))
}
