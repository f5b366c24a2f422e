//! Describes a decision in a few sentences.

use store::events::TrialGroup;

use crate::{
    decision::{Choice, NEARLY_EQUAL},
    explanation::Explanation,
    inquiry::Inquiry,
    latency::{LatencySource, part_in_words},
    person::{IdentitySource, ProfileSource},
};

pub(super) fn sentences(inquiry: &Inquiry, choice: &Choice, explanation: &Explanation) -> Vec<String> {
    let mut why: Vec<String> = experiment(explanation).into_iter().collect();
    why.push(evidence(explanation));
    if explanation.evidence.identity_source == IdentitySource::RequestGraphUnreachable {
        why.push(
            "The identity graph did not answer: other ids of this person may exist and were not looked at."
                .to_owned(),
        );
    }
    if explanation.evidence.identity_source == IdentitySource::RememberedGraphUnreachable {
        why.push(
            "The identity graph did not answer: the person's ids are as they were remembered, and ids that were linked since \
             were not looked at."
                .to_owned(),
        );
    }
    let not_stored = match explanation.evidence.profile_source {
        ProfileSource::Stored | ProfileSource::History => None,
        ProfileSource::HistoryProfilesUnreachable => Some("The profile store did not answer"),
        ProfileSource::HistoryProfilesDoubted => Some("Stored profiles lack events that came in lately"),
    };
    if let Some(cause) = not_stored {
        why.push(format!(
            "{cause}: the profile was rebuilt from the person's events."
        ));
    }
    let is_models = choice
        .experiment
        .is_none_or(|drawn| drawn.group == TrialGroup::Treated);
    why.extend(guards(choice, explanation.evidence.n, is_models));
    for path in &choice.hot_paths {
        let minutes = inquiry.question.now.millis_since(path.at) / 60_000;
        why.push(format!(
            "A {} {} ago raises the minutes that follow.",
            path.signal.replace('_', " "),
            counted(minutes, "minute")
        ));
    }
    if choice.factor > 1.0 {
        why.push(format!(
            "At the chosen minute hot paths multiply the value by {:.2}.",
            choice.factor
        ));
    }
    if let Some(moved) = &explanation.moved {
        why.push(format!(
            "The provider takes {} a minute and {} is full: {} was taken, which {}.",
            counted(moved.capacity_per_minute.into(), "mail"),
            moved.from,
            if is_models {
                "the best free minute"
            } else {
                "another free minute"
            },
            loss(moved.value_lost)
        ));
    }
    why.push(format!(
        "Arriving then is worth {:.2} times a random minute of the week.",
        choice.value
    ));
    why.push(latency(inquiry, explanation));
    why
}

/// Says what the guards took and how the minute was chosen from what they left; `events` is how many of the person's are known.
fn guards(choice: &Choice, events: usize, is_models: bool) -> Option<String> {
    if choice.guards.is_empty() {
        return None;
    }
    let taken: Vec<String> = choice
        .guards
        .iter()
        .map(|effect| {
            format!(
                "{} took {}",
                effect.guard.replace('_', " "),
                effect.minutes_removed
            )
        })
        .collect();
    let left = choice.minutes_left;
    let explores = choice
        .experiment
        .is_some_and(|drawn| drawn.group == TrialGroup::Exploration);
    let of_left = if choice.moved.is_some() || explores {
        // Which of them was free is described below, and what exploration drew from above.
        format!("{left} {} left", if left == 1 { "was" } else { "were" })
    } else if !is_models {
        format!("one of the {left} left was drawn")
    } else if events == 0 {
        format!(
            "of the {left} left one worth at least {} % of the best was taken, by a hash of the person's id, so that \
             strangers do not share a minute",
            percent(NEARLY_EQUAL)
        )
    } else {
        format!("the best of the {left} left was chosen")
    };
    Some(format!(
        "Of {} asked for, {}; {of_left}.",
        counted(choice.minutes_asked, "minute"),
        taken.join(", "),
    ))
}

