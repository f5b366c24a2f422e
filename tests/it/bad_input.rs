//! Every row of the table of bad input: a clear, stable answer, and nothing stored.

use integration_tests::{System, eventually};
use serde_json::json;

use crate::{POSTMARK, postmark_click, postmark_headers};

const AT: &str = "2026-01-05T18:30:00Z";

#[tokio::test]
async fn unknown_providers_and_accounts_are_told_the_known_ones() {
    let system = System::start(POSTMARK, &["postmark", "mailgun"]).await;
    let answer = system.webhook("carrierpigeon", &[], "{}").await;
    assert_eq!((answer.status, answer.error_code()), (404, "unknown_provider"));
    assert_eq!(
        answer.body["error"]["known_providers"],
        json!(["mailgun", "postmark"])
    );
    let answer = system.webhook("postmark/other", &[], "{}").await;
    assert_eq!((answer.status, answer.error_code()), (404, "unknown_account"));
    assert_eq!(answer.body["error"]["known_accounts"], json!(["default"]));
    assert_eq!(
        answer.body["error"]["known_providers"],
        json!(["mailgun", "postmark"])
    );
}

#[tokio::test]
async fn what_is_not_proven_is_refused_with_the_check_that_failed() {
    let system = System::start(POSTMARK, &["postmark", "sendgrid"]).await;
    let body = postmark_click("ann@example.com", "m", AT);
    let missing = system.webhook("postmark", &[], body.clone()).await;
    assert_eq!((missing.status, missing.error_code()), (401, "signature_missing"));
    let wrong = [("authorization".to_owned(), "Basic bWU6d3Jvbmc=".to_owned())];
    let wrong = system.webhook("postmark", &wrong, body).await;
    assert_eq!(wrong.status, 401);
    assert!(!wrong.text.contains("secret"), "{}", wrong.text);
    // The answer for a provider that is not configured says what to configure.
    let unconfigured = system.webhook("sendgrid", &[], "[]").await;
    assert_eq!(unconfigured.status, 401);
    assert!(unconfigured.text.contains("public_key"), "{}", unconfigured.text);
    assert_eq!(system.stored_events().await, 0);
}

#[tokio::test]
async fn more_elements_than_a_host_takes_are_refused_for_good() {
    let accounts: String = ["sparkpost", "sendgrid", "hubspot", "brevo"]
        .iter()
        .map(|provider| format!("[accounts.{provider}.default]\nallow_unsigned = true\n"))
        .collect();
    let system = System::start(&accounts, &["sparkpost", "sendgrid", "hubspot", "brevo"]).await;
    let zeros = format!("[{}0]", "0,".repeat(60_000));
    for provider in ["sparkpost", "sendgrid", "hubspot", "brevo"] {
        let refused = system.webhook(provider, &[], zeros.clone()).await;
        assert_eq!(
            (refused.status, refused.error_code()),
            (400, "malformed"),
            "{provider}: {}",
            refused.text
        );
    }
}

#[tokio::test]
async fn user_and_password_are_asked_for_where_they_prove() {
    let accounts = "[accounts.ses.default]\nbasic_auth_user = 'me'\nbasic_auth_password = 'secret'\n\
        [accounts.ses.topic]\ntopic_arn = 'arn:aws:sns:eu-west-1:123456789012:mail'\n";
    let system = System::start(accounts, &["ses"]).await;
    let body = r#"{"eventType":"Open","mail":{"messageId":"m","destination":["ann@example.com"]},"open":{"timestamp":"2026-01-05T18:30:00Z"}}"#;
    let send = |path: &str| {
        let url = format!("http://{}/webhooks/{path}", system.host);
        let request = system.http.post(url).header("x-amz-sns-rawdelivery", "true");
        request.body(body)
    };
    // As SNS does with a user and a password in its subscription's URL.
    let refused = send("ses").send().await.expect("the service answers");
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["www-authenticate"], "Basic realm=\"sendflowr\"");
    let taken = send("ses").basic_auth("me", Some("secret")).send().await;
    assert_eq!(taken.expect("the service answers").status(), 200);
    // No credentials are requested where they would not help.
    let refused = send("ses/topic").send().await.expect("the service answers");
    assert_eq!(refused.status(), 401);
    assert!(!refused.headers().contains_key("www-authenticate"));
    eventually("the event is stored", || async {
        system.stored_events().await == 1
    })
    .await;
}

