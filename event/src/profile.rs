//! What is remembered of a person for timing decisions, in at most 4 kB.

use crate::{Event, Timestamp};

/// A person's compact timing features.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Profile {}

/// Bytes are no profile of a version that this build reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a stored profile: {0}")]
pub struct InvalidProfile(pub &'static str);

impl Profile {
    /// Takes an event in. Taking one in twice, or late, gives the same profile as once and in order.
    /// `machine` says that a machine opened or clicked.
    pub fn apply(&mut self, _event: &Event, _machine: bool) {}

    /// Takes in everything that `other` remembers: two ids turned out to be one person.
    pub fn merge(&mut self, _other: &Self) {}

    /// When the message was delivered, if it is among those remembered.
    pub fn delivered_at(&self, _message_id: &str) -> Option<Timestamp> {
        None
    }

    /// The stored form, at most 4,096 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads the stored form of any version up to this build's.
    ///
    /// # Errors
    /// [`InvalidProfile`] when it is none.
    pub fn from_bytes(_bytes: &[u8]) -> Result<Self, InvalidProfile> {
        Ok(Self {})
    }
}
