//! Looks up the accounts of deliveries: those of the configuration, and those of the store as they were last read.
//!
//! Deliveries never wait for the store. While it is down, the accounts that were last read from it remain valid. Before it has
//! been read for the first time, an account that is not configured may be in it, so deliveries to it are deferred (503) rather
//! than refused. So are deliveries to a stored account that cannot be used, until it is set again.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use store::{
    StoreError,
    identity::{StoredAccount, StoredAccounts},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Account, AccountValues, Accounts};
use crate::seal::Sealer;

/// How often the store is read. An operator who adds an account then configures the provider by hand, which takes longer.
const REFRESH_EVERY: Duration = Duration::from_secs(3);

/// How long a host that starts waits for the stored accounts before it serves the configured ones alone.
const FIRST_READ_WITHIN: Duration = Duration::from_secs(2);

/// Why an account cannot be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It does not exist; the provider has these accounts.
    Unknown(Vec<String>),
    /// It may be in the store, which could not be read yet, or it is there and cannot be used.
    Unread,
}

/// The current accounts.
pub(crate) struct AccountBook {
    configured: Accounts,
    current: ArcSwap<Known>,
    store: Option<Arc<dyn StoredAccounts>>,
    sealer: Arc<Sealer>,
    /// The stored accounts that `current` was built from.
    read: Mutex<Vec<StoredAccount>>,
}

/// The accounts, as far as they are known.
struct Known {
    accounts: Arc<Accounts>,
    /// Providers and names of the stored accounts that cannot be used; `None` before the first read.
    unusable: Option<Vec<(String, String)>>,
}

impl AccountBook {
    /// Opens the configured accounts, and those of the store if it responds soon.
    pub(crate) async fn open(
        configured: Accounts,
        store: Option<Arc<dyn StoredAccounts>>,
        sealer: Arc<Sealer>,
    ) -> Self {
        let known = Known {
            accounts: Arc::new(configured.clone()),
            unusable: store.is_none().then(Vec::new),
        };
        let book = Self {
            current: ArcSwap::from_pointee(known),
            configured,
            store,
            sealer,
            read: Mutex::default(),
        };
        let failure = match tokio::time::timeout(FIRST_READ_WITHIN, book.refresh()).await {
            Ok(Ok(())) => return book,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {FIRST_READ_WITHIN:?}"),
        };
        tracing::warn!(
            error = failure,
            "stored accounts cannot be read yet; deliveries to accounts that are not configured are answered with 503: {failure}"
        );
        book
    }

    /// Returns the account of this name.
    pub(crate) fn get(&self, provider: &str, account: &str) -> Result<Arc<Account>, Missing> {
        let known = self.current.load();
        let found = known.accounts.get(provider, account);
        let is_unread = match &known.unusable {
            _ if known.accounts.has(provider, account) => false,
            None => true,
            // A provider whose only accounts cannot be used still has accounts, and so no implicit account `default`.
            Some(unusable) => unusable
                .iter()
                .any(|(of, name)| of == provider && (name == account || found.is_ok())),
        };
        if is_unread {
            return Err(Missing::Unread);
        }
        found.map_err(Missing::Unknown)
    }

    /// Returns whether an account of this name is configured or stored, even if it cannot be used. The implicit `default` of a
    /// provider without any account does not count.
    pub(crate) fn has(&self, provider: &str, account: &str) -> bool {
        let known = self.current.load();
        let mut unusable = known.unusable.iter().flatten();
        known.accounts.has(provider, account) || unusable.any(|(of, name)| of == provider && name == account)
    }

    /// Returns all accounts.
    pub(crate) fn current(&self) -> Arc<Accounts> {
        Arc::clone(&self.current.load().accounts)
    }

    /// Returns how many stored accounts cannot be used, because another key sealed them or a value is invalid.
    pub(crate) fn unusable(&self) -> usize {
        self.current.load().unusable.as_ref().map_or(0, Vec::len)
    }

    /// Returns whether the store has been read, or there is none.
    fn is_read(&self) -> bool {
        self.current.load().unusable.is_some()
    }

