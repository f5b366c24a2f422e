//! Components in OCI registries, packaged according to the Wasm OCI artifact guidance of the CNCF's runtime group, which
//! `wkg`, `oras` and the registries understand.
//!
//! This is a client of our own, on the HTTP client that is in this program anyway, because a registry may send anything.
//! `oci-client` 0.18, the crate for the purpose, reads manifests, tokens and error texts without a bound, panics on a token
//! that is not a header value, and drops the reason when a token is refused. The client covers the part of the distribution
//! protocol that a single artifact needs: manifests, blobs, and the two ways to authenticate. Everything from outside is
//! bounded in bytes and in time, and trusted only by its digest.

mod artifact;
mod challenge;
mod client;
mod credentials;
mod reference;

pub(crate) use self::{
    artifact::{Component, Digest, pull, push, signature_of},
    client::{Client, Operation},
    credentials::{Credentials, RawRegistryConfig},
    reference::Reference,
};
