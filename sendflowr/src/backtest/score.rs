//! Replays a log: every policy chooses with only the knowledge of what came before, and is scored on what came after.
//!
//! There are two ways to score, depending on what the log contains:
//! - *acts*: people without deliveries act when they like, so a policy did well if the person acted within two hours of the
//!   chosen minute. Only windows in which the person acted at all count.
//! - *mail* (deliveries): people can only click mail that has arrived, so clicks concentrate where the sender sent. A mail
//!   counts for a policy if it happened to arrive within an hour of what the policy would have chosen for the day around
//!   it, and the less of that day's mail arrived there, the more weight it has (SNIPS; the propensity is that share). The
//!   reward is a click within a day. Where no mail arrived near a choice, nothing shows what it is worth: such a trial counts
//!   for nothing, and two policies are compared on the trials that show something of both. Otherwise a policy that is shown
//!   only for the people who click at the sender's hours would look better than one that is shown for everybody.

use std::ops::{Index, IndexMut, Range};

use event::{
    Timestamp,
    grid::{self, DAY_MS, HOUR_MS, WEEK_MS},
    profile::{History, Profile},
};
use inference::{
    model::Curve,
    rivals::{self, hour_of_day},
};

use crate::{
    event_log::EventLog,
    sweep::{self, Moment},
};

use super::statistics::{Random, Ratio};

/// The last weeks of the log are tested, as many as it has, at most four: fewer say little, more are history that the
/// policies should know.
const MOST_WEEKS: i64 = 4;

/// History that must precede the tested weeks, so that there is something to learn from.
const LEAST_HISTORY_MS: i64 = 3 * WEEK_MS;

/// More people than this narrow the intervals too little for the time that they take.
const MOST_PEOPLE: usize = 20_000;

/// Mails tested per person. More mails of the same person add little information.
const MOST_MAILS: usize = 16;

/// An act this soon after the chosen minute counts as a hit.
const HIT_MS: i64 = 2 * HOUR_MS;

/// A mail this close to the chosen minute counts for it.
const MATCH_MINUTES: i64 = 60;

/// The share of mails at random minutes that match a choice, but for choices at an end of the window.
pub(crate) const MATCHING_SHARE: f64 = 2.0 * MATCH_MINUTES as f64 / 1_440.0;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    SendNow,
    RandomMinute,
    UsualHour,
    OpenHour,
    ClickHour,
    Bandit,
    FreshClicks,
    Model,
}

impl Policy {
    /// All of them, in the order of the report: the model last.
    pub(crate) const ALL: [Self; 8] = [
        Self::SendNow,
        Self::RandomMinute,
        Self::UsualHour,
        Self::OpenHour,
        Self::ClickHour,
        Self::Bandit,
        Self::FreshClicks,
        Self::Model,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SendNow => "send now",
            Self::RandomMinute => "a random minute",
            Self::UsualHour => "the brand's usual hour",
            Self::OpenHour => "best hour of opens",
            Self::ClickHour => "best hour of clicks",
            Self::Bandit => "two-hour bandit",
            Self::FreshClicks => "fresh clicks (60 min, 72 h)",
            Self::Model => "sendflowr",
        }
    }

    /// Returns whether it chooses a time for each person.
    pub(crate) fn is_timed(self) -> bool {
        !matches!(self, Self::SendNow | Self::RandomMinute | Self::UsualHour)
    }
}

/// One value for each policy, in the order of [`Policy::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct ByPolicy<T>([T; Policy::ALL.len()]);

impl<T> Index<Policy> for ByPolicy<T> {
    type Output = T;

    fn index(&self, policy: Policy) -> &T {
        &self.0[policy as usize]
    }
}

impl<T> IndexMut<Policy> for ByPolicy<T> {
    fn index_mut(&mut self, policy: Policy) -> &mut T {
        &mut self.0[policy as usize]
    }
}

/// The sizes of history by which results are shown, and their names.
pub(crate) const SIZES: [(usize, usize, &str); 5] = [
    (0, 1, "0"),
    (1, 3, "1-2"),
    (3, 10, "3-9"),
    (10, 50, "10-49"),
    (50, usize::MAX, "50+"),
];

/// How policies are scored on the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Acts of people without deliveries, within two hours of the chosen minute.
    Acts,
    /// Clicks within a day of mails that match the chosen minute.
    Mail,
}

