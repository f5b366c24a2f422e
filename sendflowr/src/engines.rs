//! The engine of each port, chosen by the configuration: the one that scales out if its server's address is set, otherwise
//! the embedded one. They can be mixed freely; where several processes share Kafka without Redis, partitions must not be added
//! while they run (`docs/deployment.md`).
//!
//! An engine is opened when it is first needed, so that a role depends only on the servers that it uses.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use prometheus_client::registry::Registry;
use store::{
    StoreError,
    bus::{Bus, KafkaBus, KafkaConfig, SqliteBus},
    embedded::{self, EmbeddedConfig},
    events::{ClickHouseConfig, ClickHouseEvents, Events, SqliteEvents},
    identity::{
        Identities, PostgresConfig, PostgresIdentities, SqliteIdentities, StoredAccount, StoredAccounts,
    },
    profiles::{MemoryProfiles, Profiles, RedisConfig, RedisProfiles},
};
use tokio::{runtime::Handle, sync::OnceCell};

use crate::config::{RawConfig, data_folder};

/// The kind of an engine that is not a server.
const EMBEDDED: &str = "embedded";

/// Refuses to remove events that decisions still read.
fn refuse_short_events(config: &RawConfig) -> anyhow::Result<()> {
    let (key, read_back) = config.inference.reads_back();
    match config.store.event_retention_seconds {
        Some(kept) if kept < read_back && config.clickhouse.host.is_none() => bail!(
            "`store.event_retention_seconds` is {kept}, less than `{key}`, which is {read_back}: decisions would lack what they \
             are made from; raise the one, or lower the other"
        ),
        _ => Ok(()),
    }
}

/// The engines behind the four ports of this process.
pub(crate) struct Engines {
    folder: PathBuf,
    embedded: EmbeddedConfig,
    kafka: Option<KafkaConfig>,
    clickhouse: Option<ClickHouseConfig>,
    postgres: Option<PostgresConfig>,
    redis: Option<RedisConfig>,
    /// Whether the file of an embedded engine may be created, and not only used.
    may_create: bool,
    /// Whether opening succeeds although the server of the profiles is down.
    may_lack_profiles: bool,
    registry: Arc<Mutex<Registry>>,
    bus: OnceCell<BusEngine>,
    events: OnceCell<EventsEngine>,
    identities: OnceCell<IdentitiesEngine>,
    profiles: OnceCell<ProfilesEngine>,
}

/// A port and the engine behind it; displayed as `events: clickhouse at db:8123`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// `bus`, `events`, `identities` or `profiles`.
    pub(crate) port: &'static str,
    /// The server's kind, or [`EMBEDDED`].
    pub(crate) engine: &'static str,
    /// The server's address, the folder, or `memory`.
    pub(crate) address: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            port,
            engine,
            address,
        } = self;
        let at = if *engine == EMBEDDED { "in" } else { "at" };
        write!(f, "{port}: {engine} {at} {address}")
    }
}

enum BusEngine {
    Sqlite(Arc<SqliteBus>),
    Kafka(Arc<KafkaBus>),
}

enum EventsEngine {
    Sqlite(Arc<SqliteEvents>),
    ClickHouse(Arc<ClickHouseEvents>),
}

enum ProfilesEngine {
    Memory(Arc<MemoryProfiles>),
    Redis(Arc<RedisProfiles>),
}

enum IdentitiesEngine {
    Sqlite(Arc<SqliteIdentities>),
    Postgres(Arc<PostgresIdentities>),
}

