//! What is remembered about a person for timing decisions, in at most 4 kB.
//!
//! A decision reads the profile and nothing else, so that the profile has to answer two questions by itself: when was
//! there mail in front of the person, and when did the person act? It keeps the pairs themselves (deliveries, opens,
//! clicks), not sums over them, so that a late delivery event, a duplicate or a better model does not require reading
//! the history again.
//!
//! Events arrive late, twice and in any order, so the profile is a join semilattice: a set of records with keys that
//! never change, each with a value that is only ever replaced by a smaller one, truncated to the newest records that fit.
//! The same events give the same profile in any order, and merging two profiles equals applying all their events to one.

mod record;
mod stored;

use crate::{BounceType, Event, EventType, MailboxProvider, Timestamp};
use record::{Kind, Record, StandAlone, Tick};

pub use stored::{InvalidProfile, MAX_BYTES};

/// Space for records, in stored bytes: what remains of [`MAX_BYTES`] after signals, machine opens and the header.
const RECORD_BUDGET_BYTES: usize = 3_600;

/// Number of machine opens remembered, and of mails that they are compared with. Enough to tell a mailbox that prefetches from
/// one that does not.
pub const MACHINE_OPENS: usize = 32;

/// How much later than an act the delivery of its mail may be timed. The clocks of a provider's servers differ by seconds, and some
/// time deliveries when they process them. Chosen, not measured.
const CLOCKS_APART_MS: i64 = 5 * 60_000;

/// Number of times remembered for each signal, and for sent mail: only the newest counts, the others are used when a decision is
/// replayed for an earlier moment.
pub const SIGNAL_TIMES: usize = 4;

/// Types of events that hold for up to a year: what pauses mail, what lifts such a pause, and what the gap between mails counts
/// from. Whoever rebuilds a profile from a limited number of events needs the newest [`SIGNAL_TIMES`] of each of these types
/// however many others came later. Of bounces only the permanent ones.
pub const LASTING: [EventType; 7] = [
    EventType::Unsubscribed,
    EventType::Resubscribed,
    EventType::MarkedSpam,
    EventType::SupportTicket,
    EventType::Bounced,
    EventType::Sent,
    EventType::Delivered,
];

/// Something other than mail engagement that affects the next decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each is the event type of the same name; a hard bounce is a permanent bounce"
)]
pub enum Signal {
    SiteVisit,
    ProductView,
    SmsClick,
    PushClick,
    MarkedSpam,
    SupportTicket,
    Unsubscribed,
    Resubscribed,
    HardBounce,
}

impl Signal {
    /// All signals, in the order of the stored form.
    pub const ALL: [Self; 9] = [
        Self::SiteVisit,
        Self::ProductView,
        Self::SmsClick,
        Self::PushClick,
        Self::MarkedSpam,
        Self::SupportTicket,
        Self::Unsubscribed,
        Self::Resubscribed,
        Self::HardBounce,
    ];

    /// Returns the signal's name in APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SiteVisit => "site_visit",
            Self::ProductView => "product_view",
            Self::SmsClick => "sms_click",
            Self::PushClick => "push_click",
            Self::MarkedSpam => "marked_spam",
            Self::SupportTicket => "support_ticket",
            Self::Unsubscribed => "unsubscribed",
            Self::Resubscribed => "resubscribed",
            Self::HardBounce => "hard_bounce",
        }
    }

    /// Returns the signal that an event of this type gives, if any; of bounces, only a permanent one is a signal.
    fn of(event_type: EventType, bounce_type: Option<BounceType>) -> Option<Self> {
        match event_type {
            EventType::SiteVisit => Some(Self::SiteVisit),
            EventType::ProductView => Some(Self::ProductView),
            EventType::SmsClick => Some(Self::SmsClick),
            EventType::PushClick => Some(Self::PushClick),
            EventType::MarkedSpam => Some(Self::MarkedSpam),
            EventType::SupportTicket => Some(Self::SupportTicket),
            EventType::Unsubscribed => Some(Self::Unsubscribed),
            EventType::Resubscribed => Some(Self::Resubscribed),
            EventType::Bounced if bounce_type == Some(BounceType::Hard) => Some(Self::HardBounce),
            _ => None,
        }
    }
}

