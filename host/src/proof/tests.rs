use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use ring::{
    digest, hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};

use super::{testing::descriptor, *};
use crate::plugin::types::{
    BasicAuth, Encoding, Hash, HashConstruction, KeyedHash, PublicKey, PublicKeySignature, SecretKey,
    SharedSecret, Signature, SignatureScheme,
};

const BODY: &[u8] = b"{\"event\":\"click\"}";
const NOW_MS: i64 = 1_768_046_400_000;
const CERTIFICATE: &str = include_str!("../../tests/data/certificate.pem");
const CERTIFICATE_URL: &str = "https://keys.acme.test/signing.pem";

/// An account with these secrets, and what is sent to it.
struct Scene {
    descriptor: Descriptor,
    account: Account,
    request: Request,
    certificates: GivenCertificates,
}

impl Scene {
    fn new(secrets: &[(&str, &[&str])]) -> Self {
        let specs: Vec<(&str, bool)> = secrets.iter().map(|(name, _)| (*name, true)).collect();
        let values = secrets.iter().map(|(name, texts)| {
            (
                (*name).to_owned(),
                texts.iter().map(|text| (*text).to_owned()).collect(),
            )
        });
        let pem = BTreeMap::from([
            (CERTIFICATE_URL.to_owned(), CERTIFICATE.to_owned()),
            (
                "https://keys.acme.test/broken.pem".to_owned(),
                "nothing".to_owned(),
            ),
            (
                "https://keys.acme.test/quoted.pem".to_owned(),
                format!("<Error>no such thing as {CERTIFICATE}</Error>"),
            ),
        ]);
        Self {
            descriptor: descriptor(&specs, &[]),
            account: Account::new("acme", "default", values, false),
            request: Request {
                method: "POST".into(),
                path: "/webhooks/acme".into(),
                query: String::new(),
                headers: vec![],
                body: BODY.to_vec(),
                received_at_ms: NOW_MS,
                settings: vec![],
                secrets: vec![],
            },
            certificates: GivenCertificates::new(pem),
        }
    }

    fn check(&self, proofs: &[Proof]) -> Result<Trust, Refusal> {
        let evidence = Evidence {
            descriptor: &self.descriptor,
            account: &self.account,
            request: &self.request,
            certificates: &self.certificates,
        };
        // Given certificates are available at once, so that nothing has to be waited for.
        futures::executor::block_on(check(proofs, &evidence))
    }

    fn code(&self, proofs: &[Proof]) -> &'static str {
        self.check(proofs).unwrap_err().code()
    }
}

fn signature(bytes: impl AsRef<[u8]>) -> Signature {
    Signature {
        text: STANDARD.encode(bytes),
        encoding: Encoding::Base64,
    }
}

fn keyed_hash(signatures: Vec<Signature>) -> KeyedHash {
    KeyedHash {
        source: "header `x-acme-signature`".into(),
        construction: HashConstruction::Hmac,
        hash: Hash::Sha256,
        key: HashKey::Secret(SecretKey {
            name: "key".into(),
            encoding: Encoding::Utf8,
            strip_prefix: String::new(),
        }),
        messages: vec![vec![Part::Bytes(b"1.".to_vec()), Part::Body]],
        signatures,
    }
}

fn hmac_of(algorithm: hmac::Algorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key), message)
        .as_ref()
        .to_vec()
}

fn signed(key: &str) -> Proof {
    let message = [b"1.", BODY].concat();
    Proof::KeyedHash(keyed_hash(vec![signature(hmac_of(
        hmac::HMAC_SHA256,
        key.as_bytes(),
        &message,
    ))]))
}

#[test]
fn accepts_any_value_of_a_rotated_secret() {
    let scene = Scene::new(&[("key", &["new", "old\n"])]);
    assert_eq!(scene.check(&[signed("old")]), Ok(Trust::Genuine));
    assert_eq!(scene.check(&[signed("new")]), Ok(Trust::Genuine));
    let refusal = scene.check(&[signed("other")]).unwrap_err();
    assert_eq!(refusal.code(), "signature_mismatch");
    assert!(
        refusal.to_string().contains("header `x-acme-signature`"),
        "{refusal}"
    );
}

