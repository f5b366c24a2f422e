//! The event log that offline commands learn from: a file, read as a whole and sorted by time. CSV is read here; files in other
//! formats have the same columns (see [`crate::backtest::source`]).

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use event::{EventType, Timestamp};

use super::table::{Table, moment};
use crate::output;

/// The columns of a log by their numbers, the required ones first.
pub(crate) const COLUMNS: [&str; 7] = [
    "user_id",
    "timestamp_utc",
    "event_type",
    "message_id",
    "is_machine",
    "user_agent",
    "ip_address",
];

/// How many of [`COLUMNS`] are required.
pub(crate) const NEEDED: usize = 2;

pub(crate) const USER_ID: usize = 0;
pub(crate) const TIMESTAMP: usize = 1;
pub(crate) const EVENT_TYPE: usize = 2;
pub(crate) const MESSAGE_ID: usize = 3;
pub(crate) const IS_MACHINE: usize = 4;
pub(crate) const USER_AGENT: usize = 5;
const IP_ADDRESS: usize = 6;

/// One event of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LoggedEvent {
    /// When it happened.
    pub(crate) at: Timestamp,
    /// Index of the person in [`EventLog::people`].
    pub(crate) person: usize,
    /// What happened.
    pub(crate) event_type: EventType,
    /// Whether the provider says that a machine did it.
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
    /// Reads a log from CSV.
    ///
    /// # Errors
    /// Returns the first mistake in the file, naming line and column.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let (needed, optional) = COLUMNS.split_at(NEEDED);
        let table = Table::open(path, needed, optional)?;
        if !table.has(EVENT_TYPE) {
            tell_all_are_clicks(&path.display().to_string());
        }
        Self::from_table(table)
    }

    fn from_table(mut table: Table) -> anyhow::Result<Self> {
        let mut log = Self::default();
        while let Some(row) = table.next_row()? {
            log.take(|column| Ok(row.text(column).into()))
                .map_err(|(column, what)| row.wrong(column, &what))?;
        }
        log.sort();
        Ok(log)
    }

    /// Adds a row. `text` returns the column with a given number, without surrounding blanks, empty if it has no value.
    /// [`EventLog::sort`] must be called after the last row.
    ///
    /// # Errors
    /// Returns the first column that is wrong, and what is wrong with it.
    pub(crate) fn take<'a>(
        &mut self,
        text: impl Fn(usize) -> Result<Cow<'a, str>, String>,
    ) -> Result<(), (usize, String)> {
        let text = |column| text(column).map_err(|what| (column, what));
        let user_id = text(USER_ID)?;
        if user_id.is_empty() {
            return Err((USER_ID, "empty".to_owned()));
        }
        let at = moment(&text(TIMESTAMP)?).map_err(|what| (TIMESTAMP, what))?;
        let event_type = event_type(&text(EVENT_TYPE)?).map_err(|what| (EVENT_TYPE, what))?;
        let machine = match &*text(IS_MACHINE)?.to_ascii_lowercase() {
            "" | "false" | "0" | "no" => false,
            "true" | "1" | "yes" => true,
            other => return Err((IS_MACHINE, format!("`{other}` is neither `true` nor `false`"))),
        };
        let (message, user_agent) = (text(MESSAGE_ID)?, text(USER_AGENT)?);
        let event = Logged {
            at,
            event_type,
            machine,
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
pub(crate) fn tell_all_are_clicks(name: &str) {
    output::note(&format!(
        "`{name}` has no `event_type`: all events count as clicks"
    ));
}

/// Returns the event type that a log calls `name`, in any case; an event without a type is a click.
///
/// # Errors
/// Fails if it is not an event type, naming all of them.
pub(crate) fn event_type(name: &str) -> Result<EventType, String> {
    if name.is_empty() {
        return Ok(EventType::Clicked);
    }
    EventType::parse(&name.to_ascii_lowercase()).ok_or_else(|| {
        let known: Vec<&str> = EventType::ALL
            .iter()
            .map(|event_type| event_type.as_str())
            .collect();
        format!("`{name}` is not one of `{}`", known.join("`, `"))
    })
}

/// Parses a log, for tests of the code that uses logs.
#[cfg(test)]
pub(crate) fn parse(text: &str) -> anyhow::Result<EventLog> {
    let source = std::io::Cursor::new(text.as_bytes().to_vec());
    let (needed, optional) = COLUMNS.split_at(NEEDED);
    EventLog::from_table(Table::read("events.csv".to_owned(), source, needed, optional)?)
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
