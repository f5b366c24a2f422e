use std::sync::{Arc, Mutex};

use sendflowr_store::events::RawClickHouseConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::world::Database;

/// Stands between client and server: keeps what the client says, and can be stopped.
pub(crate) struct Proxy {
    server: String,
    port: u16,
    said: Arc<Mutex<Vec<u8>>>,
    running: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, port) = database.place();
        let server = format!("{host}:{port}");
        let said = Arc::default();
        Self {
            port: listener.local_addr().unwrap().port(),
            running: tokio::spawn(serve(listener, server.clone(), Arc::clone(&said))),
            server,
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

    /// The last query that begins with these words; nothing may have been said after it.
    pub(crate) fn last_query(&self, beginning: &str) -> String {
        let said = String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned();
        let start = said.rfind(beginning).unwrap();
        said[start..].to_owned()
    }

    /// Breaks all connections and takes no more.
    pub(crate) async fn stop(&mut self) {
        self.running.abort();
        let ended = (&mut self.running).await;
        assert!(ended.unwrap_err().is_cancelled());
    }

    pub(crate) async fn start(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.running = tokio::spawn(serve(listener, self.server.clone(), Arc::clone(&self.said)));
    }
}

/// Ends its connections when it ends.
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
