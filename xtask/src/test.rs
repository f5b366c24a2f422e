//! `cargo xtask test`: runs every test.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    plugins::{self, Built},
    process::{Workspace, compiling, root, run as run_command, say, watch},
    scaffold::Scaffold,
    services::{self, Servers},
    setup::{self, TARGET, WasmToolchain},
    ways::{self, Way},
};

/// CPU time limit of a delivery in the case files of plugins in JavaScript and Python, in ms: a hundred times what the slowest
/// takes. The result must not depend on the machine, and a virtual one that stalls for a tenth of a second while a plugin runs
/// counts that as the thread's time. These plugins run for twenty times as long as those in Rust, which take their cases at the
/// default limits. The test `two_runs_of_one_delivery_give_the_same_bytes` runs guests in both languages at the default limits.
const AMPLE_CPU_TIME_MS: &str = "2000";

/// Which tests to run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Extent {
    /// All of them.
    Everything,
    /// All but the workspace's integration and documentation tests.
    Fast,
}

/// Runs the stages in order and stops at the first that fails. The last line is `N passed, N failed`.
pub(crate) fn run(extent: Extent) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let result = stages(extent, &mut report);
    say("");
    for (stage, time) in &report.times {
        say(&format!("{:>7.1} s  {stage}", time.as_secs_f64()));
    }
    for what in &report.untested {
        say(&format!("NOT TESTED: {what}"));
    }
    let Count { passed, mut failed } = report.count;
    if let Err(error) = &result {
        // A failure to compile counts as a failure too.
        failed = failed.max(1);
        say(&format!("error: {error:#}"));
    }
    say(&format!("{passed} passed, {failed} failed"));
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn stages(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    report.stage("find or install what is needed", |_| {
        setup::native_libraries()?;
        setup::wasm_toolchain(TARGET).map(drop)
    })?;
    let built = report.stage("build the plugins", |_| plugins::build(&[], &plugins::folder()))?;
    report.tests("test the plugins natively", |count| {
        let mut command = compiling(Workspace::Plugins, &["test", "--workspace", "--no-fail-fast"]);
        watch_tests(&mut command, count)
    })?;
    // Built together with the tests: cargo then resolves the features of both at once, and nothing is compiled twice. For the
    // same reason every later stage names the whole workspace, even if it runs the tests of one package.
    report.stage("build the binary and the tests", |_| {
        run_command(&mut compiling(
            Workspace::Main,
            &["build", "--workspace", "--bins", "--tests"],
        ))
    })?;
    report.tests("run the case files through the compiled plugins", |count| {
        cases(&built, count)
    })?;
    report.tests(
        "build a plugin made by `plugin new`, run its tests and cases",
        scaffold,
    )?;
    report.tests("test the workspace", |count| {
        let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
        if extent == Extent::Fast {
            arguments.extend(["--lib", "--bins"]);
        }
        let mut command = compiling(Workspace::Main, &arguments);
        command
            .env("SENDFLOWR_BIN", binary())
            .env("SENDFLOWR_PLUGINS", plugins::folder());
        watch_tests(&mut command, count)
    })?;
    if extent == Extent::Fast {
        return Ok(());
    }
    // After the workspace's own tests, which need nothing from the registries of other languages.
    other_ways(report)?;
    match Way::EXAMPLES.into_iter().find_map(Way::obstacle) {
        Some(obstacle) => report.untested.push(format!("the plugin tutorial: {obstacle}")),
        None => report.tests("run the plugin tutorial as an author would", authors)?,
    }
    servers(report)
}

/// Tests the scale-out engines, and the whole system on them, against real servers, which run for as long as these tests.
fn servers(report: &mut Report) -> anyhow::Result<()> {
    let servers = report.stage("start the servers", |_| Servers::start());
    let Some(servers) = report.unless_missing(servers, "servers")? else {
        return Ok(());
    };
    let mut environment = servers.environment().to_vec();
    let mut skipped = Vec::new();
    let registry = report.stage("find or install a registry of plugins", |_| {
        if setup::has_program("docker-registry") {
            return Ok(());
        }
        setup::install(&["docker-registry"])
    });
    if report.unless_missing(registry, "a registry")?.is_none() {
        skipped.extend(["--skip", "registry::"]);
    }
    let redis = report.stage("find or install Redis", |_| services::redis_server());
    if report
        .unless_missing(redis, "Redis servers of their own")?
        .is_none()
    {
        skipped.extend(["--skip", "profiles::failover::"]);
    }
    let libraries = report.stage("find or download Kafka's libraries", |_| {
        services::kafka_libraries()
    });
    match report.unless_missing(libraries, "a broker of its own")? {
        Some(folder) => environment.push((services::KAFKA_LIBRARIES, folder.display().to_string())),
        None => skipped.extend(["--skip", "bus::secure::"]),
    }
    report.tests("test the engines and the whole system on real servers", |count| {
        let test = [
            "test",
            "--workspace",
            "--no-fail-fast",
            "--test",
            "servers",
            "--",
            "--include-ignored",
        ];
        let mut command = compiling(Workspace::Main, &test);
        command.args(&skipped);
        command
            .envs(environment.iter().cloned())
            .env("SENDFLOWR_BIN", binary())
            .env("SENDFLOWR_PLUGINS", plugins::folder());
        watch_tests(&mut command, count)
    })
}

/// Runs cargo's tests, prints their output, and counts them.
fn watch_tests(command: &mut Command, count: &mut Count) -> anyhow::Result<()> {
    watch(command, |line| {
        say(line);
        count.cargo(line);
    })
}

