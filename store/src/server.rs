//! Validation shared by the settings of all servers.

use std::net::IpAddr;

/// The configured host of a server is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHost {
    /// No host is set.
    #[error("`{0}.host` is not set")]
    Missing(&'static str),
    /// The host is more than a name or an address.
    #[error(
        "`{0}.host` must be a name or an address alone: the port goes into `{0}.port`, user and password into keys of their own"
    )]
    NotAlone(&'static str),
}

/// Checks that `host` is the name or address of a server and nothing more: no scheme, no port, no path. The error does not repeat
/// the value, which may contain a password.
pub(crate) fn host(section: &'static str, host: Option<String>) -> Result<String, InvalidHost> {
    let host = host.ok_or(InvalidHost::Missing(section))?;
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if is_name || host.parse::<IpAddr>().is_ok() {
        Ok(host)
    } else {
        Err(InvalidHost::NotAlone(section))
    }
}

/// How a PEM certificate begins.
pub(crate) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// How the first line of every PEM private key ends.
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// A setting does not contain the PEM text that it must contain. Most likely it contains a file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{section}.{key}` has no `{marker}`: set it to PEM text, or `{section}.{key}_file` to the name of a PEM file"
)]
pub struct NotPem {
    section: &'static str,
    key: &'static str,
    marker: &'static str,
}

/// Rejects a setting that does not contain `marker`. The error does not repeat the value, which may be a secret.
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

/// Formats host and port for messages.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
