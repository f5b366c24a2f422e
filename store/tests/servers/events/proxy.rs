use std::sync::{Arc, Mutex};

use sendflowr_store::events::RawClickHouseConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

use super::world::Database;

/// A proxy between client and server that records what the client sends, and can hold back a statement.
pub(crate) struct Proxy {
    port: u16,
    seen: Arc<Seen>,
    running: JoinHandle<()>,
}

/// What passes through a proxy.
#[derive(Default)]
struct Seen {
    said: Mutex<Vec<u8>>,
    /// How the statement begins that is held back.
    held: Option<&'static str>,
    reached: Notify,
    released: Notify,
}

impl Proxy {
    pub(crate) async fn to(database: &Database) -> Self {
        Self::with(database, Seen::default()).await
    }

    /// Creates a proxy that holds back the statement that begins so until [`Proxy::release`].
    pub(crate) async fn holding(database: &Database, statement: &'static str) -> Self {
        let seen = Seen {
            held: Some(statement),
            ..Seen::default()
        };
        Self::with(database, seen).await
    }

    async fn with(database: &Database, seen: Seen) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, port) = database.place();
        let seen = Arc::new(seen);
        Self {
            port: listener.local_addr().unwrap().port(),
            running: tokio::spawn(serve(listener, format!("{host}:{port}"), Arc::clone(&seen))),
            seen,
        }
    }

    /// Waits until the statement has come that is held back.
    pub(crate) async fn reached(&self) {
        self.seen.reached.notified().await;
    }

    /// Lets the statement pass.
    pub(crate) fn release(&self) {
        self.seen.released.notify_one();
    }

    pub(crate) fn settings(&self, database: &Database) -> RawClickHouseConfig {
        RawClickHouseConfig {
            host: Some("127.0.0.1".into()),
            port: Some(self.port),
            ..database.settings()
        }
    }

    /// Returns the last query: the body of the last request.
    pub(crate) fn last_query(&self) -> String {
        let said = String::from_utf8_lossy(&self.seen.said.lock().unwrap()).into_owned();
        let (_, query) = said.rsplit_once("\r\n\r\n").unwrap();
        query.to_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Forwards connections. Aborting it closes them, too.
async fn serve(listener: TcpListener, server: String, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(&server).await.unwrap();
        connections.spawn(pass(client, server, Arc::clone(&seen)));
    }
}

async fn pass(client: TcpStream, server: TcpStream, seen: Arc<Seen>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = async { tokio::io::copy(&mut from_server, &mut to_client).await.ok() };
    let forth = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            seen.said.lock().unwrap().extend_from_slice(&buffer[..length]);
            let text = String::from_utf8_lossy(&buffer[..length]);
            if seen.held.is_some_and(|held| text.contains(held)) {
                seen.reached.notify_one();
                seen.released.notified().await;
            }
            if to_server.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = back => {}
        () = forth => {}
    }
}
