//! Contract version 1.1, generated from `wit/1.1.0`.

wasmtime::component::bindgen!({
    path: "../wit/1.1.0",
    world: "connector",
    additional_derives: [PartialEq],
    exports: { default: async },
});

use sendflowr::connector::{logging, types};

use crate::plugin::{log::Severity, sandbox::Sandbox};

impl types::Host for Sandbox {}

impl From<logging::Level> for Severity {
    fn from(level: logging::Level) -> Self {
        match level {
            logging::Level::Debug => Self::Debug,
            logging::Level::Info => Self::Info,
            logging::Level::Warn => Self::Warn,
            logging::Level::Error => Self::Error,
        }
    }
}
