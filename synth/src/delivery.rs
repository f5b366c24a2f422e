//! Synthetic webhook deliveries in every provider's own format, signed the way the provider signs them.
//!
//! The demonstration, the load generator and the end-to-end tests send these through the real path: HTTP, the compiled
//! plugin, the host's check of the proof.

mod body;
mod signing;

use std::collections::BTreeMap;

use event::Timestamp;

pub use self::body::{ADDRESS, AGENT, LINK};
use self::signing::Signer;

/// The slugs of the providers that deliveries can be generated for.
pub const PROVIDERS: [&str; 16] = [
    "braze",
    "brevo",
    "customerio",
    "hubspot",
    "iterable",
    "klaviyo",
    "mailchimp",
    "mailersend",
    "mailgun",
    "mailjet",
    "mandrill",
    "postmark",
    "resend",
    "sendgrid",
    "ses",
    "sparkpost",
];

/// The kind of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The mail arrived.
    Delivered,
    /// The person opened it.
    Opened,
    /// The person followed a link.
    Clicked,
    /// The person opted out.
    Unsubscribed,
    /// An event of a type that the plugins do not know.
    Unknown,
}

/// Something that happened, to be reported by a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// What happened.
    pub kind: Kind,
    /// When it happened.
    pub at: Timestamp,
    /// The person's address. It must be invented, because it is written into the delivery unchanged.
    pub email: String,
    /// Id of the message; the ids of events and contacts are derived from it too.
    pub message: String,
}

/// A delivery, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Query string without the question mark; empty for most providers.
    pub query: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// Number of actions that the body reports.
    pub actions: usize,
}

/// One account at one provider: what the operator would configure, and the keys to sign like the provider.
pub struct Account {
    provider: &'static str,
    config: BTreeMap<String, String>,
    signer: Signer,
}

impl Account {
    /// Creates an account with random keys, or returns `None` for a provider that is not among [`PROVIDERS`]. `webhook_url` is
    /// the URL that would be configured at the provider, without a query.
    pub fn generate(provider: &str, webhook_url: &str) -> Option<Self> {
        let provider = PROVIDERS.into_iter().find(|known| *known == provider)?;
        let (config, signer) = signing::generate(provider, webhook_url);
        Some(Self {
            provider,
            config,
            signer,
        })
    }

    /// Returns the provider's slug.
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// Returns secrets and settings as the operator would configure them.
    pub fn config(&self) -> &BTreeMap<String, String> {
        &self.config
    }

    /// Returns the deliveries in which the provider would report `actions`, signed at `now`. Actions that the provider has no
    /// event for are left out. There is one delivery for all actions if the provider sends batches, otherwise one for each.
    pub fn deliver(&self, actions: &[Action], now: Timestamp) -> Vec<Delivery> {
        let bodies = body::bodies(self.provider, actions, now);
        bodies
            .into_iter()
            .map(|body| self.signer.sign(body, now))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_reports_something() {
        let now: Timestamp = "2026-01-10T12:00:00Z".parse().unwrap();
        let actions = [
            Kind::Delivered,
            Kind::Opened,
            Kind::Clicked,
            Kind::Unsubscribed,
            Kind::Unknown,
        ]
        .map(|kind| Action {
            kind,
            at: now,
            email: "ann@example.com".into(),
            message: "m1".into(),
        });
        for provider in PROVIDERS {
            let account = Account::generate(provider, "https://hooks.example.com/webhooks/x").unwrap();
            let deliveries = account.deliver(&actions, now);
            let reported: usize = deliveries.iter().map(|delivery| delivery.actions).sum();
            assert!(reported >= 2, "{provider} reports {reported}");
            assert!(!account.config().is_empty(), "{provider} has no proof");
        }
        assert!(Account::generate("carrier-pigeon", "").is_none());
    }
}
