//! A brand, its people, and everything that happens between them.

use std::collections::BTreeMap;

use event::{Event, EventType, Hasher, MailboxProvider, Timestamp, UniversalId, event_id, grid};
use rand::{RngExt as _, rngs::StdRng};

use crate::mail::{Brand, Dispatch, draw_latency_ms, draw_mailing};
use crate::person::{ATTENTION_END_HOURS, Person, Persona, QUARTERS};
use crate::random::{exponential, generator, log_normal};

/// An event, and whether a machine caused it: the ground truth that filters are measured against.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulated {
    /// The event as a plugin and the host would produce it.
    pub event: Event,
    /// Whether a machine opened or clicked.
    pub machine: bool,
}

/// The ground truth of how a person responds.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// The person's persona.
    pub persona: Persona,
    /// By quarter hour of the week (UTC): probability that a mail of average appeal delivered then is clicked within 24 h.
    response: Vec<f64>,
    /// By quarter hour of the week (UTC): looks into the mailbox per hour, weighted by the readiness to click.
    activity: Vec<f64>,
}

impl Truth {
    /// Returns how active the person is in the quarter hour of `at`: looks per hour, weighted by the readiness to click.
    pub fn activity(&self, at: Timestamp) -> f64 {
        let place = grid::week_offset_ms(at) / (15 * grid::MINUTE_MS);
        self.activity[place as usize]
    }

    /// Returns the probability that a mail of average appeal delivered at `at` is clicked within 24 hours.
    pub fn response(&self, at: Timestamp) -> f64 {
        let place = grid::week_offset_ms(at) as f64 / (15 * grid::MINUTE_MS) as f64;
        let (before, share) = (place as usize % QUARTERS, place.fract());
        self.response[before] * (1.0 - share) + self.response[(before + 1) % QUARTERS] * share
    }
}

/// A simulated brand with its people.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    people: usize,
    end: Timestamp,
    weeks: u32,
    mails_per_week: f64,
    random_share: f64,
    mover_share: f64,
    brand: Brand,
}

impl World {
    /// Creates a world of `people` people whose events end at `end`. By default it covers a year with 1.2 mails per person
    /// and week, of which 2 % are sent at random minutes, and 5 % of the people move to another time zone in its second half.
    pub fn new(seed: u64, people: usize, end: Timestamp) -> Self {
        let brand = Brand::draw(&mut generator(seed, 0, 1));
        Self {
            seed,
            people,
            end,
            weeks: 52,
            mails_per_week: 1.2,
            random_share: 0.02,
            mover_share: 0.05,
            brand,
        }
    }

    /// Sets how many weeks before the end are covered.
    pub fn weeks(self, weeks: u32) -> Self {
        Self { weeks, ..self }
    }

    /// Sets how many mails each person gets per week, on average.
    pub fn mails_per_week(self, mails_per_week: f64) -> Self {
        Self {
            mails_per_week,
            ..self
        }
    }

    /// Sets the share of the mail that is sent at random minutes.
    pub fn random_share(self, random_share: f64) -> Self {
        Self { random_share, ..self }
    }

    /// Sets the share of the people who move to another time zone.
    pub fn mover_share(self, mover_share: f64) -> Self {
        Self { mover_share, ..self }
    }

    /// Returns the number of people.
    pub fn people(&self) -> usize {
        self.people
    }

    /// Returns the minute of the week at which the brand sends most of its mail.
    pub fn usual_slot(&self) -> usize {
        self.brand.usual_slot()
    }

    /// Returns how the person with this number responds at `now`.
    pub fn truth(&self, person: usize, now: Timestamp) -> Truth {
        let person = self.person(person);
        Truth {
            persona: person.persona,
            response: person.response(now),
            activity: person.activity(now),
        }
    }

    fn person(&self, index: usize) -> Person {
        let mut rng = generator(self.seed, index as u64, 2);
        let mut person = Person::draw(&mut rng, self.brand.home_zone);
        if rng.random_bool(self.mover_share) {
            let half_ms = i64::from(self.weeks) * grid::WEEK_MS / 2;
            let moved_at = self.end.plus_millis(-rng.random_range(0..half_ms.max(1)));
            let hours = [-9.0, -7.0, -6.0, 6.0, 7.0, 9.0][rng.random_range(0..6)];
            person.move_at = Some((moved_at, self.brand.home_zone + hours));
        }
        person
    }

