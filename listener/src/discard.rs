//! Reads the body of a request that is refused for its length, so that its sender sees the answer.
//!
//! HTTP/1.1 lets a server answer early and close the connection. But then the system resets it as soon as more of the body
//! arrives, and clients that write all of their request before they read see a broken connection and no answer.

use std::{future::poll_fn, pin::Pin, time::Duration};

use axum::{
    body::{Body, HttpBody},
    http::{
        HeaderMap,
        header::{CONTENT_LENGTH, EXPECT},
    },
};
use tokio::time::timeout;

/// Longest body that is read to its end: three times what the host accepts by default. It takes no memory, only time.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Longest pause in a body. A client that sends nothing for so long is waiting for the answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads and drops a body whose announced length is refused, for at most `within`. It returns at once if the length is beyond
/// reason, and if the client waits for permission to send the body at all.
pub async fn discard(headers: &HeaderMap, mut body: Body, within: Duration) {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_none_or(|bytes| bytes > MOST_BYTES) || headers.contains_key(EXPECT) {
        return;
    }
    let rest = async {
        let mut body = Pin::new(&mut body);
        while let Ok(Some(Ok(_))) = timeout(PAUSE, poll_fn(|context| body.as_mut().poll_frame(context))).await
        {
        }
    };
    // Whoever is not done by then has had time enough.
    let _ = timeout(within, rest).await;
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        task::{Context, Poll},
        time::Instant,
    };

    use axum::{body::Bytes, http::HeaderValue};
    use hyper::body::Frame;

    use super::*;

    /// A body of which nothing arrives.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    async fn took(headers: &[(&'static str, &'static str)]) -> Duration {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let started = Instant::now();
        discard(&map, Body::new(Silent), Duration::from_secs(60)).await;
        started.elapsed()
    }

    #[tokio::test]
    async fn nobody_is_waited_for_who_sends_nothing() {
        assert!(took(&[]).await < PAUSE, "no length");
        assert!(took(&[("content-length", "16777217")]).await < PAUSE);
        assert!(took(&[("content-length", "9000000"), ("expect", "100-continue")]).await < PAUSE);
        let paused = took(&[("content-length", "9000000")]).await;
        assert!((PAUSE..20 * PAUSE).contains(&paused), "{paused:?}");
    }
}
