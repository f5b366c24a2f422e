//! Guests that break a fence each. The error names the fence, and another provider's plugin goes on answering.

use sendflowr_host::plugin::{Fault, PluginError};

use super::{
    World, deliver,
    guest::{Guest, guest},
};

const LOOP: &str = "(loop $again (br $again)) unreachable";

/// Delivers to the hostile guest, then to a healthy one beside it. Gives the limit, the call and the details.
async fn attack(hostile: Guest) -> (&'static str, &'static str, String) {
    let world = World::with(&[
        ("healthy.wasm", guest("healthy").build()),
        ("hostile.wasm", hostile.build()),
    ])
    .await;
    let error = deliver(&world.plugin("hostile"), b"body").await.unwrap_err();
    assert_eq!(world.deliver("healthy").await.unwrap(), 1);
    assert_eq!(error.fault(), Fault::Guest, "{error}");
    let limit = error.limit().unwrap();
    let PluginError::Guest {
        plugin, call, detail, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(plugin, "hostile@1.0.0");
    assert_eq!(
        world.metric(&format!(
            "sendflowr_plugin_traps_total{{plugin=\"hostile\",limit=\"{limit}\"}}"
        )),
        1
    );
    assert_eq!(
        world.metric(&format!(
            "sendflowr_plugin_traps_total{{plugin=\"healthy\",limit=\"{limit}\"}}"
        )),
        0
    );
    let traps = world.status("hostile.wasm").plugin.unwrap().traps;
    assert_eq!(traps.into_iter().collect::<Vec<_>>(), [(limit, 1)]);
    (limit, call, detail)
}

/// The same, when only limit and call matter.
async fn hits(hostile: Guest) -> (&'static str, &'static str) {
    let (limit, call, _) = attack(hostile).await;
    (limit, call)
}

#[tokio::test]
async fn an_endless_loop_runs_out_of_cpu_time() {
    assert_eq!(
        hits(guest("hostile").authenticate(LOOP)).await,
        ("cpu_time", "authenticate")
    );
    assert_eq!(
        hits(guest("hostile").normalize(LOOP)).await,
        ("cpu_time", "normalize")
    );
}

#[tokio::test]
async fn an_endless_loop_while_the_request_is_passed_in_runs_out_of_cpu_time() {
    let mut hostile = guest("hostile");
    hostile.realloc = LOOP.to_owned();
    assert_eq!(hits(hostile).await, ("cpu_time", "authenticate"));
}

#[tokio::test]
async fn memory_is_limited_in_one_go_and_in_steps() {
    // 1,024 pages are 64 MiB; the guest has two already.
    let at_once = guest("hostile").normalize("(drop (memory.grow (i32.const 1024))) i32.const 768");
    assert_eq!(hits(at_once).await, ("memory", "normalize"));
    let in_steps = guest("hostile")
        .normalize("(loop $again (drop (memory.grow (i32.const 1))) (br $again)) unreachable");
    assert_eq!(hits(in_steps).await, ("memory", "normalize"));
}

#[tokio::test]
async fn memory_is_limited_over_all_memories() {
    // 600 pages each: either alone would fit.
    let hostile = guest("hostile").items("(memory $other 1)").normalize(
        "(drop (memory.grow $memory (i32.const 600)))
         (drop (memory.grow $other (i32.const 600)))
         i32.const 768",
    );
    assert_eq!(hits(hostile).await, ("memory", "normalize"));
}

#[tokio::test]
async fn a_limit_that_a_memory_sets_itself_is_no_trap() {
    let mut modest = guest("modest").normalize(
        "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) i32.const 768",
    );
    modest.memory = "2 2";
    let world = World::with(&[("modest.wasm", modest.build())]).await;
    assert_eq!(world.deliver("modest").await.unwrap(), 1);
}

#[tokio::test]
async fn tables_are_limited_together() {
    let hostile = guest("hostile")
        .items("(table $one 1 funcref) (table $two 1 funcref)")
        .normalize(
            "(drop (table.grow $one (ref.null func) (i32.const 60000)))
         (drop (table.grow $two (ref.null func) (i32.const 60000)))
         i32.const 768",
        );
    assert_eq!(hits(hostile).await, ("table", "normalize"));
}

#[tokio::test]
async fn recursion_runs_out_of_stack() {
    let hostile = guest("hostile")
        .items("(func $deeper (call $deeper))")
        .normalize("(call $deeper) i32.const 768");
    assert_eq!(hits(hostile).await, ("stack", "normalize"));
}

#[tokio::test]
async fn a_panic_is_a_trap() {
    let (limit, call, detail) = attack(guest("hostile").authenticate("unreachable")).await;
    assert_eq!((limit, call), ("trap", "authenticate"));
    assert_eq!(detail, "wasm trap: wasm `unreachable` instruction executed");
    let divides = guest("hostile").normalize("(i32.div_u (i32.const 1) (local.get $query_length))");
    assert_eq!(hits(divides).await, ("trap", "normalize"));
}

#[tokio::test]
async fn ten_million_events_are_too_many_bytes() {
    // 300,000 events of zeros lie in 50 MB of the guest's memory; as many as fit.
    let mut many = guest("hostile");
    many.memory = "900";
    many.events = 300_000;
    assert_eq!(hits(many.clone()).await, ("output_bytes", "normalize"));
    // Ten million do not even fit into the guest's memory.
    many.events = 10_000_000;
    assert_eq!(hits(many).await, ("invalid_output", "normalize"));
}

#[tokio::test]
async fn a_batch_is_limited_in_elements() {
    let mut many = guest("hostile");
    many.memory = "200";
    many.events = 50_001;
    let (limit, call, detail) = attack(many.clone()).await;
    assert_eq!((limit, call), ("events", "normalize"));
    assert_eq!(detail, "a batch of 50001 elements; the limit is 50000");
    many.slug = "large".to_owned();
    many.events = 50_000;
    let world = World::with(&[("large.wasm", many.build())]).await;
    assert_eq!(world.deliver("large").await.unwrap(), 50_000);
}

/// Makes each of the batch's 1,000 events point at the same megabyte as its subject: 1 GB of output from 1.2 MB.
pub(crate) fn aliasing() -> Guest {
    let mut hostile = guest("hostile").normalize(
        "(local $event i32) (local $left i32)
         (local.set $event (i32.const 65536))
         (local.set $left (i32.const 1000))
         (memory.fill (i32.const 262144) (i32.const 120) (i32.const 1048576))
         (loop $next
           (i32.store8 (i32.add (local.get $event) (i32.const 84)) (i32.const 1))
           (i32.store (i32.add (local.get $event) (i32.const 88)) (i32.const 262144))
           (i32.store (i32.add (local.get $event) (i32.const 92)) (i32.const 1048576))
           (local.set $event (i32.add (local.get $event) (i32.const 168)))
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $next (local.get $left)))
         i32.const 768",
    );
    hostile.memory = "20";
    hostile.events = 1_000;
    hostile
}

