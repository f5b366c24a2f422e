//! `sendflowr synth`: synthetic events through the real bus.

use std::time::SystemTime;

use anyhow::{Context, bail};
use event::Timestamp;
use store::bus::EVENTS_TOPIC;

use crate::{config::RawConfig, engines::Engines, import, keys, output};

/// What to generate, and whether a shared bus may be given it.
#[derive(Debug, clap::Args)]
pub(crate) struct SynthArgs {
    /// Number of events.
    #[arg(long, default_value_t = 1_000)]
    count: usize,
    /// Seed; the same seed gives the same people and events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Put them on Kafka, too: made-up people then stand among the real ones, and can only be erased one by one.
    #[arg(long)]
    kafka: bool,
}

/// Generates the events, the last of them now, and puts them on the bus. The same seed gives the same people and events,
/// shifted in time.
pub(crate) async fn run(config: RawConfig, args: &SynthArgs) -> anyhow::Result<()> {
    if config.kafka.bootstrap_servers.is_some() && !args.kafka {
        bail!(
            "the bus is Kafka (`kafka.bootstrap_servers`), where made-up people would stand among the real ones, and could only be \
             erased one by one: if that is meant, add `--kafka`"
        );
    }
    keys::check_pepper(&config)?;
    let hasher = keys::hasher(&config.identity);
    let engines = Engines::existing_or_new(&config)?;
    let now = Timestamp::from(SystemTime::now());
    let events = synth::mock_events(args.count, args.seed, now, &hasher);
    let appended = engines.closed_after(async |engines| {
        let bus = engines.bus().await?;
        for batch in events.chunks(import::BATCH_EVENTS) {
            import::append(&*bus, batch)
                .await
                .context("cannot put events on the bus")?;
        }
        Ok(())
    });
    appended.await?;
    output::line(&format!(
        "{} events on the bus, topic `{EVENTS_TOPIC}`",
        events.len()
    ));
    Ok(())
}
