//! Encrypts raw deliveries that are kept, so that only this host can read them.
//!
//! A raw delivery holds addresses and authorization headers, so it is sealed (ChaCha20-Poly1305) before it is written
//! to the dead letters, and opened again when it is replayed through a newer plugin. Layout: one byte of version,
//! twelve bytes of nonce, then the sealed zlib-compressed JSON. Provider, account and plugin are stored beside it in
//! clear text and are bound to it: a dead letter that is moved to another account does not open.

use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::Engine;
use event::Timestamp;
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};

/// The layout version that is written. Every version up to it can be read.
const VERSION: u8 = 1;

/// Length of the cipher's key.
const KEY_BYTES: usize = 32;

/// Limit of the size of an unpacked delivery: the largest body as base64 within JSON, its headers, and some margin.
const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;

/// A delivery as it was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawDelivery {
    /// The provider's slug.
    pub provider: String,
    /// The account.
    pub account: String,
    /// Upper-case method.
    pub method: String,
    /// Path, percent-encoded.
    pub path: String,
    /// Query, percent-encoded, without the question mark.
    pub query: String,
    /// Headers in order, names in lower case, values as Latin-1 text.
    pub headers: Vec<(String, String)>,
    /// The body, after removing any content encoding.
    #[serde(with = "as_base64")]
    pub body: Vec<u8>,
    /// When it was received.
    pub received_at: Timestamp,
    /// Whether its proofs held when it was received.
    pub is_proven: bool,
    /// Positions of the elements that yielded no event when others did; empty if none did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<u32>,
}

mod as_base64 {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map_err(|_| D::Error::custom("the body is not valid base64"))
    }
}

/// What is stored beside a sealed delivery in clear text and is bound to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealContext<'a> {
    /// The provider's slug.
    pub provider: &'a str,
    /// The account.
    pub account: &'a str,
    /// The plugin that could not use it, as `slug@version`.
    pub plugin: &'a str,
}

impl SealContext<'_> {
    fn associated_data(&self) -> Aad<Vec<u8>> {
        // None of the three can contain a zero byte.
        let parts = ["sendflowr/dead-letter", self.provider, self.account, self.plugin];
        Aad::from(parts.join("\0").into_bytes())
    }
}

/// Why a sealed delivery cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A newer build wrote it.
    #[error("it has layout version {0}, but this build reads up to {VERSION}: upgrade SendFlowr")]
    TooNew(u8),
    /// It was sealed with another key, or for another provider, account or plugin, or it is damaged.
    #[error("it was sealed with another key (`host.seal_key`), for another account, or is damaged")]
    Sealed,
    /// It was opened, but the content is not as expected.
    #[error("it holds nothing that this build can read")]
    Content,
}

/// Why the key is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealKeyError {
    /// There is no key, or it is neither 64 hexadecimal digits nor base64 of 32 bytes.
    #[error("{0} must be 32 bytes, as 64 hexadecimal digits or base64: `openssl rand -hex 32` makes one")]
    Malformed(String),
    /// There is no file, and a new key would open nothing.
    #[error(
        "the seal key `{}` is missing, and only it opens what is recorded: check the data folder (`--data`), or restore the \
         file from its backup",
        .0.display()
    )]
    Missing(PathBuf),
    /// The file cannot be read or created.
    #[error("the seal key `{}` cannot be read or created", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Seals with one key, and opens with that key and former ones.
