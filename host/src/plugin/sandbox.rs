//! The sandbox around one instance: its clock, its memory fence and its log.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};

use super::{
    engine::TICK,
    error::Limit,
    lane::{self, BRIEF},
    limits::Limits,
    log::PluginLog,
    wasi::ClosedWorld,
};

/// Ends a guest's call, and names the limit that it exceeded.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Exceeded {
    pub(crate) limit: Limit,
    pub(crate) detail: String,
}

/// The state of one store.
pub(crate) struct Sandbox {
    meter: Meter,
    fence: Fence,
    log: Arc<PluginLog>,
    /// Only for components that import WASI.
    wasi: Option<Box<ClosedWorld>>,
}

impl Sandbox {
    /// Creates a fresh store with every limit in force.
    pub(crate) fn store(
        engine: &Engine,
        limits: &Limits,
        log: Arc<PluginLog>,
        wasi: Option<Box<ClosedWorld>>,
    ) -> Store<Self> {
        let sandbox = Self {
            meter: Meter {
                left: limits.cpu_time,
                started: None,
                deadline: Instant::now(),
                halfway: Instant::now(),
                pace: Pace::Brief,
            },
            fence: Fence {
                memory: Budget::new(Limit::Memory, "memories", "bytes", limits.memory_bytes),
                table: Budget::new(Limit::Table, "tables", "elements", limits.table_elements),
                instances: widen(limits.instances),
                memories: widen(limits.memories),
                tables: widen(limits.tables),
            },
            log,
            wasi,
        };
        let mut store = Store::new(engine, sandbox);
        store.limiter(|sandbox| &mut sandbox.fence);
        store.epoch_deadline_callback(|mut context| context.data_mut().meter.check());
        // Lists may point at the same bytes again and again, so a small guest memory can describe any amount of output. This
        // limits the host's allocations for one call before any of them is made.
        store.set_hostcall_fuel(limits.output_bytes);
        store
    }

    /// Returns the plugin's own log.
    pub(crate) fn log(&self) -> &PluginLog {
        &self.log
    }

    /// Ends a call of a function of the host. Fails if the delivery has no time left: code that calls such functions one after
    /// the other, without a loop, passes no other check.
    pub(crate) fn end_host_call(&mut self) -> wasmtime::Result<()> {
        self.meter.used_and_left().map(|_| ())
    }

    /// Returns the closed WASI. Every component that imports it has one.
    pub(crate) fn wasi(&mut self) -> wasmtime::Result<&mut ClosedWorld> {
        self.wasi
            .as_deref_mut()
            .ok_or_else(|| wasmtime::Error::msg("the store was made without WASI"))
    }
}

/// Starts the clock of a call that must end by `deadline`.
pub(crate) fn start_clock(store: &mut Store<Sandbox>, deadline: Instant) {
    let ticks = store.data_mut().meter.start(deadline);
    store.set_epoch_deadline(ticks);
}

/// Stops the clock: the time that the call has used is deducted from what the delivery's next call may use.
pub(crate) fn stop_clock(store: &mut Store<Sandbox>) {
    store.data_mut().meter.stop();
}

/// Returns the linear memory that the delivery has taken so far, all memories together.
pub(crate) fn memory_bytes(store: &Store<Sandbox>) -> usize {
    store.data().fence.memory.used()
}

/// Returns the number of table elements that the delivery has taken so far, all tables together.
pub(crate) fn table_elements(store: &Store<Sandbox>) -> usize {
    store.data().fence.table.used()
}

/// Grants the guest more instructions than it can execute, in an engine that counts them: a store starts with none.
pub(crate) fn count_instructions(store: &mut Store<Sandbox>) {
    store
        .set_fuel(u64::MAX)
        .expect("only engines that count instructions come here");
}

/// Returns the number of instructions executed since [`count_instructions`].
pub(crate) fn used_instructions(store: &Store<Sandbox>) -> u64 {
    u64::MAX
        - store
            .get_fuel()
            .expect("only engines that count instructions come here")
}

/// Converts a limit: in the configuration it is `u32`, in wasmtime `usize`.
fn widen(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Returns the number of ticks after which `time` has certainly passed; at least one.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX - 1) + 1
}

