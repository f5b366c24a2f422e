//! Reads dead letters again.

use std::{collections::HashSet, time::SystemTime};

use event::{TRACE_HEADER, Timestamp};
use store::bus::{NewRecord, Record, header};

use super::{Incoming, Intake, IntakeError, received::Received};
use crate::{
    accounts::Missing,
    canonical::RejectedElement,
    delivery::DeliveryError,
    plugin::types::Outcome,
    seal::{OpenError, SealContext},
};

/// Why a dead letter could not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A host did not seal it.
    #[error("the dead letter was not written by a host: it has no header `{0}`")]
    NotOurs(&'static str),
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its plugin is no longer installed.
    #[error("no plugin serves `{0}`")]
    UnknownProvider(String),
    /// Its account is no longer configured.
    #[error("`{provider}` has no account `{account}`")]
    UnknownAccount {
        /// The provider.
        provider: String,
        /// The account.
        account: String,
    },
    /// Its account may be among the stored ones, which cannot be read.
    #[error("the stored accounts cannot be read: try again once `sendflowr config check` succeeds")]
    AccountsUnread,
    /// It is unproven and now refused for good: either a stranger sent it, or it is a genuine one that no plugin can read yet.
    #[error("it is unproven")]
    Unproven(#[source] IntakeError),
    /// It failed again.
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

impl ReplayError {
    /// Returns whether the plugin says that it cannot read the delivery. It may have failed for many other reasons.
    pub fn is_unreadable(&self) -> bool {
        match self {
            Self::Unproven(error) | Self::Intake(error) => matches!(error, IntakeError::Malformed(_)),
            Self::NotOurs(_)
            | Self::Open(_)
            | Self::UnknownProvider(_)
            | Self::UnknownAccount { .. }
            | Self::AccountsUnread => false,
        }
    }
}

/// What the installed plugin reads in a dead letter.
#[derive(Debug)]
pub struct Replayed {
    /// The records of its events.
    pub records: Vec<NewRecord>,
    /// The elements that are still rejected.
    pub rejected: Vec<RejectedElement>,
}

impl Intake {
    /// Runs a dead letter through the currently installed plugin and returns what is to be put on the bus. Of a delivery that was
    /// read in part, only the rejected elements count: the events of the others are stored already, and another version of the
    /// plugin may give them other ids.
    ///
    /// # Errors
    /// Returns a [`ReplayError`] if the dead letter yielded nothing; it should then be kept.
    pub async fn replay(&self, letter: &Record) -> Result<Replayed, ReplayError> {
        let header = |name| {
            letter
                .headers
                .get(name)
                .map(String::as_str)
                .ok_or(ReplayError::NotOurs(name))
        };
        let context = SealContext {
            provider: header(header::PROVIDER)?,
            account: header(header::ACCOUNT)?,
            plugin: header(header::PLUGIN)?,
        };
        let raw = self.sealer.open(&letter.value, &context)?;
        let plugin = self
            .plugins
            .get(&raw.provider)
            .ok_or_else(|| ReplayError::UnknownProvider(raw.provider.clone()))?;
        let account = self
            .accounts
            .get(&raw.provider, &raw.account)
            .map_err(|missing| match missing {
                Missing::Unknown(_) => ReplayError::UnknownAccount {
                    provider: raw.provider.clone(),
                    account: raw.account.clone(),
                },
                Missing::Unread => ReplayError::AccountsUnread,
            })?;
        let is_proven = raw.is_proven;
        let missing: HashSet<u32> = raw.rejected.iter().copied().collect();
        let received = Received::new(&plugin, &account, Incoming::from(raw));
        let delivery = received.delivery().await.map_err(IntakeError::from)?;
        // A delivery that was proven at receipt stays proven: the secret may have been rotated since.
        let outcome = match is_proven {
            true => delivery.proven_at_receipt().normalize().await,
            false => delivery.read(&plugin, &self.certificates).await,
        };
        let outcome = outcome.map_err(|error| {
            let is_final = match &error {
                DeliveryError::Refused(refusal) => !refusal.is_temporary(),
                DeliveryError::Malformed { is_proven, .. } => !is_proven,
                DeliveryError::Plugin(_) => false,
            };
            match !is_proven && is_final {
                true => ReplayError::Unproven(error.into()),
                false => ReplayError::Intake(error.into()),
            }
        })?;
        let Outcome::Events(mut batch) = outcome else {
            return Ok(Replayed {
                records: Vec::new(),
                rejected: Vec::new(),
            });
        };
        if !missing.is_empty() {
            batch.events.retain(|event| missing.contains(&event.index));
            batch.skipped.retain(|skipped| missing.contains(&skipped.index));
            batch
                .rejected
                .retain(|rejected| missing.contains(&rejected.index));
        }
        // Continues the trace of the original delivery.
        let trace = letter.headers.get(TRACE_HEADER);
        let trace = trace.and_then(|context| context.parse().ok());
        let now = Timestamp::from(SystemTime::now());
        let converted = self.convert(batch, &received, now, trace).await;
        self.skipped.add(account.provider(), &converted.skipped);
        Ok(Replayed {
            records: converted.records,
            rejected: converted.rejected,
        })
    }
}