impl Measure {
    /// Returns the windows that are scored, in hours. In a window of a week, matching mails would be seven times rarer.
    pub(crate) fn windows(self) -> &'static [i64] {
        match self {
            Self::Acts => &[24, 168],
            Self::Mail => &[24],
        }
    }
}

/// The results of one person.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tested {
    /// Index in [`SIZES`].
    pub(crate) size: usize,
    /// Number of trials by window, whatever they show.
    pub(crate) trials: [f64; 2],
    /// By window and policy.
    pub(crate) rates: [ByPolicy<Ratio>; 2],
    /// By window and policy: the model's rate and the policy's, on the trials that can show something of both.
    pub(crate) pairs: [ByPolicy<[Ratio; 2]>; 2],
    /// Bits per later act relative to a uniform week, for policies that are densities.
    pub(crate) bits: Option<ByPolicy<Option<f64>>>,
}

/// Everything that was scored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scores {
    pub(crate) measure: Measure,
    /// The policies for which the log has the data, in the order of the report.
    pub(crate) known: Vec<Policy>,
    pub(crate) people: Vec<Tested>,
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
    /// The model's confidence and whether it hit, if that can be observed.
    pub(crate) confidences: Vec<(f64, bool)>,
}

/// The log shows nothing about any policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unscorable {
    /// It cannot be split.
    TooShort { days: i64, needed_days: i64 },
    /// Nobody did anything that is scored.
    NoActs,
}

/// A window in which policies choose.
struct Trial {
    person: usize,
    start: Timestamp,
    /// For [`Measure::Mail`], the mail that shows the outcome: when it arrived and whether it was clicked.
    mail: Option<(Timestamp, bool)>,
}

/// What all people did before the tested weeks.
struct Everybody {
    clicks: [f64; 24],
    opens: [f64; 24],
    slots: [f64; 12],
    usual_slot: Option<usize>,
}

/// When the tested mail arrived. Only the weights are based on it, no choice.
struct Arrivals {
    from: Timestamp,
    /// Number of tested mails before each minute since `from`.
    before: Vec<f64>,
}

impl Arrivals {
    fn of(trials: &[Trial], from: Timestamp, end: Timestamp) -> Self {
        let minutes = (end.millis_since(from) / grid::MINUTE_MS).max(0) as usize;
        let mut before = vec![0.0; minutes + 2];
        for (delivered_at, _) in trials.iter().filter_map(|trial| trial.mail) {
            let minute = (delivered_at.millis_since(from) / grid::MINUTE_MS) as usize;
            before[minute + 1] += 1.0;
        }
        let mut sum = 0.0;
        for count in &mut before {
            sum += *count;
            *count = sum;
        }
        Self { from, before }
    }

    /// Returns the number of mails in some minutes.
    fn within(&self, minutes: Range<Timestamp>) -> f64 {
        let before = |at: Timestamp| {
            let minute = at.millis_since(self.from).div_euclid(grid::MINUTE_MS);
            self.before[minute.clamp(0, self.before.len() as i64 - 1) as usize]
        };
        before(minutes.end) - before(minutes.start)
    }
}

/// Scores all policies on the last weeks of the log.
///
/// # Errors
/// Fails if the log shows nothing about any of them.
pub(crate) fn score(log: &EventLog, seed: u64) -> Result<Scores, Unscorable> {
    let Weeks { from, end, count } = Weeks::of(log)?;
    let people = sample(log.people().len(), seed);
    let histories = histories(log, &people, end);
    let mails: usize = histories.iter().map(|history| history.mails.len()).sum();
    let acts = |is_used: fn(&History) -> bool| -> usize {
        let used = histories.iter().filter(|history| is_used(history));
        used.map(|history| strong_times(history).len()).sum()
    };
    if acts(|_| true) == 0 {
        return Err(Unscorable::NoActs);
    }
    let measure = if mails > acts(acts_freely) {
        Measure::Mail
    } else {
        Measure::Acts
    };
    let everybody = Everybody::of(&histories, from);
    let trials = trials(measure, &histories, from, end, count, seed);
    let arrivals = Arrivals::of(&trials, from, end);
    let moments: Vec<Moment> = trials
        .iter()
        .map(|trial| Moment {
            person: Some(people[trial.person]),
            at: trial.start,
        })
        .collect();
    let mut scoring = Scoring {
        measure,
        everybody: &everybody,
        arrivals: &arrivals,
        histories: &histories,
        end,
        random: Random::new(seed),
        tested: vec![None; people.len()],
        confidences: Vec::new(),
    };
    sweep::sweep(log, &moments, |index, curve, profile| {
        scoring.try_one(&trials[index], &curve, profile);
    });
    let has_opens = everybody.opens.iter().any(|count| *count > 0.0);
    let is_known = |policy: &Policy| match policy {
        Policy::UsualHour => everybody.usual_slot.is_some(),
        Policy::OpenHour => has_opens,
        _ => true,
    };
    Ok(Scores {
        measure,
        known: Policy::ALL.into_iter().filter(is_known).collect(),
        people: scoring.tested.into_iter().flatten().collect(),
        from,
        until: end,
        confidences: scoring.confidences,
    })
}

