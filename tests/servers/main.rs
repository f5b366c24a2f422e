//! End-to-end tests on Kafka, ClickHouse, PostgreSQL and Redis: the three roles as processes of their own, without failures and
//! while servers are down. All of them need servers; `cargo xtask test` starts them and passes their addresses.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod crashes;
mod flow;
mod import;
mod load;
mod pepper;
mod registry;
mod replay;
mod weather;
