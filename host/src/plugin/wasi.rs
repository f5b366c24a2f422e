//! The closed WASI: what components built for WASI 0.2 get instead of a system.
//!
//! Toolchains link WASI in whether a plugin uses it or not. Here it gives access to nothing: no files, no sockets, no
//! environment, no arguments, no input. The clocks stand still at the delivery's time of receipt, randomness is derived from the
//! delivery alone, and what is printed becomes lines of the plugin's log. So the same delivery yields the same bytes every time.
//! Waiting for a time that never comes, or exiting, ends the call at once as the plugin's fault: no thread ever sleeps.
//!
//! Only components that import it pay for it.

mod random;
mod state;

use semver::Version;
use wasmtime::{
    StoreContextMut,
    component::{
        Component, ComponentNamedList, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource,
        ResourceType, Type, Val, types::ComponentItem,
    },
};

pub(crate) use self::state::ClosedWorld;
use self::state::Stream;
use super::sandbox::Sandbox;

/// The supported interfaces, in any 0.2 version.
const INTERFACES: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Returns the interface of the closed WASI that an import names, if any.
pub(crate) fn interface(import: &str) -> Option<&'static str> {
    let (name, version) = import.split_once('@')?;
    let version = Version::parse(version).ok()?;
    if (version.major, version.minor) != (0, 2) || !version.pre.is_empty() {
        return None;
    }
    INTERFACES.into_iter().find(|interface| *interface == name)
}

/// Readiness: either now or never.
enum Pollable {}
/// What the plugin prints to.
enum OutputStream {}
/// A stream that never provides anything.
enum InputStream {}
/// The network, without any host.
enum Network {}
/// A file, a socket, an error: resources that no function here ever returns.
enum Absent {}

/// `wasi:io/streams.stream-error`.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[expect(dead_code, reason = "part of the interface; nothing here fails that way")]
    LastOperationFailed(Resource<Absent>),
    #[component(name = "closed")]
    Closed,
}

/// `wasi:clocks/wall-clock.datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// Types that the parameters of all functions which a component imports from WASI may consist of: many times what all of WASI has.
const MOST_PARAMETER_TYPES: usize = 10_000;

