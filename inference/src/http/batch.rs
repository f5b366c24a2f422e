//! Decisions for any number of people in one request: one line in, one line out, with bounded memory on both sides.

mod lines;

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Instrument;
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    body::{self, RawQuery},
    question::DecideRequest,
};
use crate::{
    config::MAX_CAPACITY,
    decision::Capacity,
    error::{ApiError, ErrorBody, ErrorDetails},
    inquiry::Inquiry,
    service::{Batch, Decision},
};
use lines::{Line, Lines, MAX_LINE_BYTES};

/// Maximum number of batches in progress at once, some 80 MB each. Further batches wait, and are told to try again when the
/// request times out. Two keep two cores busy; the others wait for their callers.
pub(crate) const MAX_BATCHES: usize = 4;

/// Number of windows that are computed ahead while the window before them is answered, one core each.
const AHEAD: usize = 2;

/// A caller who neither sends nor reads for this long is considered gone: it would only block the place of another batch.
const STALL: Duration = Duration::from_secs(60);

/// A window is answered in pieces of about this size, a few lines each: a slow caller is one who reads, and shows it with each of
/// them. The server writes at most sixteen pieces at once, so that 64 kB a minute are enough beyond what the network holds.
const PIECE_BYTES: usize = 4_096;

/// Content type of JSON lines.
const NDJSON: &str = "application/x-ndjson";

/// Settings of a whole batch.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BatchQuery {
    /// Number of mails that each provider takes per minute, 1 to 10,000,000. Default: `[inference.capacity_per_minute]`, and no
    /// limit for providers that are not in it. Requests that name no `esp` count as one provider.
    #[param(value_type = Option<u32>, example = 6000, minimum = 1, maximum = 10_000_000)]
    capacity_per_minute: Option<i64>,
}

/// The answer to one line: a decision or an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchResult {
    /// Index of the line, from 0.
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub index: u64,
    /// The HTTP status that the request would have had on its own.
    #[schema(example = 200, minimum = 200, maximum = 599)]
    pub status: u16,
    /// The decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Why there is no decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetails>,
}

