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

/// What an engine found under an id, in a form of its own, to be handed back with what was made of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen(pub Vec<u8>);

/// A profile that took in more events, and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Whose it is.
    pub id: UniversalId,
    /// The profile as it is now.
    pub profile: Profile,
    /// What was found when it was looked up.
    pub seen: Seen,
}

/// Keeps one profile per universal id. People with aliases have one for each; readers merge them.
#[async_trait]
pub trait Profiles: Send + Sync {
    /// The profiles under these ids, in their order; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError>;

    /// As [`Profiles::get`], for those who come back with an [`Update`].
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn look(&self, ids: &[UniversalId]) -> Result<Vec<Option<(Profile, Seen)>>, StoreError>;

    /// Stores profiles that were looked up and took in more, each id at most once. Where something else stands there by now, an
    /// engine may forget the profile instead: neither knows everything.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be stored.
    async fn update(&self, updates: &[Update]) -> Result<(), StoreError>;

    /// Stores profiles that were made from events, each id at most once, replacing older ones. An engine may forget a profile
    /// instead, where it cannot tell whether the new one or the old one knows more.
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