/// Says that the minute is not the model's choice, and how it was chosen.
fn experiment(explanation: &Explanation) -> Option<String> {
    let experiment = explanation.experiment.as_ref()?;
    let rule = match experiment.group {
        TrialGroup::Treated => return None,
        TrialGroup::Control => format!(
            "This person is one of the {} % in the control group: the minute was drawn at random from those allowed, so that \
             chosen times can be compared with it (`GET /lift`).",
            percent(experiment.control_share)
        ),
        TrialGroup::Exploration => format!(
            "This is one of the {} % of decisions that explore: the quarter hour was drawn at random from the {} that are \
             nearly as good as the best.",
            percent(experiment.exploration_share),
            experiment.quarters_near_best
        ),
    };
    Some(format!(
        "{rule} The model would have chosen {}, worth {:.2} times a random minute of the week; ask with `\"experiment\": false` \
         to get its choice.",
        experiment.model_choice.at, experiment.model_value
    ))
}

/// Says what a move costs. A minute that was drawn at random may be worth more than the one that it would have been.
fn loss(lost: f64) -> String {
    match (lost * 100.0).round() / 100.0 {
        0.0 => "costs nothing".to_owned(),
        lost if lost < 0.0 => format!("is worth {:.2} of a random minute more", -lost),
        lost => format!("costs {lost:.2} of a random minute's worth"),
    }
}

/// Returns a number with what is counted.
fn counted(count: i64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// Returns a share in per cent, without superfluous digits.
fn percent(share: f64) -> f64 {
    (1_000.0 * share).round() / 10.0
}

fn evidence(explanation: &Explanation) -> String {
    let evidence = &explanation.evidence;
    if evidence.n == 0 && evidence.mails == 0 {
        return format!(
            "Nothing is known of when this person acts: the population's curve (tables `{}`) decides.",
            evidence.population_version
        );
    }
    if evidence.n == 0 {
        return format!(
            "No act of this person is known, only {} without an answer: the population's curve (tables `{}`) decides, lower \
             where that lay.",
            counted(evidence.mails as i64, "mail"),
            evidence.population_version
        );
    }
    let mut text = format!(
        "The curve rests on {} of this person (worth {:.1} after their age); averaged over all hours of the week, busy or not, \
         {:.0} % of the evidence comes from other people.",
        counted(evidence.n as i64, "human event"),
        evidence.effective_n,
        100.0 * evidence.prior_weight
    );
    if evidence.recent_weight >= 0.005 {
        text += &format!(
            " {:.0} % of the curve is from a memory that two weeks halve, the rest from one that 150 days halve.",
            100.0 * evidence.recent_weight
        );
    }
    text
}

fn latency(inquiry: &Inquiry, explanation: &Explanation) -> String {
    let expected = &explanation.latency;
    let whose = inquiry
        .esp
        .as_deref()
        .map_or("The provider".to_owned(), |esp| format!("`{esp}`"));
    let source = match expected.source {
        LatencySource::Learned => format!(
            "learned from {} deliveries, {} of them{} handed over {}",
            expected.samples,
            expected.part_samples.unwrap_or_default(),
            explanation
                .mailbox_provider
                .map_or(String::new(), |class| format!(" to {}", class.as_str())),
            part_in_words(explanation.trigger_at)
        ),
        LatencySource::LearnedAcrossProviders => {
            format!("learned from {} deliveries of all providers", expected.samples)
        }
        LatencySource::Caller => "the caller's estimate".to_owned(),
        LatencySource::Default => "the default, nothing being known".to_owned(),
    };
    format!(
        "{whose} is expected to take {:.1} s ({source}): the trigger comes that much earlier.",
        expected.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_said() {
        assert_eq!(counted(1, "mail"), "1 mail");
        assert_eq!(counted(0, "mail"), "0 mails");
        for lost in [0.004, -0.004, -0.0] {
            assert_eq!(loss(lost), "costs nothing", "{lost}");
        }
        assert_eq!(loss(0.126), "costs 0.13 of a random minute's worth");
        assert_eq!(loss(-0.126), "is worth 0.13 of a random minute more");
    }
}
