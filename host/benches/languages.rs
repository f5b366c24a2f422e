//! Compares one provider in every language: the size of its component, the cost of starting it, and the cost of an event, as a
//! Markdown table. The first row is the Rust plugin's functions compiled for this machine, without a sandbox.
//!
//! Takes names and files of components alternately: `cargo xtask languages` builds them and runs this.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking and reports by printing"
)]

use std::{
    fs,
    hint::black_box,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use event::Timestamp;
use mandrill::Mandrill;
use sendflowr_host::{
    cases::{self, Case, CaseRequest, Expected},
    plugin::{Limits, Plugin, Plugins, types::Outcome, types::Request},
};
use sendflowr_plugin_sdk::Plugin as _;
use synth::delivery::{Account, Action, Kind};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events of the larger delivery.
const BATCH: usize = 100;

/// Every row is measured in this many pieces, alternating with the others, so that other load on the machine affects all of them.
const PIECES: usize = 10;

/// Duration of a piece of one row.
const PIECE: Duration = Duration::from_millis(400);

/// Runs before a piece is measured: the rows before it have displaced the caches.
const WARM_UP: usize = 3;

/// Times of one row.
#[derive(Default)]
struct Times {
    instance: Vec<Duration>,
    one: Vec<Duration>,
    batch: Vec<Duration>,
}

struct Component {
    name: String,
    bytes: u64,
    compiled_in: Duration,
    plugin: Arc<Plugin>,
    memory_bytes: usize,
    times: Times,
}

fn main() {
    // `cargo bench` adds its own flags.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let mut components: Vec<Component> = arguments
        .chunks(2)
        .map(|pair| load(&pair[0], PathBuf::from(&pair[1])))
        .collect();
    let now = Timestamp::from(SystemTime::now());
    let [one, batch] = [1, BATCH].map(|events| Arc::new(request(&components[0].plugin, events, now)));
    let [native_one, native_batch] = [&one, &batch].map(|request| native(request));
    let mut native = Times::default();
    for _ in 0..PIECES {
        piece(&mut native.one, || natively(&native_one, 1));
        piece(&mut native.batch, || natively(&native_batch, BATCH));
        for component in &mut components {
            let Component {
                plugin,
                times,
                memory_bytes,
                ..
            } = component;
            let mut deliver = |request: &Arc<Request>, events: usize| {
                let run = plugin.measure(request).unwrap();
                let Ok(Outcome::Events(made)) = &run.outcome else {
                    panic!("{:?}", run.outcome)
                };
                assert_eq!(made.events.len(), events);
                *memory_bytes = run.memory_bytes;
                (run.instantiate, run.total)
            };
            piece(&mut times.one, || {
                let (instantiate, total) = deliver(&one, 1);
                times.instance.push(instantiate);
                total
            });
            piece(&mut times.batch, || deliver(&batch, BATCH).1);
        }
    }

    println!(
        "\n| | component | compiled in, once | fresh instance | one event | {BATCH} events | µs per event | memory |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let row = |name: &str, of: [String; 3], times: &mut Times, memory: String| {
        let (one, batch) = (median(&mut times.one), median(&mut times.batch));
        let [bytes, compiled_in, instance] = of;
        println!(
            "| {name} | {bytes} | {compiled_in} | {instance} | {} | {} | {:.1} | {memory} |",
            shown(one),
            shown(batch),
            batch.as_secs_f64() * 1e6 / BATCH as f64
        );
    };
    let none = || "-".to_owned();
    row(
        "native, no sandbox",
        [none(), none(), none()],
        &mut native,
        none(),
    );
    for component in &mut components {
        let of = [
            megabytes(component.bytes as f64),
            shown(component.compiled_in),
            shown(median(&mut component.times.instance)),
        ];
        let memory = megabytes(component.memory_bytes as f64);
        row(&component.name, of, &mut component.times, memory);
    }
}

fn load(name: &str, path: PathBuf) -> Component {
    let began = Instant::now();
    let plugin = Plugins::load_file(&path, &Limits::default())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Component {
        name: name.to_owned(),
        bytes: fs::metadata(&path).unwrap().len(),
        compiled_in: began.elapsed(),
        plugin,
        memory_bytes: 0,
        times: Times::default(),
    }
}

/// Returns signed clicks as Mandrill reports them.
fn request(plugin: &Plugin, events: usize, now: Timestamp) -> Request {
    let account = Account::generate("mandrill", "https://bench.example.com/webhooks/mandrill").unwrap();
    let actions: Vec<Action> = (0..events)
        .map(|number| Action {
            kind: Kind::Clicked,
            at: now.plus_millis(-1_000 * number as i64),
            email: format!("person-{number}@example.com"),
            message: format!("message-{number}"),
        })
        .collect();
    let deliveries = account.deliver(&actions, now);
    let [delivery] = &deliveries[..] else {
        panic!("Mandrill sends batches")
    };
    let case = Case {
        provider: "mandrill".to_owned(),
        name: "bench".to_owned(),
        config: Some(
            account
                .config()
                .iter()
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
        ),
        now: None,
        request: CaseRequest {
            headers: delivery
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
            body: String::from_utf8(delivery.body.clone()).unwrap(),
            ..CaseRequest::default()
        },
        expect: Expected::default(),
    };
    cases::request(plugin, &case, now).unwrap()
}

/// Returns the same request in the types of the plugin's own bindings.
fn native(request: &Request) -> sendflowr_plugin_sdk::Request {
    let headers = request.headers.iter().map(|header| sendflowr_plugin_sdk::Header {
        name: header.name.clone(),
        value: header.value.clone(),
    });
    let settings = request
        .settings
        .iter()
        .map(|setting| sendflowr_plugin_sdk::Setting {
            name: setting.name.clone(),
            value: setting.value.clone(),
        });
    sendflowr_plugin_sdk::Request {
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
        headers: headers.collect(),
        body: request.body.clone(),
        received_at_ms: request.received_at_ms,
        settings: settings.collect(),
        secrets: request.secrets.clone(),
    }
}

fn natively(request: &sendflowr_plugin_sdk::Request, events: usize) -> Duration {
    let began = Instant::now();
    let proofs = Mandrill::authenticate(black_box(request)).unwrap();
    let outcome = Mandrill::normalize(black_box(request)).unwrap();
    let sendflowr_plugin_sdk::Outcome::Events(made) = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(made.events.len(), events);
    black_box((proofs, outcome));
    began.elapsed()
}

/// Runs for a while, and records the times.
fn piece(times: &mut Vec<Duration>, mut run: impl FnMut() -> Duration) {
    for _ in 0..WARM_UP {
        run();
    }
    let began = Instant::now();
    while began.elapsed() < PIECE {
        times.push(run());
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn shown(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..100.0 => format!("{micros:.1} µs"),
        ..1e3 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}
