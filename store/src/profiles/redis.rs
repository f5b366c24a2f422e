//! The profile store that scales out: Redis.
//!
//! A profile is valid only while it reflects everything that the event store knows about its person. Redis alone cannot
//! guarantee that: it may lose its memory and start from an old snapshot, and two consumers may for a moment hold the same
//! person, while partitions move between them. Both are made harmless here by turning a doubtful profile into a missing one,
//! which its reader rebuilds from the events:
//! - **A server that has restarted, or was made the primary, counts as empty.** Every value carries a stamp of the run of the
//!   server process to which it was written, since that was last made the primary, and counts as missing under any other. A
//!   connection learns the stamp before it is used for anything else, and is given up when its server becomes a replica, so that
//!   not even the first read after a restart or a failover sees an old value. Nothing is deleted for that: the next put
//!   replaces the value.
//! - **A server that takes no writes is not read either.** A full server, a replica and one that cannot save its snapshot still
//!   answer reads, with profiles that lack what could not be written since. So every read begins with a write.
//! - **Nobody overwrites what it does not know.** An update says what it was derived from. A put, whose profile was built from
//!   events, first reads the stored value: profiles are sets that only grow, so it can tell whether the new one contains all of
//!   the old one. Redis then replaces the value only if it is still the one that was read, under the same stamp. Otherwise two writers have collided, or something was lost, and possibly neither version is complete: the profile
//!   is disputed. For a minute it then counts as missing and nobody may put it, until all writes in flight have completed.
//!
//! Losing the connection does not make callers wait. The first caller to notice fails after the response timeout at the latest;
//! all others fail at once until the connection, which is restored in the background, is back.
//!
//! Supports a single server (with or without replicas), not a cluster: a read requests many keys at once.

mod config;
mod connection;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use event::{UniversalId, profile::Profile};
use futures::future::try_join_all;
use prometheus_client::registry::Registry;

pub use self::config::{InvalidRedisConfig, RawRedisConfig, RedisConfig};
use self::connection::{Link, STAMP_BYTES, Session};
use super::{Profiles, Seen, Update};
use crate::{StoreError, metrics::ProfileCounters};

/// The engine's name in errors.
const ENGINE: &str = "redis";

/// Profiles read or put in one round trip. At 4 kB, the maximum size of a profile, a response has 0.8 MB: about 7 ms on a
/// network of 1 Gbit/s, well below the response timeout; and it keeps Redis busy for less than 1 ms.
const PROFILES_AT_ONCE: usize = 200;

/// Round trips in flight at once: while the server works on one, another is on the network and a third is decoded here.
const EXCHANGES_AT_ONCE: usize = 4;

/// Keys scanned and deleted in one round trip when all profiles are forgotten, for the same reason.
const KEYS_AT_ONCE: usize = 1_000;

/// How long a profile stays disputed: longer than any writer takes from reading a person's events to putting the resulting
/// profile.
const DISPUTE_SECONDS: u64 = 60;

/// The value of a disputed profile, after the stamp: a version that no profile has.
const DISPUTED: &[u8] = &[0];

/// Name of the key that every read writes first, after the prefix: no id of a person.
const WRITABLE: &str = "writable";

/// How long that key is kept. Any time will do, as it is never read: a minute, so that it does not outlive the service for long.
const WRITABLE_SECONDS: u64 = 60;

/// Replaces each value that is still the one that was looked up, or that already equals the new one because another writer has
/// applied the same events. Any other is marked as disputed. Returns how many are disputed in the end. An empty string stands
/// for no value: none of our values is empty. It is one call for many keys, because calling a script costs the server more than
/// this script's work for one key. The old value is read by the command that replaces it, since each command of a script costs
/// as much again.
const REPLACE: &str = "local disputed = 0 \
     for i, key in ipairs(KEYS) do \
     local after = ARGV[3 * i + 1] \
     local now = redis.call('SET', key, after, 'EX', ARGV[3 * i + 2], 'GET') or '' \
     if now ~= ARGV[3 * i] and now ~= after then after = ARGV[1]; redis.call('SET', key, after, 'EX', ARGV[2]) end \
     if after == ARGV[1] then disputed = disputed + 1 end end \
     return disputed";

/// Profiles in a Redis server.
#[derive(Debug)]
pub struct RedisProfiles {
    link: Arc<Link>,
    key_prefix: String,
    ttl: Duration,
    counters: ProfileCounters,
}

