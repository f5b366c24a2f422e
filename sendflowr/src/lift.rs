//! `sendflowr lift`: what the chosen times gain over the control group's random ones.

use std::time::SystemTime;

use anyhow::bail;
use clap::Args;
use event::Timestamp;
use inference::{Arm, Estimate};
use store::events::EXPLANATION_DAYS;

use crate::{cli::Format, config::RawConfig, engines::Engines, output, rows};

/// Which decisions to compare.
#[derive(Debug, Args)]
pub(crate) struct LiftArgs {
    /// Compare decisions from this time on, epoch seconds or RFC 3339 [default: 28 days before `--until`, but at most 90 days ago]
    #[arg(long, value_name = "TIME", value_parser = rows::moment)]
    since: Option<Timestamp>,
    /// Compare decisions before this time, with the data known then; a later time counts as now [default: now]
    #[arg(long, value_name = "TIME", value_parser = rows::moment)]
    until: Option<Timestamp>,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Compares the decisions and prints the result.
///
/// # Errors
/// Fails if the times are in the wrong order or too long ago, or a store cannot be read.
pub(crate) async fn run(args: &LiftArgs, config: RawConfig) -> anyhow::Result<()> {
    let clock = Timestamp::from(SystemTime::now());
    let until = args.until.unwrap_or(clock).min(clock);
    let since = match args.since {
        Some(since) if since >= until => bail!("`--since` must be earlier than `--until`"),
        Some(since) if !inference::is_kept(since, clock) => {
            bail!("`--since` must be at most {EXPLANATION_DAYS} days ago: older decisions are gone")
        }
        Some(since) => since,
        None => inference::since_by_default(until, clock),
    };
    if since >= until {
        bail!("`--until` must be less than {EXPLANATION_DAYS} days ago: older decisions are gone");
    }
    let engines = Engines::existing(&config)?;
    let lift = engines.closed_after(async |engines| {
        let (events, identities) = tokio::try_join!(engines.events(), engines.identities())?;
        Ok(inference::lift(&*events, &*identities, since, until).await?)
    });
    let lift = lift.await?;
    if args.format == Format::Json {
        output::line(&serde_json::to_string(&lift)?);
        return Ok(());
    }
    let rows = [
        row("treated: chosen times", &lift.treated),
        row("control: random times", &lift.control),
        row("exploration: nearly as good", &lift.exploration),
    ];
    let header = [
        "group",
        "decisions",
        "mails",
        "people",
        "answered",
        "rate",
        "95 % interval",
    ];
    output::line(&format!(
        "Decisions from {since} to {until}; {} are too young to count.\n",
        lift.pending
    ));
    output::line(&output::table(&header, &rows));
    output::line("");
    if let Some(difference) = lift.difference {
        output::line(&format!(
            "difference               {}",
            gain(difference, "points")
        ));
    }
    if let Some(relative) = lift.relative_lift {
        output::line(&format!("relative lift            {}", gain(relative, "%")));
    }
    if let Some(model) = lift.model {
        output::line(&format!("rate everywhere (SNIPS)  {}", rate(model.snips)));
        output::line(&format!("rate everywhere (IPS)    {}", rate(model.ips)));
        output::line(&format!(
            "effective sample size    {:.0}",
            model.effective_sample_size
        ));
    }
    if lift.under_another_campaign > 0 {
        output::line(&output::about_campaigns(lift.under_another_campaign));
    }
    if lift.people_share < 1.0 {
        output::line(&format!(
            "There are too many decisions to read: these are the decisions of {:.1} % of the people.",
            100.0 * lift.people_share
        ));
    }
    output::line(&lift.verdict.text);
    Ok(())
}

fn row(name: &str, arm: &Arm) -> Vec<String> {
    let (rate, interval) = match arm.rate {
        Some(Estimate { value, low, high }) => (
            format!("{:.2} %", 100.0 * value),
            format!("{:.2} to {:.2} %", 100.0 * low, 100.0 * high),
        ),
        None => ("-".to_owned(), "-".to_owned()),
    };
    vec![
        name.to_owned(),
        arm.decisions.to_string(),
        arm.mails.to_string(),
        arm.people.to_string(),
        arm.answered.to_string(),
        rate,
        interval,
    ]
}

/// Formats a difference between rates, in percentage points or in percent of one of them.
fn gain(estimate: Estimate, unit: &str) -> String {
    format!(
        "{:+.2} {unit} ({:+.2} to {:+.2})",
        100.0 * estimate.value,
        100.0 * estimate.low,
        100.0 * estimate.high
    )
}

/// Formats a share of the mails.
fn rate(estimate: Estimate) -> String {
    format!(
        "{:.2} % ({:.2} to {:.2})",
        100.0 * estimate.value,
        100.0 * estimate.low,
        100.0 * estimate.high
    )
}
