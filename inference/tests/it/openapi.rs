//! The description of the API for programs.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use sendflowr_inference::{InferenceConfig, Server};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{TestApp, fakes::Stores};

#[tokio::test]
async fn the_described_examples_are_answered() {
    let app = TestApp::start(Stores::default());
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    let mut tried = 0;
    for (path, item) in openapi["paths"].as_object().unwrap() {
        let Some(contents) = item["post"]["requestBody"]["content"].as_object() else {
            continue;
        };
        for content in contents.values() {
            let of_schema = content["schema"]["$ref"].as_str().map(|reference| {
                let schema = openapi.pointer(reference.trim_start_matches('#')).unwrap();
                &schema["example"]
            });
            let body = match &content["example"] {
                Value::String(lines) => lines.clone(),
                Value::Null => of_schema.unwrap().to_string(),
                example => example.to_string(),
            };
            let (status, answer) = app.post_text(path, body).await;
            assert_eq!(status, StatusCode::OK, "{path}: {answer}");
            assert!(!answer.to_string().contains("\"error\""), "{path}: {answer}");
            tried += 1;
        }
    }
    assert!(tried >= 7, "{tried} examples");
}

#[tokio::test]
async fn the_description_contains_every_route_and_is_served() {
    let app = TestApp::start(Stores::default());
    let (status, served) = app.get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(served, serde_json::to_value(Server::openapi()).unwrap());
    let mut routes = BTreeSet::new();
    for (path, methods) in served["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(
                operation["responses"]["200"].is_object(),
                "{method} {path} does not describe success"
            );
            routes.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let expected = [
        "GET /",
        "GET /explanations/{reference}",
        "GET /features/{universal_id}",
        "GET /health",
        "GET /latency",
        "GET /lift",
        "GET /metrics",
        "GET /ready",
        "POST /compute-features",
        "POST /compute-features/{universal_id}",
        "POST /link-identifiers",
        "POST /predict",
        "POST /resolve-identity",
        "POST /timing-decision",
        "POST /timing/decide",
        "POST /timing/decide/batch",
    ];
    assert_eq!(routes, expected.iter().map(|route| (*route).to_owned()).collect());
    // Every reference in the description can be resolved.
    let text = served.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            served["components"]["schemas"][name].is_object(),
            "schema `{name}` is missing"
        );
    }
}

#[test]
fn what_may_be_any_value_is_not_described_as_an_object() {
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    let schemas = &openapi["components"]["schemas"];
    let weight_and_half_life = &schemas["Policy"]["properties"]["hot_paths"]["items"];
    assert_eq!(weight_and_half_life["type"], "array", "{weight_and_half_life}");
    let difference = &schemas["Difference"]["properties"];
    for any in [
        &weight_and_half_life["items"],
        &difference["stored"],
        &difference["replayed"],
    ] {
        assert!(any.is_object() && any["type"].is_null(), "{any}");
    }
}

