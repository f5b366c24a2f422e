//! What the embedded engines share: opening a database file, one writer next to several readers, and errors.
//!
//! Every file is in write-ahead mode, so that readers never wait for the writer, and may be open in several processes at once.
//! Within a process, writers take turns in the order of their arrival; between processes, whichever finds the file free goes
//! next.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use event::Timestamp;
use sqlx::{
    ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::time::Instant;

use crate::{StoreError, embedded};

/// The engine's name in errors.
const ENGINE: &str = "sqlite";

/// Takes the write lock of the file at once, so that a transaction never has to give up half-way.
const WRITING: &str = "BEGIN IMMEDIATE";

/// How long a writer waits for others, in this process or another, before it reports the file as busy. Longer than writing the
/// largest batch takes, shorter than a webhook provider waits for a response (5 s and more).
const WRITE_WAIT: Duration = Duration::from_secs(4);

/// How long opening a file waits for other processes that open it too: the first of them creates it, possibly on a slow disk.
const OPEN_WAIT: Duration = Duration::from_secs(30);

/// How long SQLite itself waits for a lock before [`Database::begin`] tries again. SQLite checks the lock again after 1, 2, 5
/// and then more and more milliseconds, up to 100. Starting over after this short time keeps the pauses short, so that a
/// process finds the gap between two transactions of a busy one.
const LOCK_WAIT: Duration = Duration::from_millis(8);

/// How long a reader waits in the one case in which it has to: while the log of a crashed process is recovered.
const READ_WAIT: Duration = Duration::from_secs(4);

/// Size in bytes, 64 MiB, to which a write-ahead log is truncated after it grew under load.
const LOG_BYTES: &str = "67108864";

/// Read connections per file. Reads take well under a millisecond each, so a few connections serve many callers; each of them
/// costs a thread and up to 2 MiB of cache.
const READERS: u32 = 4;

/// One migration of a file's schema.
pub(crate) struct Step {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// A power failure: every commit is flushed.
    PowerLoss,
    /// A crash of the process. A power failure may lose the last commits, but the file stays consistent.
    ProcessCrash,
}

/// An open database file.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    path: PathBuf,
    file: FileId,
    writer: SqlitePool,
    readers: SqlitePool,
}

/// Device and number of a file.
type FileId = (u64, u64);

impl Database {
    /// Opens the file, creates it if it is missing, and brings its schema up to date, however long the disk takes for that.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when the file cannot be opened, is damaged, or was written by a newer build;
    /// [`StoreError::Unavailable`] when other processes do not release it.
    pub(crate) async fn open(
        path: &Path,
        steps: &[Step],
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(true)
            .disable_statement_logging();
        let synchronous = match durability {
            Durability::PowerLoss => SqliteSynchronous::Full,
            Durability::ProcessCrash => SqliteSynchronous::Normal,
        };
        let writing = options
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("journal_size_limit", LOG_BYTES)
            .busy_timeout(LOCK_WAIT);
        let reading = options.busy_timeout(READ_WAIT).pragma("query_only", "on");

        // Not through a pool, which gives up on a connection that takes longer to open than a writer may wait.
        let mut first = connect(path, &writing).await?;
        make_private(path);
        check_writable(&mut first, path).await?;
        migrate(&mut first, path, steps).await?;
        let file =
            file_id(path).ok_or_else(|| unavailable(format!("cannot look at `{}`", path.display())))?;
        let database = Self {
            path: path.to_owned(),
            file,
            writer: pool(1).connect_lazy_with(writing),
            readers: pool(READERS).connect_lazy_with(reading),
        };
        first.close().await.map_err(classify)?;
        Ok(database)
    }

