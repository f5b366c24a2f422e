#![doc = include_str!("../README.md")]

mod access;
mod descriptors;
mod discard;
mod exposition;
mod guard;
mod log_rate;
mod origin;
mod ready;
mod serve;
mod stall;
mod tls;
mod trace;

pub use access::{Access, InvalidAccess, RawTokens, protect};
pub use descriptors::{TooFewFiles, raise_file_limit};
pub use discard::discard;
pub use exposition::exposition;
pub use guard::{ErrorNote, RequestId, Unanswered, guard};
pub use log_rate::{LeftOut, LogRate, LogRates};
pub use ready::{Dependency, NotReady, Probe, Readiness, SharedReadiness, probe};
pub use serve::{Limits, serve};
pub use tls::{InvalidTls, RawTlsConfig, TlsConfig};
pub use trace::{Callers, RequestTrace, SentByStranger, link};
