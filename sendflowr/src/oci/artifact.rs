//! The form of a component in a registry.
//!
//! It is a manifest whose config is `application/vnd.wasm.config.v0+json` and whose only layer, `application/wasm`, is the
//! component's unchanged file. Its signature is an artifact of its own in the same repository, under the tag
//! `sha256-<digest of the component's manifest>.minisig`: one layer, minisign's file. Tags work in every registry, also in
//! those that do not support referrers; for those that do, the signature names its subject.

use std::{collections::BTreeMap, fmt, str::FromStr};

use anyhow::{Context, bail};
use host::plugin::MOST_SIGNATURE_BYTES;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::Client;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const LAYER_TYPE: &str = "application/wasm";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const SIGNATURE_TYPE: &str = "application/vnd.sendflowr.minisig";

/// A SHA-256 digest as registries write it: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// Returns only the hexadecimal digits.
    pub(crate) fn hex(&self) -> &str {
        self.0.trim_start_matches("sha256:")
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(is_digit) => Ok(Self(text.to_owned())),
            _ => bail!("a digest, as after `@`, must be `sha256:` and 64 lower-case hexadecimal digits"),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes).to_string(),
            size: bytes.len() as u64,
        }
    }
}

/// A pulled component.
pub(crate) struct Component {
    /// The file.
    pub(crate) bytes: Vec<u8>,
    /// Digest of the manifest, which identifies the artifact permanently.
    pub(crate) manifest: Digest,
}

/// Pulls the component with this tag or digest, of at most `limit` bytes.
///
/// # Errors
/// Fails if the registry fails or sends false data, or the artifact is not a component.
pub(crate) async fn pull(client: &mut Client, reference: &str, limit: u64) -> anyhow::Result<Component> {
    let Some(bytes) = client.manifest(reference).await? else {
        bail!("there is no such artifact in the registry");
    };
    let found = Digest::of(&bytes);
    if reference.starts_with("sha256:") && found.to_string() != reference {
        bail!("the registry sent a manifest with the digest {found}");
    }
    let manifest = parse(&bytes)?;
    if manifest.config.media_type != CONFIG_TYPE {
        bail!(
            "the artifact is not a WebAssembly component: its config has the type `{}`, a component's has `{CONFIG_TYPE}`",
            shown(&manifest.config.media_type)
        );
    }
    let [layer] = manifest.layers.as_slice() else {
        bail!(
            "the artifact has {} layers, a component has one",
            manifest.layers.len()
        );
    };
    if layer.media_type != LAYER_TYPE {
        bail!(
            "the artifact's layer has the type `{}`, a component's has `{LAYER_TYPE}`",
            shown(&layer.media_type)
        );
    }
    if layer.size > limit {
        bail!(
            "the component has {} bytes, a plugin may have {limit} (`host.plugins.limits.file_bytes`)",
            layer.size
        );
    }
    Ok(Component {
        bytes: client.blob(&layer.digest.parse()?, layer.size).await?,
        manifest: found,
    })
}

/// Pulls the signature of the component with this manifest, `None` if there is none.
///
/// # Errors
/// Fails if the registry fails or sends false data, or the artifact is not a signature.
pub(crate) async fn signature_of(client: &mut Client, manifest: &Digest) -> anyhow::Result<Option<String>> {
    let Some(bytes) = client.manifest(&signature_tag(manifest)).await? else {
        return Ok(None);
    };
    // The layer's type is not checked, because other tools may push the file under any type: the signature proves itself.
    let manifest = parse(&bytes)?;
    let [layer] = manifest.layers.as_slice() else {
        bail!(
            "the artifact has {} layers, a signature has one",
            manifest.layers.len()
        );
    };
    if layer.size > MOST_SIGNATURE_BYTES {
        bail!(
            "it has {} bytes, a signature may have {MOST_SIGNATURE_BYTES}",
            layer.size
        );
    }
    let signature = client.blob(&layer.digest.parse()?, layer.size).await?;
    Ok(Some(String::from_utf8(signature).context("it is not text")?))
}

/// Pushes a component and its signature, if there is one, and returns the digest of its manifest. The same file, contract,
/// imports and version give the same digest.
///
/// # Errors
/// Fails if the registry fails or refuses.
pub(crate) async fn push(
    client: &mut Client,
    tag: &str,
    component: &[u8],
    contract: &str,
    imports: &[String],
    version: &str,
    signature: Option<&str>,
) -> anyhow::Result<Digest> {
    let config = json!({
        // A constant, so that pushing twice gives one artifact.
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [Digest::of(component).to_string()],
        "component": { "exports": [format!("sendflowr:connector/plugin@{contract}")], "imports": imports, "target": null },
    });
    let config = config.to_string().into_bytes();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.to_owned()),
        artifact_type: None,
        config: Descriptor::of(CONFIG_TYPE, &config),
        layers: vec![Descriptor::of(LAYER_TYPE, component)],
        subject: None,
        annotations: BTreeMap::from([("org.opencontainers.image.version".to_owned(), version.to_owned())]),
    };
    client.put_blob(&config).await?;
    client.put_blob(component).await?;
    let manifest = serde_json::to_vec(&manifest)?;
    let digest = Digest::of(&manifest);
    client.put_manifest(&digest.to_string(), &manifest).await?;
    if let Some(signature) = signature {
        push_signature(client, &manifest, signature)
            .await
            .context("its signature")?;
    }
    // Last: whoever pulls the tag in between, or after a failure, gets what it named before.
    client.put_manifest(tag, &manifest).await?;
    Ok(digest)
}

/// Pushes the signature of the component with this manifest.
async fn push_signature(client: &mut Client, component: &[u8], signature: &str) -> anyhow::Result<()> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.to_owned()),
        artifact_type: Some(SIGNATURE_TYPE.to_owned()),
        config: Descriptor::of(EMPTY_TYPE, b"{}"),
        layers: vec![Descriptor::of(SIGNATURE_TYPE, signature.as_bytes())],
        subject: Some(Descriptor::of(MANIFEST_TYPE, component)),
        annotations: BTreeMap::new(),
    };
    client.put_blob(b"{}").await?;
    client.put_blob(signature.as_bytes()).await?;
    let manifest = serde_json::to_vec(&manifest)?;
    client
        .put_manifest(&signature_tag(&Digest::of(component)), &manifest)
        .await
}

fn signature_tag(manifest: &Digest) -> String {
    format!("sha256-{}.minisig", manifest.hex())
}

fn parse(bytes: &[u8]) -> anyhow::Result<Manifest> {
    // An index has no config, and is recognized by its type.
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
    }
    let Ok(Kind { media_type }) = serde_json::from_slice(bytes) else {
        bail!("the registry sent something other than a manifest");
    };
    if media_type.as_deref() == Some(INDEX_TYPE) {
        bail!("the artifact is an index of several artifacts: name one of them by its digest");
    }
    match serde_json::from_slice::<Manifest>(bytes) {
        Ok(manifest) if manifest.schema_version == 2 => Ok(manifest),
        _ => bail!("the registry sent something other than a manifest"),
    }
}

/// Makes a text from outside safe to show in a message.
fn shown(text: &str) -> String {
    text.chars()
        .take(100)
        .map(|letter| {
            if letter.is_ascii_graphic() {
                letter
            } else {
                '\u{fffd}'
            }
        })
        .collect()
}
