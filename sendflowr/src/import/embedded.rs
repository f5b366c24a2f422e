//! Past events from the embedded engines of a data folder, which are hashed already, and the accounts there, which are sealed.

use std::path::Path;

use anyhow::bail;
use event::{Event, Timestamp, UniversalId};
use store::{embedded::RawEmbeddedConfig, events::Events, identity::StoredAccounts};

use super::{BATCH_EVENTS, Imported, Importer};
use crate::{
    config::{RawConfig, data_folder},
    engines::Engines,
    output,
};

/// People whose ids are read at once.
const PAGE: usize = 500;

/// Imports the stored events, person by person, each person's oldest first, and copies the stored accounts. What the folder and the
/// configuration share stays where it is.
///
/// # Errors
/// Fails if the folder has no stores, is the one in use, or cannot be read, or if a store or the bus does not take what is in it.
pub(super) async fn import(
    folder: &Path,
    config: &RawConfig,
    engines: &Engines,
    importer: &mut Importer,
) -> anyhow::Result<Imported> {
    let is_same = folder.canonicalize().ok() == data_folder(config).canonicalize().ok();
    let moves_events = !is_same || config.clickhouse.host.is_some();
    let moves_accounts = !is_same || config.postgres.host.is_some();
    if !moves_events && !moves_accounts {
        bail!(
            "`{}` is the data folder in use: configure the servers that its events are to go to",
            folder.display()
        );
    }
    let former = Engines::existing(&RawConfig {
        data_folder: Some(folder.to_owned()),
        // Nothing is removed from what is being moved.
        store: RawEmbeddedConfig {
            event_retention_seconds: None,
            ..config.store.clone()
        },
        ..RawConfig::default()
    })?;
    if former.is_new("events") && former.is_new("identities") {
        bail!(
            "there are no stored events and no accounts in `{}`",
            folder.display()
        );
    }
    let imported = former.closed_after(async |former| {
        if moves_accounts && !former.is_new("identities") {
            let to = match importer.bus {
                Some(_) => Some(engines.stored_accounts().await?),
                None => None,
            };
            copy_accounts(&*former.stored_accounts().await?, to.as_deref(), folder).await?;
        }
        if !moves_events || former.is_new("events") {
            return Ok(Imported { events: 0, people: 0 });
        }
        copy(&*former.events().await?, importer).await
    });
    imported.await
}

/// Copies the accounts as they are sealed, and says so; `to` is `None` in a dry run. One of the same name stays as it is.
async fn copy_accounts(
    from: &dyn StoredAccounts,
    to: Option<&dyn StoredAccounts>,
    folder: &Path,
) -> anyhow::Result<()> {
    let accounts = from.accounts().await?;
    let (mut copied, mut kept) = (accounts.len(), 0);
    if let Some(to) = to {
        for account in &accounts {
            if !to.put_account(account, None).await? {
                kept += 1;
            }
        }
        copied -= kept;
    }
    if copied > 0 {
        let done = if to.is_some() { "copied" } else { "would be copied" };
        output::line(&format!(
            "{} {done} without being opened: hosts open them if `host.seal_key` has the former key, which is in `{}` unless one was \
             configured",
            output::counted(copied, "account"),
            folder.join("seal.key").display()
        ));
    }
    if kept > 0 {
        output::note(&format!(
            "accounts that are stored already, and stay as they are: {kept}"
        ));
    }
    Ok(())
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
