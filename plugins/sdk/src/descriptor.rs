//! Builds a plugin's descriptor.

use crate::{Descriptor, SecretSpec, SettingSpec, Statuses};

impl Descriptor {
    /// Creates a descriptor without secrets, settings and hosts. Its status codes suit providers that retry
    /// on everything but 2xx: 401, 400 and 503. Pass `env!("CARGO_PKG_VERSION")` as `version`.
    pub fn new(slug: &str, display_name: &str, version: &str, docs_url: &str) -> Descriptor {
        Descriptor {
            slug: slug.to_owned(),
            display_name: display_name.to_owned(),
            version: version.to_owned(),
            docs_url: docs_url.to_owned(),
            secrets: Vec::new(),
            settings: Vec::new(),
            hosts: Vec::new(),
            statuses: Statuses {
                unproven: 401,
                malformed: 400,
                unavailable: 503,
            },
        }
    }

    /// Adds a secret that the operator may configure.
    pub fn secret(mut self, name: &str, summary: &str) -> Descriptor {
        self.secrets.push(SecretSpec {
            name: name.to_owned(),
            summary: summary.to_owned(),
            required: false,
        });
        self
    }

    /// Adds a secret without which deliveries cannot be verified.
    pub fn required_secret(mut self, name: &str, summary: &str) -> Descriptor {
        self.secrets.push(SecretSpec {
            name: name.to_owned(),
            summary: summary.to_owned(),
            required: true,
        });
        self
    }

    /// Adds a setting that the operator may configure.
    pub fn setting(mut self, name: &str, summary: &str) -> Descriptor {
        self.settings.push(SettingSpec {
            name: name.to_owned(),
            summary: summary.to_owned(),
            required: false,
        });
        self
    }

    /// Adds a setting without which the plugin cannot work.
    pub fn required_setting(mut self, name: &str, summary: &str) -> Descriptor {
        self.settings.push(SettingSpec {
            name: name.to_owned(),
            summary: summary.to_owned(),
            required: true,
        });
        self
    }

    /// Adds the secrets that [`Proofs::basic_auth`](crate::Proofs::basic_auth) reads.
    pub fn basic_auth(self) -> Descriptor {
        self.secret(
            "basic_auth_user",
            "User name that the webhook's URL or its authentication setting carries.",
        )
        .secret(
            "basic_auth_password",
            "Password that goes with `basic_auth_user`.",
        )
    }

    /// Adds the secret that [`Proofs::bearer_token`](crate::Proofs::bearer_token) reads.
    pub fn bearer_token(self) -> Descriptor {
        self.secret(
            "bearer_token",
            "Token that the webhook sends as `Authorization: Bearer`.",
        )
    }

    /// Adds the secret and the setting that [`Proofs::shared_header`](crate::Proofs::shared_header) reads.
    pub fn shared_header(self) -> Descriptor {
        self.secret(
            "header_value",
            "Value of the custom header that the webhook is configured to send.",
        )
        .setting(
            "header_name",
            "Name of the custom header that carries `header_value`.",
        )
    }

    /// Adds the setting that [`Proofs::fresh`](crate::Proofs::fresh) reads.
    pub fn timestamp_tolerance(self) -> Descriptor {
        self.tolerance("any age is accepted")
    }

    /// Adds the setting that [`Proofs::fresh_within`](crate::Proofs::fresh_within) reads; takes the same tolerance as that.
    pub fn timestamp_tolerance_within(self, tolerance_seconds: u64) -> Descriptor {
        self.tolerance(&format!("{tolerance_seconds} seconds are accepted"))
    }

    fn tolerance(self, unset: &str) -> Descriptor {
        self.setting(
            "timestamp_tolerance_seconds",
            &format!("Refuses deliveries signed longer ago, or further ahead, than this; unset, {unset}."),
        )
    }

    /// Allows the host to fetch from `host`: an exact name, or a pattern in which one whole label is `*`.
    pub fn host(mut self, host: &str) -> Descriptor {
        self.hosts.push(host.to_owned());
        self
    }

    /// Sets the status codes to respond with, as this provider understands them.
    pub fn statuses(mut self, statuses: Statuses) -> Descriptor {
        self.statuses = statuses;
        self
    }
}
