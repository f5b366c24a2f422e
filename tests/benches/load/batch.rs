//! Measures a campaign through `POST /timing/decide/batch`, on the embedded engines, and for comparison the same questions asked
//! one after the other.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use event::{Hasher, Timestamp};
use hyper::body::{Body, Frame};
use integration_tests::{System, eventually, run as run_binary, told};

/// The number of synthetic events of the people asked about, about ten each: more people than curves are cached for, so that each
/// question costs reading a profile and computing a curve.
const EVENTS: usize = 400_000;

/// The seed of `sendflowr synth`, with which the same people are generated here again.
const SEED: u64 = 1;

/// Questions in each chunk of the request's body: chunks of about 60 kB, like a caller's buffer.
const LINES_A_PIECE: usize = 1_000;

/// Questions asked one by one, for comparison.
const ALONE: usize = 2_000;

/// When a batch is given up: that is five times as slow as promised for a million lines.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// The time between two checks of the process's memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(lines: usize) {
    let system = System::start_logging("", &["sendgrid"], &[], "warn").await;
    let arguments = [
        "--data",
        "data",
        "synth",
        "--seed",
        &SEED.to_string(),
        "--count",
        &EVENTS.to_string(),
    ];
    let made = run_binary(system.folder(), &arguments);
    assert!(made.status.success(), "{}", told(&made));
    let people = Arc::new(people());
    eventually("all events are stored", || async {
        system.stored_events().await == EVENTS as u64
    })
    .await;

    let start = Instant::now();
    for person in people.iter().cycle().take(ALONE) {
        let question = serde_json::json!({ "universal_id": person, "window_hours": 24 });
        let answer = system.ask("/timing/decide", &question).await;
        // Some have unsubscribed, and then no minute is allowed.
        assert!([200, 409].contains(&answer.status), "{}", answer.text);
    }
    let alone = ALONE as f64 / start.elapsed().as_secs_f64();

    let questions = Questions {
        people: Arc::clone(&people),
        asked: 0,
        lines,
    };
    let url = format!("http://{}/timing/decide/batch", system.inference);
    let start = Instant::now();
    let request = system
        .http
        .post(url)
        .body(reqwest::Body::wrap(questions))
        .timeout(LONGEST);
    let mut response = request.send().await.expect("the service answers");
    assert!(response.status().is_success(), "{}", response.status());
    let (mut answers, mut memory, mut looked_at) = (0, Vec::new(), start);
    while let Some(piece) = response.chunk().await.expect("the answer is whole") {
        answers += piece.iter().filter(|byte| **byte == b'\n').count();
        if looked_at.elapsed() >= LOOK_EVERY {
            looked_at = Instant::now();
            memory.push((answers, system.resident_kb() / 1_024));
        }
    }
    let took = start.elapsed();
    assert_eq!(answers, lines, "each line has its answer");
    let rate = lines as f64 / took.as_secs_f64();
    println!(
        "a batch of {lines} lines about {} people   {rate:>8.0} /s   {:.0} s   (target: 4,200 /s)",
        people.len(),
        took.as_secs_f64()
    );
    println!(
        "one after the other, one caller   {alone:>8.0} /s   ratio {:.1}",
        rate / alone
    );
    let quarters = (1..=4).filter_map(|quarter| {
        memory
            .iter()
            .rfind(|(answers, _)| *answers <= lines * quarter / 4)
    });
    let quarters: Vec<String> = quarters.map(|(_, megabytes)| megabytes.to_string()).collect();
    let most = memory.iter().map(|(_, megabytes)| megabytes).max();
    println!(
        "memory: {} MB after each quarter, {} MB at most",
        quarters.join(", "),
        most.unwrap_or(&0)
    );
}

/// Returns the ids of the people whom `sendflowr synth` has generated.
fn people() -> Vec<String> {
    let events = synth::mock_events(EVENTS, SEED, Timestamp::from(SystemTime::now()), &Hasher::new());
    let people: BTreeSet<String> = events
        .iter()
        .map(|event| event.universal_id.to_string())
        .collect();
    people.into_iter().collect()
}

/// The request's body, generated while it is sent.
struct Questions {
    people: Arc<Vec<String>>,
    asked: usize,
    lines: usize,
}

impl Body for Questions {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let count = LINES_A_PIECE.min(self.lines - self.asked);
        if count == 0 {
            return Poll::Ready(None);
        }
        let mut piece = String::new();
        for number in self.asked..self.asked + count {
            let person = &self.people[number % self.people.len()];
            piece += &format!("{{\"universal_id\":\"{person}\",\"window_hours\":24}}\n");
        }
        self.asked += count;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}
