//! Writes to the host's log, which tags each line with the plugin's name and version.
//!
//! On targets other than WebAssembly the lines are discarded. The host limits the rate and length of lines.
//! Never log addresses, signatures or other people's data.

/// The severity of a line.
pub use crate::bindings::sendflowr::connector::logging::Level;

/// Writes one line at the given level.
#[cfg_attr(not(target_family = "wasm"), expect(unused_variables))]
pub fn log(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::sendflowr::connector::logging::log(level, message);
}

/// Writes one line that helps the plugin's author.
pub fn debug(message: &str) {
    log(Level::Debug, message);
}

/// Writes one line about something unusual that the plugin handled.
pub fn warn(message: &str) {
    log(Level::Warn, message);
}
