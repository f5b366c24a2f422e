//! The format of case files. Unknown keys are the notes of whoever keeps the files, unless they look like known ones: a mistyped
//! `config` would turn the checking of proofs off.

use std::{collections::BTreeMap, slice};

use base64::Engine;
use event::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Incoming;
use crate::{
    accounts::{Account, DEFAULT_ACCOUNT},
    plugin::types::{Descriptor, Header},
};

/// The entry of `config` that replaces the network: certificates by URL.
const SIGNING_CERTS: &str = "signing_certs";

/// The keys of a case that have a meaning, and those of its `request`. `plugins/testing` has the same, and the same rule.
const KEYS: [&str; 6] = ["provider", "name", "config", "now", "request", "expect"];
const REQUEST_KEYS: [&str; 6] = ["method", "path", "query", "headers", "body", "body_base64"];

/// One delivery and its expected result.
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
    /// When the delivery is received, as RFC 3339.
    #[serde(default)]
    pub now: Option<String>,
    /// The delivery.
    pub request: CaseRequest,
    /// The expected result.
    #[serde(default)]
    pub expect: Expected,
}

/// The delivery of a case.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CaseRequest {
    /// `POST` if absent.
    pub method: Option<String>,
    /// `/webhooks/{provider}` if absent.
    pub path: Option<String>,
    /// Query without the question mark.
    pub query: String,
    /// Headers, names in any case; a list of values is a header that is repeated.
    pub headers: Map<String, Value>,
    /// The body as text.
    pub body: String,
    /// The body as base64, instead of as text.
    pub body_base64: Option<String>,
}

/// The expected result of a delivery. Absent fields are not compared; an unknown field would be compared with nothing,
/// so it is refused.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expected {
    /// `accepted`, `unauthorized` or `bad_request`.
    pub outcome: Option<String>,
    /// Events in order; only the fields that are given are compared.
    pub events: Option<Vec<Map<String, Value>>>,
    /// Number of elements that yield no event, including unreadable ones.
    pub skipped: Option<usize>,
}

impl Expected {
    /// Returns whether any result would be accepted.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            outcome,
            events,
            skipped,
        } = self;
        outcome.is_none() && events.is_none() && skipped.is_none()
    }
}

/// Why a case file is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCase {
    /// Not in the format of a case.
    #[error("is not a case")]
    Json(#[from] serde_json::Error),
    /// A key that looks like a known one.
    #[error("unknown key `{key}`: did you mean `{known}`?")]
    MistypedKey {
        /// The key, after that of the object it is in.
        key: String,
        /// The known key.
        known: &'static str,
    },
    /// The plugin declares no such name.
    #[error("`config.{0}`: the plugin declares neither a secret nor a setting of this name")]
    UnknownName(String),
    /// A value that cannot be valid for its key.
    #[error("`{key}` {problem}")]
    Value {
        /// Where it is.
        key: String,
        /// What is wrong, phrased to follow the key.
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
    /// Parses a case file.
    ///
    /// # Errors
    /// [`InvalidCase`] when it does not have the format of one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, InvalidCase> {
        // Before anything that a mistyped key makes incomplete.
        let json: Value = serde_json::from_slice(bytes)?;
        check_keys(&json, "", &KEYS)?;
        check_keys(&json["request"], "request.", &REQUEST_KEYS)?;
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Returns the account that the case's configuration describes.
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

    /// Returns the certificates that replace fetched ones.
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

    /// Returns the delivery, received at the case's own time or else at `now`.
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
            let values = match value {
                Value::Array(values) => values.as_slice(),
                value => slice::from_ref(value),
            };
            for value in values {
                if !(value.is_string() || value.is_number() || value.is_boolean()) {
                    return Err(invalid(
                        format!("request.headers.{name}"),
                        "must be a text or a list of texts",
                    ));
                }
                headers.push(Header {
                    name: name.to_ascii_lowercase(),
                    value: text(value),
                });
            }
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

/// Refuses keys of the object that look like one of the known keys.
fn check_keys(object: &Value, prefix: &str, known: &[&'static str]) -> Result<(), InvalidCase> {
    for key in object.as_object().into_iter().flat_map(Map::keys) {
        if known.contains(&key.as_str()) {
            continue;
        }
        // A third of the letters: one typo in a short word, two in a longer one. With more, `note` or `date` would be typos.
        let is_near = |known: &&&str| strsim::osa_distance(&key.to_lowercase(), known) <= known.len() / 3;
        if let Some(known) = known.iter().find(is_near) {
            let key = format!("{prefix}{key}");
            return Err(InvalidCase::MistypedKey { key, known });
        }
    }
    Ok(())
}

/// Returns a value as text: strings as they are, everything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_header_that_is_repeated() {
        let headers = |given: Value| {
            let case = serde_json::json!({ "provider": "acme", "request": { "headers": given } });
            let case = Case::from_json(case.to_string().as_bytes()).unwrap();
            let incoming = case.incoming(Timestamp::default())?;
            let headers = incoming.headers.into_iter();
            Ok::<_, InvalidCase>(
                headers
                    .map(|header| (header.name, header.value))
                    .collect::<Vec<_>>(),
            )
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            headers(serde_json::json!({ "X-Token": ["wrong", "tok"], "X-Count": 5, "X-None": [] })).unwrap(),
            [
                pair("x-count", "5"),
                pair("x-token", "wrong"),
                pair("x-token", "tok")
            ]
        );
        for value in [
            serde_json::json!({ "a": "b" }),
            Value::Null,
            serde_json::json!([["tok"]]),
            serde_json::json!(["tok", null]),
        ] {
            let told = headers(serde_json::json!({ "X-Token": value })).unwrap_err();
            assert_eq!(
                told.to_string(),
                "`request.headers.X-Token` must be a text or a list of texts"
            );
        }
    }

    #[test]
    fn requests_are_those_of_the_native_runner() {
        for row in include_str!("../../../plugins/testing/src/requests.jsonl").lines() {
            let row: Value = serde_json::from_str(row).unwrap();
            let case = serde_json::json!({ "provider": "acme", "request": row["request"] });
            let case = Case::from_json(case.to_string().as_bytes()).unwrap();
            let incoming = case.incoming(Timestamp::default()).unwrap();
            assert_eq!(row["method"], incoming.method, "{row}");
            assert_eq!(row["path"], incoming.path, "{row}");
            assert_eq!(row["query"], incoming.query, "{row}");
        }
    }

    #[test]
    fn mistyped_keys_are_no_notes() {
        for row in include_str!("../../../plugins/testing/src/keys.jsonl").lines() {
            let row: Value = serde_json::from_str(row).unwrap();
            let mut case = serde_json::json!({ "provider": "acme", "request": {} });
            let (object, prefix) = match row["in"].as_str() {
                Some(object) => (&mut case[object], format!("{object}.")),
                None => (&mut case, String::new()),
            };
            let key = row["key"].as_str().unwrap();
            object[key] = Value::Null;
            let told = Case::from_json(case.to_string().as_bytes()).map_err(|error| error.to_string());
            match row["means"].as_str() {
                Some(known) => assert_eq!(
                    told.unwrap_err(),
                    format!("unknown key `{prefix}{key}`: did you mean `{known}`?")
                ),
                None => assert!(told.is_ok(), "{row}"),
            }
        }
    }
}
