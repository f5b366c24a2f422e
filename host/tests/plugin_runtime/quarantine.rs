//! A plugin that keeps failing is quarantined without affecting others, and is served again automatically.

use std::{fs, time::Duration};

use futures::FutureExt;
use sendflowr_host::{
    DEFAULT_ACCOUNT,
    plugin::{Fault, Limits, PluginError, PluginState, Plugins},
};

use super::{World, deliver, eventually, guest::guest, request};

/// Traps when the delivery has a body.
fn moody() -> Vec<u8> {
    guest("moody")
        .normalize("(if (local.get $body_length) (then unreachable)) i32.const 768")
        .build()
}

async fn world(first: Duration) -> World {
    World::configured(
        &[
            ("moody.wasm", moody()),
            ("healthy.wasm", guest("healthy").build()),
        ],
        |config| {
            config.quarantine.first = first;
        },
    )
    .await
}

async fn fail(world: &World, times: usize) {
    for _ in 0..times {
        let error = deliver(&world.plugin("moody"), b"x").await.unwrap_err();
        assert_eq!(error.limit(), Some("trap"));
    }
}

const QUARANTINED: &str = "sendflowr_plugin_quarantined{plugin=\"moody\"}";

#[tokio::test]
async fn five_failures_start_a_quarantine_that_costs_only_itself() {
    let world = world(Duration::from_secs(60)).await;
    fail(&world, 5).await;
    let error = deliver(&world.plugin("moody"), b"").await.unwrap_err();
    assert_eq!(error.limit(), Some("quarantined"));
    assert_eq!(error.fault(), Fault::Host);
    assert!(error.retry_after().unwrap() > Duration::from_secs(50));
    assert!(matches!(
        world.status("moody.wasm").state,
        PluginState::Quarantined {
            retry_after_seconds: 50..=60,
            ..
        }
    ));
    assert_eq!(world.metric(QUARANTINED), 1);
    assert_eq!(world.deliver("healthy").await.unwrap(), 1);
    assert_eq!(world.status("healthy.wasm").state, PluginState::Serving);
}

#[tokio::test]
async fn a_tool_is_told_of_each_delivery_by_itself() {
    let data = tempfile::TempDir::new().unwrap();
    let path = data.path().join("moody.wasm");
    fs::write(&path, moody()).unwrap();
    let plugin = Plugins::load_file(&path, &Limits::default()).unwrap();
    for _ in 0..10 {
        assert_eq!(deliver(&plugin, b"x").await.unwrap_err().limit(), Some("trap"));
    }
    assert_eq!(deliver(&plugin, b"").await.unwrap(), 1);
}

#[tokio::test]
async fn comes_back_when_a_delivery_succeeds() {
    let world = world(Duration::from_millis(300)).await;
    fail(&world, 5).await;
    eventually("the time of the quarantine is over", async || {
        matches!(
            world.status("moody.wasm").state,
            PluginState::Quarantined {
                retry_after_seconds: 0,
                ..
            }
        )
    })
    .await;
    // The first probe fails: the next quarantine is twice as long.
    fail(&world, 1).await;
    let error = deliver(&world.plugin("moody"), b"").await.unwrap_err();
    let retry_after = error.retry_after().unwrap();
    assert!(
        retry_after > Duration::from_millis(300) && retry_after <= Duration::from_millis(600),
        "{retry_after:?}"
    );
    tokio::time::sleep(retry_after).await;
    // A delivery whose proof does not hold proves nothing about the plugin; the next one does.
    let unproven = world
        .plugin("moody")
        .instantiate(DEFAULT_ACCOUNT)
        .await
        .unwrap()
        .authenticate(request(b""))
        .await
        .unwrap();
    drop(unproven);
    assert_ne!(world.status("moody.wasm").state, PluginState::Serving);
    assert_eq!(world.deliver("moody").await.unwrap(), 1);
    assert_eq!(world.status("moody.wasm").state, PluginState::Serving);
    assert_eq!(world.metric(QUARANTINED), 0);
}

