//! Measures what a delivery costs in a plugin, for tools: the steps of a [`Guest`](super::Guest), on the caller's thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;

use super::{
    bindings::types::{Outcome, Proof, Rejection, Request},
    error::PluginError,
    guest::{Plugin, Running, fault},
    lane::to_end,
    output::{self, Breach},
    sandbox::{memory_bytes, start_clock, stop_clock, used_instructions},
};

/// The cost and the result of one delivery.
#[derive(Debug)]
pub struct Measured {
    /// What the plugin demands as proof. Nothing was checked.
    pub proofs: Result<Vec<Proof>, Rejection>,
    /// What the delivery means.
    pub outcome: Result<Outcome, Rejection>,
    /// Time to make the instance.
    pub instantiate: Duration,
    /// Time of the first call, including passing the request in and reading the answer.
    pub authenticate: Duration,
    /// Time of the second call, likewise.
    pub normalize: Duration,
    /// Time to release the instance.
    pub give_back: Duration,
    /// Time for everything: making the instance, both calls, and releasing the instance.
    pub total: Duration,
    /// Linear memory that the instance has used.
    pub memory_bytes: usize,
    /// Instructions that the guest has executed; only for a plugin of [`Plugins::load_counting`](super::Plugins::load_counting).
    pub instructions: Option<u64>,
}

impl Plugin {
    /// Makes both calls on a fresh instance, whatever `authenticate` returns, within the limits of a delivery. Waits
    /// for no slot, checks no proof and counts nothing in the plugin's statistics. Blocks.
    ///
    /// # Errors
    /// [`PluginError`] as a delivery would get it.
    pub fn measure(&self, request: &Arc<Request>) -> Result<Measured, PluginError> {
        let wall_clock = self.limits.wall_clock;
        let failed =
            |call: &'static str| move |error: wasmtime::Error| fault(self.tag(), call, wall_clock, &error);
        let breach = |call: &'static str| {
            move |Breach { limit, detail }: Breach| PluginError::Guest {
                plugin: self.tag().to_owned(),
                limit,
                call,
                detail,
            }
        };
        let began = Instant::now();
        let deadline = began + wall_clock;
        let Running { mut store, instance } =
            to_end(self.run(deadline, request)).map_err(failed("instantiate"))?;
        let instantiate = began.elapsed();
        start_clock(&mut store, deadline);
        let proofs = to_end(instance.authenticate(&mut store, request)).map_err(failed("authenticate"))?;
        stop_clock(&mut store);
        let authenticated = began.elapsed();
        start_clock(&mut store, deadline);
        let outcome = to_end(instance.normalize(&mut store, request)).map_err(failed("normalize"))?;
        stop_clock(&mut store);
        let normalized = began.elapsed();
        let memory_bytes = memory_bytes(&store);
        let instructions = self.counts_instructions.then(|| used_instructions(&store));
        drop(store);
        let total = began.elapsed();
        if let Ok(proofs) = &proofs {
            output::check_proofs(proofs).map_err(breach("authenticate"))?;
        }
        if let Ok(outcome) = &outcome {
            output::check_outcome(outcome, self.limits.events).map_err(breach("normalize"))?;
        }
        Ok(Measured {
            proofs,
            outcome,
            instantiate,
            authenticate: authenticated - instantiate,
            normalize: normalized - authenticated,
            give_back: total - normalized,
            total,
            memory_bytes,
            instructions,
        })
    }

    /// Returns the CPU time of the last of `deliveries` (at least one) that one instance handles: what a
    /// delivery would cost a host that did not make a fresh instance for each. Blocks.
    ///
    /// # Errors
    /// [`PluginError`] as a delivery would get it.
    pub fn measure_warm(&self, request: &Arc<Request>, deliveries: usize) -> Result<Duration, PluginError> {
        let wall_clock = self.limits.wall_clock;
        let failed =
            |call: &'static str| move |error: wasmtime::Error| fault(self.tag(), call, wall_clock, &error);
        let deadline = Instant::now() + wall_clock;
        let Running { mut store, instance } =
            to_end(self.run(deadline, request)).map_err(failed("instantiate"))?;
        let mut took = Duration::ZERO;
        for _ in 0..deliveries {
            let began = ThreadTime::now();
            start_clock(&mut store, deadline);
            let proofs = to_end(instance.authenticate(&mut store, request));
            let outcome = to_end(instance.normalize(&mut store, request));
            stop_clock(&mut store);
            drop((
                proofs.map_err(failed("authenticate"))?,
                outcome.map_err(failed("normalize"))?,
            ));
            took = began.elapsed();
        }
        Ok(took)
    }
}
