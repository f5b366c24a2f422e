//! The connection to Redis. A lost connection is restored in the background, so that no caller waits for it.

use std::{
    error::Error,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, ServerErrorKind, TlsCertificates, aio::MultiplexedConnection,
};
use tokio::time::Instant;

use super::{ENGINE, RedisConfig};
use crate::{StoreError, Unavailable};

/// Longest wait for a connection: two lost packets are retransmitted within it, and opening stays below 10 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long opening waits for a server that does not listen yet or is still loading its snapshot.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Pauses between attempts to connect: the first is short, because usually only a single connection is lost; the longest is
/// short enough that profiles are read again a second after the server is back.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often a connection is compared with the server that it leads to, which costs the server some 20 µs: a failover takes longer.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Number of bytes that values begin with: 64 bits, enough to distinguish the few starts and failovers of the servers within the
/// lifetime of a value.
pub(super) const STAMP_BYTES: usize = 8;

/// A connection to one process of the server, while it is the primary.
#[derive(Clone)]
pub(super) struct Session {
    /// Distinguishes this connection from those before and after it.
    number: u64,
    pub(super) connection: MultiplexedConnection,
    /// Prefix of the values that were written to this process of the server since it has been the primary.
    pub(super) stamp: [u8; STAMP_BYTES],
}

/// Access to the server, with the current connection if there is one.
pub(super) struct Link {
    client: Client,
    options: AsyncConnectionConfig,
    address: String,
    state: Mutex<State>,
}

enum State {
    Connected(Session),
    /// A task is establishing the next connection; `trouble` is its latest error.
    Lost {
        trouble: String,
    },
}

impl State {
    /// Returns the state after an attempt to connect.
    fn after(outcome: Result<Session, StoreError>) -> Self {
        match outcome {
            Ok(session) => Self::Connected(session),
            Err(StoreError::Unavailable { cause, .. }) => Self::Lost {
                trouble: cause.to_string(),
            },
            Err(error) => Self::Lost {
                trouble: error.to_string(),
            },
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Connects for the first time. If the server cannot be reached, this fails, or, if `may_be_away`, retries in the
    /// background; a server that responds with a refusal is always an error.
    pub(super) async fn open(config: &RedisConfig, may_be_away: bool) -> Result<Arc<Self>, StoreError> {
        let address = config.address();
        let client = client(config)
            .map_err(|error| misconfigured(format!("`redis.ca` holds no certificates: {error}")))?;
        let options = options(config.response_timeout);
        let deadline = Instant::now() + OPEN_WITHIN;
        let state = loop {
            match connect(&client, &options, 0).await {
                Ok(session) => break State::Connected(session),
                Err(StoreError::Unavailable { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Err(StoreError::Unavailable { cause, .. }) => {
                    let message = format!(
                        "`{address}` cannot be used: {cause}; look at `redis.host`, `redis.port`, \
                         `redis.secure` and `redis.ca`"
                    );
                    if !may_be_away || is_failed_handshake(&cause) {
                        return Err(misconfigured(message));
                    }
                    tracing::error!(
                        redis.address = address,
                        "profiles are built from events until Redis responds: {message}"
                    );
                    let trouble = cause.to_string();
                    break State::Lost { trouble };
                }
                Err(other) => return Err(other),
            }
        };
        Ok(Self::start(client, options, address, state))
    }

    /// Opens another connection to the same server, which waits for each response as long as told. If the server cannot be
    /// reached now, this is retried in the background.
    pub(super) async fn another(&self, response_timeout: Duration) -> Arc<Self> {
        let options = options(response_timeout);
        let outcome = match self.session() {
            Ok(_) => connect(&self.client, &options, 0).await,
            Err(away) => Err(away),
        };
        Self::start(
            self.client.clone(),
            options,
            self.address.clone(),
            State::after(outcome),
        )
    }

    /// Begins to keep the connection up.
    fn start(client: Client, options: AsyncConnectionConfig, address: String, state: State) -> Arc<Self> {
        let is_away = matches!(state, State::Lost { .. });
        let link = Arc::new(Self {
            client,
            options,
            address,
            state: Mutex::new(state),
        });
        if is_away {
            tokio::spawn(connect_again(Arc::downgrade(&link), 0));
        }
        tokio::spawn(watch(Arc::downgrade(&link)));
        link
    }

    /// Returns the current connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] at once when there is none.
    pub(super) fn session(&self) -> Result<Session, StoreError> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Connected(session) => Ok(session.clone()),
            State::Lost { trouble } => Err(unavailable(format!(
                "the connection to `{}` is lost: {trouble}",
                self.address
            ))),
        }
    }

    /// Maps an error of `session` to what it means to the caller, and starts reconnecting if the connection is lost or leads to
    /// a server that is no longer the primary.
    pub(super) fn failed(self: &Arc<Self>, session: &Session, error: RedisError) -> StoreError {
        let is_replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        if is_replica || error.is_io_error() || error.is_unrecoverable_error() {
            self.lost(session, error.to_string());
        }
        classify(error)
    }

    fn lost(self: &Arc<Self>, session: &Session, trouble: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*state, State::Connected(present) if present.number == session.number) {
            return;
        }
        *state = State::Lost { trouble };
        tokio::spawn(connect_again(Arc::downgrade(self), session.number + 1));
    }

    /// Stores the outcome of an attempt to connect. Returns whether there is a connection now.
    fn settle(&self, outcome: Result<Session, StoreError>) -> bool {
        let state = State::after(outcome);
        let is_connected = matches!(state, State::Connected(_));
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        is_connected
    }
}

/// Tries to connect until it succeeds or nobody needs the connection any more.
async fn connect_again(link: Weak<Link>, number: u64) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(link) = link.upgrade() else { return };
        if link.settle(connect(&link.client, &link.options, number).await) {
            return;
        }
        drop(link);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Gives a connection up when its server has become a replica, or the primary again: then what was written by it may be gone. An
/// idle connection would not notice otherwise.
async fn watch(link: Weak<Link>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(link) = link.upgrade() else { return };
        let Ok(session) = link.session() else { continue };
        match stamp_of(&session.connection).await {
            Ok(stamp) if stamp == session.stamp => {}
            Ok(_) => link.lost(&session, "the server was made the primary anew".to_owned()),
            Err(error) => link.lost(&session, error.to_string()),
        }
    }
}

