//! Processes one delivery, without HTTP: proof, plugin, canonical events, bus.
//!
//! A delivery is reported as stored only after the bus has acknowledged all that results from it: events and the dead letter of
//! its unreadable elements, in one append. If that fails, the embedded bus has kept nothing of it. Kafka may have kept a part; the
//! delivery is answered with 503 and sent again, and what was kept has the same event ids, so that it is stored once.

mod replay;

use std::sync::Arc;

use event::{Hasher, Timestamp, TraceContext};
use store::{
    StoreError,
    bus::{Bus, NewRecord},
};
use tracing::{Instrument, field::Empty};

pub use self::replay::{ReplayError, Replayed};
use crate::{
    accounts::{Account, AccountBook, Accounts, Missing},
    canonical::{self, Converted, Origin, RejectedElement, scrub},
    dead_letter::{self, Budget, Cause},
    delivery::{Delivery, DeliveryError},
    fetch::{AddressRefused, FetchAddress, FetchError, Fetcher},
    metrics::Metrics,
    plugin::{
        Plugin, PluginError, Plugins,
        types::{Batch, Header, Outcome, Reply, Request},
    },
    proof::{CertificateSource, Refusal},
    recordings::{self, Recorder},
    rejected::Rejections,
    seal::{RawDelivery, Sealer},
    skipped::{SkippedType, SkippedTypes, skipped_types},
};

/// Size up to which a delivery is converted or sealed on the threads that serve all requests: a few hundred events,
/// about a millisecond either way.
const INLINE_BYTES: usize = 64 * 1024;

/// A delivery as it was received over HTTP.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<Header>,
    pub(crate) body: Vec<u8>,
    pub(crate) received_at: Timestamp,
}

/// Identifies a delivery in logs, on the bus and in dead letters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) trace: TraceContext,
}

/// How the elements of a delivery were handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Events that were stored.
    pub accepted: usize,
    /// Elements that were understood but yield no event.
    pub skipped: usize,
    /// Elements that could not be read.
    pub rejected: usize,
}

/// How a genuine delivery is answered.
#[derive(Debug)]
pub(crate) enum Taken {
    Stored(Counts),
    Reply(Reply),
    Confirmed,
}