#[tokio::test]
async fn a_secret_that_is_not_ascii_holds_as_it_is_sent() {
    let accounts = "[accounts.postmark.default]\nheader_name = 'x-token'\nheader_value = 'schlüssel-à'\n\
        [accounts.brevo.default]\nbearer_token = 'schlüssel-à'\n";
    let system = System::start(accounts, &["postmark", "brevo"]).await;
    let send = async |path: &str, name: &str, value: &[u8]| {
        let value = reqwest::header::HeaderValue::from_bytes(value).expect("a valid header");
        let request = system
            .http
            .post(format!("http://{}/webhooks/{path}", system.host));
        let body = if path == "brevo" {
            "[]"
        } else {
            r#"{"RecordType":"Other"}"#
        };
        let answer = request.header(name, value).body(body).send().await;
        answer.expect("the service answers").status().as_u16()
    };
    // In UTF-8, as nearly everybody sends it, and in Latin-1.
    let token: [&[u8]; 3] = [
        "schlüssel-à".as_bytes(),
        b"schl\xfcssel-\xe0",
        "schlussel-à".as_bytes(),
    ];
    for (token, status) in token.into_iter().zip([200, 200, 401]) {
        assert_eq!(send("postmark", "x-token", token).await, status, "{token:?}");
        let bearer = [b"Bearer ", token].concat();
        assert_eq!(send("brevo", "authorization", &bearer).await, status, "{token:?}");
    }
}

#[tokio::test]
async fn messages_of_any_topic_are_not_taken_for_ours() {
    let case = include_str!("../../plugins/ses/cases/bounce-signature-v1.json");
    let case: serde_json::Value = serde_json::from_str(case).expect("a case is JSON");
    let body = case["request"]["body"].as_str().expect("a body").to_owned();
    let system = System::start("", &["ses"]).await;
    let answer = system.webhook("ses", &[], body).await;
    assert_eq!((answer.status, answer.error_code()), (401, "no_proof_configured"));
    assert!(answer.text.contains("topic_arn`"), "{}", answer.text);
    assert_eq!(system.stored_events().await, 0);
}

