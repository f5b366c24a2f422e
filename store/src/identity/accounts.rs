//! Accounts at providers that were added while hosts run, beside those of the configuration.
//!
//! They stand with the identity graph because that is the one store which several hosts may share and which an operator
//! backs up anyway. What an account holds is sealed before it comes here and opened by hosts alone.

use async_trait::async_trait;
use event::Timestamp;

use crate::StoreError;

/// An account, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAccount {
    /// The provider's slug.
    pub provider: String,
    /// The account's name.
    pub account: String,
    /// Secrets and settings; only hosts that have the key can read them.
    pub sealed: Vec<u8>,
    /// When it was last put.
    pub updated_at: Timestamp,
}

/// Keeps accounts.
#[async_trait]
pub trait StoredAccounts: Send + Sync {
    /// All accounts, by provider and name.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError>;

    /// Keeps an account, in place of the one of that provider and name if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when it was not kept.
    async fn put_account(&self, account: &StoredAccount) -> Result<(), StoreError>;

    /// Forgets an account; answers whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] when it may still be there.
    async fn remove_account(&self, provider: &str, account: &str) -> Result<bool, StoreError>;
}
