//! The identity graph that scales out: PostgreSQL.
//!
//! # Merges
//! A change loads the people that it touches, completely, applies the rules of [`graph`](super::graph) and stores what is
//! different. Two changes of one person must not overlap, wherever they run. So a change first locks all people that it
//! touches, by advisory locks of its transaction:
//! - A lock stands for an id. A change holds the locks of all identifiers that it names and of the canonical ids of all people
//!   that own them. Two changes that touch one person both hold the lock of that person's canonical id; two changes that add
//!   the same new identifier both hold the lock of that identifier.
//! - Which people own an identifier may change until the locks are held. So the owners are looked up before and again under the
//!   locks; if one of them is not locked, the change releases all locks and starts over with more of them.
//! - All locks are taken at once and in ascending order, so that no two changes deadlock.
//!
//! Ids share 256 locks, by their first byte: a batch of a thousand sightings then holds at most 256 entries of the server's
//! lock table (which has 6,400 by default), and changes of a few people still nearly always run concurrently. `SERIALIZABLE`
//! would not need these locks, but large concurrent batches would then abort each other again and again, since PostgreSQL
//! tracks what they read by page.
//!
//! # Outages
//! Decisions wait for reads: while the server is down, only one read tries it twice a second, and the others fail at once. A
//! connection whose work did not complete is closed instead of reused.
//!
//! Writes may fail or hang while reads work: the server is read-only, its disk is full, or its standby does not confirm. So reads
//! learn nothing from writes, and writes use at most half of the connections.

mod accounts;
mod config;
mod connection;
mod rows;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use event::UniversalId;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::Semaphore;

pub use self::config::{InvalidPostgresConfig, PostgresConfig, PostgresTls, RawPostgresConfig};
use self::connection::{Lease, Outage, classify, rejected, unavailable};
use super::{
    AuditEntry, ErasedIdentities, Identities, Person, Sighting,
    graph::{Erasure, Graph, Member, Owners},
    news::{news, touched, traces},
};
use crate::StoreError;

/// The engine's name in errors.
const ENGINE: &str = "postgres";

/// Begins a change. Each statement has to see what others committed before its locks were granted, whatever the database's
/// default isolation level is. The wait for a lock is limited to 4 s: longer than any batch takes to write, shorter than the
/// timeout of a write. A process that goes silent in the middle (because it is suspended or the network is cut) holds others up
/// for at most 10 s.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '4s'; \
     SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// Distinguishes our locks from other advisory locks of the database: `SFid`.
const LOCK_SPACE: i32 = i32::from_be_bytes(*b"SFid");

/// Maximum number of attempts at a change when people merge while it waits for their locks. Each time that happens, other changes
/// have made progress; a person merges only a few times in a lifetime.
const ROUNDS: usize = 8;

