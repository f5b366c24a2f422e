//! Signatures of plugin files, made by minisign.
//!
//! The signature of `acme.wasm` is `acme.wasm.minisig` beside it. Both kinds of minisign's signatures are accepted: of
//! the file's BLAKE2b hash, its default, and of the file itself (`minisign -l`), as older versions made them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use minisign_verify::{Error, PublicKey, Signature};

use super::{error::LoadError, file};

/// Size limit of a signature file: minisign's own limits for the two comments are 1 KiB and 8 KiB.
pub const MOST_SIGNATURE_BYTES: u64 = 16 << 10;

/// The keys whose signatures are trusted. If there are none, signatures are not required.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<PublicKey>);

/// A text that is not a public key of minisign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {position} of `host.plugins.trusted_keys` is not a public key of minisign; a key is the second line of \
     `minisign.pub` and begins with `RW`"
)]
pub struct InvalidTrustedKey {
    position: usize,
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is no signature.
    #[error(
        "is not signed: `{file}` does not exist; sign the plugin with `minisign -S`, or pull it with its signature"
    )]
    Missing {
        /// Name of the file where the signature should be.
        file: String,
    },
    /// The signature cannot be read.
    #[error("has a signature that cannot be read: {0}")]
    Unreadable(String),
    /// The signature was not made by minisign.
    #[error("has a signature that is not in minisign's format")]
    Malformed,
    /// Another key made the signature.
    #[error("is signed by none of the keys in `host.plugins.trusted_keys`")]
    UnknownKey,
    /// A trusted key made the signature, but for other bytes.
    #[error(
        "is not what was signed: the file or its signature has been altered, or they are of different versions"
    )]
    Mismatch,
}

impl TrustedKeys {
    /// Parses public keys as written in `minisign.pub`: the line with the key, or the whole file.
    ///
    /// # Errors
    /// [`InvalidTrustedKey`] with the position of the first invalid key, counted from 1.
    pub fn parse(keys: &[String]) -> Result<Self, InvalidTrustedKey> {
        let parsed = keys.iter().enumerate().map(|(index, key)| {
            let line = key.trim().lines().next_back().unwrap_or_default();
            PublicKey::from_base64(line.trim()).map_err(|_| InvalidTrustedKey { position: index + 1 })
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Returns whether no key is trusted, so that signatures are not required.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the signature of a file's bytes.
    ///
    /// # Errors
    /// Why the signature is not accepted.
    pub fn check(&self, bytes: &[u8], signature: &str) -> Result<(), SignatureError> {
        let signature = Signature::decode(signature).map_err(|_| SignatureError::Malformed)?;
        let mut problem = SignatureError::UnknownKey;
        for key in &self.0 {
            match key.verify(bytes, &signature, true) {
                Ok(()) => return Ok(()),
                Err(Error::UnexpectedKeyId) => {}
                Err(_) => problem = SignatureError::Mismatch,
            }
        }
        Err(problem)
    }

    /// Checks the signature beside the file that these bytes were read from.
    pub(crate) fn check_beside(&self, path: &Path, bytes: &[u8]) -> Result<(), SignatureError> {
        let beside = signature_path(path);
        let signature = match file::read(
            &beside,
            MOST_SIGNATURE_BYTES,
            "the size limit of a signature file",
        ) {
            Ok((signature, _)) => signature,
            Err(LoadError::Read(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let file = super::folder::file_name(&beside);
                return Err(SignatureError::Missing { file });
            }
            Err(error) => return Err(SignatureError::Unreadable(event::chain(&error))),
        };
        let signature = String::from_utf8(signature).map_err(|_| SignatureError::Malformed)?;
        self.check(bytes, &signature)
    }
}

/// Returns the path of a plugin file's signature.
pub fn signature_path(plugin: &Path) -> PathBuf {
    let mut name: OsString = plugin.as_os_str().to_owned();
    name.push(".minisig");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key made by minisign, as in its `minisign.pub`.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn keys_are_lines_or_whole_files() {
        let file = format!("untrusted comment: minisign public key E7620F1842B4E81F\n{KEY}\n");
        let keys = TrustedKeys::parse(&[KEY.to_owned(), file]).unwrap();
        assert_eq!(keys.0[0], keys.0[1]);
        for bad in ["", "RWQ", "untrusted comment: minisign public key\n"] {
            let error = TrustedKeys::parse(&[KEY.to_owned(), bad.to_owned()]).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("key 2 of `host.plugins.trusted_keys`"),
                "{error}"
            );
        }
    }
}
