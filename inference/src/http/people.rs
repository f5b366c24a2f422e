//! What is known about a person, and which identifiers belong to whom.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{FromRequest, Path, Request, State},
};
use event::{Timestamp, UniversalId, profile::Signal};
use listener::RequestId;
use serde::{Deserialize, Serialize};
use store::identity::{Person, Sighting};
use utoipa::ToSchema;

use super::{
    App,
    body::{Body, Object, RawPath},
    curves::{HourShare, best_hours, by_hour},
    who::{self, IdentifierInput, IdentifierOutput, Who},
};
use crate::{
    decision::{Breaker, open_breakers},
    error::{ApiError, ErrorBody},
    explanation::Evidence,
    inquiry::Name,
    person::{Known, Wanted},
    service::Service,
};

/// Number of best hours returned with a person's features.
const TOP_HOURS: usize = 5;

/// What is stored about a person for decisions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Features {
    /// The person's canonical id.
    pub universal_id: String,
    /// All ids of the person, the canonical one first.
    pub ids: Vec<String>,
    /// Whether anything is stored about the person.
    pub known: bool,
    /// How much is stored.
    pub counts: FeatureCounts,
    /// Of the last 32 stored deliveries, the number after which a machine opened before the next delivery.
    pub machine_opens: usize,
    /// Class of the mailbox.
    #[schema(example = "gmail")]
    pub mailbox_provider: Option<&'static str>,
    /// When the last mail was delivered.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_delivery_at: Option<Timestamp>,
    /// When the person last opened or clicked a mail, replied or converted.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_activity_at: Option<Timestamp>,
    /// When each other signal last occurred, by name.
    #[schema(value_type = BTreeMap<String, String>)]
    pub signals: BTreeMap<&'static str, Timestamp>,
    /// Breakers that are open now.
    pub breakers: Vec<Breaker>,
    /// The hours of the week in which the person acts most.
    pub top_hours: Vec<HourShare>,
    /// How well founded `top_hours` are.
    pub evidence: Evidence,
    /// Digest of the profile.
    pub profile_digest: String,
    /// The moment that was taken as now.
    #[schema(value_type = String, format = DateTime)]
    pub computed_at: Timestamp,
}

/// How much is stored about a person.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeatureCounts {
    /// Delivered mails.
    pub deliveries: usize,
    /// Human opens, one per message and day.
    pub opens: usize,
    /// Human clicks, one per message and day.
    pub clicks: usize,
    /// Replies.
    pub replies: usize,
    /// Conversions.
    pub conversions: usize,
}

fn features_of(service: &Service, known: &Known, now: Timestamp) -> Features {
    let profile = &known.profile;
    let counts = profile.counts();
    let curve = service.curve(known, now);
    let mut signals = BTreeMap::new();
    for signal in Signal::ALL {
        if let Some(at) = profile.latest(signal, now) {
            signals.insert(signal.as_str(), at);
        }
    }
    Features {
        universal_id: known.person.canonical.to_string(),
        ids: known.person.ids.iter().map(UniversalId::to_string).collect(),
        known: !profile.is_empty(),
        counts: FeatureCounts {
            deliveries: counts.deliveries,
            opens: counts.opens,
            clicks: counts.clicks,
            replies: counts.replies,
            conversions: counts.conversions,
        },
        machine_opens: profile.history(now).machine_opens,
        mailbox_provider: profile.mailbox_provider().map(|class| class.as_str()),
        last_delivery_at: profile.deliveries(Timestamp::default(), now).last().copied(),
        last_activity_at: profile.last_human_activity(now),
        signals,
        breakers: open_breakers(profile, &[], &service.policy, now, false),
        top_hours: best_hours(&by_hour(&curve.curve), TOP_HOURS),
        evidence: Service::evidence(&curve, known),
        profile_digest: known.digest.to_hex(),
        computed_at: now,
    }
}

