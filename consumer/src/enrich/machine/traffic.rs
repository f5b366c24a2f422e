//! Synthetic traffic of known people and machines, and how well they are told apart.
//!
//! People and scanners are irregular on purpose: people with the mail program open click within seconds, open several
//! links at once and share addresses with scanners; scanners wait, rotate addresses and agents, click only one link, and
//! half of them look like browsers. Events arrive as providers post them: every few seconds, some late.

use std::collections::{BTreeMap, HashMap};

use event::{Event, EventType, Hasher, Timestamp, UniversalId, grid::DAY_MS};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::Judge;
use crate::ConsumerConfig;

const DAYS: i64 = 90;
const MAILS: i64 = 30;

const BROWSERS: [&str; 8] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36 Edg/125.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/91.0.4472.124 Safari/537.36",
];

/// The scanner in front of a mailbox.
#[derive(Clone, Copy)]
enum Scanner {
    None,
    /// Follows all links at once from a few cloud addresses; the provider recognizes half of its visits.
    Eager,
    /// Waits up to a quarter of an hour, then follows some links from anywhere in its network with changing agents.
    Patient,
    /// Follows one link, mostly within seconds and sometimes much later, from a pool of addresses.
    Single,
    /// Identifies itself in its agent.
    Tool,
    /// An appliance in the office: its clicks come from the office's address.
    Appliance,
}

struct Person {
    id: UniversalId,
    scanner: Scanner,
    company: u8,
    number: u32,
    agents: [&'static str; 2],
    /// How likely the person is to click a delivered mail.
    keen: f64,
    apple: bool,
}

/// An event and whether a machine made it.
type Labelled = (Event, bool);

struct Traffic {
    rng: StdRng,
    events: Vec<Labelled>,
}

impl Traffic {
    fn exponential(&mut self, mean_ms: f64) -> i64 {
        (-mean_ms * (1.0 - self.rng.random::<f64>()).ln()) as i64
    }

    fn between(&mut self, least: i64, most: i64) -> i64 {
        self.rng.random_range(least..=most)
    }

    fn push(
        &mut self,
        person: &Person,
        event_type: EventType,
        at: i64,
        message: &str,
        machine: bool,
    ) -> &mut Event {
        let event = Event {
            event_id: self.events.len().to_string(),
            esp: "sendgrid".into(),
            account: "default".into(),
            message_id: Some(message.into()),
            plugin: "sendgrid@1.0.0".into(),
            ingested_at: Timestamp::from_millis_clamped(at),
            ..Event::bare(event_type, Timestamp::from_millis_clamped(at), person.id.clone())
        };
        self.events.push((event, machine));
        &mut self.events.last_mut().expect("just pushed").0
    }

    /// Adds clicks on `links` links, about `gap_ms` apart on average.
    #[expect(clippy::too_many_arguments, reason = "a visit has that many properties")]
    fn clicks(
        &mut self,
        person: &Person,
        message: &str,
        start: i64,
        links: usize,
        gap_ms: f64,
        ip: &str,
        agent: &str,
        machine: bool,
    ) {
        let mut at = start;
        for link in 0..links {
            let event = self.push(person, EventType::Clicked, at, message, machine);
            event.click_url = Some(format!("https://shop.example/{link}"));
            (event.ip_address, event.user_agent) = (Some(ip.to_owned()), Some(agent.to_owned()));
            at += 50 + self.exponential(gap_ms);
        }
    }

