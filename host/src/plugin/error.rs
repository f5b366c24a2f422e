//! Errors of plugins, whose fault they are, and the names of the limits that operators know them by.

use std::{fmt, io, path::PathBuf, time::Duration};

use semver::Version;

use super::{bindings::SERVED, lock::LockError, signature::SignatureError};

/// A limit that a delivery can hit. The codes are stable: metrics, responses and alerts use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Limit {
    /// CPU time of one delivery.
    CpuTime,
    /// Linear memory of one delivery, all memories together.
    Memory,
    /// Table elements of one delivery, all tables together.
    Table,
    /// Instances, memories or tables of one delivery.
    Instances,
    /// The guest's call stack.
    Stack,
    /// Bytes returned by one call.
    OutputBytes,
    /// Elements of one batch.
    Events,
    /// Output that breaks the contract: bad UTF-8, a pointer out of range, a reply with status 500.
    InvalidOutput,
    /// Any other trap: a panic, a division by zero.
    Trap,
    /// Time in the host's queues and calls, the guest's own CPU time included.
    WallClock,
    /// Deliveries of one plugin, or of all, in flight at once.
    Concurrency,
    /// The plugin failed too often on the account's deliveries, which is in quarantine for it.
    Quarantined,
}

impl Limit {
    /// The limits that are a guest's fault, in the order in which status and metrics list them.
    pub(crate) const OF_GUESTS: [Self; 9] = [
        Self::CpuTime,
        Self::Memory,
        Self::Table,
        Self::Instances,
        Self::Stack,
        Self::OutputBytes,
        Self::Events,
        Self::InvalidOutput,
        Self::Trap,
    ];

    /// Returns the stable name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::CpuTime => "cpu_time",
            Self::Memory => "memory",
            Self::Table => "table",
            Self::Instances => "instances",
            Self::Stack => "stack",
            Self::OutputBytes => "output_bytes",
            Self::Events => "events",
            Self::InvalidOutput => "invalid_output",
            Self::Trap => "trap",
            Self::WallClock => "wall_clock",
            Self::Concurrency => "concurrency",
            Self::Quarantined => "quarantined",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The plugin broke a limit or the contract: another delivery may fail in the same way.
    Guest,
    /// The host is overloaded or broken, or the plugin is in quarantine: try again later.
    Host,
}

/// Why a plugin returned no result, or is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The guest broke a limit.
    #[error("plugin `{plugin}` hit its limit `{limit}` in `{call}`: {detail}")]
    Guest {
        /// `slug@version`.
        plugin: String,
        /// The limit.
        limit: Limit,
        /// What the plugin was doing: `instantiate`, `describe`, `authenticate` or `normalize`.
        call: &'static str,
        /// What happened, in one line, without anything of the delivery.
        detail: String,
    },
    /// The delivery spent too long in the host's queues and calls.
    #[error("a delivery for plugin `{plugin}` took longer than {} ms", waited.as_millis())]
    WallClock {
        /// `slug@version`.
        plugin: String,
        /// The limit.
        waited: Duration,
    },
    /// Too many deliveries in flight.
    #[error("plugin `{plugin}` has reached its limit of deliveries in flight")]
    Busy {
        /// `slug@version`.
        plugin: String,
    },
    /// The plugin failed too often on the account's deliveries, which is in quarantine for it.
    #[error("the account is in quarantine for plugin `{plugin}` after repeated failures; next attempt in {} s", retry_after.as_secs() + 1)]
    Quarantined {
        /// `slug@version`.
        plugin: String,
        /// When the next delivery is let through.
        retry_after: Duration,
    },
    /// The file is not a plugin that this host serves.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The lock file is invalid, or missing although it is required.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The plugin folder cannot be used.
    #[error("the plugin folder `{}` (`host.plugins.folder` or `--plugins`) cannot be {cannot_be}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// `read` or `created`.
        cannot_be: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host panicked in a delivery for the plugin: a bug of the host.
    #[error("the host panicked in a delivery for plugin `{plugin}`")]
    Panicked {
        /// `slug@version`.
        plugin: String,
        /// The panic.
        #[source]
        source: tokio::task::JoinError,
    },
    /// The host failed.
    #[error("plugin runtime: {what}")]
    Host {
        /// What could not be done.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl PluginError {
    /// Returns the stable code of the limit that was hit, or `None` if no limit is to blame.
    pub fn limit(&self) -> Option<&'static str> {
        let limit = match self {
            Self::Guest { limit, .. } => *limit,
            Self::WallClock { .. } => Limit::WallClock,
            Self::Busy { .. } => Limit::Concurrency,
            Self::Quarantined { .. } => Limit::Quarantined,
            Self::Load(LoadError::Describe { source, .. }) => return source.limit(),
            Self::Load(_)
            | Self::Lock(_)
            | Self::Folder { .. }
            | Self::Panicked { .. }
            | Self::Host { .. } => return None,
        };
        Some(limit.code())
    }

    /// Returns whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Guest { .. } | Self::Load(_) => Fault::Guest,
            Self::WallClock { .. }
            | Self::Busy { .. }
            | Self::Quarantined { .. }
            | Self::Lock(_)
            | Self::Folder { .. }
            | Self::Panicked { .. }
            | Self::Host { .. } => Fault::Host,
        }
    }

    /// Returns when to try again, if known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Quarantined { retry_after, .. } => Some(*retry_after),
            // Both conditions end as soon as the deliveries in flight have finished.
            Self::Busy { .. } | Self::WallClock { .. } => Some(Duration::from_secs(1)),
            Self::Guest { .. }
            | Self::Load(_)
            | Self::Lock(_)
            | Self::Folder { .. }
            | Self::Panicked { .. }
            | Self::Host { .. } => None,
        }
    }

    pub(crate) fn host(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Host {
            what,
            source: source.into(),
        }
    }
}

