use std::sync::{Arc, Mutex};

use sendflowr_store::events::RawClickHouseConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::world::Database;

/// A proxy between client and server that records what the client sends.
pub(crate) struct Proxy {
    port: u16,
    said: Arc<Mutex<Vec<u8>>>,
    running: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, port) = database.place();
        let said = Arc::<Mutex<Vec<u8>>>::default();
        Self {
            port: listener.local_addr().unwrap().port(),
            running: tokio::spawn(serve(listener, format!("{host}:{port}"), Arc::clone(&said))),
            said,
        }
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
        let said = String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned();
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
async fn serve(listener: TcpListener, server: String, said: Arc<Mutex<Vec<u8>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(&server).await.unwrap();
        connections.spawn(pass(client, server, Arc::clone(&said)));
    }
}

async fn pass(client: TcpStream, server: TcpStream, said: Arc<Mutex<Vec<u8>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = async { tokio::io::copy(&mut from_server, &mut to_client).await.ok() };
    let forth = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            said.lock().unwrap().extend_from_slice(&buffer[..length]);
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
