//! States what must hold for a delivery to be genuine.
//!
//! [`Proofs`] collects the proofs under the rule "whatever is configured must hold": each of its methods adds
//! a proof if the operator has configured what it needs, and refuses the delivery if it does not carry what
//! the proof needs.

use crate::{
    BasicAuth, Encoding, Freshness, Hash, HashConstruction, HashKey, KeyedHash, Part, Proof, PublicKey,
    PublicKeySignature, Rejection, Request, SecretKey, SharedSecret, Signature, SignatureScheme,
};

/// The contract's limit on the number of candidate signatures.
const MAX_SIGNATURES: usize = 16;

/// The proofs of one delivery.
pub struct Proofs<'a> {
    request: &'a Request,
    proofs: Vec<Proof>,
}

impl<'a> Proofs<'a> {
    /// Creates an empty list of proofs.
    pub fn new(request: &'a Request) -> Proofs<'a> {
        Proofs {
            request,
            proofs: Vec::new(),
        }
    }

    /// Returns the proofs of a provider that signs nothing: demands the credentials that are configured, each as the method of
    /// its name does. A plugin whose `describe` does not declare some of them is never given these.
    pub fn credentials(request: &'a Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        proofs.basic_auth()?;
        proofs.bearer_token()?;
        proofs.shared_header()?;
        Ok(proofs.finish())
    }

    /// Adds a proof.
    pub fn push(&mut self, proof: impl Into<Proof>) {
        self.proofs.push(proof.into());
    }

    /// Requires basic authentication if the secret `basic_auth_user` or `basic_auth_password` is configured.
    pub fn basic_auth(&mut self) -> Result<(), Rejection> {
        let (user, password) = ("basic_auth_user", "basic_auth_password");
        if self.request.has_secret(user) || self.request.has_secret(password) {
            let authorization = self.request.proof_header("authorization")?.to_owned();
            self.push(Proof::BasicAuth(BasicAuth {
                authorization,
                user: user.to_owned(),
                password: password.to_owned(),
            }));
        }
        Ok(())
    }

    /// Requires `Authorization: Bearer …` if the secret `bearer_token` is configured.
    pub fn bearer_token(&mut self) -> Result<(), Rejection> {
        let secret = "bearer_token";
        if self.request.has_secret(secret) {
            let authorization = self.request.proof_header("authorization")?;
            // Not `trim`: the host passes bytes as letters, and those of a token may look like blanks.
            let token = match authorization.trim_ascii().split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_ascii(),
                _ => {
                    return Err(Rejection::InvalidProof(
                        "header `authorization` is not a bearer token".to_owned(),
                    ));
                }
            };
            self.shared_secret("header `authorization`", secret, [token]);
        }
        Ok(())
    }

    /// Requires the header named by the setting `header_name` if that setting or the secret `header_value` is
    /// configured. If only one of the two is configured, every delivery is refused: half a configuration must
    /// not let deliveries through unchecked.
    pub fn shared_header(&mut self) -> Result<(), Rejection> {
        let secret = "header_value";
        match (
            self.request.setting("header_name"),
            self.request.has_secret(secret),
        ) {
            (None, false) => Ok(()),
            (None, true) => Err(Rejection::InvalidProof(
                "secret `header_value` is set, setting `header_name` is not".to_owned(),
            )),
            (Some(_), false) => Err(Rejection::InvalidProof(
                "setting `header_name` is set, secret `header_value` is not".to_owned(),
            )),
            (Some(name), true) => {
                let name = name.trim().to_ascii_lowercase();
                let presented = self.request.proof_header(&name)?;
                self.shared_secret(&format!("header `{name}`"), secret, [presented]);
                Ok(())
            }
        }
    }

