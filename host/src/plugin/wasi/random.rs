//! Randomness that is derived from the delivery.

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::plugin::bindings::types::Request;

/// Separates the seed from other hashes over the same bytes. The number changes when the sequence does.
const PURPOSE: &[u8] = b"sendflowr plugin randomness 1";

/// An endless sequence: the SHA-256 of the seed and a block number, block after block.
///
/// The seed is the SHA-256 of the whole delivery. The sender of the delivery can therefore predict the sequence; plugins hold no
/// secret that it could reveal, and the slowdown that a chosen sequence could cause is limited by the CPU time.
pub(crate) struct Random {
    seed: [u8; SHA256_OUTPUT_LEN],
    blocks: u64,
    block: [u8; SHA256_OUTPUT_LEN],
    used: usize,
}

impl Random {
    /// Creates the sequence of this delivery, or the one for calls without a delivery.
    pub(crate) fn of(delivery: Option<&Request>) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(PURPOSE);
        if let Some(request) = delivery {
            hash.update(&request.received_at_ms.to_le_bytes());
            for text in [&request.method, &request.path, &request.query] {
                field(&mut hash, text.as_bytes());
            }
            hash.update(&request.headers.len().to_le_bytes());
            for header in &request.headers {
                field(&mut hash, header.name.as_bytes());
                field(&mut hash, header.value.as_bytes());
            }
            field(&mut hash, &request.body);
        }
        Self {
            seed: finished(hash),
            blocks: 0,
            block: [0; SHA256_OUTPUT_LEN],
            used: SHA256_OUTPUT_LEN,
        }
    }

    /// Fills `bytes` with the next bytes of the sequence.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == self.block.len() {
                let mut hash = Context::new(&SHA256);
                hash.update(&self.seed);
                hash.update(&self.blocks.to_le_bytes());
                self.block = finished(hash);
                self.blocks += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }
}

/// Hashes a field with its length, so that no two deliveries hash alike.
fn field(hash: &mut Context, bytes: &[u8]) {
    hash.update(&bytes.len().to_le_bytes());
    hash.update(bytes);
}

fn finished(hash: Context) -> [u8; SHA256_OUTPUT_LEN] {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(delivery: Option<&Request>) -> [u8; 100] {
        let mut bytes = [0; 100];
        Random::of(delivery).fill(&mut bytes);
        bytes
    }

    fn request(path: &str, query: &str) -> Request {
        Request {
            method: "POST".to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            received_at_ms: 1,
            settings: Vec::new(),
            secrets: Vec::new(),
        }
    }

    #[test]
    fn follows_from_the_delivery_alone() {
        let one = request("/a", "b");
        assert_eq!(first(Some(&one)), first(Some(&one)));
        assert_ne!(first(Some(&one)), first(Some(&request("/ab", ""))));
        assert_ne!(first(Some(&one)), first(None));
    }

    #[test]
    fn pieces_give_the_same_sequence_as_the_whole() {
        let mut random = Random::of(None);
        let mut pieces = [0; 100];
        for piece in pieces.chunks_mut(7) {
            random.fill(piece);
        }
        assert_eq!(pieces, first(None));
        assert_ne!(pieces[..32], pieces[32..64]);
    }
}
