//! The records of a profile: packed, with keys that never change.

use sha2::{Digest, Sha256};

use crate::Timestamp;

/// A moment in tenths of a second since the Unix epoch, rounded up: an event after `now` must not seem to have happened
/// before it. Fine enough to tell a scanner's click two seconds after delivery from a person's; 36 bits last until the
/// year 2187.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

const TICK_MS: u64 = 100;
const TICKS_PER_SECOND: u64 = 10;
const TICK_BITS: u32 = 36;

impl Tick {
    pub(super) fn of(moment: Timestamp) -> Self {
        let ms = u64::try_from(moment.as_millis()).expect("a timestamp is not before 1970");
        // Seconds must fit 32 bits (the year 2106): a later time means a broken clock and is clamped to that end.
        Self(ms.div_ceil(TICK_MS).min(u64::from(u32::MAX) * TICKS_PER_SECOND))
    }

    pub(super) fn of_seconds(seconds: u32) -> Self {
        Self(u64::from(seconds) * TICKS_PER_SECOND)
    }

    pub(super) fn from_raw(raw: u64) -> Option<Self> {
        (raw <= u64::from(u32::MAX) * TICKS_PER_SECOND).then_some(Self(raw))
    }

    pub(super) fn raw(self) -> u64 {
        self.0
    }

    /// Returns whole seconds, rounded up.
    pub(super) fn seconds(self) -> u32 {
        u32::try_from(self.0.div_ceil(TICKS_PER_SECOND)).expect("ticks are bounded when made")
    }

    pub(super) fn timestamp(self) -> Timestamp {
        Timestamp::from_millis_clamped(i64::try_from(self.0 * TICK_MS).expect("ticks are bounded when made"))
    }
}

/// The kind of a record. The numbers are those of the stored form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Delivered = 0,
    Opened = 1,
    Clicked = 2,
    Replied = 3,
    Converted = 4,
}

impl Kind {
    fn from_bits(bits: u32) -> Option<Self> {
        [
            Self::Delivered,
            Self::Opened,
            Self::Clicked,
            Self::Replied,
            Self::Converted,
        ]
        .get(bits as usize)
        .copied()
    }
}

const KIND_BITS: u32 = 4;
const MESSAGE_BITS: u32 = 24;
const MESSAGE_MASK: u64 = (1 << MESSAGE_BITS) - 1;

/// Returns 24 bits of a hash of the message id. Among the at most 470 messages of a profile two collide once in 36,000
/// look-ups; a click is then assigned to the wrong mail.
pub(super) fn message_key(message_id: &str) -> u32 {
    let digest = Sha256::digest(message_id.as_bytes());
    u32::from_le_bytes([digest[0], digest[1], digest[2], 0])
}

/// A record with a key that never changes and a time that only ever becomes earlier.
pub(super) trait Keyed: Copy {
    type Key: Ord;
    /// Two records with equal keys are the same record. Keys are ordered by age.
    fn key(self) -> Self::Key;
    fn tick(self) -> Tick;
}

/// Inserts a record into a list sorted by key. Of two records with the same key, the earlier is kept.
pub(super) fn insert<R: Keyed>(list: &mut Vec<R>, record: R) {
    match list.binary_search_by(|other| other.key().cmp(&record.key())) {
        Ok(place) => {
            if record.tick() < list[place].tick() {
                list[place] = record;
            }
        }
        Err(place) => list.insert(place, record),
    }
}

/// Something that happened to a known message: tick, kind and message in 64 bits. There is one for each message, kind and
/// UTC day, with the first time on that day: reading a mail again and again does not displace other records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record(u64);

const TICKS_PER_DAY: u64 = 86_400 * TICKS_PER_SECOND;

impl Record {
    pub(super) const STORED_BYTES: usize = 8;

    pub(super) fn new(tick: Tick, kind: Kind, message: u32) -> Self {
        let low = (kind as u64) << MESSAGE_BITS | (u64::from(message) & MESSAGE_MASK);
        Self(tick.0 << (KIND_BITS + MESSAGE_BITS) | low)
    }

    pub(super) fn tick(self) -> Tick {
        Tick(self.0 >> (KIND_BITS + MESSAGE_BITS))
    }

    pub(super) fn kind(self) -> Kind {
        let bits = (self.0 >> MESSAGE_BITS) as u32 & ((1 << KIND_BITS) - 1);
        Kind::from_bits(bits).expect("a record is made of a kind, or checked when read")
    }

    pub(super) fn message(self) -> u32 {
        (self.0 & MESSAGE_MASK) as u32
    }

    pub(super) fn to_bytes(self) -> [u8; Self::STORED_BYTES] {
        self.0.to_le_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; Self::STORED_BYTES]) -> Option<Self> {
        let raw = u64::from_le_bytes(bytes);
        const { assert!(TICK_BITS + KIND_BITS + MESSAGE_BITS == u64::BITS) };
        Tick::from_raw(raw >> (KIND_BITS + MESSAGE_BITS))?;
        Kind::from_bits((raw >> MESSAGE_BITS) as u32 & ((1 << KIND_BITS) - 1))?;
        Some(Self(raw))
    }

    /// Returns the record's sort key among all records of the profile, including [`StandAlone`]s.
    pub(super) fn age_key(self) -> (u64, u32, u32) {
        let (day, kind, message) = self.key();
        (day * TICKS_PER_DAY, 1 + kind as u32, message)
    }
}

impl Keyed for Record {
    type Key = (u64, Kind, u32);

    fn key(self) -> Self::Key {
        (self.tick().0 / TICKS_PER_DAY, self.kind(), self.message())
    }

    fn tick(self) -> Tick {
        Record::tick(self)
    }
}

/// Something that happened without a message id, to the second. There is one for each kind and half hour of the clock,
/// because a person's clicks within half an hour are one visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StandAlone {
    second: u32,
    kind: Kind,
}

const VISIT_SECONDS: u32 = 30 * 60;

impl StandAlone {
    pub(super) const STORED_BYTES: usize = 5;

    pub(super) fn new(tick: Tick, kind: Kind) -> Self {
        Self {
            second: tick.seconds(),
            kind,
        }
    }

    pub(super) fn tick(self) -> Tick {
        Tick::of_seconds(self.second)
    }

    /// Returns the last moment that the record may represent.
    pub(super) fn last_tick(self) -> Tick {
        let visit = self.second - self.second % VISIT_SECONDS;
        Tick::of_seconds(visit.saturating_add(VISIT_SECONDS - 1))
    }

    pub(super) fn kind(self) -> Kind {
        self.kind
    }

    pub(super) fn to_bytes(self) -> [u8; Self::STORED_BYTES] {
        let [a, b, c, d] = self.second.to_le_bytes();
        [a, b, c, d, self.kind as u8]
    }

    pub(super) fn from_bytes([a, b, c, d, kind]: [u8; Self::STORED_BYTES]) -> Option<Self> {
        Some(Self {
            second: u32::from_le_bytes([a, b, c, d]),
            kind: Kind::from_bits(u32::from(kind))?,
        })
    }

    /// Returns the record's sort key among all records of the profile, including [`Record`]s.
    pub(super) fn age_key(self) -> (u64, u32, u32) {
        let (visit, kind) = self.key();
        (
            u64::from(visit * VISIT_SECONDS) * TICKS_PER_SECOND,
            0,
            kind as u32,
        )
    }
}

impl Keyed for StandAlone {
    type Key = (u32, Kind);

    fn key(self) -> Self::Key {
        (self.second / VISIT_SECONDS, self.kind)
    }

    fn tick(self) -> Tick {
        StandAlone::tick(self)
    }
}