    /// Returns all events of the person with this number up to the world's end, in order of time. The same world gives the
    /// same events.
    pub fn events(&self, index: usize, hasher: &Hasher) -> Vec<Simulated> {
        let person = self.person(index);
        let mut rng = generator(self.seed, index as u64, 3);
        let start = self.end.plus_millis(-i64::from(self.weeks) * grid::WEEK_MS);
        let looks = draw_looks(&mut rng, &person, start, self.end);
        let mut life = Life {
            person: &person,
            sender: Sender::new(index, self.seed, person.mailbox, hasher),
            simulated: Vec::new(),
            end: self.end,
        };
        for dispatch in self.draw_dispatches(&mut rng, &looks, start) {
            life.receive(&mut rng, &dispatch, &looks);
        }
        life.visit_sites(&mut rng, &looks);
        let mut simulated = life.simulated;
        simulated.retain(|s| start <= s.event.timestamp && s.event.timestamp <= self.end);
        simulated.sort_by(|a, b| {
            (a.event.timestamp, &a.event.event_id).cmp(&(b.event.timestamp, &b.event.event_id))
        });
        simulated
    }

    fn draw_dispatches(&self, rng: &mut StdRng, looks: &[Timestamp], start: Timestamp) -> Vec<Dispatch> {
        // Mail triggered by the person's own visit: a confirmation, a reminder.
        const TRIGGERED_SHARE: f64 = 0.08;
        let mut dispatches = Vec::new();
        let mut week_start = start.plus_millis(-grid::week_offset_ms(start));
        while week_start < self.end {
            let mut due = self.mails_per_week * (1.0 - TRIGGERED_SHARE);
            while due > 0.0 {
                if rng.random_bool(due.min(1.0)) {
                    dispatches.push(draw_mailing(rng, &self.brand, week_start, self.random_share));
                }
                due -= 1.0;
            }
            week_start = week_start.plus_millis(grid::WEEK_MS);
        }
        let triggered =
            TRIGGERED_SHARE * self.mails_per_week * f64::from(self.weeks) / looks.len().max(1) as f64;
        for look in looks {
            if rng.random_bool(triggered.min(1.0)) {
                dispatches.push(Dispatch {
                    sent_at: look.plus_millis((exponential(rng, 10.0) * 60_000.0) as i64),
                    esp: "postmark",
                    campaign_id: "follow-up".into(),
                    campaign_name: "Follow-up",
                    appeal: 1.3,
                });
            }
        }
        dispatches.sort_by_key(|dispatch| dispatch.sent_at);
        dispatches.dedup_by_key(|dispatch| dispatch.sent_at);
        dispatches
    }
}

/// Draws the moments at which the person looks into the mailbox.
fn draw_looks(rng: &mut StdRng, person: &Person, start: Timestamp, end: Timestamp) -> Vec<Timestamp> {
    let mut looks = Vec::new();
    let mut quarter = start;
    let mut mood = 1.0;
    while quarter < end {
        if grid::week_offset_ms(quarter) < 15 * grid::MINUTE_MS {
            // Weeks differ, and now and then the person has a week off.
            mood = if rng.random_bool(0.04) {
                0.15
            } else {
                log_normal(rng, 0.96, 0.3)
            };
        }
        if rng.random_bool((person.looks_per_hour(quarter) * mood / 4.0).min(1.0)) {
            looks.push(quarter.plus_millis(rng.random_range(0..15 * grid::MINUTE_MS)));
        }
        quarter = quarter.plus_millis(15 * grid::MINUTE_MS);
    }
    looks
}

