//! Runs deliveries on a loaded plugin: slots, instances, calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time,
};
use tracing::{Instrument, Span, field::Empty};
use wasmtime::{Engine, PoolConcurrencyLimitError, Store, Trap};

use super::{
    bindings::{
        Bindings, Contract, Instance,
        types::{Descriptor, Outcome, Proof, Rejection, Request},
    },
    error::{Limit, PluginError},
    file::Digest,
    lane::Lane,
    limits::Limits,
    log::PluginLog,
    metrics::PluginStats,
    output::{self, Breach},
    quarantine::{Consequence, Entry, Quarantine},
    sandbox::{Exceeded, Sandbox, count_instructions, memory_bytes, start_clock, stop_clock},
    wasi::ClosedWorld,
};

/// Deliveries that may wait per slot. A delivery occupies its slot for well under a millisecond, so a longer queue could not
/// drain within `queue_wait`; each waiting delivery holds its body.
pub(super) const WAITING_PER_SLOT: usize = 64;

/// A loaded plugin: compiled, linked and checked.
pub struct Plugin {
    pub(crate) descriptor: Descriptor,
    pub(crate) tag: String,
    pub(crate) digest: Digest,
    pub(crate) contract: Contract,
    pub(crate) imports_wasi: bool,
    pub(crate) bindings: Bindings,
    pub(crate) engine: Engine,
    pub(crate) counts_instructions: bool,
    pub(crate) limits: Arc<Limits>,
    /// Slots for deliveries of this plugin.
    pub(crate) slots: Arc<Semaphore>,
    /// Slots for deliveries of all plugins: those of the engine's pool.
    pub(crate) all_slots: Arc<Semaphore>,
    /// Where deliveries of any plugin continue if they compute for long.
    pub(crate) lane: Arc<Lane>,
    pub(crate) waiting: AtomicUsize,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) log: Arc<PluginLog>,
    pub(crate) stats: Arc<PluginStats>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("Plugin")
            .field(&self.tag)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// Returns the plugin's own description.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns `slug@version`, for events and logs.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Returns the SHA-256 of the plugin's file, in lower-case hex.
    pub fn digest(&self) -> &str {
        self.digest.as_str()
    }

    /// Waits for a slot and reserves a fresh instance for one delivery of this account.
    ///
    /// The wait is bounded in time and in the number of waiting deliveries. The instance itself is created by the first
    /// call, off the caller's thread, because creating it may run the guest's code.
    pub async fn instantiate(self: &Arc<Self>, account: &str) -> Result<Guest, PluginError> {
        let guest = self.instantiate_again(account).await?;
        self.stats.deliveries.inc();
        Ok(guest)
    }

    /// [`Plugin::instantiate`] for a delivery that has been counted already: its proofs had to wait for a certificate, and it comes
    /// back.
    pub(crate) async fn instantiate_again(self: &Arc<Self>, account: &str) -> Result<Guest, PluginError> {
        let slots = self.slots(account).await?;
        Ok(Guest {
            plugin: Arc::clone(self),
            account: account.to_owned(),
            is_proven: false,
            running: None,
            took: Duration::ZERO,
            _slots: slots,
        })
    }

    fn enter(&self, account: &str) -> Result<Entry, PluginError> {
        let entry = self.quarantine.enter(account, Instant::now());
        entry.map_err(|retry_after| PluginError::Quarantined {
            plugin: self.tag.clone(),
            retry_after,
        })
    }

    async fn slots(&self, account: &str) -> Result<Slots, PluginError> {
        let began = Instant::now();
        let slots = async {
            let mut entry = self.enter(account)?;
            loop {
                let slots = self.slots_for(&entry).await?;
                // A delivery that was ahead may have put the account in quarantine or the plugin in doubt. Then this one has to wait
                // for its turn as those that come later do.
                let now = self.enter(account)?;
                if entry.is_enough_for(&now) {
                    return Ok::<_, PluginError>(slots);
                }
                entry = now;
            }
        };
        match time::timeout(self.limits.queue_wait, slots).await {
            Ok(slots) => {
                let slots = slots?;
                self.stats.waited(began.elapsed());
                Ok(slots)
            }
            Err(_) => Err(self.busy()),
        }
    }

    /// Waits for the slots that a delivery needs that is let through like this, in the queue of bounded length.
    async fn slots_for(&self, entry: &Entry) -> Result<Slots, PluginError> {
        let closed = |error: AcquireError| PluginError::host("the semaphore is closed", error);
        let (probe, count) = match entry {
            Entry::Beside => (None, 1),
            // First, so that deliveries that wait for it take neither slots nor room from those of other accounts.
            Entry::AloneOfAccount(probe) => {
                let _waiting = probe.waiting.try_acquire().map_err(|_| self.busy())?;
                let permit = Arc::clone(&probe.permit).acquire_owned().await;
                (Some(permit.map_err(closed)?), 1)
            }
            // A delivery that has all slots is alone.
            Entry::Alone => {
                let all = u32::try_from(self.limits.concurrency).expect("at most 512, by its range");
                (None, all)
            }
        };
        let waiting = Waiting::enter(&self.waiting);
        let most = (self.limits.concurrency * WAITING_PER_SLOT).min(self.limits.waiting);
        if waiting.ahead >= most {
            return Err(self.busy());
        }
        let of_plugin = Arc::clone(&self.slots).acquire_many_owned(count).await;
        let of_plugin = of_plugin.map_err(closed)?;
        let of_all = Arc::clone(&self.all_slots).acquire_owned().await;
        Ok(Slots {
            _probe: probe,
            _of_plugin: of_plugin,
            _of_all: of_all.map_err(closed)?,
        })
    }

    fn busy(&self) -> PluginError {
        self.stats.busy.inc();
        PluginError::Busy {
            plugin: self.tag.clone(),
        }
    }

    /// Creates a fresh instance with fresh limits. What it sees of the world through WASI is derived from `delivery`.
    pub(crate) async fn run(&self, deadline: Instant, delivery: &Arc<Request>) -> wasmtime::Result<Running> {
        let log = Arc::clone(&self.log);
        let wasi = self
            .imports_wasi
            .then(|| Box::new(ClosedWorld::new(Some(Arc::clone(delivery)), Arc::clone(&log))));
        let mut store = Sandbox::store(&self.engine, &self.limits, log, wasi);
        if self.counts_instructions {
            count_instructions(&mut store);
        }
        start_clock(&mut store, deadline);
        let instance = self.bindings.instantiate(&mut store).await?;
        stop_clock(&mut store);
        Ok(Running { store, instance })
    }

    fn failed(&self, account: &str, is_proven: bool, limit: Limit) {
        self.stats.trapped(limit);
        let now = Instant::now();
        let consequence = if is_proven {
            self.quarantine.failed(account, limit, now)
        } else {
            self.quarantine.failed_unproven(limit, now)
        };
        match consequence {
            None => {}
            Some(Consequence::Quarantined(length)) => tracing::warn!(
                plugin = %self.tag,
                account,
                plugin.limit = limit.code(),
                quarantine.seconds = length.as_secs(),
                "the account `{account}` is in quarantine for plugin `{}` after repeated failures, most recently on the limit \
                 `{limit}`",
                self.tag
            ),
            Some(Consequence::InDoubt) => tracing::warn!(
                plugin = %self.tag,
                plugin.limit = limit.code(),
                "plugin `{}` is in doubt after repeated failures, most recently on the limit `{limit}`: its deliveries go \
                 through one at a time until a proven one is normalized",
                self.tag
            ),
        }
    }

    fn completed(&self, account: &str) {
        if self.quarantine.completed(account, Instant::now()) {
            tracing::info!(plugin = %self.tag, account, "plugin `{}` works again: a proven delivery of the account `{account}` was normalized", self.tag);
        }
    }
}