    /// Requires that one of the `presented` values equals the secret; only the first 16 are used. `source`
    /// says where in the delivery they were found.
    pub fn shared_secret<'p>(
        &mut self,
        source: &str,
        secret: &str,
        presented: impl IntoIterator<Item = &'p str>,
    ) {
        let presented = presented
            .into_iter()
            .take(MAX_SIGNATURES)
            .map(str::to_owned)
            .collect();
        self.push(Proof::SharedSecret(SharedSecret {
            source: source.to_owned(),
            secret: secret.to_owned(),
            presented,
        }));
    }

    /// Requires a signing time within the setting `timestamp_tolerance_seconds` of the time of receipt;
    /// requires nothing if it is unset. `read` is one of the [`time`](crate::time) functions.
    pub fn fresh(
        &mut self,
        source: &str,
        text: &str,
        read: fn(&str) -> Option<i64>,
    ) -> Result<(), Rejection> {
        match self.request.setting_u64("timestamp_tolerance_seconds")? {
            Some(seconds) => self.push_fresh(seconds, source, text, read),
            None => Ok(()),
        }
    }

    /// Requires a signing time within `tolerance_seconds` of the time of receipt, or within the setting
    /// `timestamp_tolerance_seconds` if the operator has set it.
    pub fn fresh_within(
        &mut self,
        tolerance_seconds: u64,
        source: &str,
        text: &str,
        read: fn(&str) -> Option<i64>,
    ) -> Result<(), Rejection> {
        let configured = self.request.setting_u64("timestamp_tolerance_seconds")?;
        self.push_fresh(configured.unwrap_or(tolerance_seconds), source, text, read)
    }

    fn push_fresh(
        &mut self,
        tolerance_seconds: u64,
        source: &str,
        text: &str,
        read: fn(&str) -> Option<i64>,
    ) -> Result<(), Rejection> {
        let Some(signed_at_ms) = read(text) else {
            return Err(Rejection::InvalidProof(format!(
                "{source} holds no readable time"
            )));
        };
        let tolerance_ms = tolerance_seconds.saturating_mul(1000);
        self.push(Proof::Fresh(Freshness {
            source: source.to_owned(),
            signed_at_ms,
            tolerance_ms,
        }));
        Ok(())
    }

    /// Returns the proofs, as the result of `authenticate`.
    pub fn finish(self) -> Vec<Proof> {
        self.proofs
    }
}

/// Creates a part of a signed message from a text or bytes. For the body, use [`Part::Body`].
pub fn part(bytes: impl AsRef<[u8]>) -> Part {
    Part::Bytes(bytes.as_ref().to_vec())
}

impl KeyedHash {
    /// Creates an HMAC whose key is the text of a secret. `source` says where in the delivery the signature
    /// was found, for example "header `x-signature`". Add messages and signatures with the methods below.
    pub fn hmac(hash: Hash, secret: &str, source: &str) -> KeyedHash {
        let key = SecretKey {
            name: secret.to_owned(),
            encoding: Encoding::Utf8,
            strip_prefix: String::new(),
        };
        KeyedHash {
            source: source.to_owned(),
            construction: HashConstruction::Hmac,
            hash,
            key: HashKey::Secret(key),
            messages: Vec::new(),
            signatures: Vec::new(),
        }
    }

    /// Sets another construction than HMAC.
    pub fn construction(mut self, construction: HashConstruction) -> KeyedHash {
        self.construction = construction;
        self
    }

    /// Sets another key: an encoded secret, or one that the provider publishes.
    pub fn key(mut self, key: HashKey) -> KeyedHash {
        self.key = key;
        self
    }

    /// Adds a message that may have been signed, given as at most 256 parts that are joined without separators. At most 8
    /// messages are allowed.
    pub fn message(mut self, parts: impl Into<Vec<Part>>) -> KeyedHash {
        self.messages.push(parts.into());
        self
    }

    /// Adds a candidate signature; one of them must match. Only the first 16 are used.
    pub fn signature(mut self, text: &str, encoding: Encoding) -> KeyedHash {
        push_signature(&mut self.signatures, text, encoding);
        self
    }
}

impl PublicKeySignature {
    /// Creates a signature under a public key. `source` says where in the delivery it was found.
    pub fn new(scheme: SignatureScheme, key: PublicKey, source: &str) -> PublicKeySignature {
        PublicKeySignature {
            source: source.to_owned(),
            scheme,
            key,
            messages: Vec::new(),
            signatures: Vec::new(),
        }
    }

    /// Adds a message that may have been signed, given as at most 256 parts that are joined without separators. At most 8
    /// messages are allowed.
    pub fn message(mut self, parts: impl Into<Vec<Part>>) -> PublicKeySignature {
        self.messages.push(parts.into());
        self
    }

    /// Adds a candidate signature; one of them must match. Only the first 16 are used.
    pub fn signature(mut self, text: &str, encoding: Encoding) -> PublicKeySignature {
        push_signature(&mut self.signatures, text, encoding);
        self
    }
}

fn push_signature(signatures: &mut Vec<Signature>, text: &str, encoding: Encoding) {
    if signatures.len() < MAX_SIGNATURES {
        signatures.push(Signature {
            text: text.to_owned(),
            encoding,
        });
    }
}

impl From<KeyedHash> for Proof {
    fn from(proof: KeyedHash) -> Proof {
        Proof::KeyedHash(proof)
    }
}

