//! Compiles a plugin to machine code, without letting any file take unbounded time or memory.
//!
//! A compiler cannot be interrupted, and its time and memory are not linear in the file's size: in a function with many variables
//! and many branches, each variable may need a value of its own wherever branches meet, and in nested loops each is examined
//! again for every enclosing loop. A few kilobytes can thus require gigabytes and hours. The work that a file requires is
//! therefore estimated first, and the file is refused if that is several times what any real plugin requires.

use std::thread;

use rayon::ThreadPoolBuilder;
use wasmparser::{BlockType, FunctionBody, Operator, Parser, Payload, TypeRef};
use wasmtime::{Engine, component::Component};

use super::{error::LoadError, inspect::said, lane::stand_back};

/// Compiler steps allowed for one function. The maximum known of a real plugin is 1.9 million, in the JavaScript
/// engine's interpreter loop; Rust plugins stay below 150,000. A function at the limit takes about a second and 130 MB.
const MOST_FUNCTION_STEPS: u64 = 8_000_000;

/// Steps allowed for all functions together. A JavaScript plugin takes 23 million, a Python plugin 14 million, Rust
/// plugins below 350,000.
const MOST_STEPS: u64 = 100_000_000;

/// Depth of nested loops. Real plugins have at most 6; the compiler's time grows with the cube.
const MOST_NESTED_LOOPS: u64 = 100;

/// The cost of an empty function.
const STEPS_OF_A_FUNCTION: u64 = 100;

/// Compiles on its own threads, at low priority: neither a delivery nor the next plugin waits for this one.
///
/// # Errors
/// [`LoadError::TooMuchWork`] before the compiler has started, else [`LoadError::Compile`].
pub(crate) fn component(engine: &Engine, bytes: &[u8]) -> Result<Component, LoadError> {
    check(bytes)?;
    let threads = ThreadPoolBuilder::new()
        .num_threads(thread::available_parallelism().map_or(1, |cores| cores.get()))
        .thread_name(|number| format!("plugin-compile-{number}"))
        .start_handler(|_| stand_back())
        .build()
        .map_err(|error| LoadError::Compile(error.to_string()))?;
    threads
        .install(|| Component::from_binary(engine, bytes))
        .map_err(|error| LoadError::Compile(said(format_args!("{error:#}"))))
}

