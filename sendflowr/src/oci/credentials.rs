//! Credentials for a private registry.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use event::settings::Secret;
use serde::Deserialize;

use super::reference::is_docker_hub;

/// `[registry]`: credentials for one private registry of plugins. Those for others are found in Docker's `config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawRegistryConfig {
    /// The registry that they are for, as in references to artifacts: `ghcr.io`, `registry.example:5000`. They are sent to no
    /// other.
    pub(crate) host: Option<String>,
    /// Name of the user or the token.
    pub(crate) username: Option<String>,
    /// Password or token; better as `password_file`.
    pub(crate) password: Option<Secret>,
}

impl RawRegistryConfig {
    /// Returns the registry and its credentials, if they are configured.
    ///
    /// # Errors
    /// Fails if the configuration is incomplete.
    pub(crate) fn credentials(self) -> anyhow::Result<Option<(String, Credentials)>> {
        match (self.host, self.username, self.password) {
            (Some(host), Some(username), Some(password)) => {
                Ok(Some((host, Credentials { username, password })))
            }
            (None, None, None) => Ok(None),
            _ => bail!("`[registry]` needs all of `host`, `username` and `password`"),
        }
    }
}

/// A user and password. `Debug` hides both.
pub(crate) struct Credentials {
    pub(super) username: String,
    pub(super) password: Secret,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: Option<String>,
}

impl Credentials {
    /// Returns the configured credentials if they are for this registry, otherwise those that `docker login` has stored in the
    /// file `docker`. Docker's credential helpers are not queried.
    ///
    /// # Errors
    /// Fails if the configuration is incomplete, or Docker's file cannot be read.
    pub(crate) fn find(
        config: RawRegistryConfig,
        registry: &str,
        docker: Option<&Path>,
    ) -> anyhow::Result<Option<Self>> {
        if let Some((host, credentials)) = config.credentials()?
            && host == registry
        {
            return Ok(Some(credentials));
        }
        let Some(path) = docker.filter(|path| path.exists()) else {
            return Ok(None);
        };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        // The parser's message may repeat the value that it fails on.
        let Ok(config) = serde_json::from_str::<DockerConfig>(&text) else {
            bail!("`{}` is not a Docker configuration", path.display());
        };
        let mut names = vec![
            registry.to_owned(),
            format!("https://{registry}"),
            format!("https://{registry}/v1/"),
        ];
        if is_docker_hub(registry) {
            // The name under which `docker login` stores them, whatever the registry was called.
            names.push("https://index.docker.io/v1/".to_owned());
        }
        let Some(auth) = names
            .iter()
            .find_map(|name| config.auths.get(name)?.auth.as_deref())
        else {
            return Ok(None);
        };
        let decoded = STANDARD
            .decode(auth)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((username, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
            bail!(
                "`{}` has something other than a user and password for `{registry}`",
                path.display()
            );
        };
        Ok(Some(Self {
            username: username.to_owned(),
            password: Secret::new(password),
        }))
    }

    /// Returns the path of Docker's own file.
    pub(crate) fn docker_file() -> Option<PathBuf> {
        let folder = match std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => std::env::home_dir()?.join(".docker"),
        };
        Some(folder.join("config.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(host: &str) -> RawRegistryConfig {
        RawRegistryConfig {
            host: Some(host.to_owned()),
            username: Some("ann".to_owned()),
            password: Some(Secret::new("s3cret")),
        }
    }

    #[test]
    fn credentials_go_to_their_registry_alone() {
        let found = |registry: &str| Credentials::find(configured("a.test:5000"), registry, None).unwrap();
        let credentials = found("a.test:5000").expect("they are for this one");
        assert_eq!(
            (credentials.username.as_str(), credentials.password.expose()),
            ("ann", "s3cret")
        );
        assert!(!format!("{credentials:?}").contains("ann"));
        assert!(found("a.test").is_none() && found("evil.test").is_none());
        let half = RawRegistryConfig {
            username: None,
            ..configured("a.test")
        };
        assert!(
            Credentials::find(half, "a.test", None)
                .unwrap_err()
                .to_string()
                .contains("needs all of")
        );
    }

    #[test]
    fn docker_s_file_is_read_and_never_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let find = |registry: &str| Credentials::find(RawRegistryConfig::default(), registry, Some(&path));
        assert!(find("a.test").unwrap().is_none(), "no file");
        let auth = STANDARD.encode("ann:s3:cret");
        fs::write(
            &path,
            format!(r#"{{"auths":{{"https://a.test":{{"auth":"{auth}"}},"b.test":{{}}}},"credsStore":"x"}}"#),
        )
        .unwrap();
        let credentials = find("a.test").unwrap().expect("it is there");
        assert_eq!(
            (credentials.username.as_str(), credentials.password.expose()),
            ("ann", "s3:cret")
        );
        assert!(find("b.test").unwrap().is_none());
        let hub = format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}}}}}}"#);
        fs::write(&path, hub).unwrap();
        for name in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            assert!(find(name).unwrap().is_some(), "{name}");
        }
        assert!(find("a.docker.io").unwrap().is_none());
        fs::write(&path, r#"{"auths":{"a.test":{"auth":"s3cret"}}}"#).unwrap();
        let error = format!("{:#}", find("a.test").unwrap_err());
        assert!(
            error.contains("other than a user and password") && !error.contains("s3cret"),
            "{error}"
        );
        fs::write(&path, r#"{"auths":"s3cret"}"#).unwrap();
        let error = format!("{:#}", find("a.test").unwrap_err());
        assert!(
            error.contains("is not a Docker configuration") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