impl Engines {
    /// Checks the configuration and opens nothing. The engines' metrics are added to `registry` as they are opened.
    ///
    /// # Errors
    /// Names the setting that cannot work.
    pub(crate) fn new(config: &RawConfig, registry: Arc<Mutex<Registry>>) -> anyhow::Result<Self> {
        let RawConfig {
            kafka,
            clickhouse,
            postgres,
            redis,
            server_without_address,
            ..
        } = config;
        if let Some(mistake) = server_without_address {
            bail!("{mistake}");
        }
        refuse_short_events(config)?;
        Ok(Self {
            folder: data_folder(config),
            embedded: EmbeddedConfig::try_from(config.store.clone())?,
            kafka: match kafka.bootstrap_servers {
                Some(_) => Some(KafkaConfig::try_from(kafka.clone())?),
                None => None,
            },
            clickhouse: match clickhouse.host {
                Some(_) => Some(ClickHouseConfig::try_from(clickhouse.clone())?),
                None => None,
            },
            postgres: match postgres.host {
                Some(_) => Some(PostgresConfig::try_from(postgres.clone())?),
                None => None,
            },
            redis: match redis.host {
                Some(_) => Some(RedisConfig::try_from(redis.clone())?),
                None => None,
            },
            may_create: true,
            may_lack_profiles: false,
            registry,
            bus: OnceCell::new(),
            events: OnceCell::new(),
            identities: OnceCell::new(),
            profiles: OnceCell::new(),
        })
    }

    /// Like [`Engines::new`], for commands that look at what the roles have stored: nobody reads the engines' metrics, and an
    /// embedded engine that is not there is an error. Created for the command it would be empty, and "nothing is stored" would
    /// be true of the wrong folder.
    ///
    /// # Errors
    /// Names the setting that cannot work.
    pub(crate) fn existing(config: &RawConfig) -> anyhow::Result<Self> {
        let engines = Self::new(config, Arc::default())?;
        Ok(Self {
            may_create: false,
            ..engines
        })
    }

    /// Like [`Engines::new`], for commands that store something: nobody reads the engines' metrics.
    ///
    /// # Errors
    /// Names the setting that cannot work.
    pub(crate) fn existing_or_new(config: &RawConfig) -> anyhow::Result<Self> {
        Self::new(config, Arc::default())
    }

