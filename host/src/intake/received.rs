//! A delivery as it was received, and what is made of it: the request for the plugin, and the sealed copy.

use std::sync::Arc;

use event::Timestamp;

use super::compute;
use crate::{
    accounts::Account,
    delivery::{Delivery, Unverified},
    plugin::{
        Plugin, PluginError,
        types::{Header, Request},
    },
    seal::{RawDelivery, Sealer},
};

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

/// A delivery that was received for an account, and the plugin that is to read it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) plugin: Arc<Plugin>,
    pub(super) account: Arc<Account>,
    pub(super) request: Arc<Request>,
    pub(super) at: Timestamp,
}

impl Received {
    pub(super) fn new(plugin: &Arc<Plugin>, account: &Arc<Account>, incoming: Incoming) -> Self {
        let at = incoming.received_at;
        Self {
            plugin: Arc::clone(plugin),
            account: Arc::clone(account),
            request: Arc::new(request_for(plugin, account, incoming)),
            at,
        }
    }

    /// Waits for a slot of the plugin.
    pub(super) async fn delivery(&self) -> Result<Delivery<Unverified>, PluginError> {
        Delivery::new(&self.plugin, &self.account, Arc::clone(&self.request)).await
    }

    pub(super) fn raw(&self, is_proven: bool) -> RawDelivery {
        let headers = self.request.headers.iter();
        let headers = headers.map(|header| (header.name.clone(), header.value.clone()));
        RawDelivery {
            provider: self.account.provider().to_owned(),
            account: self.account.name().to_owned(),
            method: self.request.method.clone(),
            path: self.request.path.clone(),
            query: self.request.query.clone(),
            headers: headers.collect(),
            body: self.request.body.clone(),
            received_at: self.at,
            is_proven,
            rejected: Vec::new(),
        }
    }

    /// Seals the delivery for a dead letter. `rejected` holds the positions of the elements that yielded no event when
    /// others did.
    pub(super) async fn sealed(&self, sealer: &Arc<Sealer>, is_proven: bool, rejected: Vec<u32>) -> Vec<u8> {
        let (received, sealer) = (self.clone(), Arc::clone(sealer));
        compute(self.request.body.len(), move || {
            let raw = RawDelivery {
                rejected,
                ..received.raw(is_proven)
            };
            sealer.seal(&raw, received.plugin.tag())
        })
        .await
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
