//! References of the form `oci://registry/repository:tag@sha256:…`.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{Context, anyhow, bail};

use super::artifact::Digest;

/// Longest tag that the distribution specification allows.
const MOST_TAG: usize = 128;

/// Longest repository name; registries allow at most 255 characters, including their own name.
const MOST_REPOSITORY: usize = 255;

/// Docker Hub: the name that people write, the one that credentials are stored under, and the one of the server.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Returns whether this registry is Docker Hub, by any of its names.
pub(super) fn is_docker_hub(registry: &str) -> bool {
    DOCKER_HUB.contains(&registry)
}

/// The location of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host, and port if there is one.
    pub(crate) registry: String,
    /// Path of the repository.
    pub(crate) repository: String,
    /// Its tag.
    pub(crate) tag: Option<String>,
    /// Digest of its manifest.
    pub(crate) digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        // In one message: the command line shows no causes.
        parse(text).map_err(|cause| {
            anyhow!("{cause}; it must look like `oci://registry/repository:tag` or `oci://registry/repository@sha256:…`")
        })
    }
}

fn parse(text: &str) -> anyhow::Result<Reference> {
    let rest = text
        .strip_prefix("oci://")
        .context("it does not begin with `oci://`")?;
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::from_str(digest)?)),
        None => (rest, None),
    };
    let (registry, path) = rest.split_once('/').context("it names no repository")?;
    let (repository, tag) = match path.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    let is_host = |letter: char| letter.is_ascii_alphanumeric() || "-.:[]".contains(letter);
    if registry.is_empty() || !registry.chars().all(is_host) {
        bail!("its registry is not a host");
    }
    let is_part = |part: &str| {
        let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
        part.bytes().all(inside) && ends(part.bytes().next()) && ends(part.bytes().next_back())
    };
    if repository.len() > MOST_REPOSITORY || !repository.split('/').all(is_part) {
        bail!("its repository may consist only of lower-case letters, digits, `.`, `_`, `-` and `/`");
    }
    if let Some(tag) = tag {
        let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if tag.is_empty() || tag.len() > MOST_TAG || tag.starts_with(['.', '-']) || !tag.bytes().all(is_tag) {
            bail!("its tag is not valid");
        }
    }
    if tag.is_none() && digest.is_none() {
        bail!("it has neither tag nor digest");
    }
    Ok(Reference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

impl Reference {
    /// Returns a reference to the same artifact by its digest.
    pub(crate) fn at(&self, digest: &Digest) -> Self {
        Self {
            digest: Some(digest.clone()),
            ..self.clone()
        }
    }

    /// Returns the tag or digest to request the manifest by. A digest takes precedence over a tag.
    pub(crate) fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => unreachable!("`parse` ensures that there is a tag or a digest"),
        }
    }

    /// Returns whether both are in the same repository, whatever their tags and digests.
    pub(crate) fn is_same_repository(&self, other: &Self) -> bool {
        self.host() == other.host() && self.repository == other.repository
    }

    /// Returns the host that serves the registry, and its port if there is one.
    pub(super) fn host(&self) -> &str {
        match is_docker_hub(&self.registry) {
            true => "registry-1.docker.io",
            false => &self.registry,
        }
    }

    /// Returns whether the registry is on this machine, where nobody can eavesdrop.
    pub(crate) fn is_local(&self) -> bool {
        let host = match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.registry,
        };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || address
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart_and_put_together() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for text in [
            "oci://ghcr.io/acme/plugins/postmark:1.2.0",
            "oci://localhost:5000/acme:v1",
            "oci://[::1]:5000/acme:v1",
            &format!("oci://ghcr.io/acme@{digest}"),
            &format!("oci://ghcr.io/acme:1.0@{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let both: Reference = format!("oci://a.b:5000/c/d:e@{digest}").parse().unwrap();
        assert_eq!(
            (both.registry.as_str(), both.repository.as_str()),
            ("a.b:5000", "c/d")
        );
        assert_eq!(both.manifest(), digest, "the digest decides");
    }

    #[test]
    fn versions_share_their_repository() {
        let is_same = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse::<Reference>().unwrap());
            one.is_same_repository(&other)
        };
        assert!(is_same("oci://a.test/acme:1", "oci://a.test/acme:2"));
        assert!(is_same(
            "oci://docker.io/acme/a:1",
            "oci://index.docker.io/acme/a:1"
        ));
        assert!(!is_same("oci://a.test/acme:1", "oci://b.test/acme:1"));
        assert!(!is_same("oci://a.test/acme:1", "oci://a.test/acme/more:1"));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| format!("{:#}", text.parse::<Reference>().unwrap_err());
        for (text, part) in [
            ("ghcr.io/acme:1", "does not begin with `oci://`"),
            ("oci://ghcr.io", "names no repository"),
            ("oci://ghcr.io/acme", "neither tag nor digest"),
            ("oci://user:secret@ghcr.io/acme:1", "a digest, as after"),
            ("oci://a b/acme:1", "registry is not a host"),
            ("oci://ghcr.io/../acme:1", "repository may consist only of"),
            ("oci://ghcr.io/a//b:1", "repository may consist only of"),
            ("oci://ghcr.io/Acme:1", "repository may consist only of"),
            ("oci://ghcr.io/acme:.1", "tag is not valid"),
            ("oci://ghcr.io/acme@sha256:abc", "a digest, as after"),
            ("oci://ghcr.io/acme@md5:abc", "a digest, as after"),
        ] {
            let error = error(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn only_this_machine_is_local() {
        let local = |registry: &str| {
            format!("oci://{registry}/a:1")
                .parse::<Reference>()
                .unwrap()
                .is_local()
        };
        assert!(local("localhost") && local("127.0.0.1:5000") && local("[::1]:5000") && local("127.9.9.9"));
        assert!(
            !local("localhost.evil.test")
                && !local("10.0.0.1:5000")
                && !local("ghcr.io")
                && !local("127.0.0.1.nip.io")
        );
    }
}