/// Measures CPU time, so that a thread that waits to be scheduled on a busy machine does not look like an endless loop.
/// Epochs count wall-clock time: they only determine when to check.
struct Meter {
    /// CPU time that the delivery has left.
    left: Duration,
    /// The thread's CPU time when the call came to this thread; `None` until the first check there. What a thread does before
    /// that, at most a tick, is not counted.
    started: Option<Duration>,
    /// When the call must have ended.
    deadline: Instant,
    /// When half of the call's time is over.
    halfway: Instant,
    pace: Pace,
}

/// The phase that a delivery is in. Its next call goes on where the last one has ended: a lane that it has left behind cannot take it
/// back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Every delivery begins in this phase.
    Brief,
    /// It has computed for long, and is in the [lane](super::lane) or waits for it.
    Long,
    /// Half of its time is over: it continues on the ordinary threads, where it began.
    Late,
}

impl Meter {
    /// Begins a call. Returns the number of ticks after which to check.
    fn start(&mut self, deadline: Instant) -> u64 {
        self.started = Some(ThreadTime::now().as_duration());
        self.deadline = deadline;
        self.halfway = lane::halfway(deadline);
        ticks(self.until_next_look(Duration::ZERO, deadline.saturating_duration_since(Instant::now())))
    }

    /// Ends a call.
    fn stop(&mut self) {
        self.left = self.left.saturating_sub(self.used());
    }

    /// Returns the CPU time that the call has used on this thread.
    fn used(&mut self) -> Duration {
        let now = ThreadTime::now().as_duration();
        now.saturating_sub(*self.started.get_or_insert(now))
    }

    /// Returns the time until a call that has used this much CPU time, and has this much wall-clock time left, may pass a limit.
    fn until_next_look(&self, used: Duration, wall: Duration) -> Duration {
        let left = self.left.saturating_sub(used).min(wall);
        match self.pace {
            Pace::Brief => left.min(BRIEF.saturating_sub(used)),
            Pace::Long => left.min(self.halfway.saturating_duration_since(Instant::now())),
            Pace::Late => left,
        }
    }

    /// Returns the CPU time used on this thread, and the wall-clock time left. Fails if the delivery may use no more of either.
    fn used_and_left(&mut self) -> wasmtime::Result<(Duration, Duration)> {
        let used = self.used();
        if used >= self.left {
            let detail = "the delivery has used up its CPU time".to_owned();
            return Err(Exceeded {
                limit: Limit::CpuTime,
                detail,
            }
            .into());
        }
        let wall = self.deadline.saturating_duration_since(Instant::now());
        if wall.is_zero() {
            let detail = "the call has used up its time".to_owned();
            return Err(Exceeded {
                limit: Limit::WallClock,
                detail,
            }
            .into());
        }
        Ok((used, wall))
    }

    fn check(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let (used, wall) = self.used_and_left()?;
        let pace = match self.pace {
            Pace::Brief if used >= BRIEF => Pace::Long,
            Pace::Long if Instant::now() >= self.halfway => Pace::Late,
            same => same,
        };
        if pace != self.pace {
            self.pace = pace;
            self.left -= used;
            self.started = None;
            // The next check is soon, and starts the count on the new thread.
            return Ok(UpdateDeadline::Yield(1));
        }
        Ok(UpdateDeadline::Continue(ticks(self.until_next_look(used, wall))))
    }
}

/// Limits memory and table elements of the whole store, and the number of instances, memories and tables.
struct Fence {
    memory: Budget,
    table: Budget,
    instances: usize,
    memories: usize,
    tables: usize,
}

/// How much memories or tables may still grow. Growth over the limit traps instead of failing softly: an allocator would only
/// turn the soft failure into a panic that no longer names the reason.
struct Budget {
    limit: Limit,
    what: &'static str,
    unit: &'static str,
    left: usize,
    total: usize,
}

impl Budget {
    fn new(limit: Limit, what: &'static str, unit: &'static str, total: usize) -> Self {
        Self {
            limit,
            what,
            unit,
            left: total,
            total,
        }
    }

