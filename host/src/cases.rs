//! Case files: one delivery each and its expected result, run through a compiled plugin with the host's own proof
//! checker. Also reads a single delivery, to show what a plugin makes of it.

mod compare;
mod file;

use std::sync::Arc;

use event::{Hasher, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use file::{Case, CaseRequest, Expected, InvalidCase};

use crate::{
    accounts::Account,
    canonical::{self, Origin},
    delivery::{Delivery, DeliveryError},
    fetch::FetchAddress,
    intake::{Incoming, request_for},
    plugin::{
        Plugin, PluginError,
        types::{self, Batch, Outcome},
    },
    proof::{CertificateSource, GivenCertificates},
};

/// The result of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// `provider/name`.
    pub case: String,
    /// Whether everything is as expected.
    pub pass: bool,
    /// The differences, one sentence each.
    pub diff: Vec<String>,
}

/// What a plugin and the host make of a delivery, before addresses are hashed. Only for the eyes of those who have the
/// delivery anyway.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Reading {
    /// Understood.
    Accepted {
        /// Events that the host accepts, under the canonical names.
        events: Vec<Value>,
        /// Elements that yield no event: index, provider's type, reason.
        skipped: Vec<Value>,
        /// Elements that the plugin could not read, and events that the host rejects: index and reason.
        rejected: Vec<Value>,
        /// The reply or confirmation of a handshake.
        #[serde(skip_serializing_if = "Option::is_none")]
        handshake: Option<Value>,
    },
    /// The proof is missing, wrong or stale.
    Unauthorized {
        /// Stable code.
        code: &'static str,
        /// Which check failed.
        message: String,
    },
    /// The plugin cannot understand the delivery.
    BadRequest {
        /// The plugin's reason.
        message: String,
    },
}

/// Runs a case. `now` is the time of receipt if the case does not give one.
pub async fn run_case(plugin: &Arc<Plugin>, case: &Case, now: Timestamp) -> CaseResult {
    let diff = match check(plugin, case, now).await {
        Ok(diff) => diff,
        Err(problem) => vec![problem],
    };
    CaseResult {
        case: format!("{}/{}", case.provider, case.name),
        pass: diff.is_empty(),
        diff,
    }
}

async fn check(plugin: &Arc<Plugin>, case: &Case, now: Timestamp) -> Result<Vec<String>, String> {
    if case.expect.is_empty() {
        return Err("`expect` is empty: give `outcome`, `events` or `skipped`".to_owned());
    }
    let reading = normalize_one(plugin, case, now)
        .await
        .map_err(|error| event::chain(&error))?;
    Ok(compare::differences(&case.expect, &reading))
}