/// The identity graph in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresIdentities {
    pool: PgPool,
    /// What reads know of the server.
    outage: Outage,
    /// The connections that writes may use at once.
    writers: Semaphore,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl PostgresIdentities {
    /// Connects and brings the tables up to date; those of a newer build are used as they are. Takes at most 10 s; waits up to
    /// half of that for a server that is just starting. Any number of processes may do this at once.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`], naming the settings to check, when the server cannot be reached, refuses the user, has no
    /// such database, or has tables that are not ours.
    pub async fn connect(config: PostgresConfig) -> Result<Self, StoreError> {
        Ok(Self {
            pool: connection::open(&config).await?,
            outage: Outage::default(),
            // Half: the other half is for reads, which decisions wait for.
            writers: Semaphore::new(config.max_connections as usize / 2),
            read_timeout: config.read_timeout,
            write_timeout: config.write_timeout,
        })
    }

    /// Waits for running operations and closes all connections. Later calls fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Returns what [`Self::keep_pepper_check`] has kept: the hash of an address that nobody has, made with the pepper that the
    /// identities are hashed with. `None` before anything was kept.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub async fn pepper_check(&self) -> Result<Option<String>, StoreError> {
        self.read(async {
            let mut lease = Lease::take(&self.pool).await?;
            let kept = rows::pepper_check(lease.connection()).await?;
            lease.give_back();
            Ok(kept)
        })
        .await
    }

    /// Keeps `hash`, unless one is kept already. Of several processes that do so at once, one wins.
    ///
    /// # Errors
    /// [`StoreError`] when nothing may have been kept.
    pub async fn keep_pepper_check(&self, hash: &str) -> Result<(), StoreError> {
        within(self.write_timeout, async {
            let mut lease = self.writer().await?;
            rows::keep_pepper_check(lease.connection(), hash).await?;
            lease.give_back();
            Ok(())
        })
        .await
    }

    /// Returns the result of a read if it completes in time.
    async fn read<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.outage.ask()?;
        let result = within(self.read_timeout, work).await;
        self.outage.learn(&result);
        result
    }

    /// Returns a connection for a write, when it is its turn.
    async fn writer(&self) -> Result<Lease<'_>, StoreError> {
        let turn = self.writers.acquire().await.map_err(unavailable)?;
        Ok(Lease::take(&self.pool).await?.with_turn(turn))
    }

    /// Returns the people that own these ids.
    async fn owners(&self, ids: &[UniversalId]) -> Result<Owners, StoreError> {
        if ids.is_empty() {
            return Ok(Owners::new([]));
        }
        self.read(async {
            let mut lease = Lease::take(&self.pool).await?;
            let members = rows::members(lease.connection(), ids).await?;
            lease.give_back();
            Ok(Owners::new(members))
        })
        .await
    }

    /// Records those of `sightings` that are not recorded. Uses one connection: the pool takes some time to take one back, and
    /// meanwhile it would open another, which a server without free slots refuses.
    async fn record_news(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        let (ids, pairs) = traces(sightings);
        let mut lease = self.writer().await?;
        let with_events = rows::with_events(lease.connection(), &ids).await?;
        let known_pairs = rows::known_pairs(lease.connection(), &pairs).await?;
        let news = news(sightings, &with_events, &known_pairs);
        if news.is_empty() {
            lease.give_back();
            return Ok(());
        }
        let record_all = |graph: &mut Graph| {
            for sighting in &news {
                graph.record(sighting);
            }
        };
        change(lease, &news, record_all).await
    }

    /// Erases ids, under the locks of their people.
    async fn erase_locked(&self, ids: &[UniversalId]) -> Result<ErasedIdentities, StoreError> {
        let mut lease = self.writer().await?;
        let mut locks = locks_of(lease.connection(), ids).await?;
        for _ in 0..ROUNDS {
            let mut transaction = lease.connection().begin_with(BEGIN).await.map_err(classify)?;
            let Some(members) = locked(&mut transaction, ids, &mut locks).await? else {
                transaction.rollback().await.map_err(classify)?;
                continue;
            };
            let erasure = Erasure::new(members, ids);
            let erased = rows::erase(&mut transaction, ids, &erasure).await?;
            transaction.commit().await.map_err(classify)?;
            lease.give_back();
            return Ok(erased);
        }
        Err(restless())
    }
}

/// Changes the part of the graph that `sightings` touch, under the locks of the people in it.
async fn change<T>(
    mut lease: Lease<'_>,
    sightings: &[&Sighting],
    apply: impl Fn(&mut Graph) -> T + Send + Sync,
) -> Result<T, StoreError> {
    let (ids, pairs) = touched(sightings);
    let mut locks = locks_of(lease.connection(), &ids).await?;
    for _ in 0..ROUNDS {
        let mut transaction = lease.connection().begin_with(BEGIN).await.map_err(classify)?;
        let Some(members) = locked(&mut transaction, &ids, &mut locks).await? else {
            transaction.rollback().await.map_err(classify)?;
            continue;
        };
        let known = rows::known_pairs(&mut transaction, &pairs).await?;
        let mut graph = Graph::new(members, known);
        let answer = apply(&mut graph);
        rows::store(&mut transaction, &graph.into_changes()).await?;
        transaction.commit().await.map_err(classify)?;
        lease.give_back();
        return Ok(answer);
    }
    Err(restless())
}