#[tokio::test]
async fn deliveries_of_an_account_in_quarantine_are_let_through_one_at_a_time() {
    let world = world(Duration::from_millis(100)).await;
    fail(&world, 5).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let plugin = world.plugin("moody");
    let first = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    assert_eq!(
        plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap_err().limit(),
        Some("concurrency")
    );
    // The waiting delivery gets in when the first is over, and is turned away when that one has started another quarantine.
    let (waiting, error) = tokio::join!(deliver(&plugin, b""), first.normalize(request(b"x")));
    assert_eq!(error.unwrap_err().limit(), Some("trap"));
    let error = waiting.unwrap_err();
    assert_eq!(error.limit(), Some("quarantined"));
    tokio::time::sleep(error.retry_after().unwrap()).await;
    assert_eq!(world.deliver("moody").await.unwrap(), 1);
    let _beside = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
}

#[tokio::test]
async fn a_quarantine_does_not_grow_beyond_the_longest() {
    let longest = Duration::from_millis(700);
    let world = World::configured(&[("moody.wasm", moody())], |config| {
        config.quarantine.first = Duration::from_millis(300);
        config.quarantine.longest = longest;
    })
    .await;
    fail(&world, 5).await;
    for _ in 0..4 {
        let error = deliver(&world.plugin("moody"), b"").await.unwrap_err();
        let wait = error.retry_after().unwrap();
        assert!(wait <= longest, "{wait:?}");
        tokio::time::sleep(wait).await;
        fail(&world, 1).await;
    }
}

#[tokio::test]
async fn failures_of_a_window_that_is_over_do_not_count() {
    let window = Duration::from_millis(500);
    let world = World::configured(&[("moody.wasm", moody())], |config| {
        config.quarantine.window = window
    })
    .await;
    fail(&world, 4).await;
    tokio::time::sleep(window).await;
    fail(&world, 4).await;
    assert_eq!(world.status("moody.wasm").state, PluginState::Serving);
}

/// Traps before any proof when the delivery has a body.
fn touchy() -> Vec<u8> {
    guest("touchy")
        .authenticate("(if (local.get $body_length) (then unreachable)) i32.const 512")
        .build()
}

#[tokio::test]
async fn a_plugin_that_fails_at_whatever_nothing_proves_is_asked_one_delivery_at_a_time() {
    let world = World::with(&[("touchy.wasm", touchy())]).await;
    let plugin = world.plugin("touchy");
    for _ in 0..5 {
        assert_eq!(deliver(&plugin, b"x").await.unwrap_err().limit(), Some("trap"));
    }
    let PluginState::InDoubt { reason } = world.status("touchy.wasm").state else {
        panic!("{:?}", world.status("touchy.wasm"));
    };
    assert!(
        reason.ends_with("its limit `trap`: its deliveries go through one at a time"),
        "{reason}"
    );
    let quarantined = "sendflowr_plugin_quarantined{plugin=\"touchy\"}";
    assert_eq!(world.metric(quarantined), 1);
    let alone = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    assert_eq!(
        plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap_err().limit(),
        Some("concurrency")
    );
    drop(alone);
    // No delivery is turned away however often the plugin fails, and a proven one that is normalized ends the doubt.
    for _ in 0..20 {
        assert_eq!(deliver(&plugin, b"x").await.unwrap_err().limit(), Some("trap"));
    }
    assert_eq!(world.deliver("touchy").await.unwrap(), 1);
    assert_eq!(world.status("touchy.wasm").state, PluginState::Serving);
    assert_eq!(world.metric(quarantined), 0);
    let _beside = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
}

#[tokio::test]
async fn a_new_file_serves_at_once() {
    let world = world(Duration::from_secs(60)).await;
    fail(&world, 5).await;
    fs::write(world.path("moody.wasm"), guest("moody").version("1.0.1").build()).unwrap();
    eventually("the fixed one serves", async || {
        world.plugin("moody").tag() == "moody@1.0.1"
    })
    .await;
    assert_eq!(deliver(&world.plugin("moody"), b"x").await.unwrap(), 1);
    assert_eq!(world.metric(QUARANTINED), 0);
}

