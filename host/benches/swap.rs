//! Swaps a plugin every second for a minute while deliveries keep every core busy, through the real HTTP route and the
//! embedded bus: nothing may fail, nothing that was answered with 200 may be missing on the bus, and every version's
//! code must be gone once the next one serves and its last delivery has ended. Finally restores the first file, and
//! prints how long each change took to be served.
//!
//! Needs the compiled plugins: `cargo xtask plugins`, then `cargo bench -p sendflowr-host --bench swap`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking and reports by printing"
)]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use event::{Event, Hasher};
use reqwest::Client;
use sendflowr_host::{Dependencies, HostConfig, RawAccounts, RawHostConfig, Server, plugin::Plugin};
use store::{
    bus::{Bus, EVENTS_TOPIC},
    testing::eventually,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet, time};
use tokio_util::sync::CancellationToken;

const SWAPS: usize = 60;
const INTERVAL: Duration = Duration::from_secs(1);

/// Connections that send without pause: more than a plugin's slots on the machines that this is run on, so that some
/// deliveries wait while the plugin changes.
const CONNECTIONS: usize = 16;

/// Returns the plugin under another version of the same length; the version occurs in the file once.
fn versioned(original: &[u8], number: usize) -> (String, Vec<u8>) {
    let version = format!("1.{}.{}", number / 10, number % 10);
    let places: Vec<usize> = (0..original.len() - 5)
        .filter(|at| original[*at..].starts_with(b"1.0.1"))
        .collect();
    let [place] = places[..] else {
        panic!("the plugin's version must occur exactly once, but occurs at {places:?}");
    };
    let mut bytes = original.to_vec();
    bytes[place..place + 5].copy_from_slice(version.as_bytes());
    (format!("sendgrid@{version}"), bytes)
}

fn put(file: &Path, bytes: &[u8]) {
    let beside = file.with_extension("part");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, file).unwrap();
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins/sendgrid.wasm");
    let original = fs::read(&built)
        .unwrap_or_else(|error| panic!("`{}`: {error}; run `cargo xtask plugins` first", built.display()));
    let data = TempDir::new().unwrap();
    let folder = data.path().join("plugins");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("sendgrid.wasm");
    let (first_tag, first) = versioned(&original, 0);
    fs::write(&file, &first).unwrap();

    let mut raw: RawHostConfig = toml::from_str("allow_unsigned_by_default = true").unwrap();
    raw.plugins.folder = Some(folder);
    let config = HostConfig::try_new(raw, RawAccounts::default(), data.path()).unwrap();
    let stores = store::testing::open_embedded(&data.path().join("stores"))
        .await
        .unwrap();
    let bus: Arc<dyn Bus> = Arc::clone(&stores.bus);
    let mut subscription = bus.subscribe("bench", &[EVENTS_TOPIC]).await.unwrap();
    let dependencies = Dependencies {
        bus,
        accounts: None,
        hasher: Hasher::new(),
        registry: Arc::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks/sendgrid", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let server = Server::start(config, dependencies, shutdown.clone())
        .await
        .unwrap();
    let intake = Arc::clone(server.intake());
    let served = tokio::spawn(server.serve(listener));
    let serving = || intake.plugins().get("sendgrid").unwrap();

    let client = Client::builder().no_proxy().build().unwrap();
    let (stop, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut senders = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (client, url, stop, number) = (
            client.clone(),
            url.clone(),
            Arc::clone(&stop),
            Arc::clone(&number),
        );
        senders.spawn(async move {
            let (mut sent, mut refused) = (Vec::new(), BTreeMap::<String, usize>::new());
            while !stop.load(Ordering::Relaxed) {
                let id = number.fetch_add(1, Ordering::Relaxed);
                let body = format!(
                    r#"[{{"email":"p{id}@example.com","timestamp":{},"event":"open","sg_event_id":"e{id}","sg_message_id":"m{id}"}}]"#,
                    time_now()
                );
                match client.post(&url).body(body).send().await {
                    Ok(response) if response.status() == 200 => sent.push(format!("e{id}")),
                    Ok(response) => {
                        let status = response.status();
                        let answer: serde_json::Value = response.json().await.unwrap_or_default();
                        let why = format!("{status}, {}", answer["error"]["code"]);
                        *refused.entry(why).or_default() += 1;
                    }
                    Err(error) => *refused.entry(error.to_string()).or_default() += 1,
                }
            }
            (sent, refused)
        });
    }

    let mut tags = vec![first_tag.clone()];
    let (mut swaps, mut ends) = (Vec::new(), Vec::new());
    for swap in 1..=SWAPS + 1 {
        time::sleep(INTERVAL).await;
        let old: Weak<Plugin> = Arc::downgrade(&serving());
        // The last one puts the first file back.
        let (tag, bytes) = match swap {
            _ if swap > SWAPS => (first_tag.clone(), first.clone()),
            swap => versioned(&original, swap % 100),
        };
        put(&file, &bytes);
        swaps.push(eventually("a swap", async || serving().tag() == tag).await);
        ends.push(eventually("the end of an old version", async || old.strong_count() == 0).await);
        tags.push(tag);
    }
    stop.store(true, Ordering::Relaxed);
    let (mut sent, mut refused) = (HashSet::new(), BTreeMap::<String, usize>::new());
    for (accepted, failed) in senders.join_all().await {
        sent.extend(accepted);
        for (why, count) in failed {
            *refused.entry(why).or_default() += count;
        }
    }

    let mut by_version = BTreeMap::<String, usize>::new();
    let mut missing = sent.clone();
    loop {
        let records = subscription
            .poll(10_000, Duration::from_millis(500))
            .await
            .unwrap();
        if records.is_empty() {
            break;
        }
        for record in records {
            let event = Event::from_json(&record.value).unwrap();
            assert!(
                tags.contains(&event.plugin),
                "`{}` was never served",
                event.plugin
            );
            *by_version.entry(event.plugin).or_default() += 1;
            missing.remove(&event.provider_event_id.unwrap());
        }
    }
    shutdown.cancel();
    served.await.unwrap().unwrap();

    swaps.sort();
    ends.sort();
    println!(
        "{} deliveries answered 200, read by {} of {} versions",
        sent.len(),
        by_version.len(),
        SWAPS + 1
    );
    println!("failed: {refused:?}; answered 200 and lost: {}", missing.len());
    println!(
        "from writing the new file to serving it: median {:?}, longest {:?}",
        swaps[swaps.len() / 2],
        swaps[swaps.len() - 1]
    );
    println!(
        "until the old version was gone: median {:?}, longest {:?}",
        ends[ends.len() / 2],
        ends[ends.len() - 1]
    );
    assert!(refused.is_empty() && missing.is_empty());
}

/// Seconds since the epoch.
fn time_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
