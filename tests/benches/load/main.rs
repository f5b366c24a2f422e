//! `cargo xtask load`: how many durable deliveries a second, and how long each takes.
//!
//! On the embedded engines, in one process; with `--servers` on Kafka, ClickHouse, PostgreSQL and Redis, in three. Each is
//! printed beside a baseline measured in the same run, because machines are noisy and only the ratio travels.
#![expect(clippy::print_stdout, reason = "the figures are the result")]

mod embedded;
mod servers;
mod traffic;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    // Cargo adds an argument of its own.
    if std::env::args().any(|argument| argument == "--servers") {
        runtime.block_on(servers::run());
    } else {
        runtime.block_on(embedded::run());
    }
}
