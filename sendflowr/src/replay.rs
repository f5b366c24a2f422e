//! `sendflowr replay`: dead letters, once more, through the plugins that are installed now.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use host::{HostConfig, header};
use prometheus_client::registry::Registry;
use store::bus::{DEAD_LETTERS_TOPIC, Record};

use crate::{
    config::RawConfig,
    engines::{self, Engines, LateAccounts},
    output, roles,
};

/// Consumer group of replays: what one replay stored the next does not read again.
const GROUP: &str = "sendflowr-replay";

/// Letters read at once.
const BATCH: usize = 100;

/// How long no letter must come for the topic to count as read to its end.
const END_AFTER: Duration = Duration::from_secs(1);

/// What became of the letters.
#[derive(Debug, Default)]
struct Tally {
    replayed: usize,
    events: usize,
    failed: usize,
    others: usize,
}

/// Replays every dead letter that the host sealed, of one provider or of all. Events that had been stored before are
/// stored once. With `dry_run` only tells what there is. Letters that still cannot be read stay for the next replay, and so
/// do those behind them.
///
/// # Errors
/// When the bus or the plugins cannot be opened.
pub(crate) async fn run(config: RawConfig, provider: Option<&str>, dry_run: bool) -> anyhow::Result<()> {
    let engines = Arc::new(Engines::of(&config)?);
    let bus = engines.bus().await?;
    let hasher = roles::hasher(&config.identity);
    let data_folder = engines::data_folder(&config);
    let host_config = HostConfig::try_new(config.host, config.accounts, &data_folder)?;
    let dependencies = host::Dependencies {
        bus: bus.clone(),
        accounts: Some(Arc::new(LateAccounts(Arc::clone(&engines)))),
        hasher,
        registry: Arc::new(Mutex::new(Registry::default())),
    };
    let intake = host::open_intake(&host_config, dependencies).await?;
    let mut letters = bus
        .subscribe(GROUP, &[DEAD_LETTERS_TOPIC])
        .await
        .context("cannot read the dead letters")?;
    let mut tally = Tally::default();
    loop {
        let batch = letters.poll(BATCH, END_AFTER).await?;
        if batch.is_empty() {
            break;
        }
        let failed_before = tally.failed;
        for letter in &batch {
            let of = letter.headers.get(header::PROVIDER);
            if of.is_none() || provider.is_some_and(|wanted| of.is_none_or(|of| of != wanted)) {
                tally.others += 1;
                continue;
            }
            if dry_run {
                output::line(&describe(letter));
                tally.replayed += 1;
                continue;
            }
            match intake.replay(letter).await {
                Ok(counts) => {
                    tally.replayed += 1;
                    tally.events += counts.accepted;
                }
                Err(error) => {
                    tally.failed += 1;
                    output::line(&format!("{}: {error}", describe(letter)));
                }
            }
        }
        // Everything up to here is settled only when nothing failed and nothing was left out on purpose.
        if !dry_run && provider.is_none() && tally.failed == failed_before {
            letters.commit().await?;
        }
    }
    drop(letters);
    engines.close().await;
    let Tally {
        replayed,
        events,
        failed,
        others,
    } = tally;
    let verb = if dry_run { "would be replayed" } else { "replayed" };
    output::line(&format!(
        "{replayed} letters {verb}, {events} events, {failed} letters failed, {others} left alone"
    ));
    Ok(())
}

fn describe(letter: &Record) -> String {
    let header = |name: &str| letter.headers.get(name).map_or("?", String::as_str);
    format!(
        "{}/{} at offset {}: {}",
        header(header::PROVIDER),
        header(header::ACCOUNT),
        letter.position.offset,
        header(header::CAUSE)
    )
}