fn options(response_timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout))
}

fn client(config: &RedisConfig) -> Result<Client, RedisError> {
    let host = config.host.clone();
    let address = if config.secure {
        ConnectionAddr::TcpTls {
            host,
            port: config.port,
            insecure: false,
            tls_params: None,
        }
    } else {
        ConnectionAddr::Tcp(host, config.port)
    };
    let mut settings = RedisConnectionInfo::default()
        .set_db(config.database)
        .set_lib_name("sendflowr", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &config.user {
        settings = settings.set_username(user);
    }
    if !config.password.is_empty() {
        settings = settings.set_password(config.password.expose());
    }
    let information = address.into_connection_info()?.set_redis_settings(settings);
    match &config.ca {
        Some(ca) => Client::build_with_tls(
            information,
            TlsCertificates {
                client_tls: None,
                root_cert: Some(ca.clone().into_bytes()),
            },
        ),
        None => Client::open(information),
    }
}

/// Connects, and asks the server who it is.
async fn connect(
    client: &Client,
    options: &AsyncConnectionConfig,
    number: u64,
) -> Result<Session, StoreError> {
    let connecting = client.get_multiplexed_async_connection_with_config(options);
    let connection = connecting.await.map_err(classify)?;
    let stamp = stamp_of(&connection).await?;
    Ok(Session {
        number,
        connection,
        stamp,
    })
}

/// Asks the server for its stamp. Fails if it is a replica.
async fn stamp_of(connection: &MultiplexedConnection) -> Result<[u8; STAMP_BYTES], StoreError> {
    // At once, but not as one pipeline: Redis 6 takes only one section per command, and a pipeline hides the code of an error.
    let (server, replication) = tokio::try_join!(
        information(connection.clone(), "server"),
        information(connection.clone(), "replication")
    )?;
    if field(&replication, "role") == Some("slave") {
        return Err(unavailable("the server is a replica and takes no writes"));
    }
    stamp(&server, &replication).ok_or_else(|| {
        misconfigured(
            "the server's `INFO` has no `run_id` or no `master_replid`, without which lost profiles would not be noticed",
        )
    })
}

async fn information(mut connection: MultiplexedConnection, section: &str) -> Result<String, StoreError> {
    let mut command = redis::cmd("INFO");
    command.arg(section);
    command.query_async(&mut connection).await.map_err(classify)
}

/// Returns what is unique to this run of the server's process, since it was last made the primary: of its run id, which changes
/// at every start, and the id of its replication, which changes whenever a replica is made the primary. Both are random and have
/// 40 hexadecimal digits.
fn stamp(server: &str, replication: &str) -> Option<[u8; STAMP_BYTES]> {
    let number = |id: &str| u64::from_str_radix(id.get(..2 * STAMP_BYTES)?, 16).ok();
    let run = number(field(server, "run_id")?)?;
    let primacy = number(field(replication, "master_replid")?)?;
    Some((run ^ primacy).to_be_bytes())
}

fn field<'a>(information: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = information.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(found, value)| (found == name).then(|| value.trim()))
}

