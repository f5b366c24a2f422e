//! Profiles: what is remembered of a person for timing decisions, at most 4 kB each.
//!
//! A cache by nature: a lost profile is rebuilt from the event store, so losing this port costs speed, never an answer.

mod memory;

use async_trait::async_trait;
use event::{UniversalId, profile::Profile};

pub use self::memory::{MemoryProfiles, MemoryProfilesConfig};
use crate::StoreError;

/// Keeps one profile per universal id. People with aliases have one for each; readers merge them.
#[async_trait]
pub trait Profiles: Send + Sync {
    /// The profiles under these ids, in their order; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError>;

    /// Stores profiles, replacing older ones.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be stored.
    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError>;

    /// Checks that the engine answers.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    async fn ping(&self) -> Result<(), StoreError>;
}