#[test]
fn limits_and_types_of_a_request_are_described() {
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    let request = &openapi["components"]["schemas"]["DecideRequest"];
    let text = request["description"].as_str().unwrap();
    for name in [
        "universal_id",
        "email",
        "email_hash",
        "phone_number",
        "identifiers",
    ] {
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
    let fields = &request["properties"];
    for (field, bound, value) in [
        ("latency_seconds", "maximum", 43_200_u64),
        ("minimum_gap_hours", "maximum", 8_760),
        ("window_hours", "maximum", 336),
        ("payload_bytes", "maximum", u32::MAX.into()),
        ("queue_depth", "maximum", u32::MAX.into()),
        ("campaign_id", "maxLength", 256),
        ("identifiers", "maxItems", 32),
        ("signals", "maxItems", 100),
        ("blackout_days", "maxItems", 400),
    ] {
        assert_eq!(
            fields[field][bound].as_f64(),
            Some(value as f64),
            "{field}: {}",
            fields[field]
        );
    }
    for field in ["payload_bytes", "queue_depth"] {
        assert_ne!(fields[field]["format"], "int32", "{}", fields[field]);
    }
    let moment = &openapi["components"]["schemas"]["Moment"]["oneOf"];
    assert_eq!(
        (&moment[0]["type"], &moment[1]["type"]),
        (&json!("string"), &json!("number"))
    );
    let capacity = &openapi["paths"]["/timing/decide/batch"]["post"]["parameters"][0]["schema"];
    assert_eq!(
        (&capacity["minimum"], &capacity["maximum"]),
        (&json!(1), &json!(10_000_000))
    );
}

#[tokio::test]
async fn every_refusal_of_a_body_is_described() {
    let app = TestApp::start(Stores::default());
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    let too_large = " ".repeat(InferenceConfig::default().max_body_bytes + 1);
    let mut with_body = 0;
    for (path, item) in openapi["paths"].as_object().unwrap() {
        let operation = &item["post"];
        if operation["requestBody"]["content"]["application/json"].is_null() {
            continue;
        }
        with_body += 1;
        for (body, expected) in [("{", "400"), (too_large.as_str(), "413")] {
            let (status, answer) = app.post_text(path, body.to_owned()).await;
            assert_eq!(status.as_str(), expected, "{path}: {answer}");
            let described = &operation["responses"][expected]["content"]["application/json"]["schema"];
            assert_eq!(
                described["$ref"], "#/components/schemas/ErrorBody",
                "{path} {expected}"
            );
        }
    }
    assert_eq!(with_body, 6);
}

/// Types without a sign are wider than the formats that describe them, which have one: they state their maximum. Beyond 2^53,
/// JavaScript changes the last digits.
#[test]
fn integers_fit_their_formats() {
    fn check(path: &str, schema: &Value, checked: &mut usize) {
        let types = &schema["type"];
        let is_integer = *types == "integer"
            || types
                .as_array()
                .is_some_and(|types| types.contains(&json!("integer")));
        let largest = match schema["format"].as_str() {
            Some("int32") => u64::from(u32::MAX / 2),
            _ => (1 << 53) - 1,
        };
        if is_integer && !schema["format"].is_null() && !schema["minimum"].is_null() {
            let maximum = schema["maximum"].as_u64();
            assert!(
                maximum.is_some_and(|maximum| maximum <= largest),
                "{path}: {schema}"
            );
            *checked += 1;
        }
        let children: Vec<(String, &Value)> = match schema {
            Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
            Value::Array(items) => items.iter().map(|value| ("[]".to_owned(), value)).collect(),
            _ => Vec::new(),
        };
        for (name, child) in children {
            check(&format!("{path}/{name}"), child, checked);
        }
    }
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    let mut checked = 0;
    check("", &openapi, &mut checked);
    assert!(checked >= 8, "{checked}");
    let schemas = &openapi["components"]["schemas"];
    assert_eq!(schemas["Draw"]["properties"]["seed"]["type"], "string");
}

#[test]
fn forms_of_text_are_described() {
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    let schemas = &openapi["components"]["schemas"];
    for (schema, field, pattern) in [
        ("DecideRequest", "universal_id", "^sf_[0-9a-f]{32}$"),
        ("PersonRequest", "universal_id", "^sf_[0-9a-f]{32}$"),
        ("DecideRequest", "email_hash", "^[0-9A-Fa-f]{64}$"),
        ("PersonRequest", "email_hash", "^[0-9A-Fa-f]{64}$"),
        ("LinkRequest", "email_hash", "^[0-9A-Fa-f]{64}$"),
        ("DaySpanInput", "start", "^([01][0-9]|2[0-3]):[0-5][0-9]$"),
        ("DaySpanInput", "end", "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"),
    ] {
        assert_eq!(
            schemas[schema]["properties"][field]["pattern"], pattern,
            "{schema}.{field}"
        );
    }
}

#[tokio::test]
async fn answers_have_the_status_and_type_that_are_described() {
    let app = TestApp::start(Stores::default());
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    for (path, method, body, status) in [
        ("/metrics", "get", "", "200"),
        ("/ready", "get", "", "200"),
        ("/timing/decide/batch", "post", "{}", "200"),
        ("/timing/decide", "post", "{}", "422"),
        ("/timing-decision", "post", "{}", "422"),
        (
            "/timing-decision",
            "post",
            r#"{"email": "ann@example.com", "blackout_days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}"#,
            "409",
        ),
    ] {
        let request = Request::builder()
            .method(method.to_uppercase().as_str())
            .uri(path);
        let request = request.body(Body::from(body)).unwrap();
        let answer = app.server.router().oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_str(), status, "{path}");
        let sent = answer.headers()[CONTENT_TYPE].to_str().unwrap();
        let sent = sent.split(';').next().unwrap();
        let content = &openapi["paths"][path][method]["responses"][status]["content"];
        assert!(
            content[sent].is_object(),
            "{path} {status} sends {sent}: {content}"
        );
    }
}
