//! Checks that a plugin survives damaged copies of real deliveries.

use std::time::{Duration, Instant};

use sendflowr_plugin_sdk::{Batch, Event, Outcome, Plugin, Request};

use crate::damage::Damage;

/// The number of damaged copies of each delivery: enough to hit every field of the samples several times, in well under a second.
const MUTANTS: usize = 400;

/// A damaged delivery may take this many times as long as the undamaged one.
const SLOWER_AT_MOST: u32 = 10;

/// Times below this are noise of the machine: real work on a sample takes a fraction of it even unoptimised, while a blow-up
/// takes far more.
const NOISE: Duration = Duration::from_millis(5);

/// How often a delivery that took too long is measured again before it counts as a failure.
const SECOND_LOOKS: usize = 5;

/// Damages the request again and again, and panics if a damaged one is not handled as it should be.
pub(crate) fn check<P: Plugin>(name: &str, request: &Request, seed: u64) {
    let whole = timed(|| drop(P::normalize(request)));
    let limit = (whole * SLOWER_AT_MOST).max(NOISE);
    for body in Damage::of(&request.body, seed).take(MUTANTS) {
        let mut mutant = request.clone();
        mutant.body = body;
        let _ = P::authenticate(&mutant);
        let mut outcome = None;
        let mut spent = timed(|| outcome = Some(P::normalize(&mutant)));
        // A busy machine is not busy every time, but a slow plugin is slow every time.
        for _ in 0..SECOND_LOOKS {
            if spent > limit {
                spent = spent.min(timed(|| outcome = Some(P::normalize(&mutant))));
            }
        }
        let shown = String::from_utf8_lossy(&mutant.body);
        assert!(
            spent <= limit,
            "{name}: {spent:?} instead of {whole:?} for {shown}"
        );
        if let Some(Ok(Outcome::Events(batch))) = outcome
            && let Err(fault) = sound(&batch)
        {
            panic!("{name}: {fault} for {shown}");
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// Checks what must hold for every batch, whatever it was made of.
fn sound(batch: &Batch) -> Result<(), String> {
    for event in &batch.events {
        if event.recipient_email.is_none() && event.identifiers.is_empty() && event.message_id.is_none() {
            return Err(format!(
                "event {} names neither a person nor a message",
                event.index
            ));
        }
        if jiff::Timestamp::from_millisecond(event.timestamp_ms).is_err() || event.timestamp_ms < 0 {
            return Err(format!("event {} has no time", event.index));
        }
        if blank_text(event) {
            return Err(format!("event {} has an empty field", event.index));
        }
    }
    if let Some(skipped) = batch
        .skipped
        .iter()
        .find(|skipped| skipped.provider_type.trim().is_empty())
    {
        return Err(format!("element {} is skipped without a type", skipped.index));
    }
    let events = batch.events.iter().map(|event| event.index);
    let skipped = batch.skipped.iter().map(|skipped| skipped.index);
    let rejected = batch.rejected.iter().map(|rejected| rejected.index);
    if events.is_sorted() && skipped.is_sorted() && rejected.is_sorted() {
        Ok(())
    } else {
        Err("the lists are not in the delivery's order".to_owned())
    }
}

/// Checks for empty text: absent fields must be absent, never empty, because an empty id would make strangers one person.
fn blank_text(event: &Event) -> bool {
    let optional = [
        &event.provider_event_id,
        &event.recipient_email,
        &event.campaign_id,
        &event.message_id,
        &event.click_url,
        &event.ip_address,
    ];
    optional.into_iter().flatten().any(|text| text.trim().is_empty())
        || event
            .identifiers
            .iter()
            .any(|identifier| identifier.value.trim().is_empty())
}