pub struct Sealer {
    /// At least one. The first one seals.
    keys: Vec<LessSafeKey>,
    random: SystemRandom,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    /// Creates a sealer that seals and opens with this key only.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self {
            keys: vec![cipher(key)],
            random: SystemRandom::new(),
        }
    }

    /// Parses keys as they are configured. During a key rotation, former keys follow the current one, separated by
    /// white space; they only open.
    ///
    /// # Errors
    /// [`SealKeyError::Malformed`], naming `origin`, when there is no key or one of them is malformed.
    pub fn from_text(text: &str, origin: &str) -> Result<Self, SealKeyError> {
        let mut keys = Vec::new();
        for text in text.split_whitespace() {
            let bytes = match hex::decode(text) {
                Ok(bytes) => Some(bytes),
                Err(_) => base64::engine::general_purpose::STANDARD.decode(text).ok(),
            };
            let key = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok());
            let key = key.ok_or_else(|| SealKeyError::Malformed(origin.to_owned()))?;
            keys.push(cipher(&key));
        }
        if keys.is_empty() {
            return Err(SealKeyError::Malformed(origin.to_owned()));
        }
        Ok(Self {
            keys,
            random: SystemRandom::new(),
        })
    }

    /// Reads the keys from a file. If it is missing, it is created with a new key, readable only by its owner.
    /// Processes that start at the same time end up with the same key. Former keys follow below, one per line.
    ///
    /// # Errors
    /// [`SealKeyError`] when the file holds no key, or cannot be read or created.
    pub fn from_file(path: &Path) -> Result<Self, SealKeyError> {
        let file = |source| SealKeyError::File {
            path: path.to_owned(),
            source,
        };
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_key(path).map_err(file)?;
                std::fs::read_to_string(path).map_err(file)?
            }
            read => read.map_err(file)?,
        };
        Self::from_text(&text, &format!("`{}`", path.display()))
    }

    /// Seals a delivery.
    pub fn seal(&self, delivery: &RawDelivery, plugin: &str) -> Vec<u8> {
        let context = SealContext {
            provider: &delivery.provider,
            account: &delivery.account,
            plugin,
        };
        self.seal_bytes(pack(delivery), context.associated_data())
    }

    /// Seals bytes and binds them to the associated data `beside`.
    pub(crate) fn seal_bytes(&self, mut packed: Vec<u8>, beside: Aad<Vec<u8>>) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        // 96 random bits: after a billion dead letters the chance of a repeated nonce is still one in 10^11.
        self.random
            .fill(&mut nonce)
            .expect("the system's random source does not fail once it is up");
        self.keys[0]
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), beside, &mut packed)
            .expect("what is sealed is far shorter than the cipher's limit of 256 GiB");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + packed.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&packed);
        sealed
    }

    /// Opens what [`Sealer::seal`] returned.
    ///
    /// # Errors
    /// [`OpenError`] when it was not sealed with one of these keys for this context, or is damaged.
    pub fn open(&self, sealed: &[u8], context: &SealContext<'_>) -> Result<RawDelivery, OpenError> {
        let packed = self.open_bytes(sealed, context.associated_data())?;
        serde_json::from_reader(io::BufReader::new(
            ZlibDecoder::new(&*packed).take(MAX_UNPACKED_BYTES),
        ))
        .map_err(|_| OpenError::Content)
    }

    /// Opens what [`Sealer::seal_bytes`] returned.
    pub(crate) fn open_bytes(&self, sealed: &[u8], beside: Aad<Vec<u8>>) -> Result<Vec<u8>, OpenError> {
        let (version, rest) = sealed.split_first().ok_or(OpenError::Sealed)?;
        if *version != VERSION {
            return Err(OpenError::TooNew(*version));
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Sealed)?;
        for key in &self.keys {
            // A failed attempt destroys the buffer, so each key gets a fresh copy.
            let mut buffer = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.open_in_place(nonce, Aad::from(beside.as_ref()), &mut buffer);
            if let Ok(length) = opened.map(|opened| opened.len()) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
        Err(OpenError::Sealed)
    }
}

fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the cipher's keys have 32 bytes");
    LessSafeKey::new(key)
}

