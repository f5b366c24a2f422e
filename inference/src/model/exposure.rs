//! When mail lay in front of a person, and when the person acted: the sums from which all estimates are computed.
//!
//! Nobody clicks a mail that has not arrived, so clicks alone repeat the sender's habits. What says something about the person
//! is clicks over exposure: the time that unclicked mail spent in the mailbox, weighted by how attention to it fades.

use event::{
    Timestamp,
    grid::MINUTE_MS,
    profile::{Activity, History, MACHINE_OPENS, Mail},
};

use super::week::{BINS, Week, add_shared, bin_of};

/// The ages, in minutes, between which attention is assumed constant. The first hours are divided finely because most
/// clicks fall into them; nothing after three days counts.
pub(super) const AGE_EDGES: [usize; 13] = [
    0, 15, 30, 60, 120, 240, 480, 720, 1_080, 1_440, 2_160, 2_880, 4_320,
];

/// Bands between the [`AGE_EDGES`].
pub(super) const AGES: usize = AGE_EDGES.len() - 1;

const END: usize = AGE_EDGES[AGES];

/// Number of hours of the week that a mail touches until its last age: three days, and the rest of the hour of delivery.
const ROW: usize = END / 60 + 1;

/// How attention to a mail fades with its age. Its scale is that of the tables that the fit began with, over a day and a night:
/// only ratios of bands mean something, the levels take up the rest.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    /// Attention to a mail aged 0..=END minutes, summed from 0, in hours.
    sums: Vec<f32>,
    /// For each minute of the hour at which a mail may arrive: its exposure in this hour and the following ones.
    rows: Vec<[f32; ROW]>,
}

impl Attention {
    pub(super) fn new(bands: &[f32; AGES]) -> Self {
        let mut sums = Vec::with_capacity(END + 1);
        let mut sum = 0.0_f64;
        sums.push(0.0);
        for (band, edges) in bands.iter().zip(AGE_EDGES.windows(2)) {
            for _ in edges[0]..edges[1] {
                sum += f64::from(*band) / 60.0;
                sums.push(sum as f32);
            }
        }
        let row = |minute: usize| -> [f32; ROW] {
            std::array::from_fn(|hour| {
                let from = (hour * 60).saturating_sub(minute);
                let to = ((hour + 1) * 60 - minute).min(END);
                sums[to.max(from)] - sums[from]
            })
        };
        let rows = (0..60).map(row).collect();
        Self { sums, rows }
    }

    /// Adds the exposure of a mail that arrived in `bin` at `minute` and lay there for `minutes`.
    pub(super) fn add(&self, week: &mut Week, (bin, minute): (usize, usize), minutes: usize, weight: f32) {
        let row = &self.rows[minute];
        let minutes = minutes.min(END);
        // The hours that passed entirely, then the one in which the exposure ends.
        let whole = ((minute + minutes) / 60).min(ROW);
        let before_wrap = whole.min(BINS - bin);
        for (sum, exposure) in week[bin..].iter_mut().zip(&row[..before_wrap]) {
            *sum += weight * exposure;
        }
        for (sum, exposure) in week.iter_mut().zip(&row[before_wrap..whole]) {
            *sum += weight * exposure;
        }
        let from = (whole * 60).saturating_sub(minute);
        if from < minutes {
            week[(bin + whole) % BINS] += weight * (self.sums[minutes] - self.sums[from]);
        }
    }
}

/// A person's sums, decayed with age.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    /// First clicks of mails.
    pub(super) clicks: Engagement,
    /// First opens of mails, or clicks where those came first. Empty if too many opens are a machine's.
    pub(super) opens: Engagement,
    /// Engagement without a known mail. Its exposure is assumed flat.
    pub(super) alone: Option<Box<Week>>,
    /// Their total weight.
    pub(super) alone_count: f32,
}

/// Events by hour, and the exposure that they are relative to.
#[derive(Debug, Clone)]
pub(super) struct Engagement {
    pub(super) events: Week,
    pub(super) exposure: Week,
    /// Σ events.
    pub(super) count: f32,
    /// Whether there is any exposure.
    pub(super) exposed: bool,
}

impl Default for Engagement {
    fn default() -> Self {
        Self {
            events: [0.0; BINS],
            exposure: [0.0; BINS],
            count: 0.0,
            exposed: false,
        }
    }
}

/// Weight of an open without a known mail, relative to a click. Chosen, not measured: half of the weight of an open
/// whose mail is known, because nothing says how soon after delivery it came.
const OPEN_WEIGHT_ALONE: f32 = 0.4;

/// Without a known mail, acts of one person within one half hour of the clock are one: an open and its click, or several mails
/// looked through in one visit. A profile already keeps no more of a kind without a message id.
const VISIT_MS: i64 = 30 * MINUTE_MS;

