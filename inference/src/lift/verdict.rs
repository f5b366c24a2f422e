//! The conclusion of a comparison, as a code and as a sentence.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Arm, Estimate, Power};

/// Groups whose arrival rates differ by no more than this are treated as alike, however certain the difference is: two
/// mails in a hundred that are missing on one side cannot account for much of a lift.
const ARRIVALS_ALIKE: f64 = 0.02;

/// Number of answers that each group must have before a difference is reported: with fewer, an interval rests on a
/// handful of people.
const LEAST_ANSWERS: usize = 10;

/// Number of mails that the smaller group must be expected to have of each outcome, arrived and missing, before the groups are
/// said to differ. With ten, groups that do not differ are said to with a probability of at most 0.0012, computed over all
/// rates for 10 to 100 decisions in the smaller group and 1 to 9 times as many in the other; with fewer, up to 0.004.
const LEAST_EXPECTED: f64 = 10.0;

/// Number of people that each group must have before anything is concluded: the variance between people is taken as known,
/// which thirty are commonly held to suffice for.
const LEAST_PEOPLE: usize = 30;

/// The conclusion of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Verdict {
    /// `better`, `worse`, `no_difference_found`, `not_enough_data` or `groups_differ`.
    #[schema(example = "not_enough_data")]
    pub code: &'static str,
    /// The same as a sentence for people.
    pub text: String,
}

/// What the verdict rests on.
pub(super) struct Findings {
    /// Share of the decisions with a mail near their target, `treated` minus `control`, with a 99.9 % interval.
    pub(super) arrivals: Option<Estimate>,
    /// Rate of answers, `treated` minus `control`, with a 95 % interval.
    pub(super) difference: Option<Estimate>,
    /// The same with a 99.9 % interval, which decides.
    pub(super) decisive: Option<Estimate>,
    /// Number of people with decisions in the group that has fewer.
    pub(super) fewest_people: usize,
}

impl Verdict {
    pub(super) fn of(
        findings: &Findings,
        treated: &Arm,
        control: &Arm,
        power: &Power,
        people_share: f64,
    ) -> Self {
        if let Some(arrivals) = findings.arrivals
            && excludes_zero(arrivals)
            && arrivals.value.abs() > ARRIVALS_ALIKE
            && findings.fewest_people >= LEAST_PEOPLE
            && expected_of_rarer(treated, control) >= LEAST_EXPECTED
        {
            return Self::groups_differ(treated, control);
        }
        let (Some(difference), Some(decisive)) = (findings.difference, findings.decisive) else {
            return Self::not_enough(treated, control, power, people_share);
        };
        let enough_data = treated.answered.min(control.answered) >= LEAST_ANSWERS
            && treated.people.min(control.people) >= LEAST_PEOPLE;
        if enough_data && excludes_zero(decisive) {
            Self::decided(difference)
        } else if enough_data && power.mails_missing == 0 {
            Self::undecided(difference)
        } else {
            Self::not_enough(treated, control, power, people_share)
        }
    }

    fn decided(difference: Estimate) -> Self {
        let is_better = difference.value > 0.0;
        Self {
            code: if is_better { "better" } else { "worse" },
            text: format!(
                "Mails at chosen times were answered {} often than those at random times: {}. That is certain to 99.9 %, as is \
                 required because you may look every day.",
                if is_better { "more" } else { "less" },
                points(difference)
            ),
        }
    }

    fn undecided(difference: Estimate) -> Self {
        Self {
            code: "no_difference_found",
            text: format!(
                "No difference was found, and one of a tenth would probably have been detected: {}.",
                points(difference)
            ),
        }
    }

    fn not_enough(treated: &Arm, control: &Arm, power: &Power, people_share: f64) -> Self {
        let mails = treated.mails + control.mails;
        // With too few answers the number of mails may be reached all the same.
        let missing = power.mails_missing.max(1);
        let outlook = if people_share < 1.0 && mails > 0 {
            // The number of mails needed is inversely proportional to the square of the lift.
            let shown = power.relative_lift * (1.0 + missing as f64 / mails as f64).sqrt();
            format!(
                "No more mails than these, of {:.1} % of the people, are compared; they can show a lift of {:.0} %: a larger \
                 `control_share` shows more.",
                100.0 * people_share,
                100.0 * shown
            )
        } else {
            format!("That is {missing} more.")
        };
        let text = format!(
            "Not enough data yet: {} mails at chosen and {} at random times so far. To detect a lift of {:.0} % four times in \
             five takes about {} mails in all, if {:.1} % of those at random times are answered. {outlook}",
            treated.mails,
            control.mails,
            100.0 * power.relative_lift,
            power.mails_needed,
            100.0 * power.control_rate
        );
        Self {
            code: "not_enough_data",
            text,
        }
    }

    fn groups_differ(treated: &Arm, control: &Arm) -> Self {
        let share = |arm: &Arm| 100.0 * arm.mails as f64 / arm.decisions as f64;
        Self {
            code: "groups_differ",
            text: format!(
                "The groups cannot be compared: a mail arrived near its target for {:.0} % of the decisions at chosen and \
                 {:.0} % of those at random times. Look for what sends them differently, such as quiet hours that the requests \
                 do not state.",
                share(treated),
                share(control)
            ),
        }
    }
}

/// Returns how often the rarer outcome, a mail that arrived or one that is missing, is expected in the smaller group if both
/// groups are alike.
fn expected_of_rarer(treated: &Arm, control: &Arm) -> f64 {
    let decisions = (treated.decisions + control.decisions) as f64;
    let arrived = (treated.mails + control.mails) as f64 / decisions;
    treated.decisions.min(control.decisions) as f64 * arrived.min(1.0 - arrived)
}

fn excludes_zero(estimate: Estimate) -> bool {
    estimate.low > 0.0 || estimate.high < 0.0
}

fn points(difference: Estimate) -> String {
    format!(
        "{:+.2} percentage points, 95 % interval {:+.2} to {:+.2}",
        100.0 * difference.value,
        100.0 * difference.low,
        100.0 * difference.high
    )
}