/// The part of an event that affects a profile: all that has to be read of stored events to rebuild a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence<'a> {
    /// Type of the event.
    pub event_type: EventType,
    /// When it happened.
    pub timestamp: Timestamp,
    /// For a bounce, whether it is permanent.
    pub bounce_type: Option<BounceType>,
    /// Class of the person's mailbox, if known.
    pub mailbox_provider: Option<MailboxProvider>,
    /// The message, if known.
    pub message_id: Option<&'a str>,
    /// Whether a machine, not the person, opened or clicked.
    pub machine: bool,
}

/// A mail that reached the person's mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mail {
    /// When it arrived.
    pub delivered_at: Timestamp,
    /// The first open by the person, if one is known.
    pub opened_at: Option<Timestamp>,
    /// The first click, reply or conversion, if one is known.
    pub clicked_at: Option<Timestamp>,
}

/// Engagement whose mail is not known: no delivery event, no message id, or a delivery too old to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// When it happened, to the second.
    pub at: Timestamp,
    /// Whether it was a click, reply or conversion rather than just an open.
    pub strong: bool,
}

/// A person's mail and engagement up to a moment, as the timing model reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Mails, oldest first.
    pub mails: Vec<Mail>,
    /// Engagement without a known mail, oldest first.
    pub activities: Vec<Activity>,
    /// How many of the last [`MACHINE_OPENS`] of `mails` were followed by a machine's open before the next delivery.
    pub machine_opens: usize,
}

/// How many records of each kind are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Delivered mails.
    pub deliveries: usize,
    /// Human opens, at most one for each message and day.
    pub opens: usize,
    /// Human clicks, at most one for each message and day, or one for each half hour if the message is not known.
    pub clicks: usize,
    /// Replies, counted like clicks.
    pub replies: usize,
    /// Conversions, counted like clicks.
    pub conversions: usize,
}

/// A person's compact timing features.
///
/// Applying an event twice, or late, gives the same profile as applying it once and in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// Records of known messages; sorted by key, oldest first.
    records: Vec<Record>,
    /// Records without a known message; sorted by key, oldest first.
    stand_alone: Vec<StandAlone>,
    /// Times of machine opens in seconds, sorted, no duplicates.
    machine_opens: Vec<u32>,
    /// Times of each signal in milliseconds, sorted, no duplicates.
    signals: [Vec<u64>; Signal::ALL.len()],
    /// Times in milliseconds at which mail was handed to a provider, sorted, no duplicates: some providers never report a
    /// delivery, and none does so at once.
    sent: Vec<u64>,
    /// The newest known mailbox class and when it was seen.
    mailbox: Option<(Tick, MailboxProvider)>,
}

impl Profile {
    /// Applies an event. `machine` means that a machine opened or clicked: such opens only count as a sign that the
    /// mailbox prefetches, such clicks not at all.
    ///
    /// An event must have the same verdict each time it is applied.
    pub fn apply(&mut self, event: &Event, machine: bool) {
        self.take(Occurrence {
            event_type: event.event_type,
            timestamp: event.timestamp,
            bounce_type: event.bounce_type,
            mailbox_provider: event.mailbox_provider,
            message_id: event.message_id.as_deref(),
            machine,
        });
    }

