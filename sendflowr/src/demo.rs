//! `sendflowr up --demo`: the whole path with a made-up person, from signed webhooks to an explained decision.

mod person;
mod picture;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use event::Timestamp;
use listener::RawTlsConfig;
use serde_json::{Value, json};
use synth::delivery::{Account, Action, Delivery, Kind, PROVIDERS};

use crate::{config::RawConfig, output};

/// Account that the demonstration's deliveries are for, so that real accounts stay untouched.
const ACCOUNT: &str = "demo";

/// Account with well-known credentials, for the README's example of a webhook sent by hand. Only on the machine of the
/// demonstration, like everything that `--demo` sets up.
const TRY_ACCOUNT: (&str, &str) = ("postmark", "try");
const TRY_CREDENTIALS: [(&str, &str); 2] = [("basic_auth_user", "demo"), ("basic_auth_password", "demo")];

/// How long events may take to become visible in a decision. Far longer than needed; only a broken installation waits so long.
const VISIBLE_WITHIN: Duration = Duration::from_secs(30);

/// An account at every provider, with keys generated for this run.
pub(crate) struct Demo {
    accounts: Vec<Account>,
}

/// The results of one provider's deliveries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    deliveries: u64,
    accepted: u64,
    skipped: u64,
    rejected: u64,
    refused: u64,
}

impl Demo {
    /// Generates the accounts and adds them to the configuration.
    ///
    /// # Errors
    /// Names a setting with which the demonstration cannot reach the roles.
    pub(crate) fn prepare(config: &mut RawConfig) -> anyhow::Result<Self> {
        refuse_closed(config)?;
        refuse_network(config)?;
        let mut accounts = Vec::with_capacity(PROVIDERS.len());
        for provider in PROVIDERS {
            let url = format!("https://demo.example.com/webhooks/{provider}/{ACCOUNT}");
            let account = Account::generate(provider, &url)
                .with_context(|| format!("no deliveries for `{provider}`"))?;
            for (name, value) in account.config() {
                config.accounts.set(provider, ACCOUNT, name, value);
            }
            accounts.push(account);
        }
        let (provider, account) = TRY_ACCOUNT;
        for (name, value) in TRY_CREDENTIALS {
            config.accounts.set(provider, account, name, value);
        }
        Ok(Self { accounts })
    }

    /// Sends the deliveries and shows the results.
    ///
    /// # Errors
    /// Fails if a service cannot be reached, or the stored events do not become visible in decisions.
    pub(crate) async fn run(self, host: SocketAddr, inference: SocketAddr) -> anyhow::Result<()> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(15))
            .build()?;
        let now = Timestamp::from(SystemTime::now());
        let served = served_providers(&http, host).await?;
        output::line("\nSending signed sample deliveries, as the providers would:\n");
        let mut tallies = BTreeMap::new();
        for account in self
            .accounts
            .iter()
            .filter(|account| served.iter().any(|slug| slug == account.provider()))
        {
            tallies.insert(account.provider(), deliver(&http, host, account, now).await?);
        }
        output::line(&table(&tallies));
        if let Some(missing) = PROVIDERS.iter().find(|provider| !tallies.contains_key(*provider)) {
            output::line(&format!(
                "\n(`{missing}` and possibly others have no plugin in the plugin folder)"
            ));
        }
        output::line(
            "\n\"refused\" counts deliveries sent without proof on purpose, \"skipped\" elements that are no use for timing.",
        );
        let decision = decide(&http, inference).await?;
        show_person(&http, inference, &decision).await?;
        output::line(&format!(
            "\nOpen next:\n  http://{inference}/docs          the timing API, to try in the browser\n  \
             http://{host}/plugins       the plugins: versions, states, times\n  \
             http://{host}/metrics       Prometheus metrics\n\nStop with Ctrl-C."
        ));
        Ok(())
    }
}

/// The demonstration has neither the tokens nor the root certificates of an installation: it is for trying the product out.
fn refuse_closed(config: &RawConfig) -> anyhow::Result<()> {
    let (host, inference) = (&config.host, &config.inference);
    let is_tls = |tls: &RawTlsConfig| tls.certificate.is_some() || tls.key.is_some();
    let closed = [
        ("host.admin_token", host.admin_token.is_some()),
        ("host.tls", is_tls(&host.tls)),
        ("inference.token", inference.token.is_some()),
        ("inference.tls", is_tls(&inference.tls)),
    ];
    match closed.iter().find(|(_, is_set)| *is_set) {
        Some((setting, _)) => bail!(
            "`--demo` sends its requests by HTTP and without a token, and `{setting}` is set: start without `--demo`, \
             or demonstrate with a configuration without `{setting}`"
        ),
        None => Ok(()),
    }
}

/// Everybody knows the credentials of [`TRY_ACCOUNT`], so nobody else may reach it.
fn refuse_network(config: &RawConfig) -> anyhow::Result<()> {
    match config.host.listen {
        Some(listen) if !listen.ip().is_loopback() => bail!(
            "`--demo` adds an account whose password everybody knows, and `host.listen` is `{listen}`, which others can reach: \
             listen on 127.0.0.1, or start without `--demo`"
        ),
        _ => Ok(()),
    }
}

async fn served_providers(http: &reqwest::Client, host: SocketAddr) -> anyhow::Result<Vec<String>> {
    let plugins: Value = http
        .get(format!("http://{host}/plugins"))
        .send()
        .await?
        .json()
        .await?;
    let list = plugins["plugins"]
        .as_array()
        .context("the host lists no plugins")?;
    Ok(list
        .iter()
        .filter_map(|plugin| plugin["slug"].as_str().map(str::to_owned))
        .collect())
}