/// A replacement of a stored value.
struct Change<'a> {
    key: String,
    /// The value that was looked up; empty if there was none.
    before: &'a [u8],
    after: Vec<u8>,
    /// How long the new value is kept.
    seconds: u64,
}

/// The meaning of a stored value.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives as long as one look at a value"
)]
enum Found {
    /// There is no value, or none written by this build under this stamp.
    Nothing,
    Disputed,
    Known(Profile),
}

impl RedisProfiles {
    /// Connects. Takes at most 10 s; waits up to half of that for a server that is just starting.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`], naming the settings to check, when the server cannot be reached, refuses the password or
    /// does not grant the user the required permissions.
    pub async fn connect(config: RedisConfig) -> Result<Self, StoreError> {
        Self::open(config, false).await
    }

    /// As [`RedisProfiles::connect`], for callers that can work without Redis: a server that cannot be reached is reported in
    /// the log, naming the settings to check, and used as soon as it responds. Until then every call fails at once.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`], naming the settings to check, when the server refuses the password, uses TLS differently
    /// than configured or does not grant the user the required permissions.
    pub async fn connect_or_go_on(config: RedisConfig) -> Result<Self, StoreError> {
        Self::open(config, true).await
    }

    /// Opens another connection to the server, which has the same metrics and waits up to `response_timeout` for each response.
    /// It is for a caller with hundreds of profiles to read and write at once, behind which a single one would wait. A server that
    /// cannot be reached is used as soon as it responds.
    pub async fn another(&self, response_timeout: Duration) -> Self {
        Self {
            link: self.link.another(response_timeout).await,
            key_prefix: self.key_prefix.clone(),
            ttl: self.ttl,
            counters: self.counters.clone(),
        }
    }

    async fn open(config: RedisConfig, may_be_away: bool) -> Result<Self, StoreError> {
        let profiles = Self {
            link: Link::open(&config, may_be_away).await?,
            key_prefix: config.key_prefix,
            ttl: config.ttl,
            counters: ProfileCounters::default(),
        };
        // Without a session the link has told why.
        if let Ok(session) = profiles.link.session() {
            match profiles.try_all_commands(&session).await {
                // A server that is full is used as soon as it takes writes.
                Err(StoreError::Unavailable { cause, .. }) if may_be_away => {
                    tracing::error!("profiles are built from events until Redis takes writes: {cause}");
                }
                tried => tried?,
            }
        }
        Ok(profiles)
    }

    /// Fails if the user may not call one of the commands that are ever needed.
    async fn try_all_commands(&self, session: &Session) -> Result<(), StoreError> {
        let writable = self.writable();
        let mut all = redis::pipe();
        all.add_command(self.try_write())
            .add_command(replacement(session, &[self.rewrite()]))
            .cmd("MGET")
            .arg(&writable)
            .cmd("SCAN")
            .arg(&["0", "MATCH", &writable, "COUNT", "1"])
            .cmd("UNLINK")
            .arg(&writable);
        let mut connection = session.connection.clone();
        let tried: Result<redis::Value, _> = all.query_async(&mut connection).await;
        tried.map(drop).map_err(|error| self.link.failed(session, error))
    }

