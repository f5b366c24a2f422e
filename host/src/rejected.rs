//! Logs why a plugin could not read something: the first of each reason, so that the log explains the counts and does not grow
//! with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use crate::{accounts::Account, canonical::RejectedElement};

/// Number of reasons remembered per account. A plugin has about one per field that it requires; where a reason contains what
/// differs from delivery to delivery, there may be any number.
const MAX_REASONS: usize = 64;

/// The reasons that were logged, by provider and account, so that strangers who may send to one account do not use up the reasons
/// of the others.
#[derive(Debug, Default)]
pub(crate) struct Rejections(Mutex<BTreeMap<(String, String), Logged>>);

/// The reasons of one account that were logged.
#[derive(Debug, Default)]
struct Logged {
    /// `slug@version` of the plugin that gave them: another version's are logged again.
    plugin: String,
    reasons: BTreeSet<String>,
}

impl Rejections {
    /// Logs the elements of a request whose reason is new. `plugin` is `slug@version`.
    pub(crate) fn elements(
        &self,
        account: &Account,
        plugin: &str,
        request_id: &str,
        rejected: &[RejectedElement],
    ) {
        for RejectedElement { index, reason } in rejected {
            if let Some(remark) = self.first(account.provider(), account.name(), plugin, reason) {
                tracing::warn!(
                    plugin = %plugin,
                    request.id = request_id,
                    index,
                    "first element that `{plugin}` rejects for this reason, element {index} of request `{request_id}`: \
                     {reason}{remark}"
                );
            }
        }
    }

    /// Logs that a plugin could not read a whole request if the reason is new.
    pub(crate) fn delivery(&self, account: &Account, plugin: &str, request_id: &str, reason: &str) {
        if let Some(remark) = self.first(account.provider(), account.name(), plugin, reason) {
            tracing::warn!(
                plugin = %plugin,
                request.id = request_id,
                "first delivery that `{plugin}` cannot read for this reason, request `{request_id}`: {reason}{remark}"
            );
        }
    }

    /// Forgets the reasons of removed accounts; `is_there` gets the provider's and the account's name.
    pub(crate) fn keep_accounts(&self, is_there: impl Fn(&str, &str) -> bool) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|(provider, account), _| is_there(provider, account));
    }

    /// Returns a remark to end the line with if the reason is new and is remembered.
    fn first(&self, provider: &str, account: &str, plugin: &str, reason: &str) -> Option<&'static str> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (provider.to_owned(), account.to_owned());
        let Logged { plugin: of, reasons } = accounts.entry(key).or_default();
        if of != plugin {
            plugin.clone_into(of);
            reasons.clear();
        }
        if reasons.len() == MAX_REASONS || !reasons.insert(reason.to_owned()) {
            return None;
        }
        Some(match reasons.len() == MAX_REASONS {
            true => "; further reasons are not logged, `sendflowr replay --dry-run` shows them",
            false => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_logged_once_per_version_and_their_number_is_bounded() {
        let rejections = Rejections::default();
        let first = |plugin, reason: &str| rejections.first("acme", "eu", plugin, reason);
        assert_eq!(first("acme@1", "no time"), Some(""));
        assert_eq!(first("acme@1", "no time"), None);
        assert_eq!(rejections.first("acme", "us", "acme@1", "no time"), Some(""));
        assert_eq!(first("acme@2", "no time"), Some(""));
        let logged = (0..1_000).filter_map(|n| first("acme@2", &format!("no field {n}")));
        let remarks: Vec<&str> = logged.collect();
        assert_eq!(remarks.len(), MAX_REASONS - 1);
        assert!(remarks[MAX_REASONS - 2].contains("further reasons are not logged"));
    }

    #[test]
    fn removed_accounts_are_forgotten() {
        let rejections = Rejections::default();
        let first = |account| rejections.first("acme", account, "acme@1", "no time").is_some();
        assert!(first("eu") && first("us"));
        rejections.keep_accounts(|provider, account| (provider, account) == ("acme", "eu"));
        assert_eq!((first("eu"), first("us")), (false, true));
    }
}
