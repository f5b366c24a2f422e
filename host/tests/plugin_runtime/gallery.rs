//! The gallery of hostile guests: each breaks one limit, and the gallery says which.

use super::{
    guest::{BUMP, Guest, guest},
    wasi,
};

/// Never ends.
pub(crate) const LOOP: &str = "(loop $again (br $again)) unreachable";

/// A guest that loads, and hits `limit` in `call` at its first delivery.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) guest: Guest,
    pub(crate) limit: &'static str,
    pub(crate) call: &'static str,
}

/// Returns the attack of this name.
pub(crate) fn attack(name: &str) -> Attack {
    let found = gallery().into_iter().find(|attack| attack.name == name);
    found.unwrap_or_else(|| panic!("the gallery has no `{name}`"))
}

/// Returns all attacks.
pub(crate) fn gallery() -> Vec<Attack> {
    let mut all = Vec::new();
    let mut hang = |name, guest, limit, call| {
        all.push(Attack {
            name,
            guest,
            limit,
            call,
        });
    };
    let hostile = || guest("hostile");
    let in_authenticate = |body: &str| hostile().authenticate(body);
    let in_normalize = |body: &str| hostile().normalize(body);

    hang(
        "loop in authenticate",
        in_authenticate(LOOP),
        "cpu_time",
        "authenticate",
    );
    hang("loop in normalize", in_normalize(LOOP), "cpu_time", "normalize");
    hang(
        "loop in realloc",
        hostile().realloc(LOOP),
        "cpu_time",
        "authenticate",
    );
    // Behaves while the request is passed to `authenticate`.
    let later = format!("{BUMP} (if (global.get $armed) (then (loop $again (br $again))))");
    let armed = in_authenticate("(global.set $armed (i32.const 1)) i32.const 512")
        .items("(global $armed (mut i32) (i32.const 0))")
        .realloc(&later);
    hang("loop in realloc of normalize", armed, "cpu_time", "normalize");
    for call in ["authenticate", "normalize"] {
        let after = format!(
            "(func (export \"cabi_post_sendflowr:connector/plugin@1.0.0#{call}\") (param i32) (loop $again (br $again)))"
        );
        let name = match call {
            "authenticate" => "loop after authenticate",
            _ => "loop after normalize",
        };
        hang(name, hostile().items(&after), "cpu_time", call);
    }
    let flood = in_normalize(
        "(loop $again (call $log (i32.const 3) (i32.const 65536) (i32.const 1000000)) (br $again)) unreachable",
    );
    hang(
        "flood of large log lines",
        flood.memory("20"),
        "cpu_time",
        "normalize",
    );

    // Has no loop; the adapters that tools put around imports are checked when they are entered, hand-made components have none.
    let without_loop = format!(
        "(local $stream i32)
         (local.set $stream (call $stdout))
         (memory.fill (i32.const 8192) (i32.const 0x0a) (i32.const 4096))
         {} unreachable",
        "(call $write (local.get $stream) (i32.const 8192) (i32.const 4096) (i32.const 1000))".repeat(30_000)
    );
    hang(
        "host calls without a loop",
        wasi::printer("hostile", &without_loop),
        "cpu_time",
        "normalize",
    );

    // 1,024 pages are 64 MiB; the guest has two already.
    let at_once = in_normalize("(drop (memory.grow (i32.const 1024))) i32.const 768");
    hang("memory in one go", at_once, "memory", "normalize");
    let in_steps = in_normalize("(loop $again (drop (memory.grow (i32.const 1))) (br $again)) unreachable");
    hang("memory in steps", in_steps, "memory", "normalize");
    // 600 pages each: either alone would fit.
    let over_memories = in_normalize(
        "(drop (memory.grow $memory (i32.const 600)))
         (drop (memory.grow $other (i32.const 600)))
         i32.const 768",
    );
    hang(
        "memory over several memories",
        over_memories.items("(memory $other 1)"),
        "memory",
        "normalize",
    );
    let touched = in_normalize(
        "(loop $again
           (drop (memory.grow (i32.const 16)))
           (memory.fill (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1048576))
             (i32.const 1) (i32.const 1048576))
           (br $again)) unreachable",
    );
    hang("memory in steps, all of it used", touched, "memory", "normalize");
    hang(
        "memory in realloc",
        hostile().realloc("(drop (memory.grow (i32.const 1024))) i32.const 4096"),
        "memory",
        "authenticate",
    );
    let one_table = in_normalize("(drop (table.grow $one (ref.null func) (i32.const 100000))) i32.const 768");
    hang(
        "one table in one go",
        one_table.items("(table $one 1 funcref)"),
        "table",
        "normalize",
    );
    let steps = in_normalize(
        "(loop $again (drop (table.grow $one (ref.null func) (i32.const 100))) (br $again)) unreachable",
    );
    hang(
        "one table in steps",
        steps.items("(table $one 1 funcref)"),
        "table",
        "normalize",
    );
    let over_tables = in_normalize(
        "(drop (table.grow $one (ref.null func) (i32.const 60000)))
         (drop (table.grow $two (ref.null func) (i32.const 60000)))
         i32.const 768",
    );
    hang(
        "several tables",
        over_tables.items("(table $one 1 funcref) (table $two 1 funcref)"),
        "table",
        "normalize",
    );

    let recursion = in_normalize("(call $deeper) i32.const 768");
    hang(
        "recursion",
        recursion.items("(func $deeper (call $deeper))"),
        "stack",
        "normalize",
    );
    // Frames of 8 kB each.
    let wide: String = (0..1_000).map(|n| format!("(local.get {n}) ")).collect();
    let wide = format!(
        "(type $wide (func (param {0})))
         (table $self 1 1 funcref) (elem (i32.const 0) $wide)
         (func $wide (type $wide) (call_indirect (type $wide) {wide} (i32.const 0)))",
        "i64 ".repeat(1_000)
    );
    let wide_recursion = format!("(call $wide {}) i32.const 768", "(i64.const 1) ".repeat(1_000));
    hang(
        "recursion through a table, in large frames",
        in_normalize(&wide_recursion).items(&wide),
        "stack",
        "normalize",
    );

    hang("panic", in_authenticate("unreachable"), "trap", "authenticate");
    hang("abort", wasi::quitter("hostile"), "trap", "normalize");
    let divides = in_normalize("(i32.div_u (i32.const 1) (local.get $headers_length))");
    hang("division by zero", divides, "trap", "normalize");

    // 300,000 events of zeros take 50 MB of the guest's memory; as many as fit.
    let many = hostile().memory("900").events(300_000);
    hang("as many events as fit", many, "output_bytes", "normalize");
    // Ten million do not even fit into the guest's memory.
    let too_many = hostile().memory("900").events(10_000_000);
    hang("ten million events", too_many, "invalid_output", "normalize");
    let one_more = hostile().memory("200").events(50_001);
    hang("one event too many", one_more, "events", "normalize");
    hang(
        "texts that share their bytes",
        aliasing(),
        "output_bytes",
        "normalize",
    );

    // `err`, `malformed`, from 0, 1 GiB long.
    let gigabyte = in_normalize(
        "(i32.store8 (i32.const 512) (i32.const 1))
         (i32.store8 (i32.const 516) (i32.const 2))
         (i32.store (i32.const 524) (i32.const 0x40000000))
         i32.const 512",
    );
    hang("a text of a gigabyte", gigabyte, "invalid_output", "normalize");
    let bad_utf_8 = in_authenticate(
        "(i32.store8 (i32.const 512) (i32.const 1))
         (i32.store8 (i32.const 516) (i32.const 2))
         (i32.store (i32.const 520) (i32.const 600))
         (i32.store (i32.const 524) (i32.const 1))
         (i32.store8 (i32.const 600) (i32.const 255))
         i32.const 512",
    );
    hang("bad UTF-8", bad_utf_8, "invalid_output", "authenticate");
    let bad_line = in_normalize(
        "(i32.store8 (i32.const 600) (i32.const 255))
         (call $log (i32.const 0) (i32.const 600) (i32.const 1))
         i32.const 768",
    );
    hang("bad UTF-8 in a log line", bad_line, "invalid_output", "normalize");
    let long_line =
        in_normalize("(call $log (i32.const 0) (i32.const 600) (i32.const 0x40000000)) i32.const 768");
    hang(
        "a log line of a gigabyte",
        long_line,
        "invalid_output",
        "normalize",
    );
    let kind = in_normalize("(i32.store8 (i32.const 65540) (i32.const 99)) i32.const 768");
    hang("an unknown kind of event", kind, "invalid_output", "normalize");
    let neither = in_normalize("(i32.store8 (i32.const 768) (i32.const 7)) i32.const 768");
    hang(
        "neither answer nor rejection",
        neither,
        "invalid_output",
        "normalize",
    );
    let beyond = in_normalize("i32.const -8");
    hang("a pointer out of range", beyond, "invalid_output", "normalize");
    let unaligned = in_authenticate("i32.const 513");
    hang(
        "a pointer between two words",
        unaligned,
        "invalid_output",
        "authenticate",
    );
    let nowhere = hostile().realloc("i32.const -8");
    hang("memory from nowhere", nowhere, "invalid_output", "authenticate");
    for (name, count, limit) in [
        ("a hundred thousand proofs", 100_000, "invalid_output"),
        ("a million proofs", 1_000_000, "output_bytes"),
    ] {
        let proofs = in_authenticate(&format!(
            "(i32.store (i32.const 516) (i32.const 65536))
             (i32.store (i32.const 520) (i32.const {count}))
             i32.const 512"
        ));
        hang(name, proofs.memory("1000"), limit, "authenticate");
    }
    // One proof at 3584 (`public-key`), its one message at 3700, whose parts are empty.
    let in_pieces = in_authenticate(
        "(i32.store (i32.const 516) (i32.const 3584))
         (i32.store (i32.const 520) (i32.const 1))
         (i32.store8 (i32.const 3584) (i32.const 1))
         (i32.store (i32.const 3616) (i32.const 3700))
         (i32.store (i32.const 3620) (i32.const 1))
         (i32.store (i32.const 3700) (i32.const 65536))
         (i32.store (i32.const 3704) (i32.const 257))
         i32.const 512",
    );
    hang(
        "a message in pieces",
        in_pieces.memory("3"),
        "invalid_output",
        "authenticate",
    );
    all
}