    /// Does the work of a command, and closes what it has opened, also after an error: SQLite would leave files beside its own
    /// that belong to the user of the command.
    pub(crate) async fn closed_after<T>(
        self,
        work: impl AsyncFnOnce(&Arc<Self>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let engines = Arc::new(self);
        let result = work(&engines).await;
        engines.close().await;
        result
    }

    /// Returns the engines behind the bus, events, identities and profiles, in this order.
    pub(crate) fn places(&self) -> [Place; 4] {
        let folder = self.folder.display().to_string();
        let place = |port, engine, address: Option<String>, embedded: &str| match address {
            Some(address) => Place {
                port,
                engine,
                address,
            },
            None => Place {
                port,
                engine: EMBEDDED,
                address: embedded.to_owned(),
            },
        };
        let brokers = self
            .kafka
            .as_ref()
            .map(|kafka| kafka.bootstrap_servers().to_owned());
        let clickhouse = self.clickhouse.as_ref().map(ClickHouseConfig::address);
        let postgres = self.postgres.as_ref().map(PostgresConfig::address);
        let redis = self.redis.as_ref().map(RedisConfig::address);
        [
            place("bus", "kafka", brokers, &folder),
            place("events", "clickhouse", clickhouse, &folder),
            place("identities", "postgres", postgres, &folder),
            place("profiles", "redis", redis, "memory"),
        ]
    }

    /// Returns whether the engine of this port is embedded and has no file yet. Opening it would create one, for the user of this
    /// process.
    pub(crate) fn is_new(&self, port: &str) -> bool {
        let (is_embedded, file) = match port {
            "bus" => (self.embeds_bus(), SqliteBus::FILE),
            "events" => (self.clickhouse.is_none(), SqliteEvents::FILE),
            "identities" => (self.embeds_identities(), SqliteIdentities::FILE),
            _ => return false,
        };
        is_embedded && !self.folder.join(file).exists()
    }

    /// Returns what is in the data folder although a server is configured in its place, as sentences for the operator: nothing is
    /// moved there, and none of it is read.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let files = [
            (
                self.kafka.is_some(),
                SqliteBus::FILE,
                "events on their way and dead letters",
                "kafka",
            ),
            (
                self.clickhouse.is_some(),
                SqliteEvents::FILE,
                "events, with unsubscriptions",
                "clickhouse",
            ),
            (
                self.postgres.is_some(),
                SqliteIdentities::FILE,
                "links between identities, and accounts",
                "postgres",
            ),
        ];
        let left = files.into_iter().filter_map(|(is_replaced, file, content, section)| {
            let path = self.folder.join(file);
            (is_replaced && path.exists()).then(|| {
                format!(
                    "`{}` ({content}) belongs to the embedded engines and is no longer read, because `[{section}]` is configured: \
                     see \"From embedded engines to servers\" in docs/deployment.md, and move the file away",
                    path.display()
                )
            })
        });
        left.collect()
    }

    /// Returns whether the identity graph, and the accounts with it, are in the data folder.
    pub(crate) fn embeds_identities(&self) -> bool {
        self.postgres.is_none()
    }

    /// Returns where the accounts are stored: a file of the data folder or a server.
    pub(crate) fn accounts_place(&self) -> String {
        match &self.postgres {
            Some(postgres) => format!("PostgreSQL at `{}`", postgres.address()),
            None => format!("`{}`", self.folder.join(SqliteIdentities::FILE).display()),
        }
    }

    /// Returns whether the bus is in the data folder.
    pub(crate) fn embeds_bus(&self) -> bool {
        self.kafka.is_none()
    }

    /// Allows the server of the profiles to be down at first: until it is up, roles build profiles from events.
    pub(crate) fn do_without_profiles(&mut self) {
        self.may_lack_profiles = true;
    }

    /// Returns the bus.
    ///
    /// # Errors
    /// Returns what keeps it from opening, with the setting to look at.
    pub(crate) async fn bus(&self) -> anyhow::Result<Arc<dyn Bus>> {
        let open = async || -> anyhow::Result<BusEngine> {
            if let Some(config) = &self.kafka {
                // The future of connecting is large; boxed, so that the futures that await it stay small.
                let bus = Box::pin(KafkaBus::connect(config.clone())).await?;
                self.count(|registry| bus.register_metrics(registry));
                return Ok(BusEngine::Kafka(Arc::new(bus)));
            }
            let folder = self.folder_of(SqliteBus::FILE)?;
            let bus = SqliteBus::open(folder, self.embedded.bus.clone())
                .await
                .with_context(|| unusable(folder))?;
            self.count(|registry| bus.register_metrics(registry));
            Ok(BusEngine::Sqlite(Arc::new(bus)))
        };
        Ok(match self.bus.get_or_try_init(open).await? {
            BusEngine::Sqlite(bus) => bus.clone(),
            BusEngine::Kafka(bus) => bus.clone(),
        })
    }

    /// Returns the bus if it is Kafka, for what only Kafka has.
    ///
    /// # Errors
    /// Returns what keeps it from opening, with the setting to look at.
    pub(crate) async fn kafka(&self) -> anyhow::Result<Option<Arc<KafkaBus>>> {
        self.bus().await?;
        Ok(match self.bus.get() {
            Some(BusEngine::Kafka(bus)) => Some(bus.clone()),
            _ => None,
        })
    }

    /// Returns the event store.
    ///
    /// # Errors
    /// Returns what keeps it from opening, with the setting to look at.
    pub(crate) async fn events(&self) -> anyhow::Result<Arc<dyn Events>> {
        let open = async || -> anyhow::Result<EventsEngine> {
            if let Some(config) = &self.clickhouse {
                let events = Box::pin(ClickHouseEvents::connect(config.clone())).await?;
                return Ok(EventsEngine::ClickHouse(Arc::new(events)));
            }
            let folder = self.folder_of(SqliteEvents::FILE)?;
            let events = SqliteEvents::open(folder, self.embedded.events.clone())
                .await
                .with_context(|| unusable(folder))?;
            Ok(EventsEngine::Sqlite(Arc::new(events)))
        };
        Ok(match self.events.get_or_try_init(open).await? {
            EventsEngine::Sqlite(events) => events.clone(),
            EventsEngine::ClickHouse(events) => events.clone(),
        })
    }

    /// Sets the age at which the server drops rows, if the event store is a server that does so. Called only by the consumer.
    ///
    /// # Errors
    /// Fails if the server does not accept it.
    pub(crate) async fn retain_events(&self) -> anyhow::Result<()> {
        if let Some(EventsEngine::ClickHouse(events)) = self.events.get() {
            let set = events.retain().await;
            set.context("the age after which rows are dropped (`clickhouse.ttl_days`) cannot be set")?;
        }
        Ok(())
    }

    /// Returns the identity graph.
    ///
    /// # Errors
    /// Returns what keeps it from opening, with the setting to look at.
    pub(crate) async fn identities(&self) -> anyhow::Result<Arc<dyn Identities>> {
        Ok(match self.identities_engine().await? {
            IdentitiesEngine::Sqlite(identities) => identities.clone(),
            IdentitiesEngine::Postgres(identities) => identities.clone(),
        })
    }

    /// Returns the accounts, which are stored with the identity graph.
    ///
    /// # Errors
    /// Returns what keeps it from opening, with the setting to look at.
    pub(crate) async fn stored_accounts(&self) -> anyhow::Result<Arc<dyn StoredAccounts>> {
        Ok(match self.identities_engine().await? {
            IdentitiesEngine::Sqlite(identities) => identities.clone(),
            IdentitiesEngine::Postgres(identities) => identities.clone(),
        })
    }

    /// Returns the identity graph if it is PostgreSQL, for what only PostgreSQL has.
    ///
    /// # Errors
    /// Returns what keeps it from opening, with the setting to look at.
    pub(crate) async fn postgres(&self) -> anyhow::Result<Option<Arc<PostgresIdentities>>> {
        if self.embeds_identities() {
            return Ok(None);
        }
        Ok(match self.identities_engine().await? {
            IdentitiesEngine::Sqlite(_) => None,
            IdentitiesEngine::Postgres(identities) => Some(identities.clone()),
        })
    }

    async fn identities_engine(&self) -> anyhow::Result<&IdentitiesEngine> {
        self.identities.get_or_try_init(|| self.open_identities()).await
    }

    async fn open_identities(&self) -> anyhow::Result<IdentitiesEngine> {
        if let Some(config) = &self.postgres {
            let identities = Box::pin(PostgresIdentities::connect(config.clone())).await?;
            return Ok(IdentitiesEngine::Postgres(Arc::new(identities)));
        }
        let folder = self.folder_of(SqliteIdentities::FILE)?;
        let identities = SqliteIdentities::open(folder)
            .await
            .with_context(|| unusable(folder))?;
        Ok(IdentitiesEngine::Sqlite(Arc::new(identities)))
    }

    /// Returns the profiles.
    ///
    /// # Errors
    /// Returns what keeps them from opening, with the setting to look at.
    pub(crate) async fn profiles(&self) -> anyhow::Result<Arc<dyn Profiles>> {
        Ok(match self.profiles_engine().await? {
            ProfilesEngine::Memory(profiles) => profiles.clone(),
            ProfilesEngine::Redis(profiles) => profiles.clone(),
        })
    }

    /// Returns the profiles for the consumer: it has thousands to read and write at once, and time to wait for each response of a
    /// server, while a decision has not.
    ///
    /// # Errors
    /// Returns what keeps them from opening, with the setting to look at.
    pub(crate) async fn profiles_for_batches(
        &self,
        response_timeout: Duration,
    ) -> anyhow::Result<Arc<dyn Profiles>> {
        Ok(match self.profiles_engine().await? {
            ProfilesEngine::Memory(profiles) => profiles.clone(),
            ProfilesEngine::Redis(profiles) => Arc::new(profiles.another(response_timeout).await),
        })
    }

    async fn profiles_engine(&self) -> anyhow::Result<&ProfilesEngine> {
        self.profiles.get_or_try_init(|| self.open_profiles()).await
    }

    async fn open_profiles(&self) -> anyhow::Result<ProfilesEngine> {
        let Some(config) = &self.redis else {
            let memory = MemoryProfiles::new(&self.embedded.profiles);
            return Ok(ProfilesEngine::Memory(Arc::new(memory)));
        };
        let profiles = if self.may_lack_profiles {
            Box::pin(RedisProfiles::connect_or_go_on(config.clone())).await?
        } else {
            Box::pin(RedisProfiles::connect(config.clone())).await?
        };
        self.count(|registry| profiles.register_metrics(registry));
        Ok(ProfilesEngine::Redis(Arc::new(profiles)))
    }

    /// Returns whether processes share one store of profiles.
    pub(crate) fn shares_profiles(&self) -> bool {
        self.redis.is_some()
    }

    /// Returns whether erased rows of the event store remain in its files for a time.
    pub(crate) fn masks_rows(&self) -> bool {
        self.clickhouse.is_some()
    }

    /// Commits what is queued, leaves all consumer groups and closes what was opened.
    pub(crate) async fn close(&self) {
        match self.bus.get() {
            Some(BusEngine::Sqlite(bus)) => bus.close().await,
            Some(BusEngine::Kafka(bus)) => bus.close().await,
            None => {}
        }
        // ClickHouse is reached by single requests, and each connection to Redis ends with its last user.
        if let Some(EventsEngine::Sqlite(events)) = self.events.get() {
            events.close().await;
        }
        match self.identities.get() {
            Some(IdentitiesEngine::Sqlite(identities)) => identities.close().await,
            Some(IdentitiesEngine::Postgres(identities)) => identities.close().await,
            None => {}
        }
    }

    fn count(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns the folder of the embedded engine with this file, and creates the folder if it is missing.
    ///
    /// # Errors
    /// Fails if the folder cannot be created, or the file is missing and must not be.
    fn folder_of(&self, file: &str) -> anyhow::Result<&Path> {
        let path = self.folder.join(file);
        if !self.may_create && !path.exists() {
            bail!(
                "there is no `{}`, which the roles make: give this command their `--config` or `--data` (`data_folder`), in the \
                 same current folder",
                path.display()
            );
        }
        embedded::create_folder(&self.folder).with_context(|| unusable(&self.folder))?;
        Ok(&self.folder)
    }
}

