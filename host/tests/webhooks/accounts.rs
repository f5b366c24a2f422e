//! Accounts that are added while the host runs, on the embedded store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sendflowr_host::{AccountValues, Sealer};
use serde_json::json;
use store::{
    StoreError,
    identity::{SqliteIdentities, StoredAccount, StoredAccounts},
    testing::eventually,
};
use tempfile::TempDir;

use crate::{Host, MALFORMED, Mood, guest::guest};

const SEAL_KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707";

fn unsigned(provider: &str, account: &str) -> StoredAccount {
    let sealer = Sealer::from_text(SEAL_KEY, "the key").unwrap();
    let mut values = AccountValues::default();
    values.set("allow_unsigned", vec!["true".to_owned()]);
    StoredAccount {
        provider: provider.to_owned(),
        account: account.to_owned(),
        sealed: values.seal(&sealer, provider, account),
        updated_at: "2026-01-10T12:00:00Z".parse().unwrap(),
    }
}

#[tokio::test]
async fn accounts_are_added_and_removed_without_a_restart() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(SqliteIdentities::open(folder.path()).await.unwrap());
    let config = format!("seal_key = '{SEAL_KEY}'");
    let host = Host::start_with(&[guest("acme")], &config, "", Some(store.clone())).await;
    assert_eq!(
        host.post("/webhooks/acme/eu", "x").await.code(),
        "unknown_account"
    );

    assert!(store.put_account(&unsigned("acme", "eu"), None).await.unwrap());
    // A readiness check reads the store, so that the test need not wait for the next periodic read.
    assert_eq!(
        host.get("/ready").await.json()["dependencies"]["accounts"]["status"],
        "ok"
    );
    assert_eq!(host.post("/webhooks/acme/eu", "x").await.status, 200);
    let plugins = host.get("/plugins").await.json();
    let shown = &plugins["plugins"][0]["accounts"][0];
    assert_eq!(
        (&shown["account"], &shown["stored"]),
        (&json!("eu"), &json!(true))
    );

    assert!(store.remove_account("acme", "eu").await.unwrap());
    let refused = async {
        while host.post("/webhooks/acme/eu", "x").await.status == 200 {
            host.get("/ready").await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), refused)
        .await
        .unwrap();
    assert_eq!(
        host.post("/webhooks/acme/eu", "x").await.code(),
        "unknown_account"
    );
}

#[tokio::test]
async fn a_quarantine_ends_with_its_account() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(SqliteIdentities::open(folder.path()).await.unwrap());
    assert!(store.put_account(&unsigned("acme", "eu"), None).await.unwrap());
    let config = format!("seal_key = '{SEAL_KEY}'\n[plugins.quarantine]\nfailures = 1");
    let failing = guest("acme").normalize("unreachable");
    let host = Host::start_with(&[failing], &config, "", Some(store.clone())).await;
    assert_eq!(host.post("/webhooks/acme/eu", "x").await.code(), "plugin_trapped");
    let state = async || host.get("/plugins").await.json()["plugins"][0]["state"].clone();
    assert_eq!(state().await, "quarantined");
    assert!(store.remove_account("acme", "eu").await.unwrap());
    eventually("its quarantine is forgotten", async || state().await == "serving").await;
}

#[tokio::test]
async fn what_an_account_has_spent_ends_with_it() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(SqliteIdentities::open(folder.path()).await.unwrap());
    let config = format!("seal_key = '{SEAL_KEY}'\n[plugins.quarantine]\nfailures = 1");
    let failing = guest("acme").normalize("unreachable");
    let plugins = [failing, guest("unread").authenticate(MALFORMED)];
    let account = unsigned("unread", "eu");
    for account in [&unsigned("acme", "eu"), &account] {
        assert!(store.put_account(account, None).await.unwrap());
    }
    let host = Host::start_with(&plugins, &config, "", Some(store.clone())).await;
    let code = async || host.post("/webhooks/unread/eu", "x").await.code();
    for _ in 0..10 {
        assert_eq!(code().await, "malformed");
    }
    assert_eq!(code().await, "malformed_not_kept");
    assert_eq!(host.post("/webhooks/acme/eu", "x").await.code(), "plugin_trapped");
    for provider in ["acme", "unread"] {
        assert!(store.remove_account(provider, "eu").await.unwrap());
    }
    eventually("removed accounts are forgotten", async || {
        host.get("/plugins").await.json()["plugins"][0]["state"] == "serving"
    })
    .await;
    assert_eq!(code().await, "unknown_account");
    assert!(store.put_account(&account, None).await.unwrap());
    eventually("it is found again", async || code().await != "unknown_account").await;
    assert_eq!(code().await, "malformed");
}

