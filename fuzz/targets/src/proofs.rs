//! Checks arbitrary proofs: nothing is genuine that a secret does not prove, and what a secret proves is
//! genuine.

use std::{collections::BTreeMap, sync::LazyLock};

use host::{
    Account,
    plugin::types::{
        BasicAuth, Descriptor, Encoding, Freshness, Hash, HashConstruction, HashKey, KeyedHash, Message,
        Part, Proof, PublicKey, PublicKeySignature, SecretKey, SecretSpec, SharedSecret, Signature,
        SignatureScheme, Statuses,
    },
    proof::{self, GivenCertificates},
};
use ring::hmac;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .build()
        .expect("it needs no threads")
});

/// A secret that the fuzzed input cannot know.
const SECRET: &str = "7c1f0e6b52d94a8f9a3be0c44d6f21a8";

/// Reads bytes as choices, numbers and texts.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn number(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.number()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    fn name(&mut self) -> String {
        match self.number() % 4 {
            0 => self.text(),
            _ => ["key", "pem", "user"][usize::from(self.number() % 3)].to_owned(),
        }
    }

    fn list<T>(&mut self, most: u8, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.number() % (most + 1);
        (0..count).map(|_| element(self)).collect()
    }

    fn encoding(&mut self) -> Encoding {
        [Encoding::Utf8, Encoding::Hex, Encoding::Base64][usize::from(self.number() % 3)]
    }

    fn message(&mut self) -> Message {
        self.list(4, |choices| match choices.number() % 3 {
            0 => Part::Body,
            _ => Part::Bytes(choices.bytes().to_vec()),
        })
    }

    fn signature(&mut self) -> Signature {
        Signature {
            text: self.text(),
            encoding: self.encoding(),
        }
    }

    fn hash(&mut self) -> Hash {
        [Hash::Sha1, Hash::Sha256, Hash::Sha512][usize::from(self.number() % 3)]
    }

    fn proof(&mut self) -> Proof {
        match self.number() % 7 {
            0 => Proof::Handshake,
            1 => Proof::Fresh(Freshness {
                source: self.text(),
                signed_at_ms: i64::from(self.number()) - 128,
                tolerance_ms: u64::from(self.number()),
            }),
            2 => Proof::BasicAuth(BasicAuth {
                authorization: self.text(),
                user: self.name(),
                password: self.name(),
            }),
            3 => Proof::SharedSecret(SharedSecret {
                source: self.text(),
                secret: self.name(),
                presented: self.list(20, Self::text),
            }),
            4 => Proof::PublicKey(PublicKeySignature {
                source: self.text(),
                scheme: [
                    SignatureScheme::EcdsaP256Sha256,
                    SignatureScheme::RsaPkcs1Sha1,
                    SignatureScheme::RsaPkcs1Sha256,
                    SignatureScheme::Ed25519,
                ][usize::from(self.number() % 4)],
                key: match self.number() % 2 {
                    0 => PublicKey::Secret(self.name()),
                    _ => PublicKey::CertificateUrl(self.text()),
                },
                messages: self.list(9, Self::message),
                signatures: self.list(17, Self::signature),
            }),
            _ => Proof::KeyedHash(KeyedHash {
                source: self.text(),
                construction: match self.number() % 2 {
                    0 => HashConstruction::Hmac,
                    _ => HashConstruction::KeyThenMessage,
                },
                hash: self.hash(),
                key: match self.number() % 3 {
                    0 => HashKey::Published(self.bytes().to_vec()),
                    _ => HashKey::Secret(SecretKey {
                        name: self.name(),
                        encoding: self.encoding(),
                        strip_prefix: self.text(),
                    }),
                },
                messages: self.list(9, Self::message),
                signatures: self.list(17, Self::signature),
            }),
        }
    }
}

fn descriptor() -> Descriptor {
    let secret = |name: &str| SecretSpec {
        name: name.to_owned(),
        summary: String::new(),
        required: true,
    };
    Descriptor {
        slug: "fuzz".to_owned(),
        display_name: String::new(),
        version: "1.0.0".to_owned(),
        docs_url: String::new(),
        secrets: vec![secret("key"), secret("pem"), secret("user")],
        settings: Vec::new(),
        hosts: vec!["certificates.test".to_owned()],
        statuses: Statuses {
            unproven: 401,
            malformed: 400,
            unavailable: 503,
        },
    }
}

/// Checks whether these proofs make a delivery genuine.
fn is_genuine(proofs: &[Proof], key: &str, body: &[u8]) -> bool {
    let values = BTreeMap::from([
        ("key".to_owned(), vec![key.to_owned(), format!("whsec_{SECRET}")]),
        ("user".to_owned(), vec![SECRET.to_owned()]),
        // Arbitrary bytes as a public key.
        (
            "pem".to_owned(),
            vec![String::from_utf8_lossy(body).into_owned(), SECRET.to_owned()],
        ),
    ]);
    let account = Account::new("fuzz", "default", values, false);
    let request = crate::service::request(body);
    let certificates = GivenCertificates::new(BTreeMap::new());
    let descriptor = descriptor();
    let checked = proof::is_genuine(proofs, &descriptor, &account, &request, &certificates);
    RUNTIME.block_on(checked).unwrap_or(false)
}

/// Checks proofs made of the bytes, and one that holds.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let proofs = choices.list(20, Choices::proof);
    let body = choices.0;
    let names_pem = |proof: &Proof| matches!(proof, Proof::PublicKey(_));
    let knows = |proof: &Proof| match proof {
        // With a key that is in the input, the input can sign anything.
        Proof::SharedSecret(secret) => secret.secret == "pem",
        Proof::BasicAuth(basic) => basic.user == "pem" || basic.password == "pem",
        Proof::KeyedHash(hash) => matches!(&hash.key, HashKey::Secret(key) if key.name == "pem"),
        _ => false,
    };
    let genuine = is_genuine(&proofs, SECRET, body);
    if !proofs.iter().any(|proof| names_pem(proof) || knows(proof)) {
        assert!(!genuine, "nobody knows the secret: {proofs:?}");
    }

    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let text = |tag: &[u8]| tag.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let signed = |tag: String| {
        Proof::KeyedHash(KeyedHash {
            source: "header `s`".to_owned(),
            construction: HashConstruction::Hmac,
            hash: Hash::Sha256,
            key: HashKey::Secret(SecretKey {
                name: "key".to_owned(),
                encoding: Encoding::Utf8,
                strip_prefix: String::new(),
            }),
            messages: vec![vec![Part::Bytes(b"v0:".to_vec()), Part::Body]],
            signatures: vec![Signature {
                text: tag,
                encoding: Encoding::Hex,
            }],
        })
    };
    let tag = hmac::sign(&key, &[b"v0:", body].concat());
    assert!(is_genuine(&[signed(text(tag.as_ref()))], SECRET, body));
    let mut forged = tag.as_ref().to_vec();
    let at = bytes.len() % forged.len();
    forged[at] ^= 1 << (bytes.first().copied().unwrap_or_default() % 8);
    assert!(!is_genuine(&[signed(text(&forged))], SECRET, body));
    assert!(!is_genuine(&[signed(text(tag.as_ref()))], "another", body));
}
