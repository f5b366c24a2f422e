//! Traces and logs: from a caller's `traceparent` to the stored row, to a collector, and into the log's
//! lines.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use event::{Hasher, Timestamp, TraceContext, TraceId, UniversalId};
use integration_tests::{Answer, System, eventually};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use serde_json::json;

const ADDRESS: &str = "traced.person@example.com";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const AT: &str = "2026-01-10T12:00:00Z";

/// A collector, with what it has received.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    bytes: Vec<Bytes>,
    keys: Vec<String>,
    spans: Vec<Span>,
    resources: Vec<KeyValue>,
}

impl Collector {
    /// Starts a collector that listens.
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let router = Router::new()
            .route("/v1/traces", post(Self::take))
            .with_state(collector.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, address)
    }

    async fn take(State(collector): State<Self>, headers: HeaderMap, body: Bytes) {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        let mut received = collector.0.lock().unwrap();
        received.keys.push(headers["x-key"].to_str().unwrap().to_owned());
        received.bytes.push(body);
        for part in request.resource_spans {
            received.resources = part.resource.unwrap_or_default().attributes;
            for scope in part.scope_spans {
                received.spans.extend(scope.spans);
            }
        }
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().spans.clone()
    }

    /// Returns the spans of a trace.
    fn trace(&self, id: TraceId) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace_id == id.number().to_be_bytes());
        spans
    }

    async fn until(&self, what: &str, is_there: impl Fn(&[Span]) -> bool) {
        eventually(what, async || is_there(&self.spans())).await;
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let found = spans.iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("no span `{name}` among {names:?}"))
}

/// Returns the attributes as texts.
fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes.iter().map(|pair| {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        (pair.key.as_str(), value.map_or_else(String::new, text))
    });
    pairs.collect()
}

fn headers(traceparent: &str) -> Vec<(String, String)> {
    let mut headers = crate::postmark_headers();
    headers.push(("traceparent".to_owned(), traceparent.to_owned()));
    headers
}

/// Returns the traces that are stored with a person's events, in the order of the events.
async fn stored_traces(system: &System, address: &str, events: usize) -> Vec<Option<TraceId>> {
    let identifier = Hasher::new().email_identifier(address).unwrap();
    let person = UniversalId::from_identifier(&identifier);
    let stores = system.stores().await;
    let rows = async || {
        let ids = std::slice::from_ref(&person);
        let history = stores.events.history(ids, Timestamp::default(), 100).await;
        history.expect("the history can be read")
    };
    eventually("the events are stored", async || rows().await.len() == events).await;
    rows().await.iter().map(|row| row.enrichment.trace_id).collect()
}

