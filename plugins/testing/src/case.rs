//! Reads case files.

use std::path::Path;

use sendflowr_plugin_sdk::{Descriptor, Header, Request, Setting};
use serde_json::Value;

/// The time of receipt of a case that names none: 2026-01-10T12:00:00Z, so that runs can be repeated.
const DEFAULT_NOW_MS: i64 = 1_768_046_400_000;

/// Entries of `config` that only a host's test double reads: certificates that it uses instead of fetching
/// them.
const HOST_ONLY: [&str; 1] = ["signing_certs"];

/// The keys of a case that have a meaning, and those of its `request`. The host has the same, and the same rule.
const KEYS: [&str; 6] = ["provider", "name", "config", "now", "request", "expect"];
const REQUEST_KEYS: [&str; 6] = ["method", "path", "query", "headers", "body", "body_base64"];

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Accepted,
    Unauthorized,
    BadRequest,
}

/// A case file. A result that it states no expectation for is not compared; the host does the same.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) provider: String,
    pub(crate) expected: Option<Expected>,
    pub(crate) events: Option<Vec<Value>>,
    pub(crate) skipped: Option<usize>,
    json: Value,
}

impl Case {
    /// Reads all `*.json` files of a folder, sorted by name; panics if one cannot be read.
    pub(crate) fn read_all(folder: &Path) -> Vec<Case> {
        let entries =
            std::fs::read_dir(folder).unwrap_or_else(|error| panic!("`{}`: {error}", folder.display()));
        let mut paths: Vec<_> = entries
            .map(|entry| entry.expect("the folder can be listed").path())
            .collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        paths.iter().map(|path| Case::read(path)).collect()
    }

    fn read(path: &Path) -> Case {
        let case = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let case = case.and_then(|text| Case::parse(&text));
        case.unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Case, String> {
        let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        check_keys(&json, "", &KEYS)?;
        check_keys(&json["request"], "request.", &REQUEST_KEYS)?;
        let expect = &json["expect"];
        let names = expect.as_object().into_iter().flat_map(|names| names.keys());
        let unknown = names
            .into_iter()
            .find(|name| !["outcome", "events", "skipped"].contains(&name.as_str()));
        if let Some(name) = unknown {
            return Err(format!(
                "`expect.{name}` is unknown; use `outcome`, `events` or `skipped`"
            ));
        }
        let expected = match &expect["outcome"] {
            Value::Null => None,
            Value::String(outcome) if outcome == "accepted" => Some(Expected::Accepted),
            Value::String(outcome) if outcome == "unauthorized" => Some(Expected::Unauthorized),
            Value::String(outcome) if outcome == "bad_request" => Some(Expected::BadRequest),
            other => return Err(format!("`expect.outcome` is {other}, which is not an outcome")),
        };
        let events = match &expect["events"] {
            Value::Null => None,
            Value::Array(events) => Some(events.clone()),
            other => return Err(format!("`expect.events` is {other}, which is not a list")),
        };
        let skipped = match &expect["skipped"] {
            Value::Null => None,
            other => match other.as_u64().and_then(|skipped| usize::try_from(skipped).ok()) {
                Some(skipped) => Some(skipped),
                None => {
                    return Err(format!(
                        "`expect.skipped` is {other}, which is not a number of elements"
                    ));
                }
            },
        };
        Ok(Case {
            name: json["name"].as_str().unwrap_or_default().to_owned(),
            provider: json["provider"].as_str().unwrap_or_default().to_owned(),
            expected,
            events,
            skipped,
            json,
        })
    }

    /// Returns the request as a host passes it to the plugin: secrets by name only, settings with their
    /// values.
    pub(crate) fn request(&self, descriptor: &Descriptor) -> Result<Request, String> {
        let mut secrets = Vec::new();
        let mut settings = Vec::new();
        let configured = self.json["config"].as_object().into_iter().flatten();
        for (name, value) in configured.filter(|(name, _)| !HOST_ONLY.contains(&name.as_str())) {
            if value.is_null() {
                continue;
            }
            if descriptor.secrets.iter().any(|secret| secret.name == *name) {
                secrets.push(name.clone());
            } else if descriptor.settings.iter().any(|setting| setting.name == *name) {
                settings.push(Setting {
                    name: name.clone(),
                    value: text(value),
                });
            } else {
                return Err(format!(
                    "the plugin declares neither a secret nor a setting `{name}`"
                ));
            }
        }
        let now = self.json["now"].as_str();
        let received_at_ms = match now.map(str::parse::<jiff::Timestamp>) {
            Some(Ok(now)) => now.as_millisecond(),
            Some(Err(error)) => return Err(format!("cannot read `now`: {error}")),
            None => DEFAULT_NOW_MS,
        };
        let request = &self.json["request"];
        let query = request["query"].as_str().unwrap_or_default();
        Ok(Request {
            method: request["method"].as_str().unwrap_or("POST").to_ascii_uppercase(),
            path: request["path"]
                .as_str()
                .map_or_else(|| format!("/webhooks/{}", self.provider), str::to_owned),
            query: query.strip_prefix('?').unwrap_or(query).to_owned(),
            headers: headers(&request["headers"])?,
            body: body(request)?,
            received_at_ms,
            settings,
            secrets,
        })
    }
}

/// Refuses keys of the object that look like one of the known keys: a mistyped `config` would turn the checking of proofs off.
/// Other unknown keys are notes.
fn check_keys(object: &Value, prefix: &str, known: &[&str]) -> Result<(), String> {
    for key in object.as_object().into_iter().flat_map(|object| object.keys()) {
        if known.contains(&key.as_str()) {
            continue;
        }
        // A third of the letters: one typo in a short word, two in a longer one. With more, `note` or `date` would be typos.
        let is_near = |known: &&&str| strsim::osa_distance(&key.to_lowercase(), known) <= known.len() / 3;
        if let Some(known) = known.iter().find(is_near) {
            return Err(format!("unknown key `{prefix}{key}`: did you mean `{known}`?"));
        }
    }
    Ok(())
}

/// Returns the headers of a case. A list is a header that is repeated; the host has the same rule.
fn headers(given: &Value) -> Result<Vec<Header>, String> {
    let mut headers = Vec::new();
    for (name, value) in given.as_object().into_iter().flatten() {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            if !(value.is_string() || value.is_number() || value.is_boolean()) {
                return Err(format!(
                    "`request.headers.{name}` must be a text or a list of texts"
                ));
            }
            headers.push(Header {
                name: name.to_ascii_lowercase(),
                value: text(value),
            });
        }
    }
    Ok(headers)
}