/// Why a delivery was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// Its proof is missing, wrong or stale.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The plugin cannot read it, and gives a reason.
    #[error("{0}")]
    Malformed(String),
    /// The plugin cannot read it or a part of it, and nothing of it was kept: if it is genuine, it has to be sent again.
    #[error("{0}")]
    NotKept(String),
    /// The plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The bus does not accept events at the moment.
    #[error("the bus does not accept events")]
    Bus(#[from] StoreError),
    /// The plugin asks to confirm at an address that does not belong to the provider.
    #[error("the confirmation's address is refused")]
    ConfirmationRefused(#[from] AddressRefused),
    /// The confirmation request failed.
    #[error("the confirmation failed")]
    Confirmation(#[from] FetchError),
}

impl From<DeliveryError> for IntakeError {
    fn from(error: DeliveryError) -> Self {
        match error {
            DeliveryError::Refused(refusal) => Self::Refused(refusal),
            DeliveryError::Malformed { reason, .. } => Self::Malformed(scrub::sentence(&reason)),
            DeliveryError::Plugin(error) => Self::Plugin(error),
        }
    }
}

/// Accepts deliveries and turns them into events on the bus.
pub struct Intake {
    pub(crate) plugins: Plugins,
    pub(crate) accounts: AccountBook,
    pub(crate) hasher: Hasher,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) metrics: Metrics,
    pub(crate) certificates: Arc<dyn CertificateSource>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) recorder: Recorder,
    pub(crate) letters: Budget,
    pub(crate) skipped: SkippedTypes,
    pub(crate) rejections: Rejections,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

impl Intake {
    /// Returns the installed plugins.
    pub fn plugins(&self) -> &Plugins {
        &self.plugins
    }

    /// Returns the current accounts.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.current()
    }

    /// Has the plugins forget the quarantines of removed accounts.
    pub(crate) fn forget_removed_accounts(&self) {
        self.plugins.keep_accounts(|provider, account| {
            !matches!(self.accounts.get(provider, account), Err(Missing::Unknown(_)))
        });
    }

    /// Processes one delivery. On success, everything of it is on the bus.
    pub(crate) async fn take(
        &self,
        plugin: &Arc<Plugin>,
        account: &Arc<Account>,
        incoming: Incoming,
        receipt: Receipt<'_>,
    ) -> Result<Taken, IntakeError> {
        let received_at = incoming.received_at;
        let request = Arc::new(request_for(plugin, account, incoming));
        let delivery = Delivery::new(plugin, account, Arc::clone(&request)).await?;
        match delivery.read(plugin, &self.certificates).await {
            Ok(Outcome::Events(batch)) => {
                let converted = self
                    .convert(
                        batch,
                        plugin,
                        account,
                        received_at,
                        received_at,
                        Some(receipt.trace),
                    )
                    .await;
                let mut records = Vec::with_capacity(converted.records.len() + 1);
                records.extend(converted.records);
                if let Some(first) = converted.rejected.first() {
                    if !self.may_keep(account, &request, received_at, true) {
                        return Err(IntakeError::NotKept(first.reason.clone()));
                    }
                    let rejected = converted.rejected.iter().map(|element| element.index).collect();
                    let sealed = self
                        .sealed(plugin, account, &request, received_at, true, rejected)
                        .await;
                    let cause = Cause::Rejected(&converted.rejected);
                    records.push(dead_letter::record(sealed, account, plugin.tag(), receipt, cause));
                }
                if !records.is_empty() {
                    self.append(records).await?;
                }
                self.metrics.elements(account.provider(), converted.counts);
                self.skipped.add(account.provider(), &converted.skipped);
                self.metrics
                    .identifiers_dropped(account.provider(), converted.identifiers_dropped);
                if !converted.rejected.is_empty() {
                    self.metrics.dead_letter(account.provider(), "rejected_elements");
                    self.rejections
                        .elements(account, plugin.tag(), receipt.request_id, &converted.rejected);
                }
                if request.body.len() <= recordings::MAX_BODY_BYTES {
                    self.recorder.keep(account, plugin, || {
                        raw_delivery(&request, account, received_at, true)
                    });
                }
                Ok(Taken::Stored(converted.counts))
            }
            Ok(Outcome::Reply(reply)) => Ok(Taken::Reply(reply)),
            Ok(Outcome::Confirm(url)) => {
                let address = FetchAddress::parse(&url, &plugin.descriptor().hosts)?;
                self.fetcher.get(&address).await?;
                tracing::info!(
                    provider = account.provider(),
                    account = account.name(),
                    "confirmed the webhook of `{}` account `{}` at `{}`",
                    account.provider(),
                    account.name(),
                    address.host()
                );
                Ok(Taken::Confirmed)
            }
            Err(DeliveryError::Malformed { reason, is_proven }) => {
                let reason = scrub::sentence(&reason);
                let is_kept = self
                    .keep_malformed(
                        plugin,
                        account,
                        &request,
                        received_at,
                        receipt,
                        &reason,
                        is_proven,
                    )
                    .await?;
                if is_kept && is_proven {
                    // Strangers choose what others look like, and so could use up the reasons that are logged.
                    self.rejections
                        .delivery(account, plugin.tag(), receipt.request_id, &reason);
                }
                match is_kept {
                    true => Err(IntakeError::Malformed(reason)),
                    false => Err(IntakeError::NotKept(reason)),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a delivery's part of its account's budget of dead letters. If there is none left, the provider must send the delivery
    /// again.
    fn may_keep(
        &self,
        account: &Account,
        request: &Request,
        received_at: Timestamp,
        is_proven: bool,
    ) -> bool {
        let names = (account.provider(), account.name());
        let may_keep = self.letters.take(names, request, is_proven, received_at);
        if !may_keep {
            self.metrics.dead_letter(account.provider(), "malformed_not_kept");
        }
        may_keep
    }

    /// Keeps a delivery that the plugin could not read, and returns whether it was kept.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the dead letter")]
    async fn keep_malformed(
        &self,
        plugin: &Arc<Plugin>,
        account: &Arc<Account>,
        request: &Arc<Request>,
        received_at: Timestamp,
        receipt: Receipt<'_>,
        reason: &str,
        is_proven: bool,
    ) -> Result<bool, StoreError> {
        if !self.may_keep(account, request, received_at, is_proven) {
            return Ok(false);
        }
        let sealed = self
            .sealed(plugin, account, request, received_at, is_proven, Vec::new())
            .await;
        let letter = dead_letter::record(sealed, account, plugin.tag(), receipt, Cause::Malformed(reason));
        self.append(vec![letter]).await?;
        self.metrics.dead_letter(account.provider(), "malformed");
        Ok(true)
    }

    /// Seals the delivery for a dead letter. `rejected` holds the positions of the elements that yielded no event when
    /// others did.
    async fn sealed(
        &self,
        plugin: &Arc<Plugin>,
        account: &Arc<Account>,
        request: &Arc<Request>,
        received_at: Timestamp,
        is_proven: bool,
        rejected: Vec<u32>,
    ) -> Vec<u8> {
        let (sealer, plugin) = (Arc::clone(&self.sealer), Arc::clone(plugin));
        let (account, request) = (Arc::clone(account), Arc::clone(request));
        compute(request.body.len(), move || {
            let raw = RawDelivery {
                rejected,
                ..raw_delivery(&request, &account, received_at, is_proven)
            };
            sealer.seal(&raw, plugin.tag())
        })
        .await
    }

    /// Converts a batch. `now` is later than the time of receipt if the delivery is replayed.
    async fn convert(
        &self,
        batch: Batch,
        plugin: &Arc<Plugin>,
        account: &Arc<Account>,
        received_at: Timestamp,
        now: Timestamp,
        trace: Option<TraceContext>,
    ) -> ReadyBatch {
        let hasher = self.hasher.clone();
        let (plugin, account) = (Arc::clone(plugin), Arc::clone(account));
        compute(canonical::bytes_of(&batch), move || {
            let origin = Origin {
                provider: account.provider(),
                account: account.name(),
                plugin: plugin.tag(),
                external_id_scope: account.external_id_scope(),
                received_at,
                now,
            };
            ReadyBatch::new(canonical::convert(batch, &hasher, &origin), trace)
        })
        .await
    }

    /// Appends records to the bus.
    pub(crate) async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        let span = tracing::debug_span!(
            "append",
            otel.kind = "producer",
            messaging.operation.r#type = "send",
            messaging.destination.name = records.first().map(|record| record.topic.as_str()),
            messaging.batch.message_count = records.len(),
            otel.status_code = Empty,
        );
        let appended = self.bus.append(records).instrument(span.clone()).await;
        if appended.is_err() {
            span.record("otel.status_code", "error");
        }
        appended
    }
}

/// Runs work on this many bytes: on this thread when they are few, otherwise on a blocking thread.
async fn compute<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= INLINE_BYTES {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failure) => match failure.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("the work is not aborted while it is waited for"),
        },
    }
}

