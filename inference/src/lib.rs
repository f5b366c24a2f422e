//! When should this person get the next mail? The timing model, the latency model, and the HTTP service that answers.
//!
//! A decision reads one profile, makes the person's weekly curve from it and the population's tables ([`model`]), narrows
//! the asked window by guards and circuit breakers, takes the best minute that is left and subtracts the delay expected
//! of the provider. Every decision can be read again as its explanation.
//!
//! [`run`] serves until it is told to stop; [`train`] fits the population's tables, for the command line.

pub mod model;
pub mod rivals;

mod arrivals;
mod config;
mod decision;
mod error;
mod explanation;
mod http;
mod latency;
mod lift;
mod mail;
mod metrics;
mod person;
mod population;
mod server;
mod service;

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use prometheus_client::registry::Registry;
use store::{events::Events, identity::Identities, profiles::Profiles};

pub use arrivals::{ArrivalRow, Arrivals, Drift, DriftState, arrivals};
pub use config::{
    ExperimentConfig, HotPath, InferenceConfig, InvalidConfig, LatencyConfig, PolicyConfig,
    RawBreakersConfig, RawExperimentConfig, RawHotPath, RawHotPathsConfig, RawInferenceConfig,
    RawLatencyConfig,
};
pub use error::{ErrorBody, ErrorDetails, InferenceError};
pub use latency::{ExpectedLatency, LatencyContext, LatencyModel, LatencyRow, LatencySource, WeekOfLatency};
pub use lift::{Arm, Estimate, Lift, ModelEstimate, Power, Verdict, lift, since_by_default};
pub use mail::MailError;
pub use population::{TrainError, load as load_population, save as save_population, train};
pub use server::{Server, run};
pub use service::AUDITED_DAYS;
pub use service::{Difference, Replay, ReplayVerdict, replay};

/// What the service works with.
#[derive(Clone)]
pub struct Dependencies {
    /// Histories, delays and explanations.
    pub events: Arc<dyn Events>,
    /// Who is who.
    pub identities: Arc<dyn Identities>,
    /// Profiles, only ever read.
    pub profiles: Arc<dyn Profiles>,
    /// Hashes the addresses that callers send. Must be the host's: another pepper makes everybody a stranger.
    pub hasher: event::Hasher,
    /// Where metrics are registered and read from by `/metrics`; may be shared with other parts of the process.
    pub registry: Arc<Mutex<Registry>>,
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies").finish_non_exhaustive()
    }
}
