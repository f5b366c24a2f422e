#![doc = include_str!("../README.md")]

mod account;
mod backtest;
mod check;
mod cli;
mod config;
mod decide;
mod demo;
mod engines;
mod event_log;
mod explain;
mod import;
mod keys;
mod latency;
mod lift;
mod oci;
mod output;
mod person;
mod plugin;
mod replay;
mod roles;
mod rows;
mod sweep;
mod synth;
mod telemetry;
mod topics;
mod train;

use std::process::ExitCode;

use clap::Parser;

/// Events consist of many small strings, allocated on one thread and freed on another. With the system's allocator the
/// consumer spends a third of its time on that, and keeps the memory that a backlog needed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sets the TLS implementation of every client and listener of the process: they are built without one of their own.
fn choose_tls() {
    // Fails only if one has already been chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn main() -> ExitCode {
    choose_tls();
    let cli = cli::Cli::parse();
    let format = cli.log_format();
    match cli.run().and_then(|code| output::complete().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            // Before logging is set up, and for commands that print rather than serve, this is the only way to report it.
            #[expect(clippy::print_stderr, reason = "the process ends here")]
            {
                eprintln!("{}", telemetry::fatal(&format!("{error:#}"), format));
            }
            ExitCode::from(2)
        }
    }
}
