//! Tests of the engines that scale out on real servers: those that all engines pass, and those specific to these engines.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod bus;
mod events;
mod gate;
mod identity;
mod profiles;
mod support;
mod tls;