/// Maps an error to what the caller should do about it. The server's messages name commands and users, never values.
fn classify(error: RedisError) -> StoreError {
    let refused = |setting: &str| misconfigured(format!("the server refuses: {error}; look at {setting}"));
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            refused("`redis.user` and `redis.password`")
        }
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => refused("the rights of `redis.user`"),
        (
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot),
            _,
        ) => refused("`redis.host`: it must be a single server, not a cluster"),
        (_, Some("WRONGTYPE")) => refused("`redis.key_prefix`: another program uses such keys"),
        (ErrorKind::Server(ServerErrorKind::ResponseError), _) if error.to_string().contains("DB index") => {
            refused("`redis.database`")
        }
        (ErrorKind::Parse, _) => misconfigured(format!(
            "the server is not a Redis ({error}); look at `redis.port` and `redis.secure`"
        )),
        _ => unavailable(error),
    }
}

/// Returns whether somebody responded but the TLS handshake failed: because its certificate is not trusted, or because the
/// other side does not use TLS.
fn is_failed_handshake(error: &Unavailable) -> bool {
    // The client passes on the error of the connection in an `Arc`.
    type Cause = Arc<dyn Error + Send + Sync>;
    let cause = error.downcast_ref::<RedisError>().and_then(Error::source);
    let cause = cause.and_then(|cause| cause.downcast_ref::<Cause>());
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

fn misconfigured(message: impl Into<String>) -> StoreError {
    StoreError::misconfigured(ENGINE, message)
}

fn unavailable(cause: impl Into<Unavailable>) -> StoreError {
    StoreError::unavailable(ENGINE, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_changes_with_the_run_and_with_the_primacy() {
        let (one, other) = ("0123456789abcdef".repeat(3), "fedcba9876543210".repeat(3));
        let stamped = |run: &str, primacy: &str| {
            let server = format!("# Server\r\nredis_version:7.0.15\r\nrun_id:{run}\r\n");
            let replication = format!("# Replication\r\nrole:master\r\nmaster_replid:{primacy}\r\n");
            stamp(&server, &replication)
        };
        assert_eq!(stamped(&one, &other), Some([0xff; 8]));
        assert_ne!(stamped(&one, &"0".repeat(40)), stamped(&one, &other));
        assert_ne!(stamped(&"0".repeat(40), &other), stamped(&one, &other));
        assert_eq!(stamped("0123", &other), None);
        assert_eq!(
            stamp("redis_version:7.0.15\r\n", &format!("master_replid:{one}")),
            None
        );
        assert_eq!(stamp(&format!("run_id:{one}"), "role:master\r\n"), None);
    }
}