    /// Like [`apply`](Self::apply), for an event of which only these fields were read.
    pub fn take(&mut self, occurrence: Occurrence<'_>) {
        let Occurrence {
            event_type,
            timestamp,
            bounce_type,
            mailbox_provider,
            message_id,
            machine,
        } = occurrence;
        let tick = Tick::of(timestamp);
        if let Some(class) = mailbox_provider {
            self.mailbox = self.mailbox.max(Some((tick, class)));
        }
        if machine && matches!(event_type, EventType::SmsClick | EventType::PushClick) {
            return;
        }
        let ms = u64::try_from(timestamp.as_millis()).expect("a timestamp is not before 1970");
        if let Some(signal) = Signal::of(event_type, bounce_type) {
            insert_newest(&mut self.signals[signal as usize], ms, SIGNAL_TIMES);
            return;
        }
        let kind = match event_type {
            EventType::Sent => {
                insert_newest(&mut self.sent, ms, SIGNAL_TIMES);
                return;
            }
            EventType::Opened if machine => {
                insert_newest(&mut self.machine_opens, tick.seconds(), MACHINE_OPENS);
                return;
            }
            EventType::Clicked if machine => return,
            EventType::Delivered => Kind::Delivered,
            EventType::Opened => Kind::Opened,
            EventType::Clicked => Kind::Clicked,
            EventType::Replied => Kind::Replied,
            EventType::Converted => Kind::Converted,
            _ => return,
        };
        match message_id {
            Some(message_id) => {
                record::insert(
                    &mut self.records,
                    Record::new(tick, kind, record::message_key(message_id)),
                );
            }
            None => record::insert(&mut self.stand_alone, StandAlone::new(tick, kind)),
        }
        self.forget_oldest();
    }

    /// Adds everything that `other` remembers, after two ids turned out to be one person.
    pub fn merge(&mut self, other: &Self) {
        for record in &other.records {
            record::insert(&mut self.records, *record);
        }
        for activity in &other.stand_alone {
            record::insert(&mut self.stand_alone, *activity);
        }
        for second in &other.machine_opens {
            insert_newest(&mut self.machine_opens, *second, MACHINE_OPENS);
        }
        for (mine, theirs) in self.signals.iter_mut().zip(&other.signals) {
            for ms in theirs {
                insert_newest(mine, *ms, SIGNAL_TIMES);
            }
        }
        for ms in &other.sent {
            insert_newest(&mut self.sent, *ms, SIGNAL_TIMES);
        }
        self.mailbox = self.mailbox.max(other.mailbox);
        self.forget_oldest();
    }

    /// Keeps the newest records until the budget is used up, and drops the rest.
    ///
    /// The last record kept may exceed the budget, so that a record is dropped exactly if the newer ones fill the budget:
    /// whatever arrives later, it would be dropped again, so that the order of events does not matter.
    fn forget_oldest(&mut self) {
        let (mut records, mut stand_alone) = (self.records.len(), self.stand_alone.len());
        if records * Record::STORED_BYTES + stand_alone * StandAlone::STORED_BYTES <= RECORD_BUDGET_BYTES {
            return;
        }
        let mut kept_bytes = 0;
        while kept_bytes < RECORD_BUDGET_BYTES {
            let newest_record = records.checked_sub(1).map(|index| self.records[index].age_key());
            let newest_alone = stand_alone
                .checked_sub(1)
                .map(|index| self.stand_alone[index].age_key());
            if newest_record > newest_alone {
                records -= 1;
                kept_bytes += Record::STORED_BYTES;
            } else {
                stand_alone -= 1;
                kept_bytes += StandAlone::STORED_BYTES;
            }
        }
        self.records.drain(..records);
        self.stand_alone.drain(..stand_alone);
    }

    /// Forgets what happened before `since`, as if the profile had been rebuilt from the events since then.
    pub fn forget_before(&mut self, since: Timestamp) {
        let is_kept = |tick: Tick| tick.timestamp() >= since;
        self.records.retain(|record| is_kept(record.tick()));
        self.stand_alone.retain(|activity| is_kept(activity.tick()));
        self.machine_opens
            .retain(|second| is_kept(Tick::of_seconds(*second)));
        let since_ms = u64::try_from(since.as_millis()).expect("a timestamp is not before 1970");
        for times in self.signals.iter_mut().chain([&mut self.sent]) {
            times.retain(|ms| *ms >= since_ms);
        }
        self.mailbox = self.mailbox.filter(|(tick, _)| is_kept(*tick));
    }

