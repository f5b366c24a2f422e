//! The form of case files. Keys that are not known here are left alone.

use std::collections::BTreeMap;

use base64::Engine;
use event::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Incoming;
use crate::{
    accounts::{Account, DEFAULT_ACCOUNT},
    plugin::types::{Descriptor, Header},
};

/// The entry of `config` that stands for the network: certificates by address.
const SIGNING_CERTS: &str = "signing_certs";

/// One delivery, and what must come of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Slug of the plugin.
    pub provider: String,
    /// Name of the case.
    #[serde(default)]
    pub name: String,
    /// Secrets and settings by name, and `signing_certs`. Without it, unsigned deliveries are allowed.
    #[serde(default)]
    pub config: Option<Map<String, Value>>,
    /// When the delivery is received, RFC 3339.
    #[serde(default)]
    pub now: Option<String>,
    /// The delivery.
    pub request: CaseRequest,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expected,
}

/// The delivery of a case.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CaseRequest {
    /// `POST` when absent.
    pub method: Option<String>,
    /// `/webhooks/{provider}` when absent.
    pub path: Option<String>,
    /// Query without the question mark.
    pub query: String,
    /// Headers, names in any case.
    pub headers: Map<String, Value>,
    /// The body as text.
    pub body: String,
    /// The body as base64, in place of the text.
    pub body_base64: Option<String>,
}

/// What must come of a delivery. What is absent is not compared; a name that is none of these would be compared with nothing, and is
/// refused.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expected {
    /// `accepted`, `unauthorized` or `bad_request`.
    pub outcome: Option<String>,
    /// Events in order; of each, only the fields that are there are compared.
    pub events: Option<Vec<Map<String, Value>>>,
    /// Elements that give no event, unreadable ones included.
    pub skipped: Option<usize>,
}

impl Expected {
    /// Whether anything would do.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            outcome,
            events,
            skipped,
        } = self;
        outcome.is_none() && events.is_none() && skipped.is_none()
    }
}

/// A case file says something that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCase {
    /// Not the form of a case.
    #[error("is no case")]
    Json(#[from] serde_json::Error),
    /// The plugin knows no such name.
    #[error("`config.{0}`: the plugin declares neither a secret nor a setting of this name")]
    UnknownName(String),
    /// A value that cannot be what it is for.
    #[error("`{key}` {problem}")]
    Value {
        /// Where it stands.
        key: String,
        /// What is wrong, to be read after the key.
        problem: &'static str,
    },
}

fn invalid(key: impl Into<String>, problem: &'static str) -> InvalidCase {
    InvalidCase::Value {
        key: key.into(),
        problem,
    }
}

impl Case {
    /// Reads a case file.
    ///
    /// # Errors
    /// [`InvalidCase`] when it has not the form of one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, InvalidCase> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The account that the case's configuration makes.
    pub(super) fn account(&self, descriptor: &Descriptor) -> Result<Account, InvalidCase> {
        let mut values = Vec::new();
        for (name, value) in self.config.iter().flatten() {
            if name == SIGNING_CERTS {
                continue;
            }
            let is_declared = descriptor.secrets.iter().any(|secret| secret.name == *name)
                || descriptor.settings.iter().any(|setting| setting.name == *name);
            if !is_declared {
                return Err(InvalidCase::UnknownName(name.clone()));
            }
            let texts = match value {
                Value::Null => continue,
                Value::Array(values) => values.iter().map(text).collect(),
                value => vec![text(value)],
            };
            values.push((name.clone(), texts));
        }
        Ok(Account::new(
            &self.provider,
            DEFAULT_ACCOUNT,
            values,
            self.config.is_none(),
        ))
    }

    /// The certificates that take the place of fetched ones.
    pub(super) fn certificates(&self) -> Result<BTreeMap<String, String>, InvalidCase> {
        let mut certificates = BTreeMap::new();
        let Some(given) = self.config.as_ref().and_then(|config| config.get(SIGNING_CERTS)) else {
            return Ok(certificates);
        };
        let key = format!("config.{SIGNING_CERTS}");
        let given = given
            .as_object()
            .ok_or_else(|| invalid(&key, "must be an object of PEM texts by address"))?;
        for (url, pem) in given {
            let pem = pem
                .as_str()
                .ok_or_else(|| invalid(format!("{key}.{url}"), "must be a PEM text"))?;
            certificates.insert(url.clone(), pem.to_owned());
        }
        Ok(certificates)
    }

    /// The delivery, received at the case's own time or else at `now`.
    pub(super) fn incoming(&self, now: Timestamp) -> Result<Incoming, InvalidCase> {
        let received_at = match &self.now {
            Some(text) => text
                .parse()
                .map_err(|_| invalid("now", "must be an RFC 3339 time"))?,
            None => now,
        };
        let request = &self.request;
        let body = match &request.body_base64 {
            Some(encoded) => base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .map_err(|_| invalid("request.body_base64", "must be base64"))?,
            None => request.body.clone().into_bytes(),
        };
        let mut headers = Vec::with_capacity(request.headers.len());
        for (name, value) in &request.headers {
            headers.push(Header {
                name: name.to_ascii_lowercase(),
                value: text(value),
            });
        }
        Ok(Incoming {
            method: request.method.as_deref().unwrap_or("POST").to_ascii_uppercase(),
            path: request
                .path
                .clone()
                .unwrap_or_else(|| format!("/webhooks/{}", self.provider)),
            query: request
                .query
                .strip_prefix('?')
                .unwrap_or(&request.query)
                .to_owned(),
            headers,
            body,
            received_at,
        })
    }
}

/// A value as text: strings as they are, everything else as written.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
