//! Consumer groups: committed offsets, and leases that assign each partition to one member at a time.

use std::time::Duration;

use event::Timestamp;
use sqlx::Row;

use super::config::millis;
use crate::{
    StoreError,
    sqlite::{Database, classify, now, unavailable},
};

/// The groups of one log.
#[derive(Debug)]
pub(super) struct Groups {
    database: Database,
    log_id: String,
}

/// A member of a group, with a unique name.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) group: String,
    pub(super) name: String,
}

impl Groups {
    pub(super) fn new(database: Database, log_id: String) -> Self {
        Self { database, log_id }
    }

    /// Registers the group, at the beginning of each topic that it has not read before, and names a new member.
    pub(super) async fn join(&self, group: &str, topics: &[&str]) -> Result<Member, StoreError> {
        let mut transaction = self.database.begin().await?;
        for topic in topics {
            sqlx::query(
                "INSERT INTO group_partitions (log_id, group_name, topic, topic_partition, active_at_ms) \
                 VALUES (?1, ?2, ?3, 0, ?4) ON CONFLICT DO UPDATE SET active_at_ms = excluded.active_at_ms",
            )
            .bind(&self.log_id)
            .bind(group)
            .bind(topic)
            .bind(now().as_millis())
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        }
        let name = sqlx::query_scalar("SELECT lower(hex(randomblob(16)))")
            .fetch_one(&mut *transaction)
            .await
            .map_err(classify)?;
        transaction.commit().await.map_err(classify)?;
        Ok(Member {
            group: group.to_owned(),
            name,
        })
    }

    /// Takes the partition of `topic` for `member` if it is free or its lease has expired. Returns the group's committed
    /// offset, or `None` if another member has the partition. A lease that ends later than any lease could was taken while the
    /// clock was ahead, and counts as expired.
    pub(super) async fn take(
        &self,
        member: &Member,
        topic: &str,
        lease: Duration,
    ) -> Result<Option<i64>, StoreError> {
        // Twice the lease, so that setting the clock back by less than one lease, as happens all the time, moves no partition.
        let longest = millis(lease).saturating_mul(2);
        let asked = now().as_millis();
        // Read first: members that wait for their turn should not keep writing.
        let free: bool = sqlx::query_scalar(
            "SELECT member IS NULL OR member = ?4 OR lease_expires_at_ms <= ?5 OR lease_expires_at_ms > ?6 \
             FROM group_partitions WHERE log_id = ?1 AND group_name = ?2 AND topic = ?3 AND topic_partition = 0",
        )
        .bind(&self.log_id)
        .bind(&member.group)
        .bind(topic)
        .bind(&member.name)
        .bind(asked)
        .bind(asked.saturating_add(longest))
        .fetch_optional(self.database.readers())
        .await
        .map_err(classify)?
        // The group was forgotten after a long time without a reader; it is created again below.
        .unwrap_or(true);
        if !free {
            return Ok(None);
        }
        let mut transaction = self.database.begin().await?;
        let now = now().as_millis();
        let committed = sqlx::query_scalar(
            "INSERT INTO group_partitions \
             (log_id, group_name, topic, topic_partition, member, lease_expires_at_ms, active_at_ms) \
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6) ON CONFLICT DO UPDATE \
             SET member = excluded.member, lease_expires_at_ms = excluded.lease_expires_at_ms, \
             active_at_ms = excluded.active_at_ms \
             WHERE member IS NULL OR member = excluded.member OR lease_expires_at_ms <= ?6 OR lease_expires_at_ms > ?7 \
             RETURNING committed_offset",
        )
        .bind(&self.log_id)
        .bind(&member.group)
        .bind(topic)
        .bind(&member.name)
        .bind(now.saturating_add(millis(lease)))
        .bind(now)
        .bind(now.saturating_add(longest))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(classify)?;
        transaction.commit().await.map_err(classify)?;
        Ok(committed)
    }