fn scaffold(count: &mut Count) -> anyhow::Result<()> {
    let scaffold = Scaffold::make(binary())?;
    watch(&mut scaffold.native_tests(), |line| count.cargo(line))?;
    for component in scaffold.components()? {
        run_cases(scaffold.cases(), &[&component], None, count)?;
    }
    Ok(())
}

/// Builds the example in every other way and runs its cases. A way that is unavailable is added to what is not tested.
fn other_ways(report: &mut Report) -> anyhow::Result<()> {
    let mut available = Vec::new();
    for way in Way::ALL {
        match way.obstacle() {
            Some(obstacle) => report
                .untested
                .push(format!("plugins built with {}: {obstacle}", way.name())),
            None => available.push(way),
        }
    }
    if available.is_empty() {
        return Ok(());
    }
    let cases = Workspace::Plugins.folder().join(ways::example()).join("cases");
    report.tests("build a plugin in every other way, run its cases", |count| {
        for way in available {
            let cpu_time_ms = Way::EXAMPLES.contains(&way).then_some(AMPLE_CPU_TIME_MS);
            for component in way.build(ways::example())? {
                run_cases(&cases, &[&component], cpu_time_ms, count)?;
            }
        }
        Ok(())
    })
}

/// Runs the tutorial's commands as they are printed there, with the tools that a person would use.
fn authors(count: &mut Count) -> anyhow::Result<()> {
    let test = [
        "test",
        "--workspace",
        "--test",
        "authors",
        "--",
        "--include-ignored",
    ];
    let mut command = compiling(Workspace::Main, &test);
    if let WasmToolchain::Debian(programs) = setup::wasm_toolchain(TARGET)? {
        command.env("SENDFLOWR_TEST_RUST", programs);
    }
    command
        .env("SENDFLOWR_BIN", binary())
        .env("SENDFLOWR_GUESTS", ways::guests()?);
    watch_tests(&mut command, count)
}

fn cases(built: &[Built], count: &mut Count) -> anyhow::Result<()> {
    let plugins: Vec<&Path> = built.iter().map(|plugin| plugin.path.as_path()).collect();
    run_cases(Path::new("plugins"), &plugins, None, count)
}

/// Runs the cases in the folder through the compiled plugins, with this limit of CPU time if one is given.
fn run_cases(
    folder: &Path,
    plugins: &[&Path],
    cpu_time_ms: Option<&str>,
    count: &mut Count,
) -> anyhow::Result<()> {
    let mut command = Command::new(binary());
    command
        .current_dir(root())
        .args(["--log", "warn", "plugin", "test", "--format", "json", "--cases"]);
    if let Some(limit) = cpu_time_ms {
        command.env("SENDFLOWR_HOST__PLUGINS__LIMITS__CPU_TIME_MS", limit);
    }
    command.arg(folder).args(plugins);
    watch(&mut command, |line| {
        let passed = count.passed;
        count.case(line);
        // One line for each of the many passing cases would hide those that failed.
        if count.passed == passed {
            say(line);
        }
    })
}

/// The binary that the tests start.
fn binary() -> PathBuf {
    Workspace::Main.program("sendflowr")
}

/// The results of the stages so far.
#[derive(Default)]
struct Report {
    count: Count,
    times: Vec<(&'static str, Duration)>,
    /// What was not tested, and why. It is told at the end, where nobody can overlook it.
    untested: Vec<String>,
}

impl Report {
    fn stage<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Count) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        say(&format!("── {name}"));
        let start = Instant::now();
        let result = work(&mut self.count);
        self.times.push((name, start.elapsed()));
        result.with_context(|| format!("could not {name}"))
    }

    /// Returns what tests need, or `None` if it is unavailable and may be missing; then these tests are not run.
    fn unless_missing<T>(&mut self, found: anyhow::Result<T>, what: &str) -> anyhow::Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if services::may_be_missing() => {
                self.untested.push(format!("what needs {what}: {error:#}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Runs a stage that must run at least one test: if there is none, something is wrong with finding them.
    fn tests(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Count) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let before = self.count;
        self.stage(name, work)?;
        if self.count == before {
            bail!("could not {name}: no test ran");
        }
        Ok(())
    }
}

/// The counts of all stages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    /// Reads cargo's summary of one test binary: `test result: ok. 12 passed; 0 failed; …`.
    fn cargo(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result:") else {
            return;
        };
        let words: Vec<&str> = summary.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed;" => self.passed += number,
                "failed;" => self.failed += number,
                _ => {}
            }
        }
    }

    /// Reads one line of `plugin test --format json`. Quotation marks inside its texts are escaped, so no text can look like a
    /// verdict.
    fn case(&mut self, line: &str) {
        if line.contains(r#""pass":true"#) {
            self.passed += 1;
        } else if line.contains(r#""pass":false"#) {
            self.failed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let mut count = Count::default();
        count.cargo("test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.1s");
        count.cargo("running 3 tests");
        count.cargo(
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        );
        assert_eq!(
            count,
            Count {
                passed: 15,
                failed: 1
            }
        );
    }

    #[test]
    fn cases_are_counted_by_their_own_verdict() {
        let mut count = Count::default();
        count.case(r#"{"case":"sendgrid/click","pass":true,"diff":[]}"#);
        count.case(r#"{"case":"sendgrid/open","pass":false,"diff":["is \"pass\":true"]}"#);
        count.case("something else");
        assert_eq!(count, Count { passed: 1, failed: 1 });
    }

    #[test]
    fn stages_without_tests_fail() {
        let mut report = Report::default();
        assert!(report.tests("count nothing", |_| Ok(())).is_err());
        let counting = |count: &mut Count| {
            count.passed += 1;
            Ok(())
        };
        assert!(report.tests("count one", counting).is_ok());
    }
}
