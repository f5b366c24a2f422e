#![doc = include_str!("../README.md")]

mod event;
mod signature;

use sendflowr_plugin_sdk::{Descriptor, Outcome, Plugin, Proof, Proofs, Rejection, Request, export};

/// The plugin.
pub struct HubSpot;

export!(HubSpot);

impl Plugin for HubSpot {
    fn describe() -> Descriptor {
        let docs = "https://developers.hubspot.com/docs/api/webhooks";
        Descriptor::new("hubspot", "HubSpot", env!("CARGO_PKG_VERSION"), docs)
            .required_secret(
                "client_secret",
                "Client secret of the app, under Auth in its settings.",
            )
            .required_setting(
                "webhook_url",
                "Public URL of this webhook as HubSpot calls it, without a query; it is signed.",
            )
            .timestamp_tolerance_within(signature::TOLERANCE_SECONDS)
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if request.has_secret("client_secret") {
            signature::demand(request, &mut proofs)?;
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json()?;
        let root = document.root();
        let list = if root.is_array() { root } else { root.get("events") };
        if !list.is_array() {
            return Err(Rejection::Malformed(
                "the body is neither a list nor an object with a list `events`".to_owned(),
            ));
        }
        Outcome::of_elements(list.elements().map(event::read))
    }
}

#[cfg(test)]
mod tests;