/// Decides for any number of people; an invalid line does not affect the others.
///
/// Takes one request per line, each as for `POST /timing/decide` and at most 64 KiB, and answers with one line each, in the
/// same order, while the request is still being sent. Send and read at the same time: if you stop reading, the service stops
/// reading your request. A connection on which you neither send nor read for a minute is cut off. A response that ends without
/// its last chunk is incomplete. Generators of clients cannot express this: `docs/timing.md` has a client of a few lines.
///
/// **Capacity.** If a provider takes a limited number of mails per minute, no minute of `trigger_at` gets more than that
/// within the batch. Mails of other requests or batches are not counted: send a campaign as one batch. Lines are placed in
/// windows of 1,024: within a window, the line that would lose most by moving chooses first, and a window never takes back a
/// minute that an earlier one has assigned. A line that must move gets the best minute that is free and that all guards allow,
/// or, in the control group, a random one of these; `moved` says from where and what it costs. A line for which no allowed minute
/// is free has the error `over_capacity` (409). With a capacity, a window is answered when it is full or the request has ended,
/// so that the same lines always get the same answers; without one, lines are answered as they arrive.
///
/// **No herd.** People of whom nothing is known do not all get the same minute: each gets, by a hash of their id, one of the
/// minutes that are worth at least 99 % of the best.
#[utoipa::path(
    post, path = "/timing/decide/batch", tag = "decisions", params(BatchQuery),
    request_body(
        content = DecideRequest, content_type = "application/x-ndjson", description = "One request per line",
        example = json!("{\"email\":\"ann@example.com\",\"window_hours\":24}\n{\"email\":\"bob@example.com\",\"window_hours\":24}")
    ),
    responses(
        (
            status = 200, description = "One answer per line, in the order of the requests", body = BatchResult,
            content_type = "application/x-ndjson"
        ),
        (status = 422, description = "A parameter is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "Too many batches at once: try again", body = ErrorBody),
    )
)]
pub(crate) async fn decide_batch(
    State(app): State<App>,
    query: RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let capacity = Capacity {
        of_each: capacity_per_minute(query)?,
        by_esp: (*app.capacity_per_minute).clone(),
    };
    body::refuse_encoded(request.headers())?;
    let batches = Arc::clone(&app.batches);
    let permit = batches
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (answers, told) = mpsc::channel(1);
    let lines = Lines::of(request.into_body(), STALL, capacity.is_limited());
    tokio::spawn(answer(app, lines, capacity, answers, permit).in_current_span());
    let body = stream::unfold(Some(told), |told| async {
        let mut told = told?;
        match told.recv().await {
            Some(Told::Lines(lines)) => Some((Ok(lines), Some(told))),
            Some(Told::End) => None,
            // Otherwise the answers so far would look like all of them.
            None => Some((Err(io::Error::other("the batch was cut off")), None)),
        }
    });
    Ok(([(CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response())
}

fn capacity_per_minute(query: RawQuery) -> Result<Option<u32>, ApiError> {
    let BatchQuery { capacity_per_minute } = body::parse_query(query, "capacity_per_minute=6000")?;
    let Some(given) = capacity_per_minute else {
        return Ok(None);
    };
    match u32::try_from(given) {
        Ok(value) if (1..=MAX_CAPACITY).contains(&value) => Ok(Some(value)),
        _ => Err(ApiError::field(
            "capacity_per_minute",
            format!("must be a whole number from 1 to {MAX_CAPACITY}"),
        )),
    }
}

/// A part of the response.
enum Told {
    /// Some answers, whole lines.
    Lines(Bytes),
    /// All lines are answered. If the sender goes away without saying so, whatever the cause, the response is incomplete.
    End,
}

type Answers = mpsc::Sender<Told>;

/// Answers all lines until they end or the caller is gone.
async fn answer(app: App, lines: Lines, capacity: Capacity, answers: Answers, _permit: OwnedSemaphorePermit) {
    let mut batch = Batch::new(Arc::clone(&app.service), capacity);
    let windows = stream::unfold(lines, |mut lines| async {
        let window = lines.window().await?;
        Some((window, lines))
    });
    let weighed = windows.map(|window| {
        let app = app.clone();
        // On a task of its own, so that the next windows are computed while this one is answered.
        tokio::spawn(async move {
            let lines = window?;
            // Read again for each window: a large batch takes minutes, and no trigger may lie in the past.
            let clock = app.clock();
            // Each text is dropped with its line: only what it says is kept while people are read.
            let inquiries = lines
                .into_iter()
                .map(|line| inquiry(&app, &line, clock))
                .collect();
            io::Result::Ok(app.service.weigh_all(inquiries).await)
        })
    });
    let mut weighed = std::pin::pin!(weighed.buffered(AHEAD));
    let mut index = 0;
    let mut is_failure_logged = false;
    loop {
        let next = tokio::select! {
            next = weighed.next() => next,
            // The caller left while there was nothing to send.
            () = answers.closed() => return,
        };
        let Some(window) = next else {
            let _is_read = tokio::time::timeout(STALL, answers.send(Told::End)).await;
            return;
        };
        let window = match window.map_err(io::Error::other).flatten() {
            Ok(window) => window,
            Err(error) => return tracing::debug!("a batch was cut off after {index} lines: {error}"),
        };
        let decisions = tokio::select! {
            decisions = Box::pin(batch.tell(window)) => decisions,
            // The caller left while explanations wait for the event store.
            () = answers.closed() => return,
        };
        // If a store is down, thousands of lines fail: only the first failure is logged.
        let mut errors = decisions.iter().filter_map(|decision| decision.as_ref().err());
        let failure = errors.find(|error| matches!(error, ApiError::Unavailable { .. }));
        if let (Some(failure), false) = (failure, is_failure_logged) {
            is_failure_logged = true;
            if let Some(left_out) = app.server_errors.admit(failure.code()) {
                let error = event::chain(failure);
                tracing::warn!(
                    code = failure.code(),
                    error,
                    left_out = left_out.0,
                    "lines of a batch are not decided: {error}{left_out}"
                );
            }
        }
        for piece in pieces(decisions, &mut index) {
            let sent = tokio::time::timeout(STALL, answers.send(Told::Lines(piece))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return tracing::debug!("a batch was cut off before line {index}: its caller is gone");
            }
        }
    }
}

fn inquiry(app: &App, line: &Line, clock: event::Timestamp) -> Result<Inquiry, ApiError> {
    let Line::Text(text) = line else {
        return Err(ApiError::LineTooLong {
            limit_bytes: MAX_LINE_BYTES,
        });
    };
    let request: DecideRequest = body::parse(text).map_err(|error| match error {
        // A line number makes no sense within a single line.
        ApiError::MalformedJson { .. } => ApiError::MalformedJson {
            message: "the line is not JSON: send one request per line".to_owned(),
        },
        error => error,
    })?;
    request.check(&app.service.dependencies.hasher, clock)
}

/// Serializes the answers as JSON lines, in pieces of about [`PIECE_BYTES`] that end with a line.
fn pieces(decisions: Vec<Result<Decision, ApiError>>, index: &mut u64) -> Vec<Bytes> {
    let (mut pieces, mut text) = (Vec::new(), Vec::new());
    for decision in decisions {
        let result = match decision {
            Ok(decision) => BatchResult {
                index: *index,
                status: 200,
                decision: Some(decision),
                error: None,
            },
            Err(error) => BatchResult {
                index: *index,
                status: error.status().as_u16(),
                decision: None,
                error: Some(error.body()),
            },
        };
        serde_json::to_writer(&mut text, &result).expect("a result has only string keys and finite numbers");
        text.push(b'\n');
        *index += 1;
        if text.len() >= PIECE_BYTES {
            pieces.push(std::mem::take(&mut text).into());
        }
    }
    if !text.is_empty() {
        pieces.push(text.into());
    }
    pieces
}
