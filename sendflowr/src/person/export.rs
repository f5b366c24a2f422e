//! Exports a person as one JSON document, which is written while the stores are read: an address used for tests may have
//! millions of events.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Stdout, Write},
    time::SystemTime,
};

use anyhow::{Context, bail};
use event::{
    MailboxProvider, Timestamp,
    profile::{Profile, Signal},
};
use serde::{Serialize, de::IgnoredAny};

use super::{Stores, Subject};

/// Events read at once: usually a few hundred kB, and no more than hosts have in memory if every event has the maximum size.
const PAGE: usize = 100;

/// Writes all that is stored about a person.
///
/// # Errors
/// Fails if a store cannot be read or the document cannot be written: what has been written until then is not valid JSON.
pub(super) async fn write(stores: &Stores, subject: &Subject) -> anyhow::Result<()> {
    let mut document = Document::begin();
    document.field("exported_at", &Timestamp::from(SystemTime::now()))?;
    document.field("universal_id", &subject.universal_id)?;
    document.field("aliases", subject.aliases())?;
    document.field("identifiers", &subject.identifiers)?;
    document.field("identity_log", &subject.identity_log)?;
    document.field("profile", &profile(stores, subject).await?)?;

    document.begin_list("events")?;
    for id in &subject.ids {
        let mut last = None;
        loop {
            let page = stores.events.events_of(id, last.as_ref(), PAGE).await?;
            for stored in &page {
                document.element(&serde_json::to_string(stored)?)?;
            }
            match page.into_iter().next_back() {
                Some(stored) => last = Some(stored.event),
                None => break,
            }
        }
    }
    document.end_list()?;

    document.begin_list("explanations")?;
    for reference in stores.events.explanations_about(&subject.ids).await? {
        // It may have expired meanwhile.
        let Some(explanation) = stores.events.explanation(&reference).await? else {
            continue;
        };
        if serde_json::from_str::<IgnoredAny>(&explanation.body).is_err() {
            bail!("the explanation `{reference}` is stored as something that is not JSON");
        }
        document.element(&explanation.body)?;
    }
    document.end_list()?;
    document.end()
}

/// Returns the profile that decisions use; `None` if the profile store has none, or is the memory of other processes.
async fn profile(stores: &Stores, subject: &Subject) -> anyhow::Result<Option<ToldProfile>> {
    let Some(profiles) = &stores.profiles else {
        return Ok(None);
    };
    let mut merged: Option<Profile> = None;
    for profile in profiles.get(&subject.ids).await?.into_iter().flatten() {
        match &mut merged {
            Some(merged) => merged.merge(&profile),
            None => merged = Some(profile),
        }
    }
    Ok(merged.as_ref().map(ToldProfile::of))
}

/// A profile in readable form. All of it is derived from the events.
#[derive(Debug, Serialize)]
struct ToldProfile {
    mailbox_provider: Option<MailboxProvider>,
    mails: Vec<ToldMail>,
    /// Engagement that cannot be assigned to a mail.
    activities: Vec<ToldActivity>,
    machine_opens: usize,
    /// The last time of each signal.
    signals: BTreeMap<&'static str, Timestamp>,
}

#[derive(Debug, Serialize)]
struct ToldMail {
    delivered_at: Timestamp,
    opened_at: Option<Timestamp>,
    clicked_at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct ToldActivity {
    at: Timestamp,
    /// Whether it was a click, reply or conversion, not merely an open.
    strong: bool,
}

impl ToldProfile {
    fn of(profile: &Profile) -> Self {
        // A provider's clock may be ahead: profiles keep such events all the same.
        let end = Timestamp::from_millis_clamped(i64::MAX);
        let history = profile.history(end);
        let mails = history.mails.iter().map(|mail| ToldMail {
            delivered_at: mail.delivered_at,
            opened_at: mail.opened_at,
            clicked_at: mail.clicked_at,
        });
        let activities = history.activities.iter().map(|activity| ToldActivity {
            at: activity.at,
            strong: activity.strong,
        });
        let signals = Signal::ALL
            .into_iter()
            .filter_map(|signal| Some((signal.as_str(), profile.latest(signal, end)?)));
        Self {
            mailbox_provider: profile.mailbox_provider(),
            mails: mails.collect(),
            activities: activities.collect(),
            machine_opens: history.machine_opens,
            signals: signals.collect(),
        }
    }
}

/// A JSON object written to standard output, with one field or list element per line.
struct Document {
    out: BufWriter<Stdout>,
    /// The separator to write before what comes next.
    separator: &'static str,
}

impl Document {
    fn begin() -> Self {
        Self {
            out: BufWriter::new(io::stdout()),
            separator: "{\n",
        }
    }

    fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> anyhow::Result<()> {
        let value = serde_json::to_string(value)?;
        self.write(&format!("\"{name}\":{value}"), ",\n")
    }

    fn begin_list(&mut self, name: &str) -> anyhow::Result<()> {
        self.write(&format!("\"{name}\":["), "\n")
    }

    fn element(&mut self, json: &str) -> anyhow::Result<()> {
        self.write(json, ",\n")
    }

    fn end_list(&mut self) -> anyhow::Result<()> {
        self.separator = "";
        self.write("]", ",\n")
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.separator = "";
        self.write("\n}\n", "")?;
        self.out.flush().context(CANNOT_WRITE)
    }

    fn write(&mut self, text: &str, separator_after: &'static str) -> anyhow::Result<()> {
        self.out
            .write_all(self.separator.as_bytes())
            .and_then(|()| self.out.write_all(text.as_bytes()))
            .context(CANNOT_WRITE)?;
        self.separator = separator_after;
        Ok(())
    }
}

const CANNOT_WRITE: &str = "cannot write the whole document";
