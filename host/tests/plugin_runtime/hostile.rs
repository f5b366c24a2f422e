//! Guests that break one limit each. The error names the limit, and another provider's plugin keeps working.

use std::process::Command;

use sendflowr_host::plugin::{Fault, Limits, PluginError};

use super::{
    World, deliver, gallery,
    gallery::{Attack, attack},
    guest::guest,
    lines,
};

/// Factor of the default CPU time for guests that are meant to break another limit: if the system has no pages at hand,
/// touching all the memory takes most of the default.
const PATIENCE: u32 = 3;

/// Delivers to the hostile guest, then to a healthy one beside it. Returns the details.
async fn details(name: &str) -> String {
    let Attack {
        guest: hostile,
        limit,
        call: expected,
        ..
    } = attack(name);
    let slug = hostile.slug.clone();
    let files = [
        ("healthy.wasm", guest("healthy").build()),
        ("hostile.wasm", hostile.build()),
    ];
    let world = World::configured(&files, |config| config.limits.cpu_time *= PATIENCE).await;
    let error = deliver(&world.plugin(&slug), b"body").await.unwrap_err();
    assert_eq!(world.deliver("healthy").await.unwrap(), 1);
    assert_eq!(error.fault(), Fault::Guest, "{error}");
    assert_eq!(error.limit(), Some(limit), "{error}");
    let PluginError::Guest {
        plugin, call, detail, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((plugin, call), (format!("{slug}@1.0.0"), expected));
    let traps = |plugin: &str| {
        world.metric(&format!(
            "sendflowr_plugin_traps_total{{plugin=\"{plugin}\",limit=\"{limit}\"}}"
        ))
    };
    assert_eq!((traps(&slug), traps("healthy")), (1, 0));
    let traps = world.status("hostile.wasm").plugin.unwrap().traps;
    assert_eq!(traps.into_iter().collect::<Vec<_>>(), [(limit, 1)]);
    detail
}

async fn breaks(names: &[&str]) {
    for name in names {
        details(name).await;
    }
}

#[tokio::test]
async fn an_endless_loop_runs_out_of_cpu_time() {
    breaks(&["loop in authenticate", "loop in normalize"]).await;
}

#[tokio::test]
async fn an_endless_loop_while_the_request_is_passed_in_runs_out_of_cpu_time() {
    breaks(&["loop in realloc", "loop in realloc of normalize"]).await;
}

#[tokio::test]
async fn an_endless_loop_after_the_answer_runs_out_of_cpu_time() {
    breaks(&["loop after authenticate", "loop after normalize"]).await;
}

#[tokio::test]
async fn memory_is_limited_in_one_go_and_in_steps() {
    breaks(&[
        "memory in one go",
        "memory in steps",
        "memory in steps, all of it used",
        "memory in realloc",
    ])
    .await;
}

#[tokio::test]
async fn memory_is_limited_over_all_memories() {
    breaks(&["memory over several memories"]).await;
}

#[tokio::test]
async fn a_limit_that_a_memory_sets_itself_is_no_trap() {
    let modest = guest("modest")
        .normalize(
            "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) i32.const 768",
        )
        .memory("2 2");
    let world = World::with(&[("modest.wasm", modest.build())]).await;
    assert_eq!(world.deliver("modest").await.unwrap(), 1);
}

#[tokio::test]
async fn tables_are_limited_together() {
    breaks(&["one table in one go", "one table in steps", "several tables"]).await;
}

#[tokio::test]
async fn recursion_runs_out_of_stack() {
    breaks(&["recursion", "recursion through a table, in large frames"]).await;
}

#[tokio::test]
async fn a_panic_is_a_trap() {
    assert_eq!(
        details("panic").await,
        "wasm trap: wasm `unreachable` instruction executed"
    );
    assert_eq!(details("abort").await, "it called `exit`");
    breaks(&["division by zero"]).await;
}

#[tokio::test]
async fn ten_million_events_are_too_many_bytes() {
    breaks(&["as many events as fit", "ten million events"]).await;
}

#[tokio::test]
async fn a_batch_is_limited_in_elements() {
    assert_eq!(
        details("one event too many").await,
        "a batch of 50001 elements; the limit is 50000"
    );
    let large = guest("large").memory("200").events(50_000);
    let world = World::with(&[("large.wasm", large.build())]).await;
    assert_eq!(world.deliver("large").await.unwrap(), 50_000);
}

#[tokio::test]
async fn lists_that_share_their_bytes_are_counted_in_full() {
    breaks(&["texts that share their bytes"]).await;
}

#[tokio::test]
async fn the_fixture_gives_the_shared_text_when_it_fits() {
    // What the test above refuses is valid except for its size.
    let small = gallery::aliasing().events(8);
    let world = World::with(&[("small.wasm", small.build())]).await;
    assert_eq!(world.deliver("hostile").await.unwrap(), 8);
}

#[tokio::test]
async fn a_text_of_a_gigabyte_is_no_answer() {
    breaks(&["a text of a gigabyte", "a log line of a gigabyte"]).await;
}

#[tokio::test]
async fn bad_utf_8_is_no_answer() {
    breaks(&["bad UTF-8", "bad UTF-8 in a log line"]).await;
}

#[tokio::test]
async fn an_unknown_kind_of_event_is_no_answer() {
    breaks(&["an unknown kind of event", "neither answer nor rejection"]).await;
}

#[tokio::test]
async fn a_pointer_out_of_range_is_no_answer() {
    breaks(&[
        "a pointer out of range",
        "a pointer between two words",
        "memory from nowhere",
    ])
    .await;
}

#[tokio::test]
async fn more_proofs_than_anybody_needs_are_no_answer() {
    assert_eq!(
        details("a hundred thousand proofs").await,
        "100000 proofs; the limit is 16"
    );
    breaks(&["a million proofs"]).await;
}

#[tokio::test]
async fn a_message_of_more_parts_than_any_provider_signs_is_no_answer() {
    assert_eq!(
        details("a message in pieces").await,
        "257 parts of a message; the limit is 256"
    );
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_counted() {
    let flood = guest("flood").normalize(
        "(local $left i32)
         (local.set $left (i32.const 1000))
         (loop $next
           (call $log (i32.const 1) (i32.const 1024) (i32.const 5))
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $next (local.get $left)))
         i32.const 768",
    );
    let world = World::with(&[("flood.wasm", flood.build())]).await;
    assert_eq!(world.deliver("flood").await.unwrap(), 1);
    // Ten seconds' worth pass, plus the little that the bucket regains meanwhile.
    let dropped = world.metric("sendflowr_plugin_log_lines_dropped_total{plugin=\"flood\"}");
    assert!((880..=900).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn a_log_line_is_cut() {
    lines::keep();
    // 1,500 letters, a space, 2,000 letters.
    let wordy = guest("wordy").normalize(
        "(memory.fill (i32.const 70000) (i32.const 120) (i32.const 1500))
         (memory.fill (i32.const 71500) (i32.const 32) (i32.const 1))
         (memory.fill (i32.const 71501) (i32.const 121) (i32.const 2000))
         (call $log (i32.const 2) (i32.const 70000) (i32.const 3501))
         i32.const 768",
    );
    let world = World::with(&[("wordy.wasm", wordy.build())]).await;
    assert_eq!(world.deliver("wordy").await.unwrap(), 1);
    assert_eq!(lines::of("wordy@1.0.0"), ["x".repeat(1024)]);
}

#[tokio::test]
async fn an_endless_flood_of_large_log_lines_runs_out_of_cpu_time() {
    breaks(&["flood of large log lines"]).await;
}

#[tokio::test]
async fn calls_of_the_host_without_a_loop_run_out_of_cpu_time() {
    breaks(&["host calls without a loop"]).await;
}

#[tokio::test]
async fn nothing_is_left_for_the_next_delivery() {
    // Traps when the memory is not as the module initializes it.
    let forgetful = guest("forgetful").normalize(
        "(if (i32.load (i32.const 600)) (then unreachable))
         (i32.store (i32.const 600) (i32.const 1))
         (memory.fill (i32.const 70000) (i32.const 255) (i32.const 50000))
         i32.const 768",
    );
    let world = World::with(&[("forgetful.wasm", forgetful.build())]).await;
    for _ in 0..20 {
        assert_eq!(world.deliver("forgetful").await.unwrap(), 1);
    }
}

/// Runs in its own process, whose memory nobody else uses.
#[test]
fn one_process_survives_the_whole_gallery_in_bounded_memory() {
    let test = "hostile::the_whole_gallery";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{}: {said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by `one_process_survives_the_whole_gallery_in_bounded_memory`"]
async fn the_whole_gallery() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    let mut attacks = gallery::gallery();
    let mut files = vec![("healthy.wasm".to_owned(), guest("healthy").build())];
    for (number, attack) in attacks.iter_mut().enumerate() {
        attack.guest.slug = format!("hostile-{number}");
        files.push((format!("hostile-{number}.wasm"), attack.guest.build()));
    }
    let refused = gallery::refused();
    files.extend(
        refused
            .iter()
            .map(|(name, bytes, _)| (format!("{name}.wasm"), bytes.clone())),
    );
    let files: Vec<(&str, Vec<u8>)> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect();
    let limits = Limits::default();
    let world = Arc::new(
        World::configured(&files, |config| {
            // Every attack is meant to reach its limit.
            config.quarantine.failures = u32::MAX;
            config.limits.cpu_time *= PATIENCE;
        })
        .await,
    );
    for (name, _, reason) in &refused {
        let problem = world.problem(&format!("{name}.wasm"));
        assert!(problem.contains(reason), "{problem}");
    }
    assert_eq!(world.deliver("healthy").await.unwrap(), 1);
    let before = memory_kb("VmRSS:");

    let stop = Arc::new(AtomicBool::new(false));
    let delivered = Arc::new(AtomicUsize::new(0));
    let healthy = tokio::spawn({
        let (world, stop, delivered) = (Arc::clone(&world), Arc::clone(&stop), Arc::clone(&delivered));
        async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(world.deliver("healthy").await.unwrap(), 1);
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for attack in &attacks {
        let so_far = delivered.load(Ordering::Relaxed);
        // As many at once as one plugin may have in flight.
        let together = (0..limits.concurrency).map(|_| {
            let plugin = world.plugin(&attack.guest.slug);
            tokio::spawn(async move { deliver(&plugin, b"body").await })
        });
        for attempt in together.collect::<Vec<_>>() {
            let error = attempt.await.unwrap().unwrap_err();
            assert_eq!(error.limit(), Some(attack.limit), "{}: {error}", attack.name);
        }
        super::eventually("another provider's deliveries continue", async || {
            healthy.is_finished() || delivered.load(Ordering::Relaxed) > so_far
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    healthy.await.unwrap();

    // What one plugin's deliveries may take together, and as much again for what the allocator does not give back.
    let may_take = 2 * limits.concurrency * (limits.memory_bytes + limits.output_bytes) / 1024;
    let (peak, after) = (memory_kb("VmHWM:"), memory_kb("VmRSS:"));
    println!("{before} kB before, {peak} kB at most, {after} kB after");
    assert!(peak - before < may_take, "{before} kB before, {peak} kB at most");
    // Warm slots and what the allocator keeps for the threads.
    assert!(
        after.saturating_sub(before) < may_take / 2,
        "{before} kB before, {after} kB after"
    );
}

/// Returns a value of this process's status.
pub(crate) fn memory_kb(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}
