//! Credentials that a delivery carries in plain form: tokens, users and passwords.

use event::settings::Secret;
use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};

use super::{
    Evidence, Refusal,
    encoding::{decode_base64, latin1_bytes},
};
use crate::plugin::types::{BasicAuth, SharedSecret};

/// Where basic authentication is found.
const AUTHORIZATION: &str = "header `authorization`";

/// Checks that a presented token is one of the values of its secret.
pub(super) fn check_token(proof: &SharedSecret, evidence: &Evidence<'_>) -> Result<(), Refusal> {
    let values = evidence.account.secret(evidence.descriptor, &proof.secret)?;
    if proof.presented.iter().all(String::is_empty) {
        return Err(Refusal::CredentialsMissing {
            origin: proof.source.clone(),
        });
    }
    let mut matches = Choice::from(0);
    for presented in &proof.presented {
        matches |= is_any(presented.as_bytes(), values);
        // Plugins get the bytes of a header as letters of Latin-1, while most senders write other text than ASCII in UTF-8.
        if !presented.is_ascii()
            && let Some(sent) = latin1_bytes(presented)
        {
            matches |= is_any(&sent, values);
        }
    }
    if bool::from(matches) {
        Ok(())
    } else {
        Err(Refusal::CredentialsMismatch {
            origin: proof.source.clone(),
        })
    }
}

/// Checks user and password. During a rotation each may be any of its values.
pub(super) fn check_basic(proof: &BasicAuth, evidence: &Evidence<'_>) -> Result<(), Refusal> {
    let users = evidence.account.secret(evidence.descriptor, &proof.user)?;
    let passwords = evidence.account.secret(evidence.descriptor, &proof.password)?;
    let missing = || Refusal::CredentialsMissing {
        origin: AUTHORIZATION.to_owned(),
    };
    let (scheme, encoded) = proof.authorization.trim().split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(missing());
    }
    let decoded = decode_base64(encoded.trim()).ok_or(Refusal::SignatureEncoding {
        origin: AUTHORIZATION.to_owned(),
        encoding: crate::plugin::types::Encoding::Base64,
    })?;
    let colon = decoded
        .iter()
        .position(|byte| *byte == b':')
        .ok_or_else(missing)?;
    let fits = is_any(&decoded[..colon], users) & is_any(&decoded[colon + 1..], passwords);
    if bool::from(fits) {
        Ok(())
    } else {
        Err(Refusal::CredentialsMismatch {
            origin: AUTHORIZATION.to_owned(),
        })
    }
}

/// Checks whether `presented` is one of `values`. Compares hashes, so that timing does not even reveal a length.
fn is_any(presented: &[u8], values: &[Secret]) -> Choice {
    let presented = digest(&SHA256, presented);
    let mut found = Choice::from(0);
    for value in values {
        let expected = digest(&SHA256, value.expose().trim().as_bytes());
        found |= presented.as_ref().ct_eq(expected.as_ref());
    }
    found
}