/// Returns whether a person's acts are scored: those of people with deliveries follow the mail, and for them the model chooses by
/// the answers of a whole day.
fn acts_freely(history: &History) -> bool {
    history.mails.is_empty()
}

/// The tested weeks.
struct Weeks {
    from: Timestamp,
    end: Timestamp,
    /// How many windows of a week everybody has. They take one week more: each person's begin at a different moment of it.
    count: i64,
}

impl Weeks {
    fn of(log: &EventLog) -> Result<Self, Unscorable> {
        let needed_days = (LEAST_HISTORY_MS + 2 * WEEK_MS) / DAY_MS;
        let (Some(first), Some(last)) = (log.events().first(), log.events().last()) else {
            return Err(Unscorable::TooShort { days: 0, needed_days });
        };
        // Times in profiles are rounded up, by some seconds.
        let end = last.at.plus_millis(grid::MINUTE_MS);
        let span_ms = end.millis_since(first.at);
        let count = ((span_ms - LEAST_HISTORY_MS) / WEEK_MS - 1).min(MOST_WEEKS);
        if count < 1 {
            return Err(Unscorable::TooShort {
                days: span_ms / DAY_MS,
                needed_days,
            });
        }
        let from = end.plus_millis(-(count + 1) * WEEK_MS);
        Ok(Self { from, end, count })
    }
}

/// Returns what is known of each person at the end.
fn histories(log: &EventLog, people: &[usize], end: Timestamp) -> Vec<History> {
    let moments: Vec<Moment> = people
        .iter()
        .map(|person| Moment {
            person: Some(*person),
            at: end,
        })
        .collect();
    let mut histories = vec![History::default(); people.len()];
    sweep::sweep(log, &moments, |index, _, profile| {
        histories[index] = profile.map(|profile| profile.history(end)).unwrap_or_default();
    });
    histories
}

/// The results so far, and what they are made with.
struct Scoring<'a> {
    measure: Measure,
    everybody: &'a Everybody,
    arrivals: &'a Arrivals,
    /// Of each person, all that happened until the end.
    histories: &'a [History],
    end: Timestamp,
    random: Random,
    tested: Vec<Option<Tested>>,
    confidences: Vec<(f64, bool)>,
}

