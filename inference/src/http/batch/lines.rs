//! Splits a request body into lines, in windows, without ever holding more than one window and one chunk of the body.

use std::{io, time::Duration};

use axum::body::{Body, BodyDataStream, Bytes};
use futures::{FutureExt, StreamExt};

use crate::service::WINDOW_LINES;

/// Longest line: a request with the maximum of 400 blackout days and 100 signals has some 16 kB.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;

/// One line without its line end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The content of the line.
    Text(Vec<u8>),
    /// The line was longer than [`MAX_LINE_BYTES`] and was discarded.
    TooLong,
}

/// The lines of a body.
pub(super) struct Lines {
    body: BodyDataStream,
    /// Received bytes that are not yet split.
    piece: Bytes,
    /// The beginning of a line whose end has not been received.
    begun: Vec<u8>,
    is_too_long: bool,
    has_ended: bool,
    /// The error that ended the body, kept while the lines before it are answered.
    broken: Option<io::Error>,
    stall: Duration,
    full_windows: bool,
}

impl Lines {
    /// Returns the lines of `body`, which fails if nothing is received for `stall`. `full_windows` determines whether a window
    /// waits until it is full or takes what has been received.
    pub(super) fn of(body: Body, stall: Duration, full_windows: bool) -> Self {
        Self {
            body: body.into_data_stream(),
            piece: Bytes::new(),
            begun: Vec::new(),
            is_too_long: false,
            has_ended: false,
            broken: None,
            stall,
            full_windows,
        }
    }

    /// Returns the next lines, at least one and at most [`WINDOW_LINES`]; `None` after the last. If the body breaks off, the
    /// lines before that are returned first, and then the error.
    pub(super) async fn window(&mut self) -> Option<io::Result<Vec<Line>>> {
        if let Some(error) = self.broken.take() {
            return Some(Err(error));
        }
        let mut window = Vec::new();
        while window.len() < WINDOW_LINES {
            let next = if self.full_windows || window.is_empty() {
                self.next().await
            } else {
                match self.next().now_or_never() {
                    Some(next) => next,
                    None => break,
                }
            };
            match next {
                Ok(Some(line)) => window.push(line),
                Ok(None) => break,
                Err(error) if window.is_empty() => return Some(Err(error)),
                Err(error) => {
                    self.broken = Some(error);
                    break;
                }
            }
        }
        (!window.is_empty()).then_some(Ok(window))
    }

    /// Returns the next line. Cancel safe: nothing that was received is lost if the future is dropped.
    async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(end) = self.piece.iter().position(|byte| *byte == b'\n') {
                let last = self.piece.split_to(end + 1);
                self.keep(&last[..end]);
                return Ok(Some(self.line()));
            }
            let begin = std::mem::take(&mut self.piece);
            self.keep(&begin);
            if self.has_ended {
                let is_begun = self.is_too_long || !self.begun.is_empty();
                return Ok(is_begun.then(|| self.line()));
            }
            match tokio::time::timeout(self.stall, self.body.next()).await {
                Ok(Some(Ok(piece))) => self.piece = piece,
                Ok(Some(Err(error))) => return Err(io::Error::other(error)),
                Ok(None) => self.has_ended = true,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_too_long || self.begun.len() + bytes.len() > MAX_LINE_BYTES {
            self.is_too_long = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn line(&mut self) -> Line {
        let text = std::mem::take(&mut self.begun);
        if std::mem::take(&mut self.is_too_long) {
            Line::TooLong
        } else {
            Line::Text(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    fn body(pieces: &[&'static str]) -> Body {
        let pieces: Vec<io::Result<Bytes>> = pieces
            .iter()
            .map(|piece| match *piece {
                "broken" => Err(io::ErrorKind::ConnectionReset.into()),
                piece => Ok(Bytes::from_static(piece.as_bytes())),
            })
            .collect();
        Body::from_stream(futures::stream::iter(pieces))
    }

    async fn texts(mut lines: Lines) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(window) = lines.window().await {
            match window {
                Ok(window) => texts.extend(window.into_iter().map(|line| match line {
                    Line::Text(text) => String::from_utf8(text).unwrap(),
                    Line::TooLong => "too long".to_owned(),
                })),
                Err(error) => {
                    texts.push(format!("broken: {}", error.kind()));
                    break;
                }
            }
        }
        texts
    }

    #[tokio::test]
    async fn lines_are_what_stands_between_line_ends_however_the_body_is_cut() {
        for pieces in [
            vec!["a\nb\n\nc"],
            vec!["a", "\n", "b\n", "\n", "", "c"],
            vec!["a\nb", "\n\nc\n"],
        ] {
            assert_eq!(
                texts(Lines::of(body(&pieces), STALL, true)).await,
                ["a", "b", "", "c"]
            );
            assert_eq!(
                texts(Lines::of(body(&pieces), STALL, false)).await,
                ["a", "b", "", "c"]
            );
        }
        assert!(texts(Lines::of(body(&[]), STALL, true)).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_not_kept_and_harms_no_other() {
        let long = "x".repeat(MAX_LINE_BYTES + 1);
        let just = "y".repeat(MAX_LINE_BYTES);
        let text = format!("a\n{long}\n{just}\n{long}{long}");
        let pieces: Vec<io::Result<Bytes>> = text
            .as_bytes()
            .chunks(1_000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let body = Body::from_stream(futures::stream::iter(pieces));
        let lines = texts(Lines::of(body, STALL, true)).await;
        assert_eq!(lines, ["a", "too long", &just, "too long"]);
    }

    #[tokio::test]
    async fn what_came_before_a_break_is_answered_and_the_break_is_told() {
        for full in [true, false] {
            let lines = Lines::of(body(&["a\nb", "broken"]), STALL, full);
            assert_eq!(texts(lines).await, ["a", "broken: other error"]);
        }
    }

    #[tokio::test]
    async fn a_sender_who_stalls_is_given_up() {
        let first = futures::stream::iter([io::Result::Ok(Bytes::from_static(b"a\nb"))]);
        let body = Body::from_stream(first.chain(futures::stream::pending()));
        let lines = Lines::of(body, Duration::from_millis(20), true);
        assert_eq!(texts(lines).await, ["a", "broken: timed out"]);
    }
}
