//! The operator's accounts at the providers: their secrets and settings.
//!
//! A provider may have several accounts (`/webhooks/{provider}/{account}`); the one without a name in the path is
//! called `default`. Which values are secrets and which are settings is not in the configuration but in the plugin's
//! descriptor, and may change with the plugin: values are therefore kept by name and interpreted through a descriptor.
//!
//! Accounts come from the configuration, or are added while hosts run: see [`stored`].

mod book;
mod findings;
mod stored;

use std::{collections::BTreeMap, fmt, sync::Arc};

use axum::http::HeaderName;
use event::{
    identity::{MAX_ACCOUNT_NAME, MAX_SLUG, is_account_name, is_slug},
    settings::Secret,
};
use serde::{Deserialize, Serialize};

use crate::{
    plugin::types::{Descriptor, Setting},
    proof::Refusal,
    recordings::MAX_DELIVERIES,
};

pub(crate) use self::book::{AccountBook, Missing};
pub use self::{findings::Findings, stored::AccountValues};

/// The account of `/webhooks/{provider}`.
pub const DEFAULT_ACCOUNT: &str = "default";

/// The name that plugins give to the secret that holds the user name of basic authentication.
pub(crate) const BASIC_AUTH_USER: &str = "basic_auth_user";

/// The names in an account's section that are neither secrets nor settings.
const ALLOW_UNSIGNED: &str = "allow_unsigned";
const RECORD_DELIVERIES: &str = "record_deliveries";
const EXTERNAL_ID_SCOPE: &str = "external_id_scope";
pub(crate) const HOSTS_OWN: [&str; 3] = [ALLOW_UNSIGNED, RECORD_DELIVERIES, EXTERNAL_ID_SCOPE];

/// Settings that have one meaning in all plugins: the SDK declares and reads them. A plugin can only refuse every delivery of an
/// account where they are wrong, so they are checked when the account is read.
const TIMESTAMP_TOLERANCE: &str = "timestamp_tolerance_seconds";
const HEADER_NAME: &str = "header_name";
pub(crate) const COMMON_SETTINGS: [&str; 2] = [TIMESTAMP_TOLERANCE, HEADER_NAME];

/// Maximum number of values that a secret may have at once. A rotation needs two; four leave room for one that overlaps the
/// next, and keep the work that a forged delivery causes small.
const MAX_VALUES: usize = 4;

/// `[accounts]` as written in the configuration: `[accounts.<provider>.<account>]` holds `name = value`, where a value
/// is a text, a number, a flag, or a list of texts for a secret that is being rotated. `allow_unsigned = true` accepts
/// unproven deliveries as long as the account has no secret. `external_id_scope` says whose people the sender's own ids
/// refer to, if hosts serve several senders.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct RawAccounts(BTreeMap<String, BTreeMap<String, RawAccount>>);

/// The values of one account, by name.
type RawAccount = BTreeMap<String, RawValue>;

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum RawValue {
    Flag(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
}

impl RawAccounts {
    /// Sets one value, as if it were written in the configuration.
    pub fn set(&mut self, provider: &str, account: &str, name: &str, value: &str) {
        let accounts = self.0.entry(provider.to_owned()).or_default();
        accounts
            .entry(account.to_owned())
            .or_default()
            .insert(name.to_owned(), RawValue::Text(value.to_owned()));
    }
}

impl fmt::Debug for RawAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .0
            .iter()
            .map(|(provider, accounts)| (provider, accounts.keys().collect::<Vec<_>>()));
        f.debug_map().entries(names).finish()
    }
}

/// An invalid entry of `[accounts]`. Names the key, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccount {
    /// No provider can have this name.
    #[error(
        "`accounts.{0}`: the name of a provider consists of lower-case letters, digits and inner hyphens, at most {MAX_SLUG}"
    )]
    Provider(String),
    /// No account can have this name.
    #[error(
        "`accounts.{provider}.{account}`: the name of an account consists of letters, digits, `-`, `_` and `.`, \
         at most {MAX_ACCOUNT_NAME}"
    )]
    Account {
        /// The provider.
        provider: String,
        /// The account.
        account: String,
    },
    /// An invalid value.
    #[error("`accounts.{provider}.{account}.{name}` {problem}")]
    Value {
        /// The provider.
        provider: String,
        /// The account.
        account: String,
        /// The secret or setting.
        name: String,
        /// What is wrong, to be read after the key.
        problem: String,
    },
}

