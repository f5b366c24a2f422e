//! Checks that deliveries are genuine.
//!
//! A plugin says what must hold ([`Proof`]); the secrets and the cryptography are here. Every comparison with a secret
//! takes the same time whether it matches or not. What a forged delivery can make the host do is bounded: the number of
//! proofs and candidates by the contract, to which the plugin's output is held (`plugin::output`), and the bytes hashed
//! and signatures verified by `Work`.

mod certificate;
mod credentials;
mod encoding;
mod keyed_hash;
mod public_key;
mod refusal;
mod signatures;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use certificate::FetchedCertificates;
pub use certificate::{Certificate, CertificateSource, GivenCertificates};
pub(crate) use encoding::latin1_bytes;
pub use refusal::Refusal;

use crate::{
    accounts::Account,
    plugin::types::{Descriptor, Freshness, HashKey, Message, Part, Proof, PublicKey, Request},
};

/// Bytes hashed for one delivery whose body is not larger than by default (5 MiB): that body under every value of a rotated secret,
/// and some more. Takes about 50 ms at most.
const HASHED_BYTES: usize = 32 * 1024 * 1024;

/// How often a larger body is hashed: as often as one of 5 MiB. Where `host.max_body_bytes` has its highest value, that is 96 MiB and
/// 150 ms.
const HASHED_BODIES: usize = 6;

/// Public-key signatures verified for one delivery: two messages, four signatures, four keys. Each takes up to 100 µs.
const MAX_VERIFICATIONS: usize = 32;

/// How far a delivery is trusted once its proofs have held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Proven by something that only the provider can know.
    Genuine,
    /// Nothing proves it, and the operator allows that.
    Unsigned,
    /// Signed with a publicly known key: the provider's test delivery. Must not carry events.
    PublishedKey,
    /// A handshake from before there is a key. Must not carry anything.
    Handshake,
}

/// What proofs are checked against.
pub(crate) struct Evidence<'a> {
    pub(crate) descriptor: &'a Descriptor,
    pub(crate) account: &'a Account,
    pub(crate) request: &'a Request,
    pub(crate) certificates: &'a dyn CertificateSource,
}

/// Checks whether these proofs make a delivery genuine by a secret of the account, for tools that have no plugin to ask.
///
/// # Errors
/// The [`Refusal`] of the first proof that does not hold.
pub async fn is_genuine(
    proofs: &[Proof],
    descriptor: &Descriptor,
    account: &Account,
    request: &Request,
    certificates: &dyn CertificateSource,
) -> Result<bool, Refusal> {
    let evidence = Evidence {
        descriptor,
        account,
        request,
        certificates,
    };
    Ok(check(proofs, &evidence).await? == Trust::Genuine)
}

