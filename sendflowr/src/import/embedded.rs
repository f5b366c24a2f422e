//! Past events from the embedded engines of a data folder, which are hashed already.

use std::path::Path;

use anyhow::bail;
use event::{Event, Timestamp, UniversalId};
use store::events::Events;

use super::{BATCH_EVENTS, Imported, Importer};
use crate::{
    config::RawConfig,
    engines::{Engines, data_folder},
};

/// People whose ids are read at once.
const PAGE: usize = 500;

/// Imports the stored events, person by person, each person's oldest first.
///
/// # Errors
/// Fails if the folder has no event store, is the one in use, or cannot be read, or if the bus does not take the events.
pub(super) async fn import(
    folder: &Path,
    config: &RawConfig,
    importer: &mut Importer,
) -> anyhow::Result<Imported> {
    let is_same = |other: &Path| folder.canonicalize().ok() == other.canonicalize().ok();
    if config.clickhouse.host.is_none() && is_same(&data_folder(config)) {
        bail!(
            "`{}` is the data folder in use: configure the servers that its events are to go to",
            folder.display()
        );
    }
    let former = Engines::existing(&RawConfig {
        data_folder: Some(folder.to_owned()),
        store: config.store.clone(),
        ..RawConfig::default()
    })?;
    if former.is_new("events") {
        bail!("there are no stored events in `{}`", folder.display());
    }
    let copied = former.closed_after(async |former| copy(&*former.events().await?, importer).await);
    copied.await
}

/// Puts the events on the bus. The store has each event once, and each person's under one id, so that nothing is kept to count them.
async fn copy(events: &dyn Events, importer: &mut Importer) -> anyhow::Result<Imported> {
    let mut imported = Imported { events: 0, people: 0 };
    let mut batch: Vec<Event> = Vec::with_capacity(BATCH_EVENTS);
    let mut last: Option<UniversalId> = None;
    loop {
        let people = events.people(Timestamp::default(), last.as_ref(), PAGE).await?;
        imported.people += people.len();
        for person in &people {
            let mut after: Option<Event> = None;
            loop {
                let page = events.events_of(person, after.as_ref(), BATCH_EVENTS).await?;
                let Some(newest) = page.last() else { break };
                after = Some(newest.event.clone());
                imported.events += page.len();
                batch.extend(page.into_iter().map(|stored| stored.event));
                if batch.len() >= BATCH_EVENTS {
                    importer.put(&batch).await?;
                    batch.clear();
                }
            }
        }
        match people.into_iter().next_back() {
            Some(person) => last = Some(person),
            None => break,
        }
    }
    importer.put(&batch).await?;
    Ok(imported)
}