    /// Renews all leases that `member` still holds and returns their topics.
    pub(super) async fn renew(&self, member: &Member, lease: Duration) -> Result<Vec<String>, StoreError> {
        let mut transaction = self.database.begin().await?;
        let now = now().as_millis();
        let topics = sqlx::query_scalar(
            "UPDATE group_partitions SET lease_expires_at_ms = ?4, active_at_ms = ?5 \
             WHERE log_id = ?1 AND group_name = ?2 AND member = ?3 RETURNING topic",
        )
        .bind(&self.log_id)
        .bind(&member.group)
        .bind(&member.name)
        .bind(now.saturating_add(millis(lease)))
        .bind(now)
        .fetch_all(&mut *transaction)
        .await
        .map_err(classify)?;
        transaction.commit().await.map_err(classify)?;
        Ok(topics)
    }

    /// Commits all of the offsets or none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when `member` has lost one of the partitions.
    pub(super) async fn commit(&self, member: &Member, offsets: &[(&str, i64)]) -> Result<(), StoreError> {
        let mut transaction = self.database.begin().await?;
        for (topic, offset) in offsets {
            let changed = sqlx::query(
                "UPDATE group_partitions SET committed_offset = ?5, active_at_ms = ?6 \
                 WHERE log_id = ?1 AND group_name = ?2 AND topic = ?3 AND topic_partition = 0 AND member = ?4",
            )
            .bind(&self.log_id)
            .bind(&member.group)
            .bind(topic)
            .bind(&member.name)
            .bind(offset)
            .bind(now().as_millis())
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
            if changed.rows_affected() == 0 {
                return Err(unavailable(format!(
                    "another member of the group reads `{topic}` now"
                )));
            }
        }
        transaction.commit().await.map_err(classify)
    }

    /// Releases all leases of `member`.
    pub(super) async fn leave(&self, member: &Member) -> Result<(), StoreError> {
        let mut transaction = self.database.begin().await?;
        sqlx::query(
            "UPDATE group_partitions SET member = NULL, lease_expires_at_ms = 0 \
             WHERE log_id = ?1 AND group_name = ?2 AND member = ?3",
        )
        .bind(&self.log_id)
        .bind(&member.group)
        .bind(&member.name)
        .execute(&mut *transaction)
        .await
        .map_err(classify)?;
        transaction.commit().await.map_err(classify)
    }

    /// Returns the first offset of `topic` that `group` has not committed; 0 for a group that never read it.
    pub(super) async fn committed(&self, group: &str, topic: &str) -> Result<i64, StoreError> {
        let committed = sqlx::query_scalar(
            "SELECT committed_offset FROM group_partitions \
             WHERE log_id = ?1 AND group_name = ?2 AND topic = ?3 AND topic_partition = 0",
        )
        .bind(&self.log_id)
        .bind(group)
        .bind(topic)
        .fetch_optional(self.database.readers())
        .await
        .map_err(classify)?;
        Ok(committed.unwrap_or(0))
    }

    /// Forgets groups that, at `now`, have not been read with for `expiry`, and groups of other logs. Groups last used while
    /// the clock was ahead are treated as last used now.
    pub(super) async fn forget(&self, now: Timestamp, expiry: Duration) -> Result<(), StoreError> {
        let mut transaction = self.database.begin().await?;
        sqlx::query("DELETE FROM group_partitions WHERE active_at_ms < ?1 OR log_id <> ?2")
            .bind(now.plus_millis(-millis(expiry)).as_millis())
            .bind(&self.log_id)
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        sqlx::query("UPDATE group_partitions SET active_at_ms = ?1 WHERE active_at_ms > ?1")
            .bind(now.as_millis())
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        transaction.commit().await.map_err(classify)
    }

    /// Returns the lowest committed offset of each topic over all groups that read it.
    pub(super) async fn lowest_committed(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT topic, MIN(committed_offset) FROM group_partitions WHERE log_id = ?1 GROUP BY topic",
        )
        .bind(&self.log_id)
        .fetch_all(self.database.readers())
        .await
        .map_err(classify)?;
        let mut lowest = Vec::with_capacity(rows.len());
        for row in rows {
            lowest.push((
                row.try_get(0).map_err(classify)?,
                row.try_get(1).map_err(classify)?,
            ));
        }
        Ok(lowest)
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    pub(super) async fn close(&self) {
        self.database.close().await;
    }
}
