//! Validates a plugin's descriptor.

use std::collections::BTreeSet;

use event::identity::{MAX_SLUG, is_slug};
use semver::Version;

use super::bindings::types::Descriptor;
use crate::accounts::{BASIC_AUTH_USER, COMMON_SETTINGS, HOSTS_OWN};

/// Long enough for any provider's name, short enough for a table.
const NAME_LETTERS: usize = 64;
/// A sentence or two.
const SUMMARY_LETTERS: usize = 500;
/// Twice what HTTP software commonly accepts as a line.
const URL_LETTERS: usize = 2048;
/// No provider needs more than a handful.
const MOST_SPECS: usize = 32;
const MOST_HOSTS: usize = 16;

/// How a word ends that makes a name that of a secret. Every secret of the plugins in this repository has such a word, other than
/// the [`SECRETS`]. `auth` is not among them: `auth_type` says only how a token is sent.
const SECRET_WORDS: [&str; 6] = ["credential", "key", "passphrase", "password", "secret", "token"];

/// Secrets that the SDK declares and whose names have no such word.
const SECRETS: [&str; 2] = [BASIC_AUTH_USER, "header_value"];

/// Returns what is wrong with a descriptor, if anything.
pub(crate) fn check(descriptor: &Descriptor) -> Result<(), String> {
    let slug = &descriptor.slug;
    if !is_slug(slug) {
        let shown: String = slug.chars().take(MAX_SLUG).collect();
        return Err(format!(
            "slug `{}` must be 1 to {MAX_SLUG} lower-case letters, digits and inner hyphens",
            shown.escape_default()
        ));
    }
    check_text("display name", &descriptor.display_name, NAME_LETTERS)?;
    check_text("version", &descriptor.version, NAME_LETTERS)?;
    if let Err(error) = Version::parse(&descriptor.version) {
        return Err(format!("version `{}` is not SemVer: {error}", descriptor.version));
    }
    check_text("documentation URL", &descriptor.docs_url, URL_LETTERS)?;
    if !descriptor.docs_url.starts_with("https://") {
        return Err(format!(
            "documentation URL `{}` is not `https`",
            descriptor.docs_url
        ));
    }
    check_specs(descriptor)?;
    if descriptor.hosts.len() > MOST_HOSTS {
        return Err(format!(
            "{} hosts; a plugin may name {MOST_HOSTS}",
            descriptor.hosts.len()
        ));
    }
    for host in &descriptor.hosts {
        check_host(host)?;
    }
    let statuses = &descriptor.statuses;
    for (name, status) in [
        ("unproven", statuses.unproven),
        ("malformed", statuses.malformed),
        ("unavailable", statuses.unavailable),
    ] {
        if !(400..=599).contains(&status) {
            return Err(format!(
                "status `{status}` for `{name}` is not between 400 and 599"
            ));
        }
    }
    Ok(())
}

fn check_text(what: &str, text: &str, letters: usize) -> Result<(), String> {
    let count = text.chars().count();
    if count == 0 || count > letters {
        return Err(format!("{what} has {count} characters, not 1 to {letters}"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} has control characters"));
    }
    Ok(())
}

/// Secrets and settings are in the same table of the configuration, so their names must not collide.
fn check_specs(descriptor: &Descriptor) -> Result<(), String> {
    let secrets = descriptor.secrets.iter().map(|spec| (&spec.name, &spec.summary));
    let settings = descriptor.settings.iter().map(|spec| (&spec.name, &spec.summary));
    let count = descriptor.secrets.len() + descriptor.settings.len();
    if count > MOST_SPECS {
        return Err(format!(
            "{count} secrets and settings; a plugin may have {MOST_SPECS}"
        ));
    }
    let mut names = BTreeSet::new();
    for (name, summary) in secrets.chain(settings) {
        check_text("the name of a secret or setting", name, NAME_LETTERS)?;
        let snake = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && name.starts_with(|letter: char| letter.is_ascii_lowercase());
        if !snake {
            return Err(format!("secret or setting `{name}` is not `snake_case`"));
        }
        if !names.insert(name) {
            return Err(format!("two secrets or settings are called `{name}`"));
        }
        check_text(&format!("the summary of `{name}`"), summary, SUMMARY_LETTERS)?;
    }
    check_kinds(descriptor)
}

/// The configuration does not say which values are secrets: the descriptor of whatever file is in the folder does. So a name must
/// not become the other kind: a plugin would be handed a secret, or have deliveries proven by a setting, which can be guessed.
fn check_kinds(descriptor: &Descriptor) -> Result<(), String> {
    for spec in &descriptor.settings {
        let name = spec.name.as_str();
        if HOSTS_OWN.contains(&name) {
            return Err(format!("setting `{name}` is the host's own: rename it"));
        }
        if is_secret(name) {
            return Err(format!(
                "setting `{name}` has the name of a secret: declare it as a secret, or rename it if it is none"
            ));
        }
    }
    for spec in &descriptor.secrets {
        let name = spec.name.as_str();
        if HOSTS_OWN.contains(&name) || COMMON_SETTINGS.contains(&name) {
            return Err(format!(
                "secret `{name}` has the name of a setting that the host reads: rename it"
            ));
        }
    }
    Ok(())
}

/// Returns whether this is the name of a secret: `signing_key`, `api_keys`, `authtoken_2`.
fn is_secret(name: &str) -> bool {
    let is_word = |word: &str| {
        let word = word.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == 's');
        SECRET_WORDS.iter().any(|end| word.ends_with(end))
    };
    SECRETS.contains(&name) || name.split('_').any(is_word)
}

