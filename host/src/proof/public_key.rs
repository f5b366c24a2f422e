//! Public-key signatures, and the forms in which public keys are configured.

use std::borrow::Cow;

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ED25519_PUBLIC_KEY_LEN, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::{oid_registry, prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::{Evidence, Refusal, Work, encoding::decode_base64, signatures};
use crate::{
    fetch::FetchAddress,
    plugin::types::{Message, Part, PublicKey as KeySource, PublicKeySignature, SignatureScheme},
};

/// Kinds of keys that signatures are checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rsa,
    EcdsaP256,
    Ed25519,
}

/// A public key in the form that signature verification takes: the bare key without its wrapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Parses a key as operators configure it: PEM, base64 of the DER SubjectPublicKeyInfo, or base64 of the 32 bytes
    /// of an Ed25519 key.
    fn parse(text: &str) -> Result<Self, &'static str> {
        // Environment variables often hold the two characters `\n` where the PEM has line breaks.
        let text = text.replace("\\n", "\n");
        let body = match text.split_once("-----BEGIN PUBLIC KEY-----") {
            Some((_, rest)) => {
                rest.split_once("-----END")
                    .ok_or("is a PEM block without an end")?
                    .0
            }
            None if text.contains("-----BEGIN") => return Err("is a PEM block, but not of a `PUBLIC KEY`"),
            None => &text,
        };
        let base64: String = body.split_whitespace().collect();
        let der = decode_base64(&base64).ok_or("is neither PEM nor base64")?;
        if der.len() == ED25519_PUBLIC_KEY_LEN {
            return Ok(Self {
                algorithm: Algorithm::Ed25519,
                bytes: der,
            });
        }
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| "is not a public key in DER")?;
        Self::from_info(&info)
    }

    /// Extracts the key from its wrapping.
    pub(super) fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, &'static str> {
        let oid = info.algorithm.oid();
        let algorithm = if *oid == oid_registry::OID_PKCS1_RSAENCRYPTION {
            Algorithm::Rsa
        } else if *oid == oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = info
                .algorithm
                .parameters()
                .and_then(|parameters| parameters.as_oid().ok());
            if curve != Some(oid_registry::OID_EC_P256) {
                return Err("is an elliptic curve key, but not on P-256");
            }
            Algorithm::EcdsaP256
        } else if *oid == oid_registry::OID_SIG_ED25519 {
            Algorithm::Ed25519
        } else {
            return Err("is a key of an unknown kind");
        };
        Ok(Self {
            algorithm,
            bytes: info.subject_public_key.data.to_vec(),
        })
    }

    fn fits(&self, scheme: SignatureScheme) -> bool {
        let wanted = match scheme {
            SignatureScheme::EcdsaP256Sha256 => Algorithm::EcdsaP256,
            SignatureScheme::RsaPkcs1Sha1 | SignatureScheme::RsaPkcs1Sha256 => Algorithm::Rsa,
            SignatureScheme::Ed25519 => Algorithm::Ed25519,
        };
        self.algorithm == wanted
    }
}

/// Checks that any of the signatures matches any of the messages under any value of the key.
pub(super) async fn check(
    proof: &PublicKeySignature,
    evidence: &Evidence<'_>,
    work: &mut Work,
) -> Result<(), Refusal> {
    let presented = signatures::decode_all(&proof.source, &proof.signatures)?;
    let keys = keys(proof, evidence).await?;
    let algorithm: &dyn VerificationAlgorithm = match proof.scheme {
        SignatureScheme::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1,
        SignatureScheme::RsaPkcs1Sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        SignatureScheme::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        SignatureScheme::Ed25519 => &ED25519,
    };
    for message in &proof.messages {
        let joined = joined(message, &evidence.request.body, work)?;
        for key in &keys {
            let key = UnparsedPublicKey::new(algorithm, &key.bytes);
            for signature in &presented {
                work.verify_signature(joined.len())?;
                if key.verify(&joined, signature).is_ok() {
                    return Ok(());
                }
            }
        }
    }
    Err(Refusal::SignatureMismatch {
        origin: proof.source.clone(),
    })
}

