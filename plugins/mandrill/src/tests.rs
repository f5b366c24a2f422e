use sendflowr_plugin_sdk::{Batch, EventType, Part, Plugin, Proof, Rejection, Request};
use sendflowr_plugin_testing::{RequestExt, batch, post};

use crate::Mandrill;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Mandrill>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Mandrill>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn form(body: &str) -> Request {
    post(body).with_header("content-type", "application/x-www-form-urlencoded")
}

fn events(json: &str) -> Batch {
    batch(Mandrill::normalize(&form(&format!("mandrill_events={json}"))))
}

#[test]
fn the_url_and_every_field_are_signed_in_order() {
    let request = form("b=2&a=x+y&mandrill_events=[]")
        .with_header("x-mandrill-signature", "sig=")
        .with_secret("webhook_key")
        // A blank that was copied with the address is not part of it.
        .with_setting("webhook_url", " https://example.com/hook?x=1 ");
    let proofs = Mandrill::authenticate(&request).unwrap();
    let [Proof::KeyedHash(hash)] = proofs.as_slice() else {
        panic!("{proofs:?}")
    };
    // In one part, however many fields there are.
    let [Part::Bytes(signed)] = hash.messages[0].as_slice() else {
        panic!("{:?}", hash.messages)
    };
    assert_eq!(
        str::from_utf8(signed).unwrap(),
        "https://example.com/hook?x=1ax yb2mandrill_events[]"
    );
}

#[test]
fn the_signature_comes_before_the_form() {
    let key = |request: Request| {
        request
            .with_header("x-mandrill-signature", "sig=")
            .with_secret("webhook_key")
            .with_setting("webhook_url", "https://example.com/hook")
    };
    for request in [
        post("[]"),
        post("nothing").with_header("content-type", "multipart/form-data; boundary=x"),
        form(&format!("mandrill_events=[]{}", "&a=b".repeat(32))),
    ] {
        let request = key(request);
        let proofs = Mandrill::authenticate(&request).unwrap();
        let [Proof::KeyedHash(hash)] = proofs.as_slice() else {
            panic!("{proofs:?}")
        };
        assert_eq!(
            hash.messages[0],
            [Part::Bytes(b"https://example.com/hook".to_vec())]
        );
        assert!(matches!(
            Mandrill::normalize(&request),
            Err(Rejection::Malformed(_))
        ));
    }
}

#[test]
fn a_missing_url_or_signature_refuses() {
    let unsigned = form("mandrill_events=[{}]").with_secret("webhook_key");
    assert!(matches!(
        Mandrill::authenticate(&unsigned),
        Err(Rejection::MissingProof(_))
    ));
    let urlless = unsigned.with_header("x-mandrill-signature", "sig=");
    assert!(matches!(
        Mandrill::authenticate(&urlless),
        Err(Rejection::InvalidProof(_))
    ));
}

#[test]
fn the_address_check_needs_no_key() {
    let request = post("").with_method("HEAD").with_secret("webhook_key");
    assert_eq!(Mandrill::authenticate(&request), Ok(vec![Proof::Handshake]));
    assert_eq!(batch(Mandrill::normalize(&request)), Batch::new());
    for body in [
        "mandrill_events=[]",
        "mandrill_events=%5B%5D",
        "mandrill_events=%5b%5d",
    ] {
        let request = form(body).with_secret("webhook_key");
        assert_eq!(Mandrill::authenticate(&request), Ok(vec![Proof::Handshake]));
        assert_eq!(batch(Mandrill::normalize(&request)), Batch::new());
    }
}

#[test]
fn the_message_tells_when_it_was_sent() {
    let batch = events(
        r#"[{"event":"delivered","ts":9,"msg":{"ts":7,"email":"a@example.com"}},{"event":"open","ts":9,"msg":{"email":"a@example.com"}}]"#,
    );
    assert_eq!(batch.events[0].sent_at_ms, Some(7_000));
    assert_eq!(batch.events[1].sent_at_ms, None);
}

#[test]
fn reasons_come_from_the_last_attempt() {
    let batch = events(
        r#"[{"event":"deferral","ts":1,"_id":"m","msg":{"email":"a@example.com","smtp_events":[{"diag":"first"},{"diag":"last"},{"type":"deferred"},{"diag":""}]}},
            {"event":"hard_bounce","ts":1,"msg":{"email":"a@example.com","bounce_description":"bad_mailbox","metadata":[]}}]"#,
    );
    assert_eq!(batch.events[0].reason.as_deref(), Some("last"));
    assert_eq!(batch.events[0].message_id.as_deref(), Some("m"));
    assert_eq!(batch.events[1].reason.as_deref(), Some("bad_mailbox"));
    assert!(batch.events[1].metadata.is_empty());
}

#[test]
fn lists_unknown_types_and_broken_elements_are_kept_apart() {
    let batch = events(
        r#"[{"type":"blacklist","action":"add","ts":1},{"event":"novelty","ts":1},{"event":"open","msg":{"email":"a@example.com"}},
            {"event":"open","ts":1,"msg":{"email":"a@example.com"},"user_agent_parsed":null}]"#,
    );
    assert_eq!(
        batch
            .skipped
            .iter()
            .map(|skipped| skipped.provider_type.as_str())
            .collect::<Vec<_>>(),
        ["blacklist", "novelty"]
    );
    assert_eq!(batch.rejected[0].index, 2);
    assert_eq!(
        (batch.events[0].event_type, batch.events[0].is_machine),
        (EventType::Opened, None)
    );
}

#[test]
fn a_form_without_events_is_malformed() {
    for body in ["other=1", "mandrill_events=nope", "mandrill_events={}"] {
        assert!(
            matches!(Mandrill::normalize(&form(body)), Err(Rejection::Malformed(_))),
            "{body}"
        );
    }
}
