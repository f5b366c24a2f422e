//! Turns scores into figures, and figures into a verdict.

use inference::Estimate;

use super::score::{MATCHING_SHARE, Measure, Policy, SIZES, Scores, Tested};
use super::statistics::{Ratio, bootstrap};

/// With fewer informative windows than this no verdict is given, whatever they show: they are those of a hundred people or so,
/// too few to stand for all. Chosen, not measured.
const LEAST_WINDOWS: f64 = 400.0;

/// Fewer effective matches than this cannot distinguish two policies with click rates of 5 and 7 %.
const LEAST_MATCHES: f64 = 1_000.0;

/// A rate is told, and two policies are compared, only if at least this share of the trials can show what they are worth. The
/// others could turn the result only if they lost four times as much as these gain.
const LEAST_SUPPORT: f64 = 0.8;

/// The gain worth having, as a share of the rate without timing: the lift that `sendflowr lift` looks for.
const WORTH_HAVING: f64 = 0.1;

/// How much wider the intervals of so many comparisons are, if all of them are to hold at once in 95 of 100 cases (Bonferroni):
/// the ends of the normal distribution for 5 % divided by their number, over those for 5 %.
const WIDER_FOR: [f64; 5] = [1.0, 1.0, 1.144, 1.221, 1.274];

/// A rate or a difference of rates, and how much shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) estimate: Estimate,
    /// The number of trials of equal weight that it is based on.
    pub(crate) effective: f64,
    /// The share of the trials that can show it.
    pub(crate) support: f64,
}

impl Figure {
    /// Returns whether it holds for the people who were tested, and not only for some of them.
    pub(crate) fn is_known(&self) -> bool {
        self.effective > 0.0 && self.support >= LEAST_SUPPORT
    }
}

/// One policy's figures.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) policy: Policy,
    /// By window.
    pub(crate) rates: Vec<Figure>,
    /// The model minus this policy, by window.
    pub(crate) behind: Vec<Figure>,
    pub(crate) bits: Option<Estimate>,
    /// The rate in the first window, by size of history.
    pub(crate) by_size: Vec<Figure>,
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
    /// The model gains nothing worth having over one of them, or a simpler policy is better.
    DoNotBother { against: Policy, gain: Estimate },
    /// The data does not tell.
    NotEnoughData(Lack),
}

/// What is missing for a verdict.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lack {
    /// Too little was seen; `trials` is the number of windows tested.
    Seen { have: f64, need: f64, trials: f64 },
    /// In more of the windows than this share, no mail arrived near what the model or this policy chose.
    Support { of: Policy, share: f64 },
    /// The interval contains no gain, and a gain worth having as well.
    Certainty { against: Policy, gain: Estimate },
}

/// Returns the figures of every policy for which the log has the data.
pub(crate) fn rows(scores: &Scores, seed: u64) -> Vec<Row> {
    let people: Vec<&Tested> = scores.people.iter().collect();
    let by_size: Vec<Vec<&Tested>> = (0..SIZES.len())
        .map(|size| {
            people
                .iter()
                .copied()
                .filter(|person| person.size == size)
                .collect()
        })
        .collect();
    let windows = 0..scores.measure.windows().len();
    let row = |policy: Policy| Row {
        policy,
        rates: windows
            .clone()
            .map(|window| rate(&people, window, policy, seed))
            .collect(),
        behind: windows
            .clone()
            .map(|window| difference(&people, window, policy, seed))
            .collect(),
        bits: bits(&scores.people, policy, seed),
        by_size: by_size
            .iter()
            .map(|people| rate(people, 0, policy, seed))
            .collect(),
    };
    scores.known.iter().copied().map(row).collect()
}

/// Returns the share of the windows of these people that are among `trials`.
fn support(people: &[&Tested], window: usize, trials: f64) -> f64 {
    let all: f64 = people.iter().map(|person| person.trials[window]).sum();
    // Where nothing was tested, support is not what is missing.
    if all > 0.0 { trials / all } else { 1.0 }
}

fn rate(people: &[&Tested], window: usize, policy: Policy, seed: u64) -> Figure {
    let sum = |picked: &mut dyn Iterator<Item = usize>| {
        let mut sum = Ratio::default();
        picked.for_each(|person| sum.add(&people[person].rates[window][policy]));
        sum
    };
    let all = sum(&mut (0..people.len()));
    Figure {
        estimate: bootstrap(people.len(), seed, |picked| sum(picked).rate()),
        effective: all.effective(),
        support: support(people, window, all.trials),
    }
}

