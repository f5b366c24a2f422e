//! What authors of plugins rely on, with the tools of their languages: cargo, npm and pip, which fetch from registries. `cargo
//! xtask test` makes sure that they are installed.

mod repeatable;
mod tutorial;
