//! The profile store: what is remembered about a person for timing decisions, at most 4 kB each.
//!
//! Profiles are a cache: a lost profile is rebuilt from the event store, so losing this port costs speed, never a result. For
//! that, a profile must reflect all events of its person or be missing; one that lacks some events would be trusted. The
//! consumer ensures this while it can reach the store (see its crate); an engine ensures what only it can notice: that it lost
//! its memory, or that two consumers wrote the same profile.

mod memory;
mod redis;

use async_trait::async_trait;
use event::{UniversalId, profile::Profile};

pub use self::{
    memory::{MemoryProfiles, MemoryProfilesConfig},
    redis::{InvalidRedisConfig, RawRedisConfig, RedisConfig, RedisProfiles},
};
use crate::StoreError;

/// What an engine found under an id, in an encoding of its own, to be passed back with the profile that was derived from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen(pub Vec<u8>);

/// A profile to which more events were applied, and what it was derived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The id that the profile belongs to.
    pub id: UniversalId,
    /// The new profile.
    pub profile: Profile,
    /// What was found when the profile was looked up.
    pub seen: Seen,
}

/// Stores one profile per universal id. People with aliases have one for each id; readers merge them.
#[async_trait]
pub trait Profiles: Send + Sync {
    /// Returns the profiles under these ids, in the order of the ids; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError>;

    /// As [`Profiles::get`], for callers that follow up with an [`Update`].
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn look(&self, ids: &[UniversalId]) -> Result<Vec<Option<(Profile, Seen)>>, StoreError>;

    /// Stores profiles that were looked up and extended, each id at most once. If the stored value has changed since, an engine
    /// may forget the profile instead, because neither version reflects everything.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be stored.
    async fn update(&self, updates: &[Update]) -> Result<(), StoreError>;

    /// Stores profiles that were built from events, each id at most once, replacing older ones. An engine may forget a profile
    /// instead if it cannot tell which of the new and the old one reflects more.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be stored.
    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError>;

    /// Forgets all profiles: some may lack events, and it is unknown which.
    ///
    /// # Errors
    /// [`StoreError`] when some may be left.
    async fn clear(&self) -> Result<(), StoreError>;

    /// Forgets all profiles that only this process sees: another process has begun to update those of some of these people. An
    /// engine that the processes share keeps them, and must detect that two wrote the same profile.
    fn forget_unshared(&self);

    /// Erases the profiles under these ids and returns how many there were.
    ///
    /// # Errors
    /// [`StoreError`] when some may be left.
    async fn erase(&self, ids: &[UniversalId]) -> Result<u64, StoreError>;

    /// Checks that the engine responds.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    async fn ping(&self) -> Result<(), StoreError>;
}
