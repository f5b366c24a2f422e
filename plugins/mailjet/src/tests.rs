use sendflowr_plugin_sdk::{Batch, BounceType, EventType, Plugin, Rejection};
use sendflowr_plugin_testing::{normalize, post};

use crate::Mailjet;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Mailjet>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Mailjet>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn event(fields: &str) -> String {
    format!(r#"{{"event":"bounce","time":"1430812195","email":"a@example.com",{fields}}}"#)
}

#[test]
fn bounces_are_hard_soft_or_deferrals() {
    let kind = |fields: &str| {
        let event = normalize::<Mailjet>(&event(fields)).events.remove(0);
        (event.event_type, event.bounce_type, event.reason)
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        kind(r#""hard_bounce":true,"error":"user unknown","comment":"550""#),
        (EventType::Bounced, Some(BounceType::Hard), text("550"))
    );
    assert_eq!(
        kind(r#""hard_bounce":false,"error":"greylisted""#),
        (EventType::Deferred, None, text("greylisted"))
    );
    assert_eq!(
        kind(r#""blocked":true"#),
        (EventType::Bounced, Some(BounceType::Soft), None)
    );
}

#[test]
fn ids_keep_their_digits_and_zero_is_none() {
    let body = event(r#""MessageID":19421777836302490123,"mj_campaign_id":0,"mj_contact_id":0"#);
    let event = normalize::<Mailjet>(&body).events.remove(0);
    assert_eq!(event.message_id.as_deref(), Some("19421777836302490123"));
    assert_eq!((event.campaign_id, event.identifiers.len()), (None, 0));
}

#[test]
fn the_payload_may_be_anything() {
    let metadata = |fields: &str| {
        let event = normalize::<Mailjet>(&event(fields)).events.remove(0);
        event
            .metadata
            .into_iter()
            .map(|pair| format!("{}={}", pair.name, pair.value))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        metadata(r#""Payload":"{\"a\":1}","CustomID":"c""#),
        ["a=1", "custom_id=c"]
    );
    assert_eq!(metadata(r#""Payload":"[1]""#), ["payload=[1]"]);
    assert_eq!(metadata(r#""Payload":"","CustomID":"""#), [""; 0]);
}

#[test]
fn an_event_without_an_address_keeps_the_contact() {
    let batch = normalize::<Mailjet>(
        r#"[{"event":"open","time":1,"mj_contact_id":4},{"event":"open","mj_contact_id":4},{}]"#,
    );
    assert_eq!(batch.events[0].identifiers[0].value, "4");
    assert_eq!((batch.rejected[0].index, batch.skipped[0].index), (1, 2));
}

#[test]
fn a_body_without_any_object_is_malformed() {
    for body in ["7", "[1]", r#"["open",null]"#, "[[]]"] {
        let malformed = Mailjet::normalize(&post(body));
        assert!(matches!(malformed, Err(Rejection::Malformed(_))), "{body}");
    }
    assert_eq!(normalize::<Mailjet>("[]"), Batch::new());
    // An object among other values is read nevertheless.
    let batch = normalize::<Mailjet>(r#"[1,{"event":"open","time":1,"mj_contact_id":4}]"#);
    assert_eq!((batch.rejected[0].index, batch.events[0].index), (0, 1));
}
