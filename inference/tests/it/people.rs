//! Features and identities.

use axum::http::StatusCode;
use event::EventType;
use serde_json::json;

use crate::{
    TestApp,
    fakes::{Stores, email, evening_clicks, event, id_of},
};

fn clock() -> event::Timestamp {
    std::time::SystemTime::now().into()
}

#[tokio::test]
async fn features_tell_what_is_remembered() {
    let stores = Stores::default();
    let now = clock();
    evening_clicks(&stores, "ann@example.com", 10, now);
    stores.consume(event(
        "ann@example.com",
        EventType::SupportTicket,
        now.plus_millis(-5_000),
    ));
    let app = TestApp::start(stores);
    let (status, features) = app.get(&format!("/features/{}", id_of("ann@example.com"))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(features["known"], true);
    assert_eq!(
        features["counts"],
        json!({"deliveries": 10, "opens": 0, "clicks": 10, "replies": 0, "conversions": 0})
    );
    assert_eq!(features["mailbox_provider"], "gmail");
    assert_eq!(features["breakers"][0]["reason"], "support_ticket");
    assert!(features["signals"]["support_ticket"].is_string());
    assert_eq!(features["top_hours"].as_array().unwrap().len(), 5);

    let (_, recomputed) = app
        .post("/compute-features", &json!({"email": "ann@example.com"}))
        .await;
    assert_eq!(recomputed["evidence"]["profile_source"], "history");
    assert_eq!(recomputed["profile_digest"], features["profile_digest"]);
    let path = format!("/compute-features/{}", id_of("ann@example.com"));
    let (_, by_id) = app.post(&path, &json!({})).await;
    assert_eq!(by_id["counts"], recomputed["counts"]);
}

#[tokio::test]
async fn a_stranger_has_empty_features() {
    let app = TestApp::start(Stores::default());
    let (status, features) = app
        .get(&format!("/features/{}", id_of("nobody@example.com")))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(features["known"], false);
    assert_eq!(features["counts"]["clicks"], 0);
}

#[tokio::test]
async fn linked_identifiers_resolve_to_one_person() {
    let app = TestApp::start(Stores::default());
    let (status, unknown) = app
        .post("/resolve-identity", &json!({"email": "ann@example.com"}))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(unknown["known"], false);
    assert_eq!(unknown["universal_id"], id_of("ann@example.com").as_str());

    let link = json!({
        "email": "ann@example.com", "source": "crm",
        "identifiers": [{"kind": "esp_user_id", "value": "7", "esp": "braze", "account": "eu"}],
    });
    let (status, person) = app.post("/link-identifiers", &link).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        person["identifiers"][0],
        json!({"kind": "email_hash", "value": email("ann@example.com").value})
    );
    assert_eq!(
        person["identifiers"][1],
        json!({"kind": "esp_user_id", "value": "braze:eu:7"})
    );
    assert_eq!(app.identities.linked.lock().unwrap()[0].source, "api:crm");

    let both = json!({"email": "ann@example.com", "identifiers": link["identifiers"]});
    assert_eq!(app.post("/resolve-identity", &both).await.1, person);
    let bob = json!({"email": "bob@example.com", "identifiers": [{"kind": "external_id", "value": "8"}]});
    assert_eq!(app.post("/link-identifiers", &bob).await.0, StatusCode::OK);
    let two_people = json!({"email": "bob@example.com", "identifiers": link["identifiers"]});
    let (status, refused) = app.post("/resolve-identity", &two_people).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let message = "`identifiers[0]` belongs to another person than `email`: ask for one of them";
    assert_eq!(refused["error"]["message"], message);

    let alias = person["aliases"][0].as_str().unwrap();
    let (_, by_alias) = app
        .post("/resolve-identity", &json!({"universal_id": alias}))
        .await;
    assert_eq!(by_alias, person);
    let (_, by_email) = app
        .post("/resolve-identity", &json!({"email": " ANN@example.com"}))
        .await;
    assert_eq!(by_email, person);
    assert!(!person.to_string().contains("ann@"));
}
