//! `sendflowr account`: accounts at providers, which running hosts pick up automatically.

use std::{
    collections::HashMap, fs, io::Read, path::Path, process::ExitCode, str::FromStr, time::SystemTime,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use event::{
    Timestamp,
    identity::{is_account_name, is_slug},
};
use host::{Account, AccountValues, Accounts, DEFAULT_ACCOUNT, HostConfig, Sealer};
use serde_json::json;
use store::identity::{StoredAccount, StoredAccounts};

use crate::{
    cli::{Format, Global},
    config::{self, RawConfig},
    engines::Engines,
    keys, output, plugin,
};

/// The commands on stored accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Add an account, or change values of one. Running hosts pick it up within seconds.
    Set {
        /// `provider` or `provider/account`.
        account: AccountName,
        /// `name=value`; repeat the name to give a second value while a secret is being rotated. `name=@file` reads the value
        /// from a file and `name=-` from standard input, where other users of the machine cannot see it; `name=` removes it.
        #[arg(required = true)]
        values: Vec<String>,
        /// Discard all values that the account has, without opening them: give every value that it is to have.
        #[arg(long)]
        replace: bool,
    },
    /// List the accounts: where they are stored and what they contain, with values hidden.
    List {
        /// Output format.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Seal every stored account with the first key of `host.seal_key`, after a new key was put in front of the old one.
    Reseal,
    /// Remove an account. Running hosts refuse its deliveries within seconds.
    Remove {
        /// `provider` or `provider/account`.
        account: AccountName,
    },
}

/// The name of an account, as on the command line and in the webhook's path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AccountName {
    pub(crate) provider: String,
    pub(crate) account: String,
}

impl FromStr for AccountName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (provider, account) = text.split_once('/').unwrap_or((text, DEFAULT_ACCOUNT));
        if is_slug(provider) && is_account_name(account) {
            return Ok(Self {
                provider: provider.to_owned(),
                account: account.to_owned(),
            });
        }
        Err(format!(
            "`{provider}/{account}` is no account: it is a provider's name as in `/webhooks/{{provider}}`, and if it is not the \
             default one `/` and the account's name"
        ))
    }
}