#[test]
fn every_hash_and_construction_is_the_standard_one() {
    let message = [b"1.", BODY].concat();
    let plain = |algorithm| {
        digest::digest(algorithm, &[b"k3y".as_slice(), &message].concat())
            .as_ref()
            .to_vec()
    };
    let cases = [
        (
            HashConstruction::Hmac,
            Hash::Sha1,
            hmac_of(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"k3y", &message),
        ),
        (
            HashConstruction::Hmac,
            Hash::Sha256,
            hmac_of(hmac::HMAC_SHA256, b"k3y", &message),
        ),
        (
            HashConstruction::Hmac,
            Hash::Sha512,
            hmac_of(hmac::HMAC_SHA512, b"k3y", &message),
        ),
        (
            HashConstruction::KeyThenMessage,
            Hash::Sha1,
            plain(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        ),
        (
            HashConstruction::KeyThenMessage,
            Hash::Sha256,
            plain(&digest::SHA256),
        ),
        (
            HashConstruction::KeyThenMessage,
            Hash::Sha512,
            plain(&digest::SHA512),
        ),
    ];
    let scene = Scene::new(&[("key", &["k3y"])]);
    for (construction, hash, tag) in cases {
        let hex = Signature {
            text: hex::encode_upper(&tag),
            encoding: Encoding::Hex,
        };
        let good = KeyedHash {
            construction,
            hash,
            ..keyed_hash(vec![hex])
        };
        assert_eq!(
            scene.check(&[Proof::KeyedHash(good)]),
            Ok(Trust::Genuine),
            "{construction:?} {hash:?}"
        );
        let cut = KeyedHash {
            construction,
            hash,
            ..keyed_hash(vec![signature(&tag[1..])])
        };
        assert_eq!(scene.code(&[Proof::KeyedHash(cut)]), "signature_mismatch");
    }
}

#[test]
fn keys_are_decoded_as_the_provider_writes_them() {
    let key = SecretKey {
        name: "key".into(),
        encoding: Encoding::Base64,
        strip_prefix: "whsec_".into(),
    };
    let message = [b"1.", BODY].concat();
    let proof = |tag| KeyedHash {
        key: HashKey::Secret(key.clone()),
        ..keyed_hash(vec![signature(tag)])
    };
    let tag = hmac_of(hmac::HMAC_SHA256, &[1, 2, 3], &message);
    for configured in ["whsec_AQID", "AQID", "whsec_AQID\n"] {
        let scene = Scene::new(&[("key", &[configured])]);
        assert_eq!(
            scene.check(&[Proof::KeyedHash(proof(&tag))]),
            Ok(Trust::Genuine),
            "{configured}"
        );
    }
    let rotated = Scene::new(&[("key", &["§", "AQID"])]);
    assert_eq!(
        rotated.check(&[Proof::KeyedHash(proof(&tag))]),
        Ok(Trust::Genuine)
    );
    for unusable in ["whsec_§", "whsec_"] {
        let scene = Scene::new(&[("key", &[unusable])]);
        let refusal = scene.check(&[Proof::KeyedHash(proof(&tag))]).unwrap_err();
        assert_eq!(refusal.code(), "secret_unusable");
        assert!(!refusal.to_string().contains(unusable), "{refusal}");
    }
}

/// A plugin could take the prefix from the request: the answer must not tell whether the secret begins with it.
#[test]
fn a_prefix_does_not_reveal_how_a_secret_begins() {
    let scene = Scene::new(&[("key", &["a1_b2_c3d4e5f60718"])]);
    let genuine = hmac_of(hmac::HMAC_SHA256, b"a1_b2_c3d4e5f60718", &[b"1.", BODY].concat());
    for encoding in [Encoding::Utf8, Encoding::Hex, Encoding::Base64] {
        for prefix in ["a", "b", "a1", "a1_b2_", "a1_b3_", "a1_b2_c3d4e5f6071_"] {
            let key = SecretKey {
                name: "key".into(),
                encoding,
                strip_prefix: prefix.into(),
            };
            let proof = KeyedHash {
                key: HashKey::Secret(key),
                ..keyed_hash(vec![signature(&genuine)])
            };
            assert_eq!(
                scene.code(&[Proof::KeyedHash(proof)]),
                "plugin_fault",
                "{encoding:?} {prefix}"
            );
        }
    }
}

#[test]
fn says_when_a_signature_is_absent_or_unreadable() {
    let scene = Scene::new(&[("key", &["k"])]);
    let text = |text: &str, encoding| Signature {
        text: text.into(),
        encoding,
    };
    assert_eq!(
        scene.code(&[Proof::KeyedHash(keyed_hash(vec![]))]),
        "signature_missing"
    );
    let empty = keyed_hash(vec![text("", Encoding::Hex)]);
    assert_eq!(scene.code(&[Proof::KeyedHash(empty)]), "signature_missing");
    let unreadable = keyed_hash(vec![text("xyz", Encoding::Hex)]);
    let refusal = scene.check(&[Proof::KeyedHash(unreadable)]).unwrap_err();
    assert_eq!(refusal.code(), "signature_encoding");
    assert_eq!(
        refusal.to_string(),
        "header `x-acme-signature` is not hexadecimal"
    );
}

#[test]
fn secrets_that_are_not_there_are_named() {
    let mut scene = Scene::new(&[("key", &[])]);
    let refusal = scene.check(&[signed("k")]).unwrap_err();
    assert_eq!(refusal.code(), "secret_not_configured");
    assert_eq!(
        refusal.to_string(),
        "the secret `key` is not configured: set `accounts.acme.default.key`"
    );
    scene.descriptor.secrets.clear();
    assert_eq!(scene.code(&[signed("k")]), "secret_undeclared");
}

fn public_key(scheme: SignatureScheme, signature: Signature) -> PublicKeySignature {
    PublicKeySignature {
        source: "header `x-acme-signature`".into(),
        scheme,
        key: PublicKey::Secret("key".into()),
        messages: vec![vec![Part::Bytes(b"1.".to_vec()), Part::Body]],
        signatures: vec![signature],
    }
}

/// Wraps a bare key in the form in which keys are published, as base64.
fn published(algorithm: &str, bare: &[u8]) -> String {
    let mut der = hex::decode(algorithm).unwrap();
    der.extend_from_slice(bare);
    STANDARD.encode(der)
}

/// SubjectPublicKeyInfo up to the point, for P-256 and for Ed25519.
const P256_PREFIX: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
const ED25519_PREFIX: &str = "302a300506032b6570032100";

#[test]
fn checks_ecdsa_and_ed25519() {
    let random = SystemRandom::new();
    let message = [b"1.", BODY].concat();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let ecdsa = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let ed25519 =
        Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
    let ecdsa_key = published(P256_PREFIX, ecdsa.public_key().as_ref());
    let ed25519_key = published(ED25519_PREFIX, ed25519.public_key().as_ref());
    let by_ecdsa = public_key(
        SignatureScheme::EcdsaP256Sha256,
        signature(ecdsa.sign(&random, &message).unwrap()),
    );
    let by_ed25519 = public_key(SignatureScheme::Ed25519, signature(ed25519.sign(&message)));

    let other = published(
        P256_PREFIX,
        EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
                .unwrap()
                .as_ref(),
            &random,
        )
        .unwrap()
        .public_key()
        .as_ref(),
    );
    let scene = Scene::new(&[("key", &[&other, &ecdsa_key])]);
    assert_eq!(
        scene.check(&[Proof::PublicKey(by_ecdsa.clone())]),
        Ok(Trust::Genuine)
    );
    let mut tampered = Scene::new(&[("key", &[&ecdsa_key])]);
    tampered.request.body[0] ^= 1;
    assert_eq!(tampered.code(&[Proof::PublicKey(by_ecdsa)]), "signature_mismatch");

    let scene = Scene::new(&[("key", &[&ed25519_key])]);
    assert_eq!(
        scene.check(&[Proof::PublicKey(by_ed25519.clone())]),
        Ok(Trust::Genuine)
    );
    let scene = Scene::new(&[("key", &[&ecdsa_key])]);
    assert_eq!(scene.code(&[Proof::PublicKey(by_ed25519)]), "secret_unusable");
}

