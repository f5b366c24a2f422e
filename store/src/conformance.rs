//! Conformance tests that every engine of a port must pass.
//!
//! Each function takes an engine that may already hold other data and panics if the engine violates the contract of its port.
//! The tests use unique names, people and messages, so that they can share one engine, and wait long enough for engines behind
//! a network.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod accounts;
mod bus;
mod events;
mod identity;
mod profiles;

use std::hash::{BuildHasher, RandomState};

use event::{Identifier, IdentifierKind, Timestamp};

pub use self::{accounts::accounts, bus::bus, events::events, identity::identities, profiles::profiles};

/// Returns a name that no other run uses.
fn unique(prefix: &str) -> String {
    format!("{prefix}-{:016x}", RandomState::new().hash_one(prefix))
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Returns an identifier that no other run uses; within a run, `name` distinguishes identifiers and determines their order.
fn identifier(run: &str, kind: IdentifierKind, name: &str) -> Identifier {
    Identifier {
        kind,
        value: format!("{name}-{run}"),
    }
}
