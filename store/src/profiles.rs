//! Profiles: what is remembered of a person for timing decisions, at most 4 kB each.
//!
//! A cache by nature: a lost profile is rebuilt from the event store, so losing this port costs speed, never an answer.
//! For that a profile must know all events of its person or be missing; one that lacks some would be believed. The
//! consumer sees to it while it can reach the store, see its crate; an engine sees to what only it can notice: that
//! it lost its memory, or that two consumers wrote the same profile.

mod memory;
mod redis;

use async_trait::async_trait;
use event::{UniversalId, profile::Profile};

pub use self::{
    memory::{MemoryProfiles, MemoryProfilesConfig},
    redis::{InvalidRedisConfig, RawRedisConfig, RedisConfig, RedisProfiles},
};
use crate::StoreError;

/// Keeps one profile per universal id. People with aliases have one for each; readers merge them.
#[async_trait]
pub trait Profiles: Send + Sync {
    /// The profiles under these ids, in their order; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError>;

    /// Stores profiles, each id at most once, replacing older ones. An engine may forget a profile instead, where it
    /// cannot tell whether the new one or the old one knows more.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be stored.
    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError>;

    /// Forgets all profiles: they may lack events, and nobody knows which.
    ///
    /// # Errors
    /// [`StoreError`] when some may be left.
    async fn clear(&self) -> Result<(), StoreError>;

    /// Erases the profiles under these ids; answers how many there were.
    ///
    /// # Errors
    /// [`StoreError`] when some may be left.
    async fn erase(&self, ids: &[UniversalId]) -> Result<u64, StoreError>;

    /// Checks that the engine answers.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    async fn ping(&self) -> Result<(), StoreError>;
}