/// Makes each of the batch's 1,000 events point to the same megabyte as its subject: 1 GB of output from 1.2 MB.
pub(crate) fn aliasing() -> Guest {
    let hostile = guest("hostile").normalize(
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
    hostile.memory("20").events(1_000)
}

/// Returns names and contents of files that are refused, and a part of the reason.
pub(crate) fn refused() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let bad = || guest("bad");
    vec![
        ("describe-loops", bad().describe(LOOP).build(), "`cpu_time`"),
        ("describe-panics", bad().describe("unreachable").build(), "`trap`"),
        (
            "describe-recurses",
            bad().items("(func $deeper (call $deeper))").describe("(call $deeper) i32.const 64").build(),
            "`stack`",
        ),
        (
            "describe-grows",
            bad().describe("(drop (memory.grow (i32.const 1024))) i32.const 64").build(),
            "`memory`",
        ),
        (
            "describe-ends-late",
            bad()
                .items(
                    "(func (export \"cabi_post_sendflowr:connector/plugin@1.0.0#describe\") (param i32) (loop $again (br $again)))",
                )
                .build(),
            "`cpu_time`",
        ),
        (
            "starts-with-a-loop",
            bad().items("(func $main (loop $again (br $again))) (start $main)").build(),
            "`cpu_time`",
        ),
        ("fickle", fickle().build(), "a second call returned a different descriptor"),
        ("begins-too-large", bad().memory("1025").build(), "memory"),
        ("many-imports", many_imports(), "101 imports and exports"),
        ("nested-loops", bad().items(&branches_and_variables(1_000, 1_000)).build(), "1000 nested loops"),
        ("slow-function", bad().items(&branches_and_variables(100, 1_600)).build(), "steps for one function"),
        (
            "slow-functions",
            bad().items(&branches_and_variables(80, 1_000).repeat(17)).build(),
            "steps for all functions",
        ),
        (
            "data-beyond-the-memory",
            bad().items("(data (i32.const 131071) \"xx\")").build(),
            "out of bounds",
        ),
    ]
}

/// Returns another status at the second call.
pub(crate) fn fickle() -> Guest {
    guest("bad").describe(
        "(i32.store8 (i32.const 120) (i32.add (i32.load8_u (i32.const 120)) (i32.const 1))) i32.const 64",
    )
}

pub(crate) fn many_imports() -> Vec<u8> {
    let imports: String = (0..10_000)
        .map(|n| format!(r#"(import "i{n}" (func))"#))
        .collect();
    super::guest::component(&format!("(component {imports})"))
}

/// Returns a function with this many nested loops, at the top of each of which this many variables may have a new value.
pub(crate) fn branches_and_variables(branches: usize, variables: usize) -> String {
    let locals = "i32 ".repeat(variables);
    let loops = "loop ".repeat(branches);
    let uses: String = (0..variables)
        .map(|n| format!("local.get {n} i32.const 1 i32.add local.set {n} "))
        .collect();
    let ends = "local.get 0 br_if 0 end ".repeat(branches);
    format!("(func (local {locals}) {loops} {uses} {ends})")
}