fn by_certificate(scheme: SignatureScheme, url: &str) -> PublicKeySignature {
    let text = match scheme {
        SignatureScheme::RsaPkcs1Sha1 => include_str!("../../tests/data/rsa-sha1.sig"),
        _ => include_str!("../../tests/data/rsa-sha256.sig"),
    };
    PublicKeySignature {
        key: PublicKey::CertificateUrl(url.into()),
        messages: vec![vec![Part::Bytes(b"signed text".to_vec())]],
        ..public_key(
            scheme,
            Signature {
                text: text.into(),
                encoding: Encoding::Base64,
            },
        )
    }
}

#[test]
fn checks_rsa_by_certificate() {
    let mut scene = Scene::new(&[]);
    for scheme in [SignatureScheme::RsaPkcs1Sha1, SignatureScheme::RsaPkcs1Sha256] {
        assert_eq!(
            scene.check(&[Proof::PublicKey(by_certificate(scheme, CERTIFICATE_URL))]),
            Ok(Trust::Genuine)
        );
        let mut other = by_certificate(scheme, CERTIFICATE_URL);
        other.messages[0].push(Part::Body);
        assert_eq!(scene.code(&[Proof::PublicKey(other)]), "signature_mismatch");
    }
    let code = |scene: &Scene, scheme, url| scene.code(&[Proof::PublicKey(by_certificate(scheme, url))]);
    let sha256 = SignatureScheme::RsaPkcs1Sha256;
    assert_eq!(
        code(&scene, SignatureScheme::Ed25519, CERTIFICATE_URL),
        "certificate_invalid"
    );
    for (url, refusal) in [
        ("https://keys.acme.test/broken.pem", "certificate_invalid"),
        ("https://keys.acme.test/quoted.pem", "certificate_invalid"),
        (
            "https://keys.acme.test/signing.pem?n=1&.pem",
            "certificate_address_refused",
        ),
        ("https://keys.acme.test/other.pem", "certificate_unavailable"),
        ("https://evil.test/signing.pem", "certificate_address_refused"),
        ("http://keys.acme.test/signing.pem", "certificate_address_refused"),
    ] {
        assert_eq!(code(&scene, sha256, url), refusal, "{url}");
    }
    // 2019 and 2041: the certificate is valid from 2020 to 2039.
    for received_at_ms in [1_560_000_000_000, 2_250_000_000_000] {
        scene.request.received_at_ms = received_at_ms;
        assert_eq!(code(&scene, sha256, CERTIFICATE_URL), "certificate_invalid");
    }
}

