//! The consumer over fakes of its ports and over the embedded engines.

// Under the name that the other crates of the workspace know it by.
extern crate sendflowr_consumer as consumer;

mod faults;
mod flow;
mod identity;
mod profiles;
mod world;