/// If the share of machine opens among the last mails is above this, a person's opens say nothing about the person.
const MACHINE_OPEN_LIMIT: f32 = 0.3;

/// Minutes from `earlier` to `later`, at least one: a click within the minute of arrival had some exposure too.
fn minutes_between(earlier: Timestamp, later: Timestamp) -> usize {
    (later.millis_since(earlier) / 60_000).max(1) as usize
}

/// Returns whether an act is attributed to a mail delivered at `delivered_at`: nothing after the last age counts.
fn is_in_time(delivered_at: Timestamp, act: Timestamp) -> bool {
    minutes_between(delivered_at, act) <= END
}

/// Returns whether a mail was clicked in time.
pub(super) fn is_clicked_in_time(mail: &Mail) -> bool {
    mail.clicked_at
        .is_some_and(|at| is_in_time(mail.delivered_at, at))
}

/// Returns whether a person's opens say anything about the person, judging by the machine opens among the last mails.
fn opens_count(history: &History) -> bool {
    let recent_mails = history.mails.len().min(MACHINE_OPENS);
    history.machine_opens as f32 <= MACHINE_OPEN_LIMIT * recent_mails as f32
}

/// Returns the acts without a known mail that count, one for each visit (see [`VISIT_MS`]): its first click, or otherwise its first
/// open if opens count.
fn visits(history: &History, opens_count: bool) -> impl Iterator<Item = &Activity> {
    let visit = |activity: &Activity| activity.at.as_millis().div_euclid(VISIT_MS);
    let visits = history.activities.chunk_by(move |a, b| visit(a) == visit(b));
    visits.filter_map(move |acts| {
        let click = acts.iter().find(|act| act.strong);
        click.or(acts.first().filter(|_| opens_count))
    })
}

/// Returns the acts that enter [`Sums`], oldest first: one per mail, its click or otherwise its open, and one per visit without a
/// known mail.
pub(super) fn act_times(history: &History) -> Vec<Timestamp> {
    let opens_count = opens_count(history);
    let of_mails = history.mails.iter().filter_map(|mail| {
        let in_time = |act: &Timestamp| is_in_time(mail.delivered_at, *act);
        let opened_at = mail.opened_at.filter(|_| opens_count);
        mail.clicked_at.filter(in_time).or(opened_at.filter(in_time))
    });
    let alone = visits(history, opens_count).map(|activity| activity.at);
    let mut times: Vec<Timestamp> = of_mails.chain(alone).collect();
    times.sort_unstable();
    times
}

impl Sums {
    /// Computes the sums of a history as of `now`, where the weight of each mail or activity halves every `half_life_days`.
    pub(super) fn of(history: &History, now: Timestamp, attention: &Attention, half_life_days: f32) -> Self {
        let mut sums = Self::default();
        let weigh = |at: Timestamp| (-(now.millis_since(at) as f32) / (half_life_days * 86_400_000.0)).exp2();
        let opens_count = opens_count(history);
        for mail in &history.mails {
            let weight = weigh(mail.delivered_at);
            let arrived = bin_of(mail.delivered_at);
            sums.clicks.take(
                attention,
                mail.delivered_at,
                arrived,
                mail.clicked_at,
                now,
                weight,
            );
            if opens_count {
                let first = match (mail.opened_at, mail.clicked_at) {
                    (Some(opened), Some(clicked)) => Some(opened.min(clicked)),
                    (opened, clicked) => opened.or(clicked),
                };
                sums.opens
                    .take(attention, mail.delivered_at, arrived, first, now, weight);
            }
        }
        if history.mails.iter().all(|mail| mail.opened_at.is_none()) {
            // Images are blocked: no open was ever seen, so a missing open means nothing.
            sums.opens = Engagement::default();
        }
        for activity in visits(history, opens_count) {
            let weight = weigh(activity.at) * if activity.strong { 1.0 } else { OPEN_WEIGHT_ALONE };
            add_shared(
                sums.alone.get_or_insert_with(|| Box::new([0.0; BINS])),
                activity.at,
                weight,
            );
            sums.alone_count += weight;
        }
        sums
    }

    /// Returns the weight of all events; opens count only as far as they add to the clicks.
    pub(super) fn count(&self) -> f32 {
        self.clicks.count
            + self.alone_count
            + OPEN_WEIGHT_ALONE * (self.opens.count - self.clicks.count).max(0.0)
    }
}

