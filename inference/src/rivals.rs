//! Alternatives to the model: policies that score every minute, for comparisons.
//!
//! Times are those of the person's own acts, oldest first; a policy knows nothing but its arguments.

use event::{
    Timestamp,
    grid::{self, DAY_MS},
    profile::History,
};

use crate::{draw, model::Curve};

/// The scores of the minutes of arrival; the highest of a window is chosen, the earliest one in case of a tie.
pub type MinuteScores<'a> = Box<dyn Fn(Timestamp) -> f64 + 'a>;

/// Returns the minute that a policy chooses, on a grid of five minutes.
pub fn choose(scores: &MinuteScores<'_>, start: Timestamp, hours: i64) -> Timestamp {
    let mut best = (start, f64::MIN);
    for step in 0..hours * 12 {
        let at = start.plus_millis(step * 5 * grid::MINUTE_MS);
        let score = scores(at);
        if score > best.1 {
            best = (at, score);
        }
    }
    best.0
}

/// Always chooses the earliest minute.
pub fn send_now<'a>() -> MinuteScores<'a> {
    Box::new(|_| 0.0)
}

/// Chooses a random minute, by a number drawn for the person.
pub fn random_minute<'a>(number: u64) -> MinuteScores<'a> {
    Box::new(move |at| draw::mix(number ^ draw::mix(at.as_millis().unsigned_abs())) as f64)
}

/// Chooses the brand's usual minute of the day.
pub fn usual_hour<'a>(slot: usize) -> MinuteScores<'a> {
    Box::new(move |at| {
        let away = (grid::slot(at) % 1440).abs_diff(slot % 1440);
        -(away.min(1440 - away) as f64)
    })
}

/// Chooses the hour of the day at which the person acted most; that of the population if the person never acted.
pub fn best_hour<'a>(times: &[Timestamp], everybody: &'a [f64; 24]) -> MinuteScores<'a> {
    let mut hours = [0.0; 24];
    for time in times {
        hours[hour_of_day(*time)] += 1.0;
    }
    let hours = if times.is_empty() { *everybody } else { hours };
    Box::new(move |at| hours[hour_of_day(at)])
}

/// Chooses by clicks per mail in each two-hour slot of the day, shrunk towards everybody's with the weight of 300 mails: the
/// posterior mean of the usual bandit. If no mail is known, each act counts as one mail clicked in its slot and one missed in
/// each of the others.
pub fn two_hour_slots<'a>(history: &History, everybody: &[f64; 12]) -> MinuteScores<'a> {
    let (mut clicked, mut sent) = ([0.0; 12], [0.0; 12]);
    for mail in &history.mails {
        let slot = hour_of_day(mail.delivered_at) / 2;
        sent[slot] += 1.0;
        clicked[slot] += f64::from(u8::from(mail.clicked_at.is_some()));
    }
    let alone = history.activities.iter().filter(|activity| activity.strong);
    for activity in alone.filter(|_| history.mails.is_empty()) {
        clicked[hour_of_day(activity.at) / 2] += 1.0;
        sent.iter_mut().for_each(|sent| *sent += 1.0);
    }
    let rate: [f64; 12] =
        std::array::from_fn(|slot| (clicked[slot] + 300.0 * everybody[slot]) / (sent[slot] + 300.0));
    Box::new(move |at| rate[hour_of_day(at) / 2])
}

/// Chooses by a Gaussian of an hour around each act, halved every three days, over a flat floor of a thousandth per minute.
pub fn fresh_kernel<'a>(times: &[Timestamp], now: Timestamp) -> MinuteScores<'a> {
    const SIGMA: f64 = 60.0;
    let mut minutes = vec![0.001; grid::SLOTS];
    for time in times {
        let weight = (-(now.millis_since(*time) as f64) / (3 * DAY_MS) as f64).exp2();
        let height = weight / (SIGMA * std::f64::consts::TAU.sqrt());
        let slot = grid::slot(*time) as i64;
        for lag in -240..=240_i64 {
            let at = (slot + lag).rem_euclid(grid::SLOTS as i64) as usize;
            minutes[at] += height * (-0.5 * (lag as f64 / SIGMA).powi(2)).exp();
        }
    }
    let total: f64 = minutes.iter().sum();
    Box::new(move |at| minutes[grid::slot(at)] / total * grid::SLOTS as f64)
}

/// Chooses by a curve's value, raised by the person's presence.
pub fn curve(curve: &Curve) -> MinuteScores<'_> {
    Box::new(|at| curve.score(at) * curve.presence().map_or(1.0, |presence| presence.factor(at)))
}

/// Returns the density of the acts' hours of the day over the week, relative to a uniform one, with 16 acts' worth of uniform
/// density.
pub fn hour_density(times: &[Timestamp]) -> impl Fn(Timestamp) -> f64 + use<> {
    let mut hours = [0.0; 24];
    times.iter().for_each(|time| hours[hour_of_day(*time)] += 1.0);
    let all = times.len() as f64;
    move |at| (hours[hour_of_day(at)] * 24.0 + 16.0) / (all + 16.0)
}

/// Returns the hour of the day, UTC.
pub fn hour_of_day(at: Timestamp) -> usize {
    grid::slot(at) / 60 % 24
}
