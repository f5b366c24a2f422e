//! Deliveries that compute for long are run a few at a time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sendflowr_host::plugin::PluginsConfig;
use tokio::task::JoinSet;

use super::{MACHINE, Turn, World, deliver, guest::guest};

#[tokio::test]
async fn runaways_take_turns_so_that_cores_are_left_for_others() {
    let spin = guest("spin").normalize("(loop $again (br $again)) unreachable");
    let turn = Turn::Alone(MACHINE.write().await);
    // The wall-clock limit is long enough for a machine that is busy with something else.
    let patient = |config: &mut PluginsConfig| config.limits.wall_clock = Duration::from_secs(60);
    let world = World::filled(&[("spin.wasm", spin.build())], patient, turn).await;
    let cores = thread::available_parallelism().unwrap().get();
    let (runaways, places) = (world.config.limits.concurrency, (cores / 2).max(1));
    let began = Instant::now();
    let mut deliveries = JoinSet::new();
    for _ in 0..runaways {
        let plugin = Arc::clone(&world.plugin("spin"));
        deliveries.spawn(async move { deliver(&plugin, b"").await.unwrap_err() });
    }
    for error in deliveries.join_all().await {
        assert_eq!(error.limit(), Some("cpu_time"));
    }
    let took = began.elapsed();
    // Each may use 100 ms, and needs no place for the first of them. On all cores they would be through in half of this time.
    let at_least = Duration::from_millis(90) * u32::try_from(runaways / places).unwrap();
    assert!(took >= at_least, "{runaways} runaways in {took:?}");
}