    fn person_reads(&mut self, person: &Person, message: &str, delivered: i64) {
        if !self.rng.random_bool((person.keen * 2.5).min(0.9)) {
            return;
        }
        let in_open_inbox = self.rng.random_bool(0.12);
        let wait = if in_open_inbox {
            4_000 + self.exponential(25_000.0)
        } else {
            60_000 + self.exponential(5.0 * 3_600_000.0)
        };
        let opened = delivered + wait;
        let at_work = person.company > 0 && self.rng.random_bool(0.6);
        let ip = match (at_work, self.rng.random_bool(0.3)) {
            (true, _) => format!("203.{}.7.1", person.company),
            (false, true) => format!(
                "100.64.{}.{}",
                self.rng.random::<u8>() % 4,
                self.rng.random::<u8>()
            ),
            (false, false) => format!("84.{}.{}.9", person.number % 200, person.number / 200),
        };
        let agent = *person.agents.choose(&mut self.rng).expect("two agents");
        if !person.apple {
            let proxied = person.company == 0 && person.number.is_multiple_of(2);
            let event = self.push(person, EventType::Opened, opened, message, false);
            event.ip_address = Some(if proxied { "66.249.84.1".into() } else { ip.clone() });
            event.user_agent = Some(if proxied {
                "Mozilla/5.0 (via ggpht.com GoogleImageProxy)".into()
            } else {
                agent.into()
            });
        }
        if self.rng.random_bool(0.4) {
            let start = opened + 2_000 + self.exponential(20_000.0);
            let links = if self.rng.random_bool(0.15) {
                2 + self.rng.random_range(0..3)
            } else {
                1
            };
            self.clicks(person, message, start, links, 2_500.0, &ip, agent, false);
            if self.rng.random_bool(0.1) {
                let again = start + 600_000 + self.exponential(DAY_MS as f64);
                self.clicks(person, message, again, 1, 1.0, &ip, agent, false);
            }
        }
    }

    fn scanner_visits(&mut self, person: &Person, message: &str, delivered: i64) {
        if self.rng.random_bool(0.15) {
            return;
        }
        let links = 1 + self.rng.random_range(0..6);
        let any: u8 = self.rng.random();
        let first_event = self.events.len();
        match person.scanner {
            Scanner::None => return,
            Scanner::Eager => {
                let start = delivered + self.between(-2_000, 9_000);
                let ip = format!("40.94.{}.{}", person.company % 2, any % 12);
                self.clicks(person, message, start, links, 400.0, &ip, BROWSERS[6], true);
                if self.rng.random_bool(0.5) {
                    for (event, _) in &mut self.events[first_event..] {
                        event.is_machine = Some(true);
                    }
                }
            }
            Scanner::Patient => {
                let start = delivered + self.between(5_000, 900_000);
                let ip = format!("52.13.{}.{any}", self.rng.random::<u8>());
                let agent = *BROWSERS.choose(&mut self.rng).expect("some");
                self.clicks(person, message, start, links, 1_500.0, &ip, agent, true);
            }
            Scanner::Single => {
                let wait = if self.rng.random_bool(0.9) {
                    self.between(0, 12_000)
                } else {
                    self.exponential(600_000.0)
                };
                let start = delivered + wait;
                let ip = format!("18.200.3.{}", any % 40);
                self.clicks(person, message, start, 1, 1.0, &ip, BROWSERS[7], true);
            }
            Scanner::Tool => {
                let start = delivered + self.exponential(1_800_000.0);
                self.clicks(
                    person,
                    message,
                    start,
                    links,
                    3_000.0,
                    &format!("35.1.{any}.1"),
                    "python-requests/2.31.0",
                    true,
                );
            }
            Scanner::Appliance => {
                let start = delivered + self.exponential(20_000.0);
                let ip = format!("203.{}.7.1", person.company);
                self.clicks(person, message, start, links, 900.0, &ip, BROWSERS[7], true);
            }
        }
        if self.rng.random_bool(0.5) {
            let (first_click, _) = &self.events[first_event];
            let (at, ip, agent) = (
                first_click.timestamp.as_millis(),
                first_click.ip_address.clone(),
                first_click.user_agent.clone(),
            );
            let event = self.push(person, EventType::Opened, at - 300, message, true);
            (event.ip_address, event.user_agent) = (ip, agent);
        }
    }

