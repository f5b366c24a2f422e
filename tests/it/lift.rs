//! Decisions of the control group, from HTTP to `sendflowr lift`.

use std::time::SystemTime;

use event::{Event, EventType, Hasher, Timestamp, UniversalId};
use integration_tests::{System, eventually, run, told};
use serde_json::{Value, json};
use store::events::{Enrichment, Forecast, StoredEvent, StoredExplanation, Trial, TrialGroup};

#[tokio::test]
async fn decisions_of_both_groups_show_in_the_comparison() {
    let system = System::start("", &["postmark"]).await;
    for number in 0..60 {
        let question = json!({ "email": format!("person{number}@example.com") });
        let answer = system.ask("/timing/decide", &question).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // Explanations are stored after the answers have been sent.
    eventually("all decisions are counted", || async {
        system.look("/lift").await.body["pending"] == 60
    })
    .await;
    let by_http = system.look("/lift").await.body;
    assert_eq!(by_http["verdict"]["code"], "not_enough_data");

    let lift = |arguments: &[&str]| {
        let output = run(
            system.folder(),
            &[&["--data", "data", "lift"], arguments].concat(),
        );
        (output.status.success(), told(&output))
    };
    let (is_well, told) = lift(&["--format", "json"]);
    assert!(is_well, "{told}");
    let by_command: Value = serde_json::from_str(&told).expect("it is JSON");
    for key in ["pending", "treated", "control", "verdict"] {
        assert_eq!(by_command[key], by_http[key], "{key}");
    }
    let (is_well, told) = lift(&[]);
    assert!(
        is_well && told.contains("60 are too young") && told.contains("Not enough data yet"),
        "{told}"
    );
    let (is_well, told) = lift(&["--since", "tomorrow"]);
    assert!(
        !is_well && told.contains("'--since <TIME>': `tomorrow` is neither epoch seconds nor"),
        "{told}"
    );
    let (is_well, told) = lift(&["--since", "1"]);
    assert!(!is_well && told.contains("`--since` must be at most"), "{told}");
}

#[tokio::test]
async fn rates_are_told_as_rates_and_a_wrong_campaign_is_told() {
    let system = System::start("", &["postmark"]).await;
    let stores = system.stores().await;
    let decided_at = Timestamp::from(SystemTime::now()).plus_millis(-3 * 86_400_000);
    let target_at = decided_at.plus_millis(120_000);
    // Of five people in each group, four treated ones answer and two of the others. One more has mail of another campaign.
    let groups = [
        (TrialGroup::Treated, 5, 4),
        (TrialGroup::Control, 5, 2),
        (TrialGroup::Treated, 1, 0),
    ];
    let mut number = 0;
    for (group, people, answers) in groups {
        for place in 0..people {
            number += 1;
            let identifier = Hasher::new().email_identifier(&format!("person{number}@example.com"));
            let person = UniversalId::from_identifier(&identifier.expect("it is an address"));
            let explanation = StoredExplanation {
                reference: format!("dec_{number}"),
                universal_id: person.clone(),
                decided_at,
                body: "{}".to_owned(),
                trial: Some(Trial {
                    group,
                    target_at,
                    model_at: target_at,
                    propensity: 0.5,
                    campaign_id: Some("spring".to_owned()),
                }),
                forecast: Some(Forecast {
                    trigger_at: decided_at.plus_millis(60_000),
                    target_at,
                    esp: None,
                    mailbox_provider: None,
                    campaign_id: Some("spring".to_owned()),
                }),
            };
            stores
                .events
                .save_explanations(&[&explanation])
                .await
                .expect("it is stored");
            let event = |kind: EventType, at: Timestamp| StoredEvent {
                event: Event {
                    event_id: format!("{number} {kind:?}"),
                    esp: "postmark".to_owned(),
                    campaign_id: Some(if number == 11 { "77" } else { "spring" }.to_owned()),
                    ..Event::bare(kind, at, person.clone())
                },
                enrichment: Enrichment {
                    delivery_latency_ms: (kind == EventType::Delivered).then_some(60_000),
                    ..Enrichment::default()
                },
            };
            let mut events = vec![event(EventType::Delivered, target_at)];
            if place < answers {
                events.push(event(EventType::Clicked, target_at.plus_millis(60_000)));
            }
            stores.events.write(&events).await.expect("they are stored");
        }
    }
    drop(stores);
    let said = |command: &str| {
        let output = run(system.folder(), &["--data", "data", command]);
        let told = told(&output);
        assert!(output.status.success(), "{told}");
        told
    };
    let lift = said("lift");
    for line in [
        "difference               +40.00 points (",
        "relative lift            +100.00 % (",
        "rate everywhere (SNIPS)  60.00 % (",
        "rate everywhere (IPS)    120.00 % (",
    ] {
        assert!(lift.contains(line), "{line} is not in\n{lift}");
    }
    for told in [lift, said("latency")] {
        let about_campaigns = "Followed by mail of another campaign only: 1 decision. Give";
        assert!(
            told.contains(about_campaigns) && told.contains("docs/providers.md"),
            "{told}"
        );
    }
}