impl Scoring<'_> {
    /// Scores the policies in the windows of a trial. `curve` and `profile` are what is known when it starts.
    fn try_one(&mut self, trial: &Trial, curve: &Curve, profile: Option<&Profile>) {
        let past = profile
            .map(|profile| profile.history(trial.start))
            .unwrap_or_default();
        self.tested[trial.person].get_or_insert_with(|| Tested {
            size: size_of(&past),
            trials: [0.0; 2],
            rates: Default::default(),
            pairs: Default::default(),
            bits: None,
        });
        let chooser = Chooser {
            everybody: self.everybody,
            past: &past,
            curve,
            start: trial.start,
        };
        let future = &self.histories[trial.person];
        for (window, hours) in self.measure.windows().iter().enumerate() {
            let outcome = Outcome {
                measure: self.measure,
                trial,
                future,
                arrivals: self.arrivals,
                end: trial.start.plus_millis(hours * HOUR_MS),
            };
            if outcome.is_telling() {
                self.score_window(window, *hours, &chooser, &outcome);
            }
        }
        if self.measure == Measure::Acts
            && let Some(person) = &mut self.tested[trial.person]
            && person.bits.is_none()
        {
            person.bits = chooser.bits(future, self.end);
        }
    }

    fn score_window(&mut self, window: usize, hours: i64, chooser: &Chooser<'_>, outcome: &Outcome<'_>) {
        let minutes = self.random.below((hours * 60) as usize) as i64;
        let random_minute = chooser.start.plus_millis(minutes * grid::MINUTE_MS);
        let mut shown: ByPolicy<Option<Shown>> = ByPolicy::default();
        for policy in Policy::ALL {
            let Some(chosen) = chooser.choice(policy, hours, random_minute) else {
                continue;
            };
            shown[policy] = outcome.of(chosen);
            if policy == Policy::Model && self.measure == Measure::Acts {
                let curve = chooser.curve;
                let confidence = curve.confidence(chosen, &[chooser.start..outcome.end]);
                let hit = outcome.acts_in(chosen, chosen.plus_millis(curve.span_ms()));
                self.confidences.push((confidence, hit));
            }
        }
        let Some(person) = &mut self.tested[outcome.trial.person] else {
            return;
        };
        person.trials[window] += 1.0;
        for policy in Policy::ALL {
            let Some(theirs) = shown[policy] else { continue };
            person.rates[window][policy].count(theirs.weight, theirs.reward);
            if let Some(ours) = shown[Policy::Model] {
                let [our_rate, their_rate] = &mut person.pairs[window][policy];
                our_rate.count(ours.weight, ours.reward);
                their_rate.count(theirs.weight, theirs.reward);
            }
        }
    }
}

/// Returns at most [`MOST_PEOPLE`] people, drawn with the seed.
fn sample(people: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..people).collect();
    if people > MOST_PEOPLE {
        let mut random = Random::new(seed);
        for place in 0..MOST_PEOPLE {
            all.swap(place, place + random.below(people - place));
        }
        all.truncate(MOST_PEOPLE);
    }
    all
}

fn trials(
    measure: Measure,
    histories: &[History],
    from: Timestamp,
    end: Timestamp,
    weeks: i64,
    seed: u64,
) -> Vec<Trial> {
    let mut random = Random::new(seed ^ 1);
    let mut trials = Vec::new();
    for (person, history) in histories.iter().enumerate() {
        match measure {
            Measure::Acts if !acts_freely(history) => {}
            Measure::Acts => {
                // A moment of the week for this person, independent of their acts.
                let start = from.plus_millis(random.below(WEEK_MS as usize) as i64);
                for week in 0..weeks {
                    let start = start.plus_millis(week * WEEK_MS);
                    trials.push(Trial {
                        person,
                        start,
                        mail: None,
                    });
                }
            }
            Measure::Mail => {
                // The day around a mail that arrives sooner could begin before the tested weeks, when less was known.
                let told = |at: Timestamp| from.plus_millis(DAY_MS) <= at && at.plus_millis(DAY_MS) <= end;
                for mail in history
                    .mails
                    .iter()
                    .filter(|mail| told(mail.delivered_at))
                    .take(MOST_MAILS)
                {
                    let clicked = mail
                        .clicked_at
                        .is_some_and(|at| at.millis_since(mail.delivered_at) <= DAY_MS);
                    // The day around the mail begins at a random time before it, so that "now" may be any time of day.
                    let start = mail
                        .delivered_at
                        .plus_millis(-(random.below(DAY_MS as usize) as i64));
                    trials.push(Trial {
                        person,
                        start,
                        mail: Some((mail.delivered_at, clicked)),
                    });
                }
            }
        }
    }
    trials
}

/// Returns the times of clicks, replies and conversions.
fn strong_times(history: &History) -> Vec<Timestamp> {
    let of_mails = history.mails.iter().filter_map(|mail| mail.clicked_at);
    let alone = history
        .activities
        .iter()
        .filter(|activity| activity.strong)
        .map(|activity| activity.at);
    let mut times: Vec<Timestamp> = of_mails.chain(alone).collect();
    times.sort_unstable();
    times
}

fn open_times(history: &History) -> Vec<Timestamp> {
    let of_mails = history.mails.iter().filter_map(|mail| mail.opened_at);
    let alone = history
        .activities
        .iter()
        .filter(|activity| !activity.strong)
        .map(|activity| activity.at);
    let mut times: Vec<Timestamp> = of_mails.chain(alone).collect();
    times.sort_unstable();
    times
}

