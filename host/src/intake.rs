//! Processes one delivery, without HTTP: proof, plugin, canonical events, bus.
//!
//! A delivery is reported as stored only after the bus has acknowledged all that results from it: events and the dead letter of
//! its unreadable elements, in one append. If that fails, the embedded bus has kept nothing of it. Kafka may have kept a part; the
//! delivery is answered with 503 and sent again, and what was kept has the same event ids, so that it is stored once.

mod received;
mod replay;

use std::{sync::Arc, time::Instant};

use event::{Hasher, Timestamp, TraceContext};
use store::{
    StoreError,
    bus::{Bus, NewRecord},
};
use tracing::{Instrument, field::Empty};

use self::received::Received;
pub(crate) use self::received::{Incoming, request_for};
pub use self::replay::{ReplayError, Replayed};
use crate::{
    accounts::{Account, AccountBook, Accounts, Missing},
    canonical::{self, Converted, Origin, RejectedElement, scrub},
    dead_letter::{self, Budget, Cause},
    delivery::DeliveryError,
    denied::Denials,
    fetch::{AddressRefused, FetchAddress, FetchError, Fetcher},
    metrics::Metrics,
    plugin::{
        Plugin, PluginError, Plugins,
        types::{Batch, Outcome, Reply},
    },
    proof::{CertificateSource, Refusal},
    recordings::{self, Recorder},
    rejected::Rejections,
    seal::Sealer,
    skipped::{SkippedType, SkippedTypes, skipped_types},
};

/// Size up to which a delivery is converted or sealed on the threads that serve all requests: a few hundred events,
/// about a millisecond either way.
const INLINE_BYTES: usize = 64 * 1024;

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
    pub(crate) denials: Denials,
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

    /// Forgets what is remembered of removed accounts: quarantines, budgets of dead letters, logged reasons.
    pub(crate) fn forget_removed_accounts(&self) {
        let is_there = |provider: &str, account: &str| {
            !matches!(self.accounts.get(provider, account), Err(Missing::Unknown(_)))
        };
        self.plugins.keep_accounts(is_there);
        self.letters.keep_accounts(is_there);
        self.rejections.keep_accounts(is_there);
    }

    /// Processes one delivery. On success, everything of it is on the bus.
    pub(crate) async fn take(
        &self,
        plugin: &Arc<Plugin>,
        account: &Arc<Account>,
        incoming: Incoming,
        receipt: Receipt<'_>,
    ) -> Result<Taken, IntakeError> {
        let received = Received::new(plugin, account, incoming);
        let delivery = received.delivery().await?;
        match delivery.read(plugin, &self.certificates).await {
            Ok(Outcome::Events(batch)) => self
                .take_events(&received, receipt, batch)
                .await
                .map(Taken::Stored),
            Ok(Outcome::Reply(reply)) => Ok(Taken::Reply(reply)),
            Ok(Outcome::Confirm(url)) => self.confirm(&received, &url).await,
            Err(DeliveryError::Malformed { reason, is_proven }) => {
                Err(self.take_malformed(&received, receipt, &reason, is_proven).await)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the events of a delivery on the bus, and its unreadable elements into a dead letter.
    async fn take_events(
        &self,
        received: &Received,
        receipt: Receipt<'_>,
        batch: Batch,
    ) -> Result<Counts, IntakeError> {
        let converted = self
            .convert(batch, received, received.at, Some(receipt.trace))
            .await;
        let (account, plugin) = (&received.account, &received.plugin);
        match converted.rejected.first() {
            Some(first) => {
                let cause = Cause::Rejected {
                    elements: &converted.rejected,
                    is_partial: !converted.records.is_empty(),
                };
                if !self.keep(received, receipt, cause, converted.records).await? {
                    return Err(IntakeError::NotKept(first.reason.clone()));
                }
                self.rejections
                    .elements(account, plugin.tag(), receipt.request_id, &converted.rejected);
            }
            None if converted.records.is_empty() => {}
            None => self.append(converted.records).await?,
        }
        self.metrics.elements(account.provider(), converted.counts);
        self.skipped.add(account.provider(), &converted.skipped);
        self.metrics
            .identifiers_dropped(account.provider(), converted.identifiers_dropped);
        if received.request.body.len() <= recordings::MAX_BODY_BYTES {
            self.recorder.keep(account, plugin, || received.raw(true));
        }
        Ok(converted.counts)
    }

    /// Requests the address at which the provider wants its webhook confirmed.
    async fn confirm(&self, received: &Received, url: &str) -> Result<Taken, IntakeError> {
        let address = FetchAddress::parse(url, &received.plugin.descriptor().hosts)?;
        self.fetcher.get(&address).await?;
        let account = &received.account;
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

    /// Keeps a delivery that the plugin could not read, and returns how it is answered.
    async fn take_malformed(
        &self,
        received: &Received,
        receipt: Receipt<'_>,
        reason: &str,
        is_proven: bool,
    ) -> IntakeError {
        let reason = scrub::sentence(reason);
        let cause = Cause::Malformed {
            reason: &reason,
            is_proven,
        };
        match self.keep(received, receipt, cause, Vec::new()).await {
            Ok(true) => {}
            Ok(false) => return IntakeError::NotKept(reason),
            Err(error) => return error.into(),
        }
        if is_proven {
            // Strangers choose what others look like, and so could use up the reasons that are logged.
            self.rejections.delivery(
                &received.account,
                received.plugin.tag(),
                receipt.request_id,
                &reason,
            );
        }
        IntakeError::Malformed(reason)
    }

    /// Appends a dead letter of the delivery, together with the `records` of its events. Returns false, and appends nothing, if
    /// the account's budget of dead letters has no room for it: the provider must then send the delivery again.
    async fn keep(
        &self,
        received: &Received,
        receipt: Receipt<'_>,
        cause: Cause<'_>,
        mut records: Vec<NewRecord>,
    ) -> Result<bool, StoreError> {
        let provider = received.account.provider();
        let share = match self.letters.take(
            &received.account,
            &received.request,
            cause.is_proven(),
            Instant::now(),
        ) {
            Ok(share) => share,
            Err(no_room) => {
                self.metrics.dead_letter_refused(provider, no_room.code());
                return Ok(false);
            }
        };
        let sealed = received
            .sealed(&self.sealer, cause.is_proven(), cause.indexes())
            .await;
        let letter = dead_letter::record(sealed, &received.account, received.plugin.tag(), receipt, cause);
        records.push(letter);
        if let Err(error) = self.append(records).await {
            // Otherwise the retries during an outage would use up the budget, and leave no room once the bus is back.
            self.letters.give_back(&received.account, share);
            return Err(error);
        }
        self.metrics.dead_letter(provider, cause.code());
        Ok(true)
    }

    /// Converts a batch. `now` is later than the time of receipt if the delivery is replayed.
    async fn convert(
        &self,
        batch: Batch,
        received: &Received,
        now: Timestamp,
        trace: Option<TraceContext>,
    ) -> ReadyBatch {
        let (hasher, received) = (self.hasher.clone(), received.clone());
        compute(canonical::bytes_of(&batch), move || {
            let account = &received.account;
            let origin = Origin {
                provider: account.provider(),
                account: account.name(),
                plugin: received.plugin.tag(),
                external_id_scope: account.external_id_scope(),
                received_at: received.at,
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
        let denial = self.denials.of(&records);
        let appended = self.bus.append(records).instrument(span.clone()).await;
        denial.note(&appended);
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
