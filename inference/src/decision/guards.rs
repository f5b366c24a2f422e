//! Hard limits on the minute of arrival, which narrow the candidates before the best minute is chosen.
//!
//! A candidate is a minute of real time, counted from the Unix epoch. Local rules (quiet hours, allowed hours, blackout
//! days) are applied to stretches with a constant offset from UTC, so that the local time of every single candidate obeys
//! them, even on days with a clock change: an hour that occurs twice is quiet twice, and a skipped hour is never chosen.

use std::ops::Range;

use event::{Timestamp, grid::MINUTE_MS};
use jiff::{civil::Date, tz::TimeZone};

/// Minutes in a day.
pub(crate) const DAY_MINUTES: i64 = 24 * 60;

/// A set of minutes of real time, as sorted, disjoint, non-empty, half-open ranges of minutes since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Minutes(Vec<Range<i64>>);

impl Minutes {
    /// Returns the minutes that start in `[from, to)`.
    pub(crate) fn starting_in(from: Timestamp, to: Timestamp) -> Self {
        Self::between(first_minute_at(from), first_minute_at(to))
    }

    /// Returns the minutes from `start` up to, but not including, `end`; empty if `end` is not later than `start`.
    pub(crate) fn between(start: i64, end: i64) -> Self {
        Self::of_ranges(std::iter::once(start..end).collect())
    }

    /// Returns the union of `ranges`.
    pub(crate) fn of_ranges(mut ranges: Vec<Range<i64>>) -> Self {
        ranges.retain(|range| range.start < range.end);
        ranges.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<i64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn count(&self) -> i64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Returns the range from the first minute to the one after the last.
    pub(crate) fn hull(&self) -> Range<i64> {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => 0..0,
        }
    }

    /// Returns the minutes that are in both sets.
    pub(crate) fn intersect(&self, other: &Self) -> Self {
        let mut common = Vec::new();
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let both = a.start.max(b.start)..a.end.min(b.end);
            if both.start < both.end {
                common.push(both);
            }
            if a.end <= b.end {
                mine.next();
            } else {
                theirs.next();
            }
        }
        Self(common)
    }

    /// Returns the minutes that are in `self` only.
    pub(crate) fn subtract(&self, other: &Self) -> Self {
        let hull = self.hull();
        let mut gaps = Vec::with_capacity(other.0.len() + 1);
        let mut gap_start = hull.start;
        for taken in &other.0 {
            gaps.push(gap_start..taken.start);
            gap_start = taken.end;
        }
        gaps.push(gap_start..hull.end);
        gaps.retain(|gap| gap.start < gap.end);
        self.intersect(&Self(gaps))
    }

    /// Converts the ranges to moments.
    pub(crate) fn to_ranges(&self) -> Vec<Range<Timestamp>> {
        self.0
            .iter()
            .map(|range| moment(range.start)..moment(range.end))
            .collect()
    }
}

/// Returns the first minute that starts at or after `moment`.
pub(crate) fn first_minute_at(moment: Timestamp) -> i64 {
    moment.as_millis().div_euclid(MINUTE_MS) + i64::from(moment.as_millis().rem_euclid(MINUTE_MS) != 0)
}

/// Returns the moment at which a minute starts.
pub(crate) fn moment(minute: i64) -> Timestamp {
    Timestamp::from_millis_clamped(minute.saturating_mul(MINUTE_MS))
}

/// A part of the local day from `start` up to, but not including, `end`; it spans midnight if `start` is later than `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DaySpan {
    /// Minute of the day, 0 to 1,439.
    pub(crate) start: u16,
    /// Minute of the day, 1 to 1,440; not equal to `start`.
    pub(crate) end: u16,
}

impl DaySpan {
    /// Returns the span that starts on local day `day`, in minutes since the local epoch.
    fn on_day(self, day: i64) -> Range<i64> {
        let midnight = day * DAY_MINUTES;
        let over_midnight = if self.start > self.end { DAY_MINUTES } else { 0 };
        midnight + i64::from(self.start)..midnight + i64::from(self.end) + over_midnight
    }
}

/// The rules of one request that are given in the person's local time.
#[derive(Debug, Clone)]
pub(crate) struct LocalRules {
    /// The time zone of all of them.
    pub(crate) zone: TimeZone,
    /// Arrival only in these parts of the day; empty if there is no such limit.
    pub(crate) allowed: Vec<DaySpan>,
    /// No arrival in this part of the day.
    pub(crate) quiet: Option<DaySpan>,
    /// No arrival on these dates, counted in days since 1970-01-01.
    pub(crate) blackout_dates: Vec<i64>,
    /// No arrival on these days of the week, Monday first.
    pub(crate) blackout_weekdays: [bool; 7],
}

