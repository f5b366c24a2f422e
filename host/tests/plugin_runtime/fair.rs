//! CPU time counts, not wall-clock time; and what a guest makes the host do is limited, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use sendflowr_host::{
    DEFAULT_ACCOUNT,
    plugin::{Fault, PluginState},
};
use tokio::runtime::Builder;

use super::{World, deliver, gallery::aliasing, guest::guest, hostile::memory_kb, request};

/// Counts down from the time of receipt.
const SPIN: &str = "(loop $again
    (local.set $received (i64.sub (local.get $received) (i64.const 1)))
    (br_if $again (i64.ne (local.get $received) (i64.const 0))))
    i32.const 768";

/// Stops the rivals when it is dropped, even by a failing test: they would take the processors from all tests after it.
#[derive(Default)]
struct Rest(Arc<AtomicBool>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_busy_machine_does_not_make_healthy_plugins_fail() {
    let world = World::alone(&[("spinner.wasm", guest("spinner").normalize(SPIN).build())]).await;
    let plugin = world.plugin("spinner");
    let mut request = request(b"");
    Arc::make_mut(&mut request).received_at_ms = 10_000_000;
    let spin = async || {
        let began = Instant::now();
        let result = plugin
            .instantiate(DEFAULT_ACCOUNT)
            .await
            .unwrap()
            .normalize(Arc::clone(&request))
            .await;
        result.unwrap().unwrap();
        began.elapsed()
    };
    let idle = spin().await;
    let rest = Rest::default();
    let cores = thread::available_parallelism().unwrap().get();
    // So many that one round of the scheduler takes longer than the CPU time that the guest may use.
    let rivals = cores * 2 * (100 / idle.as_millis().clamp(1, 100) as usize + 1);
    let rivals: Vec<_> = (0..rivals)
        .map(|_| {
            let at_rest = Arc::clone(&rest.0);
            thread::spawn(move || {
                while !at_rest.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    // Schedulers favour threads that have slept: continue until a delivery did have to wait.
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while longest < Duration::from_millis(100) && began.elapsed() < Duration::from_secs(30) {
        longest = longest.max(spin().await);
    }
    drop(rest);
    for rival in rivals {
        rival.join().unwrap();
    }
    assert!(
        longest >= Duration::from_millis(100),
        "no delivery had to wait; the longest took {longest:?}"
    );
}

#[test]
fn time_in_the_hosts_queues_is_limited_and_the_hosts_fault() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::configured(&[("acme.wasm", guest("acme").build())], |config| {
            config.limits.wall_clock = Duration::from_millis(50);
            config.limits.concurrency = 1;
        })
        .await;
        let plugin = world.plugin("acme");
        // The only thread on which guests could run is busy for longer than a call may take.
        let (release, released) = mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || released.recv());
        let error = deliver(&plugin, b"").await.unwrap_err();
        assert_eq!((error.limit(), error.fault()), (Some("wall_clock"), Fault::Host));
        // The slot stays occupied until the thread has dropped the delivery.
        assert_eq!(
            plugin.instantiate(DEFAULT_ACCOUNT).await.unwrap_err().limit(),
            Some("concurrency")
        );
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        assert_eq!(deliver(&plugin, b"").await.unwrap(), 1);
        assert_eq!(world.status("acme.wasm").state, PluginState::Serving);
        assert_eq!(
            world.metric("sendflowr_plugin_traps_total{plugin=\"acme\",limit=\"cpu_time\"}"),
            0
        );
    });
}

#[tokio::test]
async fn all_plugins_together_are_limited() {
    let files = [
        ("acme.wasm", guest("acme").build()),
        ("other.wasm", guest("other").build()),
    ];
    let world = World::configured(&files, |config| {
        config.limits.total_concurrency = 1;
        config.limits.queue_wait = Duration::from_millis(50);
    })
    .await;
    let held = world.plugin("acme").instantiate(DEFAULT_ACCOUNT).await.unwrap();
    let error = world.deliver("other").await.unwrap_err();
    assert_eq!((error.limit(), error.fault()), (Some("concurrency"), Fault::Host));
    drop(held);
    assert_eq!(world.deliver("other").await.unwrap(), 1);
}

#[tokio::test]
async fn an_attack_on_the_hosts_memory_takes_none() {
    let world = World::alone(&[("hostile.wasm", aliasing().build())]).await;
    // Resets the peak of what ran before.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_kb("VmHWM:");
    // One delivery: each of several would leave what it has freed in the allocator of its own thread.
    let error = deliver(&world.plugin("hostile"), b"").await.unwrap_err();
    assert_eq!(error.limit(), Some("output_bytes"));
    let grown = memory_kb("VmHWM:").saturating_sub(before);
    // The output would be a gigabyte, and wasmtime's own limit is 128 MiB. The host's limit is 32 MiB, and the guest
    // has 3 MiB of its own; the rest is for what other tests prepare while they wait.
    assert!(grown < 80_000, "{grown} kB");
}
