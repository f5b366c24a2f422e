//! The fuzzed functions: they take arbitrary bytes and panic if a guarantee is broken.
//!
//! libFuzzer calls them from `fuzz/bins`; an ordinary test calls them with the seeds in `fuzz/seeds` and some thousands of
//! changes to each, so that every machine runs them.

pub mod forms;
pub mod json;
pub mod mutate;

#[cfg(feature = "host")]
pub mod components;
#[cfg(feature = "host")]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the builder of the plugin runtime's tests, which need more of it"
)]
#[path = "../../../host/tests/plugin_runtime/guest.rs"]
mod guest;
#[cfg(feature = "host")]
pub mod outcomes;
#[cfg(feature = "host")]
pub mod proofs;
#[cfg(feature = "host")]
mod service;
#[cfg(feature = "host")]
pub mod webhooks;

/// A fuzzed function.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of its program and of its folder of seeds.
    pub name: &'static str,
    /// Panics if the bytes break a guarantee.
    pub run: fn(&[u8]),
    /// How many changed seeds the test runs: some seconds' worth.
    pub changes: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("json", json::run, 20_000),
    target("forms", forms::run, 20_000),
    #[cfg(feature = "host")]
    target("proofs", proofs::run, 5_000),
    #[cfg(feature = "host")]
    target("components", components::run, 300),
    #[cfg(feature = "host")]
    target("outcomes", outcomes::run, 2_000),
    #[cfg(feature = "host")]
    target("webhooks", webhooks::run, 2_000),
];

const fn target(name: &'static str, run: fn(&[u8]), changes: usize) -> Target {
    Target { name, run, changes }
}
