use async_trait::async_trait;
use sqlx::Row;

use super::SqliteIdentities;
use crate::{
    StoreError,
    identity::{StoredAccount, StoredAccounts},
    sqlite::{classify, malformed},
};

#[async_trait]
impl StoredAccounts for SqliteIdentities {
    async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        let rows = sqlx::query(
            "SELECT provider, account, sealed, updated_at FROM provider_accounts ORDER BY provider, account",
        )
        .fetch_all(self.database.readers())
        .await
        .map_err(classify)?;
        let account = |row: &sqlx::sqlite::SqliteRow| {
            let updated_at = row.try_get::<&str, _>(3).map_err(classify)?.parse();
            Ok(StoredAccount {
                provider: row.try_get(0).map_err(classify)?,
                account: row.try_get(1).map_err(classify)?,
                sealed: row.try_get(2).map_err(classify)?,
                updated_at: updated_at.map_err(|_| malformed("provider_accounts", "updated_at"))?,
            })
        };
        rows.iter().map(account).collect()
    }

    async fn put_account(&self, account: &StoredAccount, before: Option<&[u8]>) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin().await?;
        let statement = match before {
            None => {
                "INSERT INTO provider_accounts (provider, account, sealed, updated_at) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT DO NOTHING"
            }
            Some(_) => {
                "UPDATE provider_accounts SET sealed = ?3, updated_at = ?4 \
                 WHERE provider = ?1 AND account = ?2 AND sealed = ?5"
            }
        };
        let mut query = sqlx::query(statement)
            .bind(&account.provider)
            .bind(&account.account)
            .bind(&account.sealed)
            .bind(account.updated_at.to_string());
        if let Some(before) = before {
            query = query.bind(before);
        }
        let put = query.execute(&mut *transaction).await.map_err(classify)?;
        transaction.commit().await.map_err(classify)?;
        Ok(put.rows_affected() > 0)
    }

    async fn remove_account(&self, provider: &str, account: &str) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin().await?;
        let removed = sqlx::query("DELETE FROM provider_accounts WHERE provider = ?1 AND account = ?2")
            .bind(provider)
            .bind(account)
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        transaction.commit().await.map_err(classify)?;
        Ok(removed.rows_affected() > 0)
    }
}
