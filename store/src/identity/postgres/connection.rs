//! Connects to PostgreSQL and maps its errors.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Postgres,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use tokio::{sync::SemaphorePermit, time::Instant};

use super::{ENGINE, PostgresConfig, PostgresTls};
use crate::StoreError;

/// How long opening waits for a server that does not listen yet, is recovering or has no free connection slot.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two attempts to open the first connection.
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait for a connection, new or from the pool: two lost packets are retransmitted within it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long reads fail at once after one has noticed an outage. Half a second: reads are unavailable for at most that much
/// longer than the server, and a hundred processes that try it twice a second are hardly any load.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// SQLSTATE of a server that has no room for another connection.
const OUT_OF_CONNECTIONS: &str = "53300";

/// SQLSTATE with which poolers refuse what they do not support or cannot pass on.
const PROTOCOL_VIOLATION: &str = "08P01";

/// Table that records the applied schema steps; the name is specific to us, since the database may be shared.
const STEPS_TABLE: &str = "sendflowr_schema_steps";

/// The steps of the schema, oldest first. They only add, and whatever they add has a default, so that older builds keep working
/// with the same tables.
const STEPS: &[(i64, &str, &str)] = &[
    (
        1,
        "identity",
        include_str!("../../../migrations/postgres/0001_identity.sql"),
    ),
    (
        2,
        "accounts",
        include_str!("../../../migrations/postgres/0002_accounts.sql"),
    ),
    (
        3,
        "ids with events",
        include_str!("../../../migrations/postgres/0003_ids_with_events.sql"),
    ),
    (
        4,
        "pepper check",
        include_str!("../../../migrations/postgres/0004_pepper_check.sql"),
    ),
];

/// Opens the pool and brings the schema up to date.
pub(super) async fn open(config: &PostgresConfig) -> Result<PgPool, StoreError> {
    let options = options(config);
    let mut connection = first_connection(config, &options).await?;
    migrate(&mut connection).await?;
    // The pool opens its own connections; it does not matter whether this one closes cleanly.
    let _ = connection.close().await;
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

fn options(config: &PostgresConfig) -> PgConnectOptions {
    let mode = match config.tls {
        PostgresTls::Disable => PgSslMode::Disable,
        PostgresTls::Prefer => PgSslMode::Prefer,
        PostgresTls::Require => PgSslMode::Require,
        PostgresTls::VerifyCa => PgSslMode::VerifyCa,
        PostgresTls::VerifyFull => PgSslMode::VerifyFull,
    };
    // Sets even an empty password: otherwise the one that the environment provides for PostgreSQL's own programs would be used.
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&config.host)
        .port(config.port)
        .username(&config.user)
        .password(config.password.expose())
        .database(&config.database)
        .application_name("sendflowr")
        // A pooler such as pgbouncer refuses this parameter of sqlx, and no column is a floating-point number.
        .extra_float_digits(None)
        .ssl_mode(mode)
        .disable_statement_logging();
    if let Some(ca) = &config.ca {
        options = options.ssl_root_cert_from_pem(ca.clone().into_bytes());
    }
    options
}

/// Connects once, to get an error that says what is wrong: the pool would only report a timeout.
async fn first_connection(
    config: &PostgresConfig,
    options: &PgConnectOptions,
) -> Result<PgConnection, StoreError> {
    let address = config.address();
    let deadline = Instant::now() + OPEN_WITHIN;
    loop {
        let mut code = String::new();
        let error = match tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => {
                code = code_of(&error);
                opening(&address, error)
            }
            Err(_) => unavailable(format!("no answer within {ACQUIRE_TIMEOUT:?}")),
        };
        match error {
            StoreError::Unavailable { .. } if Instant::now() < deadline => {
                tokio::time::sleep(OPEN_PAUSE).await
            }
            StoreError::Unavailable { cause, .. } if code == OUT_OF_CONNECTIONS => {
                return Err(misconfigured(format!(
                    "`{address}` is out of connections: {cause}; raise the server's `max_connections` and the \
                     `CONNECTION LIMIT` of `postgres.user` and `postgres.database`, whichever is reached, or lower \
                     `postgres.max_connections` of the roles"
                )));
            }
            StoreError::Unavailable { cause, .. } if code == PROTOCOL_VIOLATION => {
                return Err(misconfigured(format!(
                    "`{address}` refuses the connection: {cause}; poolers such as pgbouncer answer like this: look at \
                     `postgres.user`, `postgres.password` and `postgres.database`, and at the pooler's settings and log"
                )));
            }
            StoreError::Unavailable { cause, .. } => {
                return Err(misconfigured(format!(
                    "`{address}` cannot be reached: {cause}; look at `postgres.host` and `postgres.port`"
                )));
            }
            other => return Err(other),
        }
    }
}