fn size_of(history: &History) -> usize {
    let count = strong_times(history).len();
    SIZES
        .iter()
        .position(|(from, to, _)| (*from..*to).contains(&count))
        .expect("the sizes cover all counts")
}

impl Everybody {
    fn of(histories: &[History], until: Timestamp) -> Self {
        let (mut clicks, mut opens) = ([0.0; 24], [0.0; 24]);
        // A few mails at the usual rate in advance, so that no slot has none.
        let (mut clicked, mut sent) = ([1.0; 12], [20.0; 12]);
        let mut minutes = vec![0.0; 1_440];
        for history in histories {
            let before = |time: &Timestamp| *time < until;
            strong_times(history)
                .into_iter()
                .filter(before)
                .for_each(|time| clicks[hour_of_day(time)] += 1.0);
            open_times(history)
                .into_iter()
                .filter(before)
                .for_each(|time| opens[hour_of_day(time)] += 1.0);
            for mail in history.mails.iter().filter(|mail| before(&mail.delivered_at)) {
                minutes[grid::slot(mail.delivered_at) % 1_440] += 1.0;
                let slot = hour_of_day(mail.delivered_at) / 2;
                sent[slot] += 1.0;
                let is_clicked = mail.clicked_at.as_ref().is_some_and(before);
                clicked[slot] += f64::from(u8::from(is_clicked));
            }
        }
        let total: f64 = minutes.iter().sum();
        let near = near_of(&minutes);
        let busiest = (0..1_440).max_by(|a, b| near[*a].total_cmp(&near[*b]).then(b.cmp(a)));
        let slots = if total > 0.0 {
            std::array::from_fn(|slot| clicked[slot] / sent[slot])
        } else {
            let all: f64 = clicks.iter().sum::<f64>().max(1.0);
            std::array::from_fn(|slot| (clicks[2 * slot] + clicks[2 * slot + 1]) / all)
        };
        Self {
            clicks,
            opens,
            slots,
            usual_slot: busiest.filter(|_| total > 0.0),
        }
    }
}

/// Returns, for each minute of the day, the sum of the counts within [`MATCH_MINUTES`] of it.
fn near_of(minutes: &[f64]) -> Vec<f64> {
    let near = |minute: usize| -> f64 {
        let window = 1_440 - MATCH_MINUTES as usize..=1_440 + MATCH_MINUTES as usize;
        window.map(|lag| minutes[(minute + lag) % 1_440]).sum()
    };
    (0..1_440).map(near).collect()
}

/// Lets every policy choose, with what is known at the start of a window.
struct Chooser<'a> {
    everybody: &'a Everybody,
    past: &'a History,
    curve: &'a Curve,
    start: Timestamp,
}

impl Chooser<'_> {
    /// Returns what a policy chooses in a window of so many hours; `None` if the log lacks what it goes by.
    fn choice(&self, policy: Policy, hours: i64, random_minute: Timestamp) -> Option<Timestamp> {
        let start = grid::floor_minute(self.start.plus_millis(grid::MINUTE_MS - 1));
        let everybody = self.everybody;
        let scores = match policy {
            Policy::SendNow => return Some(start),
            Policy::RandomMinute => return Some(random_minute),
            Policy::Model => {
                let best = self.curve.best(&[start..start.plus_millis(hours * HOUR_MS)]);
                return best.map(|best| best.at);
            }
            Policy::UsualHour => rivals::usual_hour(everybody.usual_slot?),
            Policy::OpenHour => rivals::best_hour(&open_times(self.past), &everybody.opens),
            Policy::ClickHour => rivals::best_hour(&strong_times(self.past), &everybody.clicks),
            Policy::Bandit => rivals::two_hour_slots(self.past, &everybody.slots),
            Policy::FreshClicks => rivals::fresh_kernel(&strong_times(self.past), self.start),
        };
        Some(rivals::choose(&scores, start, hours))
    }

    /// Returns the bits per later act relative to a uniform week, each act at least -10.
    fn bits(&self, future: &History, end: Timestamp) -> Option<ByPolicy<Option<f64>>> {
        let later: Vec<Timestamp> = strong_times(future)
            .into_iter()
            .filter(|time| self.start <= *time && *time < end)
            .collect();
        if later.is_empty() {
            return None;
        }
        let mean = |density: &dyn Fn(Timestamp) -> f64| {
            let bits = later.iter().map(|time| density(*time).log2().max(-10.0));
            Some(bits.sum::<f64>() / later.len() as f64)
        };
        let clicks = strong_times(self.past);
        let fresh = rivals::fresh_kernel(&clicks, self.start);
        let mut bits = ByPolicy::default();
        bits[Policy::RandomMinute] = Some(0.0);
        bits[Policy::ClickHour] = mean(&rivals::hour_density(&clicks));
        bits[Policy::FreshClicks] = mean(&fresh);
        bits[Policy::Model] = mean(&|at| self.curve.density(at) * grid::SLOTS as f64);
        Some(bits)
    }
}

