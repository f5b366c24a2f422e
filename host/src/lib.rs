//! Loads provider plugins, proves deliveries genuine, normalizes and publishes them.

pub mod plugin;
