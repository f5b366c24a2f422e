//! The brand's sending habits and the providers' delays.

use event::{MailboxProvider, Timestamp, grid};
use rand::{Rng, RngExt as _};

use crate::random::{exponential, log_normal, normal, weighted};

/// A mailing that goes out every week at the same hour.
#[derive(Debug, Clone)]
pub(crate) struct Mailing {
    /// Minutes after Monday 00:00 UTC.
    pub(crate) slot: i64,
    /// Its share of the mailings that people get.
    pub(crate) share: f64,
    pub(crate) name: &'static str,
    pub(crate) esp: &'static str,
}

/// A brand's weekly mailings.
#[derive(Debug, Clone)]
pub(crate) struct Brand {
    pub(crate) mailings: Vec<Mailing>,
    /// Time zone in which most of its people live, in hours east of UTC.
    pub(crate) home_zone: f64,
}

impl Brand {
    /// Draws a brand that sends during its own office hours.
    pub(crate) fn draw(rng: &mut impl Rng) -> Self {
        let home_zone = [-8.0, -5.0, 0.0, 1.0, 1.0, 2.0][rng.random_range(0..6)];
        let mut slot = |day: i64, hours: [i64; 4]| {
            let hour = hours[rng.random_range(0..4)];
            (day * 1440 + hour * 60 - (home_zone * 60.0) as i64).rem_euclid(grid::SLOTS as i64)
        };
        let mailings = vec![
            Mailing {
                slot: slot(1, [8, 9, 10, 11]),
                share: 0.55,
                name: "Newsletter",
                esp: "sendgrid",
            },
            Mailing {
                slot: slot(3, [10, 14, 16, 17]),
                share: 0.35,
                name: "Offers",
                esp: "mailgun",
            },
            Mailing {
                slot: slot(5, [9, 10, 11, 18]),
                share: 0.1,
                name: "Weekend reads",
                esp: "klaviyo",
            },
        ];
        Self { mailings, home_zone }
    }

    /// Returns the slot at which the brand sends most of its mail.
    pub(crate) fn usual_slot(&self) -> usize {
        let most = self.mailings.iter().max_by(|a, b| a.share.total_cmp(&b.share));
        usize::try_from(most.expect("a brand has mailings").slot).expect("slots are not negative")
    }
}

/// One mail on its way.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pub(crate) sent_at: Timestamp,
    pub(crate) esp: &'static str,
    pub(crate) campaign_id: String,
    pub(crate) campaign_name: &'static str,
    /// How much people like this campaign, 1 on average.
    pub(crate) appeal: f64,
}

/// Draws one of the mailings of the week that begins at `week_start`, for one person.
pub(crate) fn draw_mailing(
    rng: &mut impl Rng,
    brand: &Brand,
    week_start: Timestamp,
    random_share: f64,
) -> Dispatch {
    let shares: Vec<f64> = brand.mailings.iter().map(|mailing| mailing.share).collect();
    let mailing = &brand.mailings[weighted(rng, &shares)];
    let minutes = if rng.random_bool(random_share) {
        rng.random_range(0..grid::SLOTS as i64)
    } else {
        // A large mailing takes a while to go out.
        mailing.slot + rng.random_range(0..35)
    };
    let sent_at = week_start.plus_millis(minutes * grid::MINUTE_MS + rng.random_range(0..60_000));
    let week = week_start.as_seconds() / (7 * 86_400);
    Dispatch {
        sent_at,
        esp: mailing.esp,
        campaign_id: format!("{}-{week}", mailing.name.to_lowercase().replace(' ', "-")),
        campaign_name: mailing.name,
        appeal: appeal(week, mailing.slot),
    }
}

/// Returns a campaign's appeal, which is the same for everybody who gets it.
fn appeal(week: i64, slot: i64) -> f64 {
    let mut rng = crate::random::generator(week.unsigned_abs(), slot.unsigned_abs(), 5);
    normal(&mut rng, 0.0, 0.3).exp() / 1.046
}

/// Draws the milliseconds from sending to delivery.
pub(crate) fn draw_latency_ms(rng: &mut impl Rng, esp: &str, mailbox: MailboxProvider, at: Timestamp) -> i64 {
    let provider_seconds = match esp {
        "sendgrid" => 4.0,
        "mailgun" => 9.0,
        "klaviyo" => 14.0,
        _ => 7.0,
    };
    let mailbox_factor = match mailbox {
        MailboxProvider::Gmail => 1.0,
        MailboxProvider::Outlook => 1.8,
        MailboxProvider::Yahoo => 2.5,
        MailboxProvider::Icloud => 1.3,
        MailboxProvider::Other => 1.6,
    };
    // Everybody sends on the hour: queues are longest just after it.
    let minute = grid::slot(at) % 60;
    let queue_factor = 1.0 + 2.0 * (-(minute as f64) / 8.0).exp();
    let mut seconds = log_normal(rng, provider_seconds * mailbox_factor * queue_factor, 0.5);
    if rng.random_bool(0.01) {
        // Greylisting: the first attempt is deferred.
        seconds += 300.0 + exponential(rng, 600.0);
    }
    (seconds * 1000.0) as i64
}
