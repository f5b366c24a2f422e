//! The tables that describe people in general, as they are stored, and what is derived from them for speed.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::exposure::{AGES, Attention};
use super::posterior::{echo_kernel, personal_kernel, personal_kernel_of_mail};
use super::week::{BINS, Kernel};

/// Clock shifts of each shape: one for every hour, so that nobody's time zone has to be known.
pub(super) const SHIFTS: usize = 24;

/// Coefficients of the confidence function, see [`super::Curve::confidence`].
pub(super) const CONFIDENCE_TERMS: usize = 4;

/// What is known of people in general.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    /// Weekly shapes on the clock of their shift, 1 on average.
    pub(super) shapes: Vec<Vec<f32>>,
    /// How common each shape is at each shift; sums to 1.
    pub(super) weights: Vec<Vec<f32>>,
    /// The pooled response of all people, 1 on average.
    pub(super) pooled: Vec<f32>,
    /// Attention by age of the mail, on a scale of its own, see [`Attention`].
    pub(super) attention: Vec<f32>,
    /// Whether `attention` was learned from deliveries.
    pub(super) attention_learned: bool,
    /// Mean clicks and opens per hour of mail with an attention of 1.
    pub(super) click_level: f32,
    pub(super) open_level: f32,
    /// Shape of the gamma distribution of levels among people.
    pub(super) level_shape: f32,
    /// The confidence function: constant, log odds of the window's share, log(1 + events), log window.
    pub(super) confidence: Vec<f32>,
    /// Weight of a person's last act for the minutes after it, and the hours in which it halves, see [`super::Presence`].
    pub(super) presence: [f32; 2],
    /// People and events that the tables were fitted to.
    pub(super) people: usize,
    pub(super) events: usize,
}

/// Stored tables do not have the form that this build reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("population tables are damaged: `{0}` has a wrong length or value")]
pub struct InvalidTables(&'static str);

impl Tables {
    pub(super) fn check(&self) -> Result<(), InvalidTables> {
        let positive = |values: &[f32]| values.iter().all(|value| value.is_finite() && *value > 0.0);
        let fits = |values: &[f32], length: usize| values.len() == length && positive(values);
        let shapes = &self.shapes;
        if shapes.is_empty() || !shapes.iter().all(|shape| fits(shape, BINS)) {
            return Err(InvalidTables("shapes"));
        }
        if self.weights.len() != shapes.len() || !self.weights.iter().all(|weights| fits(weights, SHIFTS)) {
            return Err(InvalidTables("weights"));
        }
        if !fits(&self.pooled, BINS) {
            return Err(InvalidTables("pooled"));
        }
        if !fits(&self.attention, AGES) {
            return Err(InvalidTables("attention"));
        }
        if !positive(&[self.click_level, self.open_level, self.level_shape]) {
            return Err(InvalidTables("levels"));
        }
        if self.confidence.len() != CONFIDENCE_TERMS || !self.confidence.iter().all(|term| term.is_finite()) {
            return Err(InvalidTables("confidence"));
        }
        let [weight, half_life_hours] = self.presence;
        if !(weight.is_finite() && weight >= 0.0 && positive(&[half_life_hours])) {
            return Err(InvalidTables("presence"));
        }
        Ok(())
    }

    /// Returns the version: the first 48 bits of a hash of the content, as 12 hexadecimal digits after a prefix.
    pub(super) fn version(&self) -> String {
        let content = serde_json::to_vec(self).expect("tables are numbers");
        let digits = hex_of(&Sha256::digest(content)[..6]);
        format!("p1-{digits}")
    }

    pub(super) fn attention_bands(&self) -> [f32; AGES] {
        self.attention[..]
            .try_into()
            .expect("the length is checked when tables are made")
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What serving needs in addition to the tables.
#[derive(Debug, Clone)]
pub(super) struct Derived {
    /// Each shape twice in a row, so that every shift of it is a slice; and the logarithms.
    doubled: Vec<Vec<f32>>,
    log_doubled: Vec<Vec<f32>>,
    log_weights: Vec<f32>,
    pub(super) attention: Attention,
    pub(super) personal: Kernel,
    pub(super) personal_of_mail: Kernel,
    pub(super) echo: Kernel,
}

impl Derived {
    pub(super) fn new(tables: &Tables) -> Self {
        let twice = |shape: &Vec<f32>| [&shape[..], &shape[..]].concat();
        let doubled: Vec<Vec<f32>> = tables.shapes.iter().map(twice).collect();
        let log_doubled = doubled
            .iter()
            .map(|shape| shape.iter().map(|value| value.ln()).collect())
            .collect();
        Self {
            doubled,
            log_doubled,
            log_weights: tables
                .weights
                .iter()
                .flatten()
                .map(|weight| weight.ln())
                .collect(),
            attention: Attention::new(&tables.attention_bands()),
            personal: personal_kernel(),
            personal_of_mail: personal_kernel_of_mail(),
            echo: echo_kernel(),
        }
    }

    /// Returns a shape shifted by `shift` hours.
    pub(super) fn shape(&self, shape: usize, shift: usize) -> &[f32] {
        &self.doubled[shape][BINS - shift..2 * BINS - shift]
    }

    pub(super) fn log_shape(&self, shape: usize, shift: usize) -> &[f32] {
        &self.log_doubled[shape][BINS - shift..2 * BINS - shift]
    }

    pub(super) fn log_weight(&self, shape: usize, shift: usize) -> f32 {
        self.log_weights[shape * SHIFTS + shift]
    }
}