    /// Registers the metrics of the profiles in `registry`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.counters.register(registry);
    }

    fn key(&self, id: &UniversalId) -> String {
        [&self.key_prefix, id.as_str()].concat()
    }

    /// Returns the command that fails if the server takes no writes.
    fn try_write(&self) -> redis::Cmd {
        let mut command = redis::cmd("SET");
        command.arg(self.writable()).arg("");
        command.arg("EX").arg(WRITABLE_SECONDS);
        command
    }

    /// Returns the key that [`Self::try_write`] writes.
    fn writable(&self) -> String {
        [&self.key_prefix, WRITABLE].concat()
    }

    /// Returns the change that writes the same as [`Self::try_write`], in the way that profiles are written.
    fn rewrite(&self) -> Change<'static> {
        Change {
            key: self.writable(),
            before: b"",
            after: Vec::new(),
            seconds: WRITABLE_SECONDS,
        }
    }

    /// Returns the raw values under the keys of `ids`. Fails if the server takes no writes.
    async fn values(
        &self,
        session: &Session,
        ids: impl Iterator<Item = &UniversalId>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut command = redis::cmd("MGET");
        for id in ids {
            command.arg(self.key(id));
        }
        let mut both = redis::pipe();
        both.add_command(self.try_write()).ignore().add_command(command);
        let mut connection = session.connection.clone();
        let answer = both.query_async(&mut connection).await;
        let (values,) = answer.map_err(|error| self.link.failed(session, error))?;
        Ok(values)
    }

    fn read(&self, stamp: &[u8; STAMP_BYTES], value: Option<&[u8]>) -> Found {
        let Some(value) = value else {
            return Found::Nothing;
        };
        let Some(bytes) = value.strip_prefix(stamp) else {
            self.counters.outdated.inc();
            return Found::Nothing;
        };
        if bytes == DISPUTED {
            return Found::Disputed;
        }
        match Profile::from_bytes(bytes) {
            Ok(profile) => Found::Known(profile),
            Err(_) => {
                self.counters.unreadable.inc();
                Found::Nothing
            }
        }
    }

    /// Looks up as many profiles as fit into one round trip.
    async fn look_at_some(&self, ids: &[UniversalId]) -> Result<Vec<Option<(Profile, Seen)>>, StoreError> {
        let session = self.link.session()?;
        let values = self.values(&session, ids.iter()).await?;
        let looks = values
            .into_iter()
            .map(|value| match self.read(&session.stamp, value.as_deref()) {
                Found::Known(profile) => Some((profile, Seen(value?))),
                Found::Nothing | Found::Disputed => None,
            });
        Ok(looks.collect())
    }

    /// Reads as many profiles as fit into one round trip.
    async fn get_some(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError> {
        let looks = self.look_at_some(ids).await?.into_iter();
        Ok(looks.map(|look| look.map(|(profile, _)| profile)).collect())
    }

    /// Updates as many profiles as fit into one round trip.
    async fn update_some(&self, updates: &[Update]) -> Result<(), StoreError> {
        let session = self.link.session()?;
        let changes = updates.iter().map(|Update { id, profile, seen }| {
            // If the server has restarted or failed over since the lookup, writes of others may be lost and the value be the
            // same as before.
            let is_whole = seen.0.starts_with(&session.stamp);
            self.change(&session, id, &seen.0, is_whole.then_some(profile))
        });
        self.replace(&session, changes.collect()).await
    }

    /// Puts as many profiles as fit into one round trip.
    async fn put_some(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError> {
        let session = self.link.session()?;
        let before = self.values(&session, profiles.iter().map(|(id, _)| id)).await?;
        let mut changes = Vec::with_capacity(profiles.len());
        for ((id, profile), before) in profiles.iter().zip(&before) {
            let is_whole = match self.read(&session.stamp, before.as_deref()) {
                Found::Nothing => true,
                Found::Disputed => continue,
                Found::Known(known) => holds_all_of(profile, &known),
            };
            let before = before.as_deref().unwrap_or_default();
            changes.push(self.change(&session, id, before, is_whole.then_some(profile)));
        }
        self.replace(&session, changes).await
    }

    /// Builds the change of a looked-up value to a profile, or to a disputed one if `profile` is `None`.
    fn change<'a>(
        &self,
        session: &Session,
        id: &UniversalId,
        before: &'a [u8],
        profile: Option<&Profile>,
    ) -> Change<'a> {
        let (after, seconds) = match profile {
            Some(profile) => {
                let value = [&session.stamp, profile.to_bytes().as_slice()].concat();
                (value, self.ttl.as_secs())
            }
            None => ([&session.stamp, DISPUTED].concat(), DISPUTE_SECONDS),
        };
        Change {
            key: self.key(id),
            before,
            after,
            seconds,
        }
    }

    /// Applies each change if the value is still the one that was looked up.
    async fn replace(&self, session: &Session, changes: Vec<Change<'_>>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut connection = session.connection.clone();
        let answer = replacement(session, &changes).query_async(&mut connection).await;
        let disputed: u64 = answer.map_err(|error| self.link.failed(session, error))?;
        self.counters.disputes.inc_by(disputed);
        Ok(())
    }
}

