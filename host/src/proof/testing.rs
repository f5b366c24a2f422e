//! Helpers for the proof-related tests of several modules.

use crate::plugin::types::{Descriptor, SecretSpec, SettingSpec, Statuses};

/// Returns a descriptor of the provider `acme` with these secrets and settings, each with whether it is required.
pub(crate) fn descriptor(secrets: &[(&str, bool)], settings: &[(&str, bool)]) -> Descriptor {
    let secrets = secrets.iter().map(|(name, required)| SecretSpec {
        name: (*name).to_owned(),
        summary: "a secret".to_owned(),
        required: *required,
    });
    let settings = settings.iter().map(|(name, required)| SettingSpec {
        name: (*name).to_owned(),
        summary: "a setting".to_owned(),
        required: *required,
    });
    Descriptor {
        slug: "acme".to_owned(),
        display_name: "Acme".to_owned(),
        version: "1.0.0".to_owned(),
        docs_url: "https://acme.test/docs".to_owned(),
        secrets: secrets.collect(),
        settings: settings.collect(),
        hosts: vec!["keys.acme.test".to_owned()],
        statuses: Statuses {
            unproven: 401,
            malformed: 400,
            unavailable: 503,
        },
    }
}
