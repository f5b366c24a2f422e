//! Measures what the sandbox costs: SendGrid deliveries of 1, 100 and 1,000 events through a fresh instance of the compiled
//! plugin, compared with the same functions compiled for this machine. Prints the table of `docs/providers.md`.
//!
//! Everything is measured in CPU time, in rounds that alternate, so that a busy machine slows all columns down alike;
//! each figure is the median of its rounds. In addition, prints the wall-clock time of one event, and what handing over
//! to another thread adds.
//!
//! Needs the compiled plugins: `cargo xtask plugins`, then `cargo bench -p sendflowr-host --bench plugin`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking and reports by printing"
)]

use std::{
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use sendflowr_host::{
    Account, Delivery,
    plugin::{
        Limits, Plugin, Plugins,
        types::{Header, Request},
    },
    proof::{CertificateSource, GivenCertificates},
};
use sendflowr_plugin_sdk::Plugin as _;
use sendgrid::SendGrid;

/// Events of a delivery, and how many deliveries make up one round: about a millisecond or more.
const SIZES: [(usize, usize); 3] = [(1, 64), (100, 8), (1_000, 2)];

/// Rounds of each kind. Odd, so that there is a median.
const ROUNDS: usize = 101;

/// Deliveries measured one by one for their wall-clock time: a hundred are above the 99th percentile.
const SINGLE: usize = 10_000;

/// Deliveries to one instance for the column of a warm instance. It never gives memory back, and each may need 2 MiB.
const WARM: usize = 8;

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Returns a click as SendGrid sends it; the event's number makes the ids differ.
fn event(number: usize) -> String {
    format!(
        r#"{{"email":"person{number}@example.com","timestamp":1760000000,"smtp-id":"<14c5d75ce93.dfd.{number}@ismtpd-555>","event":"click","category":["newsletter","autumn"],"sg_event_id":"ZGJkYmYtY2xpY2st{number}","sg_message_id":"14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0","useragent":"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15","ip":"203.0.113.7","url":"https://shop.example.com/autumn?utm_source=newsletter&id={number}","marketing_campaign_id":"42","marketing_campaign_name":"Autumn","order":"A-{number}"}}"#
    )
}

fn body(events: usize) -> Vec<u8> {
    let events: Vec<String> = (0..events).map(event).collect();
    format!("[{}]", events.join(",")).into_bytes()
}

fn headers() -> Vec<(&'static str, &'static str)> {
    vec![
        ("content-type", "application/json"),
        ("user-agent", "SendGrid Event API"),
        (
            "x-twilio-email-event-webhook-signature",
            "MEQCIEPGZiSXsbyvu+bmsCD1OahxzOICQnI6zBOiFkStsOW/AiBOzWI6/qq6Lcuczk3U6UblDMTZ7Audia7jUDyfjIZsqA==",
        ),
        ("x-twilio-email-event-webhook-timestamp", "1760000000"),
    ]
}

fn request(body: &[u8]) -> Request {
    let header = |(name, value): (&str, &str)| Header {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    Request {
        method: "POST".to_owned(),
        path: "/webhooks/sendgrid".to_owned(),
        query: String::new(),
        headers: headers().into_iter().map(header).collect(),
        body: body.to_vec(),
        received_at_ms: 1_760_000_000_000,
        settings: Vec::new(),
        secrets: vec!["public_key".to_owned()],
    }
}

/// Returns the same request in the types of the plugin's own bindings.
fn native_request(body: &[u8]) -> sendflowr_plugin_sdk::Request {
    let header = |(name, value): (&str, &str)| sendflowr_plugin_sdk::Header {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    sendflowr_plugin_sdk::Request {
        method: "POST".to_owned(),
        path: "/webhooks/sendgrid".to_owned(),
        query: String::new(),
        headers: headers().into_iter().map(header).collect(),
        body: body.to_vec(),
        received_at_ms: 1_760_000_000_000,
        settings: Vec::new(),
        secrets: vec!["public_key".to_owned()],
    }
}

/// Returns the CPU time of one delivery in a round of `deliveries`.
fn round(deliveries: usize, mut deliver: impl FnMut()) -> Duration {
    let began = ThreadTime::now();
    for _ in 0..deliveries {
        deliver();
    }
    began.elapsed() / u32::try_from(deliveries).unwrap()
}

/// Returns the value below which this share of the times is, in microseconds.
fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() - 1) as f64 * share).round() as usize;
    times[at].as_secs_f64() * 1e6
}