#[tokio::test]
async fn lists_that_share_their_bytes_are_counted_in_full() {
    assert_eq!(hits(aliasing()).await, ("output_bytes", "normalize"));
}

#[tokio::test]
async fn the_fixture_gives_the_shared_text_when_it_fits() {
    // What the test above refuses is valid but for its size.
    let mut small = aliasing();
    small.events = 8;
    let world = World::with(&[("small.wasm", small.build())]).await;
    assert_eq!(world.deliver("hostile").await.unwrap(), 8);
}

#[tokio::test]
async fn a_text_of_a_gigabyte_is_no_answer() {
    // `err`, `malformed`, from 0, 1 GiB long.
    let hostile = guest("hostile").normalize(
        "(i32.store8 (i32.const 512) (i32.const 1))
         (i32.store8 (i32.const 516) (i32.const 2))
         (i32.store (i32.const 524) (i32.const 0x40000000))
         i32.const 512",
    );
    assert_eq!(hits(hostile).await, ("invalid_output", "normalize"));
}

#[tokio::test]
async fn bad_utf_8_is_no_answer() {
    let hostile = guest("hostile").authenticate(
        "(i32.store8 (i32.const 512) (i32.const 1))
         (i32.store8 (i32.const 516) (i32.const 2))
         (i32.store (i32.const 520) (i32.const 600))
         (i32.store (i32.const 524) (i32.const 1))
         (i32.store8 (i32.const 600) (i32.const 255))
         i32.const 512",
    );
    assert_eq!(hits(hostile).await, ("invalid_output", "authenticate"));
}

#[tokio::test]
async fn an_unknown_kind_of_event_is_no_answer() {
    let hostile = guest("hostile").normalize("(i32.store8 (i32.const 65540) (i32.const 99)) i32.const 768");
    assert_eq!(hits(hostile).await, ("invalid_output", "normalize"));
}

#[tokio::test]
async fn a_pointer_out_of_range_is_no_answer() {
    assert_eq!(
        hits(guest("hostile").normalize("i32.const -8")).await,
        ("invalid_output", "normalize")
    );
    let unaligned = guest("hostile").authenticate("i32.const 513");
    assert_eq!(hits(unaligned).await, ("invalid_output", "authenticate"));
    let mut arguments = guest("hostile");
    arguments.realloc = "i32.const -8".to_owned();
    assert_eq!(hits(arguments).await, ("invalid_output", "authenticate"));
}

#[tokio::test]
async fn a_hundred_thousand_proofs_are_no_answer() {
    let mut hostile = guest("hostile").authenticate(
        "(i32.store (i32.const 516) (i32.const 65536))
         (i32.store (i32.const 520) (i32.const 100000))
         i32.const 512",
    );
    hostile.memory = "200";
    let (limit, call, detail) = attack(hostile).await;
    assert_eq!((limit, call), ("invalid_output", "authenticate"));
    assert_eq!(detail, "100000 proofs; the limit is 16");
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
    // Ten seconds' worth passes, and what little the bucket regains meanwhile.
    let dropped = world.metric("sendflowr_plugin_log_lines_dropped_total{plugin=\"flood\"}");
    assert!((880..=900).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn an_endless_flood_of_large_log_lines_runs_out_of_cpu_time() {
    let mut hostile = guest("hostile").normalize(
        "(loop $again (call $log (i32.const 3) (i32.const 65536) (i32.const 1000000)) (br $again)) unreachable",
    );
    hostile.memory = "20";
    assert_eq!(hits(hostile).await, ("cpu_time", "normalize"));
}

#[tokio::test]
async fn nothing_is_left_for_the_next_delivery() {
    // Traps when the memory is not as the module has it.
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
