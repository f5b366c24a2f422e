//! The limits of a plugin, and the reason for each number.

use std::{fmt::Display, num::NonZero, ops::RangeInclusive, thread, time::Duration};

use event::settings::{OutOfRange, number};
use serde::Deserialize;

/// The limits of every plugin. All are on by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// CPU time of one delivery, all its calls together.
    pub cpu_time: Duration,
    /// Time that a delivery's calls may take, including queues; starts again if a certificate had to be fetched in between.
    pub wall_clock: Duration,
    /// Linear memory of one delivery, all memories together.
    pub memory_bytes: usize,
    /// Table elements of one delivery, all tables together.
    pub table_elements: usize,
    /// Linear memories of one delivery.
    pub memories: u32,
    /// Tables of one delivery.
    pub tables: u32,
    /// Core instances of one delivery.
    pub instances: u32,
    /// The guest's call stack.
    pub stack_bytes: usize,
    /// Bytes that one call may return, as the host stores them.
    pub output_bytes: usize,
    /// Elements of one batch: events, skipped and rejected together.
    pub events: usize,
    /// Deliveries of one plugin in flight at once.
    pub concurrency: usize,
    /// Deliveries of all plugins in flight at once.
    pub total_concurrency: usize,
    /// Deliveries of one plugin that may wait for a slot at once, however many slots it has.
    pub waiting: usize,
    /// How long a delivery may wait for a slot.
    pub queue_wait: Duration,
    /// Size of a plugin file.
    pub file_bytes: u64,
    /// Time to compile one plugin.
    pub compile_time: Duration,
    /// Log lines of one plugin per second, on average.
    pub log_lines_per_second: u32,
    /// Length of a log line.
    pub log_line_bytes: usize,
}

/// Maximum of the limits on deliveries in flight: Tokio starts at most so many blocking threads.
const MAX_CONCURRENCY: usize = 512;

/// Default number of deliveries that the host has in progress at once.
pub(crate) const DEFAULT_MAX_CONCURRENT_DELIVERIES: usize = 1024;

/// Number of plugins whose waiting deliveries together are all that the host may have in progress, so that a single one that
/// stalls leaves places for the others.
const PLUGINS_WAITING: usize = 4;

/// Returns how many deliveries may wait for a slot of one plugin in a host that may have this many in progress.
pub(crate) fn waiting_of(max_concurrent_deliveries: usize) -> usize {
    max_concurrent_deliveries.div_ceil(PLUGINS_WAITING)
}

