//! HubSpot's three signature schemes.

use sendflowr_plugin_sdk::{
    Encoding, Hash, HashConstruction, KeyedHash, Part, Proofs, Rejection, Request, proof, time,
};

/// The tolerance that HubSpot prescribes for version 3.
pub(crate) const TOLERANCE_SECONDS: u64 = 300;

/// The escapes that HubSpot decodes in the URL before signing it (version 3); all others stay.
const DECODED: [(&str, char); 12] = [
    ("%3A", ':'),
    ("%2F", '/'),
    ("%3F", '?'),
    ("%40", '@'),
    ("%21", '!'),
    ("%24", '$'),
    ("%27", '\''),
    ("%28", '('),
    ("%29", ')'),
    ("%2A", '*'),
    ("%2C", ','),
    ("%3B", ';'),
];

/// Demands the newest signature that the request has. With a header of version 3, even a blank one, older ones do not count, as
/// HubSpot prescribes. This does not keep a captured delivery from being sent again: without that header, its older signature,
/// which has no time, still holds.
pub(crate) fn demand(request: &Request, proofs: &mut Proofs<'_>) -> Result<(), Rejection> {
    let mut names = request.headers.iter().map(|header| header.name.as_str());
    if names.any(|name| name == "x-hubspot-signature-v3") {
        return version_3(request, proofs);
    }
    let signature = request.proof_header("x-hubspot-signature")?;
    let message = match request
        .header("x-hubspot-signature-version")
        .unwrap_or("v1")
        .trim()
    {
        "v1" => vec![Part::Body],
        "v2" => vec![
            proof::part(&request.method),
            proof::part(url(request)?),
            Part::Body,
        ],
        _ => {
            let message = "header `x-hubspot-signature-version` is neither v1 nor v2";
            return Err(Rejection::InvalidProof(message.to_owned()));
        }
    };
    let hash = KeyedHash::hmac(Hash::Sha256, "client_secret", "header `x-hubspot-signature`")
        .construction(HashConstruction::KeyThenMessage);
    proofs.push(hash.message(message).signature(signature, Encoding::Hex));
    Ok(())
}

fn version_3(request: &Request, proofs: &mut Proofs<'_>) -> Result<(), Rejection> {
    let signature = request.proof_header("x-hubspot-signature-v3")?;
    let timestamp = request.proof_header("x-hubspot-request-timestamp")?;
    proofs.fresh_within(
        TOLERANCE_SECONDS,
        "header `x-hubspot-request-timestamp`",
        timestamp,
        time::milliseconds,
    )?;
    let url = url(request)?;
    let mut hash = KeyedHash::hmac(Hash::Sha256, "client_secret", "header `x-hubspot-signature-v3`");
    // The decoded form is documented; the other one occurs as well.
    let mut forms = vec![decode(&url), url];
    forms.dedup();
    for form in forms {
        hash = hash.message([
            proof::part(&request.method),
            proof::part(form),
            Part::Body,
            proof::part(timestamp),
        ]);
    }
    proofs.push(hash.signature(signature, Encoding::Base64));
    Ok(())
}

/// Returns the public URL as HubSpot called it: behind a proxy only the operator knows it.
fn url(request: &Request) -> Result<String, Rejection> {
    let Some(url) = request.setting("webhook_url") else {
        return Err(Rejection::InvalidProof(
            "setting `webhook_url`, which HubSpot signs, is not set".to_owned(),
        ));
    };
    if request.query.is_empty() {
        return Ok(url.trim().to_owned());
    }
    Ok(format!("{}?{}", url.trim(), request.query))
}

fn decode(url: &str) -> String {
    let mut decoded = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = DECODED.iter().find(|(escape, _)| {
            rest.get(..3)
                .is_some_and(|found| found.eq_ignore_ascii_case(escape))
        });
        match known {
            Some((escape, letter)) => {
                decoded.push(*letter);
                rest = &rest[escape.len()..];
            }
            None => {
                decoded.push('%');
                rest = &rest[1..];
            }
        }
    }
    decoded + rest
}
