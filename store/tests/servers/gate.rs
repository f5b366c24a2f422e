//! A gate between an engine and its server, which can be closed in either of the two ways in which servers become unreachable.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Forwards bytes to the server and back.
pub(crate) struct Gate {
    port: u16,
    way: watch::Sender<Way>,
    running: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// As if the server had stopped: connections break, including new ones.
    Broken,
    /// As if the network had failed: nothing gets through, and neither side is notified.
    Silent,
}

impl Gate {
    pub(crate) async fn to(host: &str, port: u16) -> Self {
        let server = format!("{host}:{port}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = watch::Sender::new(Way::Open);
        Self {
            port: listener.local_addr().unwrap().port(),
            running: tokio::spawn(serve(listener, server, way.subscribe())),
            way,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    pub(crate) fn break_all(&self) {
        self.way.send_replace(Way::Broken);
    }

    pub(crate) fn silence(&self) {
        self.way.send_replace(Way::Silent);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn serve(listener: TcpListener, server: String, way: watch::Receiver<Way>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (server, way) = (server.clone(), way.clone());
        tokio::spawn(async move {
            if *way.borrow() == Way::Broken {
                return;
            }
            let Ok(server) = TcpStream::connect(server).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pass(from_client, to_server, way.clone()) => {}
                () = pass(from_server, to_client, way) => {}
            }
        });
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut way: watch::Receiver<Way>,
) {
    let mut was_silent = false;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let now = *way.borrow_and_update();
        match now {
            Way::Broken => return,
            // A connection that lost bytes cannot be used any more.
            Way::Open if was_silent => std::future::pending().await,
            Way::Open => {}
            Way::Silent => was_silent = true,
        }
        tokio::select! {
            changed = way.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            read = from.read(&mut buffer), if now == Way::Open => {
                let Ok(length @ 1..) = read else { return };
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