#[tokio::test]
async fn the_trace_of_a_delivery_is_stored_with_its_events_though_nothing_is_exported() {
    let system = System::start(crate::POSTMARK, &["postmark"]).await;
    let caller: TraceContext = CALLER.parse().unwrap();
    for (headers, message) in [
        (headers(CALLER), "m1"),
        (headers("00-not-a-trace-00"), "m2"),
        (crate::postmark_headers(), "m3"),
    ] {
        let at = format!("2026-01-10T12:00:0{}Z", &message[1..]);
        let body = crate::postmark_click(ADDRESS, message, &at);
        let answer = system.webhook("postmark", &headers, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let traces = stored_traces(&system, ADDRESS, 3).await;
    assert_eq!(traces[0], Some(caller.trace_id()));
    let made: Vec<TraceId> = traces[1..].iter().flatten().copied().collect();
    assert_eq!(made.len(), 2, "deliveries without a trace get one: {traces:?}");
    assert_ne!(made[0], made[1]);
    // On the bus it is as the caller sent it, for other readers of the bus.
    let mut records = system
        .stores()
        .await
        .bus
        .subscribe("test", &[store::bus::EVENTS_TOPIC])
        .await
        .unwrap();
    let records = records.poll(10, Duration::from_secs(5)).await.unwrap();
    assert_eq!(records[0].headers["traceparent"], CALLER);
}

/// Starts a collector and a system that exports to it, with these further lines in `[telemetry]`, and sends the system a delivery
/// that belongs to the trace [`CALLER`].
async fn export_a_delivery(telemetry: &str) -> (Collector, System) {
    let (collector, address) = Collector::start().await;
    let configuration = format!(
        "{}\n[telemetry]\nendpoint = 'http://{address}'\n{telemetry}headers = {{ x-key = 'hidden-key' }}\n",
        crate::POSTMARK
    );
    let system = System::start(&configuration, &["postmark"]).await;
    let body = crate::postmark_click(ADDRESS, "m1", AT);
    let answer = system.webhook("postmark", &headers(CALLER), body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    (collector, system)
}

#[tokio::test]
async fn strangers_name_their_trace_but_do_not_decide_that_it_is_exported() {
    let (collector, mut system) = export_a_delivery("sample_ratio = 0\n").await;
    let stranger: TraceContext = CALLER.parse().unwrap();
    let traces = stored_traces(&system, ADDRESS, 1).await;
    assert_eq!(traces, [Some(stranger.trace_id())]);
    // Those who may ask for decisions decide it.
    let asked = system
        .http
        .post(format!("http://{}/timing/decide", system.inference))
        .header("traceparent", CALLER.replace("4bf9", "6bf9"))
        .json(&json!({ "email": ADDRESS, "window_hours": 24 }));
    assert_eq!(Answer::of(asked).await.status, 200);
    collector
        .until("the decision's spans arrive", |spans| {
            spans.iter().any(|span| span.name == "POST /timing/decide")
        })
        .await;
    assert!(system.stop().await, "{}", system.log());
    let asked = collector.trace("6bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap());
    assert_eq!(collector.spans().len(), asked.len(), "{:?}", collector.spans());
}

#[tokio::test]
async fn a_delivery_is_one_trace_at_the_collector() {
    let (collector, mut system) = export_a_delivery("").await;
    let caller: TraceContext = CALLER.parse().unwrap();
    // One that the caller does not sample, one that is refused, and a decision.
    let quiet = CALLER.replace("4bf9", "5bf9").replace("-01", "-00");
    let body = crate::postmark_click(ADDRESS, "m2", "2026-01-10T12:00:02Z");
    assert_eq!(
        system.webhook("postmark", &headers(&quiet), body).await.status,
        200
    );
    let body = crate::postmark_click(ADDRESS, "m3", AT);
    let refused = [("content-type".to_owned(), "application/json".to_owned())];
    assert_eq!(system.webhook("postmark", &refused, body).await.status, 401);
    let asked = system
        .http
        .post(format!("http://{}/timing/decide", system.inference))
        .header("traceparent", CALLER.replace("4bf9", "6bf9"))
        .json(&json!({ "email": ADDRESS, "window_hours": 24 }));
    assert_eq!(Answer::of(asked).await.status, 200);

    let traces = stored_traces(&system, ADDRESS, 2).await;
    let quiet: TraceContext = quiet.parse().unwrap();
    assert_eq!(traces, [Some(caller.trace_id()), Some(quiet.trace_id())]);
    collector
        .until("the spans arrive", |spans| {
            let committed = spans.iter().filter(|span| span.name == "commit").count();
            committed >= 2 && spans.iter().any(|span| span.name == "decide")
        })
        .await;
    assert!(system.stop().await, "{}", system.log());

    let delivery = collector.trace(caller.trace_id());
    let server = named(&delivery, "POST /webhooks/{provider}");
    assert_eq!(server.kind, SpanKind::Server as i32);
    assert_eq!(server.parent_span_id, caller.span_id().to_be_bytes());
    let said = attributes(&server.attributes);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/webhooks/{provider}"),
        ("http.response.status_code", "200"),
        ("sendflowr.provider", "postmark"),
        ("sendflowr.account", "default"),
        ("sendflowr.outcome", "stored"),
        ("sendflowr.events.accepted", "1"),
    ] {
        assert_eq!(
            said.get(name).map(String::as_str),
            Some(value),
            "{name} in {said:?}"
        );
    }
    for name in ["plugin authenticate", "plugin normalize", "append"] {
        assert_eq!(named(&delivery, name).parent_span_id, server.span_id, "{name}");
    }
    assert_eq!(delivery.len(), 4, "{delivery:?}");
    assert_eq!(collector.trace(quiet.trace_id()), []);

    let spans = collector.spans();
    let batch = spans
        .iter()
        .find(|span| !span.links.is_empty())
        .expect("a batch is linked to the delivery");
    assert_eq!(batch.name, "process email-events");
    assert_eq!(batch.kind, SpanKind::Consumer as i32);
    assert_eq!(batch.links[0].trace_id, caller.trace_id().number().to_be_bytes());
    assert_eq!(batch.links[0].span_id, server.span_id);
    let of = |group: &str| {
        let batch = spans.iter().find(|span| {
            let said = attributes(&span.attributes);
            said.get("messaging.consumer.group.name")
                .is_some_and(|name| name == group)
        });
        let batch = batch.unwrap_or_else(|| panic!("no batch of {group}"));
        let mut steps: Vec<&str> = spans
            .iter()
            .filter(|span| span.parent_span_id == batch.span_id)
            .map(|span| span.name.as_str())
            .collect();
        steps.sort_unstable();
        steps
    };
    assert_eq!(
        of("sendflowr-events"),
        ["commit", "decode", "enrich", "profiles", "read", "write"]
    );
    assert_eq!(of("sendflowr-identity"), ["commit", "read", "write"]);

    let question = collector.trace("6bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap());
    let asked = named(&question, "POST /timing/decide");
    assert_eq!(named(&question, "decide").parent_span_id, asked.span_id);
    let refused = spans.iter().find(|span| {
        attributes(&span.attributes)
            .get("http.response.status_code")
            .is_some_and(|status| status == "401")
    });
    let refused = refused.expect("refusals are exported too");
    assert!(refused.parent_span_id.is_empty());
    let status = refused.status.clone().unwrap_or_default();
    assert_eq!(
        status.code,
        StatusCode::Unset as i32,
        "a refusal is the caller's error"
    );

    let received = collector.0.lock().unwrap();
    assert_eq!(attributes(&received.resources)["service.name"], "sendflowr");
    assert!(received.keys.iter().all(|key| key == "hidden-key"));
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("/health") || name.contains("/ready")),
        "{names:?}"
    );
    for bytes in &received.bytes {
        let text = String::from_utf8_lossy(bytes);
        for private in ["traced.person", "example.com", "secret", "bWU6", "hidden-key"] {
            assert!(!text.contains(private), "`{private}` was exported");
        }
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nobody_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let configuration = format!(
        "{}\n[telemetry]\nendpoint = 'http://{}'\n",
        crate::POSTMARK,
        silent.local_addr().unwrap()
    );
    let mut system = System::start(&configuration, &["postmark"]).await;
    for number in 0..20 {
        let body = crate::postmark_click(ADDRESS, &format!("m{number}"), AT);
        let began = Instant::now();
        let answer = system.webhook("postmark", &crate::postmark_headers(), body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    let told = |system: &System| system.log().matches("does not accept spans").count();
    eventually("the log reports it", async || told(&system) > 0).await;
    let metrics = system.host_get("/metrics").await.text;
    assert!(
        metrics.contains("sendflowr_telemetry_spans_total{outcome=\"failed\"}"),
        "{metrics}"
    );
    let began = Instant::now();
    assert!(system.stop().await, "{}", system.log());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(told(&system), 1, "{}", system.log());
}

#[tokio::test]
async fn every_log_line_is_json_and_names_nobody() {
    let arguments = ["--log-format", "json"];
    let mut system = System::start_with(crate::POSTMARK, &["postmark"], &arguments).await;
    let genuine = headers(CALLER);
    let forged = [("authorization".to_owned(), "Basic x".to_owned())];
    let click = crate::postmark_click(ADDRESS, "m1", AT);
    assert_eq!(
        system.webhook("postmark", &genuine, click.clone()).await.status,
        200
    );
    assert_eq!(system.webhook("postmark", &forged, click).await.status, 401);
    let broken = format!("{{ \"Recipient\": \"{ADDRESS}\"");
    assert_eq!(system.webhook("postmark", &genuine, broken).await.status, 400);
    let unknown = format!("nobody/{ADDRESS}");
    assert_eq!(system.webhook(&unknown, &genuine, "{}").await.status, 404);
    let mut named = genuine;
    named.push(("x-request-id".to_owned(), ADDRESS.to_owned()));
    assert_eq!(system.webhook("postmark", &named, "{").await.status, 400);
    let question = json!({ "email": ADDRESS, "window_hours": 24 });
    assert_eq!(system.ask("/timing/decide", &question).await.status, 200);
    stored_traces(&system, ADDRESS, 1).await;
    assert!(system.stop().await, "{}", system.log());

    let log = system.log();
    let mut traced = 0;
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let at = line["timestamp"].as_str().expect("a line has a time");
        assert!(at.ends_with('Z') && at.parse::<Timestamp>().is_ok(), "{at}");
        assert!(line["level"].is_string() && line["target"].is_string(), "{line}");
        if line["spans"][0]["trace_id"] == CALLER[3..35] {
            traced += 1;
        }
    }
    assert!(traced >= 2, "no line carries the trace's id:\n{log}");
    for private in ["traced.person", "example.com", "bWU6c2VjcmV0"] {
        assert!(!log.contains(private), "`{private}` was logged:\n{log}");
    }
}

#[tokio::test]
async fn a_line_of_a_request_carries_the_traces_id_whatever_is_logged() {
    let arguments = ["--log-format", "json"];
    // The filter of the example in the documentation: the request's span is below its level.
    let chosen = "warn,sendflowr_host=debug";
    let mut system = System::start_logging(crate::POSTMARK, &["postmark"], &arguments, chosen).await;
    let forged = [
        ("authorization".to_owned(), "Basic x".to_owned()),
        ("traceparent".to_owned(), CALLER.to_owned()),
    ];
    let click = crate::postmark_click(ADDRESS, "m1", AT);
    assert_eq!(system.webhook("postmark", &forged, click).await.status, 401);
    assert!(system.stop().await, "{}", system.log());
    let log = system.log();
    let refused = log.lines().find(|line| line.contains("delivery refused"));
    let refused: serde_json::Value = serde_json::from_str(refused.expect("it is logged")).unwrap();
    assert_eq!(refused["spans"][0]["trace_id"], CALLER[3..35], "{refused}");
    assert!(
        !log.contains("sendflowr::roles"),
        "nothing else is let through:\n{log}"
    );
}
