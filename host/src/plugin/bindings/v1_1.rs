//! Contract version 1.1, generated from `wit/1.1.0`.

wasmtime::component::bindgen!({
    path: "../wit/1.1.0",
    world: "connector",
    additional_derives: [PartialEq],
    exports: { default: async },
});

use sendflowr::connector::types;

use crate::plugin::sandbox::Sandbox;

impl types::Host for Sandbox {}
