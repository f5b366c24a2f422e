//! The event log that offline commands learn from: read as a whole from a file or the event store, and sorted by time.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use event::{EventType, Timestamp};

use crate::{
    output,
    rows::{self, Columns, Row, Wrong},
};

/// The columns of a file of events. The last three are used by an import alone.
const NAMES: &[&str] = &[
    "user_id",
    "timestamp_utc",
    "event_type",
    "message_id",
    "is_machine",
    "user_agent",
    "ip_address",
    "email",
    "campaign_id",
    "esp",
];

/// The columns of a log.
pub(crate) const COLUMNS: Columns = Columns {
    names: NAMES.split_at(EMAIL).0,
    needed: 2,
};

/// The columns of a file that is imported.
pub(crate) const IMPORT_COLUMNS: Columns = Columns {
    names: NAMES,
    needed: COLUMNS.needed,
};

/// People read from the store at once.
const PAGE: usize = 500;

pub(crate) const USER_ID: usize = 0;
pub(crate) const TIMESTAMP: usize = 1;
pub(crate) const EVENT_TYPE: usize = 2;
pub(crate) const MESSAGE_ID: usize = 3;
pub(crate) const IS_MACHINE: usize = 4;
pub(crate) const USER_AGENT: usize = 5;
pub(crate) const IP_ADDRESS: usize = 6;
pub(crate) const EMAIL: usize = 7;
pub(crate) const CAMPAIGN_ID: usize = 8;
pub(crate) const ESP: usize = 9;

/// One event of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LoggedEvent {
    /// When it happened.
    pub(crate) at: Timestamp,
    /// Index of the person in [`EventLog::people`].
    pub(crate) person: usize,
    /// What happened.
    pub(crate) event_type: EventType,
    /// Whether a machine did it: in a file as the provider says, in the event store as the consumer has judged. Whoever judges the
    /// log again lets that stand, as what was known of everybody at that time; a part of the log tells less.
    pub(crate) machine: bool,
    /// The message, if known.
    pub(crate) message: Option<Box<str>>,
    /// What opened or clicked, if known. Shared, because a log has few different ones.
    pub(crate) user_agent: Option<Arc<str>>,
    /// The address that it came from, if known.
    pub(crate) ip_address: Option<IpAddr>,
}

/// An event to be added to a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Logged<'a> {
    /// See [`LoggedEvent`].
    pub(crate) at: Timestamp,
    pub(crate) event_type: EventType,
    pub(crate) machine: bool,
    pub(crate) message: Option<&'a str>,
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) ip_address: Option<IpAddr>,
}

/// The events of all people.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    people: Vec<String>,
    places: HashMap<String, usize>,
    events: Vec<LoggedEvent>,
    user_agents: HashSet<Arc<str>>,
}

