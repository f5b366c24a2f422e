//! What timing brings: decisions of the model against decisions at random minutes, by what the people did.
//!
//! A decision counts when a mail reached the person near its target, and it succeeded when the person clicked, replied or
//! bought within a day of it. The groups were drawn by hash, so they differ in nothing but the minute; the first thing
//! checked is whether they still do after the mail went out.

mod join;
mod power;
mod statistics;
mod verdict;

use event::{Timestamp, grid::MINUTE_MS};
use serde::Serialize;
use store::{
    events::{Events, Sample, StoredTrial, TrialGroup},
    identity::Identities,
};
use utoipa::ToSchema;

use crate::mail::{self, MailError};
use join::Outcome;
pub use power::Power;
use statistics::{Tally, Weighted};
pub use verdict::Verdict;

/// Answers count up to a day after the mail: what the value of a minute looks ahead.
const SPAN_MS: i64 = 24 * 60 * MINUTE_MS;

/// A mail counts for a decision when it arrives up to a quarter of an hour before its target (callers trigger in ticks) and
/// up to an hour after it: by then mailboxes that put a first attempt off have taken the second, and the hour is still
/// nearly the one that was chosen.
const EARLY_MS: i64 = 15 * MINUTE_MS;
const LATE_MS: i64 = 60 * MINUTE_MS;

/// Decisions compared, about; where there are more, those of a share of the people. A lift of a tenth takes 430,000 at a rate of
/// 2 %, a middling one of newsletters; these take 120 MB.
const WANTED_TRIALS: usize = 500_000;

/// How far back is looked when nothing is asked for: whole weeks, so that each day of the week counts as often.
const DEFAULT_MS: i64 = 28 * 24 * 60 * MINUTE_MS;

/// From when on decisions are compared, up to `until`, when nothing else is asked for: four weeks.
pub fn since_by_default(until: Timestamp) -> Timestamp {
    until.plus_millis(-DEFAULT_MS)
}

/// A value with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// What became of the decisions of one group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Arm {
    /// Decisions whose day after the mail is over; of several for the same mail the last.
    pub decisions: usize,
    /// Those with a mail near their target: these are compared.
    pub mails: usize,
    /// The people they went to.
    pub people: usize,
    /// Mails that were answered: a click, reply or conversion of the person within the span.
    pub answered: usize,
    /// Share of the mails that were answered; Wilson's interval for as many independent mails as tell as much.
    pub rate: Option<Estimate>,
    /// How much less the mails tell than as many to different people: at least 1.
    pub design_effect: f64,
}

/// The response that the model's choices would have everywhere, from all groups, each decision weighed by how rarely its
/// quarter hour is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ModelEstimate {
    /// Inverse propensity score: the weighed answers over all mails.
    pub ips: Estimate,
    /// Self-normalized: the weighed answers over the weights. Steadier.
    pub snips: Estimate,
    /// Kish's effective sample size: as many mails of equal weight would tell as much.
    pub effective_sample_size: f64,
    /// Mails that arrived in the quarter hour of the model's choice, whatever the group.
    pub mails: usize,
}

/// Chosen times against random ones.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Lift {
    /// Decisions from this moment on …
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// … up to this one, at which the comparison is made.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Seconds after a mail in which an answer counts.
    pub span_seconds: i64,
    /// A mail counts for a decision from so many seconds before its target …
    pub early_seconds: i64,
    /// … to so many after it.
    pub late_seconds: i64,
    /// The model's choices.
    pub treated: Arm,
    /// Random minutes of those allowed.
    pub control: Arm,
    /// Random quarter hours of those nearly as good.
    pub exploration: Arm,
    /// Decisions whose day after the mail is not over yet.
    pub pending: usize,
    /// The share of the people whose decisions are compared, counts included: less than 1 where there are more decisions than
    /// 500,000.
    #[schema(example = 1.0)]
    pub people_share: f64,
    /// Rate of `treated` minus rate of `control` (Newcombe's interval); `null` when one has no mails.
    pub difference: Option<Estimate>,
    /// Rate of `treated` over rate of `control`, minus 1; `null` when one has no answers.
    pub relative_lift: Option<Estimate>,
    /// What the model's choices would bring everywhere; `null` when no mail arrived at one.
    pub model: Option<ModelEstimate>,
    /// How many mails a lift of a tenth needs.
    pub power: Power,
    /// What it comes to.
    pub verdict: Verdict,
}

