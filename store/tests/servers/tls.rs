//! A proxy that adds TLS in front of a server that does not use it.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// How a client requests TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// By starting the handshake right away.
    AtOnce,
    /// With a message of eight bytes, as PostgreSQL clients do.
    First,
}

/// The proxy's port and certificate.
pub(crate) struct Front {
    pub(crate) port: u16,
    /// PEM, for `127.0.0.1`.
    pub(crate) certificate: String,
}

impl Front {
    pub(crate) async fn of(host: &str, port: u16, asks: Asks) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = Self {
            port: listener.local_addr().unwrap().port(),
            certificate: made.cert.pem(),
        };
        let server = format!("{host}:{port}");
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(client, server.clone(), acceptor.clone(), asks));
            }
        });
        front
    }
}

/// Forwards a connection. A client that does not trust the certificate disconnects, as it should: its errors do not matter
/// here.
async fn pass(
    mut client: TcpStream,
    server: String,
    acceptor: TlsAcceptor,
    asks: Asks,
) -> std::io::Result<()> {
    if asks == Asks::First {
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "the request for TLS");
        client.write_all(b"S").await?;
    }
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
