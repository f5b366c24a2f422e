//! Which dead letters are done although one before them stays.
//!
//! The position of the group says only that everything before it is done. What is done behind a dead letter that stays is
//! recorded in the topic itself, behind all of them: it is kept exactly as long as the dead letters that it is about, and seen by
//! every machine that replays.
//!
//! After partitions were added to the topic, such a record may land in another partition than the dead letters that it is about. It
//! then says nothing, because it may be read before them, and they are replayed once more: no event is stored twice.

use std::collections::BTreeMap;

use event::Timestamp;
use serde::{Deserialize, Serialize};
use store::bus::{DEAD_LETTERS_TOPIC, NewRecord, Position, Record, header};

/// The stage of such a record, in place of `host` or `consumer`.
const STAGE: &str = "replay";

/// Most ranges in one record, a few megabytes of text: less than a broker accepts. What is beyond them is read once more.
const MAX_RANGES: usize = 100_000;

/// The records of the topic that were read so far, by partition and offset.
#[derive(Debug, Default)]
pub(super) struct Done(BTreeMap<u32, BTreeMap<u64, Letter>>);

#[derive(Debug)]
struct Letter {
    appended_at: Timestamp,
    is_done: bool,
}

/// The value of a record.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    partition: u32,
    /// First and last offset of each range, in order.
    done: Vec<(u64, u64)>,
    /// When the last of them was appended. In a copy of the topic the same offsets may belong to other dead letters.
    last_appended_at: Timestamp,
}

impl Done {
    /// Notes a record of the topic, and what it says if it is one about dead letters that are done; it is then done itself.
    pub(super) fn read(&mut self, record: &Record) {
        let is_about_others = record
            .headers
            .get(header::STAGE)
            .is_some_and(|stage| stage == STAGE);
        self.note(record, is_about_others);
        if !is_about_others {
            return;
        }
        // One that another version has written in another way says nothing: dead letters are then read once more.
        let Ok(content) = serde_json::from_slice::<Content>(&record.value) else {
            return;
        };
        let letters = self.0.entry(content.partition).or_default();
        let last = content.done.last().and_then(|(_, last)| letters.get(last));
        if content.partition != record.position.partition
            || last.is_none_or(|last| last.appended_at != content.last_appended_at)
        {
            return;
        }
        for (first, last) in content.done {
            if first <= last {
                letters
                    .range_mut(first..=last)
                    .for_each(|(_, letter)| letter.is_done = true);
            }
        }
    }

    /// Notes a record, and whether it is done.
    pub(super) fn note(&mut self, record: &Record, is_done: bool) {
        let letters = self.0.entry(record.position.partition).or_default();
        letters.insert(
            record.position.offset,
            Letter {
                appended_at: record.appended_at,
                is_done,
            },
        );
    }

    pub(super) fn has(&self, position: &Position) -> bool {
        let letters = self.0.get(&position.partition);
        let letter = letters.and_then(|letters| letters.get(&position.offset));
        letter.is_some_and(|letter| letter.is_done)
    }

    /// Returns the record of what is done behind a dead letter that stays. It has that one's key, so that it lands in the same
    /// partition, where it is read as long as the dead letter stays.
    pub(super) fn record_behind(&self, letter: &Record) -> NewRecord {
        let Position {
            partition, offset, ..
        } = letter.position;
        let mut done: Vec<(u64, u64)> = Vec::new();
        let mut last_appended_at = Timestamp::default();
        let behind = self.0.get(&partition).into_iter();
        for (found, letter) in behind.flat_map(|letters| letters.range(offset..)) {
            if !letter.is_done {
                continue;
            }
            match done.last_mut().filter(|(_, last)| last + 1 == *found) {
                Some((_, last)) => *last = *found,
                None => done.push((*found, *found)),
            }
            last_appended_at = letter.appended_at;
            if done.len() == MAX_RANGES {
                break;
            }
        }
        let content = Content {
            partition,
            done,
            last_appended_at,
        };
        let stage = (header::STAGE.to_owned(), STAGE.to_owned());
        NewRecord {
            topic: DEAD_LETTERS_TOPIC.to_owned(),
            key: letter.key.clone(),
            value: serde_json::to_vec(&content).expect("numbers and a time can always be written as JSON"),
            headers: BTreeMap::from([stage]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the record at an offset, appended that many seconds after another time.
    fn at(offset: u64, record: NewRecord) -> Record {
        Record {
            position: Position {
                topic: DEAD_LETTERS_TOPIC.into(),
                partition: 3,
                offset,
            },
            key: record.key,
            value: record.value,
            headers: record.headers,
            appended_at: Timestamp::from_millis_clamped(1_767_636_000_000 + 1_000 * offset as i64),
        }
    }

    fn letter(offset: u64) -> Record {
        let record = NewRecord {
            topic: DEAD_LETTERS_TOPIC.to_owned(),
            key: "acme/default".to_owned(),
            value: br#"{"partition":3,"done":[[0,99]]}"#.to_vec(),
            headers: BTreeMap::new(),
        };
        at(offset, record)
    }

    /// Returns the record about 5, 6, 7 and 9, behind the letter at 4.
    fn record() -> NewRecord {
        let mut done = Done::default();
        for offset in 1..10 {
            done.note(&letter(offset), [1, 2, 5, 6, 7, 9].contains(&offset));
        }
        done.record_behind(&letter(4))
    }

    /// Returns which are done according to the records, read after the letters from this offset on.
    fn known(from: u64, records: &[Record]) -> Vec<u64> {
        let mut done = Done::default();
        for offset in from..10 {
            done.read(&letter(offset));
        }
        for record in records {
            done.read(record);
        }
        (0..100)
            .filter(|offset| done.has(&letter(*offset).position))
            .collect()
    }

    #[test]
    fn what_is_done_behind_a_letter_is_known_again() {
        assert_eq!(record().key, "acme/default");
        assert_eq!(
            String::from_utf8(record().value).unwrap(),
            r#"{"partition":3,"done":[[5,7],[9,9]],"last_appended_at":"2026-01-05T18:00:09.000Z"}"#
        );
        assert_eq!(known(4, &[at(10, record())]), [5, 6, 7, 9, 10]);
        assert_eq!(
            known(8, &[at(10, record())]),
            [9, 10],
            "the letter at 4 is done by now, another one stays"
        );
    }

    #[test]
    fn a_record_about_another_log_marks_nothing_as_done() {
        let mut copied = at(10, record());
        copied.position.partition = 2;
        let elsewhere = String::from_utf8(record().value)
            .unwrap()
            .replace("18:00:09", "18:00:10");
        let mut other_times = at(10, record());
        other_times.value = elsewhere.into_bytes();
        let mut other_layout = at(11, record());
        other_layout.value = b"{}".to_vec();
        assert_eq!(known(4, &[copied, other_times, other_layout]), [10, 11]);
    }
}