impl EventLog {
    /// Reads a log from a file, see [`rows::read`].
    ///
    /// # Errors
    /// Returns the first mistake in the file, naming line and column.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let mut log = Self::default();
        let present = rows::read(path, COLUMNS, |row| log.take(row))?;
        if !present[EVENT_TYPE] && !log.events.is_empty() {
            tell_all_are_clicks(path);
        }
        log.sort();
        Ok(log)
    }

    /// Reads the histories up to `now` of at most `people` people from the event store. Ids are hashes, so the first ones in their
    /// order are a random sample, and the same one each time. Events from a clock that is ahead are left out: the tested weeks would
    /// end with them.
    ///
    /// # Errors
    /// Fails if a store cannot be read.
    pub(crate) async fn from_store(
        events: &dyn store::events::Events,
        identities: &dyn store::identity::Identities,
        people: usize,
        events_each: usize,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let mut log = Self::default();
        let mut seen = HashSet::new();
        let mut after = None;
        while seen.len() < people {
            let page = events
                .people(Timestamp::default(), after.as_ref(), PAGE)
                .await
                .context("cannot read the event store")?;
            let Some(last) = page.last() else { break };
            for person in identities.people(&page).await? {
                // A person with several ids is listed under each of them, but counts once.
                if !seen.insert(person.canonical.clone()) {
                    continue;
                }
                let history = events
                    .history(&person.with_events, Timestamp::default(), events_each)
                    .await?;
                for stored in history.into_iter().filter(|stored| stored.event.timestamp <= now) {
                    let event = Logged {
                        at: stored.event.timestamp,
                        event_type: stored.event.event_type,
                        machine: stored.enrichment.machine,
                        message: stored.event.message_id.as_deref(),
                        user_agent: stored.event.user_agent.as_deref(),
                        ip_address: stored.event.ip_address.and_then(|address| address.parse().ok()),
                    };
                    log.push(person.canonical.as_str(), event);
                }
            }
            after = Some(last.clone());
        }
        log.sort();
        Ok(log)
    }
    /// Adds a row. [`EventLog::sort`] must be called after the last one.
    ///
    /// # Errors
    /// Returns the first column that is wrong.
    fn take(&mut self, row: Row<'_>) -> Result<(), Wrong> {
        let text = |column| row(column).map_err(|what| (column, what));
        let user_id = text(USER_ID)?;
        if user_id.is_empty() {
            return Err((USER_ID, "empty".to_owned()));
        }
        let (message, user_agent) = (text(MESSAGE_ID)?, text(USER_AGENT)?);
        let event = Logged {
            at: moment(row)?,
            event_type: event_type(row)?,
            machine: is_machine(row)?.unwrap_or(false),
            message: Some(&*message).filter(|id| !id.is_empty()),
            user_agent: Some(&*user_agent).filter(|agent| !agent.is_empty()),
            // Logs contain all kinds of placeholders here, and text that is not an address says nothing.
            ip_address: text(IP_ADDRESS)?.parse().ok(),
        };
        self.push(&user_id, event);
        Ok(())
    }

    /// Adds an event of a person. [`EventLog::sort`] must be called after the last one.
    pub(crate) fn push(&mut self, user_id: &str, event: Logged<'_>) {
        let person = self.place_or_insert(user_id);
        let user_agent = event.user_agent.map(|agent| self.shared_agent(agent));
        self.events.push(LoggedEvent {
            at: event.at,
            person,
            event_type: event.event_type,
            machine: event.machine,
            message: event.message.map(Into::into),
            user_agent,
            ip_address: event.ip_address,
        });
    }

    /// Sorts the people by their names and the events by time. The order in which they were added says nothing, so it must not
    /// matter: neither for sums over people, which are rounded, nor for draws of people.
    pub(crate) fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.people.len()).collect();
        order.sort_unstable_by(|a, b| self.people[*a].cmp(&self.people[*b]));
        let mut sorted = vec![0; order.len()];
        for (place, person) in order.iter().enumerate() {
            sorted[*person] = place;
        }
        self.people.sort_unstable();
        self.places.values_mut().for_each(|place| *place = sorted[*place]);
        self.events
            .iter_mut()
            .for_each(|event| event.person = sorted[event.person]);
        self.events.sort_unstable();
    }

    /// Removes the events later than `last` from the sorted log, and returns their number.
    pub(crate) fn end_at(&mut self, last: Timestamp) -> usize {
        let all = self.events.len();
        self.events
            .truncate(self.events.partition_point(|event| event.at <= last));
        all - self.events.len()
    }

    fn shared_agent(&mut self, agent: &str) -> Arc<str> {
        if let Some(shared) = self.user_agents.get(agent) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = agent.into();
        self.user_agents.insert(Arc::clone(&shared));
        shared
    }

    fn place_or_insert(&mut self, user_id: &str) -> usize {
        if let Some(place) = self.places.get(user_id) {
            return *place;
        }
        let place = self.people.len();
        self.people.push(user_id.to_owned());
        self.places.insert(user_id.to_owned(), place);
        place
    }

    /// Returns the people, in the order of their names once the log is sorted.
    pub(crate) fn people(&self) -> &[String] {
        &self.people
    }

    /// Returns the index of a person, or `None` for somebody without a line.
    pub(crate) fn place(&self, user_id: &str) -> Option<usize> {
        self.places.get(user_id).copied()
    }

    /// Returns all events, oldest first.
    pub(crate) fn events(&self) -> &[LoggedEvent] {
        &self.events
    }
}

/// Says that a file does not tell what its events are.
pub(crate) fn tell_all_are_clicks(path: &Path) {
    output::note(&format!(
        "`{}` has no `event_type`: all events count as clicks",
        path.display()
    ));
}

/// Returns the time of a row.
///
/// # Errors
/// Fails if it is neither epoch seconds nor RFC 3339.
pub(crate) fn moment(row: Row<'_>) -> Result<Timestamp, Wrong> {
    let text = row(TIMESTAMP).map_err(|what| (TIMESTAMP, what))?;
    rows::moment(&text).map_err(|what| (TIMESTAMP, what))
}