/// Sends the part of the person's history that this provider reports, one event of an unknown type, and one delivery without
/// proof.
async fn deliver(
    http: &reqwest::Client,
    host: SocketAddr,
    account: &Account,
    now: Timestamp,
) -> anyhow::Result<Tally> {
    let mut actions = person::history(account.provider(), now);
    let sample = Action {
        kind: Kind::Unknown,
        at: now,
        email: person::EMAIL.to_owned(),
        message: format!("{}-unknown", account.provider()),
    };
    actions.push(sample);
    let mut tally = Tally::default();
    let mut last = None;
    for delivery in account.deliver(&actions, now) {
        let (status, answer) = send(http, host, account.provider(), &delivery).await?;
        tally.deliveries += 1;
        if status != 200 {
            bail!(
                "`{}` answered {status} to a genuine delivery: {}",
                account.provider(),
                answer["error"]["message"]
            );
        }
        tally.accepted += answer["accepted"].as_u64().unwrap_or_default();
        tally.skipped += answer["skipped"].as_u64().unwrap_or_default();
        tally.rejected += answer["rejected"].as_u64().unwrap_or_default();
        last = Some(delivery);
    }
    if let Some(mut unproven) = last {
        unproven.query.clear();
        unproven.headers.retain(|(name, _)| name == "content-type");
        // One provider puts the signature into the body.
        let text = String::from_utf8_lossy(&unproven.body).replace("\"signature\"", "\"unsigned\"");
        unproven.body = text.into_bytes();
        let (status, _) = send(http, host, account.provider(), &unproven).await?;
        tally.deliveries += 1;
        tally.refused += u64::from(status == 401);
    }
    Ok(tally)
}

async fn send(
    http: &reqwest::Client,
    host: SocketAddr,
    provider: &str,
    delivery: &Delivery,
) -> anyhow::Result<(u16, Value)> {
    let mut url = format!("http://{host}/webhooks/{provider}/{ACCOUNT}");
    if !delivery.query.is_empty() {
        url = format!("{url}?{}", delivery.query);
    }
    let mut request = http.post(url).body(delivery.body.clone());
    for (name, value) in &delivery.headers {
        request = request.header(name, value);
    }
    let response = request
        .send()
        .await
        .with_context(|| format!("cannot reach the host at {host}"))?;
    Ok((
        response.status().as_u16(),
        response.json().await.unwrap_or(Value::Null),
    ))
}

fn table(tallies: &BTreeMap<&str, Tally>) -> String {
    let row = |(provider, tally): (&&str, &Tally)| {
        let numbers = [
            tally.deliveries,
            tally.accepted,
            tally.skipped,
            tally.rejected,
            tally.refused,
        ];
        let mut row = vec![(*provider).to_owned()];
        row.extend(numbers.map(|number| number.to_string()));
        row
    };
    let rows: Vec<Vec<String>> = tallies.iter().map(row).collect();
    output::table(
        &[
            "provider",
            "deliveries",
            "accepted",
            "skipped",
            "rejected",
            "refused",
        ],
        &rows,
    )
}

/// Requests decisions until one is based on the person's own history.
async fn decide(http: &reqwest::Client, inference: SocketAddr) -> anyhow::Result<Value> {
    let start = Instant::now();
    loop {
        // Without the experiment, so that the decision shows what was learned and not, on some days, what an experiment drew.
        let question = json!({
            "email": person::EMAIL, "window_hours": 24, "esp": "sendgrid", "experiment": false,
        });
        let response = http
            .post(format!("http://{inference}/timing/decide"))
            .json(&question)
            .send()
            .await;
        let response =
            response.with_context(|| format!("cannot reach the inference service at {inference}"))?;
        let status = response.status();
        let decision: Value = response.json().await?;
        if !status.is_success() {
            bail!(
                "the decision failed with {status}: {}",
                decision["error"]["message"]
            );
        }
        if decision["evidence"]["n"].as_f64().unwrap_or_default() >= person::CLICKS as f64 {
            return Ok(decision);
        }
        if start.elapsed() > VISIBLE_WITHIN {
            bail!(
                "the events of the demonstration are not visible in decisions after {} s",
                VISIBLE_WITHIN.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn show_person(http: &reqwest::Client, inference: SocketAddr, decision: &Value) -> anyhow::Result<()> {
    let prediction: Value = http
        .post(format!("http://{inference}/predict"))
        .json(&json!({ "email": person::EMAIL }))
        .send()
        .await?
        .json()
        .await?;
    let shares: Vec<f64> = prediction["probabilities"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect();
    output::line(&format!(
        "\n{}'s week, as learned from these events (UTC):\n",
        person::NAME
    ));
    output::line(&picture::week(&shares));
    let text = |name: &str| decision[name].as_str().unwrap_or_default().to_owned();
    output::line(&format!(
        "\nThe best minute of the next 24 hours for a mail to {}:\n  arrive {}  trigger {}  confidence {:.2}",
        person::NAME,
        text("arrive_at"),
        text("trigger_at"),
        decision["confidence"].as_f64().unwrap_or_default(),
    ));
    for sentence in decision["why"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        output::line(&format!("  · {sentence}"));
    }
    output::line(&format!(
        "  explanation: http://{inference}/explanations/{}",
        text("explanation_ref")
    ));
    Ok(())
}
