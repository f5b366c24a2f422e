/// The address in an environment variable that `cargo xtask test` sets.
pub(crate) fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("`{variable}` is not set: `cargo xtask test` starts the servers and sets it")
    })
}
