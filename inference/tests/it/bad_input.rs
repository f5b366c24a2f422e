//! Every refusal names the field and does not repeat any address.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use futures::{StreamExt, stream};
use sendflowr_inference::InferenceConfig;
use serde_json::{Value, json};

use crate::{NOW, TestApp, call, fakes::Stores};

async fn refusals(path: &str, bodies: &[Value]) -> String {
    let app = TestApp::start(Stores::default());
    let mut lines = Vec::new();
    for body in bodies {
        let (status, answer) = app.post(path, body).await;
        let error = &answer["error"];
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer}");
        assert_eq!(error["code"], "invalid_field");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("`{}` ", error["field"].as_str().unwrap())),
            "{answer}"
        );
        assert!(!answer.to_string().contains("ann@"), "{answer}");
        lines.push(message.to_owned());
    }
    lines.join("\n")
}

/// A request that is valid except for `fields`.
fn with(fields: Value) -> Value {
    let mut request = json!({"email": "ann@example.com", "now": NOW});
    for (name, value) in fields.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

#[tokio::test]
async fn identities() {
    let messages = refusals(
        "/timing/decide",
        &[
            json!({}),
            json!({"email": "ann@"}),
            json!({"email": 7}),
            json!({"universal_id": "ann@example.com"}),
            json!({"email_hash": "abc"}),
            json!({"phone_number": "555 0100"}),
            json!({"identifiers": [{"kind": "klaviyo_id"}]}),
            json!({"identifiers": [{"kind": "cookie", "value": "x"}]}),
            json!({"identifiers": [{"kind": "external_id", "value": "ann@example.com"}]}),
            json!({"identifiers": {"kind": "external_id"}}),
            json!({"identifiers": [{"kind": "esp_user_id", "value": "1"}]}),
            json!({"identifiers": [["klaviyo_id", "x"]]}),
            json!({"email": "ann@example.com", "email_hash": "0".repeat(64)}),
            json!({"email": "ann@example.com,bob@example.com"}),
            json!({"identifiers": [{"kind": "email", "value": "mailto:ann@example.com"}]}),
        ],
    )
    .await;
    insta::assert_snapshot!(messages, @r"
    `universal_id` is missing: name the person by `universal_id`, `email`, `email_hash`, `phone_number` or `identifiers`
    `email` is not an e-mail address
    `email` must be a string
    `universal_id` must be `sf_` and 32 lower-case hexadecimal digits
    `email_hash` must be the 64 hexadecimal digits of a hashed address
    `phone_number` is not a phone number in E.164 form (`+` and 7 to 15 digits)
    `identifiers[0].value` is missing
    `identifiers[0].kind` must be one of `email`, `email_hash`, `phone_number`, `klaviyo_id`, `shopify_customer_id`, `external_id`, `esp_user_id`
    `identifiers[0].value` looks like an address: give it as kind `email`, so that it is hashed
    `identifiers` must be a list
    `identifiers[0].esp` is missing: an `esp_user_id` belongs to one provider
    `identifiers[0]` must be an object
    `email_hash` is not the hash of the address in `email`: give one of them, and hash as the documentation says, with the pepper if one is set
    `email` must be one bare e-mail address, without `mailto:`, name, brackets or another address
    `identifiers[0].value` must be one bare e-mail address, without `mailto:`, name, brackets or another address
    ");
}

#[tokio::test]
async fn windows() {
    let messages = refusals(
        "/timing/decide",
        &[
            with(json!({"window_hours": 0})),
            with(json!({"window_hours": 337})),
            with(json!({"window_hours": "ann@example.com"})),
            with(json!({"window_hours": 24, "window": {"start": NOW, "end": "2026-01-08T10:00:00Z"}})),
            with(json!({"window": {"start": NOW}})),
            with(json!({"window": {"start": NOW, "end": NOW}})),
            with(json!({"window": {"start": "2026-01-05T10:00:00Z", "end": NOW}})),
            with(json!({"window": {"start": "2026-01-05T10:00:00Z", "end": "2026-03-05T10:00:00Z"}})),
            with(json!({"window": {"start": "2036-01-05T10:00:00Z", "end": "2036-01-06T10:00:00Z"}})),
            with(json!({"window": {"start": "noon", "end": "2036-01-06T10:00:00Z"}})),
            with(json!({"not_before": "2026-01-08T10:00:00Z"})),
            with(json!({"deadline": "2026-01-07T09:59:59Z"})),
            with(json!({"now": "1969-12-31T23:59:59Z"})),
            with(json!({"now": -1})),
            with(json!({"window": [NOW, "2026-01-08T10:00:00Z"]})),
        ],
    )
    .await;
    insta::assert_snapshot!(messages, @r"
    `window_hours` must be a number from 1 to 336
    `window_hours` must be a number from 1 to 336
    `window_hours` must be a number
    `window` must not be given together with `window_hours`
    `window.end` is missing
    `window.end` must be at least a minute later than `window.start`
    `window.end` must be later than now
    `window.end` must be at most 336 hours later than `window.start`
    `window.end` must be within 366 days from now
    `window.start` must be an RFC 3339 time or seconds since 1970, between 1970 and 9999
    `not_before` must be earlier than the end of the window
    `deadline` must not be earlier than now, `not_before` or the start of the window
    `now` must be an RFC 3339 time or seconds since 1970, between 1970 and 9999
    `now` must be an RFC 3339 time or seconds since 1970, between 1970 and 9999
    `window` must be an object
    ");
}

#[tokio::test]
async fn guards_and_signals() {
    let messages = refusals(
        "/timing/decide",
        &[
            with(json!({"time_zone": "Mars/Olympus"})),
            with(json!({"quiet_hours": {"start": "25:00", "end": "07:00"}})),
            with(json!({"quiet_hours": {"start": "07:00", "end": "07:00"}})),
            with(json!({"quiet_hours": {"start": "00:00", "end": "00:00"}})),
            with(json!({"quiet_hours": {"start": "07:00", "end": "24:01"}})),
            with(json!({"allowed_window": {"start": "7", "end": "08:00"}})),
            with(json!({"allowed_hours": []})),
            with(json!({"allowed_hours": [9, 24]})),
            with(json!({"allowed_hours": [9, -1]})),
            with(json!({"allowed_hours": [9], "allowed_window": {"start": "07:00", "end": "08:00"}})),
            with(json!({"blackout_days": ["2026-02-30"]})),
            with(json!({"blackout_days": ["2026-12-24", "2026-12-24T23:00-08:00"]})),
            with(json!({"blackout_days": "sunday"})),
            with(json!({"minimum_gap_hours": -1})),
            with(json!({"latency_seconds": 1e9})),
            with(json!({"latency_seconds": 1, "latency_estimate_seconds": 1})),
            with(json!({"esp": "send grid"})),
            with(json!({"campaign_id": ""})),
            with(json!({"campaign_type": "k".repeat(257)})),
            with(json!({"payload_bytes": -1})),
            with(json!({"signals": [{"type": "thought", "age_seconds": 1}]})),
            with(json!({"signals": [{"type": "site_visit"}]})),
            with(json!({"signals": [{"type": "site_visit", "age_seconds": -1}]})),
            with(json!({"signals": [{"type": "site_visit", "at": "2026-01-07T10:00:01Z"}]})),
            with(json!({"explain": "yes"})),
            with(json!({"window_hour": 3})),
            with(json!({"ann@example.com": 3})),
            with(json!({"quiet_hours": {"start": "22:00", "end": "07:00", "zone": "UTC"}})),
            with(json!({"quiet_hours": ["22:00", "08:00"]})),
            with(json!({"allowed_window": ["22:00"]})),
            with(json!({"signals": [["site_visit", null, 5]]})),
            with(json!({"payload_bytes": 1e30})),
            json!([[]]),
            json!(["sf_0123456789abcdef0123456789abcdef"]),
        ],
    )
    .await;
    insta::assert_snapshot!(messages, @r"
    `time_zone` must be an IANA time zone such as `Europe/Berlin`
    `quiet_hours.start` must be a time of day, `HH:MM`
    `quiet_hours.end` must not be the same as `quiet_hours.start`
    `quiet_hours.end` must not be the same as `quiet_hours.start`
    `quiet_hours.end` must be a time of day, `HH:MM`
    `allowed_window.start` must be a time of day, `HH:MM`
    `allowed_hours` must name at least one hour, or be left out
    `allowed_hours[1]` must be an hour from 0 to 23
    `allowed_hours[1]` must be a whole number
    `allowed_hours` must not be given together with `allowed_window`
    `blackout_days[0]` must be a date (`2026-12-24`) or a day of the week (`sunday`)
    `blackout_days[1]` must be a date (`2026-12-24`) or a day of the week (`sunday`)
    `blackout_days` must be a list
    `minimum_gap_hours` must be a number from 0 to 8760
    `latency_seconds` must be a number from 0 to 43200
    `latency_estimate_seconds` must not be given together with `latency_seconds`
    `esp` must have 1 to 32 letters, digits and inner hyphens
    `campaign_id` must have 1 to 256 bytes
    `campaign_type` must have 1 to 256 bytes
    `payload_bytes` must be a whole number from 0 to 4294967295
    `signals[0].type` must be one of `site_visit`, `product_view`, `sms_click`, `push_click`, `marked_spam`, `support_ticket`, `unsubscribed`, `resubscribed`
    `signals[0].at` must be given, or `age_seconds` instead of it
    `signals[0].age_seconds` must be at least 0
    `signals[0].at` must not be later than now
    `explain` must be a boolean
    `window_hour` is not a field of this request: see `/docs`
    `[address]` is not a field of this request: see `/docs`
    `quiet_hours.zone` is not a field of this request: see `/docs`
    `quiet_hours` must be an object
    `allowed_window` must be an object
    `signals[0]` must be an object
    `payload_bytes` must be a whole number from 0 to 4294967295
    `body` must be an object
    `body` must be an object
    ");
}

#[tokio::test]
async fn other_routes() {
    assert!(
        refusals("/predict", &[json!({"email": "a@b.c", "top": 0})])
            .await
            .contains("`top`")
    );
    assert!(
        refusals("/link-identifiers", &[json!({"email": "a@b.c"})])
            .await
            .contains("at least two")
    );
    assert!(
        refusals("/resolve-identity", &[json!({})])
            .await
            .contains("name the person")
    );
    assert!(
        refusals("/compute-features/sf_1", &[json!({})])
            .await
            .contains("32 lower-case")
    );
}

#[tokio::test]
async fn queries() {
    let app = TestApp::start(Stores::default());
    let batch = "/timing/decide/batch?capacity_per_minute";
    let mut messages = Vec::new();
    for (is_get, path) in [
        (true, "/latency?days=x"),
        (true, "/latency?days=3&days=4"),
        (true, "/latency?ann@example.com=3&ann@example.com=4"),
        (true, "/latency?day=3"),
        (true, "/lift?since=soon"),
        (false, &*format!("{batch}=x")),
        (false, &*format!("{batch}=-1")),
        (false, &*format!("{batch}=99999999999")),
        (false, "/timing/decide?window_hours=24"),
    ] {
        let (status, answer) = if is_get {
            app.get(path).await
        } else {
            app.post(path, &with(json!({}))).await
        };
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {answer}");
        assert!(!answer.to_string().contains("ann@"), "{answer}");
        messages.push(answer["error"]["message"].as_str().unwrap().to_owned());
    }
    insta::assert_snapshot!(messages.join("\n"), @r"
    `days` must be a whole number
    `days` is given twice
    `[address]` is given twice
    `day` is not a field of this request: see `/docs`
    `since` must be an RFC 3339 time or seconds since 1970, between 1970 and 9999
    `capacity_per_minute` must be a whole number
    `capacity_per_minute` must be a whole number from 1 to 10000000
    `capacity_per_minute` must be a whole number from 1 to 10000000
    `query` must be empty: the fields of this request belong into its body
    ");
}

/// Sends a body that never ends.
async fn unfinished(config: &InferenceConfig, request: axum::http::request::Builder) -> (StatusCode, Value) {
    let app = TestApp::start_with(Stores::default(), config);
    let first = stream::iter([Ok::<_, std::io::Error>("{")]);
    let body = Body::from_stream(first.chain(stream::pending()));
    call(app.server.router(), request.body(body).unwrap()).await
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_the_callers_mistake() {
    let config = InferenceConfig {
        request_timeout: Duration::from_millis(500),
        ..InferenceConfig::default()
    };
    let request = || Request::post("/timing/decide");
    let too_large = config.max_body_bytes + 1;
    let (status, answer) = unfinished(&config, request()).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{answer}");
    assert_eq!(answer["error"]["code"], "incomplete_body");

    // These are refused before the body has arrived.
    let patient = InferenceConfig::default();
    let (status, answer) = unfinished(&patient, request().header("content-length", too_large)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    for path in ["/timing/decide", "/timing/decide/batch"] {
        let request = Request::post(path).header("content-encoding", "gzip");
        let (status, answer) = unfinished(&patient, request).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{answer}");
        assert_eq!(answer["error"]["code"], "unsupported_encoding");
    }
    let app = TestApp::start(Stores::default());
    let (status, answer) = app.post_text("/timing/decide", String::new()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the body is empty"), "{message}");
    let plain = request().header("content-encoding", "identity");
    let plain = plain.body(Body::from(with(json!({})).to_string())).unwrap();
    assert_eq!(call(app.server.router(), plain).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_json_is_a_bad_request() {
    let app = TestApp::start(Stores::default());
    for body in [
        "{",
        "email=ann@example.com",
        "{\"email\": \"ann@example.com\"} {}",
    ] {
        let (status, answer) = app.post_text("/timing/decide", body.to_owned()).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!("malformed_json")),
            "{body}"
        );
        assert!(!answer.to_string().contains("ann@"));
    }
}

#[tokio::test]
async fn bodies_are_capped() {
    let app = TestApp::start(Stores::default());
    let body = format!("{{\"email\": \"{}\"}}", "a".repeat(1024 * 1024));
    let (status, answer) = app.post_text("/timing/decide", body).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large"))
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_have_json_too() {
    let app = TestApp::start(Stores::default());
    let (status, answer) = app.get("/timing").await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("not_found"))
    );
    let (status, answer) = app.get("/timing/decide").await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed"))
    );
    for reference in ["dec_none", "%FF"] {
        let (status, answer) = app.get(&format!("/explanations/{reference}")).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::NOT_FOUND, &json!("not_found")),
            "{reference}"
        );
    }
    let (status, answer) = app.get("/features/%FF").await;
    assert_eq!(
        (status, &answer["error"]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("universal_id"))
    );
}
