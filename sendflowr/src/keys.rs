//! Notices a pepper or a seal key other than the one that the data folder's data were made with.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use event::Hasher;
use host::HostConfig;
use store::{bus::DEAD_LETTERS_TOPIC, embedded};

use crate::{
    config::RawConfig,
    engines::{Engines, data_folder},
    replay, roles,
};

/// The file in the data folder that holds the hash of [`CHECKED`].
const PEPPER_FILE: &str = "pepper.check";

/// An address that nobody has: domains below `.invalid` never exist.
const CHECKED: &str = "pepper@check.invalid";

/// Refuses a pepper other than the one that the identities in the data folder were hashed with. Nothing is known about a folder
/// without the file, nor about identities in PostgreSQL.
///
/// # Errors
/// Says which setting differs.
pub(crate) fn check_pepper(config: &RawConfig) -> anyhow::Result<()> {
    if config.postgres.host.is_some() {
        return Ok(());
    }
    check_pepper_of(&data_folder(config), &roles::hasher(&config.identity))
}

/// Refuses a pepper other than the one that the identities in a data folder were hashed with, as [`check_pepper`] does.
///
/// # Errors
/// Says which setting differs.
pub(crate) fn check_pepper_of(folder: &Path, hasher: &Hasher) -> anyhow::Result<()> {
    let (path, hash) = pepper_file(folder, hasher)?;
    match fs::read_to_string(&path) {
        Ok(kept) if kept.trim() == hash => Ok(()),
        Ok(_) => bail!(
            "`identity.pepper` is not the one that the data in `{}` were hashed with: set that one again, or leave the key out \
             if there was none; with another one everybody becomes a stranger, with no history and no unsubscription (if that \
             is wanted, remove `{}`)",
            folder.display(),
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// Checks the pepper as [`check_pepper`] does, and keeps what tells it apart from others if nothing is known yet.
///
/// # Errors
/// Says which setting differs, or that the file cannot be written.
pub(crate) fn keep_pepper(config: &RawConfig) -> anyhow::Result<()> {
    check_pepper(config)?;
    let (path, hash) = pepper_file(&data_folder(config), &roles::hasher(&config.identity))?;
    if config.postgres.host.is_some() || path.exists() {
        return Ok(());
    }
    embedded::create_once(&path, hash.as_bytes())
        .with_context(|| format!("cannot write `{}` (`data_folder`)", path.display()))?;
    // Another role may have started at the same time, and with another pepper.
    check_pepper(config)
}

/// Returns the file of the pepper's hash in a data folder, and the hash that it holds if the pepper is that of `hasher`.
fn pepper_file(folder: &Path, hasher: &Hasher) -> anyhow::Result<(PathBuf, String)> {
    let hash = hasher.email(CHECKED)?;
    Ok((folder.join(PEPPER_FILE), hash.as_str().to_owned()))
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
            .lag(replay::GROUP, &[DEAD_LETTERS_TOPIC])
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
