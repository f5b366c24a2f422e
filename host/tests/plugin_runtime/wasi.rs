//! Plugins that import WASI get a closed one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sendflowr_host::{
    DEFAULT_ACCOUNT,
    plugin::{
        PluginError,
        types::{Event, Outcome, Request},
    },
};

use super::{
    World,
    guest::{Foreign, Guest, guest},
    request,
};

const MONOTONIC: Foreign = Foreign {
    name: "wasi:clocks/monotonic-clock@0.2.6",
    package: "package wasi:clocks@0.2.6;
        interface monotonic-clock { now: func() -> u64; resolution: func() -> u64; }",
    imports: r#"
        (import "wasi:clocks/monotonic-clock@0.2.6" "now" (func $now (result i64)))"#,
};

const RANDOM: Foreign = Foreign {
    name: "wasi:random/random@0.2.0",
    package: "package wasi:random@0.2.0;
        interface random { get-random-bytes: func(len: u64) -> list<u8>; get-random-u64: func() -> u64; }",
    imports: r#"
        (import "wasi:random/random@0.2.0" "get-random-u64" (func $random (result i64)))
        (import "wasi:random/random@0.2.0" "get-random-bytes" (func $random_bytes (param i64 i32)))"#,
};

const EXIT: Foreign = Foreign {
    name: "wasi:cli/exit@0.2.0",
    package: "package wasi:cli@0.2.0; interface exit { exit: func(status: result); }",
    imports: r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#,
};

const ENVIRONMENT: Foreign = Foreign {
    name: "wasi:cli/environment@0.2.6",
    package: "package wasi:cli@0.2.6; interface environment {
        get-environment: func() -> list<tuple<string, string>>; get-arguments: func() -> list<string>; }",
    imports: r#"
        (import "wasi:cli/environment@0.2.6" "get-environment" (func $environment (param i32)))
        (import "wasi:cli/environment@0.2.6" "get-arguments" (func $arguments (param i32)))"#,
};

/// Returns a guest that calls `exit`.
pub(crate) fn quitter(slug: &str) -> Guest {
    let mut quitter = using(EXIT, "(call $exit (i32.const 0)) unreachable");
    slug.clone_into(&mut quitter.slug);
    quitter
}

fn using(foreign: Foreign, normalize: &str) -> Guest {
    let mut guest = guest("wasi").normalize(normalize);
    guest.foreign = vec![foreign];
    guest
}

/// Returns the first event of a delivery. The guests write what they see into its time, which is at 65544.
async fn first_event(world: &World, request: Arc<Request>) -> Result<Event, PluginError> {
    let guest = world.plugin("wasi").instantiate(DEFAULT_ACCOUNT).await?;
    let (guest, _) = guest.authenticate(Arc::clone(&request)).await?;
    match guest.normalize(request).await?.unwrap() {
        Outcome::Events(batch) => Ok(batch.events[0].clone()),
        other => panic!("{other:?}"),
    }
}

async fn fault(guest: &Guest) -> String {
    let world = World::with(&[("wasi.wasm", guest.build())]).await;
    let error = world.deliver("wasi").await.unwrap_err();
    assert_eq!(error.limit(), Some("trap"), "{error}");
    error.to_string()
}

#[tokio::test]
async fn clocks_stand_still_at_the_time_of_receipt() {
    let clock = using(
        MONOTONIC,
        "(i64.store (i32.const 65544) (call $now))
         (if (i64.ne (call $now) (i64.load (i32.const 65544))) (then unreachable))
         i32.const 768",
    );
    let world = World::with(&[("wasi.wasm", clock.build())]).await;
    let event = first_event(&world, request(b"")).await.unwrap();
    assert_eq!(event.timestamp_ms, 1_700_000_000_000 * 1_000_000);
}