/// The periodic read finds it too.
#[tokio::test]
async fn a_running_host_finds_a_new_account_by_itself() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(SqliteIdentities::open(folder.path()).await.unwrap());
    let config = format!("seal_key = '{SEAL_KEY}'");
    let host = Host::start_with(&[guest("acme")], &config, "", Some(store.clone())).await;
    assert!(store.put_account(&unsigned("acme", "eu"), None).await.unwrap());
    eventually("it is found", async || {
        host.post("/webhooks/acme/eu", "x").await.status == 200
    })
    .await;
}

/// A store that is down.
struct Away {
    /// It does not respond at all, instead of reporting that it is down.
    is_silent: bool,
}

#[async_trait::async_trait]
impl StoredAccounts for Away {
    async fn accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        Err(StoreError::Unavailable {
            engine: "postgres",
            cause: "it is down".into(),
        })
    }

    async fn put_account(&self, _: &StoredAccount, _: Option<&[u8]>) -> Result<bool, StoreError> {
        unreachable!("hosts only read")
    }

    async fn remove_account(&self, _: &str, _: &str) -> Result<bool, StoreError> {
        unreachable!("hosts only read")
    }
}

#[tokio::test]
async fn while_the_store_is_away_configured_accounts_are_served_and_others_put_off() {
    let host = Host::start_with(
        &[guest("acme")],
        "",
        "[acme.us]\nallow_unsigned = true",
        Some(Arc::new(Away { is_silent: false })),
    )
    .await;
    assert_eq!(host.post("/webhooks/acme/us", "x").await.status, 200);
    let put_off = host.post("/webhooks/acme/eu", "x").await;
    assert_eq!(
        (put_off.status, put_off.code().as_str()),
        (503, "accounts_unavailable")
    );
    assert_eq!(put_off.headers["retry-after"], "10");
    let ready = host.get("/ready").await;
    assert_eq!(ready.status, 200, "deliveries are taken: {}", ready.text);
    assert_eq!(ready.json()["status"], "degraded");
}

/// As when an empty plugin folder is mounted: some providers take a 404 as final.
#[tokio::test]
async fn deliveries_to_an_account_whose_plugin_is_missing_are_put_off() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(SqliteIdentities::open(folder.path()).await.unwrap());
    let other_key = StoredAccount {
        provider: "beta".to_owned(),
        ..unsigned("acme", "asia")
    };
    for account in [unsigned("acme", "eu"), other_key] {
        assert!(store.put_account(&account, None).await.unwrap());
    }
    let config = format!("seal_key = '{SEAL_KEY}'");
    let host = Host::start_with(&[], &config, "[acme.us]\nallow_unsigned = true", Some(store)).await;
    for path in ["acme/us", "acme/eu", "beta/asia"] {
        let put_off = host.post(&format!("/webhooks/{path}"), "x").await;
        assert_eq!(
            (put_off.status, put_off.code().as_str()),
            (503, "no_plugin"),
            "{path}"
        );
        assert_eq!(put_off.headers["retry-after"], "10");
    }
    for path in ["acme/asia", "acme", "beta/eu", "gamma"] {
        let unknown = host.post(&format!("/webhooks/{path}"), "x").await;
        assert_eq!(
            (unknown.status, unknown.code().as_str()),
            (404, "unknown_provider"),
            "{path}"
        );
    }
    let metrics = host.get("/metrics").await.text;
    for line in [
        r#"sendflowr_host_deliveries_total{provider="acme",outcome="no_plugin"} 2"#,
        r#"sendflowr_host_deliveries_total{provider="none",outcome="unknown_provider"} 4"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }

    let unread = Host::start_with(&[], "", "", Some(Arc::new(Away { is_silent: false }))).await;
    let put_off = unread.post("/webhooks/acme/eu", "x").await;
    assert_eq!(
        (put_off.status, put_off.code().as_str()),
        (503, "accounts_unavailable")
    );
    let metrics = unread.get("/metrics").await.text;
    assert!(
        metrics.contains(r#"{provider="none",outcome="accounts_unavailable"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn readiness_waits_for_bus_and_accounts_side_by_side() {
    let host = Host::start_with(&[], "", "", Some(Arc::new(Away { is_silent: true }))).await;
    host.bus.set(Mood::Waits);
    let began = Instant::now();
    let ready = host.get("/ready").await;
    let took = began.elapsed();
    for name in ["bus", "accounts"] {
        assert_eq!(
            ready.json()["dependencies"][name]["status"],
            "timed_out",
            "{name}"
        );
    }
    // One after the other they would take 1.8 s.
    assert!(took < Duration::from_millis(1_700), "{took:?}");
}