impl Engagement {
    fn take(
        &mut self,
        attention: &Attention,
        delivered_at: Timestamp,
        arrived: (usize, usize),
        first: Option<Timestamp>,
        now: Timestamp,
        weight: f32,
    ) {
        self.exposed = true;
        let minutes = minutes_between(delivered_at, first.unwrap_or(now));
        attention.add(&mut self.exposure, arrived, minutes, weight);
        if let Some(first) = first
            && is_in_time(delivered_at, first)
        {
            self.events[bin_of(first).0] += weight;
            self.count += weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use event::{grid::MINUTE_MS, profile::Activity};

    use super::*;

    fn at(minute: i64) -> Timestamp {
        let start: Timestamp = "2026-01-05T09:00:00Z".parse().unwrap();
        start.plus_millis(minute * MINUTE_MS)
    }

    /// One mail a day, with the minutes from its delivery to an open and to a click.
    fn history(mails: &[(Option<i64>, Option<i64>)], machine_opens: usize) -> History {
        let mails = mails.iter().enumerate().map(|(day, (opened, clicked))| {
            let delivered = day as i64 * 1_440;
            Mail {
                delivered_at: at(delivered),
                opened_at: opened.map(|after| at(delivered + after)),
                clicked_at: clicked.map(|after| at(delivered + after)),
            }
        });
        History {
            mails: mails.collect(),
            activities: vec![Activity {
                at: at(77),
                strong: true,
            }],
            machine_opens,
        }
    }

    #[test]
    fn the_acts_told_are_those_in_the_sums() {
        const LATE: i64 = END as i64 + 1;
        let mails = [
            (None, None),
            (Some(5), None),
            (Some(5), Some(9)),
            (Some(9), Some(5)),
            (Some(5), Some(LATE)),
            (Some(LATE), None),
            (None, Some(LATE)),
            (Some(LATE), Some(5)),
        ];
        let attention = Attention::new(&[1.0; AGES]);
        // Of eight mails, two machine opens are a quarter, three exceed the limit.
        for (machine_opens, expected) in [(2, 6), (3, 4)] {
            let history = history(&mails, machine_opens);
            // All acts have weight one.
            let sums = Sums::of(&history, at(20_000), &attention, 1e9);
            let counted = sums.clicks.count.max(sums.opens.count) + sums.alone_count;
            let acts = act_times(&history);
            assert_eq!(acts.len(), expected, "{machine_opens} machine opens");
            assert!((counted - expected as f32).abs() < 1e-3, "{counted}");
            assert!(acts.is_sorted());
        }
        let late_alone = history(&[(None, Some(LATE))], 0);
        assert_eq!(act_times(&late_alone), [at(77)]);
    }

    #[test]
    fn a_visit_without_a_known_mail_counts_once() {
        let alone = |acts: &[(i64, bool)]| {
            let acts = acts.iter().map(|(minute, strong)| Activity {
                at: at(*minute),
                strong: *strong,
            });
            History {
                activities: acts.collect(),
                ..History::default()
            }
        };
        // Five mails opened and clicked within half an hour, one more click in the next, and an open alone.
        let mut acts: Vec<(i64, bool)> = (0..10).map(|step| (2 * step, step % 2 == 1)).collect();
        acts.extend([(31, true), (95, false), (99, false)]);
        let history = alone(&acts);
        assert_eq!(act_times(&history), [at(2), at(31), at(95)]);
        let sums = Sums::of(&history, at(200), &Attention::new(&[1.0; AGES]), 1e9);
        assert!(
            (sums.alone_count - (2.0 + OPEN_WEIGHT_ALONE)).abs() < 1e-3,
            "{}",
            sums.alone_count
        );
    }

    #[test]
    fn opens_of_a_mailbox_that_prefetches_teach_nothing_without_a_known_mail_either() {
        for (machine_opens, expected) in [(2, 2), (3, 1)] {
            let mut history = history(&[(None, None); 8], machine_opens);
            history.activities.insert(
                0,
                Activity {
                    at: at(17),
                    strong: false,
                },
            );
            assert_eq!(
                act_times(&history).len(),
                expected,
                "{machine_opens} machine opens"
            );
            let sums = Sums::of(&history, at(20_000), &Attention::new(&[1.0; AGES]), 1e9);
            let opens = OPEN_WEIGHT_ALONE * (expected - 1) as f32;
            assert!(
                (sums.alone_count - 1.0 - opens).abs() < 1e-3,
                "{}",
                sums.alone_count
            );
        }
    }

    #[test]
    fn exposure_is_all_of_attention_and_wraps_around_the_week() {
        let attention = Attention::new(&[1.0; AGES]);
        for (bin, minute, minutes) in [
            (0, 0, 30),
            (166, 59, 4_000),
            (167, 1, 4_320),
            (3, 17, 100_000),
            (5, 50, 10),
        ] {
            let mut week = [0.0; BINS];
            attention.add(&mut week, (bin, minute), minutes, 2.0);
            let hours = minutes.min(END) as f32 / 60.0;
            assert!(
                (week.iter().sum::<f32>() - 2.0 * hours).abs() < 1e-3,
                "{bin} {minute} {minutes}"
            );
            let first = (60 - minute).min(minutes) as f32 / 60.0;
            assert!((week[bin] - 2.0 * first).abs() < 1e-4, "{bin} {minute} {minutes}");
        }
    }
}