/// Refuses what would take the compiler too long.
fn check(bytes: &[u8]) -> Result<(), LoadError> {
    let mut total = 0;
    // Stack of the modules and components being parsed: the innermost is the last.
    let mut open = Vec::new();
    let mut seen = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { .. } => open.push(Signatures::default()),
            Payload::End(_) => {
                open.pop();
            }
            Payload::TypeSection(section) => {
                for function in section.into_iter_err_on_gc_types() {
                    let function = function.map_err(broken)?;
                    let width = function.params().len() + function.results().len();
                    last(&mut open).types.push(width as u64);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(index) = import.map_err(broken)?.ty {
                        last(&mut open).functions.push(index);
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for index in section {
                    last(&mut open).functions.push(index.map_err(broken)?);
                }
            }
            Payload::CodeSectionEntry(body) => {
                let Work { steps, nested_loops } = work(&body, last(&mut open), &mut seen).map_err(broken)?;
                if nested_loops > MOST_NESTED_LOOPS {
                    return Err(LoadError::TooManyPieces {
                        pieces: "nested loops",
                        count: nested_loops,
                        limit: MOST_NESTED_LOOPS,
                    });
                }
                at_most("one function", steps, MOST_FUNCTION_STEPS)?;
                total += steps;
                at_most("all functions", total, MOST_STEPS)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn at_most(what: &'static str, steps: u64, limit: u64) -> Result<(), LoadError> {
    if steps > limit {
        return Err(LoadError::TooMuchWork { what, steps, limit });
    }
    Ok(())
}

fn broken(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::NotWebAssembly(said(error))
}

/// Returns the innermost module. The parser announces a module before anything in it.
fn last(open: &mut Vec<Signatures>) -> &mut Signatures {
    if open.is_empty() {
        open.push(Signatures::default());
    }
    open.last_mut().expect("there is one now")
}

/// How many values the functions of a module take and return.
#[derive(Default)]
struct Signatures {
    /// By type, parameters and results together.
    types: Vec<u64>,
    /// The type of each function.
    functions: Vec<u32>,
}

impl Signatures {
    fn of_type(&self, index: u32) -> u64 {
        self.types.get(index as usize).copied().unwrap_or_default()
    }

    fn of_function(&self, index: u32) -> u64 {
        let function = self.functions.get(index as usize);
        function.map_or(0, |index| self.of_type(*index))
    }
}

/// How much work a function is for the compiler.
struct Work {
    steps: u64,
    nested_loops: u64,
}

/// Estimates the worst-case work of compiling this function: one step for each instruction and for each value that it
/// declares, passes or receives; and at each branch, one step for each variable and for each value passed along,
/// counted once plus once more for each enclosing loop. `seen` is scratch space.
fn work(body: &FunctionBody<'_>, signatures: &Signatures, seen: &mut Vec<bool>) -> wasmparser::Result<Work> {
    let mut declared = 0;
    for local in body.get_locals_reader()? {
        declared += u64::from(local?.0);
    }
    seen.clear();
    let (mut instructions, mut passed, mut branches, mut variables, mut widest) = (0, 0, 1, 0, 0);
    // For each open block, whether it is a loop; the number of open loops; and their maximum.
    let (mut open, mut loops, mut nested_loops) = (Vec::new(), 0, 0);
    for operator in body.get_operators_reader()? {
        instructions += 1;
        let operator = operator?;
        match &operator {
            Operator::Loop { .. } => {
                open.push(true);
                loops += 1;
                nested_loops = nested_loops.max(loops);
            }
            Operator::Block { .. } | Operator::If { .. } => open.push(false),
            Operator::End => loops -= u64::from(open.pop() == Some(true)),
            _ => {}
        }
        match operator {
            Operator::LocalGet { local_index }
            | Operator::LocalSet { local_index }
            | Operator::LocalTee { local_index } => {
                let index = local_index as usize;
                // Beyond what a function can have, the compiler's own validation refuses it.
                if index >= seen.len() {
                    seen.resize((index + 1).min(MOST_LOCALS), false);
                }
                if let Some(seen) = seen.get_mut(index)
                    && !*seen
                {
                    *seen = true;
                    variables += 1;
                }
            }
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                branches += 1 + loops;
                let width = match blockty {
                    BlockType::Empty => 0,
                    BlockType::Type(_) => 1,
                    BlockType::FuncType(index) => signatures.of_type(index),
                };
                widest = widest.max(width);
            }
            Operator::Else | Operator::Br { .. } | Operator::BrIf { .. } | Operator::Return => {
                branches += 1 + loops;
            }
            Operator::BrTable { targets } => branches += (1 + loops) * (1 + u64::from(targets.len())),
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                passed += signatures.of_function(function_index);
            }
            Operator::CallIndirect { type_index, .. } | Operator::ReturnCallIndirect { type_index, .. } => {
                passed += signatures.of_type(type_index);
            }
            _ => {}
        }
    }
    Ok(Work {
        steps: STEPS_OF_A_FUNCTION + declared + instructions + passed + branches * (variables + widest),
        nested_loops,
    })
}

/// Maximum number of locals of a function, as WebAssembly implementations have agreed.
const MOST_LOCALS: usize = 51_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(module: &str) -> Option<String> {
        let bytes = wat::parse_str(format!("(component (core module {module}))")).expect("it is WebAssembly");
        check(&bytes).err().map(|error| error.to_string())
    }

    /// Returns a function with nested loops, the innermost of which uses this many variables.
    fn function(loops: usize, variables: usize) -> String {
        let uses: String = (0..variables)
            .map(|n| format!("(drop (local.get {n}))"))
            .collect();
        format!(
            "(func (local {}) {} {uses} {})",
            "i32 ".repeat(variables),
            "loop ".repeat(loops),
            "end ".repeat(loops)
        )
    }

    #[test]
    fn counts_variables_at_branches() {
        assert_eq!(refused(&function(100, 1_000)), None);
        // In the middle there are 50 loops around each.
        let error = refused(&function(100, 1_600)).expect("it is refused");
        assert!(
            error.starts_with("would take too long to compile: 8")
                && error.ends_with(" steps for one function; a plugin may take 8000000"),
            "{error}"
        );
        // Each is below the limit of one function, together they exceed that of all.
        let error = refused(&function(100, 1_000).repeat(20)).expect("it is refused");
        assert!(error.contains(" steps for all functions;"), "{error}");
        assert_eq!(
            refused(&function(101, 0)).expect("it is refused"),
            "has 101 nested loops; a plugin may have 100"
        );
    }

    #[test]
    fn counts_what_is_passed_and_switched() {
        assert_eq!(refused("(func (local i32))"), None);
        let thousand = "i32 ".repeat(1_000);
        let calls = format!(
            "(import \"\" \"f\" (func $f (result {thousand}))) (func {} unreachable)",
            "call $f ".repeat(9_000)
        );
        assert!(refused(&calls).is_some());
        let sets: String = (0..1_000)
            .map(|n| format!("(local.set {n} (i32.const 1))"))
            .collect();
        let switch = format!(
            "(func (local {thousand}) (loop {sets} (br_table {} (i32.const 0))))",
            "0 ".repeat(9_000)
        );
        assert!(refused(&switch).is_some());
        let blocks = format!(
            "(type $wide (func (result {thousand}))) (func (result {thousand}) {} unreachable {})",
            "block (type $wide) ".repeat(9_000),
            "end ".repeat(9_000)
        );
        assert!(refused(&blocks).is_some());
    }
}
