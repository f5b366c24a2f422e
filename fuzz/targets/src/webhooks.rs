//! Sends arbitrary requests to real plugins through the webhook route.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, Uri},
};

use crate::service::{self, Answer, CANARY};

/// Sends a request given as text: `METHOD path?query`, headers line by line, an empty line, the body. Input that cannot be a
/// request on the wire is skipped.
pub fn run(bytes: &[u8]) {
    let Some((status, text)) = answer(bytes) else {
        return;
    };
    // Real plugins never exceed a limit with bodies of this size, and the bus accepts everything; of the deliveries that are
    // unproven and unreadable, a few are kept.
    assert!(
        status < 500 || text.contains("malformed_not_kept"),
        "{status}: {text}"
    );
    assert!(!text.contains(CANARY), "{text}");
}

/// Returns the host's response: status, and headers and body as text.
pub fn answer(bytes: &[u8]) -> Option<(u16, String)> {
    let (head, body) = match bytes.windows(2).position(|window| window == b"\n\n") {
        Some(end) => (&bytes[..end], &bytes[end + 2..]),
        None => (bytes, &b""[..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let (method, target) = match first.iter().position(|byte| *byte == b' ') {
        Some(blank) => (&first[..blank], &first[blank + 1..]),
        None => (&b"POST"[..], first),
    };
    let (method, uri) = (Method::from_bytes(method).ok()?, Uri::try_from(target).ok()?);
    let mut request = Request::builder().method(method).uri(uri);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Body::from(body.to_vec())).ok()?;
    let Answer {
        status,
        text,
        headers,
    } = service::send(request);
    Some((status, format!("{headers}\n{text}")))
}
