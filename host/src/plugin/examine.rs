//! Examines one plugin file, for tools.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    Plugins,
    bindings::types::Request,
    error::PluginError,
    guest::{Plugin, fault},
    lane::to_end,
    limits::Limits,
    load::Loader,
    sandbox::{memory_bytes, table_elements},
};

/// What a plugin is made of, and how close it comes to its limits before any real delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// Exact version of the contract that it is built for.
    pub contract: String,
    /// What it imports, apart from types.
    pub imports: Vec<String>,
    /// How much it uses of its limits, in the order in which they come into play.
    pub uses: Vec<LimitUse>,
    /// How it fails on a delivery without any content, if it does. A host still serves it. How much it uses on such a delivery is
    /// then unknown.
    pub failure: Option<String>,
}

/// How much a plugin uses of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitUse {
    /// Key of the limit in the configuration; the unit is in the name.
    pub limit: &'static str,
    /// How much it uses.
    pub used: u64,
    /// How much it may use.
    pub most: u64,
}

impl Plugins {
    /// Loads one file as [`Plugins::load_file`] does, creates an instance, and runs it on a delivery without any content.
    /// Blocks on the compiler.
    ///
    /// # Errors
    /// Returns why the file is not served, or what keeps this machine from running it on the delivery.
    pub fn examine(path: &Path, limits: &Limits) -> Result<(Arc<Plugin>, Examination), PluginError> {
        let loader = Loader::for_file(limits)?;
        let began = Instant::now();
        let candidate = loader.candidate(path, || ())?;
        let loading = began.elapsed();
        let inspection = candidate.inspection.clone();
        let file_bytes = candidate.fingerprint.size();
        let stats = loader.metrics.of(&candidate.descriptor.slug);
        let plugin = loader.plugin(candidate, stats);

        let mut uses = vec![
            of("file_bytes", file_bytes, limits.file_bytes),
            of(
                "compile_time_seconds",
                loading.as_secs(),
                limits.compile_time.as_secs(),
            ),
            of("instances", inspection.core_instances, limits.instances.into()),
        ];
        let failure = match takes_at_nothing(&plugin, limits) {
            Ok(taken) => {
                uses.extend(taken);
                None
            }
            // A host would not refuse the file for this: its provider sends no such delivery.
            Err(error @ PluginError::Guest { .. }) => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        let examination = Examination {
            contract: inspection.contract_version.to_string(),
            imports: inspection.imports,
            uses,
            failure,
        };
        Ok((Arc::new(plugin), examination))
    }
}

/// Returns how much the plugin uses of its limits on a delivery without any content.
fn takes_at_nothing(plugin: &Plugin, limits: &Limits) -> Result<[LimitUse; 3], PluginError> {
    let delivery = Arc::new(empty_delivery(plugin.descriptor().slug.as_str()));
    let running = to_end(plugin.run(Instant::now() + limits.wall_clock, &delivery))
        .map_err(|error| fault(plugin.tag(), "instantiate", limits.wall_clock, &error))?;
    let memory = memory_bytes(&running.store);
    let tables = table_elements(&running.store);
    drop(running);
    let empty = plugin.measure(&delivery)?;
    Ok([
        of(
            "memory_bytes",
            wide(memory.max(empty.memory_bytes)),
            wide(limits.memory_bytes),
        ),
        of("table_elements", wide(tables), wide(limits.table_elements)),
        of("cpu_time_ms", millis(empty.total), millis(limits.cpu_time)),
    ])
}

/// Returns a delivery without any content, which anyone may send.
fn empty_delivery(slug: &str) -> Request {
    Request {
        method: "POST".to_owned(),
        path: format!("/webhooks/{slug}"),
        query: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        received_at_ms: 0,
        settings: Vec::new(),
        secrets: Vec::new(),
    }
}

fn of(limit: &'static str, used: u64, most: u64) -> LimitUse {
    LimitUse { limit, used, most }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