/// Compares the groups by the decisions of `[since, until)`, as things stood at `until`, which is not in the future.
///
/// # Errors
/// [`MailError`] when a store cannot be read.
pub async fn lift(
    events: &dyn Events,
    identities: &dyn Identities,
    since: Timestamp,
    until: Timestamp,
) -> Result<Lift, MailError> {
    lift_of(WANTED_TRIALS, events, identities, since, until).await
}

/// The same, of about so many decisions.
async fn lift_of(
    wanted: usize,
    events: &dyn Events,
    identities: &dyn Identities,
    since: Timestamp,
    until: Timestamp,
) -> Result<Lift, MailError> {
    let Sample {
        rows: mut trials,
        share,
    } = events
        .trials(since, until, wanted)
        .await
        .map_err(MailError::Events)?;
    let all = trials.len();
    trials.retain(|trial| trial.trial.target_at.plus_millis(LATE_MS + SPAN_MS) <= until);
    let pending = all - trials.len();
    let outcomes = outcomes(events, identities, trials).await?;
    Ok(Lift {
        pending,
        ..compare(&outcomes, share, since, until)
    })
}

/// What became of each decision, by person.
async fn outcomes(
    events: &dyn Events,
    identities: &dyn Identities,
    trials: Vec<StoredTrial>,
) -> Result<Vec<Vec<Outcome>>, MailError> {
    let mut outcomes = Vec::new();
    let span = |trial: &StoredTrial| {
        let target_at = trial.trial.target_at;
        target_at.plus_millis(-EARLY_MS)..target_at.plus_millis(LATE_MS + SPAN_MS + 1)
    };
    mail::with_touches(events, identities, trials, span, |trials, touches| {
        outcomes.push(join::join(trials.iter().collect(), touches));
    })
    .await?;
    Ok(outcomes)
}

/// The comparison of what became of the decisions of a share of the people.
fn compare(people: &[Vec<Outcome>], people_share: f64, since: Timestamp, until: Timestamp) -> Lift {
    let arm = |group| {
        let of_group = people
            .iter()
            .map(|outcomes| outcomes.iter().filter(move |outcome| outcome.group == group));
        let (mut decisions, mut arrivals, mut answers) = (0, Tally::default(), Tally::default());
        for outcomes in of_group {
            let (mut decided, mut arrived, mut answered) = (0, 0, 0);
            for outcome in outcomes {
                decided += 1;
                arrived += usize::from(outcome.answered.is_some());
                answered += usize::from(outcome.answered == Some(true));
            }
            decisions += decided;
            arrivals.person(decided, arrived);
            answers.person(arrived, answered);
        }
        let arm = Arm {
            decisions,
            mails: answers.trials(),
            people: answers.people(),
            answered: answers.hits(),
            rate: (answers.trials() > 0).then(|| answers.wilson(statistics::Z_95)),
            design_effect: answers.design_effect(),
        };
        (arm, arrivals, answers)
    };
    let (treated, treated_arrivals, treated_answers) = arm(TrialGroup::Treated);
    let (control, control_arrivals, control_answers) = arm(TrialGroup::Control);
    let (exploration, ..) = arm(TrialGroup::Exploration);
    let difference = statistics::difference(&treated_answers, &control_answers, statistics::Z_95);
    let power = Power::of(&treated, &control);
    let verdict = Verdict::of(
        &verdict::Findings {
            arrivals: statistics::difference(&treated_arrivals, &control_arrivals, statistics::Z_999),
            difference,
            early: statistics::difference(&treated_answers, &control_answers, statistics::Z_999),
        },
        &treated,
        &control,
        &power,
        people_share,
    );
    Lift {
        since,
        until,
        span_seconds: SPAN_MS / 1_000,
        early_seconds: EARLY_MS / 1_000,
        late_seconds: LATE_MS / 1_000,
        treated,
        control,
        exploration,
        pending: 0,
        people_share,
        difference,
        relative_lift: statistics::relative(&treated_answers, &control_answers),
        model: model_estimate(people),
        power,
        verdict,
    }
}

/// What the model's choices would bring everywhere.
fn model_estimate(people: &[Vec<Outcome>]) -> Option<ModelEstimate> {
    let mut weighted = Weighted::default();
    for outcomes in people {
        let of_person = outcomes
            .iter()
            .filter_map(|outcome| Some((outcome.weight, outcome.answered?)));
        weighted.person(of_person);
    }
    weighted.estimate()
}

#[cfg(test)]
mod tests;
