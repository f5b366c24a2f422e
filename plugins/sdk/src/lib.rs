#![doc = include_str!("../README.md")]

#[cfg(target_family = "wasm")]
mod allocator;
pub mod batch;
#[doc(hidden)]
pub mod bindings;
mod bytes;
mod descriptor;
pub mod form;
pub mod json;
pub mod log;
pub mod proof;
mod request;
pub mod text;
pub mod time;

#[doc(inline)]
pub use batch::{Element, Unused, reject, skip};
/// What happened to one recipient. [Choosing types, ids and
/// fields](https://github.com/sendflowr/sendflowr/blob/HEAD/docs/write-a-plugin.md#choosing-types-ids-and-fields) tells what
/// follows from each of them.
///
#[doc(inline)]
pub use bindings::sendflowr::connector::types::Event;
#[doc(inline)]
pub use bindings::sendflowr::connector::types::{
    BasicAuth, Batch, BounceType, Descriptor, Encoding, EventType, Freshness, Hash, HashConstruction,
    HashKey, Header, Identifier, IdentifierKind, KeyedHash, Message, Outcome, Pair, Part, Proof, PublicKey,
    PublicKeySignature, Rejected, Rejection, Reply, Request, SecretKey, SecretSpec, Setting, SettingSpec,
    SharedSecret, Signature, SignatureScheme, Skipped, Statuses,
};
#[doc(inline)]
pub use form::Form;
#[doc(inline)]
pub use json::{Document, Value};
#[doc(inline)]
pub use proof::Proofs;

/// A provider plugin: three pure functions of one delivery.
///
/// The same request must always give the same result. A plugin has no clock (`Request::received_at_ms` is the
/// current time), no network and no secrets; the host checks the proofs, hashes addresses and owns every
/// retry.
pub trait Plugin {
    /// Describes the plugin; returns the same descriptor on every call.
    fn describe() -> Descriptor;

    /// Returns the proofs that must hold for this delivery to be genuine. All of them must hold; an empty
    /// list means that nothing can be checked, and the host refuses such a delivery unless the operator
    /// allows unsigned deliveries.
    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection>;

    /// Turns a genuine delivery into events, or into the reply that a handshake asks for.
    fn normalize(request: &Request) -> Result<Outcome, Rejection>;
}

impl<P: Plugin> bindings::exports::sendflowr::connector::plugin::Guest for P {
    fn describe() -> Descriptor {
        log_panics();
        P::describe()
    }

    fn authenticate(request: Request) -> Result<Vec<Proof>, Rejection> {
        log_panics();
        P::authenticate(&request)
    }

    fn normalize(request: Request) -> Result<Outcome, Rejection> {
        log_panics();
        P::normalize(&request)
    }
}

/// Logs the message and the place of a panic, of which the host sees only that an `unreachable` instruction was executed. Only in
/// builds for debugging: importing the log makes an instance take 0.6 µs longer, which is 5 % of a delivery of one event.
fn log_panics() {
    #[cfg(all(target_family = "wasm", debug_assertions))]
    std::panic::set_hook(Box::new(|panic| log::log(log::Level::Error, &panic.to_string())));
}

/// Exports a [`Plugin`], given by its name or path, as the component's plugin. Expands to nothing on targets other than WebAssembly, so
/// that a plugin is an ordinary library in tests.
#[macro_export]
macro_rules! export {
    ($plugin:path) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, missing_docs)]
        const _: () = {
            // The bindings' own macro takes a name, not a path.
            type __SendflowrPlugin = $plugin;
    $crate::bindings::export_connector!(__SendflowrPlugin with_types_in $crate::bindings);
        };
    };
}

#[cfg(test)]
mod tests {
    // The place of a plugin does not matter to the macro.
    crate::export!(crate::tests::InAModule);
}