impl std::fmt::Display for AccountName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` account `{}`", self.provider, self.account)
    }
}

/// Runs the command.
///
/// # Errors
/// Fails if the store or the seal key cannot be used, or a value cannot work.
pub(crate) async fn run(command: AccountCommand, global: &Global) -> anyhow::Result<ExitCode> {
    let raw = global.load()?;
    if !matches!(command, AccountCommand::Remove { .. }) {
        keys::require_hosts_seal_key(&raw)?;
    }
    let config = config::host_config(&raw)?;
    let engines = match command {
        AccountCommand::Set { .. } => Engines::existing_or_new(&raw)?,
        _ => Engines::existing(&raw)?,
    };
    let done = engines.closed_after(async |engines| on_stored(command, &config, engines).await);
    done.await?;
    Ok(ExitCode::SUCCESS)
}

async fn on_stored(command: AccountCommand, config: &HostConfig, engines: &Engines) -> anyhow::Result<()> {
    if !matches!(command, AccountCommand::Remove { .. }) {
        keys::refuse_new_seal_key(config, engines).await?;
    }
    let is_new = engines.is_new("identities");
    if is_new && let AccountCommand::List { format } = command {
        output::note(&format!(
            "there is no {}, so no account is stored",
            engines.accounts_place()
        ));
        return list(config, Vec::new(), format);
    }
    let store = engines.stored_accounts().await?;
    match command {
        AccountCommand::Set {
            account,
            values,
            replace,
        } => {
            let place = Place {
                name: engines.accounts_place(),
                is_new,
            };
            set(config, &*store, &place, &account, &values, replace).await?;
        }
        AccountCommand::List { format } => list(config, store.accounts().await?, format)?,
        AccountCommand::Reseal => reseal(config, &*store).await?,
        AccountCommand::Remove { account } => {
            if !store.remove_account(&account.provider, &account.account).await? {
                bail!("no {account} is stored: `sendflowr account list` shows those that are");
            }
            output::line(&format!("removed {account}"));
        }
    }
    Ok(())
}

/// Where accounts are stored.
struct Place {
    name: String,
    /// Whether this command has created it.
    is_new: bool,
}

async fn set(
    config: &HostConfig,
    store: &dyn StoredAccounts,
    place: &Place,
    name: &AccountName,
    values: &[String],
    replace: bool,
) -> anyhow::Result<()> {
    let AccountName { provider, account } = name;
    if config.accounts.has(provider, account) {
        bail!(
            "`accounts.{provider}.{account}` is in the configuration, which takes precedence: change or remove it there"
        );
    }
    let sealer = config.sealer()?;
    let before = find(store, provider, account).await?;
    let (done, mut all) = match &before {
        None => ("added", AccountValues::default()),
        Some(_) if replace => ("replaced", AccountValues::default()),
        Some(stored) => ("changed", opened(&sealer, stored)?),
    };
    for (name, texts) in by_name(values)? {
        all.set(&name, texts);
    }
    let parsed = all.account(provider, account, config.accounts.allows_unsigned_by_default())?;
    let sealed = all.seal(&sealer, provider, account);
    let stored = StoredAccount {
        provider: provider.clone(),
        account: account.clone(),
        sealed,
        updated_at: Timestamp::from(SystemTime::now()),
    };
    let read = before.as_ref().map(|before| before.sealed.as_slice());
    if !store.put_account(&stored, read).await? {
        bail!(
            "another command has changed or removed {name} at the same time, and nothing is stored: see `sendflowr account list`, \
             and run this one again"
        );
    }
    output::line(&format!(
        "{done} {name}, stored in {}; running hosts that use it serve `/webhooks/{provider}/{account}` within seconds",
        place.name
    ));
    if place.is_new {
        output::note(&format!(
            "{} was not there and is created, so no running host uses it: if one runs, give this command that host's \
             `--config` and `--data`, in the same folder",
            place.name
        ));
    }
    if before.is_some() && replace {
        output::note("its earlier values are discarded, it has only the given ones");
    }
    tell_of_plugin(config, &parsed).await;
    Ok(())
}

/// Says what an account that is stored lacks for its provider's plugin, as far as the file tells.
async fn tell_of_plugin(config: &HostConfig, account: &Account) {
    let file = config.plugins.folder.join(format!("{}.wasm", account.provider()));
    if !file.exists() {
        let names = plugin_names(&config.plugins.folder);
        let others = match names.is_empty() {
            true => String::new(),
            false => format!("; there is {}", names.join(", ")),
        };
        output::note(&format!("there is no plugin `{}` yet{others}", file.display()));
        return;
    }
    // The account is stored, whatever the file is.
    let plugin = match plugin::load(&file, &config.plugins.limits).await {
        Ok(plugin) => plugin,
        Err(error) => {
            output::note(&format!(
                "the values that the plugin needs cannot be checked: {error:#}"
            ));
            return;
        }
    };
    let findings = account.findings(plugin.descriptor());
    for problem in findings.problems() {
        output::note(&format!("it {problem}"));
    }
    if findings.takes_unsigned {
        output::note("it accepts unproven deliveries");
    }
}

/// Returns the stored account of this name.
async fn find(
    store: &dyn StoredAccounts,
    provider: &str,
    account: &str,
) -> anyhow::Result<Option<StoredAccount>> {
    let mut stored = store.accounts().await?.into_iter();
    Ok(stored.find(|stored| stored.provider == provider && stored.account == account))
}

/// Returns the names of the plugin files in the folder, sorted, without reading them.
fn plugin_names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .filter_map(|path| Some(format!("`{}`", path.file_stem()?.display())))
        .collect();
    names.sort();
    names
}

/// Returns the values given for each name, in the order of the names.
fn by_name(values: &[String]) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let mut by_name: Vec<(String, Vec<String>)> = Vec::new();
    for value in values {
        let Some((name, text)) = value.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            // Not repeated here: it may be a secret.
            bail!("a value must be given as `name=value`, `name=@file` or `name=-`");
        };
        let is_given = !text.starts_with('@') && text != "-";
        let text = match text.strip_prefix('@') {
            Some(file) => fs::read_to_string(file)
                .with_context(|| format!("cannot read the file `{file}` that `{name}` names"))?,
            None if text == "-" => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .with_context(|| format!("cannot read `{name}` from standard input"))?;
                text
            }
            None => text.to_owned(),
        };
        let text = text.trim_end_matches(['\r', '\n']).to_owned();
        // Whatever was to write the secret there has failed; nobody removes a secret that way on purpose.
        if text.is_empty() && !is_given {
            bail!("the source of `{name}` is empty; `{name}=` removes it");
        }
        let position = by_name.iter().position(|(known, _)| known == name);
        let position = position.unwrap_or_else(|| {
            by_name.push((name.to_owned(), Vec::new()));
            by_name.len() - 1
        });
        if !text.is_empty() {
            by_name[position].1.push(text);
        }
    }
    Ok(by_name)
}

/// The accounts that a host serves.
pub(crate) struct Known {
    /// The configured ones and the stored ones.
    pub(crate) accounts: Accounts,
    /// The stored ones that cannot be used, and why.
    pub(crate) unusable: Vec<(AccountName, anyhow::Error)>,
}

/// Returns the accounts that a host with this configuration serves.
///
/// # Errors
/// Fails if the store or the seal key cannot be used.
pub(crate) async fn known(raw: &RawConfig, config: &HostConfig, engines: &Engines) -> anyhow::Result<Known> {
    let configured = &config.accounts;
    let mut known = Known {
        accounts: configured.clone(),
        unusable: Vec::new(),
    };
    // A store that is not there has none, and must not be created for them.
    if engines.is_new("identities") {
        return Ok(known);
    }
    let mut stored = engines.stored_accounts().await?.accounts().await?;
    stored.retain(|stored| !configured.has(&stored.provider, &stored.account));
    if stored.is_empty() {
        return Ok(known);
    }
    keys::require_hosts_seal_key(raw)?;
    keys::refuse_new_seal_key(config, engines).await?;
    let sealer = config.sealer()?;
    let by_default = configured.allows_unsigned_by_default();
    let mut added = Vec::new();
    for stored in stored {
        let name = AccountName {
            provider: stored.provider.clone(),
            account: stored.account.clone(),
        };
        let values = opened(&sealer, &stored);
        match values.and_then(|values| Ok(values.account(&name.provider, &name.account, by_default)?)) {
            Ok(account) => added.push(account),
            Err(error) => known.unusable.push((name, error)),
        }
    }
    known.accounts = configured.with(added);
    Ok(known)
}

/// Returns the `external_id_scope` of each account that has one, configured or stored.
///
/// # Errors
/// Fails if a stored account cannot be opened.
pub(crate) async fn external_id_scopes(
    raw: &RawConfig,
    engines: &Engines,
) -> anyhow::Result<HashMap<AccountName, String>> {
    let config = config::host_config(raw)?;
    let known = known(raw, &config, engines).await?;
    if let Some((_, error)) = known.unusable.into_iter().next() {
        return Err(error);
    }
    let mut scopes = HashMap::new();
    for account in known.accounts.configured() {
        if let Some(scope) = account.external_id_scope() {
            let name = AccountName {
                provider: account.provider().to_owned(),
                account: account.name().to_owned(),
            };
            scopes.insert(name, scope.to_owned());
        }
    }
    Ok(scopes)
}

fn opened(sealer: &Sealer, stored: &StoredAccount) -> anyhow::Result<AccountValues> {
    let StoredAccount {
        provider, account, ..
    } = stored;
    AccountValues::open(sealer, stored).with_context(|| {
        format!(
            "the stored `{provider}` account `{account}` was sealed with another key than `host.seal_key`, or is \
             damaged: set that key, or replace the account by `account set --replace` with all values that it is to have"
        )
    })
}

/// Seals all stored accounts again. One that cannot be opened stays as it is and is reported.
async fn reseal(config: &HostConfig, store: &dyn StoredAccounts) -> anyhow::Result<()> {
    let sealer = config.sealer()?;
    let (mut resealed, mut failed) = (0, 0);
    for account in store.accounts().await? {
        let mut current = Some(account);
        while let Some(stored) = current {
            let values = match opened(&sealer, &stored) {
                Ok(values) => values,
                Err(error) => {
                    failed += 1;
                    output::line(&format!("{error:#}"));
                    break;
                }
            };
            let account = StoredAccount {
                sealed: values.seal(&sealer, &stored.provider, &stored.account),
                ..stored.clone()
            };
            if store.put_account(&account, Some(&stored.sealed)).await? {
                resealed += 1;
                break;
            }
            // Another command has changed it in between, or removed it.
            current = find(store, &stored.provider, &stored.account).await?;
        }
    }
    output::line(&format!(
        "{resealed} accounts are sealed with the first key of `host.seal_key`"
    ));
    if failed > 0 {
        bail!("{failed} accounts cannot be opened: they stay as they are");
    }
    Ok(())
}

fn list(config: &HostConfig, stored: Vec<StoredAccount>, format: Format) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for account in config.accounts.configured() {
        rows.push([
            account.provider().to_owned(),
            account.name().to_owned(),
            "configuration".to_owned(),
            account.value_names().collect::<Vec<_>>().join(", "),
        ]);
    }
    if !stored.is_empty() {
        // Not before there is something to open: it makes a key that is missing.
        let sealer = config.sealer()?;
        rows.extend(stored.into_iter().map(|stored| row(config, &sealer, stored)));
    }
    rows.sort();
    match format {
        Format::Json => {
            for [provider, account, place, holds] in rows {
                let line =
                    json!({ "provider": provider, "account": account, "place": place, "holds": holds });
                output::line(&line.to_string());
            }
        }
        Format::Text => {
            let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
            output::line(&output::table(&["provider", "account", "place", "holds"], &rows));
        }
    }
    Ok(())
}

fn row(config: &HostConfig, sealer: &Sealer, stored: StoredAccount) -> [String; 4] {
    let holds = match opened(sealer, &stored) {
        Ok(values) => values.names().collect::<Vec<_>>().join(", "),
        Err(_) => "sealed with another key".to_owned(),
    };
    let place = match config.accounts.has(&stored.provider, &stored.account) {
        true => "stored, the configuration's counts".to_owned(),
        false => format!("stored {}", stored.updated_at),
    };
    [stored.provider, stored.account, place, holds]
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use async_trait::async_trait;
    use store::{StoreError, identity::SqliteIdentities};

    use super::*;
    use crate::config;

    /// A store in which another command puts or removes an account just before the first account is put.
    struct Busy {
        store: SqliteIdentities,
        other: Mutex<Option<Other>>,
    }

    enum Other {
        Puts(StoredAccount),
        Removes,
    }

    #[async_trait]
    impl StoredAccounts for Busy {
        async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
            self.store.accounts().await
        }

        async fn put_account(
            &self,
            account: &StoredAccount,
            before: Option<&[u8]>,
        ) -> Result<bool, StoreError> {
            let other = self.other.lock().unwrap_or_else(PoisonError::into_inner).take();
            if other.is_some() {
                self.store.remove_account("acme", "eu").await?;
            }
            if let Some(Other::Puts(account)) = other {
                self.store.put_account(&account, None).await?;
            }
            self.store.put_account(account, before).await
        }

        async fn remove_account(&self, provider: &str, account: &str) -> Result<bool, StoreError> {
            self.store.remove_account(provider, account).await
        }
    }

    const OLD_KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707";
    const NEW_KEY: &str = "0808080808080808080808080808080808080808080808080808080808080808";

    /// Returns the account `acme/eu` with this token.
    fn sealed(key: &str, token: &str) -> StoredAccount {
        let mut values = AccountValues::default();
        values.set("token", vec![token.to_owned()]);
        StoredAccount {
            provider: "acme".to_owned(),
            account: "eu".to_owned(),
            sealed: values.seal(&Sealer::from_text(key, "the key").unwrap(), "acme", "eu"),
            updated_at: Timestamp::default(),
        }
    }

    async fn busy(folder: &Path, before: Option<StoredAccount>, other: Other) -> Busy {
        let store = SqliteIdentities::open(folder).await.unwrap();
        if let Some(before) = before {
            assert!(store.put_account(&before, None).await.unwrap());
        }
        Busy {
            store,
            other: Mutex::new(Some(other)),
        }
    }

    fn host_config() -> HostConfig {
        let file = format!("[host]\nseal_key = '{NEW_KEY} {OLD_KEY}'");
        config::host_config(&config::parse(file.parse().unwrap()).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn sealing_again_undoes_nothing_that_happens_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let store = busy(folder.path(), Some(sealed(OLD_KEY, "a")), Other::Removes).await;
        reseal(&host_config(), &store).await.unwrap();
        assert_eq!(store.accounts().await.unwrap(), []);

        let folder = tempfile::tempdir().unwrap();
        let other = Other::Puts(sealed(OLD_KEY, "b"));
        let store = busy(folder.path(), Some(sealed(OLD_KEY, "a")), other).await;
        reseal(&host_config(), &store).await.unwrap();
        let stored = store.accounts().await.unwrap();
        let sealer = Sealer::from_text(NEW_KEY, "the key").unwrap();
        let values = opened(&sealer, &stored[0]).unwrap();
        assert_eq!(serde_json::to_value(values).unwrap(), json!({ "token": "b" }));
    }

    #[tokio::test]
    async fn an_account_that_another_command_changes_meanwhile_stays_as_it_is() {
        let place = Place {
            name: "here".to_owned(),
            is_new: false,
        };
        for (before, replace) in [
            (None, false),
            (Some(sealed(OLD_KEY, "a")), false),
            (Some(sealed(OLD_KEY, "a")), true),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let other = sealed(OLD_KEY, "b");
            let store = busy(folder.path(), before, Other::Puts(other.clone())).await;
            let name: AccountName = "acme/eu".parse().unwrap();
            let values = ["url=x".to_owned()];
            let set = async || set(&host_config(), &store, &place, &name, &values, replace).await;
            let error = set().await.unwrap_err().to_string();
            assert!(
                error.contains("another command has changed or removed `acme` account `eu`"),
                "{error}"
            );
            assert_eq!(store.accounts().await.unwrap(), [other]);
            set().await.unwrap();
        }
    }

    #[test]
    fn values_are_gathered_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "from a file\n").unwrap();
        let given = ["token=a", "url=https://x.test/?a=b", "token=b", "old="].map(str::to_owned);
        let mut given = given.to_vec();
        given.push(format!("key=@{}", file.display()));
        let expected: Vec<(String, Vec<String>)> = [
            ("token", vec!["a", "b"]),
            ("url", vec!["https://x.test/?a=b"]),
            ("old", vec![]),
            ("key", vec!["from a file"]),
        ]
        .map(|(name, texts)| (name.to_owned(), texts.into_iter().map(str::to_owned).collect()))
        .to_vec();
        assert_eq!(by_name(&given).unwrap(), expected);
        let error = by_name(&["s3cret".to_owned()]).unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
