//! Bindings of every contract version that this host serves. The rest of the host sees the newest version's types.

pub(crate) mod v1_0;

/// The types of the contract, newest version.
pub use v1_0::sendflowr::connector::types;
