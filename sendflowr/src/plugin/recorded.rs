//! `sendflowr plugin test --recorded`: runs recorded deliveries through the installed plugin and a new one.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use host::{
    RejectedElement,
    recordings::{Made, Recordings},
};
use serde::Serialize;
use serde_json::Value;

use super::files::load;
use crate::{
    account::AccountName,
    cli::{Format, Global},
    config, keys, output,
};

/// Most differences of one delivery that are printed as text; the JSON has all.
const MOST_SHOWN: usize = 20;

/// The options besides the plugins.
pub(super) struct Question<'a> {
    pub(super) account: Option<&'a AccountName>,
    pub(super) against: Option<&'a Path>,
    pub(super) no_changes: bool,
    pub(super) format: Format,
}

/// How one delivery compares.
#[derive(Debug, Serialize)]
struct Comparison {
    recording: String,
    /// Whether the new plugin reads less than the installed one.
    is_loss: bool,
    /// Whether neither can read it, which says nothing about the new one.
    both_fail: bool,
    differences: Vec<String>,
}

/// Compares the plugins; the exit code reports losses or, with `no_changes`, any difference.
///
/// # Errors
/// Fails if the configuration cannot work, a plugin cannot be loaded, or there is no recording at all.
pub(super) async fn run(
    global: Global,
    files: &[PathBuf],
    question: &Question<'_>,
) -> anyhow::Result<ExitCode> {
    let config = global.load()?;
    let hasher = keys::hasher(&config.identity);
    let config = config::host_config(&config)?;
    let limits = &config.plugins.limits;
    let recordings = Recordings::open(&config, hasher)?;
    let mut comparisons = Vec::new();
    for file in files {
        let new = load(file, limits).await?;
        let slug = new.descriptor().slug.clone();
        let account = match question.account {
            None => None,
            Some(name) if name.provider == slug => Some(name.account.as_str()),
            Some(_) => {
                bail!("`--account` must be `{slug}` or `{slug}/account`, because the plugin serves `{slug}`")
            }
        };
        let of_slug = config.plugins.folder.join(format!("{slug}.wasm"));
        let installed = load(question.against.unwrap_or(&of_slug), limits)
            .await
            .context("cannot load the plugin to compare with (`--against` names another)")?;
        let other = &installed.descriptor().slug;
        if *other != slug {
            bail!(
                "the plugin to compare with serves `{other}`, the new one `{slug}`: compare plugins of one provider"
            );
        }
        let found = recordings
            .of(&slug, account)
            .context("cannot list the recordings")?;
        if found.is_empty() {
            let name = account.unwrap_or("<name>");
            let of = account.map_or_else(|| slug.clone(), |account| format!("{slug}/{account}"));
            bail!(
                "no delivery of `{of}` is recorded: set `record_deliveries` in its account, `[accounts.{slug}.{name}]`"
            );
        }
        let earlier = comparisons.len();
        for path in found {
            let read = recordings.read(&path);
            let Some(raw) = read.with_context(|| format!("`{}`", path.display()))? else {
                continue;
            };
            let before = recordings.run(&installed, raw.clone()).await?;
            let after = recordings.run(&new, raw).await?;
            let recording = path.strip_prefix(&config.recordings_folder).unwrap_or(&path);
            comparisons.push(Comparison {
                recording: recording.display().to_string(),
                is_loss: is_loss(&before, &after),
                both_fail: matches!((&before, &after), (Made::Failure(_), Made::Failure(_))),
                differences: differences(&before, &after)?,
            });
        }
        if comparisons.len() == earlier {
            bail!(
                "every recorded delivery of `{slug}` was replaced by a newer one before it was read: raise `record_deliveries`"
            );
        }
    }
    for comparison in &comparisons {
        match question.format {
            Format::Json => output::line(&serde_json::to_string(comparison)?),
            Format::Text => print(comparison),
        }
    }
    let tally = Tally::of(&comparisons);
    if question.format == Format::Text {
        output::line(&tally.to_string());
    }
    Ok(match tally.is_well(question.no_changes) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// How many deliveries there are of each kind.
#[derive(Debug, PartialEq, Eq)]
struct Tally {
    deliveries: usize,
    alike: usize,
    different: usize,
    losses: usize,
    /// Read by neither plugin.
    unread: usize,
}

impl Tally {
    fn of(comparisons: &[Comparison]) -> Self {
        let count = |what: fn(&Comparison) -> bool| comparisons.iter().filter(|one| what(one)).count();
        Self {
            deliveries: comparisons.len(),
            alike: count(|comparison| comparison.differences.is_empty() && !comparison.both_fail),
            different: count(|comparison| !comparison.differences.is_empty()),
            losses: count(|comparison| comparison.is_loss),
            unread: count(|comparison| comparison.both_fail),
        }
    }

    /// Returns whether the new plugin may replace the installed one. If nothing at all was read, nothing is known about it.
    fn is_well(&self, no_changes: bool) -> bool {
        self.losses == 0 && self.unread < self.deliveries && !(no_changes && self.different > 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            deliveries,
            alike,
            different,
            losses,
            unread,
        } = self;
        write!(
            f,
            "{deliveries} deliveries: {alike} alike, {different} different, {losses} of them with losses"
        )?;
        match unread {
            0 => Ok(()),
            _ => write!(f, "; {unread} that neither plugin can read"),
        }
    }
}

fn print(comparison: &Comparison) {
    let remark = match comparison {
        Comparison { both_fail: true, .. } => " (neither can read it)",
        Comparison { is_loss: true, .. } => " (loss)",
        _ if comparison.differences.is_empty() => return,
        _ => "",
    };
    output::line(&format!("{}{remark}", comparison.recording));
    for difference in comparison.differences.iter().take(MOST_SHOWN) {
        output::line(&format!("  {difference}"));
    }
    if let Some(more @ 1..) = comparison.differences.len().checked_sub(MOST_SHOWN) {
        output::line(&format!("  and {more} more; `--format json` has them all"));
    }
}

/// Returns whether less is read of a delivery than before.
fn is_loss(before: &Made, after: &Made) -> bool {
    match (before, after) {
        (Made::Failure(_), _) => false,
        (_, Made::Failure(_)) => true,
        (
            Made::Events { events, rejected, .. },
            Made::Events {
                events: new_events,
                rejected: new_rejected,
                ..
            },
        ) => new_events.len() < events.len() || new_rejected.len() > rejected.len(),
        (Made::Events { events, .. }, Made::Handshake) => !events.is_empty(),
        (Made::Handshake, _) => false,
    }
}

/// Describes the differences. Events are compared as they would be stored, field by field, in their order.
fn differences(before: &Made, after: &Made) -> anyhow::Result<Vec<String>> {
    if before == after {
        return Ok(Vec::new());
    }
    let (
        Made::Events {
            events,
            skipped,
            rejected,
        },
        Made::Events {
            events: new_events,
            skipped: new_skipped,
            rejected: new_rejected,
        },
    ) = (before, after)
    else {
        return Ok(vec![format!("{} -> {}", in_words(before), in_words(after))]);
    };
    let mut found = Vec::new();
    for (what, old, new) in [
        ("events", events.len(), new_events.len()),
        ("skipped", skipped.len(), new_skipped.len()),
    ] {
        if old != new {
            found.push(format!("{what}: {old} -> {new}"));
        }
    }
    if rejected != new_rejected {
        found.push(format!(
            "rejected: {:?} -> {:?}",
            reasons(rejected),
            reasons(new_rejected)
        ));
    }
    for element in rejected {
        if new_skipped.contains(&element.index) {
            found.push(format!(
                "element {} is skipped instead of rejected: a replay removes its dead letter",
                element.index
            ));
        }
    }
    for (position, (old, new)) in events.iter().zip(new_events).enumerate() {
        let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
        fields(&format!("events[{position}]"), &old, &new, &mut found);
    }
    for (position, event) in new_events.iter().enumerate().skip(events.len()) {
        found.push(format!("events[{position}]: new, `{}`", event.event_type));
    }
    for (position, event) in events.iter().enumerate().skip(new_events.len()) {
        found.push(format!("events[{position}]: gone, `{}`", event.event_type));
    }
    Ok(found)
}

fn fields(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let (Some(old_fields), Some(new_fields)) = (old.as_object(), new.as_object()) else {
        if old != new {
            found.push(format!("{path}: {old} -> {new}"));
        }
        return;
    };
    for (name, old) in old_fields {
        fields(
            &format!("{path}.{name}"),
            old,
            new_fields.get(name).unwrap_or(&Value::Null),
            found,
        );
    }
    for (name, new) in new_fields {
        if !old_fields.contains_key(name) {
            fields(&format!("{path}.{name}"), &Value::Null, new, found);
        }
    }
}

fn reasons(rejected: &[RejectedElement]) -> Vec<String> {
    let elements = rejected.iter();
    elements
        .map(|element| format!("element {}: {}", element.index, element.reason))
        .collect()
}

fn in_words(made: &Made) -> String {
    match made {
        Made::Events { events, .. } => format!("{} events", events.len()),
        Made::Handshake => "the answer to a handshake".to_owned(),
        Made::Failure(reason) => format!("fails: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns `count` equal events.
    fn events(count: usize) -> Made {
        let event = include_bytes!("../../../event/samples/event-v1.json");
        let event: event::Event = event::Event::from_json(event).unwrap();
        Made::Events {
            events: vec![event; count],
            skipped: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Returns a delivery whose element 7 is skipped, and some others are rejected for these reasons.
    fn made(rejected: &[&str]) -> Made {
        let rejected = (0..).zip(rejected).map(|(index, reason)| RejectedElement {
            index,
            reason: (*reason).to_owned(),
        });
        Made::Events {
            events: Vec::new(),
            skipped: vec![7],
            rejected: rejected.collect(),
        }
    }

    #[test]
    fn what_is_read_no_more_is_a_loss() {
        let failure = Made::Failure("no JSON".to_owned());
        assert!(is_loss(&made(&[]), &failure));
        assert!(is_loss(&made(&[]), &made(&["no time"])));
        assert!(!is_loss(&made(&["no time"]), &made(&[])));
        assert!(!is_loss(&failure, &made(&["no time"])));
        assert!(!is_loss(&Made::Handshake, &made(&[])));
        // What the new plugin skips or leaves out is no longer read, either.
        assert!(is_loss(&events(2), &events(1)));
        assert!(is_loss(&events(1), &made(&[])));
        assert!(!is_loss(&events(1), &events(2)));
    }

    #[test]
    fn differences_are_named() {
        assert_eq!(differences(&made(&[]), &made(&[])).unwrap(), [""; 0]);
        assert_eq!(
            differences(&made(&[]), &made(&["no time"])).unwrap(),
            [r#"rejected: [] -> ["element 0: no time"]"#]
        );
        let given_up = Made::Events {
            events: Vec::new(),
            skipped: vec![0, 7],
            rejected: Vec::new(),
        };
        assert_eq!(
            differences(&made(&["no time"]), &given_up).unwrap(),
            [
                "skipped: 1 -> 2",
                r#"rejected: ["element 0: no time"] -> []"#,
                "element 0 is skipped instead of rejected: a replay removes its dead letter",
            ]
        );
        assert_eq!(
            differences(&made(&[]), &Made::Failure("no JSON".to_owned())).unwrap(),
            ["0 events -> fails: no JSON"]
        );
        let mut found = Vec::new();
        let (old, new) = (
            json!({"a": 1, "gone": "x", "in": {"b": [1]}}),
            json!({"a": 2, "in": {"b": [1], "c": null}, "new": true}),
        );
        fields("events[0]", &old, &new, &mut found);
        found.sort();
        assert_eq!(
            found,
            [
                "events[0].a: 1 -> 2",
                r#"events[0].gone: "x" -> null"#,
                "events[0].new: null -> true",
            ]
        );
    }

    #[test]
    fn what_neither_plugin_can_read_is_not_alike() {
        let comparison = |both_fail| Comparison {
            recording: "r".to_owned(),
            is_loss: false,
            both_fail,
            differences: Vec::new(),
        };
        let some = Tally::of(&[comparison(true), comparison(false)]);
        assert_eq!(
            some.to_string(),
            "2 deliveries: 1 alike, 0 different, 0 of them with losses; 1 that neither plugin can read"
        );
        assert!(some.is_well(true));
        let none = Tally::of(&[comparison(true), comparison(true)]);
        assert!(!none.is_well(false), "nothing was shown");
        assert!(Tally::of(&[comparison(false)]).is_well(true));
    }
}
