use sendflowr_plugin_sdk::{BounceType, EventType};
use sendflowr_plugin_testing::normalize;

use crate::SparkPost;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<SparkPost>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<SparkPost>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn element(fields: &str) -> String {
    format!(
        r#"{{"msys":{{"message_event":{{"rcpt_to":"a@example.com","timestamp":"1454442600",{fields}}}}}}}"#
    )
}

#[test]
fn bounce_classes_decide() {
    let kind = |class: &str| {
        let batch = normalize::<SparkPost>(&format!(
            "[{}]",
            element(&format!(r#""type":"bounce","bounce_class":{class}"#))
        ));
        batch
            .events
            .first()
            .map(|event| (event.event_type, event.bounce_type))
    };
    for class in ["\"10\"", "25", "\"30\""] {
        assert_eq!(
            kind(class),
            Some((EventType::Bounced, Some(BounceType::Hard))),
            "{class}"
        );
    }
    for class in ["\"1\"", "22", "\"51\"", "\"70\"", "null"] {
        assert_eq!(
            kind(class),
            Some((EventType::Bounced, Some(BounceType::Soft))),
            "{class}"
        );
    }
    assert_eq!(kind("\"90\""), Some((EventType::Unsubscribed, None)));
    assert_eq!(kind("100"), None);
}

#[test]
fn a_delay_is_a_deferral_whatever_its_class() {
    let batch = normalize::<SparkPost>(&format!(
        "[{}]",
        element(r#""type":"delay","bounce_class":"10","reason":"later""#)
    ));
    assert_eq!(
        (batch.events[0].event_type, batch.events[0].reason.as_deref()),
        (EventType::Deferred, Some("later"))
    );
}

#[test]
fn times_come_as_text_number_and_date() {
    for time in [
        "\"1539300285\"",
        "1539300285",
        "\"2018-10-11T23:24:45.000+00:00\"",
    ] {
        let body = format!(
            r#"[{{"msys":{{"track_event":{{"type":"open","rcpt_to":"a@example.com","timestamp":{time}}}}}}}]"#
        );
        assert_eq!(
            normalize::<SparkPost>(&body).events[0].timestamp_ms,
            1_539_300_285_000,
            "{time}"
        );
    }
}

#[test]
fn an_event_tells_when_its_message_was_taken_in() {
    let sent_at = |fields: &str| {
        let batch = normalize::<SparkPost>(&format!("[{}]", element(fields)));
        batch.events[0].sent_at_ms
    };
    assert_eq!(
        sent_at(r#""type":"delivery","injection_time":"2016-02-02T20:00:00.000+00:00""#),
        Some(1_454_443_200_000)
    );
    assert_eq!(sent_at(r#""type":"delivery""#), None);
}

#[test]
fn a_prefetched_open_is_a_machines() {
    let machine = |kind: &str, agent: &str| {
        let element = element(&format!(r#""type":"{kind}","user_agent_parsed":{agent}"#));
        normalize::<SparkPost>(&format!("[{element}]")).events[0].is_machine
    };
    let prefetched = r#"{"is_mobile":false,"is_proxy":true,"is_prefetched":true}"#;
    for kind in ["open", "amp_open", "click"] {
        assert_eq!(machine(kind, prefetched), Some(true), "{kind}");
    }
    assert_eq!(machine("delivery", prefetched), None);
    // A proxy that fetches when the person opens.
    assert_eq!(
        machine("open", r#"{"is_proxy":true,"is_prefetched":false}"#),
        None
    );
    assert_eq!(machine("open", "null"), None);
}

#[test]
fn only_an_empty_msys_is_a_test() {
    let batch = normalize::<SparkPost>(
        r#"[{"msys":{}},{},{"msys":null},{"event":{"type":"delivery"}},{"msys":{"message_event":{}}}]"#,
    );
    assert_eq!((batch.skipped.len(), batch.skipped[0].index), (1, 0));
    let rejected = batch.rejected.iter().map(|rejected| rejected.index);
    assert!(rejected.eq([1, 2, 3, 4]));
}

#[test]
fn the_server_of_a_delivery_is_not_the_recipients_device() {
    let batch = normalize::<SparkPost>(&format!(
        "[{}]",
        element(r#""type":"delivery","ip_address":"192.0.2.1""#)
    ));
    assert_eq!(batch.events[0].ip_address, None);
}

#[test]
fn a_bad_element_does_not_harm_the_rest() {
    let timeless = r#"{"msys":{"message_event":{"type":"delivery","rcpt_to":"a@example.com"}}}"#;
    let batch = normalize::<SparkPost>(&format!(
        r#"[{{"msys":{{}}}},{timeless},{}]"#,
        element(r#""type":"delivery""#)
    ));
    assert_eq!(
        (
            batch.skipped[0].index,
            batch.rejected[0].index,
            batch.events[0].index
        ),
        (0, 1, 2)
    );
}