/// Returns by how much the model is ahead of a policy, where something is known of both.
fn difference(people: &[&Tested], window: usize, policy: Policy, seed: u64) -> Figure {
    let sums = |picked: &mut dyn Iterator<Item = usize>| {
        let mut sums = [Ratio::default(); 2];
        for person in picked {
            let pair = &people[person].pairs[window][policy];
            sums.iter_mut().zip(pair).for_each(|(sum, ratio)| sum.add(ratio));
        }
        sums
    };
    let [ours, theirs] = sums(&mut (0..people.len()));
    Figure {
        estimate: bootstrap(people.len(), seed, |picked| {
            let [ours, theirs] = sums(picked);
            ours.rate() - theirs.rate()
        }),
        effective: ours.effective().min(theirs.effective()),
        support: support(people, window, ours.trials),
    }
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
pub(crate) fn verdict(scores: &Scores, rows: &[Row]) -> Verdict {
    let need = match scores.measure {
        Measure::Acts => LEAST_WINDOWS,
        Measure::Mail => LEAST_MATCHES,
    };
    let trials = scores.people.iter().map(|person| person.trials[0]).sum();
    judge(need, trials, rows)
}

fn judge(need: f64, trials: f64, rows: &[Row]) -> Verdict {
    let is_compared = |row: &&Row| row.behind[0].is_known() && row.behind[0].effective >= need;
    let rivals = |is_timed: bool| {
        rows.iter()
            .filter(move |row| row.policy.is_timed() == is_timed && row.policy != Policy::Model)
    };
    // The policy that must be compared with: what is done without timing, or otherwise what is known best.
    let usual = rows.iter().find(|row| row.policy == Policy::UsualHour);
    let best_known = |a: &&Row, b: &&Row| {
        let [a, b] = [a, b].map(|row| (row.behind[0].support, row.behind[0].effective));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    };
    let basis = usual
        .or_else(|| rivals(false).max_by(best_known))
        .expect("`send now` and a random minute are always scored");
    let Figure {
        effective, support, ..
    } = basis.behind[0];
    if support < LEAST_SUPPORT {
        let (of, share) = (basis.policy, support);
        return Verdict::NotEnoughData(Lack::Support { of, share });
    }
    if effective < need {
        return Verdict::NotEnoughData(Lack::Seen {
            have: effective,
            need,
            trials,
        });
    }
    let gain = |row: &Row| row.behind[0].estimate;
    let smallest_gain = |a: &&Row, b: &&Row| gain(a).value.total_cmp(&gain(b).value);
    let timed: Vec<&Row> = rivals(true).filter(is_compared).collect();
    let strongest = timed.iter().copied().min_by(smallest_gain);
    if let Some(better) = strongest.filter(|row| highest(gain(row), timed.len()) < 0.0) {
        return Verdict::DoNotBother {
            against: better.policy,
            gain: gain(better),
        };
    }
    let untimed: Vec<&Row> = rivals(false).filter(is_compared).collect();
    // All of them must be beaten: nobody knows beforehand which one is the best.
    let unbeaten = untimed.iter().copied().filter(|row| gain(row).low <= 0.0);
    if let Some(unbeaten) = unbeaten.min_by(smallest_gain) {
        let (against, gain) = (unbeaten.policy, gain(unbeaten));
        let worth_having = WORTH_HAVING * unbeaten.rates[0].estimate.value;
        return if highest(gain, untimed.len()) < worth_having {
            Verdict::DoNotBother { against, gain }
        } else {
            Verdict::NotEnoughData(Lack::Certainty { against, gain })
        };
    }
    let hardest = untimed
        .into_iter()
        .min_by(smallest_gain)
        .expect("the policy that must be compared with is among them");
    Verdict::SwitchItOn {
        over: hardest.policy,
        gain: gain(hardest),
        simpler: strongest.filter(|row| gain(row).low <= 0.0).map(|row| row.policy),
    }
}

/// Returns the upper end of a gain's interval, where it was picked from so many.
fn highest(gain: Estimate, of: usize) -> f64 {
    gain.value + WIDER_FOR[of.min(WIDER_FOR.len() - 1)] * (gain.high - gain.value)
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
            Self::NotEnoughData(lack) => {
                let why = match lack {
                    Lack::Seen { have, need, trials } => {
                        format!(
                            "{have:.0} of at least {need:.0} {}",
                            seen(measure, *need, *trials)
                        )
                    }
                    Lack::Support { of, share } => format!(
                        "in only {:.0} % of the windows, of at least {:.0} %, did mail arrive near what `{}` and `{}` choose, so \
                         what other hours are worth is not known; mail at random minutes of the whole day shows it",
                        100.0 * share,
                        100.0 * LEAST_SUPPORT,
                        Policy::Model.name(),
                        of.name()
                    ),
                    Lack::Certainty { against, gain } => format!(
                        "{} against `{}`, which may be nothing and may be a gain of a tenth or more; more people or weeks narrow \
                         it",
                        points(gain),
                        against.name()
                    ),
                };
                format!("not enough data yet: {why}")
            }
        }
    }
}