    /// Forgets all times of a signal.
    pub fn forget_signal(&mut self, signal: Signal) {
        self.signals[signal as usize].clear();
    }

    /// Checks whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns when the message was last delivered up to `until`, rounded up to 0.1 s, if that delivery is remembered. Of
    /// several on one UTC day only the first is.
    pub fn last_delivered(&self, message_id: &str, until: Timestamp) -> Option<Timestamp> {
        let message = record::message_key(message_id);
        let of_message = self
            .records
            .iter()
            .rev()
            .filter(|r| r.kind() == Kind::Delivered && r.message() == message);
        // Rounded up like the record, so that a delivery at `until` counts.
        let until = Tick::of(until);
        let delivery = of_message.map(|r| r.tick()).find(|tick| *tick <= until)?;
        Some(delivery.timestamp())
    }

    /// Returns the deliveries after `since` and up to `until`, oldest first.
    pub fn deliveries(&self, since: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let with_message = self
            .records
            .iter()
            .filter(|r| r.kind() == Kind::Delivered)
            .map(|r| r.tick());
        let without = self
            .stand_alone
            .iter()
            .filter(|a| a.kind() == Kind::Delivered)
            .map(|a| a.tick());
        let mut times: Vec<Timestamp> = with_message
            .chain(without)
            .map(Tick::timestamp)
            .filter(|delivered_at| since < *delivered_at && *delivered_at <= until)
            .collect();
        times.sort_unstable();
        times
    }

    /// Returns the last moment up to `now` at which a mail may have been sent or delivered. Of deliveries without a message id
    /// only the first of each half hour is remembered, so that others may have followed until the half hour's end.
    pub fn last_mail_at_latest(&self, now: Timestamp) -> Option<Timestamp> {
        let with_message = self
            .records
            .iter()
            .filter(|r| r.kind() == Kind::Delivered)
            .map(|r| (r.tick(), r.tick()));
        let without = self
            .stand_alone
            .iter()
            .filter(|a| a.kind() == Kind::Delivered)
            .map(|a| (a.tick(), a.last_tick()));
        let delivered = with_message
            .chain(without)
            .filter(|(first, _)| first.timestamp() <= now)
            .map(|(_, last)| last.timestamp().min(now));
        delivered.max().max(newest_up_to(&self.sent, now))
    }

    /// Returns the last time of a signal up to `now`.
    pub fn latest(&self, signal: Signal, now: Timestamp) -> Option<Timestamp> {
        newest_up_to(&self.signals[signal as usize], now)
    }

    /// Returns the class of the person's mailbox, as last seen.
    pub fn mailbox_provider(&self) -> Option<MailboxProvider> {
        self.mailbox.map(|(_, class)| class)
    }

    /// Returns the last time up to `now` at which the person opened or clicked mail, replied or converted.
    pub fn last_human_activity(&self, now: Timestamp) -> Option<Timestamp> {
        let with_message = self
            .records
            .iter()
            .filter(|r| r.kind() != Kind::Delivered)
            .map(|r| r.tick());
        let without = self
            .stand_alone
            .iter()
            .filter(|a| a.kind() != Kind::Delivered)
            .map(|a| a.tick());
        with_message
            .chain(without)
            .map(Tick::timestamp)
            .filter(|time| *time <= now)
            .max()
    }

