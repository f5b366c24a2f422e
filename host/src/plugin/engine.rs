//! The wasmtime engine: one for all plugins of a folder.

use std::{io, thread, time::Duration};

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use super::{error::PluginError, limits::Limits};

/// How often the epoch advances. One hundredth of a delivery's default CPU time, so a runaway guest overshoots by about
/// one percent; the ticking thread takes under half a percent of a core.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Memory that an instance leaves resident in its slot for the next instance of the same plugin, which then has no page
/// faults there; they cost more than clearing. A SendGrid delivery of 1,000 events touches 1.6 MB, and took a fifth
/// longer with half of this.
const KEPT_RESIDENT_BYTES: usize = 2 << 20;

/// The same for tables: 8,000 elements, more than Rust plugins have.
const KEPT_TABLE_BYTES: usize = 64 << 10;

/// Stack beyond the guest's own, for host functions that a guest calls: writing a log line, the largest of these, takes
/// some ten kilobytes. Untouched stack takes no memory.
const HOST_STACK_BYTES: usize = 1 << 20;

/// Slots that stay warm while no delivery uses them. Together with what a slot keeps resident, this bounds the idle
/// memory of all plugins to 64 MiB.
const WARM_SLOTS: u32 = 32;

/// Creates an engine for this many concurrent stores, each with one component, and the thread that advances its epoch.
/// The thread ends with the engine. Counting instructions is for tools: it slows the guests down.
pub(crate) fn engine(
    limits: &Limits,
    stores: usize,
    counts_instructions: bool,
) -> Result<Engine, PluginError> {
    let mut config = config(limits, stores);
    config.consume_fuel(counts_instructions);
    let engine = Engine::new(&config)
        .map_err(|error| PluginError::host("the engine cannot be created", error.into_boxed_dyn_error()))?;
    start_ticker(&engine).map_err(|error| PluginError::host("the epoch thread cannot be started", error))?;
    Ok(engine)
}

fn config(limits: &Limits, stores: usize) -> Config {
    // `Limits` keeps deliveries at 512 or below, and there is one more.
    let stores = u32::try_from(stores).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(stores)
        .total_core_instances(stores.saturating_mul(limits.instances))
        .total_memories(stores.saturating_mul(limits.memories))
        .total_tables(stores.saturating_mul(limits.tables))
        .max_core_instances_per_component(limits.instances)
        .max_memories_per_component(limits.memories)
        .max_tables_per_component(limits.tables)
        .max_memories_per_module(limits.memories)
        .max_tables_per_module(limits.tables)
        .max_memory_size(limits.memory_bytes)
        .total_stacks(stores)
        .table_elements(limits.table_elements)
        .linear_memory_keep_resident(KEPT_RESIDENT_BYTES)
        .table_keep_resident(KEPT_TABLE_BYTES)
        .max_unused_warm_slots(WARM_SLOTS)
        // Resets only the touched pages, where the kernel can tell which (Linux 6.7).
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits.stack_bytes)
        .async_stack_size(limits.stack_bytes + HOST_STACK_BYTES)
        .cranelift_opt_level(OptLevel::Speed)
        // The same delivery yields the same bytes on every machine, including NaN and relaxed SIMD.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // Bounds checks of 64-bit memories cannot be elided; no supported plugin uses them.
        .wasm_memory64(false)
        // Traps are reported by function name; offsets and unwind tables would only take memory.
        .generate_address_map(false)
        .native_unwind_info(false);
    config
}

fn start_ticker(engine: &Engine) -> io::Result<()> {
    let engine = engine.weak();
    thread::Builder::new()
        .name("plugin-epoch".to_owned())
        .spawn(move || {
            loop {
                thread::sleep(TICK);
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        })?;
    Ok(())
}
