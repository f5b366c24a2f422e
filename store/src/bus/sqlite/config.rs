//! Settings of the embedded bus.

use std::time::Duration;

use crate::bus::DEAD_LETTERS_TOPIC;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the embedded bus keeps records, groups and leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteBusConfig {
    /// Age at which a record is removed once every group has read it, or if no group reads its topic. 7 days by default: a week
    /// of traffic can be read again after a faulty release.
    pub retention: Duration,
    /// Age at which a dead letter is removed, read or not. 30 days by default: a plugin has to be fixed before dead letters can
    /// be read again.
    pub dead_letter_retention: Duration,
    /// Time without a reader after which a group is forgotten, so that a group that never comes back does not keep records
    /// forever. 35 days by default: longer than dead letters are kept, so that a replay is told which were removed since the last
    /// one. If it does come back, it starts with the oldest record kept.
    pub group_expiry: Duration,
    /// How long a reader that stops without leaving keeps its partitions. 6 seconds by default: the lease is renewed three
    /// times in that time, and the successor of a killed consumer can start after it.
    pub lease: Duration,
}

impl Default for SqliteBusConfig {
    fn default() -> Self {
        Self {
            retention: 7 * DAY,
            dead_letter_retention: 30 * DAY,
            group_expiry: 35 * DAY,
            lease: Duration::from_secs(6),
        }
    }
}

impl SqliteBusConfig {
    pub(super) fn retention_of(&self, topic: &str) -> Duration {
        if topic == DEAD_LETTERS_TOPIC {
            self.dead_letter_retention
        } else {
            self.retention
        }
    }
}

/// Returns `duration` in milliseconds, saturating at the largest `i64`.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
