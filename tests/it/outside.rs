//! Stands in for the provider's servers that the host itself calls by https. Environment variables direct the process to a proxy,
//! behind which all of them are, and name the root certificate by which they are trusted.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

pub(crate) struct Outside {
    folder: TempDir,
    proxy: String,
    replies: Replies,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What the server responds with, by address.
type Replies = Arc<Mutex<BTreeMap<String, Reply>>>;

#[derive(Clone)]
pub(crate) enum Reply {
    Text(String),
    /// A redirect to this address.
    Redirect(String),
    /// The connection stays open, and nothing comes.
    Silence,
}

impl Outside {
    /// Starts the server with this name, which responds with these texts, by address, and with an empty one to every other request.
    pub(crate) async fn start(name: &str, texts: BTreeMap<String, String>) -> Self {
        // Fails only if another test of this process has installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate can be made");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("root.pem"), made.cert.pem()).expect("a file can be written");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("key and certificate belong together");
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let proxy = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let texts = texts
            .into_iter()
            .map(|(address, text)| (address, Reply::Text(text)));
        let replies = Replies::new(Mutex::new(texts.collect()));
        let (known, seen) = (Arc::clone(&replies), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, known, seen) = (tls.clone(), Arc::clone(&known), Arc::clone(&seen));
                tokio::spawn(async move {
                    // A failed connection shows in the host's answer.
                    let _ = answer(stream, &tls, &known, &seen).await;
                });
            }
        });
        Self {
            folder,
            proxy,
            replies,
            asked,
        }
    }

    /// Changes the response to requests for this address.
    pub(crate) fn reply(&self, address: &str, reply: Reply) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.insert(address.to_owned(), reply);
    }

    /// Returns the environment variables that direct a process here.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let root = self.folder.path().join("root.pem");
        vec![
            ("HTTPS_PROXY", self.proxy.clone()),
            ("NO_PROXY", String::new()),
            ("SSL_CERT_FILE", root.display().to_string()),
        ]
    }

    /// Returns the addresses that were requested.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Responds to one request through the proxy, then closes the connection.
async fn answer(
    mut stream: TcpStream,
    tls: &TlsAcceptor,
    replies: &Mutex<BTreeMap<String, Reply>>,
    seen: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let host = target(&mut stream).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let mut stream = tls.accept(stream).await?;
    let address = format!(
        "https://{}{}",
        host.trim_end_matches(":443"),
        target(&mut stream).await?
    );
    let reply = replies
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&address)
        .cloned();
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(address);
    let (status, text) = match reply {
        Some(Reply::Text(text)) => ("200 OK".to_owned(), text),
        Some(Reply::Redirect(to)) => (format!("302 Found\r\nlocation: {to}"), String::new()),
        Some(Reply::Silence) => return std::future::pending().await,
        None => ("200 OK".to_owned(), String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(format!("{head}{text}").as_bytes()).await?;
    stream.shutdown().await
}

/// Reads the head of a request and returns the second word of its first line.
async fn target(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head
        .split_ascii_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned())
}