/// One account of one provider.
#[derive(Debug, Clone)]
pub struct Account {
    provider: String,
    name: String,
    values: BTreeMap<String, Vec<Secret>>,
    allow_unsigned: bool,
    record_deliveries: usize,
    external_id_scope: Option<String>,
    is_stored: bool,
}

impl Account {
    /// Creates an account from named values, each of which may have several texts at once. Empty texts count as not set.
    pub fn new(
        provider: &str,
        name: &str,
        values: impl IntoIterator<Item = (String, Vec<String>)>,
        allow_unsigned: bool,
    ) -> Self {
        let mut kept = BTreeMap::new();
        for (name, texts) in values {
            let texts: Vec<Secret> = texts
                .into_iter()
                .filter(|text| !text.trim().is_empty())
                .map(Secret::new)
                .collect();
            if !texts.is_empty() {
                kept.insert(name, texts);
            }
        }
        Self {
            provider: provider.to_owned(),
            name: name.to_owned(),
            values: kept,
            allow_unsigned,
            record_deliveries: 0,
            external_id_scope: None,
            is_stored: false,
        }
    }

    /// Returns how many of the account's last deliveries are kept, sealed; 0 unless the operator configures a number.
    pub(crate) fn record_deliveries(&self) -> usize {
        self.record_deliveries
    }

    /// Returns the scope of the sender's own ids; `None` if all accounts belong to one sender.
    pub fn external_id_scope(&self) -> Option<&str> {
        self.external_id_scope.as_deref()
    }

    /// Returns the provider.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Returns the account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the names of all values that are set, in order.
    pub fn value_names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Returns whether unproven deliveries are accepted: the operator allows it, and there is no secret that they could be
    /// proven with.
    pub(crate) fn takes_unsigned(&self, descriptor: &Descriptor) -> bool {
        self.allow_unsigned
            && !descriptor
                .secrets
                .iter()
                .any(|secret| self.values.contains_key(&secret.name))
    }

    /// Returns the settings that the plugin declares and that have a value.
    pub(crate) fn settings(&self, descriptor: &Descriptor) -> Vec<Setting> {
        let mut settings = Vec::new();
        for spec in &descriptor.settings {
            // A list makes sense only for secrets; of a setting's list, the first value counts.
            if let Some(value) = self.values.get(&spec.name).and_then(|values| values.first()) {
                settings.push(Setting {
                    name: spec.name.clone(),
                    value: value.expose().to_owned(),
                });
            }
        }
        settings
    }

    /// Returns the first setting that the plugin requires and that is not configured.
    pub(crate) fn missing_setting<'d>(&self, descriptor: &'d Descriptor) -> Option<&'d str> {
        let mut required = descriptor.settings.iter().filter(|spec| spec.required);
        let missing = required.find(|spec| !self.values.contains_key(&spec.name))?;
        Some(&missing.name)
    }

    /// Returns the names of the declared secrets that are configured.
    pub(crate) fn secret_names(&self, descriptor: &Descriptor) -> Vec<String> {
        let configured = descriptor
            .secrets
            .iter()
            .filter(|secret| self.values.contains_key(&secret.name));
        configured.map(|secret| secret.name.clone()).collect()
    }

    /// Returns whether deliveries must carry a user name and a password.
    pub(crate) fn has_basic_auth(&self, descriptor: &Descriptor) -> bool {
        self.secret(descriptor, BASIC_AUTH_USER).is_ok()
    }

    /// Returns the values of a secret that the plugin asks for; at least one.
    pub(crate) fn secret(&self, descriptor: &Descriptor, name: &str) -> Result<&[Secret], Refusal> {
        if !descriptor.secrets.iter().any(|secret| secret.name == name) {
            return Err(Refusal::SecretUndeclared {
                name: short_name(name),
            });
        }
        match self.values.get(name) {
            Some(values) => Ok(values),
            None => Err(Refusal::SecretNotConfigured {
                name: name.to_owned(),
                key: self.key(name),
            }),
        }
    }

    /// Returns the key of a value in the configuration.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("accounts.{}.{}.{name}", self.provider, self.name)
    }
}

