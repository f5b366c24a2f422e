//! The four ports through which SendFlowr keeps things, and their engines.
//!
//! | port | what it keeps | embedded engine | engine that scales out |
//! |---|---|---|---|
//! | [`bus`] | records in order, read by consumer groups | SQLite log | Kafka |
//! | [`events`] | enriched events, decisions' explanations | SQLite | ClickHouse |
//! | [`identity`] | identifiers, edges, aliases, audit log, accounts | SQLite | PostgreSQL |
//! | [`profiles`] | a person's compact timing features | memory | Redis |
//!
//! Every engine of a port passes the same tests, those of `conformance`. With `testing`, which opens the embedded engines
//! together, they are part of the feature `testing`.

pub mod bus;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod embedded;
pub mod events;
pub mod identity;
pub mod profiles;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod error;
mod metrics;
mod server;
mod sqlite;

pub use error::{StoreError, Unavailable};
pub use server::{InvalidHost, NotPem};