/// The outcome of a window.
struct Outcome<'a> {
    measure: Measure,
    trial: &'a Trial,
    future: &'a History,
    arrivals: &'a Arrivals,
    end: Timestamp,
}

/// What a trial shows of a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shown {
    /// 1 over the chance that a trial like this shows the outcome.
    weight: f64,
    /// The outcome; `None` if this one does not show it.
    reward: Option<bool>,
}

impl Outcome<'_> {
    fn acts_in(&self, from: Timestamp, to: Timestamp) -> bool {
        let acts = self.future.activities.iter().filter(|activity| activity.strong);
        let mut acts = acts
            .map(|activity| activity.at)
            .chain(self.future.mails.iter().filter_map(|mail| mail.clicked_at));
        acts.any(|at| from <= at && at < to)
    }

    /// Returns whether the window can distinguish policies.
    fn is_telling(&self) -> bool {
        self.measure == Measure::Mail || self.acts_in(self.trial.start, self.end)
    }

    /// Returns what the trial shows of a choice; `None` if no mail of the window arrived near it.
    fn of(&self, chosen: Timestamp) -> Option<Shown> {
        let Some((delivered_at, is_clicked)) = self.trial.mail else {
            return Some(Shown {
                weight: 1.0,
                reward: Some(self.acts_in(chosen, chosen.plus_millis(HIT_MS))),
            });
        };
        // In whole minutes, as arrivals are counted. The trial's mail is in the window, so it matches no time outside of it.
        let start = grid::floor_minute(self.trial.start);
        let end = grid::floor_minute(self.end).plus_millis(grid::MINUTE_MS);
        let first = chosen.plus_millis(-MATCH_MINUTES * grid::MINUTE_MS);
        let last = chosen.plus_millis((MATCH_MINUTES + 1) * grid::MINUTE_MS);
        let near = first.max(start)..last.min(end);
        let count = self.arrivals.within(near.clone());
        (count > 0.0).then(|| Shown {
            weight: self.arrivals.within(start..end) / count,
            reward: near.contains(&delivered_at).then_some(is_clicked),
        })
    }
}

#[cfg(test)]
mod tests {
    use event::profile::Mail;

    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis_clamped(hours * HOUR_MS)
    }

    #[test]
    fn nothing_that_is_chosen_by_knows_what_comes_after() {
        let mail = |delivered: i64, clicked: Option<i64>| Mail {
            delivered_at: at(delivered),
            opened_at: clicked.map(at),
            clicked_at: clicked.map(at),
        };
        // Hour 100 is 4 o'clock.
        let known = History {
            mails: vec![mail(100, Some(101)), mail(100, None)],
            ..History::default()
        };
        let clicked_later = History {
            mails: vec![mail(100, Some(101)), mail(100, Some(200))],
            ..History::default()
        };
        let until = at(150);
        assert_eq!(
            Everybody::of(&[known], until).slots,
            Everybody::of(&[clicked_later], until).slots
        );

        let (from, end) = (at(1_000), at(2_000));
        let mails = (900..2_000).map(|hour| mail(hour, None)).collect();
        let history = History {
            mails,
            ..History::default()
        };
        for (measure, history) in [(Measure::Mail, history), (Measure::Acts, History::default())] {
            let histories = vec![history; 100];
            let trials = trials(measure, &histories, from, end, 1, 1);
            assert!(trials.len() >= 100);
            assert!(trials.iter().all(|trial| from <= trial.start), "{measure:?}");
        }
    }
}
