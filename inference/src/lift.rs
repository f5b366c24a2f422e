//! What timing gains: the model's decisions against decisions at random minutes, compared by what people did.
//!
//! A decision counts if a mail reached the person near its target; it succeeded if the person clicked, replied or
//! bought within a day of that mail. The groups are drawn by hash, so they differ only in the minute; the first check
//! is whether that still holds after the mail went out.

mod join;
mod power;
mod statistics;
mod verdict;

use event::{
    Timestamp,
    grid::{DAY_MS, MINUTE_MS},
};
use serde::Serialize;
use store::{
    events::{EXPLANATION_DAYS, Events, Sample, StoredTrial, Touch, TrialGroup},
    identity::Identities,
};
use utoipa::ToSchema;

use crate::mail::{self, MailError};
use join::Outcome;
pub use power::Power;
use statistics::{Tally, Weighted};
pub use verdict::Verdict;

/// Answers count up to a day after the mail: as far as the value of a minute looks ahead.
const SPAN_MS: i64 = 24 * 60 * MINUTE_MS;

/// A mail counts for a decision if it arrives up to a quarter of an hour before its target (callers trigger in ticks)
/// or up to an hour after it: by then, mailboxes that defer a first attempt have accepted the second, and the hour is
/// still nearly the one that was chosen.
const EARLY_MS: i64 = 15 * MINUTE_MS;
const LATE_MS: i64 = 60 * MINUTE_MS;

/// The approximate number of decisions that are compared; if there are more, those of a share of the people are.
/// Detecting a lift of a tenth takes 169,000 at a rate of 10 %, and one of 14 % this many at 2 %, a typical one for newsletters. They
/// take 120 MB.
const WANTED_TRIALS: usize = 500_000;

/// How far back decisions are compared by default: whole weeks, so that each day of the week counts equally often.
const DEFAULT_MS: i64 = 28 * 24 * 60 * MINUTE_MS;

/// How long decisions can be compared: they are not kept longer.
const KEPT_MS: i64 = EXPLANATION_DAYS as i64 * DAY_MS;

/// Returns the moment from which decisions are compared by default at `now`: four weeks before `until`, if they are kept as long.
pub fn since_by_default(until: Timestamp, now: Timestamp) -> Timestamp {
    until.plus_millis(-DEFAULT_MS).max(now.plus_millis(-KEPT_MS))
}

/// Returns whether the decisions of a moment are kept at `now`. A minute later they still count as kept: a caller who asks for all
/// of them has computed the moment by then.
pub fn is_kept(moment: Timestamp, now: Timestamp) -> bool {
    now.millis_since(moment) <= KEPT_MS + MINUTE_MS
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

/// The outcomes of the decisions of one group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Arm {
    /// Decisions whose day after the mail is over; of several decisions for the same mail only the last counts.
    pub decisions: usize,
    /// Those with a mail near their target; these mails are compared.
    pub mails: usize,
    /// Number of people whom the mails went to.
    pub people: usize,
    /// Mails that were answered: a click, reply or conversion of the person within the span.
    pub answered: usize,
    /// Share of the mails that were answered, with Wilson's interval for the effective number of independent mails.
    pub rate: Option<Estimate>,
    /// The factor by which the mails carry less information than as many mails to different people: at least 1.
    pub design_effect: f64,
}

/// The rate of answers if the model's choices were used everywhere, estimated from all groups, each decision weighted by how
/// rarely its quarter hour is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ModelEstimate {
    /// Inverse propensity score: the weighted answers divided by the number of all mails.
    pub ips: Estimate,
    /// Self-normalized: the weighted answers divided by the sum of the weights. More stable.
    pub snips: Estimate,
    /// Kish's effective sample size: the number of mails of equal weight that would carry as much information.
    pub effective_sample_size: f64,
    /// Mails that arrived for decisions in the quarter hour of the model's choice, in any group.
    pub mails: usize,
}

/// The comparison of chosen times with random ones.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Lift {
    /// Decisions from this moment on …
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// … up to this one, the time of the comparison.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Number of seconds after a mail in which an answer counts.
    pub span_seconds: i64,
    /// A mail counts for a decision from this many seconds before its target …
    pub early_seconds: i64,
    /// … to this many after it.
    pub late_seconds: i64,
    /// Decisions at the model's choices.
    pub treated: Arm,
    /// Decisions at random allowed minutes.
    pub control: Arm,
    /// Decisions at random quarter hours among those nearly as good as the best.
    pub exploration: Arm,
    /// Decisions whose day after the mail is not over yet.
    pub pending: usize,
    /// Decisions without a mail, near whose targets only mail of other campaigns arrived. If these are many, `campaign_id` is not
    /// the provider's own id.
    pub under_another_campaign: usize,
    /// The share of the people whose decisions are compared, which the counts cover: less than 1 if there are more than
    /// 500,000 decisions.
    #[schema(example = 1.0)]
    pub people_share: f64,
    /// Rate of `treated` minus rate of `control` (Newcombe's interval); `null` if one of them has no mails.
    pub difference: Option<Estimate>,
    /// Rate of `treated` divided by rate of `control`, minus 1; `null` if one of them has no answers.
    pub relative_lift: Option<Estimate>,
    /// The rate if the model's choices were used everywhere; `null` if no mail arrived at one.
    pub model: Option<ModelEstimate>,
    /// How many mails are needed to detect a lift of a tenth.
    pub power: Power,
    /// The conclusion.
    pub verdict: Verdict,
}

/// Compares the groups by the decisions of `[since, until)`, as known at `until`, which must not be in the future.
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

/// Like [`lift`], for about `wanted` decisions.
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

/// Returns the outcome of each decision, by person.
async fn outcomes(
    events: &dyn Events,
    identities: &dyn Identities,
    trials: Vec<StoredTrial>,
) -> Result<Vec<Vec<Outcome>>, MailError> {
    let span = |trial: &StoredTrial| {
        let target_at = trial.trial.target_at;
        target_at.plus_millis(-EARLY_MS)..target_at.plus_millis(LATE_MS + SPAN_MS + 1)
    };
    let take = |outcomes: &mut Vec<Vec<Outcome>>, trials: &[StoredTrial], touches: Vec<&Touch>| {
        outcomes.push(join::join(trials.iter().collect(), touches));
    };
    mail::with_touches(events, identities, trials, span, take).await
}

/// Compares the outcomes of the decisions of a share of the people.
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
    let under_another_campaign = people
        .iter()
        .flatten()
        .filter(|outcome| outcome.is_under_another_campaign)
        .count();
    let power = Power::of(&treated, &control);
    let verdict = Verdict::of(
        &verdict::Findings {
            arrivals: statistics::difference(&treated_arrivals, &control_arrivals, statistics::Z_999),
            difference,
            decisive: statistics::difference(&treated_answers, &control_answers, statistics::Z_999),
            fewest_people: treated_arrivals.people().min(control_arrivals.people()),
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
        under_another_campaign,
        people_share,
        difference,
        relative_lift: statistics::relative(&treated_answers, &control_answers),
        model: model_estimate(people),
        power,
        verdict,
    }
}

/// Estimates the rate of answers if the model's choices were used everywhere.
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
