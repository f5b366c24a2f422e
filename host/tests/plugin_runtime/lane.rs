//! Deliveries that compute for long are run a few at a time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sendflowr_host::{
    Account, DEFAULT_ACCOUNT, Delivery, DeliveryError,
    plugin::PluginsConfig,
    proof::{CertificateSource, GivenCertificates},
};
use tokio::task::JoinSet;

use super::{
    MACHINE, Turn, World,
    guest::{Guest, guest},
    request,
};

const SPIN: &str = "(loop $again (br $again)) unreachable";

/// Computes for some milliseconds, so that the call leaves the ordinary threads.
const COMPUTE: &str = "(loop $again
    (i32.store (i32.const 4000) (i32.add (i32.load (i32.const 4000)) (i32.const 1)))
    (br_if $again (i32.lt_u (i32.load (i32.const 4000)) (i32.const 15000000))))
    i32.const 512";

#[tokio::test]
async fn runaways_take_turns_so_that_cores_are_left_for_others() {
    take_turns(guest("spin").normalize(SPIN)).await;
}

#[tokio::test]
async fn runaways_that_have_computed_before_take_turns_too() {
    take_turns(guest("spin").authenticate(COMPUTE).normalize(SPIN)).await;
}

/// Asserts that deliveries which end by running out of CPU time are not run on all cores.
async fn take_turns(spin: Guest) {
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
        // All calls on one visit, as in a host that takes a delivery.
        deliveries.spawn(async move {
            let account = Arc::new(Account::new("spin", DEFAULT_ACCOUNT, [], true));
            let certificates: Arc<dyn CertificateSource> = Arc::new(GivenCertificates::default());
            let delivery = Delivery::new(&plugin, &account, request(b"")).await.unwrap();
            delivery.read(&plugin, &certificates).await.unwrap_err()
        });
    }
    for error in deliveries.join_all().await {
        let DeliveryError::Plugin(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.limit(), Some("cpu_time"));
    }
    let took = began.elapsed();
    // Each may use 100 ms, and needs no place for the first of them. On all cores they would be through in half of this time.
    let at_least = Duration::from_millis(90) * u32::try_from(runaways / places).unwrap();
    assert!(took >= at_least, "{runaways} runaways in {took:?}");
}