/// A host must be a name of at least two labels; one label before the last two may be `*`.
fn check_host(host: &str) -> Result<(), String> {
    check_text("a host", host, 253)?;
    let labels: Vec<&str> = host.split('.').collect();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let fixed = labels.len().saturating_sub(2);
    let stars = labels.iter().filter(|label| **label == "*").count();
    let last_has_letter = labels
        .last()
        .is_some_and(|label| label.bytes().any(|byte| byte.is_ascii_lowercase()));
    let labels_fit = labels
        .iter()
        .enumerate()
        .all(|(position, label)| is_label(label) || (*label == "*" && position < fixed));
    if labels.len() < 2 || stars > 1 || !last_has_letter || !labels_fit {
        return Err(format!(
            "host `{host}` must be a lower-case name of at least two labels; one label before the last two may be `*`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::types::{SecretSpec, SettingSpec, Statuses};

    fn descriptor() -> Descriptor {
        Descriptor {
            slug: "acme-mail".to_owned(),
            display_name: "Acme Mail".to_owned(),
            version: "1.2.3-rc.1".to_owned(),
            docs_url: "https://acme.test/webhooks".to_owned(),
            secrets: vec![SecretSpec {
                name: "signing_key".to_owned(),
                summary: "Console, Webhooks, Signing key.".to_owned(),
                required: true,
            }],
            settings: Vec::new(),
            hosts: vec!["sns.*.amazonaws.com".to_owned(), "acme.test".to_owned()],
            statuses: Statuses {
                unproven: 401,
                malformed: 400,
                unavailable: 503,
            },
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Descriptor), part: &str) {
        let mut descriptor = descriptor();
        change(&mut descriptor);
        let reason = check(&descriptor).unwrap_err();
        assert!(reason.contains(part), "{reason}");
    }

    #[test]
    fn takes_what_the_contract_allows() {
        assert_eq!(check(&descriptor()), Ok(()));
    }

    #[test]
    fn refuses_slugs_that_are_no_path_segment() {
        for slug in ["", "Acme", "a/b", "-a", "a-", "ä", &"a".repeat(33)] {
            refused(|descriptor| slug.clone_into(&mut descriptor.slug), "slug");
        }
    }

    #[test]
    fn refuses_versions_names_and_urls() {
        refused(|descriptor| "1.2".clone_into(&mut descriptor.version), "SemVer");
        refused(
            |descriptor| "a\nb".clone_into(&mut descriptor.display_name),
            "control",
        );
        refused(|descriptor| descriptor.display_name.clear(), "display name");
        refused(
            |descriptor| "http://x.test".clone_into(&mut descriptor.docs_url),
            "https",
        );
    }

    #[test]
    fn refuses_statuses_that_would_look_like_success() {
        refused(|descriptor| descriptor.statuses.unproven = 200, "`unproven`");
        refused(
            |descriptor| descriptor.statuses.unavailable = 600,
            "`unavailable`",
        );
    }

    #[test]
    fn refuses_hosts_that_are_too_wide() {
        for host in [
            "*",
            "*.com",
            "com",
            "a.*.com",
            "*.*.a.com",
            "10.0.0.1",
            "A.com",
            "a..com",
            "a.com:80",
        ] {
            refused(|descriptor| descriptor.hosts = vec![host.to_owned()], "host");
        }
    }

    #[test]
    fn secrets_and_settings_share_their_names() {
        refused(
            |descriptor| {
                descriptor.settings.push(SettingSpec {
                    name: "signing_key".to_owned(),
                    summary: "Twice.".to_owned(),
                    required: false,
                });
            },
            "`signing_key`",
        );
        refused(
            |descriptor| descriptor.secrets[0].name = "Signing-Key".to_owned(),
            "snake_case",
        );
    }

    fn with_setting(descriptor: &mut Descriptor, name: &str) {
        descriptor.settings.push(SettingSpec {
            name: name.to_owned(),
            summary: "A setting.".to_owned(),
            required: false,
        });
    }

    #[test]
    fn refuses_settings_with_the_name_of_a_secret() {
        for name in [
            // Those of the plugins in this repository.
            "auth_token",
            "basic_auth_password",
            "basic_auth_user",
            "bearer_token",
            "client_secret",
            "header_value",
            "public_key",
            "signing_secret",
            "url_secret",
            "webhook_key",
            // And others.
            "apikey",
            "credentials",
            "signing_key_v2",
            "tokens2",
        ] {
            refused(
                |descriptor| with_setting(descriptor, name),
                "has the name of a secret",
            );
        }
        // The settings of the plugins in this repository, and names that only look similar.
        for name in [
            "auth_type",
            "header_name",
            "timestamp_tolerance_seconds",
            "topic_arn",
            "webhook_url",
            "keyword",
            "secretary",
        ] {
            let mut descriptor = descriptor();
            with_setting(&mut descriptor, name);
            assert_eq!(check(&descriptor), Ok(()), "{name}");
        }
    }

    #[test]
    fn refuses_the_hosts_own_names() {
        for name in ["allow_unsigned", "external_id_scope", "record_deliveries"] {
            refused(|descriptor| with_setting(descriptor, name), "the host's own");
        }
        for name in [
            "allow_unsigned",
            "external_id_scope",
            "record_deliveries",
            "timestamp_tolerance_seconds",
            "header_name",
        ] {
            refused(
                |descriptor| name.clone_into(&mut descriptor.secrets[0].name),
                "has the name of a setting that the host reads",
            );
        }
    }
}
