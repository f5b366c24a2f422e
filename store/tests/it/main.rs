//! Tests of the embedded engines: those that all engines pass, and those specific to them.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod bus;
mod clickhouse;
mod conformance;
mod crash;
mod events;
mod identity;
mod postgres;
mod profiles;
mod redis;
mod support;
