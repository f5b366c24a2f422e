//! What every engine of a port must do, as tests that run on any of them.
//!
//! Each function takes an engine that may already hold other data and panics when it breaks a promise of its port. They
//! use names, people and messages of their own, so that they can share one engine, and wait long enough for engines
//! behind a network.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod accounts;
mod bus;
mod events;
mod identity;
mod profiles;

use std::hash::{BuildHasher, RandomState};

use event::{Identifier, IdentifierKind, Timestamp};

pub use self::{accounts::accounts, bus::bus, events::events, identity::identities, profiles::profiles};

/// A name that no other run uses.
fn unique(prefix: &str) -> String {
    format!("{prefix}-{:016x}", RandomState::new().hash_one(prefix))
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// An identifier that no other run uses; within a run, `name` tells them apart and gives their order.
fn identifier(run: &str, kind: IdentifierKind, name: &str) -> Identifier {
    Identifier {
        kind,
        value: format!("{name}-{run}"),
    }
}