/// Times of deliveries of one size, in microseconds, and of their steps.
struct Row {
    native: f64,
    fresh: f64,
    warm: f64,
    steps: [f64; 4],
}

fn row(plugin: &Plugin, events: usize, deliveries: usize) -> Row {
    let body = body(events);
    let (native_request, request) = (native_request(&body), Arc::new(request(&body)));
    let native = || {
        let proofs = SendGrid::authenticate(black_box(&native_request)).unwrap();
        let outcome = SendGrid::normalize(black_box(&native_request)).unwrap();
        black_box((proofs, outcome));
    };
    let mut steps = [const { Vec::new() }; 4];
    let (mut natives, mut fresh, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    // The first round fills caches and the pool.
    for number in 0..=ROUNDS {
        let native = round(deliveries, native);
        let instance = round(deliveries, || {
            black_box(plugin.measure(&request).unwrap());
        });
        let reused = plugin.measure_warm(&request, WARM).unwrap();
        let measured = plugin.measure(&request).unwrap();
        if number > 0 {
            natives.push(native);
            fresh.push(instance);
            warm.push(reused);
            for (times, time) in steps.iter_mut().zip([
                measured.instantiate,
                measured.authenticate,
                measured.normalize,
                measured.give_back,
            ]) {
                times.push(time);
            }
        }
    }
    Row {
        native: quantile(&mut natives, 0.5),
        fresh: quantile(&mut fresh, 0.5),
        warm: quantile(&mut warm, 0.5),
        steps: steps.map(|mut times| quantile(&mut times, 0.5)),
    }
}

fn main() {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins/sendgrid.wasm");
    let plugin = Plugins::load_file(&built, &Limits::default())
        .unwrap_or_else(|error| panic!("`{}`: {error}; run `cargo xtask plugins` first", built.display()));

    println!("| events | native, µs | fresh instance, µs | ratio | warm instance, µs | ratio |");
    println!("|---|---|---|---|---|---|");
    let mut steps = Vec::new();
    for (events, deliveries) in SIZES {
        let row = row(&plugin, events, deliveries);
        println!(
            "| {events} | {:.1} | {:.1} | {:.2} | {:.1} | {:.2} |",
            row.native,
            row.fresh,
            row.fresh / row.native,
            row.warm,
            row.warm / row.native
        );
        steps.push((events, row.steps));
    }

    println!("\n| events | instantiate, µs | authenticate, µs | normalize, µs | give back, µs |");
    println!("|---|---|---|---|---|");
    for (events, [instantiate, authenticate, normalize, give_back]) in steps {
        println!("| {events} | {instantiate:.1} | {authenticate:.1} | {normalize:.1} | {give_back:.1} |");
    }

    let one = Arc::new(request(&body(1)));
    let mut single: Vec<Duration> = (0..SINGLE)
        .map(|_| {
            let began = Instant::now();
            black_box(plugin.measure(&one).unwrap());
            began.elapsed()
        })
        .collect();
    let (half, most) = (quantile(&mut single, 0.5), quantile(&mut single, 0.99));
    println!("\none event, wall-clock time: p50 {half:.1} µs, p99 {most:.1} µs");
    let (half, most) = handed_over(&plugin, &one);
    println!("the same handed over to another thread and back: p50 {half:.1} µs, p99 {most:.1} µs");
}

/// Returns the wall-clock times of a delivery as the host makes it, on a blocking thread. There is no secret, so that
/// no signature is checked.
fn handed_over(plugin: &Arc<Plugin>, request: &Request) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let request = Arc::new(Request {
        secrets: Vec::new(),
        ..request.clone()
    });
    let account = Arc::new(Account::new("sendgrid", "default", [], true));
    let certificates: Arc<dyn CertificateSource> = Arc::new(GivenCertificates::default());
    let mut times = Vec::with_capacity(SINGLE);
    runtime.block_on(async {
        for _ in 0..SINGLE {
            let began = Instant::now();
            let delivery = Delivery::new(plugin, &account, Arc::clone(&request))
                .await
                .unwrap();
            black_box(delivery.read(plugin, &certificates).await.unwrap());
            times.push(began.elapsed());
        }
    });
    (quantile(&mut times, 0.5), quantile(&mut times, 0.99))
}