/// Returns a name from a plugin, shortened for an error message and without control characters.
fn short_name(name: &str) -> String {
    name.chars()
        .filter(|letter| !letter.is_control())
        .take(MAX_ACCOUNT_NAME)
        .collect()
}

/// All accounts.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    providers: BTreeMap<String, BTreeMap<String, Arc<Account>>>,
    allow_unsigned_by_default: bool,
}

impl Accounts {
    /// Checks the configured accounts. `allow_unsigned_by_default` applies to accounts that do not set `allow_unsigned`
    /// themselves, and to providers without any account.
    ///
    /// # Errors
    /// Returns [`InvalidAccount`] with the key that is invalid.
    pub fn try_new(raw: RawAccounts, allow_unsigned_by_default: bool) -> Result<Self, InvalidAccount> {
        let mut providers = BTreeMap::new();
        for (provider, raw_accounts) in raw.0 {
            check_provider(&provider)?;
            let mut accounts = BTreeMap::new();
            for (name, values) in raw_accounts {
                let account = parse_account(&provider, &name, values, allow_unsigned_by_default)?;
                accounts.insert(name, Arc::new(account));
            }
            providers.insert(provider, accounts);
        }
        Ok(Self {
            providers,
            allow_unsigned_by_default,
        })
    }

    /// Returns an account of a provider. A provider without any configured account has the account `default`, with no
    /// values.
    ///
    /// # Errors
    /// Returns the names of the provider's accounts if it has no account of this name.
    pub fn get(&self, provider: &str, account: &str) -> Result<Arc<Account>, Vec<String>> {
        match self
            .providers
            .get(provider)
            .filter(|accounts| !accounts.is_empty())
        {
            Some(accounts) => accounts
                .get(account)
                .cloned()
                .ok_or_else(|| accounts.keys().cloned().collect()),
            None if account == DEFAULT_ACCOUNT => Ok(Arc::new(self.implicit(provider))),
            None => Err(vec![DEFAULT_ACCOUNT.to_owned()]),
        }
    }

    /// Returns whether an account of this name is configured or stored. The implicit `default` of a provider without any account
    /// does not count.
    pub fn has(&self, provider: &str, account: &str) -> bool {
        let accounts = self.providers.get(provider);
        accounts.is_some_and(|accounts| accounts.contains_key(account))
    }

    /// Returns these accounts together with the added ones. An account that exists already stays as it is.
    #[must_use]
    pub fn with(&self, added: Vec<Account>) -> Self {
        let mut all = self.clone();
        for account in added {
            let accounts = all.providers.entry(account.provider.clone()).or_default();
            accounts
                .entry(account.name.clone())
                .or_insert_with(|| Arc::new(account));
        }
        all
    }

    /// Returns how each account of the descriptor's provider fits it.
    pub fn findings(&self, descriptor: &Descriptor) -> Vec<Findings> {
        match self
            .providers
            .get(&descriptor.slug)
            .filter(|accounts| !accounts.is_empty())
        {
            Some(accounts) => accounts
                .values()
                .map(|account| account.findings(descriptor))
                .collect(),
            None => vec![self.implicit(&descriptor.slug).findings(descriptor)],
        }
    }

    /// Returns the providers that have a section, in order.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.keys().map(String::as_str)
    }

    /// Returns whether accounts that do not set `allow_unsigned` themselves accept unproven deliveries.
    pub fn allows_unsigned_by_default(&self) -> bool {
        self.allow_unsigned_by_default
    }

    /// Returns the accounts that are configured or added, in order; not the implicit ones.
    pub fn configured(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.providers.values().flat_map(BTreeMap::values)
    }

    fn implicit(&self, provider: &str) -> Account {
        Account::new(provider, DEFAULT_ACCOUNT, [], self.allow_unsigned_by_default)
    }
}

