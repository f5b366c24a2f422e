//! Decodes the signatures that a delivery presents.

use super::{Refusal, encoding::decode};
use crate::plugin::types::Signature;

/// Returns the bytes of all readable candidates; at least one.
pub(super) fn decode_all(origin: &str, signatures: &[Signature]) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut decoded = Vec::with_capacity(signatures.len());
    let mut unreadable = None;
    for signature in signatures {
        match decode(&signature.text, signature.encoding) {
            _ if signature.text.is_empty() => {}
            Some(bytes) => decoded.push(bytes),
            None => unreadable = Some(signature.encoding),
        }
    }
    match unreadable {
        _ if !decoded.is_empty() => Ok(decoded),
        Some(encoding) => Err(Refusal::SignatureEncoding {
            origin: origin.to_owned(),
            encoding,
        }),
        None => Err(Refusal::SignatureMissing {
            origin: origin.to_owned(),
        }),
    }
}
