//! What the sandbox costs: SendGrid deliveries of 1, 100 and 1,000 events through a fresh instance of the compiled
//! plugin, against the same functions compiled for this machine. Ends with a table of ratios.
//!
//! Needs the compiled plugins: `cargo xtask plugins`, then `cargo bench -p sendflowr-host --bench plugin`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking and tells by printing"
)]

use std::{
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::Criterion;
use prometheus_client::registry::Registry;
use sendflowr_host::plugin::{
    Plugin, PluginMetrics, Plugins, PluginsConfig, RawPluginsConfig,
    types::{Header, Request},
};
use sendflowr_plugin_sdk::Plugin as _;
use sendgrid::SendGrid;

const SIZES: [usize; 3] = [1, 100, 1_000];

/// A click as SendGrid sends it; the event's number makes ids differ.
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

/// The same request in the types of the plugin's own bindings.
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

/// Runs one benchmark; gives the time of one round in its fastest sample.
fn measured(criterion: &mut Criterion, name: &str, mut sample: impl FnMut(u64) -> Duration) -> Duration {
    let mut fastest = Duration::MAX;
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let took = sample(rounds);
            fastest = fastest.min(took.div_f64(rounds as f64));
            took
        });
    });
    fastest
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins/sendgrid.wasm");
    let data = tempfile::TempDir::new().unwrap();
    let raw = RawPluginsConfig {
        folder: data.path().join("plugins"),
        cache_folder: data.path().join("compiled"),
        ..RawPluginsConfig::default()
    };
    std::fs::create_dir(&raw.folder).unwrap();
    std::fs::copy(&built, raw.folder.join("sendgrid.wasm"))
        .unwrap_or_else(|error| panic!("`{}`: {error}; run `cargo xtask plugins` first", built.display()));
    let mut registry = Registry::default();
    let metrics = PluginMetrics::register(&mut registry);
    let config = PluginsConfig::try_from(raw).unwrap();
    let plugins = runtime.block_on(Plugins::open(config, metrics)).unwrap();
    let plugin: Arc<Plugin> = plugins.get("sendgrid").unwrap();

    let hops = measured(&mut criterion, "two hops to a blocking thread", |rounds| {
        let began = Instant::now();
        runtime.block_on(async {
            for _ in 0..rounds {
                for _ in 0..2 {
                    tokio::task::spawn_blocking(|| black_box(())).await.unwrap();
                }
            }
        });
        began.elapsed()
    });

    let mut table = String::new();
    for size in SIZES {
        let body = body(size);
        let native_request = native_request(&body);
        let native = measured(&mut criterion, &format!("native, {size} events"), |rounds| {
            let began = Instant::now();
            for _ in 0..rounds {
                let proofs = SendGrid::authenticate(black_box(&native_request)).unwrap();
                let outcome = SendGrid::normalize(black_box(&native_request)).unwrap();
                black_box((proofs, outcome));
            }
            began.elapsed()
        });
        let request = Arc::new(request(&body));
        let deliver = async || {
            let (guest, proofs) = plugin
                .instantiate()
                .await
                .unwrap()
                .authenticate(Arc::clone(&request))
                .await
                .unwrap();
            let outcome = guest.normalize(Arc::clone(&request)).await.unwrap().unwrap();
            black_box((proofs.unwrap(), outcome));
        };
        let inside = measured(
            &mut criterion,
            &format!("fresh instance, {size} events"),
            |rounds| {
                let before = seconds_inside(&registry);
                runtime.block_on(async {
                    for _ in 0..rounds {
                        deliver().await;
                    }
                });
                Duration::from_secs_f64(seconds_inside(&registry) - before)
            },
        );
        let whole = measured(
            &mut criterion,
            &format!("fresh instance and hops, {size} events"),
            |rounds| {
                let began = Instant::now();
                runtime.block_on(async {
                    for _ in 0..rounds {
                        deliver().await;
                    }
                });
                began.elapsed()
            },
        );
        let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
        table.push_str(&format!(
            "{size:>6} {:>12.1} {:>12.1} {:>12.1} {:>9.2} x\n",
            microseconds(native),
            microseconds(inside),
            microseconds(whole),
            inside.as_secs_f64() / native.as_secs_f64()
        ));
    }
    println!(
        "\nµs, each in its fastest sample; two hops to a blocking thread take {:.1} µs",
        hops.as_secs_f64() * 1e6
    );
    println!("events       native     instance    with hops   instance / native\n{table}");
    criterion.final_summary();
}

/// Seconds that all deliveries so far have spent in the plugin: instantiation, `authenticate` and `normalize`.
fn seconds_inside(registry: &Registry) -> f64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let series = "sendflowr_plugin_call_duration_seconds_sum{plugin=\"sendgrid\"} ";
    text.lines()
        .find_map(|line| line.strip_prefix(series))
        .unwrap()
        .parse()
        .unwrap()
}