fn check_provider(provider: &str) -> Result<(), InvalidAccount> {
    if !is_slug(provider) {
        return Err(InvalidAccount::Provider(provider.to_owned()));
    }
    Ok(())
}

fn parse_account(
    provider: &str,
    account: &str,
    raw: RawAccount,
    mut allow_unsigned: bool,
) -> Result<Account, InvalidAccount> {
    if !is_account_name(account) {
        return Err(InvalidAccount::Account {
            provider: provider.to_owned(),
            account: account.to_owned(),
        });
    }
    let invalid = |name: &str, problem: &str| InvalidAccount::Value {
        provider: provider.to_owned(),
        account: account.to_owned(),
        name: name.to_owned(),
        problem: problem.to_owned(),
    };
    let mut values = BTreeMap::new();
    let mut record_deliveries = 0;
    let mut external_id_scope = None;
    for (name, value) in raw {
        if name == RECORD_DELIVERIES {
            let number = match value {
                RawValue::Integer(number) => usize::try_from(number).ok(),
                _ => None,
            };
            record_deliveries = number
                .filter(|number| *number <= MAX_DELIVERIES)
                .ok_or_else(|| invalid(&name, &format!("must be a number from 0 to {MAX_DELIVERIES}")))?;
            continue;
        }
        if name == ALLOW_UNSIGNED {
            let RawValue::Flag(flag) = value else {
                return Err(invalid(&name, "must be `true` or `false`"));
            };
            allow_unsigned = flag;
            continue;
        }
        if name == EXTERNAL_ID_SCOPE {
            let RawValue::Text(scope) = value else {
                return Err(invalid(&name, "must be a text"));
            };
            // It becomes a prefix of ids, like an account's name.
            if !is_account_name(&scope) {
                return Err(invalid(
                    &name,
                    &format!("must be 1 to {MAX_ACCOUNT_NAME} letters, digits, `-`, `_` and `.`"),
                ));
            }
            external_id_scope = Some(scope);
            continue;
        }
        let texts = match value {
            RawValue::Flag(flag) => vec![flag.to_string()],
            RawValue::Integer(number) => vec![number.to_string()],
            RawValue::Float(number) => vec![number.to_string()],
            RawValue::Text(text) => vec![text],
            RawValue::Texts(texts) => texts,
        };
        if texts.is_empty() || texts.iter().any(|text| text.trim().is_empty()) {
            return Err(invalid(&name, "is empty: give it a value or leave it out"));
        }
        if texts.len() > MAX_VALUES {
            return Err(invalid(
                &name,
                &format!("has more than {MAX_VALUES} values: drop those that are no longer in use"),
            ));
        }
        if let Some(problem) = texts.iter().find_map(|text| setting_problem(&name, text.trim())) {
            return Err(invalid(&name, problem));
        }
        values.insert(name, texts);
    }
    let account = Account::new(provider, account, values, allow_unsigned);
    Ok(Account {
        record_deliveries,
        external_id_scope,
        ..account
    })
}

