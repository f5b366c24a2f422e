//! One-event SendGrid deliveries, each signed, over persistent loopback connections.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use event::Timestamp;
use synth::delivery::{Account, Action, Delivery, Kind};
use tokio::task::JoinSet;

/// Connections that send at once: enough for deliveries to share flushes, as with providers' many senders.
pub(crate) const CONNECTIONS: usize = 48;

/// The number of people that the deliveries are about.
const PEOPLE: usize = 2_000;

/// Deliveries of the warm-up: one for each person, so that nobody is new, and caches, pools and the plugin's code are ready.
pub(crate) const WARM_UP: usize = PEOPLE;

/// Creates the provider's account.
pub(crate) fn account() -> Account {
    Account::generate("sendgrid", "").expect("SendGrid is known")
}

/// Returns the address of a person; `mark` keeps the people of several runs apart.
pub(crate) fn email(number: usize, mark: &str) -> String {
    format!("person{}{mark}@example.com", number % PEOPLE)
}

/// Creates deliveries of one click each, signed now.
pub(crate) fn deliveries(account: &Account, count: usize, mark: &str) -> Vec<Delivery> {
    let now = Timestamp::from(SystemTime::now());
    (0..count)
        .flat_map(|number| {
            let action = Action {
                kind: Kind::Clicked,
                at: now.plus_millis(-(number as i64) * 1_000),
                email: email(number, mark),
                message: format!("message-{number}{mark}"),
            };
            account.deliver(&[action], now)
        })
        .collect()
}

/// Sends a delivery and waits for its 2xx.
pub(crate) async fn send_one(http: &reqwest::Client, host: &str, delivery: &Delivery) {
    let mut request = http
        .post(format!("{host}/webhooks/sendgrid"))
        .body(delivery.body.clone());
    for (name, value) in &delivery.headers {
        request = request.header(name, value);
    }
    let response = request.send().await.expect("the host answers");
    assert!(response.status().is_success(), "{}", response.status());
    response.bytes().await.expect("the answer is readable");
}

/// Sends these deliveries over all connections, each connection the next one as soon as its last is answered.
pub(crate) async fn send(
    http: &reqwest::Client,
    host: &str,
    deliveries: &Arc<Vec<Delivery>>,
    range: Range<usize>,
) {
    over_all_connections(http, host, deliveries, range, |_| None).await;
}

/// Sends so many of these deliveries a second. Returns how long after the moment at which it was due each was answered: if the
/// host stands still, all count that were due meanwhile, and not only those that were under way.
pub(crate) async fn send_at(
    a_second: u32,
    http: &reqwest::Client,
    host: &str,
    deliveries: &Arc<Vec<Delivery>>,
    range: Range<usize>,
) -> Vec<Duration> {
    let (first, start) = (range.start, Instant::now());
    let due =
        move |number| Some(start + Duration::from_secs_f64((number - first) as f64 / f64::from(a_second)));
    over_all_connections(http, host, deliveries, range, due).await
}

/// Sends these deliveries, none before it is due; returns how long after that each was answered.
async fn over_all_connections(
    http: &reqwest::Client,
    host: &str,
    deliveries: &Arc<Vec<Delivery>>,
    range: Range<usize>,
    due: impl Fn(usize) -> Option<Instant> + Copy + Send + 'static,
) -> Vec<Duration> {
    let next = Arc::new(AtomicUsize::new(range.start));
    let mut senders = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (http, host) = (http.clone(), host.to_owned());
        let (deliveries, next, end) = (Arc::clone(deliveries), Arc::clone(&next), range.end);
        senders.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return times;
                }
                let start = due(number).unwrap_or_else(Instant::now);
                tokio::time::sleep_until(start.into()).await;
                send_one(&http, &host, &deliveries[number]).await;
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

/// Formats the median and a high percentile, in milliseconds.
pub(crate) fn percentiles(times: &mut [Duration], high: usize) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
    format!("p50 {:.2} ms  p{high} {:.2} ms", at(50), at(high))
}
