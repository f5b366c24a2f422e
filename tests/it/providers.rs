//! Sends a signed delivery of each provider over HTTP into the event store.

use std::{collections::BTreeMap, fs};

use integration_tests::{System, eventually, flow::Flow, plugins, repository};
use serde_json::Value;
use synth::delivery::{Account, PROVIDERS};

fn configuration(accounts: &[Account]) -> String {
    let mut configuration = String::new();
    for account in accounts {
        configuration.push_str(&format!("[accounts.{}.default]\n", account.provider()));
        for (name, value) in account.config() {
            configuration.push_str(&format!("{name} = {}\n", Value::from(value.clone())));
        }
    }
    configuration
}

#[tokio::test]
async fn signed_deliveries_of_every_provider_become_rows() {
    let mut flow = Flow::new("m");
    let system = System::start(&configuration(&flow.accounts), &[]).await;
    let total = flow
        .deliver(async |provider, delivery| {
            let path = match delivery.query.is_empty() {
                true => provider.to_owned(),
                false => format!("{provider}?{}", delivery.query),
            };
            system
                .webhook(&path, &delivery.headers, delivery.body.clone())
                .await
        })
        .await;
    let stores = system.stores().await;
    flow.compare(&*stores.events).await;
    stores.close().await;
    eventually("every event is stored, and once", || async {
        system.stored_events().await == total
    })
    .await;
}

/// The sizes in the overview's table are measured by hand. Instructions and times go with them.
#[test]
fn the_overview_tells_the_size_of_every_plugin() {
    let page = fs::read_to_string(repository().join("docs/providers.md")).expect("it is there");
    let rows: Vec<(&str, u64)> = page
        .lines()
        .filter_map(|line| {
            let (slug, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((slug, rest.split(" | ").next()?.parse().ok()?))
        })
        .collect();
    assert_eq!(rows.len(), PROVIDERS.len());
    for (slug, documented) in rows {
        let file = plugins().join(format!("{slug}.wasm"));
        let kilobytes = fs::metadata(&file).expect("it is built").len() / 1_000;
        assert!(
            kilobytes.abs_diff(documented) * 10 <= documented,
            "docs/providers.md says that `{slug}` has {documented} kB, it has {kilobytes}: run `sendflowr plugin bench` and copy its table"
        );
    }
}

/// What callers give as `campaign_id` must be what the plugins read.
#[test]
fn the_overview_names_the_campaign_id_of_every_plugin() {
    let page = fs::read_to_string(repository().join("docs/providers.md")).expect("it is there");
    let rows = |heading: &str| {
        let (_, rest) = page.split_once(heading).expect("it has this part");
        let part = rest.split("\n## ").next().unwrap_or(rest).to_owned();
        let cells = |line: &str| {
            let (name, cell) = line.strip_prefix("| ")?.split_once(" | ")?;
            Some((name.to_owned(), cell.split(" |").next()?.to_owned()))
        };
        // Without the header.
        part.lines().filter_map(cells).skip(1).collect::<Vec<_>>()
    };
    let slugs: BTreeMap<String, String> = rows("# Providers").into_iter().collect();
    let campaign_ids = rows("## Campaign ids");
    assert_eq!(campaign_ids.len(), PROVIDERS.len());
    for (provider, told) in campaign_ids {
        let slug = slugs[&provider].trim_matches('`');
        let folder = repository().join("plugins").join(slug);
        let mut read = String::new();
        for part in ["src", "cases"] {
            for file in fs::read_dir(folder.join(part)).expect("it is there") {
                read += &fs::read_to_string(file.expect("it is listed").path()).expect("it is text");
            }
        }
        assert_eq!(told == "none", !read.contains("campaign_id:"), "{slug}: {told}");
        for field in told.split('`').skip(1).step_by(2) {
            assert!(read.contains(field), "{slug} reads no `{field}`");
        }
    }
}