/// Returns the SQLSTATE of an answer of the server; nothing for an error without an answer.
fn code_of(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.unwrap_or_default().into_owned()
}

/// Maps an error of the first connection attempt.
fn opening(address: &str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Tls(error) => no_tls(address, &*error),
        // How TLS reports a certificate that it does not trust, and a server that does not use TLS.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => no_tls(address, &error),
        sqlx::Error::Protocol(message) => misconfigured(format!(
            "`{address}` is not a PostgreSQL server ({message}); look at `postgres.port`"
        )),
        other => classify(other),
    }
}

fn no_tls(address: &str, error: &dyn std::error::Error) -> StoreError {
    misconfigured(format!(
        "no TLS with `{address}`: {error}; look at `postgres.tls` and `postgres.ca`"
    ))
}

async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    let steps = STEPS.iter().map(|(version, name, sql)| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    migrator.dangerous_set_table_name(STEPS_TABLE);
    // The migrator writes even if there is nothing to do, which a server that is read-only refuses.
    if is_migrated(connection, &migrator).await? {
        return Ok(());
    }
    // The migrator makes processes take turns. Waiting for the steps of others takes moments. The notices of the server that
    // the table of steps already exists are suppressed.
    sqlx::raw_sql("SET lock_timeout = '4s'; SET client_min_messages = warning")
        .execute(&mut *connection)
        .await
        .map_err(classify)?;
    let migrated = migrator.run(&mut *connection).await;
    // A newer build may have been quicker.
    if matches!(migrated, Err(MigrateError::VersionMissing(_))) && is_migrated(connection, &migrator).await? {
        return Ok(());
    }
    migrated.map_err(not_migrated)
}

/// Returns whether the database has all steps of this build and, if there are others, they belong to a newer build. Such a
/// database is used as it is: steps only add, and older builds must keep working next to newer ones.
async fn is_migrated(connection: &mut PgConnection, migrator: &Migrator) -> Result<bool, StoreError> {
    let has_table: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(STEPS_TABLE)
        .fetch_one(&mut *connection)
        .await
        .map_err(classify)?;
    if !has_table {
        return Ok(false);
    }
    // In the order of the versions, as ours.
    let applied = connection
        .list_applied_migrations(STEPS_TABLE)
        .await
        .map_err(not_migrated)?;
    let has_ours = applied
        .iter()
        .map(|step| (step.version, &step.checksum))
        .take(STEPS.len())
        .eq(migrator.iter().map(|step| (step.version, &step.checksum)));
    Ok(has_ours)
}

/// Maps an error of the migrator.
fn not_migrated(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            misconfigured(format!(
                "the database has a schema {version} that differs from this build's; set another `postgres.database`"
            ))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => classify(error),
        other => misconfigured(format!(
            "the tables in `postgres.database` cannot be brought up to date: {other}"
        )),
    }
}

/// A connection borrowed from the pool. It is returned only when its work has completed; otherwise it is closed, because its
/// state is unknown, as is whether the server is still at its other end.
pub(super) struct Lease<'a> {
    connection: Option<PoolConnection<Postgres>>,
    /// For a write: its turn, which ends with the lease.
    turn: Option<SemaphorePermit<'a>>,
}

impl<'a> Lease<'a> {
    pub(super) async fn take(pool: &PgPool) -> Result<Self, StoreError> {
        Ok(Self {
            connection: Some(pool.acquire().await.map_err(classify)?),
            turn: None,
        })
    }

    pub(super) fn with_turn(mut self, turn: SemaphorePermit<'a>) -> Self {
        self.turn = Some(turn);
        self
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.connection
            .as_mut()
            .expect("it is there until the lease ends")
    }

