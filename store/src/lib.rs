//! The four storage ports of SendFlowr and their engines.
//!
//! | port | what it stores | embedded engine | engine that scales out |
//! |---|---|---|---|
//! | [`bus`] | ordered records, read by consumer groups | SQLite log | Kafka |
//! | [`events`] | enriched events, explanations of decisions | SQLite | ClickHouse |
//! | [`identity`] | identifiers, edges, aliases, audit log, accounts | SQLite | PostgreSQL |
//! | [`profiles`] | a person's compact timing features | memory | Redis |
//!
//! All engines of a port pass the same tests, which are in `conformance`. That module and `testing`, which opens all embedded
//! engines together and waits for what is expected to happen, among others, require the feature `testing`.

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
