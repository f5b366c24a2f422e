//! The stored form of a profile. All numbers are little-endian.
//!
//! ```text
//! version u8 = 2 · mailbox class u8 (0 none) · its tick u64
//! records u16 · stand-alone u16 · machine opens u8 · times of each of the 9 signals u8 · times of sent mail u8
//! records u64 each · stand-alone u32 and u8 each · machine opens u32 each · signal times u64 each · sent times u64 each
//! ```
//!
//! Version 1 contains neither the times of sent mail nor their number.

use super::record::{Keyed, Record, StandAlone, Tick};
use super::{MACHINE_OPENS, Profile, RECORD_BUDGET_BYTES, SIGNAL_TIMES, Signal};
use crate::MailboxProvider;

/// Maximum size of a stored profile.
pub const MAX_BYTES: usize = 4_096;

/// The version that this build writes. It can read this version and all earlier ones.
const VERSION: u8 = 2;

const HEADER_BYTES: usize = 1 + 1 + 8 + 2 + 2 + 1 + Signal::ALL.len() + 1;

const _: () = assert!(
    HEADER_BYTES
        + RECORD_BUDGET_BYTES
        + Record::STORED_BYTES
        + 4 * MACHINE_OPENS
        + 8 * SIGNAL_TIMES * (Signal::ALL.len() + 1)
        <= MAX_BYTES,
    "a full profile must fit"
);

/// Bytes are not a profile of a version that this build can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a stored profile: {0}")]
pub struct InvalidProfile(pub &'static str);

impl Profile {
    /// Returns the stored form, at most [`MAX_BYTES`] long. Equal profiles have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEADER_BYTES + 8 * self.records.len() + 5 * self.stand_alone.len() + 256);
        bytes.push(VERSION);
        let (tick, class) = self
            .mailbox
            .map_or((0, 0), |(tick, class)| (tick.raw(), 1 + class as u8));
        bytes.push(class);
        bytes.extend(tick.to_le_bytes());
        let short = |length: usize| {
            u16::try_from(length)
                .expect("the budget keeps lists short")
                .to_le_bytes()
        };
        let byte = |length: usize| u8::try_from(length).expect("the capacity keeps lists short");
        bytes.extend(short(self.records.len()));
        bytes.extend(short(self.stand_alone.len()));
        bytes.push(byte(self.machine_opens.len()));
        bytes.extend(self.signals.iter().map(|times| byte(times.len())));
        bytes.push(byte(self.sent.len()));
        bytes.extend(self.records.iter().flat_map(|record| record.to_bytes()));
        bytes.extend(self.stand_alone.iter().flat_map(|record| record.to_bytes()));
        bytes.extend(self.machine_opens.iter().flat_map(|second| second.to_le_bytes()));
        let times = self.signals.iter().flatten().chain(&self.sent);
        bytes.extend(times.flat_map(|ms| ms.to_le_bytes()));
        bytes
    }

    /// Reads the stored form of any version up to this build's.
    ///
    /// # Errors
    /// [`InvalidProfile`] if the bytes are not a stored profile.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidProfile> {
        let mut reader = Reader { rest: bytes };
        let [version] = reader.take()?;
        match version {
            1..=VERSION => {}
            0 => return Err(InvalidProfile("its version does not exist")),
            _ => return Err(InvalidProfile("its version is newer than this build")),
        }
        let [class] = reader.take()?;
        let tick =
            Tick::from_raw(u64::from_le_bytes(reader.take()?)).ok_or(InvalidProfile("time out of range"))?;
        let mailbox = match class {
            0 => None,
            class => {
                let class = MailboxProvider::ALL.get(usize::from(class) - 1);
                Some((tick, *class.ok_or(InvalidProfile("unknown mailbox class"))?))
            }
        };
        let records = usize::from(u16::from_le_bytes(reader.take()?));
        let stand_alone = usize::from(u16::from_le_bytes(reader.take()?));
        let machine_opens = usize::from(reader.take::<1>()?[0]);
        let signals: [u8; Signal::ALL.len()] = reader.take()?;
        let [sent] = if version == 1 { [0] } else { reader.take()? };
        let record_bytes = records * Record::STORED_BYTES + stand_alone * StandAlone::STORED_BYTES;
        let too_long = record_bytes >= RECORD_BUDGET_BYTES + Record::STORED_BYTES
            || machine_opens > MACHINE_OPENS
            || signals
                .iter()
                .chain([&sent])
                .any(|count| usize::from(*count) > SIGNAL_TIMES);
        if too_long {
            return Err(InvalidProfile("a list is longer than its capacity"));
        }
        let unknown = InvalidProfile("a record of an unknown kind or time");
        let mut profile = Self {
            mailbox,
            ..Self::default()
        };
        for _ in 0..records {
            profile
                .records
                .push(Record::from_bytes(reader.take()?).ok_or(unknown.clone())?);
        }
        for _ in 0..stand_alone {
            profile
                .stand_alone
                .push(StandAlone::from_bytes(reader.take()?).ok_or(unknown.clone())?);
        }
        profile.machine_opens = reader.times(machine_opens, u32::from_le_bytes)?;
        for (times, count) in profile.signals.iter_mut().zip(signals) {
            *times = reader.times(usize::from(count), u64::from_le_bytes)?;
        }
        profile.sent = reader.times(usize::from(sent), u64::from_le_bytes)?;
        let sorted = profile.records.is_sorted_by(|a, b| a.key() < b.key())
            && profile.stand_alone.is_sorted_by(|a, b| a.key() < b.key());
        if !sorted {
            return Err(InvalidProfile("records out of order"));
        }
        if !reader.rest.is_empty() {
            return Err(InvalidProfile("bytes after its end"));
        }
        Ok(profile)
    }
}

/// Takes fixed-size chunks off the front of a slice.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], InvalidProfile> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(InvalidProfile("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    /// Reads a list of times in ascending order.
    fn times<T: Ord, const N: usize>(
        &mut self,
        count: usize,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, InvalidProfile> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            times.push(read(self.take()?));
        }
        if !times.is_sorted_by(|a, b| a < b) {
            return Err(InvalidProfile("times out of order"));
        }
        Ok(times)
    }
}
