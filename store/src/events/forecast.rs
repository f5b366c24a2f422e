//! Input of the audit of arrivals: when the mail of a decision should go out, and when it should arrive.

use event::{MailboxProvider, Timestamp, UniversalId};

/// When a decision expects the mail to go out and to arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// When the mail should be handed over to the provider.
    pub trigger_at: Timestamp,
    /// When it should arrive.
    pub target_at: Timestamp,
    /// The provider in the request.
    pub esp: Option<String>,
    /// The class of the person's mailbox.
    pub mailbox_provider: Option<MailboxProvider>,
    /// The campaign in the request.
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
    /// The forecast.
    pub forecast: Forecast,
}
