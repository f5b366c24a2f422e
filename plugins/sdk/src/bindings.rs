//! The contract's types and the component's bindings, generated from `wit/1.1.0`.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::all)]

wit_bindgen::generate!({
    path: "../../wit/1.1.0",
    world: "connector",
    pub_export_macro: true,
    export_macro_name: "export_connector",
    default_bindings_module: "sendflowr_plugin_sdk::bindings",
    additional_derives: [PartialEq],
});