/// What is stored about a person for decisions.
#[utoipa::path(
    get, path = "/features/{universal_id}", tag = "people",
    params(("universal_id" = String, Path, description = "Any id of the person")),
    responses(
        (status = 200, description = "The features; empty if nothing is known", body = Features),
        (status = 422, description = "Not a universal id", body = ErrorBody),
        (status = 503, description = "A store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn features(State(app): State<App>, path: RawPath) -> Result<Json<Features>, ApiError> {
    let id = universal_id_in(path)?;
    let clock = app.clock();
    let wanted = Wanted::now(vec![id], clock);
    let known = app.service.people.read(&[wanted]).await.remove(0)?;
    Ok(Json(features_of(&app.service, &known, clock)))
}

/// Recomputes a person's features from events: those of the last `inference.history_seconds`, and of each of the person's ids
/// only the newest `inference.history_events`.
#[utoipa::path(
    post, path = "/compute-features", tag = "people", request_body = Who,
    responses(
        (status = 200, description = "The features, recomputed from the events", body = Features),
        (status = 422, description = "A field is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "The event store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn compute_features(
    State(app): State<App>,
    Body(who): Body<Who>,
) -> Result<Json<Features>, ApiError> {
    let identity = who.identity(&app.service.dependencies.hasher)?;
    recomputed(&app, identity.ids()).await
}

/// Recomputes a person's features from events: those of the last `inference.history_seconds`, and of each of the person's ids
/// only the newest `inference.history_events`.
#[utoipa::path(
    post, path = "/compute-features/{universal_id}", tag = "people",
    params(("universal_id" = String, Path, description = "Any id of the person")),
    responses(
        (status = 200, description = "The features, recomputed from the events", body = Features),
        (status = 422, description = "Not a universal id", body = ErrorBody),
        (status = 503, description = "The event store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn compute_features_of(
    State(app): State<App>,
    path: RawPath,
) -> Result<Json<Features>, ApiError> {
    recomputed(&app, vec![universal_id_in(path)?]).await
}

fn universal_id_in(path: RawPath) -> Result<UniversalId, ApiError> {
    // A path that is not valid text becomes an empty id, which is invalid.
    let text = path.map(|Path(text)| text).unwrap_or_default();
    who::universal_id(&text)
}

async fn recomputed(app: &App, ids: Vec<UniversalId>) -> Result<Json<Features>, ApiError> {
    let clock = app.clock();
    let known = app.service.people.recompute(&Wanted::now(ids, clock)).await?;
    Ok(Json(features_of(&app.service, &known, clock)))
}

/// A person, as the identity graph knows them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PersonAnswer {
    /// Whether the graph knows the person. If not, `universal_id` is the id that the person's events will have.
    pub known: bool,
    /// The person's canonical id.
    pub universal_id: String,
    /// Other ids of the person.
    pub aliases: Vec<String>,
    /// All known identifiers, strongest first; addresses and phone numbers are hashed.
    pub identifiers: Vec<IdentifierOutput>,
}

impl PersonAnswer {
    fn known(person: &Person) -> Self {
        let aliases = person.ids.iter().filter(|id| **id != person.canonical);
        Self {
            known: true,
            universal_id: person.canonical.to_string(),
            aliases: aliases.map(UniversalId::to_string).collect(),
            identifiers: person.identifiers.iter().map(IdentifierOutput::from).collect(),
        }
    }

    fn unknown(names: &[Name]) -> Self {
        let identifiers = names.iter().filter_map(|name| name.identifier.as_ref());
        Self {
            known: false,
            universal_id: names[0].id.to_string(),
            aliases: Vec::new(),
            identifiers: identifiers.map(IdentifierOutput::from).collect(),
        }
    }
}

/// Returns which person an identity belongs to. Several identities must belong to one person, as far as the graph knows them.
#[utoipa::path(
    post, path = "/resolve-identity", tag = "people", request_body = Who,
    responses(
        (status = 200, description = "The person; `known` says whether the identity graph knows them", body = PersonAnswer),
        (status = 422, description = "A field is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "The identity graph does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn resolve_identity(
    State(app): State<App>,
    Body(who): Body<Who>,
) -> Result<Json<PersonAnswer>, ApiError> {
    let identity = who.identity(&app.service.dependencies.hasher)?;
    let identities = &app.service.dependencies.identities;
    let unavailable = |error| ApiError::unavailable("the identity graph", error);
    let people = identities.people(&identity.ids()).await.map_err(unavailable)?;
    let mut known = identity
        .names()
        .iter()
        .zip(&people)
        .filter(|(_, person)| !person.identifiers.is_empty());
    let Some((first, person)) = known.next() else {
        return Ok(Json(PersonAnswer::unknown(identity.names())));
    };
    match known.find(|(_, other)| other.canonical != person.canonical) {
        Some((other, _)) => Err(ApiError::field(
            &*other.field,
            format!(
                "belongs to another person than `{}`: ask for one of them",
                first.field
            ),
        )),
        None => Ok(Json(PersonAnswer::known(person))),
    }
}

/// Declares that identifiers belong to one person. At least two are required in all.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"email": "ann@example.com", "phone_number": "+491701234567", "source": "crm"}))]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkRequest {
    /// An e-mail address. Hashed immediately; never stored, logged or repeated.
    #[schema(example = "ann@example.com")]
    pub email: Option<String>,
    /// Hash of an e-mail address, made as for `POST /timing/decide`.
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    pub email_hash: Option<String>,
    /// A phone number in E.164 form. Hashed immediately.
    pub phone_number: Option<String>,
    /// Identifiers of any kind.
    #[schema(value_type = Option<Vec<IdentifierInput>>, max_items = 32)]
    pub identifiers: Option<Vec<Object<IdentifierInput>>>,
    /// Who declares it, for the audit log. Default: the id of this request.
    #[schema(example = "crm")]
    pub source: Option<String>,
}

/// Links several identifiers to one person, permanently: a link cannot be undone.
#[utoipa::path(
    post, path = "/link-identifiers", tag = "people", request_body = LinkRequest,
    responses(
        (status = 200, description = "The person after linking", body = PersonAnswer),
        (status = 422, description = "Fewer than two identifiers, or an invalid field", body = ErrorBody),
        (status = 503, description = "The identity graph does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn link_identifiers(
    State(app): State<App>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Json<PersonAnswer>, ApiError> {
    let Body(request) = Body::<LinkRequest>::from_request(request, &app).await?;
    let source = match request.source {
        Some(source) => who::source("source", &source)?,
        None => id.as_str().to_owned(),
    };
    let who = Who {
        universal_id: None,
        email: request.email,
        email_hash: request.email_hash,
        phone_number: request.phone_number,
        identifiers: request.identifiers,
    };
    let identifiers = who.identifiers(&app.service.dependencies.hasher)?;
    if identifiers.len() < 2 {
        return Err(ApiError::field(
            "identifiers",
            "must name at least two different identities",
        ));
    }
    let sighting = Sighting {
        identifiers: identifiers
            .into_iter()
            .map(|(_, identifier)| identifier)
            .collect(),
        source: format!("api:{source}"),
        seen_at: app.clock(),
    };
    let linked = app.service.dependencies.identities.link(&sighting).await;
    let person = linked.map_err(|error| ApiError::unavailable("the identity graph", error))?;
    app.service.people.forget(&person);
    Ok(Json(PersonAnswer::known(&person)))
}
