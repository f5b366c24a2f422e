//! `sendflowr plugin normalize`: what a plugin makes of one delivery.

use std::{io::Read, path::Path, process::ExitCode, time::SystemTime};

use anyhow::Context;
use event::Timestamp;
use host::cases::{self, Case};

use super::files::{load, read_case};
use crate::output;

/// Prints the reading of the delivery in the file, or on standard input for `-`.
///
/// # Errors
/// A delivery that cannot be read or tried, and a plugin that cannot be loaded.
pub(crate) async fn run(plugin: &Path, delivery: &Path) -> anyhow::Result<ExitCode> {
    let plugin = load(plugin).await?;
    let case = if delivery == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        Case::from_json(&bytes).context("standard input")?
    } else {
        read_case(delivery)?
    };
    let reading = cases::normalize_one(&plugin, &case, Timestamp::from(SystemTime::now())).await?;
    output::line(&serde_json::to_string_pretty(&reading)?);
    Ok(ExitCode::SUCCESS)
}
