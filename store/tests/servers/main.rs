//! The engines that scale out, on real servers: the tests that all engines pass, and what only these promise.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod bus;
mod events;
mod gate;
mod identity;
mod profiles;
mod support;
mod tls;
