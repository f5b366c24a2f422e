//! Measures what a hostile plugin costs its neighbours: deliveries through SendGrid's plugin alone, and while hostile
//! guests beside it receive deliveries without pause, one kind of attack at a time and all at once.
//!
//! Every attacked round is between two calm ones and is compared with their mean, so that drift of the machine's speed
//! cancels out. Reports the median of these ratios and their interquartile range. Naming an attack leaves out the
//! others. `--no-quarantine` disables the quarantine, so that the attack continues undiminished: this shows the effect of the
//! limits alone. `--rounds 21` sets the number of rounds.
//!
//! Needs the compiled plugins: `cargo xtask plugins`, then `cargo bench -p sendflowr-host --bench attack`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking and reports by printing"
)]

#[path = "../tests/plugin_runtime/guest.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod guest;

use std::{
    env, fs,
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use guest::guest;
use prometheus_client::registry::Registry;
use sendflowr_host::{
    Account, Delivery,
    plugin::{Plugin, PluginMetrics, Plugins, PluginsConfig, RawPluginsConfig, types::Request},
    proof::{CertificateSource, GivenCertificates},
};
use tempfile::TempDir;
use tokio::{task::JoinSet, time};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Long enough for a few thousand deliveries: some dozens are above the 99th percentile.
const ROUND: Duration = Duration::from_secs(4);

/// Default number of rounds of each kind: three minutes in all, enough to show a factor of two. A difference of a tenth
/// needs twenty rounds.
const ROUNDS: usize = 5;

/// Pause between two good deliveries, so that the good provider alone does not use up the machine.
const PAUSE: Duration = Duration::from_millis(1);

/// Concurrent deliveries to each hostile guest.
const ATTACKERS: usize = 8;

/// How long an attacker waits after it was turned away. A provider would wait for seconds.
const RETRY: Duration = Duration::from_millis(10);

/// The slug of an attacking guest, and the guest.
type Attack = (&'static str, Vec<u8>);

/// p50 and p99 of the good plugin in µs, calm and under attack, and the attackers' number of tries.
struct Round {
    calm: [f64; 2],
    attacked: [f64; 2],
    tries: usize,
}

fn attacks() -> Vec<Attack> {
    let spin = guest("spin").normalize("(loop $again (br $again)) unreachable");
    let grow = guest("grow")
        .normalize("(loop $again (memory.fill (i32.mul (memory.grow (i32.const 16)) (i32.const 65536)) (i32.const 1) (i32.const 1048576)) (br $again)) unreachable");
    let mut flood = guest("flood")
        .normalize("(loop $again (call $log (i32.const 3) (i32.const 65536) (i32.const 1000000)) (br $again)) unreachable");
    flood.memory = "20";
    let mut events = guest("events");
    events.memory = "900";
    events.events = 10_000_000;
    [spin, grow, flood, events]
        .map(|guest| {
            let slug: &'static str = guest.slug.clone().leak();
            (slug, guest.build())
        })
        .into()
}

fn request(body: &str) -> Arc<Request> {
    Arc::new(Request {
        method: "POST".to_owned(),
        path: "/webhooks/sendgrid".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
        received_at_ms: 1_760_000_000_000,
        settings: Vec::new(),
        secrets: Vec::new(),
    })
}

/// Makes one delivery as the host does, for an account that needs no proof.
async fn deliver(plugin: &Arc<Plugin>, request: &Arc<Request>) -> bool {
    let account = Arc::new(Account::new(&plugin.descriptor().slug, "default", [], true));
    let certificates: Arc<dyn CertificateSource> = Arc::new(GivenCertificates::default());
    let Ok(delivery) = Delivery::new(plugin, &account, Arc::clone(request)).await else {
        return false;
    };
    black_box(delivery.read(plugin, &certificates).await).is_ok()
}

/// Returns the median and the 99th percentile of the times of good deliveries, in microseconds.
async fn good_deliveries(plugin: &Arc<Plugin>) -> [f64; 2] {
    let request = request(
        r#"[{"email":"ann@example.com","timestamp":1760000000,"event":"open","sg_event_id":"a","sg_message_id":"b"}]"#,
    );
    let end = Instant::now() + ROUND;
    let mut times = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        assert!(deliver(plugin, &request).await, "a good delivery has failed");
        times.push(began.elapsed());
        time::sleep(PAUSE).await;
    }
    times.sort_unstable();
    [0.5, 0.99].map(|share| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6)
}

/// Runs a round under attack by these guests between two calm ones, with freshly loaded plugins: no guest is in
/// quarantine at the beginning.
async fn round(data: &Path, hostile: &[Attack], quarantine: bool) -> Round {
    let mut raw = RawPluginsConfig {
        folder: Some(data.join("plugins")),
        ..RawPluginsConfig::default()
    };
    if !quarantine {
        raw.quarantine = toml::from_str("failures = 4294967295").unwrap();
    }
    let config = PluginsConfig::try_new(raw, data).unwrap();
    let metrics = PluginMetrics::register(&mut Registry::default());
    let plugins = Plugins::open(config, metrics).await.unwrap();
    let good = plugins.get("sendgrid").unwrap();
    let before = good_deliveries(&good).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut attackers = JoinSet::new();
    for (slug, _) in hostile {
        for _ in 0..ATTACKERS {
            let (plugin, stop) = (plugins.get(slug).unwrap(), Arc::clone(&stop));
            attackers.spawn(async move {
                let request = request("x");
                let mut tries = 0;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    assert!(!deliver(&plugin, &request).await, "the attack was served");
                    tries += 1;
                    time::sleep(RETRY.saturating_sub(began.elapsed())).await;
                }
                tries
            });
        }
    }
    let attacked = good_deliveries(&good).await;
    stop.store(true, Ordering::Relaxed);
    let tries = attackers.join_all().await.into_iter().sum();
    let after = good_deliveries(&good).await;
    Round {
        calm: [0, 1].map(|which| f64::midpoint(before[which], after[which])),
        attacked,
        tries,
    }
}