    /// Begins a write transaction. Waits for other writers: at most [`WRITE_WAIT`] for those of this process and as long again
    /// for those of others. Dropping the transaction rolls it back.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the others do not release the lock, or the file is not where it was.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        // A file that was deleted or replaced can still be written by those who have it open, and nobody would find what they
        // wrote.
        if file_id(&self.path) != Some(self.file) {
            return Err(unavailable(format!(
                "`{}` was moved, deleted or replaced while it was open: put it back, or stop this process and start it again",
                self.path.display()
            )));
        }
        let deadline = Instant::now() + WRITE_WAIT;
        loop {
            match self.writer.begin_with(WRITING).await {
                Err(error) if is_busy(&error) && Instant::now() < deadline => {}
                // SQLite itself rolls a transaction back when the disk is full or fails. The connection then takes itself to
                // be in that transaction for ever: its own roll-back fails, because there is nothing to roll back.
                Err(sqlx::Error::InvalidSavePointStatement) => {
                    let stuck = self.writer.acquire().await.map_err(classify)?;
                    stuck.close().await.map_err(classify)?;
                }
                result => return result.map_err(classify),
            }
        }
    }

    /// Begins a write transaction that erases: deleted rows are overwritten in the file instead of staying there until
    /// something else takes their place. Copies that earlier writes left in unused parts of pages are only removed by a
    /// `VACUUM`, which rewrites the whole file and blocks all other writers meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the others do not release the lock.
    pub(crate) async fn begin_erasing(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query("PRAGMA secure_delete = ON")
            .fetch_all(&mut *transaction)
            .await
            .map_err(classify)?;
        Ok(transaction)
    }

    /// Checkpoints the log into the file and truncates it, so that it holds nothing that was erased. While a reader still uses
    /// the earlier state, this is left to the next checkpoint; every process makes one after a few megabytes.
    pub(crate) async fn fold_log(&self) -> Result<(), StoreError> {
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_all(&self.writer)
            .await
            .map_err(classify)?;
        Ok(())
    }

    /// Returns the read connections.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Commits a row and reads it back.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query("INSERT OR REPLACE INTO ping (id, at_ms) VALUES (1, ?1)")
            .bind(now().as_millis())
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        transaction.commit().await.map_err(classify)?;
        sqlx::query_scalar::<_, i64>("SELECT at_ms FROM ping")
            .fetch_one(&self.readers)
            .await
            .map_err(classify)?;
        Ok(())
    }

    /// Waits for running operations, then closes all connections; the last connection of a file checkpoints its log.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Maximum number of rows that one statement inserts: the round trip to the connection's thread costs as much as writing
/// several rows. Each number of rows is a separate statement, and a connection caches a hundred statements.
pub(crate) const ROWS: usize = 32;

/// Returns the wall-clock time. Processes that use one folder share the clock, so leases and ages of records are based on it.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(WRITE_WAIT)
        .idle_timeout(None)
        .max_lifetime(None)
        // A connection to a file does not become stale.
        .test_before_acquire(false)
}

/// SQLite's codes for a file that can only be read, for a disk that fails or is full, and for a file that cannot even be read.
const READ_ONLY: i32 = 8;
const FAILED_IO: i32 = 10;
const CANNOT_OPEN: i32 = 14;

/// Connects, waiting for other processes: the file is locked while one of them switches a new file to write-ahead mode.
async fn connect(path: &Path, options: &SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
    let deadline = Instant::now() + OPEN_WAIT;
    loop {
        match options.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if is_busy(&error) && Instant::now() < deadline => tokio::time::sleep(LOCK_WAIT).await,
            Err(error) if is_busy(&error) => return Err(classify(error)),
            Err(error) => {
                let why = match primary_code(&error) {
                    Some(CANNOT_OPEN) => owner(path),
                    Some(FAILED_IO) => ", perhaps because the disk is full".to_owned(),
                    _ => String::new(),
                };
                return Err(StoreError::Misconfigured {
                    engine: ENGINE,
                    message: format!("cannot open `{}`{why}: {error}", path.display()),
                });
            }
        }
    }
}

/// Returns which file this is, if it is there.
fn file_id(path: &Path) -> Option<FileId> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Keeps other users of the machine from reading the file and its logs, which SQLite creates with the mode of the file.
fn make_private(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        embedded::make_private(Path::new(&name));
    }
}

/// Writes something that nobody reads: SQLite opens a file that belongs to another user without an error, and only refuses to
/// write. Other failures, such as a full disk, may pass and do not keep anybody from reading.
async fn check_writable(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    match sqlx::query("PRAGMA user_version = 0").execute(connection).await {
        Err(error) if primary_code(&error) == Some(READ_ONLY) => Err(StoreError::Misconfigured {
            engine: ENGINE,
            message: format!("cannot write `{}`{}", path.display(), owner(path)),
        }),
        _ => Ok(()),
    }
}

