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
fn the_text_of_an_id_stands_in_for_a_missing_number() {
    let id = |fields: &str| normalize::<Mailjet>(&event(fields)).events.remove(0).message_id;
    assert_eq!(id(r#""mj_message_id":"19421777""#).as_deref(), Some("19421777"));
    assert_eq!(id(r#""MessageID":1,"mj_message_id":"2""#).as_deref(), Some("1"));
    assert_eq!(id(r#""MessageID":0,"mj_message_id":"2""#).as_deref(), Some("2"));
    assert_eq!(id(r#""MessageID":0,"mj_message_id":"0""#), None);
}

#[test]
fn only_people_have_a_device() {
    let device = |name: &str| {
        let body = format!(
            r#"{{"event":"{name}","time":1,"email":"a@example.com","ip":"192.0.2.1","agent":"Mozilla"}}"#
        );
        let event = normalize::<Mailjet>(&body).events.remove(0);
        (event.ip_address, event.user_agent)
    };
    let known = (Some("192.0.2.1".to_owned()), Some("Mozilla".to_owned()));
    for name in ["open", "click", "unsub"] {
        assert_eq!(device(name), known, "{name}");
    }
    for name in ["sent", "bounce", "blocked", "spam"] {
        assert_eq!(device(name), (None, None), "{name}");
    }
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
        r#"[{"event":"open","time":1,"mj_contact_id":4},{"event":"open","mj_contact_id":4},{},{"event":"x"}]"#,
    );
    assert_eq!(batch.events[0].identifiers[0].value, "4");
    let rejected = batch.rejected.iter().map(|rejected| rejected.index);
    assert!(rejected.eq([1, 2]));
    assert_eq!(batch.skipped[0].index, 3);
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
