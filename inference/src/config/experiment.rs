//! `[inference.experiment]`: the control group and exploration.

use event::settings::{OutOfRange, number};
use serde::Deserialize;

/// `[inference.experiment]`: how chosen times are compared with random times.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawExperimentConfig {
    /// Whether there is a control group and exploration at all. Default `true`.
    pub enabled: Option<bool>,
    /// Share of people whose mail goes at a random minute among those allowed, 0 to 0.5. Default 0.1.
    pub control_share: Option<f64>,
    /// Share of the other people's decisions that choose a quarter hour nearly as good as the best, 0 to 0.5. Default 0.02.
    pub exploration_share: Option<f64>,
    /// Any text; changing it draws different people for the control group. Default: empty.
    pub salt: Option<String>,
}

/// How chosen times are compared with random times.
#[derive(Debug, Clone, PartialEq)]
pub struct ExperimentConfig {
    /// Share of people in the control group.
    pub control_share: f64,
    /// Share of the other people's decisions that explore.
    pub exploration_share: f64,
    /// Determines, together with a person's id, who is in the control group.
    pub salt: String,
}

/// A tenth of the people: enough to detect a lift of a tenth within a season's mail, at the cost of a tenth of what timing
/// gains.
const CONTROL_SHARE: f64 = 0.1;

/// Two decisions in a hundred are enough to notice that a person's good hour has moved, and since they are nearly as good
/// as the best, they cost at most one response in 250.
const EXPLORATION_SHARE: f64 = 0.02;

/// More than half is a mistake: an operator who wants random times for most people does not want timing.
const MAX_SHARE: f64 = 0.5;

impl RawExperimentConfig {
    /// Checks the settings; returns `None` if the experiment is switched off.
    pub(super) fn check(self) -> Result<Option<ExperimentConfig>, OutOfRange> {
        let share = |key: &str, value: Option<f64>, default: f64| {
            number(
                "inference.experiment",
                key,
                value.unwrap_or(default),
                0.0..=MAX_SHARE,
            )
        };
        let config = ExperimentConfig {
            control_share: share("control_share", self.control_share, CONTROL_SHARE)?,
            exploration_share: share("exploration_share", self.exploration_share, EXPLORATION_SHARE)?,
            salt: self.salt.unwrap_or_default(),
        };
        Ok(self.enabled.unwrap_or(true).then_some(config))
    }
}