/// Says what too little of was seen, and what would help.
fn seen(measure: Measure, need: f64, trials: f64) -> String {
    if measure == Measure::Acts {
        return "windows in which somebody acted".to_owned();
    }
    let share = need / (MATCHING_SHARE * trials.max(1.0));
    let help = if share < 1.0 {
        format!(
            "of {trials:.0} mails, {:.0} % at random minutes of the whole day would be enough",
            (100.0 * share).ceil()
        )
    } else {
        format!(
            "{:.0} mails at random minutes of the whole day would be enough",
            need / MATCHING_SHARE
        )
    };
    format!("effective mails at the times that the policies choose; {help}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(policy: Policy, rate: f64, behind: (f64, f64, f64), support: f64) -> Row {
        let figure = |(low, value, high)| Figure {
            estimate: Estimate { value, low, high },
            effective: 5_000.0,
            support,
        };
        Row {
            policy,
            rates: vec![figure((rate, rate, rate))],
            behind: vec![figure(behind)],
            bits: None,
            by_size: Vec::new(),
        }
    }

    /// Judges a gain over a random minute, which hits 10 %, and one over the best hour of clicks.
    fn judged(untimed: (f64, f64, f64), timed: (f64, f64, f64)) -> Verdict {
        let rows = [
            row(Policy::RandomMinute, 0.1, untimed, 1.0),
            row(Policy::ClickHour, 0.1, timed, 1.0),
            row(Policy::Bandit, 0.1, (0.01, 0.02, 0.03), 1.0),
            row(Policy::Model, 0.1, (0.0, 0.0, 0.0), 1.0),
        ];
        judge(LEAST_MATCHES, 12_000.0, &rows)
    }

    const AHEAD: (f64, f64, f64) = (0.01, 0.02, 0.03);

    #[test]
    fn an_interval_that_holds_nothing_and_a_gain_decides_nothing() {
        for (gain, is_known) in [
            ((-0.017, 0.018, 0.055), false),
            ((-0.012, -0.001, 0.011), false),
            ((-0.012, -0.002, 0.008), true),
            ((-0.030, -0.020, -0.010), true),
        ] {
            let verdict = judged(gain, AHEAD);
            let is_right = match verdict {
                Verdict::DoNotBother { .. } => is_known,
                Verdict::NotEnoughData(Lack::Certainty { .. }) => !is_known,
                _ => false,
            };
            assert!(is_right, "{gain:?}: {verdict:?}");
        }
    }

    #[test]
    fn a_rival_is_better_if_it_would_be_among_as_many() {
        // The end of the interval is below zero, but not that of one that was picked from two.
        assert!(matches!(
            judged(AHEAD, (-0.040, -0.020, -0.001)),
            Verdict::SwitchItOn {
                simpler: Some(Policy::ClickHour),
                ..
            }
        ));
        assert!(matches!(
            judged(AHEAD, (-0.040, -0.020, -0.005)),
            Verdict::DoNotBother {
                against: Policy::ClickHour,
                ..
            }
        ));
    }

    #[test]
    fn the_usual_hour_must_be_compared_with() {
        let rows = |support| {
            [
                row(Policy::RandomMinute, 0.1, AHEAD, 1.0),
                row(Policy::UsualHour, 0.1, AHEAD, support),
                row(Policy::Model, 0.1, (0.0, 0.0, 0.0), 1.0),
            ]
        };
        let verdict = judge(LEAST_MATCHES, 12_000.0, &rows(0.79));
        let share = 0.79;
        let of = Policy::UsualHour;
        assert_eq!(verdict, Verdict::NotEnoughData(Lack::Support { of, share }));
        assert!(
            verdict.sentence(Measure::Mail).contains("in only 79 %"),
            "{}",
            verdict.sentence(Measure::Mail)
        );
        let verdict = judge(LEAST_MATCHES, 12_000.0, &rows(0.8));
        assert!(matches!(verdict, Verdict::SwitchItOn { .. }), "{verdict:?}");
    }

    #[test]
    fn it_is_said_how_much_mail_at_random_minutes_is_enough() {
        assert!(
            seen(Measure::Mail, 1_000.0, 60_000.0)
                .ends_with("of 60000 mails, 20 % at random minutes of the whole day would be enough")
        );
        assert!(
            seen(Measure::Mail, 1_000.0, 900.0)
                .ends_with("; 12000 mails at random minutes of the whole day would be enough")
        );
    }
}