/// Why a delivery cannot be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadingError {
    /// The case file is invalid.
    #[error(transparent)]
    Case(#[from] InvalidCase),
    /// The file is for another plugin.
    #[error("the case is for `{expected}`, the plugin is `{slug}`")]
    OtherPlugin {
        /// The case's provider.
        expected: String,
        /// The plugin's slug.
        slug: String,
    },
    /// The plugin failed.
    #[error("the plugin failed")]
    Plugin(#[from] PluginError),
}

/// Reads the delivery of a case: checks its proofs against the case's own configuration and certificates, at the case's
/// own time or else at `now`. Nothing is fetched and nothing is stored.
///
/// # Errors
/// [`ReadingError`] when it cannot be tried; a delivery that is refused is not an error.
pub async fn normalize_one(
    plugin: &Arc<Plugin>,
    case: &Case,
    now: Timestamp,
) -> Result<Reading, ReadingError> {
    let descriptor = plugin.descriptor();
    if descriptor.slug != case.provider {
        return Err(ReadingError::OtherPlugin {
            expected: case.provider.clone(),
            slug: descriptor.slug.clone(),
        });
    }
    let account = Arc::new(case.account(descriptor)?);
    let certificates: Arc<dyn CertificateSource> = Arc::new(GivenCertificates::new(case.certificates()?));
    let incoming = case.incoming(now)?;
    let origin = Origin {
        provider: account.provider(),
        account: account.name(),
        plugin: plugin.tag(),
        external_id_scope: account.external_id_scope(),
        received_at: incoming.received_at,
        // A case's time is for the freshness of signatures only; its events may be later.
        now: incoming.received_at.max(now),
    };
    let request = Arc::new(request_for(plugin, &account, incoming));
    let read = read(plugin, &account, &certificates, request).await;
    let outcome = match read {
        Ok(outcome) => outcome,
        Err(DeliveryError::Refused(refusal)) => {
            return Ok(Reading::Unauthorized {
                code: refusal.code(),
                message: refusal.to_string(),
            });
        }
        Err(DeliveryError::Malformed { reason, .. }) => return Ok(Reading::BadRequest { message: reason }),
        Err(DeliveryError::Plugin(error)) => return Err(error.into()),
    };
    let handshake = match outcome {
        Outcome::Events(batch) => return Ok(accepted(batch, &origin)),
        Outcome::Reply(reply) => {
            let headers = reply.headers.iter();
            let headers = headers.map(|header| json!({ "name": header.name, "value": header.value }));
            json!({ "reply": {
                "status": reply.status,
                "headers": headers.collect::<Vec<_>>(),
                "body": String::from_utf8_lossy(&reply.body),
            } })
        }
        Outcome::Confirm(url) => {
            if let Err(refused) = FetchAddress::parse(&url, &descriptor.hosts) {
                let message = format!("the confirmation's address is refused: {refused}");
                return Ok(Reading::Unauthorized {
                    code: "confirmation_refused",
                    message,
                });
            }
            json!({ "confirm": url })
        }
    };
    Ok(Reading::Accepted {
        events: vec![],
        skipped: vec![],
        rejected: vec![],
        handshake: Some(handshake),
    })
}

/// Returns the request that the plugin gets for the delivery of a case: secrets by name only. It is received at the
/// case's own time or else at `now`.
///
/// # Errors
/// [`InvalidCase`] when the case describes something that no delivery can be.
pub fn request(plugin: &Plugin, case: &Case, now: Timestamp) -> Result<types::Request, InvalidCase> {
    let account = case.account(plugin.descriptor())?;
    Ok(request_for(plugin, &account, case.incoming(now)?))
}

async fn read(
    plugin: &Arc<Plugin>,
    account: &Arc<Account>,
    certificates: &Arc<dyn CertificateSource>,
    request: Arc<types::Request>,
) -> Result<Outcome, DeliveryError> {
    Delivery::new(plugin, account, request)
        .await?
        .read(plugin, certificates)
        .await
}

fn accepted(batch: Batch, origin: &Origin<'_>) -> Reading {
    // The hasher's key makes no difference to whether an address is valid.
    let hasher = Hasher::new();
    let skipped = batch.skipped.iter().map(
        |element| json!({ "index": element.index, "type": element.provider_type, "reason": element.reason }),
    );
    let rejected = batch.rejected.iter();
    let mut rejected: Vec<(u32, &str)> = rejected
        .map(|element| (element.index, element.reason.as_str()))
        .collect();
    let mut events = Vec::with_capacity(batch.events.len());
    for event in &batch.events {
        match canonical::check(event, &hasher, origin) {
            Ok(()) => events.push(shown(origin.provider, event)),
            Err(reason) => rejected.push((event.index, reason)),
        }
    }
    rejected.sort_by_key(|(index, _)| *index);
    let rejected = rejected.iter();
    Reading::Accepted {
        events,
        skipped: skipped.collect(),
        rejected: rejected
            .map(|(index, reason)| json!({ "index": index, "reason": reason }))
            .collect(),
        handshake: None,
    }
}

/// Shows a plugin's event under the canonical names.
fn shown(slug: &str, event: &types::Event) -> Value {
    let identifiers = event.identifiers.iter().map(|identifier| {
        json!({ "kind": canonical::identifier_kind_name(identifier.kind), "value": identifier.value })
    });
    let metadata: Map<String, Value> = event
        .metadata
        .iter()
        .map(|pair| (pair.name.clone(), pair.value.clone().into()))
        .collect();
    json!({
        "event_type": canonical::event_type_name(event.event_type),
        "timestamp": Timestamp::try_from_millis(event.timestamp_ms),
        "esp": slug,
        "provider_event_id": event.provider_event_id,
        "recipient_email": event.recipient_email,
        "identifiers": identifiers.collect::<Vec<_>>(),
        "campaign_id": event.campaign_id,
        "campaign_name": event.campaign_name,
        "message_id": event.message_id,
        "subject": event.subject,
        "click_url": event.click_url,
        "user_agent": event.user_agent,
        "ip_address": event.ip_address,
        "bounce_type": event.bounce_type.map(|bounce_type| match bounce_type {
            types::BounceType::Hard => "hard",
            types::BounceType::Soft => "soft",
        }),
        "reason": event.reason,
        "tags": event.tags,
        "metadata": metadata,
        "is_machine": event.is_machine,
        "sent_at": event.sent_at_ms.and_then(Timestamp::try_from_millis),
    })
}
