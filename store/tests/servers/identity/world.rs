use std::hash::{BuildHasher, RandomState};

use event::settings::Secret;
use sendflowr_store::identity::{PostgresConfig, PostgresIdentities, RawPostgresConfig};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use crate::{
    gate::Gate,
    support::Server,
    tls::{Asks, Front},
};

/// A database that only this test uses, dropped at its end with the user of the same name.
pub(crate) struct Database {
    name: String,
    server: Server,
    /// Options to connect to the database named in the address.
    entrance: PgConnectOptions,
}

impl Database {
    pub(crate) async fn new() -> Self {
        let server = Server::of("SENDFLOWR_TEST_POSTGRES");
        let database = Self {
            name: format!("test_{:016x}", RandomState::new().hash_one("database")),
            entrance: server.address.parse().unwrap(),
            server,
        };
        let mut connection = database.entrance.connect().await.unwrap();
        let statement = format!("CREATE DATABASE {}", database.name);
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        database
    }

    pub(crate) fn settings(&self) -> RawPostgresConfig {
        RawPostgresConfig {
            host: Some(self.server.host.clone()),
            port: self.server.port,
            database: self.name.clone(),
            user: self.server.user.clone(),
            password: Secret::new(&self.server.password),
            // All tests together stay below the connection limit of the server.
            max_connections: 4,
            // A long timeout: all tests run at once on few processors.
            read_timeout_ms: 5_000,
            ..Default::default()
        }
    }

    /// Makes the database that of a user who may have so many connections, as the one that the tests have may not be limited.
    /// Returns the settings.
    pub(crate) async fn limited(&self, connections: u32) -> RawPostgresConfig {
        let name = &self.name;
        for statement in [
            format!("CREATE ROLE {name} LOGIN PASSWORD 'limited' CONNECTION LIMIT {connections}"),
            format!("ALTER DATABASE {name} OWNER TO {name}"),
        ] {
            self.run(statement).await;
        }
        RawPostgresConfig {
            user: name.clone(),
            password: Secret::new("limited"),
            ..self.settings()
        }
    }

    /// Lets the server refuse the writes of all later connections.
    pub(crate) async fn refuse_writes(&self) {
        let name = &self.name;
        self.run(format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on"
        ))
        .await;
    }

    pub(crate) async fn open(&self) -> PostgresIdentities {
        let config = PostgresConfig::try_from(self.settings()).unwrap();
        PostgresIdentities::connect(config).await.unwrap()
    }

    pub(crate) async fn gate(&self) -> Gate {
        Gate::to(&self.server.host, self.server.port).await
    }

    pub(crate) async fn tls_front(&self) -> Front {
        Front::of(&self.server.host, self.server.port, Asks::First).await
    }

    /// Opens a connection that is independent of the engine under test.
    pub(crate) async fn connection(&self) -> PgConnection {
        self.entrance
            .clone()
            .database(&self.name)
            .connect()
            .await
            .unwrap()
    }

    pub(crate) async fn run(&self, statement: impl Into<String>) {
        let mut connection = self.connection().await;
        sqlx::raw_sql(AssertSqlSafe(statement.into()))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        let mut connection = self.connection().await;
        sqlx::query_scalar(query)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    /// Ends all other connections, as a restart of the server does.
    pub(crate) async fn end_connections(&self) {
        let ended = self
            .number(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
        assert!(ended > 0);
    }
}

impl Drop for Database {
    #[expect(clippy::print_stderr, reason = "a panic here would hide what the test says")]
    fn drop(&mut self) {
        let entrance = self.entrance.clone();
        let statements = [
            format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
            format!("DROP ROLE IF EXISTS {}", self.name),
        ];
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut connection = entrance.connect().await?;
                for statement in statements {
                    sqlx::raw_sql(AssertSqlSafe(statement))
                        .execute(&mut connection)
                        .await?;
                }
                Ok::<(), sqlx::Error>(())
            })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("the database `{}` could not be dropped", self.name);
        }
    }
}
