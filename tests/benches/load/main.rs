//! `cargo xtask load`: how many durable deliveries a second, and how long each takes.
//!
//! Measures the embedded engines in one process; with `--servers` Kafka, ClickHouse, PostgreSQL and Redis, in three; with
//! `--batch [LINES]` decisions for a whole campaign instead. Each figure is printed beside a baseline measured in the same run,
//! because machines are noisy and only the ratio is comparable.
#![expect(clippy::print_stdout, reason = "the figures are the result")]

mod batch;
mod embedded;
mod servers;
mod traffic;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    // Cargo adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => runtime.block_on(embedded::run()),
        ["--servers"] => runtime.block_on(servers::run()),
        ["--batch", lines] => runtime.block_on(batch::run(
            lines.parse().expect("`--batch` takes a number of lines"),
        )),
        _ => panic!("no load is known by {arguments:?}"),
    }
}
