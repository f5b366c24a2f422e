//! What the comparison of chosen times with a control group reads: which group a decision fell into, and what came of it.

use event::{EventType, Timestamp, UniversalId};
use serde::{Deserialize, Serialize};

/// By what rule a decision's minute was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialGroup {
    /// The model's choice.
    Treated,
    /// A random minute of those allowed.
    Control,
    /// A random quarter hour of those that the model holds for nearly as good as its choice.
    Exploration,
}

impl TrialGroup {
    /// All groups.
    pub const ALL: [Self; 3] = [Self::Treated, Self::Control, Self::Exploration];

    /// The group's name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Treated => "treated",
            Self::Control => "control",
            Self::Exploration => "exploration",
        }
    }

    /// The group with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.as_str() == name)
    }
}

/// What a decision means for the comparison with the control group.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// By what rule the minute was taken.
    pub group: TrialGroup,
    /// The minute of arrival that was decided.
    pub target_at: Timestamp,
    /// The minute that the model would have chosen.
    pub model_at: Timestamp,
    /// The probability, over the draw of group and minute, that the decision fell into the quarter hour of `target_at`.
    pub propensity: f64,
    /// The campaign that was asked for.
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
    /// The rest.
    pub trial: Trial,
}

/// A mail that reached a person, or a strong answer of the person: a click, reply or conversion that no machine made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// The person, under the id of the event.
    pub universal_id: UniversalId,
    /// When it happened.
    pub at: Timestamp,
    /// Which of the two.
    pub kind: TouchKind,
    /// The message, where known.
    pub message_id: Option<String>,
    /// The campaign, where known.
    pub campaign_id: Option<String>,
    /// The provider.
    pub esp: String,
    /// Of a delivery: milliseconds since the mail was sent, where known.
    pub delivery_latency_ms: Option<i64>,
}

/// What a [`Touch`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TouchKind {
    /// A mail was delivered.
    Delivered,
    /// The person clicked, replied or bought.
    Answered,
}

impl TouchKind {
    /// Types of events that are touches, unless a machine made them.
    pub(super) const EVENT_TYPES: [EventType; 4] = [
        EventType::Delivered,
        EventType::Clicked,
        EventType::Replied,
        EventType::Converted,
    ];

    /// The kind of an event of one of [`TouchKind::EVENT_TYPES`].
    pub(super) fn of(event_type: &str) -> Self {
        if event_type == EventType::Delivered.as_str() {
            Self::Delivered
        } else {
            Self::Answered
        }
    }
}