/// Creates the events of one person.
struct Sender {
    template: Event,
    hardware: (&'static str, String),
    sequence: usize,
}

const BROWSERS: [&str; 4] = [
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
];
const IMAGE_PROXY: &str =
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";

impl Sender {
    fn new(index: usize, seed: u64, mailbox: MailboxProvider, hasher: &Hasher) -> Self {
        // Reserved for examples (RFC 2606): nobody has these addresses.
        let domain = ["example.com", "example.org", "example.net"][index % 3];
        let address = format!("person.{seed:x}.{index}@{domain}");
        let identifier = hasher
            .email_identifier(&address)
            .expect("the address is well formed");
        let universal_id = UniversalId::from_identifier(&identifier);
        let template = Event {
            account: "default".into(),
            recipient_email_hash: event::EmailHash::parse(&identifier.value),
            mailbox_provider: Some(mailbox),
            identifiers: vec![identifier],
            metadata: BTreeMap::from([("source".into(), "synthetic".into())]),
            plugin: "synth@1.0.0".into(),
            ..Event::bare(EventType::Sent, Timestamp::default(), universal_id)
        };
        // Documentation networks (RFC 5737).
        let address = format!("203.0.113.{}", 1 + index % 250);
        Self {
            template,
            hardware: (BROWSERS[index % BROWSERS.len()], address),
            sequence: 0,
        }
    }

    fn event(&mut self, event_type: EventType, at: Timestamp, mail: Option<(&Dispatch, &str)>) -> Event {
        self.sequence += 1;
        let mut event = self.template.clone();
        event.event_type = event_type;
        event.timestamp = at;
        // Webhooks arrive a little later than the events that they report.
        event.ingested_at = at.plus_millis(1_500);
        event.esp = mail.map_or("sendgrid", |(dispatch, _)| dispatch.esp).into();
        if let Some((dispatch, message_id)) = mail {
            event.campaign_id = Some(dispatch.campaign_id.clone());
            event.campaign_name = Some(dispatch.campaign_name.into());
            event.subject = Some(format!("{}: new this week", dispatch.campaign_name));
            event.message_id = Some(message_id.into());
            event.tags = vec![dispatch.campaign_name.to_lowercase()];
        }
        if matches!(event_type, EventType::Opened | EventType::Clicked) {
            event.user_agent = Some(self.hardware.0.into());
            event.ip_address = Some(self.hardware.1.clone());
        }
        if event_type == EventType::Clicked {
            event.click_url = Some(format!("https://shop.example.com/item/{}", self.sequence % 7));
        }
        event.event_id = event_id(&event);
        event
    }
}

/// The events of one person while they are being simulated.
struct Life<'a> {
    person: &'a Person,
    sender: Sender,
    simulated: Vec<Simulated>,
    end: Timestamp,
}

