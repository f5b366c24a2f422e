//! How many mails a comparison needs before it can be expected to detect a lift.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Arm, statistics::Z_999};

/// The lift worth detecting: a tenth of the rate at random minutes. A smaller one would take most senders longer than a year.
const WORTH_FINDING: f64 = 0.1;

/// Two chances in ten to miss it: the customary 80 % power.
const Z_POWER: f64 = 0.841_6;

/// With fewer answers in the control group its rate is too uncertain to plan with, and that of all mails is used.
const LEAST_ANSWERS: usize = 20;

/// The rate to plan with as long as nothing was answered: one mail in fifty, a typical click rate of newsletters.
const UNKNOWN_RATE: f64 = 0.02;

/// Mails at the model's choice per mail at random, while either has none: what the shares of 10 % and 2 % result in.
const UNKNOWN_RATIO: f64 = 8.8;

/// How many mails the comparison needs, and what that rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Power {
    /// Number of `treated` and `control` mails together with which a lift of `relative_lift` is detected four times in five.
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub mails_needed: u64,
    /// Number of those still missing.
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub mails_missing: u64,
    /// The lift to detect, as a share of the control group's rate.
    #[schema(example = 0.1)]
    pub relative_lift: f64,
    /// The rate assumed at random minutes.
    pub control_rate: f64,
    /// Mails at the model's choice per mail at random.
    pub treated_per_control: f64,
    /// How much less information a person's second mail carries, as in `design_effect`: the larger of the two groups' values.
    pub design_effect: f64,
}

impl Power {
    /// Computes the power for groups that continue as they are.
    pub(super) fn of(treated: &Arm, control: &Arm) -> Self {
        let (mails, answered) = (treated.mails + control.mails, treated.answered + control.answered);
        let control_rate = if control.answered >= LEAST_ANSWERS {
            control.answered as f64 / control.mails as f64
        } else if answered > 0 {
            answered as f64 / mails as f64
        } else {
            UNKNOWN_RATE
        };
        let treated_per_control = if treated.mails > 0 && control.mails > 0 {
            treated.mails as f64 / control.mails as f64
        } else {
            UNKNOWN_RATIO
        };
        let design_effect = treated.design_effect.max(control.design_effect);
        let lifted = (control_rate * (1.0 + WORTH_FINDING)).min(1.0);
        let variance = |rate: f64| rate * (1.0 - rate);
        let of_control = design_effect
            * (Z_999 + Z_POWER).powi(2)
            * (variance(control_rate) + variance(lifted) / treated_per_control)
            / (WORTH_FINDING * control_rate).powi(2);
        let mails_needed = (of_control * (1.0 + treated_per_control)).ceil() as u64;
        Self {
            mails_needed,
            mails_missing: mails_needed.saturating_sub(mails as u64),
            relative_lift: WORTH_FINDING,
            control_rate,
            treated_per_control,
            design_effect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(mails: usize, answered: usize) -> Arm {
        Arm {
            decisions: mails,
            mails,
            people: mails,
            answered,
            rate: None,
            design_effect: 1.0,
        }
    }

    #[test]
    fn agrees_with_the_textbook() {
        // 20 % against 22 % with equal groups: 6,507 each by the usual table (two-sided 5 %, power 80 %), whose normal ends add up
        // to 2.80; those of 99.9 % add up to 4.13.
        let power = Power::of(&arm(100, 20), &arm(100, 20));
        assert!((28_050..28_500).contains(&power.mails_needed), "{power:?}");
        assert_eq!(power.mails_missing, power.mails_needed - 200);
        assert_eq!(
            Power::of(&arm(20_000, 4_000), &arm(20_000, 4_000)).mails_missing,
            0
        );
    }

    #[test]
    fn plans_with_what_is_known() {
        let nothing = Power::of(&arm(0, 0), &arm(0, 0));
        assert_eq!((nothing.control_rate, nothing.treated_per_control), (0.02, 8.8));
        let little = Power::of(&arm(900, 90), &arm(100, 1));
        assert_eq!(little.control_rate, 0.091);
        let clustered = Arm {
            design_effect: 2.0,
            ..arm(900, 90)
        };
        let doubled = Power::of(&clustered, &arm(100, 1)).mails_needed;
        assert!(doubled.abs_diff(2 * little.mails_needed) <= 1);
    }
}