impl LocalRules {
    /// Returns the minutes of `candidates` outside the allowed parts of the day.
    pub(crate) fn outside_allowed(&self, candidates: &Minutes) -> Minutes {
        if self.allowed.is_empty() {
            return Minutes::default();
        }
        candidates.subtract(&self.spans(&self.allowed, candidates.hull()))
    }

    /// Returns the quiet minutes in the hull of `candidates`.
    pub(crate) fn quiet(&self, candidates: &Minutes) -> Minutes {
        self.spans(self.quiet.as_slice(), candidates.hull())
    }

    /// Returns the minutes of blackout days in the hull of `candidates`.
    pub(crate) fn blackout(&self, candidates: &Minutes) -> Minutes {
        if self.blackout_dates.is_empty() && self.blackout_weekdays == [false; 7] {
            return Minutes::default();
        }
        let mut ranges = Vec::new();
        for stretch in self.stretches(candidates.hull()) {
            for day in stretch.days() {
                if self.is_blackout(day) {
                    ranges.push(stretch.to_utc(day * DAY_MINUTES..(day + 1) * DAY_MINUTES));
                }
            }
        }
        Minutes::of_ranges(ranges)
    }

    fn is_blackout(&self, day: i64) -> bool {
        self.blackout_weekdays[weekday(day)] || self.blackout_dates.contains(&day)
    }

    fn spans(&self, spans: &[DaySpan], hull: Range<i64>) -> Minutes {
        if spans.is_empty() {
            return Minutes::default();
        }
        let mut ranges = Vec::new();
        for stretch in self.stretches(hull) {
            let days = stretch.days();
            // Starts one day earlier, for a span over midnight that began the evening before.
            for day in days.start - 1..days.end {
                for span in spans {
                    ranges.push(stretch.to_utc(span.on_day(day)));
                }
            }
        }
        Minutes::of_ranges(ranges)
    }

    /// Splits `hull` where the zone's offset from UTC changes.
    fn stretches(&self, hull: Range<i64>) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        let mut start = hull.start;
        while start < hull.end {
            let from = moment(start).to_jiff();
            let offset_seconds = i64::from(self.zone.to_offset(from).seconds());
            let change = self
                .zone
                .following(from)
                .next()
                .map(|transition| transition.timestamp().as_millisecond());
            let change_minute =
                change.map_or(hull.end, |ms| first_minute_at(Timestamp::from_millis_clamped(ms)));
            // A change within the minute after `start` must not stop the loop.
            let end = change_minute.clamp(start + 1, hull.end);
            stretches.push(Stretch {
                minutes: start..end,
                offset_minutes: offset_seconds.div_euclid(60),
            });
            start = end;
        }
        stretches
    }
}

/// Minutes in which local time is UTC plus a constant offset.
struct Stretch {
    minutes: Range<i64>,
    offset_minutes: i64,
}

impl Stretch {
    /// Returns the local days that the stretch touches, counted from 1970-01-01.
    fn days(&self) -> Range<i64> {
        let first = (self.minutes.start + self.offset_minutes).div_euclid(DAY_MINUTES);
        let last = (self.minutes.end - 1 + self.offset_minutes).div_euclid(DAY_MINUTES);
        first..last + 1
    }

    /// Returns the part of a range of local minutes that lies in this stretch, in UTC.
    fn to_utc(&self, local: Range<i64>) -> Range<i64> {
        let start = (local.start - self.offset_minutes).max(self.minutes.start);
        let end = (local.end - self.offset_minutes).min(self.minutes.end);
        start..end
    }
}

/// Returns the day of the week, Monday being 0, of a day counted from 1970-01-01 (a Thursday).
fn weekday(day: i64) -> usize {
    usize::try_from((day + 3).rem_euclid(7)).expect("a remainder of 7 is small and not negative")
}

/// Returns the number of days from 1970-01-01 to `date`.
pub(crate) fn day_number(date: Date) -> i64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.duration_until(date).as_secs().div_euclid(86_400)
}

/// Returns the date that is so many days after 1970-01-01.
pub(crate) fn date(day_number: i64) -> Date {
    let epoch = jiff::civil::date(1970, 1, 1);
    let days = jiff::Span::new().days(day_number);
    epoch.checked_add(days).expect("day numbers come from dates")
}

#[cfg(test)]
pub(super) mod tests;
