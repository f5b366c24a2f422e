//! The types that all parts of SendFlowr share: the canonical [`Event`], the week's [`grid`], [`identity`]
//! hashing, and [`redact`]ion of addresses. A leaf crate: it performs no I/O and reads no clock.

mod canonical;
mod chain;
pub mod grid;
pub mod identity;
pub mod latency;
mod mailbox;
pub mod profile;
pub mod redact;
pub mod settings;
mod timestamp;
mod trace;

pub use canonical::{BounceType, Event, EventType, Identified, SCHEMA_VERSION, UnsupportedSchema, event_id};
pub use chain::chain;
pub use identity::{EmailHash, Hasher, Identifier, IdentifierKind, UniversalId};
pub use mailbox::MailboxProvider;
pub use timestamp::{MAX_AHEAD_MS, Timestamp};
pub use trace::{InvalidTrace, TRACE_HEADER, TraceContext, TraceId};
