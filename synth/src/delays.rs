//! Simulated delays from sending to delivery, with a known structure.
//!
//! A delay is the median for its conditions times noise. The median depends on the provider, the mailbox class, the hour of the
//! week, the campaign and its type, the mail's size, and on how much mail the provider was handed in the ten minutes before; the
//! noise is log-normal with a tail of greylisted mail. A model only sees what a webhook reports.

use event::{MailboxProvider, Timestamp, grid};
use rand::{RngExt as _, rngs::StdRng};

use crate::random::{generator, log_normal, weighted};

/// One mail that was sent and has arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Delay {
    /// Number of the person, so that data can be split by person.
    pub person: usize,
    /// Provider.
    pub esp: &'static str,
    /// Class of the mailbox.
    pub mailbox: MailboxProvider,
    /// Campaign: a mailing has one that is never used again, a flow always has the same.
    pub campaign_id: String,
    /// Type of campaign.
    pub campaign_type: &'static str,
    /// Size of the mail.
    pub payload_bytes: u32,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// Number of mails handed to the provider in the ten minutes before.
    pub queue_depth: u32,
    /// Milliseconds to delivery.
    pub latency_ms: i64,
    /// The true median delay of mail under the same conditions.
    pub median_ms: f64,
}

/// Providers: name, share of the mail, seconds that a lone mail takes, and how strongly queues slow it down.
const PROVIDERS: [(&str, f64, f64, f64); 4] = [
    ("sendgrid", 0.55, 3.0, 0.35),
    ("mailgun", 0.3, 7.0, 0.5),
    ("ses", 0.13, 2.0, 0.15),
    ("postmark", 0.02, 5.0, 0.3),
];

/// Mailbox classes: class, share, and factor on the delay.
const MAILBOXES: [(MailboxProvider, f64, f64); 5] = [
    (MailboxProvider::Gmail, 0.45, 1.0),
    (MailboxProvider::Outlook, 0.25, 1.8),
    (MailboxProvider::Yahoo, 0.1, 2.6),
    (MailboxProvider::Icloud, 0.05, 1.3),
    (MailboxProvider::Other, 0.15, 1.6),
];

/// Flows: name, type, factor on the delay (resets and receipts go first), and kilobytes of a mail.
const FLOWS: [(&str, &str, f64, f64); 4] = [
    ("welcome", "automation", 1.0, 40.0),
    ("receipt", "transactional", 0.7, 25.0),
    ("reminder", "automation", 1.0, 30.0),
    ("reset", "transactional", 0.4, 8.0),
];

/// Types of mailings: name, factor on the delay (offers are filtered more closely), and kilobytes of a mail.
const MAILINGS: [(&str, f64, f64); 2] = [("newsletter", 1.0, 60.0), ("promotion", 1.4, 110.0)];

/// Spread of a campaign type's sizes, as the logarithm's standard deviation: some campaigns consist of images only.
const SIZE_SPREAD: f64 = 0.8;

/// How a delay grows with a mail's size relative to 50 kB: mail that is 16 times as large takes twice as long.
const SIZE_GROWTH: f64 = 0.25;

/// Spread of the noise, as the logarithm's standard deviation.
const SPREAD: f64 = 0.6;

/// Share of mail whose first attempt is deferred, and how many times longer that takes.
const GREYLISTED: f64 = 0.02;
const GREYLISTED_FACTOR: f64 = 60.0;

/// The properties of a mail that do not depend on the person.
#[derive(Debug, Clone)]
struct Content {
    campaign_id: String,
    campaign_type: &'static str,
    payload_bytes: u32,
    /// Factor on the delay from campaign, type and size.
    factor: f64,
}

impl Content {
    fn new(
        rng: &mut StdRng,
        campaign_id: String,
        campaign_type: &'static str,
        factor: f64,
        kilobytes: f64,
    ) -> Self {
        let kilobytes = log_normal(rng, kilobytes, SIZE_SPREAD);
        Self {
            campaign_id,
            campaign_type,
            payload_bytes: (1_000.0 * kilobytes) as u32,
            factor: factor * (kilobytes / 50.0).powf(SIZE_GROWTH),
        }
    }
}