/// Returns the event type of a row, in any case; without one it is a click.
///
/// # Errors
/// Fails if it is not an event type, naming all of them.
pub(crate) fn event_type(row: Row<'_>) -> Result<EventType, Wrong> {
    let name = row(EVENT_TYPE).map_err(|what| (EVENT_TYPE, what))?;
    if name.is_empty() {
        return Ok(EventType::Clicked);
    }
    EventType::parse(&name.to_ascii_lowercase()).ok_or_else(|| {
        let known: Vec<&str> = EventType::ALL
            .iter()
            .map(|event_type| event_type.as_str())
            .collect();
        let what = format!("`{name}` is not one of `{}`", known.join("`, `"));
        (EVENT_TYPE, what)
    })
}

/// Returns whether a row says that a machine did it; `None` if it says nothing.
///
/// # Errors
/// Fails if it is neither true nor false.
pub(crate) fn is_machine(row: Row<'_>) -> Result<Option<bool>, Wrong> {
    let text = row(IS_MACHINE).map_err(|what| (IS_MACHINE, what))?;
    match &*text.to_ascii_lowercase() {
        "" => Ok(None),
        "false" | "0" | "no" => Ok(Some(false)),
        "true" | "1" | "yes" => Ok(Some(true)),
        other => Err((IS_MACHINE, format!("`{other}` is neither `true` nor `false`"))),
    }
}

/// Parses a log, for tests of the code that uses logs.
#[cfg(test)]
pub(crate) fn parse(text: &str) -> anyhow::Result<EventLog> {
    let mut log = EventLog::default();
    rows::read_text("events.csv", text, COLUMNS, |row| log.take(row))?;
    log.sort();
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_events_in_any_order_of_lines_and_columns() {
        let log = parse(
            "is_machine,user_id,esp,event_type,timestamp_utc\n,b,x,,20\nTRUE,a,x,Opened,10.5\n\
             no,b,x,delivered,1970-01-01T00:00:05Z\n",
        )
        .unwrap();
        assert_eq!(log.people(), ["a", "b"]);
        let short: Vec<(i64, usize, EventType, bool)> = log
            .events()
            .iter()
            .map(|event| {
                (
                    event.at.as_millis(),
                    event.person,
                    event.event_type,
                    event.machine,
                )
            })
            .collect();
        let expected = [
            (5_000, 1, EventType::Delivered, false),
            (10_500, 0, EventType::Opened, true),
            (20_000, 1, EventType::Clicked, false),
        ];
        assert_eq!(short, expected);
        assert_eq!((log.place("a"), log.place("c")), (Some(0), None));
    }

    #[test]
    fn json_lines_say_the_same_as_csv() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let open = |text: &str| {
            std::fs::write(&path, text).unwrap();
            EventLog::open(&path)
        };
        // What CSV says by leaving a field empty, or in words.
        let csv =
            parse("user_id,timestamp_utc,event_type,message_id,user_agent,is_machine\n7,1,opened,,,1\n")
                .unwrap();
        let json = r#"{"user_id":7,"timestamp_utc":"1","event_type":"opened","message_id":" ","user_agent":"","is_machine":"true"}"#;
        let json = open(json).unwrap();
        assert_eq!(json.events(), csv.events());
        assert_eq!(json.people(), csv.people());
        for wrong in [
            "{}",
            "{\"user_id\":\"a\",\"timestamp_utc\":\"soon\"}",
            "{\"user_id\":\" \",\"timestamp_utc\":1}",
        ] {
            let error = open(&format!("\n{wrong}\n")).unwrap_err().to_string();
            assert!(error.ends_with("events.jsonl`, line 2"), "{wrong}: {error}");
        }
    }

    #[test]
    fn names_line_and_column_of_a_mistake() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(
            message("user_id,timestamp_utc\na,1\nb,soon\n"),
            "`events.csv`, line 3, column `timestamp_utc`: `soon` is neither epoch seconds nor an RFC 3339 time between \
             1970 and 9999"
        );
        assert_eq!(
            message("user_id,timestamp_utc\n ,1\n"),
            "`events.csv`, line 2, column `user_id`: empty"
        );
        let unknown = message("user_id,timestamp_utc,event_type\na,1,click\n");
        assert!(
            unknown.starts_with("`events.csv`, line 2, column `event_type`: `click` is not one of `sent`, "),
            "{unknown}"
        );
        assert_eq!(
            message("user_id,timestamp_utc,is_machine\na,1,maybe\n"),
            "`events.csv`, line 2, column `is_machine`: `maybe` is neither `true` nor `false`"
        );
    }
}
