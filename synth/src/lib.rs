//! Made-up people, mail and engagement, for demonstrations and for testing what learns from them.

pub mod delivery;
