//! `cargo xtask`: the repository's own commands. Few dependencies, since this is the first thing a fresh machine builds.

mod check;
mod plugins;
mod process;
mod setup;
mod test;
mod up;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask <command>

  up [arguments]      installs what is missing, builds plugins and binary, runs `sendflowr up --demo`
  test                installs what is missing and runs every test
  check               formatting, lints, documentation, dependency policy
  load                measures deliveries and decisions a second of the release binary
  plugins [slug …]    builds plugins into target/plugins (all, or those named)
  setup               installs what is missing: the WebAssembly target, a C compiler
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match command {
        "up" => up::run(rest),
        "test" => test::run(),
        "check" => check::run(),
        "load" => up::load(),
        "plugins" => plugins::run(rest),
        "setup" => setup::run(),
        "help" | "--help" | "-h" => {
            process::say(HELP);
            Ok(())
        }
        unknown => Err(anyhow::anyhow!("there is no command `{unknown}`; `cargo xtask help` lists them")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
