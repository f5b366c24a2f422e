//! What settings of servers have in common.

use std::net::IpAddr;

/// A server is not named as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHost {
    /// No server.
    #[error("`{0}.host` is not set")]
    Missing(&'static str),
    /// More than a name or address.
    #[error(
        "`{section}.host` is `{host}`, it must be a name or an address alone; the port goes into `{section}.port`"
    )]
    NotAlone {
        /// The section of the configuration.
        section: &'static str,
        /// What is set.
        host: String,
    },
}

/// The name or address of a server and nothing more: no scheme, no port, no path.
pub(crate) fn host(section: &'static str, host: Option<String>) -> Result<String, InvalidHost> {
    let host = host.ok_or(InvalidHost::Missing(section))?;
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if is_name || host.parse::<IpAddr>().is_ok() {
        Ok(host)
    } else {
        Err(InvalidHost::NotAlone { section, host })
    }
}

/// What a certificate in PEM form begins with.
pub(crate) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// What the first line of every private key in PEM form ends with.
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// A setting is not the PEM text that it must be. Most likely it is the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{section}.{key}` has no `{marker}`: it must be PEM text, or `{section}.{key}_file` the name of a file with it"
)]
pub struct NotPem {
    section: &'static str,
    key: &'static str,
    marker: &'static str,
}

/// Refuses a setting without `marker` in it. The error does not repeat what is set, which may be a secret.
pub(crate) fn pem(
    section: &'static str,
    key: &'static str,
    marker: &'static str,
    text: Option<&str>,
) -> Result<(), NotPem> {
    match text {
        Some(text) if !text.contains(marker) => Err(NotPem { section, key, marker }),
        _ => Ok(()),
    }
}

/// Host and port, for messages.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