/// Returns the locks of ids and of the people that own them now.
async fn locks_of(connection: &mut PgConnection, ids: &[UniversalId]) -> Result<BTreeSet<i32>, StoreError> {
    let mut locks: BTreeSet<i32> = ids.iter().map(lock_of).collect();
    let members = rows::members(connection, ids).await?;
    locks.extend(members.iter().map(|member| lock_of(&member.canonical)));
    Ok(locks)
}

/// Takes locks and returns every identifier of the people that own any of `ids`. If one of these people is not locked, adds the
/// missing locks to `locks` and returns `None`.
async fn locked(
    transaction: &mut PgConnection,
    ids: &[UniversalId],
    locks: &mut BTreeSet<i32>,
) -> Result<Option<Vec<Member>>, StoreError> {
    rows::lock(transaction, LOCK_SPACE, locks).await?;
    let members = rows::members(transaction, ids).await?;
    let owners: BTreeSet<i32> = members.iter().map(|member| lock_of(&member.canonical)).collect();
    if owners.is_subset(locks) {
        return Ok(Some(members));
    }
    locks.extend(owners);
    Ok(None)
}

fn restless() -> StoreError {
    unavailable("the people in question merge faster than they can be locked")
}

/// Returns the lock that stands for an id.
fn lock_of(id: &UniversalId) -> i32 {
    let digits = id.as_str().get(3..5).expect("an id has 32 digits after `sf_`");
    i32::from_str_radix(digits, 16).expect("an id's digits are hexadecimal")
}

/// Returns the result of `work` if it completes in time.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(unavailable(format!("no answer within {limit:?}"))),
    }
}

#[async_trait]
impl Identities for PostgresIdentities {
    async fn record(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        within(self.write_timeout, self.record_news(sightings)).await
    }

    async fn link(&self, sighting: &Sighting) -> Result<Person, StoreError> {
        let Some(strongest) = sighting.identifiers.iter().min() else {
            return Err(rejected("a link names no identifier"));
        };
        let link = |graph: &mut Graph| {
            graph.link(sighting);
            graph
                .person_of(strongest)
                .expect("a link makes all of its identifiers known")
        };
        within(self.write_timeout, async {
            let lease = self.writer().await?;
            change(lease, &[sighting], link).await
        })
        .await
    }

    async fn people(&self, ids: &[UniversalId]) -> Result<Vec<Arc<Person>>, StoreError> {
        Ok(self.owners(ids).await?.people(ids))
    }

    async fn audit(&self, id: &UniversalId, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.read(async {
            let mut lease = Lease::take(&self.pool).await?;
            let entries = rows::audit(lease.connection(), id, limit).await?;
            lease.give_back();
            Ok(entries)
        })
        .await
    }

    async fn erase(&self, ids: &[UniversalId]) -> Result<ErasedIdentities, StoreError> {
        within(self.write_timeout, self.erase_locked(ids)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Not a `read`: what it says of writes must not keep reads from trying. Nor does it wait for a turn behind batches.
        within(self.read_timeout, async {
            let mut lease = Lease::take(&self.pool).await?;
            rows::ping(lease.connection()).await?;
            lease.give_back();
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_lock_of_its_first_byte() {
        let id = |digits: &str| UniversalId::parse(&format!("sf_{digits}{}", "0".repeat(30))).unwrap();
        assert_eq!(
            ["00", "0f", "a0", "ff"].map(|digits| lock_of(&id(digits))),
            [0, 15, 160, 255]
        );
    }
}
