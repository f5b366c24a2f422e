//! The delays expected over the week, and when to hand mail over so that it arrives at a given moment.
//!
//! A delay belongs to the moment of the hand-over: it is that of a queue which the mail joins then. It is the same throughout a
//! part of the week and steps from one part to the next, so that not every moment of arrival has exactly one hand-over:
//!
//! - Where the delay falls, some moments have two. The later hand-over counts, whose delay is the shorter: what is closer is
//!   known better.
//! - Where it rises, some have none: what is handed over before the step has arrived by then, and what is handed over after it
//!   has not. No mail is expected at such a moment, so it is nothing that a decision could choose.

use std::ops::Range;

use event::{
    Timestamp,
    grid::{self, HOUR_MS},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Parts of the week: weekdays and weekend, six parts of four hours each. Queues follow the sender's day; finer parts
/// would leave most of them without data.
pub(super) const PARTS: usize = 12;

const PART_HOURS: usize = 4;

const PART_MS: i64 = PART_HOURS as i64 * HOUR_MS;

/// Where an expected delay comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LatencySource {
    /// Learned from deliveries of this provider.
    Learned,
    /// Learned from deliveries of all providers, because the request names none or an unknown one.
    LearnedAcrossProviders,
    /// The caller's estimate.
    Caller,
    /// The configured default.
    Default,
}

/// The delay expected from trigger to arrival.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExpectedLatency {
    /// Seconds, to the millisecond.
    pub seconds: f64,
    /// Where it comes from.
    pub source: LatencySource,
    /// Number of deliveries that it was learned from: of the provider, or of all providers.
    pub samples: usize,
    /// How many of them were handed over in the same part of the week as this mail, to the same class of mailbox if that is
    /// known; absent unless the delay was learned from this provider's deliveries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_samples: Option<usize>,
}

impl ExpectedLatency {
    /// Returns the delay in milliseconds.
    pub fn as_millis(self) -> i64 {
        (self.seconds * 1_000.0).round() as i64
    }

    pub(super) fn of_millis(ms: f64, source: LatencySource, samples: usize) -> Self {
        Self {
            seconds: ms.round() / 1_000.0,
            source,
            samples,
            part_samples: None,
        }
    }
}

/// The delays expected of one provider and mailbox class over the week.
#[derive(Debug, Clone, PartialEq)]
pub struct WeekOfLatency(pub(super) [ExpectedLatency; PARTS]);

impl WeekOfLatency {
    /// Returns the delay expected of a mail that is handed over at `moment`.
    pub fn handed_over_at(&self, moment: Timestamp) -> ExpectedLatency {
        self.0[part(moment)]
    }

    /// Returns the delay expected of a mail that arrives at `arrival`, the shorter one if there are two; `None` if none is
    /// expected to arrive then.
    pub fn arriving_at(&self, arrival: Timestamp) -> Option<ExpectedLatency> {
        let is_possible = |(own, expected): &(usize, ExpectedLatency)| {
            part(arrival.plus_millis(-expected.as_millis())) == *own
        };
        let possible = self.0.into_iter().enumerate().filter(is_possible);
        possible
            .map(|(_, expected)| expected)
            .min_by_key(|expected| expected.as_millis())
    }

    /// Returns `arrivals` in pieces, in order, each with what [`WeekOfLatency::arriving_at`] returns throughout it.
    pub(crate) fn pieces(
        &self,
        arrivals: Range<Timestamp>,
    ) -> Vec<(Range<Timestamp>, Option<ExpectedLatency>)> {
        // It can only change where a mail arrives that was handed over just before or just after a step.
        let mut starts = vec![arrivals.start];
        let first = arrivals.start.plus_millis(-self.longest_ms());
        let mut step = first.plus_millis(-first.as_millis().rem_euclid(PART_MS));
        while step < arrivals.end {
            let before = self.handed_over_at(step.plus_millis(-1)).as_millis();
            let after = self.handed_over_at(step).as_millis();
            if before != after {
                starts.extend([step.plus_millis(before), step.plus_millis(after)]);
            }
            let next = step.plus_millis(PART_MS);
            // There is no next step at the end of representable time.
            if next <= step {
                break;
            }
            step = next;
        }
        starts.retain(|start| (arrivals.start..arrivals.end).contains(start));
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).chain([&arrivals.end]);
        let ranges = starts.iter().zip(ends).map(|(start, end)| *start..*end);
        ranges
            .map(|range| (range.clone(), self.arriving_at(range.start)))
            .collect()
    }

    /// Returns the longest expected delay of the week, in milliseconds.
    fn longest_ms(&self) -> i64 {
        self.milliseconds().into_iter().max().unwrap_or(0)
    }

    /// Returns the expected delay of each part of the week, in milliseconds.
    pub(crate) fn milliseconds(&self) -> Vec<i64> {
        self.0.iter().map(|expected| expected.as_millis()).collect()
    }

    /// Returns the week whose [`WeekOfLatency::milliseconds`] are `ms`, or one value for the whole week, with the
    /// source and samples of `of`; `None` if there are not that many values.
    pub(crate) fn of_milliseconds(ms: &[i64], of: ExpectedLatency) -> Option<Self> {
        let part = |ms: i64| ExpectedLatency {
            seconds: ms as f64 / 1_000.0,
            ..of
        };
        match ms {
            [all] => Some(Self::constant(part(*all))),
            _ => <[i64; PARTS]>::try_from(ms).ok().map(|ms| Self(ms.map(part))),
        }
    }

    /// Creates a week with the same delay throughout.
    pub(crate) fn constant(expected: ExpectedLatency) -> Self {
        Self([expected; PARTS])
    }
}

