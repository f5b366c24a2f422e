//! What authors of plugins rely on, with the tools of their languages: cargo, npm and pip, which fetch from registries.
//! `cargo xtask test` sees to it that they are there.

mod repeatable;
mod tutorial;