/// Why a file is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// A folder, a pipe or a device.
    #[error("is not a regular file")]
    NotAFile,
    /// The file grows or changes while it is read.
    #[error("changes while it is read; it is tried again once it stops changing")]
    Changing,
    /// The file exceeds the size limit.
    #[error("has more than {limit} bytes ({named})")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// The name of the limit.
        named: &'static str,
    },
    /// The lock file pins another digest.
    #[error(
        "has the SHA-256 {found}, but `{lock}` pins `{slug}` to {pinned}: put the pinned file back, or review this one and pin \
         it with `sendflowr plugin pin`"
    )]
    WrongDigest {
        /// The pinned slug.
        slug: String,
        /// SHA-256 of the file.
        found: String,
        /// SHA-256 in the lock file.
        pinned: String,
        /// Name of the lock file.
        lock: String,
    },
    /// Only pinned files are served, and this one is not pinned.
    #[error(
        "is not pinned in `{lock}` and has the SHA-256 {found}: remove it, or review it and pin it with `sendflowr plugin pin`"
    )]
    NotPinned {
        /// SHA-256 of the file.
        found: String,
        /// Name of the lock file.
        lock: String,
    },
    /// The lock file pins this digest under another slug.
    #[error(
        "describes itself as `{slug}`, but `{lock}` pins it as `{pinned}`: pin it again with `sendflowr plugin pin`"
    )]
    PinnedAsOther {
        /// The slug that it reports.
        slug: String,
        /// The slug that it is pinned as.
        pinned: String,
        /// Name of the lock file.
        lock: String,
    },
    /// No trusted key has signed the file.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Something other than WebAssembly, or a broken file.
    #[error("is not a WebAssembly component: {0}")]
    NotWebAssembly(String),
    /// A core module.
    #[error("is a core WebAssembly module, not a component: convert it with `sendflowr plugin pack`")]
    CoreModule,
    /// A core module that imports the first version of WASI, which no component can do without an adapter.
    #[error(
        "is a core WebAssembly module built for `wasm32-wasip1`: build for `wasm32-unknown-unknown`, or use `cargo component \
         build` or the target `wasm32-wasip2`"
    )]
    Wasip1Module,
    /// A component of another world.
    #[error(
        "does not export `sendflowr:connector/plugin`, so it is not a SendFlowr plugin; it exports {exports}"
    )]
    NotAPlugin {
        /// The names that it exports.
        exports: String,
    },
    /// The host is outdated.
    #[error(
        "plugin `{plugin}`{} is built for contract {contract}, this host serves {SERVED}: upgrade the host",
        version_suffix(version)
    )]
    TooNew {
        /// The plugin's name, as far as the file reveals it.
        plugin: String,
        /// The plugin's version, if the file reveals it.
        version: Option<String>,
        /// The contract that it is built for.
        contract: Version,
    },
    /// The plugin is outdated.
    #[error(
        "plugin `{plugin}`{} is built for contract {contract}, this host serves {SERVED}: rebuild the plugin with a newer SDK",
        version_suffix(version)
    )]
    TooOld {
        /// The plugin's name, as far as the file reveals it.
        plugin: String,
        /// The plugin's version, if the file reveals it.
        version: Option<String>,
        /// The contract that it is built for.
        contract: Version,
    },
    /// The component imports something that is not available to plugins.
    #[error("imports `{import}`, which is not available to plugins")]
    Import {
        /// The name of the import.
        import: String,
    },
    /// The component has more parts than a plugin may have.
    #[error("has {count} {pieces}; a plugin may have {limit}")]
    TooManyPieces {
        /// What there is too much of.
        pieces: &'static str,
        /// How many there are.
        count: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Compiling it would take many times the work of any real plugin.
    #[error("would take too long to compile: {steps} steps for {what}; a plugin may take {limit}")]
    TooMuchWork {
        /// What takes too many steps.
        what: &'static str,
        /// An estimate of the compiler's work.
        steps: u64,
        /// The maximum that is compiled.
        limit: u64,
    },
    /// Compiling or linking failed.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// Compiling took too long.
    #[error("takes longer than {} s to compile", .0.as_secs())]
    CompileTime(Duration),
    /// `describe` failed.
    #[error("failed to describe itself")]
    Describe {
        /// The failure.
        #[source]
        source: Box<PluginError>,
    },
    /// `describe` returned something that the contract does not allow.
    #[error("has an invalid descriptor: {0}")]
    Descriptor(String),
    /// Another file already serves this slug.
    #[error("claims the slug `{slug}`, which `{owner}` serves already; remove one of the two files")]
    DuplicateSlug {
        /// The slug.
        slug: String,
        /// The other file.
        owner: String,
    },
}