/// Returns all values of the key that suit the scheme. An unusable value is an error only if no other value is usable.
async fn keys(proof: &PublicKeySignature, evidence: &Evidence<'_>) -> Result<Vec<PublicKey>, Refusal> {
    let name = match &proof.key {
        KeySource::CertificateUrl(url) => {
            let address = FetchAddress::parse_file(url, &evidence.descriptor.hosts)
                .map_err(Refusal::CertificateAddress)?;
            let certificate = evidence.certificates.certificate(&address).await?;
            let key = certificate.key_at(evidence.request.received_at_ms)?;
            if !key.fits(proof.scheme) {
                return Err(Refusal::CertificateInvalid(
                    "its key is of another kind than the signature",
                ));
            }
            return Ok(vec![key.clone()]);
        }
        KeySource::Secret(name) => name,
    };
    let mut keys = Vec::new();
    let mut unusable = None;
    for value in evidence.account.secret(evidence.descriptor, name)? {
        match PublicKey::parse(value.expose()) {
            Ok(key) if key.fits(proof.scheme) => keys.push(key),
            Ok(_) => unusable = Some("is a public key of another kind than the provider signs with"),
            Err(problem) => unusable = Some(problem),
        }
    }
    match unusable {
        Some(problem) if keys.is_empty() => Err(Refusal::SecretUnusable {
            name: name.clone(),
            problem,
        }),
        _ => Ok(keys),
    }
}

/// Returns the message in one piece, copied only if it has several parts.
fn joined<'a>(message: &'a Message, body: &'a [u8], work: &mut Work) -> Result<Cow<'a, [u8]>, Refusal> {
    let bytes = |part: &'a Part| match part {
        Part::Body => body,
        Part::Bytes(bytes) => bytes.as_slice(),
    };
    if let [part] = message.as_slice() {
        return Ok(Cow::Borrowed(bytes(part)));
    }
    let mut joined = Vec::new();
    for part in message {
        // Accounted for before copying: a message may name the body any number of times.
        work.take_bytes(bytes(part).len())?;
        joined.extend_from_slice(bytes(part));
    }
    Ok(Cow::Owned(joined))
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    /// Public keys made with `openssl genpkey`, one of each kind, as `openssl pkey -pubout` writes them.
    const P256: &str = include_str!("../../tests/data/p256.pem");
    const RSA: &str = include_str!("../../tests/data/rsa.pem");
    const ED25519_KEY: &str = include_str!("../../tests/data/ed25519.pem");
    const P384: &str = include_str!("../../tests/data/p384.pem");

    #[test]
    fn reads_keys_in_every_form() {
        for (pem, algorithm) in [
            (P256, Algorithm::EcdsaP256),
            (RSA, Algorithm::Rsa),
            (ED25519_KEY, Algorithm::Ed25519),
        ] {
            let key = PublicKey::parse(pem).unwrap();
            assert_eq!(key.algorithm, algorithm);
            let bare: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
            assert_eq!(PublicKey::parse(&bare).unwrap(), key);
            assert_eq!(PublicKey::parse(&pem.replace('\n', "\\n")).unwrap(), key);
        }
        let raw = PublicKey::parse(ED25519_KEY).unwrap().bytes;
        assert_eq!(PublicKey::parse(&STANDARD.encode(&raw)).unwrap().bytes, raw);
    }

    #[test]
    fn says_what_is_wrong_with_a_key() {
        let error = |text: &str| PublicKey::parse(text).unwrap_err();
        assert_eq!(error("§"), "is neither PEM nor base64");
        assert_eq!(error("aGVsbG8="), "is not a public key in DER");
        assert_eq!(error(P384), "is an elliptic curve key, but not on P-256");
        assert_eq!(
            error("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"),
            "is a PEM block, but not of a `PUBLIC KEY`"
        );
        assert_eq!(
            error("-----BEGIN PUBLIC KEY-----\nMF"),
            "is a PEM block without an end"
        );
    }
}