/// Returns why a setting that has one meaning in all plugins cannot have this value.
fn setting_problem(name: &str, value: &str) -> Option<&'static str> {
    match name {
        TIMESTAMP_TOLERANCE => value
            .parse::<u64>()
            .is_err()
            .then_some("must be a whole number of seconds, like `300`"),
        HEADER_NAME => HeaderName::try_from(value)
            .is_err()
            .then_some("must be the name of a header, like `x-webhook-key`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::testing::descriptor;

    fn accounts(toml: &str) -> Result<Accounts, InvalidAccount> {
        Accounts::try_new(toml::from_str(toml).unwrap(), false)
    }

    #[test]
    fn values_are_sorted_by_the_descriptor() {
        let accounts = accounts(
            "[acme.eu]\ntoken = ['s3cret-old', 's3cret-new']\nurl = 'https://x.test'\ntolerance = 300\nother = true",
        )
        .unwrap();
        let account = accounts.get("acme", "eu").unwrap();
        let descriptor = descriptor(
            &[("token", true), ("key", true)],
            &[("url", true), ("tolerance", false)],
        );
        assert_eq!(account.secret_names(&descriptor), ["token"]);
        let settings: Vec<_> = account
            .settings(&descriptor)
            .into_iter()
            .map(|s| (s.name, s.value))
            .collect();
        assert_eq!(
            settings,
            [
                ("url".into(), "https://x.test".into()),
                ("tolerance".into(), "300".into())
            ]
        );
        assert_eq!(account.secret(&descriptor, "token").unwrap().len(), 2);
        let findings = account.findings(&descriptor);
        assert_eq!(findings.missing, ["key"]);
        assert_eq!(findings.unknown, ["other"]);
        let shown = format!("{accounts:?}{account:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn names_what_it_does_not_have() {
        let accounts = accounts("[acme.eu]\ntoken = 'x'\n[acme.us]\ntoken = 'y'").unwrap();
        assert_eq!(accounts.get("acme", "default").unwrap_err(), ["eu", "us"]);
        assert_eq!(accounts.get("other", "eu").unwrap_err(), ["default"]);
        assert_eq!(accounts.get("other", "default").unwrap().name(), "default");
    }

    #[test]
    fn secrets_end_unsigned_deliveries() {
        let descriptor = descriptor(&[("token", true)], &[]);
        let accounts =
            accounts("[a.x]\nallow_unsigned = true\n[a.y]\nallow_unsigned = true\ntoken = 't'\n[a.z]")
                .unwrap();
        let takes = |name| accounts.get("a", name).unwrap().takes_unsigned(&descriptor);
        assert_eq!((takes("x"), takes("y"), takes("z")), (true, false, false));
    }

    #[test]
    fn errors_name_the_key_and_not_the_value() {
        let error = |toml: &str| accounts(toml).unwrap_err().to_string();
        assert_eq!(
            error("[a.b]\nk = ''"),
            "`accounts.a.b.k` is empty: give it a value or leave it out"
        );
        assert!(
            error("[a.b]\nk = ['1', '2', '3', '4', '5']")
                .starts_with("`accounts.a.b.k` has more than 4 values")
        );
        assert_eq!(
            error("[a.b]\nallow_unsigned = 'yes'"),
            "`accounts.a.b.allow_unsigned` must be `true` or `false`"
        );
        for scope in ["''", "'a:b'"] {
            assert_eq!(
                error(&format!("[a.b]\nexternal_id_scope = {scope}")),
                "`accounts.a.b.external_id_scope` must be 1 to 64 letters, digits, `-`, `_` and `.`"
            );
        }
        for tolerance in ["'5m'", "-1", "1.5", "true", "['300', '5 min']"] {
            assert_eq!(
                error(&format!("[a.b]\ntimestamp_tolerance_seconds = {tolerance}")),
                "`accounts.a.b.timestamp_tolerance_seconds` must be a whole number of seconds, like `300`"
            );
        }
        assert_eq!(
            error("[a.b]\nheader_name = 'X-Key: value'"),
            "`accounts.a.b.header_name` must be the name of a header, like `x-webhook-key`"
        );
        accounts("[a.b]\ntimestamp_tolerance_seconds = 300\nheader_name = 'X-Key'").unwrap();
        accounts("[a.b]\ntimestamp_tolerance_seconds = ' 0 '\nheader_name = ' X-Key '").unwrap();
        for number in ["-1", "1001", "'ten'", "true"] {
            assert_eq!(
                error(&format!("[a.b]\nrecord_deliveries = {number}")),
                "`accounts.a.b.record_deliveries` must be a number from 0 to 1000"
            );
        }
        let long = "a".repeat(33);
        for provider in ["A", "-a", "a-", &long] {
            let told = error(&format!("['{provider}'.b]"));
            assert!(
                told.starts_with(&format!("`accounts.{provider}`: the name of a provider")),
                "{told}"
            );
        }
        assert!(error("[a.'b:c']").starts_with("`accounts.a.b:c`"));
    }
}
