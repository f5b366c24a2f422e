//! Checks the output of a guest against what the contract promises. Types and sizes were checked when the output was
//! read from the guest's memory; this is the rest.

use super::{
    bindings::types::{Header, Message, Outcome, Proof, Reply, Signature},
    error::Limit,
};

/// How an output breaks the contract.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) limit: Limit,
    pub(crate) detail: String,
}

/// Proofs of one delivery. Providers combine at most three; each costs the host a hash or a signature check.
const MOST_PROOFS: usize = 16;
/// Candidates of one proof, as the contract says.
const MOST_MESSAGES: usize = 8;
const MOST_SIGNATURES: usize = 16;
const MOST_PRESENTED: usize = 16;
/// Parts of one message. Our longest has five; name and value of every field of a form, of which providers that sign those send a
/// few dozen, fit too. Each part is an allocation in the host.
const MOST_PARTS: usize = 256;
/// A reply's body, as the contract says.
const REPLY_BODY_BYTES: usize = 64 << 10;
/// A reply's headers: as many as servers commonly accept, together at most 8 KiB.
const MOST_REPLY_HEADERS: usize = 64;
const REPLY_HEADER_BYTES: usize = 8 << 10;
/// The longest URL that HTTP software commonly accepts.
const CONFIRM_URL_BYTES: usize = 8 << 10;

/// Checks the output of `authenticate`.
pub(crate) fn check_proofs(proofs: &[Proof]) -> Result<(), Breach> {
    at_most("proofs", proofs.len(), MOST_PROOFS)?;
    for proof in proofs {
        match proof {
            Proof::KeyedHash(hash) => check_candidates(&hash.messages, &hash.signatures)?,
            Proof::PublicKey(key) => check_candidates(&key.messages, &key.signatures)?,
            Proof::SharedSecret(secret) => {
                at_most("presented values", secret.presented.len(), MOST_PRESENTED)?
            }
            Proof::BasicAuth(_) | Proof::Fresh(_) => {}
            Proof::Handshake => {
                if proofs.len() > 1 {
                    return Err(broken("`handshake` is combined with other proofs".to_owned()));
                }
            }
        }
    }
    Ok(())
}

fn check_candidates(messages: &[Message], signatures: &[Signature]) -> Result<(), Breach> {
    at_most("messages", messages.len(), MOST_MESSAGES)?;
    at_most("signatures", signatures.len(), MOST_SIGNATURES)?;
    for message in messages {
        at_most("parts of a message", message.len(), MOST_PARTS)?;
    }
    Ok(())
}

/// Checks the output of `normalize`; a batch may have at most `events` elements.
pub(crate) fn check_outcome(outcome: &Outcome, events: usize) -> Result<(), Breach> {
    match outcome {
        Outcome::Events(batch) => {
            let count = batch.events.len() + batch.skipped.len() + batch.rejected.len();
            if count > events {
                return Err(Breach {
                    limit: Limit::Events,
                    detail: format!("a batch of {count} elements; the limit is {events}"),
                });
            }
            Ok(())
        }
        Outcome::Reply(reply) => check_reply(reply),
        Outcome::Confirm(url) => {
            at_most("bytes in the URL to confirm", url.len(), CONFIRM_URL_BYTES)?;
            if !url.starts_with("https://") {
                return Err(broken("the URL to confirm is not `https`".to_owned()));
            }
            Ok(())
        }
    }
}

fn check_reply(reply: &Reply) -> Result<(), Breach> {
    if !(200..=299).contains(&reply.status) {
        return Err(broken(format!("a reply with status `{}`", reply.status)));
    }
    at_most("bytes in a reply", reply.body.len(), REPLY_BODY_BYTES)?;
    at_most("headers in a reply", reply.headers.len(), MOST_REPLY_HEADERS)?;
    let bytes = reply
        .headers
        .iter()
        .map(|Header { name, value }| name.len() + value.len())
        .sum();
    at_most("bytes in a reply's headers", bytes, REPLY_HEADER_BYTES)
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), Breach> {
    if count > limit {
        return Err(broken(format!("{count} {what}; the limit is {limit}")));
    }
    Ok(())
}

fn broken(detail: String) -> Breach {
    Breach {
        limit: Limit::InvalidOutput,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::types::{
        Batch, Encoding, Freshness, Part, PublicKey, PublicKeySignature, Rejected, SharedSecret,
        SignatureScheme,
    };

    fn fresh() -> Proof {
        Proof::Fresh(Freshness {
            source: "header `t`".to_owned(),
            signed_at_ms: 0,
            tolerance_ms: 1,
        })
    }

    fn reply(status: u16, body: usize) -> Outcome {
        Outcome::Reply(Reply {
            status,
            headers: Vec::new(),
            body: vec![0; body],
        })
    }

    #[test]
    fn a_handshake_stands_alone() {
        assert_eq!(check_proofs(&[Proof::Handshake]), Ok(()));
        assert_eq!(
            check_proofs(&[Proof::Handshake, fresh()]).unwrap_err().limit,
            Limit::InvalidOutput
        );
    }

    #[test]
    fn bounds_proofs_and_candidates() {
        assert_eq!(check_proofs(&vec![fresh(); 16]), Ok(()));
        assert_eq!(
            check_proofs(&vec![fresh(); 17]).unwrap_err().limit,
            Limit::InvalidOutput
        );
        let presented = |count: usize| {
            Proof::SharedSecret(SharedSecret {
                source: String::new(),
                secret: String::new(),
                presented: vec![String::new(); count],
            })
        };
        assert_eq!(check_proofs(&[presented(16)]), Ok(()));
        assert!(check_proofs(&[presented(17)]).is_err());
        let candidates = |messages: usize, parts: usize, signatures: usize| {
            let signature = Signature {
                text: String::new(),
                encoding: Encoding::Hex,
            };
            check_proofs(&[Proof::PublicKey(PublicKeySignature {
                source: String::new(),
                scheme: SignatureScheme::Ed25519,
                key: PublicKey::Secret(String::new()),
                messages: vec![vec![Part::Body; parts]; messages],
                signatures: vec![signature; signatures],
            })])
        };
        assert_eq!(candidates(8, 256, 16), Ok(()));
        for (messages, parts, signatures) in [(9, 1, 1), (1, 257, 1), (1, 1, 17)] {
            assert!(candidates(messages, parts, signatures).is_err());
        }
    }

    #[test]
    fn counts_every_element_of_a_batch() {
        let rejected = vec![
            Rejected {
                index: 0,
                reason: String::new()
            };
            3
        ];
        let outcome = Outcome::Events(Batch {
            events: Vec::new(),
            skipped: Vec::new(),
            rejected,
        });
        assert_eq!(check_outcome(&outcome, 3), Ok(()));
        assert_eq!(check_outcome(&outcome, 2).unwrap_err().limit, Limit::Events);
    }

    #[test]
    fn bounds_replies_and_confirmations() {
        assert_eq!(check_outcome(&reply(200, 64 << 10), 1), Ok(()));
        assert!(check_outcome(&reply(200, (64 << 10) + 1), 1).is_err());
        assert!(check_outcome(&reply(302, 0), 1).is_err());
        assert_eq!(
            check_outcome(&Outcome::Confirm("https://x.test/".to_owned()), 1),
            Ok(())
        );
        assert!(check_outcome(&Outcome::Confirm("http://x.test/".to_owned()), 1).is_err());
    }
}
