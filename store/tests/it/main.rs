//! The embedded engines against the tests that all engines pass, and what only they promise.

mod bus;
mod conformance;
mod crash;
mod identity;
mod profiles;
mod support;
