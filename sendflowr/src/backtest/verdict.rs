//! Turns scores into figures, and figures into a verdict.

use inference::Estimate;

use super::score::{Measure, Policy, SIZES, Scores, Tested};
use super::statistics::{Ratio, bootstrap};

/// Fewer informative windows than this leave intervals wider than any worthwhile gain.
const LEAST_WINDOWS: f64 = 400.0;

/// Fewer effective matches than this cannot distinguish two policies with click rates of 5 and 7 %.
const LEAST_MATCHES: f64 = 1_000.0;

/// One policy's figures.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) policy: Policy,
    /// By window.
    pub(crate) rates: Vec<Estimate>,
    /// The model minus this policy, by window.
    pub(crate) behind: Vec<Estimate>,
    pub(crate) bits: Option<Estimate>,
    /// In the first window, by size of history: rate, and the number of trials that it is based on.
    pub(crate) by_size: Vec<(Estimate, f64)>,
    /// The number of trials of equal weight that each window's rate is based on.
    pub(crate) effective: Vec<f64>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// The model beats the policies without timing.
    SwitchItOn {
        /// The best policy without timing; `gain` is the first window's gain over it.
        over: Policy,
        gain: Estimate,
        /// A simpler policy that does as well on this data.
        simpler: Option<Policy>,
    },
    /// The model does not beat them, or a simpler policy is better.
    DoNotBother { against: Policy, gain: Estimate },
    /// There is too little data for a verdict.
    NotEnoughData { have: f64, need: f64 },
}

/// Returns the figures of every policy for which the log has the data.
pub(crate) fn rows(scores: &Scores, seed: u64) -> Vec<Row> {
    let people = &scores.people;
    let windows = scores.measure.windows().len();
    let rate = |picked: &mut dyn Iterator<Item = usize>, window: usize, policy: Policy| {
        sum(people, picked, window, policy).rate()
    };
    let row = |policy: Policy| {
        let rates =
            (0..windows).map(|window| bootstrap(people.len(), seed, |picked| rate(picked, window, policy)));
        let behind = (0..windows).map(|window| {
            bootstrap(people.len(), seed, |picked| {
                let (mut ours, mut theirs) = (Ratio::default(), Ratio::default());
                for person in picked {
                    ours.add(&people[person].rates[window][Policy::Model]);
                    theirs.add(&people[person].rates[window][policy]);
                }
                ours.rate() - theirs.rate()
            })
        });
        let by_size = (0..SIZES.len()).map(|size| {
            let of_size: Vec<&Tested> = people.iter().filter(|person| person.size == size).collect();
            let total = |picked: &mut dyn Iterator<Item = usize>| {
                let mut total = Ratio::default();
                picked.for_each(|person| total.add(&of_size[person].rates[0][policy]));
                total
            };
            let effective = total(&mut (0..of_size.len())).effective();
            (
                bootstrap(of_size.len(), seed, |picked| total(picked).rate()),
                effective,
            )
        });
        Row {
            policy,
            rates: rates.collect(),
            behind: behind.collect(),
            bits: bits(people, policy, seed),
            by_size: by_size.collect(),
            effective: (0..windows)
                .map(|window| sum(people, &mut (0..people.len()), window, policy).effective())
                .collect(),
        }
    };
    scores.known.iter().copied().map(row).collect()
}

fn sum(people: &[Tested], picked: &mut dyn Iterator<Item = usize>, window: usize, policy: Policy) -> Ratio {
    let mut total = Ratio::default();
    picked.for_each(|person| total.add(&people[person].rates[window][policy]));
    total
}

fn bits(people: &[Tested], policy: Policy, seed: u64) -> Option<Estimate> {
    let bits: Vec<f64> = people.iter().filter_map(|person| person.bits?[policy]).collect();
    let mean = |picked: &mut dyn Iterator<Item = usize>| {
        let (mut sum, mut count) = (0.0, 0.0);
        for person in picked {
            sum += bits[person];
            count += 1.0;
        }
        sum / count
    };
    (!bits.is_empty()).then(|| bootstrap(bits.len(), seed, mean))
}

/// Returns the verdict, which is based on the first window.
pub(crate) fn verdict(measure: Measure, rows: &[Row]) -> Verdict {
    let ours = rows.last().expect("the model is always scored");
    let need = match measure {
        Measure::Acts => LEAST_WINDOWS,
        Measure::Mail => LEAST_MATCHES,
    };
    // A policy that too little mail matches cannot be compared with.
    let untimed = || {
        rows.iter()
            .filter(|row| !row.policy.is_timed() && row.effective[0] >= need)
    };
    if ours.effective[0] < need || untimed().next().is_none() {
        let most = |most: f64, row: &Row| most.max(row.effective[0]);
        let without = rows.iter().filter(|row| !row.policy.is_timed()).fold(0.0, most);
        let have = ours.effective[0].min(without);
        return Verdict::NotEnoughData { have, need };
    }
    let smallest_gain = |a: &&Row, b: &&Row| a.behind[0].value.total_cmp(&b.behind[0].value);
    let timed = || {
        rows.iter()
            .filter(|row| row.policy.is_timed() && row.policy != Policy::Model)
    };
    let strongest = timed()
        .filter(|row| row.effective[0] >= need)
        .min_by(smallest_gain);
    if let Some(better) = strongest.filter(|row| row.behind[0].high < 0.0) {
        return Verdict::DoNotBother {
            against: better.policy,
            gain: better.behind[0],
        };
    }
    // All of them must be beaten: nobody knows beforehand which one is the best.
    let unbeaten = untimed()
        .filter(|row| row.behind[0].low <= 0.0)
        .min_by(smallest_gain);
    if let Some(unbeaten) = unbeaten {
        return Verdict::DoNotBother {
            against: unbeaten.policy,
            gain: unbeaten.behind[0],
        };
    }
    let hardest = untimed()
        .min_by(smallest_gain)
        .expect("there is one, or there would be too little data");
    Verdict::SwitchItOn {
        over: hardest.policy,
        gain: hardest.behind[0],
        simpler: strongest
            .filter(|row| row.behind[0].low <= 0.0)
            .map(|row| row.policy),
    }
}

impl Verdict {
    /// Returns the verdict in words.
    pub(crate) fn sentence(&self, measure: Measure) -> String {
        let what = match measure {
            Measure::Acts => "of the windows are hit within two hours",
            Measure::Mail => "of the mails are clicked within a day",
        };
        let points = |gain: &Estimate| {
            format!(
                "{:+.1} points {what} (95 % interval {:+.1} to {:+.1})",
                100.0 * gain.value,
                100.0 * gain.low,
                100.0 * gain.high
            )
        };
        match self {
            Self::SwitchItOn { over, gain, simpler } => {
                let mut text = format!("switch it on: {} against `{}`", points(gain), over.name());
                if let Some(simpler) = simpler {
                    text += &format!("; `{}` does as well on this data", simpler.name());
                }
                text
            }
            Self::DoNotBother { against, gain } => {
                format!("do not bother: {} against `{}`", points(gain), against.name())
            }
            Self::NotEnoughData { have, need } => {
                let of = match measure {
                    Measure::Acts => "windows in which somebody acted",
                    Measure::Mail => {
                        "effective mails at the times that the policies choose; a few per cent of mail at random minutes helps"
                    }
                };
                format!("not enough data yet: {have:.0} of at least {need:.0} {of}")
            }
        }
    }
}
