//! Signatures of plugin files, made by minisign.
//!
//! The signature of `acme.wasm` is `acme.wasm.minisig` beside it. Both kinds that minisign makes count: of the file's
//! BLAKE2b hash, its default, and of the file itself (`minisign -l`), which older versions made.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use minisign_verify::{Error, PublicKey, Signature};

use super::{error::LoadError, file};

/// Largest signature file that is read: minisign's own bounds are 1 KiB and 8 KiB for the two comments.
pub const MOST_SIGNATURE_BYTES: u64 = 16 << 10;

/// The keys whose signatures are believed. None: signatures are not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<PublicKey>);

/// A text that is no public key of minisign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {position} of `host.plugins.trusted_keys` is no public key of minisign; it is the second line of `minisign.pub` and \
     begins with `RW`"
)]
pub struct InvalidTrustedKey {
    position: usize,
}

/// Why a signature is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is no signature.
    #[error(
        "is not signed: `{file}` is not there; sign the plugin with `minisign -S`, or pull it with its signature"
    )]
    Missing {
        /// Name of the file that the signature should be in.
        file: String,
    },
    /// The signature cannot be read.
    #[error("has a signature that cannot be read: {0}")]
    Unreadable(String),
    /// The signature is no output of minisign.
    #[error("has a signature that is none of minisign's")]
    Malformed,
    /// Another key made the signature.
    #[error("is signed by none of the keys in `host.plugins.trusted_keys`")]
    UnknownKey,
    /// A trusted key made the signature, for other bytes.
    #[error(
        "is not what was signed: the file or its signature has been altered, or they are of different versions"
    )]
    Mismatch,
}

impl TrustedKeys {
    /// Takes public keys as `minisign.pub` has them: the line with the key, or the whole file.
    ///
    /// # Errors
    /// [`InvalidTrustedKey`] with the position of the first that is none, counted from 1.
    pub fn parse(keys: &[String]) -> Result<Self, InvalidTrustedKey> {
        let parsed = keys.iter().enumerate().map(|(index, key)| {
            let line = key.trim().lines().next_back().unwrap_or_default();
            PublicKey::from_base64(line.trim()).map_err(|_| InvalidTrustedKey { position: index + 1 })
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether no key is trusted, so that signatures are not asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the signature of a file's bytes.
    ///
    /// # Errors
    /// Why the signature is not believed.
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
            "the most that a signature may have",
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

/// Where the signature of a plugin file is.
pub fn signature_path(plugin: &Path) -> PathBuf {
    let mut name: OsString = plugin.as_os_str().to_owned();
    name.push(".minisig");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that minisign has made, and what its `minisign.pub` looks like.
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