/// Defines what the component imports from the closed WASI, under the names and versions that it uses.
///
/// # Errors
/// If a function takes what no function of WASI takes and what would fill the host's memory: the component declares the types
/// of functions that are not defined here, and the runtime converts arguments before it calls any function. It charges the
/// text for each flag with the length of the flag's name, which is a fraction of its size. WASI has flags only as a parameter.
pub(crate) fn link(linker: &mut Linker<Sandbox>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    let mut types_left = MOST_PARAMETER_TYPES;
    for (import, wanted) in component.component_type().imports(&engine) {
        let (Some(interface), ComponentItem::ComponentInstance(wanted)) = (interface(import), wanted.ty)
        else {
            continue;
        };
        let mut instance = linker.instance(import)?;
        for (name, item) in wanted.exports(&engine) {
            match item.ty {
                ComponentItem::Resource(_) => instance.resource(name, resource(name), |mut context, _| {
                    context.data_mut().wasi()?.dropped();
                    Ok(())
                })?,
                ComponentItem::ComponentFunc(wanted) => {
                    for (_, parameter) in wanted.params() {
                        if !matches!(parameter, Type::Flags(_)) && may_hold_flags(&parameter, &mut types_left)
                        {
                            return Err(wasmtime::Error::msg(format!(
                                "it imports `{interface}` with a function whose parameters are not those of WASI 0.2"
                            )));
                        }
                    }
                    function(&mut instance, interface, name)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns whether a value of this type may hold flags, as far as `types_left` allows to tell.
fn may_hold_flags(parameter: &Type, types_left: &mut usize) -> bool {
    let Some(left) = types_left.checked_sub(1) else {
        return true;
    };
    *types_left = left;
    let mut holds = |part: &Type| may_hold_flags(part, types_left);
    match parameter {
        Type::Bool
        | Type::S8
        | Type::U8
        | Type::S16
        | Type::U16
        | Type::S32
        | Type::U32
        | Type::S64
        | Type::U64
        | Type::Float32
        | Type::Float64
        | Type::Char
        | Type::String
        | Type::Enum(_)
        | Type::Own(_)
        | Type::Borrow(_) => false,
        Type::List(list) => holds(&list.ty()),
        Type::Record(record) => record.fields().any(|field| holds(&field.ty)),
        Type::Tuple(tuple) => tuple.types().any(|part| holds(&part)),
        Type::Variant(variant) => variant
            .cases()
            .any(|case| case.ty.is_some_and(|part| holds(&part))),
        Type::Option(option) => holds(&option.ty()),
        Type::Result(result) => {
            result.ok().is_some_and(|part| holds(&part)) || result.err().is_some_and(|part| holds(&part))
        }
        // Flags, and what WASI 0.2 does not know.
        _ => true,
    }
}

fn resource(name: &str) -> ResourceType {
    match name {
        "pollable" => ResourceType::host::<Pollable>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "network" => ResourceType::host::<Network>(),
        _ => ResourceType::host::<Absent>(),
    }
}

/// Defines one function. Functions that need a resource which is never handed out, and unknown functions, end the call
/// when they are called.
fn function(
    instance: &mut LinkerInstance<'_, Sandbox>,
    interface: &'static str,
    name: &str,
) -> wasmtime::Result<()> {
    match interface {
        "wasi:cli/environment" => environment(instance, name),
        "wasi:clocks/monotonic-clock" | "wasi:clocks/wall-clock" => clock(instance, interface, name),
        "wasi:io/poll" => poll(instance, name),
        "wasi:io/streams" => stream(instance, name),
        "wasi:random/random" | "wasi:random/insecure" | "wasi:random/insecure-seed" => random(instance, name),
        "wasi:filesystem/preopens" if name == "get-directories" => define(instance, name, |_, ()| {
            Ok((Vec::<(Resource<Absent>, String)>::new(),))
        }),
        _ if interface.starts_with("wasi:cli/") => cli(instance, name),
        _ if interface.starts_with("wasi:sockets/") => socket(instance, name),
        _ => closed(instance, name),
    }
}

/// Defines a function of the closed world.
fn define<P, R>(
    instance: &mut LinkerInstance<'_, Sandbox>,
    name: &str,
    work: impl Fn(&mut ClosedWorld, P) -> wasmtime::Result<R> + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    P: ComponentNamedList + Lift + 'static,
    R: ComponentNamedList + Lower + 'static,
{
    instance.func_wrap(
        name,
        move |mut context: StoreContextMut<'_, Sandbox>, parameters: P| {
            let results = work(context.data_mut().wasi()?, parameters)?;
            context.data_mut().end_host_call()?;
            Ok(results)
        },
    )
}

/// Defines a function that ends the call.
fn closed(instance: &mut LinkerInstance<'_, Sandbox>, name: &str) -> wasmtime::Result<()> {
    let called = name.to_owned();
    instance.func_new(name, move |_, _, _, _| {
        Err(state::fault(format!(
            "it called `{called}`, which is not available to plugins"
        )))
    })
}

fn environment(instance: &mut LinkerInstance<'_, Sandbox>, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-environment" => define(instance, name, |_, ()| Ok((Vec::<(String, String)>::new(),))),
        "get-arguments" => define(instance, name, |_, ()| Ok((Vec::<String>::new(),))),
        "initial-cwd" => define(instance, name, |_, ()| Ok((None::<String>,))),
        _ => closed(instance, name),
    }
}

fn cli(instance: &mut LinkerInstance<'_, Sandbox>, name: &str) -> wasmtime::Result<()> {
    match name {
        "exit" => define(
            instance,
            name,
            |_, (_,): (Result<(), ()>,)| -> wasmtime::Result<()> {
                Err(state::fault("it called `exit`".to_owned()))
            },
        ),
        "exit-with-code" => define(instance, name, |_, (_,): (u8,)| -> wasmtime::Result<()> {
            Err(state::fault("it called `exit`".to_owned()))
        }),
        "get-stdin" => define(instance, name, |world, ()| {
            Ok((Resource::<InputStream>::new_own(world.handle(0)?),))
        }),
        "get-stdout" => define(instance, name, |world, ()| {
            Ok((Resource::<OutputStream>::new_own(
                world.handle(Stream::Stdout.number())?,
            ),))
        }),
        "get-stderr" => define(instance, name, |world, ()| {
            Ok((Resource::<OutputStream>::new_own(
                world.handle(Stream::Stderr.number())?,
            ),))
        }),
        "get-terminal-stdin" | "get-terminal-stdout" | "get-terminal-stderr" => {
            define(instance, name, |_, ()| Ok((None::<Resource<Absent>>,)))
        }
        _ => closed(instance, name),
    }
}

fn clock(
    instance: &mut LinkerInstance<'_, Sandbox>,
    interface: &'static str,
    name: &str,
) -> wasmtime::Result<()> {
    let datetime = |nanoseconds: u64| Datetime {
        seconds: nanoseconds / 1_000_000_000,
        // A remainder of 10^9 fits.
        nanoseconds: u32::try_from(nanoseconds % 1_000_000_000).unwrap_or_default(),
    };
    // Times of receipt are in milliseconds.
    const RESOLUTION: u64 = 1_000_000;
    match (interface, name) {
        ("wasi:clocks/wall-clock", "now") => {
            define(instance, name, move |world, ()| Ok((datetime(world.now()),)))
        }
        ("wasi:clocks/wall-clock", "resolution") => {
            define(instance, name, move |_, ()| Ok((datetime(RESOLUTION),)))
        }
        (_, "now") => define(instance, name, |world, ()| Ok((world.now(),))),
        (_, "resolution") => define(instance, name, |_, ()| Ok((RESOLUTION,))),
        (_, "subscribe-instant") => define(instance, name, |world, (when,): (u64,)| {
            let is_past = when <= world.now();
            pollable(world, is_past)
        }),
        (_, "subscribe-duration") => define(instance, name, |world, (wait,): (u64,)| {
            pollable(world, wait == 0)
        }),
        _ => closed(instance, name),
    }
}

/// A pollable's number says whether it is ready.
const READY: u32 = 1;
const NEVER: u32 = 2;

fn pollable(world: &mut ClosedWorld, is_ready: bool) -> wasmtime::Result<(Resource<Pollable>,)> {
    let number = if is_ready { READY } else { NEVER };
    Ok((Resource::new_own(world.handle(number)?),))
}

fn poll(instance: &mut LinkerInstance<'_, Sandbox>, name: &str) -> wasmtime::Result<()> {
    let never = || state::fault("it waits for a time that never comes: its clocks stand still".to_owned());
    match name {
        "[method]pollable.ready" => define(instance, name, |_, (this,): (Resource<Pollable>,)| {
            Ok((this.rep() == READY,))
        }),
        "[method]pollable.block" => define(instance, name, move |_, (this,): (Resource<Pollable>,)| {
            if this.rep() == READY { Ok(()) } else { Err(never()) }
        }),
        "poll" => define(instance, name, move |_, (all,): (Vec<Resource<Pollable>>,)| {
            let ready: Vec<u32> = (0_u32..)
                .zip(&all)
                .filter(|(_, pollable)| pollable.rep() == READY)
                .map(|(index, _)| index)
                .collect();
            if ready.is_empty() {
                Err(never())
            } else {
                Ok((ready,))
            }
        }),
        _ => closed(instance, name),
    }
}

fn stream(instance: &mut LinkerInstance<'_, Sandbox>, name: &str) -> wasmtime::Result<()> {
    type Out = Resource<OutputStream>;
    type In = Resource<InputStream>;
    match name {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            define(instance, name, |_, (_, _): (In, u64)| {
                Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
            })
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            define(instance, name, |_, (_, _): (In, u64)| {
                Ok((Err::<u64, _>(StreamError::Closed),))
            })
        }
        "[method]input-stream.subscribe" => {
            define(instance, name, |world, (_,): (In,)| pollable(world, true))
        }
        "[method]output-stream.subscribe" => {
            define(instance, name, |world, (_,): (Out,)| pollable(world, true))
        }
        "[method]output-stream.check-write" => define(instance, name, |_, (_,): (Out,)| {
            Ok((Ok::<_, StreamError>(u64::try_from(state::MOST_WRITTEN_AT_ONCE)?),))
        }),
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            define(instance, name, |world, (this, bytes): (Out, Vec<u8>)| {
                world.print(Stream::of(this.rep()), &bytes)?;
                Ok((Ok::<(), StreamError>(()),))
            })
        }
        // A line is logged when it is complete.
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            define(instance, name, |_, (_,): (Out,)| Ok((Ok::<(), StreamError>(()),)))
        }
        _ => closed(instance, name),
    }
}

fn random(instance: &mut LinkerInstance<'_, Sandbox>, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-random-bytes" | "get-insecure-random-bytes" => {
            define(instance, name, |world, (length,): (u64,)| {
                Ok((world.random_bytes(length)?,))
            })
        }
        "get-random-u64" | "get-insecure-random-u64" => {
            define(instance, name, |world, ()| Ok((world.random_u64(),)))
        }
        "insecure-seed" => define(instance, name, |world, ()| {
            Ok(((world.random_u64(), world.random_u64()),))
        }),
        _ => closed(instance, name),
    }
}

fn socket(instance: &mut LinkerInstance<'_, Sandbox>, name: &str) -> wasmtime::Result<()> {
    match name {
        "instance-network" => define(instance, name, |world, ()| {
            Ok((Resource::<Network>::new_own(world.handle(0)?),))
        }),
        "create-tcp-socket" | "create-udp-socket" | "resolve-addresses" => {
            instance.func_new(name, |_, _, _, results| {
                for result in results {
                    let denied = Val::Enum("access-denied".to_owned());
                    *result = Val::Result(Err(Some(Box::new(denied))));
                }
                Ok(())
            })
        }
        _ => closed(instance, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stable_0_2_of_the_interfaces_exists() {
        assert_eq!(interface("wasi:io/poll@0.2.0"), Some("wasi:io/poll"));
        assert_eq!(interface("wasi:io/poll@0.2.6"), Some("wasi:io/poll"));
        for other in [
            "wasi:io/poll",
            "wasi:io/poll@0.3.0",
            "wasi:io/poll@0.2.0-rc-2023-11-10",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:clocks/timezone@0.2.0",
        ] {
            assert_eq!(interface(other), None, "{other}");
        }
    }
}
