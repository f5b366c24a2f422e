//! `sendflowr person`: exports or erases all that is stored about a person.
//!
//! The identity graph says which ids belong to the person, and its part is erased last: whatever fails on the way, running the
//! command again finds the rest.

mod export;

use std::{io::Read, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use event::{EmailHash, Hasher, Identifier, IdentifierKind, UniversalId};
use serde::Serialize;
use store::{
    events::{Events, Holdings},
    identity::{AuditEntry, ErasedIdentities, Identities},
    profiles::Profiles,
};

use crate::{
    cli::Format,
    config::RawConfig,
    engines::{Engines, Place},
    keys, output,
};

/// Most addresses with which a person is taken to be one person. People have a handful; a shop that sends its own phone number
/// with every order merges thousands of customers into one.
const MOST_ADDRESSES: usize = 10;

/// Bytes read from standard input: four times the longest address that is hashed, so that anything longer is refused.
const MAX_INPUT_BYTES: u64 = 4 * event::identity::MAX_EMAIL_BYTES as u64;

/// The commands on what is stored about a person.
#[derive(Debug, Subcommand)]
pub(crate) enum PersonCommand {
    /// Print all that is stored about a person, as one JSON document.
    Export {
        #[command(flatten)]
        who: Who,
    },
    /// Erase all that is stored about a person. After a failure, run it again to erase the rest.
    Erase {
        #[command(flatten)]
        who: Who,
        /// Say how much would be erased, and erase nothing.
        #[arg(long)]
        dry_run: bool,
        /// Output format.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

/// The person that a command is about.
#[derive(Debug, Args)]
pub(crate) struct Who {
    #[command(flatten)]
    name: Name,
    /// Only what is stored under this id, not under other ids that the identity graph assigns to the same person.
    #[arg(long)]
    alone: bool,
    /// All data of a person for whom the identity graph has more than 10 addresses, who may be many people.
    #[arg(long, conflicts_with = "alone")]
    merged: bool,
}

/// One way to name a person.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Name {
    /// E-mail address; `-` reads it from standard input, where neither other users nor the shell's history see it.
    #[arg(long)]
    email: Option<String>,
    /// Hash of the address: 64 hexadecimal digits.
    #[arg(long)]
    email_hash: Option<String>,
    /// Phone number in E.164 form, such as `+4930123456`; `-` reads it from standard input.
    #[arg(long)]
    phone_number: Option<String>,
    /// Your own id of the person, with the account's `external_id_scope` and `:` in front if it has one; `-` reads it from
    /// standard input.
    #[arg(long)]
    external_id: Option<String>,
    /// Any id of the person: `sf_` and 32 hexadecimal digits.
    #[arg(long)]
    universal_id: Option<String>,
}

impl Name {
    /// Returns the id of the named person. Errors never repeat what names it.
    fn id(&self, hasher: &Hasher) -> anyhow::Result<UniversalId> {
        if let Some(text) = &self.universal_id {
            let id = UniversalId::parse(text);
            return id.context("`--universal-id` must be `sf_` and 32 lower-case hexadecimal digits");
        }
        let identifier = if let Some(text) = &self.email_hash {
            let hash = EmailHash::parse(text).context("`--email-hash` must be 64 hexadecimal digits")?;
            Identifier {
                kind: IdentifierKind::EmailHash,
                value: hash.as_str().to_owned(),
            }
        } else if let Some(text) = &self.email {
            let (text, source) = given(text, "--email")?;
            let address = hasher.email_identifier(&text);
            address.with_context(|| format!("{source} is not an address"))?
        } else if let Some(text) = &self.phone_number {
            let (text, source) = given(text, "--phone-number")?;
            let number = hasher.phone_identifier(text.trim());
            number.with_context(|| format!("{source} is not a phone number in E.164 form"))?
        } else if let Some(text) = &self.external_id {
            let (text, source) = given(text, "--external-id")?;
            let value = text.trim().to_owned();
            if value.is_empty() {
                bail!("{source} is empty");
            }
            Identifier {
                kind: IdentifierKind::ExternalId,
                value,
            }
        } else {
            bail!("the person must be named, for example by `--email`");
        };
        Ok(UniversalId::from_identifier(&identifier))
    }
}

/// Returns the value of a flag, from standard input if it is `-`, and what to call it in an error.
fn given(value: &str, flag: &str) -> anyhow::Result<(String, String)> {
    if value != "-" {
        return Ok((value.to_owned(), format!("`{flag}`")));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_INPUT_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read `{flag}` from standard input"))?;
    Ok((text, format!("standard input, for `{flag}`,")))
}

/// A person about whom something is stored.
struct Subject {
    /// The id under which the person is addressed.
    universal_id: UniversalId,
    /// All ids, `universal_id` first.
    ids: Vec<UniversalId>,
    /// The identifiers in the identity graph, strongest first.
    identifiers: Vec<Identifier>,
    /// The entries in the identity graph's log, oldest first.
    identity_log: Vec<AuditEntry>,
    holdings: Holdings,
    /// Number of profiles in a store that processes share; `None` without one.
    profiles: Option<usize>,
}

/// The stores with data about people.
struct Stores {
    events: Arc<dyn Events>,
    identities: Arc<dyn Identities>,
    /// `None` if profiles are in the memory of other processes.
    profiles: Option<Arc<dyn Profiles>>,
}

/// Exports or erases.
///
/// # Errors
/// Fails if nothing is stored about the person, or a store fails.
pub(crate) async fn run(command: PersonCommand, config: RawConfig) -> anyhow::Result<ExitCode> {
    let (PersonCommand::Export { who } | PersonCommand::Erase { who, .. }) = &command;
    keys::check_pepper(&config)?;
    let id = who.name.id(&keys::hasher(&config.identity))?;
    let engines = Engines::existing(&config)?;
    let done = engines.closed_after(async |engines| export_or_erase(command, &id, &config, engines).await);
    done.await?;
    Ok(ExitCode::SUCCESS)
}

async fn export_or_erase(
    command: PersonCommand,
    id: &UniversalId,
    config: &RawConfig,
    engines: &Engines,
) -> anyhow::Result<()> {
    let (PersonCommand::Export { who } | PersonCommand::Erase { who, .. }) = &command;
    keys::check_pepper_of_server(config, engines).await?;
    // All stores are opened before anything is done.
    let (events, identities) = tokio::try_join!(engines.events(), engines.identities())?;
    let profiles = if engines.shares_profiles() {
        Some(engines.profiles().await?)
    } else {
        None
    };
    let stores = Stores {
        events,
        identities,
        profiles,
    };
    let subject = stores.find(id, who).await?;
    match command {
        PersonCommand::Export { .. } => export::write(&stores, &subject).await?,
        PersonCommand::Erase { dry_run, format, .. } => {
            let erased = if dry_run {
                subject.counts()
            } else {
                stores.erase(&subject).await?
            };
            let report = Report {
                universal_id: &subject.universal_id,
                aliases: subject.aliases(),
                dry_run,
                erased,
            };
            match format {
                Format::Json => output::line(&serde_json::to_string(&report)?),
                Format::Text => report.print(&subject, engines),
            }
        }
    }
    Ok(())
}

impl Stores {
    /// Finds the person that owns an id, and how much is stored.
    async fn find(&self, id: &UniversalId, who: &Who) -> anyhow::Result<Subject> {
        let people = self.identities.people(std::slice::from_ref(id)).await?;
        let person = people.first().context("the identity graph returned no person")?;
        let mut identity_log = self.identities.audit(id, usize::MAX).await?;
        let (mut ids, mut identifiers) = (person.ids.clone(), person.identifiers.clone());
        if who.alone {
            let is_theirs = |identifier: &Identifier| UniversalId::from_identifier(identifier) == *id;
            ids = vec![id.clone()];
            identifiers.retain(&is_theirs);
            identity_log.retain(|entry| {
                entry.universal_id == *id
                    || entry.other.as_ref() == Some(id)
                    || entry.identifier.as_ref().is_some_and(&is_theirs)
            });
        }
        let addresses = of_kind(&identifiers, IdentifierKind::EmailHash);
        if addresses > MOST_ADDRESSES && !who.merged {
            bail!(
                "the identity graph has {addresses} addresses for this person, as happens if many customers share one phone \
                 number: give `--alone` for only what is stored under this id, or `--merged` for all of it"
            );
        }
        let holdings = self.events.holdings(&ids).await?;
        let profiles = match &self.profiles {
            Some(profiles) => Some(profiles.get(&ids).await?.into_iter().flatten().count()),
            None => None,
        };
        let is_known = !identifiers.is_empty() || !identity_log.is_empty();
        if !is_known && holdings == Holdings::default() && profiles.unwrap_or(0) == 0 {
            bail!(
                "nothing is stored about this person (`{id}`); an address or phone number is only found with the hosts' \
                 `identity.pepper`"
            );
        }
        Ok(Subject {
            universal_id: ids.first().unwrap_or(id).clone(),
            ids,
            identifiers,
            identity_log,
            holdings,
            profiles,
        })
    }

    /// Erases the person's data, in the identity graph last, because the rest is found through it.
    async fn erase(&self, subject: &Subject) -> anyhow::Result<Counts> {
        const AGAIN: &str = "not everything has been erased; run the command again";
        let holdings = self.events.erase(&subject.ids).await.context(AGAIN)?;
        // After the events: a missing profile is rebuilt from them.
        let profiles = match &self.profiles {
            Some(profiles) => Some(profiles.erase(&subject.ids).await.context(AGAIN)?),
            None => None,
        };
        let identities = self.identities.erase(&subject.ids).await.context(AGAIN)?;
        Ok(Counts::new(holdings, profiles, identities))
    }
}

impl Subject {
    fn aliases(&self) -> &[UniversalId] {
        self.ids.get(1..).unwrap_or_default()
    }

    fn counts(&self) -> Counts {
        let identities = ErasedIdentities {
            identifiers: self.identifiers.len() as u64,
            entries: self.identity_log.len() as u64,
        };
        let profiles = self.profiles.map(|profiles| profiles as u64);
        Counts::new(self.holdings, profiles, identities)
    }
}

/// How much was erased, or would be.
#[derive(Debug, Serialize)]
struct Counts {
    events: u64,
    explanations: u64,
    /// `null` if profiles are in the memory of other processes.
    profiles: Option<u64>,
    identifiers: u64,
    identity_log: u64,
}

impl Counts {
    fn new(holdings: Holdings, profiles: Option<u64>, identities: ErasedIdentities) -> Self {
        Self {
            events: holdings.events,
            explanations: holdings.explanations,
            profiles,
            identifiers: identities.identifiers,
            identity_log: identities.entries,
        }
    }
}

/// The result of an erasure.
#[derive(Debug, Serialize)]
struct Report<'a> {
    universal_id: &'a UniversalId,
    aliases: &'a [UniversalId],
    dry_run: bool,
    erased: Counts,
}

impl Report<'_> {
    fn print(&self, subject: &Subject, engines: &Engines) {
        let Counts {
            events,
            explanations,
            profiles,
            identifiers,
            identity_log,
        } = &self.erased;
        let strong = [IdentifierKind::EmailHash, IdentifierKind::PhoneNumber];
        let [addresses, phones] = strong.map(|kind| of_kind(&subject.identifiers, kind));
        output::line(&format!(
            "{}: addresses {addresses}, phone numbers {phones}, other ids {}\n",
            self.universal_id,
            subject.identifiers.len() - addresses - phones
        ));
        let [_, of_events, of_identities, of_profiles] = engines.places();
        let mut rows = vec![
            row("events", &of_events, *events),
            row("explanations", &of_events, *explanations),
        ];
        if let Some(profiles) = profiles {
            rows.push(row("profiles", &of_profiles, *profiles));
        }
        rows.push(row("identifiers", &of_identities, *identifiers));
        rows.push(row("identity log", &of_identities, *identity_log));
        let header = if self.dry_run { "would be erased" } else { "erased" };
        output::line(&output::table(&["what", "where", header], &rows));
        output::line("\nOut of reach of this command:");
        for left in left(engines) {
            output::line(&format!("- {left}"));
        }
    }
}

fn row(what: &str, place: &Place, count: u64) -> Vec<String> {
    let at = format!("{} {}", place.engine, place.address);
    vec![what.to_owned(), at, count.to_string()]
}

/// Returns what is not erased, and how long it stays. `docs/deployment.md` says the same in more detail.
fn left(engines: &Engines) -> Vec<&'static str> {
    let mut left = vec![
        "events on the bus (7 days by default), dead letters (30 days by default), recorded deliveries",
        "backups, and what was exported",
        "events that arrive about the person from now on: suppress the address at the providers first",
    ];
    if !engines.shares_profiles() {
        left.push("the profile in the memory of a running `sendflowr up`, until it starts again");
    }
    if engines.masks_rows() {
        left.push(
            "ClickHouse's files, which keep the rows, invisible to queries, until their parts are merged or `ALTER TABLE … \
             APPLY DELETED MASK` is run",
        );
    }
    left
}

fn of_kind(identifiers: &[Identifier], kind: IdentifierKind) -> usize {
    identifiers
        .iter()
        .filter(|identifier| identifier.kind == kind)
        .count()
}
