//! Plugins: loading, limits, calls.

mod bindings;

pub use bindings::types;