impl Default for Limits {
    fn default() -> Self {
        Self::of_cores(thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Limits {
    /// Returns the defaults on a machine with this many cores.
    fn of_cores(cores: usize) -> Self {
        // Enough to keep every core busy, with as many deliveries again ready to run or waiting for a certificate. More would
        // only lengthen the queue inside the pool, where no one sees it, and let one bad plugin hold more threads.
        let concurrency = (2 * cores).min(MAX_CONCURRENCY);
        Self {
            // 50,000 events take the in-tree plugins about 40 ms.
            cpu_time: Duration::from_millis(100),
            // Fifty times the CPU time: a machine that takes longer is overloaded. Below the 10 s after which providers give up.
            wall_clock: Duration::from_secs(5),
            // A 5 MiB body, its parsed form and its events, with room to spare.
            memory_bytes: 64 << 20,
            // The largest known guests, Python's, have some 10,000 elements; 100,000 take 800 kB.
            table_elements: 100_000,
            // A plugin has one memory and one to three tables; adapters and composed components bring a few more.
            memories: 4,
            tables: 8,
            // Rust plugins have three core instances, componentize-py makes about thirty.
            instances: 64,
            // wasmtime's default. A quarter of a blocking thread's stack; the rest is the host's.
            stack_bytes: 512 << 10,
            // 50,000 events of 416 bytes take 20 MiB; the rest holds the strings of a 5 MiB body twice.
            output_bytes: 32 << 20,
            events: 50_000,
            concurrency,
            // Eight plugins at their limit together. Each delivery may take `memory_bytes`, so this bounds the host too.
            total_concurrency: (8 * concurrency).min(MAX_CONCURRENCY),
            waiting: waiting_of(DEFAULT_MAX_CONCURRENT_DELIVERIES),
            // Longer than a burst takes to drain at a few thousand deliveries a second, too short for a provider to notice.
            queue_wait: Duration::from_millis(250),
            // JavaScript components have 12 MB, Python's 18 MB.
            file_bytes: 32 << 20,
            // A Python component takes about 30 s on one busy core.
            compile_time: Duration::from_secs(120),
            // Enough to see what is wrong, too few to fill a disk.
            log_lines_per_second: 10,
            // A sentence with a name or two in it.
            log_line_bytes: 1024,
        }
    }
}

/// [`Limits`] as configured; absent keys keep their defaults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    cpu_time_ms: Option<u64>,
    wall_clock_ms: Option<u64>,
    memory_bytes: Option<usize>,
    table_elements: Option<usize>,
    memories: Option<u32>,
    tables: Option<u32>,
    instances: Option<u32>,
    stack_bytes: Option<usize>,
    output_bytes: Option<usize>,
    events: Option<usize>,
    concurrency: Option<usize>,
    total_concurrency: Option<usize>,
    queue_wait_ms: Option<u64>,
    file_bytes: Option<u64>,
    compile_time_seconds: Option<u64>,
    log_lines_per_second: Option<u32>,
    log_line_bytes: Option<usize>,
}

impl TryFrom<RawLimits> for Limits {
    type Error = OutOfRange;

    fn try_from(raw: RawLimits) -> Result<Self, OutOfRange> {
        let default = Self::default();
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // The upper ends keep sums and reservations from overflowing; they are not recommendations.
        let limits = Self {
            cpu_time: Duration::from_millis(within(
                "cpu_time_ms",
                raw.cpu_time_ms,
                milliseconds(default.cpu_time),
                1..=60_000,
            )?),
            wall_clock: Duration::from_millis(within(
                "wall_clock_ms",
                raw.wall_clock_ms,
                milliseconds(default.wall_clock),
                1..=600_000,
            )?),
            // wasm32 memory up to its maximum of 4 GiB; at least one page.
            memory_bytes: within(
                "memory_bytes",
                raw.memory_bytes,
                default.memory_bytes,
                64 << 10..=4 << 30,
            )?,
            table_elements: within(
                "table_elements",
                raw.table_elements,
                default.table_elements,
                1..=10_000_000,
            )?,
            memories: within("memories", raw.memories, default.memories, 1..=100)?,
            tables: within("tables", raw.tables, default.tables, 1..=100)?,
            instances: within("instances", raw.instances, default.instances, 1..=1_000)?,
            // Blocking threads have 2 MiB.
            stack_bytes: within(
                "stack_bytes",
                raw.stack_bytes,
                default.stack_bytes,
                64 << 10..=1 << 20,
            )?,
            output_bytes: within(
                "output_bytes",
                raw.output_bytes,
                default.output_bytes,
                64 << 10..=1 << 30,
            )?,
            events: within("events", raw.events, default.events, 1..=1_000_000)?,
            concurrency: within(
                "concurrency",
                raw.concurrency,
                default.concurrency,
                1..=MAX_CONCURRENCY,
            )?,
            total_concurrency: within(
                "total_concurrency",
                raw.total_concurrency,
                default.total_concurrency,
                1..=MAX_CONCURRENCY,
            )?,
            waiting: default.waiting,
            queue_wait: Duration::from_millis(within(
                "queue_wait_ms",
                raw.queue_wait_ms,
                milliseconds(default.queue_wait),
                0..=60_000,
            )?),
            file_bytes: within(
                "file_bytes",
                raw.file_bytes,
                default.file_bytes,
                1 << 10..=1 << 30,
            )?,
            compile_time: Duration::from_secs(within(
                "compile_time_seconds",
                raw.compile_time_seconds,
                default.compile_time.as_secs(),
                1..=3_600,
            )?),
            log_lines_per_second: within(
                "log_lines_per_second",
                raw.log_lines_per_second,
                default.log_lines_per_second,
                1..=10_000,
            )?,
            log_line_bytes: within(
                "log_line_bytes",
                raw.log_line_bytes,
                default.log_line_bytes,
                64..=64 << 10,
            )?,
        };
        Ok(limits)
    }
}

/// Returns `value`, or the default if it is absent, when it is within the range.
fn within<N: Copy + PartialOrd + Display>(
    key: &str,
    value: Option<N>,
    default: N,
    range: RangeInclusive<N>,
) -> Result<N, OutOfRange> {
    number("host.plugins.limits", key, value.unwrap_or(default), range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_keep_the_defaults() {
        assert_eq!(Limits::try_from(RawLimits::default()).unwrap(), Limits::default());
    }

    #[test]
    fn the_defaults_of_any_machine_are_allowed() {
        for cores in [1, 33, 257, 1024] {
            let Limits {
                concurrency,
                total_concurrency,
                ..
            } = Limits::of_cores(cores);
            let raw = format!("concurrency = {concurrency}\ntotal_concurrency = {total_concurrency}");
            let limits = Limits::try_from(toml::from_str::<RawLimits>(&raw).unwrap()).unwrap();
            assert_eq!(limits.concurrency, concurrency, "{cores} cores");
            assert!(concurrency <= total_concurrency);
        }
    }

    #[test]
    fn names_the_key_that_is_out_of_range() {
        let raw: RawLimits = toml::from_str("cpu_time_ms = 0").unwrap();
        let error = Limits::try_from(raw).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`host.plugins.limits.cpu_time_ms` is 0, it must be between 1 and 60000"
        );
    }

    #[test]
    fn refuses_unknown_keys() {
        assert!(toml::from_str::<RawLimits>("cpu_time = 5").is_err());
    }
}
