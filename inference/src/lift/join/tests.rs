use event::{Hasher, UniversalId};
use store::events::Trial;

use super::*;

fn person() -> UniversalId {
    UniversalId::from_identifier(&Hasher::new().email_identifier("ann@example.com").unwrap())
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn decision(decided_at: &str, target_at: &str, campaign: Option<&str>) -> StoredTrial {
    StoredTrial {
        reference: format!("dec_{decided_at}"),
        universal_id: person(),
        decided_at: at(decided_at),
        trial: Trial {
            group: TrialGroup::Treated,
            target_at: at(target_at),
            model_at: at(target_at),
            propensity: 0.5,
            campaign_id: campaign.map(str::to_owned),
        },
    }
}

fn touch(kind: TouchKind, moment: &str, message: Option<&str>, campaign: Option<&str>) -> Touch {
    Touch {
        universal_id: person(),
        at: at(moment),
        kind,
        message_id: message.map(str::to_owned),
        campaign_id: campaign.map(str::to_owned),
        esp: "sendgrid".to_owned(),
        delivery_latency_ms: None,
    }
}

fn mail(moment: &str) -> Touch {
    touch(TouchKind::Delivered, moment, None, None)
}

fn click(moment: &str) -> Touch {
    touch(TouchKind::Answered, moment, None, None)
}

fn joined(decisions: &[StoredTrial], touches: &[Touch]) -> Vec<Option<bool>> {
    let outcomes = join(decisions.iter().collect(), touches.iter().collect());
    outcomes.iter().map(|outcome| outcome.answered).collect()
}

const DECIDED: &str = "2026-01-07T10:00:00Z";
const TARGET: &str = "2026-01-07T18:30:00Z";

#[test]
fn a_mail_near_the_target_belongs_to_the_decision() {
    let decisions = [decision(DECIDED, TARGET, None)];
    for (arrives, belongs) in [
        ("2026-01-07T18:14:59Z", false),
        ("2026-01-07T18:15:00Z", true),
        (TARGET, true),
        ("2026-01-07T19:30:00Z", true),
        ("2026-01-07T19:30:01Z", false),
    ] {
        let expected = belongs.then_some(false);
        assert_eq!(joined(&decisions, &[mail(arrives)]), [expected], "{arrives}");
    }
    let too_late = [decision("2026-01-07T18:31:00Z", TARGET, None)];
    assert_eq!(
        joined(&too_late, &[mail(TARGET)]),
        [None],
        "it was on its way already"
    );
}

#[test]
fn an_answer_counts_within_a_day_of_the_mail() {
    let decisions = [decision(DECIDED, TARGET, None)];
    for (clicked, counts) in [
        ("2026-01-07T18:29:00Z", false),
        ("2026-01-07T18:40:00Z", true),
        ("2026-01-08T18:29:59Z", true),
        ("2026-01-08T18:31:00Z", false),
    ] {
        assert_eq!(
            joined(&decisions, &[mail(TARGET), click(clicked)]),
            [Some(counts)],
            "{clicked}"
        );
    }
}

#[test]
fn an_answer_to_another_message_does_not_count() {
    let decisions = [decision(DECIDED, TARGET, None)];
    let ours = touch(TouchKind::Delivered, TARGET, Some("m-1"), None);
    let click_on = |message| touch(TouchKind::Answered, "2026-01-07T19:00:00Z", message, None);
    assert_eq!(
        joined(&decisions, &[ours.clone(), click_on(Some("m-2"))]),
        [Some(false)]
    );
    assert_eq!(
        joined(&decisions, &[ours.clone(), click_on(Some("m-1"))]),
        [Some(true)]
    );
    assert_eq!(joined(&decisions, &[ours, click_on(None)]), [Some(true)]);
}

#[test]
fn a_mail_of_another_campaign_is_not_the_decisions() {
    let decisions = [decision(DECIDED, TARGET, Some("spring"))];
    let of = |campaign| touch(TouchKind::Delivered, TARGET, None, campaign);
    assert_eq!(joined(&decisions, &[of(Some("summer"))]), [None]);
    assert_eq!(joined(&decisions, &[of(Some("spring"))]), [Some(false)]);
    assert_eq!(joined(&decisions, &[of(None)]), [Some(false)]);
}

#[test]
fn no_decision_loses_its_mail_to_one_without_a_campaign() {
    // Three decisions with the same minute, in every order of asking; one request did not name its campaign.
    let asked = [Some("c1"), None, Some("c3")];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let decisions: Vec<StoredTrial> = order
            .iter()
            .enumerate()
            .map(|(hour, which)| decision(&format!("2026-01-07T1{hour}:00:00Z"), TARGET, asked[*which]))
            .collect();
        for first in [Some("c1"), Some("c2"), None] {
            // The mails of the named campaigns, and one that may only belong to the unnamed decision.
            let names = match first {
                Some("c1") => [Some("c1"), Some("c2"), Some("c3")],
                Some(_) => [Some("c2"), Some("c3"), Some("c1")],
                None => [None, Some("c2"), Some("c3")],
            };
            let mails: Vec<Touch> = names
                .iter()
                .enumerate()
                .map(|(minute, name)| {
                    let moment = format!("2026-01-07T18:3{minute}:00Z");
                    touch(TouchKind::Delivered, &moment, None, *name)
                })
                .collect();
            assert_eq!(
                joined(&decisions, &mails),
                [Some(false); 3],
                "{order:?} {names:?}"
            );
        }
    }
}