/// Returns the quartiles of the figures.
fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|share| figures[((figures.len() - 1) as f64 * share).round() as usize])
}

/// Returns the number after `--rounds`.
fn rounds() -> usize {
    let given = env::args().skip_while(|argument| argument != "--rounds").nth(1);
    given.map_or(ROUNDS, |given| {
        given
            .parse()
            .unwrap_or_else(|_| panic!("`--rounds {given}` is not a number"))
    })
}

fn main() {
    let quarantine = !env::args().any(|argument| argument == "--no-quarantine");
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins/sendgrid.wasm");
    let data = TempDir::new().unwrap();
    let folder = data.path().join("plugins");
    fs::create_dir(&folder).unwrap();
    fs::copy(&built, folder.join("sendgrid.wasm"))
        .unwrap_or_else(|error| panic!("`{}`: {error}; run `cargo xtask plugins` first", built.display()));
    let attacks = attacks();
    for (slug, bytes) in &attacks {
        fs::write(folder.join(format!("{slug}.wasm")), bytes).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut kinds: Vec<(&str, &[Attack])> = attacks
        .iter()
        .map(|attack| (attack.0, std::slice::from_ref(attack)))
        .collect();
    kinds.push(("all at once", &attacks));
    let is_wanted = |(name, _): &(&str, &[Attack])| env::args().any(|argument| argument == *name);
    if kinds.iter().any(is_wanted) {
        kinds.retain(is_wanted);
    }
    println!(
        "| attack | tries | p50 calm, µs | attacked, µs | ratio | p99 calm, µs | attacked, µs | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, hostile) in kinds {
        let rounds: Vec<Round> = (0..rounds())
            .map(|_| runtime.block_on(round(data.path(), hostile, quarantine)))
            .collect();
        let of = |figure: &dyn Fn(&Round) -> f64| quartiles(rounds.iter().map(figure).collect());
        print!("| {name} | {:.0} |", of(&|round| round.tries as f64)[1]);
        for which in [0, 1] {
            let [low, ratio, high] = of(&|round| round.attacked[which] / round.calm[which]);
            print!(
                " {:.0} | {:.0} | {ratio:.2} ({low:.2} to {high:.2}) |",
                of(&|round| round.calm[which])[1],
                of(&|round| round.attacked[which])[1],
            );
        }
        println!();
    }
}