/// Draws `mails` mails to `people` people in the `weeks` up to `end`, in the order in which they are sent: seven in ten belong
/// to mailings of hundreds within half an hour, all with the same content; the others are sent one by one.
pub fn delays(seed: u64, mails: usize, people: usize, weeks: u32, end: Timestamp) -> Vec<Delay> {
    const MAILING_SHARE: f64 = 0.7;
    let mut rng = generator(seed, 0, 11);
    let span_ms = i64::from(weeks) * grid::WEEK_MS;
    let start = end.plus_millis(-span_ms);
    // Sending time, index of the provider, content.
    let mut sent: Vec<(Timestamp, usize, Content)> = Vec::with_capacity(mails);
    let shares = PROVIDERS.map(|(_, share, ..)| share);
    let mut mailing = 0;
    while sent.len() < mails {
        let provider = weighted(&mut rng, &shares);
        let at = start.plus_millis(rng.random_range(0..span_ms));
        if rng.random_bool(MAILING_SHARE) {
            mailing += 1;
            let (campaign_type, factor, kilobytes) = MAILINGS[rng.random_range(0..MAILINGS.len())];
            let content = Content::new(
                &mut rng,
                format!("mailing-{mailing}"),
                campaign_type,
                factor,
                kilobytes,
            );
            // On the hour, in office hours.
            let hour_ms = 60 * grid::MINUTE_MS;
            let day_ms = 24 * hour_ms;
            let hour = [7, 8, 9, 9, 10, 14, 16, 17][rng.random_range(0..8)];
            let begins = at.plus_millis(-at.as_millis().rem_euclid(day_ms) + hour * hour_ms);
            let size = (log_normal(&mut rng, 250.0, 1.0) as usize).clamp(20, 3_000);
            for _ in 0..size.min(mails - sent.len()) {
                let after = rng.random_range(0..30 * grid::MINUTE_MS);
                sent.push((begins.plus_millis(after), provider, content.clone()));
            }
        } else {
            // As many single mails as a typical mailing has.
            for _ in 0..250.min(mails - sent.len()) {
                let at = start.plus_millis(rng.random_range(0..span_ms));
                let (flow, campaign_type, factor, kilobytes) = FLOWS[rng.random_range(0..FLOWS.len())];
                let content = Content::new(&mut rng, flow.to_owned(), campaign_type, factor, kilobytes);
                sent.push((at, provider, content));
            }
        }
    }
    sent.sort_by_cached_key(|(at, provider, content)| {
        (*at, *provider, content.campaign_id.clone(), content.payload_bytes)
    });
    let mut queues: Vec<std::collections::VecDeque<Timestamp>> = vec![Default::default(); PROVIDERS.len()];
    let mut delays = Vec::with_capacity(sent.len());
    for (sent_at, provider, content) in sent {
        let queue = &mut queues[provider];
        while queue
            .front()
            .is_some_and(|first| first.plus_millis(10 * grid::MINUTE_MS) < sent_at)
        {
            queue.pop_front();
        }
        let queue_depth = u32::try_from(queue.len()).unwrap_or(u32::MAX);
        queue.push_back(sent_at);
        delays.push(delay(&mut rng, people, sent_at, provider, content, queue_depth));
    }
    delays
}

fn delay(
    rng: &mut StdRng,
    people: usize,
    sent_at: Timestamp,
    provider: usize,
    content: Content,
    queue_depth: u32,
) -> Delay {
    let (esp, _, alone_seconds, growth) = PROVIDERS[provider];
    let person = rng.random_range(0..people);
    // A person always has the same mailbox.
    let shares = MAILBOXES.map(|(_, share, _)| share);
    let (mailbox, _, mailbox_factor) = MAILBOXES[weighted(&mut generator(person as u64, 0, 12), &shares)];
    let queue_factor = (1.0 + f64::from(queue_depth)).powf(growth);
    let median_ms =
        1_000.0 * alone_seconds * mailbox_factor * congestion(sent_at) * content.factor * queue_factor;
    let mut noise = log_normal(rng, 1.0, SPREAD);
    if rng.random_bool(GREYLISTED) {
        noise *= GREYLISTED_FACTOR;
    }
    Delay {
        person,
        esp,
        mailbox,
        campaign_id: content.campaign_id,
        campaign_type: content.campaign_type,
        payload_bytes: content.payload_bytes,
        sent_at,
        queue_depth,
        latency_ms: (median_ms * noise) as i64,
        // Greylisting shifts the overall median by a fiftieth of the ranks: a hundredth of the spread.
        median_ms,
    }
}

/// Returns how much longer mail takes because of everybody's mail: in office hours on weekdays, and just after the full hour.
fn congestion(at: Timestamp) -> f64 {
    let slot = grid::slot(at);
    let (day, hour, minute) = (slot / 1_440, slot / 60 % 24, slot % 60);
    let office = if day < 5 { 1.5 } else { 0.5 };
    let distance = (hour as f64 - 13.0) / 4.0;
    let of_hour = 1.0 + office * (-distance * distance).exp();
    of_hour * (1.0 + 0.8 * (-(minute as f64) / 8.0).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_their_condition() {
        let end = Timestamp::from_millis_clamped(1_767_571_200_000);
        let drawn = delays(1, 20_000, 500, 4, end);
        assert_eq!(
            drawn,
            delays(1, 20_000, 500, 4, end),
            "the same seed gives the same mail"
        );
        assert_eq!(drawn.len(), 20_000);
        assert!(drawn.is_sorted_by_key(|delay| delay.sent_at));
        let faster = drawn
            .iter()
            .filter(|delay| (delay.latency_ms as f64) < delay.median_ms)
            .count();
        assert!((faster as f64 / 20_000.0 - 0.5).abs() < 0.02, "{faster}");
        let mean_ln = |is_wanted: &dyn Fn(&&Delay) -> bool| {
            let wanted: Vec<f64> = drawn
                .iter()
                .filter(is_wanted)
                .map(|delay| (delay.latency_ms as f64).ln())
                .collect();
            wanted.iter().sum::<f64>() / wanted.len() as f64
        };
        assert!(mean_ln(&|delay| delay.queue_depth > 50) > mean_ln(&|delay| delay.queue_depth < 5) + 0.3);
        assert!(
            mean_ln(&|delay| delay.mailbox == MailboxProvider::Yahoo)
                > mean_ln(&|delay| delay.mailbox == MailboxProvider::Gmail) + 0.5
        );
        assert!(
            mean_ln(&|delay| delay.campaign_id == "reminder")
                > mean_ln(&|delay| delay.campaign_id == "reset") + 0.5
        );
        let of_one_campaign = |delay: &&Delay| delay.campaign_id == "receipt";
        assert!(
            mean_ln(&|delay| of_one_campaign(delay) && delay.payload_bytes > 50_000)
                > mean_ln(&|delay| of_one_campaign(delay) && delay.payload_bytes < 12_500) + 0.3
        );
    }
}
