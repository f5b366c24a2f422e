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

impl logging::Host for Sandbox {
    fn log(&mut self, level: logging::Level, message: String) {
        let severity = match level {
            logging::Level::Debug => Severity::Debug,
            logging::Level::Info => Severity::Info,
            logging::Level::Warn => Severity::Warn,
            logging::Level::Error => Severity::Error,
        };
        self.log(severity, &message);
    }
}