fn body(request: &Value) -> Result<Vec<u8>, String> {
    match request["body_base64"].as_str() {
        Some(encoded) => base64(encoded).ok_or_else(|| "`body_base64` is not base64".to_owned()),
        None => Ok(request["body"].as_str().unwrap_or_default().as_bytes().to_vec()),
    }
}

/// Returns a configured value as text: strings as they are, everything else as written.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Decodes padded or unpadded standard base64.
fn base64(encoded: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = 0_u32;
    let mut bits = 0;
    for byte in encoded.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = (buffer << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use sendflowr_plugin_sdk::Descriptor;
    use serde_json::{Value, json};

    use super::Case;

    #[test]
    fn mistyped_keys_are_no_notes() {
        for row in include_str!("keys.jsonl").lines() {
            let row: Value = serde_json::from_str(row).unwrap();
            let mut case = json!({ "provider": "acme", "request": {} });
            let (object, prefix) = match row["in"].as_str() {
                Some(object) => (&mut case[object], format!("{object}.")),
                None => (&mut case, String::new()),
            };
            let key = row["key"].as_str().unwrap();
            object[key] = Value::Null;
            let told = Case::parse(&case.to_string()).err();
            let means = row["means"].as_str();
            let expected = means.map(|known| format!("unknown key `{prefix}{key}`: did you mean `{known}`?"));
            assert_eq!(told, expected, "{row}");
        }
    }

    #[test]
    fn requests_are_those_of_a_host() {
        let descriptor = Descriptor::new("acme", "Acme", "1.0.0", "https://example.com");
        for row in include_str!("requests.jsonl").lines() {
            let row: Value = serde_json::from_str(row).unwrap();
            let case = json!({ "provider": "acme", "request": row["request"] });
            let request = Case::parse(&case.to_string())
                .unwrap()
                .request(&descriptor)
                .unwrap();
            assert_eq!(row["method"], request.method, "{row}");
            assert_eq!(row["path"], request.path, "{row}");
            assert_eq!(row["query"], request.query, "{row}");
        }
    }

    #[test]
    fn a_list_is_a_header_that_is_repeated() {
        let headers = |given| {
            let headers = super::headers(&given)?;
            let pairs = headers.into_iter().map(|header| (header.name, header.value));
            Ok::<_, String>(pairs.collect::<Vec<_>>())
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            headers(json!({ "X-Token": ["wrong", "tok"], "X-Count": 5, "X-None": [] })),
            Ok(vec![
                pair("x-count", "5"),
                pair("x-token", "wrong"),
                pair("x-token", "tok")
            ])
        );
        for value in [
            json!({ "a": "b" }),
            json!(null),
            json!([["tok"]]),
            json!(["tok", null]),
        ] {
            let told = headers(json!({ "X-Token": value })).unwrap_err();
            assert_eq!(
                told,
                "`request.headers.X-Token` must be a text or a list of texts"
            );
        }
    }

    #[test]
    fn decodes_base64() {
        assert_eq!(super::base64("Zm9vYmE=").as_deref(), Some(&b"fooba"[..]));
        assert_eq!(super::base64("Zm9vYg").as_deref(), Some(&b"foob"[..]));
        assert_eq!(super::base64("/+8=").as_deref(), Some(&[0xff, 0xef][..]));
        assert_eq!(super::base64("a b"), None);
    }
}
