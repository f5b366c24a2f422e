use sendflowr_plugin_sdk::{EventType, Plugin, Rejection};
use sendflowr_plugin_testing::{normalize, post};

use crate::Brevo;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Brevo>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Brevo>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn event(fields: &str) -> String {
    format!(r#"{{"event":"click","email":"a@example.com",{fields}}}"#)
}

#[test]
fn the_first_usable_clock_counts() {
    let at = |fields: &str| {
        normalize::<Brevo>(&event(fields))
            .events
            .first()
            .map(|event| event.timestamp_ms)
    };
    assert_eq!(at(r#""ts_epoch":1724857709223,"ts":1"#), Some(1_724_857_709_223));
    assert_eq!(at(r#""ts_epoch":1724857709,"ts":1"#), Some(1_724_857_709_000));
    assert_eq!(at(r#""ts_epoch":null,"ts_event":5,"ts":1"#), Some(5_000));
    assert_eq!(at(r#""ts_epoch":0,"ts_event":"0","ts":1"#), Some(1_000));
    assert_eq!(at(r#""ts":0,"s_epoch":1724857709223"#), Some(1_724_857_709_223));
    assert_eq!(at(r#""ts_epoch":0,"date":"2024-08-28 17:08:29""#), None);
}

#[test]
fn a_contact_of_number_zero_is_none() {
    let contacts = |id: &str| {
        let event = normalize::<Brevo>(&event(&format!(r#""ts":1,"contact_id":{id}"#)))
            .events
            .remove(0);
        event.identifiers.len()
    };
    assert_eq!((contacts("0"), contacts("7")), (0, 1));
}

#[test]
fn only_opens_and_clicks_show_the_recipient_s_device() {
    let device = |name: &str| {
        let event = format!(
            r#"{{"event":"{name}","email":"a@example.com","ts":1,"ip":"192.0.2.1","user_agent":"Mozilla"}}"#
        );
        let event = normalize::<Brevo>(&event).events.remove(0);
        (event.ip_address, event.user_agent)
    };
    let shown = (Some("192.0.2.1".to_owned()), Some("Mozilla".to_owned()));
    for name in ["click", "opened", "unique_opened", "proxy_open"] {
        assert_eq!(device(name), shown, "{name}");
    }
    for name in ["delivered", "hard_bounce", "spam", "unsubscribed"] {
        assert_eq!(device(name), (None, None), "{name}");
    }
}

#[test]
fn tags_come_in_three_forms() {
    let tags = |fields: &str| {
        normalize::<Brevo>(&event(&format!(r#""ts":1,{fields}"#)))
            .events
            .remove(0)
            .tags
    };
    assert_eq!(tags(r#""tags":["a"],"tag":"x""#), ["a"]);
    assert_eq!(tags(r#""tag":"[\"a\",\"b\"]""#), ["a", "b"]);
    assert_eq!(tags(r#""tag":"[plain""#), ["[plain"]);
    assert_eq!(tags(r#""tag":["a"]"#), ["a"]);
    assert_eq!(tags(r#""tag":"""#), [""; 0]);
}

#[test]
fn custom_headers_that_are_no_object_give_nothing() {
    let metadata = |custom: &str| {
        let event = normalize::<Brevo>(&event(&format!(r#""ts":1,"X-Mailin-custom":{custom}"#)))
            .events
            .remove(0);
        event
            .metadata
            .into_iter()
            .map(|pair| (pair.name, pair.value))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        metadata(r#""{\"order\":1234}""#),
        [("order".to_owned(), "1234".to_owned())]
    );
    assert_eq!(metadata(r#""order-1234""#), []);
}

#[test]
fn other_channels_are_skipped() {
    let batch = normalize::<Brevo>(
        r#"[{"event":"delivered","to":"33600000000","ts":1},{"event":"list_addition","email":["a@example.com"]},
            {"to":"33600000000","ts":1},{"email":"a@example.com","ts":1}]"#,
    );
    assert_eq!((batch.events.len(), batch.skipped.len()), (0, 3));
    assert_eq!(batch.rejected[0].index, 3, "mail without `event`");
    // Alone and without `event`, as documented for SMS.
    for body in [r#"{"to":"33600000000","ts_event":1}"#, r#"{"msg_status":"sent"}"#] {
        let batch = normalize::<Brevo>(body);
        assert_eq!((batch.events.len(), batch.skipped.len()), (0, 1), "{body}");
    }
    assert!(matches!(
        Brevo::normalize(&post(r#"{"items":[]}"#)),
        Err(Rejection::Malformed(_))
    ));
}

#[test]
fn opens_through_a_proxy_are_a_machines() {
    let body = r#"[{"event":"proxy_open","email":"a@example.com","ts":1},{"event":"opened","email":"a@example.com","ts":1}]"#;
    let batch = normalize::<Brevo>(body);
    assert_eq!(
        batch
            .events
            .iter()
            .map(|event| event.is_machine)
            .collect::<Vec<_>>(),
        [Some(true), None]
    );
    assert!(
        batch
            .events
            .iter()
            .all(|event| event.event_type == EventType::Opened)
    );
}