fn pack(delivery: &RawDelivery) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    serde_json::to_writer(&mut encoder, delivery)
        .expect("a delivery has only serializable fields, and writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}

/// Creates a key file, or leaves the one that another process has created meanwhile.
fn create_key(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| io::Error::other("the system has no random numbers"))?;
    // The first key wins: what was sealed with it must open.
    store::embedded::create_once(path, format!("{}\n", hex::encode(key)).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn delivery() -> RawDelivery {
        RawDelivery {
            provider: "acme".into(),
            account: "eu".into(),
            method: "POST".into(),
            path: "/webhooks/acme/eu".into(),
            query: "a=1".into(),
            headers: vec![("authorization".into(), "Basic x".into())],
            body: b"{\"email\":\"ann@example.com\"\xff}".repeat(3),
            received_at: "2026-01-10T12:00:00.000Z".parse().unwrap(),
            is_proven: true,
            rejected: Vec::new(),
        }
    }

    const CONTEXT: SealContext<'_> = SealContext {
        provider: "acme",
        account: "eu",
        plugin: "acme@1.0.0",
    };

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal(&delivery(), "acme@1.0.0");
        assert_eq!(sealer.open(&sealed, &CONTEXT).unwrap(), delivery());
        assert!(!sealed.windows(3).any(|bytes| bytes == b"ann"));
        assert_ne!(
            sealer.seal(&delivery(), "acme@1.0.0"),
            sealed,
            "every dead letter has its own nonce"
        );

        let elsewhere = SealContext {
            account: "us",
            ..CONTEXT
        };
        assert!(matches!(sealer.open(&sealed, &elsewhere), Err(OpenError::Sealed)));
        assert!(matches!(
            Sealer::new(&[8; 32]).open(&sealed, &CONTEXT),
            Err(OpenError::Sealed)
        ));
        for position in [1, 13, sealed.len() - 1] {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert!(matches!(sealer.open(&damaged, &CONTEXT), Err(OpenError::Sealed)));
        }
        let mut newer = sealed;
        newer[0] = 2;
        assert!(matches!(sealer.open(&newer, &CONTEXT), Err(OpenError::TooNew(2))));
        assert!(matches!(sealer.open(&[], &CONTEXT), Err(OpenError::Sealed)));
    }

    /// A dead letter of every layout version is kept as test data for good: replay must be able to read it.
    #[test]
    fn reads_every_stored_layout() {
        let sealed = include_bytes!("../tests/data/letter-v1.bin");
        assert_eq!(Sealer::new(&[7; 32]).open(sealed, &CONTEXT).unwrap(), delivery());
    }

    #[test]
    fn a_key_file_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/seal.key");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || Sealer::from_file(&path).unwrap().seal(&delivery(), "acme@1.0.0"))
            })
            .collect();
        let sealer = Sealer::from_file(&path).unwrap();
        for thread in threads {
            assert_eq!(
                sealer.open(&thread.join().unwrap(), &CONTEXT).unwrap(),
                delivery()
            );
        }
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no drafts are left"
        );
        let permissions = std::fs::metadata(&path).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_are_hexadecimal_or_base64() {
        let sealed = Sealer::new(&[7; 32]).seal(&delivery(), "acme@1.0.0");
        let base64 = base64::engine::general_purpose::STANDARD.encode([7; 32]);
        for text in [hex::encode([7; 32]), base64] {
            assert!(
                Sealer::from_text(&text, "x")
                    .unwrap()
                    .open(&sealed, &CONTEXT)
                    .is_ok()
            );
        }
        let half_right = format!("{} secret", hex::encode([7; 32]));
        for text in ["secret", &half_right, " \n"] {
            let error = Sealer::from_text(text, "`host.seal_key`")
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("`host.seal_key` must be 32 bytes") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_first_key_seals_and_former_ones_open() {
        let (former, new) = (Sealer::new(&[7; 32]), Sealer::new(&[8; 32]));
        let text = format!("{}\n{}\n", hex::encode([8; 32]), hex::encode([7; 32]));
        let both = Sealer::from_text(&text, "x").unwrap();
        for sealer in [&former, &new, &both] {
            let sealed = sealer.seal(&delivery(), "acme@1.0.0");
            assert_eq!(both.open(&sealed, &CONTEXT).unwrap(), delivery());
        }
        let sealed = both.seal(&delivery(), "acme@1.0.0");
        assert!(new.open(&sealed, &CONTEXT).is_ok());
        assert!(matches!(former.open(&sealed, &CONTEXT), Err(OpenError::Sealed)));
    }
}
