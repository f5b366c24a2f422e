use async_trait::async_trait;

use super::{Lease, PostgresIdentities, rows, within};
use crate::{
    StoreError,
    identity::{StoredAccount, StoredAccounts},
};

#[async_trait]
impl StoredAccounts for PostgresIdentities {
    async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        self.read(async {
            let mut lease = Lease::take(&self.pool).await?;
            let accounts = rows::accounts(lease.connection()).await?;
            lease.give_back();
            Ok(accounts)
        })
        .await
    }

    async fn put_account(&self, account: &StoredAccount, before: Option<&[u8]>) -> Result<bool, StoreError> {
        within(self.write_timeout, async {
            let mut lease = self.writer().await?;
            let is_put = rows::put_account(lease.connection(), account, before).await?;
            lease.give_back();
            Ok(is_put)
        })
        .await
    }

    async fn remove_account(&self, provider: &str, account: &str) -> Result<bool, StoreError> {
        within(self.write_timeout, async {
            let mut lease = self.writer().await?;
            let removed = rows::remove_account(lease.connection(), provider, account).await?;
            lease.give_back();
            Ok(removed)
        })
        .await
    }
}
