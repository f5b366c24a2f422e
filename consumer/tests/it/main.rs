//! The consumer over fakes of its ports and over the embedded engines.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

// Under the name that the other crates of the workspace use for it.
extern crate sendflowr_consumer as consumer;

mod embedded;
mod fakes;
mod faults;
mod flow;
mod identity;
mod profiles;
mod status;
mod world;
