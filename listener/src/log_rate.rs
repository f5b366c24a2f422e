//! Limits how many lines of one kind the log gets: metrics count everything, and some lines a second are enough to explain it.
//! Otherwise an outage, or a stranger, would fill the disk with the same line.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Size of a burst, in seconds' worth of lines.
const BURST_SECONDS: u32 = 10;

/// The rate of one kind of line.
#[derive(Debug)]
pub struct LogRate {
    bucket: Mutex<Bucket>,
    left_out: AtomicU64,
}

/// How many lines of the kind were left out before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut(
    /// Their number.
    pub u64,
);

impl std::fmt::Display for LeftOut {
    /// A remark to end the line with.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(formatter, "; {count} similar lines before it were suppressed"),
        }
    }
}

impl LogRate {
    /// Allows this many lines a second, and bursts of ten seconds' worth.
    pub fn per_second(lines: u32) -> Self {
        Self {
            bucket: Mutex::new(Bucket::full(lines, Instant::now())),
            left_out: AtomicU64::new(0),
        }
    }

    /// Returns how many lines were left out since the last one, or `None` if this one has to be left out too.
    pub fn admit(&self) -> Option<LeftOut> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.take(Instant::now()) {
            return Some(LeftOut(self.left_out.swap(0, Ordering::Relaxed)));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// The rates of lines about errors, one for each code: an error that strangers provoke leaves the others their lines.
#[derive(Debug)]
pub struct LogRates {
    per_second: u32,
    by_code: Mutex<HashMap<&'static str, LogRate>>,
}

impl LogRates {
    /// Allows this many lines of each code a second, and bursts of ten seconds' worth.
    pub fn per_second(lines: u32) -> Self {
        Self {
            per_second: lines,
            by_code: Mutex::default(),
        }
    }

    /// Returns the rates of lines about requests that were answered with a server error. One line says as much as the thousands
    /// of an outage.
    pub fn of_server_errors() -> Self {
        Self::per_second(1)
    }

    /// [`LogRate::admit`] for a line about an error with this code.
    pub fn admit(&self, code: &'static str) -> Option<LeftOut> {
        let mut by_code = self.by_code.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = by_code
            .entry(code)
            .or_insert_with(|| LogRate::per_second(self.per_second));
        rate.admit()
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    most: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    fn full(per_second: u32, now: Instant) -> Self {
        let most = f64::from(per_second) * f64::from(BURST_SECONDS);
        Self {
            per_second: f64::from(per_second),
            most,
            tokens: most,
            filled_at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.filled_at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::full(2, start);
        for _ in 0..20 {
            assert!(bucket.take(start));
        }
        assert!(!bucket.take(start));
        let later = start + Duration::from_secs(1);
        assert!(bucket.take(later));
        assert!(bucket.take(later));
        assert!(!bucket.take(later));
    }

    #[test]
    fn what_is_left_out_is_counted_once() {
        // None is ever added to the ten of the burst while the test runs.
        let rate = LogRate::per_second(1);
        rate.bucket.lock().unwrap().per_second = 0.0;
        for _ in 0..10 {
            assert_eq!(rate.admit(), Some(LeftOut(0)));
        }
        assert_eq!((rate.admit(), rate.admit()), (None, None));
        rate.bucket.lock().unwrap().tokens = 2.0;
        let told = rate.admit().unwrap().to_string();
        assert_eq!(told, "; 2 similar lines before it were suppressed");
        assert_eq!(rate.admit().unwrap().to_string(), "");
    }

    #[test]
    fn an_error_that_strangers_provoke_leaves_the_others_their_lines() {
        let rates = LogRates::per_second(1);
        let lines = (0..100).filter_map(|_| rates.admit("malformed_not_kept"));
        assert!(lines.count() < 20);
        assert_eq!(rates.admit("bus_unavailable"), Some(LeftOut(0)));
    }
}
