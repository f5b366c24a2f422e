//! Input of the comparison of chosen times with a control group: the group of each decision, and its outcome.

use event::{EventType, Timestamp, UniversalId};
use serde::{Deserialize, Serialize};

/// The rule by which the minute of a decision was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialGroup {
    /// The model's choice.
    Treated,
    /// A random minute of those allowed.
    Control,
    /// A random quarter hour of those that the model rates nearly as good as its choice.
    Exploration,
}

impl TrialGroup {
    /// All groups.
    pub const ALL: [Self; 3] = [Self::Treated, Self::Control, Self::Exploration];

    /// Returns the group's name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Treated => "treated",
            Self::Control => "control",
            Self::Exploration => "exploration",
        }
    }

    /// Returns the group with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.as_str() == name)
    }
}

/// What a decision means for the comparison with the control group.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The rule by which the minute was chosen.
    pub group: TrialGroup,
    /// The minute of arrival that was decided.
    pub target_at: Timestamp,
    /// The minute that the model would have chosen.
    pub model_at: Timestamp,
    /// The probability, over the random choice of group and minute, that the decision fell into the quarter hour of
    /// `target_at`.
    pub propensity: f64,
    /// The campaign in the request.
    pub campaign_id: Option<String>,
}

/// A stored decision that takes part in the comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTrial {
    /// The decision.
    pub reference: String,
    /// The person.
    pub universal_id: UniversalId,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The trial.
    pub trial: Trial,
}

/// A mail that reached a person, or a strong response of the person: a click, reply or conversion that was not made by a
/// machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// The person, under the id of the event.
    pub universal_id: UniversalId,
    /// When it happened.
    pub at: Timestamp,
    /// Whether it is a mail or a response.
    pub kind: TouchKind,
    /// The message, if known.
    pub message_id: Option<String>,
    /// The campaign, if known.
    pub campaign_id: Option<String>,
    /// The provider.
    pub esp: String,
    /// For a delivery: milliseconds since the mail was sent, if known.
    pub delivery_latency_ms: Option<i64>,
}

/// The kind of a [`Touch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TouchKind {
    /// A mail was delivered.
    Delivered,
    /// The person clicked, replied or bought.
    Answered,
}

impl TouchKind {
    /// Types of events that are touches unless made by a machine.
    pub(super) const EVENT_TYPES: [EventType; 4] = [
        EventType::Delivered,
        EventType::Clicked,
        EventType::Replied,
        EventType::Converted,
    ];

    /// Returns the kind for an event of one of [`TouchKind::EVENT_TYPES`].
    pub(super) fn of(event_type: &str) -> Self {
        if event_type == EventType::Delivered.as_str() {
            Self::Delivered
        } else {
            Self::Answered
        }
    }
}