impl Life<'_> {
    fn push(&mut self, mut event: Event, machine: bool) {
        event.event_id = event_id(&event);
        self.simulated.push(Simulated { event, machine });
    }

    fn receive(&mut self, rng: &mut StdRng, dispatch: &Dispatch, looks: &[Timestamp]) {
        let message_id = format!(
            "{}.{}",
            self.sender.template.universal_id.as_str(),
            dispatch.sent_at.as_millis()
        );
        let mail = Some((dispatch, message_id.as_str()));
        let sent = self.sender.event(EventType::Sent, dispatch.sent_at, mail);
        self.push(sent, false);
        let latency_ms = draw_latency_ms(rng, dispatch.esp, self.person.mailbox, dispatch.sent_at);
        let delivered_at = dispatch.sent_at.plus_millis(latency_ms);
        if delivered_at > self.end {
            return;
        }
        if rng.random_bool(0.004) {
            let mut bounced = self.sender.event(EventType::Bounced, delivered_at, mail);
            bounced.bounce_type = Some(event::BounceType::Soft);
            bounced.reason = Some("452 4.2.2 mailbox full".into());
            return self.push(bounced, false);
        }
        let mut delivered = self.sender.event(EventType::Delivered, delivered_at, mail);
        delivered.metadata.insert(
            "latency_seconds".into(),
            format!("{:.3}", latency_ms as f64 / 1000.0),
        );
        self.push(delivered, false);
        self.meet_machines(rng, delivered_at, dispatch, &message_id);
        self.read(rng, delivered_at, dispatch, &message_id, looks);
    }

    /// Simulates prefetching mailboxes and link scanners.
    fn meet_machines(
        &mut self,
        rng: &mut StdRng,
        delivered_at: Timestamp,
        dispatch: &Dispatch,
        message_id: &str,
    ) {
        let mail = Some((dispatch, message_id));
        if self.person.prefetches && rng.random_bool(0.9) {
            let at = delivered_at.plus_millis((exponential(rng, 25.0) * 60_000.0) as i64 + 800);
            let mut opened = self.sender.event(EventType::Opened, at, mail);
            opened.user_agent = Some("Mozilla/5.0".into());
            opened.ip_address = Some(format!("198.51.100.{}", rng.random_range(1..250)));
            opened.is_machine = rng.random_bool(0.67).then_some(true);
            self.push(opened, true);
        }
        if self.person.scanned && rng.random_bool(0.8) {
            let quick = rng.random_bool(0.6);
            let first_ms = if quick {
                500.0 + exponential(rng, 2_500.0)
            } else {
                exponential(rng, 900_000.0)
            };
            let tool = rng.random_bool(0.4);
            for click in 0..rng.random_range(1..5_i64) {
                let at = delivered_at.plus_millis(first_ms as i64 + click * rng.random_range(100..900));
                let mut clicked = self.sender.event(EventType::Clicked, at, mail);
                clicked.user_agent = Some(if tool { "python-requests/2.32" } else { BROWSERS[2] }.into());
                clicked.ip_address = Some(format!("192.0.2.{}", rng.random_range(1..20)));
                clicked.is_machine = rng.random_bool(0.13).then_some(true);
                clicked.click_url = Some(format!("https://shop.example.com/item/{click}"));
                self.push(clicked, true);
            }
        }
    }

    fn read(
        &mut self,
        rng: &mut StdRng,
        delivered_at: Timestamp,
        dispatch: &Dispatch,
        message_id: &str,
        looks: &[Timestamp],
    ) {
        let mail = Some((dispatch, message_id));
        let first = looks.partition_point(|look| *look <= delivered_at);
        for look in &looks[first..] {
            let hours = look.millis_since(delivered_at) as f64 / 3_600_000.0;
            if hours > ATTENTION_END_HOURS {
                return;
            }
            if !rng.random_bool(self.person.notices(hours)) {
                continue;
            }
            let opened_at = look.plus_millis(rng.random_range(1_000..60_000));
            if self.person.shows_opens {
                let mut opened = self.sender.event(EventType::Opened, opened_at, mail);
                if self.person.mailbox == MailboxProvider::Gmail {
                    opened.user_agent = Some(IMAGE_PROXY.into());
                    opened.ip_address = Some("66.249.84.1".into());
                }
                self.push(opened, false);
            }
            if rng.random_bool((self.person.clicks(opened_at) * dispatch.appeal).min(0.98)) {
                self.click(rng, opened_at, dispatch, message_id);
                return;
            }
            if rng.random_bool(0.002) {
                let left = if rng.random_bool(0.2) {
                    EventType::MarkedSpam
                } else {
                    EventType::Unsubscribed
                };
                let left = self.sender.event(left, opened_at.plus_millis(20_000), mail);
                return self.push(left, false);
            }
            // Noticed but not clicked: mostly, the mail gets no second chance.
            if rng.random_bool(0.85) {
                return;
            }
        }
    }

    fn click(&mut self, rng: &mut StdRng, opened_at: Timestamp, dispatch: &Dispatch, message_id: &str) {
        let mail = Some((dispatch, message_id));
        let clicked_at = opened_at.plus_millis(3_000 + (exponential(rng, 25.0) * 1000.0) as i64);
        let clicked = self.sender.event(EventType::Clicked, clicked_at, mail);
        self.push(clicked, false);
        if rng.random_bool(0.25) {
            let second = self.sender.event(
                EventType::Clicked,
                clicked_at.plus_millis(rng.random_range(4_000..90_000)),
                mail,
            );
            self.push(second, false);
        }
        if rng.random_bool(0.1) {
            let bought = self.sender.event(
                EventType::Converted,
                clicked_at.plus_millis(rng.random_range(120_000..1_500_000)),
                mail,
            );
            self.push(bought, false);
        }
    }

    /// Simulates visits that no mail triggered.
    fn visit_sites(&mut self, rng: &mut StdRng, looks: &[Timestamp]) {
        for look in looks {
            if rng.random_bool(0.01) {
                let at = look.plus_millis(90_000);
                let visit = self.sender.event(EventType::SiteVisit, at, None);
                self.push(visit, false);
                if rng.random_bool(0.5) {
                    let view = self
                        .sender
                        .event(EventType::ProductView, at.plus_millis(45_000), None);
                    self.push(view, false);
                }
            }
        }
    }
}
