//! Keyed hashes: HMAC, and the plain hash of key and message.

use ring::{digest, hmac};
use subtle::ConstantTimeEq;

use super::{Evidence, Refusal, Work, encoding::decode, signatures};
use crate::plugin::types::{Hash, HashConstruction, HashKey, KeyedHash, Message, Part, SecretKey};

/// Longest prefix that is stripped from a secret. The longest in use, `v1,whsec_`, has 9 bytes.
const MAX_PREFIX_BYTES: usize = 16;

/// Checks that any of the signatures matches any of the messages under any value of the key.
pub(super) fn check(proof: &KeyedHash, evidence: &Evidence<'_>, work: &mut Work) -> Result<(), Refusal> {
    let presented = signatures::decode_all(&proof.source, &proof.signatures)?;
    for key in keys(&proof.key, evidence)? {
        for message in &proof.messages {
            // A plugin can publish a key of any length.
            work.take_bytes(key.len())?;
            work.hash(message, &evidence.request.body)?;
            let expected = tag(
                proof.construction,
                proof.hash,
                &key,
                message,
                &evidence.request.body,
            );
            for signature in &presented {
                if bool::from(expected.as_slice().ct_eq(signature)) {
                    return Ok(());
                }
            }
        }
    }
    Err(Refusal::SignatureMismatch {
        origin: proof.source.clone(),
    })
}

/// Returns all values of the key. An unusable value is an error only if no other value is usable.
fn keys(key: &HashKey, evidence: &Evidence<'_>) -> Result<Vec<Vec<u8>>, Refusal> {
    let secret = match key {
        HashKey::Published(bytes) => return Ok(vec![bytes.clone()]),
        HashKey::Secret(secret) => secret,
    };
    if !is_scheme(&secret.strip_prefix) {
        return Err(Refusal::PluginFault(
            "the prefix of a secret must be empty, or short with one `_` at its end, like `whsec_`",
        ));
    }
    let mut keys = Vec::new();
    let mut unusable = None;
    for value in evidence.account.secret(evidence.descriptor, &secret.name)? {
        match secret_key(secret, value.expose()) {
            Ok(key) => keys.push(key),
            Err(problem) => {
                unusable = Some(Refusal::SecretUnusable {
                    name: secret.name.clone(),
                    problem,
                })
            }
        }
    }
    match unusable {
        Some(refusal) if keys.is_empty() => Err(refusal),
        _ => Ok(keys),
    }
}

/// Returns whether a prefix can be the public name of a scheme. If a plugin could take any text from the request as the prefix, the
/// answers would tell a stranger whether the secret begins with it, letter by letter. Of what ends in `_`, only the whole can be
/// guessed, and it occurs neither in hexadecimal nor in standard base64.
fn is_scheme(prefix: &str) -> bool {
    prefix.is_empty() || (prefix.len() <= MAX_PREFIX_BYTES && prefix.find('_') == Some(prefix.len() - 1))
}

fn secret_key(secret: &SecretKey, configured: &str) -> Result<Vec<u8>, &'static str> {
    // A trailing line break is left behind by a file or by copying, and never part of a key.
    let text = configured.trim();
    let text = text.strip_prefix(secret.strip_prefix.as_str()).unwrap_or(text);
    match decode(text, secret.encoding) {
        Some(key) if key.is_empty() => Err("is empty after its prefix"),
        Some(key) => Ok(key),
        None => Err("is not in the encoding in which the provider issues it: copy it again"),
    }
}

fn tag(construction: HashConstruction, hash: Hash, key: &[u8], message: &Message, body: &[u8]) -> Vec<u8> {
    let parts = message.iter().map(|part| match part {
        Part::Body => body,
        Part::Bytes(bytes) => bytes.as_slice(),
    });
    match construction {
        HashConstruction::Hmac => {
            let algorithm = match hash {
                Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                Hash::Sha256 => hmac::HMAC_SHA256,
                Hash::Sha512 => hmac::HMAC_SHA512,
            };
            let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
            parts.for_each(|part| context.update(part));
            context.sign().as_ref().to_vec()
        }
        HashConstruction::KeyThenMessage => {
            let algorithm = match hash {
                Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
                Hash::Sha256 => &digest::SHA256,
                Hash::Sha512 => &digest::SHA512,
            };
            let mut context = digest::Context::new(algorithm);
            context.update(key);
            parts.for_each(|part| context.update(part));
            context.finish().as_ref().to_vec()
        }
    }
}