#[test]
fn each_mail_counts_once_and_a_question_that_is_repeated_is_one_decision() {
    let again = [
        decision(DECIDED, TARGET, None),
        decision("2026-01-07T11:00:00Z", TARGET, None),
    ];
    assert_eq!(
        joined(&again, &[mail(TARGET), click("2026-01-07T19:00:00Z")]),
        [Some(true)]
    );
}

#[test]
fn who_asks_again_before_the_target_gets_one_mail() {
    let asked = |campaigns: [Option<&str>; 2], again: &str, target: &str| {
        [
            decision(DECIDED, TARGET, campaigns[0]),
            decision(again, target, campaigns[1]),
        ]
    };
    let again = asked([None; 2], "2026-01-07T11:00:00Z", "2026-01-07T18:45:00Z");
    assert_eq!(joined(&again, &[mail("2026-01-07T18:45:00Z")]), [Some(false)]);
    // Without any mail, one decision is left, whose mail did not arrive.
    assert_eq!(joined(&again, &[]), [None]);
    // Two mails count as two, and a mail that followed the first decision belongs to it.
    let both = [mail(TARGET), mail("2026-01-07T18:45:00Z")];
    assert_eq!(joined(&again, &both), [Some(false), Some(false)]);
    assert_eq!(
        joined(&again, &[mail("2026-01-07T18:20:00Z")]),
        [Some(false), None]
    );
    // A decision for another campaign is about another mail, and so is one that is asked for after the target.
    let other = asked(
        [Some("spring"), Some("summer")],
        "2026-01-07T11:00:00Z",
        "2026-01-07T21:00:00Z",
    );
    assert_eq!(
        joined(&other, &[mail("2026-01-07T21:00:00Z")]),
        [None, Some(false)]
    );
    let next = asked([None; 2], "2026-01-07T18:30:00Z", "2026-01-07T21:00:00Z");
    assert_eq!(
        joined(&next, &[mail("2026-01-07T21:00:00Z")]),
        [None, Some(false)]
    );
}

#[test]
fn only_the_models_quarter_hour_has_weight() {
    let mut control = decision(DECIDED, TARGET, None);
    control.trial.group = TrialGroup::Control;
    control.trial.model_at = at("2026-01-07T18:44:00Z");
    let weight = |trial: &StoredTrial| join(vec![trial], Vec::new())[0].weight;
    assert_eq!(weight(&control), 2.0);
    control.trial.model_at = at("2026-01-07T18:45:00Z");
    assert_eq!(weight(&control), 0.0);
}
