#![doc = include_str!("../README.md")]

mod case;
mod compare;
pub mod damage;
mod mutate;

use std::path::Path;

use sendflowr_plugin_sdk::{Batch, Header, Outcome, Plugin, Rejection, Request, Setting};

use case::{Case, Expected};

/// Runs every case file in the folder against `P`, and panics with all differences if a case does not hold.
///
/// Outside a host no proof is checked, because that is the host's task. A case that must be refused for its proof passes if
/// `authenticate` refuses it or demands a proof; one that must be accepted passes if `authenticate` demands what the case
/// configures and `normalize` returns the expected events.
pub fn run_cases<P: Plugin>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let cases = Case::read_all(folder);
    assert!(!cases.is_empty(), "no case files in `{}`", folder.display());
    let mut failures = Vec::new();
    for case in &cases {
        let differences = run_case::<P>(case);
        if !differences.is_empty() {
            failures.push(format!("{}:\n    {}", case.name, differences.join("\n    ")));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases differ\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// Returns the differences from what the case expects; empty if it holds.
fn run_case<P: Plugin>(case: &Case) -> Vec<String> {
    let descriptor = P::describe();
    if descriptor.slug != case.provider {
        return vec![format!(
            "the case is for `{}`, the plugin is `{}`",
            case.provider, descriptor.slug
        )];
    }
    let request = match case.request(&descriptor) {
        Ok(request) => request,
        Err(difference) => return vec![difference],
    };
    let authenticated = P::authenticate(&request);
    if case.expected == Some(Expected::Unauthorized) {
        return match authenticated {
            Ok(proofs) if proofs.is_empty() => vec!["expected a refusal, but nothing is demanded".to_owned()],
            Ok(_) | Err(Rejection::MissingProof(_) | Rejection::InvalidProof(_)) => Vec::new(),
            Err(Rejection::Malformed(text)) => {
                vec![format!("expected a refusal for the proof, got malformed: {text}")]
            }
        };
    }
    let outcome = match authenticated {
        Ok(proofs) if proofs.is_empty() && !request.secrets.is_empty() => {
            return vec!["secrets are configured, but nothing is demanded".to_owned()];
        }
        Ok(_) => P::normalize(&request),
        Err(refused) => Err(refused),
    };
    match (&case.expected, outcome) {
        (Some(Expected::BadRequest), Err(Rejection::Malformed(_))) => Vec::new(),
        (Some(Expected::BadRequest), other) => vec![format!("expected a malformed delivery, got {other:?}")],
        (None, Err(_)) => Vec::new(),
        (_, Err(refused)) => vec![format!("expected events, got {refused:?}")],
        (_, Ok(outcome)) => compare::differences(case, &descriptor.slug, outcome),
    }
}

/// Damages the deliveries of all case files in the folder (fields dropped, types changed, nested deeper, cut off, other bytes).
/// Panics if `P` panics, if it takes more than ten times as long as for the undamaged delivery, or if it creates an event without
/// a time, or about neither a person nor a message, or skips an element without a type.
pub fn survives_damage<P: Plugin>(folder: impl AsRef<Path>) {
    let descriptor = P::describe();
    for (number, case) in (0..).zip(&Case::read_all(folder.as_ref())) {
        if let Ok(request) = case.request(&descriptor) {
            mutate::check::<P>(&case.name, &request, 0x5eed << 16 | number);
        }
    }
}

/// Creates a POST of this JSON with nothing configured, received at 2026-01-10T12:00:00Z.
pub fn post(body: impl AsRef<[u8]>) -> Request {
    Request {
        method: "POST".to_owned(),
        path: "/webhooks/test".to_owned(),
        query: String::new(),
        headers: vec![Header {
            name: "content-type".to_owned(),
            value: "application/json".to_owned(),
        }],
        body: body.as_ref().to_vec(),
        received_at_ms: 1_768_046_400_000,
        settings: Vec::new(),
        secrets: Vec::new(),
    }
}

/// Methods that change a request, for tests.
pub trait RequestExt {
    /// Sets this header, in place of those with the same name. The plugin sees the name in lower case, as a host passes it.
    fn with_header(self, name: &str, value: &str) -> Self;
    /// Adds this setting.
    fn with_setting(self, name: &str, value: &str) -> Self;
    /// Adds this secret to the configured ones.
    fn with_secret(self, name: &str) -> Self;
    /// Sets this query.
    fn with_query(self, query: &str) -> Self;
    /// Sets this method.
    fn with_method(self, method: &str) -> Self;
}

impl RequestExt for Request {
    fn with_header(mut self, name: &str, value: &str) -> Request {
        let name = name.to_ascii_lowercase();
        self.headers.retain(|header| header.name != name);
        self.headers.push(Header {
            name,
            value: value.to_owned(),
        });
        self
    }

    fn with_setting(mut self, name: &str, value: &str) -> Request {
        self.settings.push(Setting {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    fn with_secret(mut self, name: &str) -> Request {
        self.secrets.push(name.to_owned());
        self
    }

    fn with_query(mut self, query: &str) -> Request {
        query.clone_into(&mut self.query);
        self
    }

    fn with_method(mut self, method: &str) -> Request {
        method.clone_into(&mut self.method);
        self
    }
}

/// Returns the batch of an outcome that must be one.
///
/// # Panics
///
/// Panics if the delivery was refused or is a handshake with a reply of its own.
pub fn batch(outcome: Result<Outcome, Rejection>) -> Batch {
    match outcome {
        Ok(Outcome::Events(batch)) => batch,
        other => panic!("expected events, got {other:?}"),
    }
}

/// Returns the batch that `P` makes of a JSON body.
///
/// # Panics
///
/// Panics if `P` refuses it.
pub fn normalize<P: Plugin>(body: &str) -> Batch {
    batch(P::normalize(&post(body)))
}

#[cfg(test)]
mod tests;
