//! A delivery on its way from unproven to events.
//!
//! `Delivery<Unverified>` has no way to events; [`Delivery::verify`] is the only way to a `Delivery<Verified>`, save for
//! a delivery that this host itself sealed as proven and opens again.

use std::{pin::pin, sync::Arc};

use futures::FutureExt;

use crate::{
    accounts::Account,
    plugin::{
        Guest, Plugin, PluginError,
        types::{Outcome, Rejection, Request},
    },
    proof::{self, CertificateSource, Evidence, Refusal, Trust},
};

/// Not proven yet.
#[derive(Debug)]
pub struct Unverified;

/// Proven, as far as the trust goes.
#[derive(Debug)]
pub struct Verified(Trust);

/// A delivery, the plugin instance that reads it, and what is known of its truth.
pub struct Delivery<State> {
    request: Arc<Request>,
    guest: Guest,
    state: State,
}

/// Why a delivery did not become events.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Its proof is missing, wrong or stale.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be understood, in the plugin's words.
    #[error("{reason}")]
    Malformed {
        /// The plugin's words.
        reason: String,
        /// Whether its proofs had held before that.
        is_proven: bool,
    },
    /// The plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl Delivery<Unverified> {
    /// Makes a fresh instance of the plugin for this request.
    pub async fn new(plugin: &Arc<Plugin>, request: Arc<Request>) -> Result<Self, PluginError> {
        let guest = plugin.instantiate().await?;
        Ok(Self {
            request,
            guest,
            state: Unverified,
        })
    }

    /// Asks the plugin what must hold, and checks it.
    ///
    /// While a certificate is fetched the plugin's turn is given back: anybody can name one that nobody has asked for
    /// before, and must not keep genuine deliveries waiting by it.
    pub async fn verify(
        self,
        plugin: &Arc<Plugin>,
        account: &Account,
        certificates: &dyn CertificateSource,
    ) -> Result<Delivery<Verified>, DeliveryError> {
        let Self { request, guest, .. } = self;
        let (guest, proofs) = guest.authenticate(Arc::clone(&request)).await?;
        let proofs = proofs.map_err(|rejection| refused(rejection, false))?;
        let evidence = Evidence {
            descriptor: plugin.descriptor(),
            account,
            request: &request,
            certificates,
        };
        let (guest, trust) = {
            let mut check = pin!(proof::check(&proofs, &evidence));
            match check.as_mut().now_or_never() {
                Some(checked) => (guest, checked?),
                None => {
                    drop(guest);
                    let trust = check.await?;
                    // The same request on another instance gives the same proofs; the contract wants the calls in order.
                    let guest = plugin.instantiate().await?;
                    (guest.authenticate(Arc::clone(&request)).await?.0, trust)
                }
            }
        };
        Ok(Delivery {
            request,
            guest,
            state: Verified(trust),
        })
    }

    /// Takes over that the proofs held when the delivery came in: it was sealed by this host with that remark.
    pub(crate) fn proven_at_receipt(self) -> Delivery<Verified> {
        let Self { request, guest, .. } = self;
        Delivery {
            request,
            guest,
            state: Verified(Trust::Genuine),
        }
    }
}

impl Delivery<Verified> {
    /// Lets the plugin read the delivery. One whose proof is not worth events gives none.
    pub async fn normalize(self) -> Result<Outcome, DeliveryError> {
        let Self {
            request,
            guest,
            state: Verified(trust),
        } = self;
        let outcome = guest
            .normalize(request)
            .await?
            .map_err(|rejection| refused(rejection, true))?;
        let is_worth_it = match (&outcome, trust) {
            (_, Trust::Genuine | Trust::Unsigned) | (Outcome::Reply(_), _) => true,
            (Outcome::Events(batch), Trust::PublishedKey) => {
                batch.events.is_empty() && batch.rejected.is_empty()
            }
            (Outcome::Events(batch), Trust::Handshake) => {
                batch.events.is_empty() && batch.rejected.is_empty() && batch.skipped.is_empty()
            }
            (Outcome::Confirm(_), Trust::PublishedKey | Trust::Handshake) => false,
        };
        if !is_worth_it {
            return Err(Refusal::PluginFault("it reads data from a delivery that nothing proves").into());
        }
        Ok(outcome)
    }
}

fn refused(rejection: Rejection, is_proven: bool) -> DeliveryError {
    match rejection {
        Rejection::MissingProof(text) => Refusal::ProofMissing(text).into(),
        Rejection::InvalidProof(text) => Refusal::ProofInvalid(text).into(),
        Rejection::Malformed(reason) => DeliveryError::Malformed { reason, is_proven },
    }
}
