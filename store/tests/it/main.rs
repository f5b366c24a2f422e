//! The embedded engines against the tests that all engines pass, and what only they promise.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod bus;
mod clickhouse;
mod conformance;
mod crash;
mod events;
mod identity;
mod profiles;
mod redis;
mod support;