/// Why files are refused, in the order in which metrics list the reasons. The names are stable: alerts use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot be read, or is too large.
    Unreadable,
    /// It is not the pinned file.
    Digest,
    /// It is not pinned.
    Unpinned,
    /// No trusted key has signed it.
    Signature,
    /// It is not a plugin.
    NotAPlugin,
    /// It is a plugin for another contract.
    Contract,
    /// It cannot be compiled.
    Compile,
    /// It has no valid descriptor.
    Describe,
    /// Another file has its slug.
    Slug,
    /// It is a lock file that is invalid or missing.
    Lock,
}

impl Refusal {
    pub(crate) const ALL: [Self; 10] = [
        Self::Unreadable,
        Self::Digest,
        Self::Unpinned,
        Self::Signature,
        Self::NotAPlugin,
        Self::Contract,
        Self::Compile,
        Self::Describe,
        Self::Slug,
        Self::Lock,
    ];

    /// Returns the stable name.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Digest => "digest",
            Self::Unpinned => "unpinned",
            Self::Signature => "signature",
            Self::NotAPlugin => "not_a_plugin",
            Self::Contract => "contract",
            Self::Compile => "compile",
            Self::Describe => "describe",
            Self::Slug => "slug",
            Self::Lock => "lock",
        }
    }
}

impl LoadError {
    /// Returns whether the machine is to blame, so that the same file may be served later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            // Too many open files, a failing disk or network, or a parent folder that is inaccessible for now.
            Self::Read(_) | Self::Signature(SignatureError::Unreadable(_)) => true,
            Self::Describe { source } => source.fault() == Fault::Host,
            _ => false,
        }
    }

    /// Returns the kind of reason.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Read(_) | Self::NotAFile | Self::Changing | Self::TooLarge { .. } => Refusal::Unreadable,
            Self::WrongDigest { .. } | Self::PinnedAsOther { .. } => Refusal::Digest,
            Self::NotPinned { .. } => Refusal::Unpinned,
            Self::Signature(_) => Refusal::Signature,
            Self::NotWebAssembly(_)
            | Self::CoreModule
            | Self::Wasip1Module
            | Self::NotAPlugin { .. }
            | Self::Import { .. }
            | Self::TooManyPieces { .. } => Refusal::NotAPlugin,
            Self::TooNew { .. } | Self::TooOld { .. } => Refusal::Contract,
            Self::Compile(_) | Self::CompileTime(_) | Self::TooMuchWork { .. } => Refusal::Compile,
            Self::Describe { .. } | Self::Descriptor(_) => Refusal::Describe,
            Self::DuplicateSlug { .. } => Refusal::Slug,
        }
    }
}

fn version_suffix(version: &Option<String>) -> String {
    version
        .as_ref()
        .map(|version| format!(" {version}"))
        .unwrap_or_default()
}
