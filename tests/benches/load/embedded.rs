//! Measures one process on the embedded engines, and for comparison the bus alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use integration_tests::{PATIENCE, System};
use store::bus::{EVENTS_TOPIC, NewRecord};

use crate::traffic::{CONNECTIONS, WARM_UP, account, deliveries, email, percentiles, send, send_at};

/// The number of measured deliveries.
const MEASURED: usize = 12_000;

/// Deliveries a second of the pass that measures how long one takes: half of what two cores achieve.
const PACE: u32 = 2_000;

/// Deliveries of that pass: some seconds.
const PACED: usize = 10_000;

/// The number of measured decisions.
const DECISIONS: usize = 4_000;

pub(crate) async fn run() {
    let account = account();
    let mut configuration = "[accounts.sendgrid.default]\n".to_owned();
    for (name, value) in account.config() {
        configuration.push_str(&format!("{name} = '{value}'\n"));
    }
    let mut system = System::start_logging(&configuration, &[], &[], "warn").await;
    let host = format!("http://{}", system.host);
    let deliveries = Arc::new(deliveries(&account, WARM_UP + MEASURED + PACED, ""));
    let idle = system.resident_kb();
    send(&system.http, &host, &deliveries, 0..WARM_UP).await;
    let start = Instant::now();
    send(&system.http, &host, &deliveries, WARM_UP..WARM_UP + MEASURED).await;
    let rate = MEASURED as f64 / start.elapsed().as_secs_f64();
    println!("deliveries, one event each, durable  {rate:>8.0} /s");
    let all = (WARM_UP + MEASURED) as u64;
    while system.stored_events().await != all {
        assert!(start.elapsed() < PATIENCE, "not all events are stored");
        // A count costs the consumer some of the disk and the processors.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    println!(
        "  all in the event store             {:>8.1} s after the first was sent",
        start.elapsed().as_secs_f64()
    );

    let paced = WARM_UP + MEASURED..deliveries.len();
    let mut times = send_at(PACE, &system.http, &host, &deliveries, paced).await;
    println!(
        "  at that pace, from when each is due {PACE:>7} /s   {}",
        percentiles(&mut times, 99)
    );

    let baseline = bare_bus().await;
    println!(
        "the bare bus, records of that size   {baseline:>8.0} /s   ratio {:.2}",
        rate / baseline
    );

    // The first decisions read the tables and open the connections.
    decide(&system, WARM_UP).await;
    let mut times = decide(&system, DECISIONS).await;
    let total: Duration = times.iter().sum();
    println!(
        "decisions, one caller                {:>8.0} /s   {}",
        times.len() as f64 / total.as_secs_f64(),
        percentiles(&mut times, 99)
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
}

/// Measures appends by as many writers as there are connections, to a separate bus on the same disk.
async fn bare_bus() -> f64 {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let stores = store::testing::open_embedded(folder.path())
        .await
        .expect("the bus opens");
    let each = MEASURED / CONNECTIONS;
    let start = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..CONNECTIONS {
        let bus = stores.bus.clone();
        writers.spawn(async move {
            for _ in 0..each {
                // One of the measured events has about 900 bytes.
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

async fn decide(system: &System, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let question = serde_json::json!({ "email": email(number, ""), "window_hours": 24 });
        let start = Instant::now();
        let answer = system.ask("/timing/decide", &question).await;
        times.push(start.elapsed());
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    times
}
