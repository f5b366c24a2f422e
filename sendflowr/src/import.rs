//! `sendflowr import`: events from before a provider's webhooks arrived here, so that decisions know people from the first day.

mod embedded;
mod file;

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use event::{Event, Timestamp};
use store::{
    StoreError,
    bus::{Bus, EVENTS_TOPIC, NewRecord},
};

use self::file::Selection;
use crate::{
    account::{self, AccountName},
    config::RawConfig,
    engines::Engines,
    keys, output, rows,
};

/// How many events are appended at once: a batch large enough that the cost of flushing does not matter.
pub(crate) const BATCH_EVENTS: usize = 1_000;

/// What to import.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// File of events, as for `backtest`, with the optional columns `email`, `campaign_id` and `esp` (`provider` or
    /// `provider/account`). `user_id` is the person's address or your own id of the person; with both, give the address as
    /// `email`.
    #[arg(long, value_name = "FILE", required_unless_present = "embedded")]
    events: Option<PathBuf>,
    /// `provider` or `provider/account` that reported the events of the file, for those without an `esp`.
    #[arg(long, conflicts_with = "embedded")]
    account: Option<AccountName>,
    /// Leave out what happened at this time or later: when the first webhook arrived. Epoch seconds or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = rows::moment, conflicts_with = "embedded")]
    before: Option<Timestamp>,
    /// Data folder that was used before servers were configured: the events and accounts that its embedded engines have stored are
    /// imported.
    #[arg(long, value_name = "FOLDER", conflicts_with = "events")]
    embedded: Option<PathBuf>,
    /// Read everything, say what would be imported, and import nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Puts past events on the bus. What is imported twice is stored once.
///
/// # Errors
/// Fails if the source cannot be read or contains a mistake; nothing of a file with a mistake is imported. Fails if the bus does not
/// take the events.
pub(crate) async fn run(config: RawConfig, args: &ImportArgs) -> anyhow::Result<()> {
    keys::check_pepper(&config)?;
    let engines = match args.embedded {
        // It belongs to roles that are to take over, and that have run.
        Some(_) => Engines::existing(&config)?,
        None => Engines::existing_or_new(&config)?,
    };
    let imported = engines.closed_after(async |engines| import(&config, args, engines).await);
    imported.await?.print(args.dry_run);
    Ok(())
}

async fn import(config: &RawConfig, args: &ImportArgs, engines: &Engines) -> anyhow::Result<Imported> {
    let hasher = keys::hasher(&config.identity);
    if let Some(folder) = &args.embedded {
        keys::check_pepper_of(folder, &hasher)?;
    }
    let mut importer = Importer {
        bus: None,
        appended: 0,
    };
    if args.dry_run {
        keys::check_pepper_of_server(config, engines).await?;
    } else {
        importer.bus = Some(engines.bus().await?);
        keys::keep_pepper(config, engines).await?;
    }
    if let Some(folder) = &args.embedded {
        return embedded::import(folder, config, engines, &mut importer).await;
    }
    let selection = Selection {
        path: args
            .events
            .as_deref()
            .context("`--events` or `--embedded` is needed")?,
        account: args.account.as_ref(),
        before: args.before,
    };
    let scopes = account::external_id_scopes(config, engines).await?;
    file::import(&selection, scopes, hasher, &mut importer).await
}

/// Appends events to the bus, unless it is a dry run.
struct Importer {
    bus: Option<Arc<dyn Bus>>,
    /// Number of events that were appended.
    appended: usize,
}

impl Importer {
    async fn put(&mut self, batch: &[Event]) -> anyhow::Result<()> {
        if let Some(bus) = &self.bus {
            append(&**bus, batch).await.with_context(|| {
                format!(
                    "only {} events are on the bus; import again: what is stored already is not stored twice",
                    self.appended
                )
            })?;
        }
        self.appended += batch.len();
        Ok(())
    }
}

/// Appends events to the bus, at most [`BATCH_EVENTS`].
///
/// # Errors
/// [`StoreError`] when the bus does not take them; some may be on it.
pub(crate) async fn append(bus: &dyn Bus, batch: &[Event]) -> Result<(), StoreError> {
    let records = batch.iter().map(|event| NewRecord::of_event(event, None));
    bus.append(records.collect()).await
}

/// How much was imported.
struct Imported {
    events: usize,
    people: usize,
}

impl Imported {
    fn print(&self, is_dry_run: bool) {
        let events = output::counted(self.events, "event");
        let people = match self.people {
            1 => "1 person".to_owned(),
            count => format!("{count} people"),
        };
        let done = if is_dry_run {
            "would be put on the bus".to_owned()
        } else {
            format!("put on the bus, topic `{EVENTS_TOPIC}`; the consumer stores them")
        };
        output::line(&format!("{events} by {people} {done}"));
    }
}
