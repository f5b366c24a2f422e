//! `sendflowr synth`: synthetic events through the real bus.

use std::time::SystemTime;

use anyhow::Context;
use event::Timestamp;
use store::bus::EVENTS_TOPIC;

use crate::{config::RawConfig, engines::Engines, import, keys, output};

/// Generates `count` events, the last of them now, and puts them on the bus. The same seed gives the same people and events,
/// shifted in time.
pub(crate) async fn run(config: RawConfig, count: usize, seed: u64) -> anyhow::Result<()> {
    keys::check_pepper(&config)?;
    let hasher = keys::hasher(&config.identity);
    let engines = Engines::existing_or_new(&config)?;
    let now = Timestamp::from(SystemTime::now());
    let events = synth::mock_events(count, seed, now, &hasher);
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
