//! Accounts at providers that were added while hosts run, in addition to those of the configuration.
//!
//! They are stored with the identity graph because that is the one store that several hosts may share and that an operator
//! backs up anyway. The content of an account is sealed before it comes here, and only hosts can open it.

use async_trait::async_trait;
use event::Timestamp;

use crate::StoreError;

/// A sealed account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAccount {
    /// The provider's slug.
    pub provider: String,
    /// The account's name.
    pub account: String,
    /// Secrets and settings; only hosts that have the key can read them.
    pub sealed: Vec<u8>,
    /// When it was last stored.
    pub updated_at: Timestamp,
}

/// Stores accounts.
#[async_trait]
pub trait StoredAccounts: Send + Sync {
    /// Returns all accounts, ordered by provider and name.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError>;

    /// Stores an account if nobody has changed it since it was read: what is stored under its name must still have the sealed
    /// content `before`, or with `None` there must be nothing. Returns whether it was stored.
    ///
    /// # Errors
    /// [`StoreError`] when it may not have been stored.
    async fn put_account(&self, account: &StoredAccount, before: Option<&[u8]>) -> Result<bool, StoreError>;

    /// Removes an account and returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] when it may still be there.
    async fn remove_account(&self, provider: &str, account: &str) -> Result<bool, StoreError>;
}
