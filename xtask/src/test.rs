//! `cargo xtask test`: every test there is.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::bail;

use crate::{
    plugins,
    process::{cargo, plugins_cargo, root, run as run_command, say, target_folder, watch},
};

/// Counts over all stages.
#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs the stages in order and stops at the first that fails. The last line is `N passed, N failed`.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut count = Count::default();
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let result = stages(&mut count, &mut times);
    for (stage, time) in &times {
        say(&format!("{:>6.1} s  {stage}", time.as_secs_f64()));
    }
    if let Err(error) = &result {
        // Whatever failed outside a counted test is a failure too.
        count.failed = count.failed.max(1);
        say(&format!("error: {error:#}"));
    }
    say(&format!("{} passed, {} failed", count.passed, count.failed));
    if count.passed == 0 {
        bail!("no test ran");
    }
    if result.is_err() { bail!("tests failed") } else { Ok(()) }
}

fn stages(count: &mut Count, times: &mut Vec<(&'static str, Duration)>) -> anyhow::Result<()> {
    let mut stage = |name: &'static str, work: &mut dyn FnMut() -> anyhow::Result<()>| {
        say(&format!("── {name}"));
        let start = Instant::now();
        let result = work();
        times.push((name, start.elapsed()));
        result
    };
    stage("build the plugins", &mut || plugins::build(&[]).map(drop))?;
    stage("plugins, natively", &mut || {
        watch(&mut plugins_cargo(&["test", "--workspace", "--locked"]), |line| count.cargo(line))
    })?;
    stage("build the binary", &mut || {
        run_command(&mut cargo(&["build", "--locked", "--package", "sendflowr"]))
    })?;
    stage("case files through the compiled plugins", &mut || {
        let mut command = Command::new(binary());
        command.current_dir(root()).args(["--log", "warn", "plugin", "test", "--cases", "plugins", "--format", "json"]);
        for plugin in std::fs::read_dir(plugins::folder())? {
            let path = plugin?.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                command.arg(path);
            }
        }
        watch(&mut command, |line| count.case(line))
    })?;
    stage("workspace", &mut || {
        let mut command = cargo(&["test", "--workspace", "--locked"]);
        command.env("SENDFLOWR_BIN", binary()).env("SENDFLOWR_PLUGINS", plugins::folder());
        watch(&mut command, |line| count.cargo(line))
    })
}

fn binary() -> std::path::PathBuf {
    target_folder().join("debug/sendflowr")
}

impl Count {
    /// Reads cargo's summary of one test binary: `test result: ok. 12 passed; 0 failed; …`.
    fn cargo(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result:") else { return };
        let mut words = summary.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let Ok(number) = word.parse::<u64>() else { continue };
            match words.peek().map(|kind| kind.trim_end_matches(';')) {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                _ => {}
            }
        }
    }

    /// Reads one line of `plugin test --format json`.
    fn case(&mut self, line: &str) {
        if line.contains("\"pass\":true") {
            self.passed += 1;
        } else if line.contains("\"pass\":false") {
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
        count.cargo("test result: ok. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        count.cargo("running 3 tests");
        count.case(r#"{"case":"sendgrid/click","pass":true,"diff":[]}"#);
        count.case(r#"{"case":"sendgrid/open","pass":false,"diff":["x"]}"#);
        assert_eq!((count.passed, count.failed), (13, 2));
    }
}
