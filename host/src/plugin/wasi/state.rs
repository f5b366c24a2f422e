//! The state of a closed WASI during one delivery.

use std::sync::Arc;

use super::random::Random;
use crate::plugin::{
    bindings::types::Request,
    error::Limit,
    log::{PluginLog, Severity},
    sandbox::Exceeded,
};

/// How much a stream accepts at once: the minimum that WASI promises for a blocking write, which demands that more is a fault.
pub(crate) const MOST_WRITTEN_AT_ONCE: usize = 4096;

/// Bytes of an unfinished line that are kept; by default the log truncates far earlier.
const MOST_OF_A_LINE: usize = 8 << 10;

/// Streams and pollables that a plugin may hold at once: each takes some bytes of the host's memory. Runtimes hold a handful.
const MOST_HANDLES: u32 = 10_000;

/// Random bytes that one call may request. Seeds take a few hundred.
const MOST_RANDOM_BYTES: u64 = 64 << 10;

/// Ends the guest's call as its own fault.
pub(crate) fn fault(detail: String) -> wasmtime::Error {
    Exceeded {
        limit: Limit::Trap,
        detail,
    }
    .into()
}

/// Where a plugin prints to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Returns the number that its resources carry.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// Returns the stream of a resource that was made with [`Stream::number`].
    pub(crate) fn of(number: u32) -> Self {
        if number == Self::Stdout.number() {
            Self::Stdout
        } else {
            Self::Stderr
        }
    }

    fn severity(self) -> Severity {
        match self {
            Self::Stdout => Severity::Info,
            Self::Stderr => Severity::Warn,
        }
    }
}

/// The world as a plugin sees it through WASI, for one delivery.
pub(crate) struct ClosedWorld {
    /// `None` while the plugin describes itself: then it is 1970, and randomness is the same for every plugin.
    delivery: Option<Arc<Request>>,
    /// Created on first use: the seed costs a hash over the whole delivery.
    random: Option<Random>,
    handles: u32,
    log: Arc<PluginLog>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl ClosedWorld {
    pub(crate) fn new(delivery: Option<Arc<Request>>, log: Arc<PluginLog>) -> Self {
        Self {
            delivery,
            random: None,
            handles: 0,
            log,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Returns the time that all clocks show: when the delivery was received, in nanoseconds since the Unix epoch.
    pub(super) fn now(&self) -> u64 {
        let received = self.delivery.as_ref().map_or(0, |request| request.received_at_ms);
        // Nothing is received before 1970.
        u64::try_from(received).unwrap_or(0).saturating_mul(1_000_000)
    }

    fn random(&mut self) -> &mut Random {
        self.random
            .get_or_insert_with(|| Random::of(self.delivery.as_deref()))
    }

    pub(super) fn random_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.random().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    pub(super) fn random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        if length > MOST_RANDOM_BYTES {
            return Err(fault(format!(
                "it asked for {length} random bytes at once; it may have {MOST_RANDOM_BYTES}"
            )));
        }
        let mut bytes = vec![0; usize::try_from(length)?];
        self.random().fill(&mut bytes);
        Ok(bytes)
    }

    /// Counts a resource that the plugin gets, and returns its number.
    pub(super) fn handle(&mut self, number: u32) -> wasmtime::Result<u32> {
        if self.handles >= MOST_HANDLES {
            return Err(fault(format!(
                "it holds more than {MOST_HANDLES} streams and timers"
            )));
        }
        self.handles += 1;
        Ok(number)
    }

    /// Counts a resource that the plugin gives back.
    pub(super) fn dropped(&mut self) {
        self.handles = self.handles.saturating_sub(1);
    }

    /// Takes printed bytes, and logs the lines that they complete.
    pub(super) fn print(&mut self, stream: Stream, bytes: &[u8]) -> wasmtime::Result<()> {
        if bytes.len() > MOST_WRITTEN_AT_ONCE {
            return Err(fault(format!(
                "it wrote {} bytes at once; a stream takes {MOST_WRITTEN_AT_ONCE}",
                bytes.len()
            )));
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(stream, &rest[..end]);
            self.end_line(stream);
            rest = &rest[end + 1..];
        }
        self.keep(stream, rest);
        Ok(())
    }

    fn line(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        let line = self.line(stream);
        let room = MOST_OF_A_LINE - line.len();
        line.extend(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self, stream: Stream) {
        let line = std::mem::take(self.line(stream));
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() && self.log.admits() {
            self.log.write(stream.severity(), text);
        }
    }
}

impl Drop for ClosedWorld {
    /// The last output often lacks a line break.
    fn drop(&mut self) {
        self.end_line(Stream::Stdout);
        self.end_line(Stream::Stderr);
    }
}