    /// Reads the store.
    ///
    /// # Errors
    /// Returns a [`StoreError`] if it does not respond; the accounts are then unchanged.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        // One read at a time, so that an older result never replaces a newer one.
        let mut read = self.read.lock().await;
        let stored = store.accounts().await?;
        if *read == stored && self.is_read() {
            return Ok(());
        }
        let mut unusable = Vec::new();
        let mut added = Vec::with_capacity(stored.len());
        for account in &stored {
            match self.opened(account) {
                Ok(account) => added.push(account),
                // One that is configured too is served as configured.
                Err(_) if self.configured.has(&account.provider, &account.account) => {}
                Err(error) => {
                    unusable.push((account.provider.clone(), account.account.clone()));
                    // Logged once per version of the account, not every few seconds.
                    if !read.contains(account) {
                        tracing::warn!(
                            provider = account.provider,
                            account = account.account,
                            "the stored `{}` account `{}` cannot be used: {error}; set it again with \
                             `sendflowr account set --replace`",
                            account.provider,
                            account.account
                        );
                    }
                }
            }
        }
        if *read != stored {
            tracing::info!(accounts = added.len(), "read the stored accounts");
        }
        self.current.store(Arc::new(Known {
            accounts: Arc::new(self.configured.with(added)),
            unusable: Some(unusable),
        }));
        *read = stored;
        Ok(())
    }

    fn opened(&self, stored: &StoredAccount) -> Result<Account, String> {
        let values = AccountValues::open(&self.sealer, stored)
            .map_err(|_| "it was sealed with another key (`host.seal_key`), or is damaged".to_owned())?;
        let by_default = self.configured.allow_unsigned_by_default;
        let account = values.account(&stored.provider, &stored.account, by_default);
        account.map_err(|error| error.to_string())
    }

    /// Reads the store periodically until `shutdown`, and calls `is_read` after each successful read.
    pub(crate) async fn follow(&self, shutdown: &CancellationToken, is_read: impl Fn()) {
        if self.store.is_none() {
            return;
        }
        let mut works = self.is_read();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(REFRESH_EVERY) => {}
            }
            let read = tokio::select! {
                () = shutdown.cancelled() => return,
                read = self.refresh() => read,
            };
            match &read {
                // Logged once per outage, not every few seconds.
                Err(error) if works => {
                    tracing::warn!(%error, "stored accounts cannot be read; the ones read last stay valid: {error}");
                }
                Ok(()) if !works => tracing::info!("stored accounts can be read again"),
                _ => {}
            }
            works = read.is_ok();
            if works {
                is_read();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use async_trait::async_trait;

    use super::*;

    /// A store that returns the accounts that it was given; `None` is an outage.
    struct Fake(StdMutex<Option<Vec<StoredAccount>>>);

    impl Fake {
        fn answer(&self, accounts: Option<Vec<StoredAccount>>) {
            *self.0.lock().unwrap() = accounts;
        }
    }

    #[async_trait]
    impl StoredAccounts for Fake {
        async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
            self.0.lock().unwrap().clone().ok_or(StoreError::Unavailable {
                engine: "fake",
                cause: "it is down".into(),
            })
        }

        async fn put_account(&self, _: &StoredAccount, _: Option<&[u8]>) -> Result<bool, StoreError> {
            unreachable!("hosts only read")
        }

        async fn remove_account(&self, _: &str, _: &str) -> Result<bool, StoreError> {
            unreachable!("hosts only read")
        }
    }

    fn sealed(sealer: &Sealer, account: &str) -> StoredAccount {
        let mut values = AccountValues::default();
        values.set("token", vec!["t".to_owned()]);
        StoredAccount {
            provider: "acme".into(),
            account: account.into(),
            sealed: values.seal(sealer, "acme", account),
            updated_at: event::Timestamp::default(),
        }
    }

    async fn book(answer: Option<Vec<StoredAccount>>) -> (Arc<Fake>, AccountBook) {
        let configured = toml::from_str("[acme.us]\ntoken = 'x'").unwrap();
        let configured = Accounts::try_new(configured, false).unwrap();
        let fake = Arc::new(Fake(StdMutex::new(answer)));
        let sealer = Arc::new(Sealer::new(&[7; 32]));
        let book = AccountBook::open(configured, Some(fake.clone()), sealer).await;
        (fake, book)
    }

    fn found(book: &AccountBook, account: &str) -> Result<bool, Missing> {
        book.get("acme", account).map(|account| account.is_stored)
    }

    #[tokio::test]
    async fn stored_accounts_come_and_go_beside_the_configured_ones() {
        let sealer = Sealer::new(&[7; 32]);
        let (store, book) = book(Some(vec![sealed(&sealer, "eu"), sealed(&sealer, "us")])).await;
        assert_eq!(found(&book, "eu"), Ok(true));
        assert_eq!(found(&book, "us"), Ok(false), "the configured one counts");
        store.answer(None);
        book.refresh().await.unwrap_err();
        assert_eq!(found(&book, "eu"), Ok(true), "an outage changes nothing");
        store.answer(Some(Vec::new()));
        book.refresh().await.unwrap();
        assert_eq!(found(&book, "eu"), Err(Missing::Unknown(vec!["us".to_owned()])));
    }

    #[tokio::test]
    async fn before_the_first_read_unknown_accounts_are_put_off() {
        let (store, book) = book(None).await;
        assert_eq!(found(&book, "us"), Ok(false));
        assert_eq!(found(&book, "eu"), Err(Missing::Unread));
        assert_eq!(
            book.get("other", "default").map(drop),
            Err(Missing::Unread),
            "it may have an account"
        );
        store.answer(Some(Vec::new()));
        book.refresh().await.unwrap();
        assert_eq!(found(&book, "eu"), Err(Missing::Unknown(vec!["us".to_owned()])));
        assert!(book.get("other", "default").is_ok());
    }

    #[tokio::test]
    async fn an_account_sealed_with_another_key_is_put_off_until_it_is_put_again() {
        let elsewhere = StoredAccount {
            provider: "other".into(),
            ..sealed(&Sealer::new(&[8; 32]), "eu")
        };
        let (store, book) = book(Some(vec![sealed(&Sealer::new(&[8; 32]), "eu"), elsewhere])).await;
        assert_eq!(found(&book, "eu"), Err(Missing::Unread));
        let unknown = Err(Missing::Unknown(vec!["us".to_owned()]));
        assert_eq!(
            (found(&book, "asia"), found(&book, "default")),
            (unknown.clone(), unknown)
        );
        let of = |provider, account| book.get(provider, account).map(drop);
        assert_eq!(
            of("other", "default"),
            Err(Missing::Unread),
            "the provider has an account, so it has no implicit one"
        );
        assert_eq!(
            of("other", "us"),
            Err(Missing::Unknown(vec!["default".to_owned()]))
        );
        assert_eq!(of("another", "default"), Ok(()));
        store.answer(Some(vec![sealed(&Sealer::new(&[7; 32]), "eu")]));
        assert_eq!(book.unusable(), 2);
        book.refresh().await.unwrap();
        assert_eq!((found(&book, "eu"), book.unusable()), (Ok(true), 0));
    }
}