/// A batch ready for the bus.
struct ReadyBatch {
    records: Vec<NewRecord>,
    rejected: Vec<RejectedElement>,
    skipped: Vec<SkippedType>,
    identifiers_dropped: u64,
    counts: Counts,
}

impl ReadyBatch {
    fn new(converted: Converted, trace: Option<TraceContext>) -> Self {
        let Converted {
            events,
            rejected,
            skipped,
            identifiers_dropped,
        } = converted;
        let counts = Counts {
            accepted: events.len(),
            skipped: skipped.len(),
            rejected: rejected.len(),
        };
        Self {
            records: events
                .iter()
                .map(|event| NewRecord::of_event(event, trace))
                .collect(),
            rejected,
            skipped: skipped_types(&skipped),
            identifiers_dropped,
            counts,
        }
    }
}

/// Builds the request as the plugin gets it: settings with their values, secrets by name only.
pub(crate) fn request_for(plugin: &Plugin, account: &Account, incoming: Incoming) -> Request {
    let descriptor = plugin.descriptor();
    Request {
        method: incoming.method,
        path: incoming.path,
        query: incoming.query,
        headers: incoming.headers,
        body: incoming.body,
        received_at_ms: incoming.received_at.as_millis(),
        settings: account.settings(descriptor),
        secrets: account.secret_names(descriptor),
    }
}

fn raw_delivery(
    request: &Request,
    account: &Account,
    received_at: Timestamp,
    is_proven: bool,
) -> RawDelivery {
    let headers = request
        .headers
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()));
    RawDelivery {
        provider: account.provider().to_owned(),
        account: account.name().to_owned(),
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
        headers: headers.collect(),
        body: request.body.clone(),
        received_at,
        is_proven,
        rejected: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn much_work_leaves_the_threads_that_serve_everybody() {
        let thread = || std::thread::current().id();
        let here = thread();
        assert_eq!(compute(INLINE_BYTES, thread).await, here);
        assert_ne!(compute(INLINE_BYTES + 1, thread).await, here);
    }
}