#[tokio::test]
async fn randomness_follows_from_the_delivery() {
    let dice = using(
        RANDOM,
        "(drop (call $random))
         (call $random_bytes (i64.const 8) (i32.const 1000))
         (i64.store (i32.const 65544) (i64.load (i32.load (i32.const 1000))))
         i32.const 768",
    );
    let world = World::with(&[("wasi.wasm", dice.build())]).await;
    let one = first_event(&world, request(b"one")).await.unwrap();
    assert_eq!(one, first_event(&world, request(b"one")).await.unwrap());
    assert_ne!(one, first_event(&world, request(b"two")).await.unwrap());
    // Stable across versions of the host, too: replays depend on it.
    assert_eq!(one.timestamp_ms, 4462764519721284775);
}

#[tokio::test]
async fn there_is_no_environment_and_there_are_no_arguments() {
    let curious = using(
        ENVIRONMENT,
        "(call $environment (i32.const 1000))
         (call $arguments (i32.const 1008))
         (if (i32.or (i32.load (i32.const 1004)) (i32.load (i32.const 1012))) (then unreachable))
         i32.const 768",
    );
    let world = World::with(&[("wasi.wasm", curious.build())]).await;
    assert_eq!(world.deliver("wasi").await.unwrap(), 1);
}

#[tokio::test]
async fn an_exit_is_the_plugins_fault() {
    assert_eq!(
        fault(&quitter("wasi")).await,
        "plugin `wasi@1.0.0` hit its limit `trap` in `normalize`: it called `exit`"
    );
}

#[tokio::test]
async fn waiting_ends_at_once() {
    let sleeper = with_poll(
        "(call $block (call $timer (i64.const 0)))
         (call $block (call $timer (i64.const 3600000000000)))
         unreachable",
    );
    let world = World::with(&[("wasi.wasm", sleeper.build())]).await;
    let began = Instant::now();
    let error = world.deliver("wasi").await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(
        error.to_string(),
        "plugin `wasi@1.0.0` hit its limit `trap` in `normalize`: it waits for a time that never comes: its clocks \
         stand still"
    );
}

#[tokio::test]
async fn handles_are_limited() {
    let hoarder = with_poll("(loop $again (drop (call $timer (i64.const 1))) (br $again)) unreachable");
    let error = fault(&hoarder).await;
    assert!(
        error.ends_with("it holds more than 10000 streams and timers"),
        "{error}"
    );
}

