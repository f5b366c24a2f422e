//! Notices a pepper or a seal key other than the one that stored data were made with.

use std::{fs, io, path::Path};

use anyhow::{Context, bail};
use event::Hasher;
use host::HostConfig;
use store::{bus::DEAD_LETTERS_TOPIC, embedded};

use crate::{
    config::{RawConfig, RawIdentityConfig, data_folder},
    engines::Engines,
};

/// The file in the data folder that holds the hash of [`CHECKED`]. PostgreSQL has a row instead.
const PEPPER_FILE: &str = "pepper.check";

/// Consumer group of replays: what one replay has stored, the next does not read again.
pub(crate) const REPLAY_GROUP: &str = "sendflowr-replay";

/// An address that nobody has: domains below `.invalid` never exist.
const CHECKED: &str = "pepper@check.invalid";

/// Returns the hasher of identities; it is the same in every role.
pub(crate) fn hasher(config: &RawIdentityConfig) -> Hasher {
    match &config.pepper {
        Some(pepper) => Hasher::with_pepper(pepper.expose().as_bytes().to_vec()),
        None => Hasher::new(),
    }
}

/// The pepper is not the one that identities were hashed with.
#[derive(Debug, thiserror::Error)]
#[error(
    "`identity.pepper` is not the one that the data in {place} were hashed with: set that one again, or leave the key out if there \
     was none; with another one everybody becomes a stranger, with no history and no unsubscription (if that is wanted, remove {kept})"
)]
pub(crate) struct OtherPepper {
    place: String,
    kept: String,
}

/// Refuses a pepper other than the one that the identities in the data folder were hashed with. Nothing is known about a folder
/// without the file. Of identities in PostgreSQL, [`check_pepper_of_server`] knows.
///
/// # Errors
/// [`OtherPepper`], or says that the file cannot be read.
pub(crate) fn check_pepper(config: &RawConfig) -> anyhow::Result<()> {
    if config.postgres.host.is_some() {
        return Ok(());
    }
    check_pepper_of(&data_folder(config), &hasher(&config.identity))
}

/// Refuses a pepper other than the one that the identities in a data folder were hashed with, as [`check_pepper`] does.
///
/// # Errors
/// [`OtherPepper`], or says that the file cannot be read.
pub(crate) fn check_pepper_of(folder: &Path, hasher: &Hasher) -> anyhow::Result<()> {
    let (path, hash) = (folder.join(PEPPER_FILE), pepper_hash(hasher)?);
    match fs::read_to_string(&path) {
        Ok(kept) if kept.trim() == hash => Ok(()),
        Ok(_) => Err(OtherPepper {
            place: format!("`{}`", folder.display()),
            kept: format!("`{}`", path.display()),
        }
        .into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// Refuses a pepper other than the one that the identities in PostgreSQL were hashed with, if that is where they are. Nothing is
/// known before a host or an inference service has run.
///
/// # Errors
/// [`OtherPepper`], or says why the server cannot be asked.
pub(crate) async fn check_pepper_of_server(config: &RawConfig, engines: &Engines) -> anyhow::Result<()> {
    let Some(postgres) = engines.postgres().await? else {
        return Ok(());
    };
    let hash = pepper_hash(&hasher(&config.identity))?;
    match postgres.pepper_check().await? {
        Some(kept) if kept != hash => Err(OtherPepper {
            place: engines.accounts_place(),
            kept: "the row of the table `identity_pepper_check`".to_owned(),
        }
        .into()),
        _ => Ok(()),
    }
}

/// Checks the pepper as [`check_pepper`] and [`check_pepper_of_server`] do, and keeps what tells it apart from others if nothing is
/// known yet.
///
/// # Errors
/// [`OtherPepper`], or says why nothing can be read or kept.
pub(crate) async fn keep_pepper(config: &RawConfig, engines: &Engines) -> anyhow::Result<()> {
    let hash = pepper_hash(&hasher(&config.identity))?;
    // Compared after it is kept: another role may have started at the same time, and with another pepper.
    if let Some(postgres) = engines.postgres().await? {
        if postgres.pepper_check().await?.is_none() {
            postgres.keep_pepper_check(&hash).await?;
        }
        return check_pepper_of_server(config, engines).await;
    }
    let path = data_folder(config).join(PEPPER_FILE);
    if !path.exists() {
        embedded::create_once(&path, hash.as_bytes())
            .with_context(|| format!("cannot write `{}` (`data_folder`)", path.display()))?;
    }
    check_pepper(config)
}

/// Returns what tells the pepper of `hasher` apart from others.
fn pepper_hash(hasher: &Hasher) -> anyhow::Result<String> {
    Ok(hasher.email(CHECKED)?.as_str().to_owned())
}

/// Describes the problem if `host.seal_key` is not set although servers store what hosts seal: each host then seals with a key
/// of its own, and nobody else can open it.
pub(crate) fn private_seal_key(config: &RawConfig) -> Option<String> {
    let is_shared = config.kafka.bootstrap_servers.is_some() || config.postgres.host.is_some();
    if !is_shared || config.host.seal_key.is_some() {
        return None;
    }
    Some(format!(
        "`host.seal_key` is not set, so a host on Kafka or PostgreSQL seals with `{}`, which other hosts, \
         `sendflowr account` and `sendflowr replay` do not have: set the same key for all (`openssl rand -hex 32` makes one; \
         if a host has already run without it, append that host's key)",
        data_folder(config).join("seal.key").display()
    ))
}

/// Checks that `host.seal_key` is set, for commands that open and seal data of the hosts. If hosts share servers, a key created
/// here would be known to nobody else.
///
/// # Errors
/// Fails if it has to be set and is not.
pub(crate) fn require_hosts_seal_key(config: &RawConfig) -> anyhow::Result<()> {
    match private_seal_key(config) {
        Some(problem) => bail!("{problem}"),
        None => Ok(()),
    }
}

/// Refuses to create a seal key while the data folder holds what only a former one opens. Hosts that share servers are told to
/// configure one instead.
///
/// # Errors
/// Fails if the key file is missing although there are dead letters or stored accounts, or a store fails.
pub(crate) async fn refuse_new_seal_key(host: &HostConfig, engines: &Engines) -> anyhow::Result<()> {
    if host.seal_key.is_some() || host.seal_key_path.exists() {
        return Ok(());
    }
    let mut sealed = Vec::new();
    // What is not there holds nothing, and must not be created for the user of a command.
    if engines.embeds_identities()
        && !engines.is_new("identities")
        && !engines.stored_accounts().await?.accounts().await?.is_empty()
    {
        sealed.push("stored accounts");
    }
    if engines.embeds_bus() && !engines.is_new("bus") {
        let waiting = engines
            .bus()
            .await?
            .lag(REPLAY_GROUP, &[DEAD_LETTERS_TOPIC])
            .await?;
        // They may be the consumer's, which are not sealed; reading them all to know would take too long.
        if waiting.iter().any(|lag| lag.records > 0) {
            sealed.push("dead letters");
        }
    }
    if sealed.is_empty() {
        return Ok(());
    }
    let path = host.seal_key_path.display();
    bail!(
        "the seal key `{path}` is missing, and only it opens the {} that are there: restore the file from its backup; if it is \
         lost, make another with `umask 077; openssl rand -hex 32 > {path}`, then put the accounts again with `sendflowr account \
         set --replace`",
        sealed.join(" and ")
    )
}
