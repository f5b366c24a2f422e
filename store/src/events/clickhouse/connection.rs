//! The HTTP client: one pool of connections, with TLS where it is configured.

use std::{sync::Arc, time::Duration};

use clickhouse::{Client, Compression};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{config::ClickHouseConfig, error::misconfigured};
use crate::StoreError;

/// How long an idle connection may be reused: less than the 3 s after which a server with default settings may close it.
const IDLE: Duration = Duration::from_secs(2);

/// How often an open connection is probed, so that a server that vanished is noticed.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Creates a client without a database, for creating the database.
pub(super) fn client(config: &ClickHouseConfig) -> Result<Client, StoreError> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(config.connect_timeout));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_nodelay(true);
    let mut pool = legacy::Client::builder(TokioExecutor::new());
    pool.pool_idle_timeout(IDLE);
    let client = if config.secure {
        connector.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(config)?)
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        Client::with_http_client(pool.build(connector))
    } else {
        Client::with_http_client(pool.build(connector))
    };
    let compression = if config.compression {
        Compression::Lz4
    } else {
        Compression::None
    };
    Ok(client
        .with_url(config.url())
        .with_user(&config.user)
        .with_password(config.password.expose())
        .with_product_info("sendflowr", env!("CARGO_PKG_VERSION"))
        .with_compression(compression)
        // The migrations ensure that the tables match the row types.
        .with_validation(false)
        // The server stops as well when nobody waits any more.
        .with_setting("max_execution_time", config.request_timeout.as_secs().to_string()))
}

fn tls(config: &ClickHouseConfig) -> Result<ClientConfig, StoreError> {
    let mut roots = RootCertStore::empty();
    match &config.ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let added = certificate.ok().and_then(|der| roots.add(der).ok());
                if added.is_none() {
                    return Err(misconfigured(
                        "`clickhouse.ca` holds a certificate that cannot be read".into(),
                    ));
                }
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(misconfigured(
                    "the system has no certificates to check the server's with: set `clickhouse.ca`".into(),
                ));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth())
}
