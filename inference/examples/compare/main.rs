//! Compares the timing model with the alternatives, and prints the tables that the documentation quotes.
//!
//! ```text
//! cargo run -p sendflowr-inference --release --example compare -- [--people 1500] [--seeds 1,2] [--activity DIR]
//! ```
//!
//! `--help` says what is compared and what must come out of it.

#![allow(clippy::print_stdout, reason = "a command's output")]

mod activity;
mod few;
mod simulated;

use std::{path::PathBuf, process::ExitCode};

use event::{Identifier, IdentifierKind, UniversalId};

const HELP: &str = "\
Compares the timing model with the alternatives, and prints the tables that docs/timing.md quotes.

  --people N             simulated people for each seed (1500); 0 leaves them out
  --seeds A,B            seeds of the simulation (1,2)
  --activity DIR         real activity times: a folder of dev_history.csv.gz, dev_future.csv.gz and dev_users.csv.gz
  --write-builtin FILE   fits the tables that ship with the product to all of the activity times

On simulated people, whose true response is known and whose mail goes out at the brand's fixed hours (2 % at random minutes, 8 %
within minutes of a look into the mailbox): the share of the best possible gain over a random minute. On real activity times: bits per future act over a uniform week, how often the person acts
within two hours of the chosen minute, and what tables fitted to few people are worth to strangers. Tables are always fitted to
other people than those scored, or, in the simulation, to what was seen before the decisions. Some constants of the model were
chosen on the same people.

Exits with 1 if a target is missed: 0.40 of the best possible gain in both windows and more than any rival, 0.28 bits on real
activity, and no rival there whose 95 % interval lies above the model. Meant for 1500 people and more; fewer may miss by chance.";

/// Sizes of a person's history by which results are grouped.
pub(crate) const SIZES: [(usize, usize); 5] = [(0, 1), (1, 3), (3, 10), (10, 50), (50, usize::MAX)];

/// The names of [`SIZES`].
pub(crate) const SIZE_NAMES: [&str; 5] = ["0", "1-2", "3-9", "10-49", "50+"];

fn main() -> ExitCode {
    let (mut people, mut seeds, mut activity, mut builtin) = (1_500, vec![1, 2], None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--help" {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        let value = arguments
            .next()
            .unwrap_or_else(|| panic!("`{name}` needs a value"));
        match name.as_str() {
            "--people" => people = value.parse().expect("`--people` is a number"),
            "--seeds" => {
                seeds = value
                    .split(',')
                    .map(|seed| seed.parse().expect("`--seeds` are numbers"))
                    .collect();
            }
            "--activity" => activity = Some(PathBuf::from(value)),
            "--write-builtin" => builtin = Some(PathBuf::from(value)),
            _ => panic!("unknown option `{name}`"),
        }
    }
    let mut missed = Vec::new();
    if people > 0 {
        missed = simulated::compare(people, &seeds);
    }
    if let Some(folder) = activity {
        missed.extend(activity::compare(&folder));
        if let Some(file) = builtin {
            activity::write_builtin(&folder, &file);
        }
    }
    for target in &missed {
        println!("missed: {target}");
    }
    ExitCode::from(u8::from(!missed.is_empty()))
}

/// Returns the id of a person, as a file of events would give it.
pub(crate) fn person_id(name: &str) -> UniversalId {
    UniversalId::from_identifier(&Identifier {
        kind: IdentifierKind::ExternalId,
        value: name.to_owned(),
    })
}

/// Prints the stated confidence and how often it came true, or the true probability.
pub(crate) fn print_calibration(outcomes: &[(f64, f64)]) {
    let mut sorted = outcomes.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("confidence by tenth: stated, observed");
    let mut error = 0.0;
    for tenth in sorted.chunks(sorted.len().div_ceil(10)) {
        let stated = tenth.iter().map(|(confidence, _)| confidence).sum::<f64>() / tenth.len() as f64;
        let happened = tenth.iter().map(|(_, truth)| truth).sum::<f64>() / tenth.len() as f64;
        error += (stated - happened).abs() * tenth.len() as f64 / sorted.len() as f64;
        println!("  {stated:.3} {happened:.3}");
    }
    println!(
        "expected calibration error {error:.3} over {} windows",
        sorted.len()
    );
}
