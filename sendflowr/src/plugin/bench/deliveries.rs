//! The deliveries that plugins are measured with: one of one event and, if there is one, one of many events.
//!
//! Each is run once first, proofs included, so that nothing is measured that the host would refuse.

use std::sync::Arc;

use anyhow::{Context, bail};
use event::Timestamp;
use host::{
    cases::{self, Case, CaseRequest, Expected, Reading},
    plugin::Plugin,
};
use synth::delivery::{Account, Action, Delivery, Kind};

/// Events in a made-up batch.
const BATCH: usize = 100;

/// The deliveries that a plugin is measured with.
pub(super) struct Deliveries {
    pub(super) one: Sample,
    pub(super) batch: Option<Sample>,
}

/// A delivery, and the number of events that it gives.
pub(super) struct Sample {
    pub(super) case: Case,
    pub(super) events: usize,
}

/// Returns two of the plugin's own cases: the first that gives one event, and the one that gives the most.
pub(super) async fn of_cases(
    plugin: &Arc<Plugin>,
    cases: &[Case],
    now: Timestamp,
) -> anyhow::Result<Deliveries> {
    let slug = &plugin.descriptor().slug;
    let mut one = None;
    let mut batch: Option<Sample> = None;
    for case in cases.iter().filter(|case| case.provider == *slug) {
        let events = events(plugin, case, now)
            .await
            .with_context(|| format!("case `{}`", case.name))?;
        let sample = Sample {
            case: case.clone(),
            events,
        };
        match events {
            0 => {}
            1 => {
                one.get_or_insert(sample);
            }
            _ if batch.as_ref().is_none_or(|largest| largest.events < events) => batch = Some(sample),
            _ => {}
        }
    }
    let one = one.with_context(|| format!("no case of `{slug}` is accepted and gives exactly one event"))?;
    Ok(Deliveries { one, batch })
}

/// Makes up deliveries, signed as the provider would sign them.
pub(super) async fn made_up(plugin: &Arc<Plugin>, now: Timestamp) -> anyhow::Result<Deliveries> {
    let slug = &plugin.descriptor().slug;
    let url = format!("https://bench.example.com/webhooks/{slug}");
    let account = Account::generate(slug, &url).with_context(|| {
        format!("cannot make up deliveries for `{slug}`: give its case files with `--cases`")
    })?;
    // The most common event that says something about a person; not every provider reports every kind.
    for kind in [Kind::Clicked, Kind::Opened, Kind::Unsubscribed] {
        let actions: Vec<Action> = (0..BATCH).map(|number| action(kind, number, now)).collect();
        let [single] = &account.deliver(&actions[..1], now)[..] else {
            continue;
        };
        let one = sample(plugin, case(&account, single, "one event"), 1, now).await?;
        let batch = match &account.deliver(&actions, now)[..] {
            [all] => Some(sample(plugin, case(&account, all, "batch"), BATCH, now).await?),
            _ => None,
        };
        return Ok(Deliveries { one, batch });
    }
    bail!("cannot make up a delivery about a person for `{slug}`: give its case files with `--cases`")
}

fn action(kind: Kind, number: usize, now: Timestamp) -> Action {
    Action {
        kind,
        // A second apart, so that no two are the same event.
        at: now.plus_millis(-1_000 * i64::try_from(number).unwrap_or(0)),
        email: format!("person-{number}@example.com"),
        message: format!("message-{number}"),
    }
}

/// Converts a delivery into a case.
fn case(account: &Account, delivery: &Delivery, name: &str) -> Case {
    let config = account.config().iter();
    let headers = delivery.headers.iter();
    Case {
        provider: account.provider().to_owned(),
        name: name.to_owned(),
        config: Some(
            config
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
        ),
        now: None,
        request: CaseRequest {
            query: delivery.query.clone(),
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
            // Every provider that deliveries are made for sends text.
            body: String::from_utf8_lossy(&delivery.body).into_owned(),
            ..CaseRequest::default()
        },
        expect: Expected::default(),
    }
}

async fn sample(plugin: &Arc<Plugin>, case: Case, expected: usize, now: Timestamp) -> anyhow::Result<Sample> {
    let events = events(plugin, &case, now).await?;
    if events != expected {
        bail!(
            "`{}` makes {events} events of a made-up delivery of {expected} events",
            plugin.tag()
        );
    }
    Ok(Sample { case, events })
}

/// Returns how many events the delivery gives; 0 if it is refused.
async fn events(plugin: &Arc<Plugin>, case: &Case, now: Timestamp) -> anyhow::Result<usize> {
    Ok(match cases::normalize_one(plugin, case, now).await? {
        Reading::Accepted { events, .. } => events.len(),
        Reading::Unauthorized { .. } | Reading::BadRequest { .. } => 0,
    })
}
