//! Components in OCI registries, packaged as the Wasm OCI artifact guidance of the CNCF's runtime group has it: what `wkg`,
//! `oras` and the registries understand.
//!
//! A client of our own, on the HTTP client that is in this program anyway, for the sake of what a registry may send.
//! `oci-client` 0.18, the crate for the purpose, reads manifests, tokens and the texts of errors without a bound, panics on
//! a token that is no header value, and drops the reason when a token is refused. Of the distribution protocol this is the
//! part that one artifact takes: manifests, blobs, and the two ways to authenticate. Everything from outside is bounded in
//! bytes and in time, and believed by its digest alone.

mod artifact;
mod challenge;
mod client;
mod credentials;
mod reference;

pub(crate) use self::{
    artifact::{Component, Digest, pull, push, push_signature, signature_of},
    client::{Client, Operation},
    credentials::{Credentials, RawRegistryConfig},
    reference::Reference,
};
