//! How accounts fit their plugins.

use serde::Serialize;

use super::{Account, BASIC_AUTH_USER, HEADER_NAME};
use crate::plugin::types::Descriptor;

/// Names that mean something only together, in every plugin that declares both.
const PAIRS: [[&str; 2]; 2] = [
    [BASIC_AUTH_USER, "basic_auth_password"],
    [HEADER_NAME, "header_value"],
];

/// How an account's configuration fits its plugin. Holds names, never values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The provider.
    pub provider: String,
    /// The account.
    pub account: String,
    /// Secrets and settings that are required, or without which another one means nothing, and that are not configured.
    pub missing: Vec<String>,
    /// The secrets of which none is configured, if every delivery is refused for want of a proof; none of them is required.
    pub unproven_without: Vec<String>,
    /// Configured names that the plugin does not know.
    pub unknown: Vec<String>,
    /// Whether unproven deliveries are accepted.
    pub takes_unsigned: bool,
    /// Whether it was added with `sendflowr account set`; otherwise it is in the configuration.
    #[serde(rename = "stored")]
    pub is_stored: bool,
}

impl Findings {
    /// Returns what is wrong, each as what the account does: "lacks …".
    pub fn problems(&self) -> Vec<String> {
        let told = |what: &str, names: &[String], join: &str, end: &str| {
            let names = names.join(join);
            (!names.is_empty()).then(|| format!("{what} `{names}`{end}"))
        };
        let problems = [
            told("lacks", &self.missing, "`, `", ""),
            told(
                "refuses all deliveries without",
                &self.unproven_without,
                "` or `",
                "",
            ),
            told("has", &self.unknown, "`, `", ", which the plugin does not know"),
        ];
        problems.into_iter().flatten().collect()
    }
}

impl Account {
    /// Compares the account with what the plugin declares.
    pub fn findings(&self, descriptor: &Descriptor) -> Findings {
        let secrets = descriptor.secrets.iter().map(|spec| (&*spec.name, spec.required));
        let settings = descriptor
            .settings
            .iter()
            .map(|spec| (&*spec.name, spec.required));
        let declared: Vec<(&str, bool)> = secrets.chain(settings).collect();
        let is_declared = |name: &str| declared.iter().any(|(declared, _)| *declared == name);
        let has = |name: &str| self.values.contains_key(name);
        let required = declared.iter().filter(|(_, required)| *required);
        let halves = PAIRS
            .iter()
            .flat_map(|[one, other]| [(one, other), (other, one)])
            .filter(|(one, other)| is_declared(one) && is_declared(other) && has(one))
            .map(|(_, other)| other);
        let wanted = required.map(|(name, _)| name).chain(halves);
        let mut missing: Vec<String> = Vec::new();
        for name in wanted.filter(|name| !has(name)) {
            // One that is required may be the half of a pair too.
            if !missing.iter().any(|known| known == name) {
                missing.push((*name).to_owned());
            }
        }
        let takes_unsigned = self.takes_unsigned(descriptor);
        let can_be_proven = takes_unsigned
            || declared.iter().any(|(_, required)| *required)
            || !self.secret_names(descriptor).is_empty();
        let secrets = descriptor.secrets.iter().filter(|_| !can_be_proven);
        let unknown = self.values.keys().filter(|name| !is_declared(name));
        Findings {
            provider: self.provider.clone(),
            account: self.name.clone(),
            missing,
            unproven_without: secrets.map(|secret| secret.name.clone()).collect(),
            unknown: unknown.cloned().collect(),
            takes_unsigned,
            is_stored: self.is_stored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Accounts, RawAccounts, proof::testing::descriptor};

    fn findings(values: &str, descriptor: &Descriptor) -> (Vec<String>, Vec<String>) {
        let raw: RawAccounts = toml::from_str(&format!("[acme.eu]\n{values}")).unwrap();
        let accounts = Accounts::try_new(raw, false).unwrap();
        let findings = accounts.get("acme", "eu").unwrap().findings(descriptor);
        (findings.missing, findings.unproven_without)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn half_of_a_pair_lacks_the_other_and_nothing_at_all_proves_nothing() {
        let secrets = [
            ("basic_auth_user", false),
            ("basic_auth_password", false),
            ("header_value", false),
        ];
        let descriptor = descriptor(&secrets, &[("header_name", false)]);
        let found = |values| findings(values, &descriptor);
        let all = names(&["basic_auth_user", "basic_auth_password", "header_value"]);
        assert_eq!(found(""), (names(&[]), all.clone()));
        assert_eq!(found("allow_unsigned = true"), (names(&[]), names(&[])));
        assert_eq!(
            found("basic_auth_user = 'u'"),
            (names(&["basic_auth_password"]), names(&[]))
        );
        assert_eq!(
            found("header_value = 'v'\nbasic_auth_password = 'p'"),
            (names(&["basic_auth_user", "header_name"]), names(&[]))
        );
        assert_eq!(found("header_name = 'X-Key'"), (names(&["header_value"]), all));
        assert_eq!(
            found("header_name = 'X-Key'\nheader_value = 'v'"),
            (names(&[]), names(&[]))
        );
    }

    #[test]
    fn problems_are_told_in_words() {
        let mut findings = Findings {
            provider: "acme".to_owned(),
            account: "eu".to_owned(),
            missing: names(&["a", "b"]),
            unproven_without: names(&["c", "d"]),
            unknown: names(&["e"]),
            takes_unsigned: false,
            is_stored: false,
        };
        assert_eq!(
            findings.problems(),
            [
                "lacks `a`, `b`",
                "refuses all deliveries without `c` or `d`",
                "has `e`, which the plugin does not know",
            ]
        );
        for names in [
            &mut findings.missing,
            &mut findings.unproven_without,
            &mut findings.unknown,
        ] {
            names.clear();
        }
        assert_eq!(findings.problems(), [""; 0]);
    }

    #[test]
    fn what_is_required_and_half_of_a_pair_is_named_once() {
        let secrets = [
            ("basic_auth_user", false),
            ("basic_auth_password", true),
            ("token", true),
        ];
        let (missing, _) = findings("basic_auth_user = 'u'", &descriptor(&secrets, &[]));
        assert_eq!(missing, names(&["basic_auth_password", "token"]));
    }

    #[test]
    fn what_is_required_is_missing_and_nothing_else_is_said() {
        let descriptor = descriptor(&[("token", true), ("other", false)], &[]);
        assert_eq!(findings("", &descriptor), (names(&["token"]), names(&[])));
    }
}
