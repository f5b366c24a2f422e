//! Which mail belongs to which decision, and whether it was answered.

use event::{Timestamp, grid::QUARTER_MS};
use store::events::{StoredTrial, Touch, TouchKind, TrialGroup};

use super::{EARLY_MS, LATE_MS, SPAN_MS};
use crate::mail::{assign, may_equal, under_another_campaign};

/// The outcome of a decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    pub(super) group: TrialGroup,
    /// The inverse of the propensity if the decision fell into the quarter hour of the model's choice, otherwise 0.
    pub(super) weight: f64,
    /// Whether the mail was answered; `None` if none arrived near the target.
    pub(super) answered: Option<bool>,
    /// Whether none did, but mail of another campaign.
    pub(super) is_under_another_campaign: bool,
}

/// Matches the decisions about one person with the mails that arrived near their targets and may be of their campaign,
/// and with the answers to them.
pub(super) fn join(mut trials: Vec<&StoredTrial>, mut touches: Vec<&Touch>) -> Vec<Outcome> {
    trials.sort_by(|a, b| key(a).cmp(&key(b)));
    touches.sort_by_key(|touch| touch.at);
    // A caller that asks again for the same mail gets the same minute: that is one decision, made at the last request.
    let mut decisions: Vec<&StoredTrial> = Vec::with_capacity(trials.len());
    for trial in trials {
        if decisions.last().is_some_and(|last| {
            (last.trial.target_at, &last.trial.campaign_id)
                == (trial.trial.target_at, &trial.trial.campaign_id)
        }) {
            decisions.pop();
        }
        decisions.push(trial);
    }
    let mails = assign(&decisions, &touches, is_near);
    let under_another = under_another_campaign(&decisions, &mails, &touches, is_near);
    // A caller that asks again before the target may get another minute, and then sends at that one. The first decision then
    // leads to no mail. That is not a lost mail but would look like one, mostly where minutes are random. A decision whose
    // mail arrived is compared in any case: what people answered has no influence on what is left out.
    let mut asked: Vec<(&Option<String>, Timestamp)> = decisions
        .iter()
        .map(|decision| (&decision.trial.campaign_id, decision.decided_at))
        .collect();
    asked.sort_unstable();
    let was_asked_again = |decision: &StoredTrial| {
        let campaign_id = &decision.trial.campaign_id;
        let later = asked.partition_point(|asked| *asked <= (campaign_id, decision.decided_at));
        asked.get(later).is_some_and(|(campaign, decided_at)| {
            *campaign == campaign_id && *decided_at < decision.trial.target_at
        })
    };
    let outcome =
        |((decision, mail), is_under_another_campaign): ((&&StoredTrial, Option<&Touch>), bool)| Outcome {
            group: decision.trial.group,
            weight: weight(decision),
            answered: mail.map(|mail| touches.iter().any(|touch| answers(touch, mail))),
            is_under_another_campaign,
        };
    decisions
        .iter()
        .zip(mails)
        .zip(under_another)
        .filter(|((decision, mail), _)| mail.is_some() || !was_asked_again(decision))
        .map(outcome)
        .collect()
}

fn key(trial: &StoredTrial) -> (Timestamp, &Option<String>, Timestamp) {
    (trial.trial.target_at, &trial.trial.campaign_id, trial.decided_at)
}

fn is_near(mail: &Touch, decision: &StoredTrial) -> bool {
    let target = decision.trial.target_at;
    let is_near = target.plus_millis(-EARLY_MS) <= mail.at && mail.at <= target.plus_millis(LATE_MS);
    is_near && decision.decided_at <= mail.at
}

fn answers(touch: &Touch, mail: &Touch) -> bool {
    let waited_ms = touch.at.millis_since(mail.at);
    touch.kind == TouchKind::Answered
        && (0..=SPAN_MS).contains(&waited_ms)
        && may_equal(touch.message_id.as_deref(), mail.message_id.as_deref())
}

fn weight(decision: &StoredTrial) -> f64 {
    let quarter = |at: Timestamp| at.as_millis().div_euclid(QUARTER_MS);
    let trial = &decision.trial;
    if quarter(trial.target_at) == quarter(trial.model_at) && trial.propensity > 0.0 {
        1.0 / trial.propensity
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