#[tokio::test]
async fn bodies_of_nothing_but_separators_are_malformed() {
    let accounts = "[accounts.ses.default]\ntopic_arn = 'arn:aws:sns:eu-west-1:123456789012:mail'\n\
        [accounts.mandrill.default]\nwebhook_key = 'k'\nwebhook_url = 'https://example.com/'\n";
    let system = System::start(accounts, &["ses", "mandrill"]).await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let form = [
        header("content-type", "application/x-www-form-urlencoded"),
        header("x-mandrill-signature", "c2ln"),
    ];
    let zeros = format!("[{}0]", "0,".repeat(1_500_000));
    let answer = system.webhook("ses", &[], zeros).await;
    // Nothing proves it, and it is too long to be kept: a genuine one has to be sent again.
    assert_eq!(
        (answer.status, answer.error_code()),
        (503, "malformed_not_kept"),
        "{}",
        answer.text
    );
    // Of a form with too many fields nothing but the URL is verified.
    for body in ["a=b&".repeat(9_000), "a&".repeat(1_500_000)] {
        let answer = system.webhook("mandrill", &form, body).await;
        assert_eq!(
            (answer.status, answer.error_code()),
            (401, "signature_mismatch"),
            "{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_also_when_they_only_unpack_to_it() {
    let system = System::start(
        &format!("[host]\nmax_body_bytes = 10000\n{POSTMARK}"),
        &["postmark"],
    )
    .await;
    let large = system
        .webhook("postmark", &postmark_headers(), vec![b' '; 10_001])
        .await;
    assert_eq!(large.status, 413);
    // 20,000 blanks, compressed by gzip.
    let packed = include_bytes!("../data/blanks.gz");
    assert!(packed.len() < 200);
    let mut headers = postmark_headers();
    headers.push(("content-encoding".to_owned(), "gzip".to_owned()));
    let unpacked = system.webhook("postmark", &headers, packed.to_vec()).await;
    assert_eq!(unpacked.status, 413, "{}", unpacked.text);
}

#[tokio::test]
async fn what_the_plugin_cannot_understand_is_kept_sealed() {
    let mut system = System::start(POSTMARK, &["postmark"]).await;
    let answer = system
        .webhook(
            "postmark",
            &postmark_headers(),
            r#"["not an object, ann@example.com"]"#,
        )
        .await;
    assert_eq!(answer.status, 400);
    assert!(!answer.text.contains("ann@example.com"));
    let letters = dead_letters(&system).await;
    assert_eq!(letters.len(), 1);
    assert!(
        !String::from_utf8_lossy(&letters[0].value).contains("ann@example.com"),
        "the dead letter is not sealed"
    );
    assert!(system.stop().await);
}

#[tokio::test]
async fn one_bad_element_does_not_harm_the_rest() {
    let configuration = "[accounts.sparkpost.default]\nbearer_token = 't'\n";
    let system = System::start(configuration, &["sparkpost"]).await;
    let headers = [("authorization".to_owned(), "Bearer t".to_owned())];
    let good = r#"{"msys":{"track_event":{"type":"click","rcpt_to":"ann@example.com","timestamp":"1767638400","event_id":"1"}}}"#;
    let timeless = r#"{"msys":{"track_event":{"type":"click","rcpt_to":"bob@example.com"}}}"#;
    let unknown = r#"{"msys":{"relay_event":{"type":"relay_delivery"}}}"#;
    let answer = system
        .webhook("sparkpost", &headers, format!("[{timeless},{good},{unknown}]"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body, json!({ "accepted": 1, "skipped": 1, "rejected": 1 }));
    eventually("the good event is stored", || async {
        system.stored_events().await == 1
    })
    .await;
    assert_eq!(dead_letters(&system).await.len(), 1);
}

#[tokio::test]
async fn decisions_name_the_field_that_is_wrong() {
    let system = System::start(POSTMARK, &["postmark"]).await;
    for (question, field) in [
        (json!({ "email": "no address" }), "email"),
        (
            json!({ "email": "ann@example.com", "window_hours": 0 }),
            "window_hours",
        ),
        (
            json!({ "email": "ann@example.com", "windowhours": 24 }),
            "windowhours",
        ),
        (
            json!({ "email": "ann@example.com", "time_zone": "Mars/Olympus" }),
            "time_zone",
        ),
    ] {
        let answer = system.ask("/timing/decide", &question).await;
        assert_eq!(answer.status, 422, "{question}: {}", answer.text);
        assert_eq!(answer.body["error"]["field"], field, "{}", answer.text);
        assert!(!answer.text.contains("ann@example.com"));
    }
    let stranger = system
        .ask("/timing/decide", &json!({ "email": "nobody@example.com" }))
        .await;
    assert_eq!(stranger.status, 200, "{}", stranger.text);
    assert_eq!(
        stranger.body["evidence"]["n"].as_f64(),
        Some(0.0),
        "{}",
        stranger.text
    );
}

#[tokio::test]
async fn a_complaint_suppresses_and_says_until_when() {
    let system = System::start(POSTMARK, &["postmark"]).await;
    let now = event::Timestamp::from(std::time::SystemTime::now());
    let complaint = json!({ "RecordType": "SpamComplaint", "ID": 7, "Type": "SpamComplaint", "Email": "ann@example.com",
        "BouncedAt": now.to_string(), "MessageID": "m" });
    let answer = system
        .webhook("postmark", &postmark_headers(), complaint.to_string())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let question = json!({ "email": "ann@example.com", "window_hours": 24 });
    eventually("the complaint shows in decisions", || async {
        system.ask("/timing/decide", &question).await.status == 409
    })
    .await;
    let suppressed = system.ask("/timing/decide", &question).await;
    assert_eq!(suppressed.error_code(), "suppressed");
    let allowed = suppressed.body["error"]["first_allowed_at"]
        .as_str()
        .expect("the answer says until when");
    let allowed: event::Timestamp = allowed.parse().expect("a time");
    let hours = allowed.millis_since(now) as f64 / 3_600_000.0;
    assert!((47.9..48.1).contains(&hours), "{hours} hours");
}

async fn dead_letters(system: &System) -> Vec<store::bus::Record> {
    let stores = system.stores().await;
    let topic = store::bus::DEAD_LETTERS_TOPIC;
    let mut letters = stores
        .bus
        .subscribe("test", &[topic])
        .await
        .expect("the dead letters can be read");
    let read = letters
        .poll(100, std::time::Duration::from_secs(5))
        .await
        .expect("the dead letters can be read");
    drop(letters);
    stores.close().await;
    read
}
