//! The timing model, the latency model, and the HTTP service that says when a person should get the next mail.
//!
//! A decision reads one profile, computes the person's weekly curve from it and from the population's tables
//! ([`model`]), narrows the requested window by guards and circuit breakers, picks the best of the remaining minutes
//! and subtracts the provider's expected delay. Every decision can be looked up again as its explanation.
//!
//! [`run`] serves until it is told to stop; [`train`] fits the population's tables for the command line.

pub mod model;
pub mod rivals;

mod arrivals;
mod config;
mod decision;
mod draw;
mod error;
mod explanation;
mod http;
mod inquiry;
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
pub use decision::one_of_the_best;
pub use error::{ErrorBody, ErrorDetails, InferenceError};
pub use latency::{
    ExpectedLatency, LatencyContext, LatencyModel, LatencyPart, LatencyRow, LatencySource, WeekOfLatency,
};
pub use lift::{Arm, Estimate, Lift, ModelEstimate, Power, Verdict, is_kept, lift, since_by_default};
pub use mail::MailError;
pub use population::{TrainError, load as load_population, save as save_population, train};
pub use server::{Server, run};
pub use service::AUDITED_DAYS;
pub use service::{Difference, Replay, ReplayVerdict, replay};

/// The stores and other parts that the service works with.
#[derive(Clone)]
pub struct Dependencies {
    /// Histories, delays and explanations.
    pub events: Arc<dyn Events>,
    /// The identity graph.
    pub identities: Arc<dyn Identities>,
    /// Profiles; the service only ever reads them.
    pub profiles: Arc<dyn Profiles>,
    /// Hashes the addresses that callers send. Must be the host's: with another pepper nobody is recognized.
    pub hasher: event::Hasher,
    /// Where metrics are registered, and what `/metrics` reads; may be shared with other parts of the process.
    pub registry: Arc<Mutex<Registry>>,
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies").finish_non_exhaustive()
    }
}
