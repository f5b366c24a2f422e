//! End to end on Kafka, ClickHouse, PostgreSQL and Redis: the three roles as processes of their own, in fair weather and
//! while servers are away. All of them need servers; `cargo xtask test` starts them and says where they are.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod crashes;
mod flow;
mod load;
mod registry;
mod replay;
mod weather;
