//! Takes a delivery from unproven to events.
//!
//! Only a `Delivery<Verified>` yields events. [`Delivery::read`] creates one once the proofs have held. The only other
//! way to get one is to open a delivery that this host itself has sealed as proven.

use std::{sync::Arc, time::Instant};

use futures::{FutureExt, future::BoxFuture};
use tokio::runtime::Handle;

use crate::{
    accounts::Account,
    plugin::{
        Guest, Plugin, PluginError,
        types::{Outcome, Proof, Rejection, Request},
    },
    proof::{self, CertificateSource, Evidence, Refusal, Trust},
};

/// Not proven yet.
#[derive(Debug)]
pub struct Unverified {
    /// The account that it was sent to.
    account: Arc<Account>,
}

/// Proven, to the extent given by its trust.
#[derive(Debug)]
pub struct Verified(Trust);

/// A delivery, the plugin instance that reads it, and what is known about its authenticity.
pub struct Delivery<State> {
    request: Arc<Request>,
    guest: Guest,
    state: State,
}

/// The result of a visit to the plugin.
enum Visit {
    /// The delivery has been read.
    Over(Outcome),
    /// The check of the proofs has to wait for a certificate.
    Waits(BoxFuture<'static, Result<Trust, Refusal>>),
}

/// Why a delivery did not become events.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Its proof is missing, wrong or stale.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The plugin cannot read it, and gives a reason.
    #[error("{reason}")]
    Malformed {
        /// The plugin's reason.
        reason: String,
        /// Whether its proofs had held before.
        is_proven: bool,
    },
    /// The plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl Delivery<Unverified> {
    /// Waits for a slot, and reserves a fresh instance of the plugin for this request to an account.
    pub async fn new(
        plugin: &Arc<Plugin>,
        account: &Arc<Account>,
        request: Arc<Request>,
    ) -> Result<Self, PluginError> {
        let guest = plugin.instantiate(account.name()).await?;
        let account = Arc::clone(account);
        Ok(Self {
            request,
            guest,
            state: Unverified { account },
        })
    }

    /// Asks the plugin what must hold, checks it, and lets the plugin read the delivery: all on one thread, since a hand-over to
    /// another takes as long as both calls.
    ///
    /// Only if a certificate has to be fetched does the delivery leave that thread in between and release the plugin's slot:
    /// anyone can name a certificate that was never requested before, and must not be able to delay genuine deliveries that way.
    ///
    /// # Errors
    /// Returns a [`DeliveryError`] if the delivery is refused, cannot be read, or the plugin fails.
    pub async fn read(
        self,
        plugin: &Arc<Plugin>,
        certificates: &Arc<dyn CertificateSource>,
    ) -> Result<Outcome, DeliveryError> {
        let Self {
            request,
            guest,
            state: Unverified { account },
        } = self;
        let visit = {
            let (plugin, account) = (Arc::clone(plugin), Arc::clone(&account));
            let (request, certificates) = (Arc::clone(&request), Arc::clone(certificates));
            // A check that has to wait waits in this runtime, not in that of the worker thread.
            let waits_in = Handle::current();
            |mut guest: Guest, deadline| async move {
                let proofs = guest.authenticate_here(deadline, &request).await?;
                let proofs = proofs.map_err(|rejection| refused(rejection, false))?;
                let mut check = check(proofs, plugin, account, Arc::clone(&request), certificates);
                let checked = {
                    let _context = waits_in.enter();
                    check.as_mut().now_or_never()
                };
                let Some(trust) = checked else {
                    return Ok(Visit::Waits(check));
                };
                let verified = Delivery {
                    request,
                    guest,
                    state: Verified(trust?),
                };
                verified.normalize_here(deadline).await.map(Visit::Over)
            }
        };
        let trust = match guest.visit(visit).await? {
            Visit::Over(outcome) => return Ok(outcome),
            Visit::Waits(check) => check.await?,
        };
        let verified = Delivery {
            request,
            guest: plugin.instantiate_again(account.name()).await?,
            state: Verified(trust),
        };
        verified.normalize().await
    }

    /// Accepts that the proofs held when the delivery was received: this host recorded that when it sealed the delivery.
    pub(crate) fn proven_at_receipt(self) -> Delivery<Verified> {
        Delivery {
            request: self.request,
            guest: self.guest,
            state: Verified(Trust::Genuine),
        }
    }
}

impl Delivery<Verified> {
    /// Lets a fresh instance read the delivery. Refuses events from a delivery whose trust does not cover them.
    pub(crate) async fn normalize(self) -> Result<Outcome, DeliveryError> {
        let Self {
            request,
            guest,
            state,
        } = self;
        guest
            .visit(|mut guest, deadline| async move {
                // The contract requires the calls in this order, and a plugin may keep what it has read. Its answer no longer counts:
                // the proofs have held already.
                let _ = guest.authenticate_here(deadline, &request).await?;
                let verified = Delivery {
                    request,
                    guest,
                    state,
                };
                verified.normalize_here(deadline).await
            })
            .await
    }

    /// Lets an instance that has been asked for the proofs read the delivery, on the thread of a visit.
    async fn normalize_here(self, deadline: Instant) -> Result<Outcome, DeliveryError> {
        let Self {
            request,
            mut guest,
            state: Verified(trust),
        } = self;
        let is_proven = match trust {
            // An account that accepts unproven deliveries can only be judged by those.
            Trust::Genuine | Trust::Unsigned => true,
            // Anyone can send these.
            Trust::PublishedKey | Trust::Handshake => false,
        };
        if is_proven {
            guest.set_proven();
        }
        let outcome = guest
            .normalize_here(deadline, &request)
            .await?
            .map_err(|rejection| refused(rejection, is_proven))?;
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
            return Err(Refusal::PluginFault("it reads data from an unproven delivery").into());
        }
        Ok(outcome)
    }
}

/// Checks a delivery's proofs. The future may be awaited on another thread than it was first polled on.
fn check(
    proofs: Vec<Proof>,
    plugin: Arc<Plugin>,
    account: Arc<Account>,
    request: Arc<Request>,
    certificates: Arc<dyn CertificateSource>,
) -> BoxFuture<'static, Result<Trust, Refusal>> {
    async move {
        let evidence = Evidence {
            descriptor: plugin.descriptor(),
            account: &account,
            request: &request,
            certificates: &*certificates,
        };
        proof::check(&proofs, &evidence).await
    }
    .boxed()
}

fn refused(rejection: Rejection, is_proven: bool) -> DeliveryError {
    match rejection {
        Rejection::MissingProof(text) => Refusal::ProofMissing(text).into(),
        Rejection::InvalidProof(text) => Refusal::ProofInvalid(text).into(),
        Rejection::Malformed(reason) => DeliveryError::Malformed { reason, is_proven },
    }
}