#[test]
fn a_certificate_proves_nothing_without_the_settings_that_tell_whose_it_is() {
    let proofs = [Proof::PublicKey(by_certificate(
        SignatureScheme::RsaPkcs1Sha256,
        CERTIFICATE_URL,
    ))];
    let mut scene = Scene::new(&[("token", &["t"])]);
    scene.descriptor = descriptor(&[("token", false)], &[("topic", true), ("tolerance", false)]);
    let refusal = scene.check(&proofs).unwrap_err();
    assert_eq!(refusal.code(), "setting_not_configured");
    assert!(
        refusal.to_string().ends_with("set `accounts.acme.default.topic`"),
        "{refusal}"
    );
    // A secret shows it as well.
    let [certificate] = &proofs;
    assert_eq!(
        scene.check(&[token(&["t"]), certificate.clone()]),
        Ok(Trust::Genuine)
    );
    let mut with_values = |values: Vec<(String, Vec<String>)>, allow_unsigned| {
        scene.account = Account::new("acme", "default", values, allow_unsigned);
        scene.check(&proofs)
    };
    assert_eq!(
        with_values(vec![("topic".into(), vec!["arn:t".into()])], false),
        Ok(Trust::Genuine)
    );
    assert_eq!(with_values(vec![], true), Ok(Trust::Unsigned));
}

fn token(presented: &[&str]) -> Proof {
    Proof::SharedSecret(SharedSecret {
        source: "query `token`".into(),
        secret: "token".into(),
        presented: presented.iter().map(|text| (*text).to_owned()).collect(),
    })
}

#[test]
fn checks_tokens() {
    let scene = Scene::new(&[("token", &["t-new", "t-old"])]);
    assert_eq!(scene.check(&[token(&["no", "t-old"])]), Ok(Trust::Genuine));
    assert_eq!(
        scene.code(&[token(&["t-ne", "t-new2", ""])]),
        "credentials_mismatch"
    );
    assert_eq!(scene.code(&[token(&[])]), "credentials_missing");
    assert_eq!(scene.code(&[token(&[""])]), "credentials_missing");
}

fn basic(authorization: impl Into<String>) -> Proof {
    Proof::BasicAuth(BasicAuth {
        authorization: authorization.into(),
        user: "user".into(),
        password: "password".into(),
    })
}

#[test]
fn checks_basic_authentication() {
    let scene = Scene::new(&[("user", &["ann"]), ("password", &["p:w", "old"])]);
    for good in ["ann:p:w", "ann:old"] {
        assert_eq!(
            scene.check(&[basic(format!("basic {}", STANDARD.encode(good)))]),
            Ok(Trust::Genuine)
        );
    }
    for bad in ["ann:p", "bob:old", ":old", "ann:"] {
        assert_eq!(
            scene.code(&[basic(format!("Basic {}", STANDARD.encode(bad)))]),
            "credentials_mismatch"
        );
    }
    assert_eq!(scene.code(&[basic("Bearer abc")]), "credentials_missing");
    assert_eq!(scene.code(&[basic("")]), "credentials_missing");
    assert_eq!(scene.code(&[basic("Basic §")]), "signature_encoding");
    assert_eq!(
        scene.code(&[basic(format!("Basic {}", STANDARD.encode("ann")))]),
        "credentials_missing"
    );
}

