//! People: when they look into their mailbox, and how likely they are to click then.

use event::{
    MailboxProvider, Timestamp,
    grid::{self, QUARTER_MS},
};
use rand::{Rng, RngExt as _};

use crate::random::{log_normal, normal, weighted};

/// Quarter hours in a week: the resolution of the simulated habits.
pub(crate) const QUARTERS: usize = 7 * 24 * 4;

/// A type of person with typical reading hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Persona {
    /// Up until two, reads at night.
    NightOwl,
    /// Reads on the train, early and at half past five.
    Commuter,
    /// Reads at the desk, on working days.
    Office,
    /// Works nights, reads before and after.
    ShiftWorker,
    /// Reads on Saturdays and Sundays.
    Weekend,
    /// Reads when the children are in bed.
    Evening,
}

/// A peak of a habit: (hour, spread in hours, weight when looking, readiness to click).
type Bump = (f64, f64, f64, f64);

impl Persona {
    /// All personas.
    pub const ALL: [Self; 6] = [
        Self::NightOwl,
        Self::Commuter,
        Self::Office,
        Self::ShiftWorker,
        Self::Weekend,
        Self::Evening,
    ];

    /// How common each is, in the order of [`Persona::ALL`].
    const SHARES: [f64; 6] = [0.14, 0.2, 0.26, 0.1, 0.12, 0.18];

    /// Returns the habits on working days and on weekends. A look into the mailbox on the train or in a meeting rarely ends
    /// in a click; in a quiet hour it does more often.
    fn habits(self) -> (&'static [Bump], &'static [Bump]) {
        match self {
            Self::NightOwl => (
                &[
                    (11.0, 1.5, 0.6, 0.6),
                    (17.0, 2.0, 0.6, 0.7),
                    (23.5, 1.5, 1.6, 1.5),
                ],
                &[(13.0, 2.0, 0.8, 1.0), (0.2, 1.8, 1.6, 1.5)],
            ),
            Self::Commuter => (
                &[
                    (7.4, 0.6, 1.4, 0.9),
                    (12.5, 0.7, 0.6, 0.7),
                    (17.7, 0.7, 1.4, 1.2),
                    (21.0, 1.2, 0.5, 1.2),
                ],
                &[(10.0, 1.8, 0.8, 1.1), (19.0, 2.2, 0.6, 1.0)],
            ),
            Self::Office => (
                &[
                    (9.0, 0.8, 1.5, 0.8),
                    (12.3, 0.7, 0.9, 1.4),
                    (15.0, 1.5, 1.0, 0.8),
                    (20.5, 1.3, 0.4, 1.2),
                ],
                &[(11.0, 2.5, 0.3, 1.0)],
            ),
            Self::ShiftWorker => (
                &[(5.8, 0.8, 1.0, 0.7), (15.5, 1.2, 1.4, 1.5), (20.0, 0.8, 0.6, 0.7)],
                &[(15.0, 2.0, 1.2, 1.4), (21.0, 2.0, 0.6, 1.0)],
            ),
            Self::Weekend => (
                &[(20.0, 1.5, 0.5, 0.8), (8.0, 0.8, 0.3, 0.5)],
                &[(9.5, 1.2, 2.2, 1.5), (16.0, 2.0, 1.4, 1.3), (20.5, 1.5, 1.0, 1.2)],
            ),
            Self::Evening => (
                &[(8.3, 0.8, 0.4, 0.5), (13.0, 1.0, 0.4, 0.8), (20.8, 1.0, 1.9, 1.5)],
                &[(9.8, 1.5, 0.6, 1.0), (20.8, 1.3, 1.5, 1.4)],
            ),
        }
    }
}

