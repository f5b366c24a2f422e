//! The webhook routes.

use std::{sync::Arc, thread, time::SystemTime};

use axum::{
    Extension, Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderName, HeaderValue, StatusCode, header::AUTHORIZATION, request::Parts},
    response::{IntoResponse, Response},
};
use event::{Timestamp, identity::is_account_name};
use listener::{RequestId, RequestTrace};

use super::{App, Began, body};
use crate::{
    accounts::{Account, DEFAULT_ACCOUNT, Missing},
    error::ApiError,
    intake::{Incoming, IntakeError, Receipt, Taken},
    plugin::{
        Fault, Plugin, PluginError,
        types::{Descriptor, Header, Reply, Statuses},
    },
    proof::latin1_bytes,
};

/// Seconds until a provider that honours `Retry-After` should retry after an outage. Outages of a bus last longer;
/// providers that ignore the header wait a minute or more.
const RETRY_AFTER_SECONDS: u32 = 10;

/// Seconds until a provider should retry a delivery that was not kept: the budget of dead letters is per minute.
const RETRY_NOT_KEPT_SECONDS: u32 = 60;

/// Headers of a plugin's reply that are not passed on: they concern the connection, or would set state.
const DROPPED_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// `/webhooks/{provider}`.
pub(super) async fn default_account(
    State(app): State<App>,
    provider: Result<Path<String>, PathRejection>,
    Extension(id): Extension<RequestId>,
    Extension(began): Extension<Began>,
    Extension(trace): Extension<RequestTrace>,
    request: Request,
) -> Response {
    // A name that is not UTF-8: nothing has it.
    let Ok(Path(provider)) = provider else {
        return ApiError::not_found().into_response();
    };
    answer(&app, (&provider, DEFAULT_ACCOUNT), &id, began, &trace, request).await
}

/// `/webhooks/{provider}/{account}`.
pub(super) async fn account(
    State(app): State<App>,
    names: Result<Path<(String, String)>, PathRejection>,
    Extension(id): Extension<RequestId>,
    Extension(began): Extension<Began>,
    Extension(trace): Extension<RequestTrace>,
    request: Request,
) -> Response {
    let Ok(Path((provider, account))) = names else {
        return ApiError::not_found().into_response();
    };
    answer(&app, (&provider, &account), &id, began, &trace, request).await
}

async fn answer(
    app: &App,
    (provider, account): (&str, &str),
    id: &RequestId,
    began: Began,
    trace: &RequestTrace,
    request: Request,
) -> Response {
    let plugin = app.intake.plugins.get(provider);
    // Only slugs of installed plugins and of the operator's accounts become labels.
    let is_known = plugin.is_some() || app.intake.accounts.has(provider, account);
    let label: Arc<str> = Arc::from(if is_known { provider } else { "none" });
    let in_flight = InFlight::begin(app, Arc::clone(&label), began);
    let taken = match plugin {
        None => Err(without_plugin(app, provider, account)),
        Some(plugin) => deliver(app, &plugin, account, id, trace, request).await,
    };
    let (outcome, response) = match taken {
        Ok(Taken::Stored(counts)) => {
            trace.attribute("sendflowr.events.accepted", counts.accepted as i64);
            ("stored", Json(counts).into_response())
        }
        Ok(Taken::Reply(reply)) => ("reply", reply_response(reply)),
        Ok(Taken::Confirmed) => (
            "confirmed",
            Json(serde_json::json!({ "confirmed": true })).into_response(),
        ),
        Err(error) => {
            // Refusals are the sender's business, but the operator needs to see them when a secret is wrong.
            tracing::debug!(
                request.id = id.as_str(),
                provider = &*label,
                code = error.code,
                "delivery refused: {}",
                error.message()
            );
            (error.code, error.into_response())
        }
    };
    trace.attribute("sendflowr.provider", Arc::clone(&label));
    trace.attribute("sendflowr.outcome", outcome);
    in_flight.end(outcome);
    response
}

/// A delivery in progress. Counted when it ends, in whichever way.
struct InFlight<'a> {
    app: &'a App,
    provider: Arc<str>,
    began: Began,
    outcome: Option<&'static str>,
}

impl<'a> InFlight<'a> {
    fn begin(app: &'a App, provider: Arc<str>, began: Began) -> Self {
        app.intake.metrics.in_flight.inc();
        Self {
            app,
            provider,
            began,
            outcome: None,
        }
    }

    fn end(mut self, outcome: &'static str) {
        self.outcome = Some(outcome);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let took = self.began.0.elapsed();
        let outcome = match self.outcome {
            Some(outcome) => outcome,
            None if thread::panicking() => "internal_error",
            None if took >= self.app.request_timeout => "timed_out",
            // The sender has hung up, or the host is stopping and has cut the connection.
            None => "given_up",
        };
        let metrics = &self.app.intake.metrics;
        metrics.in_flight.dec();
        metrics.delivery(&self.provider, outcome, took);
    }
}

