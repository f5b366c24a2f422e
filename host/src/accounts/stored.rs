//! The content of an account that was added while hosts run: the same names and values as in the configuration, sealed
//! with the hosts' key, so that the store and its backups do not reveal any secret.

use std::fmt;

use ring::aead::Aad;
use serde::{Deserialize, Serialize};
use store::identity::StoredAccount;

use super::{
    ALLOW_UNSIGNED, Account, InvalidAccount, RECORD_DELIVERIES, RawAccount, RawValue, check_provider,
    parse_account,
};
use crate::seal::{OpenError, Sealer};

/// The values of a stored account, by name.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountValues(RawAccount);

impl fmt::Debug for AccountValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl AccountValues {
    /// Sets the value of a name, or several values while a secret is being rotated, and replaces previous ones. An empty list
    /// removes the name. Anything may be set; [`AccountValues::account`] reports what is invalid.
    pub fn set(&mut self, name: &str, mut texts: Vec<String>) {
        let value = match (texts.pop(), texts.is_empty()) {
            (None, _) => {
                self.0.remove(name);
                return;
            }
            (Some(text), true) => match text.parse() {
                Ok(flag) if name == ALLOW_UNSIGNED => RawValue::Flag(flag),
                _ => RawValue::Text(text),
            },
            (Some(last), false) => {
                texts.push(last);
                RawValue::Texts(texts)
            }
        };
        self.0.insert(name.to_owned(), value);
    }

    /// Returns the names that have a value, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the account that has these values. `allow_unsigned_by_default` applies if they do not include
    /// `allow_unsigned`.
    ///
    /// # Errors
    /// Returns [`InvalidAccount`] with the key that is invalid.
    pub fn account(
        &self,
        provider: &str,
        account: &str,
        allow_unsigned_by_default: bool,
    ) -> Result<Account, InvalidAccount> {
        check_provider(provider)?;
        if self.0.contains_key(RECORD_DELIVERIES) {
            return Err(InvalidAccount::Value {
                provider: provider.to_owned(),
                account: account.to_owned(),
                name: RECORD_DELIVERIES.to_owned(),
                problem: "can only be set in the configuration: each host keeps recordings of its own"
                    .to_owned(),
            });
        }
        let parsed = parse_account(provider, account, self.0.clone(), allow_unsigned_by_default)?;
        Ok(Account {
            is_stored: true,
            ..parsed
        })
    }

    /// Seals the values, as they are stored.
    pub fn seal(&self, sealer: &Sealer, provider: &str, account: &str) -> Vec<u8> {
        let plain = serde_json::to_vec(&self.0).expect("names and plain values are always valid JSON");
        sealer.seal_bytes(plain, beside(provider, account))
    }

    /// Opens stored values.
    ///
    /// # Errors
    /// Returns an [`OpenError`] if they were sealed with another key or for another account, or are damaged.
    pub fn open(sealer: &Sealer, stored: &StoredAccount) -> Result<Self, OpenError> {
        let plain = sealer.open_bytes(&stored.sealed, beside(&stored.provider, &stored.account))?;
        serde_json::from_slice(&plain).map_err(|_| OpenError::Content)
    }
}

/// Returns the data that sealed values are bound to. Neither name can contain a zero byte, and that of dead letters begins with
/// another word.
fn beside(provider: &str, account: &str) -> Aad<Vec<u8>> {
    Aad::from(["sendflowr/account", provider, account].join("\0").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::testing::descriptor;

    fn values(pairs: &[(&str, &[&str])]) -> AccountValues {
        let mut values = AccountValues::default();
        for (name, texts) in pairs {
            values.set(name, texts.iter().map(|text| (*text).to_owned()).collect());
        }
        values
    }

    fn stored(values: &AccountValues, sealer: &Sealer, account: &str) -> StoredAccount {
        StoredAccount {
            provider: "acme".into(),
            account: account.into(),
            sealed: values.seal(sealer, "acme", "eu"),
            updated_at: event::Timestamp::default(),
        }
    }

    #[test]
    fn opens_what_it_sealed_for_that_account_alone() {
        let sealer = Sealer::new(&[7; 32]);
        let values = values(&[
            ("token", &["s3cret-old", "s3cret-new"]),
            ("url", &["https://x.test"]),
        ]);
        let sealed = stored(&values, &sealer, "eu");
        assert!(!sealed.sealed.windows(6).any(|bytes| bytes == b"s3cret"));
        let opened = AccountValues::open(&sealer, &sealed).unwrap();
        let account = opened.account("acme", "eu", false).unwrap();
        let descriptor = descriptor(&[("token", true)], &[("url", true)]);
        assert_eq!(account.secret(&descriptor, "token").unwrap().len(), 2);
        assert!(account.findings(&descriptor).is_stored);
        assert!(!format!("{opened:?}").contains("s3cret"));

        for other in [
            stored(&values, &sealer, "us"),
            stored(&values, &Sealer::new(&[8; 32]), "eu"),
        ] {
            assert!(matches!(
                AccountValues::open(&sealer, &other),
                Err(OpenError::Sealed)
            ));
        }
    }

    #[test]
    fn values_are_set_and_removed_by_name() {
        let mut values = values(&[("token", &["a"]), ("url", &["b"]), ("allow_unsigned", &["true"])]);
        values.set("url", Vec::new());
        assert_eq!(values.names().collect::<Vec<_>>(), ["allow_unsigned", "token"]);
        values.set("token", Vec::new());
        let account = values.account("acme", "eu", false).unwrap();
        assert!(account.takes_unsigned(&descriptor(&[("token", true)], &[])));
    }

    #[test]
    fn the_scope_of_ids_is_a_value_like_others() {
        let values = values(&[("external_id_scope", &["shop"])]);
        let account = values.account("acme", "eu", false).unwrap();
        assert_eq!(account.external_id_scope(), Some("shop"));
        assert!(account.findings(&descriptor(&[], &[])).unknown.is_empty());
    }

    #[test]
    fn what_cannot_work_is_named() {
        let error = |values: AccountValues, provider: &str, account: &str| {
            values.account(provider, account, false).unwrap_err().to_string()
        };
        assert!(error(values(&[]), "Acme", "eu").starts_with("`accounts.Acme`"));
        assert!(error(values(&[]), "acme", "e/u").starts_with("`accounts.acme.e/u`"));
        assert_eq!(
            error(values(&[("allow_unsigned", &["maybe"])]), "acme", "eu"),
            "`accounts.acme.eu.allow_unsigned` must be `true` or `false`"
        );
        assert!(
            error(values(&[("timestamp_tolerance_seconds", &["5m"])]), "acme", "eu").starts_with(
                "`accounts.acme.eu.timestamp_tolerance_seconds` must be a whole number of seconds"
            )
        );
        assert!(
            error(values(&[("record_deliveries", &["5"])]), "acme", "eu")
                .starts_with("`accounts.acme.eu.record_deliveries` can only be set in the configuration")
        );
    }
}
