//! The embedded profile store: bounded memory that keeps the most useful profiles.

use std::sync::Arc;

use async_trait::async_trait;
use event::{UniversalId, profile::Profile};
use quick_cache::{Weighter, sync::Cache};

use super::{Profiles, Seen, Update};
use crate::StoreError;

/// Cost of an entry in addition to its profile: the id (35 bytes), the allocation of its bytes and the cache's own entry.
const OVERHEAD_BYTES: usize = 160;

/// Size of a typical entry, from which the cache estimates how many entries it will hold.
const USUAL_BYTES: u64 = 512;

/// Limits of the profiles in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryProfilesConfig {
    /// Maximum size of the stored profiles in bytes; the least used make room for others. 64 MiB by default: 100,000 people
    /// with a typical history, 16,000 with the longest.
    pub capacity_bytes: u64,
}

impl Default for MemoryProfilesConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Profiles in the memory of this process.
#[derive(Debug)]
pub struct MemoryProfiles {
    /// In the stored form, which takes a fraction of the memory of the decoded profile.
    profiles: Cache<UniversalId, Arc<[u8]>, ByBytes>,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<UniversalId, Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &UniversalId, bytes: &Arc<[u8]>) -> u64 {
        (bytes.len() + OVERHEAD_BYTES) as u64
    }
}

impl MemoryProfiles {
    /// Creates an empty store.
    pub fn new(config: &MemoryProfilesConfig) -> Self {
        let usual_count = usize::try_from(config.capacity_bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        Self {
            profiles: Cache::with_weighter(usual_count, config.capacity_bytes, ByBytes),
        }
    }

    fn get_one(&self, id: &UniversalId) -> Option<Profile> {
        let bytes = self.profiles.get(id)?;
        Some(Profile::from_bytes(&bytes).expect("this process wrote these bytes from a profile"))
    }

    fn put_one(&self, id: &UniversalId, profile: &Profile) {
        self.profiles.insert(id.clone(), profile.to_bytes().into());
    }
}

#[async_trait]
impl Profiles for MemoryProfiles {
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError> {
        Ok(ids.iter().map(|id| self.get_one(id)).collect())
    }

    /// `Seen` stays empty: this memory has a single writer.
    async fn look(&self, ids: &[UniversalId]) -> Result<Vec<Option<(Profile, Seen)>>, StoreError> {
        let looks = ids.iter().map(|id| Some((self.get_one(id)?, Seen::default())));
        Ok(looks.collect())
    }

    async fn update(&self, updates: &[Update]) -> Result<(), StoreError> {
        for update in updates {
            self.put_one(&update.id, &update.profile);
        }
        Ok(())
    }

    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError> {
        for (id, profile) in profiles {
            self.put_one(id, profile);
        }
        Ok(())
    }

    async fn clear(&self) -> Result<(), StoreError> {
        self.profiles.clear();
        Ok(())
    }

    fn forget_unshared(&self) {
        self.profiles.clear();
    }

    async fn erase(&self, ids: &[UniversalId]) -> Result<u64, StoreError> {
        let there = ids.iter().filter(|id| self.profiles.remove(*id).is_some());
        Ok(there.count() as u64)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