    pub(super) fn give_back(mut self) {
        self.connection = None;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

/// Spares readers the wait while the server is down.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// During an outage: when the server may be tried again.
    asked_again_at: Mutex<Option<Instant>>,
}

impl Outage {
    /// Checks whether the caller may try the server. During an outage one caller at a time may, after each pause.
    pub(super) fn ask(&self) -> Result<(), StoreError> {
        let mut asked_again_at = self.asked_again_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &mut *asked_again_at {
            None => Ok(()),
            Some(at) if *at <= now => {
                *at = now + OUTAGE_PAUSE;
                Ok(())
            }
            Some(_) => Err(unavailable(
                "it did not respond a moment ago and is tried again shortly",
            )),
        }
    }

    /// Records the outcome of a caller's attempt.
    pub(super) fn learn<T>(&self, result: &Result<T, StoreError>) {
        let is_away = matches!(result, Err(StoreError::Unavailable { .. }));
        let mut asked_again_at = self.asked_again_at.lock().unwrap_or_else(PoisonError::into_inner);
        *asked_again_at = is_away.then(|| Instant::now() + OUTAGE_PAUSE);
    }
}

/// Maps an error to what the caller should do about it. Messages of the server that may quote values are not repeated.
pub(super) fn classify(error: sqlx::Error) -> StoreError {
    let sqlx::Error::Database(database) = &error else {
        return match error {
            sqlx::Error::ColumnDecode { index, .. } => {
                misconfigured(format!("column {index} has a value this build cannot read"))
            }
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => rejected(error.to_string()),
            sqlx::Error::Configuration(_) => misconfigured(error.to_string()),
            // The pool does not pass on what the server answered.
            sqlx::Error::PoolTimedOut => unavailable(format!(
                "no connection within {ACQUIRE_TIMEOUT:?}: the server does not answer or is out of connections (its \
                 `max_connections`, or the `CONNECTION LIMIT` of `postgres.user`), or all `postgres.max_connections` of \
                 this process are busy"
            )),
            other => unavailable(other),
        };
    };
    let code = code_of(&error);
    let refused = |setting: &str| misconfigured(format!("{}; look at {setting}", database.message()));
    match (code.get(..2).unwrap_or_default(), code.as_str()) {
        ("28", _) => refused("`postgres.user` and `postgres.password`"),
        ("3D", _) => refused("`postgres.database`"),
        (_, "42501") => refused("the rights of `postgres.user`"),
        // Data that no column accepts: characters, lengths, constraints.
        ("22" | "23", _) => rejected(format!("SQLSTATE {code}")),
        // A prepared statement that exists already, or does not: the session is not the one that prepared it.
        (_, "42P05" | "26000") => misconfigured(format!(
            "{}: a pooler gives each transaction another connection; let it pool sessions (pgbouncer: `pool_mode = \
             session`), or set `postgres.host` and `postgres.port` to the server behind it",
            database.message()
        )),
        // It may become writable again.
        (_, "25006") => unavailable(format!(
            "{}: it is a replica, or read-only; look at `postgres.host`, and at `default_transaction_read_only` of the \
             server, `postgres.database` and `postgres.user`",
            database.message()
        )),
        // Tables that somebody has modified.
        ("42", _) => refused("the tables in `postgres.database`"),
        // Connections, resources, deadlocks, timeouts, shutdowns, a server that became a replica, and everything else that may
        // pass.
        _ => unavailable(error),
    }
}

pub(super) fn unavailable(cause: impl Into<crate::Unavailable>) -> StoreError {
    StoreError::unavailable(ENGINE, cause)
}

pub(super) fn rejected(message: impl Into<String>) -> StoreError {
    StoreError::rejected(ENGINE, message)
}

fn misconfigured(message: impl Into<String>) -> StoreError {
    StoreError::misconfigured(ENGINE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_an_outage_one_reader_asks_for_all() {
        let outage = Outage::default();
        outage.ask().unwrap();
        outage.ask().unwrap();
        outage.learn::<()>(&Err(unavailable("away")));
        outage.ask().unwrap_err();
        tokio::time::advance(OUTAGE_PAUSE).await;
        outage.ask().unwrap();
        outage.ask().unwrap_err();
        outage.learn(&Ok(()));
        outage.ask().unwrap();
        outage.learn::<()>(&Err(rejected("bad data is not an outage")));
        outage.ask().unwrap();
    }
}