    fn mail(&mut self, person: &Person, number: i64) {
        let message = format!("{}-{number}", person.number);
        let sent = DAY_MS * (20_000 + number * DAYS / MAILS) + 9 * 3_600_000;
        let delivered = sent + 500 + self.exponential(4_000.0);
        self.push(person, EventType::Delivered, delivered, &message, false);
        if person.apple {
            let prefetched = delivered + self.exponential(1_200_000.0);
            let event = self.push(person, EventType::Opened, prefetched, &message, true);
            event.user_agent = Some("Mozilla/5.0".into());
            event.ip_address = Some("104.28.1.1".into());
        }
        self.scanner_visits(person, &message, delivered);
        self.person_reads(person, &message, delivered);
    }
}

fn traffic(seed: u64) -> Vec<Vec<Labelled>> {
    let mut traffic = Traffic {
        rng: StdRng::seed_from_u64(seed),
        events: Vec::new(),
    };
    let scanners = [
        Scanner::Eager,
        Scanner::Patient,
        Scanner::Single,
        Scanner::Tool,
        Scanner::Appliance,
    ];
    for number in 0..500_u32 {
        let company = if number % 5 < 3 {
            0
        } else {
            1 + (number / 5 % 20) as u8
        };
        let identifier = Hasher::new()
            .email_identifier(&format!("{number}@example.com"))
            .unwrap();
        let person = Person {
            id: UniversalId::from_identifier(&identifier),
            scanner: if company == 0 {
                Scanner::None
            } else {
                scanners[usize::from(company) % scanners.len()]
            },
            company,
            number,
            agents: [BROWSERS[number as usize % 3], BROWSERS[3 + number as usize % 3]],
            keen: traffic.rng.random::<f64>().powi(2),
            apple: company == 0 && number.is_multiple_of(3),
        };
        for mail in 0..MAILS {
            traffic.mail(&person, mail);
        }
    }
    // As providers post: the events of two seconds together, one event in fifty half a minute late.
    let mut posts: BTreeMap<i64, Vec<Labelled>> = BTreeMap::new();
    for labelled in std::mem::take(&mut traffic.events) {
        let late = if traffic.rng.random_bool(0.02) { 30_000 } else { 0 };
        let post = (labelled.0.timestamp.as_millis() + late) / 2_000;
        posts.entry(post).or_default().push(labelled);
    }
    posts.into_values().collect()
}

#[derive(Default)]
struct Score {
    right: f64,
    missed: f64,
    wrong: f64,
    people: f64,
}

impl Score {
    fn precision(&self) -> f64 {
        self.right / (self.right + self.wrong)
    }

    fn recall(&self) -> f64 {
        self.right / (self.right + self.missed)
    }
}

fn scores(seed: u64) -> HashMap<EventType, Score> {
    let mut judge = Judge::new(&ConsumerConfig::default());
    let mut scores: HashMap<EventType, Score> = HashMap::new();
    for batch in traffic(seed) {
        let (events, labels): (Vec<Event>, Vec<bool>) = batch.into_iter().unzip();
        let verdicts = judge.judge(&events, &HashMap::new());
        for ((event, machine), verdict) in events.iter().zip(labels).zip(verdicts) {
            let score = scores.entry(event.event_type).or_default();
            match (machine, verdict.machine) {
                (true, true) => score.right += 1.0,
                (true, false) => score.missed += 1.0,
                (false, true) => score.wrong += 1.0,
                (false, false) => {}
            }
            score.people += f64::from(u8::from(!machine));
        }
    }
    scores
}

#[test]
fn machines_are_told_from_people() {
    for seed in 1..=3 {
        let scores = scores(seed);
        for event_type in [EventType::Clicked, EventType::Opened] {
            let score = &scores[&event_type];
            let (precision, recall, lost) = (score.precision(), score.recall(), score.wrong / score.people);
            println!(
                "seed {seed} {event_type}: precision {precision:.3}, recall {recall:.3}, people's lost {lost:.3} of {}, machines' {}",
                score.people,
                score.right + score.missed
            );
            // Curves are built from clicks: a person's must not be taken for a machine's.
            let least_precision = if event_type == EventType::Clicked {
                0.97
            } else {
                0.95
            };
            assert!(
                precision >= least_precision && recall >= 0.95,
                "seed {seed} {event_type}"
            );
        }
    }
}

#[test]
fn the_same_batches_give_the_same_verdicts() {
    let verdicts = || {
        let mut judge = Judge::new(&ConsumerConfig::default());
        let batches = traffic(9).into_iter().take(3_000);
        let judged = batches.map(|batch| {
            let events: Vec<Event> = batch.into_iter().map(|(event, _)| event).collect();
            judge.judge(&events, &HashMap::new())
        });
        judged.collect::<Vec<_>>()
    };
    assert_eq!(verdicts(), verdicts());
}
