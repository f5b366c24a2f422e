#![doc = include_str!("../README.md")]

mod account;
mod backtest;
mod check;
mod cli;
mod config;
mod decide;
mod demo;
mod engines;
mod explain;
mod latency;
mod lift;
mod oci;
mod output;
mod person;
mod plugin;
mod replay;
mod roles;
mod synth;
mod telemetry;
mod topics;
mod train;

use std::process::ExitCode;

use clap::Parser;

/// Events are made of many small texts, made on one thread and freed on another: with the system's allocator the consumer
/// spends a third of its time on that, and keeps the memory of a backlog.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What TLS is made with, for every client and listener of the process: they are built without one of their own.
fn choose_tls() {
    // Fails only when it has been chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn main() -> ExitCode {
    choose_tls();
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            // Before logging is set up, and for commands that print rather than serve, this is the only channel.
            #[expect(clippy::print_stderr, reason = "the process ends here")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(2)
        }
    }
}
