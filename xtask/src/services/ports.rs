//! Finds free ports, and checks whether a server responds on one.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::bail;

/// Where the search begins: below the range that systems use for the ports of outgoing connections (32768 on Linux, 49152
/// elsewhere), because a stopped server's port must still be free when it starts again.
const FIRST: u16 = 20_000;

/// Where the search ends.
const LAST: u16 = 32_766;

/// The distance between the starting points of two searches, so that several at once rarely meet.
const STRIDE: u16 = 16;

/// Finds ports of 127.0.0.1 on which nobody listens, nor on the port after each: some servers need two.
pub(super) fn free(count: usize) -> anyhow::Result<Vec<u16>> {
    let searches = (LAST - FIRST) / STRIDE;
    // The remainder is below `searches`, which is a `u16`.
    let search = u16::try_from(std::process::id() % u32::from(searches)).unwrap_or_default();
    let start = FIRST + search * STRIDE;
    let mut found = Vec::with_capacity(count);
    for port in (start..LAST).chain(FIRST..start).step_by(2) {
        if is_free(port) && is_free(port + 1) {
            found.push(port);
        }
        if found.len() == count {
            return Ok(found);
        }
    }
    bail!("there are no {count} free ports between {FIRST} and {LAST}");
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Sends the bytes and returns the first bytes that come back.
pub(super) fn exchange(port: u16, bytes: &[u8]) -> Option<Vec<u8>> {
    // A server on the same machine that needs longer is not ready yet; it will be asked again.
    let limit = Duration::from_secs(1);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    stream.write_all(bytes).ok()?;
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free() {
        let taken = free(1).unwrap()[0];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        assert!(!free(3).unwrap().contains(&taken));
        drop(listener);
    }

    #[test]
    fn nobody_listening_is_no_answer() {
        let port = free(1).unwrap()[0];
        assert_eq!(exchange(port, b"hello"), None);
    }
}