/// One simulated person.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) persona: Persona,
    /// Time zone in hours east of UTC.
    zone_hours: f64,
    /// For a person who moves: when, and the new time zone.
    pub(crate) move_at: Option<(Timestamp, f64)>,
    /// Looks into the mailbox per hour, by local quarter hour of the week.
    looking: Vec<f32>,
    /// Readiness to click by local quarter hour, 1 on average over the looks.
    ready: Vec<f32>,
    /// Probability of a click when a mail of average appeal is noticed at an average moment.
    pub(crate) click_chance: f64,
    /// Hours after which a mail is noticed 1/e times as often as a fresh one.
    pub(crate) attention_hours: f64,
    pub(crate) mailbox: MailboxProvider,
    /// Whether the mailbox fetches images by itself.
    pub(crate) prefetches: bool,
    /// Whether a scanner follows links before the person sees them.
    pub(crate) scanned: bool,
    /// Whether opens are visible at all (images are loaded).
    pub(crate) shows_opens: bool,
}

/// Probability that a fresh mail is noticed at a look.
const NOTICE: f64 = 0.7;

/// Age in hours after which mail is no longer noticed.
pub(crate) const ATTENTION_END_HOURS: f64 = 72.0;

impl Person {
    /// Draws a person. Most live in the brand's `home_zone`.
    pub(crate) fn draw(rng: &mut impl Rng, home_zone: f64) -> Self {
        let persona = Persona::ALL[weighted(rng, &Persona::SHARES)];
        let zones = [
            home_zone,
            home_zone + 1.0,
            home_zone - 1.0,
            -8.0,
            -5.0,
            0.0,
            1.0,
            5.5,
            9.0,
        ];
        let zone_hours = zones[weighted(rng, &[0.45, 0.1, 0.1, 0.08, 0.09, 0.05, 0.05, 0.05, 0.03])];
        let (looking, ready) = draw_habits(rng, persona);
        let mailbox = MailboxProvider::ALL[weighted(rng, &[0.42, 0.14, 0.1, 0.14, 0.2])];
        Self {
            persona,
            zone_hours,
            move_at: None,
            looking,
            ready,
            click_chance: (0.1 * gamma_two(rng)).min(0.8),
            attention_hours: log_normal(rng, 9.0, 0.4),
            mailbox,
            prefetches: rng.random_bool(if mailbox == MailboxProvider::Icloud {
                0.9
            } else {
                0.15
            }),
            scanned: mailbox == MailboxProvider::Other && rng.random_bool(0.5),
            shows_opens: rng.random_bool(0.75),
        }
    }

    fn zone_ms(&self, at: Timestamp) -> i64 {
        let moved = self.move_at.filter(|(moved_at, _)| *moved_at <= at);
        let hours = moved.map_or(self.zone_hours, |(_, hours)| hours);
        (hours * 3_600_000.0) as i64
    }

    fn quarter(&self, at: Timestamp) -> usize {
        let local_ms = (grid::week_offset_ms(at) + self.zone_ms(at)).rem_euclid(grid::WEEK_MS);
        (local_ms / QUARTER_MS) as usize % QUARTERS
    }

    /// Returns the looks into the mailbox per hour at this moment.
    pub(crate) fn looks_per_hour(&self, at: Timestamp) -> f64 {
        f64::from(self.looking[self.quarter(at)])
    }

    /// Returns the probability that a mail that is `hours` old is noticed at a look.
    pub(crate) fn notices(&self, hours: f64) -> f64 {
        if (0.0..=ATTENTION_END_HOURS).contains(&hours) {
            NOTICE * (-hours / self.attention_hours).exp()
        } else {
            0.0
        }
    }

    /// Returns the probability of a click when a mail of average appeal is noticed.
    pub(crate) fn clicks(&self, at: Timestamp) -> f64 {
        (self.click_chance * f64::from(self.ready[self.quarter(at)])).min(0.95)
    }

    /// Returns the looks per hour, weighted by the readiness to click, for each UTC quarter hour of the week around `now`.
    pub(crate) fn activity(&self, now: Timestamp) -> Vec<f64> {
        let local = self.zone_ms(now) / QUARTER_MS;
        (0..QUARTERS as i64)
            .map(|quarter| {
                let at = (local + quarter).rem_euclid(QUARTERS as i64) as usize;
                f64::from(self.looking[at] * self.ready[at])
            })
            .collect()
    }

