//! The webhook route with arbitrary requests to real plugins.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, Uri},
};

use crate::service::{self, Answer, CANARY};

/// A request as text: `METHOD path?query`, headers line by line, an empty line, the body. What can be no request on the wire
/// is left out.
pub fn run(bytes: &[u8]) {
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
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else {
        return;
    };
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
    let Ok(request) = request.body(Body::from(body.to_vec())) else {
        return;
    };
    let Answer {
        status,
        text,
        headers,
    } = service::send(request);
    // Real plugins never break a limit on bodies of this size, and the bus takes everything.
    assert!(status < 500, "{status}: {text}");
    assert!(
        !text.contains(CANARY) && !headers.contains(CANARY),
        "{headers}\n{text}"
    );
}