fn fresh(signed_at_ms: i64) -> Proof {
    Proof::Fresh(Freshness {
        source: "field `t`".into(),
        signed_at_ms,
        tolerance_ms: 300_000,
    })
}

#[test]
fn says_how_stale_a_delivery_is() {
    let scene = Scene::new(&[("key", &["k"])]);
    for signed_at_ms in [NOW_MS - 300_000, NOW_MS + 300_000] {
        assert_eq!(
            scene.check(&[signed("k"), fresh(signed_at_ms)]),
            Ok(Trust::Genuine)
        );
    }
    let text = |signed_at_ms| {
        scene
            .check(&[signed("k"), fresh(signed_at_ms)])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        text(NOW_MS - 300_001),
        "field `t` is 301 s old, at most 300 s are allowed"
    );
    assert_eq!(
        text(NOW_MS + 400_000),
        "field `t` is 400 s in the future, at most 300 s are allowed"
    );
    assert_eq!(scene.code(&[signed("k"), fresh(i64::MIN)]), "timestamp_stale");
}

#[test]
fn nothing_proves_nothing() {
    let unconfigured = Scene::new(&[("key", &[])]);
    let refusal = unconfigured.check(&[]).unwrap_err();
    assert_eq!(refusal.code(), "no_proof_configured");
    assert!(
        refusal
            .to_string()
            .ends_with("configure `accounts.acme.default.key`"),
        "{refusal}"
    );
    // A recent timestamp proves nothing: anyone can write one.
    assert_eq!(unconfigured.code(&[fresh(NOW_MS)]), "no_proof_configured");
    let configured = Scene::new(&[("key", &["k"])]);
    assert_eq!(configured.code(&[]), "no_proof_demanded");

    let mut open = Scene::new(&[("key", &[])]);
    open.account = Account::new("acme", "default", [], true);
    assert_eq!(open.check(&[]), Ok(Trust::Unsigned));
    assert_eq!(open.code(&[fresh(0)]), "timestamp_stale");
    let mut closed = Scene::new(&[("key", &["k"])]);
    closed.account = Account::new(
        "acme",
        "default",
        [("key".to_owned(), vec!["k".to_owned()])],
        true,
    );
    assert_eq!(closed.code(&[]), "no_proof_demanded");
}

#[test]
fn published_keys_and_handshakes_are_worth_less() {
    let scene = Scene::new(&[("key", &["k"])]);
    let tag = hmac_of(hmac::HMAC_SHA256, b"known to all", &[b"1.", BODY].concat());
    let ping = Proof::KeyedHash(KeyedHash {
        key: HashKey::Published(b"known to all".to_vec()),
        ..keyed_hash(vec![signature(tag)])
    });
    assert_eq!(scene.check(std::slice::from_ref(&ping)), Ok(Trust::PublishedKey));
    assert_eq!(scene.check(&[ping, signed("k")]), Ok(Trust::Genuine));
    assert_eq!(scene.check(&[Proof::Handshake]), Ok(Trust::Handshake));
}

#[test]
fn the_largest_body_that_can_be_configured_is_checked_under_every_value_of_a_rotated_key() {
    let ed25519 = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let published = |key: Ed25519KeyPair| published(ED25519_PREFIX, key.public_key().as_ref());
    let keys = [1, 2, 3, 4].map(|seed| published(ed25519(seed)));
    let mut scene = Scene::new(&[("key", &keys.each_ref().map(String::as_str))]);
    scene.request.body = vec![b'x'; 16 * 1024 * 1024];
    let message = [b"1.", scene.request.body.as_slice()].concat();
    let proof = public_key(SignatureScheme::Ed25519, signature(ed25519(4).sign(&message)));
    assert_eq!(scene.check(&[Proof::PublicKey(proof)]), Ok(Trust::Genuine));
}