impl From<PublicKeySignature> for Proof {
    fn from(proof: PublicKeySignature) -> Proof {
        Proof::PublicKey(proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Descriptor, Header, Setting, time};

    fn request(headers: &[(&str, &str)], settings: &[(&str, &str)], secrets: &[&str]) -> Request {
        Request {
            method: "POST".to_owned(),
            path: String::new(),
            query: String::new(),
            headers: headers
                .iter()
                .map(|(name, value)| Header {
                    name: (*name).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
            body: Vec::new(),
            received_at_ms: 0,
            settings: settings
                .iter()
                .map(|(name, value)| Setting {
                    name: (*name).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
            secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn nothing_configured_demands_nothing() {
        assert_eq!(
            Proofs::credentials(&request(&[("authorization", "Bearer x")], &[], &[])),
            Ok(Vec::new())
        );
    }

    #[test]
    fn what_is_configured_is_demanded() {
        for secret in ["basic_auth_user", "basic_auth_password", "bearer_token"] {
            let refused = Proofs::credentials(&request(&[("authorization", " ")], &[], &[secret]));
            let expected = "header `authorization` is missing or empty".to_owned();
            assert_eq!(refused, Err(Rejection::MissingProof(expected)), "{secret}");
        }
        let refused = Proofs::credentials(&request(&[], &[("header_name", "X-Key")], &["header_value"]));
        assert_eq!(
            refused,
            Err(Rejection::MissingProof(
                "header `x-key` is missing or empty".to_owned()
            ))
        );
    }

    #[test]
    fn a_header_half_configured_refuses() {
        for (settings, secrets) in [
            (&[("header_name", "x-key")][..], &[][..]),
            (&[][..], &["header_value"][..]),
        ] {
            let refused = Proofs::credentials(&request(&[("x-key", "v")], settings, secrets));
            assert!(matches!(refused, Err(Rejection::InvalidProof(_))), "{refused:?}");
        }
    }

    #[test]
    fn presents_token_and_header() {
        let request = request(
            &[("authorization", "bearer  tok=en"), ("x-key", "v")],
            &[("header_name", "X-Key")],
            &["bearer_token", "header_value"],
        );
        let presented: Vec<_> = Proofs::credentials(&request)
            .unwrap()
            .into_iter()
            .map(|proof| match proof {
                Proof::SharedSecret(proof) => (proof.secret, proof.presented),
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        let expected = [("bearer_token", "tok=en"), ("header_value", "v")]
            .map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
        assert_eq!(presented, expected);
    }

    #[test]
    fn another_scheme_is_no_bearer_token() {
        let refused = Proofs::credentials(&request(
            &[("authorization", "Basic eDp5")],
            &[],
            &["bearer_token"],
        ));
        assert!(matches!(refused, Err(Rejection::InvalidProof(_))));
    }

    #[test]
    fn freshness_is_optional_unless_the_provider_prescribes_it() {
        let descriptor = || Descriptor::new("acme", "Acme", "1.0.0", "https://example.com");
        for (descriptor, unset) in [
            (descriptor().timestamp_tolerance(), "unset, any age is accepted."),
            (
                descriptor().timestamp_tolerance_within(300),
                "unset, 300 seconds are accepted.",
            ),
        ] {
            let summary = &descriptor.settings[0].summary;
            assert!(summary.ends_with(unset), "{summary}");
        }
        let unset = request(&[], &[], &[]);
        let set = request(&[], &[("timestamp_tolerance_seconds", "60")], &[]);
        let tolerances = |request: &Request| {
            let mut proofs = Proofs::new(request);
            proofs.fresh("header `t`", "10", time::seconds).unwrap();
            proofs
                .fresh_within(300, "header `t`", "10", time::seconds)
                .unwrap();
            let tolerance = |proof| match proof {
                Proof::Fresh(fresh) => (fresh.signed_at_ms, fresh.tolerance_ms),
                other => panic!("unexpected {other:?}"),
            };
            proofs.finish().into_iter().map(tolerance).collect::<Vec<_>>()
        };
        assert_eq!(tolerances(&unset), [(10_000, 300_000)]);
        assert_eq!(tolerances(&set), [(10_000, 60_000), (10_000, 60_000)]);
        let unreadable = Err(Rejection::InvalidProof(
            "header `t` holds no readable time".to_owned(),
        ));
        assert_eq!(
            Proofs::new(&set).fresh("header `t`", "soon", time::seconds),
            unreadable
        );
        assert_eq!(
            Proofs::new(&unset).fresh_within(300, "header `t`", "soon", time::seconds),
            unreadable
        );
    }

    #[test]
    fn no_more_than_sixteen_signatures_are_presented() {
        let mut hash = KeyedHash::hmac(Hash::Sha256, "key", "header `s`").message([part("v0:"), Part::Body]);
        for _ in 0..40 {
            hash = hash.signature("ab", Encoding::Hex);
        }
        assert_eq!(hash.signatures.len(), 16);
        assert_eq!(hash.messages, [vec![Part::Bytes(b"v0:".to_vec()), Part::Body]]);
    }
}