    /// Returns, for each UTC quarter hour of the week around `now`, the probability that a mail of average appeal delivered
    /// then is clicked within 24 hours.
    pub(crate) fn response(&self, now: Timestamp) -> Vec<f64> {
        let steps = 24 * 4;
        // Habits are those at `now`: a move within the week around it is not simulated.
        let place = |quarter: usize| {
            let local = self.zone_ms(now) / QUARTER_MS + quarter as i64;
            local.rem_euclid(QUARTERS as i64) as usize
        };
        let notice: Vec<f64> = (0..steps)
            .map(|step| self.notices((step as f64 + 0.5) / 4.0))
            .collect();
        let mut response = Vec::with_capacity(QUARTERS);
        for start in 0..QUARTERS {
            let (mut unseen, mut clicked) = (1.0, 0.0);
            for (step, notice) in notice.iter().enumerate() {
                let at = place(start + step);
                let seen = 1.0 - (-f64::from(self.looking[at]) / 4.0 * notice).exp();
                clicked += unseen * seen * (self.click_chance * f64::from(self.ready[at])).min(0.95);
                unseen *= 1.0 - seen;
            }
            response.push(clicked);
        }
        response
    }
}

/// Draws a gamma deviate of shape 2 and mean 1: most people click little, some a lot.
fn gamma_two(rng: &mut impl Rng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln() / 2.0 - (1.0 - rng.random::<f64>()).ln() / 2.0
}

/// Draws the persona's habits with the person's own hours and weights, plus one habit that nobody else has.
fn draw_habits(rng: &mut impl Rng, persona: Persona) -> (Vec<f32>, Vec<f32>) {
    let chronotype = normal(rng, 0.0, 0.7);
    let (working, weekend) = persona.habits();
    let mut draw = |bumps: &[Bump]| -> Vec<Bump> {
        let own = |(hour, spread, weight, ready): &Bump| {
            (
                hour + chronotype + normal(rng, 0.0, 0.5),
                spread * log_normal(rng, 1.0, 0.2),
                weight * log_normal(rng, 1.0, 0.4),
                *ready,
            )
        };
        bumps.iter().map(own).collect()
    };
    let (mut working, mut weekend) = (draw(working), draw(weekend));
    let habit = (
        24.0 * rng.random::<f64>(),
        0.5,
        0.9 * rng.random::<f64>(),
        0.6 + 1.2 * rng.random::<f64>(),
    );
    working.push(habit);
    if rng.random_bool(0.5) {
        weekend.push(habit);
    }
    // Some days of the week are busier than others, for each person differently.
    let days: Vec<f64> = (0..7).map(|_| log_normal(rng, 1.0, 0.35)).collect();
    let looks_per_day = log_normal(rng, 3.0, 0.6);

    let (mut looking, mut ready) = (vec![0.0; QUARTERS], vec![0.0; QUARTERS]);
    for quarter in 0..QUARTERS {
        let day = quarter / 96;
        let hour = (quarter % 96) as f64 / 4.0 + 0.125;
        let bumps = if day >= 5 { &weekend } else { &working };
        // The rate is never 0: a look is possible at any hour, with little readiness to click.
        let (mut look, mut readiness) = (0.04, 0.04 * 0.6);
        for (center, spread, weight, ready) in bumps {
            let distance = (hour - center + 12.0).rem_euclid(24.0) - 12.0;
            let density = weight / spread * (-0.5 * (distance / spread).powi(2)).exp() * 0.4;
            look += density;
            readiness += density * ready;
        }
        looking[quarter] = look * days[day];
        ready[quarter] = readiness / look;
    }
    let looks: f64 = looking.iter().sum();
    let mean_ready = looking
        .iter()
        .zip(&ready)
        .map(|(look, ready)| look * ready)
        .sum::<f64>()
        / looks;
    let per_hour = looks_per_day * 7.0 / (looks / 4.0);
    let looking = looking.iter().map(|look| (look * per_hour) as f32).collect();
    let ready = ready.iter().map(|ready| (ready / mean_ready) as f32).collect();
    (looking, ready)
}
