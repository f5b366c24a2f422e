//! The span of a request and its trace context.
//!
//! Every request has a [`TraceContext`], exported or not: the caller's if it sent one, otherwise a new one. The binary
//! decides whether spans are exported, by the layers that it adds to `tracing`; if they are, the context is that of the
//! exported span. The names of attributes follow OpenTelemetry's conventions for HTTP.

use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode, Version},
};
use event::{TRACE_HEADER, TraceContext, TraceId};
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, Value,
    trace::{SpanContext, Status, TraceContextExt, TraceState},
};
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Routes that orchestrators request every few seconds; their traces would bury the others.
const UNTRACED: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Maximum number of traces that a span is linked to: as many as OpenTelemetry keeps.
const MAX_LINKS: usize = 128;

/// Name of a request's span.
const SPAN: &str = "request";

/// A request's span and its trace context. Handlers find it among the request's extensions.
#[derive(Clone)]
pub struct RequestTrace {
    span: Span,
    /// The span as it is exported, if it is.
    exported: Option<Context>,
    context: TraceContext,
}

/// Who sends a service its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Those who may use it: they decide which of their traces are exported.
    Known,
    /// Anybody. They name their trace, but must not decide that it is exported.
    Strangers,
}

/// Marks a context that a stranger sent, for the sampler.
#[derive(Debug, Clone, Copy)]
pub struct SentByStranger;

impl RequestTrace {
    /// Opens the span of a request, within the caller's trace if the request names one. Log lines within it contain the
    /// trace's id.
    pub fn begin(request: &Request, callers: Callers) -> Self {
        let caller = caller(request);
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        if route.is_some_and(|route| UNTRACED.contains(&route)) {
            return Self {
                span: Span::none(),
                exported: None,
                context: caller.unwrap_or_else(made_here),
            };
        }
        let span = tracing::info_span!(SPAN, otel.kind = "server", trace_id = tracing::field::Empty);
        if let Some(caller) = caller {
            let parent = Context::new().with_remote_span_context(span_context(caller));
            let parent = match callers {
                Callers::Known => parent,
                Callers::Strangers => parent.with_value(SentByStranger),
            };
            // Fails if spans are not exported.
            let _ = span.set_parent(parent);
        }
        let exported = Some(span.context()).filter(|context| context.span().span_context().is_valid());
        let context = match &exported {
            Some(context) => trace_context(context.span().span_context()),
            None => caller,
        };
        let context = context.unwrap_or_else(made_here);
        span.record("trace_id", tracing::field::display(context.trace_id()));
        let trace = Self {
            span,
            exported,
            context,
        };
        trace.describe(request, route);
        trace
    }

    /// Records what is known about the request before it is answered. Not its path: people put addresses there.
    fn describe(&self, request: &Request, route: Option<&str>) {
        let Some(context) = &self.exported else { return };
        let span = context.span();
        let method = known_method(request.method());
        span.set_attribute(KeyValue::new("http.request.method", method));
        if let Some(route) = route {
            span.update_name(format!("{method} {route}"));
            span.set_attribute(KeyValue::new("http.route", route.to_owned()));
        } else {
            span.update_name(method);
        }
        let version = match request.version() {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        span.set_attribute(KeyValue::new("network.protocol.version", version));
    }

    /// Checks whether this metadata belongs to the span of a request.
    pub fn is_span(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.name() == SPAN && metadata.target() == module_path!()
    }

    /// Returns the span, to run the request in.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Returns the trace context for whatever this request causes.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Adds an attribute to the request's span, if it is exported. The value must never be personal data.
    pub fn attribute(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.exported {
            context.span().set_attribute(KeyValue::new(name, value.into()));
        }
    }

    /// Records the response's status.
    pub fn answered(&self, status: StatusCode) {
        let Some(context) = &self.exported else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(status.as_u16()),
        ));
        // A 4xx response is the caller's error, not this span's.
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
    }
}

/// Links `span`, if it is exported, to the traces that caused it: to each of them once, and only to those that are
/// exported too.
pub fn link(span: &Span, causes: impl IntoIterator<Item = TraceContext>) {
    if span.is_disabled() {
        return;
    }
    let mut linked = Vec::new();
    for cause in causes {
        if linked.len() == MAX_LINKS {
            break;
        }
        if cause.is_sampled() && !linked.contains(&cause.trace_id()) {
            linked.push(cause.trace_id());
            span.add_link(span_context(cause));
        }
    }
}

/// Returns the context that the caller sent. Several contexts contradict each other and count as none, as the W3C requires.
fn caller(request: &Request) -> Option<TraceContext> {
    let mut values = request.headers().get_all(TRACE_HEADER).iter();
    let (first, second) = (values.next()?, values.next());
    match second {
        None => first.to_str().ok()?.parse().ok(),
        Some(_) => None,
    }
}

/// Creates the context of a trace that begins here and is not exported.
fn made_here() -> TraceContext {
    loop {
        // Practically never runs more than once: only 0 is not an id.
        if let Some(trace_id) = TraceId::new(rand::random())
            && let Some(context) = TraceContext::new(trace_id, rand::random(), false)
        {
            return context;
        }
    }
}

fn span_context(context: TraceContext) -> SpanContext {
    let flags = if context.is_sampled() {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::NOT_SAMPLED
    };
    SpanContext::new(
        context.trace_id().number().into(),
        SpanId::from(context.span_id()),
        flags,
        true,
        TraceState::NONE,
    )
}

fn trace_context(span: &SpanContext) -> Option<TraceContext> {
    let trace_id = TraceId::new(u128::from_be_bytes(span.trace_id().to_bytes()))?;
    let span_id = u64::from_be_bytes(span.span_id().to_bytes());
    TraceContext::new(trace_id, span_id, span.is_sampled())
}

/// Returns a standard method's name, or `_OTHER` for any method that a caller may invent.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(headers: &[&str]) -> Request {
        let mut request = axum::http::Request::builder().uri("/webhooks/acme");
        for value in headers {
            request = request.header(TRACE_HEADER, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn goes_on_with_the_callers_trace_or_begins_one() {
        let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let begun = |headers: &[&str]| RequestTrace::begin(&request(headers), Callers::Strangers).context();
        assert_eq!(begun(&[sent]).to_string(), sent);
        let other = sent.replace('4', "5");
        for headers in [&[][..], &["ann@example.com"], &[sent, other.as_str()]] {
            let context = begun(headers);
            assert!(!context.is_sampled());
            assert_ne!(context.trace_id(), begun(headers).trace_id(), "{headers:?}");
            assert!(!sent.contains(&context.trace_id().to_string()));
        }
    }

    #[test]
    fn contexts_survive_opentelemetry() {
        for flags in ["00", "01"] {
            let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            let context: TraceContext = text.parse().unwrap();
            assert_eq!(trace_context(&span_context(context)), Some(context));
        }
    }
}
