#![doc = include_str!("../README.md")]

pub mod cases;
pub mod plugin;
pub mod proof;
pub mod recordings;

mod accounts;
mod canonical;
mod config;
mod dead_letter;
mod delivery;
mod denied;
mod error;
mod fetch;
mod http;
mod intake;
mod metrics;
mod past;
mod rejected;
mod seal;
mod server;
mod skipped;

pub use accounts::{
    Account, AccountValues, Accounts, DEFAULT_ACCOUNT, Findings, InvalidAccount, RawAccounts,
};
pub use canonical::RejectedElement;
pub use config::{HostConfig, InvalidConfig, RawHostConfig};
pub use delivery::{Delivery, DeliveryError, Unverified, Verified};
pub use error::HostError;
pub use fetch::{AddressRefused, FetchAddress, FetchError};
pub use intake::{Counts, Intake, IntakeError, ReplayError, Replayed};
pub use past::{InvalidPastEvent, PastEvent, PastOrigin};
pub use seal::{OpenError, RawDelivery, SealContext, SealKeyError, Sealer};
pub use server::{Dependencies, Server, open_intake, run};
