//! What the audit of arrivals reads: when a decision's mail should go out, and when it should arrive.

use event::{MailboxProvider, Timestamp, UniversalId};

/// What a decision expects of the mail's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// When the mail should be handed to the provider.
    pub trigger_at: Timestamp,
    /// When it should arrive.
    pub target_at: Timestamp,
    /// The provider that was asked for.
    pub esp: Option<String>,
    /// The class of the person's mailbox.
    pub mailbox_provider: Option<MailboxProvider>,
    /// The campaign that was asked for.
    pub campaign_id: Option<String>,
}

/// The forecast of a stored decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredForecast {
    /// The decision.
    pub reference: String,
    /// The person.
    pub universal_id: UniversalId,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The rest.
    pub forecast: Forecast,
}
