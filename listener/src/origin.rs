//! Keeps other web pages from changing anything in a service without a token.
//!
//! A browser sends any page's requests to loopback too, on behalf of whoever opened the page. With a `POST` it names the page in
//! `Origin`, which a page cannot change; callers that are not browsers send none and are not affected. A page whose own name is
//! made to lead to this machine (DNS rebinding) is not recognized: only a token keeps that away.

use axum::http::{
    HeaderMap, HeaderValue, Uri,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Returns whether the request comes from a page at another host or port than it was sent to. An origin that cannot be read,
/// such as `null`, is foreign.
pub(crate) fn is_foreign(headers: &HeaderMap) -> bool {
    headers.get_all(ORIGIN).iter().any(|origin| {
        let page = text(Some(origin)).and_then(|origin| origin.parse::<Uri>().ok());
        let Some(page) = page else { return true };
        let usual_port = match page.scheme_str() {
            Some("https") => 443,
            _ => 80,
        };
        let place = |authority: &Authority| {
            let port = authority.port_u16().unwrap_or(usual_port);
            (authority.host().to_ascii_lowercase(), port)
        };
        let asked = text(headers.get(HOST)).and_then(|host| host.parse::<Authority>().ok());
        match (page.authority(), &asked) {
            (Some(page), Some(asked)) => place(page) != place(asked),
            _ => true,
        }
    })
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(origin: &str, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(HOST, host.parse().unwrap());
        is_foreign(&headers)
    }

    #[test]
    fn pages_of_other_hosts_and_ports_are_foreign() {
        for (origin, host) in [
            ("http://127.0.0.1:8001", "127.0.0.1:8001"),
            ("http://LocalHost:8001", "localhost:8001"),
            ("http://[::1]:8001", "[::1]:8001"),
            ("https://timing.example.com", "timing.example.com"),
            ("https://timing.example.com", "timing.example.com:443"),
            ("http://timing.example.com:80", "timing.example.com"),
        ] {
            assert!(!foreign(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "127.0.0.1:8001"),
            ("http://127.0.0.1:3000", "127.0.0.1:8001"),
            ("http://localhost:8001", "127.0.0.1:8001"),
            ("https://timing.example.com", "timing.example.com:80"),
            ("null", "127.0.0.1:8001"),
            ("file://", "127.0.0.1:8001"),
            ("", "127.0.0.1:8001"),
        ] {
            assert!(foreign(origin, host), "{origin} {host}");
        }
        let mut headers = HeaderMap::new();
        assert!(!is_foreign(&headers));
        headers.insert(ORIGIN, "http://127.0.0.1:8001".parse().unwrap());
        assert!(is_foreign(&headers), "without a host there is nothing to compare");
    }
}