async fn deliver(
    app: &App,
    plugin: &Arc<Plugin>,
    account: &str,
    id: &RequestId,
    trace: &RequestTrace,
    request: Request,
) -> Result<Taken, ApiError> {
    let provider = plugin.descriptor().slug.as_str();
    let account: Arc<Account> = app.intake.accounts.get(provider, account).map_err(|missing| {
        let may_see_accounts = app.access.admits(request.headers());
        missing_account(app, plugin, account, missing, may_see_accounts)
    })?;
    trace.attribute("sendflowr.account", account.name().to_owned());
    let received_at = Timestamp::from(SystemTime::now());
    let statuses = &plugin.descriptor().statuses;
    let unavailable = status(statuses.unavailable);
    let (head, body) = request.into_parts();
    if head.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(ApiError::ambiguous_authorization(unavailable));
    }
    let received = body::receive(app, provider, unavailable, &head.headers, body).await?;
    let Ok(_permit) = app.permits.try_acquire() else {
        return Err(ApiError::overloaded(unavailable));
    };
    // Its place in the room is kept until the delivery is answered.
    let (body, _place) = received.decompressed(app.max_body_bytes, unavailable).await?;
    let receipt = Receipt {
        request_id: id.as_str(),
        trace: trace.context(),
    };
    let incoming = incoming(head, body, received_at);
    let taken = app.intake.take(plugin, &account, incoming, receipt).await;
    taken.map_err(|error| {
        if let IntakeError::Plugin(error) = &error {
            plugin.log.failure(error, id.as_str());
        }
        let error = api_error(error, statuses);
        match account.has_basic_auth(plugin.descriptor()) {
            // SNS, among others, sends user and password only after the server has asked for them.
            true => error.ask_for_basic_auth(),
            false => error,
        }
    })
}

fn incoming(head: Parts, body: Vec<u8>, received_at: Timestamp) -> Incoming {
    let headers = head.headers.iter().map(|(name, value)| Header {
        name: name.as_str().to_owned(),
        value: latin1(value),
    });
    Incoming {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body,
        received_at,
    }
}

/// Converts each byte to one character, which loses nothing and never fails.
fn latin1(value: &HeaderValue) -> String {
    match value.to_str() {
        Ok(ascii) => ascii.to_owned(),
        Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
    }
}

/// Returns the error for a provider that no plugin serves. If the account exists, its plugin is missing by mistake, and
/// the provider must not take the answer as final.
fn without_plugin(app: &App, provider: &str, account: &str) -> ApiError {
    let accounts = &app.intake.accounts;
    if accounts.has(provider, account) {
        let message = format!("this account exists, but no plugin serves `{provider}` now: send it again");
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_plugin", message)
            .retry_after(RETRY_AFTER_SECONDS);
    }
    if let Err(Missing::Unread) = accounts.get(provider, account) {
        return accounts_unread(StatusCode::SERVICE_UNAVAILABLE);
    }
    let known = app.intake.plugins.slugs();
    // People put email addresses into paths, which must not be repeated.
    let message = match is_account_name(provider) {
        true => {
            format!("no plugin serves `{provider}`: install one, or use one of `known_providers`")
        }
        false => "no plugin serves this provider: use one of `known_providers`".to_owned(),
    };
    ApiError::new(StatusCode::NOT_FOUND, "unknown_provider", message).with("known_providers", known)
}

/// A host may serve several customers, and account names may be theirs: only callers who may see `/plugins` are told
/// the known ones.
fn missing_account(
    app: &App,
    plugin: &Plugin,
    account: &str,
    missing: Missing,
    may_see_accounts: bool,
) -> ApiError {
    let Descriptor {
        slug: provider,
        statuses,
        ..
    } = plugin.descriptor();
    let known = match missing {
        Missing::Unknown(known) => known,
        Missing::Unread => return accounts_unread(status(statuses.unavailable)),
    };
    let message = match is_account_name(account) {
        true => format!(
            "`{provider}` has no account `{account}`: configure `accounts.{provider}.{account}`, or add it with \
             `sendflowr account set`"
        ),
        false => format!("`{provider}` has no such account: use a known one"),
    };
    tracing::debug!(
        provider,
        "the known accounts of `{provider}`: `{}`",
        known.join("`, `")
    );
    let error = |message| {
        let known = app.intake.plugins.slugs();
        ApiError::new(StatusCode::NOT_FOUND, "unknown_account", message).with("known_providers", known)
    };
    if !may_see_accounts {
        return error(format!(
            "{message}; `GET /plugins` lists the known ones and needs `host.admin_token`"
        ));
    }
    error(message).with("known_accounts", known)
}

