//! What settings of servers have in common.

use std::net::IpAddr;

/// Whether `host` is the name or address of a server and nothing more: no scheme, no port, no path.
pub(crate) fn is_name_or_address(host: &str) -> bool {
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    is_name || host.parse::<IpAddr>().is_ok()
}

/// Host and port, for messages.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