/// Returns what to do about a file that is there and cannot be opened or written.
fn owner(path: &Path) -> String {
    if let Err(error) = OpenOptions::new().append(true).open(path)
        && error.kind() == ErrorKind::ReadOnlyFilesystem
    {
        return ", whose file system is read-only: mount it writable, or use another data folder".to_owned();
    }
    if let Ok(found) = std::fs::metadata(path) {
        let (owner, mode) = (found.uid(), found.mode() & 0o777);
        return format!(
            ", which belongs to the user {owner} and has the mode {mode:o}: give it, and what begins with its name, to the user \
             of this process (`chown`), or start this process as that user"
        );
    }
    String::new()
}

async fn migrate(connection: &mut SqliteConnection, path: &Path, steps: &[Step]) -> Result<(), StoreError> {
    let migrations = steps.iter().map(|step| {
        Migration::new(
            step.version,
            step.name.into(),
            MigrationType::Simple,
            sqlx::SqlStr::from_static(step.sql),
            false,
        )
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    // One transaction around all steps, so that exactly one of several processes that open a new file migrates it.
    let deadline = Instant::now() + OPEN_WAIT;
    let mut transaction = loop {
        match connection.begin_with(WRITING).await {
            Err(error) if is_busy(&error) && Instant::now() < deadline => {}
            result => break result.map_err(classify)?,
        }
    };
    migrator.run(&mut *transaction).await.map_err(|error| {
        let newest = steps.last().map_or(0, |step| step.version);
        wrong_schema(path, newest, error)
    })?;
    transaction.commit().await.map_err(classify)
}

fn wrong_schema(path: &Path, newest: i64, error: MigrateError) -> StoreError {
    let path = PathBuf::from(path);
    let message = match error {
        MigrateError::VersionMissing(version) if version > newest => format!(
            "`{}` was written by a newer build: it has schema {version}, this build knows up to {newest}; upgrade \
             this build or use another data folder",
            path.display()
        ),
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => format!(
            "`{}` has a schema {version} that differs from this build's; use another data folder",
            path.display()
        ),
        MigrateError::Execute(error) => return classify(error),
        other => format!(
            "cannot bring the schema of `{}` up to date: {other}",
            path.display()
        ),
    };
    StoreError::misconfigured(ENGINE, message)
}

pub(crate) fn unavailable(cause: impl Into<crate::Unavailable>) -> StoreError {
    StoreError::unavailable(ENGINE, cause)
}

pub(crate) fn rejected(message: impl Into<String>) -> StoreError {
    StoreError::rejected(ENGINE, message)
}

pub(crate) fn malformed(table: &str, column: &str) -> StoreError {
    StoreError::malformed(ENGINE, table, column)
}

/// Returns the primary result code of an error that SQLite itself returned.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY, SQLITE_LOCKED
    matches!(primary_code(error), Some(5 | 6))
}

/// Maps an error to what the caller should do about it. SQLite's messages name tables and columns, never values.
pub(crate) fn classify(error: sqlx::Error) -> StoreError {
    if let Some(code) = primary_code(&error) {
        return match code {
            // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH, SQLITE_RANGE
            18 | 19 | 20 | 25 => rejected(error.to_string()),
            // SQLITE_ERROR (no such table, for example), SQLITE_PERM, SQLITE_READONLY, SQLITE_CORRUPT, SQLITE_CANTOPEN,
            // SQLITE_AUTH, SQLITE_NOTADB
            1 | 3 | 8 | 11 | 14 | 23 | 26 => StoreError::misconfigured(ENGINE, error.to_string()),
            // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_FULL, SQLITE_NOMEM and others that may pass.
            _ => unavailable(error),
        };
    }
    match error {
        sqlx::Error::ColumnDecode { index, .. } => StoreError::Misconfigured {
            engine: ENGINE,
            message: format!("column {index} has a value this build cannot read"),
        },
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => rejected(error.to_string()),
        other => unavailable(other),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FIRST: Step = Step {
        version: 1,
        name: "things",
        sql: "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
              CREATE TABLE ping (id INTEGER PRIMARY KEY, at_ms INTEGER);",
    };

    #[tokio::test]
    async fn many_may_open_a_new_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        let opening = (0..8).map(|_| Database::open(&path, &[FIRST], Durability::PowerLoss));
        for opened in futures::future::join_all(opening).await {
            opened.unwrap().ping().await.unwrap();
        }
    }

    // The clock is paused while the test works and jumps to the next timer whenever the test waits, as it does for the disk
    // here: a timeout around opening would expire.
    #[tokio::test(start_paused = true)]
    async fn opening_takes_as_long_as_the_disk_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_file_of_a_newer_build_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        let second = Step {
            version: 2,
            name: "more",
            sql: "CREATE TABLE more (id INTEGER)",
        };
        let newer = Database::open(&path, &[FIRST, second], Durability::PowerLoss)
            .await
            .unwrap();
        newer.close().await;
        let error = Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        assert!(error.to_string().contains("written by a newer build"), "{error}");
        assert!(
            error.to_string().contains("schema 2, this build knows up to 1"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn nobody_else_may_read_the_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = folder.path().join("things.db");
        let modes = || {
            let files = std::fs::read_dir(folder.path()).unwrap().map(|file| {
                let file = file.unwrap();
                (
                    file.file_name(),
                    file.metadata().unwrap().permissions().mode() & 0o777,
                )
            });
            files.collect::<Vec<_>>()
        };
        let database = Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap();
        database.ping().await.unwrap();
        assert!(modes().len() > 1, "{:?}", modes());
        assert!(modes().iter().all(|(_, mode)| *mode == 0o600), "{:?}", modes());
        database.close().await;
        // Files of an earlier build.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let database = Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap();
        assert!(modes().iter().all(|(_, mode)| *mode == 0o600), "{:?}", modes());
        database.close().await;
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_told_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap();
        let owner = std::fs::metadata(&path).unwrap().uid();
        // Whoever runs the tests may write the file, so the connection is one that must not.
        let reading = SqliteConnectOptions::new().filename(&path).read_only(true);
        let mut connection = connect(&path, &reading).await.unwrap();
        let error = check_writable(&mut connection, &path).await.unwrap_err();
        let expected = format!(
            "cannot write `{}`, which belongs to the user {owner} and has the mode 600",
            path.display()
        );
        assert!(error.to_string().contains(&expected), "{error}");
        // Nobody can open a folder as a file.
        let error = Database::open(folder.path(), &[FIRST], Durability::PowerLoss)
            .await
            .unwrap_err();
        let expected = format!(
            "cannot open `{}`, which belongs to the user {owner}",
            folder.path().display()
        );
        assert!(error.to_string().contains(&expected), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_database_is_misconfigured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        std::fs::write(
            &path,
            "not a database, but long enough to hold a header of one hundred bytes".repeat(4),
        )
        .unwrap();
        let error = Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        let missing = folder.path().join("missing/things.db");
        let error = Database::open(&missing, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("missing/things.db"), "{error}");
    }

    #[tokio::test]
    async fn a_writer_whose_transaction_sqlite_has_ended_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        let database = Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap();
        for _ in 0..2 {
            let mut transaction = database.begin().await.unwrap();
            // What SQLite does by itself when the disk is full.
            sqlx::query("ROLLBACK").execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap_err();
            database.ping().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_locked_file_is_unavailable_and_bad_data_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        let one = Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap();
        let other = Database::open(&path, &[FIRST], Durability::PowerLoss)
            .await
            .unwrap();
        let mut held = one.begin().await.unwrap();
        let error = other.begin().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let error = sqlx::query("INSERT INTO things (id) VALUES (1)")
            .execute(&mut *held)
            .await
            .unwrap_err();
        assert!(matches!(classify(error), StoreError::Rejected { .. }));
        drop(held);
        other.begin().await.unwrap();
        let error = sqlx::query("DELETE FROM things")
            .execute(other.readers())
            .await
            .unwrap_err();
        assert!(
            matches!(classify(error), StoreError::Misconfigured { .. }),
            "readers cannot write"
        );
    }
}
