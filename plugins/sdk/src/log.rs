//! Lines in the host's log, tagged there with the plugin's name and version. Off WebAssembly they go nowhere.
//!
//! The host limits rate and length. Never log addresses, signatures or other people's data.

/// Severity of a line.
pub use crate::bindings::sendflowr::connector::logging::Level;

/// Writes one line.
#[cfg_attr(not(target_family = "wasm"), expect(unused_variables))]
pub fn log(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::sendflowr::connector::logging::log(level, message);
}

/// Writes one line that helps plugin authors.
pub fn debug(message: &str) {
    log(Level::Debug, message);
}

/// Writes one line about something odd that was handled.
pub fn warn(message: &str) {
    log(Level::Warn, message);
}