/// The slots that a delivery occupies: one of the plugin or all of them, one of all plugins, and the permit of its account if it
/// is a probe.
struct Slots {
    _probe: Option<OwnedSemaphorePermit>,
    _of_plugin: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Counts waiting deliveries, correctly even if the caller gives up.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self {
            count,
            ahead: count.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One delivery's instance of a plugin. Calls run on blocking threads. An instance whose call has failed is discarded.
pub struct Guest {
    plugin: Arc<Plugin>,
    /// The account of the delivery.
    account: String,
    /// Whether its failures count as those of a genuine delivery: see [`Guest::set_proven`].
    is_proven: bool,
    running: Option<Running>,
    took: Duration,
    _slots: Slots,
}

/// An instance and its store.
pub(crate) struct Running {
    pub(crate) store: Store<Sandbox>,
    pub(crate) instance: Instance,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("Guest")
            .field(&self.plugin.tag)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// Asks the plugin what must hold for the delivery to be genuine, and returns the instance for [`Guest::normalize`].
    pub async fn authenticate(
        self,
        request: Arc<Request>,
    ) -> Result<(Self, Result<Vec<Proof>, Rejection>), PluginError> {
        self.visit(|mut guest, deadline| async move {
            let answer = guest.authenticate_here(deadline, &request).await?;
            Ok((guest, answer))
        })
        .await
    }

    /// Notes that not everyone could have sent the delivery: from now on, its result counts for its account.
    pub(crate) fn set_proven(&mut self) {
        self.is_proven = true;
    }

    /// Asks the plugin what the delivery means, once its proofs have held. Consumes the instance.
    pub async fn normalize(
        mut self,
        request: Arc<Request>,
    ) -> Result<Result<Outcome, Rejection>, PluginError> {
        self.set_proven();
        self.visit(|guest, deadline| async move { guest.normalize_here(deadline, &request).await })
            .await
    }

    /// Runs `calls` where they may block; they must end by the deadline that they are given. If they take longer, the
    /// caller gets an error right away, but the slot stays occupied until the thread is free again.
    pub(crate) async fn visit<R, E, Calls>(self, calls: impl FnOnce(Self, Instant) -> Calls) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<PluginError> + Send + 'static,
        Calls: Future<Output = Result<R, E>> + Send + 'static,
    {
        let plugin = Arc::clone(&self.plugin);
        let limit = plugin.limits.wall_clock;
        let deadline = Instant::now() + limit;
        // What the plugin logs belongs to the delivery's span.
        let calls = calls(self, deadline).in_current_span();
        match time::timeout_at(deadline.into(), plugin.lane.run(calls, deadline)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(PluginError::Panicked {
                plugin: plugin.tag.clone(),
                source: error,
            }
            .into()),
            Err(_) => Err(PluginError::WallClock {
                plugin: plugin.tag.clone(),
                waited: limit,
            }
            .into()),
        }
    }

    /// [`Guest::authenticate`] on the thread of a [`Guest::visit`].
    pub(crate) async fn authenticate_here(
        &mut self,
        deadline: Instant,
        request: &Arc<Request>,
    ) -> Result<Result<Vec<Proof>, Rejection>, PluginError> {
        let span = self.span("plugin authenticate");
        let call = async {
            let (began, running) = self.begin(deadline, request).await?;
            let result = running.instance.authenticate(&mut running.store, request).await;
            let answer = self.end("authenticate", began, result)?;
            if let Ok(proofs) = &answer {
                self.check("authenticate", output::check_proofs(proofs))?;
            }
            Ok(answer)
        };
        told(&span, call.instrument(span.clone()).await)
    }

    /// [`Guest::normalize`] on the thread of a [`Guest::visit`].
    pub(crate) async fn normalize_here(
        mut self,
        deadline: Instant,
        request: &Arc<Request>,
    ) -> Result<Result<Outcome, Rejection>, PluginError> {
        let span = self.span("plugin normalize");
        let call = async {
            let (began, running) = self.begin(deadline, request).await?;
            let result = running.instance.normalize(&mut running.store, request).await;
            let answer = self.end("normalize", began, result)?;
            if let Ok(outcome) = &answer {
                self.check(
                    "normalize",
                    output::check_outcome(outcome, self.plugin.limits.events),
                )?;
            }
            if self.is_proven {
                self.plugin.completed(&self.account);
            }
            let stats = &self.plugin.stats;
            match &answer {
                Ok(Outcome::Events(batch)) => {
                    stats.events.inc_by(batch.events.len() as u64);
                    stats.rejects.inc_by(batch.rejected.len() as u64);
                }
                Ok(Outcome::Reply(_) | Outcome::Confirm(_)) => {}
                Err(_) => {
                    stats.rejects.inc();
                }
            }
            Ok(answer)
        };
        told(&span, call.instrument(span.clone()).await)
    }

    /// Creates the span of a call.
    fn span(&self, name: &'static str) -> Span {
        tracing::debug_span!(
            "plugin",
            otel.name = name,
            plugin = self.plugin.tag,
            error.r#type = Empty,
            otel.status_code = Empty,
        )
    }

    /// Begins a call: creates the delivery's instance, if there is none yet, and starts its clock.
    async fn begin(
        &mut self,
        deadline: Instant,
        delivery: &Arc<Request>,
    ) -> Result<(Instant, &mut Running), PluginError> {
        let began = Instant::now();
        if began >= deadline {
            // All blocking threads were busy until the deadline; the caller has given up.
            return Err(PluginError::WallClock {
                plugin: self.plugin.tag.clone(),
                waited: self.plugin.limits.wall_clock,
            });
        }
        if self.running.is_none() {
            match self.plugin.run(deadline, delivery).await {
                Ok(running) => self.running = Some(running),
                Err(error) => return Err(self.failed("instantiate", began, &error)),
            }
        }
        let running = self.running.as_mut().expect("set just above");
        start_clock(&mut running.store, deadline);
        Ok((began, running))
    }

    /// Ends a call with its result.
    fn end<R>(
        &mut self,
        call: &'static str,
        began: Instant,
        result: wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        if let Some(Running { store, .. }) = &mut self.running {
            stop_clock(store);
            self.plugin.stats.took_memory(memory_bytes(store));
        }
        match result {
            Ok(answer) => {
                self.took += began.elapsed();
                Ok(answer)
            }
            Err(error) => Err(self.failed(call, began, &error)),
        }
    }

    /// Ends a call that has failed.
    fn failed(&mut self, call: &'static str, began: Instant, error: &wasmtime::Error) -> PluginError {
        self.took += began.elapsed();
        let error = fault(&self.plugin.tag, call, self.plugin.limits.wall_clock, error);
        if let PluginError::Guest { limit, .. } = &error {
            self.plugin.failed(&self.account, self.is_proven, *limit);
        }
        error
    }

    /// Turns a breach of the contract into an error of the plugin.
    fn check(&mut self, call: &'static str, result: Result<(), Breach>) -> Result<(), PluginError> {
        result.map_err(|Breach { limit, detail }| {
            self.plugin.failed(&self.account, self.is_proven, limit);
            PluginError::Guest {
                plugin: self.plugin.tag.clone(),
                limit,
                call,
                detail,
            }
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.took > Duration::ZERO {
            self.plugin.stats.took(self.took);
        }
    }
}

/// Records a failed call on its span, with the limit that was hit, or else `host`.
fn told<R>(span: &Span, answer: Result<R, PluginError>) -> Result<R, PluginError> {
    if let Err(error) = &answer {
        span.record("error.type", error.limit().unwrap_or("host"));
        span.record("otel.status_code", "error");
    }
    answer
}

/// Converts an error of wasmtime, and determines which limit it stands for.
pub(crate) fn fault(
    plugin: &str,
    call: &'static str,
    wall_clock: Duration,
    error: &wasmtime::Error,
) -> PluginError {
    let plugin = plugin.to_owned();
    let (limit, detail) = if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
        if exceeded.limit == Limit::WallClock {
            return PluginError::WallClock {
                plugin,
                waited: wall_clock,
            };
        }
        (exceeded.limit, exceeded.detail.clone())
    } else if let Some(full) = error.downcast_ref::<PoolConcurrencyLimitError>() {
        // Whoever has a slot has a place in the pool.
        return PluginError::host("the pool of instances is full", full.to_string());
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        (of_trap(*trap), trap.to_string())
    } else {
        let reason = error.root_cause().to_string();
        // wasmtime does not export the type of this error.
        let limit = if reason.contains("fuel allocated for hostcalls has been exhausted") {
            Limit::OutputBytes
        } else if reason.starts_with("resource limit exceeded") {
            Limit::Instances
        } else {
            Limit::InvalidOutput
        };
        (limit, reason)
    };
    PluginError::Guest {
        plugin,
        limit,
        call,
        detail,
    }
}

fn of_trap(trap: Trap) -> Limit {
    match trap {
        Trap::StackOverflow => Limit::Stack,
        Trap::Interrupt => Limit::CpuTime,
        Trap::InvalidDiscriminant | Trap::InvalidChar | Trap::StringOutOfBounds | Trap::ListOutOfBounds => {
            Limit::InvalidOutput
        }
        _ => Limit::Trap,
    }
}