fn accounts_unread(unavailable: StatusCode) -> ApiError {
    let message = "the stored accounts cannot be read at the moment: send it again later";
    ApiError::new(unavailable, "accounts_unavailable", message).retry_after(RETRY_AFTER_SECONDS)
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// Converts a failure to a response, with the status codes that the provider understands.
fn api_error(error: IntakeError, statuses: &Statuses) -> ApiError {
    let unavailable = status(statuses.unavailable);
    match error {
        IntakeError::Refused(refusal) if refusal.is_temporary() => {
            ApiError::new(unavailable, refusal.code(), refusal.to_string()).retry_after(RETRY_AFTER_SECONDS)
        }
        IntakeError::Refused(refusal) => ApiError::new(
            status(statuses.unproven),
            refusal.code(),
            crate::canonical::scrub::sentence(&refusal.to_string()),
        ),
        IntakeError::Malformed(reason) => ApiError::new(status(statuses.malformed), "malformed", reason),
        IntakeError::NotKept(reason) => {
            let message = format!(
                "the delivery cannot be read, and there is no room to keep it: send it again; {reason}"
            );
            ApiError::new(unavailable, "malformed_not_kept", message).retry_after(RETRY_NOT_KEPT_SECONDS)
        }
        IntakeError::Plugin(error) => plugin_failure(&error, unavailable),
        IntakeError::Bus(error) => {
            let message = "the delivery cannot be stored at the moment: send it again later";
            ApiError::new(unavailable, "bus_unavailable", message)
                .because(&error)
                .retry_after(RETRY_AFTER_SECONDS)
        }
        IntakeError::ConfirmationRefused(refused) => {
            let message = format!("the confirmation's address is refused: {refused}");
            ApiError::new(status(statuses.unproven), "confirmation_refused", message)
        }
        IntakeError::Confirmation(error) => {
            let message = format!("the webhook could not be confirmed: {error}");
            ApiError::new(unavailable, "confirmation_failed", message).retry_after(RETRY_AFTER_SECONDS)
        }
    }
}

fn plugin_failure(error: &PluginError, unavailable: StatusCode) -> ApiError {
    if matches!(error, PluginError::Panicked { .. }) {
        // The provider sends it again.
        let mut error = ApiError::panicked();
        error.status = unavailable;
        return error.retry_after(RETRY_AFTER_SECONDS);
    }
    // Only the code tells whose fault it is: for the provider both are temporary.
    let code = match error.fault() {
        Fault::Guest => "plugin_trapped",
        Fault::Host => "plugin_unavailable",
    };
    let seconds = error.retry_after().map_or(RETRY_AFTER_SECONDS, |after| {
        u32::try_from(after.as_millis().div_ceil(1000)).unwrap_or(RETRY_AFTER_SECONDS)
    });
    let limit = error.limit().unwrap_or("none");
    let message = match (error, error.limit()) {
        (PluginError::Quarantined { .. }, _) => {
            "the account is in quarantine for the plugin after repeated failures: send the delivery again later".to_owned()
        }
        (PluginError::Busy { .. }, _) => {
            "the plugin has too many deliveries in flight: send the delivery again later".to_owned()
        }
        (_, Some(limit)) => {
            format!("the plugin hit its limit `{limit}` with this delivery: the log has details")
        }
        (_, None) => "the plugin could not be run: the log has details".to_owned(),
    };
    ApiError::new(unavailable, code, message)
        .with("limit", limit)
        .retry_after(seconds)
}

/// Builds the response of a handshake, without anything that a plugin may not decide.
fn reply_response(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status)
        .ok()
        .filter(StatusCode::is_success)
        .unwrap_or(StatusCode::OK);
    let mut response = (status, reply.body).into_response();
    response.headers_mut().clear();
    for Header { name, value } in reply.headers {
        let name = name.to_ascii_lowercase();
        if DROPPED_HEADERS.contains(&name.as_str()) {
            continue;
        }
        // Invalid headers are left out.
        let value = latin1_bytes(&value).and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
        if let (Ok(name), Some(value)) = (HeaderName::try_from(name), value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_do_not_touch_the_connection() {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        let mut headers = vec![
            header("Content-Type", "text/plain"),
            header("x-bad", "a\nb"),
            header("x-latin", "é"),
        ];
        // Spelled out: what is deleted from the list would otherwise be missing here too.
        for name in [
            "Connection",
            "Content-Length",
            "Keep-Alive",
            "Proxy-Authenticate",
            "Proxy-Connection",
            "Set-Cookie",
            "Set-Cookie2",
            "TE",
            "Trailer",
            "transfer-encoding",
            "Upgrade",
            "X-Request-Id",
        ] {
            headers.push(header(name, "1"));
        }
        let response = reply_response(Reply {
            status: 500,
            headers,
            body: b"ok".to_vec(),
        });
        assert_eq!(response.status(), StatusCode::OK);
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "x-latin"]);
        assert_eq!(response.headers()["x-latin"].as_bytes(), [0xe9]);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_with_the_status_of_a_passing_failure() {
        let panicked = tokio::spawn(async { panic!("as a test") });
        let error = PluginError::Panicked {
            plugin: "acme@1.0.0".to_owned(),
            source: panicked.await.unwrap_err(),
        };
        let answer = plugin_failure(&error, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            (answer.status, answer.code),
            (StatusCode::TOO_MANY_REQUESTS, ApiError::PANICKED)
        );
    }

    #[test]
    fn header_bytes_become_letters() {
        assert_eq!(latin1(&HeaderValue::from_bytes(&[b'a', 0xe9]).unwrap()), "aé");
    }
}