#[tokio::test]
async fn what_still_ends_on_an_old_version_says_nothing_of_the_new_one() {
    let world = World::configured(&[("moody.wasm", moody())], |config| config.limits.concurrency = 5).await;
    let old = world.plugin("moody");
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(old.instantiate(DEFAULT_ACCOUNT).await.unwrap());
    }
    fs::write(world.path("moody.wasm"), guest("moody").version("1.0.1").build()).unwrap();
    eventually("the fixed one serves", async || {
        world.plugin("moody").tag() == "moody@1.0.1"
    })
    .await;
    for late in open {
        late.normalize(request(b"x")).await.unwrap_err();
    }
    assert!(
        old.instantiate(DEFAULT_ACCOUNT).await.is_err(),
        "the account is in quarantine for the old one"
    );
    assert_eq!(world.status("moody.wasm").state, PluginState::Serving);
    assert_eq!(world.metric(QUARANTINED), 0);
}

#[tokio::test]
async fn turns_are_limited_and_the_wait_is_bounded() {
    let world = World::configured(&[("acme.wasm", guest("acme").build())], |config| {
        config.limits.concurrency = 2;
        config.limits.queue_wait = Duration::from_millis(100);
    })
    .await;
    let plugin = world.plugin("acme");
    let first = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    let second = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    let error = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap_err();
    assert!(matches!(error, PluginError::Busy { .. }), "{error}");
    assert_eq!((error.limit(), error.fault()), (Some("concurrency"), Fault::Host));
    assert_eq!(world.metric("sendflowr_plugin_busy_total{plugin=\"acme\"}"), 1);
    drop(first);
    let third = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    // A slot that becomes free goes to the delivery that waits.
    let (waiting, ()) = tokio::join!(deliver(&plugin, b""), async { drop((second, third)) });
    assert_eq!(waiting.unwrap(), 1);
}

#[tokio::test]
async fn no_more_deliveries_wait_for_a_plugin_than_its_share_of_the_host() {
    let world = World::configured(&[("acme.wasm", guest("acme").build())], |config| {
        config.limits.concurrency = 1;
        config.limits.waiting = 2;
        config.limits.queue_wait = Duration::from_secs(60);
    })
    .await;
    let plugin = world.plugin("acme");
    let held = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    let mut first = std::pin::pin!(plugin.instantiate(DEFAULT_ACCOUNT));
    let mut second = std::pin::pin!(plugin.instantiate(DEFAULT_ACCOUNT));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    let third = plugin.instantiate(DEFAULT_ACCOUNT).now_or_never();
    let error = third.expect("it does not wait").unwrap_err();
    assert_eq!(error.limit(), Some("concurrency"));
    drop(held);
    drop(first.await.unwrap());
    second.await.unwrap();
}

#[tokio::test]
async fn one_plugin_does_not_take_the_turns_of_another() {
    let files = [
        ("acme.wasm", guest("acme").build()),
        ("other.wasm", guest("other").build()),
    ];
    let world = World::configured(&files, |config| {
        config.limits.concurrency = 1;
        config.limits.queue_wait = Duration::from_millis(50);
    })
    .await;
    let _held = world.plugin("acme").instantiate(DEFAULT_ACCOUNT).await.unwrap();
    assert_eq!(
        world.deliver("acme").await.unwrap_err().limit(),
        Some("concurrency")
    );
    assert_eq!(world.deliver("other").await.unwrap(), 1);
}

#[tokio::test]
async fn what_waited_beside_others_is_alone_once_the_plugin_is_in_doubt() {
    // Fails before anything is proven.
    let strange =
        guest("strange").authenticate("(if (local.get $body_length) (then unreachable)) i32.const 512");
    let world = World::configured(&[("strange.wasm", strange.build())], |config| {
        config.limits.concurrency = 2;
        config.limits.queue_wait = Duration::from_secs(60);
        config.quarantine.failures = 1;
    })
    .await;
    let plugin = world.plugin("strange");
    let failing = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    let beside = plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap();
    let mut waiting = std::pin::pin!(plugin.instantiate(DEFAULT_ACCOUNT));
    assert!(waiting.as_mut().now_or_never().is_none());
    let error = failing.authenticate(request(b"x")).await.unwrap_err();
    assert_eq!(error.limit(), Some("trap"));
    assert!(
        waiting.as_mut().now_or_never().is_none(),
        "another is still in flight"
    );
    drop(beside);
    waiting.await.unwrap();
}
