use std::hash::{BuildHasher, RandomState};

use event::settings::Secret;
use event::{Identifier, IdentifierKind, UniversalId};
use redis::{Client, Cmd, FromRedisValue};
use sendflowr_store::profiles::{RawRedisConfig, RedisConfig, RedisProfiles};

use crate::{
    gate::Gate,
    support::Server,
    tls::{Asks, Front},
};

pub(crate) fn id(number: i64) -> UniversalId {
    UniversalId::from_identifier(&Identifier {
        kind: IdentifierKind::ExternalId,
        value: format!("person-{number}"),
    })
}

/// Keys that only this test uses, deleted when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Keys(std::sync::Arc<Inner>);

struct Inner {
    prefix: String,
    server: Server,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self(std::sync::Arc::new(Inner {
            prefix: format!("test-{:016x}:", RandomState::new().hash_one("keys")),
            server: Server::of("SENDFLOWR_TEST_REDIS"),
        }))
    }

    pub(crate) fn settings(&self) -> RawRedisConfig {
        RawRedisConfig {
            host: Some(self.0.server.host.clone()),
            port: self.0.server.port,
            password: Secret::new(&self.0.server.password),
            key_prefix: self.0.prefix.clone(),
            // A long timeout: all tests run at once on few processors.
            response_timeout_ms: 5_000,
            ..Default::default()
        }
    }

    pub(crate) async fn open(&self) -> RedisProfiles {
        let config = RedisConfig::try_from(self.settings()).unwrap();
        RedisProfiles::connect(config).await.unwrap()
    }

    pub(crate) async fn gate(&self) -> Gate {
        Gate::to(&self.0.server.host, self.0.server.port).await
    }

    pub(crate) async fn tls_front(&self) -> Front {
        Front::of(&self.0.server.host, self.0.server.port, Asks::AtOnce).await
    }

    /// Sends a command independently of the engine under test.
    async fn say<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let client = Client::open(self.0.server.address.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        command.query_async(&mut connection).await.unwrap()
    }

    fn key(&self, id: &UniversalId) -> String {
        format!("{}{id}", self.0.prefix)
    }

    pub(crate) async fn bytes(&self, id: &UniversalId) -> Vec<u8> {
        self.say(&Cmd::get(self.key(id))).await
    }

    pub(crate) async fn write(&self, id: &UniversalId, bytes: &[u8]) {
        self.say(&Cmd::set(self.key(id), bytes)).await
    }

    pub(crate) async fn delete(&self, id: &UniversalId) {
        self.say(&Cmd::del(self.key(id))).await
    }

    /// Returns the remaining lifetime of the value in seconds.
    pub(crate) async fn ttl(&self, id: &UniversalId) -> u64 {
        self.say(&Cmd::ttl(self.key(id))).await
    }

    /// Creates a user with the password `right` and without any permissions.
    pub(crate) async fn make_user_without_rights(&self) -> String {
        let name = self.0.prefix.trim_end_matches(':').to_owned();
        let mut command = redis::cmd("ACL");
        command.arg(&["SETUSER", &name, "on", ">right"]);
        let () = self.say(&command).await;
        name
    }

    /// Allows a user everything, or only reading.
    pub(crate) async fn allow(&self, name: &str, rights: &[&str]) {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(name).arg("~*").arg(rights);
        let () = self.say(&command).await;
    }

    pub(crate) async fn remove_user(&self, name: &str) {
        let mut command = redis::cmd("ACL");
        command.arg(&["DELUSER", name]);
        let _: u64 = self.say(&command).await;
    }
}

impl Drop for Inner {
    #[expect(clippy::print_stderr, reason = "a panic here would hide what the test says")]
    fn drop(&mut self) {
        let delete_all = || -> redis::RedisResult<()> {
            let mut connection = Client::open(self.server.address.as_str())?.get_connection()?;
            let keys: Vec<String> = redis::cmd("KEYS")
                .arg(format!("{}*", self.prefix))
                .query(&mut connection)?;
            for some in keys.chunks(1_000) {
                let () = redis::cmd("UNLINK").arg(some).query(&mut connection)?;
            }
            Ok(())
        };
        if delete_all().is_err() {
            eprintln!("the keys under `{}` could not be deleted", self.prefix);
        }
    }
}