    fn used(&self) -> usize {
        self.total - self.left
    }

    /// Deducts the growth of one memory or table. Returns `false` if it would exceed its own maximum: that fails softly, as the
    /// guest's declaration wants.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let Some(left) = self.left.checked_sub(growth) else {
            let Self {
                limit,
                what,
                unit,
                total,
                ..
            } = *self;
            let detail = format!("its {what} would grow by {growth} {unit} beyond the {total} it may have");
            return Err(Exceeded { limit, detail }.into());
        };
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.left = left;
        Ok(true)
    }
}

impl ResourceLimiter for Fence {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.memory.grow(current, desired, maximum)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.table.grow(current, desired, maximum)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn memories(&self) -> usize {
        self.memories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses up CPU time of this thread.
    fn work(time: Duration) {
        let until = ThreadTime::now().as_duration() + time;
        while ThreadTime::now().as_duration() < until {
            std::hint::spin_loop();
        }
    }

    fn limit(meter: &mut Meter) -> Option<Limit> {
        let error = meter.check().err()?;
        Some(
            error
                .downcast_ref::<Exceeded>()
                .expect("the meter's own error")
                .limit,
        )
    }

    fn meter(left: Duration) -> Meter {
        Meter {
            left,
            started: None,
            deadline: Instant::now(),
            halfway: Instant::now(),
            pace: Pace::Brief,
        }
    }

    /// A deadline that no test reaches.
    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn calls_of_one_delivery_share_the_cpu_time() {
        let mut meter = meter(Duration::from_millis(50));
        meter.start(later());
        work(Duration::from_millis(30));
        assert_eq!(limit(&mut meter), None);
        meter.stop();
        meter.start(later());
        assert_eq!(limit(&mut meter), None);
        work(Duration::from_millis(21));
        assert_eq!(limit(&mut meter), Some(Limit::CpuTime));
    }

    #[test]
    fn a_call_moves_when_it_computes_long_and_when_half_of_its_time_is_over() {
        let moves = |meter: &mut Meter| matches!(meter.check(), Ok(UpdateDeadline::Yield(_)));
        let mut meter = meter(Duration::from_millis(100));
        meter.start(Instant::now() + Duration::from_millis(200));
        assert!(!moves(&mut meter));
        work(BRIEF);
        assert!(moves(&mut meter));
        // On the next thread, whose earlier time does not count for the call.
        assert!(!moves(&mut meter));
        assert!(meter.left <= Duration::from_millis(100) - BRIEF);
        assert!(meter.left > Duration::from_millis(50));
        std::thread::sleep(Duration::from_millis(100));
        assert!(moves(&mut meter));
        work(BRIEF);
        assert!(!moves(&mut meter));
    }

    #[test]
    fn the_next_call_of_a_delivery_that_has_moved_stays_where_it_is() {
        let mut meter = meter(Duration::from_millis(100));
        meter.start(later());
        work(BRIEF);
        assert!(matches!(meter.check(), Ok(UpdateDeadline::Yield(_))));
        meter.stop();
        meter.start(later());
        work(2 * BRIEF);
        assert!(matches!(meter.check(), Ok(UpdateDeadline::Continue(_))));
    }

    #[test]
    fn waiting_uses_no_cpu_time_but_ends_at_the_deadline() {
        let mut meter = meter(Duration::from_millis(20));
        meter.start(later());
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(limit(&mut meter), None);
        meter.start(Instant::now());
        assert_eq!(limit(&mut meter), Some(Limit::WallClock));
    }

    #[test]
    fn a_call_of_the_host_ends_when_the_time_is_used_up() {
        let mut meter = meter(Duration::from_millis(5));
        meter.start(later());
        assert!(meter.used_and_left().is_ok());
        work(Duration::from_millis(6));
        let error = meter.used_and_left().unwrap_err();
        assert_eq!(error.downcast_ref::<Exceeded>().unwrap().limit, Limit::CpuTime);
    }

    #[test]
    fn ticks_cover_the_time() {
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::from_micros(1)), 2);
        assert_eq!(ticks(Duration::from_millis(100)), 101);
    }
}