/// The stored accounts, from a store that is opened when it is first queried and may be down until then.
pub(crate) struct LateAccounts(pub(crate) Arc<Engines>);

impl LateAccounts {
    async fn store(&self) -> Result<Arc<dyn StoredAccounts>, StoreError> {
        let engines = Arc::clone(&self.0);
        let runtime = Handle::current();
        // On a thread of its own: the compiler cannot prove that the migrations' future is `Send`.
        let opened = tokio::task::spawn_blocking(move || runtime.block_on(engines.stored_accounts())).await;
        let opened = opened.map_err(anyhow::Error::from).flatten();
        opened.map_err(|error| StoreError::Unavailable {
            engine: "the identity store",
            // In one string: an `anyhow::Error` converted into another error shows only its outermost message.
            cause: format!("{error:#}").into(),
        })
    }
}

#[async_trait]
impl StoredAccounts for LateAccounts {
    async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        self.store().await?.accounts().await
    }

    async fn put_account(&self, account: &StoredAccount, before: Option<&[u8]>) -> Result<bool, StoreError> {
        self.store().await?.put_account(account, before).await
    }

    async fn remove_account(&self, provider: &str, account: &str) -> Result<bool, StoreError> {
        self.store().await?.remove_account(provider, account).await
    }
}

fn unusable(folder: &Path) -> String {
    format!(
        "cannot use the data folder `{}` (`data_folder`)",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;
    use crate::config;

    fn engines(file: &str) -> anyhow::Result<Engines> {
        let table: Table = file.parse()?;
        Engines::existing_or_new(&config::parse(table)?)
    }

    #[test]
    fn an_address_selects_the_engine_that_scales_out() {
        let mixed = engines("[kafka]\nbootstrap_servers = 'kafka:9092'\n[redis]").unwrap();
        assert!(mixed.kafka.is_some() && mixed.clickhouse.is_none());
        assert!(mixed.postgres.is_none() && mixed.redis.is_none());
        let all = engines(
            "[kafka]\nbootstrap_servers = 'a:1'\n[clickhouse]\nhost = 'a'\n[postgres]\nhost = 'a'\n[redis]\nhost = 'a'",
        )
        .unwrap();
        assert!(all.kafka.is_some() && all.clickhouse.is_some());
        assert!(all.postgres.is_some() && all.redis.is_some());
    }

    #[test]
    fn places_tell_the_address_that_is_connected_to() {
        let shown = |file: &str| engines(file).unwrap().places().map(|place| place.to_string());
        assert_eq!(
            shown("data_folder = '/data'"),
            [
                "bus: embedded in /data",
                "events: embedded in /data",
                "identities: embedded in /data",
                "profiles: embedded in memory"
            ]
        );
        assert_eq!(
            shown(
                "[kafka]\nbootstrap_servers = 'a:1,b:2'\n[clickhouse]\nhost = 'ch'\nsecure = true\n\
                 [postgres]\nhost = '::1'\npassword = 's3cret'\n[redis]\nhost = 'cache'\nport = 7"
            ),
            [
                "bus: kafka at a:1,b:2",
                "events: clickhouse at ch:8443",
                "identities: postgres at [::1]:5432",
                "profiles: redis at cache:7"
            ]
        );
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let error = |file| format!("{:#}", engines(file).err().unwrap());
        assert!(error("[kafka]\nbootstrap_servers = 'http://a'").contains("`kafka.bootstrap_servers`"));
        assert!(error("[store]\nlease_ms = 1").contains("`store.lease_ms` is 1, it must be between"));
        assert!(error("[redis]\npassword = 'x'").contains("`redis.host` is not"));
    }

    #[tokio::test]
    async fn embedded_engines_open_in_the_data_folder_when_they_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let engines = engines(&format!("data_folder = '{}'", data.display())).unwrap();
        assert!(!data.exists());
        engines.bus().await.unwrap().ping().await.unwrap();
        let files = || std::fs::read_dir(&data).unwrap().count();
        let with_bus = files();
        engines.identities().await.unwrap().ping().await.unwrap();
        assert!(files() > with_bus);
        engines.close().await;
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_within_ten_seconds() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let engines = engines(&format!(
            "[kafka]\nbootstrap_servers = '127.0.0.1:{port}'\n[clickhouse]\nhost = '127.0.0.1'\nport = {port}\n\
             [postgres]\nhost = '127.0.0.1'\nport = {port}\n[redis]\nhost = '127.0.0.1'\nport = {port}"
        ))
        .unwrap();
        let started = std::time::Instant::now();
        let (bus, events, identities, profiles) = tokio::join!(
            engines.bus(),
            engines.events(),
            engines.identities(),
            engines.profiles()
        );
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
        for (setting, error) in [
            ("kafka.bootstrap_servers", bus.err()),
            ("clickhouse.host", events.err()),
            ("postgres.host", identities.err()),
            ("redis.host", profiles.err()),
        ] {
            let error = format!("{:#}", error.unwrap());
            assert!(error.contains(setting), "`{setting}` is not in: {error}");
        }
    }
}
