use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
};

use clickhouse::Client;
use event::settings::Secret;
use event::{Event, EventType, Identifier, IdentifierKind, MailboxProvider, Timestamp, UniversalId};
use sendflowr_store::events::{
    ClickHouseConfig, ClickHouseEvents, Enrichment, RawClickHouseConfig, StoredEvent,
};

use crate::support::Server;

/// A database that only this test uses, dropped at its end.
pub(crate) struct Database {
    name: String,
    server: Server,
}

impl Database {
    pub(crate) fn new() -> Self {
        Self {
            name: format!("test_{:016x}", RandomState::new().hash_one("database")),
            server: Server::of("SENDFLOWR_TEST_CLICKHOUSE"),
        }
    }

    pub(crate) fn place(&self) -> (&str, u16) {
        (&self.server.host, self.server.port)
    }

    pub(crate) fn settings(&self) -> RawClickHouseConfig {
        RawClickHouseConfig {
            host: Some(self.server.host.clone()),
            port: Some(self.server.port),
            database: self.name.clone(),
            user: self.server.user.clone(),
            password: Secret::new(&self.server.password),
            ..Default::default()
        }
    }

    pub(crate) async fn open(&self) -> ClickHouseEvents {
        let config = ClickHouseConfig::try_from(self.settings()).unwrap();
        ClickHouseEvents::connect(config).await.unwrap()
    }

    /// Returns a client that is independent of the engine under test.
    fn client(&self) -> Client {
        Client::default()
            .with_url(format!("http://{}:{}/", self.server.host, self.server.port))
            .with_user(&self.server.user)
            .with_password(&self.server.password)
            .with_database(&self.name)
    }

    pub(crate) async fn run(&self, statement: &str) {
        self.client().query_raw(statement).execute().await.unwrap();
    }

    pub(crate) async fn lines(&self, query: &str) -> Vec<String> {
        self.client().query_raw(query).fetch_all().await.unwrap()
    }

    pub(crate) async fn number(&self, query: &str) -> u64 {
        let query = format!("SELECT assumeNotNull(toUInt64(({query})))");
        self.client().query_raw(&query).fetch_one().await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let client = self.client().with_database("default");
        let statement = format!("DROP DATABASE IF EXISTS {}", self.name);
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(client.query_raw(&statement).execute())
        });
        #[expect(clippy::print_stderr, reason = "a panic here would hide what the test says")]
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("the database `{}` could not be dropped", self.name);
        }
    }
}

pub(crate) fn person(number: usize) -> UniversalId {
    UniversalId::from_identifier(&Identifier {
        kind: IdentifierKind::ExternalId,
        value: format!("person-{number}"),
    })
}

/// Creates an event of a person, with the fields that most events have.
pub(crate) fn event(number: usize, event_type: EventType, timestamp: Timestamp) -> StoredEvent {
    let event = Event {
        event_id: format!("{:032x}", RandomState::new().hash_one(number)),
        esp: "sendgrid".into(),
        account: "default".into(),
        mailbox_provider: Some(MailboxProvider::Gmail),
        campaign_id: Some("c1".into()),
        campaign_name: Some("Spring".into()),
        message_id: Some(format!("<{number}@mail>")),
        subject: Some("Hello".into()),
        user_agent: Some("agent/1.0".into()),
        tags: vec!["news".into()],
        metadata: BTreeMap::from([("order".into(), number.to_string())]),
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: timestamp.plus_millis(1_500),
        ..Event::bare(event_type, timestamp, person(number))
    };
    StoredEvent {
        event,
        enrichment: Enrichment::default(),
    }
}

/// Creates deliveries of one month to `people` people in turn, one second apart.
pub(crate) fn deliveries(count: usize, people: usize) -> Vec<StoredEvent> {
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let mut batch = Vec::with_capacity(count);
    for index in 0..count {
        let at = start.plus_millis(index as i64 * 1_000);
        let mut stored = event(index % people, EventType::Delivered, at);
        stored.enrichment.delivery_latency_ms = Some(index as i64);
        batch.push(stored);
    }
    batch
}