/// Returns the part of the week that contains `moment`.
pub(super) fn part(moment: Timestamp) -> usize {
    let slot = grid::slot(moment);
    let (day, hour) = (slot / 1_440, slot / 60 % 24);
    usize::from(day >= 5) * PARTS / 2 + hour / PART_HOURS
}

/// Returns the days of a part of the week, and its first hour and the one after its last, of UTC.
pub(crate) fn days_and_hours(part: usize) -> (&'static str, Range<usize>) {
    let days = ["weekdays", "weekend"][part / (PARTS / 2)];
    let first = part % (PARTS / 2) * PART_HOURS;
    (days, first..first + PART_HOURS)
}

/// Returns the part of the week that contains `moment`, as it is said.
pub(crate) fn part_in_words(moment: Timestamp) -> String {
    let (days, hours) = days_and_hours(part(moment));
    let days = if days == "weekend" {
        "at weekends"
    } else {
        "on weekdays"
    };
    format!("{days} from {:02}:00 to {:02}:00 UTC", hours.start, hours.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn week(seconds: [f64; PARTS]) -> WeekOfLatency {
        WeekOfLatency(
            seconds.map(|seconds| ExpectedLatency::of_millis(seconds * 1_000.0, LatencySource::Learned, 0)),
        )
    }

    /// On a Wednesday, if a mail takes 20 minutes from 16:00 to 20:00 and 20 seconds otherwise.
    fn delay_at(arrival: &str) -> Option<f64> {
        let mut seconds = [20.0; PARTS];
        seconds[4] = 1_200.0;
        let arrival = format!("2026-01-07T{arrival}Z").parse().unwrap();
        Some(week(seconds).arriving_at(arrival)?.seconds)
    }

    #[test]
    fn where_the_delay_rises_nothing_arrives_for_a_while() {
        assert_eq!(
            delay_at("16:00:19.999"),
            Some(20.0),
            "handed over just before 16:00"
        );
        assert_eq!(delay_at("16:00:20"), None);
        assert_eq!(delay_at("16:19:59.999"), None);
        assert_eq!(delay_at("16:20:00"), Some(1_200.0), "handed over at 16:00");
    }

    #[test]
    fn where_the_delay_falls_the_later_hand_over_counts() {
        assert_eq!(delay_at("20:00:19.999"), Some(1_200.0), "handed over at 19:40");
        assert_eq!(
            delay_at("20:00:20"),
            Some(20.0),
            "handed over at 20:00, not at 19:40:20"
        );
    }

    proptest! {
        #[test]
        fn pieces_agree_with_single_moments(
            seconds in proptest::array::uniform12(prop_oneof![Just(20.0), 0.0..7_200.0, 0.0..43_200.0]),
            start_minutes in 0_i64..100_000,
            minutes in 1_i64..5_000,
        ) {
            let week = week(seconds);
            let at = |minutes: i64| Timestamp::from_millis_clamped(1_767_571_200_000 + minutes * grid::MINUTE_MS);
            let arrivals = at(start_minutes)..at(start_minutes + minutes);
            let pieces = week.pieces(arrivals.clone());
            prop_assert_eq!(pieces[0].0.start, arrivals.start);
            prop_assert_eq!(pieces[pieces.len() - 1].0.end, arrivals.end);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].0.end == pair[1].0.start));
            for (piece, expected) in pieces.into_iter().filter(|(piece, _)| piece.start < piece.end) {
                let middle = piece.end.millis_since(piece.start) / 2;
                for arrival in [piece.start, piece.start.plus_millis(middle), piece.end.plus_millis(-1)] {
                    prop_assert_eq!(week.arriving_at(arrival), expected);
                    if let Some(expected) = expected {
                        let handed_over = arrival.plus_millis(-expected.as_millis());
                        prop_assert_eq!(week.handed_over_at(handed_over), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn pieces_end_where_time_does() {
        let mut seconds = [20.0; PARTS];
        seconds[4] = 1_200.0;
        let end = Timestamp::from_millis_clamped(i64::MAX);
        let pieces = week(seconds).pieces(end.plus_millis(-48 * HOUR_MS)..end);
        assert_eq!(pieces[pieces.len() - 1].0.end, end);
        let begin = Timestamp::from_millis_clamped(0);
        assert!(week(seconds).pieces(begin..begin).is_empty());
        assert_eq!(week(seconds).pieces(begin..begin.plus_millis(1)).len(), 1);
    }
}