#[tokio::test]
async fn random_bytes_are_limited() {
    let greedy = using(
        RANDOM,
        "(call $random_bytes (i64.const 0x7fffffffffffffff) (i32.const 1000)) unreachable",
    );
    let error = fault(&greedy).await;
    assert!(
        error.contains("random bytes at once; it may have 65536"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_printed_is_logged_at_the_rate_of_the_log() {
    let chatty = printer(
        "wasi",
        "(local $stream i32) (local $left i32)
         (local.set $stream (call $stdout))
         (local.set $left (i32.const 200))
         (i32.store (i32.const 2000) (i32.const 0x0a216968))
         (loop $again
           (call $write (local.get $stream) (i32.const 2000) (i32.const 4) (i32.const 1000))
           (if (i32.load8_u (i32.const 1000)) (then unreachable))
           (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         i32.const 768",
    );
    let world = World::with(&[("wasi.wasm", chatty.build())]).await;
    assert_eq!(world.deliver("wasi").await.unwrap(), 1);
    // 100 at once, and ten per second.
    let dropped = world.metric("sendflowr_plugin_log_lines_dropped_total{plugin=\"wasi\"}");
    assert!((80..=100).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn what_lies_beyond_is_refused_by_name() {
    let caller = using(
        Foreign {
            name: "wasi:http/outgoing-handler@0.2.0",
            package: "package wasi:http@0.2.0; interface outgoing-handler { handle: func(); }",
            imports: r#"(import "wasi:http/outgoing-handler@0.2.0" "handle" (func $handle))"#,
        },
        "(call $handle) i32.const 768",
    );
    let world = World::with(&[("wasi.wasm", caller.build())]).await;
    assert_eq!(
        world.problem("wasi.wasm"),
        "`wasi.wasm` imports `wasi:http/outgoing-handler@0.2.0`, which is not available to plugins"
    );
}

#[tokio::test]
async fn a_stream_takes_a_page_at_once() {
    let write = |bytes| {
        let write = format!(
            "(call $write (call $stdout) (i32.const 0) (i32.const {bytes}) (i32.const 1000)) i32.const 768"
        );
        printer("wasi", &write)
    };
    let world = World::with(&[("wasi.wasm", write(4096).build())]).await;
    assert_eq!(world.deliver("wasi").await.unwrap(), 1);
    let error = fault(&write(4097)).await;
    assert!(
        error.ends_with("it wrote 4097 bytes at once; a stream takes 4096"),
        "{error}"
    );
}

#[tokio::test]
async fn parameters_that_the_host_would_have_to_enlarge_are_refused() {
    let problem = async |parameter: &str| {
        let package = format!(
            "package wasi:io@0.2.0; interface error {{
                flags many {{ a, b, c, d, e, f, g, h }}
                record holder {{ inner: option<many> }}
                log: func(value: {parameter});
            }}"
        );
        let caller = using(
            Foreign {
                name: "wasi:io/error@0.2.0",
                package: package.leak(),
                imports: match parameter {
                    "many" => r#"(import "wasi:io/error@0.2.0" "log" (func $lift (param i32)))"#,
                    _ => r#"(import "wasi:io/error@0.2.0" "log" (func $lift (param i32 i32)))"#,
                },
            },
            "i32.const 768",
        );
        let world = World::with(&[("wasi.wasm", caller.build())]).await;
        world.status("wasi.wasm").problem.unwrap_or_default()
    };
    for parameter in [
        "list<many>",
        "list<list<holder>>",
        "list<result<tuple<u8, many>>>",
    ] {
        let found = problem(parameter).await;
        assert!(
            found.ends_with(
                "it imports `wasi:io/error` with a function whose parameters are not those of WASI 0.2"
            ),
            "{parameter}: {found}"
        );
    }
    // As WASI has them.
    assert_eq!(problem("many").await, "");
    assert_eq!(problem("list<u8>").await, "");
}

/// Returns a guest that may print.
pub(crate) fn printer(slug: &str, normalize: &str) -> Guest {
    let mut printer = guest(slug).normalize(normalize);
    printer.foreign = vec![
        Foreign {
            name: "wasi:io/streams@0.2.6",
            package: "package wasi:io@0.2.6;
                interface error { resource error { to-debug-string: func() -> string; } }
                interface streams {
                    use error.{error};
                    variant stream-error { last-operation-failed(error), closed }
                    resource output-stream {
                        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                    }
                }",
            imports: r#"
                (import "wasi:io/streams@0.2.6" "[method]output-stream.blocking-write-and-flush"
                  (func $write (param i32 i32 i32 i32)))"#,
        },
        Foreign {
            name: "wasi:cli/stdout@0.2.6",
            package: "package wasi:cli@0.2.6;
                interface stdout { use wasi:io/streams@0.2.6.{output-stream}; get-stdout: func() -> output-stream; }",
            imports: r#"(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $stdout (result i32)))"#,
        },
    ];
    printer
}

/// Returns a guest with timers, which belong to another interface than the function that waits for them.
fn with_poll(normalize: &str) -> Guest {
    let mut guest = guest("wasi").normalize(normalize);
    guest.foreign = vec![
        Foreign {
            name: "wasi:io/poll@0.2.3",
            package: "package wasi:io@0.2.3;
                interface poll { resource pollable { ready: func() -> bool; block: func(); } }",
            imports: r#"
                (import "wasi:io/poll@0.2.3" "[method]pollable.block" (func $block (param i32)))"#,
        },
        Foreign {
            name: "wasi:clocks/monotonic-clock@0.2.3",
            package: "package wasi:clocks@0.2.3; interface monotonic-clock {
                use wasi:io/poll@0.2.3.{pollable}; subscribe-duration: func(wait: u64) -> pollable; }",
            imports: r#"
                (import "wasi:clocks/monotonic-clock@0.2.3" "subscribe-duration"
                  (func $timer (param i64) (result i32)))"#,
        },
    ];
    guest
}