/// Checks that all proofs hold, in order, and returns how far they reach.
pub(crate) async fn check(proofs: &[Proof], evidence: &Evidence<'_>) -> Result<Trust, Refusal> {
    if let [Proof::Handshake] = proofs {
        return Ok(Trust::Handshake);
    }
    let mut work = Work {
        bytes_left: HASHED_BYTES.max(HASHED_BODIES * evidence.request.body.len()),
        verifications_left: MAX_VERIFICATIONS,
    };
    let mut is_genuine = false;
    let mut has_certificate = false;
    let mut has_published_key = false;
    for proof in proofs {
        match proof {
            Proof::KeyedHash(proof) => {
                has_message(&proof.messages)?;
                keyed_hash::check(proof, evidence, &mut work)?;
                match proof.key {
                    HashKey::Secret(_) => is_genuine = true,
                    HashKey::Published(_) => has_published_key = true,
                }
            }
            Proof::PublicKey(proof) => {
                has_message(&proof.messages)?;
                public_key::check(proof, evidence, &mut work).await?;
                match proof.key {
                    PublicKey::Secret(_) => is_genuine = true,
                    PublicKey::CertificateUrl(_) => has_certificate = true,
                }
            }
            Proof::SharedSecret(proof) => {
                credentials::check_token(proof, evidence)?;
                is_genuine = true;
            }
            Proof::BasicAuth(proof) => {
                credentials::check_basic(proof, evidence)?;
                is_genuine = true;
            }
            // Anyone can write a recent timestamp: by itself it proves nothing.
            Proof::Fresh(proof) => check_fresh(proof, evidence.request.received_at_ms)?,
            // Stands alone in a plugin's answer; beside others it would prove nothing.
            Proof::Handshake => {}
        }
    }
    // The provider signs for all of its customers with one certificate: only the settings can tell whose delivery it is.
    let missing = evidence.account.missing_setting(evidence.descriptor);
    if is_genuine || (has_certificate && missing.is_none()) {
        return Ok(Trust::Genuine);
    }
    if has_published_key {
        return Ok(Trust::PublishedKey);
    }
    if evidence.account.takes_unsigned(evidence.descriptor) {
        return Ok(Trust::Unsigned);
    }
    match missing {
        Some(name) if has_certificate => Err(Refusal::SettingNotConfigured {
            key: evidence.account.key(name),
        }),
        _ => Err(unproven(evidence)),
    }
}

fn unproven(evidence: &Evidence<'_>) -> Refusal {
    let Evidence {
        descriptor, account, ..
    } = evidence;
    if !account.secret_names(descriptor).is_empty() {
        return Refusal::NoProofDemanded;
    }
    let key = |name: &str| format!("`{}`", account.key(name));
    let secrets = descriptor.secrets.iter().filter(|secret| secret.required);
    let settings = descriptor.settings.iter().filter(|setting| setting.required);
    // A setting can be what tells whose deliveries are accepted: the topic of SNS, whose signatures need no secret.
    let required: Vec<String> = secrets
        .map(|secret| key(&secret.name))
        .chain(settings.map(|setting| key(&setting.name)))
        .collect();
    let any = descriptor.secrets.iter().map(|secret| key(&secret.name));
    let keys = match (required.is_empty(), descriptor.secrets.is_empty()) {
        (false, _) => required.join(" and "),
        (true, false) => any.collect::<Vec<_>>().join(" or "),
        (true, true) => key("allow_unsigned"),
    };
    Refusal::NoProofConfigured { keys }
}

fn has_message(messages: &[Message]) -> Result<(), Refusal> {
    if messages.is_empty() {
        return Err(Refusal::PluginFault("a proof has no message"));
    }
    Ok(())
}

fn check_fresh(proof: &Freshness, received_at_ms: i64) -> Result<(), Refusal> {
    let by_ms = received_at_ms.abs_diff(proof.signed_at_ms);
    if by_ms <= proof.tolerance_ms {
        return Ok(());
    }
    Err(Refusal::TimestampStale {
        origin: proof.source.clone(),
        by_ms,
        is_future: proof.signed_at_ms > received_at_ms,
        tolerance_ms: proof.tolerance_ms,
    })
}

/// What may still be spent on one delivery.
struct Work {
    bytes_left: usize,
    verifications_left: usize,
}

impl Work {
    /// Accounts for hashing a message.
    fn hash(&mut self, message: &Message, body: &[u8]) -> Result<(), Refusal> {
        for part in message {
            self.take_bytes(match part {
                Part::Body => body.len(),
                Part::Bytes(bytes) => bytes.len(),
            })?;
        }
        Ok(())
    }

    /// Accounts for one public-key verification of a message of this length.
    fn verify_signature(&mut self, message_bytes: usize) -> Result<(), Refusal> {
        self.verifications_left = self
            .verifications_left
            .checked_sub(1)
            .ok_or(Refusal::PluginFault("there are too many signatures to check"))?;
        self.take_bytes(message_bytes)
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(Refusal::PluginFault(
            "the messages to check are too long in total",
        ))?;
        Ok(())
    }
}
