use sendflowr_plugin_sdk::{BounceType, EventType, Outcome, Plugin, Rejection};
use sendflowr_plugin_testing::{normalize, post};

use crate::Braze;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Braze>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Braze>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn event(name: &str, properties: &str) -> String {
    format!(
        r#"{{"event_type":"users.{name}","id":"e","time":1477502783,"user":{{"user_id":"u","external_user_id":null}},
            "properties":{{{properties}}}}}"#
    )
}

fn kinds(events: &[String]) -> Vec<(EventType, Option<BounceType>)> {
    let batch = normalize::<Braze>(&format!(r#"{{"events":[{}]}}"#, events.join(",")));
    batch
        .events
        .iter()
        .map(|event| (event.event_type, event.bounce_type))
        .collect()
}

#[test]
fn bounces_and_drops_are_told_apart() {
    let events = [
        event("messages.email.Bounce", ""),
        event("messages.email.Bounce", r#""is_drop":true"#),
        event("messages.email.SoftBounce", r#""is_drop":false"#),
    ];
    let expected = [
        (EventType::Bounced, Some(BounceType::Hard)),
        (EventType::Rejected, None),
        (EventType::Bounced, Some(BounceType::Soft)),
    ];
    assert_eq!(kinds(&events), expected);
}

#[test]
fn only_mail_subscriptions_count() {
    let change = |fields: &str| event("behaviors.subscription.GlobalStateChange", fields);
    let events = [
        change(r#""subscription_status":"Unsubscribed""#),
        change(r#""channel":"email","subscription_status":"Opted In""#),
        change(r#""channel":"email","subscription_status":"subscribed""#),
        change(r#""channel":"push","subscription_status":"Unsubscribed""#),
    ];
    assert_eq!(
        kinds(&events),
        [
            (EventType::Unsubscribed, None),
            (EventType::Resubscribed, None),
            (EventType::Resubscribed, None)
        ]
    );
}

#[test]
fn machine_opens_are_text_machine_clicks_are_not() {
    let events = [
        event("messages.email.Open", r#""machine_open":"true""#),
        event("messages.email.Open", r#""machine_open":"false""#),
        event("messages.email.Click", r#""is_suspected_bot_click":true"#),
    ];
    let batch = normalize::<Braze>(&format!(r#"{{"events":[{}]}}"#, events.join(",")));
    let machines: Vec<_> = batch.events.iter().map(|event| event.is_machine).collect();
    assert_eq!(machines, [Some(true), None, Some(true)]);
}

#[test]
fn credentials_are_tested_with_nothing() {
    for body in ["", "  \n", r#"{"events":[]}"#] {
        assert_eq!(Braze::normalize(&post(body)), Ok(Outcome::nothing()), "{body:?}");
    }
    for body in ["{}", "[]", "nope", r#"{"status":"sent"}"#] {
        assert!(
            matches!(Braze::normalize(&post(body)), Err(Rejection::Malformed(_))),
            "{body:?}"
        );
    }
}

#[test]
fn a_postback_names_its_dispatch_and_nobody() {
    let body = r#"{"dispatch_id":"d","status":"aborted","metadata":{"aborted_at":"2020-08-31T18:27:32Z","reason":"no"}}"#;
    let event = normalize::<Braze>(body).events.remove(0);
    assert_eq!(
        (event.event_type, event.reason.as_deref()),
        (EventType::Rejected, Some("no"))
    );
    assert_eq!(
        (
            event.message_id.as_deref(),
            event.recipient_email,
            event.identifiers
        ),
        (Some("d"), None, Vec::new())
    );
    let undated = normalize::<Braze>(r#"{"dispatch_id":"d","status":"sent","metadata":{}}"#);
    assert_eq!(undated.rejected.len(), 1);
}
