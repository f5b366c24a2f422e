//! Why a delivery is refused as not genuine, in words for the operator.

use crate::plugin::types::Encoding;

/// Why a delivery is not accepted as genuine. Messages name the place and the check that failed; never a secret, a
/// signature or a presented value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The plugin found nothing that could prove the delivery.
    #[error("{0}")]
    ProofMissing(String),
    /// The plugin found that the delivery's proof cannot be valid.
    #[error("{0}")]
    ProofInvalid(String),
    /// There is no signature where one is expected.
    #[error("{origin} holds no signature")]
    SignatureMissing {
        /// Where it is expected.
        origin: String,
    },
    /// The signature is not encoded as it should be.
    #[error("{origin} is not {}", encoding_name(*.encoding))]
    SignatureEncoding {
        /// Where it was found.
        origin: String,
        /// The expected encoding.
        encoding: Encoding,
    },
    /// The signature does not match.
    #[error(
        "the signature in {origin} does not match the delivery: check the configured secret, and that nothing changes \
         the body in transit"
    )]
    SignatureMismatch {
        /// Where it was found.
        origin: String,
    },
    /// There is no token, or no user and password, where one is expected.
    #[error("{origin} holds no credentials")]
    CredentialsMissing {
        /// Where they are expected.
        origin: String,
    },
    /// Token, user or password differ from the configured ones.
    #[error("the credentials in {origin} are not the configured ones")]
    CredentialsMismatch {
        /// Where they were found.
        origin: String,
    },
    /// The delivery was signed too long before its receipt, or after it.
    #[error("{origin} is {} s {}, at most {} s are allowed", .by_ms.div_ceil(1000), if *.is_future { "in the future" } else { "old" }, .tolerance_ms / 1000)]
    TimestampStale {
        /// Where the timestamp was found.
        origin: String,
        /// How far it is from the time of receipt, in milliseconds.
        by_ms: u64,
        /// Whether it is after the time of receipt.
        is_future: bool,
        /// How far it may be, in milliseconds.
        tolerance_ms: u64,
    },
    /// The delivery names a certificate that will not be fetched.
    #[error("the certificate's address is refused: {0}")]
    CertificateAddress(crate::fetch::AddressRefused),
    /// The certificate could not be fetched now.
    #[error("the certificate cannot be fetched now: {0}")]
    CertificateUnavailable(String),
    /// The certificate is unusable, or not valid at the time of receipt.
    #[error("the certificate is not usable: {0}")]
    CertificateInvalid(&'static str),
    /// Nothing is configured that could prove the delivery.
    #[error("deliveries to this account cannot be proven: configure {keys}")]
    NoProofConfigured {
        /// The keys that all have to be configured, or those of which some have to.
        keys: String,
    },
    /// The plugin demands no proof although secrets are configured.
    #[error("the plugin demands no proof of this delivery although the account has secrets")]
    NoProofDemanded,
    /// The plugin needs a secret that is not configured.
    #[error("the secret `{name}` is not configured: set `{key}`")]
    SecretNotConfigured {
        /// Its name.
        name: String,
        /// Where to set it.
        key: String,
    },
    /// A certificate proves who sent the delivery, but a setting that would tell whether it belongs to the account is
    /// not configured.
    #[error("the signature alone does not prove that the delivery is this account's: set `{key}`")]
    SettingNotConfigured {
        /// Where to set it.
        key: String,
    },
    /// The plugin asks for a secret that it did not declare.
    #[error("the plugin asks for a secret `{name}` that it does not declare")]
    SecretUndeclared {
        /// Its name.
        name: String,
    },
    /// A configured secret is not usable as a key.
    #[error("the configured secret `{name}` {problem}")]
    SecretUnusable {
        /// Its name.
        name: String,
        /// What is wrong with it, phrased to follow the name.
        problem: &'static str,
    },
    /// The plugin broke a rule of the contract.
    #[error("the plugin broke its contract: {0}")]
    PluginFault(&'static str),
}

impl Refusal {
    /// Returns the stable code for callers and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ProofMissing(_) | Self::SignatureMissing { .. } => "signature_missing",
            Self::ProofInvalid(_) => "proof_invalid",
            Self::SignatureEncoding { .. } => "signature_encoding",
            Self::SignatureMismatch { .. } => "signature_mismatch",
            Self::CredentialsMissing { .. } => "credentials_missing",
            Self::CredentialsMismatch { .. } => "credentials_mismatch",
            Self::TimestampStale { .. } => "timestamp_stale",
            Self::CertificateAddress(_) => "certificate_address_refused",
            Self::CertificateUnavailable(_) => "certificate_unavailable",
            Self::CertificateInvalid(_) => "certificate_invalid",
            Self::NoProofConfigured { .. } => "no_proof_configured",
            Self::NoProofDemanded => "no_proof_demanded",
            Self::SecretNotConfigured { .. } => "secret_not_configured",
            Self::SettingNotConfigured { .. } => "setting_not_configured",
            Self::SecretUndeclared { .. } => "secret_undeclared",
            Self::SecretUnusable { .. } => "secret_unusable",
            Self::PluginFault(_) => "plugin_fault",
        }
    }

    /// Returns whether the same delivery may be accepted later, so that the provider should send it again.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::CertificateUnavailable(_))
    }
}

fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Utf8 => "text",
        Encoding::Hex => "hexadecimal",
        Encoding::Base64 => "base64",
    }
}
