//! Contract version 1.0, generated from `wit/1.0.0`.

wasmtime::component::bindgen!({
    path: "../wit/1.0.0",
    world: "connector",
});
