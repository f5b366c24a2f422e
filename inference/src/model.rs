//! The timing model: from a person's profile to the value of delivering at each minute.
//!
//! One model serves all data. A person's week is a mixture of weekly shapes, each at any clock shift (so that no time
//! zone has to be known), multiplied by how much more or less the person did than that mixture expects. Expectations
//! are relative to *exposure*, the time that unclicked mail lay in the mailbox: without it, a model learns the sender's
//! schedule. Where no deliveries are known, exposure is flat and the same formulas hold. The value of a minute is the
//! activity after it, weighted by the fading attention to a mail; where no deliveries are known, it is the activity in
//! the two hours after it, which count for more if the person was active shortly before.
//!
//! Pure: it performs no I/O and reads no clock, and sums in a fixed order, so the same profile, tables and `now` give
//! the same bits.

mod builtin;
mod curve;
mod drift;
mod exposure;
mod fit;
mod posterior;
mod presence;
mod tables;
mod week;

use std::sync::Arc;

use event::{
    Timestamp,
    profile::{History, Profile},
};
use serde::{Deserialize, Serialize};

use drift::{LONG_DAYS, SHORT_DAYS};
use exposure::{AGE_EDGES, AGES, Sums, act_times};
use tables::{CONFIDENCE_TERMS, Derived, Tables};

pub use curve::{Best, Curve, Evidence, Rung};
pub use fit::TrainingPerson;
pub use presence::Presence;
pub(crate) use presence::remaining;
pub use tables::InvalidTables;

/// What is known of people in general: the tables that a person's own data are weighed against.
///
/// Serializes compactly (about 15 kB of JSON); deserializing checks that the tables are complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Tables", into = "Tables")]
pub struct Population {
    tables: Tables,
    derived: Derived,
    version: Arc<str>,
}

impl TryFrom<Tables> for Population {
    type Error = InvalidTables;

    fn try_from(tables: Tables) -> Result<Self, InvalidTables> {
        tables.check()?;
        Ok(Self {
            derived: Derived::new(&tables),
            version: tables.version().into(),
            tables,
        })
    }
}

impl From<Population> for Tables {
    fn from(population: Population) -> Self {
        population.tables
    }
}

impl PartialEq for Population {
    fn eq(&self, other: &Self) -> bool {
        self.tables == other.tables
    }
}

/// Without deliveries there is no evidence of how attention fades; the value of a minute is then the activity in the
/// two hours after it, which reach the most people soon after arrival.
const SOON_MINUTES: usize = 120;

/// Added to the log odds of the confidence where deliveries are known. The function is fitted to people without deliveries, and
/// the best of many noisy values is chosen: on simulated mail it is too high by 0.2 to 0.6, by less where it is certain.
const MAIL_LOG_ODDS: f32 = -0.35;

impl Population {
    /// Returns the tables that ship with the product, for the time before there are data of one's own.
    ///
    /// The shapes are aggregates over the anonymous activity times of some 2,500 people in many countries; their clock
    /// shifts are spread out again, because nobody knows where the users of this installation live.
    pub fn builtin() -> Self {
        builtin::population()
    }

    /// Returns tables made from plain weekly shapes alone: the tables that [`Population::builtin`] was fitted from.
    pub fn plain() -> Self {
        builtin::plain()
    }

    /// Fits tables to people's past up to `now`, starting from the built-in ones. See [`Population::refit`].
    pub fn fit(people: impl IntoIterator<Item = TrainingPerson>, now: Timestamp) -> Option<Self> {
        Self::builtin().refit(people, now)
    }

    /// Fits tables to people's past up to `now`, starting from these, which keep a weight that data does not outgrow.
    /// Returns `None` if there is not a single event to learn from.
    ///
    /// People of whom nothing is known by `now` count for nothing. Of more than 20,000 people a half, a quarter, … is used. What is
    /// drawn of a person comes from their id, so that others change nothing in it. The same people in the same order give the same
    /// tables.
    pub fn refit(&self, people: impl IntoIterator<Item = TrainingPerson>, now: Timestamp) -> Option<Self> {
        fit::fit(self, people, now)
    }

    /// Returns the version of the tables: a hash of their content.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the number of people whose past the tables were fitted to.
    pub fn people(&self) -> usize {
        self.tables.people
    }

    /// Returns the number of events that the tables were fitted to.
    pub fn events(&self) -> usize {
        self.tables.events
    }

    /// Returns the person's curve as of `now`: only what happened up to then is used. Without a profile it is the curve
    /// of a person of whom nothing is known.
    pub fn curve(&self, profile: Option<&Profile>, now: Timestamp) -> Curve {
        let history = profile.map(|profile| profile.history(now)).unwrap_or_default();
        self.curve_of(&history, now)
    }

    fn curve_of(&self, history: &History, now: Timestamp) -> Curve {
        let times = act_times(history);
        let sums = |half_life_days| Sums::of(history, now, &self.derived.attention, half_life_days);
        let long_sums = sums(LONG_DAYS);
        let long = posterior::posterior(&self.tables, &self.derived, &long_sums);
        let recent_weight = if times.is_empty() {
            0.0
        } else {
            drift::short_weight(&times, &self.derived.personal)
        };
        let (mut week, mut prior_weight) = (long.week, long.prior_weight);
        // A smaller weight of the short memory changes no minute.
        let recent_weight = if recent_weight > 0.005 { recent_weight } else { 0.0 };
        if recent_weight > 0.0 {
            let short = posterior::posterior(&self.tables, &self.derived, &sums(SHORT_DAYS));
            let blend = |value: &mut f32, recent: f32| {
                *value = (1.0 - recent_weight) * *value + recent_weight * recent;
            };
            for (value, recent) in week.iter_mut().zip(&short.week) {
                blend(value, *recent);
            }
            blend(&mut prior_weight, short.prior_weight);
        }
        let evidence = Evidence {
            events: times.len(),
            mails: history.mails.len(),
            effective_events: f64::from(long_sums.count()),
            prior_weight: f64::from(prior_weight),
            recent_weight: f64::from(recent_weight),
            rung: Rung::of(times.len()),
            population_version: Arc::clone(&self.version),
        };
        // Mail to a person of whom nothing is known is taken to be known where that of others is.
        let mail_is_known = !history.mails.is_empty() || (self.tables.attention_learned && times.is_empty());
        let (attention, presence) = if mail_is_known {
            (self.tables.attention_bands(), None)
        } else {
            let soon = std::array::from_fn(|band| f32::from(u8::from(AGE_EDGES[band] < SOON_MINUTES)));
            (soon, Presence::of(history, self.tables.presence))
        };
        let mut confidence: [f32; CONFIDENCE_TERMS] = self.tables.confidence[..]
            .try_into()
            .expect("the length is checked when tables are made");
        if mail_is_known {
            confidence[0] += MAIL_LOG_ODDS;
        }
        Curve::new(week, &attention, evidence, confidence, presence)
    }
}

const _: () = assert!(
    AGES > 0 && SOON_MINUTES == AGE_EDGES[4],
    "the span must end at an edge"
);

#[cfg(test)]
mod tests;