#[test]
fn the_work_is_bounded() {
    let mut scene = Scene::new(&[("key", &["k"])]);
    let mut empty = keyed_hash(vec![signature("x")]);
    empty.messages.clear();
    assert_eq!(scene.code(&[Proof::KeyedHash(empty)]), "plugin_fault");

    scene.request.body = vec![0; 1024 * 1024];
    let mut long = keyed_hash(vec![signature("x")]);
    long.messages = vec![vec![Part::Body; 33]];
    assert_eq!(scene.code(&[Proof::KeyedHash(long)]), "plugin_fault");

    let published = KeyedHash {
        key: HashKey::Published(vec![0; 5 * 1024 * 1024]),
        messages: vec![vec![]; 8],
        ..keyed_hash(vec![signature("x")])
    };
    assert_eq!(scene.code(&[Proof::KeyedHash(published)]), "plugin_fault");

    let mut costly = by_certificate(SignatureScheme::RsaPkcs1Sha256, CERTIFICATE_URL);
    // As many as the contract allows.
    costly.messages = vec![vec![]; 8];
    costly.signatures = vec![signature("x"); 16];
    assert_eq!(scene.code(&[Proof::PublicKey(costly)]), "plugin_fault");
}

fn any_encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![Just(Encoding::Utf8), Just(Encoding::Hex), Just(Encoding::Base64)]
}

fn any_signatures() -> impl Strategy<Value = Vec<Signature>> {
    let signature = (".{0,100}", any_encoding()).prop_map(|(text, encoding)| Signature { text, encoding });
    prop::collection::vec(signature, 0..20)
}

fn any_messages() -> impl Strategy<Value = Vec<Message>> {
    let part = prop_oneof![
        Just(Part::Body),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Part::Bytes)
    ];
    prop::collection::vec(prop::collection::vec(part, 0..4), 0..10)
}

fn any_proof() -> impl Strategy<Value = Proof> {
    let hash = prop_oneof![Just(Hash::Sha1), Just(Hash::Sha256), Just(Hash::Sha512)];
    let construction = prop_oneof![
        Just(HashConstruction::Hmac),
        Just(HashConstruction::KeyThenMessage)
    ];
    let scheme = prop_oneof![
        Just(SignatureScheme::EcdsaP256Sha256),
        Just(SignatureScheme::RsaPkcs1Sha1),
        Just(SignatureScheme::RsaPkcs1Sha256),
        Just(SignatureScheme::Ed25519),
    ];
    let hash_key = ("[a-z]{0,3}|key", any_encoding(), ".{0,3}").prop_map(|(name, encoding, strip_prefix)| {
        HashKey::Secret(SecretKey {
            name,
            encoding,
            strip_prefix,
        })
    });
    let source = prop_oneof![
        "key|token".prop_map(PublicKey::Secret),
        ".{0,40}".prop_map(PublicKey::CertificateUrl)
    ];
    prop_oneof![
        (construction, hash, hash_key, any_messages(), any_signatures()).prop_map(
            |(construction, hash, key, messages, signatures)| Proof::KeyedHash(KeyedHash {
                source: "x".into(),
                construction,
                hash,
                key,
                messages,
                signatures,
            })
        ),
        (scheme, source, any_messages(), any_signatures()).prop_map(|(scheme, key, messages, signatures)| {
            Proof::PublicKey(PublicKeySignature {
                source: "x".into(),
                scheme,
                key,
                messages,
                signatures,
            })
        }),
        prop::collection::vec(".{0,20}", 0..20).prop_map(|presented| Proof::SharedSecret(SharedSecret {
            source: "x".into(),
            secret: "token".into(),
            presented,
        })),
        ".{0,60}".prop_map(basic),
        (any::<i64>(), any::<u64>()).prop_map(|(signed_at_ms, tolerance_ms)| Proof::Fresh(Freshness {
            source: "x".into(),
            signed_at_ms,
            tolerance_ms,
        })),
        Just(Proof::Handshake),
    ]
}

proptest! {
    /// Whatever a plugin demands: no panic, and nothing but the secret itself makes a delivery genuine.
    #[test]
    fn arbitrary_proofs_prove_nothing(proofs in prop::collection::vec(any_proof(), 0..20), received_at_ms: i64) {
        let mut scene = Scene::new(&[
            ("key", &["7b9e41c2a6f0", include_str!("../../tests/data/p256.pem")]),
            ("token", &["c0ffee-4711-c0ffee"]),
            ("user", &["u-5581"]),
            ("password", &["p-9913"]),
        ]);
        scene.request.received_at_ms = received_at_ms;
        prop_assert_ne!(scene.check(&proofs), Ok(Trust::Genuine));
    }
}