/// Returns the command that applies each change if the value is still the one that was looked up.
fn replacement(session: &Session, changes: &[Change<'_>]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(REPLACE).arg(changes.len());
    for change in changes {
        command.arg(&change.key);
    }
    command
        .arg([&session.stamp, DISPUTED].concat())
        .arg(DISPUTE_SECONDS);
    for change in changes {
        command.arg(change.before).arg(&change.after).arg(change.seconds);
    }
    command
}

/// Returns whether `new` contains all that `old` contains, as far as the size limit of a profile allows.
fn holds_all_of(new: &Profile, old: &Profile) -> bool {
    let mut both = new.clone();
    both.merge(old);
    both == *new
}

#[async_trait]
impl Profiles for RedisProfiles {
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError> {
        let mut profiles = Vec::with_capacity(ids.len());
        for many in ids.chunks(EXCHANGES_AT_ONCE * PROFILES_AT_ONCE) {
            let exchanges = many.chunks(PROFILES_AT_ONCE).map(|some| self.get_some(some));
            profiles.extend(try_join_all(exchanges).await?.into_iter().flatten());
        }
        Ok(profiles)
    }

    async fn look(&self, ids: &[UniversalId]) -> Result<Vec<Option<(Profile, Seen)>>, StoreError> {
        let mut looks = Vec::with_capacity(ids.len());
        for many in ids.chunks(EXCHANGES_AT_ONCE * PROFILES_AT_ONCE) {
            let exchanges = many.chunks(PROFILES_AT_ONCE).map(|some| self.look_at_some(some));
            looks.extend(try_join_all(exchanges).await?.into_iter().flatten());
        }
        Ok(looks)
    }

    async fn update(&self, updates: &[Update]) -> Result<(), StoreError> {
        for many in updates.chunks(EXCHANGES_AT_ONCE * PROFILES_AT_ONCE) {
            try_join_all(many.chunks(PROFILES_AT_ONCE).map(|some| self.update_some(some))).await?;
        }
        Ok(())
    }

    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError> {
        for many in profiles.chunks(EXCHANGES_AT_ONCE * PROFILES_AT_ONCE) {
            try_join_all(many.chunks(PROFILES_AT_ONCE).map(|some| self.put_some(some))).await?;
        }
        Ok(())
    }

    async fn clear(&self) -> Result<(), StoreError> {
        let session = self.link.session()?;
        let failed = |error| self.link.failed(&session, error);
        let mut connection = session.connection.clone();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", self.key_prefix));
            scan.arg("COUNT").arg(KEYS_AT_ONCE);
            let keys: Vec<Vec<u8>>;
            (cursor, keys) = scan.query_async(&mut connection).await.map_err(failed)?;
            if !keys.is_empty() {
                let mut unlink = redis::cmd("UNLINK");
                unlink.arg(keys);
                let () = unlink.query_async(&mut connection).await.map_err(failed)?;
            }
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    fn forget_unshared(&self) {}

    async fn erase(&self, ids: &[UniversalId]) -> Result<u64, StoreError> {
        let session = self.link.session()?;
        let mut erased = 0;
        for some in ids.chunks(KEYS_AT_ONCE) {
            let mut unlink = redis::cmd("UNLINK");
            for id in some {
                unlink.arg(self.key(id));
            }
            let mut connection = session.connection.clone();
            let there: u64 = unlink
                .query_async(&mut connection)
                .await
                .map_err(|error| self.link.failed(&session, error))?;
            erased += there;
        }
        Ok(erased)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let session = self.link.session()?;
        self.replace(&session, vec![self.rewrite()]).await
    }
}

#[cfg(test)]
mod tests {
    use event::{Event, profile::Profile};

    use super::*;

    fn clicked_at(times: &[&str]) -> Profile {
        let mut event = Event::from_json(include_bytes!("../../../event/samples/event-v1.json")).unwrap();
        let mut profile = Profile::default();
        for time in times {
            event.timestamp = time.parse().unwrap();
            event.message_id = Some((*time).to_owned());
            profile.apply(&event, false);
        }
        profile
    }

    #[test]
    fn a_profile_that_grew_holds_what_it_was() {
        let [noon, one] = ["2026-01-10T12:00:00Z", "2026-01-10T13:00:00Z"];
        let (first, second, both) = (clicked_at(&[noon]), clicked_at(&[one]), clicked_at(&[noon, one]));
        assert!(holds_all_of(&both, &first) && holds_all_of(&both, &second) && holds_all_of(&first, &first));
        assert!(holds_all_of(&first, &Profile::default()));
        assert!(!holds_all_of(&first, &both) && !holds_all_of(&first, &second));
        assert!(!holds_all_of(&Profile::default(), &first));
    }

    #[test]
    fn a_full_profile_that_forgot_its_oldest_still_holds_what_it_was() {
        let start: event::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let times: Vec<String> = (0..1_000_i64)
            .map(|n| start.plus_millis(n * 3_600_000).to_string())
            .collect();
        let times: Vec<&str> = times.iter().map(String::as_str).collect();
        let (shorter, longer) = (clicked_at(&times[..900]), clicked_at(&times));
        assert!(holds_all_of(&longer, &shorter));
        assert!(!holds_all_of(&shorter, &longer));
    }
}
