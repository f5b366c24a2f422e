//! The service around the decisions: OpenAPI description, metrics, training, shutdown.

use std::{collections::BTreeSet, net::SocketAddr, sync::atomic::Ordering, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use sendflowr_inference::{
    InferenceConfig, InferenceError, RawInferenceConfig, Server, load_population, model::Population,
    save_population, train,
};
use serde_json::{Value, json};
use store::testing::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    NOW, TestApp,
    batch::Warnings,
    call,
    fakes::{Stores, evening_clicks},
    now,
};

#[tokio::test]
async fn the_documentation_needs_no_network() {
    let app = TestApp::start(Stores::default());
    let (status, page) = app.get("/docs/").await;
    assert_eq!(status, StatusCode::OK);
    let page = page.as_str().unwrap();
    assert!(page.contains("swagger-ui") && !page.contains("https://"));
    assert_eq!(app.get("/docs/swagger-ui-bundle.js").await.0, StatusCode::OK);
}

#[tokio::test]
async fn metrics_count_decisions_by_outcome() {
    let app = TestApp::start(Stores::default());
    app.post("/timing/decide", &json!({"email": "a@example.com", "now": NOW}))
        .await;
    app.post("/timing/decide", &json!({"email": "a@example.com", "now": NOW}))
        .await;
    app.post("/timing/decide", &json!({"email": "a"})).await;
    let (status, text) = app.get("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let text = text.as_str().unwrap();
    for line in [
        "sendflowr_inference_decisions_total{outcome=\"decided\",rung=\"population\"} 2",
        "sendflowr_inference_cache_lookups_total{cache=\"curve\",result=\"hit\"} 1",
        "sendflowr_inference_requests_total{route=\"/timing/decide\",status=\"4xx\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn health_and_index_answer() {
    let app = TestApp::start(Stores::default());
    assert_eq!(
        app.get("/health").await,
        (StatusCode::OK, json!({"status": "ok"}))
    );
    assert_eq!(app.get("/ready").await.1["status"], "ready");
    let (_, index) = app.get("/").await;
    assert_eq!(index["population_version"], Population::builtin().version());
}

#[tokio::test]
async fn everything_but_the_probes_and_the_description_asks_for_the_token() {
    let (token, former, metrics) = ("0123456789abcdef", "fedcba9876543210", "metrics-0123456789");
    let tokens = json!({ "token": format!("{token}\n{former}"), "metrics_token": metrics });
    let raw: RawInferenceConfig = serde_json::from_value(tokens).unwrap();
    let app = TestApp::start_with(Stores::default(), &InferenceConfig::try_from(raw).unwrap());
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    assert_eq!(
        openapi["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
    let mut guarded = 0;
    for (path, item) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let is_open = ["/", "/health", "/ready"].contains(&path.as_str());
            assert_eq!(operation["security"].is_null(), is_open, "{method} {path}");
            for failure in ["401", "500", "503"] {
                assert!(
                    is_open || operation["responses"][failure].is_object(),
                    "{method} {path}: {failure}"
                );
            }
            assert!(
                !is_open || operation["responses"]["401"].is_null(),
                "{method} {path}"
            );
            let request = || {
                Request::builder()
                    .method(method.to_uppercase().as_str())
                    .uri(path.replace(['{', '}'], ""))
            };
            let (status, body) = call(app.server.router(), request().body(Body::empty()).unwrap()).await;
            assert_eq!(status == StatusCode::UNAUTHORIZED, !is_open, "{method} {path}");
            if is_open {
                continue;
            }
            assert_eq!(body["error"]["code"], "unauthorized");
            for (token, opens) in [(token, true), (former, true), (metrics, path == "/metrics")] {
                let with_token = request().header("authorization", format!("Bearer {token}"));
                let (status, _) = call(app.server.router(), with_token.body(Body::empty()).unwrap()).await;
                assert_eq!(
                    status != StatusCode::UNAUTHORIZED,
                    opens,
                    "{method} {path} {token}"
                );
            }
            guarded += 1;
        }
    }
    assert!(guarded >= 10, "{guarded} operations ask for the token");
    assert_eq!(app.get("/openapi.json").await.0, StatusCode::OK);
}

#[tokio::test]
async fn beyond_this_machine_a_token_is_needed() {
    let raw = |raw: Value| serde_json::from_value::<RawInferenceConfig>(raw).unwrap();
    let error = InferenceConfig::try_from(raw(json!({ "listen": "0.0.0.0:8001" }))).unwrap_err();
    assert!(error.to_string().contains("set `inference.token`"), "{error}");
    let open = raw(json!({ "listen": "0.0.0.0:8001", "allow_anonymous": true }));
    assert!(InferenceConfig::try_from(open).is_ok());
}

#[tokio::test]
async fn a_slow_store_ends_in_a_timeout() {
    let stores = Stores::default();
    let config = InferenceConfig {
        request_timeout: Duration::from_millis(50),
        explanation_queue: 1,
        ..InferenceConfig::default()
    };
    let app = TestApp::start_with(stores, &config);
    // People are known, but explanations cannot be stored: writers and queue fill up, then decisions wait.
    app.post("/timing/decide", &json!({"email": "a@example.com", "now": NOW}))
        .await;
    app.events.down.store(true, Ordering::SeqCst);
    let mut last = (StatusCode::OK, Value::Null);
    for window_hours in 2..20 {
        let request = json!({"email": "a@example.com", "now": NOW, "window_hours": window_hours});
        last = app.post("/timing/decide", &request).await;
        if last.0 != StatusCode::OK {
            break;
        }
    }
    assert_eq!(
        (last.0, &last.1["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("timed_out"))
    );
}

#[tokio::test]
async fn training_gives_tables_that_survive_the_disk() {
    let stores = Stores::default();
    for person in 0..60 {
        evening_clicks(&stores, &format!("p{person}@example.com"), 12, now());
    }
    let config = InferenceConfig::default();
    let fit = train(
        &config,
        &*stores.events,
        &*stores.identities,
        &*stores.profiles,
        now(),
    );
    let tables = fit
        .await
        .unwrap()
        .expect("sixty people with twelve clicks each are something to learn from");
    assert_ne!(tables.version(), Population::builtin().version());
    assert_eq!(tables.people(), 60);
    stores.profiles.down.store(true, Ordering::SeqCst);
    let fit = train(
        &config,
        &*stores.events,
        &*stores.identities,
        &*stores.profiles,
        now(),
    );
    assert_eq!(fit.await.unwrap().as_ref(), Some(&tables), "events tell the same");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(load_population(folder.path()).unwrap(), None);
    save_population(folder.path(), &tables).unwrap();
    assert_eq!(load_population(folder.path()).unwrap(), Some(tables.clone()));

    let config = InferenceConfig {
        model_folder: Some(folder.path().to_owned()),
        ..config
    };
    let app = TestApp::start_with(stores, &config);
    assert_eq!(app.get("/").await.1["population_version"], tables.version());
    std::fs::write(folder.path().join("population.json"), "{}").unwrap();
    assert!(load_population(folder.path()).is_err());
}

#[tokio::test]
async fn built_in_tables_are_recorded_under_their_version_but_not_preferred() {
    let folder = tempfile::tempdir().unwrap();
    let config = InferenceConfig {
        model_folder: Some(folder.path().join("model")),
        ..InferenceConfig::default()
    };
    let app = TestApp::start_with(Stores::default(), &config);
    let version = app.get("/").await.1["population_version"].clone();
    let version = version.as_str().unwrap();
    let path = folder.path().join(format!("model/population-{version}.json"));
    let recorded: Population = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(recorded.version(), version);
    assert_eq!(load_population(&folder.path().join("model")).unwrap(), None);
}

#[tokio::test]
async fn a_refit_is_swapped_in_without_a_restart() {
    let stores = Stores::default();
    for person in 0..60 {
        evening_clicks(
            &stores,
            &format!("p{person}@example.com"),
            12,
            std::time::SystemTime::now().into(),
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let config = InferenceConfig {
        refit_interval: Duration::from_millis(10),
        model_folder: Some(folder.path().to_owned()),
        ..InferenceConfig::default()
    };
    let app = TestApp::start_with(stores, &config);
    let builtin = Population::builtin();
    eventually("the tables are swapped", async || {
        app.get("/").await.1["population_version"] != builtin.version()
    })
    .await;
    assert!(load_population(folder.path()).unwrap().is_some());
}

#[tokio::test]
async fn tables_that_another_process_saves_are_swapped_in_without_a_restart() {
    let stores = Stores::default();
    for person in 0..60 {
        evening_clicks(&stores, &format!("p{person}@example.com"), 12, now());
    }
    let folder = tempfile::tempdir().unwrap();
    let config = InferenceConfig {
        model_folder: Some(folder.path().to_owned()),
        ..InferenceConfig::default()
    };
    let app = TestApp::start_with(stores, &config);
    let fit = train(&config, &*app.events, &*app.identities, &*app.profiles, now());
    let tables = fit.await.unwrap().unwrap();
    let in_use = async || app.get("/").await.1["population_version"].clone();
    assert_ne!(in_use().await, tables.version());
    save_population(folder.path(), &tables).unwrap();
    eventually("the tables are swapped", async || {
        in_use().await == tables.version()
    })
    .await;
}

#[tokio::test]
async fn without_a_token_pages_of_others_are_refused_on_every_route_that_would_ask_for_one() {
    let app = TestApp::start(Stores::default());
    let openapi = serde_json::to_value(Server::openapi()).unwrap();
    let from = |method: &str, path: &str, origin: Option<&str>| {
        let request = Request::builder()
            .method(method.to_uppercase().as_str())
            .uri(path.replace(['{', '}'], ""))
            .header("host", "127.0.0.1:8001")
            .header("content-type", "text/plain");
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        call(app.server.router(), request.body(Body::empty()).unwrap())
    };
    let own = Some("http://127.0.0.1:8001");
    let foreign = Some("https://evil.example");
    for (path, item) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let is_open = operation["security"].is_null();
            assert_eq!(
                operation["responses"]["403"].is_null(),
                is_open,
                "{method} {path}"
            );
            for origin in [None, own] {
                let (status, _) = from(method, path, origin).await;
                assert_ne!(status, StatusCode::FORBIDDEN, "{method} {path} {origin:?}");
            }
            let (status, answer) = from(method, path, foreign).await;
            assert_eq!(
                status == StatusCode::FORBIDDEN,
                !is_open,
                "{method} {path}: {answer}"
            );
            if !is_open {
                assert_eq!(answer["error"]["code"], "foreign_origin");
            }
        }
    }
    assert_eq!(from("get", "/docs/", own).await.0, StatusCode::OK);
    assert_eq!(from("get", "/openapi.json", own).await.0, StatusCode::OK);

    // A page does not know the token.
    let token = "0123456789abcdef";
    let raw: RawInferenceConfig = serde_json::from_value(json!({ "token": token })).unwrap();
    let app = TestApp::start_with(Stores::default(), &InferenceConfig::try_from(raw).unwrap());
    let request = Request::post("/resolve-identity")
        .header("host", "127.0.0.1:8001")
        .header("origin", "https://crm.example")
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from("{\"email\": \"ann@example.com\"}"))
        .unwrap();
    assert_eq!(call(app.server.router(), request).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_store_that_is_down_is_logged_once_per_request_and_not_for_all_of_them() {
    let warnings = Warnings::default();
    // This test runs on one thread.
    let _logging = tracing::subscriber::set_default(warnings.clone());
    let app = TestApp::start(Stores::default());
    app.events.down.store(true, Ordering::SeqCst);
    app.profiles.down.store(true, Ordering::SeqCst);
    let failing = async || {
        let question = json!({"email": "ann@example.com", "now": NOW});
        let (status, _) = app.post("/timing/decide", &question).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    };
    failing().await;
    assert_eq!(warnings.0.load(Ordering::SeqCst), 1);
    for _ in 0..500 {
        failing().await;
    }
    // A burst of ten, and one more for every second that this takes on a busy machine.
    assert!(warnings.0.load(Ordering::SeqCst) < 100);
}

#[tokio::test]
async fn a_request_id_that_may_be_an_address_is_replaced() {
    let app = TestApp::start(Stores::default());
    for (given, is_kept) in [("00-4bf92f35-01", true), ("ann@example.com", false)] {
        let request = Request::get("/health").header("x-request-id", given);
        let response = app.server.router().oneshot(request.body(Body::empty()).unwrap());
        let id = response.await.unwrap().headers()["x-request-id"].clone();
        assert_eq!(id == given, is_kept, "{id:?}");
        assert!(is_kept || id.len() == 36, "{id:?}");
    }
}

#[tokio::test]
async fn shutdown_stores_what_waits() {
    let stores = Stores::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(sendflowr_inference::run(
        InferenceConfig::default(),
        stores.dependencies(),
        listener,
        shutdown.clone(),
    ));
    let body = json!({"email": "a@example.com", "now": NOW}).to_string();
    let request = format!(
        "POST /timing/decide HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = written(address, request.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("x-request-id"),
        "{answer}"
    );
    shutdown.cancel();
    let ended: Result<(), InferenceError> = running.await.unwrap();
    assert!(ended.is_ok());
    assert_eq!(stores.events.explanations.lock().unwrap().len(), 1);
}

/// Writes all of a request before anything is read, and returns the answer until the connection is closed.
async fn written(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// More than the system's buffers take: a connection that is closed early breaks while the client still writes.
#[tokio::test]
async fn who_writes_a_body_that_is_too_large_before_reading_sees_the_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(sendflowr_inference::run(
        InferenceConfig::default(),
        Stores::default().dependencies(),
        listener,
        shutdown.clone(),
    ));
    let mut request =
        b"POST /timing/decide HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 16000000\r\n\r\n"
            .to_vec();
    request.resize(request.len() + 16_000_000, b' ');
    let answer = written(address, &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"),
        "{answer}"
    );
    shutdown.cancel();
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test]
async fn people_do_not_share_curves() {
    let stores = Stores::default();
    let clock = event::Timestamp::from(std::time::SystemTime::now());
    for (person, days) in [("a@example.com", 10), ("b@example.com", 20)] {
        evening_clicks(&stores, person, days, clock);
    }
    let app = TestApp::start(stores);
    let mut curves = BTreeSet::new();
    for person in ["a@example.com", "b@example.com", "stranger@example.com"] {
        let (_, decision) = app
            .post("/timing/decide", &json!({"email": person, "explain": true}))
            .await;
        curves.insert(decision["explanation"]["profile_digest"].to_string());
    }
    assert_eq!(curves.len(), 3);
    let (_, text) = app.get("/metrics").await;
    let misses = "sendflowr_inference_cache_lookups_total{cache=\"curve\",result=\"miss\"} 3";
    assert!(text.as_str().unwrap().contains(misses), "{text}");
}
