//! Past events from a file: raw addresses, which are hashed here.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::SystemTime,
};

use event::{Event, Hasher, Timestamp, UniversalId};
use host::{InvalidPastEvent, PastEvent, PastOrigin};

use super::{BATCH_EVENTS, Imported, Importer};
use crate::{
    account::AccountName,
    event_log::{
        self, CAMPAIGN_ID, EMAIL, ESP, EVENT_TYPE, IP_ADDRESS, MESSAGE_ID, TIMESTAMP, USER_AGENT, USER_ID,
    },
    output,
    rows::{self, Wrong},
};

/// What to read of a file.
pub(super) struct Selection<'a> {
    pub(super) path: &'a Path,
    /// The account of rows without `esp`.
    pub(super) account: Option<&'a AccountName>,
    /// Rows at this time or later are left out.
    pub(super) before: Option<Timestamp>,
}

/// An event to be imported, and the place of its account in [`Origins`]. It is converted when it is checked and again when it is
/// put on the bus: what was converted would take several times the memory.
struct Row {
    event: PastEvent,
    origin: usize,
}

/// The accounts that events come from, each with its `external_id_scope`.
struct Origins {
    accounts: Vec<(AccountName, Option<String>)>,
    /// Place of each account that the file names, by its text.
    places: HashMap<String, usize>,
    scopes: HashMap<AccountName, String>,
    hasher: Hasher,
    now: Timestamp,
}

/// Imports the events of a file, oldest first, after the whole file has been checked.
///
/// # Errors
/// Fails if the file contains a mistake, naming its line and column; nothing is imported then. Fails if the bus does not take the
/// events.
pub(super) async fn import(
    selection: &Selection<'_>,
    scopes: HashMap<AccountName, String>,
    hasher: Hasher,
    importer: &mut Importer,
) -> anyhow::Result<Imported> {
    let mut origins = Origins {
        accounts: Vec::new(),
        places: HashMap::new(),
        scopes,
        hasher,
        now: Timestamp::from(SystemTime::now()),
    };
    let mut rows = tokio::task::block_in_place(|| read(selection, &mut origins))?;
    // The consumer judges machines by what it has seen before; rows of one moment keep their order.
    rows.sort_by_key(|row| row.event.at);
    let mut rows = rows.into_iter();
    let mut seen = Seen::default();
    loop {
        let batch = rows.by_ref().take(BATCH_EVENTS);
        let batch: Vec<Event> = batch.map(|row| origins.convert(row)).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            return Ok(seen.told());
        }
        importer.put(&batch).await?;
        seen.add(&batch);
    }
}

/// What was imported. A row may be in the file twice, and is then stored once.
#[derive(Default)]
struct Seen {
    rows: usize,
    events: HashSet<String>,
    people: HashSet<UniversalId>,
    without_address: HashSet<UniversalId>,
}

impl Seen {
    fn add(&mut self, batch: &[Event]) {
        self.rows += batch.len();
        for event in batch {
            self.events.insert(event.event_id.clone());
            self.people.insert(event.universal_id.clone());
            if event.recipient_email_hash.is_none() {
                self.without_address.insert(event.universal_id.clone());
            }
        }
    }

    /// Returns how much it is, and says what is remarkable.
    fn told(&self) -> Imported {
        let repeated = self.rows - self.events.len();
        if repeated > 0 {
            output::note(&format!(
                "{} the same as others, and counted once",
                output::counted(repeated, "row")
            ));
        }
        if !self.without_address.is_empty() {
            output::note(&format!(
                "people of whom only your own id is known: {}; their address leads to them once an event or `/link-identifiers` \
                 names both",
                self.without_address.len()
            ));
        }
        Imported {
            events: self.events.len(),
            people: self.people.len(),
        }
    }
}

/// Reads and checks all events.
fn read(selection: &Selection<'_>, origins: &mut Origins) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut left_out = 0;
    let present = rows::read(selection.path, event_log::IMPORT_COLUMNS, |columns| {
        let row = Row {
            event: past_event(columns)?,
            origin: origins.place(columns, selection.account)?,
        };
        origins.check(&row)?;
        if selection.before.is_some_and(|before| row.event.at >= before) {
            left_out += 1;
        } else {
            rows.push(row);
        }
        Ok(())
    })?;
    if !present[EVENT_TYPE] && !rows.is_empty() {
        event_log::tell_all_are_clicks(selection.path);
    }
    if left_out > 0 {
        output::note(&format!(
            "`{}`: left out are events at `--before` or later, {left_out} in number",
            selection.path.display()
        ));
    }
    Ok(rows)
}

fn past_event(columns: rows::Row<'_>) -> Result<PastEvent, Wrong> {
    let text = |column| match columns(column) {
        Ok(text) => Ok(Some(text.into_owned()).filter(|text| !text.is_empty())),
        Err(what) => Err((column, what)),
    };
    let user_id = text(USER_ID)?;
    if user_id.as_deref().and_then(UniversalId::parse).is_some() {
        let what = "an id of SendFlowr's own: give the person's address, or your own id".to_owned();
        return Err((USER_ID, what));
    }
    Ok(PastEvent {
        at: event_log::moment(columns)?,
        event_type: event_log::event_type(columns)?,
        email: text(EMAIL)?,
        user_id,
        message_id: text(MESSAGE_ID)?,
        campaign_id: text(CAMPAIGN_ID)?,
        user_agent: text(USER_AGENT)?,
        ip_address: text(IP_ADDRESS)?,
        is_machine: event_log::is_machine(columns)?,
    })
}

impl Origins {
    /// Returns the place of a row's account.
    ///
    /// # Errors
    /// Fails if the row names none and there is no `default`, or it cannot be one.
    fn place(&mut self, columns: rows::Row<'_>, default: Option<&AccountName>) -> Result<usize, Wrong> {
        let esp = columns(ESP).map_err(|what| (ESP, what))?;
        if let Some(place) = self.places.get(&*esp) {
            return Ok(*place);
        }
        let account = match (&*esp, default) {
            ("", Some(default)) => default.clone(),
            ("", None) => return Err((ESP, "empty, and there is no `--account`".to_owned())),
            (esp, _) => esp.parse().map_err(|what| (ESP, what))?,
        };
        let place = self.accounts.len();
        let scope = self.scopes.get(&account).cloned();
        self.accounts.push((account, scope));
        self.places.insert(esp.into_owned(), place);
        Ok(place)
    }

    /// Checks that a row can be converted.
    fn check(&self, row: &Row) -> Result<(), Wrong> {
        let row = Row {
            event: row.event.clone(),
            ..*row
        };
        self.convert(row).map(drop).map_err(|invalid| {
            let column = match invalid {
                InvalidPastEvent::Email => EMAIL,
                InvalidPastEvent::Time(_) => TIMESTAMP,
                InvalidPastEvent::Nobody(_) => USER_ID,
            };
            (column, invalid.to_string())
        })
    }

    fn convert(&self, row: Row) -> Result<Event, InvalidPastEvent> {
        let (account, scope) = &self.accounts[row.origin];
        let origin = PastOrigin {
            provider: &account.provider,
            account: &account.account,
            external_id_scope: scope.as_deref(),
            now: self.now,
        };
        row.event.convert(&self.hasher, &origin)
    }
}
