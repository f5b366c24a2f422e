//! `sendflowr latency`: when decisions expected mail to arrive, compared with when it did.

use std::time::SystemTime;

use clap::Args;
use event::{Timestamp, grid::DAY_MS};
use inference::{AUDITED_DAYS, ArrivalRow, Drift};
use store::events::EXPLANATION_DAYS;

use crate::{cli::Format, config::RawConfig, engines::Engines, output};

/// Which decisions to audit.
#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Number of days up to now whose decisions are audited.
    #[arg(long, default_value_t = AUDITED_DAYS, value_parser = clap::value_parser!(i64).range(1..=EXPLANATION_DAYS as i64))]
    days: i64,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Audits the decisions and prints the result.
///
/// # Errors
/// Fails if a store cannot be read.
pub(crate) async fn run(args: &LatencyArgs, config: RawConfig) -> anyhow::Result<()> {
    let until = Timestamp::from(SystemTime::now());
    let since = until.plus_millis(-args.days * DAY_MS);
    let engines = Engines::existing(&config)?;
    let arrivals = engines.closed_after(async |engines| {
        let (events, identities) = tokio::try_join!(engines.events(), engines.identities())?;
        Ok(inference::arrivals(&*events, &*identities, since, until).await?)
    });
    let arrivals = arrivals.await?;
    if args.format == Format::Json {
        output::line(&serde_json::to_string(&arrivals)?);
        return Ok(());
    }
    output::line(&format!(
        "{} of {} decisions had a mail that was sent near its trigger and has arrived; {} may still be on their way; {} mails \
         have no sent event.\n",
        arrivals.mails, arrivals.decisions, arrivals.pending, arrivals.unmeasured
    ));
    let header = [
        "provider", "mailbox", "mails", "expected", "took", "90 %", "bias", "error", "in time",
    ];
    let rows: Vec<Vec<String>> = arrivals.rows.iter().map(row).collect();
    output::line(&output::table(&header, &rows));
    output::line("");
    let drift: Vec<Vec<String>> = arrivals.drift.iter().map(drift).collect();
    output::line(&output::table(
        &["provider", "drift", "last day", "before"],
        &drift,
    ));
    if arrivals.under_another_campaign > 0 {
        output::line(&output::about_campaigns(arrivals.under_another_campaign));
    }
    if arrivals.people_share < 1.0 {
        output::line(&format!(
            "There are too many decisions to read: these are the decisions of {:.1} % of the people.",
            100.0 * arrivals.people_share
        ));
    }
    Ok(())
}

fn row(row: &ArrivalRow) -> Vec<String> {
    let seconds = |seconds: f64| format!("{seconds:.1} s");
    vec![
        row.esp.clone().unwrap_or_else(|| "all".to_owned()),
        row.mailbox_provider
            .map_or("all", |class| class.as_str())
            .to_owned(),
        row.mails.to_string(),
        seconds(row.expected_p50_seconds),
        seconds(row.actual_p50_seconds),
        seconds(row.actual_p90_seconds),
        format!("{:+.1} s", row.bias_seconds),
        seconds(row.error_p50_seconds),
        format!("{:.0} %", 100.0 * row.coverage),
    ]
}

fn drift(drift: &Drift) -> Vec<String> {
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2} × expected"));
    let state = serde_json::to_value(drift.state).ok();
    let state = state.and_then(|state| Some(state.as_str()?.replace('_', " ")));
    vec![
        drift.esp.clone(),
        state.unwrap_or_default(),
        ratio(drift.recent_ratio),
        ratio(drift.earlier_ratio),
    ]
}