    /// Counts the remembered records.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let kinds = self
            .records
            .iter()
            .map(|r| r.kind())
            .chain(self.stand_alone.iter().map(|a| a.kind()));
        for kind in kinds {
            match kind {
                Kind::Delivered => counts.deliveries += 1,
                Kind::Opened => counts.opens += 1,
                Kind::Clicked => counts.clicks += 1,
                Kind::Replied => counts.replies += 1,
                Kind::Converted => counts.conversions += 1,
            }
        }
        counts
    }

    /// Returns mail and engagement up to `now`; anything later is ignored. Times are rounded up, never into the past.
    ///
    /// Engagement is assigned to the last delivery of its message before it, or to one that is timed shortly after it: no mail is
    /// clicked before it is delivered, but the clocks of a provider's servers differ. Without such a delivery it stands alone.
    pub fn history(&self, now: Timestamp) -> History {
        let mut history = History::default();
        // (message, delivery time, index in `mails`), to be searched by message.
        let mut places: Vec<(u32, Timestamp, usize)> = Vec::new();
        let mut times: Vec<(Timestamp, Option<u32>)> = Vec::new();
        for record in self.records.iter().filter(|r| r.kind() == Kind::Delivered) {
            times.push((record.tick().timestamp(), Some(record.message())));
        }
        for delivery in self.stand_alone.iter().filter(|a| a.kind() == Kind::Delivered) {
            times.push((delivery.tick().timestamp(), None));
        }
        times.retain(|(delivered_at, _)| *delivered_at <= now);
        times.sort_unstable();
        for (delivered_at, message) in times {
            if let Some(message) = message {
                places.push((message, delivered_at, history.mails.len()));
            }
            history.mails.push(Mail {
                delivered_at,
                opened_at: None,
                clicked_at: None,
            });
        }
        places.sort_unstable();

        for record in self.records.iter().filter(|r| r.kind() != Kind::Delivered) {
            let at = record.tick().timestamp();
            if at > now {
                continue;
            }
            let strong = record.kind() != Kind::Opened;
            let after = places.partition_point(|(message, delivered_at, _)| {
                (*message, *delivered_at) <= (record.message(), at)
            });
            let is_its = |(message, delivered_at, _): &(u32, Timestamp, usize)| {
                *message == record.message() && delivered_at.millis_since(at) <= CLOCKS_APART_MS
            };
            let last = after.checked_sub(1).map(|index| places[index]);
            match last.filter(is_its).or(places.get(after).copied().filter(is_its)) {
                Some((_, delivered_at, place)) => {
                    let at = at.max(delivered_at);
                    let mail = &mut history.mails[place];
                    let first = if strong {
                        &mut mail.clicked_at
                    } else {
                        &mut mail.opened_at
                    };
                    *first = Some(first.map_or(at, |earlier| earlier.min(at)));
                }
                _ => history.activities.push(Activity { at, strong }),
            }
        }
        for activity in self.stand_alone.iter().filter(|a| a.kind() != Kind::Delivered) {
            let at = activity.tick().timestamp();
            if at <= now {
                history.activities.push(Activity {
                    at,
                    strong: activity.kind() != Kind::Opened,
                });
            }
        }
        history
            .activities
            .sort_unstable_by_key(|activity| (activity.at, activity.strong));
        // Older opens may have been dropped while all mails are still there, so that opens only give a share of the last mails.
        // Some machines open a mail again and again, and which mail it was is not remembered.
        let first = history.mails.len().saturating_sub(MACHINE_OPENS);
        let opens = self
            .machine_opens
            .iter()
            .map(|second| Tick::of_seconds(*second).timestamp())
            .filter(|at| *at <= now);
        let mut opened: Vec<usize> = opens
            .map(|at| history.mails.partition_point(|mail| mail.delivered_at <= at))
            .filter(|delivered| *delivered > first)
            .collect();
        opened.dedup();
        history.machine_opens = opened.len();
        history
    }
}

/// Inserts `value` into a sorted list without duplicates that keeps its `capacity` largest values.
fn insert_newest<T: Ord>(list: &mut Vec<T>, value: T, capacity: usize) {
    if let Err(place) = list.binary_search(&value) {
        list.insert(place, value);
        if list.len() > capacity {
            list.remove(0);
        }
    }
}

/// Returns the last of these sorted times that is not after `now`.
fn newest_up_to(times_ms: &[u64], now: Timestamp) -> Option<Timestamp> {
    let newest_first = times_ms.iter().rev();
    newest_first
        .map(|ms| Timestamp::from_millis_clamped((*ms).try_into().unwrap_or(i64::MAX)))
        .find(|time| *time <= now)
}

#[cfg(test)]
mod tests;
